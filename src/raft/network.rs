//! openraft's calls to peers, over our lanes.

use futures::FutureExt;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use super::peer::{CallError, Lane, Peers};
use super::runner::{Runner, blocking};
use super::sending::Sending;
use super::snapshots::{SnapshotData, Snapshots};
use super::types::{LeaderId, Member, Types, Vote};
use super::wire::{self, Chunk, Chunked};
use crate::model::{CodecError, NodeId, decode, encode};

/// How much of a snapshot goes in one call.
const CHUNK_BYTES: usize = 1 << 20;
/// One piece must be through by then, installation of the last included.
pub(crate) const CHUNK_WITHIN: Duration = Duration::from_secs(30);

/// Entries are answered once they are synced, and a slow disk needs more for that than a heartbeat
/// has: given up sooner, they are sent again for ever, and a follower never catches up. A connection
/// on which nothing is heard ends earlier than this.
const APPEND_WITHIN: Duration = Duration::from_secs(2);

/// A follower that could not be reached is tried again after this.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Makes connections to peers for openraft.
#[derive(Clone)]
pub(crate) struct Factory {
    pub(crate) peers: Arc<Peers>,
    pub(crate) sending: Arc<Sending>,
    pub(crate) snapshots: Snapshots,
    pub(crate) runner: Arc<dyn Runner>,
}

impl RaftNetworkFactory<Types> for Factory {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Peer {
        Peer {
            peers: self.peers.clone(),
            sending: self.sending.clone(),
            snapshots: self.snapshots.clone(),
            runner: self.runner.clone(),
            node: target,
            address: node.peer.clone(),
        }
    }
}

/// One peer, as openraft calls it.
pub(crate) struct Peer {
    peers: Arc<Peers>,
    sending: Arc<Sending>,
    snapshots: Snapshots,
    runner: Arc<dyn Runner>,
    node: NodeId,
    address: String,
}

type Failure = RPCError<Types>;

fn failure(e: CallError) -> Failure {
    match e {
        // Back off: it will not be there a moment later either.
        CallError::Unsent { .. } | CallError::Failed { .. } | CallError::Refused { .. } => {
            Unreachable::new(&e).into()
        }
        CallError::Lost { .. } => NetworkError::new(&e).into(),
    }
}

fn malformed(e: CodecError) -> Failure {
    NetworkError::new(&e).into()
}

impl Peer {
    async fn call(
        &self,
        lane: Lane,
        kind: u8,
        body: bytes::Bytes,
        within: Duration,
    ) -> Result<bytes::Bytes, Failure> {
        // openraft keeps a connection's address for as long as its target is a member.
        let home = self.peers.home(self.node);
        let to = (self.node, home.as_deref().unwrap_or(&self.address));
        self.peers
            .call(to, lane, kind, body, within)
            .await
            .map_err(failure)
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotData,
    ) -> Result<SnapshotResponse<Types>, Failure> {
        let io = |e: std::io::Error| Failure::from(NetworkError::new(&e));
        let snapshots = self.snapshots.clone();
        let write = move || snapshots.to_send(snapshot);
        let written = blocking(&*self.runner, "writing a snapshot out", write).await;
        let written = written.map_err(|e| io(std::io::Error::other(e)))?;
        let (mut file, index) = written.map_err(io)?;
        let sent = self.sending.begin(index);
        let (mut offset, mut hasher) = (0, blake3::Hasher::new());
        loop {
            let mut bytes = Vec::with_capacity(CHUNK_BYTES);
            file.by_ref()
                .take(CHUNK_BYTES as u64)
                .read_to_end(&mut bytes)
                .map_err(io)?;
            hasher.update(&bytes);
            let last = (bytes.len() < CHUNK_BYTES).then(|| *hasher.finalize().as_bytes());
            let length = bytes.len() as u64;
            let chunk = Chunk {
                vote: (&vote).into(),
                index,
                offset,
                bytes,
                last,
            };
            let body = encode(&chunk).into();
            let answer = self
                .call(Lane::Snapshot, wire::SNAPSHOT, body, CHUNK_WITHIN)
                .await?;
            sent.progress();
            match decode(&answer).map_err(malformed)? {
                Chunked::Next => offset += length,
                Chunked::Installed(vote) => return Ok(SnapshotResponse::new(vote.into())),
                Chunked::Restart => {
                    let e = std::io::Error::other("the receiver wants the snapshot from its start");
                    return Err(io(e));
                }
            }
        }
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, Failure> {
        let (lane, within) = match request.entries.is_empty() {
            true => (Lane::Urgent, option.soft_ttl()),
            false => (Lane::Append, option.soft_ttl().max(APPEND_WITHIN)),
        };
        let body = wire::append_request(&request);
        let answer = self.call(lane, wire::APPEND, body, within).await?;
        wire::read_append_response(&answer).map_err(malformed)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, Failure> {
        let body = wire::vote_request(&request);
        let answer = self
            .call(Lane::Urgent, wire::VOTE, body, option.soft_ttl())
            .await?;
        wire::read_vote_response(&answer).map_err(malformed)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, Failure> {
        let body = wire::vote_request(&request);
        let answer = self
            .call(Lane::Urgent, wire::PRE_VOTE, body, option.soft_ttl())
            .await?;
        wire::read_vote_response(&answer).map_err(malformed)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<LeaderId, NodeId, Member, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sent = self.send_snapshot(vote, snapshot.snapshot).fuse();
        let (sent, cancel) = (std::pin::pin!(sent), std::pin::pin!(cancel));
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = sent => sent.map_err(|e| match e {
                RPCError::Unreachable(e) => e.into(),
                RPCError::Timeout(e) => e.into(),
                RPCError::Network(e) => e.into(),
                RPCError::RemoteError(e) => match e.source {},
            }),
        }
    }

    /// A follower that comes back is not kept waiting: a try costs one small frame.
    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RETRY_AFTER)))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, Failure> {
        let body = wire::transfer_request(&request);
        self.call(Lane::Urgent, wire::TRANSFER, body, option.soft_ttl())
            .await?;
        Ok(Ok(()))
    }
}
