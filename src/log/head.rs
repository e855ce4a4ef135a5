//! The head: one row that says what the log is, written with every frame.
//!
//! Bounds, vote and committed place share a row and a checksum. The rows of an engine carry
//! checksums of their own, but a checksum cannot say that a row is *missing*: the head can. If
//! the last entry, the vote, or a whole commit vanished below us, the head and the rows disagree
//! and opening stops, instead of a node voting twice or serving a shorter log.
//!
//! Format 1, little-endian: `"hlgh"`, format u8, flags u8 (1 purged, 2 last, 4 committed, 8 vote),
//! frame number u64, swept u64, three positions of 24 bytes (zero when absent), length of the
//! vote u32, vote, CRC-32C of all before it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::bounds::Bounds;
use super::entry::Position;
use super::fault::LogFault;

const MAGIC: [u8; 4] = *b"hlgh";
const FORMAT: u8 = 1;
/// Everything but the vote and the checksum.
const FIXED_BYTES: usize = 4 + 1 + 1 + 8 + 8 + 3 * 24 + 4;

/// What the log is, as of one written frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Rises by one with every frame written.
    pub frame: u64,
    pub bounds: Bounds,
    /// No row below this index is left; rows from here to the purged end wait to be swept.
    pub swept: u64,
    pub committed: Option<Position>,
    pub vote: Option<Bytes>,
}

impl Head {
    pub fn encode(&self) -> Bytes {
        let vote = self.vote.as_deref().unwrap_or_default();
        let places = [self.bounds.purged, self.bounds.last, self.committed];
        let mut flags = u8::from(self.vote.is_some()) << 3;
        for (bit, place) in places.iter().enumerate() {
            flags |= u8::from(place.is_some()) << bit;
        }
        let mut out = BytesMut::with_capacity(FIXED_BYTES + vote.len() + 4);
        out.put_slice(&MAGIC);
        out.put_u8(FORMAT);
        out.put_u8(flags);
        out.put_u64_le(self.frame);
        out.put_u64_le(self.swept);
        for place in places {
            let place = place.unwrap_or(Position {
                term: 0,
                node: 0,
                index: 0,
            });
            out.put_u64_le(place.term);
            out.put_u64_le(place.node);
            out.put_u64_le(place.index);
        }
        out.put_u32_le(vote.len() as u32);
        out.put_slice(vote);
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out.freeze()
    }

    /// # Errors
    /// [`LogFault::Damaged`] when any byte differs from what [`Head::encode`] wrote.
    pub fn decode(bytes: &Bytes) -> Result<Head, LogFault> {
        let damaged = |why: &str| Err(LogFault::damaged("the log's head", why));
        if bytes.len() < FIXED_BYTES + 4 {
            return damaged("too short");
        }
        let (body, mut crc) = bytes.split_at(bytes.len() - 4);
        if crc32c::crc32c(body) != crc.get_u32_le() {
            return damaged("its checksum does not match");
        }
        if body[..4] != MAGIC || body[4] != FORMAT {
            return damaged("a format this version does not know");
        }
        let flags = body[5];
        let mut rest = &body[6..];
        let frame = rest.get_u64_le();
        let swept = rest.get_u64_le();
        let mut place = |bit: u8| {
            let (term, node) = (rest.get_u64_le(), rest.get_u64_le());
            let at = Position {
                term,
                node,
                index: rest.get_u64_le(),
            };
            (flags & bit != 0).then_some(at)
        };
        let bounds = Bounds {
            purged: place(1),
            last: place(2),
        };
        let committed = place(4);
        if rest.get_u32_le() as usize != rest.len() {
            return damaged("its vote is not as long as it says");
        }
        let vote = (flags & 8 != 0).then(|| Bytes::copy_from_slice(rest));
        Ok(Head {
            frame,
            bounds,
            swept,
            committed,
            vote,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Head {
        let at = |index| Position {
            term: 7,
            node: 3,
            index,
        };
        Head {
            frame: 99,
            bounds: Bounds {
                purged: Some(at(10)),
                last: Some(at(20)),
            },
            swept: 5,
            committed: Some(at(15)),
            vote: Some(Bytes::from_static(b"a vote")),
        }
    }

    #[test]
    fn format_1_never_changes() {
        let hex: String = full()
            .encode()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let golden = "686c6768010f630000000000000005000000000000000700000000000000030000000000\
             00000a000000000000000700000000000000030000000000000014000000000000000700\
             00000000000003000000000000000f00000000000000060000006120766f7465eec3468f";
        assert_eq!(hex, golden);
    }

    #[test]
    fn reads_back_with_and_without_each_part() {
        for head in [
            full(),
            Head::default(),
            Head {
                vote: Some(Bytes::new()),
                ..full()
            },
        ] {
            assert_eq!(Head::decode(&head.encode()).unwrap(), head);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let bytes = full().encode();
        for bit in 0..bytes.len() * 8 {
            let mut bent = bytes.to_vec();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert!(Head::decode(&bent.into()).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(
                Head::decode(&bytes.slice(..length)).is_err(),
                "length {length}"
            );
        }
    }
}
