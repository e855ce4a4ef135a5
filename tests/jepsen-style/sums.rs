//! The ledger: a line per run in `ledger.ndjson`, beside the folders of the runs, and what they add
//! up to. Runs that failed stay in it.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use crate::fault::FAULTS;
use crate::plan::Plan;
use crate::record;

/// Names the commit of the binary, where it is a copy that the tree has left behind.
const COMMIT: &str = "JEPSEN_COMMIT";
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
        "commit": commit(), "seconds": 0, "undecided": 0, "violations": ["broke off"],
        "faults": {}, "operations": {},
    }));
}

/// What was tested, as git names it; `+` where the tree was not as the commit.
pub fn commit() -> String {
    if let Ok(told) = std::env::var(COMMIT) {
        return told;
    }
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
        text.push_str("\n| commit | runs that held |\n|---|---|\n");
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
