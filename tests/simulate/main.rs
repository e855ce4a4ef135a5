//! The simulator: whole nodes in one thread, and everything that happens to them from one seed.
//!
//! ```text
//! world.rs    one run: ticks, clients, faults, then healing, then the checkers of the fault harness
//!   machine.rs  a machine: clocks, disks, and a node's process, which is a runtime of its own
//!   wires.rs    the network     disk.rs  log and folder on simulated disks     sink.rs  the receivers
//!   work.rs     what clients ask for        faults.rs  what goes wrong
//! ```
//!
//! `just simulate --seeds 500 --seconds 60` runs for long, `just simulate --seed 7 --words` repeats
//! one seed and tells what happened. docs/testing.md says what is simulated and what is not.
//!
//! Its own small simulation, and not turmoil: the product's seams are streams, folders and clocks
//! already, and what is needed beyond them (a process that can be dropped anywhere, a machine that
//! stands still or sleeps, disks that tear) is as much code here as it would be on top of it.
#![cfg(tokio_unstable)]

#[path = "../jepsen-style/check/mod.rs"]
#[allow(dead_code)] // The harness asks more of it.
mod check;
mod disk;
mod faults;
mod machine;
mod options;
#[path = "../support/schedules.rs"]
mod schedules;
mod sink;
#[path = "../support/told.rs"]
mod told;
mod wires;
mod work;
mod world;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use faults::What;
use machine::{CrashPoint, STEPS};
use options::Options;
use world::{Ledger, Outcome, Plan, run};

/// What the usual test run has time for, in a build that is not optimised.
const USUAL_SEEDS: u64 = 2;
const USUAL_SECONDS: u64 = 8;
/// Disk operations into a step at which the power goes, when all points are tried.
const OPERATIONS_MAX: u64 = 16;

/// Runs plans on several threads, and says what came of them, in order of time.
fn run_all(plans: Vec<Plan>, jobs: usize, mut each: impl FnMut(Outcome) + Send) {
    let (next, each) = (AtomicU64::new(0), Mutex::new(&mut each));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let outcome = run(plan);
                    (each.lock().expect("nobody panicked"))(outcome);
                }
            });
        }
    });
}

fn must_hold(outcome: &Outcome) {
    let seed = outcome.seed;
    assert!(
        outcome.violations.is_empty(),
        "seed {seed} (just simulate --seed {seed} --seconds {} --words):\n{}",
        outcome.seconds,
        outcome.violations.join("\n")
    );
}

/// The same seed twice, on two threads: every write on every wire and disk, every answer, every
/// delivery and every entry of every log must come at the same instant.
fn the_same_twice(plans: Vec<Plan>) {
    for plan in plans {
        let seed = plan.seed;
        let plan = plan.in_words();
        let mut both = Vec::new();
        run_all(vec![plan.clone(), plan], 2, |outcome| both.push(outcome));
        let (one, other) = (&both[0].words, &both[1].words);
        let first = one
            .lines()
            .zip(other.lines())
            .find(|(one, other)| one != other);
        assert!(one == other, "seed {seed} first differs at {first:#?}");
        assert!(one.lines().count() > 100, "seed {seed} did something");
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    // Faults begin after two and a half seconds.
    let plans = (1..=3).map(|seed| Plan::drawn(seed, 6).in_brief());
    the_same_twice(plans.collect());
}

#[test]
fn no_seed_breaks_a_promise() {
    let plans = (1..=USUAL_SEEDS).map(|seed| Plan::drawn(seed, USUAL_SECONDS));
    let mut ledger = Ledger::default();
    run_all(plans.collect(), 1, |outcome| {
        must_hold(&outcome);
        ledger.add(&outcome.ledger);
    });
    println!("{ledger:#?}");
    assert!(ledger.deliveries > 0 && ledger.faults.len() > 2);
}

/// A node that was cut off is sent a snapshot, and its disk stands still while it takes it in: what
/// is written to its log meanwhile waits, and so does what it folds (openraft, issue 2116).
#[test]
fn a_disk_that_stands_still_during_an_install() {
    let faults = vec![
        (3_000_000, 5_000_000, What::Parted(around(2), "isolated")),
        (8_020_000, 3_000_000, What::Stalls(2)),
    ];
    let plan = Plan::drawn(1, 12).with(faults).compacting();
    let outcome = run(&plan);
    must_hold(&outcome);
    let installs = outcome.ledger.steps.get("installing a snapshot");
    assert!(installs.is_some(), "{:?}", outcome.ledger.steps);
}

/// What the simulator could not tell would be worth nothing: disks that say that they have synced,
/// and have not, lose what was acknowledged when all lose their power.
#[test]
fn disks_that_lie_are_noticed() {
    let all = What::Ends(disk::End::PowerLost, vec![1, 2, 3]);
    let plan = Plan::drawn(1, 7).with(vec![(6_000_000, 500_000, all)]);
    must_hold(&run(&plan));
    let outcome = run(&plan.with_lying_disks());
    assert!(!outcome.violations.is_empty(), "{:?}", outcome.ledger);
}

/// From and to a node, of three.
fn around(node: u64) -> Vec<(u64, u64)> {
    let others = (1..=3).filter(|other| *other != node);
    others
        .flat_map(|other| [(node, other), (other, node)])
        .collect()
}

/// A run in which a node writes, votes, truncates or purges, makes checkpoints, and installs a
/// snapshot, and the power goes so many operations of the disk into one such step.
fn crash(step: &'static str, operations: u64) -> Plan {
    let point = CrashPoint { step, operations };
    // One of them leads, and has to take back what it wrote alone.
    let node = 1 + operations % 3;
    let faults = vec![
        (2_600_000, 3_000_000, What::Parted(around(node), "isolated")),
        (5_500_000, 6_000_000, What::Crash(node, point)),
    ];
    Plan::drawn(operations, 12).with(faults).compacting()
}

/// Every step at which something is made durable, by name, and every operation of the disk in it.
#[test]
#[ignore = "minutes; just crash-points"]
fn the_power_goes_at_every_point() {
    let plans = STEPS
        .iter()
        .flat_map(|step| (0..OPERATIONS_MAX).map(|at| crash(step, at)));
    let jobs = Options::read().jobs;
    let (mut crashed, mut ledger) = (BTreeSet::new(), Ledger::default());
    run_all(plans.collect(), jobs, |outcome| {
        must_hold(&outcome);
        println!("operation {}: {:?}", outcome.seed, outcome.ledger.crashes);
        crashed.extend(outcome.ledger.crashes.keys().copied());
        ledger.add(&outcome.ledger);
    });
    println!("{ledger:#?}");
    assert_eq!(crashed.len(), STEPS.len(), "{crashed:?}");
}

#[test]
#[ignore = "minutes; just same-bytes"]
fn twenty_seeds_give_the_same_bytes() {
    let options = Options::read();
    let seeds = options.from..options.from + options.seeds;
    let plans = seeds.map(|seed| Plan::drawn(seed, options.seconds));
    the_same_twice(plans.collect());
}

#[test]
#[ignore = "as long as it is told; just simulate"]
fn long() {
    let options = Options::read();
    let seeds = options.from..options.from + options.seeds;
    let plans: Vec<Plan> = seeds
        .map(|seed| match options.words {
            true => Plan::drawn(seed, options.seconds).in_words(),
            false => Plan::drawn(seed, options.seconds),
        })
        .collect();
    let (mut ledger, mut bad, mut done) = (Ledger::default(), Vec::new(), 0);
    run_all(plans, options.jobs, |outcome| {
        done += 1;
        ledger.add(&outcome.ledger);
        if options.words {
            println!("{}", outcome.words);
        }
        if !outcome.violations.is_empty() {
            println!(
                "seed {}:\n{}\n",
                outcome.seed,
                outcome.violations.join("\n")
            );
            bad.push(outcome.seed);
        }
        if done % 10 == 0 {
            let hours = ledger.simulated_us as f64 / 3.6e9;
            println!(
                "{done} seeds, {hours:.2} simulated hours, {} bad",
                bad.len()
            );
        }
    });
    println!("{ledger:#?}");
    assert!(bad.is_empty(), "seeds with violations: {bad:?}");
}
