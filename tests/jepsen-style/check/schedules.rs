//! Checker 5: every occurrence of every schedule has exactly one outcome, and the right one.
//!
//! What should have fired is worked out from the definitions in the log and the spans of their
//! versions (`occurrences.rs`), and what became of it by the model (`model/schedules.rs`). Held
//! against both: the lines of the ledger that the nodes told in the end, what they call proven, the
//! jitter that the log gives, and, as the truth about runs, what the sink saw.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::fold::Folded;
use super::model::{Ending, Fired, Schedule};
use super::occurrences::within;
use super::run::{Delivery, Key, Run};
use super::words::{instant, span};
use super::{Findings, Verdict};

const NAME: &str = "schedules";
/// An occurrence has its outcome so long after its instant, when all is well.
const TAKEN_WITHIN_MS: u64 = 5_000;
/// Clocks of nodes, and that of the harness, differ by no more in the end.
const JUST_MS: u64 = 2_000;
/// A fault is felt so long after it ended.
const FELT_US: u64 = 15_000_000;
/// The sink may write down the end of an answer so long after its last byte was read.
const WRITTEN_US: u64 = 250_000;

/// Whether the run had any schedules.
pub fn concerns(run: &Run) -> bool {
    !run.schedules.is_empty() || run.ops.iter().any(|op| op.f == "schedule")
}

/// Applications and names of the schedules that somebody asked for.
pub struct Names(BTreeSet<(String, String)>);

impl Names {
    pub fn of(run: &Run) -> Names {
        let asked = run.ops.iter().filter(|op| op.f == "schedule");
        let names = asked.filter_map(|op| op.asked["id"].as_str()?.split_once('.'));
        Names(
            names
                .map(|(group, name)| (group.into(), name.into()))
                .collect(),
        )
    }

    /// Whether a task is, by its name, a run of one of them.
    pub fn have_run(&self, (app, id): &Key) -> bool {
        let name = id.split_once(':');
        name.is_some_and(|(name, _)| self.0.contains(&(app.clone(), name.to_owned())))
    }
}

pub fn check(run: &Run, folded: &Folded) -> Verdict {
    let mut found = Findings::default();
    if run.schedules.is_empty() {
        found.wrong("there were schedules, and no node told their ledgers".into());
    }
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    for (node, told) in &run.schedules {
        let audit = &told["audit"];
        found.check(audit["differences"] == 0, || {
            format!("I-25: node {node}: the audit finds {audit}")
        });
        let t_ms = told["t"].as_u64().unwrap_or(0) / 1_000;
        let ids: BTreeSet<&String> = told["schedules"]
            .as_object()
            .into_iter()
            .flat_map(|all| all.keys())
            .collect();
        for id in &ids {
            let told = &told["schedules"][id.as_str()];
            once(*node, id, told, &mut found);
            match folded.model.schedules.get(*id) {
                Some(s) => ledger(*node, s, told, t_ms, &mut found),
                None if folded.last == 0 => {
                    found.undecided(|| format!("{id}: the beginning of the log was purged"));
                }
                None => found.wrong(format!("I-4: {id}: the log does not know it")),
            }
        }
        for (id, s) in &folded.model.schedules {
            found.check(ids.contains(id) || s.deleted, || {
                format!("node {node} does not tell of {id}")
            });
        }
    }
    for (id, s) in &folded.model.schedules {
        s.lines
            .iter()
            .for_each(|line| *outcomes.entry(line.fate).or_default() += 1);
        planned_in_time(run, id, s, &mut found);
        at_once(run, folded, id, s, &mut found);
    }
    if folded.last > 0 {
        acknowledged(run, folded, &mut found);
        due_when_planned(folded, &mut found);
    }
    found.note(format!(
        "{} schedules, outcomes {outcomes:?}",
        folded.model.schedules.len()
    ));
    found.verdict(NAME)
}

/// Lines about occurrences of the plan, by version and instant.
fn planned(told: &Value) -> impl Iterator<Item = ((u64, u64), &Value)> {
    let lines = told["fires"].as_array().into_iter().flatten();
    let lines = lines.filter(|line| line["cause"] == "planned");
    lines.filter_map(|line| {
        let version = line["version"].as_u64()?;
        Some(((version, instant(&line["planned"])?), line))
    })
}

/// I-22: no occurrence has two lines.
fn once(node: u64, id: &str, told: &Value, found: &mut Findings) {
    let mut seen = BTreeSet::new();
    for (at, _) in planned(told) {
        found.check(seen.insert(at.1), || {
            format!(
                "I-22: node {node}: {id}: {} has two outcomes (version {})",
                at.1, at.0
            )
        });
    }
}

/// I-25: the lines are the expected ones, and each says what became of it.
fn ledger(node: u64, s: &Schedule, told: &Value, t_ms: u64, found: &mut Findings) {
    let lines: BTreeMap<(u64, u64), &Value> = planned(told).collect();
    let watermark = instant(&told["watermark"]).unwrap_or(0);
    let kept_from = match told["whole"] == true {
        true => 0,
        false => instant(&told["kept_from"]).unwrap_or(0) + 1,
    };
    let horizon = watermark.max(t_ms.saturating_sub(TAKEN_WITHIN_MS));
    let mut expected = BTreeSet::new();
    for version in &s.versions {
        let until = version.until.unwrap_or(horizon).min(horizon);
        let text = version.definition["plan"].as_str().unwrap_or_default();
        let plan: Value = serde_json::from_str(text).unwrap_or_default();
        match within(&plan, version.from, until) {
            Some(all) => expected.extend(all.into_iter().map(|at| (version.number, at))),
            None => found.undecided(|| format!("which instants {plan} has")),
        }
    }
    let id = told["id"].as_str().unwrap_or("?");
    for (version, at) in expected.iter().filter(|(_, at)| *at >= kept_from) {
        found.check(lines.contains_key(&(*version, *at)), || {
            format!("I-25: node {node}: {id}: {at} (version {version}) has no outcome")
        });
    }
    let model = s.lines.iter().filter(|line| line.cause == "planned");
    let model: BTreeMap<(u64, u64), &Fired> = model
        .map(|line| ((line.version, line.planned), line))
        .collect();
    for (at, line) in &lines {
        found.check(expected.contains(at), || {
            format!(
                "I-21: node {node}: {id}: {} (version {}) was never to fire: {line}",
                at.1, at.0
            )
        });
        match model.get(at) {
            Some(own) => same(node, id, (own, line), t_ms, found),
            None => found.wrong(format!(
                "I-25: node {node}: {id}: the log has nothing of {line}"
            )),
        }
    }
    let asked = |own: &&Fired| own.cause != "planned";
    let others = told["fires"].as_array().into_iter().flatten();
    let others = others.filter(|line| line["cause"] != "planned").count();
    found.check(
        others == s.lines.iter().filter(asked).count() || kept_from > 0,
        || format!("node {node}: {id}: {others} lines of runs that were asked for"),
    );
}

/// What a line says is what the log comes to.
fn same(node: u64, id: &str, (own, line): (&Fired, &Value), t_ms: u64, found: &mut Findings) {
    let outcome = line["outcome"].as_str().unwrap_or_default();
    let fate = match (outcome, line["reason"].as_str()) {
        ("skipped", Some(reason)) => format!("skipped/{reason}"),
        _ => outcome.to_owned(),
    };
    let broken = match (own.fate, fate.as_str()) {
        ("skipped/overlap" | "coalesced" | "queued", _) | (_, "skipped/overlap") => "I-20",
        ("skipped/catch_up", _) | (_, "skipped/catch_up" | "coalesced") => "I-23",
        _ => "I-25",
    };
    let key = |line: &Value| {
        let text = |name: &str| line["task"][name].as_str().unwrap_or_default().to_owned();
        (text("app"), text("id"))
    };
    let ran = ["fired", "late"].contains(&own.fate);
    // What ended about when the node was asked may not have ended for it.
    let just = own.ended.is_some_and(|(at, _)| at + JUST_MS >= t_ms) && line["stage"].is_null();
    let ended = just || line["stage"].as_str() == own.ended.map(|(_, stage)| stage);
    let right = fate == own.fate
        && line["index"].as_u64() == Some(own.index)
        && (!ran || key(line) == own.key)
        && ended;
    found.check(right, || {
        format!("{broken}: node {node}: {id}: says {line}; the log comes to {own:?}")
    });
    let early = own.fate == "fired" && own.decided > own.planned + 1_000;
    found.check(!early, || {
        format!("I-25: {id}: {own:?} is late, and not called so")
    });
}

/// I-8: away from faults an occurrence is taken up in time.
fn planned_in_time(run: &Run, id: &str, s: &Schedule, found: &mut Findings) {
    let own = s
        .lines
        .iter()
        .filter(|line| line.cause == "planned" && !line.waited);
    for line in own.filter(|line| line.fate != "cancelled") {
        let from = (line.planned * 1_000).saturating_sub(FELT_US);
        if !run.disturbed(from, line.planned * 1_000) {
            let late = line.decided.saturating_sub(line.planned);
            found.check(late <= TAKEN_WITHIN_MS, || {
                format!("I-8: {id}: {line:?}: {late} ms late, and nothing had been disturbed")
            });
        }
    }
}

/// I-20: at the receiver, no two runs of a schedule that does not allow it, unless the log shows why:
/// the one before lost its owner, was given up by its caller, or gave its place up.
fn at_once(run: &Run, folded: &Folded, id: &str, s: &Schedule, found: &mut Findings) {
    let allows = |definition: &Value| definition["overlap"] == "allow";
    if s.versions.iter().any(|v| allows(&v.definition)) {
        return;
    }
    // Who is asked for in vain of a queue, or beside one, is another's matter: only what ran.
    let keys: BTreeSet<_> = s.lines.iter().map(|line| &line.key).collect();
    let own = run.sink.iter().filter(|d| keys.contains(&d.key));
    let mut open: Vec<&Delivery> = Vec::new();
    for delivery in own {
        open.retain(|before| before.end_us > delivery.t_us + WRITTEN_US);
        for before in open.iter().filter(|before| before.key != delivery.key) {
            let attempt = folded.model.attempt(&before.key, before.fence);
            let answered = attempt.is_some_and(|attempt| {
                let told = attempt.reported.is_some_and(|(_, status, _)| status != 0);
                // A node that slept may tell late what the log had given up or handed out again.
                let over = [Ending::Replaced, Ending::Redispatched, Ending::Deadline];
                told && !over.contains(&attempt.ending)
            });
            found.check(!answered, || {
                format!(
                    "I-20: {id}: {} came at {} us while {} was still open",
                    delivery.key.1, delivery.t_us, before.key.1
                )
            });
        }
        open.push(delivery);
    }
}

/// I-1: what was answered of a schedule is in the log, at the index of the answer.
fn acknowledged(run: &Run, folded: &Folded, found: &mut Findings) {
    for op in run.ops.iter().filter(|op| op.f == "schedule" && op.is_ok()) {
        let kind = match op.asked["do"].as_str().unwrap_or_default() {
            "create" | "change" => "putschedule",
            "pause" | "resume" => "pauseschedule",
            "delete" => "deleteschedule",
            _ => "runschedule",
        };
        let id = op.asked["id"].as_str().unwrap_or_default();
        let Some(index) = op.got["decided"].as_u64() else {
            continue;
        };
        let decided = (index, id.to_owned(), kind.to_owned());
        found.check(folded.model.decided.contains(&decided), || {
            format!(
                "I-1: {} of {id}: index {index} of the log has no {kind}",
                op.name()
            )
        });
    }
}

/// I-7, I-24: a run is due when it was planned, and later by no more than its jitter.
fn due_when_planned(folded: &Folded, found: &mut Findings) {
    for (id, s) in &folded.model.schedules {
        for line in s.lines.iter().filter(|line| line.cause == "planned") {
            let definition = s.versions.iter().find(|v| v.number == line.version);
            let plan = definition.and_then(|v| v.definition["plan"].as_str());
            let plan: Value = plan
                .and_then(|text| serde_json::from_str(text).ok())
                .unwrap_or_default();
            let jitter = span(&plan["jitter"]).unwrap_or(0);
            let attempts = folded.model.attempts.get(&line.key);
            let first = attempts.and_then(|all| all.values().next());
            let Some(first) = first.filter(|_| line.fate == "fired") else {
                continue;
            };
            let right = (line.planned..=line.planned + jitter).contains(&first.due);
            found.check(right, || {
                format!("I-24: {id}: {line:?} was due at {}", first.due)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::{Build, at, fence, ms, outcome, spec, us};
    use super::NAME;
    use serde_json::{Value, json};

    const PUT: u64 = 26;

    fn put(more: Value) -> Value {
        let mut definition = json!({
            "plan": r#"{"every":"1s","zone":"UTC"}"#, "task": spec(Value::Null), "queue_max": 1_000,
            "overlap": "skip", "catch_up": "once", "misfire": "1m", "max_runs": null,
        });
        let members = more.as_object().unwrap().clone();
        definition.as_object_mut().unwrap().extend(members);
        json!({ "id": "app.tick", "create": true, "if_version": null, "definition": definition })
    }

    /// A planner that goes on at an instant, up to another one.
    fn fire(now: u64, after: u64, until: u64, planned: &[u64]) -> Value {
        let pairs: Vec<Value> = planned.iter().map(|p| json!([at(*p), at(*p)])).collect();
        json!({ "now": at(now), "stretches": [{
            "id": "app.tick", "born": PUT, "version": 1, "after": at(after), "until": at(until),
            "occurrences": pairs, "next": at(until + 1),
        }] })
    }

    fn line(planned: u64, index: u64, (outcome, reason): (&str, Value), ran: bool) -> Value {
        let id = format!("tick:1:{}", ms(planned));
        let task = if ran {
            json!({ "app": "app", "id": id })
        } else {
            Value::Null
        };
        let stage = if ran { json!("done") } else { Value::Null };
        json!({
            "cause": "planned", "version": 1, "planned": at(planned), "outcome": outcome,
            "reason": reason, "index": index, "task": task, "stage": stage,
        })
    }

    fn told(lines: Vec<Value>, watermark: u64) -> Value {
        json!({ "t": us(watermark + 100), "audit": { "differences": 0 }, "schedules": {
            "app.tick": { "id": "app.tick", "fires": lines, "watermark": at(watermark),
                "kept_from": at(6_000), "whole": true }
        } })
    }

    /// One run, one that is skipped because of it, another run, and one in a pause.
    fn good() -> Build {
        let mut b = Build::good();
        b.log("putschedule", 5_000, put(json!({})));
        b.log("fire", 6_000, fire(6_000, 5_000, 6_000, &[6_000]));
        let ids = [6_000, 8_000].map(|planned| format!("tick:1:{}", ms(planned)));
        b.deliver(&ids[0], 1, fence(2, 1), 6_000, 6_010, 200);
        b.delivery(&ids[0], 1)["end"] = json!(us(7_090));
        b.log("fire", 7_000, fire(7_000, 6_000, 7_000, &[7_000]));
        b.log("done", 7_100, outcome(6, fence(2, 1), 6_010, 200));
        b.log("fire", 8_000, fire(8_000, 7_000, 8_000, &[8_000]));
        b.deliver(&ids[1], 1, fence(2, 1), 8_000, 8_010, 200);
        b.log("done", 8_100, outcome(7, fence(2, 1), 8_010, 200));
        let pause = json!({ "id": "app.tick", "paused": true });
        b.log("pauseschedule", 8_500, pause);
        b.log("fire", 9_000, fire(9_000, 8_000, 9_000, &[9_000]));
        let fired = || ("fired", Value::Null);
        let lines = vec![
            line(9_000, 33, ("skipped", json!("paused")), false),
            line(8_000, 30, fired(), true),
            line(7_000, 28, ("skipped", json!("overlap")), false),
            line(6_000, 27, fired(), true),
        ];
        b.told = Some(told(lines, 9_000));
        b
    }

    fn but(change: impl FnOnce(&mut Build)) -> Build {
        let mut b = good();
        change(&mut b);
        b
    }

    fn lines(b: &mut Build) -> &mut Vec<Value> {
        let told = &mut b.told.as_mut().unwrap()["schedules"]["app.tick"]["fires"];
        told.as_array_mut().unwrap()
    }

    #[test]
    fn a_good_run_passes() {
        good().passes(NAME);
        good().passes("replay");
        good().passes("total queue");
        good().passes("sink's ledger");
    }

    #[test]
    fn what_is_missing_double_or_never_planned_is_found() {
        let missing = but(|b| drop(lines(b).remove(1)));
        missing.fails(NAME, "I-25: node 1: app.tick: 1800000008000 (version 1)");
        let double = but(|b| {
            let again = lines(b)[1].clone();
            lines(b).push(again);
        });
        double.fails(NAME, "I-22: node 1: app.tick: 1800000008000");
        let odd = but(|b| lines(b).push(line(8_500, 30, ("fired", Value::Null), true)));
        odd.fails(NAME, "I-21: node 1: app.tick: 1800000008500");
        // The ledger and the log agree, and both lack one.
        let lost = but(|b| {
            lines(b).remove(0);
            b.entry(33)["event"] = fire(9_000, 8_000, 9_000, &[]);
        });
        lost.fails(NAME, "I-25: node 1: app.tick: 1800000009000 (version 1)");
        let untold = but(|b| b.told = None);
        untold.passes("replay");
        let audit = but(|b| b.told.as_mut().unwrap()["audit"] = json!({ "differences": 1 }));
        audit.fails(NAME, "I-25: node 1: the audit finds");
        let late = but(|b| {
            b.entry(33)["now"] = at(15_000);
            b.entry(33)["stamp"] = at(15_000);
        });
        late.fails(NAME, "I-8: app.tick");
        let elsewhere = but(|b| {
            let asked = json!({ "do": "create", "id": "app.tick" });
            let got = json!({ "status": 201, "decided": 27 });
            b.op("schedule", "", asked, 4_995, "ok", got);
        });
        elsewhere.fails(NAME, "I-1: op 20 schedule of app.tick");
    }

    #[test]
    fn policies_that_did_not_hold_are_found() {
        let beside = but(|b| lines(b)[2] = line(7_000, 28, ("fired", Value::Null), true));
        beside.fails(NAME, "I-20: node 1: app.tick");
        let paused = but(|b| lines(b)[0] = line(9_000, 33, ("fired", Value::Null), true));
        paused.fails(NAME, "I-25: node 1: app.tick: says");
        let at_once = but(|b| {
            let id = format!("tick:1:{}", ms(6_000));
            b.delivery(&id, 1)["end"] = json!(us(8_400));
        });
        at_once.fails(NAME, "I-20: app.tick: tick:1:1800000008000 came at");
        let early = but(|b| {
            let pair = &mut b.entry(30)["event"]["stretches"][0]["occurrences"][0];
            pair[1] = at(7_900);
        });
        early.fails(NAME, "I-24: app.tick");
    }

    /// Nobody was there from 6 to 9 s: one run stands for all.
    #[test]
    fn what_is_caught_up_with_in_another_way_is_found() {
        let run = |fates: [(&str, bool); 4]| {
            let mut b = Build::good();
            b.log("putschedule", 5_000, put(json!({ "misfire": "1s" })));
            let planned = [6_000, 7_000, 8_000, 9_000];
            b.log("fire", 9_500, fire(9_500, 5_000, 9_500, &planned));
            let id = format!("tick:1:{}", ms(9_000));
            b.deliver(&id, 1, fence(2, 1), 9_000, 9_510, 200);
            b.log("done", 9_600, outcome(6, fence(2, 1), 9_510, 200));
            let lines = planned.into_iter().zip(fates);
            let lines = lines.map(|(at, (fate, ran))| line(at, 27, (fate, Value::Null), ran));
            b.told = Some(told(lines.collect(), 9_500));
            // The faults that kept everybody away.
            b.fault("kill", 5_500, 9_400);
            b
        };
        let gone = ("coalesced", false);
        run([gone, gone, gone, ("late", true)]).passes(NAME);
        let all = [("late", true); 4];
        run(all).fails(NAME, "I-20: node 1: app.tick");
        let none = [("skipped", false), gone, gone, gone];
        run(none).fails(NAME, "app.tick: says");
    }
}
