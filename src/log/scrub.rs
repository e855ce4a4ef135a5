//! A walk over the whole log as it lies on the disk: the head, every entry's checksum and place,
//! and then the file, block by block. In slices, beside all other work; it holds no lock while it
//! reads.
//!
//! Unlike [`LogStore::read`] it never answers from memory. Entries come and go while it walks: what
//! is purged behind it is passed over, and the end is held against the head only where nothing was
//! written between reading the two.

use std::sync::Arc;

use super::blocks::BLOCK_BYTES;
use super::engine::Engine;
use super::fault::LogFault;
use super::head::Head;
use super::read::checked;
use super::store::LogStore;

/// What one step of a scrub did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// Read from the disk, about.
    pub bytes: u64,
    /// That was the last one.
    pub done: bool,
}

/// A walk on its way.
pub struct LogScrub {
    engine: Arc<dyn Engine>,
    phase: Phase,
    /// Entries that were read and found sound.
    pub entries: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The next index.
    Entries(u64),
    /// The next block.
    Blocks(u64),
    Done,
}

impl LogStore {
    /// Begins a walk over what is on the disk.
    ///
    /// # Errors
    /// The log is closed, or stopped by a fault.
    pub fn scrub(&self) -> Result<LogScrub, LogFault> {
        let state = self.shared().lock();
        let engine = state.working()?.clone();
        Ok(LogScrub {
            engine,
            phase: Phase::Entries(0),
            entries: 0,
        })
    }
}

impl LogScrub {
    /// Where it is, in words.
    pub fn place(&self) -> String {
        match self.phase {
            Phase::Entries(next) => format!("log, entry {next}"),
            Phase::Blocks(next) => format!("log, byte {} of its file", next * BLOCK_BYTES as u64),
            Phase::Done => "log, done".to_owned(),
        }
    }

    /// Reads and checks the next so many bytes.
    ///
    /// # Errors
    /// What is damaged, and where.
    pub fn step(&mut self, bytes: usize) -> Result<Slice, LogFault> {
        let read = match self.phase {
            Phase::Entries(next) => self.entries(next, bytes)?,
            Phase::Blocks(next) => self.blocks(next, bytes)?,
            Phase::Done => 0,
        };
        Ok(Slice {
            bytes: read,
            done: self.phase == Phase::Done,
        })
    }

    fn head(&self) -> Result<Head, LogFault> {
        let head = self.engine.head()?;
        head.map_or(Ok(Head::default()), |head| Head::decode(&head))
    }

    fn entries(&mut self, from: u64, bytes: usize) -> Result<u64, LogFault> {
        let begin = |head: &Head| {
            let purged = head.bounds.purged.map_or(0, |purged| purged.index + 1);
            from.max(purged).max(head.swept)
        };
        let before = self.head()?;
        let rows = self.engine.read(begin(&before)..u64::MAX, bytes)?;
        let after = self.head()?;
        let live = begin(&after);
        let read = rows.iter().map(|(_, row)| row.len() as u64).sum();
        let last = rows.last().map(|(index, _)| *index);
        let rows = rows.iter().filter(|(index, _)| *index >= live);
        for (expected, (index, row)) in (live..).zip(rows) {
            if *index != expected {
                return Err(LogFault::Missing { index: expected });
            }
            checked(*index, row)?;
            self.entries += 1;
        }
        // Nothing more: then this is the end, if it holds still to be compared.
        if last.is_none() {
            let end = after.bounds.next_index().unwrap_or(0);
            if before.frame == after.frame && live < end && !after.bounds.is_empty() {
                return Err(LogFault::Missing { index: live });
            }
        }
        self.phase = match last {
            Some(last) => Phase::Entries(last + 1),
            None if self.engine.blocks().is_some() => Phase::Blocks(0),
            None => Phase::Done,
        };
        Ok(read)
    }

    fn blocks(&mut self, first: u64, bytes: usize) -> Result<u64, LogFault> {
        let count = (bytes / BLOCK_BYTES).max(1);
        let checked = match self.engine.blocks() {
            Some(blocks) => blocks.check(first, count),
            None => Ok(0),
        };
        let checked = checked.map_err(|e| match e.kind() {
            std::io::ErrorKind::InvalidData => LogFault::damaged("the log's file", e.to_string()),
            _ => LogFault::io("reading the log's file", e),
        })?;
        self.phase = match checked < count {
            true => Phase::Done,
            false => Phase::Blocks(first + checked as u64),
        };
        Ok((checked * BLOCK_BYTES) as u64)
    }
}
