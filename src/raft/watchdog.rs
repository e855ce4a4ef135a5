//! Finds attempts that are due and that nobody holds, and hands them out again.
//!
//! The log says which attempts are open; the rim knows which of them wait or run. What is open for
//! longer than it may be and unknown to the rim was lost on the way: a node that let go of its
//! shards and got the lead back has dropped them, and so has an outcome that never reached the
//! log. Work that waits in a long queue, or runs, or whose outcome is on its way, is known, and is
//! never handed out twice. Whatever it finds goes through the log, as an `Assign` that names it;
//! when it finds nothing it writes nothing.

use super::cluster::Busy;
use super::inner::Inner;
use super::lifecycle::Handled;
use super::proposer::Class;
use super::wire::Verdict;
use crate::model::limits::ASSIGN_MAX;
use crate::model::{Assign, Fence, Outcome, Seq, Shard, Span, Time};
use crate::state::Open;

/// The word that explanations and events show as the reason.
pub const CAUSE: &str = "watchdog";
/// Open attempts that are read in one piece.
const PIECE: usize = 4_096;

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

/// Looks once.
///
/// # Errors
/// This node does not own the shards, or the log did not take what was found.
pub(crate) async fn look(inner: &Inner) -> Result<Handled, Busy> {
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
        handled.handled = hand_out(inner, &lost).await?;
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
        // What an earlier run of this node owned was never given to this one.
        let owns = state.owns_all(inner.node, inner.boot);
        let piece = owns.then(|| state.overdue(inner.node, after, until, PIECE));
        (piece, state.applied())
    });
    let mut applied = inner.folded.applied.subscribe();
    let told = applied.wait_for(|at| *at >= index).await;
    told.map_err(|_| Busy::NoLeader)?;
    piece.ok_or(Busy::NoLeader)
}

/// Those of a piece that the rim does not know, though the log still has them open.
fn unknown(inner: &Inner, piece: &[Open]) -> Vec<Open> {
    let asked: Vec<(Time, Seq, Fence)> = piece.iter().map(|o| (o.at, o.seq, o.fence)).collect();
    let known = inner.rim.knows(&asked);
    let unknown = piece.iter().zip(known).filter(|(_, known)| !known);
    let unknown: Vec<Open> = unknown.map(|(open, _)| *open).collect();
    // What ended meanwhile is unknown too, and the fold is told before the rim is.
    inner
        .state
        .read(|state| unknown.into_iter().filter(|o| state.is_open(o)).collect())
}

async fn hand_out(inner: &Inner, lost: &[Open]) -> Result<u64, Busy> {
    let mut shards: Vec<Shard> = lost.iter().map(|open| open.shard).collect();
    shards.sort_unstable();
    shards.dedup();
    let first = lost.first().map(|open| open.seq.0);
    tracing::warn!(
        count = lost.len(),
        first,
        "nobody held what was due: handed out again"
    );
    let event = Assign {
        shards,
        node: inner.node,
        boot: inner.boot,
        cause: CAUSE.into(),
        lost: lost.iter().map(|open| (open.seq, open.fence)).collect(),
    };
    let verdicts = inner
        .proposer
        .propose(Class::Trigger, vec![event.into()])
        .await;
    match verdicts.first() {
        Some(Verdict::Decided {
            outcome: Outcome::Counted { count, .. },
            ..
        }) => Ok(u64::from(*count)),
        Some(Verdict::Unknown) | None => Err(Busy::Unknown),
        Some(_) => Err(Busy::NoLeader),
    }
}
