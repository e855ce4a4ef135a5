//! Schedules once more, written from docs/schedules.md: their versions, and what becomes of each
//! occurrence that a planner has worked out. Which instants are right is not asked here, but in
//! `../occurrences.rs`.

use serde_json::Value;
use std::collections::VecDeque;

use super::super::policy::Policy;
use super::super::run::Key;
use super::super::words::{instant, span};
use super::{Ending, Model, Place, Task};

/// An occurrence that becomes a task later than this is late.
const LATE_MS: u64 = 1_000;
const MISFIRE_MS: u64 = 60_000;
/// So many wait in line at most, however many are asked for.
const WAIT_MAX: usize = 1_000;
/// So many that wait are begun by one entry.
const BEGIN_MAX: usize = 64;

/// One outcome, and of what.
#[derive(Clone, Debug)]
pub struct Fired {
    pub planned: u64,
    pub version: u64,
    /// `planned`, `manual` or `backfill`.
    pub cause: &'static str,
    /// The outcome as the ledger tells it, with its reason: `skipped/overlap`.
    pub fate: &'static str,
    /// Where, and when, it was decided.
    pub index: u64,
    pub decided: u64,
    /// It has waited for the run before it, or was caught up with.
    pub waited: bool,
    pub key: Key,
    /// When, and how, its task ended first.
    pub ended: Option<(u64, &'static str)>,
}

/// A definition, and the span whose occurrences are its own: later than the first, and no later than
/// the second.
#[derive(Clone, Debug)]
pub struct Version {
    pub number: u64,
    pub from: u64,
    pub until: Option<u64>,
    pub definition: Value,
    runs: u64,
}

/// What may become a run.
#[derive(Clone, Debug)]
struct Occurrence {
    version: u64,
    planned: u64,
    /// When its task is due.
    at: u64,
    cause: &'static str,
    tag: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Schedule {
    id: String,
    born: u64,
    pub versions: Vec<Version>,
    pub watermark: u64,
    paused: Option<u64>,
    pauses: Vec<(u64, u64)>,
    pub deleted: bool,
    /// Tasks that are not over, and their places among the lines.
    running: Vec<(u64, usize)>,
    queue: VecDeque<(usize, Occurrence)>,
    catch_until: u64,
    held: VecDeque<(u64, u64)>,
    pub lines: Vec<Fired>,
}

impl Schedule {
    fn version(&self, number: u64) -> Option<&Version> {
        self.versions.iter().find(|v| v.number == number)
    }

    fn version_mut(&mut self, number: u64) -> Option<&mut Version> {
        self.versions.iter_mut().find(|v| v.number == number)
    }

    /// The version to be taken up next, and after which instant.
    fn due(&self) -> Option<(&Version, u64)> {
        let spans = self.versions.iter();
        let mut spans = spans.map(|v| (v, v.from.max(self.watermark)));
        spans.find(|(v, after)| v.until.is_none_or(|until| until > *after))
    }

    fn paused_at(&self, at: u64) -> bool {
        let over = |(since, until): &(u64, u64)| at > *since && at <= *until;
        self.paused.is_some_and(|since| at > since) || self.pauses.iter().any(over)
    }

    fn spent(&self, version: u64) -> bool {
        let version = self.version(version);
        version.is_some_and(|v| {
            v.definition["max_runs"]
                .as_u64()
                .is_some_and(|n| v.runs >= n)
        })
    }

    /// Whether a stretch goes on from where it stands, within its version.
    fn follows(&self, stretch: &Value, found: &[(u64, u64)]) -> bool {
        let number = |name: &str| stretch[name].as_u64();
        let (after, until) = (instant(&stretch["after"]), instant(&stretch["until"]));
        let (Some(after), Some(until)) = (after, until) else {
            return false;
        };
        if number("born") != Some(self.born) || after != self.watermark || until < after {
            return false;
        }
        match self.due() {
            None => until == after && found.is_empty(),
            Some((version, from)) => {
                number("version") == Some(version.number)
                    && version.until.is_none_or(|end| until <= end)
                    && found.windows(2).all(|two| two[0].0 < two[1].0)
                    && found.iter().all(|(at, _)| *at > from && *at <= until)
            }
        }
    }

    /// The task that an occurrence becomes.
    fn key(&self, o: &Occurrence) -> Key {
        let (group, name) = self.id.split_once('.').unwrap_or(("", &self.id));
        let id = match (o.cause, &o.tag) {
            ("manual", Some(tag)) => format!("{name}:run:{tag}"),
            ("backfill", Some(tag)) => format!("{name}:{tag}:{}", o.planned),
            _ => format!("{name}:{}:{}", o.version, o.planned),
        };
        (group.to_owned(), id)
    }

    fn write(&mut self, at: Place, o: &Occurrence, fate: &'static str, waited: bool) -> usize {
        self.lines.push(Fired {
            planned: o.planned,
            version: o.version,
            cause: o.cause,
            fate,
            index: at.index,
            decided: at.now,
            waited,
            key: self.key(o),
            ended: None,
        });
        self.lines.len() - 1
    }
}

impl Model {
    pub(super) fn schedule(&mut self, kind: &str, at: Place, event: &Value) {
        if kind == "fire" {
            let now = instant(&event["now"]).unwrap_or(at.now);
            for stretch in event["stretches"].as_array().into_iter().flatten() {
                self.stretch(at, now, stretch);
            }
            return;
        }
        let id = event["id"].as_str().unwrap_or_default();
        let decided = (at.index, id.to_owned(), kind.to_owned());
        self.decided.insert(decided);
        if kind == "putschedule" {
            return self.put(at, id, event);
        }
        let Some(mut s) = self.schedules.remove(id) else {
            return;
        };
        if !s.deleted {
            match kind {
                "pauseschedule" => pause(at, &mut s, event["paused"] == true),
                "deleteschedule" => delete(at, &mut s, event),
                _ => self.run_now(at, &mut s, event),
            }
        }
        self.schedules.insert(id.to_owned(), s);
    }

    fn put(&mut self, at: Place, id: &str, event: &Value) {
        let (definition, create) = (&event["definition"], event["create"] == true);
        let known = self.schedules.get(id);
        let last = known.and_then(|s| s.versions.last());
        let number = last.map_or(0, |v| v.number);
        let living = known.is_some_and(|s| !s.deleted);
        let same = living && last.is_some_and(|v| v.definition == *definition);
        let stale = event["if_version"]
            .as_u64()
            .is_some_and(|seen| seen != number);
        if same || create == living || !create && stale {
            return;
        }
        let s = self.schedules.entry(id.to_owned()).or_insert(Schedule {
            id: id.to_owned(),
            born: at.index,
            watermark: at.now,
            ..Schedule::default()
        });
        let from = s.versions.last().map_or(at.now, |v| v.from);
        let from = from.max(at.now).max(s.watermark);
        if let Some(last) = s.versions.last_mut() {
            last.until.get_or_insert(from);
        }
        s.deleted = false;
        s.versions.push(Version {
            number: number + 1,
            from,
            until: None,
            definition: definition.clone(),
            runs: 0,
        });
    }

    fn stretch(&mut self, at: Place, now: u64, stretch: &Value) {
        let id = stretch["id"].as_str().unwrap_or_default();
        let Some(mut s) = self.schedules.remove(id) else {
            return;
        };
        let found = stretch["occurrences"].as_array().into_iter().flatten();
        let found = found.filter_map(|pair| Some((instant(&pair[0])?, instant(&pair[1])?)));
        let found: Vec<(u64, u64)> = found.collect();
        if s.follows(stretch, &found) {
            self.take_up(at, now, &mut s, stretch, &found);
        }
        self.schedules.insert(id.to_owned(), s);
    }

    fn take_up(
        &mut self,
        at: Place,
        now: u64,
        s: &mut Schedule,
        stretch: &Value,
        found: &[(u64, u64)],
    ) {
        let number = stretch["version"].as_u64().unwrap_or(0);
        let Some(definition) = s.version(number).map(|v| v.definition.clone()) else {
            return;
        };
        let misfire = span(&definition["misfire"]).unwrap_or(MISFIRE_MS);
        s.watermark = instant(&stretch["until"]).unwrap_or(s.watermark);
        for (planned, due) in found {
            let o = Occurrence {
                version: number,
                planned: *planned,
                at: *due,
                cause: "planned",
                tag: None,
            };
            if s.paused_at(*planned) {
                s.write(at, &o, "skipped/paused", false);
                continue;
            }
            if *planned > s.catch_until && now.saturating_sub(*planned) > misfire {
                s.catch_until = now;
            }
            match *planned <= s.catch_until {
                true => hold(at, s, o, &definition["catch_up"]),
                false => self.meet(at, s, o, false),
            }
            if s.spent(number) {
                s.watermark = *planned;
                break;
            }
        }
        if s.watermark >= s.catch_until || s.due().is_none() {
            self.release(at, s, &definition["catch_up"]);
        }
        if s.spent(number) {
            let watermark = s.watermark;
            if let Some(version) = s.version_mut(number) {
                version.until = Some(version.until.unwrap_or(watermark).min(watermark));
            }
        }
        self.begin_waiting(at, s);
    }

    /// What is caught up with, once all of it is known.
    fn release(&mut self, at: Place, s: &mut Schedule, catch_up: &Value) {
        let pace = span(&catch_up["all"]["pace"]).unwrap_or(0);
        for (n, (version, planned)) in (0..).zip(std::mem::take(&mut s.held)) {
            let mut o = missed(version, planned);
            if s.spent(version) {
                s.write(at, &o, "skipped/catch_up", true);
                continue;
            }
            if n > 0 {
                o.at = at.now + n * pace;
            }
            self.meet(at, s, o, true);
        }
    }

    /// An occurrence meets the run before it.
    fn meet(&mut self, at: Place, s: &mut Schedule, o: Occurrence, late: bool) {
        let Some(version) = s.version(o.version) else {
            return;
        };
        let own = version.definition["overlap"].as_str().unwrap_or("allow");
        let most = version.definition["queue_max"].as_u64();
        let most = most.map_or(WAIT_MAX, |most| most as usize);
        let (overlap, most) = match (o.cause, own) {
            (_, "allow") => ("allow", most),
            ("backfill", _) => ("queue_all", WAIT_MAX),
            (_, own) => (own, most),
        };
        let busy = !s.running.is_empty() || !s.queue.is_empty();
        let fate = match overlap {
            "skip" if busy => "skipped/overlap",
            "queue_one" if !s.queue.is_empty() => "coalesced",
            "queue_all" if busy && s.queue.len() >= most => "skipped/overlap",
            "queue_one" | "queue_all" if busy => "queued",
            _ => "",
        };
        let cancels = overlap == "cancel_running";
        if (fate.is_empty() || fate == "queued") && o.cause == "planned" {
            s.version_mut(o.version)
                .into_iter()
                .for_each(|v| v.runs += 1);
        }
        if fate.is_empty() {
            if cancels {
                self.replace(at, s);
            }
            return self.make(at, s, &o, None, late);
        }
        let line = s.write(at, &o, fate, late);
        if fate == "queued" {
            s.queue.push_back((line, o));
        }
    }

    /// A later run takes the place of these.
    fn replace(&mut self, at: Place, s: &mut Schedule) {
        for (seq, line) in std::mem::take(&mut s.running) {
            self.runs.remove(&seq);
            self.finish(at, seq, "cancelled", Ending::Replaced);
            s.lines[line].ended = Some((at.now, "cancelled"));
        }
    }

    /// A task of an occurrence. `line` is where it waited.
    fn make(
        &mut self,
        at: Place,
        s: &mut Schedule,
        o: &Occurrence,
        line: Option<usize>,
        late: bool,
    ) {
        let is_late = late || at.now.saturating_sub(o.planned) > LATE_MS;
        let key = s.key(o);
        let exists = self.ids.contains_key(&key);
        let fate = match (exists, is_late) {
            (true, _) => "missed",
            (false, true) => "late",
            (false, false) => "fired",
        };
        let line = match line {
            Some(line) => {
                let one = &mut s.lines[line];
                (one.fate, one.index, one.decided) = (fate, at.index, at.now);
                one.waited = true;
                line
            }
            None => s.write(at, o, fate, late),
        };
        if exists {
            return;
        }
        let version = s.version(o.version).or(s.versions.last());
        let spec = version.map_or(Value::Null, |v| v.definition["task"].clone());
        let seq = self.born(at, key, o.at, &spec);
        s.running.push((seq, line));
        self.runs.insert(seq, s.id.clone());
    }

    /// A new task, as a submit makes it.
    fn born(&mut self, at: Place, key: Key, due: u64, spec: &Value) -> u64 {
        self.next_seq += 1;
        let seq = self.next_seq;
        let task = Task {
            key: key.clone(),
            stage: "scheduled",
            due,
            at: due,
            attempt: 0,
            fence: 0,
            owner: 0,
            tries: 0,
            version: 0,
            index: at.index,
            policy: Policy::of(spec),
            content: (Value::Null, Value::Null),
        };
        self.made.insert(key.clone());
        self.ids.insert(key, seq);
        self.tasks.insert(seq, task);
        self.edit(at, seq, |_| {});
        self.begin_if_due(at, seq);
        seq
    }

    /// What waits begins when nothing runs.
    fn begin_waiting(&mut self, at: Place, s: &mut Schedule) {
        for _ in 0..BEGIN_MAX {
            let last = s.versions.last();
            let allow = last.is_some_and(|v| v.definition["overlap"] == "allow");
            if !s.running.is_empty() && !allow {
                return;
            }
            let Some((line, o)) = s.queue.pop_front() else {
                return;
            };
            let o = Occurrence { at: at.now, ..o };
            self.make(at, s, &o, Some(line), true);
        }
    }

    fn run_now(&mut self, at: Place, s: &mut Schedule, event: &Value) {
        let tag = event["tag"].as_str().unwrap_or_default().to_owned();
        let planned = event["planned"].as_array().into_iter().flatten();
        let planned: Vec<u64> = planned.filter_map(instant).collect();
        let Some(last) = s.versions.last() else {
            return;
        };
        let (version, skips) = (last.number, last.definition["overlap"] == "skip");
        let busy = !s.running.is_empty() || !s.queue.is_empty();
        let asked = |planned, at, cause| Occurrence {
            version,
            planned,
            at,
            cause,
            tag: Some(tag.clone()),
        };
        let name = s.id.split_once('.').map_or("", |(_, name)| name);
        let again = |line: &Fired| {
            let own = [format!("{name}:run:{tag}"), format!("{name}:{tag}:")];
            line.cause != "planned" && own.iter().any(|own| line.key.1.starts_with(own))
        };
        if s.lines.iter().any(again) || s.queue.len() + planned.len() > WAIT_MAX {
            return;
        }
        if planned.is_empty() {
            if !(busy && skips) {
                self.meet(at, s, asked(at.now, at.now, "manual"), false);
            }
            return;
        }
        let pace = span(&event["pace"]).unwrap_or(0);
        for (n, planned) in (0..).zip(planned) {
            self.meet(at, s, asked(planned, at.now + n * pace, "backfill"), true);
        }
    }

    /// A task is final: if it was a run, the next one may begin.
    pub(super) fn run_ended(&mut self, place: Place, seq: u64, stage: &'static str) {
        let of = self.runs.remove(&seq);
        let Some(s) = of.and_then(|id| self.schedules.get_mut(&id)) else {
            return;
        };
        if let Some(at) = s.running.iter().position(|(run, _)| *run == seq) {
            let (_, line) = s.running.remove(at);
            s.lines[line].ended = Some((place.now, stage));
        }
    }
}

/// An occurrence of a time in which nobody was there.
fn missed(version: u64, planned: u64) -> Occurrence {
    Occurrence {
        version,
        planned,
        at: planned,
        cause: "planned",
        tag: None,
    }
}

fn hold(at: Place, s: &mut Schedule, o: Occurrence, catch_up: &Value) {
    let all = &catch_up["all"];
    let (kept, fate) = match (catch_up.as_str(), span(&all["window"])) {
        (Some("skip"), _) => (0, "skipped/catch_up"),
        (_, Some(window)) => {
            let within = s.catch_until.saturating_sub(o.planned) <= window;
            let most = all["max"].as_u64().unwrap_or(100) as usize;
            let kept = if within { most.min(WAIT_MAX) } else { 0 };
            (kept, "skipped/catch_up")
        }
        _ => (1, "coalesced"),
    };
    if kept == 0 {
        s.write(at, &o, fate, true);
        return;
    }
    s.held.push_back((o.version, o.planned));
    while s.held.len() > kept {
        if let Some((version, planned)) = s.held.pop_front() {
            s.write(at, &missed(version, planned), fate, true);
        }
    }
}

fn pause(at: Place, s: &mut Schedule, pauses: bool) {
    match (pauses, s.paused) {
        (true, None) => s.paused = Some(at.now),
        (false, Some(since)) => {
            s.paused = None;
            s.pauses.push((since, at.now));
        }
        _ => {}
    }
}

/// What runs goes on; nothing fires any more.
fn delete(at: Place, s: &mut Schedule, event: &Value) {
    let number = s.versions.last().map(|v| v.number);
    if event["if_version"].is_u64() && event["if_version"].as_u64() != number {
        return;
    }
    let watermark = s.watermark;
    s.versions
        .retain(|v| v.from <= watermark || v.until.is_none());
    for version in &mut s.versions {
        let end = watermark.max(version.from);
        version.until = Some(version.until.map_or(end, |until| until.min(end)));
    }
    for (line, _) in std::mem::take(&mut s.queue) {
        let one = &mut s.lines[line];
        (one.fate, one.index, one.decided) = ("cancelled", at.index, at.now);
    }
    for (version, planned) in std::mem::take(&mut s.held) {
        s.write(at, &missed(version, planned), "cancelled", true);
    }
    (s.paused, s.pauses, s.deleted) = (None, Vec::new(), true);
}
