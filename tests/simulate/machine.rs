//! One machine: its clocks, its disks, and the process of a node that may run on it.
//!
//! A process is a runtime of its own, of one thread and with a clock that stands. Each tick lets it
//! go on by a millisecond; to end it is to drop it, with every task in it, wherever these are.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use horolog::api::{self, Api, ApiSettings};
use horolog::executor::{BreakerSettings, Guard, Hold, Settings};
use horolog::log::sim_disk::Dice;
use horolog::log::{Engine, Identity, LogFault, LogStore, Step, Writer};
use horolog::model::{Clock, Level, Span};
use horolog::node::{Part, SystemClock};
use horolog::raft::{
    Cadence, Options, Origin, Retention, Runner, ScrubPace, Timing, Watch, Watermark,
};
use tokio::runtime::{Builder, RngSeed, Runtime};
use tokio::sync::Notify;
use tokio::time::Instant;
use tower::ServiceExt;

use crate::disk::{Book, Disks, End, Scribe};
use crate::sink::Sink;
use crate::wires::Wires;

/// The instant at which every run begins, in microseconds since 1970.
pub const EPOCH_US: u64 = 1_800_000_000_000_000;

/// What is true, whatever a clock says.
#[derive(Clone, Default)]
pub struct Truth(Arc<AtomicU64>);

impl Truth {
    /// Since the run began.
    pub fn us(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self, us: u64) {
        self.0.store(us, Ordering::Relaxed);
    }
}

/// What every machine of a run has in common.
#[derive(Clone)]
pub struct Site {
    pub nodes: u64,
    pub timing: Timing,
    pub cadence: Cadence,
    pub scrub: ScrubPace,
    pub truth: Truth,
    pub wires: Wires,
    pub sink: Sink,
    pub dir: PathBuf,
    /// A sync of a log does nothing.
    pub disks_lie: bool,
}

/// A point at which the power goes: so many operations of the disk into a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashPoint {
    pub step: &'static str,
    pub operations: u64,
}

/// What the machine and its process share.
pub struct Shared {
    site: Site,
    id: u64,
    offset_us: AtomicI64,
    /// Whatever blocks takes until then.
    stalled_until_us: AtomicU64,
    dice: Mutex<Dice>,
    armed: Mutex<Option<CrashPoint>>,
    /// The step for which the power was last made to go.
    sprung: Mutex<Option<&'static str>>,
    /// Steps that were begun, in order of their first time, and how often.
    pub steps: Mutex<std::collections::BTreeMap<&'static str, u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// How long something takes that blocks.
    fn takes(&self, most_us: u64) -> Duration {
        let stalled = self.stalled_until_us.load(Ordering::Relaxed);
        let stalled = stalled.saturating_sub(self.site.truth.us());
        let mut dice = lock(&self.dice);
        let own = match dice.below(100) {
            0 => dice.below(most_us * 20),
            _ => dice.below(most_us),
        };
        Duration::from_micros(stalled + own)
    }

    /// The step in which the power went, once.
    pub fn crashed(&self) -> Option<&'static str> {
        lock(&self.sprung).take()
    }

    /// A step begins: the power may go in the middle of it.
    fn begins(&self, step: &'static str, disks: &Disks) {
        *lock(&self.steps).entry(step).or_default() += 1;
        let mut armed = lock(&self.armed);
        if let Some(point) = armed.take_if(|point| point.step == step) {
            disks
                .each()
                .iter()
                .for_each(|disk| disk.power_off_after(point.operations));
            disks.folder.arm(point.operations);
            *lock(&self.sprung) = Some(step);
        }
    }
}

/// Every step at which something becomes durable.
pub const STEPS: [&str; 6] = [
    "append",
    "vote",
    "truncate",
    "purge",
    "writing a checkpoint",
    "installing a snapshot",
];

/// Does work that may block as a task, some time later.
struct Later(Arc<Shared>, Arc<Disks>);

impl Runner for Later {
    fn run(&self, what: &'static str, work: Box<dyn FnOnce() + Send>) {
        let (shared, disks) = (self.0.clone(), self.1.clone());
        tokio::spawn(async move {
            #[allow(clippy::disallowed_methods)] // What it takes.
            tokio::time::sleep(shared.takes(5_000)).await;
            shared.begins(what, &disks);
            work();
        });
    }
}

/// What a process shows to whoever is outside of it.
#[derive(Default)]
pub struct Face {
    pub part: Mutex<Option<Part>>,
    pub router: OnceLock<Router>,
    /// Why it cannot go on.
    pub fault: Mutex<Option<String>>,
    /// It came to its end by itself.
    pub ended: Mutex<bool>,
}

/// A process.
pub struct Life {
    runtime: Runtime,
    origin: Instant,
    /// The true time at the origin of its runtime, moved on by what it slept through.
    began_us: u64,
    pub face: Arc<Face>,
    pub disks: Arc<Disks>,
}

/// See the module.
pub struct Machine {
    pub id: u64,
    pub shared: Arc<Shared>,
    pub book: Arc<Book>,
    /// While no process runs.
    disks: Option<Disks>,
    pub life: Option<Life>,
    /// It stands still until then: its process is stopped (false) or the machine sleeps (true).
    still: Option<(u64, bool)>,
    incarnation: u128,
    dice: Dice,
}

impl Machine {
    pub fn new(site: &Site, id: u64, mut dice: Dice) -> Machine {
        let shared = Shared {
            site: site.clone(),
            id,
            offset_us: AtomicI64::new(-(dice.below(20_000) as i64)),
            stalled_until_us: AtomicU64::new(0),
            dice: Mutex::new(Dice::new(dice.roll())),
            armed: Mutex::new(None),
            sprung: Mutex::new(None),
            steps: Mutex::default(),
        };
        Machine {
            id,
            shared: Arc::new(shared),
            book: Arc::default(),
            disks: Some(Disks::new()),
            life: None,
            still: None,
            incarnation: u128::from(dice.roll()) << 64 | u128::from(dice.roll()),
            dice,
        }
    }

    /// Starts a process. It may end at once, and then says why in its face.
    pub fn start(&mut self) {
        let Some(disks) = self.disks.take() else {
            return;
        };
        let seed = RngSeed::from_bytes(&self.dice.roll().to_le_bytes());
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(seed)
            .build()
            .expect("a runtime starts");
        let (face, disks) = (Arc::new(Face::default()), Arc::new(disks));
        let origin = runtime.block_on(async { Instant::now() });
        let process = process(
            self.shared.clone(),
            self.book.clone(),
            face.clone(),
            disks.clone(),
            self.incarnation,
        );
        let told = face.clone();
        runtime.spawn(async move {
            if let Err(why) = process.await {
                *lock(&told.fault) = Some(format!("it did not start: {why:#}"));
            }
        });
        self.life = Some(Life {
            runtime,
            origin,
            began_us: self.shared.site.truth.us(),
            face,
            disks,
        });
    }

    /// Ends the process, if there is one.
    pub fn end(&mut self, end: End) {
        let Some(life) = self.life.take() else { return };
        self.still = None;
        lock(&self.shared.armed).take();
        self.shared.stalled_until_us.store(0, Ordering::Relaxed);
        // First what the next one finds: what this one does while it is dropped changes nothing.
        self.disks = Some(life.disks.after(end, &mut self.dice));
        self.shared.site.wires.gone(self.id, end == End::Killed);
        self.shared.site.sink.gone(self.id);
        drop(life);
    }

    /// Lets time go on by a tick, up to the present.
    pub fn tick(&mut self) {
        let now_us = self.shared.site.truth.us();
        if self.still.is_some_and(|(until, _)| now_us < until) {
            return;
        }
        let slept = self.still.take();
        let Some(life) = &mut self.life else { return };
        let mut jump = Duration::ZERO;
        if let Some((_, asleep)) = slept {
            let there = life.runtime.block_on(async { Instant::now() }) - life.origin;
            let missed = now_us - life.began_us - there.as_micros() as u64;
            match asleep {
                true => life.began_us += missed,
                false => jump = Duration::from_micros(missed.saturating_sub(1_000)),
            }
        }
        let until = life.origin + Duration::from_micros(now_us - life.began_us);
        life.runtime.block_on(async {
            if !jump.is_zero() {
                // All that would have come meanwhile comes now, late.
                tokio::time::advance(jump).await;
            }
            tokio::time::sleep_until(until).await;
        });
    }

    pub fn is_up(&self) -> bool {
        self.router().is_some()
    }

    pub fn is_still(&self) -> bool {
        self.still.is_some()
    }

    pub fn router(&self) -> Option<&Router> {
        self.life.as_ref()?.face.router.get()
    }

    /// The process stands still until an instant; `asleep`: with all clocks but the steady one.
    pub fn stand_still(&mut self, until_us: u64, asleep: bool) {
        self.still = Some((until_us, asleep));
    }

    /// Its wall clock is off by so much.
    pub fn set_offset(&self, us: i64) {
        self.shared.offset_us.store(us, Ordering::Relaxed);
    }

    /// Nothing that blocks comes to an end before an instant.
    pub fn stall(&self, until_us: u64) {
        self.shared
            .stalled_until_us
            .store(until_us, Ordering::Relaxed);
    }

    pub fn arm(&self, point: CrashPoint) {
        *lock(&self.shared.armed) = Some(point);
    }

    pub fn disarm(&self) {
        lock(&self.shared.armed).take();
    }

    /// Begins an orderly stop; it is over when the process has ended.
    pub fn stop(&mut self) {
        let Some(life) = &self.life else { return };
        let face = life.face.clone();
        let part = lock(&face.part).take();
        life.runtime.spawn(async move {
            if let Some(part) = part {
                part.stop().await;
            }
            *lock(&face.ended) = true;
        });
    }

    /// Has a task of its process ask the API of its node.
    pub fn ask<F: Future<Output = ()> + Send + 'static>(&self, asks: impl FnOnce(Router) -> F) {
        if let Some((life, router)) = self.life.as_ref().zip(self.router()) {
            life.runtime.spawn(asks(router.clone()));
        }
    }
}

/// An answer of the API, as it would have come over the wire.
pub struct Answer {
    pub status: u16,
    pub decided: Option<u64>,
    pub body: serde_json::Value,
}

/// One exchange with the API of a node.
pub async fn exchange(
    router: &Router,
    (method, path, body): (&str, &str, Option<&serde_json::Value>),
) -> Answer {
    let request = http::Request::builder().method(method).uri(path);
    let request = match body {
        Some(body) => request
            .header("content-type", "application/json")
            .body(Body::from(body.to_string())),
        None => request.body(Body::empty()),
    };
    let request = request.expect("a request of ours is well-formed");
    let Ok(response) = router.clone().oneshot(request).await;
    let decided = response.headers().get("horolog-index");
    let decided = decided.and_then(|index| index.to_str().ok()?.parse().ok());
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await;
    let body = bytes
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Answer {
        status,
        decided,
        body: body.unwrap_or_default(),
    }
}

/// The clock of a machine: the product's, over what the machine says.
fn clock(shared: &Arc<Shared>) -> Arc<dyn Clock> {
    let shared = shared.clone();
    Arc::new(SystemClock::of(move || {
        let now_us = shared.site.truth.us();
        let offset_us = shared.offset_us.load(Ordering::Relaxed);
        let wall_us = (EPOCH_US + now_us).saturating_add_signed(offset_us);
        (wall_us, Duration::from_micros(now_us))
    }))
}

/// Starts a node, as `Node::start` does, on a machine that is simulated.
async fn process(
    shared: Arc<Shared>,
    book: Arc<Book>,
    face: Arc<Face>,
    disks: Arc<Disks>,
    incarnation: u128,
) -> anyhow::Result<()> {
    let site = shared.site.clone();
    let id = shared.id;
    let dir = site.dir.join(format!("node-{id}"));
    let known = Identity::load(&dir)?;
    let identity = match known {
        Some(known) => Identity {
            boot: known.boot + 1,
            ..known
        },
        None => Identity {
            cluster: 0,
            node: id,
            incarnation,
            boot: 1,
        },
    };
    identity.store(&dir)?;
    let clock = clock(&shared);
    let log = open_log(&shared, &book, &disks)?;
    let list = (1..=site.nodes).map(|id| (id, id.to_string()));
    let told = face.clone();
    let options = Options {
        dir,
        identity,
        log,
        peer_address: id.to_string(),
        http_address: format!("node-{id}"),
        listener: site.wires.listen(id),
        network: site.wires.of(id),
        folder: disks.folder.clone(),
        runner: Arc::new(Later(shared.clone(), disks)),
        secret: Some("simulated".into()),
        origin: Origin::Listed(list.collect()),
        timing: site.timing,
        labels: Default::default(),
        handlers: Default::default(),
        retention: Retention {
            finished: Span::hours(1),
            dead: Span::hours(1),
            marks: Span::hours(1),
            failures_only: false,
            period: Span::seconds(5),
            history: Span::hours(1),
            history_bytes: 1 << 30,
        },
        cadence: site.cadence,
        scrub: site.scrub,
        watch: Watch {
            period: Span::seconds(2),
            after: Span::seconds(8),
        },
        app_rate: 0,
        level: Level::NEWEST,
        // What is free on the machine that simulates must not show.
        disk: Watermark::Bytes(0),
        node_timeout: Duration::from_secs(30),
        clock: clock.clone(),
        fault: Arc::new(move |why| {
            lock(&told.fault).get_or_insert(why);
        }),
    };
    let settings = Settings {
        lease: site.timing.owner_lease(),
        hold: Hold::Task,
        // Some targets never get well, and a run does not last long.
        breaker: BreakerSettings {
            open_max: Duration::from_secs(1),
            ..BreakerSettings::default()
        },
        ..Settings::new(id, Guard::open())
    };
    let delivery = Arc::new(site.sink.of(id));
    let part = Part::start(options, settings, delivery, &OnceLock::new()).await?;
    let cluster = OnceLock::from(part.cluster().clone());
    let router = api::router(Api {
        cluster: Arc::new(cluster),
        clock,
        settings: ApiSettings::default(),
        metrics: Arc::default(),
        check_target: Arc::new(|_| Ok(())),
        // Whoever submits here brings an id; who runs a schedule does not.
        new_id: Arc::new(move || format!("{:016x}", lock(&shared.dice).roll())),
        targets: Arc::new(Vec::new),
        access: None,
    });
    *lock(&face.part) = Some(part);
    // Set once, here.
    let _ = face.router.set(router);
    Ok(())
}

/// Opens the log, with a task that steps its writer.
fn open_log(
    shared: &Arc<Shared>,
    book: &Arc<Book>,
    disks: &Arc<Disks>,
) -> Result<LogStore, LogFault> {
    let (shared, disks) = (shared.clone(), disks.clone());
    let engine = disks.engine()?;
    if shared.site.disks_lie {
        disks.each().iter().for_each(|disk| disk.sync_is_noop());
    }
    let is_new = engine.ends()?.is_none();
    let for_engine = shared.clone();
    let told = move |step: &'static str| for_engine.begins(step, &disks);
    let scribe = Scribe {
        engine,
        book: book.clone(),
        told: Box::new(told),
    };
    let (log, writer) = LogStore::stepped(Box::new(scribe))?;
    let bounds = log.bounds();
    if let Some(last) = bounds.last.filter(|_| !is_new) {
        let first = bounds.purged.map_or(0, |purged| purged.index + 1);
        let entries = log.read(first..last.index + 1, usize::MAX)?;
        book.found(entries, Some(last.index + 1));
    } else {
        book.found(Vec::new(), Some(0));
    }
    let work = Arc::new(Notify::new());
    let bell = work.clone();
    log.on_work(move || bell.notify_one());
    tokio::spawn(write(shared, writer, work));
    Ok(log)
}

/// The writer's thread, as a task.
async fn write(shared: Arc<Shared>, mut writer: Writer, work: Arc<Notify>) {
    loop {
        match writer.step() {
            Step::Wrote => {}
            Step::Idle => {
                work.notified().await;
                #[allow(clippy::disallowed_methods)] // What a sync takes.
                tokio::time::sleep(shared.takes(2_000)).await;
            }
            Step::Over => return,
        }
    }
}
