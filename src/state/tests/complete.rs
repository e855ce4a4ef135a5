//! Completion from outside: the receiver, or an operator, says how it ended.

use super::*;

#[test]
fn success_ends_whatever_has_not_ended() {
    for stage in [
        Stage::Scheduled,
        Stage::Triggered,
        Stage::Running,
        Stage::Accepted,
        Stage::Retrying,
    ] {
        let mut desk = Desk::new();
        let before = desk.bring("a", stage);
        let task = shown(desk.fold(complete("a")));
        assert_eq!((task.stage, &task.error), (Stage::Done, &None), "{stage}");
        assert_eq!(task.finished, Some(Time(desk.now)));
        let (seq, fence) = (before.seq, before.fence);
        let closed: Vec<_> = desk
            .changes
            .iter()
            .filter(|c| matches!(c, Change::Closed { .. }))
            .collect();
        match stage.is_open() {
            true => assert_eq!(closed, [&Change::Closed { seq, fence }]),
            false => assert!(closed.is_empty()),
        }
        assert_eq!(desk.trigger(9_999_000), counted(0, false));
    }
}

#[test]
fn repeated_it_is_a_success_that_changes_nothing() {
    let mut desk = Desk::new();
    let done = desk.bring("a", Stage::Done);
    assert_eq!(shown(desk.fold(complete("a"))), done);
    let dead = desk.bring("b", Stage::Dead);
    assert_eq!(shown(desk.fold(complete_failed("b"))), dead);
}

#[test]
fn the_other_final_stages_refuse() {
    let mut desk = Desk::new();
    desk.bring("dead", Stage::Dead);
    desk.bring("cancelled", Stage::Cancelled);
    desk.bring("done", Stage::Done);
    assert_stage_refused(desk.fold(complete("dead")), Stage::Dead);
    assert_stage_refused(desk.fold(complete("cancelled")), Stage::Cancelled);
    assert_stage_refused(desk.fold(complete_failed("done")), Stage::Done);
    assert_stage_refused(desk.fold(complete_failed("cancelled")), Stage::Cancelled);
}

#[test]
fn failure_before_an_attempt_is_final() {
    for stage in [Stage::Scheduled, Stage::Retrying] {
        let mut desk = Desk::new();
        desk.bring("a", stage);
        let task = shown(desk.fold(complete_failed("a")));
        assert_eq!(
            (task.stage, task.error.as_deref()),
            (Stage::Dead, Some("no stock"))
        );
    }
}

#[test]
fn failure_of_an_attempt_is_retried_by_policy() {
    for stage in [Stage::Triggered, Stage::Running, Stage::Accepted] {
        let mut desk = Desk::new();
        desk.bring("a", stage);
        let task = shown(desk.fold(complete_failed("a")));
        assert_eq!((task.stage, task.tries), (Stage::Retrying, 1), "{stage}");
        assert_eq!(task.at, Time(desk.now + 1_000));
        assert_eq!(task.error.as_deref(), Some("no stock"));
    }
}

#[test]
fn failure_of_the_last_attempt_closes_it_once() {
    let mut desk = Desk::new();
    desk.submit_with_tries("a", 2_000, 1);
    desk.trigger(2_000);
    let (seq, fence) = (desk.task("a").seq, desk.fence("a"));
    desk.fold(complete_failed("a"));
    let stage = Stage::Dead;
    assert_eq!(
        desk.changes,
        [
            Change::Closed { seq, fence },
            Change::Finished { seq, stage }
        ]
    );
}

#[test]
fn a_fence_says_which_attempt_is_meant() {
    let mut desk = Desk::new();
    let old = desk.bring("a", Stage::Accepted).fence.number();
    desk.fold(complete_failed("a"));
    desk.trigger(desk.now + 1_000);
    let held = desk.fence("a").number();
    for event in [complete("a"), complete_failed("a")] {
        let stale = Complete {
            fence: Some(old),
            ..event
        };
        assert_eq!(
            desk.fold(stale),
            Outcome::Refused(Refusal::StaleFence { held })
        );
    }
    let right = Complete {
        fence: Some(held),
        ..complete("a")
    };
    assert_eq!(shown(desk.fold(right.clone())).stage, Stage::Done);
    assert_eq!(
        shown(desk.fold(right)).stage,
        Stage::Done,
        "repeated = a success"
    );
}

#[test]
fn the_result_is_kept_as_the_outcome() {
    let mut desk = Desk::new();
    desk.bring("a", Stage::Accepted);
    let event = Complete {
        result: Some("shipped".into()),
        ..complete("a")
    };
    assert_eq!(shown(desk.fold(event)).outcome.as_deref(), Some("shipped"));
}

#[test]
fn without_a_mark_the_unknown_is_unknown() {
    assert_eq!(
        Desk::new().fold(complete("a")),
        Outcome::Refused(Refusal::Unknown)
    );
}
