//! What must hold after every entry, whatever was folded. Tests call it; it reads everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::State;
use super::label::{Label, labels};
use crate::model::{Key, Seq, Time};

/// Lists are walked in such pieces, so that every layer and the store are cut short.
const PIECE: usize = 2;

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
        let mut keys = Vec::new();
        // Labels that were lost since the last checkpoints too: nobody may have them now.
        let mut labelled: BTreeMap<Label, Vec<(Key, Seq)>> = BTreeMap::new();
        for (label, _) in self.table.layers().flat_map(|layer| layer.labels.keys()) {
            labelled.entry(*label).or_default();
        }
        for (record, rows) in self.table.all() {
            assert!(record.is_intact(&rows), "I-28: {}", record.task.key);
            let task = record.task;
            counts.entry(task.key.app.clone()).or_default()[task.stage as usize] += 1;
            keys.push((task.key.clone(), task.seq));
            for label in labels(&task.spec) {
                let of = labelled.entry(label).or_default();
                of.push((task.key.clone(), task.seq));
            }
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
        self.audit_schedules();
        assert_eq!(self.misfits(), [], "the consistency check");
        self.audit_keys(None, keys);
        for (label, keys) in labelled {
            self.audit_keys(Some(label), keys);
        }
    }

    /// A walk over the keys with a label, or over all, gives these.
    fn audit_keys(&self, label: Option<Label>, mut expected: Vec<(Key, Seq)>) {
        expected.sort_unstable();
        let mut walked: Vec<(Key, Seq)> = Vec::new();
        let mut after = None;
        loop {
            let piece = self.table.keys_after(label, after.as_ref(), PIECE).unwrap();
            walked.extend(piece.keys);
            after = piece.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(walked, expected, "the index of keys with {label:?}");
    }
}
