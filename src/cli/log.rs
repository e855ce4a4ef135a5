//! `log`: what a node's directory holds, read while the node is stopped.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

use super::output::{line, say};
use crate::api::events_told;
use crate::log::{Bounds, DirLock, EngineKind, Entry, Identity, Kind, LogFault, LogStore};
use crate::model::{Batch, Time};
use crate::state::{History, RedbStore, Store as _, verify_store, walk_histories};

/// Entries are read in pieces of about this size.
const PIECE_BYTES: usize = 8 << 20;

#[derive(Debug, Args)]
pub struct LogArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows whose directory it is and what its log holds.
    Show {
        /// The data directory of a stopped node.
        dir: PathBuf,
    },
    /// Prints the log's events, one a line, as JSON.
    Export {
        /// The data directory of a stopped node.
        dir: PathBuf,
        /// The first log index.
        #[arg(long, value_name = "INDEX", default_value_t = 0)]
        from: u64,
        /// The last log index.
        #[arg(long, value_name = "INDEX", default_value_t = u64::MAX)]
        to: u64,
        /// In their place, what happened to each task that the store tells of, retired ones
        /// included: one event a line, as of the store's last checkpoint.
        #[arg(long, conflicts_with_all = ["from", "to"])]
        history: bool,
    },
    /// Checks every file of a directory, and says what is wrong and where.
    Verify {
        /// The data directory of a stopped node.
        dir: PathBuf,
    },
}

pub fn run(args: &LogArgs) -> Result<()> {
    match &args.verb {
        Verb::Show { dir } => show(dir),
        Verb::Export {
            dir, history: true, ..
        } => export_history(dir),
        Verb::Export { dir, from, to, .. } => {
            let node = Stopped::open(dir)?;
            let log = node.log.context("the log cannot be opened")?;
            let end = to.saturating_add(1);
            let each =
                &mut |entry: Entry| lines(&entry).map(|lines| lines.iter().for_each(|l| line(l)));
            walk(&log, *from, end, each)
        }
        Verb::Verify { dir } => {
            let findings = verify(dir)?;
            findings.iter().for_each(|finding| line(finding));
            match findings.len() {
                0 => Ok(()),
                n => bail!("{}: {n} findings", dir.display()),
            }
        }
    }
}

/// A directory that no node uses.
struct Stopped {
    identity: Identity,
    log: Result<LogStore, LogFault>,
    _lock: DirLock,
}

impl Stopped {
    fn open(dir: &Path) -> Result<Stopped> {
        let engine = match (dir.join("log.redb").exists(), dir.join("log.sled").exists()) {
            (true, _) => EngineKind::Redb,
            (_, true) => EngineKind::Sled,
            _ => bail!(
                "{} is no node's data directory: it has no log",
                dir.display()
            ),
        };
        let lock = DirLock::acquire(dir).context("stop the node first")?;
        let identity = Identity::load(dir)?.context("the directory has no identity")?;
        Ok(Stopped {
            identity,
            log: LogStore::open(dir, engine),
            _lock: lock,
        })
    }
}

fn first_index(bounds: &Bounds) -> u64 {
    bounds.purged.map_or(0, |purged| purged.index + 1)
}

fn show(dir: &Path) -> Result<()> {
    let node = Stopped::open(dir)?;
    let log = node.log.context("the log cannot be opened")?;
    let (bounds, status) = (log.bounds(), log.status());
    let index = |at: Option<crate::log::Position>| at.map(|at| at.index);
    let shown = json!({
        "node": node.identity.node,
        "cluster": format!("{:032x}", node.identity.cluster),
        "incarnation": format!("{:032x}", node.identity.incarnation),
        "boot": node.identity.boot,
        "engine": status.engine,
        "durability": status.durability,
        "entries": status.entries,
        "bytes": status.bytes,
        "purged": index(bounds.purged),
        "last": index(bounds.last),
        "committed": index(log.committed()),
    });
    line(&serde_json::to_string_pretty(&shown)?);
    Ok(())
}

/// Where a node's store lies in its directory.
fn store_of(dir: &Path) -> PathBuf {
    dir.join("state").join("state.redb")
}

/// Prints the history of every task that the store tells of.
fn export_history(dir: &Path) -> Result<()> {
    let _node = Stopped::open(dir)?;
    let path = store_of(dir);
    let mut told = None;
    if path.exists() {
        let image = RedbStore::open(&path)?.image()?;
        told = walk_histories(
            &*image,
            |History {
                 task,
                 rows,
                 retired,
             }| {
                for event in events_told(&rows) {
                    let mut shown = json!({
                        "app": task.key.app, "id": task.key.id, "task": task.seq.0,
                        "stage": task.stage.name(), "retired": retired,
                    });
                    shown["event"] = serde_json::to_value(event)?;
                    line(&shown.to_string());
                }
                Ok::<(), anyhow::Error>(())
            },
        )?;
    }
    match told {
        Some(index) => say(&format!(
            "up to log index {index}; the log holds what followed"
        )),
        None => say("there is no checkpoint yet: the log holds everything"),
    }
    Ok(())
}

/// Reads the entries `from..end`, piece by piece.
fn walk(
    log: &LogStore,
    from: u64,
    end: u64,
    each: &mut dyn FnMut(Entry) -> Result<()>,
) -> Result<()> {
    let mut next = from.max(first_index(&log.bounds()));
    while next < end {
        let entries = log.read(next..end, PIECE_BYTES)?;
        let Some(last) = entries.last() else {
            return Ok(());
        };
        next = last.at.index + 1;
        entries.into_iter().try_for_each(&mut *each)?;
    }
    Ok(())
}

/// An entry as lines of JSON: one for each of its events.
fn lines(entry: &Entry) -> Result<Vec<String>> {
    let at = entry.at;
    let place = |kind: &str| -> Value {
        json!({ "index": at.index, "term": at.term, "leader": at.node, "kind": kind })
    };
    let batch = match entry.kind {
        Kind::Blank => return Ok(vec![place("blank").to_string()]),
        Kind::Membership => return Ok(vec![place("membership").to_string()]),
        Kind::Batch => Batch::decode(&entry.payload),
    };
    let batch = batch.with_context(|| format!("entry {}", at.index))?;
    let event = |event: &crate::model::Event| {
        let mut shown = place(&event.name().to_ascii_lowercase());
        shown["stamp"] = json!(batch.stamp);
        shown["now"] = json!(batch.now);
        shown["event"] = serde_json::to_value(event)?;
        Ok(shown.to_string())
    };
    batch.events.iter().map(event).collect()
}

/// What is wrong in a directory, and where.
fn verify(dir: &Path) -> Result<Vec<String>> {
    let node = Stopped::open(dir)?;
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
    let store = store_of(dir);
    if !store.exists() {
        if purged.is_some() {
            findings.push("store: it is missing, and the log before it was purged".into());
        }
        return Ok(findings);
    }
    match verify_store(&store) {
        Ok(checked) => {
            let told = checked
                .findings
                .iter()
                .map(|finding| format!("store: {finding}"));
            findings.extend(told);
            if checked.index.unwrap_or(0) < purged.unwrap_or(0) {
                findings.push("store: the log behind its checkpoint was purged".into());
            }
            say(&format!(
                "store: {} tasks, {} rows of history, {} marks, {} retired tasks at log index {}",
                checked.tasks,
                checked.history,
                checked.marks,
                checked.past,
                checked.index.unwrap_or(0)
            ));
        }
        Err(fault) => findings.push(format!("store: {fault}")),
    }
    Ok(findings)
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
