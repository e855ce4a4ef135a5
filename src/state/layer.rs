//! One generation of changes: what the log has done since a checkpoint, or between two.
//!
//! As in an LSM tree with one level: the *dirty* layer takes changes in memory; at a checkpoint it
//! is *frozen* as a whole, in no time, and written to the store in the background; then it is
//! *settled*, a copy of what the store holds, kept to spare reads until the next one settles.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::label::{Label, labels};
use super::past::Past;
use super::record::Record;
use super::{Class, Mark};
use crate::bugs::{self, Bug};
use crate::model::{Key, Row, Schedule, Seq, Stage, Task, Time};

/// The index under which the store keeps a record: a function of its stage and instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Waits until this instant.
    Far(Time),
    /// An attempt is open, or its completion is awaited.
    Open,
    /// Final since this instant.
    Finished(Class, Time),
}

impl Place {
    pub(crate) fn of(task: &Task) -> Place {
        match (task.stage.is_waiting(), Class::of(task.stage)) {
            (true, _) => Place::Far(task.at),
            (false, Some(class)) => Place::Finished(class, task.at),
            (false, None) => Place::Open,
        }
    }
}

/// What became of one task in this generation.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    /// Where the store had it before; `None`: it did not.
    pub was: Option<Place>,
    /// As it is now; `None`: it was dropped.
    pub now: Option<Box<Record>>,
    /// The rows written in this generation, the newest last. Those of a dropped task are here
    /// only if its history stays.
    pub rows: Vec<Row>,
}

/// See the module.
#[derive(Default)]
pub struct Layer {
    pub cells: BTreeMap<Seq, Cell>,
    /// Ids that were taken (`Some`) or given back (`None`).
    pub ids: BTreeMap<Key, Option<Seq>>,
    /// Labels that tasks got (`Some`) or lost (`None`).
    pub(crate) labels: BTreeMap<(Label, Key), Option<Seq>>,
    /// Completions without a task: kept (`Some`) or dropped (`None`).
    pub(crate) marks: BTreeMap<Key, Option<Mark>>,
    /// Schedules that changed (`Some`) or were dropped (`None`).
    pub schedules: BTreeMap<Arc<str>, Option<Arc<Schedule>>>,
    /// Dropped tasks whose history stays, by the instant at which they finished.
    pub past: BTreeMap<(Time, Seq), Past>,
    /// That instant by id.
    pub past_ids: BTreeMap<(Key, Seq), Time>,
    /// Tasks that became final, by class. An entry counts only while its record agrees.
    pub(crate) finished: [BTreeSet<(Time, Seq)>; 2],
    /// Waiting tasks beyond the horizon. An entry counts only while its record agrees.
    pub(crate) far: BTreeSet<(Time, Seq)>,
}

impl Layer {
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.marks.is_empty() && self.schedules.is_empty()
    }

    /// Gives a task its id and its labels.
    pub(crate) fn enlist(&mut self, task: &Task) {
        self.ids.insert(task.key.clone(), Some(task.seq));
        for label in labels(&task.spec) {
            self.labels
                .insert((label, task.key.clone()), Some(task.seq));
        }
    }

    /// Takes its id and its labels back.
    pub(crate) fn delist(&mut self, task: &Task) {
        self.ids.insert(task.key.clone(), None);
        for label in labels(&task.spec) {
            self.labels.insert((label, task.key.clone()), None);
        }
    }

    /// Takes note of what became of a task's labels when its spec changed.
    pub(crate) fn relabel(&mut self, old_spec: &[u8], task: &Task) {
        if bugs::on(Bug::LabelIndexForgotten) {
            return;
        }
        let (old, new) = (labels(old_spec), labels(&task.spec));
        for label in old.iter().filter(|label| !new.contains(label)) {
            self.labels.insert((*label, task.key.clone()), None);
        }
        for label in new.iter().filter(|label| !old.contains(label)) {
            self.labels
                .insert((*label, task.key.clone()), Some(task.seq));
        }
    }

    /// The first keys after one that this generation says something about, in order: of those
    /// with a label, or of all.
    pub(crate) fn keys_after(
        &self,
        label: Option<Label>,
        after: Option<&Key>,
        max: usize,
    ) -> Vec<(Key, Option<Seq>)> {
        let Some(label) = label else {
            let from = after.cloned().map_or(Bound::Unbounded, Bound::Excluded);
            let ids = self.ids.range((from, Bound::Unbounded)).take(max);
            return ids.map(|(key, seq)| (key.clone(), *seq)).collect();
        };
        let labelled = self.labels.range((label.after(after), Bound::Unbounded));
        labelled
            .take_while(|((of, _), _)| *of == label)
            .take(max)
            .map(|((_, key), seq)| (key.clone(), *seq))
            .collect()
    }

    /// Whether this generation leaves a task in a final stage: only for [`bugs`].
    pub(crate) fn is_final(&self, seq: Seq) -> bool {
        let now = self.cells.get(&seq).and_then(|cell| cell.now.as_ref());
        now.is_some_and(|record| record.task.stage.is_final())
    }

    /// Takes in what stays of a dropped task.
    pub(crate) fn add_past(&mut self, past: Past) {
        let place = past.place();
        self.past_ids
            .insert((past.task.key.clone(), place.1), place.0);
        self.past.insert(place, past);
    }
}

/// Whether a record waits for this very instant.
pub(crate) fn waits(record: &Record, at: Time) -> bool {
    record.task.stage.is_waiting() && record.task.at == at
}

/// Whether a record has this very deadline.
pub(crate) fn expires(record: &Record, at: Time) -> bool {
    has_deadline(record.task.stage) && record.task.at == at
}

pub(crate) fn has_deadline(stage: Stage) -> bool {
    matches!(stage, Stage::Running | Stage::Accepted)
}
