//! openraft's types for this project, and the conversions to our own.

use bincode::{Decode, Encode};
use bytes::Bytes;
use openraft::type_config::alias::{EntryOf, LogIdOf, StoredMembershipOf, VoteOf};
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, Membership, StoredMembership};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::machine::Machine;
use crate::log;
use crate::model::{CodecError, NodeId, Outcome, decode, encode};

openraft::declare_raft_types!(
    /// The types of this project.
    pub(crate) Types:
        D = Payload,
        R = Reply,
        Node = Member,
        AsyncRuntime = super::chance::Runtime,
);

pub(crate) type Raft = openraft::Raft<Types, Machine>;
pub(crate) type LogId = LogIdOf<Types>;
pub(crate) type Vote = VoteOf<Types>;
pub(crate) type Entry = EntryOf<Types>;
pub(crate) type Stored = StoredMembershipOf<Types>;
pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;

/// An encoded `Batch`: the same bytes on disk, on the wire and into the fold.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// One outcome per event of the entry.
#[derive(Debug, Default)]
pub(crate) struct Reply(pub(crate) Vec<Outcome>);

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} outcomes", self.0.len())
    }
}

/// A node as the membership knows it. Another incarnation of the same id is another node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Member {
    pub(crate) peer: String,
    pub(crate) http: String,
    pub(crate) incarnation: u128,
}

pub(crate) fn position(id: &LogId) -> log::Position {
    let leader = id.committed_leader_id();
    log::Position {
        term: leader.term,
        node: leader.node_id,
        index: id.index(),
    }
}

pub(crate) fn log_id(at: log::Position) -> LogId {
    LogId::new(
        LeaderId {
            term: at.term,
            node_id: at.node,
        },
        at.index,
    )
}

/// A vote as bytes are made of it.
#[derive(Clone, Copy, Debug, Encode, Decode)]
pub(crate) struct VoteBytes {
    term: u64,
    node: NodeId,
    committed: bool,
}

impl From<&Vote> for VoteBytes {
    fn from(vote: &Vote) -> VoteBytes {
        VoteBytes {
            term: vote.leader_id.term,
            node: vote.leader_id.node_id,
            committed: vote.committed,
        }
    }
}

impl From<VoteBytes> for Vote {
    fn from(vote: VoteBytes) -> Vote {
        Vote {
            leader_id: RaftLeaderId::new(vote.term, vote.node),
            committed: vote.committed,
        }
    }
}

/// A log position as bytes are made of it.
pub(crate) type PositionBytes = (u64, NodeId, u64);

pub(crate) fn position_bytes(id: &LogId) -> PositionBytes {
    let at = position(id);
    (at.term, at.node, at.index)
}

pub(crate) fn from_position_bytes((term, node, index): PositionBytes) -> LogId {
    log_id(log::Position { term, node, index })
}

/// A membership as bytes are made of it.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct MembershipBytes {
    configs: Vec<BTreeSet<NodeId>>,
    nodes: BTreeMap<NodeId, Member>,
}

impl From<&Membership<u64, Member>> for MembershipBytes {
    fn from(membership: &Membership<u64, Member>) -> MembershipBytes {
        MembershipBytes {
            configs: membership.get_joint_config().clone(),
            nodes: membership
                .nodes()
                .map(|(id, node)| (*id, node.clone()))
                .collect(),
        }
    }
}

/// The members of the cluster, as an entry of the log has them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Members {
    /// The voters; two lists while one gives way to the other.
    pub voters: Vec<BTreeSet<NodeId>>,
    /// All nodes, learners too.
    pub nodes: BTreeMap<NodeId, MemberShown>,
}

/// A node as the membership knows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MemberShown {
    pub peer: String,
    pub http: String,
}

/// Reads a membership entry's payload.
///
/// # Errors
/// The bytes are not what a node writes.
pub fn membership(payload: &[u8]) -> Result<Members, CodecError> {
    let MembershipBytes { configs, nodes } = decode(payload)?;
    let shown = |(id, member): (NodeId, Member)| {
        let Member { peer, http, .. } = member;
        (id, MemberShown { peer, http })
    };
    Ok(Members {
        voters: configs,
        nodes: nodes.into_iter().map(shown).collect(),
    })
}

impl MembershipBytes {
    fn read(self) -> Result<Membership<u64, Member>, CodecError> {
        if self.configs.is_empty() && self.nodes.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(self.configs, self.nodes).map_err(|e| CodecError::Malformed(e.to_string()))
    }
}

/// What a snapshot carries for Raft: where it stands and who was a member.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct Attachment {
    pub(crate) applied: Option<PositionBytes>,
    pub(crate) members_at: Option<PositionBytes>,
    pub(crate) members: Option<MembershipBytes>,
}

impl Attachment {
    pub(crate) fn new(applied: Option<&LogId>, members: &Stored) -> Attachment {
        Attachment {
            applied: applied.map(position_bytes),
            members_at: members.log_id().as_ref().map(position_bytes),
            members: Some(members.membership().into()),
        }
    }

    pub(crate) fn applied(&self) -> Option<LogId> {
        self.applied.map(from_position_bytes)
    }

    pub(crate) fn members(&self) -> Stored {
        let members = self.members.clone().and_then(|members| members.read().ok());
        let at = self.members_at.map(from_position_bytes);
        members.map_or_else(Stored::default, |members| {
            StoredMembership::new(at, members)
        })
    }
}

/// An entry as the log keeps it.
pub(crate) fn to_log(entry: &Entry) -> log::Entry {
    let at = position(&entry.log_id);
    let (kind, payload) = match &entry.payload {
        EntryPayload::Blank => (log::Kind::Blank, Bytes::new()),
        EntryPayload::Normal(payload) => (log::Kind::Batch, payload.0.clone()),
        EntryPayload::Membership(membership) => (
            log::Kind::Membership,
            encode(&MembershipBytes::from(membership)).into(),
        ),
    };
    log::Entry { at, kind, payload }
}

/// The inverse of [`to_log`].
pub(crate) fn from_log(entry: log::Entry) -> Result<Entry, CodecError> {
    let payload = match entry.kind {
        log::Kind::Blank => EntryPayload::Blank,
        log::Kind::Batch => EntryPayload::Normal(Payload(entry.payload)),
        log::Kind::Membership => {
            EntryPayload::Membership(decode::<MembershipBytes>(&entry.payload)?.read()?)
        }
    };
    Ok(Entry {
        log_id: log_id(entry.at),
        payload,
    })
}
