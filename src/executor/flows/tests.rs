//! Turns, bounds, breakers and pauses, without any call.

use proptest::prelude::*;

use super::*;
use crate::executor::breaker::BreakerState;
use crate::model::Fence;

const NOW: (Time, Duration) = (Time(1_000_000), Duration::from_secs(100));
const WELL: Told = Told {
    went: Some(true),
    bears: Bears::Well,
    took: Duration::from_millis(5),
};
const BADLY: Told = Told {
    went: Some(false),
    bears: Bears::Unknown,
    took: Duration::from_millis(5),
};

fn reference(seq: u64) -> Reference {
    Reference {
        id: (Seq(seq), Fence::default()),
        at: Time(seq),
        released: Time(seq),
        bytes: 100,
        until: None,
        given_up: false,
        moves: seq.is_multiple_of(2),
    }
}

fn key(app: &str, target: &str) -> FlowKey {
    FlowKey {
        app: app.into(),
        target: target.into(),
    }
}

fn flows(per_target: usize, total: usize, queue_max: usize) -> Flows {
    Flows::new(Bounds {
        per_target,
        total,
        bytes: usize::MAX,
        queued: queue_max * 4,
        breaker: BreakerSettings {
            least: 4,
            ..BreakerSettings::default()
        },
    })
}

/// Takes all that can be taken.
fn taken(flows: &mut Flows) -> Vec<(FlowKey, u64, Grant)> {
    std::iter::from_fn(|| flows.take(NOW.1))
        .map(|(key, reference, grant)| (key, reference.id.0.0, grant))
        .collect()
}

fn seqs(taken: &[(FlowKey, u64, Grant)]) -> Vec<u64> {
    taken.iter().map(|(_, seq, _)| *seq).collect()
}

#[test]
fn applications_take_turns_whatever_they_have_waiting_and_wherever() {
    let mut flows = flows(100, 9, 1_000);
    for n in 0..60 {
        let target = format!("t{}", n % 20);
        assert!(flows.push(&key("hot", &target), reference(n)));
    }
    (60..63).for_each(|n| assert!(flows.push(&key("cold", "t0"), reference(n))));
    let all = taken(&mut flows);
    let cold = all.iter().filter(|(key, ..)| &*key.app == "cold").count();
    assert_eq!((all.len(), cold), (9, 3));
    let first: Vec<bool> = all.iter().map(|(key, ..)| &*key.app == "cold").collect();
    assert_eq!(first[..6], [false, true, false, true, false, true]);
}

#[test]
fn applications_that_wait_for_one_target_take_turns_there() {
    let mut flows = flows(1, 100, 1_000);
    (0..50).for_each(|n| assert!(flows.push(&key("hot", "t"), reference(n))));
    (50..53).for_each(|n| assert!(flows.push(&key("cold", "t"), reference(n))));
    let mut order = Vec::new();
    for _ in 0..8 {
        let all = taken(&mut flows);
        assert_eq!(all.len(), 1);
        let (key, seq, grant) = &all[0];
        order.push(*seq);
        flows.free(key, *grant, WELL, NOW);
    }
    assert_eq!(order, [0, 50, 1, 51, 2, 52, 3, 4]);
}

#[test]
fn targets_that_never_answer_leave_permits_for_the_others() {
    let mut flows = flows(64, 64, 10_000);
    for n in 0..1_000 {
        assert!(flows.push(&key("slow", ["a", "b"][n as usize % 2]), reference(n)));
    }
    assert!(taken(&mut flows).len() <= 52, "2/5 each: both together 4/5");
    for n in 1_000..1_010 {
        let quick = key("quick", &format!("t{n}"));
        assert!(flows.push(&quick, reference(n)));
    }
    let quick = taken(&mut flows);
    assert_eq!(quick.len(), 10, "each at once");
    assert!(quick.iter().all(|(_, seq, _)| *seq >= 1_000));
}

#[test]
fn bytes_under_way_are_bounded_and_one_call_always_fits() {
    let mut flows = flows(64, 64, 1_000);
    flows.bounds.bytes = 250;
    let large = |seq| Reference {
        bytes: 1_000,
        ..reference(seq)
    };
    flows.push(&key("a", "t"), large(1));
    (2..6).for_each(|n| assert!(flows.push(&key("b", "t"), reference(n))));
    let one = taken(&mut flows);
    assert_eq!(seqs(&one), [1]);
    flows.free(&one[0].0, one[0].2, WELL, NOW);
    assert_eq!(seqs(&taken(&mut flows)), [2, 3]);
}

#[test]
fn a_target_that_fails_is_left_alone_then_probed_then_called_again() {
    let mut flows = flows(64, 64, 1_000);
    let failing = key("a", "t");
    (0..30).for_each(|n| assert!(flows.push(&failing, reference(n))));
    let all = taken(&mut flows);
    assert_eq!(all.len(), 30);
    (30..60).for_each(|n| assert!(flows.push(&failing, reference(n))));
    for (key, _, grant) in &all[..4] {
        flows.free(key, *grant, BADLY, NOW);
    }
    let BreakerState::Open { until } = flows.view(NOW.1)[0].breaker else {
        panic!("{:?}", flows.view(NOW.1));
    };
    for (key, _, grant) in &all[4..] {
        flows.free(key, *grant, WELL, NOW);
    }
    assert!(
        taken(&mut flows).is_empty(),
        "calls from before close nothing"
    );
    assert!(flows.opens_at() == Some(until));
    let other = key("a", "u");
    assert!(flows.push(&other, reference(99)));
    assert_eq!(seqs(&taken(&mut flows)), [99], "others are not concerned");
    let later = (NOW.0, until);
    let probes: Vec<_> = std::iter::from_fn(|| flows.take(until)).collect();
    assert_eq!(probes.len(), 3);
    assert_eq!(flows.waited_for(&failing, reference(2_000_000)), Wait::Turn);
    assert_eq!(flows.waited_for(&failing, probes[0].1), Wait::Breaker);
    for (key, _, grant) in probes {
        flows.free(&key, grant, WELL, later);
    }
    let rest: Vec<_> = std::iter::from_fn(|| flows.take(until)).collect();
    assert_eq!(rest.len(), 27);
}

#[test]
fn what_waits_at_an_open_breaker_beyond_its_time_is_given_up() {
    let mut flows = flows(4, 64, 1_000);
    let key = key("a", "t");
    (0..4).for_each(|n| assert!(flows.push(&key, reference(n))));
    let all = taken(&mut flows);
    for (n, until) in [(4, Some(Time(50))), (5, Some(Time(70))), (6, None)] {
        let waiting = Reference {
            until,
            ..reference(n)
        };
        assert!(flows.push(&key, waiting));
    }
    assert!(
        flows.overdue(Time(60), 9).is_empty(),
        "it may be called yet"
    );
    for (key, _, grant) in &all {
        flows.free(key, *grant, BADLY, NOW);
    }
    let overdue = flows.overdue(Time(60), 9);
    audit(&flows);
    assert_eq!(overdue.len(), 1);
    let (key, given_up, grant) = &overdue[0];
    assert!(given_up.given_up && given_up.id == reference(4).id);
    flows.free(key, *grant, Told::NOTHING, NOW);
    let last = flows.overdue(Time(70), 9);
    flows.free(key, last[0].2, Told::NOTHING, NOW);
    audit(&flows);
    let later = NOW.1 + BreakerSettings::default().open;
    assert_eq!(
        flows.take(later).map(|(_, r, _)| r.id),
        Some(reference(6).id)
    );
}

#[test]
fn what_has_waited_longest_and_may_move_is_given_away() {
    let mut flows = flows(1, 100, 1_000);
    let (hot, cold) = (key("a", "t"), key("b", "u"));
    (1..=4).for_each(|n| assert!(flows.push(&hot, reference(n))));
    let one = taken(&mut flows);
    assert_eq!(seqs(&one), [1]);
    // It was offered its place, and has not taken it yet.
    assert!(flows.push(&cold, reference(6)));
    let given: Vec<u64> = std::iter::from_fn(|| flows.give())
        .map(|(_, reference)| reference.id.0.0)
        .collect();
    assert_eq!(
        given,
        [2, 4, 6],
        "by the heads of their queues; odd ones stay"
    );
    audit(&flows);
    assert_eq!(flows.queued(), 1);
    assert!(
        flows.reserve(&cold, reference(8)).is_some(),
        "nobody stands before it for what is gone"
    );
    flows.free(&one[0].0, one[0].2, WELL, NOW);
    assert_eq!(seqs(&taken(&mut flows)), [3]);
}

#[test]
fn what_waits_at_an_open_breaker_is_not_given_away() {
    let mut flows = flows(4, 64, 1_000);
    let key = key("a", "t");
    (0..8).for_each(|n| assert!(flows.push(&key, reference(n))));
    for (key, _, grant) in taken(&mut flows) {
        flows.free(&key, grant, BADLY, NOW);
    }
    assert!(flows.opens_at().is_some() && flows.queued() == 4);
    assert!(flows.give().is_none(), "another node could not call it");
}

#[test]
fn a_paused_application_keeps_nothing_and_is_read_again() {
    let mut flows = flows(1, 8, 1_000);
    let (a, b) = (key("a", "t"), key("b", "t"));
    (10..20).for_each(|n| assert!(flows.push(&a, reference(n))));
    (20..22).for_each(|n| assert!(flows.push(&b, reference(n))));
    let one = taken(&mut flows);
    assert_eq!(seqs(&one), [10]);
    let paused = BTreeSet::from([App::from("a")]);
    let (dropped, again) = flows.set_paused(&paused, NOW.0);
    assert_eq!((dropped.len(), again), (9, None));
    assert!(!flows.push(&a, reference(5)), "nor what comes up");
    assert!(
        !flows.put_back(&a, reference(10)),
        "nor what was about to begin"
    );
    assert!(
        flows
            .reserve(&key("a", "elsewhere"), reference(7))
            .is_none()
    );
    flows.free(&one[0].0, one[0].2, WELL, NOW);
    let other = taken(&mut flows);
    assert_eq!(seqs(&other), [20], "others go on");
    assert_eq!(flows.first_spilled(), Some((Time(5), Seq(5))));
    assert!(flows.has_spilled(&a, (Time(5), Seq(5))) && !flows.has_spilled(&a, (Time(4), Seq(4))));
    assert!(!flows.has_spilled(&b, (Time(5), Seq(5))), "another's");
    assert_eq!(flows.unspill(&a), None);
    let (dropped, again) = flows.set_paused(&BTreeSet::new(), NOW.0);
    assert_eq!((dropped.len(), again), (0, Some((Time(5), Seq(5)))));
    assert!(flows.push(&a, reference(5)));
    assert_eq!(flows.waited_for(&a, reference(5)), Wait::Paused);
}

#[test]
fn a_full_queue_notes_its_first_missing_place() {
    let mut flows = flows(1, 1, 2);
    let a = key("a", "t");
    let fits: Vec<bool> = (1..5).map(|n| flows.push(&a, reference(n))).collect();
    assert_eq!(fits, [true, true, false, false]);
    assert_eq!(flows.unspill(&a), None);
    let one = flows.take(NOW.1).unwrap();
    assert_eq!(flows.unspill(&a), Some((Time(3), Seq(3))));
    assert_eq!(flows.unspill(&a), None);
    flows.free(&a, one.2, WELL, NOW);
    let two = flows.take(NOW.1).unwrap();
    flows.free(&a, two.2, WELL, NOW);
    assert!(flows.apps.is_empty(), "an idle application is forgotten");
}

/// Neither many stuck targets nor many applications that have some take all of the memory.
#[test]
fn whatever_is_stuck_leaves_a_part_of_the_memory_to_others() {
    let mut flows = flows(1, 1_000, 250);
    for n in 0..10_000 {
        let stuck = key(&format!("a{}", n % 5), &format!("t{}", n % 3));
        flows.push(&stuck, reference(n));
    }
    audit(&flows);
    assert!((700..900).contains(&flows.queued()), "{}", flows.queued());
    let push = |flows: &mut Flows, key: &FlowKey| {
        let fits = (10_000..10_500).filter(|n| flows.push(key, reference(*n)));
        fits.count()
    };
    let (same, other) = (key("a0", "quick"), key("b", "quick"));
    assert!(
        push(&mut flows, &same) >= 10,
        "another target of one of them"
    );
    assert!(push(&mut flows, &other) >= 50, "another application");
    assert_eq!(flows.unspill_all(), None, "as long as they are stuck");
    let first = flows.first_spilled();
    // What one of them leaves, all may have.
    flows.set_paused(&BTreeSet::from([App::from("a1")]), NOW.0);
    audit(&flows);
    assert_eq!(flows.unspill_all(), first);
    assert!(push(&mut flows, &other) > 0);
}

#[test]
fn idle_targets_are_forgotten_when_they_are_many() {
    let mut flows = flows(1, 8, 100);
    for n in 0..(3 * IDLE_KEPT) as u64 {
        let key = key("a", &format!("t{n}"));
        let grant = flows.reserve(&key, reference(n)).unwrap();
        flows.free(&key, grant, WELL, NOW);
        assert!(flows.targets.len() <= IDLE_KEPT + 1);
    }
}

/// Recounts what is kept as numbers.
fn audit(flows: &Flows) {
    let all = || {
        flows
            .apps
            .iter()
            .flat_map(|(name, app)| app.flows.iter().map(move |f| (name, f)))
    };
    let queued: usize = all().map(|(_, (_, f))| f.queue.len()).sum();
    assert_eq!(flows.queued, queued);
    for (key, target) in &flows.targets {
        let own = || all().filter(|(_, (target, _))| *target == key);
        assert_eq!(
            target.queued,
            own().map(|(_, (_, f))| f.queue.len()).sum::<usize>()
        );
        let offered = own()
            .filter(|(_, (_, f))| f.stand == Stand::Offered)
            .count();
        assert_eq!(target.offered, offered);
        let mut blocked: Vec<_> = target.blocked.iter().collect();
        let mut standing: Vec<_> = own()
            .filter(|(_, (_, f))| f.stand == Stand::Blocked)
            .map(|(name, _)| name)
            .collect();
        blocked.sort();
        standing.sort();
        assert_eq!(blocked, standing);
        let waits = !blocked.is_empty() && target.has_room(&flows.bounds);
        assert!(!waits, "a place is free and somebody waits for it");
        assert!(target.in_flight <= flows.bounds.per_target);
    }
    for (name, app) in &flows.apps {
        let mut ring: Vec<_> = app.ring.iter().collect();
        let offered = app.flows.iter().filter(|(_, f)| f.stand == Stand::Offered);
        ring.sort();
        assert_eq!(ring, offered.map(|(key, _)| key).collect::<Vec<_>>());
        assert_eq!(app.in_ring, flows.ring.contains(name));
        assert!(app.in_ring || app.ring.is_empty());
        assert!(!app.paused || app.flows.is_empty());
        let queued: usize = app.flows.values().map(|f| f.queue.len()).sum();
        assert_eq!(app.queued, queued);
    }
    assert!(flows.in_flight <= flows.bounds.total);
}

proptest! {
    #![proptest_config(crate::thorough::cases(300))]

    /// Whatever comes: the counts are right, nobody waits for a free place, and in the end
    /// everything that was kept has been taken once.
    #[test]
    fn nothing_is_lost_and_nobody_waits_in_vain(
        steps in prop::collection::vec((0u8..9, 0u64..4, 0u64..4, 0u64..500), 0..200),
    ) {
        let mut flows = flows(2, 5, 20);
        let mut steady = NOW.1;
        let (mut flying, mut kept, mut done) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let mut paused = BTreeSet::new();
        let run = |flows: &mut Flows, steady| {
            let mut all = Vec::new();
            while let Some(one) = flows.take(steady) {
                audit(flows);
                all.push(one);
            }
            all
        };
        for (seq, (what, app, target, n)) in steps.into_iter().enumerate() {
            steady += Duration::from_millis(n);
            let key = key(&format!("a{app}"), &format!("t{target}"));
            match what {
                0..=2 => {
                    if flows.push(&key, reference(seq as u64)) {
                        kept.insert(seq as u64);
                    }
                }
                3..=5 if !flying.is_empty() => {
                    let (key, reference, grant): (FlowKey, Reference, Grant) =
                        flying.remove(n as usize % flying.len());
                    let told = [WELL, BADLY, Told::NOTHING][what as usize - 3];
                    prop_assert!(done.insert(reference.id.0.0), "taken twice");
                    flows.free(&key, grant, told, (NOW.0, steady));
                }
                6 => {
                    match paused.contains(&key.app) {
                        true => paused.remove(&key.app),
                        false => paused.insert(key.app.clone()),
                    };
                    let (dropped, _) = flows.set_paused(&paused, NOW.0);
                    for reference in dropped {
                        prop_assert!(kept.remove(&reference.id.0.0));
                    }
                }
                7 => {
                    if let Some((_, given)) = flows.give() {
                        prop_assert!(given.moves && kept.remove(&given.id.0.0));
                    }
                }
                _ => flying.extend(run(&mut flows, steady)),
            }
            audit(&flows);
        }
        flows.set_paused(&BTreeSet::new(), NOW.0);
        loop {
            steady += flows.bounds.breaker.open_max;
            flying.extend(run(&mut flows, steady));
            if flying.is_empty() && flows.queued == 0 {
                break;
            }
            for (key, reference, grant) in std::mem::take(&mut flying) {
                prop_assert!(done.insert(reference.id.0.0), "taken twice");
                flows.free(&key, grant, WELL, (NOW.0, steady));
                audit(&flows);
            }
        }
        prop_assert_eq!(done, kept);
        prop_assert_eq!((flows.in_flight, flows.bytes), (0, 0));
    }
}
