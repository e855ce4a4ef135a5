//! What must hold for every log: replicas agree, snapshots lose nothing, and no task is early,
//! lost, doubled or revived.
//!
//! A script of random wishes is turned into a log by [`script::Writer`], which learns sequence
//! numbers and fences from its own state, as the rim does. [`watch::Watcher`] looks at every
//! entry as it is folded; then the log is folded again in other ways, which must end alike.

mod disk;
mod lists;
mod schedules;
mod script;
mod watch;

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::{Checkpoint, MemoryStore, RedbStore, State, StateHash};
use crate::model::{Batch, Change, Outcome, Time};
use script::{Step, Writer};

/// What a fold tells the world, entry by entry.
#[derive(Default, PartialEq, Debug)]
struct Trace {
    outcomes: Vec<Vec<Outcome>>,
    changes: Vec<Vec<Change>>,
    hashes: Vec<StateHash>,
}

impl Trace {
    /// The first entry in which two folds differ, and how; short enough to read.
    fn differs(&self, other: &Trace, log: &[Vec<u8>]) -> Option<String> {
        let first = log.len() - self.hashes.len();
        (0..self.hashes.len()).find_map(|n| {
            let one = (&self.outcomes[n], &self.changes[n], self.hashes[n]);
            let two = (&other.outcomes[n], &other.changes[n], other.hashes[n]);
            let batch = Batch::decode(&log[first + n]).unwrap();
            (one != two).then(|| format!("entry {}: {batch:?}\n{one:?}\n{two:?}", first + n + 1))
        })
    }
}

/// Folds a tail of a log as bytes, as a node reads it, and runs `between` before every entry.
fn fold(state: &mut State, log: &[Vec<u8>], mut between: impl FnMut(&mut State, u64)) -> Trace {
    let mut trace = Trace::default();
    let first = state.applied() as usize;
    for (n, bytes) in log.iter().enumerate().skip(first) {
        let index = n as u64 + 1;
        between(state, index);
        let batch = Batch::decode(bytes).unwrap();
        state.prepare(&batch).unwrap();
        let mut changes = Vec::new();
        trace.outcomes.push(state.apply(index, batch, &mut changes));
        trace.changes.push(changes);
        trace.hashes.push(state.hash());
        state.audit();
    }
    trace
}

fn empty() -> State {
    State::new(Box::new(MemoryStore::default()))
}

fn snapshot(state: &State) -> Vec<u8> {
    state.snapshot_now(b"here")
}

fn restored(bytes: &[u8]) -> State {
    let (state, attachment) =
        State::restore(&mut &bytes[..], Box::new(MemoryStore::default())).unwrap();
    assert_eq!(attachment, b"here");
    state
}

/// A draw that depends on nothing but its arguments.
fn draw(seed: u64, a: u64, b: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(&(a ^ b.rotate_left(32)).to_le_bytes(), seed)
}

/// Moves the border of the window at random: loads a piece of what waits, or looks for what is due
/// as a leader does.
fn move_window(state: &mut State, seed: u64, index: u64) {
    const REACH_MS: u64 = 300_000;
    let until = Time(state.hand().max(state.stamp()).0 + draw(seed, index, 1) % REACH_MS);
    match draw(seed, index, 2) % 4 {
        0 => drop(state.load_ahead(until, usize::MAX).unwrap()),
        1 => drop(state.has_due(until, state.stamp()).unwrap()),
        _ => {}
    }
}

/// Cools at random moments, at random places; begins checkpoints, and ends them some entries
/// later; and moves the window.
fn cooler(seed: u64) -> impl FnMut(&mut State, u64) {
    let mut under_way: Option<Checkpoint> = None;
    move |state, index| {
        move_window(state, seed, index);
        cool(state, seed, index, &mut under_way);
    }
}

fn cool(state: &mut State, seed: u64, index: u64, under_way: &mut Option<Checkpoint>) {
    match (draw(seed, index, 0) % 6, under_way.take()) {
        (0 | 1, None) => {
            state.cool(|task| !draw(seed, index, task.seq.0).is_multiple_of(3));
        }
        (2 | 3, None) => *under_way = state.begin_checkpoint(b"cooled".to_vec()),
        (0..=2, Some(checkpoint)) => {
            checkpoint.write().unwrap();
            state.end_checkpoint().unwrap();
        }
        (_, left) => *under_way = left,
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(script::step(), 1..160)
}

proptest! {
    #![proptest_config(crate::thorough::cases(150))]

    /// I-7, I-10, I-13, I-14, I-15, I-18, I-19 and the counts, at every entry.
    #[test]
    fn every_entry_keeps_the_promises(steps in steps()) {
        let mut writer = Writer::new();
        steps.iter().for_each(|step| writer.take(step));
        writer.finish();
    }

    /// I-27: the log alone decides; where the cold border runs does not.
    #[test]
    fn replicas_with_different_borders_agree(steps in steps(), seeds in any::<[u64; 2]>()) {
        let log = script::log(&steps);
        let mut plain = empty();
        let expected = fold(&mut plain, &log, |_, _| {});
        for seed in seeds {
            let mut other = empty();
            let trace = fold(&mut other, &log, cooler(seed));
            prop_assert_eq!(trace.differs(&expected, &log), None);
            prop_assert!(snapshot(&other) == snapshot(&plain), "byte for byte");
        }
    }

    /// I-5, I-27: a snapshot and the log's tail are worth the whole log, hash by hash.
    #[test]
    fn a_snapshot_and_the_tail_equal_a_replay(steps in steps(), cut in any::<prop::sample::Index>(), seed: u64) {
        let log = script::log(&steps);
        let cut = cut.index(log.len() + 1);
        let mut plain = empty();
        fold(&mut plain, &log[..cut], |_, _| {});
        let mut other = empty();
        fold(&mut other, &log[..cut], cooler(seed));
        let bytes = snapshot(&other);
        prop_assert!(bytes == snapshot(&plain), "byte for byte");

        let mut late = restored(&bytes);
        prop_assert_eq!(late.hash(), plain.hash());
        // No hash covers the past, and a snapshot that leaves some out is like another such one.
        for key in script::keys() {
            let (told, expected) = (late.histories(&key), plain.histories(&key));
            prop_assert_eq!(told.unwrap(), expected.unwrap(), "I-5: the history of {}", key);
        }
        prop_assert!(snapshot(&late) == bytes, "byte for byte");
        let expected = fold(&mut plain, &log, |_, _| {});
        prop_assert_eq!(fold(&mut late, &log, cooler(seed)).differs(&expected, &log), None);
        prop_assert!(snapshot(&late) == snapshot(&plain), "byte for byte");
    }
}

proptest! {
    #![proptest_config(crate::thorough::cases(24))]

    /// I-5, I-9, I-27: what was checkpointed to disk, closed at any moment and opened again, goes
    /// on with the log's tail as if nothing had happened.
    #[test]
    fn a_store_on_disk_and_the_tail_equal_a_replay(
        steps in steps(),
        cuts in any::<[prop::sample::Index; 3]>(),
        seed: u64,
    ) {
        let log = script::log(&steps);
        let mut plain = empty();
        let expected = fold(&mut plain, &log, |_, _| {});
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let store = RedbStore::open(&dir.path().join("state.redb")).unwrap();
            State::open(Box::new(store)).unwrap().0
        };
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(log.len() + 1)).collect();
        cuts.sort_unstable();
        for cut in cuts {
            // What was folded after the last checkpoint is lost with the process.
            let mut state = open();
            state.audit();
            let end = cut.max(state.applied() as usize);
            fold(&mut state, &log[..end], cooler(seed));
        }
        let mut last = open();
        let first = last.applied() as usize;
        let trace = fold(&mut last, &log, cooler(seed));
        prop_assert_eq!(&trace.hashes[..], &expected.hashes[first..]);
        prop_assert_eq!(&trace.outcomes[..], &expected.outcomes[first..]);
        prop_assert!(snapshot(&last) == snapshot(&plain), "byte for byte");
    }
}

/// The random scripts must reach what they are about, or they prove nothing.
#[test]
fn the_scripts_reach_every_stage_every_event_and_every_answer() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen = script::Coverage::default();
    for _ in 0..60 {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        let mut writer = Writer::new();
        steps.iter().for_each(|step| writer.take(step));
        writer.finish();
        seen.add(&writer);
    }
    seen.assert_complete();
}

/// A log with a bit of everything, the same each time.
pub(crate) fn sample_log() -> Vec<Vec<u8>> {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let trees = (0..8).map(|_| steps().new_tree(&mut runner).unwrap());
    let logs = trees.map(|tree| script::log(&tree.current()));
    logs.max_by_key(Vec::len).unwrap()
}
