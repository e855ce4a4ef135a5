//! Becoming a member: forming a new cluster with the others, joining one, or coming back.
//!
//! A cluster is formed once all listed nodes have answered each other with their incarnations;
//! the first membership holds all of them. The one with the lowest id writes it; the others find
//! themselves in it. A node that the cluster knows with another incarnation never gets in.

use std::collections::BTreeMap;
use std::time::Duration;

use super::peer::{CallError, Lane, Peers};
use super::service::wiped;
use super::types::Member;
use super::wire::{self, Join, Status};
use crate::model::{NodeId, decode, encode};

/// How long one question may take.
const ASK_WITHIN: Duration = Duration::from_secs(1);
/// Between two rounds of questions, so that waiting for the others costs nothing.
const ROUND: Duration = Duration::from_millis(100);
/// How often it is said what is being waited for.
const SAY_EVERY: u32 = 50;

/// How a new directory finds its cluster.
#[derive(Clone, Debug, Default)]
pub enum Origin {
    /// A new cluster of this node alone.
    #[default]
    Alone,
    /// A new cluster of these nodes: peer addresses by id.
    Listed(BTreeMap<NodeId, String>),
    /// A running cluster, of which one node has this peer address.
    Join(String),
}

/// What forming came to.
pub(crate) enum Formed {
    /// This node writes the first membership.
    First {
        cluster: u128,
        members: BTreeMap<NodeId, Member>,
    },
    /// The cluster has this node, or is about to.
    In { cluster: u128 },
}

/// Who is asking.
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    pub(crate) member: Member,
}

/// The id of a cluster: a hash of its first members, so that all of them find the same.
fn cluster_id(members: &BTreeMap<NodeId, Member>) -> u128 {
    let mut hasher = blake3::Hasher::new();
    for (id, member) in members {
        hasher
            .update(&id.to_le_bytes())
            .update(&member.incarnation.to_le_bytes());
    }
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_le_bytes(half).max(1)
}

/// Finds or forms the cluster of a new directory.
///
/// # Errors
/// When this node cannot become a member, with the way out.
pub(crate) async fn form(peers: &Peers, origin: &Origin, me: &Candidate) -> Result<Formed, String> {
    match origin {
        Origin::Alone => Ok(first([(me.node, me.member.clone())].into())),
        Origin::Listed(list) => {
            if !list.contains_key(&me.node) {
                return Err(format!("--cluster does not list this node ({})", me.node));
            }
            listed(peers, list, me).await
        }
        Origin::Join(address) => join(peers, address, me).await,
    }
}

fn first(members: BTreeMap<NodeId, Member>) -> Formed {
    Formed::First {
        cluster: cluster_id(&members),
        members,
    }
}

async fn listed(
    peers: &Peers,
    list: &BTreeMap<NodeId, String>,
    me: &Candidate,
) -> Result<Formed, String> {
    for round in 0u32.. {
        let mut members = BTreeMap::from([(me.node, me.member.clone())]);
        let mut missing = Vec::new();
        for (id, address) in list.iter().filter(|(id, _)| **id != me.node) {
            match status(peers, *id, address).await {
                Ok(status) if status.cluster != 0 => match place(&status, me)? {
                    true => {
                        return Ok(Formed::In {
                            cluster: status.cluster,
                        });
                    }
                    false => missing.push(format!(
                        "node {id} is in a cluster that does not have node {}; add it there with \
                         `horolog cluster add`, or start with --join",
                        me.node
                    )),
                },
                Ok(status) => {
                    let member = Member {
                        peer: address.clone(),
                        http: status.http,
                        incarnation: status.incarnation,
                    };
                    members.insert(*id, member);
                }
                Err(CallError::Refused { why, .. }) if why.contains("wiped") => return Err(why),
                Err(e) => missing.push(e.to_string()),
            }
        }
        if missing.is_empty() && members.keys().next() == Some(&me.node) {
            return Ok(first(members));
        }
        if round % SAY_EVERY == SAY_EVERY - 1 {
            let what = match missing.is_empty() {
                true => "the node with the lowest id, which writes the first membership".into(),
                false => missing.join("; "),
            };
            tracing::info!("forming the cluster, still waiting for: {what}");
        }
        #[allow(clippy::disallowed_methods)] // Between two rounds of questions.
        tokio::time::sleep(ROUND).await;
    }
    Err("gave up waiting for the others".into())
}

/// Whether a running cluster has this node, with this very directory.
fn place(status: &Status, me: &Candidate) -> Result<bool, String> {
    match status.members.iter().find(|(id, _)| *id == me.node) {
        Some((_, incarnation)) if *incarnation == me.member.incarnation => Ok(true),
        Some(_) => Err(wiped(me.node)),
        None => Ok(false),
    }
}

/// Asks whoever is at an address what it is part of.
pub(crate) async fn status(peers: &Peers, id: NodeId, address: &str) -> Result<Status, CallError> {
    let answer = peers.call(
        (id, address),
        Lane::Urgent,
        wire::STATUS,
        Default::default(),
        ASK_WITHIN,
    );
    let lost = |why: String| CallError::Lost {
        address: address.into(),
        why,
    };
    decode(&answer.await?).map_err(|e| lost(e.to_string()))
}

async fn join(peers: &Peers, address: &str, me: &Candidate) -> Result<Formed, String> {
    let request = Join {
        id: me.node,
        peer: me.member.peer.clone(),
        http: me.member.http.clone(),
        incarnation: me.member.incarnation,
        voter: true,
    };
    let body: bytes::Bytes = encode(&request).into();
    for round in 0u32.. {
        let within = Duration::from_secs(10);
        let call = peers.call((0, address), Lane::Urgent, wire::JOIN, body.clone(), within);
        let why = match call.await {
            Ok(answer) => match decode::<Result<u128, String>>(&answer) {
                Ok(Ok(cluster)) => return Ok(Formed::In { cluster }),
                Ok(Err(why)) if why.contains("wiped") => return Err(why),
                Ok(Err(why)) => why,
                Err(e) => e.to_string(),
            },
            Err(CallError::Refused { why, .. }) => return Err(why),
            Err(e) => e.to_string(),
        };
        if round % SAY_EVERY == 0 {
            tracing::info!("joining through {address}: {why}");
        }
        #[allow(clippy::disallowed_methods)] // Between two rounds of questions.
        tokio::time::sleep(ROUND).await;
    }
    Err("gave up joining".into())
}
