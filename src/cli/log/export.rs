//! The log and the histories as lines of JSON.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Stopped, walk};
use crate::cli::output::line;
use crate::log::{Entry, Kind, LogStore};
use crate::model::{Batch, Key, Row};
use crate::raft::membership;
use crate::state::{RedbStore, Store};

/// Tasks read at once.
const PIECE: usize = 1_024;

/// Prints the entries `from..end`.
pub(super) fn log(log: &LogStore, from: u64, end: u64) -> Result<()> {
    walk(log, from, end, &mut |entry| {
        lines(&entry).map(|lines| lines.iter().for_each(|text| line(text)))
    })
}

/// An entry as lines of JSON: one for each of its events.
fn lines(entry: &Entry) -> Result<Vec<String>> {
    let at = entry.at;
    let place = |kind: &str| -> Value {
        json!({ "index": at.index, "term": at.term, "leader": at.node, "kind": kind })
    };
    let named = || format!("entry {}", at.index);
    let batch = match entry.kind {
        Kind::Blank => return Ok(vec![place("blank").to_string()]),
        Kind::Membership => {
            let mut shown = place("membership");
            let members = membership(&entry.payload).with_context(named)?;
            shown["members"] = serde_json::to_value(members)?;
            return Ok(vec![shown.to_string()]);
        }
        Kind::Batch => Batch::decode(&entry.payload),
    };
    let batch = batch.with_context(named)?;
    let event = |event: &crate::model::Event| {
        let mut shown = place(&event.name().to_ascii_lowercase());
        shown["stamp"] = json!(batch.stamp);
        shown["now"] = json!(batch.now);
        shown["event"] = serde_json::to_value(event)?;
        Ok(shown.to_string())
    };
    batch.events.iter().map(event).collect()
}

/// Prints every task that the store holds, with what happened to it up to the checkpoint.
pub(super) fn history(node: &Stopped) -> Result<()> {
    let path = node.store();
    if !path.exists() {
        bail!(
            "{} has no checkpoint yet: export the log",
            node.dir.display()
        );
    }
    let store = RedbStore::open(&path)?;
    let image = store.image()?;
    let mut after = None;
    loop {
        let tasks = image.records_after(after, PIECE)?;
        let Some((last, _)) = tasks.last() else {
            return Ok(());
        };
        after = Some(last.task.seq);
        for (record, rows) in &tasks {
            let task = &record.task;
            line(&told(&task.key, task.stage.name(), rows).to_string());
        }
    }
}

fn told(key: &Key, stage: &str, rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "index": row.index,
            "at": row.at,
            "kind": row.kind.name(),
            "attempt": row.fence.attempt,
            "fence": row.fence.number(),
            "node": row.node,
            "until": row.until,
            "error": row.error,
            "by": row.by.as_ref().map(|by| by.to_string()),
            "end": row.end,
        })
    };
    let history: Vec<Value> = rows.iter().map(row).collect();
    json!({ "app": key.app, "id": key.id, "stage": stage, "history": history })
}
