//! `log`: what a node's directory holds, read while the node is stopped.

mod export;
mod verify;

pub use export::lines;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::{Path, PathBuf};

use super::output::line;
use crate::log::{Bounds, DirLock, EngineKind, Entry, Identity, LogFault, LogStore};
use crate::state::{RedbStore, State};

/// Entries are read in pieces of about this size.
const PIECE_BYTES: usize = 8 << 20;

#[derive(Debug, Args)]
pub struct LogArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows whose directory it is, what its log holds, and what the store's last checkpoint covers.
    Show {
        #[command(flatten)]
        of: Directory,
    },
    /// Prints the log's events and changes of membership, one a line, as JSON.
    Export {
        #[command(flatten)]
        of: Directory,
        /// In their place, what happened to each task that the store tells of, retired ones
        /// included: one event a line, as of the store's last checkpoint.
        #[arg(long, conflicts_with_all = ["from", "to"])]
        history: bool,
        /// The first log index.
        #[arg(long, value_name = "INDEX", default_value_t = 0)]
        from: u64,
        /// The last log index.
        #[arg(long, value_name = "INDEX", default_value_t = u64::MAX)]
        to: u64,
    },
    /// Checks every file of a directory, and says what is wrong and where.
    Verify {
        #[command(flatten)]
        of: Directory,
    },
}

/// Which one: `DIR`, or `--data DIR`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Directory {
    /// The data directory of a stopped node.
    dir: Option<PathBuf>,
    /// The same, by name.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Directory {
    fn path(&self) -> &Path {
        let given = self.dir.as_deref().or(self.data.as_deref());
        given.unwrap_or(Path::new("."))
    }
}

/// Does what a `log` line says.
///
/// # Errors
/// The directory cannot be read, or something in it is wrong.
pub fn run(args: &LogArgs) -> Result<()> {
    match &args.verb {
        Verb::Show { of } => show(of.path()),
        Verb::Export {
            of, history: true, ..
        } => export::history(&Stopped::open(of.path())?),
        Verb::Export { of, from, to, .. } => {
            let node = Stopped::open(of.path())?;
            let log = node.log.context("the log cannot be opened")?;
            export::log(&log, *from, to.saturating_add(1))
        }
        Verb::Verify { of } => {
            let findings = verify::verify(&Stopped::open(of.path())?);
            findings.iter().for_each(|finding| line(finding));
            match findings.len() {
                0 => Ok(()),
                n => bail!("{}: {n} findings", of.path().display()),
            }
        }
    }
}

/// A directory that no node uses.
pub(super) struct Stopped {
    dir: PathBuf,
    pub(super) identity: Identity,
    pub(super) log: Result<LogStore, LogFault>,
    _lock: DirLock,
}

impl Stopped {
    pub(super) fn open(dir: &Path) -> Result<Stopped> {
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
            dir: dir.to_owned(),
            identity,
            log: LogStore::open(dir, engine),
            _lock: lock,
        })
    }
}

impl Stopped {
    fn store(&self) -> PathBuf {
        self.dir.join("state").join("state.redb")
    }
}

fn first_index(bounds: &Bounds) -> u64 {
    bounds.purged.map_or(0, |purged| purged.index + 1)
}

fn show(dir: &Path) -> Result<()> {
    let node = Stopped::open(dir)?;
    let store = node.store();
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
        "checkpoint": checkpoint(&store)?,
    });
    line(&serde_json::to_string_pretty(&shown)?);
    Ok(())
}

/// The last checkpoint of the store, and how far each shard has come by it; null: there is none.
fn checkpoint(store: &Path) -> Result<serde_json::Value> {
    if !store.exists() {
        return Ok(serde_json::Value::Null);
    }
    let (state, _) = State::open(Box::new(RedbStore::open(store)?))?;
    let shards = state.progress().map(|(shard, progress)| {
        json!({ "shard": shard.0, "open": progress.open, "committed": progress.position })
    });
    let shards: Vec<_> = shards.collect();
    Ok(match state.applied() {
        0 => serde_json::Value::Null,
        index => json!({ "index": index, "shards": shards }),
    })
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
