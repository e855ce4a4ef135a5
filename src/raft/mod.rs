//! Replication: one log on every node, by openraft, which nothing outside this module sees.
//!
//! ```text
//! cluster.rs   what the floors above use: decide, barrier, view, add
//!   proposer.rs   batches events into entries, on the leader; before it they wait in waiting.rs, where
//!                 turns.rs is fair to applications
//!   duties.rs     what a leader does: owners.rs (balance.rs), triggers (lead.rs), retention, watchdog.rs
//!   lease.rs      how long an owner may begin attempts
//!   operate.rs    another leader, a node without work: as operators ask
//!   lifecycle.rs  counts the duties, and runs one by hand
//! machine.rs   entries into the fold, effects to the rim; snapshots.rs, sending.rs, receive.rs
//! storage.rs   entries into the log
//! peer/        framed calls between nodes; network.rs and service.rs speak openraft over them
//! heartbeat.rs clocks, load and state hashes, as soft state (view.rs)
//! gathered.rs  how much waits for a checkpoint, and who waits for it
//! members.rs   nodes added, removed, replaced; the lead moved
//! levels.rs    the feature level, with which a cluster is upgraded node by node
//! form.rs      becoming a member      upkeep.rs  leases, the window, checkpoints, purges (margin.rs)
//! recover.rs   one survivor goes on alone, when a majority is lost for good
//! check.rs     whether schedules, runs and waiting tasks fit together
//! scrub.rs     looks for rot in log and store      room.rs    for room on the disk
//! folder.rs, runner.rs, chance.rs  where a simulation puts its disk, its order, its dice
//! ```

#[cfg(test)]
mod alone;
mod balance;
mod chance;
mod check;
mod cluster;
mod durations;
mod duties;
mod errand;
mod folder;
mod form;
mod gathered;
mod heartbeat;
mod inner;
mod lead;
mod lease;
mod levels;
mod lifecycle;
#[cfg(test)]
mod lifecycle_tests;
mod machine;
mod margin;
mod members;
mod moved;
mod network;
mod operate;
mod owners;
mod peer;
mod planner;
mod proposer;
mod receive;
mod recover;
mod rim;
mod room;
mod runner;
mod scrub;
mod sending;
mod service;
mod snapshots;
mod start;
mod storage;
#[cfg(test)]
mod suite;
mod timing;
mod turns;
mod types;
mod upkeep;
mod view;
mod waiting;
mod watchdog;
mod wire;

pub use chance::{draw, seed_chance};
pub use check::{FINDINGS_MAX, Found, Report};
pub use cluster::{Busy, Cluster, Decided};
pub use durations::{Counted, DURATION_BOUNDS};
pub use errand::{CAUSE as PERFORMER, Errand, HandlerNames, Picture, Returned, Seen};
pub use folder::{Directory, Folder};
pub use form::Origin;
pub use inner::Retention;
pub use lifecycle::{Duty, Ran, Tally};
pub use peer::{
    Accepted, Arrival, Authority, Connecting, Connection, Duplex, Issued, Listener, Network, Port,
    Taker, Tcp, Tls, TlsFiles,
};
pub use recover::{Standing, go_on_alone, standing};
pub use rim::Rim;
pub use room::Watermark;
pub use runner::{Runner, Threads};
pub use scrub::{SCRUB_BYTES_PER_SECOND_MIN, ScrubPace};
pub use start::{Options, Running, StartError, start};
pub use timing::Timing;
pub use types::{MemberShown, Members, membership};
pub use upkeep::Cadence;
pub use view::{ClusterView, NodeView, Scrubbed, ShardView};
pub use waiting::Class;
pub use watchdog::{CAUSE as WATCHDOG, Watch};
#[cfg(any(test, fuzzing))]
pub(crate) use wire::read_anything;
