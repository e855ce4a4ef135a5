//! The fault harness: it disturbs real processes, heals them, and holds what clients and receivers
//! saw against what is promised.
//!
//! ```text
//! seed ─► plan ─► site (processes, behind wires) ◄─ work (clients) ─► history.ndjson
//!           │        │                                 sink ────────► sink.ndjson
//!           └──────► fault, fault, fault … ─────────────────────────► faults.ndjson
//!                    heal ─► logs, status ─► checks ─► verdicts.json, report.html
//! ```
//!
//! Everything a run leaves is in `jepsen-runs/<seed>`. What an operation's end means is in
//! `work/call.rs`; what makes a run dishonest, and so fail, in `run.rs`: a fault that could not be
//! installed, a fault or a kind of operation that never happened.
//!
//! * `cargo test --test jepsen-style`: two short, fixed runs.
//! * `just jepsen --minutes 60 --seed 7 --nemesis kill,pause`: a long one.
//! * `just seeded-bugs`: whether it notices mistakes that are made on purpose.

#![allow(clippy::disallowed_methods)] // Outside the product there is only the machine's clock.

#[path = "../support/mod.rs"]
mod support;

mod bugs;
mod chance;
mod check;
mod disks;
mod fault;
mod heal;
mod machine;
mod net;
mod options;
mod plan;
mod record;
mod report;
mod run;
mod sink;
mod site;
mod sums;
mod verdict;
mod wires;
mod work;

use std::panic::{AssertUnwindSafe, catch_unwind};

use options::Options;
use plan::Plan;

/// What a long run is asked for.
const ASKED: &str = "JEPSEN";

/// As many runs as are asked for; goes on after one that failed.
#[track_caller]
fn hold(options: Options) {
    let _one = support::serial();
    let seeds = options.seed..options.seed.saturating_add(options.runs);
    let failed = seeds.filter_map(|seed| {
        hold_one(Options {
            seed,
            ..options.clone()
        })
        .err()
    });
    let failed: Vec<String> = failed.collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn hold_one(options: Options) -> Result<(), String> {
    let plan = Plan::new(options);
    println!(
        "--- {}: just jepsen {}",
        sums::tested(),
        plan.options.shown()
    );
    let run = || run::run(&plan);
    let outcome = catch_unwind(AssertUnwindSafe(run)).map_err(|_| {
        sums::enter_broken(&plan);
        format!("seed {} broke off", plan.options.seed)
    })?;
    for verdict in &outcome.verdicts {
        let word = match (verdict.ok, verdict.undecided) {
            (true, 0) => "ok       ",
            (true, _) => "undecided",
            (false, _) => "FAILED   ",
        };
        let undecided = match verdict.undecided {
            0 => String::new(),
            n => format!(" ({n} undecided)"),
        };
        println!("{word} {}{undecided}: {}", verdict.name, verdict.text);
    }
    let page = outcome.dir.join("report.html");
    println!("--- {}", page.display());
    match outcome.is_ok() {
        true => Ok(()),
        false => Err(format!(
            "seed {} failed; see {}; again: {}",
            plan.options.seed,
            page.display(),
            outcome.repeat
        )),
    }
}

fn fixed(text: &str) {
    hold(Options::parse(text, 1).unwrap());
}

/// Every fault once, but for those that purge the log: so the whole log is there to be replayed.
#[test]
fn every_fault_once() {
    let other = ["snapshot", fault::NETNS];
    let families: Vec<&str> = fault::families().filter(|f| !other.contains(f)).collect();
    fixed(&format!(
        "--seconds 1 --seed 1 --nemesis {}",
        families.join(",")
    ));
}

/// With a log that is purged at once: who was away is sent a snapshot. And over networks where
/// packets are really lost, between nodes that show themselves with credentials.
#[test]
fn snapshots_and_networks() {
    fixed("--seconds 1 --seed 2 --nemesis snapshot,netns,kill");
}

/// What all runs so far add up to.
#[test]
#[ignore = "a table for people; see `just jepsen-ledger`"]
fn sums() {
    print!("{}", sums::Sums::of(&sums::rows()).shown());
}

/// The checkers again, over a folder that a run left: `JEPSEN_FOLDER=jepsen-runs/7`.
#[test]
#[ignore = "judges a folder that it is told"]
fn again() {
    let folder = std::env::var("JEPSEN_FOLDER").expect("JEPSEN_FOLDER says which folder");
    let verdicts = check::check(folder.as_ref());
    let failed = verdicts.iter().filter(|verdict| !verdict.ok).count();
    for verdict in verdicts {
        println!("{} {}: {}", verdict.ok, verdict.name, verdict.text);
    }
    assert_eq!(failed, 0, "checkers that found something");
}

/// As long and with what it is told: `JEPSEN="--minutes 60 --seed 7 --nemesis kill,pause"`.
#[test]
#[ignore = "runs for as long as it is told; see `just jepsen`"]
fn long() {
    let asked = std::env::var(ASKED).unwrap_or_default();
    let seed = support::now_us();
    hold(Options::parse(&asked, seed).unwrap_or_else(|error| panic!("{ASKED}: {error}")));
}

/// The table of which mistake is caught by what: see `bugs.rs` and `just seeded-bugs`.
#[test]
#[ignore = "breaks the product on purpose, and takes an hour"]
fn seeded_bugs() {
    let _one = support::serial();
    bugs::table(&std::env::var(bugs::ASKED).unwrap_or_default());
}
