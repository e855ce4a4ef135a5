//! A store in memory: for tests, and for trying the fold without a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Found, Image, Saved, Store, StoreScrub, Writer};
use crate::model::{Key, Row, Schedule, Seq, Time};
use crate::state::label::Label;
use crate::state::layer::{Cell, Layer, Place};
use crate::state::past::{Block, PastSize, removed_at_once};
use crate::state::record::{self, Record};
use crate::state::{Class, Mark};

#[derive(Clone, Default)]
struct Rows {
    records: BTreeMap<Seq, (Record, Vec<Row>)>,
    keys: BTreeMap<Key, Seq>,
    labels: BTreeMap<(Label, Key), Seq>,
    far: BTreeSet<(Time, Seq)>,
    open: BTreeSet<Seq>,
    finished: [BTreeSet<(Time, Seq)>; 2],
    marks: BTreeMap<Key, Mark>,
    schedules: BTreeMap<Arc<str>, Arc<Schedule>>,
    past: BTreeMap<(Time, Seq), Block>,
    past_ids: BTreeMap<(Key, Seq), Time>,
    saved: Option<Saved>,
}

impl Rows {
    fn all_schedules(&self) -> Vec<Schedule> {
        self.schedules.values().map(|s| (**s).clone()).collect()
    }
}

/// See the module. Clones share their rows.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Rows>>);

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Inserts what is there, removes what is `None`.
fn put_all<K: Ord + Clone, V: Clone>(table: &mut BTreeMap<K, V>, news: &BTreeMap<K, Option<V>>) {
    for (key, value) in news {
        match value {
            Some(value) => drop(table.insert(key.clone(), value.clone())),
            None => drop(table.remove(key)),
        }
    }
}

impl Rows {
    fn place(&mut self, seq: Seq, place: Place, add: bool) {
        fn put<T: Ord>(set: &mut BTreeSet<T>, item: T, add: bool) {
            match add {
                true => set.insert(item),
                false => set.remove(&item),
            };
        }
        match (place, add) {
            (Place::Far(at), add) => put(&mut self.far, (at, seq), add),
            (Place::Open, add) => put(&mut self.open, seq, add),
            (Place::Finished(class, at), add) => {
                put(&mut self.finished[class as usize], (at, seq), add);
            }
        }
    }

    fn write(&mut self, seq: Seq, cell: &Cell) {
        if let Some(was) = cell.was {
            self.place(seq, was, false);
        }
        let Some(record) = &cell.now else {
            self.records.remove(&seq);
            return;
        };
        self.place(seq, Place::of(&record.task), true);
        let mut rows = self
            .records
            .remove(&seq)
            .map_or_else(Vec::new, |(_, rows)| rows);
        rows.extend(cell.rows.iter().cloned());
        record::bound(&mut rows);
        self.records.insert(seq, ((**record).clone(), rows));
    }
}

impl Rows {
    /// Before the tasks are written, whose rows move.
    fn write_past(&mut self, layer: &Layer, floor: Time) {
        for (place, past) in &layer.past {
            if place.0 <= floor {
                continue;
            }
            let stored = self.records.get(&place.1);
            let mut rows = stored.map_or_else(Vec::new, |(_, rows)| rows.clone());
            let cell = layer.cells.get(&place.1);
            rows.extend(cell.into_iter().flat_map(|cell| cell.rows.iter().cloned()));
            record::bound(&mut rows);
            self.past_ids
                .insert((past.task.key.clone(), place.1), place.0);
            self.past.insert(*place, (past.clone(), rows));
        }
        let old = self.past.range(..=(floor, Seq(u64::MAX)));
        let old = old.take(removed_at_once(layer.past.len()));
        let old: Vec<(Time, Seq)> = old.map(|(place, _)| *place).collect();
        for place in old {
            if let Some((past, _)) = self.past.remove(&place) {
                self.past_ids.remove(&(past.task.key, place.1));
            }
        }
    }

    fn past_size(&self) -> PastSize {
        PastSize {
            tasks: self.past.len() as u64,
            bytes: self.past.values().map(block_bytes).sum(),
        }
    }
}

fn block_bytes(block: &Block) -> u64 {
    crate::model::encode(block).len() as u64
}

/// The places behind one, up to an instant.
fn between(
    places: &BTreeSet<(Time, Seq)>,
    after: Option<(Time, Seq)>,
    until: Time,
) -> impl Iterator<Item = &(Time, Seq)> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let end = (until, Seq(u64::MAX));
    // A range that begins beyond its end is a panic.
    let within = after.is_none_or(|after| after < end);
    let range = within.then(|| places.range((from, Bound::Included(end))));
    range.into_iter().flatten()
}

impl Writer for MemoryStore {
    fn write(&self, layer: &Layer, saved: &Saved) -> Found<()> {
        let mut rows = self.lock();
        rows.write_past(layer, saved.core.history_floor);
        layer
            .cells
            .iter()
            .for_each(|(seq, cell)| rows.write(*seq, cell));
        put_all(&mut rows.keys, &layer.ids);
        put_all(&mut rows.labels, &layer.labels);
        put_all(&mut rows.marks, &layer.marks);
        put_all(&mut rows.schedules, &layer.schedules);
        rows.saved = Some(saved.clone());
        Ok(())
    }
}

impl Store for MemoryStore {
    fn record(&self, seq: Seq) -> Found<Option<Record>> {
        Ok(self
            .lock()
            .records
            .get(&seq)
            .map(|(record, _)| record.clone()))
    }

    fn rows(&self, seq: Seq) -> Found<Vec<Row>> {
        Ok(self
            .lock()
            .records
            .get(&seq)
            .map(|(_, rows)| rows.clone())
            .unwrap_or_default())
    }

    fn seq(&self, key: &Key) -> Found<Option<Seq>> {
        Ok(self.lock().keys.get(key).copied())
    }

    fn keys_after(&self, after: Option<&Key>, max: usize) -> Found<Vec<(Key, Seq)>> {
        let from = after.cloned().map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.lock();
        let keys = rows.keys.range((from, Bound::Unbounded)).take(max);
        Ok(keys.map(|(key, seq)| (key.clone(), *seq)).collect())
    }

    fn labelled_after(
        &self,
        label: Label,
        after: Option<&Key>,
        max: usize,
    ) -> Found<Vec<(Key, Seq)>> {
        let rows = self.lock();
        let labelled = rows.labels.range((label.after(after), Bound::Unbounded));
        let labelled = labelled.take_while(|((of, _), _)| *of == label).take(max);
        Ok(labelled
            .map(|((_, key), seq)| (key.clone(), *seq))
            .collect())
    }

    fn far(&self, after: Option<(Time, Seq)>, until: Time, max: usize) -> Found<Vec<(Time, Seq)>> {
        let rows = self.lock();
        let far = between(&rows.far, after, until);
        Ok(far.take(max).copied().collect())
    }

    fn open(&self) -> Found<Vec<Seq>> {
        Ok(self.lock().open.iter().copied().collect())
    }

    fn finished(
        &self,
        class: Class,
        after: Option<(Time, Seq)>,
        until: Time,
        max: usize,
    ) -> Found<Vec<(Time, Seq)>> {
        let rows = self.lock();
        let finished = between(&rows.finished[class as usize], after, until);
        Ok(finished.take(max).copied().collect())
    }

    fn mark(&self, key: &Key) -> Found<Option<Mark>> {
        Ok(self.lock().marks.get(key).cloned())
    }

    fn schedules(&self) -> Found<Vec<Schedule>> {
        Ok(self.lock().all_schedules())
    }

    fn marks_until(&self, until: Time, max: usize) -> Found<Vec<(Time, Key)>> {
        let rows = self.lock();
        let old = rows.marks.iter().filter(|(_, mark)| mark.at <= until);
        let mut old: Vec<_> = old.map(|(key, mark)| (mark.at, key.clone())).collect();
        old.sort_unstable();
        old.truncate(max);
        Ok(old)
    }

    fn past(&self, key: &Key, floor: Time, max: usize) -> Found<Vec<Block>> {
        let rows = self.lock();
        let of_key = (key.clone(), Seq(0))..=(key.clone(), Seq(u64::MAX));
        let found = rows.past_ids.range(of_key).rev();
        let found = found.filter(|(_, at)| **at > floor);
        let found = found.filter_map(|((_, seq), at)| rows.past.get(&(*at, *seq)));
        Ok(found.take(max).cloned().collect())
    }

    fn first_past(&self, after: Time) -> Found<Option<Time>> {
        let rows = self.lock();
        let from = Bound::Excluded((after, Seq(u64::MAX)));
        let first = rows.past.range((from, Bound::Unbounded)).next();
        Ok(first.map(|((at, _), _)| *at))
    }

    fn past_size(&self) -> Found<PastSize> {
        Ok(self.lock().past_size())
    }

    fn saved(&self) -> Found<Option<Saved>> {
        Ok(self.lock().saved.clone())
    }

    fn writer(&self) -> Box<dyn Writer> {
        Box::new(self.clone())
    }

    fn image(&self) -> Found<Box<dyn Image>> {
        Ok(Box::new(self.lock().clone()))
    }

    fn scrub(&self) -> Found<Option<StoreScrub>> {
        Ok(None)
    }

    fn refresh(&mut self) -> Found<()> {
        Ok(())
    }
}

impl Image for Rows {
    fn saved(&self) -> Found<Option<Saved>> {
        Ok(self.saved.clone())
    }

    fn records_after(&self, after: Option<Seq>, max: usize) -> Found<Vec<(Record, Vec<Row>)>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(self
            .records
            .range((from, Bound::Unbounded))
            .take(max)
            .map(|(_, r)| r.clone())
            .collect())
    }

    fn schedules(&self) -> Found<Vec<Schedule>> {
        Ok(self.all_schedules())
    }

    fn marks(&self) -> Found<Vec<(Key, Mark)>> {
        Ok(self
            .marks
            .iter()
            .map(|(key, mark)| (key.clone(), mark.clone()))
            .collect())
    }

    fn past_after(&self, after: Option<(Time, Seq)>, max: usize) -> Found<Vec<Block>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let past = self.past.range((from, Bound::Unbounded)).take(max);
        Ok(past.map(|(_, block)| block.clone()).collect())
    }

    fn past_bytes_after(
        &self,
        after: Option<(Time, Seq)>,
        max: usize,
    ) -> Found<Vec<(Time, Seq, u64)>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let past = self.past.range((from, Bound::Unbounded)).take(max);
        Ok(past
            .map(|((at, seq), block)| (*at, *seq, block_bytes(block)))
            .collect())
    }

    fn past_size(&self) -> Found<PastSize> {
        Ok(Rows::past_size(self))
    }
}
