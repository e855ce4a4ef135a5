//! Keys and values as redb holds them. Values carry a checksum: redb does not verify what it reads.

use redb::TableDefinition;

use crate::model::{Key, decode, encode};
use crate::state::StoreFault;

/// Every table of the store, in one place.
pub(super) const TASKS: TableDefinition<u64, &[u8]> = TableDefinition::new("tasks");
/// `app`, a zero byte, `id` → number. The zero sorts before every allowed character, so the
/// bytes order like (app, id).
pub(super) const IDS: TableDefinition<&[u8], u64> = TableDefinition::new("ids");
/// (label, a key as in [`IDS`]) → number.
pub(super) const LABELS: TableDefinition<(u128, &[u8]), u64> = TableDefinition::new("labels");
/// (due, number): read in pieces in this very order, however many are due at once.
pub(super) const FAR: TableDefinition<(u64, u64), ()> = TableDefinition::new("far");
pub(super) const OPEN: TableDefinition<u64, ()> = TableDefinition::new("open");
/// (class, finished at, number).
pub(super) const FINISHED: TableDefinition<(u8, u64, u64), ()> = TableDefinition::new("finished");
/// (number, row's number) → row.
pub(super) const HISTORY: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("history");
/// (finished at, number) → a retired task with its rows.
pub(super) const PAST: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("past");
/// (`app`, a zero byte, `id`; number) → finished at.
pub(super) const PAST_IDS: TableDefinition<(&[u8], u64), u64> = TableDefinition::new("past-ids");
pub(super) const MARKS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("marks");
pub(super) const SCHEDULES: TableDefinition<&str, &[u8]> = TableDefinition::new("schedules");
pub(super) const MARKS_BY_TIME: TableDefinition<(u64, &[u8]), ()> =
    TableDefinition::new("marks-by-time");
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// The rows of [`META`]: what goes with a checkpoint, and what the past comes to.
pub(super) const SAVED: &str = "saved";
pub(super) const PAST_SIZE: &str = "past-size";

/// What is to be done about damage: the other nodes hold the same.
pub(super) const WAY_OUT: &str = "replace this node: wipe its directory and add it under a new id";

pub(super) fn fault(doing: &str, e: impl std::fmt::Display) -> StoreFault {
    StoreFault(format!("{doing}: {e}"))
}

/// A value with its checksum behind it.
pub(super) fn seal(value: &impl bincode::Encode) -> Vec<u8> {
    let mut bytes = encode(value);
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Reads [`seal`].
///
/// # Errors
/// The bytes were damaged on the disk.
pub(super) fn open<T: bincode::Decode<()>>(what: &str, bytes: &[u8]) -> Result<T, StoreFault> {
    let damaged = |why: &str| StoreFault(format!("{what} is damaged on disk ({why}); {WAY_OUT}"));
    let (body, sum) = bytes
        .split_last_chunk::<4>()
        .ok_or_else(|| damaged("it is too short"))?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return Err(damaged("its checksum does not match"));
    }
    decode(body).map_err(|e| damaged(&e.to_string()))
}

pub(super) fn key_bytes(key: &Key) -> Vec<u8> {
    [key.app.as_bytes(), b"\0", key.id.as_bytes()].concat()
}

pub(super) fn read_key(bytes: &[u8]) -> Result<Key, StoreFault> {
    let wrong = || StoreFault(format!("a key in the store is damaged; {WAY_OUT}"));
    let text = std::str::from_utf8(bytes).map_err(|_| wrong())?;
    let (app, id) = text.split_once('\0').ok_or_else(wrong)?;
    Ok(Key {
        app: app.into(),
        id: id.into(),
    })
}
