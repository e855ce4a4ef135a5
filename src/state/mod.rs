//! The state: a fold over the log.
//!
//! [`State::prepare`] brings whatever an entry names into memory; it may read disks and may fail.
//! [`State::apply`] is then total: no clock, no randomness, no setting, no I/O, no order of a
//! hash map. The same log gives the same state, byte for byte, on every node; replaying it is how
//! a node starts.
//!
//! ```text
//! Batch ─► prepare (store ─► memory) ─► apply ─► Outcome per event, Changes for the rim
//!                                         │
//!              tasks.rs   submit, cancel, change, run, complete
//!              attempts.rs trigger, started, accepted, done, failed, deadlines
//!              follow.rs  what the end of a task starts
//!              sets.rs     named shard sets, filled and handed out
//!              apps.rs    pause, resume
//!              owners.rs  assign, again   retention.rs  retire, past.rs  what stays   progress.rs  how far
//!              schedules.rs  definitions, occurrences, the ledger
//! ```
//!
//! Everything goes through `table::Table`, the one place where a record changes: it keeps the
//! queues, the counts and the state hash in step with the records. Records live in generations
//! (`layer.rs`): what changed since the last checkpoint is in memory, the rest in the store,
//! which a background checkpoint brings up to date. `warm.rs` fetches what a fold will need.

mod apps;
mod attempts;
mod check;
mod checkpoint;
mod follow;
mod hash;
mod label;
mod layer;
mod owners;
mod past;
mod progress;
mod queue;
mod read;
mod record;
mod retention;
mod schedules;
mod sets;
mod shared;
mod snapshot;
mod store;
mod table;
mod tasks;
mod warm;

#[cfg(test)]
mod audit;
#[cfg(test)]
mod format;
#[cfg(test)]
pub(crate) mod properties;
#[cfg(test)]
mod tests;

use bincode::{Decode, Encode};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::bugs::{self, Bug};
use crate::model::limits::{HASH_EVERY, HASHES_KEPT, RETIRE_MAX, SHARDS_DEFAULT, TRIGGER_MAX};
use crate::model::{
    Batch, Boot, By, Change, Epoch, Event, Fence, Level, NodeId, Outcome, Paused, Repair, RowKind,
};
use crate::model::{Seq, Shard, Time};

pub use check::{Checked, Finding};
pub use checkpoint::{Checkpoint, Imaged, Loaded};
pub use hash::StateHash;
pub use label::Label;
pub use layer::{Cell, Layer, Place};
pub use owners::{Open, Release};
pub use past::{History, Past, PastSize, past_surplus, walk_histories};
pub use progress::Committed;
pub use read::{Dispatch, Filter, Listing, Page};
pub use record::Record;
pub use schedules::Agenda;
pub use shared::Shared;
pub use snapshot::{SnapshotError, read_attachment, write_snapshot};
pub use store::verify_store;
pub use store::{Image, MemoryStore, RedbStore, Saved, Store, StoreScrub, Verified, Writer};
pub use table::Class;

use progress::Progress;
use record::NewRow;
use table::Table;

/// A fault below the fold: the node must stop.
#[derive(Debug, thiserror::Error)]
#[error("state store: {0}")]
pub struct StoreFault(pub String);

/// Who runs the tasks of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Ownership {
    /// 0 before the first assignment.
    pub node: NodeId,
    pub boot: Boot,
    pub epoch: Epoch,
}

/// A completion that came before its submit.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Mark {
    pub(crate) at: Time,
    pub(crate) by: By,
}

/// The small part of the state: everything that is not a row per task.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Core {
    /// The log index folded last.
    applied: u64,
    /// The highest stamp seen.
    stamp: Time,
    /// Everything due up to here has been triggered.
    hand: Time,
    next_seq: u64,
    /// Counts assignments over all shards.
    epoch: Epoch,
    shards: Vec<Ownership>,
    /// What is open in each shard, by the log position of its submit.
    progress: Vec<Progress>,
    /// Retired so far: done and cancelled, dead.
    floors: [Time; 2],
    /// Histories of retired tasks that finished up to here are gone.
    history_floor: Time,
    /// Named shard sets.
    sets: sets::Sets,
    /// Applications whose tasks are not called at present.
    paused: BTreeMap<Arc<str>, Paused>,
    /// The time-zone data by which schedules were planned last.
    tz: Arc<str>,
    /// What every member knows how to fold; zero: nobody has led yet.
    level: Level,
}

impl Default for Core {
    fn default() -> Core {
        Core {
            applied: 0,
            stamp: Time(0),
            hand: Time(0),
            next_seq: 1,
            epoch: Epoch(0),
            shards: vec![Ownership::default(); usize::from(SHARDS_DEFAULT)],
            progress: vec![Progress::default(); usize::from(SHARDS_DEFAULT)],
            floors: [Time(0); 2],
            history_floor: Time(0),
            sets: sets::Sets::new(),
            paused: BTreeMap::new(),
            tz: "".into(),
            level: Level::default(),
        }
    }
}

/// What every handler knows about the entry it is folding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) index: u64,
    pub(crate) stamp: Time,
    pub(crate) now: Time,
}

/// The whole replicated state of one node.
pub struct State {
    core: Core,
    table: Table,
    /// State hashes at the last agreed indexes.
    hashes: VecDeque<(u64, StateHash)>,
    /// Effects of the entry being folded.
    changes: Vec<Change>,
}

impl State {
    /// An empty state over a store that is empty too.
    pub fn new(store: Box<dyn Store>) -> State {
        State {
            core: Core::default(),
            table: Table::new(store),
            hashes: VecDeque::new(),
            changes: Vec::new(),
        }
    }

    /// Brings every record that the batch names, and the window up to its triggers, into memory.
    ///
    /// # Errors
    /// The store could not be read. Nothing has changed; the node must stop.
    pub fn prepare(&mut self, batch: &Batch) -> Result<(), StoreFault> {
        // A fold may find less than was prepared for it, because an earlier event of the batch
        // took some of it; so each is prepared for all of them.
        let mut enough = batch.events.len() + 1;
        for event in &batch.events {
            match event {
                Event::Submit(e) => {
                    self.warm_named(&e.key)?;
                    self.warm_chain(&e.key, &e.spec)?;
                }
                Event::Cancel(e) => self.warm_named(&e.key)?,
                Event::Change(e) => {
                    self.warm_named(&e.key)?;
                    let spec = e.spec.as_deref().unwrap_or_default();
                    self.warm_chain(&e.key, spec)?;
                }
                Event::Run(e) => self.warm_named(&e.key)?,
                Event::Complete(e) => self.warm_named(&e.key)?,
                Event::Pause(_) | Event::Resume(_) => {}
                Event::Accepted(e) => self.warm_attempt(e.seq)?,
                Event::Done(e) => self.warm_attempt(e.seq)?,
                Event::Failed(e) => self.warm_attempt(e.seq)?,
                Event::Started(e) => {
                    let mut seqs = e.attempts.iter().map(|(seq, ..)| *seq);
                    seqs.try_for_each(|seq| self.warm_attempt(seq))?;
                }
                Event::Trigger(e) => {
                    enough += e.max.min(TRIGGER_MAX) as usize;
                    self.table.warm_deadlines(batch.now, enough)?;
                    let late = self.table.late(batch.now, enough);
                    late.into_iter()
                        .try_for_each(|seq| self.warm_chain_of(seq))?;
                    self.table.warm_due(e.until, enough)?;
                }
                Event::Retire(e) => {
                    enough += e.max.min(RETIRE_MAX) as usize;
                    self.table
                        .warm_finished(Class::Finished, e.finished_up_to, enough)?;
                    self.table
                        .warm_finished(Class::Dead, e.dead_up_to, enough)?;
                    self.table.warm_marks(e.marks_up_to, enough)?;
                }
                Event::Assign(e) => {
                    let total = self.shard_total();
                    self.table
                        .warm_open(|hash| e.shards.contains(&Shard::of(hash, total)))?;
                }
                // The small part of the state is always in memory.
                Event::MakeSet(_) | Event::FillSets(_) | Event::PopShard(_) | Event::Raise(_) => {}
                Event::Again(e) => {
                    let mut lost = e.attempts.iter();
                    lost.try_for_each(|(seq, _)| self.table.warm_seq(*seq))?;
                }
                Event::Fire(e) => {
                    let mut stretches = e.stretches.iter();
                    stretches.try_for_each(|stretch| self.warm_stretch(stretch))?;
                }
                Event::RunSchedule(e) => self.warm_run(e)?,
                Event::Mend(e) => {
                    let mut tasks = e.repairs.iter().filter_map(Repair::task);
                    tasks.try_for_each(|seq| self.table.warm_seq(seq))?;
                }
                // Schedules are in memory.
                Event::PutSchedule(_) | Event::PauseSchedule(_) | Event::DeleteSchedule(_) => {}
            }
        }
        Ok(())
    }

    /// Folds one prepared batch. Total: whatever the batch holds, every replica does the same.
    ///
    /// Returns one outcome per event, in order, and appends the effects to `changes`.
    pub fn apply(&mut self, index: u64, batch: Batch, changes: &mut Vec<Change>) -> Vec<Outcome> {
        self.core.stamp = self.core.stamp.max(batch.stamp);
        let now = match bugs::on(Bug::OwnClock) {
            true => Time(bugs::own_clock_ms(batch.now.0)),
            false => batch.now,
        };
        let entry = Entry {
            index,
            stamp: self.core.stamp,
            now,
        };
        let outcomes = batch
            .events
            .into_iter()
            .map(|event| self.fold(entry, event))
            .collect();
        changes.append(&mut self.changes);
        self.table.sweep();
        self.advance(index);
        outcomes
    }

    /// Takes note of an entry that holds no events.
    pub fn advance(&mut self, index: u64) {
        self.core.applied = index;
        if index.is_multiple_of(HASH_EVERY) {
            self.hashes.push_back((index, self.hash()));
            if self.hashes.len() > HASHES_KEPT {
                self.hashes.pop_front();
            }
        }
    }

    fn fold(&mut self, entry: Entry, event: Event) -> Outcome {
        match event {
            Event::Submit(e) => self.submit(entry, e),
            Event::Cancel(e) => self.cancel(entry, &e),
            Event::Change(e) => self.change(entry, e),
            Event::Run(e) => self.run(entry, &e),
            Event::Complete(e) => self.complete(entry, e),
            Event::Pause(e) => self.pause(entry, e),
            Event::Resume(e) => self.resume(&e),
            Event::Trigger(e) => self.trigger(entry, &e),
            Event::Started(e) => self.started(entry, e),
            Event::Accepted(e) => self.accepted(entry, e),
            Event::Done(e) => self.done(entry, e),
            Event::Failed(e) => self.failed(entry, e),
            Event::Assign(e) => self.assign(entry, &e),
            Event::Again(e) => self.again(entry, &e),
            Event::Retire(e) => self.retire(&e),
            Event::MakeSet(e) => self.make_set(e),
            Event::FillSets(e) => self.fill_sets(entry, &e),
            Event::PopShard(e) => self.pop_shard(&e),
            Event::Raise(e) => {
                self.core.level = self.core.level.max(e.level);
                Outcome::Folded
            }
            Event::PutSchedule(e) => self.put_schedule(entry, e),
            Event::PauseSchedule(e) => self.pause_schedule(entry, e),
            Event::DeleteSchedule(e) => self.delete_schedule(entry, &e),
            Event::RunSchedule(e) => self.run_schedule(entry, &e),
            Event::Fire(e) => self.fire(entry, e),
            Event::Mend(e) => self.mend(entry, &e.repairs),
        }
    }

    /// Begins the next attempt of a task: the one way into `Triggered`.
    fn begin(&mut self, entry: Entry, seq: Seq, kind: RowKind, at: Time, by: Option<By>) {
        let Some(task) = self.table.task(seq) else {
            return;
        };
        let hash = task.key.hash();
        let held = self.ownership(Shard::of(hash, self.shard_total()));
        let old = task.fence;
        if task.stage.is_open() {
            self.changes.push(Change::Closed { seq, fence: old });
        }
        if task.stage.is_final() {
            self.opened(seq);
        }
        let same = bugs::on(Bug::SameAttempt) && kind == RowKind::Redispatched;
        let fence = Fence {
            epoch: held.epoch,
            attempt: old.attempt.saturating_add(u32::from(!same)),
        };
        let row = NewRow {
            node: held.node,
            until: at,
            by,
            ..NewRow::of(kind)
        };
        self.table.edit(entry, seq, row, |task| {
            if task.stage.is_final() {
                // A series of its own: its age and its tries count from here.
                task.due = at;
                task.tries = 0;
                task.error = None;
            }
            task.stage = crate::model::Stage::Triggered;
            task.fence = fence;
            task.at = at;
            task.owner = held.node;
            task.finished = None;
            task.outcome = None;
        });
        self.changes.push(Change::Triggered {
            seq,
            fence,
            at,
            owner: held.node,
            hash,
        });
    }

    fn ownership(&self, shard: Shard) -> Ownership {
        self.core
            .shards
            .get(usize::from(shard.0))
            .copied()
            .unwrap_or_default()
    }
}
