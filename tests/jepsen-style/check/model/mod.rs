//! The fold once more: what a log means, written from docs/api.md and docs/stages.md.
//!
//! It is slow, simple, and shares nothing with the product. Where the outer contract leaves
//! something open that decides what comes next, the rule is a constant or a sentence here: the
//! number of shards and how keys fall into them, how fences are made, and how far one trigger goes.
//!
//! The log itself can be wrong in a way that no fold can mend: an outcome of an attempt that was
//! never begun, or of one that was withdrawn. Those are gathered in [`Model::wrong`].

mod asked;
mod attempts;
mod schedules;
mod table;

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::policy::Policy;
use super::run::{Key, Seen};
use super::words::instant;
pub use schedules::{Fired, Schedule};
pub use table::{STAGES, table};

/// Shards of a cluster.
const SHARDS: u64 = 64;
/// One retirement drops no more of each kind.
const RETIRE_MAX: u64 = 4_096;

/// What ended an attempt, as the log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is open.
    Open,
    Accepted,
    Done,
    Failed,
    Expired,
    /// Its outcome, or the awaited completion, did not come in time.
    Deadline,
    /// Its owner lost the shard.
    Redispatched,
    /// Cancelled or changed before it began.
    Withdrawn,
    /// A later run of its schedule took its place; who is at it is not interrupted.
    Replaced,
    /// Somebody outside said how the task ended.
    Completed,
}

/// One attempt of a task, from its beginning in the log.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub number: u64,
    /// Not to be begun before; milliseconds.
    pub at: u64,
    /// The task's due instant, which the callback carries.
    pub due: u64,
    /// Log index and leader's clock of its beginning.
    pub index: u64,
    pub now: u64,
    /// `triggered`, `run` or `redispatched`.
    pub why: &'static str,
    pub ending: Ending,
    /// A report of it, in time or too late: log index, HTTP status, time queued at the target.
    pub reported: Option<(u64, u64, u64)>,
}

#[derive(Clone, Debug)]
pub struct Task {
    pub key: Key,
    pub stage: &'static str,
    pub due: u64,
    /// The next attempt, the attempt's own instant, the deadline, or the end.
    pub at: u64,
    pub attempt: u64,
    pub fence: u64,
    /// The node that its attempt was handed to.
    owner: u64,
    tries: u64,
    version: u64,
    pub index: u64,
    /// As first sent.
    content: (Value, Value),
    policy: Policy,
}

impl Task {
    fn is_open(&self) -> bool {
        matches!(self.stage, "triggered" | "running")
    }
    pub fn is_final(&self) -> bool {
        matches!(self.stage, "done" | "dead" | "cancelled")
    }
    fn is_waiting(&self) -> bool {
        matches!(self.stage, "scheduled" | "retrying")
    }
    fn has_deadline(&self) -> bool {
        matches!(self.stage, "running" | "accepted")
    }
    pub fn seen(&self) -> Seen {
        Seen {
            index: self.index,
            stage: self.stage.into(),
            due_ms: Some(self.due),
            attempt: Some(self.attempt),
        }
    }
}

/// What a caller's event was answered: the HTTP status, and the task after it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub kind: &'static str,
    pub status: u64,
    pub task: Option<Seen>,
    /// It changed the task.
    pub changed: bool,
    /// The owner is asked to withdraw; callers hear of the second event only.
    pub asks_owner: bool,
}

/// Where an event stands in the log.
#[derive(Clone, Copy)]
pub struct Place {
    pub index: u64,
    pub now: u64,
}

#[derive(Default)]
pub struct Model {
    pub tasks: BTreeMap<u64, Task>,
    pub ids: BTreeMap<Key, u64>,
    next_seq: u64,
    /// Tasks that were dropped after their retention.
    pub retired: BTreeSet<Key>,
    marks: BTreeMap<Key, u64>,
    waiting: BTreeSet<(u64, u64)>,
    deadlines: BTreeSet<(u64, u64)>,
    finished: [BTreeSet<(u64, u64)>; 2],
    hand: u64,
    epoch: u64,
    epochs: BTreeMap<u64, u64>,
    /// Who owns each shard.
    owners: BTreeMap<u64, u64>,
    /// Every state that a task was in, oldest first.
    pub versions: BTreeMap<Key, Vec<Seen>>,
    /// By task and fence.
    pub attempts: BTreeMap<Key, BTreeMap<u64, Attempt>>,
    /// Answers to callers' events, by log index and task.
    pub answers: BTreeMap<(u64, Key), Vec<Answer>>,
    /// Tasks and verbs for which an owner was asked to withdraw an attempt.
    pub asked_owner: BTreeSet<(Key, &'static str)>,
    pub schedules: BTreeMap<String, Schedule>,
    /// The schedule of each run that is not over.
    runs: BTreeMap<u64, String>,
    /// Every task that a schedule made.
    pub made: BTreeSet<Key>,
    /// What was decided of schedules: log index, schedule, and the event.
    pub decided: BTreeSet<(u64, String, String)>,
    /// When applications were paused (true) and went on, by log index.
    pub pauses: BTreeMap<String, BTreeMap<u64, bool>>,
    pub wrong: Vec<String>,
}

impl Model {
    /// Folds one exported event.
    pub fn fold(&mut self, kind: &str, at: Place, event: &Value) {
        match kind {
            "submit" | "cancel" | "change" | "run" | "complete" => self.asked(kind, at, event),
            "trigger" => self.trigger(at, event),
            "started" => self.started(at, event),
            "accepted" | "done" | "failed" => self.ended(kind, at, event),
            "assign" => self.assign(at, event),
            "again" => self.again(at, event),
            "retire" => self.retire(event),
            // Views over the same tasks: nothing about a task changes with them.
            "makeset" | "fillsets" | "popshard" => {}
            // They hold calls up, and change no task.
            "pause" | "resume" => {
                let app = event["app"].as_str().unwrap_or_default().to_owned();
                let of_app = self.pauses.entry(app).or_default();
                of_app.insert(at.index, kind == "pause");
            }
            "putschedule" | "pauseschedule" | "deleteschedule" | "runschedule" | "fire" => {
                self.schedule(kind, at, event);
            }
            // Says what later entries may hold.
            "raise" => {}
            // Whatever was mended had been wrong.
            "mend" => self
                .wrong
                .push(format!("index {}: mended: {}", at.index, event["repairs"])),
            _ => self
                .wrong
                .push(format!("index {}: {kind:?} is no event", at.index)),
        }
    }

    /// How many tasks are in which stage.
    pub fn counts(&self, app: Option<&str>) -> BTreeMap<&'static str, u64> {
        let mut counts: BTreeMap<_, _> = STAGES.iter().map(|stage| (*stage, 0)).collect();
        let tasks = self.tasks.values();
        for task in tasks.filter(|task| app.is_none_or(|app| task.key.0 == app)) {
            *counts.entry(task.stage).or_default() += 1;
        }
        counts
    }

    /// The attempt of a task under a fence, if the log began one.
    pub fn attempt(&self, key: &Key, fence: u64) -> Option<&Attempt> {
        self.attempts.get(key)?.get(&fence)
    }

    // Owners, and the end.

    fn assign(&mut self, at: Place, event: &Value) {
        self.epoch += 1;
        let shards = event["shards"].as_array().into_iter().flatten();
        let shards: BTreeSet<u64> = shards.filter_map(Value::as_u64).collect();
        // What the former owner has not begun, or lost; what a third node kept goes on there.
        let kept = attempts_named(&event["kept"]);
        let former = |task: &Task| self.owners.get(&shard(&task.key)).copied().unwrap_or(0);
        let open = self.tasks.iter().filter(|(_, task)| task.is_open());
        let open = open.filter(|(seq, task)| {
            shards.contains(&shard(&task.key))
                && task.owner == former(task)
                && !kept.contains(&(**seq, task.fence))
        });
        let open: Vec<u64> = open.map(|(seq, _)| *seq).collect();
        let node = event["node"].as_u64().unwrap_or(0);
        for number in &shards {
            self.epochs.insert(*number, self.epoch);
            self.owners.insert(*number, node);
        }
        self.redispatch(at, open);
    }

    /// What nobody holds any more, as far as it is open still.
    fn again(&mut self, at: Place, event: &Value) {
        let named = attempts_named(&event["attempts"]).into_iter();
        let lost = named.filter(|(seq, fence)| self.holds(*seq, *fence));
        let lost = lost.map(|(seq, _)| seq).collect();
        self.redispatch(at, lost);
    }

    /// One that had not started keeps its instant; a running one starts over at once.
    fn redispatch(&mut self, at: Place, tasks: Vec<u64>) {
        for seq in tasks {
            let task = &self.tasks[&seq];
            let instant = match task.stage {
                "triggered" => task.at,
                _ => at.now,
            };
            self.close(seq, Ending::Redispatched);
            self.begin(at, seq, "redispatched", instant);
        }
    }

    fn retire(&mut self, event: &Value) {
        let max = event["max"].as_u64().unwrap_or(0).min(RETIRE_MAX) as usize;
        let until = [&event["finished_up_to"], &event["dead_up_to"]];
        let until = until.map(|value| instant(value).unwrap_or(0));
        for (class, until) in until.iter().enumerate() {
            for (_, seq) in first(&self.finished[class], *until, max) {
                self.unindex(seq);
                if let Some(task) = self.tasks.remove(&seq) {
                    self.ids.remove(&task.key);
                    self.retired.insert(task.key);
                }
            }
        }
        let mut old: Vec<_> = self
            .marks
            .iter()
            .map(|(key, at)| (*at, key.clone()))
            .collect();
        old.retain(|(at, _)| *at <= until[0]);
        old.sort_unstable();
        for (_, key) in old.into_iter().take(max) {
            self.marks.remove(&key);
        }
    }

    // The one place where a task changes.

    fn edit(&mut self, at: Place, seq: u64, change: impl FnOnce(&mut Task)) {
        self.unindex(seq);
        let Some(task) = self.tasks.get_mut(&seq) else {
            return;
        };
        change(task);
        task.index = at.index;
        task.version += 1;
        let entry = (task.at, seq);
        if task.is_waiting() {
            self.waiting.insert(entry);
        }
        if task.has_deadline() {
            self.deadlines.insert(entry);
        }
        if task.is_final() {
            self.finished[usize::from(task.stage == "dead")].insert(entry);
        }
        let seen = task.seen();
        self.versions
            .entry(task.key.clone())
            .or_default()
            .push(seen);
    }

    fn unindex(&mut self, seq: u64) {
        if let Some(task) = self.tasks.get(&seq) {
            let entry = (task.at, seq);
            self.waiting.remove(&entry);
            self.deadlines.remove(&entry);
            self.finished.iter_mut().for_each(|set| {
                set.remove(&entry);
            });
        }
    }
}

/// The first of a set up to an instant.
fn first(set: &BTreeSet<(u64, u64)>, until: u64, max: usize) -> Vec<(u64, u64)> {
    set.range(..=(until, u64::MAX)).take(max).copied().collect()
}

/// Which shard a task falls into.
fn shard((app, id): &Key) -> u64 {
    let seed = xxhash_rust::xxh3::xxh3_64(app.as_bytes());
    xxhash_rust::xxh3::xxh3_64_with_seed(id.as_bytes(), seed) % SHARDS
}

/// Attempts by task and fence.
fn attempts_named(list: &Value) -> BTreeSet<(u64, u64)> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|one| Some((one[0].as_u64()?, one[1].as_u64()?)))
        .collect()
}
