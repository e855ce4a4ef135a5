//! Finished tasks leave after a while.

use super::*;

#[test]
fn what_is_finished_leaves_in_slices_oldest_first() {
    let mut desk = Desk::new();
    for (n, id) in ["a", "b", "c"].into_iter().enumerate() {
        desk.submit_at(id, 9_000);
        desk.at(2_000 + n as u64).fold(complete(id));
    }
    assert!(!desk.state.has_retirable(&retire(1_999, 1_999, 1)).unwrap());
    assert!(desk.state.has_retirable(&retire(2_000, 0, 1)).unwrap());
    assert_eq!(desk.fold(retire(1_999, 1_999, 10)), counted(0, false));
    assert_eq!(desk.fold(retire(2_002, 0, 2)), counted(2, true));
    assert!(desk.state.task(&key("b")).unwrap().is_none());
    assert!(desk.state.task(&key("c")).unwrap().is_some());
    assert_eq!(desk.fold(retire(2_002, 0, 2)), counted(1, false));
    assert_eq!(desk.state.stats(None), [0; 8]);
}

#[test]
fn the_dead_are_kept_longer() {
    let mut desk = Desk::new();
    for stage in [Stage::Done, Stage::Cancelled, Stage::Dead] {
        desk.bring(stage.name(), stage);
    }
    assert_eq!(desk.fold(retire(99_000, 0, 10)), counted(2, false));
    assert_eq!(desk.stage("dead"), Stage::Dead);
    assert_eq!(desk.fold(retire(0, 99_000, 10)), counted(1, false));
}

#[test]
fn nothing_leaves_before_it_is_finished() {
    let mut desk = Desk::new();
    for stage in Stage::ALL.into_iter().filter(|stage| !stage.is_final()) {
        desk.bring(stage.name(), stage);
    }
    let far = Time::MAX.0;
    assert_eq!(desk.fold(retire(far, far, 100)), counted(0, false));
}

/// What a checkpoint writes, or wrote last, still calls it finished.
#[test]
fn who_runs_again_after_a_checkpoint_does_not_leave_with_the_finished() {
    let mut desk = Desk::new();
    desk.submit_at("a", 9_000);
    desk.at(2_000).fold(complete("a"));
    let under_way = desk.state.begin_checkpoint(Vec::new()).unwrap();
    assert_eq!(
        shown(desk.fold(run_again("a"))).stage,
        Stage::Triggered,
        "beside the checkpoint"
    );
    assert_eq!(desk.fold(retire(99_000, 99_000, 10)), counted(0, false));
    under_way.write().unwrap();
    desk.state.end_checkpoint().unwrap();
    assert_eq!(desk.fold(retire(99_000, 99_000, 10)), counted(0, false));
    assert_eq!(desk.stage("a"), Stage::Triggered);
}

#[test]
fn marks_that_never_met_their_task_leave_too() {
    let mut desk = Desk::new();
    for id in ["a", "b"] {
        desk.fold(Complete {
            mark: true,
            ..complete(id)
        });
    }
    assert!(desk.state.has_retirable(&retire(1_000, 0, 1)).unwrap());
    assert_eq!(desk.fold(retire(999, 999, 10)), counted(0, false));
    assert_eq!(desk.fold(retire(1_000, 0, 1)), counted(1, true));
    assert_eq!(desk.fold(retire(1_000, 0, 1)), counted(1, false));
    assert_eq!(desk.submit_at("a", 5_000).stage, Stage::Scheduled);
}

#[test]
fn marks_have_an_age_of_their_own() {
    let mut desk = Desk::new();
    desk.fold(Complete {
        mark: true,
        ..complete("early")
    });
    desk.bring("done", Stage::Done);
    let only_tasks = Retire {
        marks_up_to: Time(0),
        ..retire(99_000, 0, 10)
    };
    assert_eq!(desk.fold(only_tasks.clone()), counted(1, false));
    assert!(!desk.state.has_retirable(&only_tasks).unwrap());
    assert_eq!(desk.submit_at("early", 99_000).stage, Stage::Done);
}

#[test]
fn an_id_is_free_again_and_names_another_task() {
    let mut desk = Desk::new();
    let old = desk.bring("a", Stage::Done);
    desk.fold(retire(99_000, 0, 10));
    assert_eq!(desk.fold(complete("a")), Outcome::Refused(Refusal::Unknown));
    let new = desk.submit_at("a", 99_000);
    assert!(new.seq > old.seq, "never reused");
    assert_eq!(desk.kinds("a"), ["submitted"]);
    assert_ne!(new.etag(), old.etag());
    let seen = Cancel {
        if_match: Some((old.seq, old.version)),
        ..cancel("a")
    };
    assert_eq!(desk.fold(seen), Outcome::Refused(Refusal::Changed));
}

#[test]
fn run_again_keeps_a_task_from_leaving() {
    let mut desk = Desk::new();
    desk.bring("a", Stage::Dead);
    desk.fold(run("a"));
    assert_eq!(desk.fold(retire(99_000, 99_000, 10)), counted(0, false));
}

#[test]
fn what_is_cold_leaves_in_the_same_slices() {
    let mut desk = Desk::new();
    for id in ["a", "b", "c"] {
        desk.submit_at(id, 9_000);
        desk.at(desk.now + 1).fold(complete(id));
    }
    desk.state.cool(|task| &*task.key.id != "b");
    assert_eq!(desk.fold(retire(99_000, 0, 2)), counted(2, true));
    assert!(desk.state.task(&key("c")).unwrap().is_some());
    assert_eq!(desk.fold(retire(99_000, 0, 2)), counted(1, false));
}
