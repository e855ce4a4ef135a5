//! The default engine: one redb file, one commit and one fsync per frame.
//!
//! What shapes this file:
//!
//! * redb does not verify what it reads. Rows carry checksums of their own, and opening walks
//!   the whole file once. After a crash redb walks it anyway, so a start costs the same whatever
//!   came before, and damage is found before the node takes part in anything.
//! * A crash while redb *creates* a file leaves one that cannot be opened. It is made under
//!   another name, synced, renamed, and its folder synced.
//! * A damaged page may make redb panic instead of returning an error. Panics are caught here
//!   and reported as damage; the unwound transaction is gone and the file as it was.
//! * After a failed commit redb refuses all work until it is opened again, which is just what
//!   the log's poisoning wants.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use super::blocks::{Blocks, Watched};
use super::caught::{Held, caught};
use super::engine::{Engine, Frame, Op};
use super::fault::LogFault;
use super::files;
use crate::bugs::{self, Bug};

/// The log's file inside the data directory.
pub const FILE: &str = "log.redb";
/// The name under which it is made.
const UNFINISHED: &str = "log.redb.new";

const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
const HEAD: TableDefinition<(), &[u8]> = TableDefinition::new("head");

/// Pages redb may keep. The log's own tail serves what is read often; this is for the inner pages
/// of the tree and for a follower that is far behind.
const CACHE_BYTES: usize = 16 << 20;

/// The log in a redb file.
pub struct RedbEngine {
    db: Held,
    /// For the size on disk, and `None` on a simulated one.
    file: Option<fs::File>,
    blocks: Option<Blocks>,
}

impl RedbEngine {
    /// Opens the log of a data directory, or begins one.
    pub fn open(dir: &Path) -> Result<RedbEngine, LogFault> {
        let path = dir.join(FILE);
        let unfinished = dir.join(UNFINISHED);
        if !path.exists() {
            files::remove_if_there(&unfinished)?;
            guarded("creating the log's file", || {
                let db = builder().create(&unfinished).map_err(redb::Error::from)?;
                make_tables(&db)
            })?;
            files::publish(&unfinished, &path)?;
        }
        let file = fs::File::open(&path)
            .map_err(|source| LogFault::io(format!("opening {}", path.display()), source))?;
        let mut watch = None;
        let db = verified(|builder| {
            let (watched, blocks) = Watched::open(&path)?;
            watch = Some(blocks);
            builder.create_with_backend(watched)
        });
        let db = db.map_err(|fault| match fault {
            LogFault::InUse { .. } => LogFault::InUse {
                dir: dir.to_owned(),
            },
            other => other,
        })?;
        Ok(RedbEngine {
            db,
            file: Some(file),
            blocks: watch,
        })
    }

    /// Opens a log on any storage, as a simulation does.
    pub fn with_backend(backend: impl StorageBackend) -> Result<RedbEngine, LogFault> {
        let new = backend
            .len()
            .map_err(|source| LogFault::io("measuring the log's storage", source))?
            == 0;
        let mut backend = Some(backend);
        let db = verified(|builder| {
            let backend = backend
                .take()
                .ok_or(redb::DatabaseError::DatabaseAlreadyOpen)?;
            builder.create_with_backend(backend)
        })?;
        if new {
            guarded("creating the log's tables", || make_tables(&db))?;
        }
        Ok(RedbEngine {
            db,
            file: None,
            blocks: None,
        })
    }
}

impl Engine for RedbEngine {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn promise(&self) -> &'static str {
        "survives power cut: every acknowledged write was committed with fsync"
    }

    fn head(&self) -> Result<Option<Bytes>, LogFault> {
        guarded("reading the head", || {
            let table = self.db.begin_read()?.open_table(HEAD)?;
            Ok(table
                .get(())?
                .map(|row| Bytes::copy_from_slice(row.value())))
        })
    }

    fn ends(&self) -> Result<Option<(u64, u64)>, LogFault> {
        guarded("looking for the log's ends", || {
            let table = self.db.begin_read()?.open_table(ENTRIES)?;
            let first = table.first()?.map(|(key, _)| key.value());
            let last = table.last()?.map(|(key, _)| key.value());
            Ok(first.zip(last))
        })
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, LogFault> {
        guarded("reading entries", || {
            let table = self.db.begin_read()?.open_table(ENTRIES)?;
            let mut rows = Vec::new();
            let mut room = max_bytes;
            for row in table.range(range.clone())? {
                let (key, value) = row?;
                let value = value.value();
                if !rows.is_empty() && value.len() > room {
                    break;
                }
                room = room.saturating_sub(value.len());
                rows.push((key.value(), Bytes::copy_from_slice(value)));
            }
            Ok(rows)
        })
    }

    fn write(&self, frame: &Frame) -> io::Result<()> {
        guarded("writing a frame", || {
            let mut txn = self.db.begin_write()?;
            if bugs::on(Bug::AckBeforeSync) {
                txn.set_durability(redb::Durability::None)
                    .map_err(redb::Error::from)?;
            }
            {
                let mut entries = txn.open_table(ENTRIES)?;
                for op in &frame.ops {
                    apply(&mut entries, op)?;
                }
                txn.open_table(HEAD)?.insert((), frame.head.as_ref())?;
            }
            // The default durability is `Immediate`: commit returns after the fsync.
            txn.commit()?;
            Ok(())
        })
        .map_err(io::Error::from)
    }

    fn bytes_on_disk(&self) -> u64 {
        let length = self.file.as_ref().and_then(|file| file.metadata().ok());
        length.map_or(0, |metadata| metadata.len())
    }

    fn blocks(&self) -> Option<&Blocks> {
        self.blocks.as_ref()
    }
}

fn apply(entries: &mut redb::Table<'_, u64, &'static [u8]>, op: &Op) -> Result<(), redb::Error> {
    match op {
        Op::Put(entry) => {
            let mut room = entries.insert_reserve(entry.at.index, entry.frame_len())?;
            entry.write_frame(room.as_mut());
        }
        Op::Remove(range) => entries.retain_in(range.clone(), |_, _| false)?,
    }
    Ok(())
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn make_tables(db: &Database) -> Result<(), redb::Error> {
    let txn = db.begin_write()?;
    txn.open_table(ENTRIES)?;
    txn.open_table(HEAD)?;
    txn.commit()?;
    Ok(())
}

/// Opens a database and makes sure that its whole file was walked once, by redb's own repair
/// after an unclean stop or by its check after a clean one.
fn verified(
    mut open: impl FnMut(&Builder) -> Result<Database, redb::DatabaseError>,
) -> Result<Held, LogFault> {
    let repaired = Arc::new(AtomicBool::new(false));
    let mut builder = builder();
    let seen = repaired.clone();
    builder.set_repair_callback(move |_| seen.store(true, Ordering::Relaxed));
    let opened = guarded("opening the log's file", || Ok(open(&builder)?))?;
    let mut db = Held::new(opened);
    if repaired.load(Ordering::Relaxed) {
        return Ok(db);
    }
    let checked = guarded("checking the log's file", || {
        Ok(db.get_mut().check_integrity()?)
    });
    match checked {
        Ok(true) => Ok(db),
        Ok(false) => {
            db.leave();
            let why = "its pages do not match their checksums";
            Err(LogFault::damaged("the log's file", why))
        }
        Err(fault) => {
            db.leave();
            Err(fault)
        }
    }
}

/// Runs a piece of work on redb and tells its failures apart.
fn guarded<T>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T, redb::Error>,
) -> Result<T, LogFault> {
    let error = match caught(work) {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(error)) => error,
        Err(panic) => return Err(LogFault::damaged("the log's file", panic)),
    };
    Err(match error {
        // What redb says of a file that is too short or does not begin as one of its own.
        redb::Error::Io(source)
            if matches!(
                source.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
            ) =>
        {
            LogFault::damaged("the log's file", source.to_string())
        }
        redb::Error::Io(source) => LogFault::io(doing, source),
        redb::Error::Corrupted(why) => LogFault::damaged("the log's file", why),
        redb::Error::DatabaseAlreadyOpen => LogFault::InUse {
            dir: Path::new(FILE).to_owned(),
        },
        redb::Error::TableDoesNotExist(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::UpgradeRequired(_) => LogFault::damaged("the log's file", error.to_string()),
        other => LogFault::Engine {
            engine: "redb",
            doing,
            why: other.to_string(),
        },
    })
}
