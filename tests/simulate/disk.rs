//! The disk of one machine: a log, a folder, and what a loss of power leaves of them.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use horolog::log::sim_disk::{Dice, SimDisk};
use horolog::log::{Blocks, Engine, Entry, Frame, LogFault, Op, RedbEngine};
use horolog::raft::Folder;
use horolog::state::{RedbStore, StoreFault};

/// How a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its process: what it wrote is there for the next one.
    Killed,
    /// Its power: what it did not sync is kept, lost or torn.
    PowerLost,
}

/// All disks of a machine, for as long as one process runs on it.
pub struct Disks {
    /// `None` before there is a log.
    log: Mutex<Option<SimDisk>>,
    pub folder: Arc<Drive>,
}

impl Disks {
    pub fn new() -> Disks {
        Disks {
            log: Mutex::default(),
            folder: Arc::default(),
        }
    }

    /// The engine of the log; one that is not there yet is made, whole or not at all.
    pub fn engine(&self) -> Result<RedbEngine, LogFault> {
        let mut log = lock(&self.log);
        let disk = log.clone().unwrap_or_default();
        let engine = RedbEngine::with_backend(disk.clone())?;
        *log = Some(disk);
        Ok(engine)
    }

    /// Every disk: the log's and those of the stores.
    pub fn each(&self) -> Vec<SimDisk> {
        let log = lock(&self.log).clone();
        log.into_iter().chain(self.folder.stores()).collect()
    }

    /// What the next process finds. The one that ran so far no longer reaches it.
    pub fn after(&self, end: End, dice: &mut Dice) -> Disks {
        let after = |disk: &SimDisk, dice: &mut Dice| match end {
            End::Killed => disk.handed_on(),
            End::PowerLost => disk.cut(dice.roll()),
        };
        let log = lock(&self.log).as_ref().map(|disk| after(disk, dice));
        Disks {
            log: Mutex::new(log),
            folder: Arc::new(self.folder.after(end, dice)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone)]
enum File {
    Store(SimDisk),
    /// Never synced: no power cut leaves anything of it.
    Plain(Arc<Mutex<Vec<u8>>>),
}

/// A folder whose names are durable once they were synced.
#[derive(Default)]
pub struct Drive(Mutex<Names>);

#[derive(Clone, Default)]
struct Names {
    seen: BTreeMap<String, (u64, File)>,
    durable: BTreeMap<String, (u64, File)>,
    next: u64,
    /// A store that is made from now on loses its power after so many operations.
    armed: Option<u64>,
}

impl Drive {
    /// See [`Names::armed`].
    pub fn arm(&self, operations: u64) {
        lock(&self.0).armed = Some(operations);
    }

    fn stores(&self) -> Vec<SimDisk> {
        let names = lock(&self.0);
        let disk = |(_, file): &(u64, File)| match file {
            File::Store(disk) => Some(disk.clone()),
            File::Plain(_) => None,
        };
        names.seen.values().filter_map(disk).collect()
    }

    fn after(&self, end: End, dice: &mut Dice) -> Drive {
        let names = lock(&self.0).clone();
        // A change of names that was not synced may be there or not.
        let power = end == End::PowerLost;
        let seen = match power && dice.below(2) == 0 {
            true => &names.durable,
            false => &names.seen,
        };
        let mut found: BTreeMap<u64, File> = BTreeMap::new();
        for (number, file) in names.seen.values().chain(names.durable.values()) {
            found.entry(*number).or_insert_with(|| match file {
                File::Store(disk) if power => File::Store(disk.cut(dice.roll())),
                File::Store(disk) => File::Store(disk.handed_on()),
                File::Plain(bytes) => File::Plain(Arc::new(Mutex::new(lock(bytes).clone()))),
            });
        }
        let stays = |file: &File| !power || matches!(file, File::Store(_));
        let again = |of: &BTreeMap<String, (u64, File)>| {
            let pairs = of.iter().filter(|(_, (_, file))| stays(file));
            let pairs = pairs.map(|(name, (n, _))| (name.clone(), (*n, found[n].clone())));
            pairs.collect::<BTreeMap<_, _>>()
        };
        let seen = again(seen);
        let durable = match power {
            true => seen.clone(),
            false => again(&names.durable),
        };
        Drive(Mutex::new(Names {
            seen,
            durable,
            next: names.next,
            armed: None,
        }))
    }

    fn add(&self, name: &str, file: File) {
        let mut names = lock(&self.0);
        names.next += 1;
        let number = names.next;
        names.seen.insert(name.to_owned(), (number, file));
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Folder for Drive {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.0).seen.keys().cloned().collect())
    }

    fn store(&self, name: &str) -> Result<RedbStore, StoreFault> {
        let there = lock(&self.0).seen.get(name).cloned();
        if let Some((_, File::Store(disk))) = there {
            return RedbStore::with_backend(disk);
        }
        let disk = SimDisk::new();
        if let Some(operations) = lock(&self.0).armed {
            disk.power_off_after(operations);
        }
        let store = RedbStore::with_backend(disk.clone())?;
        self.add(name, File::Store(disk));
        // As the real one does: it is made under another name, which is given up for this one.
        let _ = self.sync();
        Ok(store)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Write + Send>> {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        self.add(name, File::Plain(bytes.clone()));
        Ok(Box::new(Pen(bytes)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        match lock(&self.0).seen.get(name) {
            Some((_, File::Plain(bytes))) => Ok(Box::new(Cursor::new(lock(bytes).clone()))),
            _ => Err(missing()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut names = lock(&self.0);
        let file = names.seen.remove(from).ok_or_else(missing)?;
        names.seen.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.0)
            .seen
            .remove(name)
            .map(drop)
            .ok_or_else(missing)
    }

    fn sync(&self) -> io::Result<()> {
        let mut names = lock(&self.0);
        names.durable = names.seen.clone();
        Ok(())
    }
}

struct Pen(Arc<Mutex<Vec<u8>>>);

impl Write for Pen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Every entry that a machine's log ever took for durable and did not take back: purges do not
/// reach it, so that the checkers see the whole log.
#[derive(Default)]
pub struct Book(Mutex<BTreeMap<u64, Entry>>);

impl Book {
    pub fn entries(&self) -> Vec<Entry> {
        lock(&self.0).values().cloned().collect()
    }

    /// After an unclean end some of what was not acknowledged may be there all the same.
    pub fn found(&self, entries: Vec<Entry>, next: Option<u64>) {
        let mut book = lock(&self.0);
        if let Some(next) = next {
            book.split_off(&next);
        }
        book.extend(entries.into_iter().map(|entry| (entry.at.index, entry)));
    }

    fn write(&self, ops: &[Op]) {
        let mut book = lock(&self.0);
        for op in ops {
            match op {
                Op::Put(entry) => drop(book.insert(entry.at.index, entry.clone())),
                // Up to its end: taken back. Else: purged.
                Op::Remove(range) => {
                    if book
                        .last_key_value()
                        .is_some_and(|(last, _)| *last < range.end)
                    {
                        book.split_off(&range.start);
                    }
                }
            }
        }
    }

    /// What a frame is for, the most telling of it.
    fn step(&self, frame: &Frame) -> &'static str {
        let book = lock(&self.0);
        let last = book.last_key_value().map_or(0, |(last, _)| *last);
        let steps = frame.ops.iter().map(|op| match op {
            Op::Put(_) => "append",
            Op::Remove(range) if range.end > last => "truncate",
            Op::Remove(_) => "purge",
        });
        steps.max().unwrap_or("vote")
    }
}

/// The log's engine, and what is told of it.
pub struct Scribe {
    pub engine: RedbEngine,
    pub book: Arc<Book>,
    /// Told of each step before it is written.
    pub told: Box<dyn Fn(&'static str) + Send + Sync>,
}

impl Engine for Scribe {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    fn promise(&self) -> &'static str {
        self.engine.promise()
    }

    fn head(&self) -> Result<Option<Bytes>, LogFault> {
        self.engine.head()
    }

    fn ends(&self) -> Result<Option<(u64, u64)>, LogFault> {
        self.engine.ends()
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, LogFault> {
        self.engine.read(range, max_bytes)
    }

    fn write(&self, frame: &Frame) -> io::Result<()> {
        (self.told)(self.book.step(frame));
        let written = self.engine.write(frame);
        if written.is_ok() {
            self.book.write(&frame.ops);
        }
        written
    }

    fn bytes_on_disk(&self) -> u64 {
        self.engine.bytes_on_disk()
    }

    fn blocks(&self) -> Option<&Blocks> {
        self.engine.blocks()
    }
}
