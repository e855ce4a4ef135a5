//! A task comes in.

use super::*;

#[test]
fn a_new_task_waits_for_its_instant() {
    let mut desk = Desk::new();
    let outcome = desk.fold(submit("a", When::After(Span(500)), &spec()));
    assert!(matches!(outcome, Outcome::Task { new: true, .. }));
    let task = shown(outcome);
    assert_eq!(
        (task.stage, task.due, task.at),
        (Stage::Scheduled, Time(1_500), Time(1_500))
    );
    assert_eq!(
        (task.created, task.index, task.fence.attempt),
        (Time(1_000), 2, 0)
    );
    assert_eq!(desk.changes, []);
    assert_eq!(desk.kinds("a"), ["submitted"]);
    assert_eq!(desk.rows("a")[0].by, Some(by()));
}

#[test]
fn the_same_submit_again_shows_the_task_as_it_is_now() {
    let mut desk = Desk::new();
    let first = submit("a", When::After(Span(500)), &spec());
    let created = shown(desk.fold(first.clone()));
    desk.trigger(1_500);
    let again = desk.at(9_000).fold(first);
    assert!(matches!(again, Outcome::Task { new: false, .. }));
    let task = shown(again);
    assert_eq!(
        (task.seq, task.due),
        (created.seq, Time(1_500)),
        "the first due stands"
    );
    assert_eq!(task.stage, Stage::Triggered);
    assert_eq!(
        desk.kinds("a"),
        ["submitted", "triggered"],
        "I-3: nothing was written"
    );
}

#[test]
fn the_same_id_with_other_content_is_refused_without_effect() {
    let mut desk = Desk::new();
    let before = desk.submit_at("a", 5_000);
    let other = Spec {
        expires_at: Some(Time(9)),
        ..spec()
    };
    for event in [
        submit("a", When::At(Time(5_000)), &other),
        submit("a", When::At(Time(5_001)), &spec()),
        submit("a", When::Now, &spec()),
    ] {
        assert_eq!(desk.fold(event), Outcome::Refused(Refusal::Content));
    }
    assert_eq!(desk.task("a"), before, "I-34");
}

#[test]
fn content_is_compared_as_first_sent_even_after_a_change() {
    let mut desk = Desk::new();
    desk.submit_at("a", 5_000);
    desk.fold(change_due("a", 7_000));
    assert_eq!(desk.submit_at("a", 5_000).due, Time(7_000));
    let changed = desk.fold(submit("a", When::At(Time(7_000)), &spec()));
    assert_eq!(changed, Outcome::Refused(Refusal::Content));
}

#[test]
fn equal_ids_of_two_applications_are_two_tasks() {
    let mut desk = Desk::new();
    let first = desk.submit_at("a", 5_000);
    let mut event = submit("a", When::At(Time(5_000)), &spec());
    event.key = Key::new("bank", "a").unwrap();
    assert!(matches!(
        desk.fold(event),
        Outcome::Task { new: true, task } if task.seq > first.seq
    ));
}

#[test]
fn what_is_due_now_is_triggered_in_the_same_fold() {
    let mut desk = Desk::new();
    for (id, when) in [
        ("now", When::Now),
        ("past", When::At(Time(3))),
        ("zero", When::After(Span(0))),
    ] {
        let task = shown(desk.fold(submit(id, when, &spec())));
        assert_eq!(
            (task.stage, task.fence.attempt, task.owner),
            (Stage::Triggered, 1, OWNER)
        );
        let Change::Triggered { seq, fence, at, .. } = desk.changes[0] else {
            panic!("{:?}", desk.changes)
        };
        assert_eq!((seq, fence, at), (task.seq, task.fence, task.at));
        assert_eq!(desk.kinds(id), ["submitted", "triggered"]);
    }
    assert_eq!(
        desk.task("past").at,
        Time(3),
        "lateness is counted from here"
    );
}

#[test]
fn what_is_due_behind_the_hand_is_triggered_in_the_same_fold() {
    let mut desk = Desk::new();
    desk.fold(trigger(1_200, 10));
    assert_eq!(
        desk.submit_at("a", 1_200).stage,
        Stage::Triggered,
        "held by its owner"
    );
    assert_eq!(desk.submit_at("b", 1_201).stage, Stage::Scheduled);
}

#[test]
fn a_mark_before_the_submit_means_born_done() {
    let mut desk = Desk::new();
    let mark = Complete {
        mark: true,
        ..complete("a")
    };
    assert_eq!(desk.fold(mark.clone()), Outcome::Marked);
    assert_eq!(
        desk.fold(mark),
        Outcome::Marked,
        "again, as often as you like"
    );
    let outcome = desk.fold(submit("a", When::Now, &spec()));
    assert!(matches!(outcome, Outcome::Task { new: true, .. }));
    assert_eq!(shown(outcome).stage, Stage::Done);
    assert_eq!(desk.kinds("a"), ["submitted", "done"]);
    assert!(
        !desk
            .changes
            .iter()
            .any(|c| matches!(c, Change::Triggered { .. })),
        "never called"
    );
    assert_eq!(desk.trigger(9_000), counted(0, false));
}

#[test]
fn a_mark_is_used_up_by_its_task() {
    let mut desk = Desk::new();
    desk.fold(Complete {
        mark: true,
        ..complete("a")
    });
    desk.submit_at("a", 5_000);
    desk.fold(retire(9_000, 9_000, 10));
    assert_eq!(desk.submit_at("a", 5_000).stage, Stage::Scheduled);
}

#[test]
fn only_success_leaves_a_mark() {
    let mut desk = Desk::new();
    let failed = Complete {
        mark: true,
        ..complete_failed("a")
    };
    assert_eq!(desk.fold(failed), Outcome::Refused(Refusal::Unknown));
    assert_eq!(desk.submit_at("a", 5_000).stage, Stage::Scheduled);
}
