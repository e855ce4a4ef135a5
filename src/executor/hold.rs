//! The holding thread: waits for due instants, to a tenth of a millisecond.
//!
//! A runtime's timers are a millisecond late and more under load; this thread sleeps on a
//! condition variable until shortly before the next instant, then watches the clock. It sleeps
//! no longer than a second at a time, because the wall clock may jump meanwhile.
//!
//! Where one thread does everything, as in a simulation, the same is a task of the runtime.

use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

use super::core::Core;
use super::flows::Reference;
use super::run::{Inner, LOOK_UP_MAX};
use crate::model::Time;

/// The longest sleep: how late a jump of the wall clock is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// A sleep ends so much before the instant; sleeps are late by 50 to 100 µs.
const MARGIN: Duration = Duration::from_micros(150);
/// Looks at the clock in one watch at most, in case it stands still.
const LOOKS_MAX: u32 = 4096;
/// References read from the state in one piece.
const PIECE: usize = 1024;
/// Batches of due attempts for each piece read, while both are there: what is in memory comes
/// first, and what is not does not starve.
const READ_EVERY: u32 = 8;

/// What to do next.
enum Work {
    Release(Vec<Reference>),
    Pump,
    Watch(Time),
    Read,
    Sleep(Duration),
    Stop,
}

/// Who waits for due instants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// A thread of its own: to a tenth of a millisecond.
    #[default]
    Thread,
    /// A task of the runtime: as fine as its timers.
    Task,
}

/// Wakes whoever holds.
#[derive(Default)]
pub(super) struct Bell {
    thread: Condvar,
    task: Notify,
}

impl Bell {
    pub(super) fn ring(&self) {
        self.thread.notify_one();
        self.task.notify_one();
    }
}

impl Inner {
    /// Runs until the executor stops.
    pub(super) fn hold(self: Arc<Self>) {
        let mut busy = 0u32;
        loop {
            busy = busy.wrapping_add(1);
            let mut core = self.lock();
            match self.next_work(&mut core) {
                Work::Sleep(sleep) => {
                    busy = 0;
                    let slept = self.due.thread.wait_timeout(core, sleep);
                    drop(slept.unwrap_or_else(PoisonError::into_inner));
                }
                Work::Watch(at) => {
                    drop(core);
                    self.watch(at);
                }
                Work::Stop => return,
                work => self.work(core, work, &mut busy),
            }
            if busy.is_multiple_of(READ_EVERY) {
                self.read_missing();
            }
        }
    }

    /// The same, as a task. A ring that comes before the sleep is kept.
    pub(super) async fn hold_as_task(self: Arc<Self>) {
        let mut busy = 0u32;
        loop {
            busy = busy.wrapping_add(1);
            let sleep = {
                let mut core = self.lock();
                match self.next_work(&mut core) {
                    Work::Sleep(sleep) => sleep,
                    Work::Watch(_) => MARGIN,
                    Work::Stop => return,
                    work => {
                        self.work(core, work, &mut busy);
                        Duration::ZERO
                    }
                }
            };
            if !sleep.is_zero() {
                busy = 0;
                // In vain only when nothing rang in time.
                let _ = tokio::time::timeout(sleep, self.due.task.notified()).await;
            }
            if busy.is_multiple_of(READ_EVERY) {
                self.read_missing();
            }
        }
    }

    fn work(self: &Arc<Self>, core: MutexGuard<'_, Core>, work: Work, busy: &mut u32) {
        drop(core);
        match work {
            Work::Release(due) => self.release_due(due),
            Work::Pump => {
                self.pump();
                self.give();
            }
            _ => *busy = 0,
        }
    }

    /// Decides under the lock.
    fn next_work(&self, core: &mut Core) -> Work {
        if core.stopping {
            return Work::Stop;
        }
        let steady = self.clock.steady();
        if core.wakes(steady) {
            return Work::Pump;
        }
        let now_us = self.clock.wall_us();
        let due = core.pop_due(Time(now_us / 1000), LOOK_UP_MAX);
        if !due.is_empty() {
            return Work::Release(due);
        }
        if core.wants_more() {
            return Work::Read;
        }
        let sleep = match core.next_at() {
            None => SLEEP_MAX,
            Some(at) => {
                let left = Duration::from_micros(at.0.saturating_mul(1000).saturating_sub(now_us));
                if left <= MARGIN {
                    return Work::Watch(at);
                }
                (left - MARGIN).min(SLEEP_MAX)
            }
        };
        let opens = core.targets.opens_at().map(|at| at.saturating_sub(steady));
        Work::Sleep(opens.map_or(sleep, |opens| sleep.min(opens)))
    }

    /// The last stretch: watches the wall clock, giving way to whoever else wants the core.
    fn watch(&self, at: Time) {
        for _ in 0..LOOKS_MAX {
            if self.clock.wall_us() >= at.0.saturating_mul(1000) {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// Reads one piece of what did not fit into memory, when there is room again.
    fn read_missing(&self) {
        let mut core = self.lock();
        if !core.wants_more() {
            return;
        }
        let Some((after, limit)) = core.start_reading(PIECE) else {
            return;
        };
        drop(core);
        let piece = (self.source.open_after)(Some(after), limit);
        self.lock().finish_reading(&piece, limit);
    }
}
