//! What happened to a task, row by row: the same events as the log's, seen from one task.

use bincode::{Decode, Encode};
use serde::Serialize;
use std::sync::Arc;

use super::{By, Fence, NodeId, Span, Time};

/// For what an attempt that was due waited at its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// For its turn: at the target, among the applications, or for a permit.
    #[default]
    Turn,
    /// For the target's circuit breaker.
    Breaker,
    /// For its application, which was paused.
    Paused,
    /// For a node that may and can carry it out: its placement or its handler was nowhere.
    Node,
}

/// How one attempt went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct AttemptEnd {
    /// When the request was written.
    pub started: Time,
    pub ended: Time,
    /// How long it had waited for its turn at the target after it was due.
    pub queued: Span,
    /// …and what kept it from having it.
    pub waited_for: Wait,
    /// The HTTP status, 0 when there was none.
    pub status: u16,
    pub error: Option<Arc<str>>,
    /// The first KiB of the answer.
    pub answer: Option<Arc<str>>,
}

/// The kinds of rows, named as the API names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum RowKind {
    Submitted,
    Changed,
    Run,
    Triggered,
    Started,
    Accepted,
    Retry,
    Redispatched,
    Done,
    Dead,
    Cancelled,
    Expired,
    /// An outcome that came under an old fence, and was refused.
    Stale,
    /// Its end started another task, or was to.
    Followed,
}

impl RowKind {
    /// The name that the API uses.
    pub const fn name(self) -> &'static str {
        match self {
            RowKind::Submitted => "submitted",
            RowKind::Changed => "changed",
            RowKind::Run => "run",
            RowKind::Triggered => "triggered",
            RowKind::Started => "started",
            RowKind::Accepted => "accepted",
            RowKind::Retry => "retry",
            RowKind::Redispatched => "redispatched",
            RowKind::Done => "done",
            RowKind::Dead => "dead",
            RowKind::Cancelled => "cancelled",
            RowKind::Expired => "expired",
            RowKind::Stale => "stale",
            RowKind::Followed => "followed",
        }
    }
}

/// One event of one task.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Row {
    /// Its position in the log.
    pub index: u64,
    /// The stamp of its batch.
    pub at: Time,
    pub kind: RowKind,
    pub fence: Fence,
    /// The node concerned: the owner, or the one that reported. 0 for none.
    pub node: NodeId,
    /// The instant the row speaks of: when it is due, tried next, or given up.
    pub until: Time,
    pub error: Option<Arc<str>>,
    pub by: Option<By>,
    /// The attempt that ended with this row.
    pub end: Option<Box<AttemptEnd>>,
}
