//! The second engine: sled 0.34, behind the feature of that name.
//!
//! What its write promises, and what it does not. sled's own `flush` asks the kernel to write the
//! pages out (`sync_file_range`), but neither the file's metadata nor the drive's cache: alone it
//! survives the end of the process, not a power cut. So after each flush the files are synced
//! again through descriptors of our own: `db` always, and each blob written since, with its
//! folder. An acknowledged frame has therefore been through fsync. What remains unproven is
//! sled's recovery from a power cut *between* two acknowledgements, when some of its unsynced
//! writes reached the disk and others did not: it offers no seam for a simulated disk. The promise
//! says so.
//!
//! sled also drops whatever follows the first damaged byte of its file, without a word. The log's
//! witness notices that its end is missing.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::caught::caught;
use super::engine::{Engine, Frame, Op};
use super::fault::LogFault;
use super::files;

/// The log's folder inside the data directory.
pub const FOLDER: &str = "log.sled";

/// One tree holds everything, since only a batch on one tree is atomic. Entries are eight bytes,
/// big-endian, which sort as their index does; the head's key is shorter than any of them.
const HEAD: &[u8] = b"";

const CACHE_BYTES: u64 = 32 << 20;

/// How often and how long to wait for a lock that is about to go; one second in all.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The log in a sled folder.
pub struct SledEngine {
    db: sled::Db,
    files: Files,
}

impl SledEngine {
    /// Opens the log of a data directory, or begins one.
    pub fn open(dir: &Path) -> Result<SledEngine, LogFault> {
        let folder = dir.join(FOLDER);
        let db = open_db(&folder).map_err(|fault| match is_locked(&fault) {
            true => LogFault::InUse {
                dir: dir.to_owned(),
            },
            false => fault,
        })?;
        let files = Files::open(&folder)?;
        files::sync_folder(dir)?;
        Ok(SledEngine { db, files })
    }
}

impl Engine for SledEngine {
    fn name(&self) -> &'static str {
        "sled"
    }

    fn promise(&self) -> &'static str {
        "survives the end of the process; every acknowledged write was also fsynced, but sled's \
         recovery from a power cut is not proven"
    }

    fn head(&self) -> Result<Option<Bytes>, LogFault> {
        guarded("reading the head", || {
            Ok(self.db.get(HEAD)?.map(|row| Bytes::copy_from_slice(&row)))
        })
    }

    fn ends(&self) -> Result<Option<(u64, u64)>, LogFault> {
        let ends = guarded("looking for the log's ends", || {
            let mut rows = self.db.range(key(0)..).keys();
            let first = rows.next().transpose()?;
            let last = rows.next_back().transpose()?.or_else(|| first.clone());
            Ok(first.zip(last))
        })?;
        ends.map(|(first, last)| Ok((index_of(&first)?, index_of(&last)?)))
            .transpose()
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, LogFault> {
        let rows = guarded("reading entries", || {
            let mut rows = Vec::new();
            let mut room = max_bytes;
            for row in self.db.range(key(range.start)..key(range.end)) {
                let (key, value) = row?;
                if !rows.is_empty() && value.len() > room {
                    break;
                }
                room = room.saturating_sub(value.len());
                rows.push((key, Bytes::copy_from_slice(&value)));
            }
            Ok(rows)
        })?;
        rows.into_iter()
            .map(|(key, value)| Ok((index_of(&key)?, value)))
            .collect()
    }

    fn write(&self, frame: &Frame) -> io::Result<()> {
        let written = guarded("writing a frame", || {
            let mut batch = sled::Batch::default();
            let mut put = BTreeSet::new();
            for op in &frame.ops {
                self.add(&mut batch, &mut put, op)?;
            }
            batch.insert(HEAD, frame.head.as_ref());
            self.db.apply_batch(batch)?;
            self.db.flush().map(|_| ())
        });
        written?;
        self.files.sync()
    }

    fn bytes_on_disk(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }
}

impl SledEngine {
    /// Adds an operation to the batch. A removal has to name its keys: those stored, and those
    /// `put` earlier in the same batch.
    fn add(
        &self,
        batch: &mut sled::Batch,
        put: &mut BTreeSet<u64>,
        op: &Op,
    ) -> Result<(), sled::Error> {
        match op {
            Op::Put(entry) => {
                put.insert(entry.at.index);
                batch.insert(&key(entry.at.index), entry.frame().as_ref());
            }
            Op::Remove(range) => {
                for row in self.db.range(key(range.start)..key(range.end)).keys() {
                    batch.remove(row?);
                }
                for index in put.range(range.clone()) {
                    batch.remove(&key(*index));
                }
            }
        }
        Ok(())
    }
}

/// Opens the folder. A sled that was dropped in this process lets go of its lock only when its own
/// background threads have finished, so that a lock is given a moment to go away.
fn open_db(folder: &Path) -> Result<sled::Db, LogFault> {
    let config = sled::Config::new()
        .path(folder)
        .cache_capacity(CACHE_BYTES)
        // The writer flushes each frame itself; nobody else should.
        .flush_every_ms(None);
    let open = || guarded("opening the log's folder", || config.open());
    for _ in 0..LOCK_TRIES {
        match open() {
            #[allow(clippy::disallowed_methods)] // sled gives no event for it.
            Err(fault) if is_locked(&fault) => thread::sleep(LOCK_PAUSE),
            other => return other,
        }
    }
    open()
}

/// sled wraps the lock's error in a text of its own.
fn is_locked(fault: &LogFault) -> bool {
    matches!(fault, LogFault::Io { source, .. } if source.to_string().contains("acquire lock"))
}

/// Descriptors of our own on what sled writes.
struct Files {
    db: File,
    blobs: PathBuf,
    /// Blobs already synced. A blob is written once and never changed.
    synced: Mutex<BTreeSet<PathBuf>>,
}

impl Files {
    fn open(folder: &Path) -> Result<Files, LogFault> {
        let open = |name: &str| {
            let path = folder.join(name);
            File::open(&path).map_err(|source| files::failed("opening", &path, source))
        };
        let files = Files {
            db: open("db")?,
            blobs: folder.join("blobs"),
            synced: Mutex::new(BTreeSet::new()),
        };
        // Written once, when the folder was made.
        let conf = open("conf")?;
        conf.sync_all()
            .and_then(|()| files.sync())
            .map_err(|source| files::failed("syncing", folder, source))?;
        files::sync_folder(folder)?;
        Ok(files)
    }

    fn sync(&self) -> io::Result<()> {
        let mut synced = self
            .synced
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        let mut there = BTreeSet::new();
        let mut new = false;
        for blob in fs::read_dir(&self.blobs)? {
            let path = blob?.path();
            if !synced.contains(&path) {
                new = true;
                match File::open(&path) {
                    Ok(file) => file.sync_all()?,
                    // sled removes a blob that it has rewritten.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
            }
            there.insert(path);
        }
        if new {
            File::open(&self.blobs)?.sync_all()?;
        }
        *synced = there;
        self.db.sync_all()
    }
}

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn index_of(key: &[u8]) -> Result<u64, LogFault> {
    let key = <[u8; 8]>::try_from(key)
        .map_err(|_| LogFault::damaged("the log's folder", "a key that is no index"))?;
    Ok(u64::from_be_bytes(key))
}

/// Runs a piece of work on sled, which may panic over damaged files, and tells its failures apart.
fn guarded<T>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T, sled::Error>,
) -> Result<T, LogFault> {
    match caught(work) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(sled::Error::Io(source))) => Err(LogFault::io(doing, source)),
        Ok(Err(sled::Error::Corruption { .. })) => Err(LogFault::damaged(
            "the log's folder",
            format!("sled found it while {doing}"),
        )),
        Ok(Err(other)) => Err(LogFault::Engine {
            engine: "sled",
            doing,
            why: other.to_string(),
        }),
        Err(panic) => Err(LogFault::damaged("the log's folder", panic)),
    }
}
