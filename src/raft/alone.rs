//! A node alone in this process, with a rim that can be told to lose what it is given.

use futures::future::BoxFuture;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::Watermark;
use super::{
    Cadence, Class, Cluster, Directory, Errand, Options, Origin, Port, Retention, Rim, Running,
    ScrubPace, Tcp, Threads, Timing, Watch, start,
};
use crate::log::{EngineKind, Identity, LogStore};
use crate::model::{
    AttemptEnd, Change, Clock, Done, Event, Fence, Http, Key, Level, Outcome, Row, RowKind, Seq,
    Span, Spec, Submit, Target, Task, Time, When,
};
use crate::state::{Open, Release};

/// The machine's clock.
struct Real(Instant);

impl Clock for Real {
    fn wall(&self) -> Time {
        Time(self.wall_us() / 1_000)
    }
    #[allow(clippy::disallowed_methods)] // The clock of a test.
    fn wall_us(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap().as_micros() as u64
    }
    fn steady(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Holds what it is given, begins nothing, and forgets what it is told to.
#[derive(Default)]
pub(super) struct Forgetful {
    held: Mutex<BTreeSet<(Seq, Fence)>>,
    /// From now on the first attempt of every so-manieth task is lost on its way; 0: none.
    pub(super) loses: Mutex<u64>,
}

impl Forgetful {
    pub(super) fn held(&self) -> BTreeSet<(Seq, Fence)> {
        self.held.lock().unwrap().clone()
    }
}

impl Rim for Forgetful {
    fn changed(&self, changes: &[Change]) {
        let (mut held, loses) = (self.held.lock().unwrap(), *self.loses.lock().unwrap());
        for change in changes {
            match *change {
                Change::Triggered { seq, fence, .. } => {
                    let lost = loses > 0 && seq.0 % loses == 0 && fence.attempt == 1;
                    if !lost {
                        held.insert((seq, fence));
                    }
                }
                Change::Closed { seq, fence } => drop(held.remove(&(seq, fence))),
                _ => {}
            }
        }
    }
    fn withdraw(&self, _: Seq, _: Fence) -> bool {
        false
    }
    fn restore(&self, _: Seq, _: Fence) {}
    fn release(&self, _: &Release) -> Vec<(Seq, Fence)> {
        Vec::new()
    }
    fn new_term(&self, _: u64) {}
    fn knows(&self, open: &[Open]) -> Vec<bool> {
        let held = self.held.lock().unwrap();
        open.iter()
            .map(|open| held.contains(&(open.seq, open.fence)))
            .collect()
    }
    fn renew_lease(&self, _: Duration) {}
    fn errand(&self, _: Errand) -> BoxFuture<'static, Result<Event, String>> {
        unreachable!("nobody else is there")
    }
    fn load(&self) -> f64 {
        0.0
    }
    fn queue_age(&self) -> Duration {
        Duration::ZERO
    }
}

/// See the module.
pub(super) struct Alone {
    pub(super) cluster: Cluster,
    pub(super) rim: Arc<Forgetful>,
    running: Running,
    _dir: tempfile::TempDir,
}

impl Alone {
    /// Starts it and waits until it serves.
    pub(super) async fn start(watch: Watch, retention: Retention, cadence: Cadence) -> Alone {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity {
            cluster: 0,
            node: 1,
            incarnation: 7,
            boot: 1,
        };
        identity.store(dir.path()).unwrap();
        let rim = Arc::new(Forgetful::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        #[allow(clippy::disallowed_methods)] // The clock of a test.
        let clock = Arc::new(Real(Instant::now()));
        let options = Options {
            dir: dir.path().into(),
            identity,
            log: LogStore::open(dir.path(), EngineKind::Redb).unwrap(),
            peer_address: listener.local_addr().unwrap().to_string(),
            http_address: String::new(),
            listener: Box::new(Port {
                listener,
                taker: Arc::new(Tcp),
            }),
            network: Arc::new(Tcp),
            folder: Arc::new(Directory::open(dir.path().join("state")).unwrap()),
            runner: Arc::new(Threads),
            secret: None,
            origin: Origin::Alone,
            timing: Timing::Fast,
            labels: Default::default(),
            handlers: Default::default(),
            retention,
            cadence,
            scrub: ScrubPace::default(),
            watch,
            app_rate: 0,
            level: Level::NEWEST,
            disk: Watermark::Bytes(0),
            node_timeout: Duration::from_secs(30),
            clock,
            fault: Arc::new(|why| panic!("{why}")),
        };
        let given = rim.clone();
        let running = start(options, move |_| given).await.unwrap();
        let node = Alone {
            cluster: running.cluster.clone(),
            rim,
            running,
            _dir: dir,
        };
        let ready = |node: &Alone| node.cluster.state().read(|state| state.owns_all(1, 1));
        node.until("it owns its shards", ready).await;
        node
    }

    /// Waits for a condition, for twenty seconds at most.
    pub(super) async fn until(&self, what: &str, condition: impl Fn(&Alone) -> bool) {
        let mut applied = self.cluster.0.folded.applied.subscribe();
        let look = async {
            while !condition(self) {
                // What is waited for comes with an entry, or with a tick.
                let entry = applied.changed();
                let _ = tokio::time::timeout(Duration::from_millis(10), entry).await;
            }
        };
        let within = Duration::from_secs(20);
        let came = tokio::time::timeout(within, look).await;
        assert!(came.is_ok(), "{what}: not within {within:?}");
    }

    async fn decide(&self, class: Class, event: Event) -> Outcome {
        let mut answers = self.cluster.decide(class, vec![event]).await;
        answers.pop().unwrap().unwrap().outcome
    }

    /// A new task that is due now.
    pub(super) async fn submit(&self, id: &str) -> Task {
        let spec = Spec {
            target: Target::Http(Http {
                url: "http://127.0.0.1:9/".into(),
                ..Http::default()
            }),
            retry: None,
            accept_timeout: None,
            expires_at: None,
            labels: Default::default(),
            placement: None,
            next: Default::default(),
        };
        let spec = spec.encode();
        let submit = Submit {
            key: Key::new("shop", id).unwrap(),
            when: When::Now,
            digest: Spec::digest(&spec, When::Now),
            spec,
            by: "test".into(),
        };
        match self.decide(Class::Submit, submit.into()).await {
            Outcome::Task { task, .. } => *task,
            other => panic!("{other:?}"),
        }
    }

    /// Reports that the present attempt of a task went well.
    pub(super) async fn done(&self, id: &str) {
        let task = self.task(id).unwrap();
        let done = Done {
            seq: task.seq,
            fence: task.fence,
            node: 1,
            end: AttemptEnd::default(),
        };
        assert_eq!(
            self.decide(Class::Outcome, done.into()).await,
            Outcome::Folded
        );
    }

    pub(super) fn task(&self, id: &str) -> Option<Task> {
        let key = Key::new("shop", id).unwrap();
        self.cluster.state().read(|state| state.task(&key)).unwrap()
    }

    /// The rows that say that a task was handed out again.
    pub(super) fn again(&self, id: &str) -> Vec<Row> {
        let key = Key::new("shop", id).unwrap();
        let rows = self.cluster.state().read(|state| state.rows(&key)).unwrap();
        let mut rows = rows.unwrap().1;
        rows.retain(|row| row.kind == RowKind::Redispatched);
        rows
    }

    pub(super) fn applied(&self) -> u64 {
        self.cluster.state().read(|state| state.applied())
    }

    pub(super) async fn stop(self) {
        drop(self.cluster);
        self.running.stop().await;
    }
}

/// Nothing leaves and nothing is looked for, unless it is asked for.
pub(super) fn never() -> (Watch, Retention) {
    let hour = Span::hours(1);
    let watch = Watch {
        period: hour,
        after: Span::ZERO,
    };
    let retention = Retention {
        finished: hour,
        dead: hour,
        marks: hour,
        failures_only: false,
        period: hour,
        history: hour,
        history_bytes: 1 << 30,
    };
    (watch, retention)
}
