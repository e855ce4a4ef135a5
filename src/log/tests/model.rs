//! A second log, too simple to be wrong, and random changes that fit it.

use std::sync::mpsc;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::sim_disk::Dice;
use super::super::*;
use super::{all, at, entry};

/// What a log must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub bounds: Bounds,
    pub entries: Vec<Entry>,
    pub vote: Option<Bytes>,
}

/// A change that fits the model it was made for.
#[derive(Clone, Debug)]
pub enum Change {
    Append(Vec<Entry>),
    Truncate(Option<u64>),
    Purge(Position),
    Vote(Bytes),
}

impl Model {
    /// What a store is.
    pub fn of(store: &LogStore) -> Model {
        Model {
            bounds: store.bounds(),
            entries: all(store),
            vote: store.vote(),
        }
    }

    /// A change chosen by `kind` and `size`. `term` makes its entries differ from all others.
    pub fn change(&self, kind: u64, size: u64, term: u64) -> Change {
        let next = self.bounds.last.map_or(size, |last| last.index + 1);
        match kind % 10 {
            0 => Change::Vote(Bytes::from(format!("vote {term}"))),
            1 => {
                let kept = self.entries.iter().rev().nth(size as usize % 5);
                Change::Truncate(kept.map(|entry| entry.at.index).or(self.purged_index()))
            }
            2 if size.is_multiple_of(8) => Change::Purge(at(term, next + size)),
            2 => match self.entries.get(size as usize % 7) {
                Some(entry) => Change::Purge(entry.at),
                None => Change::Vote(Bytes::new()),
            },
            _ => Change::Append(
                (next..next + 1 + size % 6)
                    .map(|at| entry(term, at))
                    .collect(),
            ),
        }
    }

    fn purged_index(&self) -> Option<u64> {
        self.bounds.purged.map(|at| at.index)
    }

    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Append(entries) => self.entries.extend(entries.iter().cloned()),
            Change::Truncate(kept) => {
                self.entries.retain(|entry| Some(entry.at.index) <= *kept);
            }
            Change::Purge(upto) => {
                self.entries.retain(|entry| entry.at.index > upto.index);
                self.bounds.purged = Some(*upto);
            }
            Change::Vote(vote) => self.vote = Some(vote.clone()),
        }
        self.bounds.last = self
            .entries
            .last()
            .map(|entry| entry.at)
            .or(self.bounds.purged);
    }
}

impl Change {
    pub fn submit(self, store: &LogStore, done: Done) {
        match self {
            Change::Append(entries) => store.append(entries, done),
            Change::Truncate(kept) => store.truncate_after(kept, done),
            Change::Purge(upto) => store.purge(upto, done),
            Change::Vote(vote) => store.save_vote(vote, done),
        }
    }
}

/// Applies random changes, each reopening when `kind` says so, and compares after every one.
fn agrees(engine: EngineKind, steps: &[(u64, u64)]) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(dir.path(), engine).unwrap();
    let mut model = Model::default();
    for (step, (kind, size)) in steps.iter().enumerate() {
        let change = model.change(*kind, *size, step as u64 + 1);
        model.apply(&change);
        let (send, receive) = mpsc::channel();
        change.submit(&store, Box::new(move |result| send.send(result).unwrap()));
        assert_eq!(Model::of(&store), model, "as soon as accepted");
        receive.recv().unwrap().unwrap();
        if kind.is_multiple_of(13) {
            store.close();
            store = LogStore::open(dir.path(), engine).unwrap();
        }
        assert_eq!(Model::of(&store), model, "once durable");
        parts_agree(&store, &model, *size);
    }
}

/// Reads of every kind of range and bound give a run of what the whole log gives.
fn parts_agree(store: &LogStore, model: &Model, size: u64) {
    let first = model.entries.first().map_or(0, |entry| entry.at.index);
    let mut dice = Dice::new(size);
    for _ in 0..4 {
        let start = (first + dice.below(20)).saturating_sub(5);
        let range = start..start + dice.below(20);
        let max_bytes = dice.below(2_000) as usize;
        let expected: Vec<_> = model
            .entries
            .iter()
            .filter(|entry| range.contains(&entry.at.index))
            .collect();
        let read = store.read(range, max_bytes).unwrap();
        assert!(read.iter().eq(expected.iter().copied().take(read.len())));
        assert_eq!(
            read.is_empty(),
            expected.is_empty(),
            "at least one if there is one"
        );
        let bytes: usize = read.iter().map(Entry::frame_len).sum();
        assert!(read.len() <= 1 || bytes <= max_bytes);
    }
}

fn steps() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0..1_000u64, 0..1_000u64), 1..40)
}

proptest! {
    #![proptest_config(crate::thorough::cases(60))]

    #[test]
    fn redb_agrees_with_the_model(steps in steps()) {
        agrees(EngineKind::Redb, &steps);
    }
}

#[cfg(feature = "sled")]
proptest! {
    #![proptest_config(crate::thorough::cases(20))]

    #[test]
    fn sled_agrees_with_the_model(steps in steps()) {
        agrees(EngineKind::Sled, &steps);
    }
}
