//! Checker 2: each task looks like one place where operations happen one after another.
//!
//! Wing and Gong's search with Lowe's memory: all orders that agree with real time are tried
//! until one explains every answer. What time itself does to a task (it becomes due, is called,
//! fails, is done) is no operation, so a state of the search is the *set* of stages that a task
//! may be in, closed under what may happen by itself, and narrowed by what was seen. An operation
//! without an answer may have taken effect at any time after it was sent, or never. The search
//! stops after [`STEPS_MAX`] states of one task, and then says "undecided".

mod step;

use serde_json::Value;
use std::collections::{BTreeMap, HashSet};

use super::run::{End, Key, Op, Run};
use super::{Findings, Verdict, schedules};
use step::{Place, Step, names};

const NAME: &str = "linearizability";
/// States that are looked at for one task.
const STEPS_MAX: usize = 200_000;
/// What the search found.
enum Found {
    Order,
    None {
        explained: usize,
        stuck: Place,
        left: Vec<String>,
    },
    TooMany,
}

/// One state of the search: what has been placed, and where that leads.
struct Node {
    placed: Vec<u64>,
    place: Place,
}

fn is_placed(placed: &[u64], n: usize) -> bool {
    placed[n / 64] & (1 << (n % 64)) != 0
}

/// Looks for an order. `steps` are sorted by their beginning.
fn search(steps: &[Step<'_>], steps_max: usize) -> Found {
    let mut memory: HashSet<(Vec<u64>, Place)> = HashSet::new();
    let start = Node {
        placed: vec![0; steps.len().div_ceil(64).max(1)],
        place: Place::NOWHERE,
    };
    let mut best: Option<(usize, Place, Vec<String>)> = None;
    let mut stack = vec![start];
    while let Some(node) = stack.pop() {
        let left: Vec<usize> = (0..steps.len())
            .filter(|n| !is_placed(&node.placed, *n))
            .collect();
        let must: Vec<usize> = left
            .iter()
            .copied()
            .filter(|n| steps[*n].end != End::Unknown)
            .collect();
        let Some(first_end) = must.iter().map(|n| steps[*n].ended_us).min() else {
            return Found::Order;
        };
        let explained = steps.len() - left.len();
        if best.as_ref().is_none_or(|(most, ..)| explained > *most) {
            let waiting = must.iter().filter(|n| steps[**n].op.began_us <= first_end);
            let waiting = waiting.map(|n| told(&steps[*n])).collect();
            best = Some((explained, node.place.clone(), waiting));
        }
        // Whatever is next must have begun before anything that is left has ended. What was
        // answered is tried first, so it goes on the stack last.
        let mut next: Vec<usize> = left;
        next.retain(|n| steps[*n].op.began_us <= first_end);
        next.sort_by_key(|n| {
            (
                steps[*n].end != End::Unknown,
                std::cmp::Reverse(steps[*n].ended_us),
            )
        });
        for n in next {
            let Some(place) = steps[n].from(&node.place) else {
                continue;
            };
            // What may never have happened, and changes nothing, need not be tried.
            if steps[n].end == End::Unknown && place == node.place {
                continue;
            }
            let mut placed = node.placed.clone();
            placed[n / 64] |= 1 << (n % 64);
            if memory.len() >= steps_max {
                return Found::TooMany;
            }
            if memory.insert((placed.clone(), place.clone())) {
                stack.push(Node { placed, place });
            }
        }
    }
    let (explained, stuck, left) = best.unwrap_or((0, Place::NOWHERE, Vec::new()));
    Found::None {
        explained,
        stuck,
        left,
    }
}

fn told(step: &Step<'_>) -> String {
    let answer = step.answer;
    format!(
        "{} {} → {} {} index {} due {}",
        step.op.n, step.f, answer["status"], answer["stage"], answer["index"], answer["due_at"]
    )
}

/// Every task of a run.
pub fn check(run: &Run) -> Verdict {
    let mut found = Findings::default();
    let mut by_key: BTreeMap<Key, Vec<Step<'_>>> = BTreeMap::new();
    let mut contents: BTreeMap<&Key, Vec<&Value>> = BTreeMap::new();
    for op in run.ops.iter().filter(|op| !op.is_local()) {
        let Some(key) = &op.key else { continue };
        let mut content = 0;
        if op.f == "submit" {
            let known = contents.entry(key).or_default();
            let same = known.iter().position(|asked| **asked == op.asked);
            content = same.unwrap_or_else(|| {
                known.push(&op.asked);
                known.len() - 1
            });
        }
        let steps = by_key.entry(key.clone()).or_default();
        let step = Step {
            op,
            asked: &op.asked,
            f: &op.f,
            answer: &op.got,
            end: op.end,
            ended_us: op.ended_us,
            content,
        };
        if op.f == "submit" && op.is_ok() && op.status() == 200 {
            // The node that took it may have sent it to the leader twice, because an answer got
            // lost between them: what was there already may be its own first try.
            steps.push(Step {
                answer: &Value::Null,
                end: End::Unknown,
                ..step.clone()
            });
        }
        steps.push(step);
    }
    seen_in_lists(run, &mut by_key);
    // Nobody submits what a schedule makes; replay holds what is shown of it against the log.
    let scheduled = schedules::Names::of(run);
    by_key.retain(|key, _| !scheduled.have_run(key));
    let takes_effect = |op: &&Op| op.asked["dry_run"] != true && op.end != End::Fail;
    let bulk = run.ops.iter().filter(|op| op.f == "bulk");
    for op in bulk.filter(takes_effect) {
        may_change(op, &mut by_key);
    }
    let tasks = by_key.len();
    for ((app, id), mut steps) in by_key {
        // A refusal that promises nothing else says nothing about the task.
        steps.retain(|step| {
            step.end != End::Fail
                || (400..500).contains(&step.answer["status"].as_u64().unwrap_or(0))
        });
        steps.sort_by_key(|step| (step.op.began_us, step.op.n));
        match search(&steps, STEPS_MAX) {
            Found::Order => found.checked += 1,
            Found::TooMany => {
                found.undecided(|| format!("{app}/{id}: more than {STEPS_MAX} states"))
            }
            Found::None {
                explained,
                stuck,
                left,
            } => {
                found.checked += 1;
                found.wrong(format!(
                    "{app}/{id}: no order explains its {} operations; at most {explained}, and \
                     then it may be {:?} (due {:?}, index ≥ {}), and next are: {}",
                    steps.len(),
                    names(stuck.stages),
                    stuck.due_ms,
                    stuck.index,
                    left.join("; ")
                ));
            }
        }
    }
    found.note(format!("{tasks} tasks"));
    found.verdict(NAME)
}

/// Each task in a list was read at some time during the walk. Of all walks that show the same of a
/// task, the first to end and the last to begin say all there is to say: what lies between them
/// follows, because the log index of a task's last change never falls.
fn seen_in_lists<'a>(run: &'a Run, by_key: &mut BTreeMap<Key, Vec<Step<'a>>>) {
    let mut sightings: BTreeMap<(Key, u64, &str), [Step<'a>; 2]> = BTreeMap::new();
    let walks = run.ops.iter().filter(|op| op.f == "list" && op.is_ok());
    for op in walks.filter(|op| !op.is_local()) {
        for task in op.got["tasks"].as_array().into_iter().flatten() {
            let text = |name: &str| task[name].as_str().unwrap_or_default().to_owned();
            let key = (text("app"), text("id"));
            let shown = (task["index"].as_u64(), task["stage"].as_str());
            let (Some(index), Some(stage)) = shown else {
                continue;
            };
            let step = Step {
                op,
                asked: &Value::Null,
                f: "read",
                answer: task,
                end: End::Ok,
                ended_us: op.ended_us,
                content: 0,
            };
            let both = || [step.clone(), step.clone()];
            let [first, last] = sightings.entry((key, index, stage)).or_insert_with(both);
            if step.ended_us < first.ended_us {
                *first = step.clone();
            }
            if step.op.began_us > last.op.began_us {
                *last = step;
            }
        }
    }
    for ((key, ..), [first, last]) in sightings {
        let steps = by_key.entry(key).or_default();
        if first.op.n != last.op.n {
            steps.push(last);
        }
        steps.push(first);
    }
}

/// A bulk change may have reached any task of its application that ever had its labels, or none.
fn may_change<'a>(op: &'a Op, by_key: &mut BTreeMap<Key, Vec<Step<'a>>>) {
    let filter = &op.asked["filter"];
    let app = filter["app"].as_str().or(op.app.as_deref());
    let f = match op.asked["action"].as_str() {
        Some("done") => "complete",
        Some(action) => action,
        None => return,
    };
    let wanted = filter["labels"].as_object();
    let has = |step: &Step<'_>| {
        let mut wanted = wanted.into_iter().flatten();
        wanted.all(|(name, value)| step.asked["labels"][name] == *value)
    };
    for ((of, _), steps) in by_key {
        if app.is_none_or(|app| app == of) && steps.iter().any(has) {
            steps.push(Step {
                op,
                asked: &op.asked["change"],
                f,
                answer: &Value::Null,
                end: End::Unknown,
                ended_us: u64::MAX,
                content: 0,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::{Build, item, ms, task};
    use super::*;
    use serde_json::json;

    #[test]
    fn a_good_run_has_an_order() {
        Build::good().passes(NAME);
    }

    #[test]
    fn what_was_not_answered_may_have_happened_later() {
        // A cancel without an answer takes effect after a read that began later.
        let later = Build::but(|b| {
            b.op("cancel", "d", json!({}), 3_600, "unknown", json!(null));
            b.op(
                "read",
                "d",
                json!({}),
                3_700,
                "ok",
                task(200, 21, "scheduled", 8_000, 0),
            );
            b.op(
                "read",
                "d",
                json!({}),
                3_800,
                "ok",
                task(200, 40, "cancelled", 8_000, 0),
            );
        });
        later.passes(NAME);
        // But it does not come undone.
        let undone = Build::but(|b| {
            b.op("cancel", "d", json!({}), 3_600, "unknown", json!(null));
            b.op(
                "read",
                "d",
                json!({}),
                3_700,
                "ok",
                task(200, 40, "cancelled", 8_000, 0),
            );
            b.op(
                "read",
                "d",
                json!({}),
                3_800,
                "ok",
                task(200, 41, "scheduled", 8_000, 0),
            );
        });
        undone.fails(NAME, "app/d: no order explains");
    }

    #[test]
    fn concurrent_operations_may_have_either_order() {
        let both = Build::but(|b| {
            b.op(
                "cancel",
                "d",
                json!({}),
                3_600,
                "ok",
                task(200, 41, "cancelled", 8_000, 0),
            );
            b.op(
                "read",
                "d",
                json!({}),
                3_605,
                "ok",
                task(200, 21, "scheduled", 8_000, 0),
            );
        });
        both.passes(NAME);
        let after = Build::but(|b| {
            b.op(
                "cancel",
                "d",
                json!({}),
                3_600,
                "ok",
                task(200, 41, "cancelled", 8_000, 0),
            );
            b.op(
                "read",
                "d",
                json!({}),
                3_611,
                "ok",
                task(200, 41, "scheduled", 8_000, 0),
            );
        });
        after.fails(NAME, "app/d: no order explains");
    }

    #[test]
    fn a_lost_submit_is_found() {
        let lost = Build::but(|b| {
            b.op(
                "read",
                "a",
                json!({}),
                4_000,
                "fail",
                json!({ "status": 404 }),
            );
        });
        lost.fails(NAME, "app/a: no order explains");
    }

    #[test]
    fn a_task_is_new_only_once() {
        let twice = Build::but(|b| *b.got(4) = task(201, 8, "scheduled", 1_000, 0));
        twice.fails(NAME, "app/c: no order explains");
        let other = Build::but(|b| b.got(5)["status"] = json!(404));
        other.fails(NAME, "app/c: no order explains");
    }

    #[test]
    fn a_submit_may_meet_its_own_first_try() {
        let again = |b: &mut Build| {
            let due = json!({ "due_at": ms(9_000) });
            b.op(
                "submit",
                "x",
                due,
                3_600,
                "ok",
                task(200, 41, "scheduled", 9_000, 0),
            );
        };
        Build::but(again).passes(NAME);
        let gone = Build::but(|b| {
            again(b);
            b.op(
                "read",
                "x",
                json!({}),
                3_700,
                "fail",
                json!({ "status": 404 }),
            );
        });
        gone.fails(NAME, "app/x: no order explains");
    }

    #[test]
    fn nothing_runs_before_its_time() {
        let early = Build::but(|b| {
            b.op(
                "read",
                "d",
                json!({}),
                3_600,
                "ok",
                task(200, 41, "done", 8_000, 1),
            );
        });
        early.fails(NAME, "app/d: no order explains");
        let due = Build::but(|b| {
            b.op(
                "read",
                "d",
                json!({}),
                8_100,
                "ok",
                task(200, 41, "done", 8_000, 1),
            );
        });
        due.passes(NAME);
    }

    #[test]
    fn a_list_is_a_read_of_each_task() {
        let stale = Build::but(|b| b.got(14)["tasks"][1] = item("b", 5, "scheduled", 5_200, 0));
        stale.fails(NAME, "app/b: no order explains");
    }

    #[test]
    fn a_bulk_change_may_explain_what_happened() {
        let cancelled = |b: &mut Build| {
            b.op(
                "read",
                "d",
                json!({}),
                3_800,
                "ok",
                task(200, 41, "cancelled", 8_000, 0),
            );
        };
        Build::but(cancelled).fails(NAME, "app/d: no order explains");
        let bulk = Build::but(|b| {
            let asked = json!({ "filter": { "app": "app" }, "action": "cancel" });
            b.op(
                "bulk",
                "",
                asked,
                3_600,
                "ok",
                json!({ "status": 200, "changed": 1 }),
            );
            cancelled(b);
        });
        bulk.passes(NAME);
        // Not one whose labels it never had.
        let others = Build::but(|b| {
            let filter = json!({ "app": "app", "labels": { "group": "1" } });
            let asked = json!({ "filter": filter, "action": "cancel" });
            b.op(
                "bulk",
                "",
                asked,
                3_600,
                "ok",
                json!({ "status": 200, "changed": 0 }),
            );
            cancelled(b);
        });
        others.fails(NAME, "app/d: no order explains");
    }

    #[test]
    fn too_late_is_an_answer_too() {
        let late = Build::but(|b| {
            let refused = json!({ "status": 409 });
            b.op("cancel", "d", json!({}), 3_600, "fail", refused);
        });
        late.fails(NAME, "app/d: no order explains");
        let again = Build::but(|b| {
            b.op(
                "run",
                "a",
                json!({ "again": true }),
                3_600,
                "ok",
                task(200, 41, "triggered", 3_601, 2),
            );
            b.op(
                "cancel",
                "a",
                json!({}),
                3_700,
                "fail",
                json!({ "status": 409 }),
            );
        });
        again.passes(NAME);
    }

    #[test]
    fn what_takes_too_long_is_undecided() {
        let many = Build::but(|b| {
            for n in 0..30 {
                b.op(
                    "change",
                    "d",
                    json!({ "due_at": ms(9_000 + n) }),
                    3_600,
                    "unknown",
                    json!(null),
                );
            }
            b.op(
                "read",
                "d",
                json!({}),
                3_800,
                "ok",
                task(200, 20, "dead", 8_000, 0),
            );
        });
        let steps: Vec<Op> = {
            let dir = tempfile::tempdir().unwrap();
            many.write(dir.path());
            Run::load(dir.path()).0.ops
        };
        let steps: Vec<Step<'_>> = steps
            .iter()
            .filter(|op| op.key.as_ref().is_some_and(|(_, id)| id == "d"))
            .map(|op| Step {
                op,
                asked: &op.asked,
                f: &op.f,
                answer: &op.got,
                end: op.end,
                ended_us: op.ended_us,
                content: 0,
            })
            .collect();
        assert!(matches!(search(&steps, 1_000), Found::TooMany));
    }
}
