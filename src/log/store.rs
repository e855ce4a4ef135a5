//! The log as the rest of the process sees it.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use super::bounds::{Bounds, committed_within};
use super::engine::Engine;
use super::engine_redb::{self, RedbEngine};
use super::entry::{Entry, PAYLOAD_BYTES_MAX, Position};
use super::fault::LogFault;
use super::files;
use super::read;
use super::state::{Done, FaultHook, State, bytes_of};
use super::witness::Witness;
use super::writer::Writer;

/// The engines a log can be kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    #[default]
    Redb,
    /// Only in a binary built with the `sled` feature; elsewhere opening says so.
    Sled,
}

/// What an operator may want to know about the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogStatus {
    pub engine: &'static str,
    /// What an acknowledged write survives.
    pub durability: &'static str,
    /// Live entries.
    pub entries: u64,
    /// Bytes on disk, free pages included.
    pub bytes: u64,
    /// Frames made durable since opening.
    pub syncs: u64,
    /// Requests that wait for the writer.
    pub queued: usize,
    /// Why the log stopped, if it did.
    pub fault: Option<String>,
}

/// The log: entries, vote and committed place of one node. Clones share it; the last one to go
/// closes it.
///
/// Every change goes through one ordered queue to one writer thread. It can be read as soon as the
/// call returns, and `done` is called from the writer's thread, in order, once it is durable. A
/// change that cannot be accepted at all gets its error at once, from the caller's thread.
#[derive(Clone)]
pub struct LogStore {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// A log that is stepped by hand must not wait for room that only its own caller can make.
    waits: bool,
}

/// What callers and the writer share.
pub(crate) struct Shared {
    state: Mutex<State>,
    work: Condvar,
    /// Told of work as well, where there is no thread that waits for it.
    stepper: OnceLock<Stepper>,
    pub(crate) room: Condvar,
}

/// Tells whoever steps the writer that there is work.
type Stepper = Box<dyn Fn() + Send + Sync>;

impl Shared {
    /// The state is left whole by every piece of code that holds the lock, so that a panic
    /// elsewhere in the process cannot make it unusable.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// Says that there is work, or that there will be none.
    fn ring(&self) {
        // There is one writer.
        self.work.notify_one();
        if let Some(stepper) = self.stepper.get() {
            stepper();
        }
    }

    pub(crate) fn wait_for_work(&self) {
        let state = self.lock();
        let idle = |state: &mut State| state.queue.is_empty() && !state.closing;
        drop(self.work.wait_while(state, idle));
    }
}

impl LogStore {
    /// Opens the log of a data directory, or begins one, and starts its writer thread.
    ///
    /// # Errors
    /// When the directory is in use, was written by the other engine, or holds damaged files.
    pub fn open(dir: &Path, engine: EngineKind) -> Result<LogStore, LogFault> {
        files::make_folder(dir)?;
        let other = match engine {
            EngineKind::Redb => (SLED_FOLDER, "sled"),
            EngineKind::Sled => (engine_redb::FILE, "redb"),
        };
        if dir.join(other.0).exists() {
            return Err(LogFault::OtherEngine {
                dir: dir.to_owned(),
                found: other.1,
            });
        }
        let engine: Box<dyn Engine> = match engine {
            EngineKind::Redb => Box::new(RedbEngine::open(dir)?),
            #[cfg(feature = "sled")]
            EngineKind::Sled => Box::new(super::engine_sled::SledEngine::open(dir)?),
            #[cfg(not(feature = "sled"))]
            EngineKind::Sled => return Err(LogFault::NotCompiledIn),
        };
        LogStore::threaded(engine, Some(Witness::open(dir)?))
    }

    /// Opens a log on an engine of the caller's, with a writer thread.
    pub fn with_engine(engine: Box<dyn Engine>) -> Result<LogStore, LogFault> {
        LogStore::threaded(engine, None)
    }

    fn threaded(engine: Box<dyn Engine>, witness: Option<Witness>) -> Result<LogStore, LogFault> {
        let (store, writer) = LogStore::build(engine, witness, true)?;
        let thread = thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| LogFault::io("starting the log's writer thread", source))?;
        *store
            .handle
            .thread
            .lock()
            .unwrap_or_else(|poison| poison.into_inner()) = Some(thread);
        Ok(store)
    }

    /// Opens a log without a thread: the caller steps the writer. Appends never wait for room.
    pub fn stepped(engine: Box<dyn Engine>) -> Result<(LogStore, Writer), LogFault> {
        LogStore::build(engine, None, false)
    }

    fn build(
        engine: Box<dyn Engine>,
        witness: Option<Witness>,
        waits: bool,
    ) -> Result<(LogStore, Writer), LogFault> {
        let engine: Arc<dyn Engine> = engine.into();
        let seen = witness.as_ref().map_or(0, |witness| witness.seen);
        let (head, first) = read::recover(&*engine, seen)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(engine.clone(), &head, first)),
            work: Condvar::new(),
            stepper: OnceLock::new(),
            room: Condvar::new(),
        });
        let writer = Writer::new(shared.clone(), engine, witness, head);
        let handle = Handle {
            shared,
            thread: Mutex::new(None),
            waits,
        };
        Ok((
            LogStore {
                handle: Arc::new(handle),
            },
            writer,
        ))
    }

    /// Sets what to call, once and for all, whenever there is work for the writer of a log that
    /// is stepped. It may be called under a lock of the caller's: it must only take note.
    pub fn on_work(&self, stepper: impl Fn() + Send + Sync + 'static) {
        // The first one stays.
        let _ = self.shared().stepper.set(Box::new(stepper));
    }

    /// Where the log begins and ends, with everything accepted so far.
    pub fn bounds(&self) -> Bounds {
        self.shared().lock().bounds
    }

    /// Appends entries that continue the log. They are readable when this returns.
    ///
    /// When the writer is behind by [`QUEUE_BYTES_MAX`](super::QUEUE_BYTES_MAX) or
    /// [`QUEUE_REQUESTS_MAX`](super::QUEUE_REQUESTS_MAX) the call blocks until it has caught
    /// up: a disk that cannot follow must be felt, not hidden in memory.
    pub fn append(&self, entries: Vec<Entry>, done: Done) {
        let bytes = bytes_of(&entries);
        self.change(bytes, done, |state, done| {
            if let Err(fault) = check(state.bounds.next_index(), &entries) {
                return Some((done, fault));
            }
            if entries.is_empty() {
                let end = state.bounds.last;
                state.truncate(end, done);
            } else {
                state.append(entries, done);
            }
            None
        });
    }

    /// Removes every entry behind `last_kept`, or all of them.
    pub fn truncate_after(&self, last_kept: Option<u64>, done: Done) {
        self.change(0, done, |state, done| {
            match read::position_of(state, last_kept) {
                Ok(last) => {
                    state.truncate(last, done);
                    None
                }
                Err(fault) => Some((done, fault)),
            }
        });
    }

    /// Gives up every entry up to `upto`, which may lie beyond the log's end: after an installed
    /// snapshot the log goes on behind it.
    pub fn purge(&self, upto: Position, done: Done) {
        self.change(0, done, |state, done| {
            state.purge(upto, done);
            None
        });
    }

    /// Saves a vote, in order with the entries.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        self.change(vote.len(), done, |state, done| {
            state.save_vote(vote, done);
            None
        });
    }

    /// The vote last accepted by [`LogStore::save_vote`].
    pub fn vote(&self) -> Option<Bytes> {
        self.shared().lock().vote.clone()
    }

    /// Notes what is committed, in memory. It is written with the next frame, whatever that is
    /// for, and when the log is closed.
    pub fn note_committed(&self, at: Option<Position>) {
        self.shared().lock().committed = at;
    }

    /// What was noted, but never beyond the last entry.
    pub fn committed(&self) -> Option<Position> {
        let state = self.shared().lock();
        committed_within(state.committed, state.bounds.last)
    }

    /// The entries of the range that are in the log, consecutive, at least one if there is any,
    /// and no more than `max_bytes` of frames after the first. `usize::MAX` means all.
    ///
    /// # Errors
    /// [`LogFault::Damaged`] and [`LogFault::Missing`] when the disk does not give back what was
    /// written; nothing of such a read is returned.
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, LogFault> {
        read::read(self.shared(), range, max_bytes)
    }

    /// Sets what to call, once, when a write fails and the log stops for good. Called at once if
    /// that has happened already.
    pub fn on_fault(&self, hook: FaultHook) {
        let fault = {
            let mut state = self.shared().lock();
            match state.poisoned.clone() {
                Some(why) => LogFault::Poisoned { why },
                None => {
                    state.hook = Some(hook);
                    return;
                }
            }
        };
        hook(&fault);
    }

    pub fn status(&self) -> LogStatus {
        let state = self.shared().lock();
        let engine = state.engine.as_deref();
        LogStatus {
            engine: engine.map_or("closed", |engine| engine.name()),
            durability: engine.map_or("closed", |engine| engine.promise()),
            entries: state.entry_count(),
            bytes: engine.map_or(0, |engine| engine.bytes_on_disk()),
            syncs: state.syncs,
            queued: state.queue.len(),
            fault: state.poisoned.clone(),
        }
    }

    /// Makes everything accepted durable, stops the writer and releases the files. Later calls
    /// fail with [`LogFault::Closed`].
    pub fn close(&self) {
        self.handle.close();
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Applies a change under the lock and wakes the writer, or answers with the fault that
    /// `apply` hands back together with `done`.
    fn change(
        &self,
        bytes: usize,
        done: Done,
        apply: impl FnOnce(&mut State, Done) -> Option<(Done, LogFault)>,
    ) {
        let refused = {
            let mut state = self.shared().lock();
            while self.handle.waits && state.working().is_ok() && state.is_full(bytes) {
                state = self
                    .shared()
                    .room
                    .wait(state)
                    .unwrap_or_else(|poison| poison.into_inner());
            }
            match state.working().map(|_| ()) {
                Ok(()) => apply(&mut state, done),
                Err(fault) => Some((done, fault)),
            }
        };
        match refused {
            None => self.shared().ring(),
            Some((done, fault)) => done(Err(io::Error::from(fault))),
        }
    }
}

impl Handle {
    fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.ring();
        self.shared.room.notify_all();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
            .take();
        if let Some(thread) = thread {
            // The last handle may go away inside a callback, on the writer's own thread.
            if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                let mut state = self.shared.lock();
                state
                    .poisoned
                    .get_or_insert_with(|| "the writer thread panicked".to_owned());
            }
        }
        let engine = self.shared.lock().engine.take();
        drop(engine);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

/// Where sled would keep its log; named here so that a binary without sled still knows it.
const SLED_FOLDER: &str = "log.sled";

/// Whether the entries continue a log whose next index is `next`.
fn check(next: Option<u64>, entries: &[Entry]) -> Result<(), LogFault> {
    let start = match (next, entries.first()) {
        (Some(next), _) => next,
        (None, Some(first)) => first.at.index,
        (None, None) => return Ok(()),
    };
    for (expected, entry) in (start..).zip(entries) {
        let (got, bytes) = (entry.at.index, entry.payload.len());
        if got != expected {
            return Err(LogFault::NotConsecutive { expected, got });
        }
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(LogFault::TooLarge {
                index: got,
                bytes,
                max: PAYLOAD_BYTES_MAX,
            });
        }
    }
    Ok(())
}
