//! The writer: drains the queue, writes once, syncs once, calls back in order.
//!
//! There is no lingering: while one frame is being synced the next one gathers, so the batch grows
//! by itself with the load. A simulation calls [`Writer::step`] itself; in a process the thread
//! below does nothing else.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::engine::{Engine, Frame, Op};
use super::entry::Position;
use super::fault::LogFault;
use super::head::Head;
use super::state::{Change, Done, Request};
use super::store::Shared;
use super::tail::TAIL_BYTES_MAX;
use super::witness::Witness;

/// Rows a sweep takes out in one frame. Few enough not to hold up the entries that travel in the
/// same frame, many enough to keep ahead of any writer.
pub const SWEEP_ROWS: u64 = 1_024;

/// What a step found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A frame was written.
    Wrote,
    /// There was nothing to write.
    Idle,
    /// The log is closed or stopped by a fault; there will be nothing more to write.
    Over,
}

/// Makes the queue durable. There is one of them for a log.
pub struct Writer {
    shared: Arc<Shared>,
    engine: Arc<dyn Engine>,
    /// Only where the log lies in a directory of its own.
    witness: Option<Witness>,
    /// As of the last frame written.
    head: Head,
    /// Rows below this index belong to purged entries, or are none.
    sweep_to: u64,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        engine: Arc<dyn Engine>,
        witness: Option<Witness>,
        head: Head,
    ) -> Writer {
        let sweep_to = match head.bounds.purged {
            Some(purged) => (purged.index + 1).max(head.swept),
            None => head.swept,
        };
        Writer {
            shared,
            engine,
            witness,
            head,
            sweep_to,
        }
    }

    /// Writes everything that is queued as one frame, and calls back. Returns at
    /// once when there is nothing to do.
    pub fn step(&mut self) -> Step {
        let (requests, committed, closing) = {
            let mut state = self.shared.lock();
            if state.poisoned.is_some() {
                return Step::Over;
            }
            (state.take_queue(), state.committed, state.closing)
        };
        // A committed place alone is worth a frame only when it is the last chance.
        let noted = closing && committed != self.head.committed;
        let sweeping = !closing && self.head.swept < self.sweep_to;
        if requests.is_empty() && !noted && !sweeping {
            return if closing { Step::Over } else { Step::Idle };
        }
        self.shared.room.notify_all();
        self.write(requests, committed)
    }

    fn write(&mut self, requests: VecDeque<Request>, committed: Option<Position>) -> Step {
        let mut ops = Vec::new();
        let mut waiting = Vec::with_capacity(requests.len());
        let mut durable = 0;
        for request in requests {
            durable = request.number;
            self.plan(request.change, &mut ops);
            waiting.push(request.done);
        }
        self.head.committed = committed;
        self.head.frame += 1;
        match self.write_frame(ops) {
            Ok(()) => {
                {
                    let mut state = self.shared.lock();
                    state.syncs += 1;
                    state.tail.trim(durable, TAIL_BYTES_MAX);
                }
                waiting.into_iter().for_each(|done| done(Ok(())));
                Step::Wrote
            }
            Err(error) => {
                self.fail(error, waiting);
                Step::Over
            }
        }
    }

    fn write_frame(&mut self, mut ops: Vec<Op>) -> io::Result<()> {
        self.plan_sweep(&mut ops)?;
        self.engine.write(&Frame {
            ops,
            head: self.head.encode(),
        })?;
        match &self.witness {
            Some(witness) => witness.note(self.head.frame),
            None => Ok(()),
        }
    }

    /// Turns one request into rows, and keeps the head in step.
    fn plan(&mut self, change: Change, ops: &mut Vec<Op>) {
        match change {
            Change::Append(entries) => {
                if let Some(last) = entries.last() {
                    if self.head.bounds.last.is_none() {
                        self.head.swept = entries[0].at.index;
                        self.sweep_to = self.head.swept;
                    }
                    self.head.bounds.append(last.at);
                }
                ops.extend(entries.into_iter().map(Op::Put));
            }
            Change::Truncate(last) => {
                let end = self.head.bounds.next_index();
                self.head.bounds.truncate(last);
                let from = self.head.bounds.next_index().unwrap_or(0);
                if let Some(end) = end.filter(|end| from < *end) {
                    ops.push(Op::Remove(from..end));
                }
            }
            Change::Purge(upto) => {
                self.head.bounds.purge(upto);
                let purged = self.head.bounds.purged_index().map_or(0, |index| index + 1);
                self.sweep_to = self.sweep_to.max(purged);
            }
            Change::Vote(vote) => self.head.vote = Some(vote),
        }
    }

    /// Takes out another slice of what is purged. Entries are gone for readers as soon as the head
    /// says so; their rows follow at leisure, also after a restart.
    fn plan_sweep(&mut self, ops: &mut Vec<Op>) -> io::Result<()> {
        if self.head.swept >= self.sweep_to {
            return Ok(());
        }
        // After an installed snapshot the purged end may lie far beyond any row.
        let stored = self.engine.ends()?.map(|(first, _)| first);
        let coming = ops.iter().filter_map(|op| match op {
            Op::Put(entry) => Some(entry.at.index),
            Op::Remove(_) => None,
        });
        let first_row = stored
            .into_iter()
            .chain(coming)
            .min()
            .unwrap_or(self.sweep_to);
        let from = first_row.clamp(self.head.swept, self.sweep_to);
        let to = from.saturating_add(SWEEP_ROWS).min(self.sweep_to);
        ops.push(Op::Remove(from..to));
        self.head.swept = to;
        Ok(())
    }

    /// Stops the log for good and tells everybody.
    fn fail(&self, error: io::Error, waiting: Vec<Done>) {
        let why = error.to_string();
        let (hook, queued) = {
            let mut state = self.shared.lock();
            state.poisoned = Some(why.clone());
            (state.hook.take(), state.take_queue())
        };
        self.shared.room.notify_all();
        let fault = LogFault::io("writing the log", error);
        if let Some(hook) = hook {
            hook(&fault);
        }
        let queued = queued.into_iter().map(|request| request.done);
        for done in waiting.into_iter().chain(queued) {
            done(Err(LogFault::Poisoned { why: why.clone() }.into()));
        }
    }

    /// The thread's loop.
    pub(crate) fn run(mut self) {
        loop {
            match self.step() {
                Step::Wrote => {}
                Step::Idle => self.shared.wait_for_work(),
                Step::Over => return,
            }
        }
    }
}
