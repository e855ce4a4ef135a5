//! The state hash: a sum, so that one changed record costs one subtraction and one addition.
//!
//! The sum of the hashes of all live records (mod 2^128) does not depend on their order, on where
//! they are kept, or on when they got there. Two replicas with equal hashes at equal indexes hold
//! equal states, as far as anything but an adversary is concerned.

use bincode::{Decode, Encode};
use std::fmt;

use super::State;

/// A hash of records, or the sum of such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StateHash(u128);

impl StateHash {
    /// The hash of nothing.
    pub const ZERO: StateHash = StateHash(0);

    /// The hash of one record's bytes.
    pub fn of(bytes: &[u8]) -> StateHash {
        let mut half = [0; 16];
        half.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        StateHash(u128::from_le_bytes(half))
    }

    pub fn add(&mut self, other: StateHash) {
        self.0 = self.0.wrapping_add(other.0);
    }

    pub(crate) fn remove(&mut self, other: StateHash) {
        self.0 = self.0.wrapping_sub(other.0);
    }
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl super::Mark {
    /// A mark's part in the sum.
    pub(crate) fn own_hash(&self, key: &crate::model::Key) -> StateHash {
        StateHash::of(&crate::model::encode(&(key.clone(), self.clone())))
    }
}

impl State {
    /// The hash of the whole state: records, shards, marks, hand, floors. The log index is part
    /// of what is hashed, so that two nodes can only agree about the same moment.
    pub fn hash(&self) -> StateHash {
        let mut sum = self.table.hash();
        sum.add(StateHash::of(&crate::model::encode(&self.core)));
        sum
    }

    /// The hashes at the last agreed indexes, oldest first.
    pub fn hashes(&self) -> impl Iterator<Item = (u64, StateHash)> + '_ {
        self.hashes.iter().copied()
    }
}
