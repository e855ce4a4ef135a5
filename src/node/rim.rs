//! The executor, as the replication floor sees it.

use std::sync::Arc;
use std::time::Duration;

use crate::executor::{Executor, Source};
use crate::model::{Change, Fence, NodeId, Seq};
use crate::raft::Rim;
use crate::state::{Open, Release, Shared};

/// Called when the node cannot go on.
pub(super) type Fault = Arc<dyn Fn(String) + Send + Sync>;

/// See [`Rim`].
pub(super) struct ExecutorRim(pub(super) Executor);

impl Rim for ExecutorRim {
    fn changed(&self, changes: &[Change]) {
        self.0.changed(changes);
    }
    fn withdraw(&self, seq: Seq, fence: Fence) -> bool {
        self.0.withdraw(seq, fence)
    }
    fn restore(&self, seq: Seq, fence: Fence) {
        self.0.restore(seq, fence);
    }
    fn release(&self, release: &Release) -> Vec<(Seq, Fence)> {
        self.0.release(release)
    }
    fn new_term(&self, term: u64) {
        self.0.new_term(term);
    }
    fn knows(&self, open: &[Open]) -> Vec<bool> {
        self.0.knows(open)
    }
    fn renew_lease(&self, contact: Duration) {
        self.0.renew_lease(contact);
    }
    fn load(&self) -> f64 {
        self.0.load()
    }
    fn queue_age(&self) -> Duration {
        self.0.queue_age()
    }
}

/// Where the executor looks attempts up. A store that cannot be read ends the process: an
/// attempt that cannot be found must not be taken for one that is over.
pub(super) fn source(state: &Shared, node: NodeId, fault: Fault) -> Source {
    let (for_dispatch, for_open) = (state.clone(), state.clone());
    Source {
        dispatch: Box::new(move |wanted| {
            for_dispatch.read(|state| {
                let look = |(seq, fence): &(Seq, Fence)| match state.dispatch(*seq, *fence) {
                    Ok(found) => found,
                    Err(e) => {
                        fault(e.to_string());
                        None
                    }
                };
                wanted.iter().map(look).collect()
            })
        }),
        open_after: Box::new(move |after, limit| {
            for_open.read(|state| state.open_after(node, after, limit))
        }),
    }
}

/// The executor behind its trait.
pub(super) fn rim(executor: Executor) -> Arc<dyn Rim> {
    Arc::new(ExecutorRim(executor))
}
