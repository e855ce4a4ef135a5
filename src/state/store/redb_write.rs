//! A checkpoint in one redb transaction: sorted, table by table.

use redb::{Durability, ReadableTable, Table, WriteTransaction};
use std::sync::Arc;

use super::bloom::Bloom;
use super::redb::{block, guarded};
use super::redb_codec::*;
use super::{Found, Saved, Writer};
use crate::bugs::{self, Bug};
use crate::log::Held;
use crate::model::limits::HISTORY_ROWS_MAX;
use crate::model::{Row, Seq, Time};
use crate::state::StoreFault;
use crate::state::layer::{Cell, Layer, Place};
use crate::state::past::{PastSize, removed_at_once};
use crate::state::record::bound;

/// What writes, beside whoever reads.
pub(super) struct RedbWriter {
    pub(super) db: Arc<Held>,
    pub(super) bloom: Arc<Bloom>,
}

impl Writer for RedbWriter {
    fn write(&self, layer: &Layer, saved: &Saved) -> Found<()> {
        // Known to the filter before it is in the file: a reader between the two looks in vain.
        layer
            .ids
            .keys()
            .chain(layer.marks.keys())
            .for_each(|key| self.bloom.add(key));
        let failed = |e: &dyn std::fmt::Display| fault("writing a checkpoint", e);
        guarded("writing a checkpoint", || {
            let mut txn = self.db.begin_write().map_err(|e| failed(&e))?;
            txn.set_durability(Durability::Immediate)
                .map_err(|e| failed(&e))?;
            // So that opening after a crash need not walk the whole file.
            txn.set_quick_repair(true);
            write_all(&txn, layer, saved).map_err(|e| failed(&e))?;
            txn.commit().map_err(|e| failed(&e))
        })
    }
}

type Written = Result<(), redb::Error>;

fn write_all(txn: &WriteTransaction, layer: &Layer, saved: &Saved) -> Written {
    write_tasks(&mut txn.open_table(TASKS)?, layer)?;
    write_ids(&mut txn.open_table(IDS)?, layer)?;
    write_labels(&mut txn.open_table(LABELS)?, layer)?;
    write_places(txn, layer)?;
    let mut history = txn.open_table(HISTORY)?;
    write_past(txn, &history, layer, saved.core.history_floor)?;
    write_history(&mut history, layer)?;
    write_marks(txn, layer)?;
    write_schedules(&mut txn.open_table(SCHEDULES)?, layer)?;
    txn.open_table(META)?.insert(SAVED, &*seal(saved))?;
    Ok(())
}

fn write_tasks(table: &mut Table<u64, &[u8]>, layer: &Layer) -> Written {
    for (seq, cell) in &layer.cells {
        match &cell.now {
            Some(record) => drop(table.insert(seq.0, &*seal(record))?),
            None if cell.was.is_some() => drop(table.remove(seq.0)?),
            None => {}
        }
    }
    Ok(())
}

fn write_ids(table: &mut Table<&[u8], u64>, layer: &Layer) -> Written {
    for (key, seq) in &layer.ids {
        if bugs::on(Bug::DedupLost) && seq.is_some_and(|seq| layer.is_final(seq)) {
            continue;
        }
        match seq {
            Some(seq) => drop(table.insert(&*key_bytes(key), seq.0)?),
            None => drop(table.remove(&*key_bytes(key))?),
        }
    }
    Ok(())
}

fn write_labels(table: &mut Table<(u128, &[u8]), u64>, layer: &Layer) -> Written {
    for ((label, key), seq) in &layer.labels {
        let key = key_bytes(key);
        match seq {
            Some(seq) => drop(table.insert((label.0, &*key), seq.0)?),
            None => drop(table.remove((label.0, &*key))?),
        }
    }
    Ok(())
}

/// Moves tasks between the indexes; the sorted order keeps neighbours on the same pages.
fn write_places(txn: &WriteTransaction, layer: &Layer) -> Written {
    let mut moves: Vec<(Seq, Option<Place>, Option<Place>)> = Vec::new();
    for (seq, Cell { was, now, .. }) in &layer.cells {
        let place = now.as_ref().map(|record| Place::of(&record.task));
        if *was != place {
            moves.push((*seq, *was, place));
        }
    }
    let far = |place: Option<Place>, seq: Seq| match place {
        Some(Place::Far(at)) => Some((at.0, seq.0)),
        _ => None,
    };
    let finished = |place: Option<Place>, seq: Seq| match place {
        Some(Place::Finished(class, at)) => Some((class as u8, at.0, seq.0)),
        _ => None,
    };
    {
        let mut table = txn.open_table(FAR)?;
        for row in sorted(moves.iter().filter_map(|m| far(m.1, m.0))) {
            table.remove(row)?;
        }
        for row in sorted(moves.iter().filter_map(|m| far(m.2, m.0))) {
            table.insert(row, ())?;
        }
    }
    {
        let mut table = txn.open_table(FINISHED)?;
        for row in sorted(moves.iter().filter_map(|m| finished(m.1, m.0))) {
            table.remove(row)?;
        }
        for row in sorted(moves.iter().filter_map(|m| finished(m.2, m.0))) {
            table.insert(row, ())?;
        }
    }
    let mut table = txn.open_table(OPEN)?;
    for (seq, was, now) in moves {
        match (was, now) {
            (_, Some(Place::Open)) => drop(table.insert(seq.0, ())?),
            (Some(Place::Open), _) => drop(table.remove(seq.0)?),
            _ => {}
        }
    }
    Ok(())
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items
}

fn write_history(table: &mut Table<(u64, u32), &[u8]>, layer: &Layer) -> Written {
    for (seq, cell) in &layer.cells {
        let Some(record) = &cell.now else {
            if cell.was.is_some() {
                remove(table, seq.0, 0, u32::MAX)?;
            }
            continue;
        };
        let total = record.rows;
        let first = total - (cell.rows.len() as u32).min(total);
        for (n, row) in (first..).zip(&cell.rows) {
            table.insert((seq.0, n), &*seal(row))?;
        }
        // The oldest after the first give way.
        let surplus = total.saturating_sub(HISTORY_ROWS_MAX as u32);
        if surplus > 0 {
            remove(table, seq.0, 1, surplus)?;
        }
    }
    Ok(())
}

/// Removes rows `from..=to` of a task.
fn remove(table: &mut Table<(u64, u32), &[u8]>, seq: u64, from: u32, to: u32) -> Written {
    let mut numbers = Vec::new();
    for row in table.range((seq, from)..=(seq, to))? {
        numbers.push(row?.0.value());
    }
    for number in numbers {
        table.remove(number)?;
    }
    Ok(())
}

/// A bent row is found here by its checksum, not by redb.
fn bent(fault: StoreFault) -> redb::Error {
    redb::Error::Corrupted(fault.0)
}

/// Moves the rows of dropped tasks whose history stays to the past, before [`write_history`] drops
/// them; and removes what lies below the floor, a slice of it.
fn write_past(
    txn: &WriteTransaction,
    history: &Table<(u64, u32), &[u8]>,
    layer: &Layer,
    Time(floor): Time,
) -> Written {
    let mut past = txn.open_table(PAST)?;
    if layer.past.is_empty() && past.range(..=(floor, u64::MAX))?.next().is_none() {
        return Ok(());
    }
    let mut ids = txn.open_table(PAST_IDS)?;
    let mut meta = txn.open_table(META)?;
    let size = meta.get(PAST_SIZE)?.map(|row| open("", row.value()));
    let mut size: PastSize = size.transpose().map_err(bent)?.unwrap_or_default();
    for ((at, seq), task) in layer.past.iter().filter(|((at, _), _)| at.0 > floor) {
        let mut rows = Vec::new();
        for row in history.range((seq.0, 0)..=(seq.0, u32::MAX))? {
            rows.push(open::<Row>("a row of history", row?.1.value()).map_err(bent)?);
        }
        let cell = layer.cells.get(seq);
        rows.extend(cell.into_iter().flat_map(|cell| cell.rows.iter().cloned()));
        bound(&mut rows);
        let bytes = seal(&(task, rows));
        size.tasks += 1;
        size.bytes += bytes.len() as u64;
        past.insert((at.0, seq.0), &*bytes)?;
        ids.insert((&*key_bytes(&task.task.key), seq.0), at.0)?;
    }
    let mut old = Vec::new();
    for row in past
        .range(..=(floor, u64::MAX))?
        .take(removed_at_once(layer.past.len()))
    {
        let (place, value) = row?;
        let (at, seq) = place.value();
        let (gone, _) = block(Time(at), Seq(seq), value.value()).map_err(bent)?;
        size.tasks = size.tasks.saturating_sub(1);
        size.bytes = size.bytes.saturating_sub(value.value().len() as u64);
        old.push((at, seq, gone.task.key));
    }
    for (at, seq, key) in old {
        past.remove((at, seq))?;
        ids.remove((&*key_bytes(&key), seq))?;
    }
    meta.insert(PAST_SIZE, &*seal(&size))?;
    Ok(())
}

fn write_schedules(table: &mut Table<&str, &[u8]>, layer: &Layer) -> Written {
    for (id, schedule) in &layer.schedules {
        match schedule {
            Some(schedule) => drop(table.insert(&**id, &*seal(&**schedule))?),
            None => drop(table.remove(&**id)?),
        }
    }
    Ok(())
}

fn write_marks(txn: &WriteTransaction, layer: &Layer) -> Written {
    let mut marks = txn.open_table(MARKS)?;
    let mut by_time = txn.open_table(MARKS_BY_TIME)?;
    for (key, mark) in &layer.marks {
        let bytes = key_bytes(key);
        let old = marks.remove(&*bytes)?.map(|old| old.value().to_vec());
        if let Some(at) = old.and_then(|old| open::<crate::state::Mark>("a mark", &old).ok()) {
            by_time.remove((at.at.0, &*bytes))?;
        }
        if let Some(mark) = mark {
            let Time(at) = mark.at;
            marks.insert(&*bytes, &*seal(mark))?;
            by_time.insert((at, &*bytes), ())?;
        }
    }
    Ok(())
}
