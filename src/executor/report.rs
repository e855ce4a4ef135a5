//! What is told of attempts while they run, and what is forgotten when nobody closed it.
//!
//! A start is no event by itself: most calls end within milliseconds, and the log would double.
//! Those that stay open are reported in batches, so that operators see them and their deadline
//! survives this node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::run::{Inner, LOOK_UP_MAX};
use crate::model::{Fence, NodeId, Seq, Started, Time};

/// An attempt that is open for so long is reported.
const REPORT_AGE: Duration = Duration::from_secs(1);
/// How often to look for such attempts while there are any.
const REPORT_EVERY: Duration = Duration::from_millis(250);
/// Attempts in one report at most.
const REPORT_MAX: usize = 1024;
/// How often to look for what the log never closed, and after what time it counts as forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
const FORGOTTEN_AGE: Duration = Duration::from_secs(600);

impl Inner {
    /// Reports attempts that have been open for a while, in batches; sleeps when there are none.
    pub(super) async fn report(self: &Arc<Self>) {
        loop {
            self.begun.notified().await;
            while self.lock().attempts.has_young() {
                #[allow(clippy::disallowed_methods)] // A period, at the rim.
                tokio::time::sleep(REPORT_EVERY).await;
                self.report_open().await;
            }
        }
    }

    async fn report_open(&self) {
        loop {
            let steady = self.clock.steady();
            let attempts = self.lock().attempts.grown(steady, REPORT_AGE, REPORT_MAX);
            let more = attempts.len() == REPORT_MAX;
            if !attempts.is_empty() {
                for (node, attempts) in self.by_node(attempts) {
                    let _ = self.outcomes.send(Started { node, attempts }.into()).await;
                }
            }
            if !more {
                return;
            }
        }
    }

    /// By the node that carries them out.
    fn by_node(
        &self,
        attempts: Vec<(Seq, Fence, Time)>,
    ) -> BTreeMap<NodeId, Vec<(Seq, Fence, Time)>> {
        let mut by_node: BTreeMap<NodeId, Vec<_>> = BTreeMap::new();
        let core = self.lock();
        for attempt in attempts {
            let node = core.attempts.where_is((attempt.0, attempt.1));
            let node = node.unwrap_or(self.settings.node);
            by_node.entry(node).or_default().push(attempt);
        }
        by_node
    }

    /// Forgets, now and then, what the log has long closed without saying so, such as a
    /// withdrawal that came after the attempt's end.
    pub(super) async fn sweep(&self) {
        loop {
            #[allow(clippy::disallowed_methods)] // A period, at the rim.
            tokio::time::sleep(SWEEP_EVERY).await;
            if let Some(before) = self.clock.steady().checked_sub(FORGOTTEN_AGE) {
                self.forget(before);
            }
        }
    }

    /// Forgets what ended or was withdrawn before an instant, unless it is still current.
    pub(super) fn forget(&self, before: Duration) {
        let ids = self.lock().attempts.forgotten(before, LOOK_UP_MAX);
        if ids.is_empty() {
            return;
        }
        let found = (self.source.dispatch)(&ids);
        let mut core = self.lock();
        for (id, _) in ids.iter().zip(found).filter(|(_, found)| found.is_none()) {
            core.attempts.close(*id);
        }
    }
}
