//! Where callbacks go: it remembers every arrival, and answers as it was told.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::{now_us, wait_for};

/// A callback as it came in.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub app: String,
    pub id: String,
    pub attempt: u32,
    pub fence: u64,
    /// The node that called.
    pub node: u64,
    /// What the callback said it was due at, in milliseconds.
    pub due_ms: u64,
    /// The wall clock when its head was read.
    pub at_us: u64,
    pub at: Instant,
}

/// What to answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub after: Duration,
}

impl Reply {
    pub fn status(status: u16) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            after: Duration::ZERO,
        }
    }
}

/// The script of every task that has none of its own.
pub const OTHERWISE: &str = "*";

/// See the module. It runs on threads of its own until it is dropped.
pub struct Receiver {
    pub url: String,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Shared {
    arrivals: Mutex<Vec<Arrival>>,
    /// By task id: the answer to the first arrival, the second, …; the last one stays.
    scripts: Mutex<HashMap<String, Vec<Reply>>>,
}

impl Receiver {
    pub fn start() -> Receiver {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let shared = Arc::new(Shared::default());
        runtime.spawn(accept(listener, shared.clone()));
        Receiver {
            url,
            shared,
            _runtime: runtime,
        }
    }

    /// Answers a task's arrivals in this order from now on; of [`OTHERWISE`] the first answer goes
    /// to every task that has no script.
    pub fn script(&self, id: &str, replies: Vec<Reply>) {
        self.shared
            .scripts
            .lock()
            .unwrap()
            .insert(id.into(), replies);
    }

    /// Everything that came in so far, in order.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.shared.arrivals.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.shared.arrivals.lock().unwrap().len()
    }

    /// How often each task came.
    pub fn times(&self) -> BTreeMap<String, usize> {
        let mut times = BTreeMap::new();
        for arrival in self.shared.arrivals.lock().unwrap().iter() {
            *times.entry(arrival.id.clone()).or_default() += 1;
        }
        times
    }

    /// Waits until so many different tasks have come.
    #[track_caller]
    pub fn wait_tasks(&self, count: usize, within: Duration) {
        wait_for(&format!("{count} delivered tasks"), within, || {
            (self.count() >= count && self.times().len() >= count).then_some(())
        });
    }

    /// The longest time without any arrival between two instants, in milliseconds.
    pub fn longest_gap_ms(&self, from_ms: u64, to_ms: u64) -> u64 {
        let mut at: Vec<u64> = self.arrivals().iter().map(|a| a.at_us / 1_000).collect();
        at.retain(|at| (from_ms..=to_ms).contains(at));
        at.extend([from_ms, to_ms]);
        at.sort_unstable();
        at.windows(2).map(|two| two[1] - two[0]).max().unwrap_or(0)
    }

    /// Median, 99th percentile and maximum of the lateness of first arrivals, in milliseconds.
    pub fn lateness_ms(&self) -> [u64; 3] {
        let first = self.arrivals().into_iter().filter(|a| a.attempt == 1);
        let late = |a: Arrival| (a.at_us / 1_000).saturating_sub(a.due_ms);
        let mut late: Vec<u64> = first.map(late).collect();
        late.sort_unstable();
        let at = |percent: usize| late.get((late.len().max(1) - 1) * percent / 100);
        [50, 99, 100].map(|percent| at(percent).copied().unwrap_or(0))
    }

    /// Asserts that nothing came before its instant, nor with a fence that fell.
    #[track_caller]
    pub fn assert_sound(&self) {
        self.assert_never_early();
        let stale = self.stale();
        assert!(stale.is_empty(), "I-14, fences fell: {stale:?}");
    }

    #[track_caller]
    pub fn assert_never_early(&self) {
        for arrival in self.arrivals() {
            assert!(
                arrival.at_us >= arrival.due_ms * 1_000,
                "I-7, early: {arrival:?}"
            );
        }
    }

    /// Arrivals that a receiver which checks fences refuses: a later attempt came before them.
    pub fn stale(&self) -> Vec<Arrival> {
        let mut highest: BTreeMap<String, u64> = BTreeMap::new();
        let mut stale = self.arrivals();
        stale.retain(|arrival| {
            let highest = highest.entry(arrival.id.clone()).or_default();
            let fell = arrival.fence < *highest;
            *highest = arrival.fence.max(*highest);
            fell
        });
        stale
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        // Without it an answer may wait for the acknowledgement of an earlier packet.
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(shared.clone(), request));
            let server = hyper::server::conn::http1::Builder::new();
            // An error is a node that was killed in the middle.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (at_us, at) = (now_us(), Instant::now());
    let header = |name: &str| {
        let value = request.headers().get(name);
        value.and_then(|v| v.to_str().ok()).unwrap_or("").to_owned()
    };
    let due: jiff::Timestamp = header("horolog-due").parse().unwrap_or_default();
    let arrival = Arrival {
        app: header("horolog-app"),
        id: header("horolog-task"),
        attempt: header("horolog-attempt").parse().unwrap_or(0),
        fence: header("horolog-fence").parse().unwrap_or(0),
        node: header("horolog-node").parse().unwrap_or(0),
        due_ms: due.as_millisecond() as u64,
        at_us,
        at,
    };
    let nth = {
        let mut arrivals = shared.arrivals.lock().unwrap();
        arrivals.push(arrival.clone());
        let is_scripted = shared.scripts.lock().unwrap().contains_key(&arrival.id);
        match is_scripted {
            true => arrivals.iter().filter(|a| a.id == arrival.id).count(),
            false => 1,
        }
    };
    let reply = {
        let scripts = shared.scripts.lock().unwrap();
        let replies = scripts.get(&arrival.id).or(scripts.get(OTHERWISE));
        let reply = replies.and_then(|list| list.get(nth - 1).or(list.last()));
        reply.cloned().unwrap_or(Reply::status(200))
    };
    // Read to the end, so that the connection can be used again.
    let _ = request.into_body().collect().await;
    tokio::time::sleep(reply.after).await;
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::default()).unwrap())
}
