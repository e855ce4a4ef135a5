//! The levels of the wheel: where what is due after `edge` waits, unordered, in its slot.
//!
//! An entry's level is the highest digit (base [`SLOTS`]) in which its due tick differs from
//! `edge`, and its slot is its own digit there (Varghese and Lauck, "Hashed and Hierarchical
//! Timing Wheels", SOSP 1987, scheme 7). Since all entries lie after `edge`, everything on a lower
//! level is earlier than anything on a higher one, and on one level a lower slot is the earlier: the
//! first set bit of the first level in use *is* the earliest slot.
//!
//! `edge` may move to any tick before which nothing waits without touching an entry. So a slot is
//! cascaded only when something in it falls due, and then straight relative to that entry's tick:
//! a lone entry, however far, is moved once, not once a level.
use super::Slot;
use super::front::SORT_MAX;
use super::pile::{Pile, Spare};

/// 64 slots a level, so that one word tells which are in use. 256 were measured too: equal within a
/// tenth on average, at twice the memory of an idle wheel.
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const LEVELS: usize = u64::BITS.div_ceil(BITS) as usize;

/// A slot that is due as a whole is handed over in one piece up to this size, and sorted there;
/// a larger one is cascaded first, so that no single step sorts millions.
const WHOLE_MAX: usize = SORT_MAX / 2;

#[derive(Clone, Copy)]
struct Place {
    level: usize,
    digit: usize,
}

impl Place {
    fn of(due: u64, edge: u64) -> Place {
        let level = (63 - (due ^ edge).leading_zeros()) / BITS;
        let digit = (due >> (level * BITS)) as usize & (SLOTS - 1);
        Place {
            level: level as usize,
            digit,
        }
    }

    fn index(self) -> usize {
        self.level * SLOTS + self.digit
    }

    /// The first and the last tick of this slot, as seen from `edge`.
    fn span(self, edge: u64) -> (u64, u64) {
        let shift = self.level as u32 * BITS;
        let above = edge.checked_shr(shift + BITS).unwrap_or(0);
        let first = above.checked_shl(shift + BITS).unwrap_or(0) | (self.digit as u64) << shift;
        (first, first | ((1 << shift) - 1))
    }
}

/// See the module. Everything in here is due after `edge`.
pub(super) struct Levels {
    edge: u64,
    in_use: u16,
    occupied: [u64; LEVELS],
    piles: Box<[Pile]>,
    spare: Spare,
}

impl Levels {
    pub fn new(edge: u64) -> Levels {
        let piles = (0..LEVELS * SLOTS).map(|_| Pile::new()).collect();
        Levels {
            edge,
            in_use: 0,
            occupied: [0; LEVELS],
            piles,
            spare: Spare::default(),
        }
    }

    pub fn edge(&self) -> u64 {
        self.edge
    }

    /// Puts an entry due after the edge into its slot.
    pub fn insert(&mut self, slot: Slot) {
        debug_assert!(slot.due > self.edge, "what is due by the edge has no slot");
        let place = Place::of(slot.due, self.edge);
        self.mark(place);
        self.piles[place.index()].push(slot, &mut self.spare);
    }

    /// The earliest due tick of all.
    pub fn least(&self) -> Option<u64> {
        self.earliest()
            .map(|place| self.piles[place.index()].least())
    }

    /// Moves the edge towards `until`, as far as the next entries due by then. Those come out in
    /// `ripe`, unordered among themselves but before everything that stays. False when nothing is
    /// left that is due by `until`.
    pub fn advance(&mut self, until: u64, ripe: &mut Pile) -> bool {
        debug_assert!(ripe.is_empty());
        let Some(place) = self.earliest() else {
            self.edge = self.edge.max(until);
            return false;
        };
        let (first, last) = place.span(self.edge);
        let pile = &mut self.piles[place.index()];
        if pile.least() > until {
            self.edge = self.edge.max(until.min(first - 1));
            return false;
        }
        let whole = place.level == 0 || (last <= until && pile.len() <= WHOLE_MAX);
        self.edge = if whole { last } else { pile.least() };
        let mut pile = std::mem::replace(pile, Pile::new());
        self.clear(place);
        if whole {
            // The slot inherits the emptied pile's memory.
            self.piles[place.index()] = std::mem::replace(ripe, pile);
            return true;
        }
        self.cascade(&mut pile, ripe);
        self.piles[place.index()] = pile;
        true
    }

    /// Spreads a pile over the levels below its own; what is due at the edge is ripe.
    fn cascade(&mut self, pile: &mut Pile, ripe: &mut Pile) {
        let mut spare = std::mem::take(&mut self.spare);
        pile.drain(&mut spare, |chunk, spare| {
            for &slot in chunk {
                if slot.due == self.edge {
                    ripe.push(slot, spare);
                } else {
                    let place = Place::of(slot.due, self.edge);
                    self.mark(place);
                    self.piles[place.index()].push(slot, spare);
                }
            }
        });
        self.spare = spare;
    }

    /// Drops the entries for which `keep` says no. Returns how many are left.
    pub fn sweep(&mut self, keep: &mut impl FnMut(Slot) -> bool) -> usize {
        let mut left = 0;
        for index in 0..self.piles.len() {
            let pile = &mut self.piles[index];
            if pile.is_empty() {
                continue;
            }
            left += pile.sweep(&mut self.spare, keep);
            if pile.is_empty() {
                self.clear(Place {
                    level: index / SLOTS,
                    digit: index % SLOTS,
                });
            }
        }
        left
    }

    /// Where emptied chunks go.
    pub fn spare(&mut self) -> &mut Spare {
        &mut self.spare
    }

    pub fn memory(&self) -> usize {
        let piles: usize = self
            .piles
            .iter()
            .map(|pile| size_of::<Pile>() + pile.memory())
            .sum();
        piles + self.spare.memory()
    }

    fn earliest(&self) -> Option<Place> {
        if self.in_use == 0 {
            return None;
        }
        let level = self.in_use.trailing_zeros() as usize;
        let digit = self.occupied[level].trailing_zeros() as usize;
        Some(Place { level, digit })
    }

    fn mark(&mut self, place: Place) {
        self.occupied[place.level] |= 1 << place.digit;
        self.in_use |= 1 << place.level;
    }

    fn clear(&mut self, place: Place) {
        self.occupied[place.level] &= !(1 << place.digit);
        if self.occupied[place.level] == 0 {
            self.in_use &= !(1 << place.level);
        }
    }
}
