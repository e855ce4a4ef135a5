//! A node without work: drained by an operator, or about to stop.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cluster::Cluster;
use super::inner::Inner;
use super::peer::Lane;
use super::wire;
use crate::model::{NodeId, decode, encode};

/// A node that drains is awaited so long; it goes on draining when nobody waits any more.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// Whoever passes a request on waits a little longer than the one who does it.
const AND_BACK: Duration = Duration::from_secs(1);

impl Cluster {
    /// Has a node give its shards away and take no more, or lets it take some again. Returns when
    /// it owns none, or at once. What it has begun it ends. It is forgotten when the node starts
    /// again.
    ///
    /// # Errors
    /// Says why not, and what to do.
    pub async fn drain(&self, node: NodeId, drain: bool) -> Result<(), String> {
        if node == self.0.node {
            return self.drain_here(drain).await;
        }
        self.drain_there(node, drain).await?;
        if drain {
            self.sees(|cluster| !cluster.0.owns(node)).await;
        }
        Ok(())
    }

    /// The node's own part.
    pub(crate) async fn drain_here(&self, drain: bool) -> Result<(), String> {
        let inner = &self.0;
        inner.drained.store(drain, Ordering::SeqCst);
        tracing::info!(drain, "asked to own nothing");
        inner.speak();
        if !drain {
            return Ok(());
        }
        let owns_nothing = tokio::time::timeout(DRAIN_WITHIN, inner.owns_nothing());
        owns_nothing.await.map_err(|_| {
            "it still owns shards: is there another node that can take them? It goes on trying"
                .into()
        })
    }

    async fn drain_there(&self, node: NodeId, drain: bool) -> Result<(), String> {
        let member = self.0.members().remove(&node);
        let member = member.ok_or_else(|| format!("node {node} is not in this cluster"))?;
        let to = (node, member.peer.as_str());
        let (body, within) = (encode(&drain).into(), DRAIN_WITHIN + AND_BACK);
        let call = self
            .0
            .peers
            .call(to, Lane::Forward, wire::DRAIN, body, within);
        let answer = call.await.map_err(|e| e.to_string())?;
        decode::<wire::Asked>(&answer).map_err(|e| e.to_string())?
    }
}

impl Inner {
    /// This node wants to own nothing: it is about to stop, or was drained.
    pub(crate) fn resigns(&self) -> bool {
        self.leaving.load(Ordering::SeqCst) || self.drained.load(Ordering::SeqCst)
    }

    /// Whether another voter is there that does not resign itself.
    fn someone_takes(&self) -> bool {
        let (now, lease) = (self.clock.steady(), self.timing.owner_lease());
        let others = self.voters().into_iter().filter(|id| *id != self.node);
        let takes = |id: NodeId| {
            let heard = self.registry.silent_for(id, now);
            let facts = self.registry.facts(id);
            heard.is_some_and(|silent| silent < lease) && facts.is_some_and(|(f, _)| !f.resigns)
        };
        others.into_iter().any(takes)
    }

    /// Tells the leader at once what has changed here.
    pub(crate) fn speak(&self) {
        self.beat.notify_one();
        self.folded.owners.notify_one();
    }

    /// Whether a node owns a shard, as far as this one knows.
    fn owns(&self, node: NodeId) -> bool {
        let owned = |state: &crate::state::State| state.shards().any(|(_, held)| held.node == node);
        self.state.read(owned)
    }

    /// Returns when this node owns no shard, as far as it knows.
    pub(crate) async fn owns_nothing(&self) {
        let mut applied = self.folded.applied.subscribe();
        while self.owns(self.node) {
            if applied.changed().await.is_err() {
                return;
            }
        }
    }
}

/// This node is about to stop; returns when it owns nothing, or when nobody is there who could take
/// its shards.
pub(super) async fn resign(inner: &Inner) {
    inner.leaving.store(true, Ordering::SeqCst);
    inner.speak();
    let nobody_takes = async {
        while inner.someone_takes() {
            #[allow(clippy::disallowed_methods)] // The others come and go without an event.
            tokio::time::sleep(inner.timing.heartbeat()).await;
        }
    };
    tokio::select! {
        () = inner.owns_nothing() => {}
        () = nobody_takes => {}
    }
}
