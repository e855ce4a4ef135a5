//! What stands above Raft and acts on what was decided.

use std::time::Duration;

use crate::model::{Change, Epoch, Fence, Seq, Time};

/// The executor as this floor sees it: it may be told and asked, nothing more. The floor above
/// implements it, because a module uses only floors below its own.
pub trait Rim: Send + Sync + 'static {
    /// Effects of one log entry, in log order, under the fold: must be quick.
    fn changed(&self, changes: &[Change]);
    /// Takes an attempt back that has not begun. `true`: it never will, unless restored.
    fn withdraw(&self, seq: Seq, fence: Fence) -> bool;
    /// What the attempt was withdrawn for did not happen.
    fn restore(&self, seq: Seq, fence: Fence);
    /// Starts nothing of this epoch or an older one any more; returns attempts still in flight:
    /// under way, or with an outcome that the log does not have yet.
    fn release(&self, epoch: Epoch) -> usize;
    /// For each of these attempts, named by the instant from which it may begin, whether it waits
    /// here, is under way, or its outcome is on the way to the log. Unsure means yes.
    fn knows(&self, open: &[(Time, Seq, Fence)]) -> Vec<bool>;
    /// The last moment (steady clock) at which a leader with a quorum was heard.
    fn renew_lease(&self, contact: Duration);
    /// Running ÷ capacity, 0…1.
    fn load(&self) -> f64;
}

/// Nobody is there yet.
pub(crate) struct NoRim;

impl Rim for NoRim {
    fn changed(&self, _: &[Change]) {}
    fn withdraw(&self, _: Seq, _: Fence) -> bool {
        false
    }
    fn restore(&self, _: Seq, _: Fence) {}
    fn release(&self, _: Epoch) -> usize {
        0
    }
    fn knows(&self, open: &[(Time, Seq, Fence)]) -> Vec<bool> {
        vec![true; open.len()]
    }
    fn renew_lease(&self, _: Duration) {}
    fn load(&self) -> f64 {
        0.0
    }
}
