//! Running now, whatever the clock says.

use super::*;

#[test]
fn what_waits_runs_now() {
    for stage in [Stage::Scheduled, Stage::Retrying] {
        let mut desk = Desk::new();
        let before = desk.bring("a", stage);
        let task = shown(desk.fold(run("a")));
        assert_eq!((task.stage, task.at), (Stage::Triggered, Time(desk.now)));
        assert_eq!(
            (task.due, task.tries),
            (before.due, before.tries),
            "{stage}: the same series"
        );
        assert_eq!(task.fence.attempt, before.fence.attempt + 1);
        assert_eq!(desk.kinds("a").last(), Some(&"run"));
        assert_eq!(
            desk.trigger(99_000),
            counted(0, false),
            "not again when it is due"
        );
    }
}

#[test]
fn what_is_triggered_runs_already() {
    let mut desk = Desk::new();
    let task = desk.bring("a", Stage::Triggered);
    assert_eq!(shown(desk.fold(run("a"))), task);
    assert_eq!(desk.changes, []);
}

#[test]
fn what_has_begun_is_refused() {
    for stage in [Stage::Running, Stage::Accepted] {
        let mut desk = Desk::new();
        desk.bring("a", stage);
        assert_stage_refused(desk.fold(run("a")), stage);
        assert_stage_refused(desk.fold(run_again("a")), stage);
    }
    assert_eq!(
        Desk::new().fold(run("a")),
        Outcome::Refused(Refusal::Unknown)
    );
}

#[test]
fn what_is_over_begins_a_new_series() {
    for stage in [Stage::Dead, Stage::Cancelled, Stage::Done] {
        let mut desk = Desk::new();
        let before = desk.bring("a", stage);
        desk.at(50_000);
        let task = shown(desk.fold(run_again("a")));
        assert_eq!((task.stage, task.tries), (Stage::Triggered, 0), "{stage}");
        assert_eq!(
            (task.due, task.at),
            (Time(50_000), Time(50_000)),
            "its age counts from here"
        );
        assert_eq!(
            (&task.finished, &task.outcome, &task.error),
            (&None, &None, &None)
        );
        assert_eq!(
            task.fence.attempt,
            before.fence.attempt + 1,
            "attempts go on"
        );
        let last = desk.rows("a").pop().unwrap();
        assert_eq!((last.kind, last.by), (RowKind::Run, Some(by())));
        assert_eq!(
            desk.rows("a")
                .iter()
                .filter(|row| row.index == desk.index)
                .count(),
            1,
            "one wish, one row"
        );
    }
}

#[test]
fn done_runs_only_again() {
    let mut desk = Desk::new();
    let task = desk.bring("a", Stage::Done);
    assert_eq!(desk.fold(run("a")), Outcome::Refused(Refusal::AlreadyDone));
    assert_eq!(desk.task("a"), task);
}

#[test]
fn dead_and_cancelled_run_without_saying_again() {
    for stage in [Stage::Dead, Stage::Cancelled] {
        let mut desk = Desk::new();
        desk.bring("a", stage);
        assert_eq!(shown(desk.fold(run("a"))).stage, Stage::Triggered);
    }
}

#[test]
fn a_new_series_has_all_its_tries() {
    let mut desk = Desk::new();
    desk.submit_with_tries("a", 2_000, 2);
    for round in 0..2 {
        for try_ in 1..=2 {
            desk.trigger(desk.now + 2_000);
            assert_eq!(desk.stage("a"), Stage::Triggered, "{round} {try_}");
            desk.fold(failed(&desk.task("a")));
        }
        assert_eq!(desk.stage("a"), Stage::Dead);
        desk.fold(run("a"));
    }
    assert_eq!(desk.fence("a").attempt, 5);
}
