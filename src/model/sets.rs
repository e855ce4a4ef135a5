//! Named shard sets: views that cut the same tasks into so many parts each, for consumers that share
//! them out among themselves. The set [`ShardSet::DEFAULT`] is the one by which work is placed.

use bincode::{Decode, Encode};
use std::sync::Arc;

use super::limits::{SHARD_SET_BYTES_MAX, SHARD_SET_TOTAL_MAX};
use super::{Shard, Time};

/// A set as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ShardSet {
    pub name: Arc<str>,
    /// Into how many shards it cuts the tasks, from its next fill on.
    pub total: u16,
    /// The last fill, if there was one.
    pub fill: Option<Fill>,
}

/// What one fill has made available. It keeps to the number of shards that the set had then, so that a
/// set may get another number at any time, and nothing of this fill is handed out twice or left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Fill {
    /// The log index at which it was filled.
    pub index: u64,
    pub total: u16,
    /// Tasks due up to here.
    pub until: Time,
    /// The next shard to be handed out; `total`: all have been.
    pub next: u16,
}

impl ShardSet {
    /// The set that places work. Its number of shards is fixed when the cluster is formed.
    pub const DEFAULT: &'static str = "default";

    pub fn new(name: Arc<str>, total: u16) -> ShardSet {
        ShardSet {
            name,
            total,
            fill: None,
        }
    }

    /// Whether a set may have this name and this number of shards.
    ///
    /// # Errors
    /// Says what to change.
    pub fn check(name: &str, total: u16) -> Result<(), String> {
        ShardSet::check_name(name)?;
        match (1..=SHARD_SET_TOTAL_MAX).contains(&total) {
            true => Ok(()),
            false => Err(format!(
                "`total`: {total} is not from 1 to {SHARD_SET_TOTAL_MAX}"
            )),
        }
    }

    /// # Errors
    /// Says what to change.
    pub fn check_name(name: &str) -> Result<(), String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._~:-".contains(c);
        match (1..=SHARD_SET_BYTES_MAX).contains(&name.len()) && name.chars().all(allowed) {
            true => Ok(()),
            false => Err(format!(
                "{name:?} is no name of a shard set: 1 to {SHARD_SET_BYTES_MAX} of \
                 A-Z a-z 0-9 . _ ~ : -"
            )),
        }
    }

    /// The shard that a key with this hash falls into.
    pub fn hit(&self, hash: u64) -> Shard {
        Shard::of(hash, self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Key;

    #[test]
    fn names_and_totals_are_checked() {
        assert_eq!(ShardSet::check("orders-2:eu", 1), Ok(()));
        assert_eq!(ShardSet::check("a", SHARD_SET_TOTAL_MAX), Ok(()));
        for (name, total) in [
            ("", 1),
            ("a b", 1),
            ("a/b", 1),
            ("a", 0),
            ("a", SHARD_SET_TOTAL_MAX + 1),
        ] {
            assert!(ShardSet::check(name, total).is_err(), "{name:?} {total}");
        }
    }

    #[test]
    fn a_hit_is_stable() {
        // Frozen: consumers that know their number must find the same tasks for ever.
        let set = |total| ShardSet::new("x".into(), total);
        let hash = Key::new("shop", "order-17").unwrap().hash();
        assert_eq!((set(64).hit(hash), set(1).hit(hash)), (Shard(17), Shard(0)));
    }
}
