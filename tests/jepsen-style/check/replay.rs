//! Checker 1: every answer is what the log says at the index that the answer names.
//!
//! Finds: logs that differ (I-26), stamps that go back (I-10), attempts that the log never began
//! (I-4, I-7, I-13, I-14, I-15, I-18, I-19), acknowledged writes that are not in the log (I-1),
//! answers and reads that show a state the task was never in, reads that miss what was
//! acknowledged before them (I-31), counts and state hashes that differ (I-27).

use serde_json::Value;
use std::collections::BTreeMap;

use super::fold::Folded;
use super::model::Answer;
use super::run::{End, Key, Op, Run, Seen};
use super::{Findings, Verdict};

const NAME: &str = "replay";

pub fn check(run: &Run, folded: &Folded) -> Verdict {
    let mut found = Findings {
        checked: folded.found.checked,
        undecided: folded.found.undecided,
        wrong: folded.found.wrong,
        shown: folded.found.shown.clone(),
        notes: folded.found.notes.clone(),
    };
    hashes(run, &mut found);
    if folded.last == 0 {
        return found.verdict(NAME);
    }
    for text in &folded.model.wrong {
        found.wrong(text.clone());
    }
    counts(run, folded, &mut found);
    for op in &run.ops {
        match op.f.as_str() {
            "list" if op.is_ok() => listed(op, folded, &mut found),
            "list" | "bulk" => {}
            "read" => read(op, folded, &mut found),
            _ => write(op, folded, &mut found),
        }
    }
    fresh(run, folded, &mut found);
    once(run, folded, &mut found);
    found.note(format!(
        "{} log entries, {} tasks, {} operations",
        folded.last,
        folded.model.versions.len(),
        run.ops.len()
    ));
    found.verdict(NAME)
}

/// Whether the task was ever in the state that an answer shows.
fn was(folded: &Folded, key: &Key, seen: &Seen) -> bool {
    let versions = folded.model.versions.get(key);
    versions.is_some_and(|all| all.iter().any(|version| agrees(version, seen)))
}

/// Members that an answer does not have are not compared.
fn agrees(version: &Seen, seen: &Seen) -> bool {
    version.index == seen.index
        && version.stage == seen.stage
        && seen.due_ms.is_none_or(|due| version.due_ms == Some(due))
        && seen.attempt.is_none_or(|n| version.attempt == Some(n))
}

/// The states nearest to what was answered, for a text.
fn near(folded: &Folded, key: &Key, index: u64) -> String {
    let versions = folded.model.versions.get(key).into_iter().flatten();
    let mut versions: Vec<&Seen> = versions.collect();
    versions.sort_by_key(|version| version.index.abs_diff(index));
    format!("{:?}", &versions[..versions.len().min(3)])
}

fn shown(op: &Op, key: &Key, task: &Value, folded: &Folded, found: &mut Findings) {
    let Some(seen) = Seen::of(task) else {
        return;
    };
    if seen.index > folded.last {
        found.undecided(|| format!("{}: index {} is not in the log", op.name(), seen.index));
        return;
    }
    found.check(was(folded, key, &seen), || {
        format!(
            "{}: was answered {seen:?}; the log has {}",
            op.name(),
            near(folded, key, seen.index)
        )
    });
}

fn read(op: &Op, folded: &Folded, found: &mut Findings) {
    if let (Some(key), true) = (&op.key, op.is_ok()) {
        shown(op, key, &op.got, folded, found);
    }
}

fn listed(op: &Op, folded: &Folded, found: &mut Findings) {
    for task in op.got["tasks"].as_array().into_iter().flatten() {
        let text = |name: &str| task[name].as_str().unwrap_or_default().to_owned();
        shown(op, &(text("app"), text("id")), task, folded, found);
    }
}

/// A write: what it shows, and what the log answered to it.
fn write(op: &Op, folded: &Folded, found: &mut Findings) {
    let Some(key) = &op.key else { return };
    // With `wait` the answer shows what became of it, at another index.
    let waited = !op.asked["wait"].is_null();
    if op.is_ok() {
        shown(op, key, &op.got, folded, found);
    }
    let created = op.is_ok() && op.f == "submit" && op.status() == 201;
    let decided = op.got["decided"].as_u64().or(match created {
        true => op.got["index"].as_u64(),
        false => None,
    });
    let Some(index) = decided.filter(|_| op.end != End::Unknown) else {
        return;
    };
    if index > folded.last {
        found.check(!op.is_ok(), || {
            format!(
                "I-1: {}: acknowledged at index {index}; the log ends at {}",
                op.name(),
                folded.last
            )
        });
        return;
    }
    let answers = folded.model.answers.get(&(index, key.clone()));
    let answers: Vec<&Answer> = answers
        .into_iter()
        .flatten()
        .filter(|answer| answer.kind == op.f)
        .collect();
    // An owner that has begun refuses to withdraw (409), and names the index up to which it knows
    // the log; one that has lost the task meanwhile says "try again" (503).
    let asked_owner = |kind| folded.model.asked_owner.contains(&(key.clone(), kind));
    let too_late = [409, 503].contains(&op.status())
        && match op.f.as_str() {
            "cancel" => asked_owner("cancel"),
            "change" => asked_owner("change"),
            "complete" => asked_owner("complete"),
            _ => false,
        };
    let same =
        |answer: &&&Answer| answer.status == op.status() && !(op.is_ok() && answer.asks_owner);
    let one = answers.iter().find(same);
    found.check(one.is_some() || too_late, || {
        format!(
            "I-1: {}: was answered {} at index {index}; the log answers {answers:?}",
            op.name(),
            op.status()
        )
    });
    let Some((answer, seen)) = one.zip(Seen::of(&op.got)) else {
        return;
    };
    let all_agree = answers
        .iter()
        .filter(|a| a.status == answer.status)
        .any(|a| a.task.as_ref().is_some_and(|task| agrees(task, &seen)));
    found.check(waited || all_agree, || {
        format!(
            "{}: was answered {seen:?}; the log answers {answers:?}",
            op.name()
        )
    });
}

/// I-2: what was asked once takes effect once, also when its answer was lost on the way; what was not
/// asked, never. Bulk changes may have asked as well, of what their filter can mean.
fn once(run: &Run, folded: &Folded, found: &mut Findings) {
    let mut effects: BTreeMap<(&Key, &str), Vec<u64>> = BTreeMap::new();
    for ((index, key), answers) in &folded.model.answers {
        for answer in answers.iter().filter(|answer| answer.changed) {
            effects.entry((key, answer.kind)).or_default().push(*index);
        }
    }
    let mut asked: BTreeMap<(&Key, &str), u64> = BTreeMap::new();
    for op in run.ops.iter().filter(|op| !op.had_surely_no_effect()) {
        if let Some(key) = &op.key {
            *asked.entry((key, &op.f)).or_default() += 1;
        }
    }
    for ((key, kind), indexes) in effects {
        if may_be_bulk(run, key, kind) {
            continue;
        }
        let times = asked.get(&(key, kind)).copied().unwrap_or(0);
        found.check(indexes.len() as u64 <= times, || {
            let (app, id) = key;
            format!("I-2: {kind} of {app}/{id} was asked {times} ×, and took effect at {indexes:?}")
        });
    }
}

/// I-31: a read that began after an acknowledgement shows that or something later.
fn fresh(run: &Run, folded: &Folded, found: &mut Findings) {
    for (key, ops) in run.by_key() {
        // By the end of each answer, the highest change that anybody had been told of.
        let mut told: BTreeMap<u64, u64> = BTreeMap::new();
        let shows = |op: &Op| Seen::of(&op.got).map(|seen| seen.index);
        let mut ended: Vec<&&Op> = ops
            .iter()
            .filter(|op| op.is_ok() && !op.is_local())
            .collect();
        ended.sort_by_key(|op| op.ended_us);
        let mut highest = 0;
        for op in ended {
            highest = highest.max(shows(op).unwrap_or(0));
            told.insert(op.ended_us, highest);
        }
        for op in ops.iter().filter(|op| op.f == "read" && !op.is_local()) {
            let before = told
                .range(..op.began_us)
                .next_back()
                .map_or(0, |(_, index)| *index);
            let missing = op.end == End::Fail && op.status() == 404;
            let retired = folded.model.retired.contains(key);
            match shows(op).filter(|_| op.is_ok()) {
                Some(index) => found.check(index >= before, || {
                    format!(
                        "I-31: {}: shows index {index}; {before} was told before",
                        op.name()
                    )
                }),
                None if missing => found.check(before == 0 || retired, || {
                    format!(
                        "I-31: {}: not found, but index {before} was told before",
                        op.name()
                    )
                }),
                None => {}
            }
        }
    }
}

/// Whether the filter of some bulk change with this effect can have meant a task: its application,
/// and labels that anybody ever gave to it.
fn may_be_bulk(run: &Run, key: &Key, kind: &str) -> bool {
    let has = |name: &str, value: &Value| {
        let mut own = run.ops.iter().filter(|op| op.key.as_ref() == Some(key));
        own.any(|op| op.asked["labels"][name] == *value)
    };
    let mut bulk = run.ops.iter().filter(|op| op.f == "bulk");
    bulk.any(|op| {
        let filter = &op.asked["filter"];
        let action = match op.asked["action"].as_str() {
            Some("done") => "complete",
            other => other.unwrap_or_default(),
        };
        let of_app = filter["app"].as_str().is_none_or(|app| app == key.0);
        let labels = filter["labels"].as_object().into_iter().flatten();
        kind == action
            && op.asked["dry_run"] != true
            && of_app
            && labels.into_iter().all(|(name, value)| has(name, value))
    })
}

/// `/v1/stats` is exact at its index.
fn counts(run: &Run, folded: &Folded, found: &mut Findings) {
    for (node, status) in &run.status {
        let stats = &status["stats"];
        let Some(index) = stats["index"].as_u64() else {
            continue;
        };
        let Some(model) = folded.counts.get(&index) else {
            found.undecided(|| format!("node {node}: stats at {index}, which is not in the log"));
            continue;
        };
        let told = |stage: &str| stats["tasks"][stage].as_u64().unwrap_or(0);
        found.check(model.iter().all(|(stage, n)| told(stage) == *n), || {
            format!(
                "I-27: node {node} counts {} at index {index}; the log comes to {model:?}",
                stats["tasks"]
            )
        });
    }
}

/// Equal indexes show equal hashes, whoever says so.
fn hashes(run: &Run, found: &mut Findings) {
    let mut known: BTreeMap<u64, (u64, String)> = BTreeMap::new();
    for status in run.status.values() {
        for node in status["cluster"]["nodes"].as_array().into_iter().flatten() {
            let id = node["id"].as_u64().unwrap_or(0);
            for hash in node["state_hashes"].as_array().into_iter().flatten() {
                let (Some(index), Some(hash)) = (hash["index"].as_u64(), hash["hash"].as_str())
                else {
                    continue;
                };
                let (other, first) = known.entry(index).or_insert((id, hash.to_owned()));
                found.check(first == hash, || {
                    format!(
                        "I-27: at index {index} node {other} has hash {first}, node {id} {hash}"
                    )
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::{Build, asks, at, fence, ms, outcome, task};
    use super::NAME;
    use serde_json::{Value, json};

    #[test]
    fn a_good_run_passes() {
        Build::good().passes(NAME);
        // A node that was left behind has less of the log, and that is no difference.
        let short = Build::but(|b| b.other = Some(b.log[..9].to_vec()));
        short.passes(NAME);
        // What was never decided may differ, under another term.
        let tail = Build::but(|b| {
            let mut other = b.log.clone();
            let place =
                |term: u64| json!({ "index": 26, "term": term, "leader": 1, "kind": "blank" });
            other.push(place(1));
            b.other = Some(other);
        });
        tail.passes(NAME);
        // What a majority has counts, also after the last word of the nodes.
        let later = Build::but(|b| {
            b.said = Some(20);
            b.stats["index"] = json!(20);
            b.stats["tasks"] = json!({ "done": 2, "cancelled": 1, "scheduled": 1 });
        });
        later.passes(NAME);
        assert!(later.verdict(NAME).text.contains("25 log entries"));
    }

    #[test]
    fn logs_that_differ_are_found() {
        let differ = Build::but(|b| {
            let mut other = b.log.clone();
            other[4]["event"]["key"]["id"] = json!("x");
            b.other = Some(other);
        });
        differ.fails(NAME, "I-26: different entries at index 5: nodes [1, 3]");
        let hole = Build::but(|b| drop(b.log.remove(9)));
        hole.fails(NAME, "hole before index 11");
    }

    #[test]
    fn a_stamp_that_goes_back_is_found() {
        let back = Build::but(|b| b.entry(9)["stamp"] = at(499));
        back.fails(NAME, "I-10: the stamp at index 9");
    }

    #[test]
    fn what_was_acknowledged_must_be_in_the_log() {
        let other_index = Build::but(|b| b.got(0)["index"] = json!(5));
        other_index.fails(NAME, "I-1: op 0 submit app/a");
        let beyond = Build::but(|b| *b.got(18) = task(201, 26, "scheduled", 4_000, 0));
        beyond.fails(NAME, "the log ends at 25");
        let refused = Build::but(|b| b.got(5)["status"] = json!(412));
        refused.fails(NAME, "op 5 submit app/c: was answered 412 at index 9");
    }

    #[test]
    fn what_takes_effect_twice_is_found() {
        let failed = || {
            let mut event = asks("d");
            event["ok"] = json!(false);
            event
        };
        let again = Build::but(|b| {
            b.log("run", 4_000, asks("d"));
            let mut first = failed();
            first["asked"] = json!(fence(2, 1));
            b.log("complete", 4_001, first);
            b.log("complete", 4_002, failed());
            b.op("run", "d", json!({}), 3_999, "unknown", json!(null));
            b.op(
                "complete",
                "d",
                json!({ "ok": false }),
                4_000,
                "unknown",
                json!(null),
            );
        });
        again.fails(
            NAME,
            "I-2: complete of app/d was asked 1 ×, and took effect at [27, 28]",
        );
    }

    #[test]
    fn a_bulk_change_explains_what_its_filter_can_mean_and_nothing_else() {
        let bulk = |asked: Value| {
            Build::but(|b| {
                b.log("cancel", 4_000, asks("d"));
                b.op("bulk", "", asked, 3_999, "ok", json!({ "status": 200 }));
            })
        };
        bulk(json!({ "action": "cancel", "filter": { "app": "app" } })).passes(NAME);
        for other in [
            json!({ "action": "cancel", "filter": { "app": "other" } }),
            json!({ "action": "cancel", "filter": { "labels": { "group": "g" } } }),
            json!({ "action": "change", "filter": {} }),
            json!({ "action": "cancel", "filter": {}, "dry_run": true }),
        ] {
            let words = "I-2: cancel of app/d was asked 0 ×, and took effect at [26]";
            bulk(other).fails(NAME, words);
        }
    }

    #[test]
    fn an_owner_that_has_begun_names_an_index_of_its_own() {
        let late = |b: &mut Build, op: u64, index: u64| {
            b.got(op)["decided"] = json!(index);
        };
        // Nobody asked the owner of a: its cancel was decided by the log, at 13.
        Build::but(|b| late(b, 8, 14)).fails(NAME, "op 8 cancel app/a: was answered 409");
        let begun = Build::but(|b| {
            // The cancel of g comes too late: its attempt has begun, and is done.
            b.log.truncate(24);
            b.log("done", 4_004, outcome(5, fence(2, 1), 4_000, 200));
            *b.got(19) = json!({ "status": 409, "problem": "no", "decided": 23 });
            b.stats["tasks"] = json!({ "done": 3, "cancelled": 1, "scheduled": 1 });
        });
        begun.passes(NAME);
    }

    #[test]
    fn answers_show_what_the_task_was() {
        let stage = Build::but(|b| b.got(9)["stage"] = json!("dead"));
        stage.fails(NAME, "op 9 read app/c");
        let due = Build::but(|b| b.got(15)["due_at"] = json!(ms(9_000)));
        due.fails(NAME, "op 15 change app/d");
        let listed = Build::but(|b| b.got(14)["tasks"][0]["attempt"] = json!(2));
        listed.fails(NAME, "op 14 list");
    }

    #[test]
    fn a_stale_read_is_found() {
        // c was told to be retrying by op 9; a read afterwards that shows it as new is stale.
        let old = Build::but(|b| {
            b.op(
                "read",
                "c",
                json!({}),
                1_300,
                "ok",
                task(200, 7, "scheduled", 1_000, 0),
            );
        });
        old.fails(NAME, "I-31");
        let gone = Build::but(|b| {
            b.op(
                "read",
                "a",
                json!({}),
                1_300,
                "fail",
                json!({ "status": 404 }),
            );
        });
        gone.fails(NAME, "I-31");
        let local = Build::but(|b| {
            let asked = json!({ "read": "local" });
            b.op(
                "read",
                "c",
                asked,
                1_300,
                "ok",
                task(200, 7, "scheduled", 1_000, 0),
            );
        });
        local.passes(NAME);
    }

    #[test]
    fn attempts_that_the_log_never_began_are_found() {
        // Each is the outcome of an attempt that a broken fold would have begun.
        let never = |seq: u64, number: u64, words: &str| {
            let broken = Build::but(|b| {
                b.log("done", 4_100, outcome(seq, fence(2, number), 4_100, 200));
            });
            broken.fails(NAME, words);
        };
        never(99, 1, "I-4: index 26");
        never(4, 1, "I-7: index 26"); // d waits
        never(2, 1, "I-18: index 26"); // b was cancelled before its trigger
        never(3, 5, "I-13, I-19: index 26"); // c is done
        never(5, 1, "I-18: index 26"); // g was withdrawn
        let retried_early = Build::but(|b| {
            b.entry(14)["event"]["until"] = at(2_004);
            b.entry(16)["now"] = at(2_008);
        });
        retried_early.fails(NAME, "I-19: index 16");
    }

    #[test]
    fn an_attempt_that_was_begun_early_is_found() {
        let early = Build::but(|b| b.entry(11)["event"]["end"]["started"] = at(999));
        early.fails(NAME, "I-7: index 11: attempt 1 of app/a");
    }

    #[test]
    fn one_attempt_too_many_is_found() {
        // c allows two tries: after the second failure it is dead, and not retrying.
        let third = Build::but(|b| {
            *b.got(10) = task(200, 17, "triggered", 1_000, 4);
        });
        third.fails(NAME, "op 10 run app/c");
    }

    #[test]
    fn counts_and_hashes_are_compared() {
        let counts = Build::but(|b| b.stats["tasks"]["done"] = json!(3));
        counts.fails(NAME, "I-27: node 1 counts");
        let dir = tempfile::tempdir().unwrap();
        Build::good().write(dir.path());
        let path = dir.path().join("status-3.json");
        let text = std::fs::read_to_string(&path).unwrap().replace("aa", "bb");
        std::fs::write(&path, text).unwrap();
        let verdicts = super::super::check(dir.path());
        let replay = verdicts.iter().find(|v| v.name == NAME).unwrap();
        assert!(
            !replay.ok && replay.text.contains("I-27: at index 20"),
            "{replay:?}"
        );
    }

    #[test]
    fn without_the_beginning_of_the_log_nothing_passes() {
        let cut = Build::but(|b| drop(b.log.drain(..5)));
        let verdict = cut.verdict(NAME);
        assert!(verdict.undecided > 0, "{verdict:?}");
        // Nor is there a walk over everything at the end.
        let total = cut.verdict("total queue");
        assert!(!total.ok && total.undecided > 0, "{total:?}");
    }

    #[test]
    fn a_cancel_of_what_is_done_must_be_refused() {
        let cancelled = Build::but(|b| {
            b.log("cancel", 4_000, asks("a"));
            let mut got = task(200, 26, "cancelled", 1_000, 1);
            got["decided"] = json!(26);
            b.op("cancel", "a", json!({}), 3_999, "ok", got);
        });
        cancelled.fails(NAME, "op 20 cancel app/a");
    }
}
