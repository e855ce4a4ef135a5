//! The checkers: whether what a run left behind keeps the promises.
//!
//! Pure: a folder goes in, verdicts come out. Nothing here knows the product's code; what it must
//! know of it is written down again, from docs/api.md and docs/stages.md, in `model/`.
//!
//! ```text
//! folder ─► run.rs ─► fold.rs, model/ ─► replay.rs   (1) every answer is what the log says
//!             │              │           total.rs    (4) nothing lost, nothing from nowhere
//!             │              │           ledger.rs   (6) every delivery is explained
//!             │              └─────────► listing.rs  (3) lists show each task once
//!             ├────────────────────────► linear/     (2) each task looks like one place
//!             └─► occurrences.rs ──────► schedules.rs (5) every occurrence has one outcome, the right one
//!                                        pauses.rs    a paused application is not called
//! ```
//!
//! # The folder
//!
//! NDJSON, one object a line. `t`, `end` are microseconds since 1970 by the harness's clock.
//!
//! | file | a line |
//! |---|---|
//! | `history.ndjson` | `{"op":N,"type":"invoke"\|"ok"\|"fail"\|"unknown","process":P,"node":K,"f":…,"t":…,"app":…,"id":…,"value":{…}}` |
//! | `sink.ndjson` | `{"t":…,"app":…,"id":…,"attempt":N,"fence":N,"due":ms,"answer":status,"end":…}`, a delivery |
//! | `faults.ndjson` | `{"t":…,"what":"kill","nodes":[…],"phase":"begin"\|"end","detail":…}` |
//! | `log-<node>.ndjson` | the output of `horolog log export` |
//! | `status-<node>.json` | `{"cluster": /v1/cluster, "stats": /v1/stats}`, read when all was quiet |
//! | `schedules-<node>.json` | `{"t":…,"audit": /v1/audit,"schedules":{id:{"id":…,"fires":[all pages],"watermark":…,"kept_from":…,"whole":none has given way}}}`, the same |
//!
//! `f` is one of submit, cancel, change, run, complete, read, list, bulk, pause and resume (of an
//! application), schedule (`{"do": create, change, pause, resume, run or delete, "id", "body"}`). The `value` of an invoke
//! is what was asked: the body (`due_at` in ms or RFC 3339, `delay`, `target`, … of a submit or a
//! change, `again` and `wait` of a run, `ok` and `fence` of a complete, `read: "local"`, the query
//! of a list or the body of a bulk). That of an `ok` is the answer: `status`, and of the task
//! `index`, `stage`, `due_at`, `attempt`; `decided` is the `Horolog-Index` header, if there was
//! one. That of a `fail` has `status` and `problem`, and `decided`. An `ok` list carries the whole
//! walk: `tasks`, each with `app`, `id` and the same members. An operation that was not answered
//! is `unknown`, or never ends. The fault `none` disturbs nothing.

mod fold;
mod last;
mod ledger;
mod linear;
mod listing;
mod model;
mod occurrences;
mod pauses;
mod policy;
mod replay;
mod run;
mod schedules;
mod total;
mod words;

#[cfg(test)]
mod build;

use std::path::Path;

/// What one checker says.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub name: &'static str,
    /// Nothing wrong was found, and something was looked at.
    pub ok: bool,
    /// What could not be decided; it is in neither `checked` nor a reason to pass.
    pub undecided: u64,
    /// How many things were looked at and decided.
    pub checked: u64,
    /// What failed, with op numbers and log indexes; or a summary.
    pub text: String,
}

/// Findings that are printed; the rest is counted.
const SHOWN_MAX: usize = 20;

/// What a checker gathers on its way to a verdict.
#[derive(Default)]
struct Findings {
    checked: u64,
    undecided: u64,
    wrong: u64,
    shown: Vec<String>,
    notes: Vec<String>,
}

impl Findings {
    /// One more thing was looked at; if it is wrong, says how.
    fn check(&mut self, right: bool, text: impl FnOnce() -> String) {
        self.checked += 1;
        if !right {
            self.wrong(text());
        }
    }

    fn wrong(&mut self, text: String) {
        self.wrong += 1;
        if self.shown.len() < SHOWN_MAX {
            self.shown.push(text);
        }
    }

    fn undecided(&mut self, text: impl FnOnce() -> String) {
        self.undecided += 1;
        if self.undecided == 1 {
            self.notes.push(format!("undecided, for one: {}", text()));
        }
    }

    /// Something to say that is neither right nor wrong.
    fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    fn verdict(mut self, name: &'static str) -> Verdict {
        let hidden = self.wrong - self.shown.len() as u64;
        if hidden > 0 {
            self.shown.push(format!("… and {hidden} more"));
        }
        if self.checked == 0 && self.wrong == 0 {
            self.notes.push("nothing was checked".into());
        }
        self.shown.append(&mut self.notes);
        Verdict {
            name,
            ok: self.wrong == 0 && self.checked > 0,
            undecided: self.undecided,
            checked: self.checked,
            text: self.shown.join("\n"),
        }
    }
}

/// Runs every checker over a folder.
pub fn check(dir: &Path) -> Vec<Verdict> {
    let (run, found) = run::Run::load(dir);
    let folded = fold::fold(&run);
    let mut verdicts = vec![
        found.verdict("well-formed"),
        replay::check(&run, &folded),
        linear::check(&run),
        listing::check(&run, &folded),
        total::check(&run, &folded),
        ledger::check(&run, &folded),
    ];
    if schedules::concerns(&run) {
        verdicts.push(schedules::check(&run, &folded));
    }
    if pauses::concerns(&folded) {
        verdicts.push(pauses::check(&run, &folded));
    }
    verdicts
}
