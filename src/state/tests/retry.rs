//! Failures: tried again after a while, or given up.

use super::*;

fn policy(attempts: u32, backoff: Backoff) -> Retry {
    Retry {
        attempts: Some(attempts),
        backoff: Some(backoff),
        jitter_milli: Some(0),
        max_age: None,
    }
}

/// A task due at 2,000 with a policy, triggered.
fn triggered(retry: Retry) -> Desk {
    let mut desk = Desk::new();
    desk.fold(submit("a", When::At(Time(2_000)), &with_retry(retry)));
    desk.trigger(2_000);
    desk
}

#[test]
fn each_failure_waits_for_its_back_off_until_no_try_is_left() {
    let list = Backoff::List(vec![Span(100), Span(700)]);
    let mut desk = triggered(policy(3, list));
    for (tries, delay) in [(1, 100), (2, 700)] {
        desk.fold(failed(&desk.task("a")));
        let task = desk.task("a");
        let next = desk.now + delay;
        assert_eq!(
            (task.stage, task.tries, task.at),
            (Stage::Retrying, tries, Time(next))
        );
        assert_eq!(task.due, Time(2_000), "the instant that was asked for");
        assert_eq!(desk.rows("a").pop().unwrap().until, Time(next));
        assert_eq!(desk.trigger(next - 1), counted(0, false), "I-19");
        assert_eq!(desk.trigger(next), counted(1, false));
    }
    desk.fold(failed(&desk.task("a")));
    let task = desk.task("a");
    assert_eq!((task.stage, task.tries), (Stage::Dead, 3));
    assert_eq!(task.error.as_deref(), Some("HTTP 500"));
    assert_eq!(desk.kinds("a").last(), Some(&"dead"));
    assert_eq!(desk.trigger(9_999_000), counted(0, false));
}

#[test]
fn one_attempt_means_no_retry() {
    let mut desk = triggered(policy(1, Backoff::Fixed(Span(1))));
    desk.fold(failed(&desk.task("a")));
    assert_eq!(desk.stage("a"), Stage::Dead);
}

#[test]
fn a_task_that_says_nothing_has_three_attempts() {
    let mut desk = triggered(Retry::default());
    for _ in 0..2 {
        desk.fold(failed(&desk.task("a")));
        assert_eq!(desk.stage("a"), Stage::Retrying);
        desk.trigger(desk.now + 10_000);
    }
    desk.fold(failed(&desk.task("a")));
    assert_eq!(desk.stage("a"), Stage::Dead);
}

#[test]
fn jitter_only_lengthens() {
    let retry = Retry {
        jitter_milli: Some(500),
        ..policy(9, Backoff::Fixed(Span(1_000)))
    };
    let mut desk = triggered(retry);
    for _ in 0..8 {
        desk.fold(failed(&desk.task("a")));
        let wait = desk.task("a").at.since(Time(desk.now)).0;
        assert!((1_000..=1_500).contains(&wait), "{wait}");
        desk.trigger(desk.now + 1_500);
    }
}

#[test]
fn retry_after_is_a_minimum() {
    for (asked, waits) in [(400, 1_000), (5_000, 5_000)] {
        let mut desk = triggered(policy(3, Backoff::Fixed(Span(1_000))));
        let not_before = Span(asked);
        desk.fold(failed_for(&desk.task("a"), Verdict::Retry { not_before }));
        assert_eq!(desk.task("a").at, Time(2_000 + waits));
    }
}

#[test]
fn no_delay_at_all_triggers_in_the_same_fold() {
    let mut desk = triggered(policy(3, Backoff::Fixed(Span(0))));
    let (seq, fence) = (desk.task("a").seq, desk.fence("a"));
    desk.fold(failed(&desk.task("a")));
    assert_eq!(desk.stage("a"), Stage::Triggered);
    assert_eq!(desk.changes[0], Change::Closed { seq, fence });
    assert!(matches!(desk.changes[1..], [Change::Triggered { .. }]));
    assert_eq!(
        desk.kinds("a"),
        ["submitted", "triggered", "retry", "triggered"]
    );
}

#[test]
fn the_delay_counts_from_the_end_of_the_attempt_also_a_little_ahead() {
    for (ended, next) in [(1_500, 3_000), (2_400, 3_400), (9_000, 4_000)] {
        let mut desk = triggered(policy(3, Backoff::Fixed(Span(1_000))));
        let mut event = failed(&desk.task("a"));
        event.end.ended = Time(ended);
        desk.fold(event);
        assert_eq!(
            desk.task("a").at,
            Time(next),
            "ended at {ended}, told at 2,000"
        );
    }
}

#[test]
fn an_end_in_the_future_triggers_nothing_early() {
    let mut desk = triggered(policy(3, Backoff::Fixed(Span(0))));
    let mut event = failed(&desk.task("a"));
    event.end.ended = Time(2_900);
    desk.fold(event);
    let task = desk.task("a");
    assert_eq!((task.stage, task.at), (Stage::Retrying, Time(2_900)), "I-7");
}

#[test]
fn max_age_counts_from_the_due_instant() {
    let aged = |age| Retry {
        max_age: Some(Span(age)),
        ..policy(9, Backoff::Fixed(Span(1_000)))
    };
    let mut desk = triggered(aged(1_000));
    desk.fold(failed(&desk.task("a")));
    assert_eq!(desk.stage("a"), Stage::Retrying, "just in time");
    desk.trigger(3_000);
    desk.fold(failed(&desk.task("a")));
    let task = desk.task("a");
    assert_eq!((task.stage, task.tries), (Stage::Dead, 2));
    assert!(task.error.unwrap().contains("max_age"));

    let mut desk = triggered(aged(999));
    desk.fold(failed(&desk.task("a")));
    assert_eq!(desk.stage("a"), Stage::Dead);
}

#[test]
fn a_final_failure_is_dead_at_once() {
    for stage in [Stage::Triggered, Stage::Running] {
        let mut desk = Desk::new();
        let task = desk.bring("a", stage);
        assert_eq!(
            desk.fold(failed_for(&task, Verdict::Final)),
            Outcome::Folded
        );
        let after = desk.task("a");
        assert_eq!((after.stage, after.tries), (Stage::Dead, 1));
        assert_eq!(desk.kinds("a").last(), Some(&"dead"));
        assert!(desk.changes.contains(&Change::Finished {
            seq: task.seq,
            stage: Stage::Dead
        }));
    }
}

#[test]
fn what_had_not_begun_by_its_expiry_is_dead_as_expired() {
    let mut desk = Desk::new();
    let task = desk.bring("a", Stage::Triggered);
    desk.fold(failed_for(&task, Verdict::Expired));
    let after = desk.task("a");
    assert_eq!(
        (after.stage, after.tries),
        (Stage::Dead, 0),
        "nothing was tried"
    );
    assert_eq!(after.outcome.as_deref(), Some("expired"));
    assert_eq!(
        desk.kinds("a"),
        ["submitted", "triggered", "expired"],
        "in place of dead"
    );
}

#[test]
fn what_has_begun_cannot_expire() {
    let mut desk = Desk::new();
    let task = desk.bring("a", Stage::Running);
    assert_stage_refused(
        desk.fold(failed_for(&task, Verdict::Expired)),
        Stage::Running,
    );
    assert_eq!(desk.task("a"), task);
}
