//! What only a leader does: settle who owns the shards, trigger what is due, retire what is old.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cluster::Busy;
use super::inner::Inner;
use super::lead::Lead;
use super::lifecycle::{self, Duty, Handled};
use super::peer::Lane;
use super::proposer::Class;
use super::runner::blocking;
use super::types::Raft;
use super::view::SKEW_MAX_US;
use super::wire::{self, Release, Verdict};
use crate::model::limits::{ASSIGN_MAX, RETIRE_MAX, TRIGGER_MAX};
use crate::model::{Assign, Event, NodeId, Outcome, Retire, Shard, Span, Time, Trigger};
use crate::state::{Ownership, past_surplus};
use openraft::async_runtime::WatchReceiver;

/// While nothing is due it is looked again after this: the wall clock may jump.
const IDLE: Duration = Duration::from_secs(5);
/// A former owner that lets go is given so long to finish what it has begun.
const LET_GO_WITHIN: Duration = Duration::from_secs(1);
/// A pause where there is nothing to be woken by.
const PAUSE: Duration = Duration::from_millis(20);

/// Leads whenever this node is the leader, until told to stop.
pub(crate) async fn run(inner: Arc<Inner>, raft: Raft) {
    let mut metrics = raft.server_metrics();
    loop {
        if let Ok(leader) = raft.as_leader() {
            let term = leader.leader_id().term;
            tokio::select! {
                () = inner.stop.cancelled() => {}
                () = lead(&inner, &raft, term) => {}
            }
            inner.proposer.open(0);
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
async fn lead(inner: &Inner, raft: &Raft, term: u64) {
    if !prepared(inner, raft, term).await {
        return;
    }
    inner.proposer.open(term);
    tracing::info!(term, "this node leads");
    if !settle_owners(inner, raft, term).await {
        return;
    }
    let (retire, watch) = (inner.retention.period.std(), inner.watch.period.std());
    // Beside each other: however much has to leave, what is due is triggered.
    tokio::select! {
        () = triggers(inner, raft, term) => {}
        () = lifecycle::regularly(inner, Duty::Retire, retire) => {}
        () = lifecycle::regularly(inner, Duty::Watchdog, watch) => {}
    }
}

async fn triggers(inner: &Inner, raft: &Raft, term: u64) {
    let mut lead = Lead::default();
    while leads(raft, term) {
        if inner.skewed.load(Ordering::SeqCst) {
            hand_over(inner, raft).await;
            return;
        }
        trigger(inner, &mut lead).await;
    }
}

fn leads(raft: &Raft, term: u64) -> bool {
    raft.as_leader()
        .is_ok_and(|leader| leader.leader_id().term == term)
}

/// Waits until the term's first entry is folded and the clocks of a majority agree with ours.
async fn prepared(inner: &Inner, raft: &Raft, term: u64) -> bool {
    let mut applied = inner.folded.applied.subscribe();
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

/// The voter that has the most of the log, of those that can be heard.
pub(crate) fn successor(inner: &Inner) -> Option<NodeId> {
    let others = inner.voters().into_iter().filter(|id| *id != inner.node);
    others.filter(|id| is_heard(inner, *id)).max_by_key(|id| {
        let facts = inner.registry.facts(*id);
        facts.map_or(0, |(facts, _)| facts.applied)
    })
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
    let Ok(leader) = raft.as_leader() else {
        return true;
    };
    let term = leader.leader_id().term;
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

/// Makes this run of this node the owner of every shard, once every former owner has let go or
/// its dispatch lease must have run out.
async fn settle_owners(inner: &Inner, raft: &Raft, term: u64) -> bool {
    if inner
        .state
        .read(|state| state.owns_all(inner.node, inner.boot))
    {
        return true;
    }
    let mut former: Vec<Ownership> = inner
        .state
        .read(|s| s.shards().map(|(_, held)| held).collect());
    former.sort_unstable_by_key(|held| (held.node, held.epoch));
    former.dedup_by_key(|held| held.node);
    let became = inner.clock.steady();
    for held in former {
        if held.node != 0 && held.node != inner.node {
            let epoch = inner.state.read(|state| {
                state
                    .shards()
                    .map(|(_, held)| held.epoch)
                    .max()
                    .unwrap_or_default()
            });
            let_go(inner, held.node, Release { epoch }, became).await;
        }
    }
    assign(inner, raft, term, "leader").await
}

/// Asks a former owner to let go. One that does not answer is given until its lease, counted
/// from the moment it may last have heard of a quorum, has run out with a margin.
async fn let_go(inner: &Inner, node: NodeId, release: Release, became: Duration) {
    let wait = inner.timing.owner_lease() + inner.timing.lease_margin();
    let (_, longest) = inner.timing.election();
    let silent = inner.registry.silent_for(node, became);
    // A voter refuses its vote until it has not heard the leader for the longest election
    // time-out, so a lead won by election began that long after the last quorum of the former
    // one. After a transfer that does not hold, and the whole lease is waited for.
    let elected = silent.is_none_or(|silent| silent >= longest / 2);
    let until = if elected {
        became + inner.timing.lease_margin()
    } else {
        became + wait
    };
    let finish_by = inner.clock.steady() + LET_GO_WITHIN;
    let body: bytes::Bytes = crate::model::encode(&release).into();
    loop {
        let member = inner.members().remove(&node);
        let answer = match &member {
            Some(member) => {
                let to = (node, member.peer.as_str());
                let within = inner.timing.heartbeat();
                inner
                    .peers
                    .call(to, Lane::Urgent, wire::RELEASE, body.clone(), within)
                    .await
                    .ok()
            }
            None => None,
        };
        let in_flight = answer.and_then(|bytes| crate::model::decode::<u64>(&bytes).ok());
        let now = inner.clock.steady();
        match in_flight {
            Some(0) => return,
            Some(_) if now >= finish_by => return,
            None if now >= until => return,
            #[allow(clippy::disallowed_methods)] // Between two tries.
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Proposes the assignment, in pieces that keep one fold short.
async fn assign(inner: &Inner, raft: &Raft, term: u64, cause: &str) -> bool {
    let open = inner.state.read(|state| state.open_by_shard());
    let mut pieces: Vec<Vec<Shard>> = Vec::new();
    let mut size = usize::MAX;
    for (number, attempts) in open.into_iter().enumerate() {
        if size.saturating_add(attempts) > ASSIGN_MAX {
            pieces.push(Vec::new());
            size = 0;
        }
        size += attempts;
        if let Some(piece) = pieces.last_mut() {
            piece.push(Shard(number as u16));
        }
    }
    for shards in pieces {
        let event = Assign {
            shards,
            node: inner.node,
            boot: inner.boot,
            cause: cause.into(),
            lost: Vec::new(),
        };
        if !until_decided(inner, raft, term, event.into()).await {
            return false;
        }
    }
    tracing::info!(node = inner.node, "owns all shards");
    true
}

/// Proposes until the log has it or the term is over.
async fn until_decided(inner: &Inner, raft: &Raft, term: u64, event: Event) -> bool {
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
async fn trigger(inner: &Inner, lead: &mut Lead) {
    let now = inner.clock.wall();
    let ahead = lead.span();
    inner.lead_us.store(ahead.0 * 1_000, Ordering::Relaxed);
    if inner.must(
        inner
            .state
            .write(|state| state.has_due(now.plus(ahead), now)),
    ) {
        let event = Trigger {
            until: now.plus(lead.reach()),
            max: TRIGGER_MAX,
        };
        let start = inner.clock.steady();
        let verdicts = inner
            .proposer
            .propose(Class::Trigger, vec![event.into()])
            .await;
        match verdicts.first() {
            Some(Verdict::Decided { .. }) => lead.note(inner.clock.steady().saturating_sub(start)),
            #[allow(clippy::disallowed_methods)] // Between two tries.
            _ => tokio::time::sleep(PAUSE).await,
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
            .propose(Class::Submit, vec![event.clone().into()])
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
