//! The receivers of callbacks, and what they write down: it is the truth about deliveries.
//!
//! What a receiver does is named by the path of its address: `/ok`, `/slow/<ms>`, `/fail/<times>`,
//! `/later` (202), `/gone` (410), `/hang`, `/break`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use horolog::executor::{Call, Delivered, Delivery, FailureKind};
use horolog::log::sim_disk::Dice;
use serde_json::{Value, json};

use crate::machine::{EPOCH_US, Truth};

/// One call, as it came.
#[derive(Clone, Debug)]
pub struct Came {
    pub node: u64,
    pub t_us: u64,
    pub app: String,
    pub id: String,
    pub attempt: u32,
    pub fence: u64,
    pub due_ms: u64,
    pub answer: u16,
    pub end_us: Option<u64>,
}

impl Came {
    pub fn line(&self) -> Value {
        json!({
            "t": EPOCH_US + self.t_us, "app": self.app, "id": self.id, "attempt": self.attempt,
            "fence": self.fence, "due": self.due_ms, "answer": self.answer,
            "end": EPOCH_US + self.end_us.unwrap_or(self.t_us),
        })
    }
}

struct State {
    came: Vec<Came>,
    dice: Dice,
}

/// All receivers. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Sink {
    truth: Truth,
    state: Arc<Mutex<State>>,
}

impl Sink {
    pub fn new(truth: Truth, seed: u64) -> Sink {
        let state = State {
            came: Vec::new(),
            dice: Dice::new(seed),
        };
        Sink {
            truth,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The delivery of a node.
    pub fn of(&self, node: u64) -> Line {
        Line(self.clone(), node)
    }

    /// Every call so far.
    pub fn came(&self) -> Vec<Came> {
        self.state().came.clone()
    }

    pub fn count(&self) -> usize {
        self.state().came.len()
    }

    /// A node is gone, and with it whoever waited for an answer.
    pub fn gone(&self, node: u64) {
        let now_us = self.truth.us();
        let mut state = self.state();
        let open = state.came.iter_mut().filter(|came| came.node == node);
        open.for_each(|came| came.end_us = came.end_us.or(Some(now_us)));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, at: usize, answer: u16) {
        let now_us = self.truth.us();
        let mut state = self.state();
        state.came[at].answer = answer;
        state.came[at].end_us = Some(now_us);
    }
}

/// From one node to all receivers.
pub struct Line(Sink, u64);

impl Delivery for Line {
    fn deliver(&self, call: Call) -> BoxFuture<'static, Delivered> {
        let (sink, node) = (self.0.clone(), self.1);
        Box::pin(async move {
            let (at, way_us, lost) = {
                let mut state = sink.state();
                let came = Came {
                    node,
                    t_us: sink.truth.us(),
                    app: call.key.app.to_string(),
                    id: call.key.id.to_string(),
                    attempt: call.fence.attempt,
                    fence: call.fence.number(),
                    due_ms: call.due.0,
                    answer: 0,
                    end_us: None,
                };
                state.came.push(came);
                let at = state.came.len() - 1;
                let way_us = 500 + state.dice.below(4_000);
                (at, way_us, state.dice.below(100) == 0)
            };
            let (status, takes) = told(&call.http.url, call.fence.attempt);
            let takes = takes.map(|takes| takes + Duration::from_micros(way_us));
            let timeout = call.timeout.std();
            #[allow(clippy::disallowed_methods)] // The receiver takes its time.
            match takes.filter(|takes| *takes < timeout) {
                Some(takes) => tokio::time::sleep(takes).await,
                None => {
                    tokio::time::sleep(timeout).await;
                    sink.end(at, 0);
                    return Delivered::failed(FailureKind::Timeout, "timed out");
                }
            }
            sink.end(at, status);
            match status == 0 || lost {
                true => Delivered::failed(FailureKind::Broken, "the connection broke"),
                false => Delivered::status(status),
            }
        })
    }
}

/// What is answered, and after what time; `None`: nothing ever.
fn told(url: &str, attempt: u32) -> (u16, Option<Duration>) {
    let mut path = url
        .rsplit("//")
        .next()
        .unwrap_or_default()
        .split('/')
        .skip(1);
    let (what, number) = (path.next().unwrap_or_default(), path.next());
    let number: u64 = number.and_then(|text| text.parse().ok()).unwrap_or(0);
    let soon = Some(Duration::ZERO);
    match what {
        "slow" => (200, Some(Duration::from_millis(number))),
        "fail" if u64::from(attempt) <= number => (500, soon),
        "later" => (202, soon),
        "gone" => (410, soon),
        "hang" => (0, None),
        "break" => (0, soon),
        _ => (200, soon),
    }
}
