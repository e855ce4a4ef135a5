//! Bounds, and batches that no sane leader would send: the fold is total.

use super::super::queue::Queue;
use super::*;

#[test]
fn history_is_bounded_and_keeps_how_it_began_and_how_it_ended() {
    let mut desk = Desk::new();
    desk.submit_at("a", 9_000);
    let rows = 2 * limits::HISTORY_ROWS_MAX as u64;
    let changes = (0..rows).map(|n| change_due("a", 10_000 + n).into());
    desk.fold_all(changes.collect());
    desk.fold(cancel("a"));
    let kept = desk.rows("a");
    assert_eq!(kept.len(), limits::HISTORY_ROWS_MAX);
    assert_eq!(kept[0].kind, RowKind::Submitted);
    assert_eq!(kept.last().unwrap().kind, RowKind::Cancelled);
    assert_eq!(kept[kept.len() - 2].until, Time(10_000 + rows - 1));
}

#[test]
fn one_trigger_folds_no_more_than_its_bound_whatever_it_asks_for() {
    let mut desk = Desk::new();
    let count = limits::TRIGGER_MAX + 1;
    let events = (0..count).map(|n| submit(&format!("t{n}"), When::At(Time(2_000)), &spec()));
    desk.fold_all(events.map(Event::from).collect());
    desk.state.cool(|task| task.seq.0 % 2 == 0);
    assert_eq!(
        desk.fold(trigger(2_000, u32::MAX)),
        counted(limits::TRIGGER_MAX, true)
    );
    assert_eq!(desk.fold(trigger(2_000, u32::MAX)), counted(1, false));
}

#[test]
fn over_its_budget_nothing_is_loaded_ahead_and_nothing_is_missed() {
    const MINUTE: u64 = 60_000;
    let desk = || {
        let mut desk = Desk::new();
        desk.submit_at("soon", 10 * MINUTE);
        desk.submit_at("later", 12 * MINUTE);
        desk.state.cool(|_| true);
        desk
    };
    let load = |state: &mut State, budget| {
        let mut tasks = 0;
        loop {
            let loaded = state.load_ahead(Time(13 * MINUTE), budget).unwrap();
            tasks += loaded.tasks;
            if loaded.done {
                return tasks;
            }
        }
    };
    let (mut ahead, mut without) = (desk(), desk());
    assert_eq!(load(&mut ahead.state, usize::MAX), 2);
    assert_eq!(load(&mut without.state, 0), 0);
    for desk in [&mut ahead, &mut without] {
        assert_eq!(desk.trigger(12 * MINUTE), counted(2, false));
    }
    assert_eq!(ahead.state.hash(), without.state.hash());
}

/// Tasks due within one minute, most of them at one instant, of which the store has all: what is
/// held of them does not follow their number, they come in order, and once.
#[test]
fn a_herd_in_one_minute_is_held_in_pieces_and_comes_in_order() {
    const HERD: u64 = 5_000;
    const AT_ONCE: u32 = 10;
    let due = |n: u64| 600_000 + if n.is_multiple_of(3) { n } else { 20_000 };
    let mut desk = Desk::new();
    let submits = (0..HERD).map(|n| submit(&format!("t{n}"), When::At(Time(due(n))), &spec()));
    desk.fold_all(submits.map(Event::from).collect());
    desk.state.cool(|_| true);
    // As much as a queue without entries, and some.
    let budget = Queue::new().memory() + 16 * 100;
    while !desk.state.load_ahead(Time(660_000), budget).unwrap().done {}
    let held = |desk: &Desk| desk.state.table.waiting.memory();
    let most = budget + 16 * 1_024;
    assert!(held(&desk) > Queue::new().memory());
    let (mut taken, mut all) = (Vec::new(), false);
    while !all {
        let size = held(&desk);
        assert!(size < most, "{size} B, after {}", taken.len());
        // Without an audit of them all each time.
        let (stamp, now) = (Time(660_000), Time(660_000));
        let events = vec![trigger(660_000, AT_ONCE).into()];
        let batch = Batch { stamp, now, events };
        desk.index += 1;
        desk.state.prepare(&batch).unwrap();
        let mut changes = Vec::new();
        let outcomes = desk.state.apply(desk.index, batch, &mut changes);
        taken.extend(changes.iter().filter_map(|change| match change {
            Change::Triggered { seq, at, .. } => Some((*at, *seq)),
            _ => None,
        }));
        all = taken.len() as u64 == HERD;
        assert_eq!(outcomes, [counted(AT_ONCE, !all)]);
    }
    desk.state.audit();
    assert!(taken.is_sorted());
    taken.dedup();
    assert_eq!(taken.len() as u64, HERD);
}

#[test]
fn an_entry_without_events_only_moves_the_index() {
    let mut desk = Desk::new();
    let before = desk.state.hash();
    assert_eq!(desk.fold_all(vec![]), []);
    assert_eq!(desk.state.applied(), 2);
    assert_ne!(desk.state.hash(), before, "a hash belongs to its index");
}

#[test]
fn the_stamp_never_goes_back_while_the_clock_may() {
    let mut desk = Desk::new();
    desk.at(5_000).submit_at("a", 9_000);
    let task = desk.at(3_000).submit_at("b", 9_000);
    assert_eq!(task.created, Time(3_000));
    assert_eq!(desk.rows("b")[0].at, Time(5_000), "I-10");
    assert_eq!(desk.state.stamp(), Time(5_000));
}

#[test]
fn hashes_are_kept_at_agreed_indexes_only() {
    let mut desk = Desk::new();
    for _ in 0..limits::HASH_EVERY * (limits::HASHES_KEPT as u64 + 2) {
        desk.index += 1;
        desk.state.advance(desk.index);
    }
    let hashes: Vec<u64> = desk.state.hashes().map(|(index, _)| index).collect();
    assert_eq!(hashes.len(), limits::HASHES_KEPT);
    assert!(hashes.iter().all(|i| i.is_multiple_of(limits::HASH_EVERY)));
    assert!(hashes.is_sorted());
}

#[test]
fn the_ends_of_time_and_of_numbers_break_nothing() {
    let far = u64::MAX;
    let mut desk = Desk::new();
    desk.submit_at("never", far);
    desk.bring("running", Stage::Running);
    desk.bring("accepted", Stage::Accepted);
    desk.bring("triggered", Stage::Triggered);
    desk.at(far);
    let not_before = Span(far);
    let task = desk.task("triggered");
    desk.fold(failed_for(&task, Verdict::Retry { not_before }));
    desk.fold(trigger(far, u32::MAX));
    desk.submit_at("late", 5);
    desk.fold(complete("late"));
    desk.fold(retire(far, far, u32::MAX));
    desk.at(0).fold(run("never"));
    desk.fold(submit("b", When::After(Span(far)), &spec()));
    desk.fold(Assign {
        shards: vec![Shard(u16::MAX)],
        ..assign_all(9, far)
    });
}
