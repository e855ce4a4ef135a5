//! One entry of the log and its bytes.
//!
//! Frame format 1, all numbers little-endian:
//!
//! ```text
//!  0       4      5     6      14     22      30       34     38
//!  | "hlge" | fmt  | kind | term | node | index | length | crc  | payload … |
//!  |   4    | 1    | 1    | 8    | 8    | 8     | 4      | 4    | length    |
//! ```
//!
//! The CRC-32C covers everything else, header and payload, so that a bit flipped anywhere is
//! found before the entry is used. The codes are explicit: an order of variants may change, bytes
//! on disk may not.

use bytes::{BufMut, Bytes, BytesMut};

use super::fault::LogFault;
use crate::bugs::{self, Bug};

const MAGIC: [u8; 4] = *b"hlge";
const FORMAT: u8 = 1;
const CRC_AT: usize = 34;

/// Bytes of a frame before its payload.
pub const HEADER_BYTES: usize = 38;

/// The longest payload of one entry. Far above any batch that is proposed; it keeps a length that
/// was read from a damaged header from asking for gigabytes.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 20;

/// A place in the log: the term and node of the leader that wrote there, and the index.
///
/// The order is that of the fields, which is Raft's: a later term is a later place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub term: u64,
    /// The leader's id; (term, node) names the leader.
    pub node: u64,
    pub index: u64,
}

/// What an entry is to Raft; what its payload means is no business of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A leader's first entry, without payload.
    Blank,
    /// A batch of events.
    Batch,
    /// A change of the cluster's members.
    Membership,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Blank => 1,
            Kind::Batch => 2,
            Kind::Membership => 3,
        }
    }

    fn from_code(code: u8) -> Option<Kind> {
        match code {
            1 => Some(Kind::Blank),
            2 => Some(Kind::Batch),
            3 => Some(Kind::Membership),
            _ => None,
        }
    }
}

/// One entry. Cloning shares the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub at: Position,
    pub kind: Kind,
    pub payload: Bytes,
}

impl Entry {
    /// The entry's bytes in format 1.
    pub fn frame(&self) -> Bytes {
        let mut out = BytesMut::zeroed(self.frame_len());
        self.write_frame(&mut out);
        out.freeze()
    }

    /// The length of [`Entry::frame`].
    pub fn frame_len(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// Writes the frame into `out`, which is exactly [`Entry::frame_len`] long: an engine that
    /// can hand out room in its own page saves a copy.
    pub fn write_frame(&self, out: &mut [u8]) {
        assert_eq!(
            out.len(),
            self.frame_len(),
            "the room for a frame is the frame's length"
        );
        let (header, payload) = out.split_at_mut(HEADER_BYTES);
        payload.copy_from_slice(&self.payload);
        let mut fields = &mut header[..];
        fields.put_slice(&MAGIC);
        fields.put_u8(FORMAT);
        fields.put_u8(self.kind.code());
        fields.put_u64_le(self.at.term);
        fields.put_u64_le(self.at.node);
        fields.put_u64_le(self.at.index);
        fields.put_u32_le(self.payload.len() as u32);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..CRC_AT]), payload);
        header[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a frame back. The payload shares `bytes`.
    ///
    /// # Errors
    /// [`LogFault::Damaged`] when any byte differs from what [`Entry::frame`] wrote.
    pub fn from_frame(bytes: &Bytes) -> Result<Entry, LogFault> {
        let damaged = |why: &str| Err(LogFault::damaged(place_of(bytes), why));
        if bytes.len() < HEADER_BYTES {
            return damaged("shorter than a header");
        }
        if bytes[..4] != MAGIC {
            return damaged("no entry begins like this");
        }
        if number(bytes, 30, 4) as usize != bytes.len() - HEADER_BYTES {
            return damaged("its length is not the length it names");
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..CRC_AT]), &bytes[HEADER_BYTES..]);
        if u64::from(crc) != number(bytes, CRC_AT, 4) && !bugs::on(Bug::ChecksumUnchecked) {
            return damaged("its checksum does not match");
        }
        if bytes[4] != FORMAT {
            return damaged("a format this version does not know; a newer one wrote it");
        }
        let Some(kind) = Kind::from_code(bytes[5]) else {
            return damaged("a kind this version does not know; a newer one wrote it");
        };
        let at = Position {
            term: number(bytes, 6, 8),
            node: number(bytes, 14, 8),
            index: number(bytes, 22, 8),
        };
        Ok(Entry {
            at,
            kind,
            payload: bytes.slice(HEADER_BYTES..),
        })
    }
}

/// A name for a frame that may be damaged in its very index.
fn place_of(bytes: &[u8]) -> String {
    if bytes.len() < HEADER_BYTES {
        return format!("a log frame of {} bytes", bytes.len());
    }
    format!(
        "the log frame that calls itself entry {}",
        number(bytes, 22, 8)
    )
}

/// The little-endian number of `width` bytes at `at`; the caller has checked the length.
fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    bytes[at..at + width]
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that were written once and must be readable for ever.
    const GOLDEN: [(&str, &str); 3] = [
        (
            "blank",
            "686c676501010100000000000000020000000000000000000000000000000000000074d71795",
        ),
        (
            "batch",
            "686c676501020807060504030201030000000000000088776655443322110c00000024628c18\
             7468726565206576656e7473",
        ),
        (
            "membership",
            "686c67650103ffffffffffffffffffffffffffffffffffffffffffffffff04000000ef4e3e24\
             00ff01fe",
        ),
    ];

    fn golden_entry(name: &str) -> Entry {
        let (kind, at, payload) = match name {
            "blank" => (
                Kind::Blank,
                Position {
                    term: 1,
                    node: 2,
                    index: 0,
                },
                &b""[..],
            ),
            "batch" => (
                Kind::Batch,
                Position {
                    term: 0x0102_0304_0506_0708,
                    node: 3,
                    index: 0x1122_3344_5566_7788,
                },
                &b"three events"[..],
            ),
            _ => (
                Kind::Membership,
                Position {
                    term: u64::MAX,
                    node: u64::MAX,
                    index: u64::MAX,
                },
                &[0, 255, 1, 254][..],
            ),
        };
        Entry {
            at,
            kind,
            payload: Bytes::from_static(payload),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn format_1_never_changes() {
        for (name, bytes) in GOLDEN {
            assert_eq!(hex(&golden_entry(name).frame()), bytes, "{name}");
        }
    }

    #[test]
    fn golden_bytes_read_back() {
        for (name, bytes) in GOLDEN {
            let bytes: Vec<u8> = (0..bytes.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&bytes[at..at + 2], 16).unwrap())
                .collect();
            assert_eq!(
                Entry::from_frame(&bytes.into()).unwrap(),
                golden_entry(name),
                "{name}"
            );
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        for (name, _) in GOLDEN {
            let frame = golden_entry(name).frame();
            for bit in 0..frame.len() * 8 {
                let mut bent = frame.to_vec();
                bent[bit / 8] ^= 1 << (bit % 8);
                let read = Entry::from_frame(&bent.into());
                assert!(
                    matches!(read, Err(LogFault::Damaged { .. })),
                    "{name}, bit {bit}"
                );
            }
        }
    }

    #[test]
    fn every_other_length_is_found() {
        for (name, _) in GOLDEN {
            let frame = golden_entry(name).frame();
            for length in 0..frame.len() {
                assert!(
                    Entry::from_frame(&frame.slice(..length)).is_err(),
                    "{name}, {length}"
                );
            }
            let mut longer = frame.to_vec();
            longer.push(0);
            assert!(
                Entry::from_frame(&longer.into()).is_err(),
                "{name}, one byte more"
            );
        }
    }

    #[test]
    fn the_payload_is_shared_not_copied() {
        let frame = golden_entry("batch").frame();
        let entry = Entry::from_frame(&frame).unwrap();
        assert_eq!(entry.payload.as_ptr(), frame[HEADER_BYTES..].as_ptr());
    }
}
