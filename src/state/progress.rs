//! The progress checkpoint: how far each shard has come with what the log gave it.
//!
//! Per shard, buckets of log positions: how many tasks that were submitted in a bucket are not
//! final yet. A submit merges into its bucket, an end takes one out, an empty bucket goes. The
//! *committed* position of a shard is one below which nothing of it is open: whoever fed the log
//! need not feed that part again. It may lag behind the truth by what is done in one bucket,
//! never run ahead of it.
//!
//! A shard holds [`PROGRESS_BUCKETS_MAX`] buckets at most: with one more, all become twice as
//! wide. So the size does not depend on how many tasks wait, nor for how long.

use bincode::{Decode, Encode};
use std::collections::BTreeMap;

use super::State;
use crate::model::limits::{PROGRESS_BUCKET_BITS, PROGRESS_BUCKETS_MAX};
use crate::model::{Seq, Shard};

/// What is open of one range of log positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Bucket {
    /// Never 0.
    pub(crate) open: u64,
    /// Nothing that was submitted in the range before this position is open.
    pub(crate) lowest: u64,
    /// The last submit that merged into it.
    pub(crate) highest: u64,
}

/// The open tasks of one shard by the log position of their submit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Progress {
    /// So many times have the buckets been made twice as wide.
    widened: u32,
    buckets: BTreeMap<u64, Bucket>,
}

/// How far a shard has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Tasks that are not final.
    pub open: u64,
    /// No task of the shard that was submitted at or below this log position is open.
    pub position: u64,
}

impl Progress {
    fn bucket(&self, submitted: u64) -> u64 {
        let bits = PROGRESS_BUCKET_BITS.saturating_add(self.widened);
        submitted.checked_shr(bits).unwrap_or(0)
    }

    /// A task that was submitted here is open: new, or run again after its end.
    pub(crate) fn merge(&mut self, submitted: u64) {
        let one = Bucket {
            open: 1,
            lowest: submitted,
            highest: submitted,
        };
        let number = self.bucket(submitted);
        join(&mut self.buckets, number, one);
        while self.buckets.len() > PROGRESS_BUCKETS_MAX {
            self.widened += 1;
            for (number, bucket) in std::mem::take(&mut self.buckets) {
                join(&mut self.buckets, number / 2, bucket);
            }
        }
    }

    /// A task that was submitted here is final.
    pub(crate) fn decrement(&mut self, submitted: u64) {
        let number = self.bucket(submitted);
        let Some(bucket) = self.buckets.get_mut(&number) else {
            return;
        };
        bucket.open = bucket.open.saturating_sub(1);
        if bucket.open == 0 {
            self.buckets.remove(&number);
        }
        if self.buckets.is_empty() {
            self.widened = 0;
        }
    }

    /// How far that is, when the log is folded up to `applied`.
    pub(crate) fn committed(&self, applied: u64) -> Committed {
        let first = self.buckets.values().next();
        Committed {
            open: self.buckets.values().map(|bucket| bucket.open).sum(),
            position: first.map_or(applied, |bucket| bucket.lowest.saturating_sub(1)),
        }
    }

    /// Panics unless these are the buckets of just these open tasks.
    #[cfg(test)]
    pub(super) fn audit(&self, submitted: &[u64]) {
        let mut truth: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for position in submitted {
            truth
                .entry(self.bucket(*position))
                .or_default()
                .push(*position);
        }
        assert!(self.buckets.keys().eq(truth.keys()), "the buckets");
        for (number, bucket) in &self.buckets {
            let open = &truth[number];
            assert_eq!(bucket.open, open.len() as u64, "the count of {number}");
            assert!(
                open.iter()
                    .all(|p| (bucket.lowest..=bucket.highest).contains(p)),
                "{open:?} lie within {bucket:?}"
            );
            assert_eq!(self.bucket(bucket.lowest), *number);
            assert_eq!(self.bucket(bucket.highest), *number);
        }
    }
}

fn join(buckets: &mut BTreeMap<u64, Bucket>, number: u64, more: Bucket) {
    let bucket = buckets.entry(number).or_insert(Bucket { open: 0, ..more });
    bucket.open = bucket.open.saturating_add(more.open);
    bucket.lowest = bucket.lowest.min(more.lowest);
    bucket.highest = bucket.highest.max(more.highest);
}

impl State {
    /// Notes that a task left the final stages, or came to be.
    pub(super) fn opened(&mut self, seq: Seq) {
        if let Some((progress, submitted)) = self.progress_of(seq) {
            progress.merge(submitted);
        }
    }

    /// Notes that a task became final.
    pub(super) fn ended(&mut self, seq: Seq) {
        if let Some((progress, submitted)) = self.progress_of(seq) {
            progress.decrement(submitted);
        }
    }

    fn progress_of(&mut self, seq: Seq) -> Option<(&mut Progress, u64)> {
        let task = self.table.task(seq)?;
        let shard = task.shard(self.core.shards.len() as u16);
        let submitted = task.submitted;
        let progress = self.core.progress.get_mut(usize::from(shard.0))?;
        Some((progress, submitted))
    }

    /// How far each shard has come, by number.
    pub fn progress(&self) -> impl Iterator<Item = (Shard, Committed)> + '_ {
        let applied = self.core.applied;
        let committed = move |progress: &Progress| progress.committed(applied);
        let shards = self.core.progress.iter().map(committed);
        shards
            .enumerate()
            .map(|(number, committed)| (Shard(number as u16), committed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: u64 = 1 << PROGRESS_BUCKET_BITS;

    fn committed(progress: &Progress) -> (u64, u64) {
        let committed = progress.committed(1_000_000);
        (committed.open, committed.position)
    }

    #[test]
    fn the_committed_position_stands_before_the_first_bucket_with_something_open() {
        let mut progress = Progress::default();
        assert_eq!(committed(&progress), (0, 1_000_000), "nothing is open");
        for submitted in [5, 5, 7, WIDTH + 3] {
            progress.merge(submitted);
        }
        assert_eq!(committed(&progress), (4, 4));
        progress.decrement(5);
        progress.decrement(5);
        assert_eq!(committed(&progress), (2, 4), "the bucket is not empty");
        progress.audit(&[7, WIDTH + 3]);
        progress.decrement(7);
        assert_eq!(committed(&progress), (1, WIDTH + 2));
        progress.decrement(WIDTH + 3);
        assert_eq!(progress, Progress::default());
    }

    #[test]
    fn what_is_run_again_counts_where_it_was_submitted() {
        let mut progress = Progress::default();
        progress.merge(9);
        progress.merge(12);
        progress.decrement(9);
        progress.decrement(12);
        progress.merge(WIDTH * 3);
        progress.merge(9);
        assert_eq!(committed(&progress), (2, 8));
    }

    #[test]
    fn buckets_are_bounded_and_lose_no_task() {
        let mut progress = Progress::default();
        let all: Vec<u64> = (0..10 * PROGRESS_BUCKETS_MAX as u64)
            .map(|n| n * WIDTH + n)
            .collect();
        for (n, submitted) in all.iter().enumerate() {
            progress.merge(*submitted);
            assert!(progress.buckets.len() <= PROGRESS_BUCKETS_MAX);
            progress.audit(&all[..=n]);
        }
        for (n, submitted) in all.iter().enumerate() {
            assert!(committed(&progress).1 < *submitted || *submitted == 0);
            progress.decrement(*submitted);
            progress.audit(&all[n + 1..]);
        }
        assert_eq!(progress, Progress::default(), "narrow again when empty");
    }

    #[test]
    fn one_that_is_not_known_is_not_counted_below_nothing() {
        let mut progress = Progress::default();
        progress.decrement(4);
        assert_eq!(progress, Progress::default());
    }
}
