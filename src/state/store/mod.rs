//! What the state keeps on disk, as a seam: everything below the last checkpoint.
//!
//! Reads see the state at that checkpoint and nothing later; the layers above shadow it. Only
//! `prepare`, checkpoints and readers come here; the fold itself never does.

mod bloom;
mod memory;
mod redb;
mod redb_codec;
mod redb_write;
mod scrub;
mod verify;

use bincode::{Decode, Encode};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::hash::StateHash;
use super::label::Label;
use super::layer::Layer;
use super::past::{Block, PastSize};
use super::record::Record;
use super::{Class, Core, Mark, StoreFault};
use crate::model::{Key, Row, Schedule, Seq, Time};

pub use self::redb::RedbStore;
pub use memory::MemoryStore;
pub use scrub::{StoreScrub, Verified};
pub use verify::verify_store;

/// What is saved with every checkpoint beside the rows.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Saved {
    pub(crate) core: Core,
    pub(crate) counts: BTreeMap<Arc<str>, [u64; 8]>,
    /// The sum over all rows.
    pub(crate) hash: StateHash,
    pub(crate) hashes: Vec<(u64, StateHash)>,
    /// What the floor above wants back.
    pub(crate) attachment: Vec<u8>,
}

type Found<T> = Result<T, StoreFault>;

/// The rows below the last checkpoint.
pub trait Store: Send {
    /// A task by its number.
    fn record(&self, seq: Seq) -> Found<Option<Record>>;
    /// Its history, oldest first.
    fn rows(&self, seq: Seq) -> Found<Vec<Row>>;
    /// A task's number by its key.
    fn seq(&self, key: &Key) -> Found<Option<Seq>>;
    /// The first keys after one, in order.
    fn keys_after(&self, after: Option<&Key>, max: usize) -> Found<Vec<(Key, Seq)>>;
    /// The same of the tasks with a label.
    fn labelled_after(
        &self,
        label: Label,
        after: Option<&Key>,
        max: usize,
    ) -> Found<Vec<(Key, Seq)>>;
    /// The first waiting tasks behind a place, up to an instant, in order.
    fn far(&self, after: Option<(Time, Seq)>, until: Time, max: usize) -> Found<Vec<(Time, Seq)>>;
    /// Every task of which an attempt is open or a completion awaited.
    fn open(&self) -> Found<Vec<Seq>>;
    /// The first finished tasks of a class after a place, up to an instant.
    fn finished(
        &self,
        class: Class,
        after: Option<(Time, Seq)>,
        until: Time,
        max: usize,
    ) -> Found<Vec<(Time, Seq)>>;
    /// A mark that waits for its task.
    fn mark(&self, key: &Key) -> Found<Option<Mark>>;
    /// The first marks up to an instant, oldest first.
    fn marks_until(&self, until: Time, max: usize) -> Found<Vec<(Time, Key)>>;
    /// Every schedule.
    fn schedules(&self) -> Found<Vec<Schedule>>;
    /// Past tasks of an id that finished after an instant, the newest first.
    fn past(&self, key: &Key, floor: Time, max: usize) -> Found<Vec<Block>>;
    /// The first instant after another at which a past task finished.
    fn first_past(&self, after: Time) -> Found<Option<Time>>;
    /// How much there is of past tasks.
    fn past_size(&self) -> Found<PastSize>;
    /// What was saved with the checkpoint; `None`: there was none.
    fn saved(&self) -> Found<Option<Saved>>;
    /// What writes a checkpoint, on whatever thread.
    fn writer(&self) -> Box<dyn Writer>;
    /// The rows as they are, for as long as the image is kept.
    fn image(&self) -> Found<Box<dyn Image>>;
    /// Begins a walk over the rows as they are; `None`: there is no disk to walk over.
    fn scrub(&self) -> Found<Option<StoreScrub>>;
    /// Sees what the last checkpoint has written.
    fn refresh(&mut self) -> Found<()>;
}

/// Writes a checkpoint.
pub trait Writer: Send + Sync {
    /// Writes a layer and what goes with it: all of it, durably, or nothing.
    fn write(&self, layer: &Layer, saved: &Saved) -> Found<()>;
}

/// The rows of one checkpoint, whatever is written meanwhile.
pub trait Image: Send {
    fn saved(&self) -> Found<Option<Saved>>;
    /// Records after one, with their histories, in order of numbers.
    fn records_after(&self, after: Option<Seq>, max: usize) -> Found<Vec<(Record, Vec<Row>)>>;
    /// Every schedule, in order of ids.
    fn schedules(&self) -> Found<Vec<Schedule>>;
    /// Every mark.
    fn marks(&self) -> Found<Vec<(Key, Mark)>>;
    /// Past tasks after a place, in order of finishing.
    fn past_after(&self, after: Option<(Time, Seq)>, max: usize) -> Found<Vec<Block>>;
    /// The same places, and the bytes that each takes, without reading what lies there.
    fn past_bytes_after(
        &self,
        after: Option<(Time, Seq)>,
        max: usize,
    ) -> Found<Vec<(Time, Seq, u64)>>;
    fn past_size(&self) -> Found<PastSize>;
}
