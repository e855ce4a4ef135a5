//! The cluster as this node sees it.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use utoipa::ToSchema;

use super::Api;
use super::params::Params;
use super::problem::{Problem, ProblemView};
use super::write::json;
use crate::model::{NodeId, Time};
use crate::raft::{ClusterView, NodeView, ShardView};

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Cluster)]
pub struct ClusterDto {
    /// What every node knows, and so may be used: 1 tasks, 2 schedules, shard sets and paused
    /// applications too. Rises by itself when the last member knows more.
    feature_level: u16,
    leader: Option<NodeId>,
    term: u64,
    nodes: Vec<NodeDto>,
    shards: Shards,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Node)]
struct NodeDto {
    id: NodeId,
    http: String,
    peer: String,
    /// `leader`, `follower` or `learner`.
    role: &'static str,
    alive: bool,
    /// 0…1
    load: f64,
    /// For how long what has waited longest at a target has been due.
    queue_age_ms: u64,
    /// It is to own no shards: it was drained, is about to stop, or its clock is off.
    resigns: bool,
    last_applied: u64,
    checkpoint: u64,
    clock_skew_ms: i64,
    version: String,
    /// What it knows, or is held to by `cluster.feature_level`.
    feature_level: u16,
    /// What it is set to be called: `placement` by label goes by these.
    labels: BTreeMap<String, String>,
    /// The handlers of the program that it runs in: what `invoke` targets are given to.
    handlers: BTreeSet<String>,
    state_hashes: Vec<StateHash>,
    scrub: Scrub,
}

/// The search for damage in a node's log and store, since that node started.
#[derive(Debug, Serialize, ToSchema)]
struct Scrub {
    /// Whole passes that found nothing.
    passes: u64,
    /// When the last one ended.
    #[schema(value_type = Option<String>)]
    finished_at: Option<Time>,
    findings: u64,
    /// Read in this pass, or in the last one.
    bytes: u64,
    /// Where it is; only of the node that was asked, and only while a pass is under way.
    place: Option<String>,
}

/// Equal indexes must show equal hashes on every node.
#[derive(Debug, Serialize, ToSchema)]
struct StateHash {
    index: u64,
    hash: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct Shards {
    total: u16,
    /// How many each node owns, by node id.
    owned: BTreeMap<String, u64>,
    /// How far each shard has come, by number.
    progress: Vec<Progress>,
}

/// What is open in one shard. `committed` lags by what is done among neighbouring log positions,
/// and never runs ahead.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ShardProgress)]
struct Progress {
    shard: u16,
    owner: Option<NodeId>,
    epoch: u64,
    /// Tasks that are neither done, nor dead, nor cancelled.
    open: u64,
    /// No task of the shard that was submitted at or below this log index is open.
    committed: u64,
}

/// The nodes, the leader, the shards.
#[utoipa::path(get, path = "/v1/cluster", tag = "cluster",
    responses((status = 200, body = ClusterDto), (status = 503, body = ProblemView)))]
pub async fn status(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let view = api.cluster()?.view();
    Ok(json(&ClusterDto::from(view.await)))
}

impl From<ClusterView> for ClusterDto {
    fn from(view: ClusterView) -> ClusterDto {
        let owned = view.shards_owned.into_iter();
        ClusterDto {
            feature_level: view.level.0,
            leader: view.leader,
            term: view.term,
            nodes: view.nodes.into_iter().map(NodeDto::from).collect(),
            shards: Shards {
                total: view.shards_total,
                owned: owned
                    .map(|(node, shards)| (node.to_string(), shards))
                    .collect(),
                progress: view.shards.into_iter().map(Progress::from).collect(),
            },
        }
    }
}

impl From<ShardView> for Progress {
    fn from(shard: ShardView) -> Progress {
        Progress {
            shard: shard.shard,
            owner: shard.owner,
            epoch: shard.epoch,
            open: shard.open,
            committed: shard.committed,
        }
    }
}

impl From<NodeView> for NodeDto {
    fn from(node: NodeView) -> NodeDto {
        let hashes = node.state_hashes.into_iter();
        NodeDto {
            id: node.id,
            http: node.http,
            peer: node.peer,
            role: node.role,
            alive: node.alive,
            load: node.load.clamp(0.0, 1.0),
            queue_age_ms: node.queue_age_ms,
            resigns: node.resigns,
            last_applied: node.last_applied,
            checkpoint: node.checkpoint,
            clock_skew_ms: node.clock_skew_ms,
            version: node.version,
            feature_level: node.level.0,
            labels: node.labels,
            handlers: Arc::unwrap_or_clone(node.handlers),
            scrub: Scrub {
                passes: node.scrub.passes,
                finished_at: Some(node.scrub.finished).filter(|at| *at > Time(0)),
                findings: node.scrub.findings,
                bytes: node.scrub.bytes,
                place: Some(node.scrub_place).filter(|place| !place.is_empty()),
            },
            state_hashes: hashes
                .map(|(index, hash)| StateHash { index, hash })
                .collect(),
        }
    }
}
