//! What the end of a task starts: the next ones of its chain, in the same fold.
//!
//! ```text
//! Done(seq) ─► finish(parent) ─► submit(child)      child:  submitted, by "task shop/order-17"
//!                             └► note on the parent  parent: followed, by "shop/order-17:done"
//! ```
//!
//! Once by construction: the end is one event of the log, and what it starts is part of its fold. A
//! child that is there already, by its key, is left as it is, and the parent's history says so.

use super::record::NewRow;
use super::{Entry, State, StoreFault};
use crate::model::{Key, Outcome, RowKind, Seq, Spec, Stage, Submit, Time, When, all_that_follow};

/// Why a task was not started.
const IS_THERE: &str = "not started: there was a task with this id";

impl State {
    /// Starts what the end of a task asks for.
    pub(super) fn follow(&mut self, entry: Entry, seq: Seq, end: Stage) {
        let Some(task) = self.table.task(seq).filter(|t| Spec::starts_more(&t.spec)) else {
            return;
        };
        let Ok(spec) = Spec::decode(&task.spec) else {
            return;
        };
        let parent = task.key.clone();
        let Some(template) = spec.next.after(end) else {
            return;
        };
        let Some(key) = template.key(&parent, end) else {
            return;
        };
        let when = When::After(template.delay);
        let child = key.to_string();
        let event = Submit {
            key,
            when,
            spec: template.spec.clone(),
            digest: Spec::digest(&template.spec, when),
            by: format!("task {parent}").into(),
        };
        let (until, error) = match self.submit(entry, event) {
            Outcome::Task { new: true, task } => (task.due, None),
            _ => (Time(0), Some(IS_THERE.into())),
        };
        let row = NewRow {
            until,
            error,
            by: Some(child.into()),
            ..NewRow::of(RowKind::Followed)
        };
        self.table.note(entry, seq, row);
    }

    // What `prepare` brings into memory: all that a fold could start. An earlier event of a batch
    // may start what a later one ends, so that it is the whole chain.

    pub(super) fn warm_chain(&mut self, key: &Key, spec: &[u8]) -> Result<(), StoreFault> {
        if !Spec::starts_more(spec) {
            return Ok(());
        }
        let keys = all_that_follow(key, spec);
        keys.iter().try_for_each(|key| self.table.warm_key(key))
    }

    pub(super) fn warm_chain_of(&mut self, seq: Seq) -> Result<(), StoreFault> {
        let task = self.table.task(seq);
        let Some(task) = task.filter(|task| Spec::starts_more(&task.spec)) else {
            return Ok(());
        };
        let (key, spec) = (task.key.clone(), task.spec.clone());
        self.warm_chain(&key, &spec)
    }

    /// A task by its key, and what it could start.
    pub(super) fn warm_named(&mut self, key: &Key) -> Result<(), StoreFault> {
        self.table.warm_key(key)?;
        match self.table.find(key).map(|task| task.seq) {
            Some(seq) => self.warm_chain_of(seq),
            None => Ok(()),
        }
    }

    /// A task by its number, and what it could start.
    pub(super) fn warm_attempt(&mut self, seq: Seq) -> Result<(), StoreFault> {
        self.table.warm_seq(seq)?;
        self.warm_chain_of(seq)
    }
}
