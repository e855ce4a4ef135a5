//! The store on redb, in a file of its own.
//!
//! A read view is kept open between checkpoints, so that a look-up opens nothing; it is renewed
//! when a checkpoint was written, because a view that is held keeps old pages in the file.
//!
//! A damaged page may make redb panic where it should return an error. Panics are caught at every
//! read and reported as damage.

use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, StorageBackend,
};
use std::fs::{self, File};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::bloom::Bloom;
use super::redb_codec::*;
use super::redb_write::RedbWriter;
use super::{Found, Image, Saved, Store, StoreScrub, Writer};
use crate::log::{Blocks, Held, Watched, caught};
use crate::model::{Key, Row, Schedule, Seq, Time};
use crate::state::label::Label;
use crate::state::past::{Block, PastSize};
use crate::state::record::Record;
use crate::state::{Class, Mark, StoreFault};

/// Pages kept in memory. The window is read ahead, so that more would hardly help.
const CACHE_BYTES: usize = 64 << 20;

/// The pages of a smaller file are all checked when it is opened, those of redb's own books too:
/// a quarter of a second. In a larger one they are checked by `log verify`, while rows are checked
/// on reading and by the scrub.
const CHECKED_WHEN_OPENED_BYTES: u64 = 256 << 20;

/// See the module.
pub struct RedbStore {
    pub(super) db: Arc<Held>,
    /// The file below it; `None` on a simulated disk.
    pub(super) blocks: Option<Blocks>,
    view: View,
    bloom: Arc<Bloom>,
    /// The filter knows every id of the file.
    bloom_ready: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

const READING: &str = "reading the store";

pub(super) fn reading(e: impl std::fmt::Display) -> StoreFault {
    fault(READING, e)
}

/// Runs a piece of work on redb; a panic is a fault like others.
pub(super) fn guarded<T>(doing: &str, work: impl FnOnce() -> Found<T>) -> Found<T> {
    caught(work).unwrap_or_else(|why| {
        let why = format!("its file is damaged ({why}); {WAY_OUT}");
        Err(fault(doing, why))
    })
}

/// Why the file cannot be opened, with the way out where it is the file itself.
fn opening(doing: &str, e: redb::DatabaseError) -> StoreFault {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    let damaged = match &e {
        redb::DatabaseError::Storage(redb::StorageError::Corrupted(_)) => true,
        redb::DatabaseError::Storage(redb::StorageError::Io(e)) => {
            matches!(e.kind(), InvalidData | UnexpectedEof)
        }
        _ => false,
    };
    match damaged {
        true => fault(doing, format!("its file is damaged ({e}); {WAY_OUT}")),
        false => fault(doing, e),
    }
}

/// Opens a file that is there, under watch.
pub(super) fn opened(path: &Path) -> Found<(Database, Blocks)> {
    let doing = format!("opening {}", path.display());
    guarded(&doing, || {
        let opened = Watched::open(path)
            .and_then(|(watched, blocks)| Ok((builder().create_with_backend(watched)?, blocks)));
        opened.map_err(|e| opening(&doing, e))
    })
}

/// Every page against its checksum. redb mends what an unclean stop left of its books.
pub(super) fn check_pages(db: &mut Held) -> Found<bool> {
    guarded("checking the store's pages", || {
        let checked = db.get_mut().check_integrity();
        checked.map_err(|e| opening("checking the store's pages", e))
    })
}

fn builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

impl RedbStore {
    /// Opens the store at a path, or makes an empty one.
    ///
    /// # Errors
    /// The file cannot be read or written, or is damaged.
    pub fn open(path: &Path) -> Found<RedbStore> {
        if !path.exists() {
            create(path)?;
        }
        let (db, blocks) = opened(path)?;
        let length = fs::metadata(path).map_err(reading)?.len();
        RedbStore::over(db, Some(blocks), length)
    }

    /// Opens a store on any storage, as a simulation does. A storage without a byte becomes an
    /// empty store.
    ///
    /// # Errors
    /// As of [`RedbStore::open`].
    pub fn with_backend(backend: impl StorageBackend) -> Found<RedbStore> {
        let doing = "opening the store";
        let failed = |e: &dyn std::fmt::Display| fault(doing, e);
        let new = backend.len().map_err(|e| failed(&e))? == 0;
        let length = backend.len().map_err(|e| failed(&e))?;
        let db = guarded(doing, || {
            let db = builder().create_with_backend(backend);
            let db = db.map_err(|e| failed(&e))?;
            if new {
                make_tables(&db).map_err(|e| failed(&e))?;
            }
            Ok(db)
        })?;
        RedbStore::over(db, None, length)
    }

    fn over(db: Database, blocks: Option<Blocks>, length: u64) -> Found<RedbStore> {
        let mut db = Held::new(db);
        if length <= CHECKED_WHEN_OPENED_BYTES
            && let Err(e) = check_pages(&mut db)
        {
            // Not closed: that would write on a file that is damaged.
            db.leave();
            return Err(e);
        }
        let db = Arc::new(db);
        let view = match guarded(READING, || View::new(&db)) {
            Ok(view) => view,
            Err(e) => {
                if let Some(db) = Arc::into_inner(db) {
                    db.leave();
                }
                return Err(e);
            }
        };
        let ids = view.ids.len().map_err(reading)? + view.marks.len().map_err(reading)?;
        let store = RedbStore {
            db,
            blocks,
            view,
            bloom: Arc::new(Bloom::for_ids(ids)),
            bloom_ready: Arc::new(AtomicBool::new(ids == 0)),
            stop: Arc::default(),
        };
        if ids > 0 {
            store.fill_bloom()?;
        }
        Ok(store)
    }

    /// Fills the filter in the background; until it is full of what there is, ids are looked up.
    fn fill_bloom(&self) -> Found<()> {
        let (view, bloom) = (View::new(&self.db)?, self.bloom.clone());
        let (ready, stop) = (self.bloom_ready.clone(), self.stop.clone());
        let fill = move || -> Found<()> {
            for row in view.ids.iter().map_err(reading)? {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                bloom.add(&read_key(row.map_err(reading)?.0.value())?);
            }
            for row in view.marks.iter().map_err(reading)? {
                bloom.add(&read_key(row.map_err(reading)?.0.value())?);
            }
            ready.store(true, Ordering::Release);
            Ok(())
        };
        let fill = move || {
            if let Err(e) = guarded(READING, fill) {
                // Ids are looked up instead; reading them there will tell whom it concerns.
                tracing::warn!("the id filter could not be filled: {e}");
            }
        };
        if self.blocks.is_none() {
            // A simulation has one thread, and small stores.
            fill();
            return Ok(());
        }
        let thread = std::thread::Builder::new().name("store-filter".into());
        thread
            .spawn(fill)
            .map(drop)
            .map_err(|e| fault("starting a thread", e))
    }

    fn surely_not(&self, key: &Key) -> bool {
        self.bloom_ready.load(Ordering::Acquire) && !self.bloom.may_have(key)
    }
}

/// Makes an empty file with all tables, complete or not there at all.
fn create(path: &Path) -> Found<()> {
    let failed = |e: &dyn std::fmt::Display| fault(&format!("creating {}", path.display()), e);
    let part: PathBuf = path.with_extension("part");
    if part.exists() {
        fs::remove_file(&part).map_err(|e| failed(&e))?;
    }
    let db = Database::create(&part).map_err(|e| failed(&e))?;
    make_tables(&db).map_err(|e| failed(&e))?;
    drop(db);
    let synced = || -> std::io::Result<()> {
        File::open(&part)?.sync_all()?;
        fs::rename(&part, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    synced().map_err(|e| failed(&e))
}

fn make_tables(db: &Database) -> Result<(), redb::Error> {
    let txn = db.begin_write()?;
    txn.open_table(TASKS)?;
    txn.open_table(IDS)?;
    txn.open_table(LABELS)?;
    txn.open_table(FAR)?;
    txn.open_table(OPEN)?;
    txn.open_table(FINISHED)?;
    txn.open_table(HISTORY)?;
    txn.open_table(MARKS)?;
    txn.open_table(MARKS_BY_TIME)?;
    txn.open_table(SCHEDULES)?;
    txn.open_table(PAST)?;
    txn.open_table(PAST_IDS)?;
    txn.open_table(META)?;
    Ok(txn.commit()?)
}

/// Every table at one moment.
pub(super) struct View {
    _txn: ReadTransaction,
    pub(super) tasks: ReadOnlyTable<u64, &'static [u8]>,
    pub(super) ids: ReadOnlyTable<&'static [u8], u64>,
    pub(super) labels: ReadOnlyTable<(u128, &'static [u8]), u64>,
    pub(super) far: ReadOnlyTable<(u64, u64), ()>,
    pub(super) open: ReadOnlyTable<u64, ()>,
    pub(super) finished: ReadOnlyTable<(u8, u64, u64), ()>,
    pub(super) history: ReadOnlyTable<(u64, u32), &'static [u8]>,
    pub(super) marks: ReadOnlyTable<&'static [u8], &'static [u8]>,
    pub(super) marks_by_time: ReadOnlyTable<(u64, &'static [u8]), ()>,
    pub(super) schedules: ReadOnlyTable<&'static str, &'static [u8]>,
    pub(super) past: ReadOnlyTable<(u64, u64), &'static [u8]>,
    pub(super) past_ids: ReadOnlyTable<(&'static [u8], u64), u64>,
    pub(super) past_size: PastSize,
    pub(super) saved: OnceLock<Option<Saved>>,
}

/// A task as it lies under its number.
pub(super) fn task(seq: Seq, bytes: &[u8]) -> Found<Record> {
    let record: Record = open(&format!("task {}", seq.0), bytes)?;
    match record.task.seq == seq {
        true => Ok(record),
        false => Err(StoreFault(format!(
            "task {} lies where task {} belongs: the store is damaged; {WAY_OUT}",
            record.task.seq.0, seq.0
        ))),
    }
}

/// The first bytes that sort after a key: no key has a zero byte behind its id.
fn bytes_after(key: Option<&Key>) -> Vec<u8> {
    key.map_or_else(Vec::new, |key| [&*key_bytes(key), b"\0"].concat())
}

impl View {
    fn all_schedules(&self) -> Found<Vec<Schedule>> {
        let rows = self.schedules.iter().map_err(reading)?;
        rows.map(|row| {
            let (id, schedule) = row.map_err(reading)?;
            open(&format!("schedule {}", id.value()), schedule.value())
        })
        .collect()
    }

    pub(super) fn new(db: &Database) -> Found<View> {
        let txn = db.begin_read().map_err(reading)?;
        let meta = txn.open_table(META).map_err(reading)?;
        let past_size = meta.get(PAST_SIZE).map_err(reading)?;
        let past_size = past_size.map(|row| open("the size of the past", row.value()));
        let view = View {
            tasks: txn.open_table(TASKS).map_err(reading)?,
            ids: txn.open_table(IDS).map_err(reading)?,
            labels: txn.open_table(LABELS).map_err(reading)?,
            far: txn.open_table(FAR).map_err(reading)?,
            open: txn.open_table(OPEN).map_err(reading)?,
            finished: txn.open_table(FINISHED).map_err(reading)?,
            history: txn.open_table(HISTORY).map_err(reading)?,
            marks: txn.open_table(MARKS).map_err(reading)?,
            marks_by_time: txn.open_table(MARKS_BY_TIME).map_err(reading)?,
            schedules: txn.open_table(SCHEDULES).map_err(reading)?,
            past: txn.open_table(PAST).map_err(reading)?,
            past_ids: txn.open_table(PAST_IDS).map_err(reading)?,
            past_size: past_size.transpose()?.unwrap_or_default(),
            saved: OnceLock::new(),
            _txn: txn,
        };
        let row = meta.get(SAVED).map_err(reading)?;
        let saved = row
            .map(|row| open("the checkpoint's header", row.value()))
            .transpose()?;
        // New here, so it cannot be set.
        let _ = view.saved.set(saved);
        Ok(view)
    }

    fn record(&self, seq: Seq) -> Found<Option<Record>> {
        let row = self.tasks.get(seq.0).map_err(reading)?;
        row.map(|row| task(seq, row.value())).transpose()
    }

    pub(super) fn rows(&self, seq: Seq) -> Found<Vec<Row>> {
        let range = self
            .history
            .range((seq.0, 0)..=(seq.0, u32::MAX))
            .map_err(reading)?;
        range
            .map(|row| open("a row of history", row.map_err(reading)?.1.value()))
            .collect()
    }

    /// The past task at a place that an index names.
    fn block(&self, at: Time, seq: Seq) -> Found<Block> {
        let row = self.past.get((at.0, seq.0)).map_err(reading)?;
        let missing = || StoreFault(format!("past task {} is not in the store", seq.0));
        block(at, seq, row.ok_or_else(missing)?.value())
    }

    /// Places in the past after another.
    fn past_range(
        &self,
        after: Option<(Time, Seq)>,
        max: usize,
    ) -> Found<impl Iterator<Item = Found<PastRow>>> {
        let from = after.map_or((0, 0), |(at, seq)| (at.0, seq.0.saturating_add(1)));
        let rows = self.past.range(from..).map_err(reading)?.take(max);
        Ok(rows.map(|row| {
            let (place, value) = row.map_err(reading)?;
            let (at, seq) = place.value();
            Ok((Time(at), Seq(seq), value))
        }))
    }
}

/// A row of the table of past tasks.
type PastRow = (Time, Seq, redb::AccessGuard<'static, &'static [u8]>);

/// A past task as it lies at its place.
pub(super) fn block(at: Time, seq: Seq, bytes: &[u8]) -> Found<Block> {
    let (past, rows): Block = open(&format!("past task {}", seq.0), bytes)?;
    match past.place() == (at, seq) {
        true => Ok((past, rows)),
        false => Err(StoreFault(format!(
            "past task {} lies where past task {} belongs: the store is damaged; replace this node",
            past.place().1.0,
            seq.0
        ))),
    }
}

impl Store for RedbStore {
    fn record(&self, seq: Seq) -> Found<Option<Record>> {
        guarded(READING, || self.view.record(seq))
    }

    fn rows(&self, seq: Seq) -> Found<Vec<Row>> {
        guarded(READING, || self.view.rows(seq))
    }

    fn seq(&self, key: &Key) -> Found<Option<Seq>> {
        guarded(READING, || {
            if self.surely_not(key) {
                return Ok(None);
            }
            let row = self.view.ids.get(&*key_bytes(key)).map_err(reading)?;
            Ok(row.map(|row| Seq(row.value())))
        })
    }

    fn keys_after(&self, after: Option<&Key>, max: usize) -> Found<Vec<(Key, Seq)>> {
        guarded(READING, || {
            let from = bytes_after(after);
            let rows = self.view.ids.range(&*from..).map_err(reading)?.take(max);
            rows.map(|row| {
                let (key, seq) = row.map_err(reading)?;
                Ok((read_key(key.value())?, Seq(seq.value())))
            })
            .collect()
        })
    }

    fn labelled_after(
        &self,
        label: Label,
        after: Option<&Key>,
        max: usize,
    ) -> Found<Vec<(Key, Seq)>> {
        guarded(READING, || {
            let from = bytes_after(after);
            let rows = self.view.labels.range((label.0, &*from)..);
            let mut labelled = Vec::new();
            for row in rows.map_err(reading)?.take(max) {
                let (place, seq) = row.map_err(reading)?;
                let (of, key) = place.value();
                if of != label.0 {
                    break;
                }
                labelled.push((read_key(key)?, Seq(seq.value())));
            }
            Ok(labelled)
        })
    }

    fn far(&self, after: Option<(Time, Seq)>, until: Time, max: usize) -> Found<Vec<(Time, Seq)>> {
        guarded(READING, || {
            let from = after.map_or(Bound::Unbounded, |(at, seq)| Bound::Excluded((at.0, seq.0)));
            let end = (until, Seq(u64::MAX));
            if after.is_some_and(|after| after >= end) {
                return Ok(Vec::new());
            }
            let range = (from, Bound::Included((until.0, u64::MAX)));
            let rows = self.view.far.range(range).map_err(reading)?.take(max);
            rows.map(|row| {
                let (at, seq) = row.map_err(reading)?.0.value();
                Ok((Time(at), Seq(seq)))
            })
            .collect()
        })
    }

    fn open(&self) -> Found<Vec<Seq>> {
        guarded(READING, || {
            let rows = self.view.open.iter().map_err(reading)?;
            rows.map(|row| Ok(Seq(row.map_err(reading)?.0.value())))
                .collect()
        })
    }

    fn finished(
        &self,
        class: Class,
        after: Option<(Time, Seq)>,
        until: Time,
        max: usize,
    ) -> Found<Vec<(Time, Seq)>> {
        guarded(READING, || {
            let from = after.map_or((0, 0), |(at, seq)| (at.0, seq.0.saturating_add(1)));
            if from > (until.0, u64::MAX) {
                return Ok(Vec::new());
            }
            let range = (class as u8, from.0, from.1)..=(class as u8, until.0, u64::MAX);
            let rows = self.view.finished.range(range).map_err(reading)?.take(max);
            rows.map(|row| {
                let (_, at, seq) = row.map_err(reading)?.0.value();
                Ok((Time(at), Seq(seq)))
            })
            .collect()
        })
    }

    fn mark(&self, key: &Key) -> Found<Option<Mark>> {
        guarded(READING, || {
            if self.surely_not(key) {
                return Ok(None);
            }
            let row = self.view.marks.get(&*key_bytes(key)).map_err(reading)?;
            row.map(|row| open("a mark", row.value())).transpose()
        })
    }

    fn schedules(&self) -> Found<Vec<Schedule>> {
        guarded(READING, || self.view.all_schedules())
    }

    fn marks_until(&self, until: Time, max: usize) -> Found<Vec<(Time, Key)>> {
        guarded(READING, || {
            let end = until.0.saturating_add(1);
            let rows = self
                .view
                .marks_by_time
                .range(..(end, &b""[..]))
                .map_err(reading)?
                .take(max);
            rows.map(|row| {
                let row = row.map_err(reading)?.0;
                let (at, key) = row.value();
                Ok((Time(at), read_key(key)?))
            })
            .collect()
        })
    }

    fn past(&self, key: &Key, floor: Time, max: usize) -> Found<Vec<Block>> {
        guarded(READING, || {
            let key = key_bytes(key);
            let ids = self.view.past_ids.range((&*key, 0)..=(&*key, u64::MAX));
            let mut found = Vec::new();
            for row in ids.map_err(reading)?.rev() {
                let (place, at) = row.map_err(reading)?;
                let (at, seq) = (Time(at.value()), Seq(place.value().1));
                if at > floor && found.len() < max {
                    found.push(self.view.block(at, seq)?);
                }
            }
            Ok(found)
        })
    }

    fn first_past(&self, after: Time) -> Found<Option<Time>> {
        guarded(READING, || {
            let mut first = self.view.past_range(Some((after, Seq(u64::MAX))), 1)?;
            Ok(first.next().transpose()?.map(|(at, ..)| at))
        })
    }

    fn past_size(&self) -> Found<PastSize> {
        Ok(self.view.past_size)
    }

    fn saved(&self) -> Found<Option<Saved>> {
        Ok(self.view.saved.get().cloned().flatten())
    }

    fn writer(&self) -> Box<dyn Writer> {
        Box::new(RedbWriter {
            db: self.db.clone(),
            bloom: self.bloom.clone(),
        })
    }

    fn image(&self) -> Found<Box<dyn Image>> {
        let view = guarded(READING, || View::new(&self.db))?;
        let _db = self.db.clone();
        Ok(Box::new(RedbImage { view, _db }))
    }

    fn scrub(&self) -> Found<Option<StoreScrub>> {
        StoreScrub::new(self.db.clone(), self.blocks.clone()).map(Some)
    }

    fn refresh(&mut self) -> Found<()> {
        guarded(READING, || {
            self.view = View::new(&self.db)?;
            if self.bloom.is_full() && self.bloom_ready.swap(false, Ordering::AcqRel) {
                let ids = self.view.ids.len().map_err(reading)?;
                self.bloom = Arc::new(Bloom::for_ids(ids));
                self.fill_bloom()?;
            }
            Ok(())
        })
    }
}

/// A view that keeps its file open: a snapshot that is being sent outlives the store that it came
/// from when another one is installed meanwhile.
struct RedbImage {
    view: View,
    _db: Arc<Held>,
}

impl Image for RedbImage {
    fn saved(&self) -> Found<Option<Saved>> {
        Ok(self.view.saved.get().cloned().flatten())
    }

    fn records_after(&self, after: Option<Seq>, max: usize) -> Found<Vec<(Record, Vec<Row>)>> {
        guarded(READING, || {
            let from = after.map_or(0, |seq| seq.0.saturating_add(1));
            let rows = self.view.tasks.range(from..).map_err(reading)?.take(max);
            rows.map(|row| {
                let (seq, value) = row.map_err(reading)?;
                let seq = Seq(seq.value());
                Ok((task(seq, value.value())?, self.view.rows(seq)?))
            })
            .collect()
        })
    }

    fn schedules(&self) -> Found<Vec<Schedule>> {
        guarded(READING, || self.view.all_schedules())
    }

    fn marks(&self) -> Found<Vec<(Key, Mark)>> {
        guarded(READING, || {
            let rows = self.view.marks.iter().map_err(reading)?;
            rows.map(|row| {
                let (key, mark) = row.map_err(reading)?;
                Ok((read_key(key.value())?, open("a mark", mark.value())?))
            })
            .collect()
        })
    }

    fn past_after(&self, after: Option<(Time, Seq)>, max: usize) -> Found<Vec<Block>> {
        guarded(READING, || {
            let rows = self.view.past_range(after, max)?;
            rows.map(|row| row.and_then(|(at, seq, value)| block(at, seq, value.value())))
                .collect()
        })
    }

    fn past_bytes_after(
        &self,
        after: Option<(Time, Seq)>,
        max: usize,
    ) -> Found<Vec<(Time, Seq, u64)>> {
        guarded(READING, || {
            let rows = self.view.past_range(after, max)?;
            rows.map(|row| row.map(|(at, seq, value)| (at, seq, value.value().len() as u64)))
                .collect()
        })
    }

    fn past_size(&self) -> Found<PastSize> {
        Ok(self.view.past_size)
    }
}
