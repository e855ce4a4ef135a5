//! docs/stages.md once more.

pub const STAGES: [&str; 8] = [
    "scheduled",
    "triggered",
    "running",
    "accepted",
    "retrying",
    "done",
    "dead",
    "cancelled",
];

/// What befalls a task, by stage. `-`: refused; `same`: nothing changes; `withdraw X`: X once the owner has
/// withdrawn the attempt; `again X`: X if asked explicitly; `retry`: as the policy says.
const TABLE: [(&str, [&str; 8]); 10] = {
    let (no, same, retry) = ("-", "same", "retry");
    let (sch, trg, run, acc) = ("scheduled", "triggered", "running", "accepted");
    let (ret, done, dead, can) = ("retrying", "done", "dead", "cancelled");
    let (w_can, w_sch, again) = (
        "withdraw cancelled",
        "withdraw scheduled",
        "again triggered",
    );
    [
        ("cancel", [can, w_can, no, no, can, no, no, same]),
        ("change", [sch, w_sch, no, no, ret, no, no, no]),
        ("run", [trg, same, no, no, trg, again, trg, trg]),
        ("started", [no, run, same, no, no, no, no, no]),
        ("accepted", [no, acc, acc, no, no, no, no, no]),
        ("done", [no, done, done, no, no, no, no, no]),
        ("failed", [no, retry, retry, no, no, no, no, no]),
        ("deadline", [no, no, retry, retry, no, no, no, no]),
        ("complete ok", [done, done, done, done, done, same, no, no]),
        (
            "complete failed",
            [dead, retry, retry, retry, dead, no, same, no],
        ),
    ]
};

/// What a verb does in a stage.
pub fn table(verb: &str, stage: &str) -> &'static str {
    let row = TABLE.iter().find(|(name, _)| *name == verb);
    let column = STAGES.iter().position(|name| *name == stage);
    match (row, column) {
        (Some((_, row)), Some(column)) => row[column],
        _ => "-",
    }
}
