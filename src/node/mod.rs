//! One node, assembled: directory, log, replication, executor, API.
//!
//! ```text
//! start:  lock and identity ─► log ─► listeners ─► API (only /livez so far) ─► replication ─► API
//! stop:   API stops accepting ─► the lead is handed over ─► attempts end and report ─► Raft, log
//! ```
//!
//! A program may have one inside, and be called by name ([`Handlers`]):
//!
//! ```no_run
//! use horolog::node::{Config, Handlers, Node, settings::Settings};
//! use std::sync::Arc;
//!
//! # async fn start() -> anyhow::Result<()> {
//! let mut config = Config::new(&Settings::read(None, Vec::new())?).map_err(anyhow::Error::msg)?;
//! config.handlers = Handlers::default().handler("report.send", |call| async move {
//!     let pages: i64 = call.argument(0)?;
//!     Ok(format!("{pages} pages"))
//! })?;
//! // When the node cannot go on, the process must end, and be started again.
//! let node = Node::start(config, Arc::new(|why| {
//!     eprintln!("{why}");
//!     std::process::exit(1)
//! }))
//! .await?;
//! // … a task with `"target": {"invoke": "report.send(3)"}`, posted to `node.http()` …
//! node.stop().await;
//! # Ok(())
//! # }
//! ```

mod clock;
mod config;
mod numbers;
mod outcomes;
mod part;
mod rim;
pub mod settings;
pub mod settings_keys;
pub mod settings_load;
mod settings_pressure;
pub mod telemetry;
mod wires;

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::metrics::Numbers;
use crate::api::{self, AccessLog, AccessRotation, Api, ApiSettings};
use crate::executor::{
    BreakerSettings, Executor, Guard, HttpDelivery, Settings as ExecutorSettings,
};
use crate::log::{DirLock, EngineKind, Identity, LogStore};
use crate::model::{Clock, Level, NodeId, Placement, Time};
use crate::raft::{
    self, Cadence, Cluster, Origin, Retention, ScrubPace, Timing, TlsFiles, Watch, Watermark,
};

pub use crate::executor::{FromArgument, HandlerError, Handlers, Invocation, RegisterError, Reply};
pub use clock::SystemClock;
pub use part::Part;
use wires::Wires;

/// Everything a node is told at its start.
pub struct Config {
    pub id: NodeId,
    pub dir: PathBuf,
    pub http: SocketAddr,
    pub peer: SocketAddr,
    /// How others reach the listeners, where that is not where they listen.
    pub http_advertised: Option<String>,
    pub peer_advertised: Option<String>,
    pub origin: Origin,
    pub engine: EngineKind,
    pub timing: Timing,
    /// What this node is called, for placement.
    pub labels: BTreeMap<String, String>,
    pub retention: Retention,
    pub cadence: Cadence,
    pub scrub: ScrubPace,
    pub watch: Watch,
    /// A node that was not heard for so long is listed as dead.
    pub node_timeout: Duration,
    /// The cluster secret.
    pub secret: Option<String>,
    /// The certificates for TLS between nodes.
    pub tls: Option<TlsFiles>,
    pub api: ApiSettings,
    pub limits: api::serve::Limits,
    pub guard: Guard,
    /// Concurrent calls to one target.
    pub per_target: usize,
    /// Concurrent calls in all.
    pub total: usize,
    /// Where tasks that say nothing are carried out.
    pub placement: Placement,
    /// A node with this load gives work away.
    pub placement_threshold: f64,
    /// Bytes of the tasks that are called at once.
    pub call_bytes: usize,
    pub breaker: BreakerSettings,
    /// Submits a second of one application; 0 for no such bound.
    pub app_rate: u32,
    /// What it knows: that of its version, or a lower one that it is held to.
    pub level: Level,
    pub disk: Watermark,
    /// Where the access log is kept, for how many days, in how long files; `None`: it is not.
    pub access_log: Option<(PathBuf, usize, AccessRotation)>,
    /// What this program does by name: `invoke` targets are given to these.
    pub handlers: Handlers,
}

/// A running node.
pub struct Node {
    part: Part,
    wires: Wires,
    server: JoinHandle<()>,
    stop_server: CancellationToken,
    http: SocketAddr,
    // Given up last, when nothing of this process touches the directory any more.
    _lock: DirLock,
}

impl Node {
    /// Starts a node; returns when it is a member of its cluster.
    ///
    /// `fault` is called when the node cannot go on: the process must end and start again.
    ///
    /// # Errors
    /// When directory, listeners or membership stand against it; the text says what to do.
    pub async fn start(
        config: Config,
        fault: Arc<dyn Fn(String) + Send + Sync>,
    ) -> anyhow::Result<Node> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let (lock, identity) = open_dir(&config)?;
        let wires = Wires::new(&config, clock.clone()).map_err(|e| anyhow::anyhow!(e))?;
        let log = LogStore::open(&config.dir, config.engine)?;
        let peers = listen(config.peer).await?;
        let listener = listen(config.http).await?;
        let http = listener.local_addr()?;
        let peer_address = config.peer_advertised.clone();
        let peer_address = peer_address.unwrap_or(peers.local_addr()?.to_string());

        let cluster = Arc::new(OnceLock::new());
        let executor = Arc::new(OnceLock::new());
        let stop_server = CancellationToken::new();
        let ends = wires.ends();
        let shared = (&cluster, &executor);
        let server = serve(&config, listener, &clock, shared, ends, &stop_server)?;

        let settings = executor_settings(&config);
        let options = raft::Options {
            dir: config.dir.clone(),
            identity,
            log,
            peer_address,
            http_address: config.http_advertised.clone().unwrap_or(http.to_string()),
            listener: wires.listen(peers),
            network: wires.network(),
            folder: Arc::new(raft::Directory::open(config.dir.join("state"))?),
            runner: Arc::new(raft::Threads),
            secret: config.secret.clone(),
            origin: config.origin.clone(),
            timing: config.timing,
            labels: config.labels.clone(),
            handlers: config.handlers.all_names(),
            retention: config.retention,
            cadence: config.cadence,
            scrub: config.scrub,
            watch: config.watch,
            app_rate: config.app_rate,
            level: config.level,
            disk: config.disk,
            node_timeout: config.node_timeout,
            clock: clock.clone(),
            fault,
        };
        let delivery = Arc::new(HttpDelivery::new(&settings));
        let part = Part::start(options, settings, delivery, &executor).await?;
        // Set once, here; the API waits for it.
        let _ = cluster.set(part.cluster().clone());
        Ok(Node {
            part,
            wires,
            server,
            stop_server,
            http,
            _lock: lock,
        })
    }

    /// The node's part in the cluster.
    pub fn cluster(&self) -> &Cluster {
        self.part.cluster()
    }

    /// Where the API listens.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Reads certificates anew; says in the log what came of it.
    pub fn reload(&self) {
        self.wires.reload();
    }

    /// Hands over what it holds and ends; loses nothing.
    pub async fn stop(self) {
        self.stop_server.cancel();
        if self.server.await.is_err() {
            tracing::warn!("the API server ended with a panic");
        }
        self.part.stop().await;
    }
}

/// Locks the directory and counts this start in its identity.
fn open_dir(config: &Config) -> anyhow::Result<(DirLock, Identity)> {
    std::fs::create_dir_all(&config.dir)
        .with_context(|| format!("cannot create the data directory {}", config.dir.display()))?;
    let lock = DirLock::acquire(&config.dir)?;
    let identity = match Identity::load(&config.dir)? {
        Some(identity) => {
            identity.belongs_to(config.id, &config.dir)?;
            Identity {
                boot: identity.boot + 1,
                ..identity
            }
        }
        None => Identity {
            cluster: 0,
            node: config.id,
            incarnation: incarnation()?,
            boot: 1,
        },
    };
    identity.store(&config.dir)?;
    Ok((lock, identity))
}

fn incarnation() -> anyhow::Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("no random numbers: {e}"))?;
    Ok(u128::from_le_bytes(bytes))
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

fn executor_settings(config: &Config) -> ExecutorSettings {
    ExecutorSettings {
        per_target: config.per_target,
        total: config.total,
        placement: config.placement.clone(),
        placement_threshold: config.placement_threshold,
        bytes: config.call_bytes,
        breaker: config.breaker,
        lease: config.timing.owner_lease(),
        handlers: config.handlers.clone(),
        ..ExecutorSettings::new(config.id, config.guard.clone())
    }
}

/// Starts the API; until the node is a member it answers `/livez` and says that it is starting.
fn serve(
    config: &Config,
    listener: TcpListener,
    clock: &Arc<dyn Clock>,
    (cluster, executor): (&Arc<OnceLock<Cluster>>, &Arc<OnceLock<Executor>>),
    certificate_ends: impl Fn() -> Option<Time> + Send + Sync + 'static,
    stop: &CancellationToken,
) -> anyhow::Result<JoinHandle<()>> {
    let open = |(dir, days, rotation): &(PathBuf, usize, AccessRotation)| {
        AccessLog::open(dir, *days, *rotation)
            .with_context(|| format!("cannot open the access log in {}", dir.display()))
    };
    let access = config.access_log.as_ref().map(open).transpose()?;
    let mut metrics = Registry::default();
    let seen = executor.clone();
    let (for_numbers, executor, log) = (cluster.clone(), executor.clone(), access.clone());
    let source = move || match (for_numbers.get(), executor.get()) {
        (Some(cluster), Some(executor)) => Numbers {
            certificate_ends: certificate_ends(),
            ..numbers::read(cluster, executor, log.as_ref())
        },
        _ => Default::default(),
    };
    api::metrics::register(&mut metrics, Arc::new(source));
    let guard = config.guard.clone();
    let router = api::router(Api {
        cluster: cluster.clone(),
        clock: clock.clone(),
        settings: config.api.clone(),
        metrics: Arc::new(metrics),
        check_target: Arc::new(move |http| guard.check_url(http)),
        new_id: Arc::new(new_id),
        targets: Arc::new(move || seen.get().map(Executor::targets).unwrap_or_default()),
        access,
    });
    let (limits, stop) = (config.limits, stop.clone());
    Ok(tokio::spawn(async move {
        api::serve::serve(listener, router, limits, stop.cancelled_owned()).await;
    }))
}

#[allow(clippy::disallowed_methods)] // The one place where ids are made.
fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}
