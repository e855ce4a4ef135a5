//! The messages between nodes, as bytes.

use bincode::{Decode, Encode};
use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};

use super::lifecycle::Ran;
use super::types::{
    PositionBytes, Types, VoteBytes, from_log, from_position_bytes, position_bytes, to_log,
};
use super::view::Facts;
use crate::log;
use crate::model::{CodecError, Fence, Level, NodeId, Outcome, Seq, decode, encode};

/// Declares the kinds of requests in one place.
macro_rules! kinds {
    ($($name:ident = $number:literal,)*) => { $(pub(crate) const $name: u8 = $number;)* };
}

kinds! {
    STATUS = 1,
    APPEND = 2,
    VOTE = 3,
    PRE_VOTE = 4,
    TRANSFER = 5,
    SNAPSHOT = 6,
    PING = 10,
    VIEW = 11,
    PROPOSE = 20,
    BARRIER = 21,
    WITHDRAW = 22,
    RELEASE = 23,
    JOIN = 24,
    ORDER = 25,
    ERRAND = 26,
    MOVED = 27,
    DUTY = 30,
    LOOK = 31,
    DRAIN = 33,
}

/// What a node says of itself before there is a cluster.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Status {
    pub(crate) node: NodeId,
    pub(crate) incarnation: u128,
    /// 0: not formed.
    pub(crate) cluster: u128,
    pub(crate) http: String,
    /// The membership it knows: id and incarnation.
    pub(crate) members: Vec<(NodeId, u128)>,
}

/// What an operator wants of the members; the leader does it.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) enum Order {
    Remove { id: NodeId },
    Replace { old: NodeId, new: Join },
    Lead { to: Option<NodeId> },
}

/// What became of an order that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Ordered {
    Done,
    /// The leader was itself to go, and has handed over: it is for the next one.
    Passed,
    /// Nothing was done.
    NotLeader,
}

/// Soft state that rides on heartbeats.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Ping {
    pub(crate) facts: Facts,
    /// In an answer: the term in which its sender leads a cluster that has no such member as the
    /// one who asks; else 0.
    pub(crate) removed_in: u64,
    /// The sender's wall clock, µs.
    pub(crate) wall_us: u64,
    /// In a call: the sender asks for a dispatch lease.
    pub(crate) asks: bool,
    /// In an answer: it has one, by a quorum that the leader knew of so many µs ago.
    pub(crate) lease_age_us: Option<u64>,
}

/// Events on their way to the leader.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Propose {
    pub(crate) class: u8,
    /// An encoded `Batch`; its stamps are not used.
    pub(crate) events: Vec<u8>,
}

/// The leader's answer to one forwarded event.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) enum Verdict {
    Decided {
        index: u64,
        outcome: Outcome,
    },
    /// Surely not appended; try whoever leads now.
    NotLeader,
    Overloaded {
        retry_after_ms: u64,
    },
    Unknown,
    /// A disk is nearly full; surely not appended.
    NoRoom {
        retry_after_ms: u64,
    },
    /// The application submits faster than it may; surely not appended.
    TooFast {
        retry_after_ms: u64,
    },
    /// Not every node knows this yet; surely not appended.
    Level {
        needs: Level,
        reached: Level,
    },
}

/// Asks an owner to take an attempt back and to propose the event with its fence.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Withdraw {
    pub(crate) seq: Seq,
    pub(crate) fence: Fence,
    /// An encoded `Batch` of one event.
    pub(crate) event: Vec<u8>,
}

/// Asks the leader to take a node in.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Join {
    pub(crate) id: NodeId,
    pub(crate) peer: String,
    pub(crate) http: String,
    pub(crate) incarnation: u128,
    pub(crate) voter: bool,
}

#[derive(Encode, Decode)]
struct AppendBytes {
    vote: VoteBytes,
    prev: Option<PositionBytes>,
    commit: Option<PositionBytes>,
    entries: Vec<Vec<u8>>,
}

pub(crate) fn append_request(request: &AppendEntriesRequest<Types>) -> Bytes {
    let bytes = AppendBytes {
        vote: (&request.vote).into(),
        prev: request.prev_log_id.as_ref().map(position_bytes),
        commit: request.leader_commit.as_ref().map(position_bytes),
        entries: request
            .entries
            .iter()
            .map(|e| to_log(e).frame().to_vec())
            .collect(),
    };
    encode(&bytes).into()
}

pub(crate) fn read_append_request(body: &[u8]) -> Result<AppendEntriesRequest<Types>, CodecError> {
    let bytes: AppendBytes = decode(body)?;
    let entries = bytes.entries.into_iter().map(|frame| {
        let entry = log::Entry::from_frame(&Bytes::from(frame))
            .map_err(|e| CodecError::Malformed(e.to_string()))?;
        from_log(entry)
    });
    Ok(AppendEntriesRequest {
        vote: bytes.vote.into(),
        prev_log_id: bytes.prev.map(from_position_bytes),
        leader_commit: bytes.commit.map(from_position_bytes),
        entries: entries.collect::<Result<_, _>>()?,
    })
}

#[derive(Encode, Decode)]
enum AppendedBytes {
    Success,
    Partial(Option<PositionBytes>),
    Conflict,
    HigherVote(VoteBytes),
}

pub(crate) fn append_response(response: &AppendEntriesResponse<Types>) -> Bytes {
    let bytes = match response {
        AppendEntriesResponse::Success => AppendedBytes::Success,
        AppendEntriesResponse::PartialSuccess(upto) => {
            AppendedBytes::Partial(upto.as_ref().map(position_bytes))
        }
        AppendEntriesResponse::Conflict => AppendedBytes::Conflict,
        AppendEntriesResponse::HigherVote(vote) => AppendedBytes::HigherVote(vote.into()),
    };
    encode(&bytes).into()
}

pub(crate) fn read_append_response(
    body: &[u8],
) -> Result<AppendEntriesResponse<Types>, CodecError> {
    Ok(match decode(body)? {
        AppendedBytes::Success => AppendEntriesResponse::Success,
        AppendedBytes::Partial(upto) => {
            AppendEntriesResponse::PartialSuccess(upto.map(from_position_bytes))
        }
        AppendedBytes::Conflict => AppendEntriesResponse::Conflict,
        AppendedBytes::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote.into()),
    })
}

type VoteRequestBytes = (VoteBytes, Option<PositionBytes>, bool);

pub(crate) fn vote_request(request: &VoteRequest<Types>) -> Bytes {
    let last = request.last_log_id.as_ref().map(position_bytes);
    encode(&(
        VoteBytes::from(&request.vote),
        last,
        request.leadership_transfer,
    ))
    .into()
}

pub(crate) fn read_vote_request(body: &[u8]) -> Result<VoteRequest<Types>, CodecError> {
    let (vote, last, leadership_transfer): VoteRequestBytes = decode(body)?;
    let mut request = VoteRequest::new(vote.into(), last.map(from_position_bytes));
    request.leadership_transfer = leadership_transfer;
    Ok(request)
}

pub(crate) fn vote_response(response: &VoteResponse<Types>) -> Bytes {
    let last = response.last_log_id.as_ref().map(position_bytes);
    encode(&(VoteBytes::from(&response.vote), last, response.vote_granted)).into()
}

pub(crate) fn read_vote_response(body: &[u8]) -> Result<VoteResponse<Types>, CodecError> {
    let (vote, last, granted): VoteRequestBytes = decode(body)?;
    let vote: super::types::Vote = vote.into();
    Ok(VoteResponse::new(
        vote,
        last.map(from_position_bytes),
        granted,
    ))
}

type TransferBytes = (VoteBytes, NodeId, Option<PositionBytes>);

pub(crate) fn transfer_request(request: &TransferLeaderRequest<Types>) -> Bytes {
    let last = request.last_log_id().map(position_bytes);
    encode(&(
        VoteBytes::from(request.from_leader()),
        *request.to_node_id(),
        last,
    ))
    .into()
}

pub(crate) fn read_transfer_request(
    body: &[u8],
) -> Result<TransferLeaderRequest<Types>, CodecError> {
    let (from, to, last): TransferBytes = decode(body)?;
    Ok(TransferLeaderRequest::new(
        from.into(),
        to,
        last.map(from_position_bytes),
    ))
}

/// How a duty that was asked for went; an error says whether something may have happened.
pub(crate) type Told = Result<Ran, bool>;

/// What became of what an operator asked for; an error says why not.
pub(crate) type Asked = Result<(), String>;

/// How a node's own look for lost attempts went: how many it examined and handed out.
pub(crate) type Looked = Result<(u64, u64), bool>;

/// A piece of a snapshot on its way.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Chunk {
    pub(crate) vote: VoteBytes,
    /// The log index of the snapshot: pieces of another one do not mix with it.
    pub(crate) index: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
    /// A hash of the whole, with the last piece.
    pub(crate) last: Option<[u8; 32]>,
}

/// The answer to a piece: go on, start over, or the vote after the whole was installed.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) enum Chunked {
    Next,
    Restart,
    Installed(VoteBytes),
}

pub(crate) fn snapshot_response(response: &SnapshotResponse<Types>) -> Chunked {
    Chunked::Installed((&response.vote).into())
}

/// Reads some bytes as each of the formats in turn; what was accepted is written alike.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_anything(bytes: &[u8]) {
    if let Ok(request) = read_append_request(bytes) {
        assert_eq!(append_request(&request), bytes);
    }
    if let Ok(response) = read_append_response(bytes) {
        assert_eq!(append_response(&response), bytes);
    }
    if let Ok(request) = read_vote_request(bytes) {
        assert_eq!(vote_request(&request), bytes);
    }
    if let Ok(response) = read_vote_response(bytes) {
        assert_eq!(vote_response(&response), bytes);
    }
    if let Ok(request) = read_transfer_request(bytes) {
        assert_eq!(transfer_request(&request), bytes);
    }
    let _ = decode::<Chunk>(bytes);
    let _ = decode::<Chunked>(bytes);
    let _ = decode::<Ping>(bytes);
    let _ = decode::<Propose>(bytes);
    let _ = decode::<Verdict>(bytes);
    let _ = decode::<Withdraw>(bytes);
    let _ = decode::<super::errand::Sent>(bytes);
    let _ = decode::<crate::state::Release>(bytes);
    let _ = decode::<Join>(bytes);
}
