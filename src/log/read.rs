//! Reading: from the tail where it reaches, from the disk below it, with every row checked.

use std::ops::Range;
use std::sync::Arc;

use super::engine::Engine;
use super::entry::{Entry, Position};
use super::fault::LogFault;
use super::head::Head;
use super::state::State;
use super::store::Shared;
use super::tail::Room;

/// What an engine holds when the log is opened: the head, and the index of the first live entry.
/// `seen` is the last frame that is known to have been durable.
///
/// # Errors
/// When head, rows and `seen` disagree: a log that lost its end, its vote or a commit must not be
/// used.
pub(crate) fn recover(engine: &dyn Engine, seen: u64) -> Result<(Head, u64), LogFault> {
    let ends = engine.ends()?;
    let head = match engine.head()? {
        Some(head) => Head::decode(&head)?,
        None if ends.is_none() => Head::default(),
        None => {
            return Err(LogFault::damaged(
                "the log's head",
                "there are entries but no head",
            ));
        }
    };
    if head.frame < seen {
        let why = format!(
            "its end was lost: it reaches frame {}, {seen} were written",
            head.frame
        );
        return Err(LogFault::damaged("the log", why));
    }
    let first = match head.bounds.purged {
        Some(purged) => purged.index + 1,
        None => head.swept,
    };
    let end = head.bounds.next_index().unwrap_or(0);
    if let Some((lowest, highest)) = ends
        && (lowest < head.swept || highest >= end)
    {
        let why = format!("it holds entries {lowest} to {highest}, its head says otherwise");
        return Err(LogFault::damaged("the log", why));
    }
    if !head.bounds.is_empty() {
        entry_at(engine, first)?;
        entry_at(engine, end - 1)?;
    }
    Ok((head, first))
}

/// One entry from the disk, checked.
fn entry_at(engine: &dyn Engine, index: u64) -> Result<Entry, LogFault> {
    let mut rows = engine.read(index..index + 1, 0)?.into_iter();
    let (_, bytes) = rows.next().ok_or(LogFault::Missing { index })?;
    checked(index, &bytes)
}

/// The entry a row holds, if it is the one that belongs under this index.
pub(crate) fn checked(index: u64, bytes: &bytes::Bytes) -> Result<Entry, LogFault> {
    let relabel = |fault| match fault {
        LogFault::Damaged { why, .. } => LogFault::damaged(format!("entry {index}"), why),
        other => other,
    };
    let entry = Entry::from_frame(bytes).map_err(relabel)?;
    if entry.at.index != index {
        let why = format!("in its place lies entry {}", entry.at.index);
        return Err(LogFault::damaged(format!("entry {index}"), why));
    }
    Ok(entry)
}

/// The place at which the log ends if nothing behind `last_kept` is kept.
pub(crate) fn position_of(
    state: &State,
    last_kept: Option<u64>,
) -> Result<Option<Position>, LogFault> {
    let Some(index) = last_kept else {
        return Ok(None);
    };
    if state.bounds.last.is_none_or(|last| last.index <= index) {
        return Ok(state.bounds.last);
    }
    if state.bounds.is_empty() || index < state.first {
        return Ok(state.bounds.purged);
    }
    match state.tail.get(index) {
        Some(entry) => Ok(Some(entry.at)),
        None => Ok(Some(entry_at(&**state.working()?, index)?.at)),
    }
}

/// See [`LogStore::read`](super::LogStore::read).
pub(crate) fn read(
    shared: &Shared,
    range: Range<u64>,
    max_bytes: usize,
) -> Result<Vec<Entry>, LogFault> {
    loop {
        let mut out = Vec::new();
        let mut room = Room::new(max_bytes);
        let (engine, below, cuts) = {
            let state = shared.lock();
            let engine = state.working()?;
            let range = present(&state, &range);
            let below = range.start..state.tail.start().unwrap_or(u64::MAX).min(range.end);
            if below.is_empty() {
                state.tail.read_into(range, &mut room, &mut out);
                return Ok(out);
            }
            (Arc::clone(engine), below, state.cuts)
        };
        read_disk(&*engine, below.clone(), &mut room, &mut out).or_else(|fault| {
            if shared.lock().cuts == cuts {
                Err(fault)
            } else {
                Ok(())
            }
        })?;
        let state = shared.lock();
        if state.cuts != cuts {
            // Entries went away underneath: what was read may be of two logs.
            continue;
        }
        let next = below.start + out.len() as u64;
        if next == below.end {
            let rest = next..present(&state, &range).end;
            state.tail.read_into(rest, &mut room, &mut out);
        }
        return Ok(out);
    }
}

/// The part of a range that is in the log.
fn present(state: &State, range: &Range<u64>) -> Range<u64> {
    let end = match state.bounds.next_index() {
        Some(next) if !state.bounds.is_empty() => next.min(range.end),
        _ => range.start,
    };
    range.start.max(state.first)..end
}

/// Reads from the disk as much of the range as there is room for. A gap is an error.
fn read_disk(
    engine: &dyn Engine,
    range: Range<u64>,
    room: &mut Room,
    out: &mut Vec<Entry>,
) -> Result<(), LogFault> {
    let all = room.left == usize::MAX;
    let mut index = range.start;
    for (key, bytes) in engine.read(range.clone(), room.left)? {
        if key != index {
            return Err(LogFault::Missing { index });
        }
        if !room.take(bytes.len()) {
            return Ok(());
        }
        out.push(checked(index, &bytes)?);
        index += 1;
    }
    // A gap at the end of a bounded read looks like a full one; the next read begins with it.
    if index < range.end && (all || index == range.start) {
        return Err(LogFault::Missing { index });
    }
    Ok(())
}
