//! What the fold tells the rim.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Boot, Epoch, Fence, NodeId, Seq, Stage, Time};

/// An effect of one event. The node that is named acts on it; nobody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An attempt began: `owner` holds it until `at`, then starts it.
    Triggered {
        seq: Seq,
        fence: Fence,
        at: Time,
        owner: NodeId,
        /// Of the key: decides the shard, whatever their number.
        hash: u64,
    },
    /// The attempt is over, withdrawn or overtaken: whoever still waits with it drops it.
    Closed { seq: Seq, fence: Fence },
    /// The task reached a final stage: whoever waits for its outcome may look.
    Finished { seq: Seq, stage: Stage },
    /// Shards changed hands.
    Assigned {
        node: NodeId,
        boot: Boot,
        epoch: Epoch,
    },
    /// Just these applications are paused from here on.
    Paused { apps: Arc<BTreeSet<Arc<str>>> },
}
