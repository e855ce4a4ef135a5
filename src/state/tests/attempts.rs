//! Attempts report how they go; only the current one is believed.

use super::*;

#[test]
fn done_ends_the_task() {
    for stage in [Stage::Triggered, Stage::Running] {
        let mut desk = Desk::new();
        let (seq, fence) = {
            let task = desk.bring("a", stage);
            (task.seq, task.fence)
        };
        assert_eq!(desk.fold(done(&desk.task("a"))), Outcome::Folded);
        let task = desk.task("a");
        assert_eq!(
            (task.stage, task.outcome.as_deref()),
            (Stage::Done, Some("delivered"))
        );
        assert_eq!((task.finished, task.tries), (Some(Time(desk.now)), 1));
        let stage = Stage::Done;
        assert_eq!(
            desk.changes,
            [
                Change::Closed { seq, fence },
                Change::Finished { seq, stage }
            ]
        );
        let row = desk.rows("a").pop().unwrap();
        assert_eq!((row.kind, row.node), (RowKind::Done, OWNER));
        assert_eq!(row.end.unwrap().status, 200);
    }
}

#[test]
fn an_attempt_that_takes_a_while_is_reported_as_started() {
    let mut desk = Desk::new();
    let task = desk.bring("a", Stage::Triggered);
    assert_eq!(desk.at(3_000).fold(started(&task)), counted(1, false));
    let after = desk.task("a");
    assert_eq!((after.stage, after.fence), (Stage::Running, task.fence));
    assert_eq!(
        desk.at(4_000).fold(started(&task)),
        counted(0, false),
        "repeated, nothing"
    );
    assert_eq!(desk.task("a"), after);
}

#[test]
fn started_under_an_old_fence_counts_for_nothing() {
    let mut desk = Desk::new();
    let task = desk.bring("a", Stage::Triggered);
    desk.fold(assign_all(2, 1));
    assert_eq!(desk.fold(started(&task)), counted(0, false));
    assert_eq!(desk.stage("a"), Stage::Triggered);
}

#[test]
fn a_deadline_counts_from_the_start_but_a_clock_far_ahead_is_not_believed() {
    let mut desk = Desk::new();
    let task = desk.bring("a", Stage::Triggered);
    let mut report = started(&task);
    report.attempts[0].2 = Time(7_200_000);
    desk.fold(report);
    assert_eq!(desk.task("a").at, Time(2_000 + 1_000 + 40_000), "I-11");
}

#[test]
fn a_202_awaits_its_completion_and_closes_the_attempt() {
    for stage in [Stage::Triggered, Stage::Running] {
        let mut desk = Desk::new();
        let spec = Spec {
            accept_timeout: Some(Span(5_000)),
            ..spec()
        };
        desk.fold(submit("a", When::At(Time(2_000)), &spec));
        desk.trigger(2_000);
        if stage == Stage::Running {
            desk.fold(started(&desk.task("a")));
        }
        let task = desk.task("a");
        assert_eq!(desk.fold(accepted(&task)), Outcome::Folded);
        let after = desk.task("a");
        assert_eq!((after.stage, after.at), (Stage::Accepted, Time(7_000)));
        let (seq, fence) = (task.seq, task.fence);
        assert_eq!(desk.changes, [Change::Closed { seq, fence }]);
        let held = task.fence;
        assert_eq!(
            desk.fold(done(&task)),
            Outcome::Stale { held },
            "the attempt is over"
        );
    }
}

#[test]
fn a_stale_result_is_refused_recorded_and_changes_nothing_else() {
    let mut desk = Desk::new();
    let old = desk.bring("a", Stage::Running);
    desk.fold(assign_all(2, 1));
    let task = desk.task("a");
    let held = task.fence;
    for event in [
        Event::from(done(&old)),
        accepted(&old).into(),
        failed(&old).into(),
        failed_for(&old, Verdict::Final).into(),
        failed_for(&old, Verdict::Expired).into(),
    ] {
        assert_eq!(desk.fold(event), Outcome::Stale { held }, "I-15");
        assert_eq!(desk.task("a"), task);
        assert_eq!(desk.changes, []);
        let row = desk.rows("a").pop().unwrap();
        assert_eq!(
            (row.kind, row.fence, row.node),
            (RowKind::Stale, old.fence, OWNER)
        );
    }
    assert_eq!(desk.fold(done(&task)), Outcome::Folded);
}

#[test]
fn the_same_result_twice_is_stale_the_second_time() {
    let mut desk = Desk::new();
    let task = desk.bring("a", Stage::Triggered);
    desk.fold(failed(&task));
    let held = task.fence;
    assert_eq!(desk.fold(failed(&task)), Outcome::Stale { held });
    assert_eq!(desk.task("a").tries, 1, "I-19: one end, one try");
}

#[test]
fn a_result_for_a_task_that_has_left_is_stale() {
    let mut desk = Desk::new();
    let task = desk.bring("a", Stage::Done);
    desk.fold(retire(99_000, 99_000, 10));
    let held = Fence::default();
    assert_eq!(desk.fold(done(&task)), Outcome::Stale { held });
}
