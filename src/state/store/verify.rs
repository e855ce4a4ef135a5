//! A full check of the store's file, offline: every page, and then the walk that a running node
//! makes too. It says what is wrong and where; it mends nothing.

use std::path::Path;
use std::sync::Arc;

use super::Found;
use super::redb::{RedbStore, check_pages, opened};
use super::scrub::{StoreScrub, Verified};
use crate::log::{Blocks, Held};

/// Read at once.
const PIECE_BYTES: usize = 8 << 20;

/// Checks the store at a path. Opens it as a starting node would, which mends what an unclean
/// stop left.
///
/// # Errors
/// The file cannot be opened at all, or is in use.
pub fn verify_store(path: &Path) -> Found<Verified> {
    let (db, blocks) = opened(path)?;
    let mut db = Held::new(db);
    let mut findings = Vec::new();
    match check_pages(&mut db) {
        Ok(true) => {}
        Ok(false) => findings.push("pages do not match their checksums".into()),
        Err(e) => findings.push(e.0),
    }
    let db = Arc::new(db);
    let mut verified = walked(db.clone(), Some(blocks));
    findings.append(&mut verified.findings);
    verified.findings = findings;
    if let (false, Some(db)) = (verified.findings.is_empty(), Arc::into_inner(db)) {
        db.leave();
    }
    Ok(verified)
}

/// Broken pages may make the rows unreadable as well; that is told, not returned.
fn walked(db: Arc<Held>, blocks: Option<Blocks>) -> Verified {
    let told = |why: String| Verified {
        findings: vec![why],
        ..Verified::default()
    };
    let mut scrub = match StoreScrub::new(db, blocks) {
        Ok(scrub) => scrub,
        Err(e) => return told(e.0),
    };
    loop {
        match scrub.step(PIECE_BYTES) {
            Ok(slice) if slice.done => return scrub.into_verified(),
            Ok(_) => {}
            Err(e) => {
                scrub.say(e.0);
                return scrub.into_verified();
            }
        }
    }
}

impl RedbStore {
    /// The same for an open store, as its last checkpoint left it; its free pages are not looked
    /// at.
    pub fn verify(&self) -> Verified {
        walked(self.db.clone(), self.blocks.clone())
    }
}

#[cfg(test)]
mod tests {
    use redb::Database;
    use redb::ReadableTable;

    use super::super::redb_codec::*;
    use super::*;
    use crate::model::{Batch, By, Key, Retire, Spec, Submit, Time, When};
    use crate::model::{Cancel, Change, Event, Http, Target};
    use crate::state::{Label, RedbStore, State};

    /// The label of a task of [`submit`].
    fn label(n: u64) -> (String, String) {
        ("order".into(), n.to_string())
    }

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
            labels: [label(n)].into(),
            placement: None,
            next: Default::default(),
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
            marks_up_to: Time(0),
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
    fn an_image_outlives_the_store_that_it_came_from() {
        let (_dir, path) = store();
        let image = crate::state::Store::image(&RedbStore::open(&path).unwrap()).unwrap();
        assert_eq!(image.records_after(None, 1_000).unwrap().len(), 300);
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
            assert!(far.remove((at.0, seq)).unwrap().is_some());
            let (name, value) = label(50);
            let place = (Label::new(&name, &value).0, &*key);
            let mut labels = txn.open_table(LABELS).unwrap();
            assert!(labels.remove(place).unwrap().is_some());
        });
        let said = findings(&path);
        assert!(!said.contains("`labels`"), "{said}");
        assert!(said.contains("a record was lost or changed"), "{said}");
        assert!(said.contains("application shop: tasks by stage"), "{said}");
    }

    #[test]
    fn one_untouched_record_dropped_is_named() {
        let (_dir, path) = store();
        by_hand(&path, |txn| {
            let mut tasks = txn.open_table(TASKS).unwrap();
            assert!(tasks.remove(51).unwrap().is_some());
        });
        let said = findings(&path);
        for part in [
            "a record was lost or changed",
            "`ids` leads from shop/order-49 to task 51, which is not there",
            "`far` has task 51 at 10000049, where it does not wait",
            "`history` has row 0 of task 51, which is not there",
            "`labels` leads from shop/order-49 to task 51, which is not there",
        ] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }

    #[test]
    fn slices_see_what_the_whole_sees_and_the_view_does_not_change() {
        let (_dir, path) = store();
        let mut state = State::open(Box::new(RedbStore::open(&path).unwrap()))
            .unwrap()
            .0;
        let mut scrub = state.scrub().unwrap().unwrap();
        let (mut steps, mut bytes) = (0, 0);
        loop {
            let slice = scrub.step(2_000).unwrap();
            (steps, bytes) = (steps + 1, bytes + slice.bytes);
            if steps == 20 {
                // A checkpoint in the middle of it.
                let (stamp, now) = (Time(2_000), Time(2_000));
                let events = (300..400).map(submit).collect();
                let batch = Batch { stamp, now, events };
                state.prepare(&batch).unwrap();
                state.apply(5, batch, &mut Vec::new());
                let checkpoint = state.begin_checkpoint(Vec::new()).unwrap();
                checkpoint.write().unwrap();
                state.end_checkpoint().unwrap();
            }
            if slice.done {
                break;
            }
            assert!(slice.bytes < 10_000, "{}: {slice:?}", scrub.place());
        }
        let verified = scrub.verified();
        assert_eq!(verified.findings, [""; 0]);
        assert_eq!((verified.index, verified.tasks), (Some(4), 300));
        let length = std::fs::metadata(&path).unwrap().len();
        assert!(steps > 50 && bytes > length, "{steps} steps, {bytes} bytes");
    }

    /// Every page is in memory; the disk changes one below it.
    #[test]
    fn a_bit_that_turns_under_an_open_store_is_found() {
        let (_dir, path) = store();
        let open = RedbStore::open(&path).unwrap();
        assert_eq!(open.verify().findings, [""; 0]);
        let whole = std::fs::read(&path).unwrap();
        let needle = b"order-123";
        let at = whole.windows(9).rposition(|w| w == needle).unwrap();
        let mut bent = whole.clone();
        bent[at + 8] ^= 1;
        std::fs::write(&path, &bent).unwrap();
        let said = open.verify().findings.join("\n");
        assert!(said.contains("of state.redb are not what was"), "{said}");
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(open.verify().findings, [""; 0]);
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
            let key = (10_000_003, 5);
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

    #[test]
    fn an_index_of_labels_that_lacks_one_or_has_one_too_many_is_named() {
        let key = key_bytes(&Key::new("shop", "order-4").unwrap());
        let place = |n: u64| {
            let (name, value) = label(n);
            Label::new(&name, &value).0
        };
        let (_dir, path) = store();
        by_hand(&path, |txn| {
            let mut labels = txn.open_table(LABELS).unwrap();
            assert!(labels.remove((place(4), &*key)).unwrap().is_some());
        });
        let said = findings(&path);
        let lacks = "task 6 (shop/order-4): `labels` does not lead to it";
        assert!(said.contains(lacks), "{said}");
        let (_dir, path) = store();
        by_hand(&path, |txn| {
            let mut labels = txn.open_table(LABELS).unwrap();
            assert!(labels.insert((place(7), &*key), 6).unwrap().is_none());
        });
        let said = findings(&path);
        let many = "`labels` has 301 rows; the records ask for 300";
        assert!(said.contains(many), "{said}");
        let stray = "`labels` leads from shop/order-4 to task 6, which does not have that label";
        assert!(said.contains(stray), "{said}");
        let (_dir, path) = store();
        by_hand(&path, |txn| {
            let mut labels = txn.open_table(LABELS).unwrap();
            labels.insert((place(4), &*key), 7).unwrap();
        });
        let said = findings(&path);
        assert!(said.contains(lacks), "{said}");
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
