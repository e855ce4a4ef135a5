//! Connections to peers, made when first needed and made again when they break.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex as AsyncMutex;

use super::handshake::{self, Secret, Self_};
use super::link::{CallError, Link};
use super::refusals::Refusals;
use super::tls::explain;
use super::{Lane, Network};
use crate::model::NodeId;

type Place = Arc<AsyncMutex<Option<Arc<Link>>>>;

/// All outgoing connections of a node.
pub(crate) struct Peers {
    me: Mutex<Self_>,
    secret: Secret,
    network: Arc<dyn Network>,
    places: Mutex<BTreeMap<(String, Lane), Place>>,
    refusals: Refusals,
}

impl Peers {
    pub(crate) fn new(me: Self_, secret: Secret, network: Arc<dyn Network>) -> Peers {
        Peers {
            me: Mutex::new(me),
            secret,
            network,
            places: Mutex::default(),
            refusals: Refusals::default(),
        }
    }

    /// Who this node says it is from now on: the cluster is learnt after the first calls.
    pub(crate) fn joined(&self, cluster: u128) {
        self.me
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .cluster = cluster;
        self.places
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub(crate) fn me(&self) -> Self_ {
        *self.me.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls a peer. `to` is who must be there; 0 for whoever is.
    pub(crate) async fn call(
        &self,
        (to, address): (NodeId, &str),
        lane: Lane,
        kind: u8,
        body: Bytes,
        within: Duration,
    ) -> Result<Bytes, CallError> {
        let unsent = |why: String| CallError::Unsent {
            address: address.into(),
            why,
        };
        let start = tokio::time::Instant::now();
        let link = tokio::time::timeout(within, self.link(to, address, lane))
            .await
            .map_err(|_| unsent("connecting took too long".into()))??;
        link.call(kind, body, within.saturating_sub(start.elapsed()))
            .await
    }

    async fn link(&self, to: NodeId, address: &str, lane: Lane) -> Result<Arc<Link>, CallError> {
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            places
                .entry((address.to_owned(), lane))
                .or_default()
                .clone()
        };
        let mut slot = place.lock().await;
        if let Some(link) = slot.as_ref().filter(|link| link.is_open()) {
            return Ok(link.clone());
        }
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::PermissionDenied => {
                self.refusals
                    .warn(address, &format!("no connection with {address}: {e}"));
                CallError::Refused {
                    address: address.into(),
                    why: e.to_string(),
                }
            }
            _ => CallError::Unsent {
                address: address.into(),
                why: e.to_string(),
            },
        };
        let greeted = async {
            let mut connection = self.network.dial(address.to_owned()).await?;
            let expected = (to, connection.certified);
            let (stream, lane) = (&mut *connection.stream, lane as u8);
            handshake::dial(stream, self.me(), expected, lane, &self.secret).await?;
            Ok(connection.stream)
        };
        let stream = greeted.await.map_err(|e| failed(explain(e)))?;
        let link = Arc::new(Link::new(address.to_owned(), stream));
        *slot = Some(link.clone());
        Ok(link)
    }
}
