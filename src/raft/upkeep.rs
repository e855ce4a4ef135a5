//! Regular work of every node: leases, snapshots, purges, and noticing that Raft has stopped.

use std::collections::VecDeque;
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

/// A checkpoint that was asked for begins by then, or is asked for again.
const BEGINS_WITHIN: Duration = Duration::from_millis(100);

/// For a node that is taking in a snapshot so many times the usual bytes of the log are kept.
const HELD_TIMES: u64 = 8;

/// So far ahead is loaded whatever memory it takes: longer than it takes until the next look, and
/// than any lead.
const SOON: Span = Span::seconds(5);
/// How often it is looked whether the window must move on.
const WINDOW_EVERY: Duration = Duration::from_secs(1);

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
}

impl Default for Cadence {
    /// Replaying 64 MiB takes about a second, and 100,000 tasks take about as much and 100 MiB of
    /// memory. A follower that was restarted is 10,000 behind at most. A start walks through the
    /// log's file, and so through the bytes that are kept. Two minutes are two of the pieces in
    /// which the store keeps what is due, and 256 MiB have room for sixteen million tasks.
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
        let now = inner.clock.wall();
        let (soon, until) = (now.plus(SOON), now.plus(inner.cadence.window));
        let budget = inner.cadence.window_bytes as usize;
        let (state, stop) = (inner.state.clone(), inner.stop.clone());
        let loaded = tokio::task::spawn_blocking(move || {
            // In pieces: the fold goes on between them.
            while !stop.is_cancelled()
                && !state.write(|state| state.load_ahead(soon, until, budget))?
            {}
            Ok::<(), StoreFault>(())
        });
        if let Ok(loaded) = loaded.await {
            inner.must(loaded);
        }
    }
}

/// Makes checkpoints and purges what they cover; one after the other, never both at once.
pub(crate) async fn logs(inner: Arc<Inner>, raft: Raft) {
    let gathered = &inner.folded.gathered;
    let mut made_at = inner.clock.steady();
    let mut kept = Kept::default();
    let mut ticks = tokio::time::interval(LOG_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            _ = ticks.tick() => {}
            () = gathered.full.notified() => {}
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
        kept.note(snapshot, gathered.bytes_then());
        let Cadence { entries, age, .. } = inner.cadence;
        let now = inner.clock.steady();
        let old = now.saturating_sub(made_at) >= age.std() && inner.state.read(|s| s.dirty() > 0);
        let needed = inner.sending.needed_behind();
        if let Some(upto) = kept.purge(&inner.cadence, purged, needed) {
            let _ = raft.trigger().purge_log(upto).await;
        }
        if gathered.is_writing() {
            continue;
        }
        if applied.saturating_sub(snapshot) >= entries || gathered.is_full() || old {
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

/// How many bytes of events lie behind each of the last checkpoints.
#[derive(Default)]
struct Kept(VecDeque<(u64, u64)>);

impl Kept {
    /// A checkpoint reaches this index; so many bytes were folded when it began.
    fn note(&mut self, index: u64, bytes: u64) {
        if self.0.back().is_none_or(|(last, _)| *last < index) {
            self.0.push_back((index, bytes));
        }
    }

    /// Up to where the log may go, if that is worth the while. What follows `needed` stays for a
    /// node that is taking in a snapshot, up to a bound.
    fn purge(&mut self, cadence: &Cadence, purged: u64, needed: Option<u64>) -> Option<u64> {
        let (snapshot, bytes) = *self.0.back()?;
        let held = bytes - self.0.front()?.1;
        let needed = needed
            .filter(|_| held < cadence.kept_bytes.saturating_mul(HELD_TIMES))
            .unwrap_or(u64::MAX);
        let mut by_bytes = 0;
        while let Some((index, then)) = self.0.front()
            && self.0.len() > 1
            && *index <= needed
            && (bytes - then >= cadence.kept_bytes || *index <= purged)
        {
            by_bytes = *index;
            self.0.pop_front();
        }
        if by_bytes > purged {
            return Some(by_bytes);
        }
        let upto = snapshot.saturating_sub(cadence.kept).min(needed);
        (upto.saturating_sub(purged) >= cadence.kept.max(1)).then_some(upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cadence(kept: u64, kept_bytes: u64) -> Cadence {
        Cadence {
            kept,
            kept_bytes,
            ..Cadence::default()
        }
    }

    #[test]
    fn the_log_goes_by_entries() {
        let (mut kept, cadence) = (Kept::default(), cadence(100, u64::MAX));
        assert_eq!(kept.purge(&cadence, 0, None), None);
        kept.note(199, 1);
        assert_eq!(kept.purge(&cadence, 0, None), None);
        kept.note(200, 2);
        assert_eq!(kept.purge(&cadence, 0, None), Some(100));
        assert_eq!(kept.purge(&cadence, 100, None), None);
    }

    #[test]
    fn what_follows_a_snapshot_on_its_way_stays_for_a_while() {
        let (mut kept, cadence) = (Kept::default(), cadence(100, 1_000));
        kept.note(1_000, 0);
        assert_eq!(kept.purge(&cadence, 0, Some(500)), Some(500));
        kept.note(2_000, 7_999);
        assert_eq!(kept.purge(&cadence, 500, Some(500)), None);
        kept.note(3_000, 8_000);
        assert_eq!(kept.purge(&cadence, 500, Some(500)), Some(1_000), "no more");
    }

    #[test]
    fn few_large_entries_go_by_their_bytes() {
        let (mut kept, cadence) = (Kept::default(), cadence(10_000, 1_000));
        for (index, bytes) in [(10, 400), (20, 800), (20, 900), (30, 1_200)] {
            kept.note(index, bytes);
            assert_eq!(kept.purge(&cadence, 0, None), None, "at {index}");
        }
        kept.note(40, 1_800);
        assert_eq!(
            kept.purge(&cadence, 0, None),
            Some(20),
            "1,000 bytes stay behind it"
        );
        assert_eq!(kept.purge(&cadence, 20, None), None);
    }
}
