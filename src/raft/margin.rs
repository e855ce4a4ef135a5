//! How much of the log stays below a checkpoint, for followers that are a little behind.
//!
//! A number of entries, and no more than a number of bytes: whichever is less. Nobody is waited
//! for: a follower that needs what is gone is sent a snapshot, so that the log of a node does not
//! grow with the time that another one is away. Only what follows a snapshot that is being sent
//! (`sending.rs`) stays longer, and not without bound either.

use std::collections::VecDeque;

/// Samples of how many bytes of events there are up to an index.
pub(crate) struct Margin {
    entries: u64,
    bytes: u64,
    /// (index, bytes folded up to there), both rising.
    samples: VecDeque<(u64, u64)>,
}

/// For a node that is taking in a snapshot so many times the usual bytes are kept.
const HELD_TIMES: u64 = 8;

/// The margin in bytes is known to one part in so many.
const PARTS: u64 = 16;

impl Margin {
    pub(crate) fn new(entries: u64, bytes: u64) -> Margin {
        Margin {
            entries,
            bytes,
            samples: VecDeque::new(),
        }
    }

    /// Notes how far the log is folded, in entries and in bytes.
    pub(crate) fn note(&mut self, index: u64, bytes: u64) {
        let enough = |last: &(u64, u64)| bytes - last.1.min(bytes) >= (self.bytes / PARTS).max(1);
        if self.samples.back().is_none_or(enough) {
            self.samples.push_back((index, bytes));
        }
    }

    /// Up to where the log may go, with a checkpoint at `snapshot`, when that is worth a purge. What
    /// follows `needed` stays for a node that is taking in a snapshot, up to a bound.
    pub(crate) fn purge(&mut self, snapshot: u64, purged: u64, needed: Option<u64>) -> Option<u64> {
        while self.samples.get(1).is_some_and(|(at, _)| *at <= purged) {
            self.samples.pop_front();
        }
        let by_entries = snapshot.saturating_sub(self.entries);
        let by_bytes = self.heavy_up_to(snapshot).min(snapshot);
        let many = by_entries.saturating_sub(purged) >= self.entries.max(1);
        let heavy = by_bytes > purged;
        if !many && !heavy {
            return None;
        }
        let bound = self.bytes.saturating_mul(HELD_TIMES);
        let needed = needed.filter(|index| self.behind(*index) < bound);
        let upto = by_entries.max(by_bytes).min(needed.unwrap_or(u64::MAX));
        (upto > purged).then_some(upto)
    }

    /// Bytes of events behind an index, as far as the samples tell.
    fn behind(&self, index: u64) -> u64 {
        let before = self.samples.iter().take_while(|(at, _)| *at <= index);
        let from = before.last().or(self.samples.front());
        let bytes = |sample: Option<&(u64, u64)>| sample.map_or(0, |(_, bytes)| *bytes);
        bytes(self.samples.back()) - bytes(from)
    }

    /// The index behind which, up to the checkpoint, there are no more bytes than may stay; 0
    /// when all may.
    fn heavy_up_to(&self, snapshot: u64) -> u64 {
        let within = self.samples.iter().take_while(|(at, _)| *at <= snapshot);
        let Some((_, up_to)) = within.last() else {
            return 0;
        };
        let surplus = up_to.saturating_sub(self.bytes);
        let gone = self.samples.iter().take_while(|(_, b)| *b <= surplus);
        // With the first sample everything that came before it goes.
        let first = self.samples.front().map_or(0, |(_, bytes)| *bytes);
        match surplus > first {
            true => gone.last().map_or(0, |(at, _)| *at),
            false => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of so many bytes each, a checkpoint every hundred of them.
    fn kept(entries: u64, bytes: u64, each: u64) -> Vec<u64> {
        let mut margin = Margin::new(entries, bytes);
        let mut purged = 0;
        let mut kept = Vec::new();
        for index in 1..=5_000 {
            margin.note(index, index * each);
            let snapshot = index / 100 * 100;
            if let Some(upto) = margin.purge(snapshot, purged, None) {
                assert!(
                    upto > purged && upto <= snapshot,
                    "{purged} {upto} {snapshot}"
                );
                purged = upto;
            }
            kept.push(index - purged);
        }
        assert!(margin.samples.len() < 200, "{}", margin.samples.len());
        kept
    }

    #[test]
    fn so_many_entries_stay_and_never_more_than_twice() {
        let kept = kept(200, u64::MAX, 10);
        let most = kept.iter().max().unwrap();
        let least = kept[1_000..].iter().min().unwrap();
        assert!(*most < 2 * 200 + 100, "{most}");
        assert!(*least >= 200, "{least}");
    }

    #[test]
    fn so_many_bytes_stay_although_there_might_be_more_entries() {
        let kept = kept(2_000, 30_000, 100);
        let most = kept.iter().max().unwrap();
        let least = kept[1_000..].iter().min().unwrap();
        // 300 entries, a sixteenth more, and what is behind the checkpoint.
        assert!(*most <= 300 + 2 * 19 + 100, "{most}");
        assert!(*least >= 280, "{least}");
    }

    #[test]
    fn what_follows_a_snapshot_on_its_way_stays_for_a_while() {
        let mut margin = Margin::new(100, 1_000);
        margin.note(500, 0);
        margin.note(1_000, 5_000);
        assert_eq!(margin.purge(1_000, 0, Some(500)), Some(500));
        assert_eq!(margin.purge(1_000, 500, Some(500)), None);
        margin.note(2_000, 7_999);
        assert_eq!(margin.purge(2_000, 500, Some(500)), None);
        margin.note(3_000, 8_100);
        assert_eq!(margin.purge(3_000, 500, Some(500)), Some(2_900), "no more");
    }

    #[test]
    fn nothing_is_purged_that_no_checkpoint_holds() {
        let mut margin = Margin::new(0, 0);
        margin.note(50, 1_000);
        margin.note(90, 9_000);
        assert_eq!(margin.purge(0, 0, None), None);
        assert_eq!(margin.purge(70, 0, None), Some(70));
        assert_eq!(margin.purge(70, 70, None), None);
    }
}
