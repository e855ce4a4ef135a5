//! Events on their way into the log: one batch, one stamp, one encoding for disk, wire and fold.
//!
//! ```text
//! "HB" | schema u8 = 1 | stamp u64 | now u64 | count u32 | count × ( kind u16 | length u32 | body )
//! ```
//!
//! Integers are little-endian; bodies are bincode's legacy format. The log adds the checksum.

use bincode::{BorrowDecode, Decode, Encode};

use super::limits::DECODE_BYTES_MAX;
use super::{Event, Time};

const MAGIC: [u8; 2] = *b"HB";
const SCHEMA: u8 = 1;
const HEADER: usize = 2 + 1 + 8 + 8 + 4;
const EVENT_HEADER: usize = 2 + 4;

/// One log entry's worth of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Orders the log: never goes back, across leaders too.
    pub stamp: Time,
    /// The leader's wall clock, from which delays and deadlines are counted. May go back.
    pub now: Time,
    pub events: Vec<Event>,
}

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("event kind {0} is unknown to this version; a newer one wrote it, upgrade this node")]
    UnknownKind(u16),
    #[error("batch schema {0} is unknown to this version; a newer one wrote it, upgrade this node")]
    UnknownSchema(u8),
    #[error("malformed record: {0}")]
    Malformed(String),
}

impl Batch {
    /// The bytes that are stored, sent and folded.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.events.len() * 256);
        out.extend_from_slice(&MAGIC);
        out.push(SCHEMA);
        out.extend_from_slice(&self.stamp.0.to_le_bytes());
        out.extend_from_slice(&self.now.0.to_le_bytes());
        out.extend_from_slice(&(self.events.len() as u32).to_le_bytes());
        for event in &self.events {
            out.extend_from_slice(&event.kind().to_le_bytes());
            let length_at = out.len();
            out.extend_from_slice(&[0; 4]);
            event.encode_body(&mut out);
            let length = (out.len() - length_at - 4) as u32;
            out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
        }
        // It stays in memory for a while, as a part of the log.
        out.shrink_to_fit();
        out
    }

    /// Reads [`Batch::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Batch, CodecError> {
        let short = || CodecError::Malformed("the batch ends early".into());
        let header = bytes.get(..HEADER).ok_or_else(short)?;
        if header[..2] != MAGIC {
            return Err(CodecError::Malformed("this is no batch".into()));
        }
        if header[2] != SCHEMA {
            return Err(CodecError::UnknownSchema(header[2]));
        }
        let stamp = Time(u64::from_le_bytes(array(&header[3..11])));
        let now = Time(u64::from_le_bytes(array(&header[11..19])));
        let count = u32::from_le_bytes(array(&header[19..23]));
        let mut events = Vec::with_capacity((count as usize).min(bytes.len() / EVENT_HEADER));
        let mut rest = &bytes[HEADER..];
        for _ in 0..count {
            let head = rest.get(..EVENT_HEADER).ok_or_else(short)?;
            let kind = u16::from_le_bytes(array(&head[..2]));
            let length = u32::from_le_bytes(array(&head[2..])) as usize;
            let body = rest
                .get(EVENT_HEADER..EVENT_HEADER + length)
                .ok_or_else(short)?;
            events.push(Event::decode_body(kind, body)?);
            rest = &rest[EVENT_HEADER + length..];
        }
        if !rest.is_empty() {
            return Err(CodecError::Malformed(format!(
                "{} bytes follow the batch",
                rest.len()
            )));
        }
        Ok(Batch { stamp, now, events })
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

/// The limit says nothing about the bytes that are written; it keeps a damaged length from asking
/// for more memory than there is, which would end the process without a word.
fn config() -> impl bincode::config::Config {
    bincode::config::legacy().with_limit::<DECODE_BYTES_MAX>()
}

/// Appends a value's bytes.
pub(super) fn encode_into<T: Encode>(value: &T, out: &mut Vec<u8>) {
    #[allow(clippy::expect_used)] // Writing to memory has no way to fail.
    bincode::encode_into_std_write(value, out, config()).expect("encoding to memory");
}

/// A value's bytes, in the one format of log, wire and snapshot.
pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    encode_into(value, &mut out);
    out
}

/// Reads [`encode`]; all bytes must be used.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    let malformed = |e: bincode::error::DecodeError| CodecError::Malformed(e.to_string());
    let (value, used) = bincode::decode_from_slice(bytes, config()).map_err(malformed)?;
    if used != bytes.len() {
        return Err(CodecError::Malformed(format!(
            "{} bytes too many",
            bytes.len() - used
        )));
    }
    Ok(value)
}

/// Reads one value from the front that borrows what it can.
pub(super) fn borrow_first<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Option<T> {
    let read = bincode::borrow_decode_from_slice(bytes, config()).ok();
    read.map(|(value, _)| value)
}

/// Reads one value from the front, and says how many bytes it took.
pub fn decode_first<T: Decode<()>>(bytes: &[u8]) -> Result<(T, usize), CodecError> {
    bincode::decode_from_slice(bytes, config()).map_err(|e| CodecError::Malformed(e.to_string()))
}
