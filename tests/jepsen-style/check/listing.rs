//! Checker 3, "set-full": a walk over a list shows each task that it must, once, and no other.
//!
//! A task must be shown when its submit was acknowledged before the walk began and it was not
//! dropped after its retention; it may be shown when its submit had been sent before the walk
//! ended. What a filter by label means is known from what was submitted, since labels do not change
//! here; tasks that another filter could hide need not be shown.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::fold::Folded;
use super::run::{End, Key, Op, Run};
use super::{Findings, Verdict, schedules};

const NAME: &str = "set-full";
/// Members of a list's question that hide nothing.
const HARMLESS: [&str; 4] = ["app", "limit", "cursor", "read"];

/// A label that the listed tasks must have: `label.KEY`.
const LABEL: &str = "label.";

/// When a task's submits were first sent, and first acknowledged.
struct Submitted {
    sent_us: u64,
    acknowledged_us: u64,
    op: u64,
    /// As asked for, each in its own way.
    labels: BTreeSet<String>,
}

impl Submitted {
    /// Whether it has all of these labels; not known when submits differ.
    fn has(&self, labels: &[(&str, &Value)]) -> Option<bool> {
        let mut all = self.labels.iter();
        let (Some(own), None) = (all.next(), all.next()) else {
            return None;
        };
        let own: Value = serde_json::from_str(own).unwrap_or_default();
        Some(labels.iter().all(|(name, value)| own[name] == **value))
    }
}

pub fn check(run: &Run, folded: &Folded) -> Verdict {
    let mut found = Findings::default();
    let submitted = submitted(run);
    let walks = run.ops.iter().filter(|op| op.f == "list" && op.is_ok());
    let mut count = 0;
    for walk in walks {
        count += 1;
        one(run, walk, &submitted, folded, &mut found);
    }
    found.note(format!(
        "{count} walks, {} tasks submitted",
        submitted.len()
    ));
    found.verdict(NAME)
}

fn submitted(run: &Run) -> BTreeMap<&Key, Submitted> {
    let mut submitted: BTreeMap<&Key, Submitted> = BTreeMap::new();
    for op in run.ops.iter().filter(|op| op.f == "submit") {
        let (Some(key), false) = (&op.key, op.had_surely_no_effect()) else {
            continue;
        };
        let task = submitted.entry(key).or_insert(Submitted {
            sent_us: u64::MAX,
            acknowledged_us: u64::MAX,
            op: op.n,
            labels: BTreeSet::new(),
        });
        task.labels.insert(op.asked["labels"].to_string());
        task.sent_us = task.sent_us.min(op.began_us);
        if op.end == End::Ok && op.ended_us < task.acknowledged_us {
            task.acknowledged_us = op.ended_us;
            task.op = op.n;
        }
    }
    submitted
}

fn one(
    run: &Run,
    walk: &Op,
    submitted: &BTreeMap<&Key, Submitted>,
    folded: &Folded,
    found: &mut Findings,
) {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let tasks = walk.got["tasks"].as_array().into_iter().flatten();
    let listed: Vec<Key> = tasks
        .map(|task| (text(&task["app"]), text(&task["id"])))
        .collect();
    let app = walk.asked["app"].as_str().or(walk.app.as_deref());
    let asked_for = |key: &Key| app.is_none_or(|app| key.0 == app);

    for two in listed.windows(2) {
        found.check(two[0] < two[1], || {
            format!(
                "{}: {:?} stands after {:?}: twice, or out of order",
                walk.name(),
                two[1],
                two[0]
            )
        });
    }
    let listed: BTreeSet<&Key> = listed.iter().collect();
    let names = schedules::Names::of(run);
    let made = |key: &Key| match folded.last {
        0 => names.have_run(key),
        _ => folded.model.made.contains(key),
    };
    for key in &listed {
        let known = made(key)
            || submitted
                .get(key)
                .is_some_and(|task| task.sent_us <= walk.ended_us);
        found.check(known && asked_for(key), || {
            let of_it = |op: &&Op| op.f == "submit" && op.key.as_ref() == Some(key);
            let why = match run.ops.iter().find(of_it) {
                Some(op) if op.had_surely_no_effect() => {
                    format!("I-34: {} was refused with {}", op.name(), op.status())
                }
                Some(op) => format!("I-4: {} came later, or for another application", op.name()),
                None => "I-4: nobody submitted it".into(),
            };
            format!("{}: shows {}/{}: {why}", walk.name(), key.0, key.1)
        });
    }
    let filters = walk.asked.as_object().into_iter().flatten();
    let filters: Vec<(&str, &Value)> = filters
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    let labels: Vec<(&str, &Value)> = filters
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(LABEL)?, *value)))
        .collect();
    for key in &listed {
        let has = submitted.get(key).and_then(|task| task.has(&labels));
        found.check(has != Some(false), || {
            format!(
                "{}: {}/{} has not all of {labels:?}",
                walk.name(),
                key.0,
                key.1
            )
        });
    }
    let filtered = filters
        .iter()
        .any(|(name, _)| !HARMLESS.contains(name) && !name.starts_with(LABEL));
    // A stale read may lack anything.
    if filtered || walk.is_local() {
        return;
    }
    for (key, task) in submitted.iter().filter(|(key, _)| asked_for(key)) {
        let is_meant = labels.is_empty() || task.has(&labels) == Some(true);
        let is_there = task.acknowledged_us < walk.began_us;
        if is_meant && is_there && !folded.model.retired.contains(*key) {
            found.check(listed.contains(key), || {
                format!(
                    "I-1: {}: lacks {}/{}, acknowledged by op {} before it began",
                    walk.name(),
                    key.0,
                    key.1,
                    task.op
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::{Build, item, ms, task};
    use super::NAME;
    use serde_json::json;

    fn tasks(b: &mut Build, op: u64) -> &mut Vec<serde_json::Value> {
        b.got(op)["tasks"].as_array_mut().unwrap()
    }

    #[test]
    fn good_walks_pass() {
        Build::good().passes(NAME);
        // d was not acknowledged: a walk may lack it.
        Build::but(|b| drop(tasks(b, 14).pop())).passes(NAME);
        // A filter hides tasks.
        let filtered = Build::but(|b| {
            let asked = json!({ "app": "app", "stage": "cancelled" });
            let got = json!({ "tasks": [item("b", 6, "cancelled", 5_200, 0)] });
            b.op("list", "", asked, 3_310, "ok", got);
        });
        filtered.passes(NAME);
    }

    #[test]
    fn a_task_that_is_missing_is_found() {
        let missing = Build::but(|b| drop(tasks(b, 14).remove(1)));
        missing.fails(NAME, "I-1: op 14 list: lacks app/b, acknowledged by op 1");
    }

    #[test]
    fn a_task_that_comes_twice_is_found() {
        let twice = Build::but(|b| {
            let again = tasks(b, 14)[1].clone();
            tasks(b, 14).insert(2, again);
        });
        twice.fails(NAME, "twice, or out of order");
        let order = Build::but(|b| tasks(b, 14).swap(0, 1));
        order.fails(NAME, "twice, or out of order");
    }

    #[test]
    fn a_phantom_is_found() {
        let phantom = Build::but(|b| tasks(b, 14).push(item("x", 3, "done", 0, 1)));
        phantom.fails(NAME, "shows app/x: I-4: nobody submitted it");
        // f was refused: it was surely not submitted.
        let refused = Build::but(|b| tasks(b, 14).push(item("f", 3, "done", 0, 1)));
        refused.fails(
            NAME,
            "shows app/f: I-34: op 17 submit app/f was refused with 503",
        );
        // g was submitted only after the walk.
        let early = Build::but(|b| tasks(b, 14).push(item("g", 22, "scheduled", 4_000, 0)));
        early.fails(NAME, "shows app/g: I-4: op 18 submit app/g came later");
    }

    #[test]
    fn a_walk_by_label_shows_those_that_have_it_and_no_others() {
        let labelled = |tasks: &[&str]| {
            let listed: Vec<_> = tasks
                .iter()
                .map(|id| item(id, 26, "scheduled", 0, 0))
                .collect();
            Build::but(|b| {
                let asked = json!({ "due_at": ms(99_000), "labels": { "group": "g" } });
                let got = task(201, 26, "scheduled", 99_000, 0);
                b.op("submit", "h", asked, 3_400, "ok", got);
                let asked = json!({ "app": "app", "label.group": "g" });
                b.op("list", "", asked, 3_500, "ok", json!({ "tasks": listed }));
            })
        };
        labelled(&["h"]).passes(NAME);
        labelled(&[]).fails(NAME, "lacks app/h");
        labelled(&["a", "h"]).fails(NAME, "app/a has not all of");
    }

    #[test]
    fn no_walk_is_no_proof() {
        let none = Build::but(|b| {
            b.forget(7);
            b.forget(14);
        });
        none.fails(NAME, "nothing was checked");
    }
}
