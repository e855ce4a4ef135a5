//! The task table: the one place where a record changes.
//!
//! Every index is a function of the records: the queues, the open attempts, the order of
//! finishing, the counts, the sum of the hashes. [`Table::edit`] takes a record out of them, lets
//! the handler change it, and puts it back, so that no handler can forget one.
//!
//! Records are looked for in the dirty layer, the frozen one, what was read from the store, the
//! settled one, and, by `prepare` and by readers only, in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::hash::StateHash;
use super::layer::{Cell, Layer, Place, expires, has_deadline, waits};
use super::past::Past;
use super::queue::{Queue, Sign};
use super::record::{NewRow, Record};
use super::schedules::Schedules;
use super::store::Store;
use super::{Entry, Mark};
use crate::bugs::{self, Bug};
use crate::model::{Fence, Key, NodeId, Seq, Stage, Task, Time};

/// Finished tasks leave in two classes, because dead ones are kept longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Done or cancelled.
    Finished = 0,
    Dead = 1,
}

impl Class {
    pub(crate) fn of(stage: Stage) -> Option<Class> {
        match stage {
            Stage::Done | Stage::Cancelled => Some(Class::Finished),
            Stage::Dead => Some(Class::Dead),
            _ => None,
        }
    }
}

/// An open attempt, as much of it as is needed without its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) fence: Fence,
    pub(crate) owner: NodeId,
    /// A hash of the key: the shard, whatever their number.
    pub(crate) hash: u64,
    /// It was reported as started.
    pub(crate) started: bool,
}

pub(crate) struct Table {
    pub(super) dirty: Layer,
    /// Being written by a checkpoint.
    pub(super) frozen: Option<Arc<Layer>>,
    /// Written by the last one: what it holds equals the store.
    pub(super) settled: Option<Arc<Layer>>,
    /// Read from the store since the last freeze, and since the one before.
    pub(super) clean: [BTreeMap<Seq, Box<Record>>; 2],
    /// The same for ids and marks.
    pub(super) known: BTreeMap<Key, Seq>,
    pub(super) known_marks: BTreeMap<Key, Mark>,
    pub(super) store: Box<dyn Store>,
    /// Every task that waits at this place or before it is in the queue; those behind it are not.
    pub(super) horizon: Option<(Time, Seq)>,
    pub(super) waiting: Queue,
    pub(super) deadlines: Queue,
    /// Finished tasks of the store that `prepare` has found.
    pub(super) leaving: [BTreeSet<(Time, Seq)>; 2],
    /// How far `prepare` has looked for them.
    pub(super) cursor: [Option<(Time, Seq)>; 2],
    /// Marks that `prepare` has found.
    pub(super) leaving_marks: BTreeSet<(Time, Key)>,
    open: BTreeMap<(Time, Seq), Open>,
    pub(super) counts: BTreeMap<Arc<str>, [u64; 8]>,
    pub(super) hash: StateHash,
    pub(super) schedules: Schedules,
}

/// What memory says about something.
pub(crate) enum Known<T> {
    Here(T),
    /// It was dropped, or never was.
    Gone,
    /// Only the store can tell.
    Unknown,
}

impl Table {
    pub(crate) fn new(store: Box<dyn Store>) -> Table {
        Table {
            dirty: Layer::default(),
            frozen: None,
            settled: None,
            clean: [BTreeMap::new(), BTreeMap::new()],
            known: BTreeMap::new(),
            known_marks: BTreeMap::new(),
            store,
            horizon: None,
            waiting: Queue::new(),
            deadlines: Queue::new(),
            leaving: [BTreeSet::new(), BTreeSet::new()],
            cursor: [None; 2],
            leaving_marks: BTreeSet::new(),
            open: BTreeMap::new(),
            counts: BTreeMap::new(),
            hash: StateHash::ZERO,
            schedules: Schedules::default(),
        }
    }

    // What is in memory.

    /// The layers, newest first. What was read from the store lies between the frozen and the
    /// settled one, and never holds what a newer layer does.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Layer> {
        let older = self
            .frozen
            .as_deref()
            .into_iter()
            .chain(self.settled.as_deref());
        std::iter::once(&self.dirty).chain(older)
    }

    pub(crate) fn look(&self, seq: Seq) -> Known<&Record> {
        if let Some(record) = self.clean.iter().find_map(|clean| clean.get(&seq)) {
            return Known::Here(record);
        }
        match self.layers().find_map(|layer| layer.cells.get(&seq)) {
            Some(Cell {
                now: Some(record), ..
            }) => Known::Here(record),
            Some(_) => Known::Gone,
            None => Known::Unknown,
        }
    }

    pub(crate) fn look_up(&self, key: &Key) -> Known<Seq> {
        let layered = self.layers().find_map(|layer| layer.ids.get(key));
        match layered
            .copied()
            .or_else(|| self.known.get(key).map(|seq| Some(*seq)))
        {
            Some(Some(seq)) => Known::Here(seq),
            Some(None) => Known::Gone,
            None => Known::Unknown,
        }
    }

    pub(crate) fn task(&self, seq: Seq) -> Option<&Task> {
        match self.look(seq) {
            Known::Here(record) => Some(&record.task),
            _ => None,
        }
    }

    pub(crate) fn find(&self, key: &Key) -> Option<&Task> {
        match self.look_up(key) {
            Known::Here(seq) => self.task(seq),
            _ => None,
        }
    }

    pub(crate) fn open(&self) -> &BTreeMap<(Time, Seq), Open> {
        &self.open
    }

    pub(crate) fn counts(&self) -> &BTreeMap<Arc<str>, [u64; 8]> {
        &self.counts
    }

    pub(crate) fn hash(&self) -> StateHash {
        self.hash
    }

    // Changing.

    /// Takes in a task that is new to the log.
    pub(crate) fn create(&mut self, entry: Entry, task: Task, row: NewRow) {
        let mut record = Record::new(task);
        let row = record.row(entry, row);
        record.hash = record.own_hash();
        self.hash.add(record.hash);
        self.count(&record.task, true);
        self.index(&record.task);
        let seq = record.task.seq;
        self.dirty.enlist(&record.task);
        self.dirty.cells.insert(
            seq,
            Cell {
                was: None,
                now: Some(Box::new(record)),
                rows: vec![row],
            },
        );
    }

    /// Changes a task and writes a row about it. Nothing happens to a task that is not there.
    pub(crate) fn edit(&mut self, entry: Entry, seq: Seq, row: NewRow, f: impl FnOnce(&mut Task)) {
        let Some(mut cell) = self.take(seq) else {
            return;
        };
        if let Some(record) = &mut cell.now {
            self.unindex(&record.task);
            self.hash.remove(record.hash);
            let (stage, spec) = (record.task.stage, record.task.spec.clone());
            f(&mut record.task);
            if !Arc::ptr_eq(&spec, &record.task.spec) {
                record.spec_hash = xxhash_rust::xxh3::xxh3_64(&record.task.spec);
                self.dirty.relabel(&spec, &record.task);
            }
            record.task.index = entry.index;
            record.task.version = record.task.version.wrapping_add(1);
            cell.rows.push(record.row(entry, row));
            record.hash = record.own_hash();
            self.hash.add(record.hash);
            self.index(&record.task);
            if stage != record.task.stage {
                self.recount(&record.task, stage);
            }
        }
        self.dirty.cells.insert(seq, cell);
    }

    /// Writes a row about a task that stays as it is.
    pub(crate) fn note(&mut self, entry: Entry, seq: Seq, row: NewRow) {
        let Some(mut cell) = self.take(seq) else {
            return;
        };
        if let Some(record) = &mut cell.now {
            self.hash.remove(record.hash);
            cell.rows.push(record.row(entry, row));
            record.hash = record.own_hash();
            self.hash.add(record.hash);
            // It is finished, most likely: in this generation from here on.
            self.unindex(&record.task);
            self.index(&record.task);
        }
        self.dirty.cells.insert(seq, cell);
    }

    /// Drops a task for good. Its history stays when it finished after the floor.
    pub(crate) fn retire(&mut self, seq: Seq, history_floor: Time) {
        let Some(cell) = self.take(seq) else { return };
        let Some(record) = cell.now else { return };
        self.unindex(&record.task);
        self.hash.remove(record.hash);
        self.count(&record.task, false);
        self.dirty.delist(&record.task);
        let mut rows = Vec::new();
        if record.task.at > history_floor {
            self.dirty.add_past(Past::of(*record));
            rows = cell.rows;
        }
        self.dirty.cells.insert(
            seq,
            Cell {
                was: cell.was,
                now: None,
                rows,
            },
        );
    }

    /// Takes a living task's cell out of the dirty layer, or makes one of what is older.
    fn take(&mut self, seq: Seq) -> Option<Cell> {
        if let Some(cell) = self.dirty.cells.remove(&seq) {
            return match cell.now {
                Some(_) => Some(cell),
                None => {
                    self.dirty.cells.insert(seq, cell);
                    None
                }
            };
        }
        let read = self.clean.iter_mut().find_map(|clean| clean.remove(&seq));
        let record = match read {
            Some(record) => record,
            None => match self.look(seq) {
                Known::Here(record) => Box::new(record.clone()),
                _ => return None,
            },
        };
        Some(Cell {
            was: Some(Place::of(&record.task)),
            now: Some(record),
            rows: Vec::new(),
        })
    }

    fn count(&mut self, task: &Task, up: bool) {
        let row = self.counts.entry(task.key.app.clone()).or_default();
        let slot = &mut row[task.stage as usize];
        *slot = if up { *slot + 1 } else { *slot - 1 };
        if !up && row.iter().all(|n| *n == 0) {
            self.counts.remove(&task.key.app);
        }
    }

    fn recount(&mut self, task: &Task, before: Stage) {
        let row = self.counts.entry(task.key.app.clone()).or_default();
        row[before as usize] -= 1;
        row[task.stage as usize] += 1;
    }

    /// Whether what waits at a place is in the queue.
    fn is_near(&self, at: Time, seq: Seq) -> bool {
        Some((at, seq)) <= self.horizon
    }

    /// Puts a task under every index that its stage calls for.
    fn index(&mut self, task: &Task) {
        let (stage, at, seq) = (task.stage, task.at, task.seq);
        let lost = bugs::on(Bug::RetryLost) && stage == Stage::Retrying;
        if stage.is_waiting() && !lost {
            match self.is_near(at, seq) {
                true => self.waiting.insert(at, seq),
                false => drop(self.dirty.far.insert((at, seq))),
            }
        }
        self.index_open(task);
        if let Some(class) = Class::of(stage) {
            self.dirty.finished[class as usize].insert((at, seq));
        }
    }

    /// The part of [`Table::index`] that memory holds whole.
    pub(super) fn index_open(&mut self, task: &Task) {
        if has_deadline(task.stage) {
            self.deadlines.insert(task.at, task.seq);
        }
        if task.stage.is_open() {
            let open = Open {
                fence: task.fence,
                owner: task.owner,
                hash: task.key.hash(),
                started: task.stage == Stage::Running,
            };
            self.open.insert((task.at, task.seq), open);
        }
    }

    fn unindex(&mut self, task: &Task) {
        let (stage, at, seq) = (task.stage, task.at, task.seq);
        if stage.is_waiting() {
            match self.is_near(at, seq) {
                true => self.waiting.bury(at, seq),
                false => drop(self.dirty.far.remove(&(at, seq))),
            }
        }
        if has_deadline(stage) {
            self.deadlines.bury(at, seq);
        }
        if stage.is_open() {
            self.open.remove(&(at, seq));
        }
        if let Some(class) = Class::of(stage) {
            self.dirty.finished[class as usize].remove(&(at, seq));
            self.leaving[class as usize].remove(&(at, seq));
        }
    }

    // What is due.

    /// Takes at most `max` waiting tasks due up to `until`, in (instant, seq) order, and says
    /// whether more remain. They stay in their stage; the caller moves them on.
    pub(crate) fn take_due(&mut self, until: Time, max: usize) -> (Vec<Seq>, bool) {
        let mut queue = std::mem::replace(&mut self.waiting, Queue::new());
        let taken = queue.take(until, max, |at, seq| {
            self.sign(seq, |record| waits(record, at))
        });
        self.waiting = queue;
        taken
    }

    /// The same for deadlines that have passed.
    pub(crate) fn take_deadlines(&mut self, now: Time, max: usize) -> (Vec<Seq>, bool) {
        let mut queue = std::mem::replace(&mut self.deadlines, Queue::new());
        let taken = queue.take(now, max, |at, seq| {
            self.sign(seq, |record| expires(record, at))
        });
        self.deadlines = queue;
        taken
    }

    pub(super) fn sign(&self, seq: Seq, counts: impl Fn(&Record) -> bool) -> Sign {
        match self.look(seq) {
            Known::Here(record) if counts(record) => Sign::Alive,
            Known::Unknown => Sign::Unknown,
            _ => Sign::Dead,
        }
    }

    /// Rids the queues of dead entries when they are the majority.
    pub(crate) fn sweep(&mut self) {
        let mut waiting = std::mem::replace(&mut self.waiting, Queue::new());
        waiting.sweep(|at, seq| self.sign(seq, |record| waits(record, at)));
        self.waiting = waiting;
        let mut deadlines = std::mem::replace(&mut self.deadlines, Queue::new());
        deadlines.sweep(|at, seq| self.sign(seq, |record| expires(record, at)));
        self.deadlines = deadlines;
    }

    /// The first finished tasks of a class up to an instant, of those in memory, and whether
    /// there are more. `prepare` has brought as many as one fold may drop.
    pub(crate) fn finished(&self, class: Class, until: Time, max: usize) -> (Vec<Seq>, bool) {
        let end = ..=(until, Seq(u64::MAX));
        let lives = |(at, seq): &&(Time, Seq)| {
            self.task(*seq)
                .is_some_and(|t| Class::of(t.stage) == Some(class) && t.at == *at)
                || bugs::on(Bug::RetireDropsPending) && self.task(*seq).is_some()
        };
        let mut found: Vec<(Time, Seq)> = Vec::new();
        let layered = self.layers().map(|layer| &layer.finished[class as usize]);
        for set in layered.chain([&self.leaving[class as usize]]) {
            found.extend(set.range(end).filter(lives).take(max + 1));
        }
        found.sort_unstable();
        found.dedup();
        if bugs::on(Bug::HashedOrder) {
            bugs::as_hashed(&mut found);
        }
        let more = found.len() > max;
        found.truncate(max);
        (found.into_iter().map(|(_, seq)| seq).collect(), more)
    }

    // Marks.

    pub(crate) fn look_mark(&self, key: &Key) -> Known<&Mark> {
        match self.layers().find_map(|layer| layer.marks.get(key)) {
            Some(Some(mark)) => Known::Here(mark),
            Some(None) => Known::Gone,
            None => self
                .known_marks
                .get(key)
                .map_or(Known::Unknown, Known::Here),
        }
    }

    pub(crate) fn put_mark(&mut self, key: Key, mark: Mark) {
        self.hash.add(mark.own_hash(&key));
        self.dirty.marks.insert(key, Some(mark));
    }

    pub(crate) fn take_mark(&mut self, key: &Key) -> Option<Mark> {
        let Known::Here(mark) = self.look_mark(key) else {
            return None;
        };
        let mark = mark.clone();
        self.hash.remove(mark.own_hash(key));
        self.leaving_marks.remove(&(mark.at, key.clone()));
        self.dirty.marks.insert(key.clone(), None);
        Some(mark)
    }

    /// The first marks up to an instant, of those in memory, and whether there are more.
    pub(crate) fn old_marks(&self, until: Time, max: usize) -> (Vec<Key>, bool) {
        let mut found: Vec<(Time, Key)> = Vec::new();
        for layer in self.layers() {
            let old = layer
                .marks
                .iter()
                .filter_map(|(key, mark)| Some((mark.as_ref()?.at, key)));
            found.extend(
                old.filter(|(at, _)| *at <= until)
                    .map(|(at, key)| (at, key.clone())),
            );
        }
        found.extend(
            self.leaving_marks
                .iter()
                .filter(|(at, _)| *at <= until)
                .cloned(),
        );
        found.retain(|(at, key)| matches!(self.look_mark(key), Known::Here(m) if m.at == *at));
        found.sort_unstable();
        found.dedup();
        let more = found.len() > max;
        found.truncate(max);
        (found.into_iter().map(|(_, key)| key).collect(), more)
    }
}
