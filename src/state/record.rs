//! A task with what the state hash needs to know about it: what the table holds.

use bincode::{Decode, Encode};
use std::sync::Arc;

use super::Entry;
use super::hash::StateHash;
use crate::model::limits::HISTORY_ROWS_MAX;
use crate::model::{AttemptEnd, By, NodeId, Row, RowKind, Task, Time};

/// A task, how much history it has, and what the state hash needs to know about both.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Record {
    pub(crate) task: Task,
    /// Rows ever written, those that gave way included.
    pub(crate) rows: u32,
    /// A running hash of every row ever written, those that gave way included.
    pub(crate) chain: u64,
    /// A hash of the spec, so that the record's hash need not read it again.
    pub(crate) spec_hash: u64,
    /// This record's part in the sum.
    pub(crate) hash: StateHash,
}

/// What a handler says about a row; the table adds index, stamp and fence.
pub(crate) struct NewRow {
    pub(crate) kind: RowKind,
    pub(crate) node: NodeId,
    pub(crate) until: Time,
    pub(crate) error: Option<Arc<str>>,
    pub(crate) by: Option<By>,
    pub(crate) end: Option<Box<AttemptEnd>>,
    /// The fence of the row, when it is not the task's.
    pub(crate) fence: Option<crate::model::Fence>,
}

impl NewRow {
    pub(crate) fn of(kind: RowKind) -> NewRow {
        NewRow {
            kind,
            node: 0,
            until: Time(0),
            error: None,
            by: None,
            end: None,
            fence: None,
        }
    }
}

impl Record {
    pub(crate) fn new(task: Task) -> Record {
        let spec_hash = xxhash_rust::xxh3::xxh3_64(&task.spec);
        Record {
            task,
            rows: 0,
            chain: 0,
            spec_hash,
            hash: StateHash::ZERO,
        }
    }

    /// Makes the next row, and takes note of it.
    pub(crate) fn row(&mut self, entry: Entry, new: NewRow) -> Row {
        let row = Row {
            index: entry.index,
            at: entry.stamp,
            kind: new.kind,
            fence: new.fence.unwrap_or(self.task.fence),
            node: new.node,
            until: new.until,
            error: new.error,
            by: new.by,
            end: new.end,
        };
        self.chain = link(self.chain, &row);
        self.rows = self.rows.saturating_add(1);
        row
    }

    /// This record's part in the state hash.
    pub(crate) fn own_hash(&self) -> StateHash {
        let t = &self.task;
        let mut bytes = Vec::with_capacity(256);
        for number in [
            t.seq.0,
            t.due.0,
            t.at.0,
            t.fence.number(),
            t.owner,
            t.created.0,
            t.finished.map_or(0, |f| f.0.saturating_add(1)),
            t.submitted,
            t.index,
            self.chain,
            self.spec_hash,
            u64::from(t.version) << 32 | u64::from(t.tries),
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.push(t.stage as u8);
        bytes.extend_from_slice(&t.digest);
        for text in [
            Some(&t.key.app),
            Some(&t.key.id),
            t.outcome.as_ref(),
            t.error.as_ref(),
        ] {
            let text = text.map_or("", |t| t);
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        StateHash::of(&bytes)
    }

    /// Recomputes all that [`Record::own_hash`] takes for granted, from the history too; true
    /// when it is as it was.
    ///
    /// A history of which rows gave way cannot be retraced: there the checksums of disk and frame
    /// are the only guard of its rows.
    pub(crate) fn is_intact(&self, rows: &[Row]) -> bool {
        self.hash == self.own_hash()
            && self.spec_hash == xxhash_rust::xxh3::xxh3_64(&self.task.spec)
            && is_retraced(self.rows, self.chain, rows)
    }
}

/// Whether rows are as many as were written, and come to their running hash; taken for granted of
/// a history of which rows gave way.
pub(crate) fn is_retraced(written: u32, chain: u64, rows: &[Row]) -> bool {
    rows.len() >= HISTORY_ROWS_MAX
        || (written as usize == rows.len() && chain == rows.iter().fold(0, link))
}

/// Keeps a history within its bound: the oldest after the first give way, because how a task
/// began and how it ended matter most.
pub(crate) fn bound(rows: &mut Vec<Row>) {
    if rows.len() > HISTORY_ROWS_MAX {
        let surplus = rows.len() - HISTORY_ROWS_MAX;
        rows.drain(1..=surplus);
    }
}

/// The running hash of a history after one more row.
fn link(chain: u64, row: &Row) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(&crate::model::encode(row), chain)
}
