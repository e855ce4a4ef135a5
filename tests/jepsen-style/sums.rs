//! The ledger: a line per run in `ledger.ndjson`, beside the folders of the runs, and what they add
//! up to. Runs that failed stay in it.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::fault::FAULTS;
use crate::plan::Plan;
use crate::record;
use crate::support::node::binary;

/// Names the commit of the binary, where it is a copy that the tree has left behind.
const COMMIT: &str = "JEPSEN_COMMIT";
/// Of the hash of a binary, so many are enough to tell builds apart.
const HASH_DIGITS: usize = 16;
/// How often each kind of fault should have happened, and each kind of operation ended.
const FAULTS_WANTED: u64 = 20;
const OPERATIONS_WANTED: u64 = 1_000;

fn path() -> PathBuf {
    record::runs().join("ledger.ndjson")
}

/// One line more.
pub fn enter(line: &Value) {
    let ledger = fs::File::options().create(true).append(true).open(path());
    // One write, so that runs side by side do not mix.
    let written = ledger.and_then(|mut ledger| ledger.write_all(format!("{line}\n").as_bytes()));
    written.expect("the ledger takes a line");
}

/// A run that came to no verdict failed.
pub fn enter_broken(plan: &Plan) {
    enter(&json!({
        "seed": plan.options.seed, "options": plan.options.shown(), "ok": false,
        "commit": tested(), "checkout": checkout(), "seconds": 0, "undecided": 0, "violations": ["broke off"],
        "faults": {}, "operations": {},
    }));
}

/// What ran: the commit, where somebody says of which one the binary is, and else the binary's
/// own hash. The checkout may have gone on since it was built, or be another's.
pub fn tested() -> String {
    static TESTED: OnceLock<String> = OnceLock::new();
    let hashed = || {
        let program = binary().get_program().to_owned();
        let bytes = fs::read(&program).unwrap_or_else(|e| panic!("{program:?}: {e}"));
        let hash = blake3::hash(&bytes).to_hex();
        format!("binary {}", &hash[..HASH_DIGITS])
    };
    let told = || std::env::var(COMMIT).ok();
    TESTED.get_or_init(|| told().unwrap_or_else(hashed)).clone()
}

/// Where this harness was built, as git names it; `+` where the tree was not as the commit.
pub fn checkout() -> String {
    let git = |args: &[&str]| {
        let out = Command::new("git")
            .args(["-C", env!("CARGO_MANIFEST_DIR")])
            .args(args)
            .output();
        out.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
            .unwrap_or_default()
    };
    let changed = match git(&["status", "--porcelain", "--untracked-files=no"]).is_empty() {
        true => "",
        false => "+",
    };
    format!("{}{changed}", git(&["rev-parse", "--short=10", "HEAD"]))
}

/// The ledger's lines.
pub fn rows() -> Vec<Value> {
    match path().exists() {
        true => record::read(&path()),
        false => Vec::new(),
    }
}

/// How operations of a kind ended.
#[derive(Default, Clone, Copy)]
struct Ends {
    ok: u64,
    fail: u64,
    unknown: u64,
}

/// What runs add up to. Faults, operations and hours are those of runs that held.
#[derive(Default)]
pub struct Sums {
    runs: u64,
    /// Rows from before commits were written down: not counted at all.
    nameless: u64,
    failed: Vec<String>,
    seeds: BTreeSet<u64>,
    seconds: u64,
    checked: u64,
    undecided: u64,
    faults: BTreeMap<String, u64>,
    operations: BTreeMap<String, Ends>,
    commits: BTreeMap<String, u64>,
}

impl Sums {
    pub fn of(rows: &[Value]) -> Sums {
        let mut sums = Sums::default();
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        for row in rows {
            let Some(commit) = row["commit"].as_str() else {
                sums.nameless += 1;
                continue;
            };
            sums.runs += 1;
            if row["ok"] != true {
                let became = row["became"].as_str().unwrap_or("not looked into yet");
                sums.failed.push(format!(
                    "seed {} at {commit}: {}: {became}",
                    row["seed"], row["violations"]
                ));
                continue;
            }
            sums.seeds.insert(number(&row["seed"]));
            sums.seconds += number(&row["seconds"]);
            sums.checked += number(&row["checked"]);
            sums.undecided += number(&row["undecided"]);
            *sums.commits.entry(commit.to_owned()).or_default() += 1;
            for (name, times) in row["faults"].as_object().into_iter().flatten() {
                *sums.faults.entry(name.clone()).or_default() += number(times);
            }
            for (f, ends) in row["operations"].as_object().into_iter().flatten() {
                let sum = sums.operations.entry(f.clone()).or_default();
                sum.ok += number(&ends["ok"]);
                sum.fail += number(&ends["fail"]);
                sum.unknown += number(&ends["unknown"]);
            }
        }
        for kind in FAULTS {
            sums.faults.entry(kind.name()).or_default();
        }
        sums
    }

    /// As Markdown.
    pub fn shown(&self) -> String {
        let mut text = format!(
            "{:.2} hours in {} runs that held, {} seeds; {} facts checked, {} undecided (not \
             counted as checked); {} runs failed.\n\n| fault | times |\n|---|---|\n",
            self.seconds as f64 / 3_600.0,
            self.runs - self.failed.len() as u64,
            self.seeds.len(),
            self.checked,
            self.undecided,
            self.failed.len(),
        );
        let few = |n: u64, wanted: u64| if n < wanted { " (too few)" } else { "" };
        for (name, times) in &self.faults {
            let _ = writeln!(text, "| {name} | {times}{} |", few(*times, FAULTS_WANTED));
        }
        text.push_str("\n| operation | ok | fail | unknown |\n|---|---|---|---|\n");
        for (f, ends) in &self.operations {
            let few = few(ends.ok + ends.fail, OPERATIONS_WANTED);
            let Ends { ok, fail, unknown } = ends;
            let _ = writeln!(text, "| {f}{few} | {ok} | {fail} | {unknown} |");
        }
        text.push_str("\n| commit or binary | runs that held |\n|---|---|\n");
        for (commit, runs) in &self.commits {
            let _ = writeln!(text, "| {commit} | {runs} |");
        }
        if self.nameless > 0 {
            let _ = writeln!(
                text,
                "\nNot counted: {} rows that do not say which commit they are of.",
                self.nameless
            );
        }
        for failed in &self.failed {
            let _ = writeln!(text, "\nFailed: {failed}");
        }
        text
    }
}

#[test]
fn the_ledger_adds_up_what_held_and_names_what_failed() {
    let row = |seed: u64, ok: bool| {
        json!({
            "seed": seed, "ok": ok, "seconds": 1800, "checked": 10, "undecided": 1,
            "commit": "abc", "violations": [], "faults": { "kill/one": 15 },
            "operations": { "submit": { "ok": 600, "fail": 1, "unknown": 2 } },
        })
    };
    let sums = Sums::of(&[row(1, true), row(2, true), row(2, true), row(3, false)]);
    let text = sums.shown();
    for expected in [
        "1.50 hours in 3 runs that held, 2 seeds; 30 facts checked, 3 undecided",
        "1 runs failed",
        "| kill/one | 45 |",
        "| pause/any | 0 (too few) |",
        "| submit | 1800 | 3 | 6 |",
        "| commit or binary | runs that held |",
        "| abc | 3 |",
        "Failed: seed 3 at abc",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let mut nameless = row(4, true);
    nameless["commit"] = Value::Null;
    let few = Sums::of(&[row(1, true), nameless]).shown();
    assert!(few.contains("0.50 hours") && few.contains("Not counted: 1 rows"));
    assert!(few.contains("kill/one | 15 (too few)") && few.contains("submit (too few)"));
}

#[test]
fn what_ran_is_named_by_the_binary_and_not_by_the_checkout() {
    let named = tested();
    let told = std::env::var(COMMIT).unwrap_or_default();
    assert!(named == told || named.starts_with("binary ") && named.len() == 7 + HASH_DIGITS);
    assert_ne!(named, checkout());
}
