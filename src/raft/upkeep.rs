//! Regular work of every node: leases, snapshots, purges, and noticing that Raft has stopped.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

use super::cluster::Busy;
use super::inner::Inner;
use super::lifecycle::{self, Duty, Handled};
use super::margin::Margin;
use super::runner::blocking;
use super::types::Raft;
use crate::model::Span;
use crate::state::StoreFault;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

/// The dispatch lease is looked after so many times while it lasts: often enough that one look that
/// comes late costs nothing, seldom enough that an idle node sleeps.
const LOOKS_PER_LEASE: u32 = 10;
/// A difference between a clock that counts suspended time and one that does not, beyond which the
/// machine was suspended.
const SUSPENDED: Duration = Duration::from_millis(25);
/// How often log and snapshot are looked after.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// A checkpoint that was asked for begins by then, or is asked for again.
const BEGINS_WITHIN: Duration = Duration::from_millis(100);

/// When the state goes to the store, what of the log stays behind it, and how far ahead of its
/// time a task comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    /// A checkpoint is made when the log behind the last one holds so many entries, …
    pub entries: u64,
    /// …or so many tasks have changed, were read, or left a history since, …
    pub tasks: u64,
    /// …or it has so many bytes of events, …
    pub bytes: u64,
    /// …or when something has changed and the last one is so old.
    pub age: Span,
    /// So many older entries stay, for followers that are a little behind, …
    pub kept: u64,
    /// …unless these have more bytes of events than this.
    pub kept_bytes: u64,
    /// What is due within this time is loaded ahead, …
    pub window: Span,
    /// …while what was loaded takes less memory than this.
    pub window_bytes: u64,
    /// How often it is looked whether the window must move on.
    pub load_period: Span,
}

impl Default for Cadence {
    /// Replaying 64 MiB takes about a second, and 100,000 tasks take about as much and 100 MiB of
    /// memory. A follower that was restarted is 10,000 behind at most. A start walks through the
    /// log's file, and so through the bytes that are kept. 256 MiB
    /// have room for sixteen million tasks.
    fn default() -> Cadence {
        Cadence {
            entries: 100_000,
            tasks: 100_000,
            bytes: 64 << 20,
            age: Span::minutes(5),
            kept: 10_000,
            kept_bytes: 128 << 20,
            window: Span::minutes(2),
            window_bytes: 256 << 20,
            load_period: Span::seconds(1),
        }
    }
}

/// On the leader, renews its own dispatch lease and notes what it may grant to others, from what
/// Raft knows of its quorum. Nothing is renewed while the
/// clock of this node is off, nor from an acknowledgement older than a suspension.
pub(crate) async fn leases(inner: Arc<Inner>, raft: Raft) {
    let mut ticks = tokio::time::interval(inner.timing.owner_lease() / LOOKS_PER_LEASE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut wakes = Wakes::new(inner.clock.steady());
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let steady = inner.clock.steady();
        wakes.look(steady);
        if inner.skewed.load(Ordering::SeqCst) || !inner.proposer.is_open() {
            continue;
        }
        if let Some(age) = quorum_age(&inner, &raft).filter(|age| wakes.is_since(*age)) {
            let contact = steady.saturating_sub(age);
            inner.leases.quorum(contact);
            inner.rim.renew_lease(contact);
        }
    }
}

/// Finds out that this machine was suspended, from a clock that stands still then and one that does
/// not. An age by the former is wrong for whatever lies before that.
struct Wakes {
    started: Instant,
    steady_started: Duration,
    suspended: Duration,
    /// When it was found awake again.
    last: Option<Instant>,
}

impl Wakes {
    fn new(steady: Duration) -> Wakes {
        Wakes {
            started: Instant::now(),
            steady_started: steady,
            suspended: Duration::ZERO,
            last: None,
        }
    }

    /// Compares the clocks.
    fn look(&mut self, steady: Duration) {
        let whole = steady.saturating_sub(self.steady_started);
        let gap = whole.saturating_sub(self.started.elapsed());
        if gap > self.suspended + SUSPENDED {
            self.suspended = gap;
            self.last = Some(Instant::now());
        }
    }

    /// Whether what is so old has come after it was found awake last.
    fn is_since(&self, age: Duration) -> bool {
        self.last.is_none_or(|last| age < last.elapsed())
    }
}

/// How long ago this node, as leader, last knew of a quorum behind it.
fn quorum_age(inner: &Inner, raft: &Raft) -> Option<Duration> {
    #[allow(clippy::disallowed_methods)] // Looked at again and again.
    let leader = raft.as_leader().ok()?;
    if inner.voters() == [inner.node] {
        return Some(Duration::ZERO);
    }
    leader
        .last_quorum_acked()
        .map(|at| openraft::Instant::elapsed(&at))
}

/// Loads what is due soon, so that a trigger finds it in memory.
pub(crate) async fn window(inner: Arc<Inner>) {
    let period = inner.cadence.load_period.std();
    tokio::select! {
        () = inner.stop.cancelled() => {}
        () = lifecycle::regularly(&inner, Duty::Load, period) => {}
    }
}

/// Moves the window on to where it should be by now.
///
/// # Errors
/// The store cannot be read; the node ends.
pub(crate) async fn load(inner: &Inner) -> Result<Handled, Busy> {
    let until = inner.clock.wall().plus(inner.cadence.window);
    let budget = inner.cadence.window_bytes as usize;
    let (state, stop) = (inner.state.clone(), inner.stop.clone());
    let load = move || {
        let mut tasks = 0;
        // In pieces: the fold goes on between them.
        while !stop.is_cancelled() {
            let loaded = state.write(|state| state.load_ahead(until, budget))?;
            tasks += loaded.tasks as u64;
            if loaded.done {
                break;
            }
        }
        Ok::<u64, StoreFault>(tasks)
    };
    let loaded = blocking(&*inner.runner, "loading ahead", load).await;
    let tasks = inner.must(loaded.map_err(|_| Busy::Fault)?);
    Ok(Handled {
        examined: tasks,
        handled: tasks,
    })
}

/// Makes checkpoints and purges what they cover; one after the other, never both at once.
pub(crate) async fn logs(inner: Arc<Inner>, raft: Raft) {
    let (gathered, lifecycle) = (&inner.folded.gathered, &inner.folded.lifecycle);
    let mut made_at = inner.clock.steady();
    let mut margin = Margin::new(inner.cadence.kept, inner.cadence.kept_bytes);
    let mut purging = 0;
    let mut ticks = tokio::time::interval(LOG_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            _ = ticks.tick() => {}
            () = gathered.full.notified() => {}
            () = lifecycle.wake.notified() => {}
        }
        let (applied, snapshot, purged, stopped) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let index = |id: &Option<super::types::LogId>| id.map_or(0, |id| id.index());
            let stopped = metrics.running_state.clone().err().map(|e| e.to_string());
            let shut = metrics.state == ServerState::Shutdown;
            let stopped = stopped.or(shut.then(|| "it was shut down".to_owned()));
            (
                index(&metrics.last_applied),
                index(&metrics.snapshot),
                index(&metrics.purged),
                stopped,
            )
        };
        if let Some(why) = stopped {
            if !inner.stop.is_cancelled() {
                (inner.fault)(format!("Raft has stopped: {why}"));
            }
            return;
        }
        inner.note_checkpoint(snapshot);
        margin.note(applied, gathered.bytes());
        let needed = inner.sending.needed_behind();
        // Only once: what a follower is being sent is purged later.
        let purge = margin.purge(snapshot, purged, needed);
        if let Some(upto) = purge.filter(|upto| *upto > purging) {
            purging = upto;
            let _ = raft.trigger().purge_log(upto).await;
        }
        if gathered.is_writing() {
            continue;
        }
        let Cadence { entries, age, .. } = inner.cadence;
        let now = inner.clock.steady();
        let old = now.saturating_sub(made_at) >= age.std() && inner.state.read(|s| s.dirty() > 0);
        let wanted = lifecycle.wanted.load(Ordering::SeqCst) > snapshot;
        let far = applied.saturating_sub(snapshot) >= entries || gathered.is_full();
        if far || old || wanted {
            made_at = now;
            let mut writing = gathered.watch();
            let _ = raft.trigger().snapshot().await;
            // Raft does not begin while it is still busy with the end of the one before.
            let began = tokio::time::timeout(BEGINS_WITHIN, writing.changed()).await;
            if began.is_err() && gathered.is_full() {
                gathered.full.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_lies_before_a_suspension_does_not_count() {
        const S: Duration = Duration::from_secs(1);
        let mut wakes = Wakes::new(S);
        tokio::time::advance(S).await;
        wakes.look(S * 2);
        assert!(wakes.is_since(S), "it was awake all the time");
        // Ten seconds, of which it slept nine.
        tokio::time::advance(S).await;
        wakes.look(S * 12);
        assert!(!wakes.is_since(Duration::ZERO), "from before, or unknown");
        tokio::time::advance(S).await;
        wakes.look(S * 13);
        assert!(wakes.is_since(S / 2) && !wakes.is_since(S * 3 / 2));
    }
}
