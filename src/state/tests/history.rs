//! What happened to a task stays readable when the task has left, for a time of its own.

use super::*;
use crate::state::{History, RedbStore, past_surplus};

/// Drops everything that finished up to an instant, and histories up to another.
fn forget(finished: u64, history: u64) -> Retire {
    Retire {
        history_up_to: Time(history),
        ..retire(finished, finished, 10)
    }
}

fn told(desk: &Desk, id: &str) -> Vec<History> {
    desk.state.histories(&key(id)).unwrap()
}

/// (retired, stage, kinds of rows) of each task that an id named.
fn brief(desk: &Desk, id: &str) -> Vec<(bool, &'static str, Vec<&'static str>)> {
    let each = |h: History| {
        let kinds = h.rows.iter().map(|row| row.kind.name()).collect();
        (h.retired, h.task.stage.name(), kinds)
    };
    told(desk, id).into_iter().map(each).collect()
}

fn checkpoint(desk: &mut Desk) {
    desk.state.cool(|_| true);
}

#[test]
fn it_outlives_the_task_and_ends_at_its_own_instant() {
    for cold in [false, true] {
        let mut desk = Desk::new();
        let task = desk.bring("a", Stage::Done);
        let rows = desk.rows("a");
        assert_eq!(desk.fold(forget(task.at.0, 0)), counted(1, false));
        assert!(desk.state.task(&key("a")).unwrap().is_none());
        if cold {
            checkpoint(&mut desk);
        }
        let [past] = &told(&desk, "a")[..] else {
            panic!("one task")
        };
        assert!(past.retired && past.rows == rows);
        assert_eq!((&past.task.outcome, past.task.at), (&task.outcome, task.at));
        assert!(past.task.spec.is_empty(), "what it asked for is not kept");

        let next = forget(0, task.at.0);
        let before = forget(0, task.at.0 - 1);
        assert!(!desk.state.has_retirable(&before).unwrap());
        desk.fold(before);
        assert_eq!(told(&desk, "a").len(), 1);
        assert!(desk.state.has_retirable(&next).unwrap());
        desk.fold(next.clone());
        assert_eq!(told(&desk, "a"), []);
        assert!(!desk.state.has_retirable(&next).unwrap());
    }
}

#[test]
fn it_leaves_with_the_task_when_no_time_is_left_for_it() {
    let mut desk = Desk::new();
    let task = desk.bring("a", Stage::Done);
    desk.fold(forget(task.at.0, task.at.0));
    assert_eq!(told(&desk, "a"), []);
    // And costs nothing from here on.
    assert!(desk.state.table.dirty.past.is_empty());
    let cells = &desk.state.table.dirty.cells;
    assert!(cells.values().all(|cell| cell.rows.is_empty()));
}

#[test]
fn an_id_that_is_used_again_tells_of_all_its_tasks_the_newest_first() {
    let mut desk = Desk::new();
    desk.bring("a", Stage::Cancelled);
    desk.fold(forget(99_000, 0));
    checkpoint(&mut desk);
    desk.at(2_000).bring("a", Stage::Dead);
    desk.fold(forget(99_000, 0));
    desk.at(50_000).submit_at("a", 90_000);
    let expected = [
        (false, "scheduled", vec!["submitted"]),
        (true, "dead", vec!["submitted", "triggered", "dead"]),
        (true, "cancelled", vec!["submitted", "cancelled"]),
    ];
    assert_eq!(brief(&desk, "a"), expected);
    checkpoint(&mut desk);
    assert_eq!(brief(&desk, "a"), expected);
    let seqs: Vec<Seq> = told(&desk, "a").iter().map(|h| h.task.seq).collect();
    assert!(seqs.is_sorted_by(|a, b| a > b));
    // Only what has ended leaves.
    desk.fold(forget(0, 99_000));
    assert_eq!(brief(&desk, "a"), expected[..1]);
}

#[test]
fn rows_of_all_generations_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open(&dir.path().join("state.redb")).unwrap();
    let mut desk = Desk {
        state: State::new(Box::new(store)),
        ..Desk::new()
    };
    desk.fold(assign_all(OWNER, 1));
    desk.submit_with_tries("a", 2_000, 3);
    checkpoint(&mut desk);
    desk.trigger(2_000);
    // The attempt's row is being written while the task ends and leaves.
    let under_way = desk.state.begin_checkpoint(Vec::new()).unwrap();
    desk.fold(done(&desk.task("a")));
    desk.fold(forget(99_000, 0));
    let expected = [(true, "done", vec!["submitted", "triggered", "done"])];
    assert_eq!(brief(&desk, "a"), expected);
    under_way.write().unwrap();
    assert_eq!(brief(&desk, "a"), expected);
    desk.state.end_checkpoint().unwrap();
    assert_eq!(brief(&desk, "a"), expected);
    checkpoint(&mut desk);
    assert_eq!(brief(&desk, "a"), expected);
}

#[test]
fn one_answer_tells_of_so_many_tasks_at_most() {
    let mut desk = Desk::new();
    let most = limits::PAST_SHOWN_MAX;
    for n in 0..most as u64 + 4 {
        desk.at(1_000 + n).bring("a", Stage::Cancelled);
        desk.fold(forget(99_000, 0));
        if n % 5 == 0 {
            checkpoint(&mut desk);
        }
    }
    let told = told(&desk, "a");
    assert_eq!(told.len(), most);
    assert_eq!(told[0].task.created, Time(1_000 + most as u64 + 3));
}

#[test]
fn a_herd_leaves_memory_with_the_next_checkpoint() {
    let mut desk = Desk::new();
    let submits = (0..400).map(|n| submit(&format!("t{n}"), When::At(Time(9_000)), &spec()).into());
    desk.fold_all(submits.collect());
    desk.fold_all((0..400).map(|n| cancel(&format!("t{n}")).into()).collect());
    desk.fold(Retire {
        max: 1_000,
        ..forget(99_000, 0)
    });
    assert_eq!(desk.state.past_waits(), 400);
    checkpoint(&mut desk);
    assert_eq!(desk.state.past_size().unwrap().tasks, 400);
    assert_eq!(desk.state.past_waits(), 0);
    assert!(desk.state.table.layers().all(|layer| layer.past.is_empty()));
    // What is below the floor is hidden at once, and leaves the store in slices.
    desk.fold(forget(0, 99_000));
    assert_eq!(told(&desk, "t7"), []);
    let mut checkpoints = 0;
    while desk.state.dirty() > 0 {
        checkpoint(&mut desk);
        checkpoints += 1;
    }
    assert_eq!(desk.state.past_size().unwrap(), Default::default());
    assert!((2..=400).contains(&checkpoints), "{checkpoints}");
}

#[test]
fn what_takes_too_much_leaves_oldest_first() {
    let mut desk = Desk::new();
    for n in 0..10 {
        desk.at(1_000 + n).bring(&format!("t{n}"), Stage::Cancelled);
    }
    desk.fold(forget(99_000, 0));
    checkpoint(&mut desk);
    let size = desk.state.past_size().unwrap();
    let image = || desk.state.image().unwrap().unwrap().0;
    assert_eq!(past_surplus(&*image(), size.bytes).unwrap(), None);
    let one_too_many = past_surplus(&*image(), size.bytes - 1).unwrap();
    assert_eq!(one_too_many, Some(Time(1_000)));
    let half = past_surplus(&*image(), size.bytes / 2).unwrap();
    assert_eq!(half, Some(Time(1_004)));
    assert_eq!(past_surplus(&*image(), 0).unwrap(), Some(Time(1_009)));
    desk.fold(forget(0, 1_004));
    let left = (0..10).filter(|n| !told(&desk, &format!("t{n}")).is_empty());
    assert_eq!(left.collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
}
