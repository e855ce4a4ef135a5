//! `docs/stages.md` is printed from [`Stage::decide`], so that it cannot lie.

use std::fmt::Write;

use super::{Decision, Stage, Verb};

const HEAD: &str = "\
# What befalls a task, by stage

Printed from `Stage::decide` in `src/model/task.rs`; do not edit. To print it anew:
`UPDATE_DOCS=1 cargo test --lib stages_doc`.

* a stage: the task moves there
* `same`: answered like a success, and nothing changes
* `withdraw: …`: moves there once the owner has withdrawn the attempt that it has not begun
* `asked: …`: the same; but an attempt that has begun goes on, and the task moves there all the same.
  Whoever names the attempt's fence need not wait: it has begun
* `again: …`: moves there only if asked to run again explicitly
* `retrying / dead`: as the retry policy says
* `–`: refused, or of no effect; what comes from an attempt that is over is recorded as `stale`

`done`, `dead` and `cancelled` are final: only `run` leaves them. `final` failures (410, 489) go
to `dead` whatever the policy says.

";

/// One name per verb, as the documentation calls it.
fn name(verb: Verb) -> &'static str {
    match verb {
        Verb::Cancel => "cancel",
        Verb::Change => "change",
        Verb::Run => "run",
        Verb::Trigger => "becomes due",
        Verb::Started => "attempt started",
        Verb::Accepted => "answered 202",
        Verb::Done => "answered 2xx",
        Verb::Failed => "attempt failed",
        Verb::Redispatch => "owner lost its shard",
        Verb::Deadline => "deadline passed",
        Verb::Expired => "not begun by `expires_at`",
        Verb::CompleteOk => "completed from outside",
        Verb::CompleteFailed => "failed from outside",
    }
}

fn cell(decision: Decision) -> String {
    match decision {
        Decision::To(stage) => stage.to_string(),
        Decision::Same => "same".into(),
        Decision::Withdraw(stage) => format!("withdraw: {stage}"),
        Decision::Again(stage) => format!("again: {stage}"),
        Decision::RetryOrDead => "retrying / dead".into(),
        Decision::Refuse => "–".into(),
    }
}

fn stage_table() -> String {
    let mut page = HEAD.to_string();
    let stages = Stage::ALL.map(|stage| format!(" {stage} |")).concat();
    writeln!(page, "| |{stages}").unwrap();
    writeln!(page, "|---|{}", "---|".repeat(Stage::ALL.len())).unwrap();
    for verb in Verb::ALL {
        let cells = Stage::ALL.map(|stage| {
            let asked = if stage.asks_owner(verb) {
                "asked: "
            } else {
                ""
            };
            format!(" {asked}{} |", cell(stage.decide(verb)))
        });
        writeln!(page, "| {} |{}", name(verb), cells.concat()).unwrap();
    }
    page
}

#[test]
fn stages_doc_says_what_the_code_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/stages.md");
    let page = stage_table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page,
        "docs/stages.md differs from Stage::decide; run: UPDATE_DOCS=1 cargo test --lib stages_doc"
    );
}
