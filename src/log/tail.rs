//! The most recent entries, kept in memory.
//!
//! Replication and apply read what was just written. The tail holds it, and always holds
//! everything that is not durable yet: what is not in the tail is on the disk exactly as the log
//! stands, so a reader never has to look at a half-written queue.

use std::collections::VecDeque;
use std::ops::Range;

use super::entry::Entry;

/// Entries are dropped from the front once they are durable and the tail is longer than this.
pub const TAIL_BYTES_MAX: usize = 16 << 20;

/// A run of consecutive entries that ends where the log ends.
#[derive(Default)]
pub(crate) struct Tail {
    /// Each with the number of the request that appended it.
    entries: VecDeque<(Entry, u64)>,
    bytes: usize,
}

impl Tail {
    pub(crate) fn push(&mut self, entry: Entry, request: u64) {
        debug_assert!(self.end().is_none_or(|end| end == entry.at.index));
        self.bytes += entry.frame_len();
        self.entries.push_back((entry, request));
    }

    /// The index of the first entry held.
    pub(crate) fn start(&self) -> Option<u64> {
        self.entries.front().map(|(entry, _)| entry.at.index)
    }

    fn end(&self) -> Option<u64> {
        self.entries.back().map(|(entry, _)| entry.at.index + 1)
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.start()?)?;
        self.entries
            .get(usize::try_from(at).ok()?)
            .map(|(entry, _)| entry)
    }

    /// The entries of the range, as far as they are held and fit; see [`Room`].
    pub(crate) fn read_into(&self, range: Range<u64>, room: &mut Room, out: &mut Vec<Entry>) {
        for index in range {
            let Some(entry) = self.get(index) else { return };
            if !room.take(entry.frame_len()) {
                return;
            }
            out.push(entry.clone());
        }
    }

    /// Forgets everything behind `last_kept`.
    pub(crate) fn truncate(&mut self, last_kept: Option<u64>) {
        while self
            .end()
            .is_some_and(|end| last_kept.is_none_or(|kept| end > kept + 1))
        {
            let dropped = self.entries.pop_back();
            self.bytes -= dropped.map_or(0, |(entry, _)| entry.frame_len());
        }
    }

    /// Forgets everything up to `upto`.
    pub(crate) fn purge(&mut self, upto: u64) {
        while self.start().is_some_and(|start| start <= upto) {
            self.pop_front();
        }
    }

    /// Makes the tail fit `bytes_max` again, as far as requests up to `durable` are concerned.
    pub(crate) fn trim(&mut self, durable: u64, bytes_max: usize) {
        while self.bytes > bytes_max
            && self
                .entries
                .front()
                .is_some_and(|(_, request)| *request <= durable)
        {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        let dropped = self.entries.pop_front();
        self.bytes -= dropped.map_or(0, |(entry, _)| entry.frame_len());
    }
}

/// How many bytes a read may still return. The first entry always fits, so that a reader with a
/// small bound still gets on.
pub(crate) struct Room {
    pub(crate) left: usize,
    pub(crate) started: bool,
}

impl Room {
    pub(crate) fn new(max_bytes: usize) -> Room {
        Room {
            left: max_bytes,
            started: false,
        }
    }

    /// Takes room for an entry, or says that the read is over.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        if self.started && bytes > self.left {
            return false;
        }
        self.started = true;
        self.left = self.left.saturating_sub(bytes);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::entry::{HEADER_BYTES, Kind, Position};
    use bytes::Bytes;

    fn tail(range: Range<u64>) -> Tail {
        let mut tail = Tail::default();
        for index in range {
            let at = Position {
                term: 1,
                node: 1,
                index,
            };
            let payload = Bytes::from(vec![0; 100 - HEADER_BYTES]);
            tail.push(
                Entry {
                    at,
                    kind: Kind::Batch,
                    payload,
                },
                index,
            );
        }
        tail
    }

    #[test]
    fn never_drops_what_is_not_durable() {
        let mut tail = tail(1..11);
        tail.trim(4, 0);
        assert_eq!(tail.start(), Some(5));
    }

    #[test]
    fn drops_no_more_than_it_must() {
        let mut tail = tail(1..11);
        tail.trim(10, 350);
        assert_eq!(tail.start(), Some(8));
    }

    #[test]
    fn a_read_gives_at_least_one_entry_and_then_what_fits() {
        let tail = tail(1..11);
        for (max_bytes, expected) in [(0, 1), (99, 1), (199, 1), (200, 2), (usize::MAX, 8)] {
            let mut out = Vec::new();
            tail.read_into(3..11, &mut Room::new(max_bytes), &mut out);
            assert_eq!(out.len(), expected, "{max_bytes} bytes");
            assert_eq!(out[0].at.index, 3);
        }
    }

    #[test]
    fn cut_at_both_ends() {
        let mut tail = tail(1..11);
        tail.truncate(Some(7));
        tail.purge(3);
        assert_eq!(
            (tail.start(), tail.end(), tail.bytes),
            (Some(4), Some(8), 400)
        );
        tail.truncate(None);
        assert_eq!((tail.start(), tail.bytes), (None, 0));
    }
}
