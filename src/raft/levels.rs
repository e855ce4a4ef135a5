//! The feature level of the cluster: kept before the fold, and raised when every member knows more.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use super::duties::until_decided;
use super::inner::Inner;
use super::types::Raft;
use crate::model::{Level, Raise};

/// What this node knows, and what the cluster may write.
pub(crate) struct Levels {
    /// Of this node: that of its version, or the lower one it is held to.
    own: Level,
    /// The cluster's, as far as this node has folded; zero: nobody has led it yet.
    reached: AtomicU16,
}

impl Levels {
    pub(crate) fn new(own: Level) -> Levels {
        Levels {
            own,
            reached: AtomicU16::new(0),
        }
    }

    pub(crate) fn own(&self) -> Level {
        self.own
    }

    pub(crate) fn reached(&self) -> Level {
        Level(self.reached.load(Ordering::SeqCst))
    }

    /// Whether something of this level may be written.
    pub(crate) fn allows(&self, needs: Level) -> bool {
        needs <= self.reached().max(Level::TASKS)
    }

    /// Notes what the fold has come to.
    ///
    /// # Errors
    /// This node knows less: it must stop, and says what to do.
    pub(crate) fn note(&self, reached: Level) -> io::Result<()> {
        self.reached.store(reached.0, Ordering::SeqCst);
        if reached <= self.own {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "its cluster is at feature level {reached}, and this node knows level {}: start a newer \
             version here, or take `cluster.feature_level` out of its settings; its data stays as it is",
            self.own
        )))
    }
}

/// Right when a lead begins: a new cluster is at the level of whoever leads it first.
pub(super) async fn begin(inner: &Inner, raft: &Raft, term: u64) {
    let levels = &inner.folded.levels;
    if levels.reached() == Level::default() {
        raise(inner, raft, term, levels.own()).await;
    }
}

/// Raises the level to what every member knows, if that is more. One that was never heard in this
/// term knows nothing new.
pub(super) async fn follow(inner: &Inner, raft: &Raft, term: u64) {
    let levels = &inner.folded.levels;
    let known = |node| match node == inner.node {
        true => levels.own(),
        false => {
            let facts = inner.registry.facts(node);
            facts.map_or(Level::default(), |(facts, _)| facts.level)
        }
    };
    let lowest = inner.members().into_keys().map(known).min();
    if let Some(level) = lowest.filter(|lowest| *lowest > levels.reached()) {
        raise(inner, raft, term, level).await;
    }
}

async fn raise(inner: &Inner, raft: &Raft, term: u64, level: Level) {
    if until_decided(inner, raft, term, Raise { level }.into()).await {
        tracing::info!(%level, "the cluster's feature level");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_waits_for_the_level() {
        let levels = Levels::new(Level(2));
        assert!(levels.allows(Level::TASKS) && !levels.allows(Level(2)));
        levels.note(Level(2)).unwrap();
        assert!(levels.allows(Level(2)) && !levels.allows(Level(3)));
        let why = levels.note(Level(3)).unwrap_err().to_string();
        assert!(
            why.contains("feature level 3") && why.contains("knows level 2"),
            "{why}"
        );
    }
}
