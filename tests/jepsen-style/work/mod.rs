//! The workload: clients that never repeat blindly. Each file is one kind of client.

mod bulk;
mod call;
mod herds;
mod hot;
mod lists;
mod outside;
mod pauses;
mod reads;
mod retries;
mod schedules;
mod submits;

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::chance::Chance;
use crate::record::History;
use crate::sink::Sink;
use crate::site::Doors;
use crate::support::{now_ms, pass};

pub use call::{Caller, Ended, Request};
pub use lists::walk;
pub use pauses::hold;
pub use schedules::{ask, told};

/// So many of the last acknowledged tasks are remembered, for those who read.
const REMEMBERED: usize = 400;
/// Between two looks at whether it is over.
const NAP: Duration = Duration::from_millis(50);

/// What all clients share.
pub struct Shared {
    pub history: History,
    pub doors: Doors,
    pub sink: Arc<Sink>,
    pub pressure: Arc<AtomicU64>,
    stop: AtomicBool,
    known: Mutex<VecDeque<(String, String)>>,
    groups: Mutex<VecDeque<String>>,
    next_id: AtomicU64,
    /// Schedules were created.
    scheduled: AtomicBool,
}

impl Shared {
    pub fn new(
        history: History,
        doors: Doors,
        sink: Arc<Sink>,
        pressure: Arc<AtomicU64>,
    ) -> Shared {
        Shared {
            history,
            doors,
            sink,
            pressure,
            stop: AtomicBool::new(false),
            known: Mutex::default(),
            groups: Mutex::default(),
            next_id: AtomicU64::new(1),
            scheduled: AtomicBool::new(false),
        }
    }

    pub fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether there is more work than usual.
    pub fn is_pressed(&self) -> bool {
        self.pressure.load(Ordering::Relaxed) > 1
    }

    /// Lets time pass, less of it under pressure.
    pub fn pause(&self, ms: u64) {
        let end = now_ms() + ms / self.pressure.load(Ordering::Relaxed).max(1);
        while !self.stops() && now_ms() < end {
            pass(NAP.min(Duration::from_millis(end.saturating_sub(now_ms()))));
        }
    }

    /// An id that nobody had.
    pub fn id(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    fn remember(&self, app: &str, id: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == REMEMBERED {
            known.pop_front();
        }
        known.push_back((app.into(), id.into()));
    }

    /// A label that tasks have had for a moment.
    fn remember_group(&self, group: &str) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if groups.len() == REMEMBERED {
            groups.pop_front();
        }
        groups.push_back(group.into());
    }

    fn any_group(&self, chance: &mut Chance) -> Option<String> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let at = chance.below(groups.len() as u64) as usize;
        groups.get(at).cloned()
    }

    fn any_known(&self, chance: &mut Chance) -> Option<(String, String)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(chance.below(known.len() as u64) as usize)
            .cloned()
    }
}

/// A task due at an instant, with a policy that ends soon.
pub fn task(app: &str, id: &str, due_ms: u64, url: &str) -> Value {
    json!({
        "app": app, "id": id, "due_at": due_ms,
        "target": { "http": { "url": url, "timeout": "1500ms" } },
        "retry": { "attempts": 4, "backoff": { "fixed": "300ms" }, "jitter": 0.1 },
        "accept_timeout": "1500ms",
    })
}

type Client = fn(&mut Caller);

/// Who works, and how many of each.
const CLIENTS: [(&str, usize, Client); 10] = [
    ("submits", 2, submits::run),
    ("hot", 3, hot::run),
    ("outside", 1, outside::run),
    ("retries", 1, retries::run),
    ("herds", 1, herds::run),
    ("lists", 1, lists::run),
    ("bulk", 1, bulk::run),
    ("reads", 2, reads::run),
    ("schedules", 1, schedules::run),
    ("pauses", 1, pauses::run),
];

/// Clients at work.
pub struct Crew {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    pub fn start(shared: Arc<Shared>, mut chance: Chance) -> Crew {
        let mut threads = Vec::new();
        let race = Arc::new(hot::Race::default());
        for (name, count, client) in CLIENTS {
            for _ in 0..count {
                let process = threads.len() as u64 + 1;
                let mut caller =
                    Caller::new(shared.clone(), process, chance.branch(), race.clone());
                let thread = std::thread::Builder::new().name(name.into());
                let work = move || {
                    while !caller.shared.stops() {
                        client(&mut caller);
                    }
                };
                threads.push(thread.spawn(work).unwrap());
            }
        }
        Crew { shared, threads }
    }

    /// Lets them end what they are at.
    ///
    /// # Errors
    /// Who broke off.
    pub fn stop(self) -> Result<(), String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let name = thread.thread().name().unwrap_or("?").to_owned();
            thread
                .join()
                .map_err(|_| format!("a client of {name} panicked"))?;
        }
        Ok(())
    }
}
