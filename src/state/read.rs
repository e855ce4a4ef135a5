//! Reading: by id, by list, by count. Nobody outside can walk over all tasks.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::label::Label;
#[cfg(test)]
use super::layer::Layer;
use super::table::{Known, Table};
use super::{Open, State, StoreFault};
use crate::bugs::{self, Bug};
use crate::model::limits::PAGE_EXAMINED_MAX;
use crate::model::{Fence, Key, Level, NodeId, Row, Seq, Shard, Spec, Stage, Task, Time};

/// A list looks at so many keys at once, and the fold goes on between: a record that lies on the
/// disk takes some 10 µs. Tests meet the ends of slices often.
const LIST_SLICE: usize = if cfg!(test) { 3 } else { 128 };

/// What the owner needs to carry out one attempt.
#[derive(Clone, Debug)]
pub struct Dispatch {
    pub seq: Seq,
    pub fence: Fence,
    pub key: Key,
    /// An encoded `Spec`.
    pub spec: Arc<[u8]>,
    pub due: Time,
    /// Not to be started before this instant.
    pub at: Time,
    /// Attempts of this series that already ended.
    pub tries: u32,
}

/// Which tasks a list shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub app: Option<String>,
    pub stage: Option<Stage>,
    pub labels: Vec<(String, String)>,
    /// Inclusive.
    pub due_from: Option<Time>,
    /// Exclusive.
    pub due_to: Option<Time>,
    /// Only this shard of so many.
    pub part: Option<(Shard, u16)>,
    /// Only what is not final.
    pub open: bool,
}

/// One page of a list, in (app, id) order.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub tasks: Vec<Task>,
    /// Records looked at.
    pub examined: usize,
    /// The next page begins after this key; `None`: that was all.
    pub next: Option<Key>,
}

/// A page on its way. It is made in slices, between which the fold may go on; a task is shown as
/// it is when its slice is made, as between two pages.
#[derive(Debug)]
pub struct Listing<'a> {
    filter: &'a Filter,
    limit: usize,
    from: Option<Key>,
    /// The label to follow, chosen by the first slice.
    label: Option<Option<Label>>,
    page: Page,
}

impl<'a> Listing<'a> {
    /// A page of at most so many tasks behind a key.
    pub fn new(filter: &'a Filter, after: Option<&Key>, limit: usize) -> Listing<'a> {
        Listing {
            filter,
            limit,
            from: after.cloned().max(filter.floor()),
            label: None,
            page: Page::default(),
        }
    }

    /// The page, when the last slice said that it is complete.
    pub fn into_page(self) -> Page {
        self.page
    }
}

/// A piece of a walk over keys.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub(super) keys: Vec<(Key, Seq)>,
    /// The walk goes on behind this key; `None`: that was all.
    pub(super) next: Option<Key>,
}

impl Filter {
    /// Whether a task is one of those, its application aside.
    pub fn takes(&self, task: &Task) -> bool {
        let labelled = || {
            let labels = Spec::labels_of(&task.spec);
            let has = |name: &str, value: &str| labels.contains(&(name, value));
            self.labels.iter().all(|(name, value)| has(name, value))
        };
        self.stage.is_none_or(|stage| stage == task.stage)
            && self.due_from.is_none_or(|from| from <= task.due)
            && self.due_to.is_none_or(|to| task.due < to)
            && self
                .part
                .is_none_or(|(shard, total)| task.shard(total) == shard)
            && !(self.open && task.stage.is_final())
            && (self.labels.is_empty() || labelled())
    }

    fn has_app(&self, key: &Key) -> bool {
        self.app.as_deref().is_none_or(|app| app == &*key.app)
    }

    /// The key just before the first one of the wanted application.
    fn floor(&self) -> Option<Key> {
        self.app.as_deref().map(|app| Key {
            app: app.into(),
            id: "".into(),
        })
    }
}

type Found<T> = Result<T, StoreFault>;

/// What was looked for, wherever it is. An error means that the store cannot be read, and that
/// the node must stop.
impl State {
    /// The log index folded last.
    pub fn applied(&self) -> u64 {
        self.core.applied
    }

    /// The highest stamp folded.
    pub fn stamp(&self) -> Time {
        self.core.stamp
    }

    /// What every member knows how to fold; zero: nobody has led yet.
    pub fn level(&self) -> Level {
        self.core.level
    }

    /// Everything due up to here has been triggered.
    pub fn hand(&self) -> Time {
        self.core.hand
    }

    /// The earliest instant at which something may be due, and the earliest deadline.
    pub fn next(&self) -> Found<(Option<Time>, Option<Time>)> {
        let far = self.table.first_far()?;
        let due = self.table.waiting.next().into_iter().chain(far).min();
        Ok((due, self.table.deadlines.next()))
    }

    /// Whether a trigger up to `until`, proposed at `now`, may find anything.
    pub fn has_due(&mut self, until: Time, now: Time) -> Found<bool> {
        if self.table.take_deadlines(now, 0).1 {
            return Ok(true);
        }
        while !self.table.take_due(until, 0).1 {
            if self.table.has_reached(until) {
                return Ok(false);
            }
            self.table.reach_piece(until)?;
        }
        Ok(true)
    }

    /// The attempt, if it is still the current one.
    pub fn dispatch(&self, seq: Seq, fence: Fence) -> Found<Option<Dispatch>> {
        let Some(task) = self.task_by_seq(seq)? else {
            return Ok(None);
        };
        if task.fence != fence || !task.stage.is_open() {
            return Ok(None);
        }
        Ok(Some(Dispatch {
            seq,
            fence,
            key: task.key,
            spec: task.spec,
            due: task.due,
            at: task.at,
            tries: task.tries,
        }))
    }

    /// Open attempts of a node that have not been reported as started, after a place in
    /// (instant, seq) order: for a queue that had overflowed.
    pub fn open_after(&self, node: NodeId, after: Option<(Time, Seq)>, limit: usize) -> Vec<Open> {
        self.open_of(node, after).take(limit).collect()
    }

    /// A task by its key.
    pub fn task(&self, key: &Key) -> Found<Option<Task>> {
        match self.seq(key)? {
            Some(seq) => self.task_by_seq(seq),
            None => Ok(None),
        }
    }

    fn seq(&self, key: &Key) -> Found<Option<Seq>> {
        match self.table.look_up(key) {
            Known::Here(seq) => Ok(Some(seq)),
            Known::Gone => Ok(None),
            Known::Unknown => self.table.store.seq(key),
        }
    }

    /// A task by its number.
    pub fn task_by_seq(&self, seq: Seq) -> Found<Option<Task>> {
        match self.table.look(seq) {
            Known::Here(record) => Ok(Some(record.task.clone())),
            Known::Gone => Ok(None),
            Known::Unknown => Ok(self.table.store.record(seq)?.map(|record| record.task)),
        }
    }

    /// A task with its history, oldest first.
    pub fn rows(&self, key: &Key) -> Found<Option<(Task, Vec<Row>)>> {
        let Some(seq) = self.seq(key)? else {
            return Ok(None);
        };
        let Some(task) = self.task_by_seq(seq)? else {
            return Ok(None);
        };
        Ok(Some((task, self.table.history(seq)?)))
    }

    /// Makes the next slice of a page of tasks, and says whether the page is complete. At most
    /// [`PAGE_EXAMINED_MAX`] records are looked at, so a page may be short, or empty, while more
    /// follow. With labels only the tasks with one of them are looked at.
    pub fn list_slice(&self, listing: &mut Listing<'_>) -> Found<bool> {
        let filter = listing.filter;
        let label = match listing.label {
            Some(label) => label,
            None => {
                let rarest = self.rarest_label(filter, listing.from.as_ref())?;
                *listing.label.insert(rarest)
            }
        };
        let page = &mut listing.page;
        let max = LIST_SLICE.min(PAGE_EXAMINED_MAX - page.examined);
        let piece = self.table.keys_after(label, listing.from.as_ref(), max)?;
        for (key, seq) in piece.keys {
            if !filter.has_app(&key) {
                return Ok(true);
            }
            page.examined += 1;
            let found = match bugs::on(Bug::ListSkipsFar) {
                true => self.table.task(seq).cloned(),
                false => self.task_by_seq(seq)?,
            };
            if let Some(task) = found.filter(|task| filter.takes(task)) {
                page.tasks.push(task);
                if page.tasks.len() == listing.limit {
                    page.next = Some(key);
                    return Ok(true);
                }
            }
        }
        let Some(next) = piece.next.filter(|next| filter.has_app(next)) else {
            return Ok(true);
        };
        if page.examined == PAGE_EXAMINED_MAX {
            page.next = Some(next);
            return Ok(true);
        }
        listing.from = Some(next);
        Ok(false)
    }

    /// One page at one moment.
    #[cfg(test)]
    pub(crate) fn list(&self, filter: &Filter, after: Option<&Key>, limit: usize) -> Found<Page> {
        let mut listing = Listing::new(filter, after, limit);
        while !self.list_slice(&mut listing)? {}
        Ok(listing.into_page())
    }

    /// Which of a filter's labels to follow: the one that the fewest tasks have from here on, as
    /// far as one piece tells; of those that fill it, the one that gets furthest with it.
    fn rarest_label(&self, filter: &Filter, from: Option<&Key>) -> Found<Option<Label>> {
        let labels = filter.labels.iter();
        let mut labels = labels.map(|(name, value)| Label::new(name, value));
        if filter.labels.len() < 2 {
            return Ok(labels.next_back());
        }
        let mut rarest = None;
        for label in labels {
            let mut piece = self.table.keys_after(Some(label), from, LIST_SLICE)?;
            let within = |(key, _): &(Key, Seq)| filter.has_app(key);
            piece.keys.truncate(piece.keys.partition_point(within));
            let next = piece.next.filter(|next| filter.has_app(next));
            let few = next.is_none().then_some(piece.keys.len());
            let rank = (few.unwrap_or(usize::MAX), Reverse(next));
            if rarest.as_ref().is_none_or(|(least, _)| rank < *least) {
                rarest = Some((rank, label));
            }
        }
        Ok(rarest.map(|(_, label)| label))
    }

    /// Tasks per stage (indexed as [`Stage::ALL`]), of one application or of all.
    pub fn stats(&self, app: Option<&str>) -> [u64; 8] {
        let counts = self.table.counts();
        match app {
            Some(app) => counts.get(app).copied().unwrap_or_default(),
            None => counts.values().fold([0; 8], |mut sum, row| {
                sum.iter_mut().zip(row).for_each(|(a, b)| *a += b);
                sum
            }),
        }
    }
}

impl Table {
    /// A piece of a walk over the keys of layers and store, in order, of the tasks with a label,
    /// or of all: those behind a key. It may be empty while more follow, where tasks have gone.
    pub(super) fn keys_after(
        &self,
        label: Option<Label>,
        after: Option<&Key>,
        max: usize,
    ) -> Found<Keys> {
        let stored = match label {
            Some(label) => self.store.labelled_after(label, after, max)?,
            None => self.store.keys_after(after, max)?,
        };
        let stored = stored.into_iter().map(|(key, seq)| (key, Some(seq)));
        let layered = self.layers();
        let layered = layered.map(|layer| layer.keys_after(label, after, max));
        // Oldest first, so that newer ones overwrite.
        let mut sources: Vec<Vec<(Key, Option<Seq>)>> = layered.collect();
        sources.push(stored.collect());
        sources.reverse();
        // Behind the end of a source that was cut short, the others are not yet complete.
        let cut = sources.iter().filter(|source| source.len() == max);
        let end = cut
            .filter_map(|source| source.last())
            .map(|(key, _)| key.clone())
            .min();
        let merged: BTreeMap<Key, Option<Seq>> = sources.into_iter().flatten().collect();
        let mut keys: Vec<(Key, Seq)> = merged
            .into_iter()
            .take_while(|(key, _)| end.as_ref().is_none_or(|end| key <= end))
            .filter_map(|(key, seq)| Some((key, seq?)))
            .collect();
        let surplus = keys.len() > max;
        keys.truncate(max);
        let next = match keys.last() {
            Some((last, _)) if surplus => Some(last.clone()),
            _ => end,
        };
        Ok(Keys { keys, next })
    }

    /// A task's history: what the store has, then what each generation added.
    pub(super) fn history(&self, seq: Seq) -> Found<Vec<Row>> {
        let mut rows = self.store.rows(seq)?;
        for layer in self.frozen.as_deref().into_iter().chain([&self.dirty]) {
            if let Some(cell) = layer.cells.get(&seq) {
                rows.extend(cell.rows.iter().cloned());
            }
        }
        super::record::bound(&mut rows);
        Ok(rows)
    }

    /// Every record with its history, of all generations, in order of numbers: what a snapshot
    /// made now would hold.
    #[cfg(test)]
    pub(super) fn all(&self) -> Vec<(super::Record, Vec<Row>)> {
        let mut seqs = std::collections::BTreeSet::new();
        let image = self.store.image().unwrap();
        let stored = image.records_after(None, usize::MAX).unwrap();
        let stored: BTreeMap<Seq, super::Record> = stored
            .into_iter()
            .map(|(record, _)| (record.task.seq, record))
            .collect();
        seqs.extend(stored.keys().copied());
        self.layers()
            .for_each(|layer| seqs.extend(layer.cells.keys().copied()));
        let record = |seq: &Seq| match self.look(*seq) {
            Known::Here(record) => Some(record.clone()),
            Known::Gone => None,
            Known::Unknown => stored.get(seq).cloned(),
        };
        let records = seqs.iter().filter_map(record);
        records
            .map(|r| (r.clone(), self.history(r.task.seq).unwrap()))
            .collect()
    }

    /// The sum of the hashes, computed anew from the records: what [`Table::hash`] must equal.
    #[cfg(test)]
    pub(super) fn recomputed(&self) -> super::StateHash {
        let mut sum = super::StateHash::ZERO;
        self.all()
            .iter()
            .for_each(|(record, _)| sum.add(record.own_hash()));
        for (key, mark) in &self.all_marks() {
            mark.iter().for_each(|mark| sum.add(mark.own_hash(key)));
        }
        for schedule in self.all_schedules() {
            sum.add(super::schedules::own_hash(schedule));
        }
        sum
    }

    /// Every mark of all generations.
    #[cfg(test)]
    pub(super) fn all_marks(&self) -> BTreeMap<Key, Option<super::Mark>> {
        let stored = self.store.image().unwrap().marks().unwrap();
        let mut marks: BTreeMap<_, _> = stored
            .into_iter()
            .map(|(key, mark)| (key, Some(mark)))
            .collect();
        let layers: Vec<&Layer> = self.layers().collect();
        for layer in layers.iter().rev() {
            marks.extend(layer.marks.clone());
        }
        marks.retain(|_, mark| mark.is_some());
        marks
    }
}
