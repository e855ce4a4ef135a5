//! Regular work of every node: leases, snapshots, purges, and noticing that Raft has stopped.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::inner::Inner;
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

/// How often it is looked whether the window must move on.
const WINDOW_EVERY: Duration = Duration::from_secs(1);

/// When the state goes to the store, what of the log stays behind it, and how far ahead of its
/// time a task comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    /// A checkpoint is made when the log behind the last one holds so many entries, …
    pub entries: u64,
    /// …or so many histories of tasks that were retired since, or so many bytes of events, …
    pub bytes: u64,
    /// …or when something has changed and the last one is so old.
    pub age: Span,
    /// So many older entries stay, for followers that are a little behind.
    pub kept: u64,
    /// What is due within this time is loaded ahead.
    pub window: Span,
}

impl Default for Cadence {
    /// Replaying 64 MiB takes about a second. A follower that was restarted is 10,000 behind at
    /// most. Two minutes are two of the pieces in which the store keeps what is due.
    fn default() -> Cadence {
        Cadence {
            entries: 100_000,
            bytes: 64 << 20,
            age: Span::minutes(5),
            kept: 10_000,
            window: Span::minutes(2),
        }
    }
}

/// Renews the dispatch lease from what Raft knows of its quorum. Nothing is renewed while the
/// clock of this node is off, nor from an acknowledgement older than a suspension.
pub(crate) async fn leases(inner: Arc<Inner>, raft: Raft) {
    let mut ticks = tokio::time::interval(inner.timing.owner_lease() / LOOKS_PER_LEASE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    #[allow(clippy::disallowed_methods)]
    // What stands still in suspension, to be compared with what does not.
    let (started, steady_started) = (Instant::now(), inner.clock.steady());
    let mut suspended = Duration::ZERO;
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let steady = inner.clock.steady();
        let gap = steady
            .saturating_sub(steady_started)
            .saturating_sub(started.elapsed());
        if gap > suspended + SUSPENDED {
            suspended = gap;
            continue;
        }
        if inner.skewed.load(Ordering::SeqCst) || !inner.proposer.is_open() {
            continue;
        }
        if let Some(age) = quorum_age(&inner, &raft) {
            inner.rim.renew_lease(steady.saturating_sub(age));
        }
    }
}

/// How long ago this node, as leader, last knew of a quorum behind it.
fn quorum_age(inner: &Inner, raft: &Raft) -> Option<Duration> {
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
    let mut ticks = tokio::time::interval(WINDOW_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let until = inner.clock.wall().plus(inner.cadence.window);
        let (state, stop) = (inner.state.clone(), inner.stop.clone());
        let loaded = tokio::task::spawn_blocking(move || {
            // In pieces: the fold goes on between them.
            while !stop.is_cancelled() && !state.write(|state| state.load_ahead(until))? {}
            Ok::<(), StoreFault>(())
        });
        if let Ok(loaded) = loaded.await {
            inner.must(loaded);
        }
    }
}

/// Makes checkpoints and purges what they cover; one after the other, never both at once.
pub(crate) async fn logs(inner: Arc<Inner>, raft: Raft) {
    let (mut bytes_then, mut made_at) = (0, inner.clock.steady());
    let mut ticks = tokio::time::interval(LOG_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            _ = ticks.tick() => {}
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
        if inner.checkpoint.swap(snapshot, Ordering::Relaxed) < snapshot {
            let now = inner.clock.steady().as_millis() as u64;
            inner.checkpoint_at_ms.store(now, Ordering::Relaxed);
        }
        let Cadence {
            entries,
            bytes,
            age,
            kept,
            ..
        } = inner.cadence;
        let folded = inner.folded.bytes.load(Ordering::Relaxed);
        let now = inner.clock.steady();
        let old = now.saturating_sub(made_at) >= age.std() && inner.state.read(|s| s.dirty() > 0);
        // A few small entries may retire a herd, whose histories wait in memory for the store.
        let herd = inner.state.read(|s| s.past_waits()) as u64 >= entries;
        // Purging first: under load there is always a reason for the next checkpoint.
        if snapshot.saturating_sub(purged) >= kept.saturating_mul(2).max(1) {
            let _ = raft.trigger().purge_log(snapshot - kept).await;
        } else if applied.saturating_sub(snapshot) >= entries
            || folded - bytes_then >= bytes
            || old
            || herd
        {
            (bytes_then, made_at) = (folded, now);
            let _ = raft.trigger().snapshot().await;
        }
    }
}
