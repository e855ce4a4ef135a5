//! Completion from outside: the receiver, or an operator, says how it ended.

use super::*;

/// After the owner of the attempt was asked.
fn once_asked(fence: Fence, complete: Complete) -> Complete {
    Complete {
        asked: Some(fence),
        ..complete
    }
}

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
        let event = match stage {
            Stage::Triggered => once_asked(before.fence, complete("a")),
            _ => complete("a"),
        };
        let task = shown(desk.fold(event));
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
        let fence = desk.bring("a", stage).fence;
        let task = shown(desk.fold(once_asked(fence, complete_failed("a"))));
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
    desk.fold(once_asked(fence, complete_failed("a")));
    let stage = Stage::Dead;
    assert_eq!(
        desk.changes,
        [
            Change::Closed { seq, fence },
            Change::Finished { seq, stage }
        ]
    );
}

/// Found by the simulator, seed 6: who is triggered is failed from outside, and cancelled as soon as
/// it waits to be retried; its owner, which had folded neither yet, began it after both answers.
#[test]
fn who_is_about_to_begin_is_completed_once_its_owner_was_asked() {
    for event in [complete("a"), complete_failed("a")] {
        let mut desk = Desk::new();
        let task = desk.bring("a", Stage::Triggered);
        let (seq, fence, owner) = (task.seq, task.fence, task.owner);
        let ask = Outcome::Refused(Refusal::Withdraw { seq, fence, owner });
        assert_eq!(desk.fold(event.clone()), ask);
        assert_eq!(desk.task("a"), task);
        let stale = Fence {
            attempt: fence.attempt + 1,
            ..fence
        };
        assert_eq!(desk.fold(once_asked(stale, event.clone())), ask);
        // Whoever names the fence has it from the attempt, which so has begun.
        let named = Complete {
            fence: Some(fence.number()),
            ..event
        };
        assert_ne!(shown(desk.fold(named)).stage, Stage::Triggered);
    }
}

#[test]
fn what_was_asked_for_one_attempt_counts_for_no_other_moment() {
    let mut desk = Desk::new();
    let fence = desk.bring("a", Stage::Triggered).fence;
    let failed = || once_asked(fence, complete_failed("a"));
    assert_eq!(shown(desk.fold(failed())).stage, Stage::Retrying);
    // Said again because its first answer was lost: it must not end the task for good.
    assert_eq!(desk.fold(failed()), Outcome::Refused(Refusal::Moved));
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
