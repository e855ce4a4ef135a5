//! Changing what has not begun.

use super::*;

#[test]
fn a_scheduled_task_moves_later_and_earlier() {
    let mut desk = Desk::new();
    desk.submit_at("a", 5_000);
    let task = shown(desk.fold(change_due("a", 8_000)));
    assert_eq!(
        (task.stage, task.due, task.at),
        (Stage::Scheduled, Time(8_000), Time(8_000))
    );
    assert_eq!(
        desk.trigger(7_999),
        counted(0, false),
        "not at the old instant"
    );
    desk.fold(change_due("a", 8_500));
    assert_eq!(desk.trigger(8_499), counted(0, false));
    assert_eq!(desk.trigger(8_500), counted(1, false));
    assert_eq!(
        desk.trigger(99_000),
        counted(0, false),
        "once, not once per instant"
    );
}

#[test]
fn away_and_back_still_triggers_once() {
    let mut desk = Desk::new();
    desk.submit_at("a", 5_000);
    desk.fold(change_due("a", 6_000));
    desk.fold(change_due("a", 5_000));
    desk.submit_at("b", 5_000);
    assert_eq!(desk.fold(trigger(5_000, 1)), counted(1, true));
    assert_eq!(desk.trigger(5_000), counted(1, false));
    assert_eq!((desk.fence("a").attempt, desk.fence("b").attempt), (1, 1));
}

#[test]
fn into_the_past_triggers_in_the_same_fold() {
    for stage in [Stage::Scheduled, Stage::Retrying] {
        let mut desk = Desk::new();
        desk.bring("a", stage);
        let attempts = desk.fence("a").attempt;
        let task = shown(desk.fold(change_due("a", 700)));
        assert_eq!((task.stage, task.at), (Stage::Triggered, Time(700)));
        assert_eq!(task.fence.attempt, attempts + 1);
        assert!(matches!(desk.changes[..], [Change::Triggered { .. }]));
    }
}

#[test]
fn a_change_without_an_instant_keeps_the_instant() {
    let mut desk = Desk::new();
    desk.bring("a", Stage::Retrying);
    let before = desk.task("a");
    let other = Spec {
        accept_timeout: Some(Span(7)),
        ..spec()
    };
    let event = ChangeTask {
        spec: Some(other.encode()),
        ..change("a")
    };
    let task = shown(desk.fold(event));
    assert_eq!(
        (task.stage, task.due, task.at, task.tries),
        (Stage::Retrying, before.due, before.at, 1)
    );
    assert_eq!(Spec::decode(&task.spec), Ok(other));
    assert_eq!(task.version, before.version + 1);
    assert_eq!(task.digest, before.digest);
}

#[test]
fn a_delay_counts_from_the_change() {
    let mut desk = Desk::new();
    desk.submit_at("a", 5_000);
    let event = ChangeTask {
        when: Some(When::After(Span(500))),
        ..change("a")
    };
    assert_eq!(shown(desk.at(3_000).fold(event)).due, Time(3_500));
}

#[test]
fn begun_or_over_is_too_late() {
    for stage in [
        Stage::Running,
        Stage::Accepted,
        Stage::Done,
        Stage::Dead,
        Stage::Cancelled,
    ] {
        let mut desk = Desk::new();
        let task = desk.bring("a", stage);
        assert_stage_refused(desk.fold(change_due("a", 9_000)), stage);
        assert_eq!(desk.task("a"), task, "I-34");
    }
}

#[test]
fn if_match_guards_against_changes_in_between() {
    let mut desk = Desk::new();
    let task = desk.submit_at("a", 5_000);
    let seen = ChangeTask {
        if_match: Some((task.seq, task.version)),
        ..change_due("a", 6_000)
    };
    assert_eq!(shown(desk.fold(seen.clone())).due, Time(6_000));
    assert_eq!(desk.fold(seen), Outcome::Refused(Refusal::Changed));
}

#[test]
fn a_triggered_task_goes_back_to_waiting_once_its_attempt_is_withdrawn() {
    let mut desk = Desk::new();
    let task = desk.bring("a", Stage::Triggered);
    let (seq, fence) = (task.seq, task.fence);
    assert!(matches!(
        desk.fold(change_due("a", 9_000)),
        Outcome::Refused(Refusal::Withdraw { owner: OWNER, .. })
    ));
    let event = ChangeTask {
        withdrawn: Some(fence),
        ..change_due("a", 9_000)
    };
    let task = shown(desk.fold(event));
    assert_eq!((task.stage, task.at), (Stage::Scheduled, Time(9_000)));
    assert_eq!(desk.changes, [Change::Closed { seq, fence }]);
    desk.trigger(9_000);
    assert_eq!(desk.fence("a").attempt, 2, "I-14");
    let held = desk.fence("a");
    assert_eq!(desk.fold(done(&task)), Outcome::Stale { held });
}

#[test]
fn a_triggered_task_whose_instant_stays_begins_anew_with_the_new_content() {
    let mut desk = Desk::new();
    let task = desk.bring("a", Stage::Triggered);
    let event = ChangeTask {
        withdrawn: Some(task.fence),
        spec: Some(
            Spec {
                expires_at: Some(Time(9)),
                ..spec()
            }
            .encode(),
        ),
        ..change("a")
    };
    let after = shown(desk.fold(event));
    assert_eq!((after.stage, after.at), (Stage::Triggered, task.at));
    assert!(after.fence > task.fence);
    assert!(matches!(
        desk.changes[..],
        [Change::Closed { .. }, Change::Triggered { .. }]
    ));
}
