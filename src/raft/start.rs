//! Starting and stopping one node's part.

use openraft::async_runtime::WatchReceiver;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cluster::Cluster;
use super::errand::HandlerNames;
use super::folder::Folder;
use super::form::{Candidate, Formed, Origin, form};
use super::inner::{Inner, Retention};
use super::lease::Leases;
use super::machine::{Folded, Machine};
use super::network::Factory;
use super::peer::{Listener, Network, Peers, Secret, Self_};
use super::proposer::Proposer;
use super::receive::Receiving;
use super::rim::Rim;
use super::room::{self, Room, Watermark};
use super::runner::{Runner, blocking};
use super::scrub::{self, ScrubPace, Scrubbing};
use super::sending::Sending;
use super::service::Service;
use super::snapshots::Snapshots;
use super::storage::Storage;
use super::timing::Timing;
use super::types::{Member, Raft};
use super::upkeep::Cadence;
use super::view::Registry;
use super::watchdog::Watch;
use super::{duties, heartbeat, moved, operate, peer, upkeep};
use crate::log::{Identity, LogFault, LogStore};
use crate::model::{Clock, Level, NodeId};
use crate::state::Shared;

/// Tasks that do not end by then are left behind.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What a node needs to take part.
pub struct Options {
    pub dir: PathBuf,
    /// The directory's identity, with this start counted.
    pub identity: Identity,
    pub log: LogStore,
    /// How this node is reached, as the others are told.
    pub peer_address: String,
    pub http_address: String,
    pub listener: Box<dyn Listener>,
    pub network: Arc<dyn Network>,
    /// Where the store lies, and snapshots on their way.
    pub folder: Arc<dyn Folder>,
    pub runner: Arc<dyn Runner>,
    pub secret: Option<String>,
    pub origin: Origin,
    pub timing: Timing,
    /// What this node is called, for placement.
    pub labels: BTreeMap<String, String>,
    /// The handlers of the program that this node runs in.
    pub handlers: HandlerNames,
    pub retention: Retention,
    pub cadence: Cadence,
    pub scrub: ScrubPace,
    pub watch: Watch,
    /// Submits a second of one application; 0 for no such bound.
    pub app_rate: u32,
    /// What this node knows: that of its version, or a lower one that it is held to.
    pub level: Level,
    pub disk: Watermark,
    /// A node that was not heard for so long is listed as dead.
    pub node_timeout: Duration,
    pub clock: Arc<dyn Clock>,
    /// Called when the node must stop; it does not come back.
    pub fault: Arc<dyn Fn(String) + Send + Sync>,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Log(#[from] LogFault),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Membership(String),
    #[error(
        "the state goes up to log index {applied}, but the log below {purged} is gone: files of \
         the data directory are missing or older than the others; replace this node: wipe its \
         directory and add it under a new id"
    )]
    Store { purged: u64, applied: u64 },
    #[error("Raft: {0}")]
    Raft(String),
}

/// A node that takes part.
pub struct Running {
    pub cluster: Cluster,
    tasks: TaskTracker,
}

/// Forms, joins or comes back; returns once this node is a member (not: once a leader is known).
///
/// `rim` makes what acts on effects; it is given the state to read from.
///
/// # Errors
/// See [`StartError`]; each says what to do.
pub async fn start(
    options: Options,
    rim: impl FnOnce(&Shared) -> Arc<dyn Rim>,
) -> Result<Running, StartError> {
    let tasks = TaskTracker::new();
    let folded = Arc::new(Folded::new(&options.cadence, options.level));
    let snapshots = Snapshots::open(options.folder.clone())?;
    let me = (options.identity.node, options.identity.boot);
    let mut machine = Machine::open(
        snapshots.clone(),
        folded.clone(),
        options.runner.clone(),
        me,
    )?;
    let purged = options.log.bounds().purged.map_or(0, |at| at.index);
    if purged > machine.applied_index() {
        return Err(StartError::Store {
            purged,
            applied: machine.applied_index(),
        });
    }
    let rim = rim(machine.state());
    machine.set_rim(rim.clone());
    let opened_at = options.log.bounds().last.map_or(0, |at| at.index);
    machine.measure(opened_at, options.clock.clone());
    let new = options.log.bounds().last.is_none() && machine.is_new();
    let secret = Secret::new(options.secret.as_deref());
    let (inner, listener, origin) = build(options, &machine, folded, snapshots, rim, &secret);
    if !new {
        inner.refuse_votes();
    }
    let service = Arc::new(Service(inner.clone()));
    tasks.spawn(peer::serve(listener, service, secret, inner.stop.clone()));

    let first = match new {
        true => become_member(&inner, &origin).await?,
        false => None,
    };
    let raft = run_raft(&inner, machine).await?;
    if let Some(members) = first {
        raft.initialize(members)
            .await
            .map_err(|e| StartError::Raft(e.to_string()))?;
    }
    let proposer = inner.proposer.clone();
    tasks.spawn(proposer.run(raft.clone(), inner.state.clone(), inner.stop.clone()));
    tasks.spawn(heartbeat::run(inner.clone()));
    tasks.spawn(duties::run(inner.clone(), raft.clone()));
    tasks.spawn(upkeep::leases(inner.clone(), raft.clone()));
    tasks.spawn(upkeep::window(inner.clone()));
    tasks.spawn(upkeep::logs(inner.clone(), raft));
    tasks.spawn(room::run(inner.clone()));
    tasks.spawn(scrub::run(inner.clone()));
    tasks.spawn(moved::run(inner.clone()));
    Ok(Running {
        cluster: Cluster(inner),
        tasks,
    })
}

fn build(
    options: Options,
    machine: &Machine,
    folded: Arc<Folded>,
    snapshots: Snapshots,
    rim: Arc<dyn Rim>,
    secret: &Secret,
) -> (Arc<Inner>, Box<dyn Listener>, Origin) {
    let me = Self_ {
        cluster: options.identity.cluster,
        node: options.identity.node,
        incarnation: options.identity.incarnation,
    };
    let fault = options.fault.clone();
    options
        .log
        .on_fault(Box::new(move |e| fault(e.to_string())));
    let proposer = Proposer::new(
        options.clock.clone(),
        folded.gathered.clone(),
        options.app_rate,
    );
    let inner = Inner {
        me: Mutex::new(me),
        node: me.node,
        boot: options.identity.boot,
        dir: options.dir,
        http: options.http_address,
        peer: options.peer_address,
        labels: options.labels,
        handlers: options.handlers,
        timing: options.timing,
        retention: options.retention,
        cadence: options.cadence,
        scrub_pace: options.scrub,
        watch: options.watch,
        opened_at: options.log.bounds().last.map_or(0, |at| at.index),
        log: options.log,
        state: machine.state().clone(),
        folded,
        raft: OnceLock::new(),
        peers: Arc::new(Peers::new(me, secret.clone(), options.network)),
        proposer: Arc::new(proposer),
        registry: Registry::default(),
        leases: Leases::default(),
        votes_from_us: AtomicU64::new(0),
        leaving: AtomicBool::new(false),
        drained: AtomicBool::new(false),
        node_timeout: options.node_timeout,
        beat: Notify::new(),
        rim,
        snapshots,
        sending: Sending::new(options.clock.clone()),
        receiving: Mutex::new(Receiving::default()),
        skewed: AtomicBool::new(false),
        removed: OnceLock::new(),
        skew_us: AtomicI64::new(0),
        lead_us: AtomicU64::new(0),
        checkpoint: AtomicU64::new(0),
        scrub: Scrubbing::default(),
        disk: options.disk,
        room: Room::default(),
        scrubbed_at_ms: AtomicU64::new(options.clock.steady().as_millis() as u64),
        checkpoint_at_ms: AtomicU64::new(options.clock.steady().as_millis() as u64),
        clock: options.clock,
        fault: options.fault,
        runner: options.runner,
        stop: CancellationToken::new(),
    };
    (Arc::new(inner), options.listener, options.origin)
}

/// Finds the cluster, and notes it in the directory before Raft begins: a node that stops in
/// between forms again, and finds the same.
async fn become_member(
    inner: &Inner,
    origin: &Origin,
) -> Result<Option<BTreeMap<NodeId, Member>>, StartError> {
    let me = *inner.me.lock().unwrap_or_else(PoisonError::into_inner);
    let member = Member {
        peer: inner.peer.clone(),
        http: inner.http.clone(),
        incarnation: me.incarnation,
    };
    let candidate = Candidate {
        node: inner.node,
        member,
    };
    inner.peers.joined(0);
    let formed = form(&inner.peers, origin, &candidate)
        .await
        .map_err(StartError::Membership)?;
    let (cluster, first) = match formed {
        Formed::First { cluster, members } => (cluster, Some(members)),
        Formed::In { cluster } => (cluster, None),
    };
    let identity = Identity {
        cluster,
        node: inner.node,
        incarnation: me.incarnation,
        boot: inner.boot,
    };
    identity.store(&inner.dir)?;
    inner
        .me
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .cluster = cluster;
    inner.peers.joined(cluster);
    Ok(first)
}

async fn run_raft(inner: &Inner, machine: Machine) -> Result<Raft, StartError> {
    let failed = |e: String| StartError::Raft(e);
    let cluster = inner.peers.me().cluster;
    let config = inner
        .timing
        .config(cluster)
        .validate()
        .map_err(|e| failed(e.to_string()))?;
    let raft = Raft::new(
        inner.node,
        Arc::new(config),
        Factory {
            peers: inner.peers.clone(),
            sending: inner.sending.clone(),
            snapshots: inner.snapshots.clone(),
            runner: inner.runner.clone(),
        },
        Storage(inner.log.clone()),
        machine,
    );
    let raft = raft.await.map_err(|e| failed(e.to_string()))?;
    // Set once, here.
    let _ = inner.raft.set(raft.clone());
    Ok(raft)
}

impl Running {
    /// Gives its shards away, and then the lead, if this node has it; it stands for no election
    /// any more. Returns when others have them, or after `within` for each. What it has begun goes
    /// on here.
    pub async fn hand_over(&self, within: Duration) {
        let inner = &self.cluster.0;
        let Some(raft) = inner.raft() else { return };
        raft.runtime_config().elect(false);
        if inner.voters().iter().all(|id| *id == inner.node) {
            return;
        }
        if tokio::time::timeout(within, operate::resign(inner))
            .await
            .is_err()
        {
            tracing::warn!("nobody took the shards in time");
        }
        if inner.leader() != Some(inner.node) {
            return;
        }
        if !duties::hand_over(inner, raft).await {
            return;
        }
        let mut metrics = raft.server_metrics();
        let moved = async {
            while inner.leader().is_none_or(|leader| leader == inner.node) {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(within, moved).await.is_err() {
            tracing::warn!("nobody took the lead in time");
        }
    }

    /// Stops Raft and the log. What was acknowledged is on disk.
    pub async fn stop(self) {
        let inner = self.cluster.0;
        inner.stop.cancel();
        if let Some(raft) = inner.raft() {
            // It ends either way.
            let _ = raft.shutdown().await;
        }
        self.tasks.close();
        if tokio::time::timeout(STOP_WITHIN, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some tasks did not end in time");
        }
        let log = inner.log.clone();
        // An error means that closing panicked, which the log has reported itself.
        let _ = blocking(&*inner.runner, "closing the log", move || log.close()).await;
    }
}
