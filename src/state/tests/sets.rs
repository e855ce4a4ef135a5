//! Shard sets: made, resized, filled, handed out; the tasks stay where they are.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::limits::SHARD_SETS_MAX;
use crate::state::Filter;

fn make(name: &str, total: u16) -> MakeSet {
    MakeSet {
        name: name.into(),
        total: Some(total),
        by: "test".into(),
    }
}

fn remove(name: &str) -> MakeSet {
    MakeSet {
        total: None,
        ..make(name, 1)
    }
}

fn fill(name: Option<&str>) -> FillSets {
    FillSets {
        name: name.map(Into::into),
        window: Span::minutes(1),
        by: "test".into(),
    }
}

fn pop(name: &str) -> PopShard {
    PopShard {
        name: name.into(),
        by: "test".into(),
    }
}

/// The shard that was handed out, of how many.
fn popped(outcome: Outcome) -> Option<(u16, u16)> {
    match outcome {
        Outcome::Set { set, popped } => Some((popped?, set.fill?.total)),
        other => panic!("{other:?}"),
    }
}

fn refused(outcome: Outcome) -> Refusal {
    match outcome {
        Outcome::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_shard_of_a_fill_is_handed_out_once_whatever_becomes_of_the_set() {
    let mut desk = Desk::new();
    desk.fold(make("eu", 2));
    assert_eq!(refused(desk.fold(pop("eu"))), Refusal::NotFilled);
    assert_eq!(desk.fold(fill(Some("eu"))), counted(1, false));
    assert_eq!(popped(desk.fold(pop("eu"))), Some((0, 2)));
    // Another number holds from the next fill on.
    desk.fold(make("eu", 5));
    assert_eq!(popped(desk.fold(pop("eu"))), Some((1, 2)));
    assert_eq!(popped(desk.fold(pop("eu"))), None, "all are out");
    desk.fold(fill(None));
    let next: Vec<_> = (0..6).map(|_| popped(desk.fold(pop("eu")))).collect();
    let all = (0..5).map(|n| Some((n, 5)));
    assert_eq!(next, all.chain([None]).collect::<Vec<_>>());
    assert_eq!(
        popped(desk.fold(pop("default"))),
        Some((0, 64)),
        "it was filled, too"
    );
}

#[test]
fn a_fill_reaches_so_far_and_says_where_it_stands_in_the_log() {
    let mut desk = Desk::new();
    desk.at(5_000).fold(fill(Some("default")));
    let fill = desk.state.set("default").unwrap().fill.unwrap();
    assert_eq!((fill.until, fill.index), (Time(65_000), desk.index));
}

#[test]
fn the_default_set_keeps_its_number() {
    let mut desk = Desk::new();
    for event in [make("default", 128), remove("default")] {
        let refusal = refused(desk.fold(event));
        assert_eq!(refusal, Refusal::DefaultSet { held: 64 });
        assert!(refusal.to_string().contains("64"), "{refusal}");
    }
    let Outcome::Set { set, .. } = desk.fold(make("default", 64)) else {
        panic!("it has that number already")
    };
    assert_eq!((set.total, desk.state.shard_total()), (64, 64));
}

#[test]
fn what_is_not_there_is_refused_and_there_is_a_bound() {
    let mut desk = Desk::new();
    for event in [
        Event::from(pop("nobody")),
        remove("nobody").into(),
        fill(Some("nobody")).into(),
    ] {
        assert_eq!(refused(desk.fold(event)), Refusal::NoSet);
    }
    for n in 0..SHARD_SETS_MAX {
        assert!(matches!(
            desk.fold(make(&format!("s{n}"), 1)),
            Outcome::Set { .. }
        ));
    }
    assert_eq!(refused(desk.fold(make("more", 1))), Refusal::TooManySets);
    assert!(
        matches!(desk.fold(make("s0", 9)), Outcome::Set { .. }),
        "known ones change"
    );
    desk.fold(remove("s1"));
    assert!(matches!(desk.fold(make("more", 1)), Outcome::Set { .. }));
    let names: Vec<_> = desk.state.sets().into_iter().map(|set| set.name).collect();
    assert_eq!((names.len(), &*names[0]), (SHARD_SETS_MAX + 1, "default"));
}

#[derive(Clone, Debug)]
enum Step {
    Make(u8, u16),
    Fill(u8),
    Pop(u8),
    Submit,
    /// The state goes through a snapshot.
    Move,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..2u8, 1..7u16).prop_map(|(set, total)| Step::Make(set, total)),
        2 => (0..2u8).prop_map(Step::Fill),
        6 => (0..2u8).prop_map(Step::Pop),
        3 => Just(Step::Submit),
        1 => Just(Step::Move),
    ]
}

proptest! {
    #![proptest_config(crate::thorough::cases(60))]

    /// However sets are resized and filled between: of each fill every shard is handed out once and
    /// in order, and its shards are a partition of the tasks that are open and due in its window.
    #[test]
    fn of_each_fill_every_task_is_in_exactly_one_shard(steps in prop::collection::vec(step(), 1..80)) {
        let name = |set: u8| format!("set-{set}");
        let mut desk = Desk::new();
        let mut totals: BTreeMap<u8, u16> = BTreeMap::new();
        let mut out: BTreeMap<u8, (u16, u16)> = BTreeMap::new();
        let mut tasks = BTreeSet::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Make(set, total) => {
                    desk.fold(make(&name(set), total));
                    totals.insert(set, total);
                }
                Step::Fill(set) => match desk.fold(fill(Some(&name(set)))) {
                    Outcome::Counted { count: 1, .. } => drop(out.insert(set, (0, totals[&set]))),
                    other => prop_assert!(!totals.contains_key(&set), "{other:?}"),
                },
                Step::Pop(set) => {
                    let outcome = desk.fold(pop(&name(set)));
                    let Some((next, total)) = out.get_mut(&set) else {
                        prop_assert!(matches!(outcome, Outcome::Refused(_)));
                        continue;
                    };
                    let expected = (*next < *total).then_some((*next, *total));
                    prop_assert_eq!(popped(outcome), expected);
                    *next = (*next + 1).min(*total);
                }
                Step::Submit => {
                    let id = format!("t{n}");
                    desk.submit_at(&id, 30_000 + n as u64);
                    tasks.insert(id);
                }
                Step::Move => {
                    let bytes = desk.state.snapshot_now(b"");
                    let store = Box::new(MemoryStore::default());
                    let (state, _) = State::restore(&mut &bytes[..], store).unwrap();
                    prop_assert_eq!(state.hash(), desk.state.hash());
                    prop_assert_eq!(state.sets(), desk.state.sets());
                    desk.state = state;
                }
            }
        }
        for (set, (_, total)) in out {
            let until = desk.state.set(&name(set)).unwrap().fill.unwrap().until;
            let mut seen = Vec::new();
            for shard in 0..total {
                let filter = Filter {
                    part: Some((Shard(shard), total)),
                    open: true,
                    due_to: Some(until.plus(Span(1))),
                    ..Filter::default()
                };
                let page = desk.state.list(&filter, None, 1_000).unwrap();
                seen.extend(page.tasks.into_iter().map(|task| task.key.id.to_string()));
            }
            prop_assert_eq!(seen.len(), tasks.len(), "none twice");
            prop_assert_eq!(&seen.into_iter().collect::<BTreeSet<_>>(), &tasks, "and none left out");
        }
    }
}
