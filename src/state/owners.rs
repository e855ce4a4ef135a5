//! Who runs what: the one rule of ownership.

use super::{Entry, Ownership, State};
use crate::model::{Assign, Change, Epoch, NodeId, Outcome, RowKind, Seq, Shard, Stage, Time};

impl State {
    /// Gives shards to one run of one node. Every attempt that was open there becomes the next
    /// attempt, under the new fence: what the former owner still reports is stale.
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
        let open = self.table.open().iter();
        let chosen = open.filter(|(_, open)| chosen[usize::from(Shard::of(open.hash, total).0)]);
        let open: Vec<Seq> = chosen.map(|((_, seq), _)| *seq).collect();
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

    /// An attempt that had not started keeps its instant; a running one starts over at once.
    fn restart_at(&self, seq: Seq, now: Time) -> Time {
        match self.table.task(seq) {
            Some(task) if task.stage == Stage::Triggered => task.at,
            _ => now,
        }
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
