//! Which ids may be in the store: most new ones are told apart without a look at the disk.
//!
//! A Bloom filter of about ten bits an id answers "surely not" for 99 of 100 ids that are not
//! there (Bloom, 1970). It grows by being built anew; while that goes on, every id is looked up.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::Key;

/// Bits for each id that is expected.
const BITS_PER_ID: u64 = 10;
/// Probes for each id: the best number for ten bits is seven; five cost less and miss hardly more.
const PROBES: u64 = 5;
/// Room in the smallest filter: 1.25 MiB.
const IDS_MIN: u64 = 1 << 20;

/// The filter. Ids are added while others ask.
pub(super) struct Bloom {
    words: Vec<AtomicU64>,
    added: AtomicU64,
    room: u64,
}

impl Bloom {
    /// A filter with room for half as many ids again as there are: each id is read at most three
    /// times while they grow.
    pub(super) fn for_ids(ids: u64) -> Bloom {
        let room = (ids + ids / 2).max(IDS_MIN);
        let words = (room * BITS_PER_ID).div_ceil(64);
        Bloom {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            added: AtomicU64::new(0),
            room,
        }
    }

    /// It holds more ids than it was made for, and says "surely not" less often.
    pub(super) fn is_full(&self) -> bool {
        self.added.load(Ordering::Relaxed) > self.room
    }

    pub(super) fn add(&self, key: &Key) {
        self.added.fetch_add(1, Ordering::Relaxed);
        for (word, bit) in self.probes(key) {
            self.words[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// `false`: surely not.
    pub(super) fn may_have(&self, key: &Key) -> bool {
        self.probes(key)
            .all(|(word, bit)| self.words[word].load(Ordering::Relaxed) & bit != 0)
    }

    /// Double hashing: two halves of one hash make all probes (Kirsch and Mitzenmacher, 2006).
    fn probes(&self, key: &Key) -> impl Iterator<Item = (usize, u64)> + use<> {
        let seed = xxhash_rust::xxh3::xxh3_64(key.app.as_bytes());
        let hash = xxhash_rust::xxh3::xxh3_128_with_seed(key.id.as_bytes(), seed);
        let (first, step) = (hash as u64, (hash >> 64) as u64 | 1);
        let bits = self.words.len() as u64 * 64;
        (0..PROBES).map(move |n| {
            let bit = first.wrapping_add(n.wrapping_mul(step)) % bits;
            ((bit / 64) as usize, 1 << (bit % 64))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_it_holds_and_mostly_what_it_does_not() {
        let key = |n: u32| Key::new("shop", &format!("order-{n}")).unwrap();
        let bloom = Bloom::for_ids(0);
        (0..200_000).for_each(|n| bloom.add(&key(n)));
        assert!((0..200_000).all(|n| bloom.may_have(&key(n))));
        let wrong = (200_000..300_000)
            .filter(|n| bloom.may_have(&key(*n)))
            .count();
        assert!(wrong < 1_000, "{wrong} of 100,000 were taken for known");
        assert!(!bloom.is_full());
    }
}
