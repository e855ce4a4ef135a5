//! Finds attempts that are due and that nobody holds, and hands them out again.
//!
//! The log says which attempts are open, and on which node; that node's rim knows which of them
//! wait or run. What is open for longer than it may be and unknown there was lost on the way: with
//! an earlier run of the node that nobody took for over, or with an outcome that never reached the
//! log. The leader asks all nodes to look; each looks at its own. Work that waits in a long queue, or runs, or whose outcome is on its way, is known, and is
//! never handed out twice. Whatever it finds goes through the log, as an `Again` that names it;
//! when it finds nothing it writes nothing.

use std::sync::Arc;
use std::time::Duration;

use super::cluster::{Busy, Cluster};
use super::inner::Inner;
use super::lifecycle::Handled;
use super::peer::{CallError, Lane};
use super::types::Member;
use super::waiting::Class;
use super::wire;
use crate::model::limits::ASSIGN_MAX;
use crate::model::{Again, NodeId, Outcome, Seq, Span, Time, decode};
use crate::state::Open;

/// The word that explanations and events show as the reason.
pub const CAUSE: &str = "watchdog";
/// Open attempts that are read in one piece.
const PIECE: usize = 4_096;
/// Another node is given so long to look.
const LOOK_WITHIN: Duration = Duration::from_secs(30);

/// When the watchdog looks, and at what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    pub period: Span,
    /// Attempts that could have begun so long ago are looked at.
    pub after: Span,
}

impl Default for Watch {
    /// A look costs a millisecond for ten thousand late attempts. After half a minute whatever is
    /// still on its way between two threads of a node has long arrived.
    fn default() -> Watch {
        Watch {
            period: Span::seconds(10),
            after: Span::seconds(30),
        }
    }
}

/// Looks once, everywhere: each node knows what waits and runs on it.
///
/// # Errors
/// No node could look, or the log did not take what was found.
pub(crate) async fn look(inner: &Arc<Inner>) -> Result<Handled, Busy> {
    let members = inner.members();
    let looks = members
        .iter()
        .map(|(id, member)| look_at(inner, *id, member));
    let looked = futures::future::join_all(looks).await;
    let mut sum = Handled::default();
    let mut failed = None;
    for handled in looked {
        match handled {
            Ok(handled) => {
                sum.examined += handled.examined;
                sum.handled += handled.handled;
            }
            // A node that is down holds nothing; whoever takes its shards is asked next time.
            Err(busy) => failed = Some(busy),
        }
    }
    match failed {
        Some(busy) if members.len() < 2 || matches!(busy, Busy::Unknown) => Err(busy),
        _ => Ok(sum),
    }
}

async fn look_at(inner: &Arc<Inner>, node: NodeId, member: &Member) -> Result<Handled, Busy> {
    if node == inner.node {
        return look_here(&Cluster(inner.clone())).await;
    }
    let to = (node, member.peer.as_str());
    let call = inner.peers.call(
        to,
        Lane::Forward,
        wire::LOOK,
        Default::default(),
        LOOK_WITHIN,
    );
    match call.await {
        Ok(bytes) => match decode::<wire::Looked>(&bytes).unwrap_or(Err(true)) {
            Ok((examined, handled)) => Ok(Handled { examined, handled }),
            Err(true) => Err(Busy::Unknown),
            Err(false) => Err(Busy::NoLeader),
        },
        Err(CallError::Lost { .. }) => Err(Busy::Unknown),
        Err(_) => Err(Busy::NoLeader),
    }
}

/// Looks once at what is open on this node.
///
/// # Errors
/// The log did not take what was found.
pub(crate) async fn look_here(cluster: &Cluster) -> Result<Handled, Busy> {
    let inner = &cluster.0;
    let until = inner.clock.wall().since(Time(inner.watch.after.0));
    let mut handled = Handled::default();
    let mut lost = Vec::new();
    let mut after = None;
    loop {
        let piece = overdue(inner, after, Time(until.0)).await?;
        handled.examined += piece.len() as u64;
        after = piece.last().map(|open| (open.at, open.seq));
        lost.extend(unknown(inner, &piece));
        if piece.len() < PIECE || lost.len() >= ASSIGN_MAX {
            break;
        }
    }
    lost.truncate(ASSIGN_MAX);
    if !lost.is_empty() {
        handled.handled = hand_out(cluster, &lost).await?;
    }
    Ok(handled)
}

/// A piece of this node's open attempts; the rim has been told of all of them.
async fn overdue(
    inner: &Inner,
    after: Option<(Time, Seq)>,
    until: Time,
) -> Result<Vec<Open>, Busy> {
    let (piece, index) = inner.state.read(|state| {
        let piece = state.overdue(inner.node, after, until, PIECE);
        (piece, state.applied())
    });
    let mut applied = inner.folded.applied.subscribe();
    let told = applied.wait_for(|at| *at >= index).await;
    told.map_err(|_| Busy::NoLeader)?;
    Ok(piece)
}

/// Those of a piece that the rim does not know, though the log still has them open.
fn unknown(inner: &Inner, piece: &[Open]) -> Vec<Open> {
    let known = inner.rim.knows(piece);
    let unknown = piece.iter().zip(known).filter(|(_, known)| !known);
    let unknown: Vec<Open> = unknown.map(|(open, _)| *open).collect();
    let me = (inner.node, inner.boot);
    inner.state.read(|state| {
        // What ended meanwhile is unknown too, and the fold is told before the rim is. And what an
        // earlier run of this node had is handed out with its shards, when the leader hears of it.
        let lost = |open: &Open| {
            let held = state.owner_of(open.hash);
            state.is_open(open) && (held.node != me.0 || held.boot == me.1)
        };
        unknown.into_iter().filter(lost).collect()
    })
}

async fn hand_out(cluster: &Cluster, lost: &[Open]) -> Result<u64, Busy> {
    let first = lost.first().map(|open| open.seq.0);
    tracing::warn!(
        count = lost.len(),
        first,
        "nobody held what was due: handed out again"
    );
    let event = Again {
        attempts: lost.iter().map(|open| (open.seq, open.fence)).collect(),
        cause: CAUSE.into(),
    };
    let mut answers = cluster.decide(Class::Trigger, vec![event.into()]).await;
    match answers.pop().unwrap_or(Err(Busy::Unknown))?.outcome {
        Outcome::Counted { count, .. } => Ok(u64::from(count)),
        _ => Ok(0),
    }
}
