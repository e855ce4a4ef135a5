//! What stays of tasks that were retired: their history, for a time of its own.
//!
//! ```text
//! retire ─► dirty layer: summary, rows of this generation ─► checkpoint: one block (summary, all rows)
//!           Retire { history_up_to } raises a floor ─► hidden at once ─► checkpoints: removed, in slices
//! ```
//!
//! A retired task's id is free, and nothing of it is part of the state hash. But what can be read of
//! it is a function of the log alone, whatever each node's checkpoints have removed so far: that is
//! what the replicated floor is for. Each block carries the running hash that the fold made of its
//! rows, and on disk a checksum.

use bincode::{Decode, Encode};
#[cfg(test)]
use std::collections::BTreeMap;

use super::layer::Layer;
use super::record::{Record, is_retraced};
use super::store::Image;
use super::table::Table;
use super::{State, StoreFault};
use crate::model::limits::PAST_SHOWN_MAX;
use crate::model::{Http, Key, Row, Seq, Spec, Stage, Target, Task, Time};

/// A checkpoint removes so many histories below the floor, or twice as many as it adds, so that it
/// keeps up and yet no checkpoint takes long. Few in tests, so that they meet what is left over.
const REMOVED_AT_ONCE: usize = if cfg!(test) { 3 } else { 1 << 16 };

/// A retired task, as much of it as its history is told with.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Past {
    /// Its spec holds no more than the retry policy of a task that failed.
    pub task: Task,
    /// Rows ever written, those that gave way included.
    rows: u32,
    /// A running hash of them.
    chain: u64,
}

/// A past task with its history, oldest first: how it lies in the store.
pub type Block = (Past, Vec<Row>);

/// What the store holds of past tasks, those that are hidden and not removed yet included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PastSize {
    pub tasks: u64,
    /// Of their blocks, checksums included; what the store takes to keep them in order is not.
    pub bytes: u64,
}

/// What happened to a task that is, or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    pub task: Task,
    /// Oldest first.
    pub rows: Vec<Row>,
    /// The task is gone; its id may name another one by now.
    pub retired: bool,
}

impl Past {
    pub(crate) fn of(record: Record) -> Past {
        let Record {
            mut task,
            rows,
            chain,
            ..
        } = record;
        task.spec = policy(&task).map_or_else(|| [].into(), |spec| spec.encode());
        Past { task, rows, chain }
    }

    /// Its place in order of finishing.
    pub(crate) fn place(&self) -> (Time, Seq) {
        (self.task.at, self.task.seq)
    }

    /// Whether these rows are what the fold wrote about it.
    pub(crate) fn is_intact(&self, rows: &[Row]) -> bool {
        is_retraced(self.rows, self.chain, rows)
    }
}

/// What is still told of a spec: why a dead task was not tried again.
fn policy(task: &Task) -> Option<Spec> {
    let dead = || Spec::decode(&task.spec).ok();
    let mut spec = (task.stage == Stage::Dead).then(dead)??;
    spec.target = Target::Http(Http::default());
    spec.labels.clear();
    spec.next = Default::default();
    Some(spec)
}

/// How many histories a checkpoint may remove that adds so many.
pub(crate) fn removed_at_once(added: usize) -> usize {
    REMOVED_AT_ONCE.max(added.saturating_mul(2))
}

type Found<T> = Result<T, StoreFault>;

impl State {
    /// What happened to the task of an id: first the one that is, then those that were, the
    /// newest first, [`PAST_SHOWN_MAX`] at most.
    ///
    /// # Errors
    /// The store cannot be read; the node must stop.
    pub fn histories(&self, key: &Key) -> Found<Vec<History>> {
        let live = self.rows(key)?.map(|(task, rows)| History {
            task,
            rows,
            retired: false,
        });
        let past = self.table.past(key, self.core.history_floor)?;
        let past = past.into_iter().map(|(past, rows)| History {
            task: past.task,
            rows,
            retired: true,
        });
        Ok(live.into_iter().chain(past).collect())
    }

    /// What the store of this node held of past tasks at its last checkpoint.
    ///
    /// # Errors
    /// The store cannot be read; the node must stop.
    pub fn past_size(&self) -> Found<PastSize> {
        self.table.store.past_size()
    }

    /// Histories that the next checkpoint moves to the store.
    #[cfg(test)]
    pub(super) fn past_waits(&self) -> usize {
        self.table.dirty.past.len()
    }

    /// Whether a checkpoint would remove anything, though nothing has changed.
    pub(crate) fn past_leaves(&self) -> bool {
        let first = self.table.store.first_past(Time(0));
        // A store that cannot be read will say so to whoever needs it.
        matches!(first, Ok(Some(at)) if at <= self.core.history_floor)
    }

    /// Every history that can be read, in order of finishing.
    #[cfg(test)]
    pub(crate) fn all_past(&self) -> Vec<Block> {
        self.table.all_past(self.core.history_floor)
    }
}

impl Table {
    /// Of the generations that are not in the store yet; newest first.
    fn recent(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.dirty).chain(self.frozen.as_deref())
    }

    /// The past tasks of an id that finished after the floor, newest first.
    fn past(&self, key: &Key, floor: Time) -> Found<Vec<Block>> {
        let mut found = Vec::new();
        for layer in self.recent() {
            let of_key = (key.clone(), Seq(0))..=(key.clone(), Seq(u64::MAX));
            for ((_, seq), at) in layer.past_ids.range(of_key).rev() {
                if *at > floor
                    && found.len() < PAST_SHOWN_MAX
                    && let Some(past) = layer.past.get(&(*at, *seq))
                {
                    found.push((past.clone(), self.history(*seq)?));
                }
            }
        }
        let rest = PAST_SHOWN_MAX - found.len();
        found.extend(self.store.past(key, floor, rest)?);
        Ok(found)
    }

    /// The first instant after another at which a past task finished.
    pub(super) fn first_past(&self, after: Time) -> Found<Option<Time>> {
        let from = (Time(after.0.saturating_add(1)), Seq(0));
        let first = |layer: &Layer| layer.past.range(from..).next().map(|((at, _), _)| *at);
        let stored = self.store.first_past(after)?;
        Ok(self.recent().filter_map(first).chain(stored).min())
    }

    #[cfg(test)]
    fn all_past(&self, floor: Time) -> Vec<Block> {
        let stored = self.store.image().unwrap().past_after(None, usize::MAX);
        let mut all: BTreeMap<(Time, Seq), Block> = BTreeMap::new();
        for block in stored.unwrap() {
            all.insert(block.0.place(), block);
        }
        for layer in self.recent() {
            for (place, past) in &layer.past {
                let rows = self.history(place.1).unwrap();
                all.insert(*place, (past.clone(), rows));
            }
        }
        all.retain(|(at, _), _| *at > floor);
        all.into_values().collect()
    }
}

/// Past tasks are read in such pieces.
const PIECE: usize = 1_024;

/// Hands out the past tasks of an image that can be read, in order of finishing.
pub(super) fn walk_past<E: From<StoreFault>>(
    image: &dyn Image,
    floor: Time,
    mut each: impl FnMut(Block) -> Result<(), E>,
) -> Result<(), E> {
    let mut after = Some((floor, Seq(u64::MAX)));
    loop {
        let piece = image.past_after(after, PIECE)?;
        let Some((last, _)) = piece.last() else {
            return Ok(());
        };
        after = Some(last.place());
        piece.into_iter().try_for_each(&mut each)?;
    }
}

/// The instant up to which histories must leave an image, so that what stays has no more than so
/// many bytes; `None`: it has no more.
///
/// # Errors
/// The store cannot be read; the node must stop.
pub fn past_surplus(image: &dyn Image, bytes_max: u64) -> Found<Option<Time>> {
    let surplus = image.past_size()?.bytes.saturating_sub(bytes_max);
    let (mut gone, mut after) = (0, None);
    while gone < surplus {
        let piece = image.past_bytes_after(after, PIECE)?;
        if piece.is_empty() {
            break;
        }
        for (at, seq, bytes) in piece {
            if gone < surplus {
                gone += bytes;
                after = Some((at, seq));
            }
        }
    }
    Ok(after.map(|(at, _)| at))
}

/// Hands out what a store tells of every task that is, in order of creation, and then of every
/// one that was, in order of finishing; returns the log index of its checkpoint.
///
/// # Errors
/// The store cannot be read, or whoever takes it says so.
pub fn walk_histories<E: From<StoreFault>>(
    image: &dyn Image,
    mut each: impl FnMut(History) -> Result<(), E>,
) -> Result<Option<u64>, E> {
    let Some(saved) = image.saved()? else {
        return Ok(None);
    };
    let mut after = None;
    loop {
        let piece = image.records_after(after, PIECE)?;
        let Some((last, _)) = piece.last() else { break };
        after = Some(last.task.seq);
        for (Record { task, .. }, rows) in piece {
            let retired = false;
            each(History {
                task,
                rows,
                retired,
            })?;
        }
    }
    walk_past(
        image,
        saved.core.history_floor,
        |(Past { task, .. }, rows)| {
            let retired = true;
            each(History {
                task,
                rows,
                retired,
            })
        },
    )?;
    Ok(Some(saved.core.applied))
}
