//! A full check of every file of a directory, and a replay of what the log holds.

use anyhow::{Result, anyhow};
use std::collections::BTreeMap;
use std::path::Path;

use super::{Stopped, walk};
use crate::cli::output::say;
use crate::log::{Entry, Kind, LogStore};
use crate::model::limits::HASH_EVERY;
use crate::model::{Batch, Time};
use crate::state::{MemoryStore, RedbStore, State, StateHash, Verified, verify_store};

/// What is wrong in a directory, and where.
pub(super) fn verify(node: &Stopped) -> Vec<String> {
    let mut findings = Vec::new();
    let mut purged = None;
    match &node.log {
        Ok(log) => {
            purged = log.bounds().purged.map(|purged| purged.index);
            let mut entries = 0;
            if let Err(error) = check_log(log, &mut entries, &mut findings) {
                findings.push(format!("log: {error:#}"));
            }
            say(&format!("log: {entries} entries read"));
        }
        Err(fault) => findings.push(format!("log: {fault}")),
    }
    leftovers(&node.dir.join("state"));
    let store = node.store();
    if !store.exists() {
        if purged.is_some() {
            findings.push("store: it is missing, and the log before it was purged".into());
        }
    } else {
        match verify_store(&store) {
            Ok(checked) => {
                let found = checked.findings.iter();
                findings.extend(found.map(|finding| format!("store: {finding}")));
                told(&checked);
                if checked.index.unwrap_or(0) < purged.unwrap_or(0) {
                    findings.push("store: the log behind its checkpoint was purged".into());
                }
            }
            Err(fault) => findings.push(format!("store: {fault}")),
        }
    }
    match &node.log {
        Ok(log) if findings.is_empty() => {
            if let Err(error) = replay(log, &store, &mut findings) {
                findings.push(format!("replay: {error:#}"));
            }
        }
        _ => say("replay: not tried over damaged files"),
    }
    findings
}

fn told(checked: &Verified) {
    say(&format!(
        "store: {} tasks, {} rows of history, {} marks, {} retired tasks at log index {}",
        checked.tasks,
        checked.history,
        checked.marks,
        checked.past,
        checked.index.unwrap_or(0)
    ));
}

/// Snapshots that were on their way. A starting node clears them: they are sent again.
fn leftovers(state: &Path) {
    for entry in std::fs::read_dir(state).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".part") || name.ends_with(".installing") {
            say(&format!(
                "state/{name}: left by an interrupted snapshot; the node clears it at its start"
            ));
        }
    }
}

/// Every entry: its checksum and place (the read checks both), its order, its events.
fn check_log(log: &LogStore, entries: &mut u64, findings: &mut Vec<String>) -> Result<()> {
    let (mut term, mut stamp) = (0, Time(0));
    walk(log, 0, u64::MAX, &mut |entry| {
        *entries += 1;
        let index = entry.at.index;
        if entry.at.term < term {
            findings.push(format!("log: entry {index}: its term goes back"));
        }
        term = entry.at.term;
        if entry.kind == Kind::Batch {
            match Batch::decode(&entry.payload) {
                Ok(batch) if batch.stamp < stamp => {
                    findings.push(format!("log: entry {index}: its stamp goes back"));
                }
                Ok(batch) => stamp = batch.stamp,
                Err(error) => findings.push(format!("log: entry {index}: {error}")),
            }
        }
        Ok(())
    })
}

/// Folds the log anew, in memory: over the checkpoint, and from zero where all of it is still
/// there. Both must come to the hashes that the node noted, and to the same.
fn replay(log: &LogStore, store: &Path, findings: &mut Vec<String>) -> Result<()> {
    let mut kept = match store.exists() {
        true => State::open(Box::new(RedbStore::open(store)?))?.0,
        false => State::new(Box::new(MemoryStore::default())),
    };
    let checkpoint = kept.applied();
    let mut noted: BTreeMap<u64, StateHash> = kept.hashes().collect();
    noted.insert(checkpoint, kept.hash());
    let whole = log.bounds().purged.is_none();
    let mut zero = whole.then(|| State::new(Box::new(MemoryStore::default())));
    // What was not committed yet counts as well: it is what this node would propose or drop.
    let end = log.bounds().last.map_or(0, |at| at.index).max(checkpoint);
    let (mut replayed, mut compared) = (0_u64, 0_u64);
    walk(log, 0, end + 1, &mut |entry| {
        let index = entry.at.index;
        if index > checkpoint {
            fold(&mut kept, &entry)?;
            replayed += 1;
            if index.is_multiple_of(HASH_EVERY) || index == end {
                noted.insert(index, kept.hash());
            }
        }
        let Some(zero) = &mut zero else {
            return Ok(());
        };
        fold(zero, &entry)?;
        if let Some(noted) = noted.get(&index) {
            compared += 1;
            let hash = zero.hash();
            if hash != *noted {
                findings.push(format!(
                    "replay: from zero the state hash at log index {index} is {hash}, from the \
                     checkpoint at {checkpoint} it is {noted}: the checkpoint or the log was changed"
                ));
            }
        }
        Ok(())
    })?;
    let from_zero = match whole {
        true => format!("; from zero equal at {compared} indexes"),
        false => "; not from zero, the log before it was purged".to_owned(),
    };
    say(&format!(
        "replay: {replayed} entries over the checkpoint at {checkpoint}: state hash {} at {}{from_zero}",
        kept.hash(),
        kept.applied()
    ));
    Ok(())
}

fn fold(state: &mut State, entry: &Entry) -> Result<()> {
    let index = entry.at.index;
    if entry.kind != Kind::Batch {
        state.advance(index);
        return Ok(());
    }
    let failed = |e: &dyn std::fmt::Display| anyhow!("entry {index}: {e}");
    let batch = Batch::decode(&entry.payload).map_err(|e| failed(&e))?;
    state.prepare(&batch).map_err(|e| failed(&e))?;
    state.apply(index, batch, &mut Vec::new());
    Ok(())
}
