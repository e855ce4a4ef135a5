//! Soft state on heartbeats: clocks, load, state hashes. None of it is in the log, so that an
//! idle cluster writes nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::inner::Inner;
use super::peer::Lane;
use super::types::Member;
use super::view::SKEW_MAX_US;
use super::wire::{self, Ping};
use crate::model::{NodeId, decode, encode};

/// Pings every peer, judges clock and hashes, until told to stop.
pub(crate) async fn run(inner: Arc<Inner>) {
    let every = inner.timing.heartbeat();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stands = true;
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let pings = inner
            .members()
            .into_iter()
            .filter(|(id, _)| *id != inner.node);
        let pings = pings.map(|(id, member)| ping(&inner, id, member, every * 2));
        futures::future::join_all(pings).await;
        if judge_clock(&inner, every) != stands {
            stands = !stands;
            if let Some(raft) = inner.raft() {
                raft.runtime_config().elect(stands);
            }
        }
        judge_hashes(&inner);
    }
}

/// Asks one peer, and notes its clock as seen from the middle of the call.
async fn ping(inner: &Inner, id: NodeId, member: Member, within: Duration) {
    let sent_us = inner.clock.raw_us();
    let sent = inner.clock.steady();
    let body = encode(&Ping {
        facts: inner.facts(false),
        wall_us: sent_us,
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
    let now = inner.clock.steady();
    let middle_us = sent_us as i64 + (now.saturating_sub(sent).as_micros() / 2) as i64;
    inner
        .registry
        .heard(theirs.facts, now, theirs.wall_us as i64 - middle_us);
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
