//! Whether the tests notice mistakes: each bug of `src/bugs.rs` is made on purpose, and something
//! must catch it.
//!
//! A catch counts only if the same command, with the same seed, does not find the same wrong without
//! the bug; and it must find nothing at all, or the table fails in the end. What is tried names the tests, or the faults, that suit a bug, cheapest first; no checker is told what to look
//! for. `just seeded-bugs` prints the table that is kept in docs/testing.md.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::options::Options;
use crate::plan::Plan;
use crate::run;
use crate::support::{now_ms, seconds};
use horolog::bugs::{Bug, VARIABLE};

/// The bugs to try: their names; none means all. `tests` or `harness` tries only that.
pub const ASKED: &str = "SEEDED_BUGS";
/// No bug is looked for any longer.
const WITHIN: Duration = seconds(600);
/// Failures of these say that a run told too little, not that something was wrong.
const NO_CATCH: [&str; 2] = ["honest", "well-formed"];

/// What may catch a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Catcher {
    /// Tests of the library, by the words that `cargo test --lib` takes.
    Tests(&'static str),
    /// So many seeds of the simulator, and how many seconds of work and faults each.
    Simulator(u64, u64),
    /// Runs of this harness: seconds of faults, and which.
    Harness(u64, &'static str),
}
use Catcher::{Harness, Simulator, Tests};

/// The fold: every entry looked at as it is folded.
const EACH_ENTRY: Catcher = Tests("state::properties::every_entry_keeps_the_promises");
/// The fold, rule by rule.
const FOLD: Catcher = Tests("state::tests");
/// The fold on two nodes whose stores were written at different times.
const REPLICAS: Catcher = Tests("state::properties::replicas_with_different_borders_agree");
const SNAPSHOT: Catcher = Tests("state::properties::a_snapshot_and_the_tail_equal_a_replay");
const STORE: Catcher = Tests("state::properties::a_store_on_disk_and_the_tail_equal_a_replay");
const LISTS: Catcher = Tests("state::properties::lists");
const SIMULATED: Catcher = Simulator(5, 20);
const QUIET: Catcher = Harness(15, "none");
const KILLS: Catcher = Harness(15, "kill");
const CUTS: Catcher = Harness(15, "partition");
const CLOCKS: Catcher = Harness(20, "clock");
const SNAPSHOTS: Catcher = Harness(20, "snapshot,kill");

/// What is tried for each bug, in this order.
const fn catchers(bug: Bug) -> &'static [Catcher] {
    match bug {
        Bug::AckBeforeSync => &[Tests("log::tests::power"), KILLS],
        Bug::ChecksumUnchecked => &[Tests("log::tests::damage")],
        Bug::VoteNotSaved => &[Tests("raft::suite"), KILLS],
        Bug::PurgeBeyondCheckpoint => &[Tests("raft::suite"), SNAPSHOTS],
        Bug::CheckpointIndex | Bug::WheelNotRebuilt | Bug::DedupLost => &[STORE, KILLS],
        Bug::SnapshotDropsMarks | Bug::SnapshotDropsHistory => &[SNAPSHOT, SNAPSHOTS],
        Bug::OwnClock | Bug::RandomJitter => &[REPLICAS, QUIET],
        Bug::HashedOrder => &[REPLICAS],
        Bug::LabelIndexForgotten | Bug::ListSkipsFar => &[LISTS, QUIET],
        Bug::FenceUnchecked => &[EACH_ENTRY, CUTS],
        Bug::OneRetryTooMany
        | Bug::BackoffIgnored
        | Bug::RetryLost
        | Bug::CancelledFires
        | Bug::SameAttempt => &[EACH_ENTRY, QUIET],
        Bug::ContentIgnored
        | Bug::MarkIgnored
        | Bug::DeadlineIgnored
        | Bug::DoneRevived
        | Bug::OwnerNotAsked => &[FOLD, QUIET],
        Bug::OccurrenceLost => &[SIMULATED, KILLS],
        Bug::PlannedTwice
        | Bug::VersionNotTold
        | Bug::OverlapIgnored
        | Bug::CatchUpAll
        | Bug::PauseIgnored => &[Tests("state::tests::schedules"), SIMULATED],
        Bug::DeniedWithLease => &[Tests("raft::lease"), CUTS],
        Bug::PausedAppCalled => &[Tests("executor::core"), SIMULATED],
        Bug::BreakerNeverOpens => &[Tests("executor::breaker")],
        Bug::ErrandWithoutEpoch => &[Tests("executor::tests::away"), SIMULATED],
        // Nothing retires during a run.
        Bug::RetireDropsPending => &[FOLD],
        Bug::StaleRead => &[CUTS],
        Bug::BlindRepeat => &[Tests("raft::cluster"), CUTS],
        Bug::StampGoesBack => &[Tests("raft::proposer"), CLOCKS],
        Bug::BulkOneTooMany => &[QUIET],
        Bug::ReplayFires => &[KILLS],
        Bug::LeaseIgnored => &[Tests("executor::core"), CUTS],
        Bug::EarlyDispatch => &[Tests("executor::core"), QUIET],
        Bug::BegunWithdrawn => &[Tests("executor::attempts"), QUIET],
        Bug::RestoredForAll => &[Tests("executor::attempts"), QUIET],
        Bug::OutcomeDropped => &[Tests("node::outcomes"), CUTS],
        Bug::ClockBelieved => &[Tests("node::clock"), CLOCKS],
    }
}

/// Tries the bugs that are asked for, and prints the table.
///
/// # Panics
/// When one is not caught; when something is found without a bug.
pub fn table(asked: &str) {
    let words: Vec<&str> = asked.split_whitespace().collect();
    let is_wanted = |catcher: &Catcher| match catcher {
        Tests(_) | Simulator(..) => !words.contains(&"harness"),
        Harness(..) => !words.contains(&"tests"),
    };
    let names: Vec<&&str> = words
        .iter()
        .filter(|w| !["tests", "harness"].contains(*w))
        .collect();
    let all = Bug::ALL.iter();
    let bugs: Vec<Bug> = all
        .copied()
        .filter(|bug| names.is_empty() || names.contains(&&bug.name()))
        .collect();
    assert!(
        bugs.len() >= names.len(),
        "{ASKED}={asked}: there are {:?}",
        Bug::ALL.iter().map(|bug| bug.name()).collect::<Vec<_>>()
    );
    let mut trial = Trial::default();
    let mut rows = Vec::new();
    let mut missed = Vec::new();
    for bug in bugs {
        let (began, mut caught) = (now_ms(), None);
        for catcher in catchers(bug).iter().filter(|catcher| is_wanted(catcher)) {
            caught = caught.or_else(|| trial.of(bug, *catcher));
        }
        let row = match caught {
            Some(Catch { by, after, said }) => {
                let took = (now_ms() - began) / 1_000;
                format!("| `{}` | {by} | {after} | {took} s | {said} |", bug.name())
            }
            None => {
                missed.push(bug.name());
                format!("| `{}` | **nothing** | | | |", bug.name())
            }
        };
        println!("{row}");
        rows.push(row);
    }
    println!("\n| bug | caught by | after | in | what it said |\n|---|---|---|---|---|");
    rows.iter().for_each(|row| println!("{row}"));
    println!("\n{} of {} caught", rows.len() - missed.len(), rows.len());
    assert!(missed.is_empty(), "nothing caught {missed:?}");
    let unsound = trial.without.iter().filter(|(_, found)| !found.is_empty());
    let unsound: Vec<_> = unsound.map(|(command, _)| command).collect();
    assert!(unsound.is_empty(), "these fail without a bug: {unsound:?}");
}

/// A bug that did not stay unnoticed.
struct Catch {
    by: String,
    /// How much it took.
    after: String,
    said: String,
}

/// Something that was found wrong.
#[derive(Clone, Debug)]
struct Finding {
    /// The checker or the test.
    check: String,
    text: String,
}

impl Finding {
    /// The invariant that it names.
    fn invariant(&self) -> Option<&str> {
        let from = self.text.find("I-")?;
        let named = &self.text[from..];
        let number = |c: char| c.is_ascii_digit();
        let digits = named[2..].chars().take_while(|c| number(*c)).count();
        (digits > 0).then(|| &named[..2 + digits])
    }

    /// What is wrong, without the case in which it is.
    fn kind(&self) -> (String, Option<String>) {
        (self.check.clone(), self.invariant().map(str::to_owned))
    }
}

/// What one command found, and after how much.
#[derive(Default)]
struct Said {
    findings: Vec<Finding>,
    after: String,
}

/// What was tried already.
#[derive(Default)]
struct Trial {
    library: Option<PathBuf>,
    simulator: Option<PathBuf>,
    /// What is found without a bug, by command and seed: nothing, on a machine that is not too busy.
    without: BTreeMap<(Catcher, u64), Vec<Finding>>,
}

impl Trial {
    fn of(&mut self, bug: Bug, catcher: Catcher) -> Option<Catch> {
        let began = now_ms();
        let mut longest = 0;
        for seed in 1.. {
            let start = now_ms();
            if start - began + longest > WITHIN.as_millis() as u64 {
                return None;
            }
            let said = self.said(catcher, seed, Some(bug));
            longest = longest.max(now_ms() - start);
            if let Some(catch) = self.caught(catcher, seed, said) {
                return Some(catch);
            }
            if matches!(catcher, Tests(_) | Simulator(..)) {
                return None;
            }
        }
        None
    }

    /// What the same command does not find without a bug. What names an invariant comes first.
    fn caught(&mut self, catcher: Catcher, seed: u64, said: Said) -> Option<Catch> {
        if said.findings.is_empty() {
            return None;
        }
        let without = self.without(catcher, seed);
        let own = said.findings.into_iter();
        let own = own.filter(|one| without.iter().all(|other| other.kind() != one.kind()));
        let finding = own.min_by_key(|finding| finding.invariant().is_none())?;
        let by = match catcher {
            Tests(filter) => format!("`{filter}`"),
            Simulator(seeds, seconds) => format!("simulator, seeds 1–{seeds}, {seconds} s"),
            Harness(_, nemeses) => format!("harness, {nemeses}"),
        };
        let (check, text) = (finding.check, short(&finding.text));
        let said_so = format!("{check}: {text}").replace('|', "/");
        Some(Catch {
            by,
            after: said.after,
            said: said_so,
        })
    }

    fn without(&mut self, catcher: Catcher, seed: u64) -> Vec<Finding> {
        if let Some(found) = self.without.get(&(catcher, seed)) {
            return found.clone();
        }
        let found = self.said(catcher, seed, None).findings;
        if !found.is_empty() {
            println!("without a bug {catcher:?}, seed {seed}, finds {found:?}");
        }
        self.without.insert((catcher, seed), found.clone());
        found
    }

    fn said(&mut self, catcher: Catcher, seed: u64, bug: Option<Bug>) -> Said {
        match catcher {
            Tests(filter) => self.tests(filter, bug),
            Simulator(seeds, seconds) => self.simulate(seeds, seconds, bug),
            Harness(seconds, nemeses) => harness(seconds, nemeses, seed, bug),
        }
    }

    /// Seeds of the simulator, in a process of their own.
    fn simulate(&mut self, seeds: u64, seconds: u64, bug: Option<Bug>) -> Said {
        let binary = &*self
            .simulator
            .get_or_insert_with(|| built("--test simulate", "simulate"));
        let asked = format!("--from 1 --seeds {seeds} --seconds {seconds}");
        let mut command = Command::new(binary);
        command
            .args(["long", "--exact", "--ignored", "--nocapture"])
            .env_remove(VARIABLE)
            .env("SIMULATE", asked);
        if let Some(bug) = bug {
            command.env(VARIABLE, bug.name());
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let findings = simulated(&text);
        assert_eq!(output.status.success(), findings.is_empty(), "{text}");
        let after = format!("{seeds} seeds");
        Said { findings, after }
    }

    /// Tests of the library, in a process of their own.
    fn tests(&mut self, filter: &str, bug: Option<Bug>) -> Said {
        let binary = self
            .library
            .get_or_insert_with(|| built("--lib", "horolog"));
        let mut command = Command::new(binary);
        command
            .arg(filter)
            .env_remove(VARIABLE)
            .env_remove("THOROUGH")
            // What breaks a broken build says nothing about the product.
            .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
            // That something fails is enough; how it can be said shortest is not asked.
            .env("PROPTEST_MAX_SHRINK_ITERS", "20");
        if let Some(bug) = bug {
            command.env(VARIABLE, bug.name());
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        let ran = text
            .lines()
            .any(|line| line.starts_with("test ") && !line.ends_with("ignored"));
        assert!(ran, "{filter} names no test:\n{text}");
        let findings = failures(&text);
        assert_eq!(output.status.success(), findings.is_empty(), "{text}");
        let after = cases(&text);
        Said { findings, after }
    }
}

/// What the simulator says of seeds that broke a promise: `seed 7:`, then `checker: finding` and
/// more findings of the same, a line each, up to an empty one.
fn simulated(text: &str) -> Vec<Finding> {
    let mut lines = text.lines();
    let mut findings = Vec::new();
    while let Some(line) = lines.next() {
        let seed = line
            .strip_prefix("seed ")
            .and_then(|rest| rest.strip_suffix(':'));
        if seed.is_none_or(|seed| seed.parse::<u64>().is_err()) {
            continue;
        }
        for line in lines.by_ref().take_while(|line| !line.is_empty()) {
            let (check, text) = line.split_once(": ").unwrap_or(("", line));
            // Summaries name nothing.
            if text.contains("I-") || check.starts_with("I-") {
                findings.push(Finding {
                    check: check.into(),
                    text: line.into(),
                });
            }
        }
    }
    findings
}

/// One run of this harness.
fn harness(seconds: u64, nemeses: &str, seed: u64, bug: Option<Bug>) -> Said {
    let asked = format!("--seconds {seconds} --nemesis {nemeses}");
    let options = Options {
        bug: bug.map(|bug| bug.name().to_owned()),
        ..Options::parse(&asked, seed).unwrap()
    };
    println!("--- just jepsen {}", options.shown());
    let ran = catch_unwind(AssertUnwindSafe(|| run::run(&Plan::new(options))));
    let after = match seed {
        1 => "1 seed".to_owned(),
        n => format!("{n} seeds"),
    };
    let Ok(outcome) = ran else {
        let (check, text) = ("run".into(), "it broke off".into());
        let findings = vec![Finding { check, text }];
        return Said { findings, after };
    };
    let mut findings = Vec::new();
    for verdict in outcome.verdicts.iter().filter(|verdict| !verdict.ok) {
        println!("FAILED   {}: {}", verdict.name, verdict.text);
        if !NO_CATCH.contains(&verdict.name) {
            findings.extend(verdict.text.lines().map(|line| Finding {
                check: verdict.name.into(),
                text: line.into(),
            }));
        }
    }
    Said { findings, after }
}

/// A test binary with the bugs in it.
fn built(which: &str, name: &str) -> PathBuf {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let built = Command::new(cargo)
        .args(["test", "--features", "seeded-bugs", "--no-run"])
        .args(which.split_whitespace())
        .arg("--message-format=json")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&built.stdout).into_owned();
    let mut messages = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let found = messages.find_map(|message| {
        let is_it = message["target"]["name"] == name && message["profile"]["test"] == true;
        let executable = message["executable"].as_str().filter(|_| is_it)?;
        Some(PathBuf::from(executable))
    });
    let why = String::from_utf8_lossy(&built.stderr);
    found.unwrap_or_else(|| panic!("the tests of {name} were not built: {why}"))
}

/// The tests that failed, each with its first complaint.
fn failures(text: &str) -> Vec<Finding> {
    let failed = text
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let finding = |name: &str| {
        let begins = format!("thread '{name}' ");
        let mut lines = text.lines();
        lines.find(|line| line.starts_with(&begins) && line.contains(" panicked at "));
        Finding {
            check: name.rsplit("::").next().unwrap_or(name).to_owned(),
            text: lines.next().unwrap_or("").to_owned(),
        }
    };
    failed.map(finding).collect()
}

/// How many cases of a property went well before the one that did not.
fn cases(text: &str) -> String {
    let mut went_well = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("successes: "));
    let count = went_well.next().and_then(|n| n.parse::<u64>().ok());
    count.map_or(String::new(), |n| match n {
        0 => "1 case".into(),
        n => format!("{} cases", n + 1),
    })
}

/// The beginning of a line.
fn short(line: &str) -> String {
    const LETTERS_MAX: usize = 110;
    let mut short: String = line.chars().take(LETTERS_MAX).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

#[test]
fn every_bug_has_a_catcher_and_a_row() {
    let page = std::fs::read_to_string("docs/testing.md").unwrap();
    for bug in Bug::ALL {
        assert!(!catchers(*bug).is_empty(), "{bug:?}");
        let rows = page.lines();
        let rows = rows.filter(|line| line.starts_with(&format!("| `{}` |", bug.name())));
        assert_eq!(rows.count(), 1, "docs/testing.md: rows for {}", bug.name());
    }
}

#[test]
fn nobody_gets_the_bugs_who_did_not_ask() {
    let manifest = std::fs::read_to_string("Cargo.toml").unwrap();
    assert!(manifest.contains("\ndefault = []\n") && manifest.contains("\nseeded-bugs = []\n"));
    let source = std::fs::read_to_string("src/bugs.rs").unwrap();
    assert!(source.contains(
        "#[cfg(all(feature = \"seeded-bugs\", not(debug_assertions)))]\ncompile_error!("
    ));
}

#[test]
fn what_failed_is_read_from_what_a_test_prints() {
    let text = "test a::b ... ok\ntest a::c ... FAILED\n\nthread 'a::c' (1) panicked at src/x.rs:1:2:\n\
                I-9: it waits\nnote: more\n\tsuccesses: 4\n";
    let failed = failures(text);
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].text, "I-9: it waits");
    assert_eq!(failed[0].kind(), ("c".into(), Some("I-9".into())));
    assert_eq!(cases(text), "5 cases");
    assert_eq!(cases("nothing"), "");
}
