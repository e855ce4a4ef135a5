//! A driven clock, a state in a map, a delivery that does as it is told.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};

use crate::executor::*;
use crate::model::*;
use crate::state::{Dispatch, Open};

pub const NODE: NodeId = 7;
/// Where driven clocks start; far from zero, so that they can go back.
pub const START: Time = Time(1_000_000);

/// A clock that stands still until it is moved.
pub struct Driven {
    wall_us: AtomicU64,
    steady_us: AtomicU64,
}

impl Driven {
    pub fn new() -> Arc<Driven> {
        Arc::new(Driven {
            wall_us: AtomicU64::new(START.0 * 1000),
            steady_us: AtomicU64::new(3_600_000_000),
        })
    }
    pub fn set_wall_us(&self, us: u64) {
        self.wall_us.store(us, SeqCst);
    }
    pub fn pass(&self, by: Duration) {
        self.steady_us.fetch_add(by.as_micros() as u64, SeqCst);
    }
}

impl Clock for Driven {
    fn wall(&self) -> Time {
        Time(self.wall_us() / 1000)
    }
    fn wall_us(&self) -> u64 {
        self.wall_us.load(SeqCst)
    }
    fn steady(&self) -> Duration {
        Duration::from_micros(self.steady_us.load(SeqCst))
    }
}

/// The machine's clock.
pub struct Real(pub Instant);

impl Clock for Real {
    fn wall(&self) -> Time {
        Time(self.wall_us() / 1000)
    }
    fn wall_us(&self) -> u64 {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_micros() as u64
    }
    fn steady(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The open attempts, as the state would know them.
#[derive(Default)]
pub struct Log {
    open: Mutex<BTreeMap<(Time, Seq), Dispatch>>,
    index: Mutex<HashMap<(Seq, Fence), Time>>,
}

pub fn fence(epoch: u32, attempt: u32) -> Fence {
    Fence {
        epoch: Epoch(epoch),
        attempt,
    }
}

pub fn spec(url: &str) -> Spec {
    Spec {
        target: Target::Http(Http {
            url: url.into(),
            ..Http::default()
        }),
        retry: None,
        accept_timeout: None,
        expires_at: None,
        labels: BTreeMap::new(),
        placement: None,
        next: Default::default(),
    }
}

impl Log {
    /// Triggers an attempt: the state knows it, and this is the change.
    pub fn trigger(&self, seq: u64, fence: Fence, at: Time, spec: &Spec) -> Change {
        let seq = Seq(seq);
        let dispatch = Dispatch {
            seq,
            fence,
            key: Key::new("shop", &format!("order-{}", seq.0)).unwrap(),
            spec: spec.encode(),
            due: at,
            at,
            tries: 0,
        };
        self.open.lock().unwrap().insert((at, seq), dispatch);
        self.index.lock().unwrap().insert((seq, fence), at);
        Change::Triggered {
            seq,
            fence,
            at,
            owner: NODE,
            hash: seq.0,
        }
    }

    /// Closes an attempt.
    pub fn close(&self, seq: Seq, fence: Fence) -> Change {
        let at = self.index.lock().unwrap().remove(&(seq, fence));
        if let Some(at) = at {
            self.open.lock().unwrap().remove(&(at, seq));
        }
        Change::Closed { seq, fence }
    }

    pub fn open_seqs(&self) -> Vec<u64> {
        let open = self.open.lock().unwrap();
        open.keys().map(|(_, seq)| seq.0).collect()
    }

    pub fn source(self: &Arc<Self>) -> Source {
        let (a, b) = (self.clone(), self.clone());
        Source {
            dispatch: Box::new(move |ids| {
                let (open, index) = (a.open.lock().unwrap(), a.index.lock().unwrap());
                let find = |id: &(Seq, Fence)| open.get(&(*index.get(id)?, id.0)).cloned();
                ids.iter().map(find).collect()
            }),
            open_after: Box::new(move |after, limit| {
                let open = b.open.lock().unwrap();
                let behind = |place: &(Time, Seq)| after.is_none_or(|after| *place > after);
                open.iter()
                    .filter(|(place, _)| behind(place))
                    .take(limit)
                    .map(|((at, seq), dispatch)| Open {
                        at: *at,
                        seq: *seq,
                        fence: dispatch.fence,
                        hash: seq.0,
                    })
                    .collect()
            }),
        }
    }
}

/// Answers 200 at once, but to URLs that contain `slow` only when the gate opens.
pub struct Script {
    pub calls: Mutex<Vec<(Call, u64)>>,
    pub gate: Arc<Semaphore>,
    pub open: Arc<AtomicUsize>,
    pub most: Arc<AtomicUsize>,
    clock: Arc<dyn Clock>,
}

impl Script {
    pub fn begun(&self) -> Vec<u64> {
        self.calls
            .lock()
            .unwrap()
            .iter()
            .map(|(call, _)| call.seq.0)
            .collect()
    }
}

impl Delivery for Script {
    fn deliver(&self, call: Call) -> BoxFuture<'static, Delivered> {
        let call_is_sound = !call.http.url.contains("defect");
        let slow = call.http.url.contains("slow");
        self.calls
            .lock()
            .unwrap()
            .push((call, self.clock.wall_us()));
        let (gate, open, most) = (self.gate.clone(), self.open.clone(), self.most.clone());
        Box::pin(async move {
            assert!(call_is_sound, "a defect, on purpose");
            most.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
            if slow {
                gate.acquire().await.unwrap().forget();
            }
            tokio::task::yield_now().await;
            open.fetch_sub(1, SeqCst);
            Delivered::status(200)
        })
    }
}

/// An executor with everything around it.
pub struct Rig {
    pub clock: Arc<Driven>,
    pub log: Arc<Log>,
    pub script: Arc<Script>,
    pub executor: Executor,
    pub outcomes: mpsc::Receiver<Event>,
}

pub fn settings() -> Settings {
    Settings::new(NODE, Guard::open())
}

impl Rig {
    /// With a lease that has just been renewed.
    pub fn new(settings: Settings) -> Rig {
        let rig = Rig::unleased(settings);
        rig.renew();
        rig
    }

    pub fn unleased(settings: Settings) -> Rig {
        let clock = Driven::new();
        let log = Arc::new(Log::default());
        let script = Arc::new(Script {
            calls: Mutex::default(),
            gate: Arc::new(Semaphore::new(0)),
            open: Arc::default(),
            most: Arc::default(),
            clock: clock.clone(),
        });
        let (sender, outcomes) = mpsc::channel(64);
        let executor = Executor::start(
            settings,
            clock.clone(),
            log.source(),
            script.clone(),
            sender,
        );
        Rig {
            clock,
            log,
            script,
            executor,
            outcomes,
        }
    }

    pub fn renew(&self) {
        self.executor.renew_lease(self.clock.steady());
    }

    /// Triggers an attempt at once, with fence (1, 1).
    pub fn trigger(&self, seq: u64, at: Time, url: &str) {
        let change = self.log.trigger(seq, fence(1, 1), at, &spec(url));
        self.executor.changed(&[change]);
    }

    pub fn close(&self, seq: u64) {
        let change = self.log.close(Seq(seq), fence(1, 1));
        self.executor.changed(&[change]);
    }

    /// Moves the wall clock and lets the holding thread look at it now, not within a second.
    pub fn wall(&self, to: Time) {
        self.wall_us(to.0 * 1000);
    }

    pub fn wall_us(&self, to: u64) {
        self.clock.set_wall_us(to);
        // Under the lock: the thread is either asleep or will look again before it sleeps.
        drop(self.executor.inner.lock());
        self.executor.inner.due.ring();
    }

    /// Waits until exactly these have begun, in any order.
    pub async fn begun(&self, mut seqs: Vec<u64>) {
        seqs.sort_unstable();
        let sorted = || {
            let mut begun = self.script.begun();
            begun.sort_unstable();
            begun
        };
        until(|| sorted().len() >= seqs.len()).await;
        assert_eq!(sorted(), seqs);
    }

    /// The next outcome, folded: the attempt is closed.
    pub async fn outcome(&mut self) -> Event {
        let event = tokio::time::timeout(Duration::from_secs(10), self.outcomes.recv());
        let event = event
            .await
            .expect("an outcome in time")
            .expect("an open channel");
        let ended = match &event {
            Event::Done(e) => Some((e.seq, e.fence)),
            Event::Failed(e) => Some((e.seq, e.fence)),
            Event::Accepted(e) => Some((e.seq, e.fence)),
            _ => None,
        };
        if let Some((seq, fence)) = ended {
            let change = self.log.close(seq, fence);
            self.executor.changed(&[change]);
        }
        event
    }

    /// As [`Rig::settle`], where tasks go elsewhere unless they say otherwise.
    pub async fn settle_here(&self, seq: u64) {
        let mut spec = spec("http://settle/");
        spec.placement = Some(Placement::Owner);
        let at = self.clock.wall();
        let change = self.log.trigger(seq, fence(1, 1), at, &spec);
        self.executor.changed(&[change]);
        until(|| self.script.begun().contains(&seq)).await;
    }

    /// Lets what has passed so far take effect: an attempt at a target of its own that is due
    /// now begins after everything that was due before it.
    pub async fn settle(&self, seq: u64) {
        let at = self.clock.wall();
        self.trigger(seq, at, "http://settle/");
        until(|| self.script.begun().contains(&seq)).await;
    }
}

/// Waits for a condition, for ten seconds at most.
pub async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not come true");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub const THREADS: Duration = Duration::from_secs(5);
