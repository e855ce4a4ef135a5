//! A walk over the whole store as it lies on the disk: every record's checksum and hashes, its history,
//! its place in every index, and at the end the counts and the state hash; then the file, block
//! by block. In slices, over a view that no checkpoint changes, and beside the fold.
//!
//! Memory does not grow with the store: each record is looked up in the indexes, and each table
//! must have as many rows as there are records for it, so that nothing can be too much either.
//! Only if something is, the indexes are walked as well, to name it.
//!
//! The view keeps its pages from being given to others, so the file grows by what checkpoints
//! write while a walk is under way.

use redb::{ReadableTable, ReadableTableMetadata};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::redb::{View, block, guarded, reading};
use super::redb_codec::*;
use super::{Found, Saved};
use crate::log::{BLOCK_BYTES, Blocks, Held, Slice};
use crate::model::limits::HISTORY_ROWS_MAX;
use crate::model::{Row, Schedule, Seq, Time};
use crate::state::label::{Label, labels};
use crate::state::layer::Place;
use crate::state::past::PastSize;
use crate::state::record::Record;
use crate::state::schedules::{is_intact, own_hash};
use crate::state::{Mark, StateHash};

/// So many findings are told one by one.
const FINDINGS_MAX: usize = 1_000;
/// What a row in an index costs to look at, about, and a row of history.
const LOOK_BYTES: usize = 256;
const ROW_BYTES: usize = 128;

/// What a walk found.
#[derive(Debug, Default)]
pub struct Verified {
    /// The log index of the checkpoint; `None`: there is none yet.
    pub index: Option<u64>,
    pub tasks: u64,
    pub history: u64,
    pub marks: u64,
    pub schedules: u64,
    /// Retired tasks whose history is still there.
    pub past: u64,
    /// What is wrong, and where. Empty: all is well.
    pub findings: Vec<String>,
}

impl Verified {
    fn rows(&self) -> u64 {
        self.tasks + self.marks + self.past + self.schedules
    }
}

/// A walk on its way.
pub struct StoreScrub {
    view: View,
    // Keeps the file open, although a snapshot may replace it meanwhile.
    _db: Arc<Held>,
    blocks: Option<Blocks>,
    check: Check,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// From this number on.
    Tasks(u64),
    /// Behind this key.
    Marks(Vec<u8>),
    /// Behind this id.
    Schedules(String),
    /// Behind this place.
    Past(Option<(u64, u64)>),
    Totals,
    /// The next block.
    Blocks(u64),
    Done,
}

impl StoreScrub {
    pub(super) fn new(db: Arc<Held>, blocks: Option<Blocks>) -> Found<StoreScrub> {
        let view = guarded("reading the store", || View::new(&db))?;
        let mut check = Check::default();
        let saved = view.saved.get().and_then(Option::as_ref);
        check.verified.index = saved.map(|saved| saved.core.applied);
        Ok(StoreScrub {
            view,
            _db: db,
            blocks,
            check,
            phase: Phase::Tasks(0),
        })
    }

    /// What was found so far.
    pub fn verified(&self) -> &Verified {
        &self.check.verified
    }

    pub(super) fn into_verified(self) -> Verified {
        self.check.verified
    }

    pub(super) fn say(&mut self, finding: String) {
        self.check.say(finding);
    }

    /// Where it is, in words.
    pub fn place(&self) -> String {
        match &self.phase {
            Phase::Tasks(next) => format!("store, task {next}"),
            Phase::Marks(_) => "store, marks".to_owned(),
            Phase::Schedules(_) => "store, schedules".to_owned(),
            Phase::Past(_) => "store, histories of retired tasks".to_owned(),
            Phase::Totals => "store, counts and hash".to_owned(),
            Phase::Blocks(n) => format!("store, byte {} of its file", n * BLOCK_BYTES as u64),
            Phase::Done => "store, done".to_owned(),
        }
    }

    /// Reads and checks the next so many bytes, about. Findings gather in [`Self::verified`].
    ///
    /// # Errors
    /// The rows cannot be read at all, or a block is not what it was: that is a finding too, and
    /// the walk cannot go on.
    pub fn step(&mut self, bytes: usize) -> Found<Slice> {
        guarded("reading the store", || {
            let read = match &self.phase {
                Phase::Tasks(next) => self.tasks(*next, bytes)?,
                Phase::Marks(after) => self.marks(&after.clone(), bytes)?,
                Phase::Schedules(after) => self.schedules(&after.clone(), bytes)?,
                Phase::Past(after) => self.past(*after, bytes)?,
                Phase::Totals => {
                    self.check.ends(&self.view)?;
                    self.phase = match self.blocks {
                        Some(_) => Phase::Blocks(0),
                        None => Phase::Done,
                    };
                    0
                }
                Phase::Blocks(first) => self.blocks(*first, bytes)?,
                Phase::Done => 0,
            };
            Ok(Slice {
                bytes: read as u64,
                done: matches!(self.phase, Phase::Done),
            })
        })
    }

    fn tasks(&mut self, from: u64, bytes: usize) -> Found<usize> {
        let mut read = 0;
        for row in self.view.tasks.range(from..).map_err(reading)? {
            let (seq, value) = row.map_err(reading)?;
            read += value.value().len() + LOOK_BYTES;
            read += self
                .check
                .task(&self.view, Seq(seq.value()), value.value())?;
            if read >= bytes {
                self.phase = Phase::Tasks(seq.value() + 1);
                return Ok(read);
            }
        }
        self.phase = Phase::Marks(Vec::new());
        Ok(read)
    }

    fn marks(&mut self, after: &[u8], bytes: usize) -> Found<usize> {
        let from = match after {
            [] => Bound::Unbounded,
            after => Bound::Excluded(after),
        };
        let mut read = 0;
        let rows = self.view.marks.range::<&[u8]>((from, Bound::Unbounded));
        for row in rows.map_err(reading)? {
            let (key, value) = row.map_err(reading)?;
            read += value.value().len() + LOOK_BYTES;
            self.check.mark(&self.view, key.value(), value.value())?;
            if read >= bytes {
                self.phase = Phase::Marks(key.value().to_vec());
                return Ok(read);
            }
        }
        self.phase = Phase::Schedules(String::new());
        Ok(read)
    }

    fn schedules(&mut self, after: &str, bytes: usize) -> Found<usize> {
        let from = match after {
            "" => Bound::Unbounded,
            after => Bound::Excluded(after),
        };
        let mut read = 0;
        let rows = self.view.schedules.range::<&str>((from, Bound::Unbounded));
        for row in rows.map_err(reading)? {
            let (id, value) = row.map_err(reading)?;
            read += value.value().len() + LOOK_BYTES;
            self.check.schedule(id.value(), value.value());
            if read >= bytes {
                self.phase = Phase::Schedules(id.value().to_owned());
                return Ok(read);
            }
        }
        self.phase = Phase::Past(None);
        Ok(read)
    }

    fn past(&mut self, after: Option<(u64, u64)>, bytes: usize) -> Found<usize> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut read = 0;
        let rows = self.view.past.range((from, Bound::Unbounded));
        for row in rows.map_err(reading)? {
            let (place, value) = row.map_err(reading)?;
            read += value.value().len() + LOOK_BYTES;
            self.check.past(&self.view, place.value(), value.value())?;
            if read >= bytes {
                self.phase = Phase::Past(Some(place.value()));
                return Ok(read);
            }
        }
        self.phase = Phase::Totals;
        Ok(read)
    }

    fn blocks(&mut self, first: u64, bytes: usize) -> Found<usize> {
        let count = (bytes / BLOCK_BYTES).max(1);
        let checked = match &self.blocks {
            Some(blocks) => blocks.check(first, count).map_err(reading)?,
            None => 0,
        };
        self.phase = match checked < count {
            true => Phase::Done,
            false => Phase::Blocks(first + checked as u64),
        };
        Ok(checked * BLOCK_BYTES)
    }
}

/// What was seen, and what it comes to.
#[derive(Default)]
struct Check {
    verified: Verified,
    sum: Sum,
    counts: BTreeMap<Arc<str>, [u64; 8]>,
    /// Rows that there should be: waiting, open, finished.
    places: [u64; 3],
    /// Rows that the index of labels should have.
    labels: u64,
    past: PastSize,
}

struct Sum(StateHash);

impl Default for Sum {
    fn default() -> Sum {
        Sum(StateHash::ZERO)
    }
}

impl Check {
    fn say(&mut self, finding: String) {
        match self.verified.findings.len() {
            FINDINGS_MAX => self.verified.findings.push("… and more".into()),
            n if n > FINDINGS_MAX => {}
            _ => self.verified.findings.push(finding),
        }
    }

    fn task(&mut self, view: &View, seq: Seq, value: &[u8]) -> Found<usize> {
        self.verified.tasks += 1;
        let saved = view.saved.get().and_then(Option::as_ref);
        match open::<Record>(&format!("task {}", seq.0), value) {
            Ok(record) => self.record(view, seq, &record, saved),
            Err(e) => {
                self.say(e.0);
                Ok(0)
            }
        }
    }

    /// One record: itself, its history, and its place in every index.
    fn record(
        &mut self,
        view: &View,
        seq: Seq,
        record: &Record,
        saved: Option<&Saved>,
    ) -> Found<usize> {
        let task = &record.task;
        let what = format!("task {} ({})", seq.0, task.key);
        self.sum.0.add(record.own_hash());
        self.counts.entry(task.key.app.clone()).or_default()[task.stage as usize] += 1;
        if task.seq != seq {
            self.say(format!("{what}: in its place lies task {}", task.seq.0));
        }
        if saved.is_some_and(|saved| seq.0 >= saved.core.next_seq) {
            self.say(format!("{what}: its number was not given yet"));
        }
        let mut read = 0;
        match view.rows(seq) {
            Ok(rows) => {
                read = rows.len() * ROW_BYTES;
                self.intact(&what, record, &rows);
            }
            Err(e) => self.say(format!("{what}: {}", e.0)),
        }
        let key = key_bytes(&task.key);
        let id = view.ids.get(&*key).map_err(reading)?;
        if id.map(|id| id.value()) != Some(seq.0) {
            self.say(format!("{what}: `ids` does not lead to it"));
        }
        for label in labels(&task.spec) {
            self.labels += 1;
            let row = view.labels.get((label.0, &*key)).map_err(reading)?;
            if row.map(|row| row.value()) != Some(seq.0) {
                self.say(format!("{what}: `labels` does not lead to it"));
            }
        }
        let (n, name, there) = match Place::of(task) {
            Place::Far(at) => {
                let row = view.far.get((at.0, seq.0)).map_err(reading)?;
                (0, "far", row.is_some())
            }
            Place::Open => {
                let row = view.open.get(seq.0).map_err(reading)?;
                (1, "open", row.is_some())
            }
            Place::Finished(class, at) => {
                let row = view.finished.get((class as u8, at.0, seq.0));
                (2, "finished", row.map_err(reading)?.is_some())
            }
        };
        self.places[n] += 1;
        if !there {
            self.say(format!("{what}: `{name}` does not have it, or elsewhere"));
        }
        Ok(read)
    }

    fn intact(&mut self, what: &str, record: &Record, rows: &[Row]) {
        self.verified.history += rows.len() as u64;
        if !record.is_intact(rows) {
            self.say(format!("{what}: it does not match its hashes"));
        }
        if rows.len() > HISTORY_ROWS_MAX {
            self.say(format!("{what}: its history has {} rows", rows.len()));
        }
    }

    fn mark(&mut self, view: &View, key: &[u8], value: &[u8]) -> Found<()> {
        self.verified.marks += 1;
        let read = read_key(key).and_then(|named| Ok((named, open::<Mark>("a mark", value)?)));
        let (named, mark) = match read {
            Ok(read) => read,
            Err(e) => {
                self.say(e.0);
                return Ok(());
            }
        };
        self.sum.0.add(mark.own_hash(&named));
        let by_time = view.marks_by_time.get((mark.at.0, key));
        if by_time.map_err(reading)?.is_none() {
            self.say(format!("mark {named}: `marks-by-time` does not have it"));
        }
        Ok(())
    }

    fn schedule(&mut self, id: &str, value: &[u8]) {
        self.verified.schedules += 1;
        match open::<Schedule>(&format!("schedule {id}"), value) {
            Ok(schedule) => {
                self.sum.0.add(own_hash(&schedule));
                if *schedule.id != *id || !is_intact(&schedule) {
                    self.say(format!("schedule {id}: it does not match its hashes"));
                }
            }
            Err(e) => self.say(e.0),
        }
    }

    /// A retired task: its block, and its place in the index.
    fn past(&mut self, view: &View, place: (u64, u64), value: &[u8]) -> Found<()> {
        let (at, seq) = place;
        self.verified.past += 1;
        self.past.tasks += 1;
        self.past.bytes += value.len() as u64;
        let (past, rows) = match block(Time(at), Seq(seq), value) {
            Ok(read) => read,
            Err(e) => {
                self.say(e.0);
                return Ok(());
            }
        };
        let what = format!("past task {seq} ({})", past.task.key);
        if !past.is_intact(&rows) {
            self.say(format!("{what}: its history does not match its hash"));
        }
        let key = key_bytes(&past.task.key);
        let id = view.past_ids.get((&*key, seq)).map_err(reading)?;
        if id.map(|id| id.value()) != Some(at) {
            self.say(format!("{what}: `past-ids` does not lead to it"));
        }
        if view.tasks.get(seq).map_err(reading)?.is_some() {
            self.say(format!("{what}: it is among the tasks as well"));
        }
        Ok(())
    }

    /// Everything was seen: the counts and the hash.
    fn ends(&mut self, view: &View) -> Found<()> {
        if self.lengths(view)? {
            self.strays(view)?;
        }
        if self.past != view.past_size {
            let (size, said) = (self.past, view.past_size);
            self.say(format!(
                "the past comes to {size:?}, its sum says {said:?}: a past task was lost or changed"
            ));
        }
        match view.saved.get().and_then(Option::as_ref) {
            Some(saved) => self.totals(saved),
            None if self.verified.rows() > 0 => {
                self.say("there are rows, but no checkpoint that they belong to".into());
            }
            None => {}
        }
        Ok(())
    }

    /// No table has more or fewer rows than the records ask for; says whether one has more.
    fn lengths(&mut self, view: &View) -> Found<bool> {
        let v = &self.verified;
        let [far, open, finished] = self.places;
        let tables = [
            ("ids", view.ids.len(), v.tasks),
            ("labels", view.labels.len(), self.labels),
            ("far", view.far.len(), far),
            ("open", view.open.len(), open),
            ("finished", view.finished.len(), finished),
            ("history", view.history.len(), v.history),
            ("marks-by-time", view.marks_by_time.len(), v.marks),
            ("past-ids", view.past_ids.len(), v.past),
        ];
        let mut more = false;
        for (name, length, expected) in tables {
            let length = length.map_err(reading)?;
            more |= length > expected;
            if length != expected {
                self.say(format!(
                    "`{name}` has {length} rows; the records ask for {expected}"
                ));
            }
        }
        Ok(more)
    }

    /// The other way round, from the indexes to the records: names every row that belongs to none.
    fn strays(&mut self, view: &View) -> Found<()> {
        let record = |seq: u64| -> Found<Option<Record>> {
            let row = view.tasks.get(seq).map_err(reading)?;
            // One that cannot be read was told already.
            Ok(row.and_then(|row| open::<Record>("", row.value()).ok()))
        };
        let place = |seq: u64| Ok(record(seq)?.map(|record| Place::of(&record.task)));
        for row in view.ids.iter().map_err(reading)? {
            let (key, seq) = row.map_err(reading)?;
            let found = record(seq.value())?.map(|record| key_bytes(&record.task.key));
            if found.as_deref() != Some(key.value()) {
                let (key, seq) = (String::from_utf8_lossy(key.value()), seq.value());
                let key = key.replace('\0', "/");
                self.say(format!(
                    "`ids` leads from {key} to task {seq}, which is not there"
                ));
            }
        }
        for row in view.labels.iter().map_err(reading)? {
            let (place, seq) = row.map_err(reading)?;
            let ((label, key), seq) = (place.value(), seq.value());
            let why = match record(seq)? {
                Some(record) if key_bytes(&record.task.key) != key => "which has another id",
                Some(record) if !labels(&record.task.spec).contains(&Label(label)) => {
                    "which does not have that label"
                }
                Some(_) => continue,
                None => "which is not there",
            };
            let key = String::from_utf8_lossy(key).replace('\0', "/");
            self.say(format!("`labels` leads from {key} to task {seq}, {why}"));
        }
        for row in view.far.iter().map_err(reading)? {
            let (at, seq) = row.map_err(reading)?.0.value();
            if !matches!(place(seq)?, Some(Place::Far(due)) if due.0 == at) {
                self.say(format!(
                    "`far` has task {seq} at {at}, where it does not wait"
                ));
            }
        }
        for row in view.open.iter().map_err(reading)? {
            let seq = row.map_err(reading)?.0.value();
            if place(seq)? != Some(Place::Open) {
                self.say(format!("`open` has task {seq}, which is not open"));
            }
        }
        for row in view.finished.iter().map_err(reading)? {
            let (class, at, seq) = row.map_err(reading)?.0.value();
            let finished = |p| matches!(p, Place::Finished(c, t) if (c as u8, t.0) == (class, at));
            if !place(seq)?.is_some_and(finished) {
                self.say(format!(
                    "`finished` has task {seq} at {at}, where it did not finish"
                ));
            }
        }
        for row in view.past_ids.iter().map_err(reading)? {
            let (place, at) = row.map_err(reading)?;
            let ((key, seq), at) = (place.value(), at.value());
            let row = view.past.get((at, seq)).map_err(reading)?;
            let there = row.and_then(|row| block(Time(at), Seq(seq), row.value()).ok());
            if there.is_none_or(|(past, _)| key_bytes(&past.task.key) != key) {
                let key = String::from_utf8_lossy(key).replace('\0', "/");
                self.say(format!(
                    "`past-ids` leads from {key} to past task {seq}, which is not there"
                ));
            }
        }
        for row in view.history.iter().map_err(reading)? {
            let (seq, n) = row.map_err(reading)?.0.value();
            if view.tasks.get(seq).map_err(reading)?.is_none() {
                self.say(format!(
                    "`history` has row {n} of task {seq}, which is not there"
                ));
            }
        }
        Ok(())
    }

    /// What was saved with the checkpoint is what the rows come to.
    fn totals(&mut self, saved: &Saved) {
        if self.sum.0 != saved.hash {
            let (sum, hash) = (&self.sum.0, saved.hash);
            self.say(format!(
                "the records' hashes come to {sum}, the checkpoint says {hash}: a record was lost or changed"
            ));
        }
        let apps: std::collections::BTreeSet<_> = self
            .counts
            .keys()
            .chain(saved.counts.keys())
            .cloned()
            .collect();
        for app in apps {
            let found = self.counts.get(&app).copied().unwrap_or_default();
            let said = saved.counts.get(&app).copied().unwrap_or_default();
            if found != said {
                self.say(format!(
                    "application {app}: tasks by stage are {found:?}, the checkpoint says {said:?}"
                ));
            }
        }
    }
}
