//! The log and the histories as lines of JSON.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Stopped, walk};
use crate::api::events_told;
use crate::cli::output::{line, say};
use crate::log::{Entry, Kind, LogStore};
use crate::model::Batch;
use crate::raft::membership;
use crate::state::{History, RedbStore, Store, walk_histories};

/// Prints the entries `from..end`.
pub(super) fn log(log: &LogStore, from: u64, end: u64) -> Result<()> {
    walk(log, from, end, &mut |entry| {
        lines(&entry).map(|lines| lines.iter().for_each(|text| line(text)))
    })
}

/// An entry as lines of JSON: one for each of its events.
///
/// # Errors
/// Its payload cannot be read.
pub fn lines(entry: &Entry) -> Result<Vec<String>> {
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

/// Prints what happened to every task that the store tells of, retired ones included: one event a
/// line, as of the store's last checkpoint.
pub(super) fn history(node: &Stopped) -> Result<()> {
    let path = node.store();
    if !path.exists() {
        bail!(
            "{} has no checkpoint yet: export the log",
            node.dir.display()
        );
    }
    let image = RedbStore::open(&path)?.image()?;
    let told = walk_histories(&*image, |history: History| {
        let task = &history.task;
        for event in events_told(&history.rows) {
            let mut shown = json!({
                "app": task.key.app, "id": task.key.id, "task": task.seq.0,
                "stage": task.stage.name(), "retired": history.retired,
            });
            shown["event"] = serde_json::to_value(event)?;
            line(&shown.to_string());
        }
        Ok::<(), anyhow::Error>(())
    })?;
    match told {
        Some(index) => say(&format!(
            "up to log index {index}; the log holds what followed"
        )),
        None => say("there is no checkpoint yet: the log holds everything"),
    }
    Ok(())
}
