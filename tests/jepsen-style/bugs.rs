//! Whether the tests notice mistakes: each bug of `src/bugs.rs` is made on purpose, and something
//! must catch it.
//!
//! A catch counts only if the same command finds nothing wrong without the bug. What is tried
//! names the tests, or the faults, that suit a bug, cheapest first; no checker is told what to look
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
    /// Runs of this harness: seconds of faults, and which.
    Harness(u64, &'static str),
}
use Catcher::{Harness, Tests};

/// The fold: every entry looked at as it is folded.
const EACH_ENTRY: Catcher = Tests("state::properties::every_entry");
/// The fold on two nodes whose stores were written at different times.
const REPLICAS: Catcher = Tests("state::properties::replicas");
const SNAPSHOT: Catcher = Tests("state::properties::a_snapshot_and");
const STORE: Catcher = Tests("state::properties::a_store_on_disk");
const LISTS: Catcher = Tests("state::properties::lists");
const QUIET: Catcher = Harness(15, "none");
const KILLS: Catcher = Harness(15, "kill");
const CUTS: Catcher = Harness(15, "partition");
const CLOCKS: Catcher = Harness(20, "clock");

/// What is tried for each bug, in this order.
const fn catchers(bug: Bug) -> &'static [Catcher] {
    match bug {
        Bug::AckBeforeSync => &[Tests("log::tests::power"), KILLS],
        Bug::ChecksumUnchecked => &[Tests("log::tests::damage"), Tests("log::entry")],
        Bug::VoteNotSaved => &[Tests("raft::suite"), KILLS],
        Bug::PurgeBeyondCheckpoint => &[Tests("raft::suite"), Harness(20, "snapshot,kill")],
        Bug::CheckpointIndex | Bug::WheelNotRebuilt | Bug::DedupLost => &[STORE, KILLS],
        Bug::SnapshotDropsMarks | Bug::SnapshotDropsHistory => {
            &[SNAPSHOT, Harness(20, "snapshot,kill")]
        }
        Bug::OwnClock | Bug::RandomJitter => &[REPLICAS, QUIET],
        Bug::HashMapOrder => &[REPLICAS],
        Bug::RetireDropsPending => &[EACH_ENTRY, LISTS],
        Bug::LabelIndexForgotten | Bug::ListSkipsFar => &[LISTS, QUIET],
        Bug::FenceUnchecked => &[EACH_ENTRY, CUTS],
        Bug::ContentIgnored | Bug::MarkIgnored => &[EACH_ENTRY, Tests("state::tests"), QUIET],
        Bug::OneRetryTooMany
        | Bug::BackoffIgnored
        | Bug::RetryLost
        | Bug::DeadlineIgnored
        | Bug::DoneRevived
        | Bug::CancelledFires
        | Bug::OwnerNotAsked => &[EACH_ENTRY, QUIET],
        Bug::SameAttempt => &[EACH_ENTRY, KILLS],
        Bug::StaleRead | Bug::BlindRepeat => &[CUTS],
        Bug::StampGoesBack => &[CLOCKS],
        Bug::BulkOneTooMany => &[QUIET],
        Bug::ReplayFires => &[KILLS],
        Bug::LeaseIgnored => &[Tests("executor::core"), CUTS],
        Bug::EarlyDispatch => &[Tests("executor::core"), QUIET],
        Bug::BegunWithdrawn => &[Tests("executor::attempts"), QUIET],
        Bug::OutcomeDropped => &[CUTS],
        Bug::ClockBelieved => &[Tests("node::clock"), CLOCKS],
    }
}

/// Tries the bugs that are asked for, and prints the table.
///
/// # Panics
/// When one is not caught; when what is tried fails without a bug, too.
pub fn table(asked: &str) {
    let words: Vec<&str> = asked.split_whitespace().collect();
    let is_wanted = |catcher: &Catcher| match catcher {
        Tests(_) => !words.contains(&"harness"),
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
    assert!(trial.wrong.is_empty(), "{}", trial.wrong.join("\n"));
    assert!(missed.is_empty(), "nothing caught {missed:?}");
}

/// A bug that did not stay unnoticed.
struct Catch {
    by: String,
    /// How much it took.
    after: String,
    said: String,
}

/// What one command said: nothing wrong, or this, after so much.
type Said = Option<(String, String)>;

/// What was tried already.
#[derive(Default)]
struct Trial {
    library: Option<PathBuf>,
    /// What fails without a bug.
    wrong: Vec<String>,
    /// Commands that were tried without a bug, and whether they found nothing.
    sound: BTreeMap<(Catcher, u64), bool>,
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
            let (by, found) = match catcher {
                Tests(filter) => (format!("`{filter}`"), self.tests(filter, Some(bug))),
                Harness(_, nemeses) => {
                    let found = harness(catcher, seed, Some(bug)).map(|(said, _)| {
                        let seeds = if seed == 1 { "seed" } else { "seeds" };
                        (said, format!("{seed} {seeds}"))
                    });
                    (format!("harness, {nemeses}"), found)
                }
            };
            longest = longest.max(now_ms() - start);
            if let Some((said, after)) = found {
                return self.is_sound(catcher, seed).then(|| Catch {
                    by,
                    after,
                    said: said.replace('|', "/"),
                });
            }
            if matches!(catcher, Tests(_)) {
                return None;
            }
        }
        None
    }

    /// Whether the same command finds nothing wrong without a bug.
    fn is_sound(&mut self, catcher: Catcher, seed: u64) -> bool {
        if let Some(sound) = self.sound.get(&(catcher, seed)) {
            return *sound;
        }
        let found = match catcher {
            Tests(filter) => self.tests(filter, None),
            Harness(..) => harness(catcher, seed, None),
        };
        if let Some((said, _)) = &found {
            let text = format!("{catcher:?}, seed {seed}, fails without a bug: {said}");
            println!("{text}");
            self.wrong.push(text);
        }
        self.sound.insert((catcher, seed), found.is_none());
        found.is_none()
    }

    /// Tests of the library, in a process of their own.
    fn tests(&mut self, filter: &str, bug: Option<Bug>) -> Said {
        let binary = self.library.get_or_insert_with(library);
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
        (!output.status.success()).then(|| (first_words(&text), cases(&text)))
    }
}

/// One run of this harness.
fn harness(catcher: Catcher, seed: u64, bug: Option<Bug>) -> Said {
    let Harness(seconds, nemeses) = catcher else {
        return None;
    };
    let asked = format!("--seconds {seconds} --nemesis {nemeses}");
    let options = Options {
        bug: bug.map(|bug| bug.name().to_owned()),
        ..Options::parse(&asked, seed).unwrap()
    };
    println!("--- just jepsen {}", options.shown());
    let ran = catch_unwind(AssertUnwindSafe(|| run::run(&Plan::new(options))));
    let verdicts = match ran {
        Ok(outcome) => outcome.verdicts,
        Err(_) => return Some(("the run broke off".into(), String::new())),
    };
    let wrong = verdicts.iter().filter(|verdict| !verdict.ok);
    for verdict in wrong.clone() {
        println!("FAILED   {}: {}", verdict.name, verdict.text);
    }
    let caught: Vec<_> = wrong.filter(|v| !NO_CATCH.contains(&v.name)).collect();
    // A line that names an invariant tells more than others.
    let lines = caught
        .iter()
        .flat_map(|v| v.text.lines().map(|l| (v.name, l)));
    let told = lines
        .clone()
        .find(|(_, line)| line.contains("I-"))
        .or(lines.clone().next());
    told.map(|(name, line)| (format!("{name}: {}", short(line)), String::new()))
}

/// The library's tests with the bugs in them.
fn library() -> PathBuf {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let built = Command::new(cargo)
        .args(["test", "--features", "seeded-bugs", "--lib", "--no-run"])
        .arg("--message-format=json")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&built.stdout).into_owned();
    let mut messages = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let found = messages.find_map(|message| {
        let is_library = message["target"]["name"] == "horolog";
        let executable = message["executable"].as_str().filter(|_| is_library)?;
        Some(PathBuf::from(executable))
    });
    let why = String::from_utf8_lossy(&built.stderr);
    found.unwrap_or_else(|| panic!("the tests of the library were not built: {why}"))
}

/// What failed: the first complaint that names an invariant, or the first.
fn first_words(text: &str) -> String {
    let mut failed = text
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let name = failed.next().unwrap_or("?");
    let name = name.rsplit("::").next().unwrap_or(name);
    let mut complaints = text
        .lines()
        .zip(text.lines().skip(1))
        .filter(|(line, _)| line.starts_with("thread '") && line.contains(" panicked at "))
        .map(|(_, complaint)| complaint);
    let first = complaints.clone().next().unwrap_or("");
    let named = complaints.find(|line| line.contains("I-"));
    format!("{name}: {}", short(named.unwrap_or(first)))
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
    assert_eq!(first_words(text), "c: I-9: it waits");
    assert_eq!(cases(text), "5 cases");
    assert_eq!(cases("nothing"), "");
}
