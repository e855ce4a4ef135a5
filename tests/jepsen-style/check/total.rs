//! Checker 4, "total queue": acknowledged = done + dead + cancelled + pending.
//!
//! What was acknowledged is taken from the history, what became of it from the log, and what was
//! delivered from the sink. Counts lost tasks, phantoms, and deliveries beyond the first.

use std::collections::BTreeMap;

use super::fold::Folded;
use super::last::{self, Delivered, Last};
use super::run::{Delivery, Key, Op, Run};
use super::{Findings, Verdict, schedules};

const NAME: &str = "total queue";
/// A task that is still pending this long after its instant, when all was over, is stuck.
const DRAIN_MS: u64 = 15_000;

pub fn check(run: &Run, folded: &Folded) -> Verdict {
    let mut found = Findings::default();
    let Some(end) = last::look(run, folded) else {
        found.undecided(|| "neither the log nor a walk tells what became of the tasks".into());
        return found.verdict(NAME);
    };
    let mut delivered: BTreeMap<&Key, Vec<&Delivery>> = BTreeMap::new();
    for delivery in &run.sink {
        delivered.entry(&delivery.key).or_default().push(delivery);
    }
    let submits = submits(run);
    let mut stages: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut acknowledged, mut unanswered) = (0, 0);
    for (key, ops) in &submits {
        let task = end.tasks.get(*key);
        let retired = folded.model.retired.contains(*key);
        if !retired {
            new_once(key, ops, &mut found);
        }
        match ops
            .iter()
            .find(|op| op.is_ok() && op.ended_us < end.from_us)
        {
            Some(op) => {
                acknowledged += 1;
                let stage = task.map_or("gone", |task| &task.stage);
                *stages.entry(stage).or_default() += 1;
                found.check(task.is_some() || retired, || {
                    format!("I-1: lost: {} was acknowledged", op.name())
                });
            }
            None => unanswered += u64::from(task.is_some()),
        }
    }
    let names = schedules::Names::of(run);
    for (key, task) in &end.tasks {
        let ops = submits.get(key).map(Vec::as_slice).unwrap_or_default();
        let made = folded.model.made.contains(key);
        if !made && (folded.last > 0 || !names.have_run(key)) {
            was_meant(key, task, ops, &mut found);
        }
        ended_well(key, task, delivered.get(key), end.now, &mut found);
    }
    let again = run.sink.len() - delivered.len();
    found.note(format!(
        "{acknowledged} acknowledged, of them {stages:?}; {unanswered} unanswered that took effect; \
         {} delivered, {again} deliveries beyond the first",
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

/// I-1, I-2, I-3: a task is made once.
fn new_once((app, id): &Key, ops: &[&Op], found: &mut Findings) {
    let new = ops.iter().filter(|op| op.is_ok() && op.status() == 201);
    let new: Vec<u64> = new.map(|op| op.n).collect();
    found.check(new.len() <= 1, || {
        format!("I-3: {app}/{id} was new to each of the ops {new:?}")
    });
}

/// I-4, I-34: what is there was submitted, and not only by requests that were refused.
fn was_meant((app, id): &Key, task: &Last, ops: &[&Op], found: &mut Findings) {
    let meant = ops.iter().any(|op| !op.had_surely_no_effect());
    found.check(meant, || {
        let why = match ops.first() {
            Some(op) => format!("I-34: {} was refused with {}", op.name(), op.status()),
            None => "I-4: nobody submitted it".into(),
        };
        format!("phantom: {app}/{id} at index {}: {why}", task.index)
    });
}

/// I-16: a task that was delivered, by the log, has come; a pending one is not forgotten.
fn ended_well(
    (app, id): &Key,
    task: &Last,
    deliveries: Option<&Vec<&Delivery>>,
    now: u64,
    found: &mut Findings,
) {
    if let Some(waits_for) = task.waits_for {
        found.check(waits_for.saturating_add(DRAIN_MS) >= now, || {
            format!(
                "I-16: {app}/{id} is {} at index {} and waits for {waits_for}, which passed {} ms \
                 before the end",
                task.stage,
                task.index,
                now - waits_for
            )
        });
    }
    let mut came = deliveries.into_iter().flatten();
    let right = match task.delivered {
        Delivered::No => return,
        Delivered::Some => came.next().is_some(),
        Delivered::Fence(fence) => came.any(|delivery| delivery.fence == fence),
    };
    found.check(right, || {
        format!(
            "I-16: {app}/{id} is done at index {}, but its delivery never came",
            task.index
        )
    });
}

#[cfg(test)]
mod tests {
    use super::super::build::{Build, at, item, ms, submit, task};
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

    /// Without the beginning of the log, and with a last walk over everything.
    fn purged(change: impl FnOnce(&mut Build)) -> Build {
        Build::but(|b| {
            b.log.drain(..5);
            let tasks = json!([
                item("a", 11, "done", 1_000, 1),
                item("b", 6, "cancelled", 5_200, 0),
                item("c", 19, "done", 3_001, 4),
                item("d", 21, "scheduled", 8_000, 0),
                item("g", 25, "cancelled", 4_000, 1)
            ]);
            b.op(
                "list",
                "",
                json!({}),
                4_100,
                "ok",
                json!({ "tasks": tasks }),
            );
            b.unnamed(20);
            change(b);
        })
    }

    #[test]
    fn a_walk_stands_in_for_a_purged_log() {
        purged(|_| {}).passes(NAME);
        let lost = purged(|b| drop(b.got(20)["tasks"].as_array_mut().unwrap().remove(1)));
        lost.fails(NAME, "I-1: lost: op 1 submit app/b");
        let never = purged(|b| b.sink.retain(|line| line["id"] != "a"));
        never.fails(NAME, "I-16: app/a is done at index 11");
        let stuck = purged(|b| b.got(20)["tasks"][3] = item("d", 21, "scheduled", 0, 0));
        stuck.passes(NAME); // For four seconds only.
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
        nobody.fails(NAME, "phantom: app/d at index 21: I-4");
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
