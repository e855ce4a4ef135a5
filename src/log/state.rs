//! What the log is as its callers see it, and the queue of what the disk does not know yet.
//!
//! One lock guards both, so that the order in which requests change what is readable is the order
//! in which the writer makes them durable.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::bounds::Bounds;
use super::engine::Engine;
use super::entry::{Entry, Position};
use super::fault::LogFault;
use super::head::Head;
use super::tail::Tail;

/// Called once with the fate of a request: durable, or never to be.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Called when the log stops for good.
pub(crate) type FaultHook = Box<dyn Fn(&LogFault) + Send + Sync>;

/// An append waits while the queue holds more than this. It bounds memory and the size of one
/// write when the disk falls behind, at about a tenth of a second of a fast disk.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// The same for requests, however small they are.
pub const QUEUE_REQUESTS_MAX: usize = 16_384;
/// What a request costs in the queue beside its payload.
const REQUEST_BYTES: usize = 64;

pub(crate) enum Change {
    Append(Vec<Entry>),
    /// The log ends here now.
    Truncate(Option<Position>),
    Purge(Position),
    Vote(Bytes),
}

pub(crate) struct Request {
    pub(crate) number: u64,
    pub(crate) change: Change,
    pub(crate) done: Done,
}

pub(crate) struct State {
    /// Released on close, so that the directory is free while handles are still about.
    pub(crate) engine: Option<Arc<dyn Engine>>,
    pub(crate) bounds: Bounds,
    /// Index of the first live entry, when there is one.
    pub(crate) first: u64,
    pub(crate) tail: Tail,
    pub(crate) vote: Option<Bytes>,
    /// As noted, perhaps ahead of the log's end.
    pub(crate) committed: Option<Position>,
    /// Rises whenever entries go away, so that a reader knows that it read across a change.
    pub(crate) cuts: u64,
    pub(crate) queue: VecDeque<Request>,
    queued_bytes: usize,
    last_number: u64,
    pub(crate) closing: bool,
    pub(crate) poisoned: Option<String>,
    pub(crate) hook: Option<FaultHook>,
    pub(crate) syncs: u64,
}

impl State {
    pub(crate) fn new(engine: Arc<dyn Engine>, head: &Head, first: u64) -> State {
        State {
            engine: Some(engine),
            bounds: head.bounds,
            first,
            tail: Tail::default(),
            vote: head.vote.clone(),
            committed: head.committed,
            cuts: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            last_number: 0,
            closing: false,
            poisoned: None,
            hook: None,
            syncs: 0,
        }
    }

    /// The engine, if the log still works.
    pub(crate) fn working(&self) -> Result<&Arc<dyn Engine>, LogFault> {
        if let Some(why) = &self.poisoned {
            return Err(LogFault::Poisoned { why: why.clone() });
        }
        match &self.engine {
            Some(engine) if !self.closing => Ok(engine),
            _ => Err(LogFault::Closed),
        }
    }

    /// Whether a request of this size has to wait. An empty queue takes anything.
    pub(crate) fn is_full(&self, bytes: usize) -> bool {
        let over = self.queued_bytes + bytes > QUEUE_BYTES_MAX;
        !self.queue.is_empty() && (over || self.queue.len() >= QUEUE_REQUESTS_MAX)
    }

    /// Live entries; indexes are consecutive.
    pub(crate) fn entry_count(&self) -> u64 {
        match self.bounds.next_index() {
            Some(next) if !self.bounds.is_empty() => next - self.first,
            _ => 0,
        }
    }

    pub(crate) fn append(&mut self, entries: Vec<Entry>, done: Done) {
        let Some(last) = entries.last().map(|entry| entry.at) else {
            return;
        };
        if self.bounds.is_empty() {
            self.first = entries[0].at.index;
        }
        self.bounds.append(last);
        let number = self.last_number + 1;
        for entry in &entries {
            self.tail.push(entry.clone(), number);
        }
        self.enqueue(Change::Append(entries), done);
    }

    pub(crate) fn truncate(&mut self, last: Option<Position>, done: Done) {
        self.bounds.truncate(last);
        self.tail.truncate(self.bounds.last.map(|last| last.index));
        self.cuts += 1;
        self.enqueue(Change::Truncate(last), done);
    }

    pub(crate) fn purge(&mut self, upto: Position, done: Done) {
        self.bounds.purge(upto);
        self.first = self.first.max(upto.index + 1);
        self.tail.purge(upto.index);
        self.cuts += 1;
        self.enqueue(Change::Purge(upto), done);
    }

    pub(crate) fn save_vote(&mut self, vote: Bytes, done: Done) {
        self.vote = Some(vote.clone());
        self.enqueue(Change::Vote(vote), done);
    }

    fn enqueue(&mut self, change: Change, done: Done) {
        self.last_number += 1;
        self.queued_bytes += cost(&change);
        self.queue.push_back(Request {
            number: self.last_number,
            change,
            done,
        });
    }

    /// Takes the whole queue; its bound is the bound of one write.
    pub(crate) fn take_queue(&mut self) -> VecDeque<Request> {
        self.queued_bytes = 0;
        std::mem::take(&mut self.queue)
    }
}

fn cost(change: &Change) -> usize {
    REQUEST_BYTES
        + match change {
            Change::Append(entries) => bytes_of(entries),
            Change::Vote(vote) => vote.len(),
            Change::Truncate(_) | Change::Purge(_) => 0,
        }
}

/// What entries take as frames.
pub(crate) fn bytes_of(entries: &[Entry]) -> usize {
    entries.iter().map(Entry::frame_len).sum()
}
