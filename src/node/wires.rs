//! What peers are reached with: TLS where it is set, or plain TCP and a word about it.

use std::sync::Arc;
use tokio::net::TcpListener;

use super::Config;
use crate::api::is_loopback;
use crate::model::{Clock, Time};
use crate::raft::{Listener, Network, Port, Taker, Tcp, Tls};

/// The peer network of a node.
pub(super) struct Wires {
    tls: Option<Arc<Tls>>,
    clock: Arc<dyn Clock>,
}

impl Wires {
    /// # Errors
    /// Why the certificates cannot be used.
    pub fn new(config: &Config, clock: Arc<dyn Clock>) -> Result<Wires, String> {
        let load = |files| Tls::load(files, config.id, clock.wall()).map(Arc::new);
        let tls = config.tls.clone().map(load).transpose()?;
        match &tls {
            Some(tls) => tracing::info!(ends_at = %tls.ends_at(), "peers are spoken to over TLS"),
            None if is_loopback(config.peer.ip()) => {}
            None => tracing::warn!(
                peer = %config.peer,
                "NO TLS BETWEEN NODES: whoever sees the network between them reads every task, \
                 and can change what is on its way; the cluster secret keeps others out, and no \
                 more than that. Set cluster.tls.ca, cluster.tls.cert and cluster.tls.key"
            ),
        }
        Ok(Wires { tls, clock })
    }

    pub fn network(&self) -> Arc<dyn Network> {
        match &self.tls {
            Some(tls) => tls.clone(),
            None => Arc::new(Tcp),
        }
    }

    /// When the certificate in use ends, asked again each time.
    pub fn ends(&self) -> impl Fn() -> Option<Time> + Send + Sync + 'static {
        let tls = self.tls.clone();
        move || tls.as_ref().map(|tls| tls.ends_at())
    }

    /// What comes in at a port.
    pub fn listen(&self, listener: TcpListener) -> Box<dyn Listener> {
        let taker: Arc<dyn Taker> = match &self.tls {
            Some(tls) => tls.clone(),
            None => Arc::new(Tcp),
        };
        Box::new(Port { listener, taker })
    }

    /// Reads the files again, and says in the log what came of it.
    pub fn reload(&self) {
        let Some(tls) = &self.tls else {
            tracing::info!("nothing to read anew: there is no TLS between nodes");
            return;
        };
        match tls.reload(self.clock.wall()) {
            Ok(ends_at) => tracing::info!(%ends_at, "new connections use the new certificates"),
            Err(why) => tracing::error!("the certificates in use stay in use: {why}"),
        }
    }
}
