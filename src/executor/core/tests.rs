//! The rules of the one lock, each by itself.

use super::*;
use crate::executor::{Guard, Settings};

const NOW: Duration = Duration::from_secs(10);
const ID: Id = (
    Seq(1),
    Fence {
        epoch: Epoch(1),
        attempt: 1,
    },
);

const OPEN: Open = Open {
    at: Time(5),
    seq: ID.0,
    fence: ID.1,
    hash: 65,
};

fn release(epoch: Epoch) -> Release {
    Release {
        term: 1,
        total: 64,
        shards: vec![crate::model::Shard(1)],
        epoch,
    }
}

#[test]
fn what_was_let_go_of_in_vain_is_read_again() {
    let (mut core, ..) = about_to_begin();
    core.release(&release(Epoch(1)));
    core.new_term(1);
    assert!(!core.wants_more());
    core.new_term(2);
    assert_eq!(core.start_reading(9), Some((before((Time(0), Seq(0))), 9)));
    core.attempts.remove(ID);
    core.finish_reading(&[OPEN], 9);
    assert_eq!(core.held(), 1);
}

#[test]
fn what_an_earlier_run_had_is_not_taken() {
    let mut core = Core::new(&Settings::new(1, Guard::open()));
    let assigned = |node| Change::Assigned {
        node,
        boot: 2,
        epoch: Epoch(2),
    };
    core.change(&assigned(2), Time(0));
    core.hold(OPEN);
    assert_eq!(core.held(), 1, "another node's assignment says nothing");
    core.attempts.remove(ID);
    core.change(&assigned(1), Time(0));
    core.hold(OPEN);
    assert_eq!(core.held(), 1);
}

/// One attempt, due at 5, looked up and with a permit.
fn about_to_begin() -> (Core, FlowKey, Reference, Grant) {
    let mut core = Core::new(&Settings::new(1, Guard::open()));
    core.renew(NOW, NOW);
    core.hold(OPEN);
    let reference = core.pop_due(Time(5), 9)[0];
    let key = FlowKey {
        app: "shop".into(),
        target: "a".into(),
    };
    let grant = core.route(&key, reference, NOW).unwrap();
    (core, key, reference, grant)
}

#[test]
fn a_clock_that_jumps_back_at_the_last_moment_is_heard() {
    let (mut core, key, reference, grant) = about_to_begin();
    assert_eq!(core.begin(&key, reference, Time(4), NOW), Begin::Waits);
    core.free(&key, grant, Told::NOTHING, (Time(5), NOW));
    assert_eq!((core.held(), core.targets.in_flight()), (1, 0));
}

#[test]
fn a_lease_that_runs_out_at_the_last_moment_is_heard() {
    let (mut core, key, reference, grant) = about_to_begin();
    let late = NOW + Duration::from_millis(1_500);
    assert_eq!(core.begin(&key, reference, Time(5), late), Begin::Waits);
    core.free(&key, grant, Told::NOTHING, (Time(5), NOW));
    assert!(core.take(9, late).is_empty());
    assert!(core.renew(late, late), "the renewal matters");
    assert!(!core.renew(late, late), "the next one does not");
    assert_eq!(core.take(9, late).len(), 1);
}

#[test]
fn one_begins_once() {
    let (mut core, key, reference, _) = about_to_begin();
    assert_eq!(core.begin(&key, reference, Time(5), NOW), Begin::Go);
    assert_eq!(core.begin(&key, reference, Time(5), NOW), Begin::Dropped);
}

#[test]
fn withdrawn_closed_or_released_at_the_last_moment_is_heard() {
    for which in 0..3 {
        let (mut core, key, reference, _) = about_to_begin();
        match which {
            0 => assert!(core.attempts.withdraw(ID, NOW)),
            1 => core.attempts.close(ID),
            _ => assert_eq!(core.release(&release(Epoch(1))), []),
        }
        assert_eq!(core.begin(&key, reference, Time(5), NOW), Begin::Dropped);
    }
}

#[test]
fn a_pause_at_the_last_moment_is_heard_and_its_end_brings_it_back() {
    let (mut core, key, reference, grant) = about_to_begin();
    let paused = |apps: &[&str]| Change::Paused {
        apps: std::sync::Arc::new(apps.iter().map(|app| (*app).into()).collect()),
    };
    core.change(&paused(&["shop"]), Time(5));
    assert_eq!(core.begin(&key, reference, Time(5), NOW), Begin::Waits);
    core.free(&key, grant, Told::NOTHING, (Time(5), NOW));
    assert!(
        !core.knows(&OPEN, NOW) && core.targets.has_spilled(&key, (OPEN.at, OPEN.seq)),
        "the watchdog leaves it alone"
    );
    assert!(!core.wants_more() && core.waiting() == 0);
    core.change(&paused(&[]), Time(6));
    assert!(core.wants_more() && core.knows(&OPEN, NOW));
    let (after, limit) = core.start_reading(9).unwrap();
    assert_eq!(after, (Time(5), Seq(0)));
    core.finish_reading(&[OPEN], limit);
    let reference = core.pop_due(Time(6), 9)[0];
    assert!(core.route(&key, reference, NOW).is_some());
    assert_eq!(core.begin(&key, reference, Time(6), NOW), Begin::Go);
}

#[test]
fn places_follow_each_other() {
    assert_eq!(before((Time(5), Seq(1))), (Time(5), Seq(0)));
    assert_eq!(before((Time(5), Seq(0))), (Time(4), Seq(u64::MAX)));
}
