//! The store checkpoint: everything folded up to a log position goes into the store, and the log
//! below it may go.
//!
//! ```text
//! begin: freeze the dirty layer (no time)  ─►  write: one transaction, beside the fold  ─►  end: settle
//! ```

use std::sync::Arc;

use super::layer::Layer;
use super::record::Record;
use super::schedules::own_hash;
use super::store::{Image, Saved, Store, StoreScrub, Writer};
use super::{State, StoreFault};
use crate::bugs::{self, Bug};
use crate::model::{Seq, Time};

/// A checkpoint on its way: written on whatever thread, then handed back.
pub struct Checkpoint {
    layer: Arc<Layer>,
    saved: Saved,
    writer: Box<dyn Writer>,
    /// Given up here, off the fold's thread.
    _old: std::collections::BTreeMap<Seq, Box<Record>>,
}

impl Checkpoint {
    /// The log index it covers.
    pub fn index(&self) -> u64 {
        self.saved.core.applied
    }

    /// How many tasks have changed since the one before.
    pub fn tasks(&self) -> usize {
        self.layer.cells.len()
    }

    /// Writes it, durably.
    ///
    /// # Errors
    /// The store could not be written; the node must stop.
    pub fn write(&self) -> Result<(), StoreFault> {
        self.writer.write(&self.layer, &self.saved)
    }
}

/// What a piece of loading ahead came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Entries that were put into the queue.
    pub tasks: usize,
    /// Nothing is left to load, or nothing more may be.
    pub done: bool,
}

/// An image of the store, the attachment of its checkpoint, and its log index.
pub type Imaged = (Box<dyn Image>, Vec<u8>, u64);

impl State {
    /// Opens the state that a store holds, with what was attached to it.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn open(store: Box<dyn Store>) -> Result<(State, Vec<u8>), StoreFault> {
        let mut state = State::new(store);
        let Some(saved) = state.table.store.saved()? else {
            return Ok((state, Vec::new()));
        };
        state.core = saved.core;
        state.hashes = saved.hashes.into();
        if bugs::on(Bug::WheelNotRebuilt) {
            state.table.horizon = Some((Time(u64::MAX), Seq(u64::MAX)));
        }
        state.table.counts = saved.counts;
        state.table.hash = saved.hash;
        for schedule in state.table.store.schedules()? {
            let hash = own_hash(&schedule);
            state.table.load_schedule(Arc::new(schedule), hash);
        }
        for seq in state.table.store.open()? {
            let damaged = || StoreFault(format!("open task {} is not in the store", seq.0));
            let record = state.table.store.record(seq)?.ok_or_else(damaged)?;
            state.table.index_open(&record.task);
        }
        Ok((state, saved.attachment))
    }

    /// Freezes what has changed since the last checkpoint. One checkpoint at a time: `None` while
    /// another is on its way. `attachment` comes back from [`State::open`].
    pub fn begin_checkpoint(&mut self, attachment: Vec<u8>) -> Option<Checkpoint> {
        if self.table.frozen.is_some() {
            return None;
        }
        let saved = self.saved(attachment);
        let (layer, old) = self.table.freeze();
        Some(Checkpoint {
            layer,
            saved,
            writer: self.table.store.writer(),
            _old: old,
        })
    }

    fn saved(&self, attachment: Vec<u8>) -> Saved {
        let mut core = self.core.clone();
        core.applied += u64::from(bugs::on(Bug::CheckpointIndex));
        Saved {
            core,
            counts: self.table.counts.clone(),
            hash: self.table.hash,
            hashes: self.hashes.iter().copied().collect(),
            attachment,
        }
    }

    /// Takes a written checkpoint over. What is no longer needed is handed back, so that it is
    /// dropped outside of any lock.
    ///
    /// # Errors
    /// The store cannot be read; the node must stop.
    pub fn end_checkpoint(&mut self) -> Result<Vec<Arc<Layer>>, StoreFault> {
        self.table.settle()
    }

    /// The store as the last checkpoint left it, with its attachment and log index; `None`: there
    /// was none yet.
    ///
    /// # Errors
    /// The store cannot be read; the node must stop.
    pub fn image(&self) -> Result<Option<Imaged>, StoreFault> {
        let image = self.table.store.image()?;
        let saved = image.saved()?;
        Ok(saved.map(|saved| (image, saved.attachment, saved.core.applied)))
    }

    /// Begins a walk over the store as the last checkpoint left it, to be made beside the fold;
    /// `None`: it is not on a disk.
    ///
    /// # Errors
    /// The store cannot be read; the node must stop.
    pub fn scrub(&self) -> Result<Option<StoreScrub>, StoreFault> {
        self.table.store.scrub()
    }

    /// What a checkpoint would write: records changed since the last one, and histories to remove.
    pub fn dirty(&self) -> usize {
        let dirty = &self.table.dirty;
        let more = self.table.schedules_dirty() + usize::from(self.past_leaves());
        dirty.cells.len() + dirty.marks.len() + more
    }

    /// Records and ids in memory that only the next checkpoint lets go of: changed, or read.
    pub fn gathered(&self) -> usize {
        self.dirty() + self.table.clean[0].len() + self.table.known.len()
    }

    /// Puts what waits until an instant into the queue ahead of its time, a piece of it; nothing
    /// while the queue has more bytes than `budget`. What was left out is read by the triggers that
    /// need it, no more than they need.
    ///
    /// # Errors
    /// The store cannot be read; the node must stop.
    pub fn load_ahead(&mut self, until: Time, budget: usize) -> Result<Loaded, StoreFault> {
        if self.table.waiting.memory() >= budget {
            return Ok(Loaded {
                tasks: 0,
                done: true,
            });
        }
        self.table.reach_piece(until)
    }

    /// A snapshot of this moment, made of all generations without changing any.
    #[cfg(test)]
    pub(crate) fn snapshot_now(&self, attachment: &[u8]) -> Vec<u8> {
        let store = super::MemoryStore::default();
        let mut layer = Layer {
            marks: self.table.all_marks(),
            schedules: self
                .schedules()
                .map(|s| (s.id.clone(), Some(s.clone())))
                .collect(),
            ..Layer::default()
        };
        for (record, rows) in self.table.all() {
            layer.enlist(&record.task);
            let cell = super::Cell {
                was: None,
                now: Some(Box::new(record.clone())),
                rows,
            };
            layer.cells.insert(record.task.seq, cell);
        }
        for (past, rows) in self.all_past() {
            let cell = super::Cell {
                rows,
                ..super::Cell::default()
            };
            layer.cells.insert(past.place().1, cell);
            layer.add_past(past);
        }
        store
            .writer()
            .write(&layer, &self.saved(attachment.to_vec()))
            .unwrap();
        let mut bytes = Vec::new();
        super::write_snapshot(&*store.image().unwrap(), &mut bytes).unwrap();
        bytes
    }

    /// Everything to the store at once, and out of memory what is chosen; returns how many.
    #[cfg(test)]
    pub(crate) fn cool(&mut self, drop: impl Fn(&crate::model::Task) -> bool) -> usize {
        let checkpoint = self.begin_checkpoint(b"cooled".to_vec()).unwrap();
        checkpoint.write().unwrap();
        self.end_checkpoint().unwrap();
        let mut dropped = 0;
        let mut kept = std::collections::BTreeMap::new();
        for (seq, cell) in &self.table.settled.take().unwrap().cells {
            match &cell.now {
                Some(record) if drop(&record.task) => dropped += 1,
                Some(record) => std::mem::drop(kept.insert(*seq, record.clone())),
                None => {}
            }
        }
        for clean in &mut self.table.clean {
            let before = clean.len();
            clean.retain(|_, record| !drop(&record.task));
            dropped += before - clean.len();
        }
        self.table.clean[0].extend(kept);
        dropped
    }
}
