//! The scrub: looks for rot in this node's files, slowly, beside everything else.
//!
//! A pass walks the store (every record, its place in every index, the counts and the state hash),
//! then the log (every entry, that none is missing), and both files block by block, past all
//! caches. What it finds ends this node, with the place and the way out: a copy that is bent must
//! not be served, nor sent to others. They hold the same, and are not touched.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

use super::inner::Inner;
use super::runner::blocking;
use super::view::Scrubbed;
use crate::log::{LogFault, LogScrub, Slice};
use crate::model::Span;
use crate::state::{StoreFault, StoreScrub};

/// Read at once, and then paused for.
const SLICE_BYTES: usize = 256 << 10;
/// So much at least: a slower scrub would not come round.
pub const SCRUB_BYTES_PER_SECOND_MIN: u64 = 4 << 10;
/// Pauses shorter than this are saved up: timers are no finer.
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// How often files are gone through, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubPace {
    /// From the end of a pass to the next one; zero: only when it is asked for.
    pub every: Span,
    pub bytes_per_second: u64,
}

impl Default for ScrubPace {
    /// A store of 10 GiB takes twenty minutes, at a tenth of what a slow disk can read.
    fn default() -> ScrubPace {
        ScrubPace {
            every: Span::days(1),
            bytes_per_second: 8 << 20,
        }
    }
}

/// What the scrub says of itself.
#[derive(Default)]
pub(crate) struct Scrubbing {
    status: Mutex<Scrubbed>,
    place: Mutex<String>,
    now: Notify,
}

impl Scrubbing {
    fn status(&self) -> MutexGuard<'_, Scrubbed> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it came.
    pub(crate) fn scrubbed(&self) -> Scrubbed {
        *self.status()
    }

    /// Where it is, in words; empty between two passes.
    pub(crate) fn place(&self) -> String {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        place.clone()
    }

    fn at(&self, place: String) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }

    /// Begins a pass at once, without pauses.
    pub(crate) fn begin_now(&self) {
        self.now.notify_one();
    }
}

/// What is walked over, one after the other.
enum Walk {
    Store(Box<StoreScrub>),
    Log(LogScrub),
}

impl Walk {
    fn place(&self) -> String {
        match self {
            Walk::Store(scrub) => scrub.place(),
            Walk::Log(scrub) => scrub.place(),
        }
    }

    /// A step, and what is wrong by then. After a finding there are no more steps.
    fn step(&mut self) -> Result<Slice, Vec<String>> {
        match self {
            Walk::Store(scrub) => {
                let slice = scrub.step(SLICE_BYTES);
                let mut findings = scrub.verified().findings.clone();
                findings.extend(slice.as_ref().err().map(|StoreFault(why)| why.clone()));
                match slice {
                    Ok(slice) if findings.is_empty() => Ok(slice),
                    _ => Err(findings),
                }
            }
            Walk::Log(scrub) => scrub.step(SLICE_BYTES).map_err(|e| vec![e.to_string()]),
        }
    }
}

/// Pass after pass, until told to stop.
pub(crate) async fn run(inner: Arc<Inner>) {
    let every = inner.scrub_pace.every.std();
    // The first one at once: what rotted while the node was down is found early.
    let mut hurry = false;
    if every.is_zero() {
        match asked(&inner, Duration::MAX).await {
            Some(now) => hurry = now,
            None => return,
        }
    }
    loop {
        pass(&inner, hurry).await;
        let wait = if every.is_zero() {
            Duration::MAX
        } else {
            every
        };
        match asked(&inner, wait).await {
            Some(now) => hurry = now,
            None => return,
        }
    }
}

/// Waits for the next pass: whether it was asked for. `None`: the node stops.
async fn asked(inner: &Inner, wait: Duration) -> Option<bool> {
    tokio::select! {
        () = inner.stop.cancelled() => None,
        () = inner.scrub.now.notified() => Some(true),
        () = rest(wait) => Some(false),
    }
}

async fn rest(wait: Duration) {
    #[allow(clippy::disallowed_methods)] // The scrub's own slowness; it stops with the node.
    match wait {
        Duration::MAX => std::future::pending().await,
        wait => tokio::time::sleep(wait).await,
    }
}

/// One pass over everything. Ends early when the node stops.
async fn pass(inner: &Arc<Inner>, mut hurry: bool) {
    let began = inner.clock.steady();
    inner.scrub.status().bytes = 0;
    let (mut pause, mut tasks) = (Duration::ZERO, 0);
    for part in [store, log] {
        let mut walk = match part(inner) {
            Ok(Some(walk)) => walk,
            Ok(None) => continue,
            Err(why) => return found(inner, vec![why]),
        };
        loop {
            inner.scrub.at(walk.place());
            let step = move || {
                let slice = walk.step();
                (walk, slice)
            };
            let stepped = blocking(&*inner.runner, "scrubbing", step);
            // It catches panics over damaged pages itself; what else ends it ends the node.
            let Ok((back, slice)) = stepped.await else {
                return found(inner, vec!["the scrub itself failed".to_owned()]);
            };
            walk = back;
            let slice = match slice {
                Ok(slice) => slice,
                // A log that is closed under it is no finding.
                Err(_) if inner.stop.is_cancelled() => return,
                Err(findings) => return found(inner, findings),
            };
            inner.scrub.status().bytes += slice.bytes;
            if let Walk::Store(scrub) = &walk {
                tasks = scrub.verified().tasks;
            }
            if slice.done {
                break;
            }
            pause += Duration::from_secs(1).mul_f64(slice.bytes as f64 / pace(inner));
            if inner.stop.is_cancelled() {
                return;
            }
            if !hurry && pause > PAUSE_MIN {
                match asked(inner, std::mem::take(&mut pause)).await {
                    Some(now) => hurry = now,
                    None => return,
                }
            }
        }
    }
    let took = inner.clock.steady().saturating_sub(began);
    let mut status = inner.scrub.status();
    (status.passes, status.finished) = (status.passes + 1, inner.clock.wall());
    let at = inner.clock.steady().as_millis() as u64;
    inner.scrubbed_at_ms.store(at, Ordering::Relaxed);
    inner.scrub.at(String::new());
    let bytes = status.bytes;
    tracing::info!(
        bytes,
        tasks,
        ?took,
        "the scrub found nothing wrong in log and store"
    );
}

fn pace(inner: &Inner) -> f64 {
    let pace = inner.scrub_pace.bytes_per_second;
    pace.max(SCRUB_BYTES_PER_SECOND_MIN) as f64
}

type Begun = Result<Option<Walk>, String>;

fn store(inner: &Inner) -> Begun {
    let begun = inner.state.read(|state| state.scrub());
    let begun = begun.map_err(|StoreFault(why)| why)?;
    Ok(begun.map(|scrub| Walk::Store(Box::new(scrub))))
}

fn log(inner: &Inner) -> Begun {
    match inner.log.scrub() {
        Ok(scrub) => Ok(Some(Walk::Log(scrub))),
        // Closed, or stopped by a failed write: that was told.
        Err(LogFault::Closed | LogFault::Poisoned { .. }) => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}

/// Says each finding, and ends this node.
fn found(inner: &Inner, findings: Vec<String>) {
    let part = inner.scrub.place();
    let part = part.split(',').next().unwrap_or_default();
    for finding in &findings {
        tracing::error!("the scrub found damage in the {part}: {finding}");
    }
    inner.scrub.status().findings += findings.len() as u64;
    let first = findings.first().map_or("", String::as_str);
    (inner.fault)(format!(
        "its {part} is damaged on disk ({first}). The other nodes hold the same and are not \
         touched. Keep the directory for inspection (`horolog log verify {dir}` tells all), and \
         replace this node: add one under a new id, with an empty directory and --join; if its \
         disk was at fault, on another disk",
        dir = inner.dir.display()
    ));
}
