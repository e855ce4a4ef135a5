//! A pause is noted, told and kept, and stops nothing in the fold.

use std::collections::BTreeSet;

use super::*;
use crate::model::limits::PAUSED_APPS_MAX;

fn told(desk: &Desk) -> Option<BTreeSet<Arc<str>>> {
    desk.changes.iter().find_map(|change| match change {
        Change::Paused { apps } => Some(apps.as_ref().clone()),
        _ => None,
    })
}

fn app() -> Arc<str> {
    key("any").app
}

#[test]
fn a_pause_says_since_when_by_whom_and_why() {
    let mut desk = Desk::new();
    let Outcome::App(Some(paused)) = desk.at(5_000).fold(pause("shop")) else {
        panic!("it is paused");
    };
    assert_eq!((paused.at, paused.index), (Time(5_000), desk.index));
    assert_eq!(paused.reason.as_deref(), Some("maintenance"));
    assert_eq!(told(&desk), Some(["shop".into()].into()));
    let again = PauseApp {
        reason: None,
        ..pause("shop")
    };
    desk.at(6_000).fold(again);
    let held = desk.state.paused("shop").unwrap();
    assert_eq!((held.at, held.reason.clone()), (Time(5_000), None));
    assert_eq!(desk.fold(resume("shop")), Outcome::App(None));
    assert_eq!(told(&desk), Some(BTreeSet::new()));
    desk.fold(resume("shop"));
    assert_eq!(told(&desk), None, "nothing has changed");
}

#[test]
fn tasks_of_a_paused_application_are_taken_triggered_and_cancelled() {
    let mut desk = Desk::new();
    desk.fold(pause(&app()));
    desk.submit_at("a", 2_000);
    desk.submit_at("b", 90_000);
    desk.trigger(2_000);
    assert_eq!(desk.stage("a"), Stage::Triggered);
    assert_eq!(desk.fold(cancel("b")), desk.fold(cancel("b")));
    assert_eq!(desk.stage("b"), Stage::Cancelled);
}

#[test]
fn the_hash_counts_it_and_a_snapshot_brings_it_along() {
    let (mut paused, mut other) = (Desk::new(), Desk::new());
    paused.fold(pause("shop"));
    other.fold(pause("bank"));
    assert_ne!(paused.state.hash(), other.state.hash());
    let bytes = paused.state.snapshot_now(b"");
    let store = Box::new(MemoryStore::default());
    let (state, _) = State::restore(&mut &bytes[..], store).unwrap();
    assert_eq!(state.paused("shop"), paused.state.paused("shop"));
    assert_eq!(state.paused_change(), paused.state.paused_change());
    assert_eq!(state.hash(), paused.state.hash());
}

#[test]
fn they_are_bounded() {
    let mut desk = Desk::new();
    for n in 0..PAUSED_APPS_MAX {
        let batch = pause(&format!("a{n}")).into();
        let (stamp, now) = (Time(1), Time(1));
        let events = vec![batch];
        let batch = Batch { stamp, now, events };
        desk.index += 1;
        desk.state.prepare(&batch).unwrap();
        // The whole set rides along with each; here only the last one counts.
        desk.state.apply(desk.index, batch, &mut desk.changes);
        desk.changes.clear();
    }
    let refused = Outcome::Refused(Refusal::TooManyPaused);
    assert_eq!(desk.fold(pause("one-more")), refused);
    assert!(matches!(desk.fold(pause("a7")), Outcome::App(Some(_))));
    desk.fold(resume("a7"));
    assert!(matches!(
        desk.fold(pause("one-more")),
        Outcome::App(Some(_))
    ));
}
