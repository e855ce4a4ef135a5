//! What the parts of this floor share.

use openraft::async_runtime::WatchReceiver;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::errand::HandlerNames;
use super::lease::Leases;
use super::machine::Folded;
use super::peer::{Peers, Self_};
use super::proposer::Proposer;
use super::receive::Receiving;
use super::rim::Rim;
use super::room::{Room, Watermark};
use super::runner::Runner;
use super::scrub::{ScrubPace, Scrubbing};
use super::sending::Sending;
use super::snapshots::Snapshots;
use super::timing::Timing;
use super::types::{Member, Raft};
use super::upkeep::Cadence;
use super::view::{Facts, Registry};
use super::waiting::Class;
use super::watchdog::Watch;
use super::wire::Verdict;
use crate::log::LogStore;
use crate::model::limits::HASHES_KEPT;
use crate::model::{Boot, Clock, Event, NodeId, Span};
use crate::state::{Shared, StoreFault};

/// How long finished tasks are kept, which, and their histories after them.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Those done or cancelled.
    pub finished: Span,
    pub dead: Span,
    /// Completions that came before their submit.
    pub marks: Span,
    /// Only dead tasks are kept: the others leave as soon as whoever waits for one has seen it.
    pub failures_only: bool,
    /// How often it is looked what is old enough.
    pub period: Span,
    /// After the end of the task; zero: its history leaves with it.
    pub history: Span,
    /// What histories of retired tasks may take in the store; the oldest give way.
    pub history_bytes: u64,
}

/// What is done or cancelled stays for so long at least: somebody may be waiting for the outcome,
/// or send the same submit again because an answer was lost.
const FINISHED_LEAST: Span = Span::minutes(1);

impl Retention {
    /// How long what is done or cancelled is kept.
    pub(crate) fn finished(&self) -> Span {
        match self.failures_only {
            true => self.finished.min(FINISHED_LEAST),
            false => self.finished,
        }
    }
}

/// What is further off.
fn worse(one: i64, other: i64) -> i64 {
    match one.abs() >= other.abs() {
        true => one,
        false => other,
    }
}

/// One node's part in the cluster, shared by its tasks.
pub(crate) struct Inner {
    pub(crate) me: Mutex<Self_>,
    pub(crate) node: NodeId,
    pub(crate) boot: Boot,
    pub(crate) dir: std::path::PathBuf,
    pub(crate) http: String,
    pub(crate) peer: String,
    /// What this node is set to be called, for placement.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) handlers: HandlerNames,
    pub(crate) timing: Timing,
    pub(crate) retention: Retention,
    pub(crate) cadence: Cadence,
    pub(crate) scrub_pace: ScrubPace,
    pub(crate) watch: Watch,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) log: LogStore,
    pub(crate) state: Shared,
    pub(crate) folded: Arc<Folded>,
    pub(crate) raft: OnceLock<Raft>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) proposer: Arc<Proposer>,
    pub(crate) registry: Registry,
    pub(crate) leases: Leases,
    /// Ordinary votes are refused before this instant: µs of the steady clock.
    pub(crate) votes_from_us: AtomicU64,
    /// This node is about to stop: it is to own nothing.
    pub(crate) leaving: AtomicBool,
    /// So an operator asked: likewise, until it is taken back or the node starts again.
    pub(crate) drained: AtomicBool,
    /// A node that was not heard for so long is listed as dead.
    pub(crate) node_timeout: Duration,
    /// Heartbeats go out at once.
    pub(crate) beat: Notify,
    pub(crate) rim: Arc<dyn Rim>,
    pub(crate) snapshots: Snapshots,
    pub(crate) sending: Arc<Sending>,
    pub(crate) receiving: Mutex<Receiving>,
    /// The clock is off: this node neither leads nor starts anything.
    pub(crate) skewed: AtomicBool,
    /// When this node was first told that it is no member any more, on the steady clock.
    pub(crate) removed: OnceLock<Duration>,
    pub(crate) skew_us: std::sync::atomic::AtomicI64,
    /// How far ahead of their instant tasks are triggered, µs.
    pub(crate) lead_us: AtomicU64,
    /// Log index of the newest snapshot.
    pub(crate) checkpoint: AtomicU64,
    /// When it was made, or this node started: ms of the steady clock.
    pub(crate) checkpoint_at_ms: AtomicU64,
    pub(crate) scrub: Scrubbing,
    /// Below it no submits are taken.
    pub(crate) disk: Watermark,
    pub(crate) room: Room,
    /// When the last pass of the scrub ended, or this node started: ms of the steady clock.
    pub(crate) scrubbed_at_ms: AtomicU64,
    /// The log's last index when this process opened it.
    pub(crate) opened_at: u64,
    pub(crate) fault: Arc<dyn Fn(String) + Send + Sync>,
    pub(crate) runner: Arc<dyn Runner>,
    pub(crate) stop: CancellationToken,
}

impl Inner {
    /// Raft, once it runs; set before anything that needs it starts.
    pub(crate) fn raft(&self) -> Option<&Raft> {
        self.raft.get()
    }

    /// The members as last heard of: id and address.
    pub(crate) fn members(&self) -> BTreeMap<NodeId, Member> {
        let Some(raft) = self.raft() else {
            return BTreeMap::new();
        };
        let metrics = raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics
            .membership_config
            .nodes()
            .map(|(id, node)| (*id, node.clone()))
            .collect()
    }

    /// How far this node is off the others in time, by what was heard of them lately; `None` while
    /// fewer than a majority are known.
    ///
    /// That is two things: what the machine's clock says, which the others are told, and the time
    /// that the node goes by, which follows a jump only after a while. Neither may be wrong.
    pub(crate) fn skew_us(&self, fresh: Duration) -> Option<i64> {
        let (now, voters) = (self.clock.steady(), self.voters());
        let lags = self.clock.wall_us() as i64 - self.clock.raw_us() as i64;
        let skew = self.registry.skew_us(self.node, &voters, now, fresh)?;
        Some(match voters.len() {
            0 | 1 => skew,
            _ => worse(skew, skew + lags),
        })
    }

    pub(crate) fn voters(&self) -> Vec<NodeId> {
        let Some(raft) = self.raft() else {
            return Vec::new();
        };
        let metrics = raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.voter_ids().collect()
    }

    /// A result that must be one: a store that cannot be read ends this node.
    pub(crate) fn must<T: Default>(&self, result: Result<T, StoreFault>) -> T {
        result.unwrap_or_else(|e| {
            (self.fault)(e.to_string());
            T::default()
        })
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        let raft = self.raft()?;
        let metrics = raft.server_metrics();
        metrics.borrow_watched().current_leader
    }

    /// The store holds everything up to a log index.
    pub(crate) fn note_checkpoint(&self, index: u64) {
        if self.checkpoint.fetch_max(index, Ordering::Relaxed) < index {
            let now = self.clock.steady().as_millis() as u64;
            self.checkpoint_at_ms.store(now, Ordering::Relaxed);
        }
    }

    /// Events from outside, on the leader: what a member does not know is not written.
    pub(crate) async fn propose(&self, class: Class, events: Vec<Event>) -> Vec<Verdict> {
        let levels = &self.folded.levels;
        let needs = events.iter().map(Event::level).max().unwrap_or_default();
        if self.proposer.is_open() && !levels.allows(needs) {
            let reached = levels.reached();
            return vec![Verdict::Level { needs, reached }; events.len()];
        }
        self.proposer.propose(class, events).await
    }

    /// What this node says of itself; `all` with every hash it keeps.
    pub(crate) fn facts(&self, all: bool) -> Facts {
        let kept = if all { HASHES_KEPT } else { 3 };
        let (applied, mut hashes) = self.state.read(|state| {
            let mut hashes: Vec<_> = state.hashes().collect();
            if all {
                hashes.push((state.applied(), state.hash()));
                hashes.dedup_by_key(|(index, _)| *index);
            }
            (state.applied(), hashes)
        });
        let surplus = hashes.len().saturating_sub(kept + usize::from(all));
        hashes.drain(..surplus);
        // What is folded and not handed out yet does not count: a lease depends on it.
        let applied = applied.min(*self.folded.applied.borrow());
        let lead = self.folded.lead.lock();
        let lag_us = lead.unwrap_or_else(PoisonError::into_inner).high_us();
        Facts {
            node: self.node,
            boot: self.boot,
            version: env!("CARGO_PKG_VERSION").into(),
            load: (self.rim.load() * 1_000.0) as u16,
            applied,
            checkpoint: self.checkpoint.load(Ordering::Relaxed),
            hashes,
            scrub: self.scrub.scrubbed(),
            low: self.room.is_low(),
            resigns: self.resigns() || self.skewed.load(Ordering::SeqCst),
            lag_us,
            queue_age_ms: self.rim.queue_age().as_millis() as u64,
            steady_us: self.clock.steady().as_micros() as u64,
            level: self.folded.levels.own(),
            labels: self.labels.clone(),
            handlers: self.handlers.clone(),
        }
    }
}
