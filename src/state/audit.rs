//! What must hold after every entry, whatever was folded. Tests call it; it reads everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::State;
use crate::model::{Seq, Time};

impl State {
    /// Panics with the invariant that does not hold.
    pub(super) fn audit(&self) {
        assert_eq!(
            self.table.hash(),
            self.table.recomputed(),
            "I-27: the running hash is the hash of the records"
        );
        let mut counts: BTreeMap<Arc<str>, [u64; 8]> = BTreeMap::new();
        let mut open: Vec<(Time, Seq)> = Vec::new();
        let mut unfinished = vec![Vec::new(); self.core.shards.len()];
        let mut last = None;
        for (record, rows) in self.table.all() {
            assert!(record.is_intact(&rows), "I-28: {}", record.task.key);
            let task = record.task;
            counts.entry(task.key.app.clone()).or_default()[task.stage as usize] += 1;
            if !task.stage.is_final() {
                let shard = task.shard(self.shard_total());
                unfinished[usize::from(shard.0)].push(task.submitted);
            }
            if task.stage.is_open() {
                open.push((task.at, task.seq));
            }
            assert!(
                !task.stage.is_waiting() || task.at > self.core.hand,
                "I-9: {} waits for {:?}, but the hand is at {:?}",
                task.key,
                task.at,
                self.core.hand
            );
            assert_eq!(
                task.finished.is_some(),
                task.stage.is_final(),
                "{}: {task:?}",
                task.key
            );
            assert!(
                Some(task.seq) > last,
                "records come once, in order of creation"
            );
            assert!(
                task.seq.0 < self.core.next_seq,
                "numbers are never given twice"
            );
            last = Some(task.seq);
        }
        assert_eq!(self.core.progress.len(), unfinished.len());
        for (progress, submitted) in self.core.progress.iter().zip(&unfinished) {
            progress.audit(submitted);
        }
        open.sort_unstable();
        assert!(
            self.table.open().keys().eq(&open),
            "the index of open attempts"
        );
        assert_eq!(self.table.counts(), &counts, "the counts by stage");
    }
}
