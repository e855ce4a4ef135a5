//! The executor: turns "triggered" into an HTTP call or that of a handler, and its end into an event.
//!
//! The fold hands over its changes; those that name this node as owner become attempts here.
//!
//! ```text
//! changed ─► hold (until the wall clock ≥ at) ─► look up, queue per flow ─► begin ─► call ─► outcome
//!             a thread of its own, a heap          places, breaker, turns     test-and-set
//! ```
//!
//! What it promises:
//!
//! * **Never early.** An attempt begins only while `clock.wall() ≥ at`, read again at the last
//!   moment. Waiting is on a monotonic clock in sleeps of at most a second, so that a wall clock
//!   that jumps neither fires the future nor freezes the present.
//! * **Begun or withdrawn, never both.** Beginning and withdrawing are decided under one lock
//!   (`core.rs`); what was withdrawn stays so until the log tells.
//! * **Only under the lease.** An owner that has not heard of a leader for `lease` starts nothing;
//!   what is due waits, and goes on when the lease is renewed unless the log closed it by then.
//! * **Nothing is lost.** Memory holds references, and no more than `held_max` of them; what does
//!   not fit is read again from the state, in order of due instants.
//! * **A slow or failing target delays itself only, a hot application itself.** Each application
//!   has a queue for each of its targets; targets have places and a breaker; permits are handed
//!   out in turns (`flows.rs`).
//! * **Bounded to the end.** A call keeps its permit until the channel of outcomes took its
//!   event: when the log is slow, fewer calls are started.
//!
//! Another node may carry an attempt out for its owner (`placement.rs`, `away.rs`); the owner begins
//! it, under its lease and its fence, and reports what came of it.
//!
//! Delivery is at least once. The pause between `begin` and the first byte on the wire cannot be
//! closed from here; the fence that goes with each request lets the receiver close it.

mod address;
mod attempts;
mod away;
mod breaker;
mod broadcast;
mod client;
mod connector;
mod core;
mod deliver;
mod flows;
mod guard;
mod handlers;
mod hold;
mod metrics;
mod placement;
mod places;
mod released;
mod report;
mod resolve;
mod run;
#[cfg(test)]
mod tests;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use crate::model::{Change, Clock, Event, Fence, NodeId, Placement, Seq, Time};
use crate::state::{Open, Release};

pub use away::Others;
pub use breaker::{BreakerSettings, BreakerState};
pub use client::HttpDelivery;
pub use deliver::{Call, Delivered, Delivery, Failure, FailureKind};
pub use flows::TargetView;
pub use guard::{Guard, Rule};
pub use handlers::{FromArgument, HandlerError, Handlers, Invocation, RegisterError, Reply};
pub use hold::Hold;
pub use metrics::{Counts, ExecutorMetrics, Histogram, LATENESS_BOUNDS_US};

pub use run::target_of;

use run::Inner;

/// The executor's part of a node's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node: NodeId,
    /// Concurrent calls to one target (scheme, host and port).
    pub per_target: usize,
    /// Concurrent calls in all.
    pub total: usize,
    /// Bytes of the tasks that are being called at once.
    pub bytes: usize,
    pub breaker: BreakerSettings,
    /// References to attempts kept in memory; the rest is read again when there is room.
    pub held_max: usize,
    /// How long after the last contact with a leader attempts may begin.
    pub lease: Duration,
    /// The `user-agent` of callbacks that do not bring their own.
    pub user_agent: String,
    pub guard: Guard,
    /// What the embedding program does by name.
    pub handlers: Handlers,
    /// Where attempts are carried out whose task says nothing.
    pub placement: Placement,
    /// A node with this load (0…1) gives work away, if another has less to do.
    pub placement_threshold: f64,
    /// Who waits for due instants.
    pub hold: Hold,
}

impl Settings {
    /// The defaults for one node: 256 calls a target, 4,096 and 256 MiB in all, 262,144 references.
    pub fn new(node: NodeId, guard: Guard) -> Settings {
        Settings {
            node,
            per_target: 256,
            total: 4096,
            bytes: 256 << 20,
            breaker: BreakerSettings::default(),
            held_max: 1 << 18,
            lease: Duration::from_millis(1500),
            user_agent: concat!("horolog/", env!("CARGO_PKG_VERSION")).into(),
            guard,
            handlers: Handlers::default(),
            placement: Placement::Owner,
            placement_threshold: 0.8,
            hold: Hold::default(),
        }
    }
}

/// Looks attempts up under one short lock of the state; `None` for one that is not current.
pub type LookUp = Box<dyn Fn(&[(Seq, Fence)]) -> Vec<Option<crate::state::Dispatch>> + Send + Sync>;

/// This node's open attempts after a place, in (at, seq) order, no more than so many.
pub type OpenAfter = Box<dyn Fn(Option<(Time, Seq)>, usize) -> Vec<Open> + Send + Sync>;

/// The executor's view of the state. It is never called while the executor holds its own lock,
/// because the fold calls [`Executor::changed`] while it may hold the state's.
pub struct Source {
    pub dispatch: LookUp,
    pub open_after: OpenAfter,
}

/// A handle; clones share one executor.
#[derive(Clone)]
pub struct Executor {
    inner: Arc<Inner>,
}

impl Executor {
    /// Starts the holding thread and the tasks that report. Call it inside a tokio runtime; the
    /// calls run there too. Nothing begins before the first [`Executor::renew_lease`].
    pub fn start(
        settings: Settings,
        clock: Arc<dyn Clock>,
        source: Source,
        delivery: Arc<dyn Delivery>,
        outcomes: tokio::sync::mpsc::Sender<Event>,
    ) -> Executor {
        let inner = Arc::new(Inner::new(settings, clock, source, delivery, outcomes));
        inner.start();
        Executor { inner }
    }

    /// Takes the fold's changes, in log order. Quick: one lock, no look-up, no waiting.
    ///
    /// Every attempt that was handed over must be closed one day, whatever its outcome was; the
    /// executor remembers that it began until then.
    pub fn changed(&self, changes: &[Change]) {
        self.inner.changed(changes);
    }

    /// Notes the last contact with a leader that has a quorum, as an instant of the steady clock.
    pub fn renew_lease(&self, contact: Duration) {
        self.inner.renew_lease(contact);
    }

    /// Withdraws an attempt. True: it has not begun and now never will, unless it is restored;
    /// also when the change that hands it over is still on its way. False: it has begun.
    pub fn withdraw(&self, seq: Seq, fence: Fence) -> bool {
        self.inner.withdraw((seq, fence))
    }

    /// Takes a withdrawal back, because the cancel or change did not happen.
    pub fn restore(&self, seq: Seq, fence: Fence) {
        self.inner.restore((seq, fence));
    }

    /// Begins nothing more in some shards, and returns what has begun there and is open still:
    /// under way, or with an outcome that the log does not have yet.
    pub fn release(&self, release: &Release) -> Vec<(Seq, Fence)> {
        self.inner.lock().release(release)
    }

    /// The log has reached a term: what leaders of older ones asked to be released, and did not
    /// give away, is this node's again.
    pub fn new_term(&self, term: u64) {
        self.inner.new_term(term);
    }

    /// For each of these open attempts, whether it waits here, is under way, or its outcome was
    /// handed over not long ago. What did not fit into memory counts as waiting.
    pub fn knows(&self, open: &[Open]) -> Vec<bool> {
        self.inner.knows(open)
    }

    /// Calls that hold a permit: under way, or waiting for their outcome to be taken.
    pub fn in_flight(&self) -> usize {
        self.inner.lock().targets.in_flight()
    }

    /// How busy this node is, from 0 to 1: the fuller of permits and memory.
    pub fn load(&self) -> f64 {
        self.inner.load()
    }

    /// The targets that this node calls, or has called lately.
    pub fn targets(&self) -> Vec<TargetView> {
        self.inner.targets()
    }

    /// For how long what has waited longest at a target has been due.
    pub fn queue_age(&self) -> Duration {
        self.inner.queue_age()
    }

    /// Starts nothing more, waits up to `grace` for what is in flight and for its outcomes to be
    /// taken, gives up what is left, and joins the thread. What was given up has no outcome; the
    /// log hands it out again when this node's lease has run out.
    pub async fn stop(&self, grace: Duration) {
        self.inner.stop(grace).await;
    }

    /// What it has done, and how late.
    pub fn metrics(&self) -> ExecutorMetrics {
        self.inner.read_metrics()
    }
}
