//! The fold once more: what a log means, written from docs/api.md and docs/stages.md.
//!
//! It is slow, simple, and shares nothing with the product. Where the outer contract leaves
//! something open that decides what comes next, the rule is a constant or a sentence here: the
//! number of shards and how keys fall into them, how fences are made, and how far one trigger goes.
//!
//! The log itself can be wrong in a way that no fold can mend: an outcome of an attempt that was
//! never begun, or of one that was withdrawn. Those are gathered in [`Model::wrong`].

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::policy::Policy;
use super::run::{Key, Seen};
use super::words::{instant, span};

/// Shards of a cluster.
const SHARDS: u64 = 64;
/// One trigger folds no more.
const TRIGGER_MAX: u64 = 8_192;
/// One retirement drops no more of each kind.
const RETIRE_MAX: u64 = 4_096;
/// How long after a callback's time-out its outcome is given up.
const OUTCOME_GRACE_MS: u64 = 30_000;
/// How much further ahead another node's clock is believed.
const CLOCK_TRUST_MS: u64 = 1_000;

pub const STAGES: [&str; 8] = [
    "scheduled",
    "triggered",
    "running",
    "accepted",
    "retrying",
    "done",
    "dead",
    "cancelled",
];

/// docs/stages.md. `-`: refused; `same`: nothing changes; `withdraw X`: X once the owner has
/// withdrawn the attempt; `again X`: X if asked explicitly; `retry`: as the policy says.
const TABLE: [(&str, [&str; 8]); 10] = {
    let (no, same, retry) = ("-", "same", "retry");
    let (sch, trg, run, acc) = ("scheduled", "triggered", "running", "accepted");
    let (ret, done, dead, can) = ("retrying", "done", "dead", "cancelled");
    let (w_can, w_sch, again) = (
        "withdraw cancelled",
        "withdraw scheduled",
        "again triggered",
    );
    [
        ("cancel", [can, w_can, no, no, can, no, no, same]),
        ("change", [sch, w_sch, no, no, ret, no, no, no]),
        ("run", [trg, same, no, no, trg, again, trg, trg]),
        ("started", [no, run, same, no, no, no, no, no]),
        ("accepted", [no, acc, acc, no, no, no, no, no]),
        ("done", [no, done, done, no, no, no, no, no]),
        ("failed", [no, retry, retry, no, no, no, no, no]),
        ("deadline", [no, no, retry, retry, no, no, no, no]),
        ("complete ok", [done, done, done, done, done, same, no, no]),
        (
            "complete failed",
            [dead, retry, retry, retry, dead, no, same, no],
        ),
    ]
};

/// What a verb does in a stage.
pub fn table(verb: &str, stage: &str) -> &'static str {
    let row = TABLE.iter().find(|(name, _)| *name == verb);
    let column = STAGES.iter().position(|name| *name == stage);
    match (row, column) {
        (Some((_, row)), Some(column)) => row[column],
        _ => "-",
    }
}

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
    /// Every state that a task was in, oldest first.
    pub versions: BTreeMap<Key, Vec<Seen>>,
    /// By task and fence.
    pub attempts: BTreeMap<Key, BTreeMap<u64, Attempt>>,
    /// Answers to callers' events, by log index and task.
    pub answers: BTreeMap<(u64, Key), Vec<Answer>>,
    /// Tasks and verbs for which an owner was asked to withdraw an attempt.
    pub asked_owner: BTreeSet<(Key, &'static str)>,
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
            "retire" => self.retire(event),
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

    // What callers ask for.

    fn asked(&mut self, kind: &str, at: Place, event: &Value) {
        let text = |name: &str| event["key"][name].as_str().unwrap_or_default().to_owned();
        let key = (text("app"), text("id"));
        let (kind, status, asks_owner) = match kind {
            "submit" => ("submit", self.submit(at, &key, event), false),
            "complete" => ("complete", self.complete(at, &key, event), false),
            "cancel" => self.act("cancel", at, &key, event),
            "change" => self.act("change", at, &key, event),
            _ => self.act("run", at, &key, event),
        };
        let answer = Answer {
            kind,
            status,
            task: self.ids.get(&key).map(|seq| self.tasks[seq].seen()),
            asks_owner,
        };
        if asks_owner {
            self.asked_owner.insert((key.clone(), kind));
        }
        self.answers
            .entry((at.index, key))
            .or_default()
            .push(answer);
    }

    fn submit(&mut self, at: Place, key: &Key, event: &Value) -> u64 {
        let content = (event["when"].clone(), event["spec"].clone());
        if let Some(seq) = self.ids.get(key) {
            return if self.tasks[seq].content == content {
                200
            } else {
                409
            };
        }
        self.next_seq += 1;
        let seq = self.next_seq;
        let due = due(&event["when"], at.now).unwrap_or(at.now);
        let task = Task {
            key: key.clone(),
            stage: "scheduled",
            due,
            at: due,
            attempt: 0,
            fence: 0,
            tries: 0,
            version: 0,
            index: at.index,
            policy: Policy::of(&event["spec"]),
            content,
        };
        self.ids.insert(key.clone(), seq);
        self.tasks.insert(seq, task);
        self.edit(at, seq, |_| {});
        if self.marks.remove(key).is_some() {
            self.finish(at, seq, "done", Ending::Completed);
        }
        self.begin_if_due(at, seq);
        201
    }

    /// Cancel, change, run: what the table says.
    fn act(
        &mut self,
        kind: &'static str,
        at: Place,
        key: &Key,
        event: &Value,
    ) -> (&'static str, u64, bool) {
        let Some(seq) = self.ids.get(key).copied() else {
            return (kind, 404, false);
        };
        let task = &self.tasks[&seq];
        if let Some(based) = event["if_match"].as_array()
            && *based != [Value::from(seq), Value::from(task.version)]
        {
            return (kind, 412, false);
        }
        let (mut to, fence) = (table(kind, task.stage), task.fence);
        if let Some(then) = to.strip_prefix("withdraw ") {
            if event["withdrawn"].as_u64() != Some(fence) {
                return (kind, 409, true);
            }
            self.close(seq, Ending::Withdrawn);
            to = then;
        }
        if let Some(then) = to.strip_prefix("again ") {
            if event["again"] != true {
                return (kind, 409, false);
            }
            to = then;
        }
        match (to, kind) {
            ("-", _) => return (kind, 409, false),
            ("same", _) => {}
            (_, "cancel") => self.finish(at, seq, "cancelled", Ending::Withdrawn),
            (_, "run") => self.begin(at, seq, "run", at.now),
            _ => self.change(at, seq, to, event),
        }
        (kind, 200, false)
    }

    fn change(&mut self, at: Place, seq: u64, to: &'static str, event: &Value) {
        let due = due(&event["when"], at.now);
        self.edit(at, seq, |task| {
            task.stage = to;
            if let Some(due) = due {
                task.due = due;
                task.at = due;
            }
            if event["spec"].is_object() {
                task.policy = Policy::of(&event["spec"]);
            }
        });
        self.begin_if_due(at, seq);
    }

    fn complete(&mut self, at: Place, key: &Key, event: &Value) -> u64 {
        let ok = event["ok"] == true;
        let Some(seq) = self.ids.get(key).copied() else {
            // Only the old paths keep a mark of what comes before its submit.
            if event["mark"] != true || !ok {
                return 404;
            }
            self.marks.entry(key.clone()).or_insert(at.now);
            return 200;
        };
        let task = &self.tasks[&seq];
        if event["fence"]
            .as_u64()
            .is_some_and(|fence| fence != task.fence)
        {
            return 409;
        }
        let verb = if ok { "complete ok" } else { "complete failed" };
        match table(verb, task.stage) {
            "-" => return 409,
            "same" => {}
            "retry" => self.retry(at, seq, at.now, Ending::Completed),
            to => self.finish(at, seq, to, Ending::Completed),
        }
        200
    }

    // Attempts.

    /// Deadlines that have passed, then what is due, in order of (instant, creation).
    fn trigger(&mut self, at: Place, event: &Value) {
        let until = instant(&event["until"]).unwrap_or(0);
        let max = event["max"].as_u64().unwrap_or(0).min(TRIGGER_MAX) as usize;
        let late = first(&self.deadlines, at.now, max);
        for (_, seq) in &late {
            self.retry(at, *seq, at.now, Ending::Deadline);
        }
        let rest = max - late.len();
        let due = first(&self.waiting, until, rest);
        let more = first(&self.waiting, until, rest + 1).len() > due.len();
        for (instant, seq) in &due {
            self.begin(at, *seq, "triggered", *instant);
        }
        // With more to come, the hand stands just before the last one's instant.
        let reached = match (more, due.last()) {
            (false, _) => until,
            (true, Some((instant, _))) => instant.saturating_sub(1),
            (true, None) => self.hand,
        };
        self.hand = self.hand.max(reached);
    }

    /// An attempt was begun by its owner; `None` if the log never began it.
    fn reported(&mut self, at: Place, seq: u64, fence: u64, what: &str) -> Option<&mut Attempt> {
        let Some(task) = self.tasks.get(&seq) else {
            if seq == 0 || seq > self.next_seq {
                let text = format!(
                    "I-4: index {}: {what} of task {seq}, never submitted",
                    at.index
                );
                self.wrong.push(text);
            }
            return None; // Retired.
        };
        let key = task.key.clone();
        let (stage, held) = (task.stage, task.fence);
        let begun = self
            .attempts
            .get_mut(&key)
            .and_then(|all| all.get_mut(&fence));
        if begun.is_none() {
            let broken = match stage {
                "scheduled" => "I-7",
                "retrying" => "I-19",
                "cancelled" => "I-18",
                "dead" | "done" => "I-13, I-19",
                _ => "I-14, I-15",
            };
            self.wrong.push(format!(
                "{broken}: index {}: {what} of attempt {} (fence {fence}) of {}/{}, which the log \
                 never began: the task is {stage} at fence {held}",
                at.index,
                fence & 0xffff_ffff,
                key.0,
                key.1
            ));
        }
        begun
    }

    fn holds(&self, seq: u64, fence: u64) -> bool {
        let task = self.tasks.get(&seq);
        task.is_some_and(|task| task.fence == fence && task.is_open())
    }

    fn started(&mut self, at: Place, event: &Value) {
        for one in event["attempts"].as_array().into_iter().flatten() {
            let (seq, fence) = (one[0].as_u64().unwrap_or(0), one[1].as_u64().unwrap_or(0));
            let began = instant(&one[2]).unwrap_or(0);
            let known = self.reported(at, seq, fence, "the start").cloned();
            if let Some(known) = known {
                self.not_early(at, seq, &known, began);
            }
            if self.holds(seq, fence) && self.tasks[&seq].stage == "triggered" {
                let from = at.now.max(began.min(at.now + CLOCK_TRUST_MS));
                let until = from + self.tasks[&seq].policy.timeout + OUTCOME_GRACE_MS;
                self.edit(at, seq, |task| {
                    task.stage = "running";
                    task.at = until;
                });
            }
        }
    }

    fn not_early(&mut self, at: Place, seq: u64, attempt: &Attempt, began: u64) {
        if began < attempt.at {
            let (app, id) = &self.tasks[&seq].key;
            self.wrong.push(format!(
                "I-7: index {}: attempt {} of {app}/{id} was begun at {began}, {} ms early",
                at.index,
                attempt.number,
                attempt.at - began
            ));
        }
    }

    /// The owner reports how an attempt ended.
    fn ended(&mut self, kind: &str, at: Place, event: &Value) {
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let (seq, fence, end) = (
            number(&event["seq"]),
            number(&event["fence"]),
            &event["end"],
        );
        let expired = event["verdict"] == "expired";
        let report = (
            at.index,
            number(&end["status"]),
            span(&end["queued"]).unwrap_or(0),
        );
        let Some(attempt) = self.reported(at, seq, fence, kind) else {
            return;
        };
        attempt.reported = Some(report);
        let attempt = attempt.clone();
        if !expired {
            self.not_early(at, seq, &attempt, instant(&end["started"]).unwrap_or(0));
        }
        if attempt.ending == Ending::Withdrawn {
            let (app, id) = &self.tasks[&seq].key;
            self.wrong.push(format!(
                "I-18: index {}: attempt {} of {app}/{id} was withdrawn, and ends as {kind}",
                at.index, attempt.number
            ));
        }
        if !self.holds(seq, fence) {
            return; // Too late: refused, and recorded.
        }
        match kind {
            "accepted" => {
                self.close(seq, Ending::Accepted);
                let until = at.now + self.tasks[&seq].policy.accept_timeout;
                self.edit(at, seq, |task| {
                    task.stage = "accepted";
                    task.at = until;
                });
            }
            "done" => self.finish(at, seq, "done", Ending::Done),
            _ if expired => {
                let task = &self.tasks[&seq];
                if task.stage != "triggered" {
                    return;
                }
                let may = task
                    .policy
                    .expires_at
                    .is_some_and(|until| at.now + CLOCK_TRUST_MS >= until);
                if !may {
                    let text = format!("index {}: {seq} expired before its expires_at", at.index);
                    self.wrong.push(text);
                }
                self.finish(at, seq, "dead", Ending::Expired);
            }
            _ if event["verdict"] == "final" => self.finish(at, seq, "dead", Ending::Failed),
            _ => {
                let not_before = span(&event["verdict"]["retry"]["not_before"]).unwrap_or(0);
                let ended = instant(&end["ended"]).unwrap_or(0);
                let from = at.now.max(ended.min(at.now + CLOCK_TRUST_MS));
                let task = &self.tasks[&seq];
                let delay = task.policy.delay(task.tries + 1, seq).max(not_before);
                self.retry_at(at, seq, from + delay, Ending::Failed);
            }
        }
    }

    fn retry(&mut self, at: Place, seq: u64, from: u64, ending: Ending) {
        let task = &self.tasks[&seq];
        let next = from + task.policy.delay(task.tries + 1, seq);
        self.retry_at(at, seq, next, ending);
    }

    /// Another try while there are some left and the task is not too old; else dead.
    fn retry_at(&mut self, at: Place, seq: u64, next: u64, ending: Ending) {
        let task = &self.tasks[&seq];
        let tries = task.tries + 1;
        let too_old = task.policy.max_age.is_some_and(|age| next > task.due + age);
        if tries >= task.policy.attempts || too_old {
            return self.finish(at, seq, "dead", ending);
        }
        self.close(seq, ending);
        self.edit(at, seq, |task| {
            task.stage = "retrying";
            task.at = next;
            task.tries = tries;
        });
        self.begin_if_due(at, seq);
    }

    fn finish(&mut self, at: Place, seq: u64, stage: &'static str, ending: Ending) {
        self.close(seq, ending);
        self.edit(at, seq, |task| {
            task.stage = stage;
            task.at = at.now;
        });
    }

    /// Notes how the open attempt ended, if one is open.
    fn close(&mut self, seq: u64, ending: Ending) {
        let task = &self.tasks[&seq];
        let open = matches!(task.stage, "triggered" | "running" | "accepted");
        let all = self.attempts.get_mut(&task.key).filter(|_| open);
        if let Some(attempt) = all.and_then(|all| all.get_mut(&task.fence)) {
            attempt.ending = ending;
        }
    }

    /// The next attempt, under the next fence: 32 bits of epoch, 32 bits of attempt.
    fn begin(&mut self, at: Place, seq: u64, why: &'static str, instant: u64) {
        let task = &self.tasks[&seq];
        let key = task.key.clone();
        let epoch = self.epochs.get(&shard(&key)).copied().unwrap_or(0);
        let attempt = task.attempt + 1;
        let fence = (epoch << 32) | attempt;
        self.edit(at, seq, |task| {
            if task.is_final() {
                task.due = instant; // A series of its own.
                task.tries = 0;
            }
            task.stage = "triggered";
            task.at = instant;
            task.attempt = attempt;
            task.fence = fence;
        });
        let begun = Attempt {
            number: attempt,
            at: instant,
            due: self.tasks[&seq].due,
            index: at.index,
            now: at.now,
            why,
            ending: Ending::Open,
            reported: None,
        };
        let all = self.attempts.entry(key).or_default();
        // Who comes again after being dropped is another task.
        let same = !self.retired.contains(&self.tasks[&seq].key);
        if same && all.last_key_value().is_some_and(|(last, _)| *last >= fence) {
            self.wrong.push(format!(
                "I-14: index {}: fence {fence} does not rise",
                at.index
            ));
        }
        all.insert(fence, begun);
    }

    fn begin_if_due(&mut self, at: Place, seq: u64) {
        let task = &self.tasks[&seq];
        if task.is_waiting() && task.at <= self.hand.max(at.now) {
            self.begin(at, seq, "triggered", task.at);
        }
    }

    // Owners, and the end.

    fn assign(&mut self, at: Place, event: &Value) {
        self.epoch += 1;
        let shards = event["shards"].as_array().into_iter().flatten();
        let shards: BTreeSet<u64> = shards.filter_map(Value::as_u64).collect();
        for number in &shards {
            self.epochs.insert(*number, self.epoch);
        }
        let open = self.tasks.iter().filter(|(_, task)| task.is_open());
        let open = open.filter(|(_, task)| shards.contains(&shard(&task.key)));
        // One that had not started keeps its instant; a running one starts over at once.
        let open = open.map(|(seq, task)| match task.stage {
            "triggered" => (*seq, task.at),
            _ => (*seq, at.now),
        });
        for (seq, instant) in open.collect::<Vec<_>>() {
            self.close(seq, Ending::Redispatched);
            self.begin(at, seq, "redispatched", instant);
        }
    }

    fn retire(&mut self, event: &Value) {
        let max = event["max"].as_u64().unwrap_or(0).min(RETIRE_MAX) as usize;
        let until = [&event["finished_up_to"], &event["dead_up_to"]];
        let until = until.map(|value| instant(value).unwrap_or(0));
        for class in 0..2 {
            for (_, seq) in first(&self.finished[class], until[class], max) {
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

/// The due instant that was asked for, by the leader's clock; `None` if nothing was said.
fn due(when: &Value, now: u64) -> Option<u64> {
    match when {
        Value::Null => None,
        Value::String(_) => Some(now),
        when => instant(&when["at"]).or_else(|| span(&when["after"]).map(|after| now + after)),
    }
}

/// Which shard a task falls into.
fn shard((app, id): &Key) -> u64 {
    let seed = xxhash_rust::xxh3::xxh3_64(app.as_bytes());
    xxhash_rust::xxh3::xxh3_64_with_seed(id.as_bytes(), seed) % SHARDS
}
