//! The regular duties that move tasks along, what they have done so far, and running one by hand.
//!
//! ```text
//! far ──load──► wheel ──trigger──► owner ──► done ──retire──► gone
//!                                  │   ▲
//!                                  └───┘ watchdog: what nobody holds is handed out again
//! ```
//!
//! Loading and checkpoints are each node's own; the watchdog and retirement are the leader's. Each
//! runs by itself with a period, and at once when it is asked for; never twice at a time.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bincode::{Decode, Encode};
use openraft::async_runtime::WatchReceiver;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::cluster::{Busy, Cluster};
use super::inner::Inner;
use super::peer::{CallError, Lane};
use super::{duties, upkeep, watchdog, wire};
use crate::model::{NodeId, decode, encode};

/// While no leader is known, a run by hand waits so long for one.
const LEADER_WITHIN: Duration = Duration::from_secs(1);
/// Between two looks for a leader.
const LOOK: Duration = Duration::from_millis(15);
/// A run by hand is awaited so long; it goes on when nobody waits any more.
const RUN_WITHIN: Duration = Duration::from_secs(120);

/// A regular duty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Duty {
    /// What is due soon comes from the store into the wheel.
    Load,
    /// What is due and nobody holds is handed out again.
    Watchdog,
    /// What is finished and old enough leaves.
    Retire,
    /// The state goes to the store, and the log below it may go.
    Checkpoint,
}

impl Duty {
    /// Every duty, as [`Duty::name`] calls them.
    pub const ALL: [Duty; 4] = [Duty::Load, Duty::Watchdog, Duty::Retire, Duty::Checkpoint];

    /// The name in the API, on the command line and in the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Duty::Load => "load",
            Duty::Watchdog => "watchdog",
            Duty::Retire => "retire",
            Duty::Checkpoint => "checkpoint",
        }
    }

    /// The duty with this name.
    pub fn named(name: &str) -> Option<Duty> {
        Duty::ALL.into_iter().find(|duty| duty.name() == name)
    }

    /// Whether only the leader does it.
    const fn is_the_leaders(self) -> bool {
        matches!(self, Duty::Watchdog | Duty::Retire)
    }
}

/// What one run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Handled {
    /// Tasks that were looked at.
    pub(crate) examined: u64,
    /// Tasks that were moved, handed out, dropped or written.
    pub(crate) handled: u64,
}

/// What a run by hand did, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Ran {
    /// The node that did it.
    pub node: NodeId,
    /// The log index it had folded, or, for a checkpoint, up to which the store holds everything.
    pub index: u64,
    /// Tasks that were looked at.
    pub examined: u64,
    /// Tasks that were moved into the wheel, handed out again, dropped, or written to the store.
    pub handled: u64,
    pub took_us: u64,
}

/// What one duty has done since this process started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub runs: u64,
    /// Tasks, as in [`Ran::handled`].
    pub handled: u64,
    /// The end of the last run; `None`: there was none.
    last: Option<Instant>,
    /// How long the last run took.
    pub took: Duration,
}

impl Tally {
    /// Since the last run ended; `None`: there was none.
    pub fn age(&self) -> Option<Duration> {
        self.last.map(|at| at.elapsed())
    }
}

/// The duties of one node.
#[derive(Default)]
pub(crate) struct Lifecycle {
    tallies: [Mutex<Tally>; 4],
    turns: [tokio::sync::Mutex<()>; 4],
    /// A checkpoint is wanted that covers this log index.
    pub(crate) wanted: AtomicU64,
    /// How far the past must give way.
    pub(super) surplus: tokio::sync::Mutex<duties::Surplus>,
    /// Wakes whoever makes checkpoints.
    pub(crate) wake: Notify,
}

impl Lifecycle {
    /// What a duty has done so far.
    pub(crate) fn tally(&self, duty: Duty) -> Tally {
        *self.tallies[duty as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a run that began at an instant and has just ended.
    pub(crate) fn note(&self, duty: Duty, began: Instant, handled: u64) {
        let mut tally = self.tallies[duty as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        tally.runs += 1;
        tally.handled += handled;
        tally.last = Some(Instant::now());
        tally.took = began.elapsed();
    }
}

/// Does a duty, when nobody else is at it, and counts it.
pub(crate) async fn run(inner: &Arc<Inner>, duty: Duty) -> Result<Handled, Busy> {
    let lifecycle = &inner.folded.lifecycle;
    let _turn = lifecycle.turns[duty as usize].lock().await;
    let began = Instant::now();
    let handled = match duty {
        Duty::Load => upkeep::load(inner).await?,
        Duty::Watchdog => watchdog::look(inner).await?,
        Duty::Retire => duties::retire(inner).await?,
        // It is counted where it is written, whoever asked for it.
        Duty::Checkpoint => return checkpoint(inner).await,
    };
    lifecycle.note(duty, began, handled.handled);
    Ok(handled)
}

/// Does a duty of the leader, or of every node, again and again; what fails is tried the next time.
pub(crate) async fn regularly(inner: &Arc<Inner>, duty: Duty, period: Duration) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(why) = run(inner, duty).await {
            tracing::debug!(duty = duty.name(), "not now: {why}");
        }
    }
}

/// Waits for a checkpoint that covers everything folded by now.
async fn checkpoint(inner: &Inner) -> Result<Handled, Busy> {
    let lifecycle = &inner.folded.lifecycle;
    let raft = inner.raft().ok_or(Busy::NoLeader)?;
    let wanted = *inner.folded.applied.borrow();
    let before = lifecycle.tally(Duty::Checkpoint).handled;
    lifecycle.wanted.fetch_max(wanted, Ordering::SeqCst);
    lifecycle.wake.notify_one();
    let mut metrics = raft.metrics();
    let made = async {
        loop {
            let index = metrics.borrow_watched().snapshot.map(|id| id.index());
            if let Some(index) = index.filter(|index| *index >= wanted) {
                // Whoever asked for it looks at it next.
                inner.note_checkpoint(index);
                return Ok(());
            }
            metrics.changed().await.map_err(|_| Busy::NoLeader)?;
        }
    };
    match tokio::time::timeout(RUN_WITHIN, made).await {
        Ok(made) => made?,
        Err(_) => return Err(Busy::Unknown),
    }
    let written = lifecycle.tally(Duty::Checkpoint).handled - before;
    Ok(Handled {
        examined: written,
        handled: written,
    })
}

/// A run by hand, on this node.
pub(crate) async fn run_here(inner: &Arc<Inner>, duty: Duty) -> Result<Ran, Busy> {
    if duty.is_the_leaders() && !inner.proposer.is_open() {
        return Err(Busy::NoLeader);
    }
    let began = Instant::now();
    let Handled { examined, handled } = run(inner, duty).await?;
    let index = match duty {
        Duty::Checkpoint => inner.raft().and_then(|raft| {
            let metrics = raft.metrics();
            let snapshot = metrics.borrow_watched().snapshot;
            snapshot.map(|id| id.index())
        }),
        _ => Some(*inner.folded.applied.borrow()),
    };
    Ok(Ran {
        node: inner.node,
        index: index.unwrap_or_default(),
        examined,
        handled,
        took_us: began.elapsed().as_micros() as u64,
    })
}

impl Cluster {
    /// Does a duty at once: here, or on the leader when it is the leader's.
    ///
    /// # Errors
    /// [`Busy::NoLeader`] when there is none; [`Busy::Unknown`] when it did not end in time.
    pub async fn run_duty(&self, duty: Duty) -> Result<Ran, Busy> {
        let start = Instant::now();
        loop {
            match self.run_once(duty).await {
                Err(Busy::NoLeader) if start.elapsed() < LEADER_WITHIN => {}
                ran => return ran,
            }
            #[allow(clippy::disallowed_methods)] // Until there is a leader.
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn run_once(&self, duty: Duty) -> Result<Ran, Busy> {
        let leader = self.0.leader();
        if !duty.is_the_leaders() || leader == Some(self.0.node) {
            return self.run_to_its_end(duty).await;
        }
        let leader = leader.ok_or(Busy::NoLeader)?;
        let member = self.0.members().remove(&leader).ok_or(Busy::NoLeader)?;
        let to = (leader, member.peer.as_str());
        let body = encode(&duty).into();
        let call = self
            .0
            .peers
            .call(to, Lane::Forward, wire::DUTY, body, RUN_WITHIN);
        match call.await {
            Ok(bytes) => match decode::<wire::Told>(&bytes).unwrap_or(Err(true)) {
                Ok(ran) => Ok(ran),
                Err(true) => Err(Busy::Unknown),
                Err(false) => Err(Busy::NoLeader),
            },
            Err(CallError::Lost { .. }) => Err(Busy::Unknown),
            Err(_) => Err(Busy::NoLeader),
        }
    }

    /// Also when the one who asked has gone.
    pub(crate) async fn run_to_its_end(&self, duty: Duty) -> Result<Ran, Busy> {
        let inner = self.0.clone();
        let ran = tokio::spawn(async move {
            tokio::select! {
                () = inner.stop.cancelled() => Err(Busy::Unknown),
                ran = run_here(&inner, duty) => ran,
            }
        });
        ran.await.unwrap_or(Err(Busy::Unknown))
    }

    /// What a duty has done on this node since its process started.
    pub fn tally(&self, duty: Duty) -> Tally {
        self.0.folded.lifecycle.tally(duty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_apart_and_have_an_age() {
        let lifecycle = Lifecycle::default();
        let began = Instant::now() - Duration::from_millis(30);
        assert!(lifecycle.tally(Duty::Retire).age().is_none());
        lifecycle.note(Duty::Retire, began, 7);
        lifecycle.note(Duty::Retire, began, 2);
        let tally = lifecycle.tally(Duty::Retire);
        assert_eq!((tally.runs, tally.handled), (2, 9));
        assert!(tally.took >= Duration::from_millis(30), "{tally:?}");
        assert!(tally.age().unwrap() < tally.took + Duration::from_secs(60));
        let load = lifecycle.tally(Duty::Load);
        assert!(load.runs == 0 && load.age().is_none());
    }

    #[test]
    fn duties_have_names() {
        for duty in Duty::ALL {
            assert_eq!(Duty::named(duty.name()), Some(duty));
            assert_eq!(decode::<Duty>(&encode(&duty)).unwrap(), duty);
        }
        assert_eq!(Duty::named("Load"), None);
    }
}
