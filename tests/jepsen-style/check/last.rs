//! How each task stood at the end: by the log, or, where its beginning was purged, by the last
//! walk over everything.

use std::collections::{BTreeMap, BTreeSet};

use super::fold::Folded;
use super::model::{Ending, Model, Task};
use super::run::{Key, Op, Run, Seen};

/// A task at the end.
pub struct Last {
    pub stage: String,
    pub index: u64,
    /// What it waits for, in milliseconds; `None` where nobody knows.
    pub waits_for: Option<u64>,
    /// It is done because a call was answered well.
    pub delivered: Delivered,
}

/// Whether a delivery must have come.
pub enum Delivered {
    No,
    /// One of the task.
    Some,
    /// The one of this attempt.
    Fence(u64),
}

/// The end of a run.
pub struct End {
    pub tasks: BTreeMap<Key, Last>,
    /// In milliseconds.
    pub now: u64,
    /// Submits acknowledged before this instant must show.
    pub from_us: u64,
}

/// `None` when there is neither a whole log nor a whole walk.
pub fn look(run: &Run, folded: &Folded) -> Option<End> {
    match folded.last {
        0 => run
            .ops
            .iter()
            .rfind(|op| is_whole(op))
            .map(|op| walked(run, op)),
        _ => Some(End {
            tasks: logged(&folded.model),
            now: folded.last_now,
            from_us: u64::MAX,
        }),
    }
}

fn logged(model: &Model) -> BTreeMap<Key, Last> {
    let last = |task: &Task| Last {
        stage: task.stage.into(),
        index: task.index,
        waits_for: (!task.is_final()).then_some(task.at),
        delivered: match model.attempt(&task.key, task.fence) {
            Some(attempt) if task.stage == "done" && attempt.ending == Ending::Done => {
                Delivered::Fence(task.fence)
            }
            _ => Delivered::No,
        },
    };
    let tasks = model.tasks.values();
    tasks.map(|task| (task.key.clone(), last(task))).collect()
}

/// A walk over all tasks of all applications.
fn is_whole(op: &Op) -> bool {
    let hides = |name: &&String| !["limit", "cursor"].contains(&name.as_str());
    let asked = op.asked.as_object();
    let filtered = asked.is_some_and(|asked| asked.keys().any(|name| hides(&name)));
    op.f == "list" && op.is_ok() && op.app.is_none() && !filtered
}

fn walked(run: &Run, walk: &Op) -> End {
    // Whether a task that is done was called, or said to be done, cannot be told from a list.
    let completed: BTreeSet<&Key> = run
        .ops
        .iter()
        .filter(|op| op.f == "complete")
        .filter_map(|op| op.key.as_ref())
        .collect();
    let in_bulk = |op: &&Op| op.f == "bulk" && op.asked["action"] == "done";
    let apps: BTreeSet<&str> = run
        .ops
        .iter()
        .filter(in_bulk)
        .filter_map(|op| op.app.as_deref())
        .collect();
    let mut tasks = BTreeMap::new();
    for task in walk.got["tasks"].as_array().into_iter().flatten() {
        let text = |name: &str| task[name].as_str().unwrap_or_default().to_owned();
        let key = (text("app"), text("id"));
        let Some(seen) = Seen::of(task) else { continue };
        let by_others = completed.contains(&key) || apps.contains(key.0.as_str());
        let delivered = match seen.stage == "done" && !by_others {
            true => Delivered::Some,
            false => Delivered::No,
        };
        let last = Last {
            waits_for: seen.due_ms.filter(|_| seen.stage == "scheduled"),
            stage: seen.stage,
            index: seen.index,
            delivered,
        };
        tasks.insert(key, last);
    }
    End {
        tasks,
        now: walk.began_us / 1_000,
        from_us: walk.began_us,
    }
}
