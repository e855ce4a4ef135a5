//! Cancelling: before it began it works, afterwards it is too late, in between the owner is asked.

use super::*;

#[test]
fn what_waits_is_cancelled_at_once_and_never_triggers() {
    for stage in [Stage::Scheduled, Stage::Retrying] {
        let mut desk = Desk::new();
        desk.bring("a", stage);
        let tries = desk.task("a").tries;
        let task = shown(desk.fold(cancel("a")));
        assert_eq!(
            (task.stage, task.tries),
            (Stage::Cancelled, tries),
            "{stage}"
        );
        assert_eq!(task.finished, Some(Time(desk.now)));
        assert_eq!(task.outcome.as_deref(), Some("cancelled"));
        let finished = Change::Finished {
            seq: task.seq,
            stage: Stage::Cancelled,
        };
        assert_eq!(desk.changes, [finished]);
        assert_eq!(desk.trigger(99_000), counted(0, false), "I-18");
    }
}

#[test]
fn cancelling_twice_is_a_success_that_changes_nothing() {
    let mut desk = Desk::new();
    let task = desk.bring("a", Stage::Cancelled);
    assert_eq!(shown(desk.fold(cancel("a"))), task);
    assert_eq!(desk.changes, []);
}

#[test]
fn begun_or_over_is_too_late() {
    for stage in [Stage::Running, Stage::Accepted, Stage::Done, Stage::Dead] {
        let mut desk = Desk::new();
        let task = desk.bring("a", stage);
        assert_stage_refused(desk.fold(cancel("a")), stage);
        assert_eq!(desk.task("a"), task, "I-34");
    }
}

#[test]
fn nobody_cancels_what_is_unknown_or_has_changed() {
    let mut desk = Desk::new();
    assert_eq!(desk.fold(cancel("a")), Outcome::Refused(Refusal::Unknown));
    let task = desk.submit_at("a", 5_000);
    let seen = |version| Cancel {
        if_match: Some((task.seq, version)),
        ..cancel("a")
    };
    assert_eq!(
        desk.fold(seen(task.version + 1)),
        Outcome::Refused(Refusal::Changed)
    );
    assert_eq!(shown(desk.fold(seen(task.version))).stage, Stage::Cancelled);
}

#[test]
fn a_triggered_task_is_cancelled_once_its_owner_has_withdrawn_the_attempt() {
    let mut desk = Desk::new();
    let task = desk.bring("a", Stage::Triggered);
    let (seq, fence, owner) = (task.seq, task.fence, OWNER);
    let ask = Outcome::Refused(Refusal::Withdraw { seq, fence, owner });
    assert_eq!(
        desk.fold(cancel("a")),
        ask,
        "the proposer learns whom to ask"
    );
    assert_eq!(desk.task("a"), task);

    let withdrawn = Cancel {
        withdrawn: Some(fence),
        ..cancel("a")
    };
    let task = shown(desk.fold(withdrawn));
    assert_eq!((task.stage, task.fence), (Stage::Cancelled, fence));
    assert_eq!(task.tries, 0, "an attempt that never began has not ended");
    assert_eq!(desk.changes[0], Change::Closed { seq, fence });
}

#[test]
fn a_withdrawal_of_an_attempt_that_was_overtaken_counts_for_nothing() {
    let mut desk = Desk::new();
    let old = desk.bring("a", Stage::Triggered).fence;
    desk.fold(assign_all(2, 1));
    let task = desk.task("a");
    let withdrawn = Cancel {
        withdrawn: Some(old),
        ..cancel("a")
    };
    let ask = Refusal::Withdraw {
        seq: task.seq,
        fence: task.fence,
        owner: 2,
    };
    assert_eq!(desk.fold(withdrawn), Outcome::Refused(ask));
}

#[test]
fn a_late_result_of_a_cancelled_attempt_is_refused_and_recorded() {
    let mut desk = Desk::new();
    let task = desk.bring("a", Stage::Triggered);
    desk.fold(Cancel {
        withdrawn: Some(task.fence),
        ..cancel("a")
    });
    let held = task.fence;
    assert_eq!(desk.fold(done(&task)), Outcome::Stale { held });
    assert_eq!(desk.stage("a"), Stage::Cancelled, "I-13");
    assert_eq!(
        desk.kinds("a"),
        ["submitted", "triggered", "cancelled", "stale"]
    );
}

/// Found by the fault harness, seed 4208: a change whose answers were lost took effect twice, the
/// second time on a task that it had already moved.
#[test]
fn what_an_owner_withdrew_counts_once() {
    let mut desk = Desk::new();
    let withdrawn = Some(desk.bring("a", Stage::Triggered).fence);
    let later = |ms| ChangeTask {
        withdrawn,
        ..change_due("a", ms)
    };
    assert_eq!(shown(desk.fold(later(90_000))).stage, Stage::Scheduled);
    let task = desk.task("a");
    assert_eq!(desk.fold(later(80_000)), Outcome::Refused(Refusal::Moved));
    let cancel = Cancel {
        withdrawn,
        ..cancel("a")
    };
    assert_eq!(desk.fold(cancel), Outcome::Refused(Refusal::Moved));
    assert_eq!(desk.task("a"), task);
}
