//! The wheel against a model so simple that it is right by reading: a sorted set.
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{Slot, Wheel};

#[derive(Clone, Debug)]
enum Op {
    Insert {
        distance: i64,
        herd: u8,
    },
    Far {
        due: u64,
    },
    Expire {
        ahead: i64,
        max: usize,
    },
    Drain {
        ahead: i64,
        max: usize,
    },
    /// Every `n`th entry dies.
    Sweep {
        n: u64,
    },
}

/// Distances of every magnitude, so that all levels are met as often as the near ones.
fn distance() -> impl Strategy<Value = i64> {
    (0u32..40, any::<u64>()).prop_map(|(bits, raw)| (raw & ((1 << bits) - 1)) as i64)
}

fn op() -> impl Strategy<Value = Op> {
    let max = prop_oneof![0usize..4, 1usize..40, Just(usize::MAX)];
    let until = prop_oneof![4 => distance(), 1 => -50i64..0];
    prop_oneof![
        10 => (distance(), 1u8..4).prop_map(|(distance, herd)| Op::Insert { distance, herd }),
        4 => (-200i64..200, 1u8..90).prop_map(|(distance, herd)| Op::Insert { distance, herd }),
        1 => prop_oneof![any::<u64>(), Just(u64::MAX), 0u64..3].prop_map(|due| Op::Far { due }),
        6 => (until.clone(), max.clone()).prop_map(|(ahead, max)| Op::Expire { ahead, max }),
        2 => (until, 1usize..30).prop_map(|(ahead, max)| Op::Drain { ahead, max }),
        1 => (1u64..5).prop_map(|n| Op::Sweep { n }),
    ]
}

struct Pair {
    wheel: Wheel,
    model: BTreeSet<Slot>,
    hand: u64,
    keys: u64,
}

impl Pair {
    fn insert(&mut self, due: u64) {
        self.keys += 1;
        // Unique, and in disorder: the order of insertion must not be the order of the keys.
        let key = self.keys.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.wheel.insert(due, key);
        self.model.insert(Slot { due, key });
    }

    fn expire(&mut self, ahead: i64, max: usize) -> Result<bool, TestCaseError> {
        let until = self.hand.saturating_add_signed(ahead);
        let mut out = Vec::new();
        let more = self.wheel.expire(until, max, &mut out);

        let until = until.max(self.hand);
        let due = self.model.iter().take_while(|slot| slot.due <= until);
        let expected: Vec<Slot> = due.take(max).copied().collect();
        expected
            .iter()
            .for_each(|slot| assert!(self.model.remove(slot)));
        let next = self
            .model
            .first()
            .map(|slot| slot.due)
            .filter(|&due| due <= until);
        self.hand = next.map_or(until, |due| self.hand.max(due.saturating_sub(1)));

        prop_assert_eq!(out, expected);
        prop_assert_eq!(more, next.is_some());
        Ok(more)
    }

    fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Insert { distance, herd } => {
                let due = self.hand.saturating_add_signed(distance);
                (0..herd).for_each(|_| self.insert(due));
            }
            Op::Far { due } => self.insert(due),
            Op::Expire { ahead, max } => drop(self.expire(ahead, max)?),
            Op::Drain { ahead, max } => {
                let until = self.hand.saturating_add_signed(ahead);
                while self.expire((until.saturating_sub(self.hand)) as i64, max)? {}
            }
            Op::Sweep { n } => {
                self.wheel.cancelled(self.model.len() / n as usize);
                self.wheel.sweep(|slot| slot.key % n != 0);
                self.model.retain(|slot| slot.key % n != 0);
            }
        }
        self.agree()
    }

    fn agree(&mut self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.wheel.hand(), self.hand);
        prop_assert_eq!(self.wheel.len(), self.model.len());
        prop_assert_eq!(self.wheel.is_empty(), self.model.is_empty());
        prop_assert_eq!(
            self.wheel.next_due(),
            self.model.first().map(|slot| slot.due)
        );
        Ok(())
    }
}

proptest! {
    #![proptest_config(crate::thorough::cases(300))]

    #[test]
    fn the_wheel_is_a_sorted_set_with_a_hand(
        start in prop_oneof![Just(0u64), 0u64..10_000, Just(1_790_000_000_000), any::<u64>()],
        ops in prop::collection::vec(op(), 1..400),
    ) {
        let mut pair = Pair { wheel: Wheel::new(start), model: BTreeSet::new(), hand: start, keys: 0 };
        for op in &ops {
            pair.apply(op)?;
        }
        pair.expire(i64::MAX, usize::MAX)?;
        pair.agree()?;
    }
}
