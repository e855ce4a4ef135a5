//! Who belongs to the cluster, changed while it runs.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;

use super::cluster::ClusterDto;
use super::params::Params;
use super::problem::{Kind, Problem, ProblemView};
use super::write::json;
use super::{Api, body};
use crate::model::NodeId;
use crate::raft::Cluster;

/// A node to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewNode {
    id: NodeId,
    /// Its peer address.
    #[schema(example = "10.0.0.4:7500")]
    peer: String,
    /// Make it a voter once it has caught up; true by default.
    promote: Option<bool>,
}

/// Adds a node: first as a learner, then as a voter.
#[utoipa::path(post, path = "/v1/cluster/nodes", tag = "cluster", request_body = NewNode,
    responses(
        (status = 200, description = "The cluster with the node", body = ClusterDto),
        (status = 409, description = "The membership was not changed", body = ProblemView),
        (status = 422, description = "A value is not acceptable", body = ProblemView),
    ))]
pub async fn add(
    State(api): State<Arc<Api>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let node: NewNode = body::json(&headers, body).await?;
    node.check()?;
    let cluster = api.cluster()?;
    let added = cluster.add(node.id, node.peer, node.promote.unwrap_or(true));
    shown(cluster, added.await).await
}

/// The node that takes another's place.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Successor {
    id: NodeId,
    /// Its peer address.
    #[schema(example = "10.0.0.4:7500")]
    peer: String,
}

/// Who is to lead.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLeader {
    /// A voter; the one that has the most of the log when it is left out.
    node: Option<NodeId>,
}

/// Removes a node for good: it never comes back with its directory. Its shards go to the others.
/// Refused when those who remain would have no majority that answers.
#[utoipa::path(delete, path = "/v1/cluster/nodes/{id}", tag = "cluster",
    params(("id" = u64, Path, description = "Its number")),
    responses(
        (status = 200, description = "The cluster without the node", body = ClusterDto),
        (status = 409, description = "The membership was not changed", body = ProblemView),
        (status = 422, description = "A value is not acceptable", body = ProblemView),
    ))]
pub async fn remove(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let id = number(&id)?;
    let cluster = api.cluster()?;
    shown(cluster, cluster.remove(id).await).await
}

/// Takes in a node that is running and waits to be added, and, when it has caught up, removes
/// another, in one step: there are never fewer voters than before. May take minutes.
#[utoipa::path(post, path = "/v1/cluster/nodes/{id}/replace", tag = "cluster",
    request_body = Successor,
    params(("id" = u64, Path, description = "The node that goes; it may be dead")),
    responses(
        (status = 200, description = "The cluster with the new node", body = ClusterDto),
        (status = 409, description = "The membership was not changed, or only so far that the new \
            node is a learner", body = ProblemView),
        (status = 422, description = "A value is not acceptable", body = ProblemView),
    ))]
pub async fn replace(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let old = number(&id)?;
    let Successor { id, peer } = body::json(&headers, body).await?;
    check(id, &peer)?;
    let cluster = api.cluster()?;
    shown(cluster, cluster.replace(old, id, peer).await).await
}

/// Moves the lead to another voter. When that one does not take it in time, the present leader
/// takes it again.
#[utoipa::path(post, path = "/v1/cluster/lead", tag = "cluster", request_body = NewLeader,
    responses(
        (status = 200, description = "The cluster with its new leader", body = ClusterDto),
        (status = 409, description = "The lead was not moved", body = ProblemView),
        (status = 422, description = "A value is not acceptable", body = ProblemView),
    ))]
pub async fn lead(
    State(api): State<Arc<Api>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let NewLeader { node } = body::json(&headers, body).await?;
    let cluster = api.cluster()?;
    shown(cluster, cluster.move_lead(node).await.map(drop)).await
}

/// Whether a node is to own nothing.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    node: NodeId,
    /// False takes it back; true by default.
    drain: Option<bool>,
}

/// Has a node give its shards to the others and take no more, until it is taken back or the node
/// starts again. Answers when it owns none; what it has begun it ends.
#[utoipa::path(post, path = "/v1/cluster/drain", tag = "cluster", request_body = Drain,
    responses(
        (status = 200, description = "The cluster afterwards", body = ClusterDto),
        (status = 409, description = "It owns shards still", body = ProblemView),
    ))]
pub async fn drain(
    State(api): State<Arc<Api>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let asked: Drain = body::json(&headers, body).await?;
    let cluster = api.cluster()?;
    let drained = cluster.drain(asked.node, asked.drain.unwrap_or(true)).await;
    shown(cluster, drained).await
}

/// The cluster as it is after a change, or why it was not changed.
async fn shown(cluster: &Cluster, changed: Result<(), String>) -> Result<Response, Problem> {
    changed.map_err(|reason| Problem::new(Kind::Membership, reason))?;
    Ok(json(&ClusterDto::from(cluster.view().await)))
}

fn number(id: &str) -> Result<NodeId, Problem> {
    let number = id.parse().ok().filter(|id| *id > 0);
    number.ok_or_else(|| Problem::invalid(format!("{id:?} is no node id: they are 1, 2, 3, …")))
}

fn check(id: NodeId, peer: &str) -> Result<(), Problem> {
    if id == 0 {
        return Err(Problem::invalid("`id`: node ids begin with 1"));
    }
    let port = peer.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    if !matches!(port, Some(Ok(1..))) || peer.len() > 256 {
        return Err(Problem::invalid("`peer`: write host:port"));
    }
    Ok(())
}

impl NewNode {
    fn check(&self) -> Result<(), Problem> {
        check(self.id, &self.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_to_add_are_checked() {
        let check = |text: &str| body::parse::<NewNode>(text.as_bytes()).and_then(|n| n.check());
        assert!(check(r#"{"id":4,"peer":"10.0.0.4:7500"}"#).is_ok());
        for bad in [
            r#"{"id":0,"peer":"a:1"}"#,
            r#"{"id":4,"peer":"a"}"#,
            r#"{"id":4,"peer":"a:0"}"#,
            r#"{"id":-4,"peer":"a:1"}"#,
            r#"{"id":4}"#,
        ] {
            assert_eq!(check(bad).unwrap_err().status().as_u16(), 422, "{bad}");
        }
    }
}
