//! Where a log begins and ends.

use super::entry::Position;

/// The two ends of a log. The first live entry follows `purged`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The last entry that was given up at the front.
    pub purged: Option<Position>,
    /// The last entry; when none is live, what was purged last.
    pub last: Option<Position>,
}

impl Bounds {
    /// Whether no entry is live.
    pub fn is_empty(&self) -> bool {
        self.last.is_none() || self.last == self.purged
    }

    /// The index after the last; a log that never held anything may begin anywhere.
    pub(crate) fn next_index(&self) -> Option<u64> {
        self.last.map(|last| last.index + 1)
    }

    pub(crate) fn purged_index(&self) -> Option<u64> {
        self.purged.map(|at| at.index)
    }

    pub(crate) fn append(&mut self, last: Position) {
        debug_assert!(self.next_index().is_none_or(|next| last.index >= next));
        self.last = Some(last);
    }

    /// Ends the log at `last`, but never before what is purged.
    pub(crate) fn truncate(&mut self, last: Option<Position>) {
        self.last = by_index_max(last, self.purged);
    }

    pub(crate) fn purge(&mut self, upto: Position) {
        self.purged = by_index_max(Some(upto), self.purged);
        self.last = by_index_max(self.last, self.purged);
    }
}

/// The later of two places; `left` when they are at the same index.
fn by_index_max(left: Option<Position>, right: Option<Position>) -> Option<Position> {
    match (left, right) {
        (Some(a), Some(b)) => Some(if b.index > a.index { b } else { a }),
        (one, None) | (None, one) => one,
    }
}

/// What may be called committed when `saved` was noted and the log ends at `last`: a saved place
/// beyond the log's end would name an entry that is not here.
pub(crate) fn committed_within(
    saved: Option<Position>,
    last: Option<Position>,
) -> Option<Position> {
    match (saved?, last?) {
        (saved, last) if saved.index > last.index => Some(last),
        (saved, _) => Some(saved),
    }
}
