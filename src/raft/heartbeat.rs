//! Soft state on heartbeats: clocks, load, state hashes, dispatch leases. None of it is in the log, so that an
//! idle cluster writes nothing.

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use openraft::async_runtime::WatchReceiver;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::inner::Inner;
use super::peer::Lane;
use super::types::Member;
use super::view::SKEW_MAX_US;
use super::wire::{self, Ping};
use crate::model::{NodeId, decode, encode};

/// A node that learns that it was removed answers so long what it was asked: the removal itself, it
/// may be. It starts nothing any more, because its lease is not renewed.
const FAREWELL: Duration = Duration::from_secs(2);

/// Pings every peer, judges clock and hashes, until told to stop.
pub(crate) async fn run(inner: Arc<Inner>) {
    let every = inner.timing.heartbeat();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stands = true;
    let (mut pings, mut asked) = (FuturesUnordered::new(), BTreeSet::new());
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            Some(id) = pings.next() => {
                asked.remove(&id);
                // Judged when all have answered, or when the next round begins.
                if !asked.is_empty() {
                    continue;
                }
            }
            _ = ticks.tick() => beat(&inner, &mut asked, &pings),
            () = inner.beat.notified() => beat(&inner, &mut asked, &pings),
        }
        if judge_clock(&inner, every) != stands {
            stands = !stands;
            if let Some(raft) = inner.raft() {
                raft.runtime_config().elect(stands);
            }
        }
        judge_hashes(&inner);
    }
}

/// Pings each peer that is not being asked already: one that hangs holds up nobody else's lease.
fn beat(
    inner: &Arc<Inner>,
    asked: &mut BTreeSet<NodeId>,
    pings: &FuturesUnordered<BoxFuture<'static, NodeId>>,
) {
    for (id, member) in inner.members() {
        inner.peers.lives_at(id, &member.peer);
        if id != inner.node && asked.insert(id) {
            let inner = inner.clone();
            let ping = async move {
                // As long as the answer is worth something: a lease counts from the question.
                ping(&inner, id, member, inner.timing.owner_lease()).await;
                id
            };
            pings.push(ping.boxed());
        }
    }
}

/// Asks one peer, and notes its clock as seen from the middle of the call.
async fn ping(inner: &Inner, id: NodeId, member: Member, within: Duration) {
    let sent_us = inner.clock.raw_us();
    let sent = inner.clock.steady();
    let body = encode(&Ping {
        facts: inner.facts(false),
        removed_in: 0,
        wall_us: sent_us,
        asks: !inner.skewed.load(Ordering::SeqCst),
        lease_age_us: None,
    })
    .into();
    let to = (id, member.peer.as_str());
    let Ok(answer) = inner
        .peers
        .call(to, Lane::Urgent, wire::PING, body, within)
        .await
    else {
        return;
    };
    let Ok(theirs) = decode::<Ping>(&answer) else {
        return;
    };
    judge_membership(inner, id, theirs.removed_in);
    if let Some(age) = theirs.lease_age_us
        && !inner.skewed.load(Ordering::SeqCst)
    {
        // As of when it was asked for: the leader counts from when it answered.
        let contact = sent.saturating_sub(Duration::from_micros(age));
        inner.rim.renew_lease(contact);
    }
    let now = inner.clock.steady();
    let middle_us = sent_us as i64 + (now.saturating_sub(sent).as_micros() / 2) as i64;
    inner
        .registry
        .heard(theirs.facts, now, theirs.wall_us as i64 - middle_us);
}

/// A node that was removed while it could not be told learns it from the leader. A leader of an
/// earlier term may know less of the members than this node does.
fn judge_membership(inner: &Inner, leader: NodeId, removed_in: u64) {
    let term = inner.raft().map_or(0, |raft| {
        let metrics = raft.server_metrics();
        metrics.borrow_watched().vote.leader_id().term
    });
    let removed = removed_in > 0 && removed_in >= term;
    let now = inner.clock.steady();
    if removed && now.saturating_sub(*inner.removed.get_or_init(|| now)) >= FAREWELL {
        (inner.fault)(format!(
            "node {} is no member of its cluster any more, says node {leader}, which leads it; its \
             directory is of no use: delete it, and come back with a new --id and --join",
            inner.node
        ));
    }
}

/// A clock off the others' median must neither trigger nor stamp: this node stops standing for
/// election until it agrees again. Says whether it stands.
///
/// One exception: whoever writes the first membership is the only one that can be elected until
/// another node has it. With a wrong clock it stands all the same, and then hands over before it
/// stamps anything.
fn judge_clock(inner: &Inner, every: Duration) -> bool {
    let Some(skew) = inner.skew_us(every * 8) else {
        return stands(inner);
    };
    inner.skew_us.store(skew, Ordering::Relaxed);
    let skewed = skew.abs() > SKEW_MAX_US;
    inner.proposer.trust(!skewed);
    if inner.skewed.swap(skewed, Ordering::SeqCst) != skewed {
        match skewed {
            true => tracing::error!(
                "the clock of this node is {} ms off the others; it hands over and stays back \
                 until that is mended",
                skew / 1_000
            ),
            false => tracing::info!("the clock of this node agrees with the others again"),
        }
    }
    stands(inner)
}

fn stands(inner: &Inner) -> bool {
    let formed = *inner.folded.applied.borrow() > 0;
    !(inner.skewed.load(Ordering::SeqCst) && formed)
}

/// A state that differs from the majority's at the same index is damaged: the node stops before
/// anybody reads it.
fn judge_hashes(inner: &Inner) {
    let ours: Vec<_> = inner.state.read(|state| state.hashes().collect());
    let recent = &ours[ours.len().saturating_sub(4)..];
    if let Some((index, ours, theirs)) = inner.registry.contradicted(&inner.voters(), recent) {
        (inner.fault)(format!(
            "this node's state differs from the majority's at log index {index} ({ours} here, \
             {theirs} there); replace it: wipe its directory and add it under a new id"
        ));
    }
}
