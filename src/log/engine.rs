//! What the log asks of an engine: ordered rows, a head, and one atomic durable write.
//!
//! It is a trait because there are two real ones, and because it is the seam where a test puts
//! an engine that fails.

use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::blocks::Blocks;
use super::entry::Entry;
use super::fault::LogFault;

/// One change of the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Put this entry under its index.
    Put(Entry),
    /// Take out every entry whose index lies in the range.
    Remove(Range<u64>),
}

/// Everything that one write makes durable, or nothing of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// In order: a later operation sees what an earlier one did.
    pub ops: Vec<Op>,
    /// The row that says what the log is after the operations.
    pub head: Bytes,
}

/// A store of rows. Reads may run beside a write and see the rows before or after it, never some
/// of it.
pub trait Engine: Send + Sync {
    /// The name a setting calls it by.
    fn name(&self) -> &'static str;

    /// What an acknowledged write survives, in words for an operator.
    fn promise(&self) -> &'static str;

    /// The head last written; `None` in a new store.
    fn head(&self) -> Result<Option<Bytes>, LogFault>;

    /// The lowest and the highest index stored.
    fn ends(&self) -> Result<Option<(u64, u64)>, LogFault>;

    /// Rows of the range in order, as stored: at least the first, then as many as fit into
    /// `max_bytes`. The caller checks what they contain.
    fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, LogFault>;

    /// Writes the frame atomically and returns once it is durable. After an error it is unknown
    /// what the disk holds, and the engine is not used again.
    fn write(&self, frame: &Frame) -> io::Result<()>;

    /// Bytes the store takes on disk.
    fn bytes_on_disk(&self) -> u64;

    /// Its file, block by block, where that is watched.
    fn blocks(&self) -> Option<&Blocks> {
        None
    }
}
