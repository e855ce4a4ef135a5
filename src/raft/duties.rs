//! What only a leader does: see who owns the shards (`owners.rs`), plan schedules (`planner.rs`),
//! trigger what is due, retire what is old.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::cluster::Busy;
use super::inner::Inner;
use super::lead;
use super::levels;
use super::lifecycle::{self, Duty, Handled};
use super::owners::Owners;
use super::planner;
use super::runner::blocking;
use super::types::Raft;
use super::view::SKEW_MAX_US;
use super::waiting::Class;
use super::wire::Verdict;
use crate::model::limits::{RETIRE_MAX, TRIGGER_MAX};
use crate::model::{Event, NodeId, Outcome, Retire, Span, Time, Trigger};
use crate::state::past_surplus;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::Notify;

/// While nothing is due it is looked again after this: the wall clock may jump.
const IDLE: Duration = Duration::from_secs(5);
/// A pause where there is nothing to be woken by.
const PAUSE: Duration = Duration::from_millis(20);

/// Leads whenever this node is the leader, until told to stop.
pub(crate) async fn run(inner: Arc<Inner>, raft: Raft) {
    let mut metrics = raft.server_metrics();
    loop {
        if let Some(term) = led(&raft) {
            tokio::select! {
                () = inner.stop.cancelled() => {}
                () = lead(&inner, &raft, term) => {}
            }
            inner.proposer.open(0);
            inner.leases.clear();
            if leads(&raft, term) && !inner.stop.is_cancelled() {
                // It could not give the lead away yet; it paused before it gave up.
                continue;
            }
        }
        tokio::select! {
            () = inner.stop.cancelled() => return,
            changed = metrics.changed() => if changed.is_err() { return },
        }
    }
}

/// One term of leading; returns when it is over.
async fn lead(inner: &Arc<Inner>, raft: &Raft, term: u64) {
    let owners = Owners::new(inner, raft, term);
    if !prepared(inner, raft, term).await {
        return;
    }
    inner.proposer.open(term);
    tracing::info!(term, "this node leads");
    levels::begin(inner, raft, term).await;
    let (retire, watch) = (inner.retention.period.std(), inner.watch.period.std());
    let settled = Notify::new();
    let triggers = async {
        settled.notified().await;
        triggers(inner, raft, term).await;
    };
    // Beside each other: however much has to leave, what is due is triggered.
    tokio::select! {
        () = owners.run(&settled) => {}
        () = triggers => {}
        () = planner::run(inner, raft, term) => {}
        () = lifecycle::regularly(inner, Duty::Retire, retire) => {}
        () = lifecycle::regularly(inner, Duty::Watchdog, watch) => {}
    }
}

async fn triggers(inner: &Inner, raft: &Raft, term: u64) {
    while leads(raft, term) {
        if inner.skewed.load(Ordering::SeqCst) {
            hand_over(inner, raft).await;
            return;
        }
        trigger(inner).await;
    }
}

/// The term that this node leads, if it does.
///
/// A leader that was started again has the vote of its last term still, and leads nobody: its state
/// tells. Both are read at once, from what wakes those who wait for a change: `Raft::as_leader`
/// goes by other figures, which openraft publishes a moment later.
pub(super) fn led(raft: &Raft) -> Option<u64> {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    (metrics.state == ServerState::Leader && metrics.vote.is_committed())
        .then(|| metrics.vote.leader_id().term)
}

pub(super) fn leads(raft: &Raft, term: u64) -> bool {
    led(raft) == Some(term)
}

/// A leader hears a majority, and yet nothing of its term has come into the log for so long: it
/// stands for election again.
///
/// Its streams of entries have fallen silent, each waiting for the other side of openraft to begin;
/// new ones come with a new term. Seen under the fault harness, for as long as nothing else broke.
fn is_stuck(inner: &Inner, since: Duration) -> bool {
    let (_, longest) = inner.timing.election();
    let voters = inner.voters();
    let heard = voters.iter().filter(|id| is_heard(inner, **id)).count();
    heard * 2 > voters.len() && inner.clock.steady().saturating_sub(since) >= longest * 4
}

/// Waits until the term's first entry is folded and the clocks of a majority agree with ours.
async fn prepared(inner: &Inner, raft: &Raft, term: u64) -> bool {
    let mut applied = inner.folded.applied.subscribe();
    let began = inner.clock.steady();
    while leads(raft, term) {
        let first = raft.metrics().borrow_watched().last_applied;
        let folded = first.is_some_and(|id| id.committed_leader_id().term == term);
        // Whoever takes over must have the membership, which may be as new as the term.
        if folded && inner.skewed.load(Ordering::SeqCst) {
            hand_over(inner, raft).await;
            return false;
        }
        let fresh = inner.timing.heartbeat() * 8;
        // Judged here and now: the flag follows when every peer has been asked.
        let skew = inner.skew_us(fresh);
        let right = skew.is_some_and(|skew| skew.abs() <= SKEW_MAX_US);
        if folded && right && !inner.skewed.load(Ordering::SeqCst) {
            return true;
        }
        if !folded && is_stuck(inner, began) {
            tracing::warn!(
                term,
                "the log takes nothing of this lead; standing for election again"
            );
            // An error means that Raft is stopping.
            let _ = raft.trigger().elect(false).await;
            return false;
        }
        // Clocks have no event of their own to wait for; they come with the heartbeats.
        let _ = tokio::time::timeout(PAUSE, applied.changed()).await;
    }
    false
}

/// Whether a voter is this node, or was heard of within the last few heartbeats.
pub(crate) fn is_heard(inner: &Inner, id: NodeId) -> bool {
    let fresh = inner.timing.heartbeat() * 8;
    let silent = inner.registry.silent_for(id, inner.clock.steady());
    id == inner.node || silent.is_some_and(|silent| silent <= fresh)
}

/// Whether a node is drained, or about to stop, by what it told this one last: when it asked for its
/// lease, or when it was asked.
pub(crate) fn resigns(inner: &Inner, id: NodeId) -> bool {
    let told = inner.leases.asked(id).map(|asked| asked.facts);
    let told = told.or_else(|| inner.registry.facts(id).map(|(facts, _)| facts));
    told.is_some_and(|facts| facts.resigns)
}

/// The voter that has the most of the log, of those that can be heard.
pub(crate) fn successor(inner: &Inner) -> Option<NodeId> {
    let others = inner.voters().into_iter().filter(|id| *id != inner.node);
    let fit = others.filter(|id| is_heard(inner, *id)).filter_map(|id| {
        let (facts, _) = inner.registry.facts(id)?;
        (!resigns(inner, id)).then_some((facts.applied, id))
    });
    fit.max().map(|(_, id)| id)
}

/// Gives the lead to the fittest voter; says whether there is one.
pub(crate) async fn hand_over(inner: &Inner, raft: &Raft) -> bool {
    inner.proposer.open(0);
    let to = successor(inner);
    if let Some(to) = to {
        tracing::warn!(to, "handing over the lead");
        // An error means that Raft is stopping, and then nobody leads here anyway.
        let _ = raft.trigger().transfer_leader(to).await;
    }
    #[allow(clippy::disallowed_methods)] // The other one needs it to take over.
    tokio::time::sleep(inner.timing.heartbeat()).await;
    to.is_some()
}

/// Gives the lead to a voter that is to have it; says whether it has it.
///
/// There is no way back within a term: openraft proposes nothing any more once a transfer has
/// begun. So when the other one has not taken over in time, this node stands for election itself.
pub(crate) async fn hand_over_to(inner: &Inner, raft: &Raft, to: NodeId) -> bool {
    let Some(term) = led(raft) else {
        return true;
    };
    tracing::info!(to, "moving the lead");
    inner.proposer.open(0);
    let (shortest, _) = inner.timing.election();
    let mut metrics = raft.server_metrics();
    let moved = async {
        // An error means that Raft is stopping, and then nobody leads here anyway.
        let _ = raft.trigger().transfer_leader(to).await;
        while leads(raft, term) {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    };
    let moved = tokio::time::timeout(shortest, moved).await.is_ok();
    if !moved {
        tracing::warn!(
            to,
            "did not take the lead in time; standing for election again"
        );
        let _ = raft.trigger().elect(false).await;
    }
    moved
}

/// Proposes until the log has it or the term is over.
pub(super) async fn until_decided(inner: &Inner, raft: &Raft, term: u64, event: Event) -> bool {
    while leads(raft, term) {
        let verdicts = inner
            .proposer
            .propose(Class::Trigger, vec![event.clone()])
            .await;
        if matches!(verdicts.first(), Some(Verdict::Decided { .. })) {
            return true;
        }
        #[allow(clippy::disallowed_methods)] // Between two tries.
        tokio::time::sleep(PAUSE).await;
    }
    false
}

/// Triggers what is due within the lead, or waits for the next thing that will be.
async fn trigger(inner: &Inner) {
    let now = inner.clock.wall();
    let ahead = lead::span(slowest_us(inner));
    inner.lead_us.store(ahead.0 * 1_000, Ordering::Relaxed);
    if inner.must(
        inner
            .state
            .write(|state| state.has_due(now.plus(ahead), now)),
    ) {
        let event = Trigger {
            until: now.plus(lead::reach(ahead)),
            max: TRIGGER_MAX,
        };
        let verdicts = inner
            .proposer
            .propose(Class::Trigger, vec![event.into()])
            .await;
        if !matches!(verdicts.first(), Some(Verdict::Decided { .. })) {
            #[allow(clippy::disallowed_methods)] // Between two tries.
            tokio::time::sleep(PAUSE).await;
        }
        return;
    }
    let (due, deadline) = inner.must(inner.state.read(|state| state.next()));
    let wake = [
        due.map(|at| at.since(Time(ahead.0))),
        deadline.map(|at| at.since(Time(0))),
    ];
    let next = wake.into_iter().flatten().min();
    let pause = next.map_or(IDLE, |at| Time(at.0).since(now).std().min(IDLE));
    #[allow(clippy::disallowed_methods)] // Until the next instant at which something is due.
    let sleep = tokio::time::sleep(pause.max(Duration::from_micros(500)));
    tokio::select! {
        () = inner.folded.due.notified() => {}
        () = sleep => {}
    }
}

/// How long triggers take to reach the slowest of those that asked for a lease lately, this node
/// included.
fn slowest_us(inner: &Inner) -> u32 {
    let own = inner.folded.lead.lock();
    let own = own.unwrap_or_else(PoisonError::into_inner).high_us();
    own.max(inner.leases.slowest_us(inner.clock.steady(), inner.timing))
}

/// Up to where histories must leave because they take too much, as of a checkpoint: nothing of it
/// changes until the next one.
#[derive(Default)]
pub(super) struct Surplus {
    checkpoint: u64,
    up_to: Time,
}

impl Surplus {
    /// Looks at this node's own store; the others hold the same, but for what their checkpoints
    /// have not moved yet.
    async fn up_to(&mut self, inner: &Inner) -> Time {
        let max = inner.retention.history_bytes;
        let checkpoint = inner.checkpoint.load(Ordering::Relaxed);
        let size = inner.must(inner.state.read(|state| state.past_size()));
        if size.bytes <= max || self.checkpoint == checkpoint {
            return self.up_to;
        }
        let image = inner.must(inner.state.read(|state| state.image()));
        let look = move || match image {
            Some((image, ..)) => past_surplus(&*image, max),
            None => Ok(None),
        };
        if let Ok(found) = blocking(&*inner.runner, "measuring the past", look).await {
            self.checkpoint = checkpoint;
            self.up_to = inner.must(found).unwrap_or(self.up_to);
        }
        self.up_to
    }
}

/// Drops what has been kept long enough, in pieces.
///
/// # Errors
/// The log did not take a piece; those before it are gone.
pub(crate) async fn retire(inner: &Inner) -> Result<Handled, Busy> {
    let by_size = inner
        .folded
        .lifecycle
        .surplus
        .lock()
        .await
        .up_to(inner)
        .await;
    let now = inner.clock.wall();
    let before = |kept: Span| Time(now.0.saturating_sub(kept.0));
    let event = Retire {
        finished_up_to: before(inner.retention.finished()),
        dead_up_to: before(inner.retention.dead),
        marks_up_to: before(inner.retention.marks),
        history_up_to: before(inner.retention.history).max(by_size),
        max: RETIRE_MAX,
    };
    let pending = || inner.must(inner.state.read(|s| s.has_retirable(&event)));
    let mut handled = Handled::default();
    while pending() {
        let verdicts = inner
            .proposer
            .propose(Class::Retire, vec![event.clone().into()])
            .await;
        match verdicts.first() {
            Some(Verdict::Decided {
                outcome: Outcome::Counted { count, more },
                ..
            }) => {
                handled.examined += u64::from(*count);
                handled.handled += u64::from(*count);
                if !more {
                    break;
                }
            }
            Some(Verdict::Unknown) | None => return Err(Busy::Unknown),
            Some(_) => return Err(Busy::NoLeader),
        }
    }
    Ok(handled)
}
