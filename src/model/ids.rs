//! Newtypes for everything that could be mixed up.

use bincode::{Decode, Encode};
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

use super::limits::{APP_BYTES_MAX, ID_BYTES_MAX};

/// A node of the cluster, as given by `--id`. Never reused after a wipe. 0 means "nobody".
pub type NodeId = u64;

/// Counts the starts of one node's process, so that work of an earlier run is recognized.
pub type Boot = u64;

/// A task's place in the order of creation, given by the fold; never reused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize,
)]
pub struct Seq(pub u64);

/// A shard's number; decides where a task runs and nothing else.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize,
)]
pub struct Shard(pub u16);

impl Shard {
    /// The shard that a key's hash falls into, among `total`.
    pub fn of(hash: u64, total: u16) -> Shard {
        Shard((hash % u64::from(total.max(1))) as u16)
    }
}

/// Counts changes of ownership over the whole cluster, so that it rises for every shard even
/// when their number changes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize,
)]
pub struct Epoch(pub u32);

/// What a dispatch carries and its outcome must bring back. Rises per task.
///
/// As one decimal integer it is `epoch << 32 | attempt` ([`Fence::number`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Fence {
    /// The ownership under which the attempt began.
    pub epoch: Epoch,
    /// Attempts begun so far, this one included.
    pub attempt: u32,
}

impl Fence {
    /// The integer that receivers compare.
    pub fn number(self) -> u64 {
        u64::from(self.epoch.0) << 32 | u64::from(self.attempt)
    }

    /// The inverse of [`Fence::number`].
    pub fn from_number(number: u64) -> Fence {
        Fence {
            epoch: Epoch((number >> 32) as u32),
            attempt: number as u32,
        }
    }
}

impl Serialize for Fence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.number())
    }
}

/// A hash of a task's content as first sent; equal content means the same submit.
pub type Digest = [u8; 16];

/// Who asked for a change: a short principal such as `token`, `loopback` or `node 2`.
pub type By = Arc<str>;

/// How users know a task: identity is the exact bytes of both parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize)]
pub struct Key {
    /// The application, 1–64 characters.
    pub app: Arc<str>,
    /// The task within the application, 1–128 characters.
    pub id: Arc<str>,
}

/// Why an application or task id is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("`{field}` must not be empty")]
    Empty { field: &'static str },
    #[error("`{field}` has {len} bytes, at most {max} are allowed")]
    Long {
        field: &'static str,
        len: usize,
        max: usize,
    },
    #[error("`{field}` has the character {found:?}; allowed are A-Z a-z 0-9 . _ ~ : -")]
    Character { field: &'static str, found: char },
}

impl Key {
    /// A checked key.
    pub fn new(app: &str, id: &str) -> Result<Key, IdError> {
        check("app", app, APP_BYTES_MAX)?;
        check("id", id, ID_BYTES_MAX)?;
        Ok(Key {
            app: app.into(),
            id: id.into(),
        })
    }

    /// A stable hash, the same on every node and release.
    pub fn hash(&self) -> u64 {
        let seed = xxhash_rust::xxh3::xxh3_64(self.app.as_bytes());
        xxhash_rust::xxh3::xxh3_64_with_seed(self.id.as_bytes(), seed)
    }

    /// The shard of this task among `total`.
    pub fn shard(&self, total: u16) -> Shard {
        Shard::of(self.hash(), total)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.id)
    }
}

fn check(field: &'static str, text: &str, max: usize) -> Result<(), IdError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._~:-".contains(c);
    if text.is_empty() {
        return Err(IdError::Empty { field });
    }
    if let Some(found) = text.chars().find(|c| !allowed(*c)) {
        return Err(IdError::Character { field, found });
    }
    if text.len() > max {
        return Err(IdError::Long {
            field,
            len: text.len(),
            max,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked() {
        assert!(Key::new("shop", "order-17:a.b_c~d").is_ok());
        assert!(matches!(
            Key::new("", "x"),
            Err(IdError::Empty { field: "app" })
        ));
        assert!(matches!(
            Key::new("a", "ü"),
            Err(IdError::Character { found: 'ü', .. })
        ));
        assert!(matches!(
            Key::new("a", &"x".repeat(129)),
            Err(IdError::Long { max: 128, .. })
        ));
        assert!(Key::new(&"a".repeat(64), &"x".repeat(128)).is_ok());
    }

    #[test]
    fn fences_rise_with_epoch_then_attempt() {
        let a = Fence {
            epoch: Epoch(1),
            attempt: 9,
        };
        let b = Fence {
            epoch: Epoch(2),
            attempt: 10,
        };
        assert!(a < b && a.number() < b.number());
        assert_eq!(Fence::from_number(b.number()), b);
    }

    #[test]
    fn shards_are_stable() {
        // Frozen: a change would move every task of every running cluster.
        let shard = |app, id| Key::new(app, id).unwrap().shard(64).0;
        assert_eq!(
            [shard("shop", "order-17"), shard("a", "b"), shard("b", "a")],
            [17, 12, 13]
        );
    }
}
