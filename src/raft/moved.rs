//! A node that has come back at another address. Who it is says its directory; where it is says the
//! membership, and so the new address goes into the log, under the same id.
//!
//! The others know only where it was, and so it hears of no leader: it asks whomever it knows, until
//! its own membership says where it is.

use openraft::ChangeMembers;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::cluster::{Cluster, OUTCOME_WITHIN};
use super::inner::Inner;
use super::peer::Lane;
use super::service::wiped;
use super::types::Member;
use super::wire::{self, Join};
use crate::model::{decode, encode};

/// Between two tries.
const EVERY: Duration = Duration::from_secs(1);

/// Has the others note where this node is, when that is not what they know; then ends.
pub(crate) async fn run(inner: Arc<Inner>) {
    while let Some(join) = unrecorded(&inner) {
        for (id, member) in inner.members() {
            if id == inner.node && inner.leader() != Some(id) {
                continue;
            }
            let told = tokio::select! {
                () = inner.stop.cancelled() => return,
                told = tell(&inner, (id, &member), &join) => told,
            };
            match told {
                Ok(()) => {
                    tracing::info!(
                        peer = join.peer,
                        http = join.http,
                        "its new address is known"
                    );
                    break;
                }
                Err(why) => tracing::debug!(asked = id, "a new address is not noted yet: {why}"),
            }
        }
        #[allow(clippy::disallowed_methods)] // Until somebody can be asked, and the log tells.
        let pause = tokio::time::sleep(EVERY);
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = pause => {}
        }
    }
}

async fn tell(inner: &Arc<Inner>, to: (u64, &Member), join: &Join) -> Result<(), String> {
    let (id, member) = to;
    if id == inner.node {
        return Cluster(inner.clone()).note_address(join.clone()).await;
    }
    let (to, body) = ((id, member.peer.as_str()), encode(join).into());
    let call = inner
        .peers
        .call(to, Lane::Urgent, wire::MOVED, body, OUTCOME_WITHIN);
    let answer = call.await.map_err(|e| e.to_string())?;
    decode::<wire::Asked>(&answer).map_err(|e| e.to_string())?
}

/// Where this node is, unless the membership says so, or does not know it at all.
fn unrecorded(inner: &Inner) -> Option<Join> {
    let mut members = inner.members();
    if members.is_empty() {
        // Nothing is known yet: it looks again.
        return Some(here(inner, None));
    }
    let known = members.remove(&inner.node)?;
    let join = here(inner, Some(&known));
    ((&join.peer, &join.http) != (&known.peer, &known.http)).then_some(join)
}

/// An address at which nobody can be reached is none: what is known stays.
fn here(inner: &Inner, known: Option<&Member>) -> Join {
    let chosen = |own: &str, known: Option<&String>| match known {
        Some(known) if !is_somewhere(own) => known.clone(),
        _ => own.to_owned(),
    };
    let me = inner.peers.me();
    Join {
        id: inner.node,
        peer: chosen(&inner.peer, known.map(|known| &known.peer)),
        http: chosen(&inner.http, known.map(|known| &known.http)),
        incarnation: me.incarnation,
        voter: true,
    }
}

/// Whether an address names a place, and not all the addresses of whatever machine.
fn is_somewhere(address: &str) -> bool {
    match address.parse::<SocketAddr>() {
        Ok(address) => !address.ip().is_unspecified() && address.port() != 0,
        // A name.
        Err(_) => !address.is_empty(),
    }
}

impl Cluster {
    /// Notes where a member is now, on the leader or through it.
    ///
    /// # Errors
    /// Says why not, and what to do.
    pub(crate) async fn note_address(&self, join: Join) -> Result<(), String> {
        let inner = &self.0;
        let leader = inner.leader().ok_or("no leader is known at the moment")?;
        let mut members = inner.members();
        if leader != inner.node {
            let member = members.remove(&leader).ok_or("the leader is no member")?;
            // Only the node itself asks around: a leader that is none any more says so.
            let (to, body) = ((leader, member.peer.as_str()), encode(&join).into());
            let call = inner
                .peers
                .call(to, Lane::Urgent, wire::MOVED, body, OUTCOME_WITHIN);
            let answer = call.await.map_err(|e| e.to_string())?;
            return decode::<wire::Asked>(&answer).map_err(|e| e.to_string())?;
        }
        let raft = inner.raft().ok_or("Raft is not running yet")?;
        let id = join.id;
        let known = members.remove(&id);
        let known = known.ok_or_else(|| format!("node {id} is no member"))?;
        if known.incarnation != join.incarnation {
            return Err(wiped(id));
        }
        if (&known.peer, &known.http) == (&join.peer, &join.http) {
            return Ok(());
        }
        let member = Member {
            peer: join.peer,
            http: join.http,
            incarnation: join.incarnation,
        };
        tracing::info!(
            node = id,
            from = known.peer,
            to = member.peer,
            "is at another address"
        );
        let change = ChangeMembers::SetNodes(BTreeMap::from([(id, member)]));
        let changed = raft.change_membership(change, true).await;
        changed.map(drop).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_everywhere_is_none() {
        for address in ["10.0.0.3:7500", "[::1]:7500", "node-3:7500"] {
            assert!(is_somewhere(address), "{address}");
        }
        for address in ["0.0.0.0:7500", "[::]:7500", "127.0.0.1:0", ""] {
            assert!(!is_somewhere(address), "{address}");
        }
    }
}
