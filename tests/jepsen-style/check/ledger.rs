//! Checker 6: what the sink wrote down is the truth about deliveries.
//!
//! Never before its instant (I-7), never after an acknowledged cancel (I-18), each one begun by
//! the log (I-4) and once per attempt (I-17), with fences that rise (I-14); what the log says of an
//! attempt is what the sink did. And how late: away from faults, nothing is very late (I-8).

use std::collections::{BTreeMap, BTreeSet};

use super::fold::Folded;
use super::model::{Attempt, Ending};
use super::run::{Delivery, Key, Op, Run, Seen};
use super::{Findings, Verdict, pauses};

const NAME: &str = "sink's ledger";
/// A fault is felt so long after it ended: an election at its slowest, the leases, and queues
/// that must drain.
const FELT_US: u64 = 15_000_000;
/// I-8: on time means within this.
const ON_TIME_US: u64 = 250_000;
/// Away from faults nothing may be later than this, on a machine that shares its cores.
const LATE_MAX_US: u64 = 5_000_000;
/// While a clock is set wrong on purpose, "early" by the harness's clock is not early by a node's;
/// a node further off than this notices.
const CLOCKS_DIFFER_US: u64 = 1_000_000;
/// The sink may write down the end of an answer so long after its last byte was read.
const WRITTEN_US: u64 = 250_000;
/// An outcome is in the log so long after the delivery ended, or a deadline passed, when all is
/// over.
const REPORTED_WITHIN_MS: u64 = 60_000;

pub fn check(run: &Run, folded: &Folded) -> Verdict {
    let mut found = Findings::default();
    let mut by_key: BTreeMap<&Key, Vec<&Delivery>> = BTreeMap::new();
    for delivery in &run.sink {
        by_key.entry(&delivery.key).or_default().push(delivery);
    }
    let mut stale = 0;
    for deliveries in by_key.values() {
        stale += fences(run, deliveries, &mut found);
    }
    cancels(run, &by_key, folded, &mut found);
    match folded.last {
        0 => without_log(run, &mut found),
        _ => with_log(run, &by_key, folded, &mut found),
    }
    found.note(format!(
        "{} deliveries of {} tasks, {stale} that a fence tells",
        run.sink.len(),
        by_key.len()
    ));
    found.verdict(NAME)
}

/// Every delivery against the attempt that the log began.
fn with_log(
    run: &Run,
    by_key: &BTreeMap<&Key, Vec<&Delivery>>,
    folded: &Folded,
    found: &mut Findings,
) {
    let mut known: Vec<(&Delivery, &Attempt)> = Vec::new();
    let mut again: BTreeMap<&str, u64> = BTreeMap::new();
    for delivery in &run.sink {
        let attempt = attempt(folded, delivery);
        found.check(attempt.is_some(), || {
            format!("I-4: {}: the log never began it", name(delivery))
        });
        let Some(attempt) = attempt else { continue };
        as_begun(run, delivery, attempt, found);
        as_reported(folded, delivery, attempt, found);
        known.push((delivery, attempt));
        *again.entry(attempt.why).or_default() += u64::from(attempt.number > 1);
    }
    for deliveries in by_key.values() {
        overlaps(folded, deliveries, found);
    }
    outcomes(folded, by_key, found);
    lateness(run, folded, &known, found);
    found.note(format!("beyond the first attempt, begun as: {again:?}"));
}

/// Where the beginning of the log was purged, each delivery says itself when its task was due;
/// only "run now" is allowed to come before that.
fn without_log(run: &Run, found: &mut Findings) {
    found.undecided(|| "whether the log began each attempt: its beginning was purged".into());
    let run_now: BTreeSet<&Key> = run
        .ops
        .iter()
        .filter(|op| op.f == "run")
        .filter_map(|op| op.key.as_ref())
        .collect();
    let bulk = |op: &&Op| op.f == "bulk" && op.asked["action"] == "run";
    let apps: BTreeSet<&str> = run
        .ops
        .iter()
        .filter(bulk)
        .filter_map(|op| op.app.as_deref())
        .collect();
    for delivery in &run.sink {
        let (app, _) = &delivery.key;
        if !run_now.contains(&delivery.key) && !apps.contains(app.as_str()) {
            not_early(run, delivery, delivery.due_ms, found);
        }
    }
}

fn name(delivery: &Delivery) -> String {
    let (app, id) = &delivery.key;
    format!(
        "delivery of {app}/{id}, attempt {}, fence {}, at {} us",
        delivery.attempt, delivery.fence, delivery.t_us
    )
}

fn attempt<'a>(folded: &'a Folded, delivery: &Delivery) -> Option<&'a Attempt> {
    folded
        .model
        .attempts
        .get(&delivery.key)?
        .get(&delivery.fence)
}

/// Whether a clock was set wrong around an instant.
fn clocks_differ(run: &Run, at_us: u64) -> bool {
    let clocks = run.faults.iter().filter(|f| f.what.contains("clock"));
    clocks
        .filter(|f| f.from_us <= at_us && at_us <= f.to_us.saturating_add(FELT_US))
        .count()
        > 0
}

fn as_begun(run: &Run, delivery: &Delivery, attempt: &Attempt, found: &mut Findings) {
    found.check(
        attempt.number == delivery.attempt && attempt.due == delivery.due_ms,
        || {
            format!(
                "{}: says otherwise than the log: {attempt:?}",
                name(delivery)
            )
        },
    );
    not_early(run, delivery, attempt.at, found);
    found.check(attempt.ending != Ending::Withdrawn, || {
        format!("I-18: {}: its attempt was withdrawn", name(delivery))
    });
}

fn not_early(run: &Run, delivery: &Delivery, at_ms: u64, found: &mut Findings) {
    let slack = match clocks_differ(run, delivery.t_us) {
        true => CLOCKS_DIFFER_US,
        false => 0,
    };
    let at_us = at_ms * 1_000;
    found.check(delivery.t_us + slack >= at_us, || {
        format!(
            "I-7: {}: {} us early",
            name(delivery),
            at_us - delivery.t_us
        )
    });
}

/// The log has the outcome that the sink gave, or says why it has none.
fn as_reported(folded: &Folded, delivery: &Delivery, attempt: &Attempt, found: &mut Findings) {
    if let (Some((index, status, _)), true) = (attempt.reported, delivery.answer != 0) {
        // 0: the answer did not arrive, or not in time.
        found.check(status == 0 || status == delivery.answer, || {
            format!(
                "{}: was answered {}, but index {index} says {status}",
                name(delivery),
                delivery.answer
            )
        });
    }
    let over_ms = folded.last_now.saturating_sub(delivery.end_us / 1_000);
    let open = attempt.ending == Ending::Open;
    found.check(!open || over_ms < REPORTED_WITHIN_MS, || {
        format!(
            "I-16: {}: ended {over_ms} ms before the log does, which has no outcome of it",
            name(delivery)
        )
    });
}

/// One delivery per attempt, and fences that rise in the order of arrival. Returns how many came
/// under a fence that a receiver refuses: a node that was held up between its last look at its
/// lease and its first byte may send that late.
fn fences(run: &Run, deliveries: &[&Delivery], found: &mut Findings) -> u64 {
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    let mut highest: Option<&Delivery> = None;
    let mut stale = 0;
    for delivery in deliveries {
        found.check(seen.insert(delivery.fence), || {
            format!("I-17: {}: the same attempt came before", name(delivery))
        });
        if let Some(before) = highest.filter(|before| before.fence > delivery.fence) {
            stale += 1;
            let from = before.t_us.saturating_sub(FELT_US);
            found.check(run.disturbed(from, delivery.t_us), || {
                format!(
                    "I-14: {}: after fence {}, and nothing had been disturbed",
                    name(delivery),
                    before.fence
                )
            });
        } else {
            highest = Some(delivery);
        }
    }
    stale
}

/// I-15: the next attempt comes after the one before was answered, where the log has its answer.
fn overlaps(folded: &Folded, deliveries: &[&Delivery], found: &mut Findings) {
    for two in deliveries.windows(2) {
        let reported = attempt(folded, two[0]).and_then(|attempt| attempt.reported);
        let answered = reported.is_some_and(|(index, status, _)| {
            let next = attempt(folded, two[1]).map_or(0, |attempt| attempt.index);
            status != 0 && index <= next
        });
        found.check(
            !answered || two[1].t_us + WRITTEN_US >= two[0].end_us,
            || {
                format!(
                    "I-15: {}: while fence {} was still open",
                    name(two[1]),
                    two[0].fence
                )
            },
        );
    }
}

/// I-18: once a cancel is acknowledged nothing of what was there before arrives.
fn cancels(
    run: &Run,
    by_key: &BTreeMap<&Key, Vec<&Delivery>>,
    folded: &Folded,
    found: &mut Findings,
) {
    let run_now = |key: &Key| {
        let mut ops = run.ops.iter().filter(|op| op.f == "run" || op.f == "bulk");
        ops.any(|op| {
            op.key
                .as_ref()
                .map_or(op.app.as_ref() == Some(&key.0), |own| own == key)
        })
    };
    let has_log = folded.last > 0;
    let cancels = run.ops.iter().filter(|op| op.f == "cancel" && op.is_ok());
    for op in cancels {
        let Some(key) = op.key.as_ref().filter(|key| has_log || !run_now(key)) else {
            continue;
        };
        let index = cancelled_at(op, folded);
        let after = by_key.get(key).into_iter().flatten().filter(|delivery| {
            // What was begun by a later "run now" is meant.
            let begun = attempt(folded, delivery).map_or(0, |attempt| attempt.index);
            let before =
                begun < index || (begun == index && !begun_behind(folded, delivery, index));
            delivery.t_us > op.ended_us && before
        });
        let after: Vec<&&Delivery> = after.collect();
        // Held up since before the cancel: the fence tells, and the attempt had lost its owner.
        let lost = |delivery: &Delivery| {
            let ending = attempt(folded, delivery).map(|attempt| attempt.ending);
            (!has_log || matches!(ending, Some(Ending::Redispatched | Ending::Deadline)))
                && run.disturbed(op.began_us.saturating_sub(FELT_US), delivery.t_us)
        };
        let first = after.iter().find(|delivery| !lost(delivery));
        found.check(first.is_none(), || {
            let text = first.map(|delivery| name(delivery)).unwrap_or_default();
            format!(
                "I-18: {}: acknowledged at {} us, and then: {text}",
                op.name(),
                op.ended_us
            )
        });
    }
}

/// Whether an entry that cancels a task, for the last time in it, then begins this attempt.
fn begun_behind(folded: &Folded, delivery: &Delivery, index: u64) -> bool {
    let versions = folded.model.versions.get(&delivery.key);
    let versions: Vec<&Seen> = versions
        .into_iter()
        .flatten()
        .filter(|seen| seen.index == index)
        .collect();
    let cancelled = versions.iter().rposition(|seen| seen.stage == "cancelled");
    let Some(cancelled) = cancelled else {
        return false;
    };
    versions[cancelled..]
        .iter()
        .any(|seen| seen.stage == "triggered" && seen.attempt == Some(delivery.attempt))
}

fn cancelled_at(op: &Op, folded: &Folded) -> u64 {
    let told = op.got["index"].as_u64().or(op.got["decided"].as_u64());
    told.unwrap_or(folded.last)
}

/// What the log calls delivered has arrived.
fn outcomes(folded: &Folded, by_key: &BTreeMap<&Key, Vec<&Delivery>>, found: &mut Findings) {
    for (key, attempts) in &folded.model.attempts {
        let arrived: BTreeSet<u64> = by_key
            .get(key)
            .into_iter()
            .flatten()
            .map(|delivery| delivery.fence)
            .collect();
        for (fence, attempt) in attempts {
            if let Some((index, status, _)) = attempt.reported.filter(|(_, status, _)| *status != 0)
            {
                found.check(arrived.contains(fence), || {
                    format!(
                        "I-16: index {index} says that attempt {} of {}/{} was answered {status}; it \
                         never arrived",
                        attempt.number, key.0, key.1
                    )
                });
            }
        }
    }
}

/// I-8: how late attempts arrive, of those that no fault could hold up.
fn lateness(run: &Run, folded: &Folded, known: &[(&Delivery, &Attempt)], found: &mut Findings) {
    let mut late_us: Vec<u64> = Vec::new();
    let mut worst = 0;
    for (delivery, attempt) in known.iter().filter(|(_, a)| a.why != "redispatched") {
        // It cannot be called before the log has it, and waits its turn where its target is slow.
        let from_us = attempt.at.max(attempt.now) * 1_000;
        let queued_ms = attempt.reported.map_or(0, |(_, _, queued)| queued);
        let late = delivery.t_us.saturating_sub(from_us + queued_ms * 1_000);
        worst = worst.max(late);
        // While nothing is disturbed; what was due meanwhile is counted then, too.
        let until = from_us.max(attempt.at * 1_000) + ON_TIME_US;
        let held = pauses::held_up(folded, &delivery.key.0, attempt);
        if held || run.disturbed((attempt.at * 1_000).saturating_sub(FELT_US), until) {
            continue;
        }
        late_us.push(late);
        found.check(late <= LATE_MAX_US, || {
            format!(
                "I-8: {}: {} ms late, and nothing had been disturbed",
                name(delivery),
                late / 1_000
            )
        });
    }
    late_us.sort_unstable();
    let at = |permille: usize| {
        let place = (late_us.len().max(1) - 1) * permille / 1_000;
        late_us.get(place).copied().unwrap_or(0) / 1_000
    };
    let on_time = late_us.iter().filter(|late| **late <= ON_TIME_US).count();
    found.note(format!(
        "lateness away from faults: {on_time} of {} within 250 ms; p50 {} p99 {} p99.9 {} max {} ms; \
         over all, max {} ms",
        late_us.len(),
        at(500),
        at(990),
        at(999),
        at(1_000),
        worst / 1_000
    ));
}

#[cfg(test)]
mod tests {
    use super::super::build::{Build, asks, at, fence, ms, outcome, submit, task, us};
    use super::NAME;
    use serde_json::{Value, json};

    #[test]
    fn good_ledgers_pass() {
        Build::good().passes(NAME);
        // An owner that was held up: its attempt was handed on, and comes late. The fence tells.
        let stale = Build::but(|b| {
            b.fault("pause", 1_900, 2_500);
            b.deliver("c", 2, fence(1, 2), 1_000, 2_600, 200);
        });
        stale.passes(NAME);
        // While a clock is wrong, a call may be early by another one.
        let clock = Build::but(|b| {
            b.fault("clock", 500, 1_200);
            b.delivery("a", 1)["t"] = json!(us(600));
            b.entry(11)["event"]["end"]["started"] = at(1_000);
        });
        clock.passes(NAME);
    }

    #[test]
    fn an_early_delivery_is_found() {
        let early = Build::but(|b| b.delivery("a", 1)["t"] = json!(us(1_000) - 1));
        early.fails(NAME, "I-7: delivery of app/a");
        let retry = Build::but(|b| b.delivery("c", 3)["t"] = json!(us(2_004)));
        retry.fails(NAME, "I-7: delivery of app/c, attempt 3");
    }

    #[test]
    fn without_a_whole_log_the_rest_is_looked_at() {
        let purged = |change: fn(&mut Build)| {
            Build::but(|b| {
                b.log.drain(..5);
                change(b);
            })
        };
        let verdict = purged(|_| {}).verdict(NAME);
        assert!(verdict.ok && verdict.undecided == 1, "{verdict:?}");
        let early = purged(|b| b.delivery("a", 1)["t"] = json!(us(999)));
        early.fails(NAME, "I-7: delivery of app/a");
        let cancelled = purged(|b| b.deliver("b", 1, fence(1, 1), 5_200, 5_200, 200));
        cancelled.fails(NAME, "I-18: op 2 cancel app/b");
        let twice = purged(|b| b.deliver("a", 1, fence(1, 1), 1_000, 1_010, 200));
        twice.fails(NAME, "I-17: delivery of app/a");
    }

    #[test]
    fn a_delivery_after_a_cancel_is_found() {
        let after = Build::but(|b| b.deliver("b", 1, fence(1, 1), 5_200, 5_200, 200));
        after.fails(NAME, "I-4: delivery of app/b");
        after.fails(NAME, "I-18: op 2 cancel app/b");
        let withdrawn = Build::but(|b| b.deliver("g", 1, fence(2, 1), 4_000, 4_001, 200));
        withdrawn.fails(NAME, "I-18: delivery of app/g, attempt 1");
        withdrawn.fails(NAME, "I-18: op 19 cancel app/g");
    }

    /// Seeds 1009 and 3006: one entry cancels a task and then runs it, as two clients asked.
    #[test]
    fn what_the_same_entry_runs_behind_a_cancel_is_meant() {
        let both = |first: &'static str, second: &'static str| {
            Build::but(|b| {
                b.log("submit", 4_000, submit("h", &at(99_000), Value::Null));
                b.log(first, 4_050, asks("h"));
                let index = b.log(second, 4_050, asks("h"));
                b.entry(index)["index"] = json!(index - 1);
                let got = task(200, index - 1, "cancelled", 99_000, 0);
                b.op("cancel", "h", json!({}), 4_045, "ok", got);
                b.deliver("h", 1, fence(2, 1), 4_050, 4_100, 200);
            })
        };
        both("cancel", "run").passes(NAME);
        both("run", "cancel").fails(NAME, "I-18");
    }

    #[test]
    fn a_delivery_that_the_log_did_not_begin_is_found() {
        let phantom = Build::but(|b| b.deliver("a", 2, fence(1, 2), 1_000, 1_500, 200));
        phantom.fails(NAME, "I-4: delivery of app/a, attempt 2");
        let due = Build::but(|b| b.delivery("a", 1)["due"] = json!(ms(999)));
        due.fails(NAME, "says otherwise than the log");
    }

    #[test]
    fn an_unexplained_duplicate_is_found() {
        let twice = Build::but(|b| b.deliver("a", 1, fence(1, 1), 1_000, 1_010, 200));
        twice.fails(NAME, "I-17: delivery of app/a");
        let stale = Build::but(|b| b.deliver("c", 2, fence(1, 2), 1_000, 2_600, 200));
        stale.fails(NAME, "I-14: delivery of app/c, attempt 2");
        let both = Build::but(|b| b.delivery("c", 1)["end"] = json!(us(2_900)));
        both.fails(NAME, "I-15: delivery of app/c, attempt 3");
    }

    #[test]
    fn an_outcome_that_the_sink_did_not_give_is_found() {
        let other = Build::but(|b| b.delivery("a", 1)["answer"] = json!(500));
        other.fails(NAME, "was answered 500, but index 11 says 200");
        let never = Build::but(|b| b.sink.retain(|line| line["id"] != "a"));
        never.fails(
            NAME,
            "I-16: index 11 says that attempt 1 of app/a was answered 200",
        );
        let open = Build::but(|b| {
            // Its outcome is missing, and the log goes on for long.
            b.log("submit", 4_000, submit("h", &at(4_000), Value::Null));
            b.deliver("h", 1, fence(2, 1), 4_000, 4_001, 200);
            b.log("submit", 90_000, submit("i", &at(99_000), Value::Null));
        });
        open.fails(NAME, "I-16: delivery of app/h");
    }

    #[test]
    fn lateness_is_forgiven_only_near_faults() {
        let late = |b: &mut Build| {
            b.log("submit", 40_000, submit("h", &at(50_000), Value::Null));
            b.log(
                "trigger",
                49_990,
                json!({ "until": at(50_000), "max": 8_192 }),
            );
            b.deliver("h", 1, fence(2, 1), 50_000, 57_000, 200);
            b.log("done", 57_010, outcome(6, fence(2, 1), 57_000, 200));
            let asked = json!({ "due_at": ms(50_000) });
            b.op(
                "submit",
                "h",
                asked,
                39_999,
                "ok",
                task(201, 26, "scheduled", 50_000, 0),
            );
        };
        Build::but(late).fails(NAME, "I-8: delivery of app/h");
        let forgiven = Build::but(|b| {
            late(b);
            b.fault("kill", 44_000, 45_000);
        });
        forgiven.passes(NAME);
        let long_ago = Build::but(|b| {
            late(b);
            b.fault("kill", 20_000, 21_000);
        });
        long_ago.fails(NAME, "I-8: delivery of app/h");
    }
}
