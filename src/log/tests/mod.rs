//! What the log promises, on each engine.

mod damage;
mod model;
mod power;
mod scrub;

use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;

use super::*;

/// An entry whose payload tells its place, so that a wrong one is seen.
pub(super) fn entry(term: u64, index: u64) -> Entry {
    let length = (index as usize * 37) % 300;
    let payload = format!("{term}/{index}/")
        .into_bytes()
        .into_iter()
        .cycle()
        .take(length);
    let kind = if length == 0 {
        Kind::Blank
    } else {
        Kind::Batch
    };
    Entry {
        at: at(term, index),
        kind,
        payload: payload.collect(),
    }
}

pub(super) fn entries(term: u64, range: std::ops::Range<u64>) -> Vec<Entry> {
    range.map(|index| entry(term, index)).collect()
}

pub(super) fn at(term: u64, index: u64) -> Position {
    Position {
        term,
        node: 1,
        index,
    }
}

/// A `done` and where its answer arrives.
fn answer() -> (Done, Receiver<std::io::Result<()>>) {
    let (send, receive) = mpsc::channel();
    (Box::new(move |result| drop(send.send(result))), receive)
}

/// Runs a call that takes a `done` and waits for it.
fn wait(call: impl FnOnce(Done)) -> std::io::Result<()> {
    let (done, answered) = answer();
    call(done);
    answered.recv().expect("every done is called")
}

fn append(store: &LogStore, entries: Vec<Entry>) {
    wait(|done| store.append(entries, done)).unwrap();
}

fn all(store: &LogStore) -> Vec<Entry> {
    store.read(0..u64::MAX, usize::MAX).unwrap()
}

/// Every engine this binary has.
fn each_engine(test: impl Fn(&Path, EngineKind)) {
    let mut kinds = vec![EngineKind::Redb];
    if cfg!(feature = "sled") {
        kinds.push(EngineKind::Sled);
    }
    for kind in kinds {
        let dir = tempfile::tempdir().unwrap();
        test(dir.path(), kind);
    }
}

/// Checks the store as it stands, and again after it was opened anew: once from the tail, once
/// from the disk.
fn now_and_reopened(dir: &Path, kind: EngineKind, store: LogStore, check: impl Fn(&LogStore)) {
    check(&store);
    store.close();
    check(&LogStore::open(dir, kind).unwrap());
}

#[test]
fn a_new_log_is_empty() {
    each_engine(|dir, kind| {
        let store = LogStore::open(dir, kind).unwrap();
        now_and_reopened(dir, kind, store, |store| {
            assert_eq!(store.bounds(), Bounds::default());
            assert_eq!((store.vote(), store.committed()), (None, None));
            assert_eq!(all(store), []);
        });
    });
}

#[test]
fn entries_come_back_as_they_were() {
    each_engine(|dir, kind| {
        let store = LogStore::open(dir, kind).unwrap();
        append(&store, entries(1, 0..10));
        append(&store, entries(2, 10..20));
        now_and_reopened(dir, kind, store, |store| {
            assert_eq!(
                store.bounds(),
                Bounds {
                    purged: None,
                    last: Some(at(2, 19))
                }
            );
            let expected: Vec<_> = entries(1, 0..10)
                .into_iter()
                .chain(entries(2, 10..20))
                .collect();
            assert_eq!(all(store), expected);
            assert_eq!(store.read(5..15, usize::MAX).unwrap(), expected[5..15]);
            assert_eq!(store.read(5..15, 0).unwrap(), expected[5..6]);
            let two = expected[5].frame_len() + expected[6].frame_len();
            assert_eq!(store.read(5..15, two).unwrap(), expected[5..7]);
            assert_eq!(store.read(20..30, usize::MAX).unwrap(), []);
            assert_eq!(store.status().entries, 20);
        });
    });
}

#[test]
fn a_log_may_begin_anywhere_but_must_not_have_holes() {
    each_engine(|dir, kind| {
        let store = LogStore::open(dir, kind).unwrap();
        append(&store, entries(1, 7..9));
        for wrong in [entries(1, 8..9), entries(1, 10..11)] {
            assert!(wait(|done| store.append(wrong, done)).is_err());
        }
        let mut torn = entries(1, 9..12);
        torn.remove(1);
        assert!(wait(|done| store.append(torn, done)).is_err());
        now_and_reopened(dir, kind, store, |store| {
            assert_eq!(all(store), entries(1, 7..9))
        });
    });
}

#[test]
fn truncated_entries_are_gone_and_can_be_written_anew() {
    each_engine(|dir, kind| {
        let store = LogStore::open(dir, kind).unwrap();
        append(&store, entries(1, 0..10));
        wait(|done| store.truncate_after(Some(5), done)).unwrap();
        assert_eq!(store.bounds().last, Some(at(1, 5)));
        append(&store, entries(3, 6..8));
        now_and_reopened(dir, kind, store, |store| {
            assert_eq!(store.bounds().last, Some(at(3, 7)));
            assert_eq!(all(store)[5..], [entry(1, 5), entry(3, 6), entry(3, 7)]);
        });
        let store = LogStore::open(dir, kind).unwrap();
        wait(|done| store.truncate_after(Some(2), done)).unwrap();
        now_and_reopened(dir, kind, store, |store| {
            assert_eq!(all(store), entries(1, 0..3))
        });
        let store = LogStore::open(dir, kind).unwrap();
        wait(|done| store.truncate_after(None, done)).unwrap();
        now_and_reopened(dir, kind, store, |store| {
            assert_eq!((store.bounds(), all(store)), (Bounds::default(), vec![]));
        });
    });
}

#[test]
fn purged_entries_are_gone_at_once_and_their_rows_soon() {
    each_engine(|dir, kind| {
        let store = LogStore::open(dir, kind).unwrap();
        let many = 3 * SWEEP_ROWS;
        append(&store, entries(1, 0..many));
        wait(|done| store.purge(at(1, many - 2), done)).unwrap();
        now_and_reopened(dir, kind, store, |store| {
            assert_eq!(store.bounds().purged, Some(at(1, many - 2)));
            assert_eq!(all(store), entries(1, many - 1..many));
        });
        let store = LogStore::open(dir, kind).unwrap();
        wait(|done| store.purge(at(1, many - 1), done)).unwrap();
        wait(|done| store.truncate_after(None, done)).unwrap();
        now_and_reopened(dir, kind, store, |store| {
            assert_eq!(store.bounds().last, Some(at(1, many - 1)));
            assert_eq!(all(store), []);
        });
    });
}

#[test]
fn a_sweep_interrupted_by_a_restart_goes_on() {
    let disk = sim_disk::SimDisk::new();
    let open = || LogStore::stepped(Box::new(RedbEngine::with_backend(disk.clone()).unwrap()));
    let many = 3 * SWEEP_ROWS;
    let rows = |store: &LogStore| {
        let engine = store.shared().lock().working().unwrap().clone();
        engine.ends().unwrap().map(|(first, _)| first)
    };
    let (store, mut writer) = open().unwrap();
    store.append(entries(1, 0..many), answer().0);
    writer.step();
    store.purge(at(1, many - 2), answer().0);
    assert_eq!(writer.step(), Step::Wrote);
    assert_eq!(rows(&store), Some(SWEEP_ROWS));
    drop((store, writer));
    let (store, mut writer) = open().unwrap();
    assert_eq!(rows(&store), Some(SWEEP_ROWS));
    while writer.step() == Step::Wrote {}
    assert_eq!(rows(&store), Some(many - 1));
    assert_eq!(all(&store), entries(1, many - 1..many));
}

#[test]
fn a_purge_beyond_the_end_moves_the_log() {
    each_engine(|dir, kind| {
        let store = LogStore::open(dir, kind).unwrap();
        append(&store, entries(1, 0..5));
        let far = 1 << 50;
        wait(|done| store.purge(at(4, far), done)).unwrap();
        assert_eq!(
            store.bounds(),
            Bounds {
                purged: Some(at(4, far)),
                last: Some(at(4, far))
            }
        );
        assert!(wait(|done| store.append(entries(4, 5..6), done)).is_err());
        append(&store, entries(4, far + 1..far + 3));
        now_and_reopened(dir, kind, store, |store| {
            assert_eq!(all(store), entries(4, far + 1..far + 3));
            assert_eq!(store.bounds().last, Some(at(4, far + 2)));
        });
    });
}

#[test]
fn the_last_vote_stands() {
    each_engine(|dir, kind| {
        let store = LogStore::open(dir, kind).unwrap();
        for vote in ["first", "second", ""] {
            let vote = Bytes::from_static(vote.as_bytes());
            wait(|done| store.save_vote(vote.clone(), done)).unwrap();
            assert_eq!(store.vote(), Some(vote));
        }
        wait(|done| store.save_vote(Bytes::from_static(b"third"), done)).unwrap();
        let third = Some(Bytes::from_static(b"third"));
        now_and_reopened(dir, kind, store, |store| assert_eq!(store.vote(), third));
    });
}

#[test]
fn committed_never_lies_beyond_the_log() {
    each_engine(|dir, kind| {
        let store = LogStore::open(dir, kind).unwrap();
        store.note_committed(Some(at(1, 8)));
        assert_eq!(store.committed(), None);
        append(&store, entries(1, 0..5));
        now_and_reopened(dir, kind, store, |store| {
            assert_eq!(store.committed(), Some(at(1, 4)));
        });
        let store = LogStore::open(dir, kind).unwrap();
        store.note_committed(Some(at(1, 2)));
        // Nothing else is written: closing is the last chance.
        now_and_reopened(dir, kind, store, |store| {
            assert_eq!(store.committed(), Some(at(1, 2)));
        });
    });
}

#[test]
fn what_is_queued_is_readable_and_done_is_called_in_order() {
    let (store, mut writer) = LogStore::stepped(Box::new(MemoryEngine::default())).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let done = |number: u64| -> Done {
        let order = order.clone();
        Box::new(move |_| order.lock().unwrap().push(number))
    };
    store.append(entries(1, 0..3), done(1));
    store.save_vote(Bytes::from_static(b"vote"), done(2));
    store.truncate_after(Some(1), done(3));
    store.append(entries(2, 2..4), done(4));
    store.purge(at(1, 0), done(5));
    store.append(vec![], done(6));
    assert_eq!(all(&store), [entry(1, 1), entry(2, 2), entry(2, 3)]);
    assert!(order.lock().unwrap().is_empty(), "nothing is durable yet");
    assert_eq!(writer.step(), Step::Wrote);
    assert_eq!(*order.lock().unwrap(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(writer.step(), Step::Idle);
    assert_eq!(store.status().syncs, 1);
}

#[test]
fn an_append_waits_while_the_queue_is_full() {
    let gate = Arc::new(Gate::default());
    let engine = MemoryEngine {
        gate: Some(gate.clone()),
        ..MemoryEngine::default()
    };
    let store = LogStore::with_engine(Box::new(engine)).unwrap();
    store.append(entries(1, 0..1), answer().0);
    gate.wait_for_a_visitor();
    // The writer is held inside its first write; this fills the queue to its bound.
    for index in 1..=QUEUE_REQUESTS_MAX as u64 {
        store.append(entries(1, index..index + 1), answer().0);
    }
    let next = QUEUE_REQUESTS_MAX as u64 + 1;
    let blocked = std::thread::spawn({
        let store = store.clone();
        move || wait(|done| store.append(entries(1, next..next + 1), done))
    });
    assert_eq!(store.status().queued, QUEUE_REQUESTS_MAX);
    assert!(!blocked.is_finished());
    gate.open();
    blocked.join().unwrap().unwrap();
    assert_eq!(store.bounds().last, Some(at(1, next)));
}

#[test]
fn a_failed_write_stops_the_log_for_good() {
    let engine = MemoryEngine::default();
    let broken = engine.broken.clone();
    let (store, mut writer) = LogStore::stepped(Box::new(engine)).unwrap();
    let (told, hears) = mpsc::channel();
    store.on_fault(Box::new(move |fault| told.send(fault.to_string()).unwrap()));
    store.append(entries(1, 0..2), answer().0);
    writer.step();
    *broken.lock().unwrap() = true;
    let (done, first) = answer();
    store.append(entries(1, 2..3), done);
    let (done, second) = answer();
    store.save_vote(Bytes::from_static(b"never"), done);
    assert_eq!(writer.step(), Step::Over);
    assert!(first.recv().unwrap().is_err());
    assert!(second.recv().unwrap().is_err());
    assert!(hears.recv().unwrap().contains("on purpose"));
    assert!(hears.try_recv().is_err(), "the hook is called once");
    assert!(wait(|done| store.append(entries(1, 3..4), done)).is_err());
    assert!(wait(|done| store.truncate_after(None, done)).is_err());
    assert!(wait(|done| store.purge(at(1, 0), done)).is_err());
    assert!(wait(|done| store.save_vote(Bytes::new(), done)).is_err());
    assert!(matches!(
        store.read(0..2, usize::MAX),
        Err(LogFault::Poisoned { .. })
    ));
    assert!(store.status().fault.is_some());
    let (told, hears) = mpsc::channel();
    store.on_fault(Box::new(move |fault| told.send(fault.to_string()).unwrap()));
    assert!(
        hears.recv().unwrap().contains("on purpose"),
        "a late hook hears of it too"
    );
}

#[test]
fn a_closed_log_says_so_and_frees_its_directory() {
    each_engine(|dir, kind| {
        let store = LogStore::open(dir, kind).unwrap();
        let (done, answered) = answer();
        store.append(entries(1, 0..3), done);
        store.close();
        answered.recv().unwrap().unwrap();
        assert!(wait(|done| store.append(entries(1, 3..4), done)).is_err());
        assert!(matches!(
            store.read(0..3, usize::MAX),
            Err(LogFault::Closed)
        ));
        let again = LogStore::open(dir, kind).unwrap();
        assert_eq!(all(&again), entries(1, 0..3));
        store.close();
    });
}

#[test]
fn a_directory_is_opened_once() {
    each_engine(|dir, kind| {
        let _held = LogStore::open(dir, kind).unwrap();
        let fault = LogStore::open(dir, kind)
            .err()
            .expect("the second opening is refused");
        assert!(
            fault
                .to_string()
                .contains("another process uses this directory"),
            "{fault}"
        );
    });
}

#[test]
fn the_other_engines_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    LogStore::open(dir.path(), EngineKind::Redb).unwrap();
    let fault = LogStore::open(dir.path(), EngineKind::Sled).err().unwrap();
    assert!(
        fault.to_string().contains("log.engine = \"redb\""),
        "{fault}"
    );
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("log.sled")).unwrap();
    let fault = LogStore::open(dir.path(), EngineKind::Redb).err().unwrap();
    assert!(
        fault.to_string().contains("log.engine = \"sled\""),
        "{fault}"
    );
}

#[cfg(not(feature = "sled"))]
#[test]
fn a_binary_without_sled_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let fault = LogStore::open(dir.path(), EngineKind::Sled).err().unwrap();
    assert!(fault.to_string().contains("--features sled"), "{fault}");
}

#[test]
fn a_file_left_half_made_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("log.redb.new"), b"a crash happened here").unwrap();
    let store = LogStore::open(dir.path(), EngineKind::Redb).unwrap();
    append(&store, entries(1, 0..1));
    assert!(!dir.path().join("log.redb.new").exists());
}

/// Rows in memory; a write can be held up or made to fail.
#[derive(Default)]
struct MemoryEngine {
    rows: Mutex<std::collections::BTreeMap<u64, Bytes>>,
    head: Mutex<Option<Bytes>>,
    gate: Option<Arc<Gate>>,
    broken: Arc<Mutex<bool>>,
}

impl Engine for MemoryEngine {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn promise(&self) -> &'static str {
        "survives nothing"
    }

    fn head(&self) -> Result<Option<Bytes>, LogFault> {
        Ok(self.head.lock().unwrap().clone())
    }

    fn ends(&self) -> Result<Option<(u64, u64)>, LogFault> {
        let rows = self.rows.lock().unwrap();
        Ok(rows
            .keys()
            .next()
            .copied()
            .zip(rows.keys().next_back().copied()))
    }

    fn read(&self, range: std::ops::Range<u64>, _: usize) -> Result<Vec<(u64, Bytes)>, LogFault> {
        let rows = self.rows.lock().unwrap();
        Ok(rows
            .range(range)
            .map(|(index, row)| (*index, row.clone()))
            .collect())
    }

    fn write(&self, frame: &Frame) -> std::io::Result<()> {
        if let Some(gate) = &self.gate {
            gate.pass();
        }
        if *self.broken.lock().unwrap() {
            return Err(std::io::Error::other("broken on purpose"));
        }
        let mut rows = self.rows.lock().unwrap();
        for op in &frame.ops {
            match op {
                Op::Put(entry) => drop(rows.insert(entry.at.index, entry.frame())),
                Op::Remove(range) => rows.retain(|index, _| !range.contains(index)),
            }
        }
        *self.head.lock().unwrap() = Some(frame.head.clone());
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        0
    }
}

/// Holds the writer up until it is opened.
#[derive(Default)]
struct Gate {
    /// Whether somebody came, and whether it is open.
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| !state.1).unwrap());
    }

    fn wait_for_a_visitor(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| !state.0).unwrap());
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}
