//! A simple check over a run's folder: nothing lost, nothing from nowhere, nothing early, nothing
//! left open.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::record;

/// What one checker says.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub name: &'static str,
    /// Nothing wrong was found, and something was looked at.
    pub ok: bool,
    /// What could not be decided; no reason to pass.
    pub undecided: u64,
    /// How many things were looked at and decided.
    pub checked: u64,
    pub text: String,
}

/// Findings that are printed; the rest is counted.
const SHOWN_MAX: usize = 10;

impl Verdict {
    /// A verdict over so many things, of which these are wrong.
    pub fn of(name: &'static str, checked: u64, wrong: Vec<String>, well: String) -> Verdict {
        let more = wrong.len().saturating_sub(SHOWN_MAX);
        let mut shown: Vec<String> = wrong.iter().take(SHOWN_MAX).cloned().collect();
        if more > 0 {
            shown.push(format!("… and {more} more"));
        }
        Verdict {
            name,
            ok: wrong.is_empty() && checked > 0,
            undecided: 0,
            checked,
            text: match (wrong.is_empty(), checked) {
                (true, 0) => "nothing was looked at".into(),
                (true, _) => well,
                _ => shown.join("\n"),
            },
        }
    }
}

type Key = (String, String);

fn key(value: &Value) -> Option<Key> {
    Some((value["app"].as_str()?.into(), value["id"].as_str()?.into()))
}

/// A wall clock may be so far off without its node standing back, ms.
const SKEW_MS: u64 = 550;
/// A clock that was set right is right so much later, µs.
const CLOCK_SETTLES_US: u64 = 4_000_000;

/// Runs the checks.
pub fn check(dir: &Path) -> Vec<Verdict> {
    let history = record::read(&dir.join("history.ndjson"));
    let sink = record::read(&dir.join("sink.ndjson"));
    let faults = record::read(&dir.join("faults.ndjson"));
    let asked = invoked(&history);
    let listed = final_lists(&history);
    vec![
        accounted(&history, &listed),
        phantoms(&asked, &sink, &listed),
        early(&history, &sink, &faults),
        delivered(&history, &sink, &listed),
    ]
}

fn of<'a>(history: &'a [Value], kind: &str, f: &str) -> impl Iterator<Item = &'a Value> {
    let (kind, f) = (kind.to_owned(), f.to_owned());
    history
        .iter()
        .filter(move |op| op["type"] == kind.as_str() && op["f"] == f.as_str())
}

fn invoked(history: &[Value]) -> BTreeSet<Key> {
    of(history, "invoke", "submit").filter_map(key).collect()
}

/// What each node listed at the end: the walks over all applications.
fn final_lists(history: &[Value]) -> BTreeMap<u64, BTreeMap<Key, Value>> {
    let walks = of(history, "ok", "list").filter(|op| op["app"].is_null());
    let listed = |op: &Value| {
        let tasks = op["value"]["tasks"].as_array()?;
        let tasks = tasks
            .iter()
            .filter_map(|task| Some((key(task)?, task.clone())));
        Some((op["node"].as_u64()?, tasks.collect()))
    };
    walks.filter_map(listed).collect()
}

/// Acknowledged = done + dead + cancelled + pending, at each node; and what is due is not pending.
fn accounted(history: &[Value], listed: &BTreeMap<u64, BTreeMap<Key, Value>>) -> Verdict {
    let acknowledged: BTreeSet<Key> = of(history, "ok", "submit").filter_map(key).collect();
    let end_ms = history.last().and_then(|op| op["t"].as_u64()).unwrap_or(0) / 1_000;
    let mut wrong = Vec::new();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (node, tasks) in listed {
        for key in acknowledged.iter().filter(|key| !tasks.contains_key(*key)) {
            wrong.push(format!(
                "I-1: node {node} lost the acknowledged {}/{}",
                key.0, key.1
            ));
        }
        for ((app, id), task) in tasks {
            let stage = task["stage"].as_str().unwrap_or("?");
            let is_final = matches!(stage, "done" | "dead" | "cancelled");
            let is_far = task["due_at"].as_u64().is_some_and(|due| due > end_ms);
            if !is_final && !is_far {
                wrong.push(format!("I-32: {app}/{id} is still {stage} at node {node}"));
            }
            *counts.entry(stage.into()).or_default() += 1;
        }
    }
    let nodes = listed.len().max(1) as u64;
    let shown: Vec<String> = counts
        .iter()
        .map(|(s, n)| format!("{s} {}", n / nodes))
        .collect();
    let well = format!(
        "{} acknowledged; at each node {}",
        acknowledged.len(),
        shown.join(", ")
    );
    let looked = if listed.is_empty() {
        0
    } else {
        acknowledged.len() as u64
    };
    Verdict::of("total queue", looked, wrong, well)
}

fn phantoms(
    asked: &BTreeSet<Key>,
    sink: &[Value],
    listed: &BTreeMap<u64, BTreeMap<Key, Value>>,
) -> Verdict {
    let called = sink.iter().filter_map(key).map(|key| ("called", key));
    let lists = listed
        .values()
        .flat_map(BTreeMap::keys)
        .map(|key| ("listed", key.clone()));
    let unknown = called.chain(lists).filter(|(_, key)| !asked.contains(key));
    let wrong =
        unknown.map(|(how, (app, id))| format!("I-4: {app}/{id} was {how}, and never sent"));
    let wrong: Vec<String> = wrong.collect();
    let well = format!("{} deliveries, each of a task that was sent", sink.len());
    Verdict::of("no phantoms", sink.len() as u64, wrong, well)
}

/// I-7, by the sink's clock; nodes whose clock was set wrong have the tolerance that is documented.
/// A task that somebody ran at once is not early.
fn early(history: &[Value], sink: &[Value], faults: &[Value]) -> Verdict {
    let ran: BTreeSet<Key> = of(history, "invoke", "run").filter_map(key).collect();
    let by_bulk = of(history, "invoke", "bulk").any(|op| op["value"]["action"] == "run");
    let ran = |key: Key| ran.contains(&key) || (by_bulk && key.0 == "bulk");
    let clocks = faults.iter().filter(|fault| fault["what"] == "clock");
    let mut windows: Vec<(u64, u64)> = Vec::new();
    for fault in clocks {
        let t = fault["t"].as_u64().unwrap_or(0);
        match (fault["phase"].as_str(), windows.last_mut()) {
            (Some("begin"), _) => windows.push((t, u64::MAX)),
            (_, Some(open)) => open.1 = t + CLOCK_SETTLES_US,
            _ => {}
        }
    }
    let mut wrong = Vec::new();
    for delivery in sink {
        let (t, due) = (
            delivery["t"].as_u64().unwrap_or(0),
            delivery["due"].as_u64(),
        );
        let due_us = due.unwrap_or(u64::MAX / 1_000).saturating_mul(1_000);
        let skewed = windows.iter().any(|(from, to)| (*from..=*to).contains(&t));
        let allowed = if skewed { SKEW_MS * 1_000 } else { 0 };
        if t + allowed < due_us && !key(delivery).is_some_and(ran) {
            let by = due_us - t;
            wrong.push(format!("I-7: {by} µs early: {delivery}"));
        }
    }
    Verdict::of(
        "never early",
        sink.len() as u64,
        wrong,
        "each at its instant or later".into(),
    )
}

/// What is done was delivered, or done from outside.
fn delivered(
    history: &[Value],
    sink: &[Value],
    listed: &BTreeMap<u64, BTreeMap<Key, Value>>,
) -> Verdict {
    let well = |delivery: &&Value| matches!(delivery["answer"].as_u64(), Some(200..=299));
    let mut explained: BTreeSet<Key> = sink.iter().filter(well).filter_map(key).collect();
    explained.extend(of(history, "invoke", "complete").filter_map(key));
    let by_bulk = of(history, "invoke", "bulk").any(|op| op["value"]["action"] == "done");
    let done = listed
        .values()
        .flatten()
        .filter(|(_, task)| task["stage"] == "done");
    let done: BTreeSet<&Key> = done.map(|(key, _)| key).collect();
    let wrong = done
        .iter()
        .filter(|key| !explained.contains(**key))
        .filter(|key| !by_bulk || key.0 != "bulk")
        .map(|(app, id)| format!("I-16: {app}/{id} is done, and was never delivered"));
    let wrong: Vec<String> = wrong.collect();
    let text = format!("{} done, each delivered or done from outside", done.len());
    Verdict::of("delivered", done.len() as u64, wrong, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(stage: &str, due: u64, delivered_us: Option<u64>) -> Vec<Verdict> {
        let dir = tempfile::tempdir().unwrap();
        let op = |n: u64, kind: &str, f: &str, t: u64, value: Value| {
            let mut op =
                json!({ "op": n, "type": kind, "f": f, "t": t, "node": 1, "value": value });
            if f == "submit" {
                (op["app"], op["id"]) = (json!("a"), json!("x"));
            }
            op
        };
        let task = json!({ "app": "a", "id": "x", "stage": stage, "due_at": due });
        let tasks = if stage == "lost" {
            json!([])
        } else {
            json!([task])
        };
        let history = [
            op(1, "invoke", "submit", 1, json!({})),
            op(1, "ok", "submit", 2, json!({ "status": 201 })),
            op(2, "invoke", "list", 8_000_000, json!({})),
            op(2, "ok", "list", 9_000_000, json!({ "tasks": tasks })),
        ];
        let sink = delivered_us
            .map(|t| json!({ "t": t, "app": "a", "id": "x", "due": due, "answer": 200, "end": t }));
        let write = |name: &str, lines: &[Value]| {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            std::fs::write(dir.path().join(name), text).unwrap();
        };
        write("history.ndjson", &history);
        write("sink.ndjson", sink.as_slice());
        write("faults.ndjson", &[]);
        check(dir.path())
    }

    #[track_caller]
    fn assert_finds(verdicts: &[Verdict], named: &str) {
        let found = verdicts.iter().any(|v| !v.ok && v.text.starts_with(named));
        assert!(found, "{named}: {verdicts:?}");
    }

    #[test]
    fn a_good_history_passes() {
        let verdicts = run("done", 2_000, Some(2_000_000));
        assert!(verdicts.iter().all(|v| v.ok), "{verdicts:?}");
    }

    #[test]
    fn bad_histories_do_not() {
        assert_finds(&run("lost", 2_000, Some(2_000_000)), "I-1:");
        assert_finds(&run("triggered", 2_000, Some(2_000_000)), "I-32:");
        assert_finds(&run("done", 2_000, Some(1_999_999)), "I-7:");
        assert_finds(&run("done", 2_000, None), "I-16:");
        assert_finds(&run("scheduled", 2_000, None), "nothing");
    }
}
