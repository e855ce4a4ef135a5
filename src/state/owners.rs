//! Who runs what: the one rule of ownership, and what is handed out again.

use bincode::{Decode, Encode};
use std::ops::Bound;

use super::{Entry, Ownership, State};
use crate::model::limits::ASSIGN_MAX;
use crate::model::{
    Again, Assign, Boot, Change, Epoch, Fence, NodeId, Outcome, RowKind, Seq, Shard, Stage, Time,
};

/// An attempt that is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Not to be started before this instant.
    pub at: Time,
    pub seq: Seq,
    pub fence: Fence,
    /// Of the key: decides the shard, whatever their number.
    pub hash: u64,
}

/// A leader asks an owner to begin nothing more in some shards: it is about to give them away.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Release {
    pub term: u64,
    /// How many shards there are.
    pub total: u16,
    pub shards: Vec<Shard>,
    /// The last epoch that is let go of.
    pub epoch: Epoch,
}

impl State {
    /// Gives shards to one run of one node. Every attempt that their former owner had open there
    /// becomes the next attempt, under the new fence: what is still reported of it is stale. What
    /// the former owner has begun and keeps goes on as it is, and so does what a third node kept
    /// when it gave the shard away.
    pub(super) fn assign(&mut self, entry: Entry, event: &Assign) -> Outcome {
        self.core.epoch = Epoch(self.core.epoch.0.saturating_add(1));
        let held = Ownership {
            node: event.node,
            boot: event.boot,
            epoch: self.core.epoch,
        };
        let total = self.core.shards.len() as u16;
        let mut former = vec![None; self.core.shards.len()];
        for shard in &event.shards {
            let at = usize::from(shard.0);
            if let (Some(row), Some(former)) = (self.core.shards.get_mut(at), former.get_mut(at)) {
                former.get_or_insert(row.node);
                *row = held;
            }
        }
        self.changes.push(Change::Assigned {
            node: held.node,
            boot: held.boot,
            epoch: held.epoch,
        });
        let mut kept = event.kept.clone();
        kept.sort_unstable();
        let open = self.table.open().iter();
        let lost = open.filter(|((_, seq), open)| {
            let shard = Shard::of(open.hash, total);
            former[usize::from(shard.0)] == Some(open.owner)
                && kept.binary_search(&(*seq, open.fence)).is_err()
        });
        let lost = lost.map(|((_, seq), _)| *seq).collect();
        self.hand_out(entry, lost, &event.cause)
    }

    /// Hands these attempts out again, those that are open still, each once.
    pub(super) fn again(&mut self, entry: Entry, event: &Again) -> Outcome {
        let named = event.attempts.iter().take(ASSIGN_MAX);
        let open = named.filter(|(seq, fence)| self.held(*seq, *fence));
        let mut lost: Vec<Seq> = open.map(|(seq, _)| *seq).collect();
        lost.sort_unstable();
        lost.dedup();
        self.hand_out(entry, lost, &event.cause)
    }

    fn hand_out(&mut self, entry: Entry, lost: Vec<Seq>, cause: &std::sync::Arc<str>) -> Outcome {
        for seq in &lost {
            let at = self.restart_at(*seq, entry.now);
            let by = Some(cause.clone());
            self.begin(entry, *seq, RowKind::Redispatched, at, by);
        }
        Outcome::Counted {
            count: lost.len() as u32,
            more: false,
        }
    }

    /// An attempt that had not started keeps its instant; a running one starts over at once.
    fn restart_at(&self, seq: Seq, now: Time) -> Time {
        match self.table.task(seq) {
            Some(task) if task.stage == Stage::Triggered => task.at,
            _ => now,
        }
    }

    /// Attempts of a node that could have begun up to an instant, have not been reported as
    /// started and are not over, after a place in (instant, seq) order.
    pub fn overdue(
        &self,
        node: NodeId,
        after: Option<(Time, Seq)>,
        until: Time,
        limit: usize,
    ) -> Vec<Open> {
        self.open_of(node, after)
            .take_while(|open| open.at <= until)
            .take(limit)
            .collect()
    }

    /// Open attempts of a node that have not been reported as started, after a place in
    /// (instant, seq) order.
    pub(super) fn open_of(
        &self,
        node: NodeId,
        after: Option<(Time, Seq)>,
    ) -> impl Iterator<Item = Open> + '_ {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let open = self.table.open().range((from, Bound::Unbounded));
        open.filter(move |(_, open)| open.owner == node && !open.started)
            .map(|((at, seq), open)| Open {
                at: *at,
                seq: *seq,
                fence: open.fence,
                hash: open.hash,
            })
    }

    /// Who owns the shard of a key with this hash.
    pub fn owner_of(&self, hash: u64) -> Ownership {
        self.ownership(Shard::of(hash, self.shard_total()))
    }

    /// What a node has open, begun or not, in shards that are another's.
    pub fn strays(&self, node: NodeId) -> Vec<(Seq, Fence)> {
        let open = self.table.open().iter();
        let stray =
            open.filter(|(_, open)| open.owner == node && self.owner_of(open.hash).node != node);
        stray
            .map(|((_, seq), open)| (*seq, open.fence))
            .take(ASSIGN_MAX)
            .collect()
    }

    /// Whether an attempt is open still, and has not been reported as started.
    pub fn is_open(&self, open: &Open) -> bool {
        let now = self.table.open().get(&(open.at, open.seq));
        now.is_some_and(|now| now.fence == open.fence && !now.started)
    }

    /// How many attempts are open in each shard: the proposer of an `Assign` keeps it bounded.
    pub fn open_by_shard(&self) -> Vec<usize> {
        let total = self.core.shards.len() as u16;
        let mut open = vec![0; self.core.shards.len()];
        for attempt in self.table.open().values() {
            open[usize::from(Shard::of(attempt.hash, total).0)] += 1;
        }
        open
    }

    /// The owner of each shard, by number.
    pub fn shards(&self) -> impl Iterator<Item = (Shard, Ownership)> + '_ {
        self.core
            .shards
            .iter()
            .enumerate()
            .map(|(n, held)| (Shard(n as u16), *held))
    }

    pub fn shard_total(&self) -> u16 {
        self.core.shards.len() as u16
    }

    /// Whether every shard belongs to this run of this node.
    pub fn owns_all(&self, node: NodeId, boot: Boot) -> bool {
        self.core
            .shards
            .iter()
            .all(|held| held.node == node && held.boot == boot)
    }
}
