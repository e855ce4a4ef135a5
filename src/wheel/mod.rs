//! The hierarchical timing wheel: what is due next, among millions, in ticks.
//!
//! It knows neither tasks nor clocks: a [`Slot`] is a due tick (one millisecond) and an opaque key,
//! and the hand moves when [`Wheel::expire`] says so. Every replica folds the same triggers, so what
//! comes out must not depend on how entries are laid out inside: the order of [`Wheel::expire`] is
//! (due, key), a function of the *set* of entries and of nothing else.
//!
//! * `levels`: what is due later, in slots that get coarser with distance. An insert is a shift, a
//!   bit and a push; nothing is sorted before it is due.
//! * `pile`: the chunked memory of one slot.
//! * `front`: what is due already but was not handed out yet, in sorted runs.
//!
//! Cancelling is lazy: the wheel cannot find an entry again. The caller counts the dead with
//! [`Wheel::cancelled`], drops them as they come out, and sweeps when [`Wheel::wants_sweep`] says
//! that they are the majority. Note that dead entries count towards `max`, and that they may stop
//! the hand: a caller whose replicas sweep at different moments must go on calling until it has
//! `max` *living* entries, and must not let the value of [`Wheel::hand`] enter its own state.
//!
//! # Figures
//!
//! From `benches/wheel.rs` on a shared machine with two cores; per entry, in disorder, over a year:
//!
//! | entries | insert | expire in pieces of 8,192 | expire tick by tick |
//! |---|---|---|---|
//! | 10^4 | 9 ns | 11 ns | 46 ns |
//! | 10^6 | 9 ns | 24 ns | 50 ns |
//! | 10^7 | 12 ns | 27 ns | 55 ns |
//!
//! An entry takes 16.2 bytes. A million at one tick are drained in 2.9 ms, and the first piece
//! waits 2 ms, when they came in the order of their keys; else 29 ms, and 7 ms for the first piece.
//! The longest single call is a cascade, when all that waits lies in one coarse slot: 4.5 ms with a
//! million entries, 41 ms with ten; a caller with a bound on pauses bounds what it keeps in here.
mod front;
mod levels;
mod pile;

#[cfg(test)]
mod model_test;
#[cfg(test)]
mod tests;

use std::fmt;

use front::Front;
use levels::Levels;
use pile::Pile;

/// Below so many dead entries a sweep is not worth its walk over the wheel: they hold 64 KiB.
const SWEEP_MIN: usize = 4096;

/// An entry: when it is due, and the caller's name for it. Ordered by `(due, key)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    pub due: u64,
    pub key: u64,
}

/// See the module.
pub struct Wheel {
    hand: u64,
    len: usize,
    dead: usize,
    levels: Levels,
    front: Front,
    /// What a step of the levels brought; empty between calls, kept for its memory.
    ripe: Pile,
}

impl Wheel {
    /// An empty wheel whose hand stands at `hand`.
    pub fn new(hand: u64) -> Wheel {
        Wheel {
            hand,
            len: 0,
            dead: 0,
            levels: Levels::new(hand),
            front: Front::new(),
            ripe: Pile::new(),
        }
    }

    /// The tick up to which everything was handed out, except what was inserted overdue since. It
    /// never goes back.
    pub fn hand(&self) -> u64 {
        self.hand
    }

    /// Adds an entry, due at any tick. One that is overdue comes out of the very next
    /// [`Wheel::expire`]. Equal entries are kept apart: what goes in twice comes out twice.
    pub fn insert(&mut self, due: u64, key: u64) {
        let slot = Slot { due, key };
        self.len += 1;
        if due > self.levels.edge() {
            self.levels.insert(slot);
        } else {
            self.front.insert(slot);
        }
    }

    /// Notes that `n` of the entries are dead. They still come out when due, for the caller to drop.
    pub fn cancelled(&mut self, n: usize) {
        self.dead = self.dead.saturating_add(n).min(self.len);
    }

    /// True when more than half of the entries are dead, as far as the wheel was told, and enough
    /// of them to be worth a walk. Dead entries that came out still count until the next sweep, so a
    /// sweep may come sooner than it must; its cost stays a constant per cancelled entry.
    pub fn wants_sweep(&self) -> bool {
        self.dead > SWEEP_MIN && self.dead > self.len / 2
    }

    /// Drops every entry for which `keep` returns false, in no particular order.
    pub fn sweep(&mut self, mut keep: impl FnMut(Slot) -> bool) {
        self.len = self.levels.sweep(&mut keep) + self.front.sweep(&mut keep);
        self.dead = 0;
    }

    /// The earliest due tick among the entries, exactly; it is before the hand when that entry came
    /// overdue. Costs a few instructions, whatever the number of entries.
    pub fn next_due(&self) -> Option<u64> {
        // The front holds what is due by the edge, the levels what is due after it.
        self.front.least().or_else(|| self.levels.least())
    }

    /// Moves the hand towards `until` and appends to `out`, in `(due, key)` order, at most `max`
    /// entries due by then. Returns whether more are due: then the hand stands just before the next
    /// of them, and the caller calls again with the same `until`. An `until` before the hand is
    /// taken as the hand.
    pub fn expire(&mut self, until: u64, max: usize, out: &mut Vec<Slot>) -> bool {
        let until = until.max(self.hand);
        let before = out.len();
        self.front.settle();
        loop {
            let room = max - (out.len() - before);
            self.front.hand_out(until, room, out, self.levels.spare());
            let room = max - (out.len() - before);
            if room == 0 || !self.levels.advance(until, &mut self.ripe) {
                break;
            }
            self.hand_out_ripe(room, out);
        }
        self.len -= out.len() - before;
        self.dead = self.dead.min(self.len);
        let next = self.next_due().filter(|&due| due <= until);
        self.hand = next.map_or(until, |due| self.hand.max(due.saturating_sub(1)));
        next.is_some()
    }

    /// Entries held, the dead ones among them.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes held, by the capacities of the vectors; what the allocator adds is not known here.
    pub fn memory(&self) -> usize {
        size_of::<Wheel>() + self.levels.memory() + self.front.memory() + self.ripe.memory()
    }

    /// What just ripened precedes all that stays and follows all that went, and the front holds
    /// nothing due: so it may go straight into `out` if it fits.
    fn hand_out_ripe(&mut self, room: usize, out: &mut Vec<Slot>) {
        if self.ripe.len() > room {
            return self.front.take_herd(&mut self.ripe);
        }
        let from = out.len();
        self.ripe
            .drain(self.levels.spare(), |chunk, _| out.extend_from_slice(chunk));
        out[from..].sort_unstable();
    }
}

impl fmt::Debug for Wheel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wheel {
            hand, len, dead, ..
        } = self;
        write!(f, "Wheel {{ hand: {hand}, len: {len}, dead: {dead} }}")
    }
}
