//! The state as bytes: what a lagging node is sent.
//!
//! ```text
//! "HSNP" | format u8 = 5 | header frame | record frames, in order of seq | mark frames
//!        | frames of schedules | frames of past tasks, in order of finishing | end frame
//! frame: kind u8 | length u32 | crc32c u32 | body
//! ```
//!
//! Frames hold many records each, so that a reader can check as it goes and never needs more than
//! one in memory. The end frame carries their number; the header the state hash, which the reader
//! must find again.

use bincode::{Decode, Encode};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;

use super::layer::{Cell, Layer};
use super::past::{Block, walk_past};
use super::record::Record;
use super::schedules::{is_intact, own_hash};
use super::store::{Image, Saved, Store};
use super::{Mark, State, StateHash, StoreFault};
use crate::bugs::{self, Bug};
use crate::model::{Key, Row, Schedule, Seq, Time, decode, decode_first, encode};

const MAGIC: &[u8; 5] = b"HSNP\x05";
const HEADER: u8 = 1;
const RECORDS: u8 = 2;
const END: u8 = 3;
const MARKS: u8 = 4;
const PAST: u8 = 5;
const SCHEDULES: u8 = 6;
/// Records are gathered until a frame has so many bytes.
const FRAME_BYTES: usize = 256 << 10;
/// No frame is larger: a task has at most 1 MiB, its history some more.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// Read from an image, and written to a store, in such pieces.
const PIECE: usize = 4_096;

/// Why a snapshot cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("snapshot: {0}")]
    Io(#[from] std::io::Error),
    #[error("snapshot is damaged: {0}")]
    Damaged(String),
    #[error(transparent)]
    Store(#[from] StoreFault),
}

#[derive(Encode, Decode)]
struct End {
    records: u64,
    marks: u64,
    past: u64,
    schedules: u64,
}

/// Writes a store's image as a snapshot.
///
/// # Errors
/// The image cannot be read, or the bytes cannot be written.
pub fn write_snapshot(image: &dyn Image, writer: &mut dyn Write) -> Result<(), SnapshotError> {
    let saved = image
        .saved()?
        .ok_or_else(|| damaged("there is no checkpoint to make it of"))?;
    writer.write_all(MAGIC)?;
    write_frame(writer, HEADER, &encode(&saved))?;
    let (mut body, mut records, mut after) = (Vec::new(), 0, None);
    loop {
        let piece = image.records_after(after, PIECE)?;
        let Some(last) = piece.last() else { break };
        after = Some(last.0.task.seq);
        for record in piece {
            body.extend_from_slice(&encode(&record));
            records += 1;
            if body.len() >= FRAME_BYTES {
                write_frame(writer, RECORDS, &std::mem::take(&mut body))?;
            }
        }
    }
    if !body.is_empty() {
        write_frame(writer, RECORDS, &body)?;
    }
    let mut marks = image.marks()?;
    if bugs::on(Bug::SnapshotDropsMarks) {
        marks.clear();
    }
    for piece in marks.chunks(PIECE) {
        write_frame(
            writer,
            MARKS,
            &piece.iter().flat_map(encode).collect::<Vec<u8>>(),
        )?;
    }
    let schedules = write_schedules(image, writer)?;
    let past = write_past(image, saved.core.history_floor, writer)?;
    write_frame(
        writer,
        END,
        &encode(&End {
            records,
            marks: marks.len() as u64,
            past,
            schedules,
        }),
    )
}

/// Each in a frame of its own, or a few: a ledger may be long.
fn write_schedules(image: &dyn Image, writer: &mut dyn Write) -> Result<u64, SnapshotError> {
    let (mut body, schedules) = (Vec::new(), image.schedules()?);
    for schedule in &schedules {
        body.extend_from_slice(&encode(schedule));
        if body.len() >= FRAME_BYTES {
            write_frame(writer, SCHEDULES, &std::mem::take(&mut body))?;
        }
    }
    if !body.is_empty() {
        write_frame(writer, SCHEDULES, &body)?;
    }
    Ok(schedules.len() as u64)
}

/// The past, as far as it can be read: what a checkpoint has not removed yet is not sent.
fn write_past(
    image: &dyn Image,
    floor: Time,
    writer: &mut dyn Write,
) -> Result<u64, SnapshotError> {
    if bugs::on(Bug::SnapshotDropsHistory) {
        return Ok(0);
    }
    let (mut body, mut past) = (Vec::new(), 0);
    walk_past(image, floor, |block| {
        body.extend_from_slice(&encode(&block));
        past += 1;
        match body.len() >= FRAME_BYTES {
            true => write_frame(writer, PAST, &std::mem::take(&mut body)),
            false => Ok(()),
        }
    })?;
    if !body.is_empty() {
        write_frame(writer, PAST, &body)?;
    }
    Ok(past)
}

/// Reads a snapshot into an empty store.
struct Reading {
    store: Box<dyn Store>,
    saved: Saved,
    layer: Layer,
    records: u64,
    marks: u64,
    past: u64,
    schedules: u64,
    hash: StateHash,
    counts: BTreeMap<Arc<str>, [u64; 8]>,
}

impl State {
    /// Reads a snapshot into a store that is empty, checks all of it, and opens the state. Also
    /// returns the attachment.
    ///
    /// # Errors
    /// The bytes are not what [`write_snapshot`] wrote. The store is of no use then.
    pub fn restore(
        reader: &mut impl Read,
        store: Box<dyn Store>,
    ) -> Result<(State, Vec<u8>), SnapshotError> {
        let saved = read_header(reader)?;
        let mut reading = Reading {
            store,
            saved,
            layer: Layer::default(),
            records: 0,
            marks: 0,
            past: 0,
            schedules: 0,
            hash: StateHash::ZERO,
            counts: BTreeMap::new(),
        };
        loop {
            let (kind, body) = read_frame(reader)?;
            match kind {
                RECORDS => reading.take_records(&body)?,
                MARKS => reading.take_marks(&body)?,
                PAST => reading.take_past(&body)?,
                SCHEDULES => reading.take_schedules(&body)?,
                END => {
                    reading.check(&decode(&body).map_err(|e| damaged(&e.to_string()))?)?;
                    break;
                }
                _ => return Err(damaged("it has a frame of an unknown kind")),
            }
        }
        reading.flush()?;
        reading.store.refresh()?;
        Ok(State::open(reading.store)?)
    }
}

impl Reading {
    fn take_records(&mut self, mut body: &[u8]) -> Result<(), SnapshotError> {
        while !body.is_empty() {
            let read = decode_first(body).map_err(|e| damaged(&e.to_string()))?;
            let ((record, rows), used): ((Record, Vec<Row>), usize) = read;
            if !record.is_intact(&rows) {
                return Err(damaged("a record does not match its hash"));
            }
            body = &body[used..];
            self.records += 1;
            self.hash.add(record.hash);
            let row = self.counts.entry(record.task.key.app.clone()).or_default();
            row[record.task.stage as usize] += 1;
            let seq: Seq = record.task.seq;
            self.layer.enlist(&record.task);
            self.layer.cells.insert(
                seq,
                Cell {
                    was: None,
                    now: Some(Box::new(record)),
                    rows,
                },
            );
            if self.layer.cells.len() >= PIECE * 16 {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn take_marks(&mut self, mut body: &[u8]) -> Result<(), SnapshotError> {
        while !body.is_empty() {
            let read = decode_first(body).map_err(|e| damaged(&e.to_string()))?;
            let ((key, mark), used): ((Key, Mark), usize) = read;
            body = &body[used..];
            self.marks += 1;
            self.hash.add(mark.own_hash(&key));
            self.layer.marks.insert(key, Some(mark));
        }
        Ok(())
    }

    fn take_schedules(&mut self, mut body: &[u8]) -> Result<(), SnapshotError> {
        while !body.is_empty() {
            let read = decode_first(body).map_err(|e| damaged(&e.to_string()))?;
            let (schedule, used): (Schedule, usize) = read;
            if !is_intact(&schedule) {
                return Err(damaged("a schedule does not match its hashes"));
            }
            body = &body[used..];
            self.schedules += 1;
            self.hash.add(own_hash(&schedule));
            let id = schedule.id.clone();
            self.layer.schedules.insert(id, Some(Arc::new(schedule)));
        }
        Ok(())
    }

    fn take_past(&mut self, mut body: &[u8]) -> Result<(), SnapshotError> {
        while !body.is_empty() {
            let read = decode_first(body).map_err(|e| damaged(&e.to_string()))?;
            let ((past, rows), used): (Block, usize) = read;
            if !past.is_intact(&rows) {
                return Err(damaged("a past task does not match its hash"));
            }
            body = &body[used..];
            self.past += 1;
            let cell = Cell {
                rows,
                ..Cell::default()
            };
            self.layer.cells.insert(past.place().1, cell);
            self.layer.add_past(past);
            if self.layer.cells.len() >= PIECE * 16 {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn check(&self, end: &End) -> Result<(), SnapshotError> {
        let read = (self.records, self.marks, self.past, self.schedules);
        if (end.records, end.marks, end.past, end.schedules) != read {
            return Err(damaged("records are missing"));
        }
        if self.hash != self.saved.hash || self.counts != self.saved.counts {
            return Err(damaged("its records do not add up to its state hash"));
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SnapshotError> {
        let layer = std::mem::take(&mut self.layer);
        Ok(self.store.writer().write(&layer, &self.saved)?)
    }
}

/// Reads only the attachment.
///
/// # Errors
/// As [`State::restore`], as far as it reads.
pub fn read_attachment(reader: &mut impl Read) -> Result<Vec<u8>, SnapshotError> {
    read_header(reader).map(|saved| saved.attachment)
}

fn read_header(reader: &mut impl Read) -> Result<Saved, SnapshotError> {
    let mut magic = [0; MAGIC.len()];
    reader.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(damaged("it does not begin like one"));
    }
    let (kind, body) = read_frame(reader)?;
    if kind != HEADER {
        return Err(damaged("it has no header"));
    }
    let saved: Saved = decode(&body).map_err(|e| damaged(&e.to_string()))?;
    if saved.core.shards.is_empty() || saved.core.progress.len() != saved.core.shards.len() {
        return Err(damaged("it has no shards"));
    }
    Ok(saved)
}

fn checksum(kind: u8, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[kind]), body)
}

fn write_frame(writer: &mut dyn Write, kind: u8, body: &[u8]) -> Result<(), SnapshotError> {
    writer.write_all(&[kind])?;
    writer.write_all(&(body.len() as u32).to_le_bytes())?;
    writer.write_all(&checksum(kind, body).to_le_bytes())?;
    Ok(writer.write_all(body)?)
}

fn read_frame(reader: &mut impl Read) -> Result<(u8, Vec<u8>), SnapshotError> {
    let mut head = [0; 9];
    reader.read_exact(&mut head)?;
    let number =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (length, sum) = (number(1) as usize, number(5));
    if length > FRAME_BYTES_MAX {
        return Err(damaged("a frame is too large"));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    if checksum(head[0], &body) != sum {
        return Err(damaged("a checksum does not match"));
    }
    Ok((head[0], body))
}

fn damaged(why: &str) -> SnapshotError {
    SnapshotError::Damaged(why.into())
}
