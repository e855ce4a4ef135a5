//! What stands above Raft and acts on what was decided.

use std::time::Duration;

use crate::model::{Change, Fence, Seq};
use crate::state::{Open, Release};

/// The executor as this floor sees it: it may be told and asked, nothing more. The floor above
/// implements it, because a module uses only floors below its own.
pub trait Rim: Send + Sync + 'static {
    /// Effects of one log entry, in log order, under the fold: must be quick.
    fn changed(&self, changes: &[Change]);
    /// Takes an attempt back that has not begun. `true`: it never will, unless restored.
    fn withdraw(&self, seq: Seq, fence: Fence) -> bool;
    /// What the attempt was withdrawn for did not happen.
    fn restore(&self, seq: Seq, fence: Fence);
    /// Begins nothing more in some shards; returns what has begun there and is open still: under
    /// way, or with an outcome that the log does not have yet.
    fn release(&self, release: &Release) -> Vec<(Seq, Fence)>;
    /// The log has reached a term: what leaders of older ones asked to be released, and did not
    /// give away by then, is this node's again.
    fn new_term(&self, term: u64);
    /// For each of these attempts, whether it waits here, is under way, or its outcome is on the way
    /// to the log. Unsure means yes.
    fn knows(&self, open: &[Open]) -> Vec<bool>;
    /// The last moment (steady clock) at which a leader with a quorum was heard.
    fn renew_lease(&self, contact: Duration);
    /// Running ÷ capacity, 0…1.
    fn load(&self) -> f64;
    /// For how long what has waited longest has been due.
    fn queue_age(&self) -> Duration;
}

/// Nobody is there yet.
pub(crate) struct NoRim;

impl Rim for NoRim {
    fn changed(&self, _: &[Change]) {}
    fn withdraw(&self, _: Seq, _: Fence) -> bool {
        false
    }
    fn restore(&self, _: Seq, _: Fence) {}
    fn release(&self, _: &Release) -> Vec<(Seq, Fence)> {
        Vec::new()
    }
    fn new_term(&self, _: u64) {}
    fn knows(&self, open: &[Open]) -> Vec<bool> {
        vec![true; open.len()]
    }
    fn renew_lease(&self, _: Duration) {}
    fn load(&self) -> f64 {
        0.0
    }
    fn queue_age(&self) -> Duration {
        Duration::ZERO
    }
}
