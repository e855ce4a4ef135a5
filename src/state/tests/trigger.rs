//! The hand moves: what is due is triggered, and what took too long is given up.

use super::*;

/// The attempts that began in the last fold, in order.
fn begun(desk: &Desk) -> Vec<(u64, u64)> {
    let triggered = |change: &Change| match change {
        Change::Triggered { seq, at, .. } => Some((at.0, seq.0)),
        _ => None,
    };
    desk.changes.iter().filter_map(triggered).collect()
}

#[test]
fn due_tasks_are_triggered_in_order_of_instant_then_creation() {
    let mut desk = Desk::new();
    let seqs: Vec<u64> = [("a", 3_000), ("b", 2_000), ("c", 3_000), ("d", 2_500)]
        .into_iter()
        .map(|(id, due)| desk.submit_at(id, due).seq.0)
        .collect();
    let ordered = [
        (2_000, seqs[1]),
        (2_500, seqs[3]),
        (3_000, seqs[0]),
        (3_000, seqs[2]),
    ];

    assert_eq!(desk.at(3_000).fold(trigger(3_000, 3)), counted(3, true));
    assert_eq!(begun(&desk), ordered[..3]);
    assert_eq!(desk.fold(trigger(3_000, 3)), counted(1, false));
    assert_eq!(begun(&desk), ordered[3..]);
    assert_eq!(desk.fold(trigger(3_000, 3)), counted(0, false));
}

#[test]
fn nothing_is_triggered_before_its_instant() {
    let mut desk = Desk::new();
    desk.submit_at("a", 3_000);
    assert_eq!(desk.trigger(2_999), counted(0, false));
    assert_eq!(desk.stage("a"), Stage::Scheduled);
    assert_eq!(desk.fold(trigger(3_000, 1)), counted(1, false));
    let row = desk.rows("a").pop().unwrap();
    assert_eq!(
        (row.until, row.node, row.fence.attempt),
        (Time(3_000), OWNER, 1)
    );
}

#[test]
fn committed_ahead_the_attempt_still_says_when_it_is_due() {
    let mut desk = Desk::new();
    desk.submit_at("a", 3_000);
    desk.at(2_900).fold(trigger(3_050, 10));
    assert_eq!(
        (desk.stage("a"), desk.task("a").at),
        (Stage::Triggered, Time(3_000))
    );
    assert_eq!(desk.state.hand(), Time(3_050));
}

#[test]
fn the_hand_never_goes_back() {
    let mut desk = Desk::new();
    desk.fold(trigger(5_000, 10));
    desk.fold(trigger(4_000, 10));
    assert_eq!(desk.state.hand(), Time(5_000));
    desk.at(500);
    assert_eq!(
        desk.submit_at("a", 5_000).stage,
        Stage::Triggered,
        "I-12: it was passed already"
    );
}

#[test]
fn while_a_herd_waits_the_hand_stands_before_it() {
    let mut desk = Desk::new();
    for id in ["a", "b", "c"] {
        desk.submit_at(id, 3_000);
    }
    assert_eq!(desk.fold(trigger(3_500, 2)), counted(2, true));
    assert_eq!(
        desk.state.hand(),
        Time(2_999),
        "not everything due at 3,000 was triggered"
    );
    assert_eq!(
        desk.submit_at("d", 3_000).stage,
        Stage::Scheduled,
        "it waits for its turn"
    );
    assert_eq!(desk.fold(trigger(3_500, 2)), counted(2, false));
    assert_eq!(desk.state.hand(), Time(3_500));
}

#[test]
fn no_room_means_only_an_answer() {
    let mut desk = Desk::new();
    desk.submit_at("a", 3_000);
    assert_eq!(desk.fold(trigger(2_000, 0)), counted(0, false));
    assert_eq!(desk.fold(trigger(3_000, 0)), counted(0, true));
    assert_eq!(
        (desk.stage("a"), desk.state.hand()),
        (Stage::Scheduled, Time(2_000))
    );
}

#[test]
fn a_running_attempt_without_an_outcome_is_retried_after_its_deadline() {
    let mut desk = Desk::new();
    desk.bring("a", Stage::Running);
    // Ten seconds for the request, thirty for its outcome.
    assert_eq!(desk.task("a").at, Time(2_000 + 40_000));
    assert_eq!(desk.at(41_999).fold(trigger(99_000, 10)), counted(0, false));
    assert_eq!(
        desk.stage("a"),
        Stage::Running,
        "only `now` passes a deadline, never `until`"
    );
    let (seq, fence) = (desk.task("a").seq, desk.fence("a"));
    assert_eq!(desk.at(42_000).fold(trigger(42_000, 10)), counted(1, false));
    assert_eq!(desk.changes[0], Change::Closed { seq, fence });
    let task = desk.task("a");
    assert_eq!(task.tries, 1);
    assert!(task.error.unwrap().contains("no outcome"));
}

#[test]
fn an_accepted_task_that_is_not_completed_is_retried_after_its_deadline() {
    let mut desk = Desk::new();
    desk.bring("a", Stage::Accepted);
    let hour = 3_600_000;
    assert_eq!(desk.task("a").at, Time(2_000 + hour));
    assert_eq!(desk.trigger(2_000 + hour - 1), counted(0, false));
    assert_eq!(desk.trigger(2_000 + hour), counted(1, false));
    let task = desk.task("a");
    assert_eq!((task.stage, task.at), (Stage::Retrying, Time(3_000 + hour)));
}

#[test]
fn the_last_try_that_runs_into_its_deadline_is_dead() {
    let mut desk = Desk::new();
    desk.submit_with_tries("a", 2_000, 1);
    desk.trigger(2_000);
    desk.fold(started(&desk.task("a")));
    let (seq, fence) = (desk.task("a").seq, desk.fence("a"));
    desk.trigger(42_000);
    let stage = Stage::Dead;
    assert_eq!(
        desk.changes,
        [
            Change::Closed { seq, fence },
            Change::Finished { seq, stage }
        ]
    );
    assert_eq!(desk.kinds("a").last(), Some(&"dead"));
}

#[test]
fn deadlines_and_due_tasks_share_one_bound() {
    let mut desk = Desk::new();
    desk.bring("a", Stage::Running);
    desk.bring("b", Stage::Running);
    desk.submit_at("c", 42_000);
    desk.at(42_000);
    assert_eq!(desk.fold(trigger(42_000, 1)), counted(1, true));
    assert_eq!(
        [desk.stage("a"), desk.stage("b"), desk.stage("c")],
        [Stage::Retrying, Stage::Running, Stage::Scheduled]
    );
    assert_eq!(desk.fold(trigger(42_000, 2)), counted(2, false));
    assert_eq!(
        [desk.stage("b"), desk.stage("c")],
        [Stage::Retrying, Stage::Triggered]
    );
}

#[test]
fn the_proposer_is_told_whether_a_trigger_would_find_anything() {
    let mut desk = Desk::new();
    desk.submit_at("a", 50_000);
    assert_eq!(
        desk.state.next().unwrap(),
        (Some(Time(50_000)), None),
        "beyond the horizon"
    );
    assert!(!desk.state.has_due(Time(41_000), Time(0)).unwrap());
    assert_eq!(desk.state.next().unwrap(), (Some(Time(50_000)), None));
    desk.bring("b", Stage::Running);
    assert_eq!(desk.state.next().unwrap().1, Some(Time(42_000)));
    assert!(!desk.state.has_due(Time(49_999), Time(41_999)).unwrap());
    assert!(desk.state.has_due(Time(50_000), Time(41_999)).unwrap());
    assert!(desk.state.has_due(Time(49_999), Time(42_000)).unwrap());
    desk.state.cool(|_| true);
    assert_eq!(desk.state.next().unwrap().0, Some(Time(50_000)));
    assert!(desk.state.has_due(Time(50_000), Time(0)).unwrap());
}

#[test]
fn loading_ahead_counts_what_comes_into_the_wheel() {
    let mut desk = Desk::new();
    let minute = Span::minutes(1).0;
    for n in 0..5 {
        desk.submit_at(&format!("t-{n}"), (10 + n) * minute);
    }
    let load = |desk: &mut Desk, until: u64| {
        let mut tasks = 0;
        loop {
            let loaded = desk.state.load_ahead(Time(until), usize::MAX).unwrap();
            tasks += loaded.tasks;
            if loaded.done {
                return tasks;
            }
        }
    };
    assert_eq!(load(&mut desk, 9 * minute), 0);
    assert_eq!(load(&mut desk, 12 * minute), 3);
    assert_eq!(load(&mut desk, 12 * minute), 0, "once");
    assert_eq!(load(&mut desk, 99 * minute), 2);
}
