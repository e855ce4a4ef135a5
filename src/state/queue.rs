//! Tasks by an instant: a wheel, and in front of it those that were found alive.
//!
//! The wheel's entries are dropped lazily: one counts only while its record agrees. To know, the
//! record must be in memory, and that is `prepare`'s work: it moves entries from the wheel to the
//! front until the fold has enough living ones. Nothing in the wheel precedes anything in front, so
//! what was prepared is what comes first. What the fold takes depends only on which entries live,
//! never on how far the wheel has turned, nor on where the records were.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::model::{Seq, Time};
use crate::wheel::{Slot, Wheel};

/// What a look at a record says about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    Alive,
    Dead,
    /// The record is not in memory.
    Unknown,
}

/// See the module.
pub(crate) struct Queue {
    wheel: Wheel,
    front: BTreeSet<(Time, Seq)>,
    /// Taken out and not buried yet, so that they are not counted as dead in the wheel.
    taken: usize,
}

impl Queue {
    pub(crate) fn new() -> Queue {
        Queue {
            wheel: Wheel::new(0),
            front: BTreeSet::new(),
            taken: 0,
        }
    }

    pub(crate) fn insert(&mut self, at: Time, seq: Seq) {
        match self.front.last() {
            Some(last) if (at, seq) < *last => drop(self.front.insert((at, seq))),
            _ => self.wheel.insert(at.0, seq.0),
        }
    }

    /// One entry no longer counts.
    pub(crate) fn bury(&mut self, at: Time, seq: Seq) {
        if self.front.remove(&(at, seq)) {
            return;
        }
        match self.taken.checked_sub(1) {
            Some(rest) => self.taken = rest,
            None => self.wheel.cancelled(1),
        }
    }

    /// The earliest instant at which an entry may count.
    pub(crate) fn next(&self) -> Option<Time> {
        let front = self.front.first().map(|(at, _)| *at);
        let wheel = self.wheel.next_due().map(Time);
        front.into_iter().chain(wheel).min()
    }

    /// Bytes that it takes, about.
    pub(crate) fn memory(&self) -> usize {
        /// Of an entry in a set of the standard library that is two thirds full.
        const FRONT_BYTES: usize = 32;
        self.wheel.memory() + self.front.len() * FRONT_BYTES
    }

    /// Rids the wheel of dead entries when they are the majority.
    pub(crate) fn sweep(&mut self, sign: impl Fn(Time, Seq) -> Sign) {
        if self.wheel.wants_sweep() {
            self.wheel
                .sweep(|slot| sign(Time(slot.due), Seq(slot.key)) != Sign::Dead);
        }
    }

    /// The next entries of the wheel that are due, in order; they are out of it then.
    pub(crate) fn pull(&mut self, until: Time, max: usize) -> Vec<(Time, Seq)> {
        let mut slots = Vec::new();
        self.wheel.expire(until.0, max, &mut slots);
        let (due, early): (Vec<Slot>, Vec<Slot>) =
            slots.into_iter().partition(|slot| slot.due <= until.0);
        // The wheel may have turned further than this fold goes.
        early
            .into_iter()
            .for_each(|slot| self.wheel.insert(slot.due, slot.key));
        due.into_iter()
            .map(|slot| (Time(slot.due), Seq(slot.key)))
            .collect()
    }

    /// Puts an entry in front that was pulled and found alive; says whether it is new there. The
    /// wheel has it twice when a task went away from an instant and came back to it.
    pub(crate) fn ready(&mut self, at: Time, seq: Seq) -> bool {
        self.front.insert((at, seq))
    }

    /// The entry in front that follows another, up to an instant.
    pub(crate) fn front_after(
        &self,
        last: Option<(Time, Seq)>,
        until: Time,
    ) -> Option<(Time, Seq)> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let to = Bound::Included((until, Seq(u64::MAX)));
        // A range that begins beyond its end is a panic.
        let within = last.is_none_or(|(at, _)| at <= until);
        within.then(|| self.front.range((from, to)).next().copied())?
    }

    /// An entry in front that turned out to be dead.
    pub(crate) fn drop_front(&mut self, at: Time, seq: Seq) {
        self.front.remove(&(at, seq));
    }

    /// Takes at most `max` living entries up to an instant, in order, and says whether more
    /// remain. What the fold itself has put into the wheel since `prepare` is found as well;
    /// an entry whose record is not in memory lies behind everything that was prepared.
    pub(crate) fn take(
        &mut self,
        until: Time,
        max: usize,
        sign: impl Fn(Time, Seq) -> Sign,
    ) -> (Vec<Seq>, bool) {
        let unknown = self.pull_known(until, &sign);
        let mut taken = Vec::new();
        let mut more = unknown;
        while let Some((at, seq)) = self.front.first().copied().filter(|(at, _)| *at <= until) {
            let sign = sign(at, seq);
            if sign == Sign::Unknown || (sign == Sign::Alive && taken.len() == max) {
                more = true;
                break;
            }
            self.front.remove(&(at, seq));
            if sign == Sign::Alive {
                taken.push(seq);
            }
        }
        self.taken += taken.len();
        (taken, more)
    }

    /// Moves what is due and alive from the wheel to the front, up to the first entry whose
    /// record is not in memory; says whether there was one.
    fn pull_known(&mut self, until: Time, sign: &impl Fn(Time, Seq) -> Sign) -> bool {
        /// Pulled at once.
        const PIECE: usize = 256;
        loop {
            let due = self.pull(until, PIECE);
            if due.is_empty() {
                return false;
            }
            let mut due = due.into_iter();
            let unknown = due.find(|(at, seq)| match sign(*at, *seq) {
                Sign::Unknown => true,
                Sign::Alive => {
                    self.front.insert((*at, *seq));
                    false
                }
                Sign::Dead => false,
            });
            if let Some(first) = unknown {
                for (at, seq) in std::iter::once(first).chain(due) {
                    self.wheel.insert(at.0, seq.0);
                }
                return true;
            }
        }
    }
}
