//! The vocabulary: ids, instants, tasks, events, outcomes, changes and refusals.
//!
//! Plain data and pure functions; nothing here knows of tokio, disks, networks or clocks.
//! Time flows one way through these types:
//!
//! ```text
//! request ─► Event ─► log ─► State::apply ─► Outcome (for the caller)
//!                                       └──► Change  (for the rim: dispatch, waiters)
//! ```
//!
//! An [`Event`] is what somebody asked for or what happened outside; the fold decides what it
//! means and says so in an [`Outcome`]. A [`Change`] tells the node that owns a task what to do.

mod app;
mod batch;
mod change;
mod clock;
mod event;
#[cfg(test)]
pub(crate) mod format;
mod history;
mod ids;
mod invoke;
mod level;
pub mod limits;
mod mend;
mod next;
mod outcome;
mod placement;
mod retry;
mod schedule;
mod sets;
mod shown;
mod span;
mod spec;
#[cfg(test)]
mod stages_doc;
mod task;
mod time;

pub use app::Paused;
pub use batch::{Batch, CodecError, decode, decode_first, encode};
pub use change::Change;
pub use clock::Clock;
pub use event::*;
pub use history::{AttemptEnd, Row, RowKind, Wait};
pub use ids::{Boot, By, Digest, Epoch, Fence, IdError, Key, NodeId, Seq, Shard};
pub use invoke::{Argument, Invoke, InvokeError};
pub use level::Level;
pub use mend::Repair;
pub use next::{Next, Template, all_that_follow};
pub use outcome::{Outcome, Refusal, ScheduleBound};
pub use placement::{Placement, PlacementError};
pub use retry::{Backoff, Retry};
pub use schedule::{
    CatchUp, Cause, Definition, Fate, Fire, OverlapPolicy, Queued, Running, SchedulePause,
};
pub use schedule::{Schedule, Version, proof_with, schedule_id};
pub use sets::{Fill, ShardSet};
pub use span::Span;
pub use spec::{Body, HEADERS_MASKED, Handled, Http, MASK, RunOf, Spec, SpecError, Target, When};
pub use task::{Decision, Stage, Task, Verb};
pub use time::Time;
