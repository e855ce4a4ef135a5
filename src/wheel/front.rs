//! What has left the levels, or came too late for them: sorted runs, handed out from the front.
//!
//! A herd that is larger than one call may hand out becomes a run, drained by a cursor, its chunks
//! freed as they empty. To sort a million at once would hold up everything for 40 ms; so a run may
//! be *rough*: its chunks follow one another in order, but each is put in order only when it comes
//! to the front, and is split first, by the range of its keys, if it is long. Overdue inserts collect unsorted until the next
//! expiry and become runs of their own. As in an LSM tree a run is merged into the one before it once
//! it is at least half as long, so there are few of them and an entry is merged a few times at most.
use std::collections::VecDeque;

use super::Slot;
use super::pile::{Pile, Spare};

/// Entries for which room is made ahead for the next overdue inserts: as many as came last time, up
/// to 64 KiB.
const KEEP: usize = 4096;

/// Up to this length a rough chunk is sorted in one step, a fraction of a millisecond. Tests
/// come with little, and are to meet every path: hence their smaller limits here and below.
pub(super) const SORT_MAX: usize = if cfg!(test) { 16 } else { 8192 };

/// Into how many ranges of keys a longer one is split, at most.
const SPLIT: usize = if cfg!(test) { 4 } else { 256 };

struct Run {
    /// Each chunk lies before the next; the first is sorted, and so are all unless `rough`.
    chunks: VecDeque<Vec<Slot>>,
    rough: bool,
    /// Entries of the first chunk that are handed out already.
    at: usize,
    left: usize,
}

impl Run {
    fn new(chunks: impl IntoIterator<Item = Vec<Slot>>, rough: bool) -> Run {
        let chunks: VecDeque<_> = chunks
            .into_iter()
            .filter(|chunk| !chunk.is_empty())
            .collect();
        let left = chunks.iter().map(Vec::len).sum();
        let mut run = Run {
            chunks,
            rough,
            at: 0,
            left,
        };
        run.smooth();
        run
    }

    /// Puts the first chunk in order.
    fn smooth(&mut self) {
        while self.rough
            && let Some(first) = self.chunks.front_mut()
            && !first.is_sorted()
        {
            if first.len() <= SORT_MAX || first.iter().any(|slot| slot.due != first[0].due) {
                return first.sort_unstable();
            }
            let first = std::mem::take(first);
            self.chunks.pop_front();
            for part in split(&[first])
                .into_iter()
                .rev()
                .filter(|part| !part.is_empty())
            {
                self.chunks.push_front(part);
            }
        }
    }

    fn head(&self) -> Option<Slot> {
        self.chunks.front().map(|chunk| chunk[self.at])
    }

    fn slices(&self) -> impl Iterator<Item = &[Slot]> {
        let at = self.at;
        self.chunks
            .iter()
            .enumerate()
            .map(move |(i, chunk)| &chunk[if i == 0 { at } else { 0 }..])
    }

    /// Hands out what is not after `last`, at most `room` entries.
    fn pour(&mut self, last: Slot, mut room: usize, out: &mut Vec<Slot>, spare: &mut Spare) {
        while let Some(chunk) = self.chunks.front() {
            let offered = &chunk[self.at..];
            let offered = &offered[..offered.len().min(room)];
            let count = offered.partition_point(|&slot| slot <= last);
            out.extend_from_slice(&offered[..count]);
            self.at += count;
            self.left -= count;
            room -= count;
            if self.at < chunk.len() {
                return;
            }
            self.at = 0;
            if let Some(chunk) = self.chunks.pop_front() {
                spare.give(chunk);
            }
            self.smooth();
        }
    }

    fn memory(&self) -> usize {
        self.chunks.iter().map(Vec::capacity).sum::<usize>() * size_of::<Slot>()
            + self.chunks.capacity() * size_of::<Vec<Slot>>()
    }
}

/// See the module.
pub(super) struct Front {
    /// Overdue inserts since the last expiry, unsorted, and the earliest tick among them.
    late: Vec<Slot>,
    late_least: u64,
    /// Each at least twice as long as the next, but for what was handed out since.
    runs: Vec<Run>,
}

impl Front {
    pub fn new() -> Front {
        Front {
            late: Vec::new(),
            late_least: u64::MAX,
            runs: Vec::new(),
        }
    }

    pub fn insert(&mut self, slot: Slot) {
        self.late_least = self.late_least.min(slot.due);
        self.late.push(slot);
    }

    /// The earliest due tick of all.
    pub fn least(&self) -> Option<u64> {
        let runs = self
            .runs
            .iter()
            .filter_map(Run::head)
            .map(|slot| slot.due)
            .min();
        if self.late.is_empty() {
            return runs;
        }
        Some(runs.map_or(self.late_least, |due| due.min(self.late_least)))
    }

    /// Takes a herd that is due but too large to be handed out at once. Entries mostly come in the
    /// order of their keys, so a look whether they are in order already is well spent: then the
    /// chunks stay as they are.
    pub fn take_herd(&mut self, herd: &mut Pile) {
        if herd.is_empty() {
            return;
        }
        if herd.chunks().flatten().is_sorted() {
            self.push(Run::new(herd.take_chunks(), false));
        } else if herd.len() > SORT_MAX {
            // No slot so full is handed over whole unless it is a single tick.
            self.push(Run::new(split(&herd.take_chunks()), true));
        } else {
            self.push(Run::new([herd.take_chunks().concat()], true));
        }
    }

    /// Puts the overdue inserts in order. Must come before [`Front::hand_out`].
    pub fn settle(&mut self) {
        if self.late.is_empty() {
            return;
        }
        self.late.sort();
        let room = if self.late.capacity() <= KEEP {
            self.late.len()
        } else {
            0
        };
        let late = std::mem::replace(&mut self.late, Vec::with_capacity(room));
        self.late_least = u64::MAX;
        self.push(Run::new([late], false));
    }

    /// Appends what is due by `until` to `out`, in order, at most `room` entries.
    pub fn hand_out(
        &mut self,
        until: u64,
        mut room: usize,
        out: &mut Vec<Slot>,
        spare: &mut Spare,
    ) {
        debug_assert!(self.late.is_empty(), "settle comes first");
        while room > 0 {
            let heads = self.runs.iter().map(Run::head).enumerate();
            let Some((head, next)) = heads.filter_map(|(i, head)| Some((head?, i))).min() else {
                return;
            };
            if head.due > until {
                return;
            }
            let others = self.runs.iter().enumerate().filter(|&(i, _)| i != next);
            let bound = others.filter_map(|(_, run)| run.head()).min();
            let last = Slot {
                due: until,
                key: u64::MAX,
            };
            let last = bound.map_or(last, |bound| bound.min(last));
            let before = out.len();
            self.runs[next].pour(last, room, out, spare);
            room -= out.len() - before;
            if self.runs[next].left == 0 {
                self.runs.remove(next);
            }
        }
    }

    /// Drops the entries for which `keep` says no. Returns how many are left.
    pub fn sweep(&mut self, keep: &mut impl FnMut(Slot) -> bool) -> usize {
        self.late.retain(|&slot| keep(slot));
        self.late_least = self
            .late
            .iter()
            .map(|slot| slot.due)
            .min()
            .unwrap_or(u64::MAX);
        for run in &mut self.runs {
            let kept = run.slices().flatten().copied().filter(|&slot| keep(slot));
            *run = Run::new([kept.collect::<Vec<_>>()], run.rough);
        }
        self.runs.retain(|run| run.left > 0);
        self.late.len() + self.runs.iter().map(|run| run.left).sum::<usize>()
    }

    pub fn memory(&self) -> usize {
        self.late.capacity() * size_of::<Slot>()
            + self
                .runs
                .iter()
                .map(|run| size_of::<Run>() + run.memory())
                .sum::<usize>()
    }

    fn push(&mut self, run: Run) {
        self.runs.push(run);
        while let [.., longer, shorter] = self.runs.as_slice()
            && shorter.left * 2 >= longer.left
        {
            let mut merged = Vec::with_capacity(longer.left + shorter.left);
            for slice in longer.slices().chain(shorter.slices()) {
                merged.extend_from_slice(slice);
            }
            // The stable sort finds the ascending runs and merges them in linear time.
            merged.sort();
            self.runs.truncate(self.runs.len() - 2);
            self.runs.push(Run::new([merged], false));
        }
    }
}

/// Splits entries of one tick by the highest bits in which their keys differ, in linear time. The
/// least and the greatest never stay together, so splitting again comes to an end.
fn split(chunks: &[Vec<Slot>]) -> Vec<Vec<Slot>> {
    let keys = || chunks.iter().flatten().map(|slot| slot.key);
    debug_assert!(
        chunks
            .iter()
            .flatten()
            .all(|slot| slot.due == chunks[0][0].due)
    );
    let least = keys().min().unwrap_or(0);
    let range = keys().max().unwrap_or(0) - least;
    let shift = u64::BITS.saturating_sub(range.leading_zeros() + SPLIT.ilog2());
    let parts = (range >> shift) as usize + 1;
    let room = chunks.iter().map(Vec::len).sum::<usize>() / parts;
    let mut split: Vec<_> = (0..parts)
        .map(|_| Vec::with_capacity(room + room / 8))
        .collect();
    for slot in chunks.iter().flatten() {
        split[((slot.key - least) >> shift) as usize].push(*slot);
    }
    split
}
