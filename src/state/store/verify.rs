//! A full check of the store's file, offline: every page, every row, and every index against the
//! records. It says what is wrong and where; it mends nothing.
//!
//! Memory does not grow with the file: each record is looked up in the indexes, and each table
//! must have as many rows as there are records for it, so that nothing can be too much either.

use redb::{Database, ReadableTable, ReadableTableMetadata};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use super::redb::{RedbStore, View, block, guarded};
use super::redb_codec::*;
use super::{Found, Saved};
use crate::model::limits::HISTORY_ROWS_MAX;
use crate::model::{Row, Seq, Time};
use crate::state::layer::{MINUTE_MS, Place, minute};
use crate::state::past::PastSize;
use crate::state::record::Record;
use crate::state::{Mark, StateHash};

/// So many findings are told one by one.
const FINDINGS_MAX: usize = 1_000;

/// What a check found.
#[derive(Debug, Default)]
pub struct Verified {
    /// The log index of the checkpoint; `None`: there is none yet.
    pub index: Option<u64>,
    pub tasks: u64,
    pub history: u64,
    pub marks: u64,
    /// Retired tasks whose history is still there.
    pub past: u64,
    /// What is wrong, and where. Empty: all is well.
    pub findings: Vec<String>,
}

/// Checks the store at a path. Opens it as a starting node would, which mends what an unclean
/// stop left.
///
/// # Errors
/// The file cannot be opened at all, or is in use.
pub fn verify_store(path: &Path) -> Found<Verified> {
    let checked = catch_unwind(AssertUnwindSafe(|| {
        let opened = Database::open(path);
        let mut db = opened.map_err(|e| fault(&format!("opening {}", path.display()), e))?;
        let mut check = Check::default();
        match db.check_integrity() {
            Ok(true) => {}
            Ok(false) => check.say("pages do not match their checksums".into()),
            Err(e) => check.say(format!("the pages cannot be read: {e}")),
        }
        // Broken pages may make the rows unreadable as well; that is told, not returned.
        if let Err(e) = View::new(&db).and_then(|view| check.all(&view)) {
            check.say(e.0);
        }
        Ok(check.verified)
    }));
    checked.unwrap_or_else(|_| {
        let findings = vec!["its pages are damaged beyond reading".into()];
        Ok(Verified {
            findings,
            ..Verified::default()
        })
    })
}

impl RedbStore {
    /// The same for an open store, as its last checkpoint left it; its free pages are not looked
    /// at.
    ///
    /// # Errors
    /// The rows cannot be read at all.
    pub fn verify(&self) -> Found<Verified> {
        guarded("reading the store", || {
            let mut check = Check::default();
            check.all(&View::new(&self.db)?)?;
            Ok(check.verified)
        })
    }
}

/// A check on its way.
#[derive(Default)]
struct Check {
    verified: Verified,
    sum: Sum,
    counts: BTreeMap<Arc<str>, [u64; 8]>,
    /// Rows that there should be: waiting, open, finished.
    places: [u64; 3],
}

struct Sum(StateHash);

impl Default for Sum {
    fn default() -> Sum {
        Sum(StateHash::ZERO)
    }
}

fn reading(e: impl std::fmt::Display) -> crate::state::StoreFault {
    fault("reading the store", e)
}

impl Check {
    fn say(&mut self, finding: String) {
        match self.verified.findings.len() {
            FINDINGS_MAX => self.verified.findings.push("… and more".into()),
            n if n > FINDINGS_MAX => {}
            _ => self.verified.findings.push(finding),
        }
    }

    fn all(&mut self, view: &View) -> Found<()> {
        let saved = view.saved.get().cloned().flatten();
        self.verified.index = saved.as_ref().map(|saved| saved.core.applied);
        for row in view.tasks.iter().map_err(reading)? {
            let (seq, value) = row.map_err(reading)?;
            let (seq, what) = (Seq(seq.value()), format!("task {}", seq.value()));
            self.verified.tasks += 1;
            match open::<Record>(&what, value.value()) {
                Ok(record) => self.record(view, seq, &record, saved.as_ref())?,
                Err(e) => self.say(e.0),
            }
        }
        self.marks(view)?;
        self.past(view)?;
        self.lengths(view)?;
        match saved {
            Some(saved) => self.totals(&saved),
            None if self.verified.tasks + self.verified.marks + self.verified.past > 0 => {
                self.say("there are rows, but no checkpoint that they belong to".into());
            }
            None => {}
        }
        Ok(())
    }

    /// One record: itself, its history, and its place in every index.
    fn record(
        &mut self,
        view: &View,
        seq: Seq,
        record: &Record,
        saved: Option<&Saved>,
    ) -> Found<()> {
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
        match view.rows(seq) {
            Ok(rows) => self.intact(&what, record, &rows),
            Err(e) => self.say(format!("{what}: {}", e.0)),
        }
        let key = key_bytes(&task.key);
        let id = view.ids.get(&*key).map_err(reading)?;
        if id.map(|id| id.value()) != Some(seq.0) {
            self.say(format!("{what}: `ids` does not lead to it"));
        }
        let (n, name, there) = match Place::of(task) {
            Place::Far(at) => {
                let row = view.far.get((minute(at), seq.0)).map_err(reading)?;
                let ms = row.map(|row| u64::from(row.value()));
                (0, "far", ms == Some(at.0 % MINUTE_MS))
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
        Ok(())
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

    fn marks(&mut self, view: &View) -> Found<()> {
        for row in view.marks.iter().map_err(reading)? {
            let (key, value) = row.map_err(reading)?;
            self.verified.marks += 1;
            let read =
                read_key(key.value()).and_then(|k| Ok((k, open::<Mark>("a mark", value.value())?)));
            let (named, mark) = match read {
                Ok(read) => read,
                Err(e) => {
                    self.say(e.0);
                    continue;
                }
            };
            self.sum.0.add(mark.own_hash(&named));
            let by_time = view.marks_by_time.get((mark.at.0, key.value()));
            if by_time.map_err(reading)?.is_none() {
                self.say(format!("mark {named}: `marks-by-time` does not have it"));
            }
        }
        Ok(())
    }

    /// Retired tasks: each block itself, its place in the index, and what all of them come to.
    fn past(&mut self, view: &View) -> Found<()> {
        let mut size = PastSize::default();
        for row in view.past.iter().map_err(reading)? {
            let (place, value) = row.map_err(reading)?;
            let (at, seq) = place.value();
            size.tasks += 1;
            size.bytes += value.value().len() as u64;
            let (past, rows) = match block(Time(at), Seq(seq), value.value()) {
                Ok(read) => read,
                Err(e) => {
                    self.say(e.0);
                    continue;
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
        }
        self.verified.past = size.tasks;
        if size != view.past_size {
            let said = view.past_size;
            self.say(format!(
                "the past comes to {size:?}, its sum says {said:?}: a past task was lost or changed"
            ));
        }
        Ok(())
    }

    /// No table has more or fewer rows than the records ask for.
    fn lengths(&mut self, view: &View) -> Found<()> {
        let v = &self.verified;
        let [far, open, finished] = self.places;
        let tables = [
            ("ids", view.ids.len(), v.tasks),
            ("far", view.far.len(), far),
            ("open", view.open.len(), open),
            ("finished", view.finished.len(), finished),
            ("history", view.history.len(), v.history),
            ("marks-by-time", view.marks_by_time.len(), v.marks),
            ("past-ids", view.past_ids.len(), v.past),
        ];
        for (name, length, expected) in tables {
            let length = length.map_err(reading)?;
            if length != expected {
                self.say(format!(
                    "`{name}` has {length} rows; the records ask for {expected}"
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Batch, By, Key, Retire, Spec, Submit, When};
    use crate::model::{Cancel, Change, Event, Http, Target};
    use crate::state::{RedbStore, State};

    fn submit(n: u64) -> Event {
        let http = Http {
            url: "http://a/".into(),
            ..Http::default()
        };
        let spec = Spec {
            target: Target::Http(http),
            retry: None,
            accept_timeout: None,
            expires_at: None,
            labels: BTreeMap::new(),
        };
        let (spec, when) = (spec.encode(), When::At(Time(10_000_000 + n)));
        Event::from(Submit {
            key: Key::new("shop", &format!("order-{n}")).unwrap(),
            when,
            digest: Spec::digest(&spec, when),
            spec,
            by: By::from("test"),
        })
    }

    /// A store with 300 tasks, one of them cancelled, and one that was, number 1; closed.
    fn store() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let mut state = State::new(Box::new(RedbStore::open(&path).unwrap()));
        let cancel = |id: &str| {
            Event::from(Cancel {
                key: Key::new("shop", id).unwrap(),
                if_match: None,
                withdrawn: None,
                by: "test".into(),
            })
        };
        let mut changes: Vec<Change> = Vec::new();
        let retire = Event::from(Retire {
            finished_up_to: Time(1_000),
            dead_up_to: Time(0),
            history_up_to: Time(0),
            max: 10,
        });
        let (first, rest) = (vec![submit(300)], (0..300).map(submit).collect());
        let events = [
            first,
            vec![cancel("order-300"), retire],
            rest,
            vec![cancel("order-7")],
        ];
        for (index, events) in (1..).zip(events) {
            let (stamp, now) = (Time(1_000), Time(1_000));
            let batch = Batch { stamp, now, events };
            state.prepare(&batch).unwrap();
            state.apply(index, batch, &mut changes);
        }
        state.begin_checkpoint(Vec::new()).unwrap().write().unwrap();
        state.end_checkpoint().unwrap();
        (dir, path)
    }

    /// Changes a store by hand.
    fn by_hand(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
        let db = Database::open(path).unwrap();
        let txn = db.begin_write().unwrap();
        change(&txn);
        txn.commit().unwrap();
    }

    fn findings(path: &Path) -> String {
        verify_store(path).unwrap().findings.join("\n")
    }

    #[test]
    fn a_sound_store_has_no_findings() {
        let (_dir, path) = store();
        let verified = verify_store(&path).unwrap();
        assert_eq!(verified.findings, [""; 0]);
        assert_eq!((verified.index, verified.tasks), (Some(4), 300));
        assert_eq!((verified.history, verified.marks), (301, 0));
        assert_eq!(verified.past, 1);
    }

    #[test]
    fn a_record_dropped_with_all_that_belongs_to_it_is_missed() {
        let (_dir, path) = store();
        by_hand(&path, |txn| {
            let key = key_bytes(&Key::new("shop", "order-50").unwrap());
            let mut ids = txn.open_table(IDS).unwrap();
            let seq = ids.remove(&*key).unwrap().unwrap().value();
            let mut tasks = txn.open_table(TASKS).unwrap();
            assert!(tasks.remove(seq).unwrap().is_some());
            let mut history = txn.open_table(HISTORY).unwrap();
            assert!(history.remove((seq, 0)).unwrap().is_some());
            let at = Time(10_000_050);
            let mut far = txn.open_table(FAR).unwrap();
            assert!(far.remove((minute(at), seq)).unwrap().is_some());
        });
        let said = findings(&path);
        assert!(said.contains("a record was lost or changed"), "{said}");
        assert!(said.contains("application shop: tasks by stage"), "{said}");
    }

    #[test]
    fn a_past_that_was_bent_is_found_from_every_side() {
        let place = (1_000, 1);
        let key = key_bytes(&Key::new("shop", "order-300").unwrap());
        let id = (&*key, 1);
        let told = |change: &dyn Fn(&redb::WriteTransaction)| {
            let (_dir, path) = store();
            by_hand(&path, change);
            findings(&path)
        };
        let said = told(&|txn| {
            let mut past = txn.open_table(PAST).unwrap();
            let block = past.get(place).unwrap().unwrap().value().to_vec();
            let (task, mut rows): crate::state::past::Block = open("", &block).unwrap();
            rows[0].at = Time(1);
            past.insert(place, &*seal(&(task, rows))).unwrap();
        });
        assert!(said.contains("past task 1 (shop/order-300)"), "{said}");
        assert!(said.contains("does not match its hash"), "{said}");
        let said = told(&|txn| {
            let mut past = txn.open_table(PAST).unwrap();
            let mut block = past.get(place).unwrap().unwrap().value().to_vec();
            block[20] ^= 4;
            past.insert(place, &*block).unwrap();
        });
        assert!(said.contains("past task 1 is damaged on disk"), "{said}");
        let said = told(&|txn| {
            let mut ids = txn.open_table(PAST_IDS).unwrap();
            assert!(ids.remove(id).unwrap().is_some());
        });
        assert!(said.contains("`past-ids` does not lead to it"), "{said}");
        let said = told(&|txn| {
            let mut ids = txn.open_table(PAST_IDS).unwrap();
            ids.insert((&*key, 9), 1_000).unwrap();
        });
        assert!(said.contains("`past-ids` has 2 rows"), "{said}");
        // With all that belongs to it.
        let said = told(&|txn| {
            let mut past = txn.open_table(PAST).unwrap();
            assert!(past.remove(place).unwrap().is_some());
            let mut ids = txn.open_table(PAST_IDS).unwrap();
            assert!(ids.remove(id).unwrap().is_some());
        });
        assert!(said.contains("a past task was lost or changed"), "{said}");
    }

    #[test]
    fn a_bit_flipped_in_a_value_is_found_and_named() {
        let (_dir, path) = store();
        by_hand(&path, |txn| {
            let mut tasks = txn.open_table(TASKS).unwrap();
            let mut bytes = tasks.get(9).unwrap().unwrap().value().to_vec();
            bytes[20] ^= 4;
            tasks.insert(9, &*bytes).unwrap();
        });
        let said = findings(&path);
        assert!(said.contains("task 9 is damaged on disk"), "{said}");
    }

    #[test]
    fn indexes_that_do_not_agree_are_named() {
        let (_dir, path) = store();
        by_hand(&path, |txn| {
            let mut far = txn.open_table(FAR).unwrap();
            let key = (minute(Time(10_000_003)), 5);
            assert!(far.remove(key).unwrap().is_some());
            txn.open_table(OPEN).unwrap().insert(6, ()).unwrap();
        });
        let said = findings(&path);
        assert!(said.contains("task 5 (shop/order-3): `far`"), "{said}");
        assert!(
            said.contains("`open` has 1 rows; the records ask for 0"),
            "{said}"
        );
    }

    /// Wherever a page that is in use was hit, something is said.
    #[test]
    fn bits_flipped_in_the_file_are_found() {
        let (_dir, path) = store();
        let whole = std::fs::read(&path).unwrap();
        let needle = b"order-123";
        let places: Vec<usize> = whole
            .windows(needle.len())
            .enumerate()
            .filter(|(_, bytes)| bytes == needle)
            .map(|(at, _)| at)
            .collect();
        let caught = places.iter().filter(|at| {
            let mut bytes = whole.clone();
            bytes[**at + 8] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            match verify_store(&path) {
                Ok(verified) => !verified.findings.is_empty(),
                Err(_) => true,
            }
        });
        // Once in the record, once in the index of ids; the rest are pages given up.
        assert!(caught.count() >= 2, "{places:?}");
    }
}
