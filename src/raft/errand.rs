//! Errands: attempts that a node carries out for the owner of their shard.
//!
//! ```text
//! owner: begins ─► ERRAND ─► performer: fence as in its own state? lease not over? ─► call
//!        proposes the outcome ◄──────────────── what came of it ◄──────────────────────┘
//! ```
//!
//! The owner stays the one who decides: it has begun the attempt, and it alone proposes what came of
//! it. The performer begins only while the dispatch lease lasts under which it was asked. That is an
//! instant on its own clock: the owner counts it from what the performer's clock showed when it
//! answered a heartbeat, so that whatever is delayed on the way makes the lease shorter, never
//! longer; a performer that was paused with the request in its socket finds the lease to be over.
//!
//! What the performer refuses has surely not begun. What was lost may have, and the owner hands it
//! out again by an `Again`: one redispatch, with the cause that [`CAUSE`] names.

use bincode::{Decode, Encode};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::cluster::Cluster;
use super::inner::Inner;
use super::peer::{CallError, Lane};
use super::wire;
use crate::model::{Batch, Boot, Event, Fence, NodeId, Seq, Span, Time, decode, encode};

/// The word that events and explanations show when an errand was lost.
pub const CAUSE: &str = "performer";
/// Beyond the call itself an answer may take so long.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A node that could carry something out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    pub node: NodeId,
    /// 0…1.
    pub load: f64,
    pub labels: BTreeMap<String, String>,
    /// The handlers of the program that it runs in.
    pub handlers: HandlerNames,
}

/// The names of a node's handlers.
pub type HandlerNames = Arc<BTreeSet<String>>;

/// Who is there, as this node has heard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    pub leader: Option<NodeId>,
    /// Those that were heard within the lease and do not want to be rid of work, this node among
    /// them, by number.
    pub live: Vec<Seen>,
}

/// An attempt to be carried out elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errand {
    pub seq: Seq,
    pub fence: Fence,
    /// Not before this instant.
    pub at: Time,
    /// Not begun after this instant of the steady clock of the one who holds this.
    pub until: Duration,
    /// Only by the leader.
    pub leader: bool,
    /// How long the call may take.
    pub timeout: Span,
}

/// What became of an errand.
#[derive(Debug)]
pub enum Returned {
    /// The outcome, for the owner to propose.
    Ended(Event),
    /// It has surely not begun.
    Refused(String),
    /// It may have begun; nobody will say more.
    Lost(String),
}

/// An errand on the wire.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Sent {
    seq: Seq,
    fence: Fence,
    at: Time,
    /// Of the performer's steady clock, µs, as of this start of it.
    until_us: u64,
    boot: Boot,
    leader: bool,
    timeout: Span,
    /// The performer must have folded this log index, in which the attempt is current.
    index: u64,
}

/// The answer: an encoded [`Batch`] of one event, or why it has not begun.
pub(crate) type Answered = Result<Vec<u8>, String>;

impl Cluster {
    /// Who is there.
    pub fn picture(&self) -> Picture {
        let inner = &self.0;
        let (now, lease) = (inner.clock.steady(), inner.timing.owner_lease());
        let seen = |node: NodeId| {
            if node == inner.node {
                return Some(Seen {
                    node,
                    load: inner.rim.load(),
                    labels: inner.labels.clone(),
                    handlers: inner.handlers.clone(),
                });
            }
            let silent = inner.registry.silent_for(node, now)?;
            let (facts, _) = inner.registry.facts(node)?;
            (silent < lease && !facts.resigns).then(|| Seen {
                node,
                load: f64::from(facts.load) / 1_000.0,
                labels: facts.labels,
                handlers: facts.handlers,
            })
        };
        Picture {
            leader: inner.leader(),
            live: inner.members().into_keys().filter_map(seen).collect(),
        }
    }

    /// Has another node carry an attempt out that this one has begun.
    pub async fn errand(&self, node: NodeId, errand: Errand) -> Returned {
        let inner = &self.0;
        let Some(member) = inner.members().remove(&node) else {
            return Returned::Refused(format!("node {node} is no member"));
        };
        let Some((boot, until)) = inner.registry.on_its_clock(node, errand.until) else {
            return Returned::Refused(format!("node {node} was not heard within the lease"));
        };
        let sent = Sent {
            seq: errand.seq,
            fence: errand.fence,
            at: errand.at,
            until_us: until.as_micros() as u64,
            boot,
            leader: errand.leader,
            timeout: errand.timeout,
            index: *inner.folded.applied.borrow(),
        };
        let begins = errand.until.saturating_sub(inner.clock.steady());
        let within = begins + errand.timeout.std() + ANSWER_WITHIN;
        let to = (node, member.peer.as_str());
        let call = inner
            .peers
            .call(to, Lane::Work, wire::ERRAND, encode(&sent).into(), within);
        let answer = tokio::select! {
            answer = call => answer,
            () = falls_silent(inner, node) => {
                return Returned::Lost(format!("node {node} has fallen silent"));
            }
        };
        match answer {
            Ok(bytes) => match read(&bytes) {
                Some(Ok(event)) => Returned::Ended(event),
                Some(Err(why)) => Returned::Refused(why),
                None => Returned::Lost(format!("the answer of node {node} cannot be read")),
            },
            Err(e @ CallError::Lost { .. }) => Returned::Lost(e.to_string()),
            Err(e) => Returned::Refused(e.to_string()),
        }
    }
}

fn read(bytes: &[u8]) -> Option<Result<Event, String>> {
    match decode::<Answered>(bytes).ok()? {
        Ok(batch) => Batch::decode(&batch).ok()?.events.pop().map(Ok),
        Err(why) => Some(Err(why)),
    }
}

/// Returns when a node has not been heard for as long as after which an owner is given up.
async fn falls_silent(inner: &Inner, node: NodeId) {
    let lost = |silent: Duration| silent >= inner.timing.lost_after();
    loop {
        let silent = inner.registry.silent_for(node, inner.clock.steady());
        if silent.is_none_or(lost) {
            return;
        }
        #[allow(clippy::disallowed_methods)] // Silence makes no event.
        tokio::time::sleep(inner.timing.heartbeat()).await;
    }
}

/// Carries an errand out for its owner.
pub(crate) async fn run(inner: &Arc<Inner>, sent: Sent) -> Answered {
    if sent.boot != inner.boot {
        return Err("this node has been started again".into());
    }
    let until = Duration::from_micros(sent.until_us);
    let left = until.saturating_sub(inner.clock.steady());
    let mut applied = inner.folded.applied.subscribe();
    let told = applied.wait_for(|at| *at >= sent.index);
    match tokio::time::timeout(left, told).await {
        Ok(Ok(_)) => {}
        _ => return Err("this node is behind the log".into()),
    }
    if sent.leader && !inner.proposer.is_open() {
        return Err("this node does not lead".into());
    }
    if inner.resigns() || inner.skewed.load(std::sync::atomic::Ordering::SeqCst) {
        return Err("this node wants no work".into());
    }
    let errand = Errand {
        seq: sent.seq,
        fence: sent.fence,
        at: sent.at,
        until,
        leader: sent.leader,
        timeout: sent.timeout,
    };
    let event = inner.rim.errand(errand).await?;
    let batch = Batch {
        stamp: Time(0),
        now: Time(0),
        events: vec![event],
    };
    Ok(batch.encode())
}
