//! Who runs what: the one rule of ownership.

use std::ops::Bound;

use super::{Entry, Ownership, State};
use crate::model::limits::ASSIGN_MAX;
use crate::model::{
    Assign, Change, Epoch, Fence, NodeId, Outcome, RowKind, Seq, Shard, Stage, Time,
};

/// An attempt that is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Not to be started before this instant.
    pub at: Time,
    pub seq: Seq,
    pub fence: Fence,
    pub shard: Shard,
}

impl State {
    /// Gives shards to one run of one node. Every attempt that was open there, or those that are
    /// named as lost, becomes the next attempt, under the new fence: what the former owner still
    /// reports of it is stale. The other attempts go on as they are.
    pub(super) fn assign(&mut self, entry: Entry, event: &Assign) -> Outcome {
        self.core.epoch = Epoch(self.core.epoch.0.saturating_add(1));
        let held = Ownership {
            node: event.node,
            boot: event.boot,
            epoch: self.core.epoch,
        };
        let total = self.core.shards.len() as u16;
        let mut chosen = vec![false; self.core.shards.len()];
        for shard in &event.shards {
            if let Some(row) = self.core.shards.get_mut(usize::from(shard.0)) {
                *row = held;
                chosen[usize::from(shard.0)] = true;
            }
        }
        self.changes.push(Change::Assigned {
            node: held.node,
            boot: held.boot,
            epoch: held.epoch,
        });
        let open = match event.lost.as_slice() {
            [] => {
                let open = self.table.open().iter();
                open.filter(|(_, open)| chosen[usize::from(Shard::of(open.hash, total).0)])
                    .map(|((_, seq), _)| *seq)
                    .collect()
            }
            lost => self.lost_in(lost, |shard| chosen[usize::from(shard.0)]),
        };
        for seq in &open {
            let at = self.restart_at(*seq, entry.now);
            self.begin(
                entry,
                *seq,
                RowKind::Redispatched,
                at,
                Some(event.cause.clone()),
            );
        }
        Outcome::Counted {
            count: open.len() as u32,
            more: false,
        }
    }

    /// Which of these attempts are open still, in shards that were chosen; each once.
    fn lost_in(&self, lost: &[(Seq, Fence)], chosen: impl Fn(Shard) -> bool) -> Vec<Seq> {
        let total = self.core.shards.len() as u16;
        let mut open: Vec<Seq> = Vec::new();
        for (seq, fence) in lost.iter().take(ASSIGN_MAX) {
            let task = self.table.task(*seq).filter(|_| self.held(*seq, *fence));
            if task.is_some_and(|task| chosen(task.shard(total))) {
                open.push(*seq);
            }
        }
        open.sort_unstable();
        open.dedup();
        open
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
        let total = self.core.shards.len() as u16;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let open = self.table.open().range((from, Bound::Unbounded));
        open.take_while(|((at, _), _)| *at <= until)
            .filter(|(_, open)| open.owner == node && !open.started)
            .take(limit)
            .map(|((at, seq), open)| Open {
                at: *at,
                seq: *seq,
                fence: open.fence,
                shard: Shard::of(open.hash, total),
            })
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
    pub fn owns_all(&self, node: NodeId, boot: crate::model::Boot) -> bool {
        self.core
            .shards
            .iter()
            .all(|held| held.node == node && held.boot == boot)
    }
}
