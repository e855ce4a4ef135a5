//! Checker 4, "total queue": acknowledged = done + dead + cancelled + pending.
//!
//! What was acknowledged is taken from the history, what became of it from the log, and what was
//! delivered from the sink. Counts lost tasks, phantoms, and deliveries beyond the first.

use std::collections::BTreeMap;

use super::fold::Folded;
use super::model::{Ending, Task};
use super::run::{Delivery, End, Key, Op, Run};
use super::{Findings, Verdict};

const NAME: &str = "total queue";
/// A task that is still pending this long after its instant, when all was over, is stuck.
const DRAIN_MS: u64 = 15_000;

pub fn check(run: &Run, folded: &Folded) -> Verdict {
    let mut found = Findings::default();
    if folded.last == 0 {
        found.undecided(|| "without the log nobody knows what became of the tasks".into());
        return found.verdict(NAME);
    }
    let tasks: BTreeMap<&Key, &Task> = folded
        .model
        .tasks
        .values()
        .map(|task| (&task.key, task))
        .collect();
    let mut delivered: BTreeMap<&Key, Vec<&Delivery>> = BTreeMap::new();
    for delivery in &run.sink {
        delivered.entry(&delivery.key).or_default().push(delivery);
    }
    let submits = submits(run);
    let acknowledged: BTreeMap<&Key, &Op> = submits
        .iter()
        .filter_map(|(key, ops)| Some((*key, *ops.iter().find(|op| op.is_ok())?)))
        .collect();
    lost(&acknowledged, &tasks, folded, &mut found);
    phantoms(&submits, &tasks, &mut found);
    twice(&submits, folded, &mut found);
    let mut stages: BTreeMap<&str, u64> = BTreeMap::new();
    for (key, task) in &tasks {
        if acknowledged.contains_key(*key) {
            *stages.entry(task.stage).or_default() += 1;
        }
        ended_well(task, delivered.get(*key), folded, &mut found);
    }
    let again = run.sink.len() - delivered.len();
    found.note(format!(
        "{} acknowledged, of them {stages:?}; {} unanswered that took effect; {} delivered, {again} \
         deliveries beyond the first",
        acknowledged.len(),
        tasks.keys().filter(|key| !acknowledged.contains_key(*key)).count(),
        delivered.len()
    ));
    found.verdict(NAME)
}

fn submits(run: &Run) -> BTreeMap<&Key, Vec<&Op>> {
    let mut submits: BTreeMap<&Key, Vec<&Op>> = BTreeMap::new();
    for op in run.ops.iter().filter(|op| op.f == "submit") {
        if let Some(key) = &op.key {
            submits.entry(key).or_default().push(op);
        }
    }
    submits
}

/// I-1: what was acknowledged is there.
fn lost(
    acknowledged: &BTreeMap<&Key, &Op>,
    tasks: &BTreeMap<&Key, &Task>,
    folded: &Folded,
    found: &mut Findings,
) {
    for (key, op) in acknowledged {
        let there = tasks.contains_key(*key) || folded.model.retired.contains(*key);
        found.check(there, || {
            format!("I-1: lost: {} was acknowledged", op.name())
        });
    }
}

/// I-4, I-34: what is there was submitted, and not only by requests that were refused.
fn phantoms(
    submits: &BTreeMap<&Key, Vec<&Op>>,
    tasks: &BTreeMap<&Key, &Task>,
    found: &mut Findings,
) {
    for (key, task) in tasks {
        let ops = submits.get(*key).map(Vec::as_slice).unwrap_or_default();
        let meant = ops.iter().any(|op| !op.had_surely_no_effect());
        found.check(meant, || {
            let why = match ops.first() {
                Some(op) => format!("I-34: {} was refused with {}", op.name(), op.status()),
                None => "I-4: nobody submitted it".into(),
            };
            format!(
                "phantom: {}/{} at index {}: {why}",
                key.0, key.1, task.submitted
            )
        });
    }
}

/// I-1, I-2, I-3: a task is made once.
fn twice(submits: &BTreeMap<&Key, Vec<&Op>>, folded: &Folded, found: &mut Findings) {
    for (key, ops) in submits {
        if folded.model.retired.contains(*key) {
            continue;
        }
        let new = ops
            .iter()
            .filter(|op| op.end == End::Ok && op.status() == 201);
        let new: Vec<u64> = new.map(|op| op.n).collect();
        found.check(new.len() <= 1, || {
            format!(
                "I-3: {}/{} was new to each of the ops {new:?}",
                key.0, key.1
            )
        });
    }
}

/// I-16: a task that was delivered, by the log, has come; a pending one is not forgotten.
fn ended_well(
    task: &Task,
    deliveries: Option<&Vec<&Delivery>>,
    folded: &Folded,
    found: &mut Findings,
) {
    let (app, id) = &task.key;
    if !task.is_final() {
        found.check(task.at.saturating_add(DRAIN_MS) >= folded.last_now, || {
            format!(
                "I-16: {app}/{id} is {} at index {} and waits for {}, which passed {} ms before the \
                 log ends",
                task.stage,
                task.index,
                task.at,
                folded.last_now - task.at
            )
        });
    }
    let last = folded.model.attempts.get(&task.key);
    let last = last.and_then(|all| all.get(&task.fence));
    if task.stage == "done" && last.is_some_and(|attempt| attempt.ending == Ending::Done) {
        let arrived = deliveries.into_iter().flatten();
        let came = arrived.filter(|d| d.fence == task.fence).count();
        found.check(came > 0, || {
            format!(
                "I-16: {app}/{id} is done at index {}, but fence {} never came",
                task.index, task.fence
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::{Build, at, ms, submit, task};
    use super::NAME;
    use serde_json::{Value, json};

    #[test]
    fn good_runs_add_up() {
        Build::good().passes(NAME);
        // What is not due yet may wait.
        let pending = Build::but(|b| {
            b.log("submit", 4_000, submit("h", &at(90_000), Value::Null));
            let asked = json!({ "due_at": ms(90_000) });
            b.op(
                "submit",
                "h",
                asked,
                3_999,
                "ok",
                task(201, 26, "scheduled", 90_000, 0),
            );
        });
        pending.passes(NAME);
        let text = Build::good().verdict(NAME).text;
        assert!(text.contains("4 acknowledged"), "{text}");
        assert!(text.contains("1 unanswered that took effect"), "{text}");
        assert!(
            text.contains("2 delivered, 2 deliveries beyond the first"),
            "{text}"
        );
    }

    #[test]
    fn a_lost_task_is_found() {
        let lost = Build::but(|b| {
            let asked = json!({ "due_at": ms(9_000) });
            b.op(
                "submit",
                "lost",
                asked,
                3_700,
                "ok",
                task(201, 24, "scheduled", 9_000, 0),
            );
        });
        lost.fails(NAME, "I-1: lost: op 20 submit app/lost");
    }

    #[test]
    fn a_phantom_is_found() {
        let nobody = Build::but(|b| b.forget(12));
        nobody.fails(NAME, "phantom: app/d at index 20: I-4");
        let refused = Build::but(|b| {
            b.log("submit", 4_000, submit("f", &at(9_000), Value::Null));
        });
        refused.fails(
            NAME,
            "phantom: app/f at index 26: I-34: op 17 submit app/f was refused",
        );
    }

    #[test]
    fn a_task_that_is_new_twice_is_found() {
        let twice = Build::but(|b| b.got(4)["status"] = json!(201));
        twice.fails(NAME, "I-3: app/c was new to each of the ops [3, 4]");
    }

    #[test]
    fn a_task_that_is_done_but_never_came_is_found() {
        let never = Build::but(|b| b.sink.retain(|line| line["id"] != "a"));
        never.fails(NAME, "I-16: app/a is done at index 11");
    }

    #[test]
    fn a_task_that_is_forgotten_is_found() {
        let stuck = Build::but(|b| {
            b.log(
                "trigger",
                60_000,
                json!({ "until": at(7_000), "max": 8_192 }),
            );
        });
        stuck.fails(NAME, "I-16: app/d is scheduled at index 21");
    }
}
