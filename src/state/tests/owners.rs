//! Shards change hands.

use super::*;
use crate::state::Open;

#[test]
fn an_assignment_redispatches_what_is_open_once_and_counts_no_try() {
    let mut desk = Desk::new();
    for (id, stage) in [("t", Stage::Triggered), ("r", Stage::Running)] {
        desk.bring(id, stage);
    }
    let before = [desk.task("t"), desk.task("r")];
    assert_eq!(desk.at(9_000).fold(assign_all(2, 7)), counted(2, false));
    for (old, at) in before.iter().zip([2_000, 9_000]) {
        let task = desk.task(&old.key.id);
        assert_eq!(
            (task.stage, task.owner, task.tries),
            (Stage::Triggered, 2, 0)
        );
        assert_eq!(task.at, Time(at), "what had begun starts over at once");
        assert!(task.fence > old.fence, "I-14");
        assert_eq!(task.fence.attempt, 2);
        assert!(desk.changes.contains(&Change::Closed {
            seq: old.seq,
            fence: old.fence
        }));
        assert_eq!(desk.kinds(&old.key.id).last(), Some(&"redispatched"));
    }
    assert!(matches!(
        desk.changes[0],
        Change::Assigned {
            node: 2,
            boot: 7,
            epoch: Epoch(2)
        }
    ));
    assert_eq!(desk.changes.len(), 5);
}

#[test]
fn what_is_not_open_stays_where_it_is() {
    let mut desk = Desk::new();
    let stages = Stage::ALL
        .into_iter()
        .rev()
        .filter(|stage| !stage.is_open());
    let before: Vec<Task> = stages
        .map(|stage| desk.bring(stage.name(), stage))
        .collect();
    assert_eq!(desk.fold(assign_all(2, 1)), counted(0, false));
    for task in before {
        assert_eq!(desk.task(&task.key.id), task);
    }
}

#[test]
fn only_the_named_shards_change_hands() {
    let mut desk = Desk::new();
    let ids: Vec<String> = (0..20).map(|n| format!("t{n}")).collect();
    ids.iter()
        .for_each(|id| drop(desk.bring(id, Stage::Triggered)));
    let shard = |id: &String| key(id).shard(limits::SHARDS_DEFAULT);
    let chosen = shard(&ids[0]);
    let expected = ids.iter().filter(|id| shard(id) == chosen).count();
    assert_eq!(desk.state.open_by_shard()[usize::from(chosen.0)], expected);
    let event = Assign {
        shards: vec![chosen, chosen, Shard(9_999)],
        ..assign_all(2, 1)
    };
    assert_eq!(
        desk.fold(event),
        counted(expected as u32, false),
        "named twice, done once"
    );
    for id in &ids {
        let owner = if shard(id) == chosen { 2 } else { OWNER };
        assert_eq!(desk.task(id).owner, owner);
    }
    assert!(!desk.state.owns_all(OWNER, 1));
    assert_eq!(
        desk.state
            .shards()
            .filter(|(_, held)| held.node == 2)
            .count(),
        1
    );
}

#[test]
fn the_same_node_again_means_its_earlier_run_is_over() {
    let mut desk = Desk::new();
    let old = desk.bring("a", Stage::Running);
    desk.fold(assign_all(OWNER, 2));
    assert!(desk.state.owns_all(OWNER, 2));
    let held = desk.fence("a");
    assert_eq!(desk.fold(done(&old)), Outcome::Stale { held });
}

#[test]
fn the_next_attempt_goes_to_the_new_owner() {
    let mut desk = Desk::new();
    desk.bring("a", Stage::Retrying);
    desk.fold(assign_all(2, 1));
    desk.trigger(desk.now + 1_000);
    let task = desk.task("a");
    assert_eq!((task.owner, task.fence.epoch), (2, Epoch(2)));
    let current = Open {
        at: Time(3_000),
        seq: task.seq,
        fence: task.fence,
        hash: task.key.hash(),
    };
    assert_eq!(desk.state.open_after(2, None, 9), [current]);
    assert_eq!(desk.state.open_after(OWNER, None, 9), []);
}

#[test]
fn an_owner_reads_its_open_attempts_in_order_of_their_instants() {
    let mut desk = Desk::new();
    for (id, due) in [("a", 3_000), ("b", 2_000), ("c", 2_500)] {
        desk.submit_at(id, due);
    }
    desk.trigger(3_000);
    desk.fold(started(&desk.task("c")));
    let page = desk.state.open_after(OWNER, None, 1);
    assert_eq!(page.len(), 1);
    let Open { at, seq, .. } = page[0];
    assert_eq!(at, Time(2_000));
    let rest = desk.state.open_after(OWNER, Some((at, seq)), 9);
    assert_eq!(rest.len(), 1, "c has started already");
    assert_eq!(rest[0].at, Time(3_000));
    let task = desk.task("a");
    let dispatch = desk.state.dispatch(task.seq, task.fence).unwrap().unwrap();
    assert_eq!((dispatch.key, dispatch.at), (task.key, task.at));
    desk.fold(assign_all(2, 1));
    assert!(desk.state.dispatch(task.seq, task.fence).unwrap().is_none());
}

/// What the watchdog found nobody holding: only that, and only while it is what it was.
#[test]
fn only_what_is_lost_is_handed_out_again() {
    let mut desk = Desk::new();
    let held = desk.bring("held", Stage::Triggered);
    let running = desk.bring("running", Stage::Running);
    let lost = desk.bring("lost", Stage::Triggered);
    let over = desk.bring("over", Stage::Done);
    let named = |tasks: &[&Task]| Again {
        cause: "watchdog".into(),
        attempts: tasks.iter().map(|task| (task.seq, task.fence)).collect(),
    };
    let event = named(&[&lost, &over, &lost]);
    assert_eq!(desk.fold(event.clone()), counted(1, false));
    let again = desk.task("lost");
    assert_eq!(
        (again.stage, again.at, again.tries),
        (Stage::Triggered, lost.at, 0)
    );
    assert_eq!(again.fence.attempt, lost.fence.attempt + 1);
    assert!(again.fence > lost.fence, "I-14");
    let (_, rows) = desk.state.rows(&key("lost")).unwrap().unwrap();
    let row = rows.last().unwrap();
    assert_eq!(
        (row.kind, row.by.as_deref()),
        (RowKind::Redispatched, Some("watchdog"))
    );
    for task in [&held, &running, &over] {
        assert_eq!(desk.task(&task.key.id), *task, "it goes on as it is");
    }
    assert_eq!(desk.fold(event), counted(0, false), "its fence is old now");
    assert_eq!(desk.fold(done(&held)), Outcome::Folded);
    assert_eq!(desk.fold(done(&running)), Outcome::Folded);
    let stale = Outcome::Stale { held: again.fence };
    assert_eq!(desk.fold(done(&lost)), stale, "I-15");
    assert_eq!(desk.fold(done(&again)), Outcome::Folded);
}

/// A planned move: what the former owner has begun it ends, and the rest begins anew elsewhere.
#[test]
fn what_is_kept_goes_on_where_it_is() {
    let mut desk = Desk::new();
    let begun = desk.bring("begun", Stage::Triggered);
    let running = desk.bring("running", Stage::Running);
    let waits = desk.bring("waits", Stage::Triggered);
    let kept = |tasks: &[&Task]| tasks.iter().map(|task| (task.seq, task.fence)).collect();
    let event = Assign {
        kept: kept(&[&running, &begun]),
        ..assign_all(2, 1)
    };
    assert_eq!(desk.fold(event), counted(1, false));
    for task in [&begun, &running] {
        assert_eq!(desk.task(&task.key.id), *task, "it goes on as it is");
    }
    let moved = desk.task("waits");
    assert_eq!((moved.owner, moved.fence.attempt), (2, 2));
    assert_eq!(desk.fold(done(&begun)), Outcome::Folded);
    assert!(matches!(desk.fold(done(&waits)), Outcome::Stale { .. }));

    // The next owner is lost: what the first one still runs there is not its.
    assert_eq!(desk.state.strays(OWNER), kept(&[&running]) as Vec<_>);
    assert_eq!(desk.state.strays(2), []);
    assert_eq!(desk.fold(assign_all(3, 1)), counted(1, false));
    assert_eq!(desk.task("running"), running);
    assert_eq!(desk.task("waits").owner, 3);

    // The first one is lost too, and whatever it had goes to the present owner.
    let strays = Again {
        attempts: desk.state.strays(OWNER),
        cause: "lease".into(),
    };
    assert_eq!(desk.fold(strays), counted(1, false));
    let again = desk.task("running");
    assert_eq!((again.owner, again.stage), (3, Stage::Triggered));
    assert!(again.fence > running.fence, "I-14");
    assert!(
        matches!(desk.fold(done(&running)), Outcome::Stale { .. }),
        "I-15"
    );
    assert_eq!(desk.fold(done(&again)), Outcome::Folded);
}

/// What the former owner kept is its own when the shard comes back to it.
#[test]
fn a_shard_that_comes_back_finds_what_was_kept() {
    let mut desk = Desk::new();
    let begun = desk.bring("begun", Stage::Running);
    let kept = vec![(begun.seq, begun.fence)];
    let away = Assign {
        kept,
        ..assign_all(2, 1)
    };
    desk.fold(away);
    assert_eq!(desk.fold(assign_all(OWNER, 1)), counted(0, false));
    assert_eq!(desk.task("begun"), begun);
    assert_eq!(desk.fold(assign_all(OWNER, 2)), counted(1, false));
    assert_eq!(desk.task("begun").fence.attempt, 2, "its run is over");
}
