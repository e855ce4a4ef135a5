//! The store on a disk that loses power, fills up, or turns bits.
//!
//! Chains of lives over random logs: each life opens what the last one left, folds on, makes
//! checkpoints, and ends with a power cut at any write or sync. What is found must be the last
//! acknowledged checkpoint or the one under way, whole: the fold of the log up to there.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use super::super::{Label, RedbStore, Store as _};
use super::script::{self, Step};
use super::{State, StateHash, empty, steps};
use crate::log::sim_disk::{Dice, SimDisk};
use crate::model::{Batch, Time};
use crate::thorough;

/// Cuts in the usual run.
const CUTS: u64 = 1_000;
const CUTS_OF_A_LOG: u64 = 16;

/// A log, and what the fold is worth after each of its entries.
struct Truth {
    log: Vec<Vec<u8>>,
    hashes: Vec<StateHash>,
}

impl Truth {
    fn new(runner: &mut TestRunner) -> Truth {
        Truth::of(steps().new_tree(runner).unwrap().current())
    }

    fn of(script: Vec<Step>) -> Truth {
        let log = script::log(&script);
        let mut state = empty();
        let mut hashes = vec![state.hash()];
        for index in 1..=log.len() {
            fold(&mut state, &log, index).unwrap();
            hashes.push(state.hash());
        }
        Truth { log, hashes }
    }

    fn last(&self) -> u64 {
        self.log.len() as u64
    }

    /// The fold from zero up to an entry, as bytes.
    fn snapshot(&self, applied: u64) -> Vec<u8> {
        let mut state = empty();
        (1..=applied as usize).for_each(|index| fold(&mut state, &self.log, index).unwrap());
        state.snapshot_now(b"disk")
    }

    /// Checks that an opened state is the fold up to where it says, and goes on like it.
    fn check(&self, mut state: State, replay: bool) -> Result<(), String> {
        let applied = state.applied();
        if self.hashes.get(applied as usize) != Some(&state.hash()) {
            return Err(format!("another state hash at {applied}"));
        }
        if state.snapshot_now(b"disk") != self.snapshot(applied) {
            return Err(format!("another snapshot at {applied}"));
        }
        if !replay {
            return Ok(());
        }
        for index in applied as usize + 1..=self.log.len() {
            fold(&mut state, &self.log, index)?;
            if state.hash() != self.hashes[index] {
                return Err(format!("replayed from {applied}: another hash at {index}"));
            }
        }
        state.audit();
        Ok(())
    }
}

fn fold(state: &mut State, log: &[Vec<u8>], index: usize) -> Result<(), String> {
    let batch = Batch::decode(&log[index - 1]).unwrap();
    state.prepare(&batch).map_err(|e| e.to_string())?;
    state.apply(index as u64, batch, &mut Vec::new());
    Ok(())
}

fn open(disk: &SimDisk) -> Result<State, String> {
    let store = RedbStore::with_backend(disk.clone()).map_err(|e| e.to_string())?;
    let opened = State::open(Box::new(store)).map_err(|e| e.to_string())?;
    Ok(opened.0)
}

/// One life: from what is found to the end of the log or of the power. The checkpoints that
/// may be found afterwards: the last acknowledged one, and the one under way.
fn live(state: &mut State, truth: &Truth, dice: &mut Dice) -> Result<[u64; 2], String> {
    let mut acknowledged = state.applied();
    while state.applied() < truth.last() {
        // Some entries, and then a checkpoint while more are folded.
        for _ in 0..=dice.below(6) {
            if state.applied() < truth.last() {
                fold(state, &truth.log, state.applied() as usize + 1)?;
            }
        }
        let checkpoint = state.begin_checkpoint(b"disk".to_vec()).unwrap();
        let under_way = checkpoint.index();
        for _ in 0..dice.below(3) {
            if state.applied() < truth.last() {
                fold(state, &truth.log, state.applied() as usize + 1)?;
            }
        }
        if checkpoint.write().is_err() {
            return Ok([acknowledged, under_way]);
        }
        acknowledged = under_way;
        state.end_checkpoint().map_err(|e| e.to_string())?;
    }
    Ok([acknowledged, acknowledged])
}

/// What the cuts of a run hit.
#[derive(Default, Debug)]
struct Hits {
    in_checkpoints: u64,
    found_under_way: u64,
    while_opening: u64,
}

impl Hits {
    fn add(&mut self, more: &Hits) {
        self.in_checkpoints += more.in_checkpoints;
        self.found_under_way += more.found_under_way;
        self.while_opening += more.while_opening;
    }
}

/// A chain of lives over one log. Tells what was lost or bent, if anything.
fn chain(truth: &Truth, seed: u64, cuts: u64, lying: bool, hits: &mut Hits) -> Result<(), String> {
    let mut dice = Dice::new(seed);
    let mut disk = SimDisk::new();
    // Made whole before it gets its name, so that no cut meets a file that is being made.
    open(&disk)?;
    for cut in 0..cuts {
        let said = |what: String| format!("seed {seed}, cut {cut}: {what}");
        let mut state = open(&disk).map_err(said)?;
        if state.applied() == truth.last() {
            drop(state);
            disk = SimDisk::new();
            open(&disk)?;
            state = open(&disk)?;
        }
        if lying {
            disk.sync_is_noop();
        }
        disk.power_off_after(dice.below(160));
        let allowed = live(&mut state, truth, &mut dice).map_err(said)?;
        let mut after = disk.cut(dice.roll());
        drop(state);
        if dice.below(4) == 0 {
            // The power goes again while the store is being opened.
            after.power_off_after(dice.below(12));
            let opening = open(&after);
            hits.while_opening += u64::from(opening.is_err());
            let again = after.cut(dice.roll());
            drop(opening);
            after = again;
        }
        let found = open(&after).map_err(said)?;
        let applied = found.applied();
        if !allowed.contains(&applied) {
            return Err(said(format!("found {applied}, not one of {allowed:?}")));
        }
        hits.in_checkpoints += u64::from(allowed[0] != allowed[1]);
        hits.found_under_way += u64::from(allowed[0] != allowed[1] && applied == allowed[1]);
        truth.check(found, cut % 4 == 0).map_err(said)?;
        disk = after;
    }
    Ok(())
}

#[test]
fn no_checkpoint_is_lost_or_half_there_after_power_cuts() {
    let runner = Mutex::new(TestRunner::deterministic());
    let total = Mutex::new(Hits::default());
    let chains = thorough::power_cuts(CUTS).div_ceil(CUTS_OF_A_LOG);
    let run = |seed| {
        let script = steps().new_tree(&mut runner.lock().unwrap());
        let (truth, mut hits) = (Truth::of(script.unwrap().current()), Hits::default());
        chain(&truth, seed, CUTS_OF_A_LOG, false, &mut hits)?;
        total.lock().unwrap().add(&hits);
        Ok(())
    };
    if let Err(loss) = thorough::chains(chains, run) {
        panic!("{loss}");
    }
    let hits = total.into_inner().unwrap();
    println!("{} cuts of the store: {hits:?}", chains * CUTS_OF_A_LOG);
    assert!(hits.in_checkpoints > chains * CUTS_OF_A_LOG / 3, "{hits:?}");
    assert!(
        hits.found_under_way > 0 && hits.while_opening > 0,
        "{hits:?}"
    );
}

/// The power goes at every single operation of the disk, one after the other, while a checkpoint
/// follows another and the store is opened again.
#[test]
fn a_cut_at_every_step_of_a_checkpoint_keeps_one_whole() {
    let mut runner = TestRunner::deterministic();
    let logs = (0..8).map(|_| Truth::new(&mut runner));
    let truth = logs.max_by_key(|truth| truth.log.len()).unwrap();
    let (first, second) = (truth.last() / 2, truth.last());
    for seed in 0..3 {
        let mut steps = 0;
        loop {
            let disk = SimDisk::new();
            let mut state = open(&disk).unwrap();
            let mut to = |index: u64| {
                for index in state.applied() + 1..=index {
                    fold(&mut state, &truth.log, index as usize).unwrap();
                }
                let checkpoint = state.begin_checkpoint(b"disk".to_vec()).unwrap();
                checkpoint.write().map(|()| state.end_checkpoint().unwrap())
            };
            to(first).unwrap();
            disk.power_off_after(steps);
            let written = to(second);
            drop(state);
            let opened = open(&disk).is_ok();
            let found = open(&disk.cut(seed * 1_000 + steps)).unwrap();
            let applied = found.applied();
            match written {
                Ok(_) => assert_eq!(applied, second, "step {steps}"),
                Err(_) => assert!([first, second].contains(&applied), "step {steps}"),
            }
            truth.check(found, steps % 4 == 0).unwrap();
            if opened && !disk.is_off() {
                break;
            }
            steps += 1;
        }
        println!("the power went at each of {steps} operations");
        assert!(steps > 10, "{steps}");
    }
}

#[test]
fn the_same_check_finds_the_loss_when_syncs_do_nothing() {
    let mut runner = TestRunner::deterministic();
    let truth = Truth::new(&mut runner);
    let lost = |seed: &u64| {
        let run = || chain(&truth, *seed, 8, true, &mut Hits::default());
        // A file that is bent enough makes reading it panic, which is a loss too.
        !matches!(catch_unwind(AssertUnwindSafe(run)), Ok(Ok(())))
    };
    let losses = (0..16).filter(lost).count();
    assert!(
        losses > 12,
        "only {losses} of 16 chains were seen to lose anything"
    );
}

#[test]
fn a_full_disk_refuses_the_checkpoint_and_keeps_the_one_before() {
    let mut runner = TestRunner::deterministic();
    let truth = Truth::new(&mut runner);
    let (first, second) = (truth.last() / 3, truth.last() * 2 / 3);
    let mut refused = 0;
    for room in 0..40_u64 {
        let disk = SimDisk::new();
        let mut state = open(&disk).unwrap();
        let checkpoint = |state: &mut State, to: u64| {
            for index in state.applied() + 1..=to {
                fold(state, &truth.log, index as usize).unwrap();
            }
            let written = state.begin_checkpoint(b"disk".to_vec()).unwrap().write();
            written.map(|()| state.end_checkpoint().unwrap())
        };
        checkpoint(&mut state, first).unwrap();
        disk.fail_after(room * 4_099, io::ErrorKind::StorageFull);
        let told = checkpoint(&mut state, second);
        drop(state);
        disk.heal();
        let found = open(&disk).unwrap();
        let expected = match &told {
            Ok(_) => second,
            Err(e) => {
                assert!(e.to_string().contains("takes no more"), "{e}");
                refused += 1;
                first
            }
        };
        assert_eq!(found.applied(), expected, "{room}");
        truth.check(found, true).unwrap();
        let mut again = open(&disk).unwrap();
        checkpoint(&mut again, truth.last()).unwrap();
        drop(again);
        assert_eq!(open(&disk).unwrap().applied(), truth.last());
    }
    assert!((2..40).contains(&refused), "{refused} were refused");
}

/// Everything a store serves, by every way it is asked; what was refused is `None`.
fn served(store: &RedbStore) -> Vec<Option<String>> {
    fn tell<T: std::fmt::Debug>(found: Result<T, super::super::StoreFault>) -> Option<String> {
        found.ok().map(|found| format!("{found:?}"))
    }
    let (end, all) = (Time(u64::MAX - 1), usize::MAX);
    let mut told = vec![
        tell(store.saved()),
        tell(store.open()),
        tell(store.keys_after(None, all)),
        tell(store.labelled_after(Label::new("how", "2"), None, all)),
        tell(store.marks_until(end, all)),
        tell(store.image().and_then(|image| image.marks())),
        tell(store.far(None, end, all)),
        tell(store.far(Some((Time(100_000), crate::model::Seq(3))), end, 2)),
        tell(store.past_size()),
        tell(store.image().and_then(|image| image.past_after(None, all))),
    ];
    for (app, id) in [("shop", 'a'), ("bank", 'b'), ("shop", 'c'), ("bank", 'd')] {
        let key = crate::model::Key::new(app, &id.to_string()).unwrap();
        told.push(tell(store.past(&key, Time(0), all)));
    }
    for class in [super::super::Class::Finished, super::super::Class::Dead] {
        told.push(tell(store.finished(class, None, end, all)));
    }
    for seq in 1..40 {
        let seq = crate::model::Seq(seq);
        told.push(tell(store.record(seq)));
        told.push(tell(store.rows(seq)));
    }
    told
}

#[test]
fn a_flipped_bit_is_harmless_or_told() {
    let mut runner = TestRunner::deterministic();
    // The longest of a few logs.
    let logs = (0..8).map(|_| Truth::new(&mut runner));
    let truth = logs.max_by_key(|truth| truth.log.len()).unwrap();
    let disk = SimDisk::new();
    let mut state = open(&disk).unwrap();
    // One checkpoint only, so that little of the file is what earlier ones have left.
    for index in 1..=truth.log.len() {
        fold(&mut state, &truth.log, index).unwrap();
    }
    let checkpoint = state.begin_checkpoint(b"disk".to_vec()).unwrap();
    checkpoint.write().unwrap();
    drop((checkpoint, state));
    let whole = disk.bytes();
    let store = RedbStore::with_backend(SimDisk::holding(whole.clone())).unwrap();
    let (sound, checked) = (served(&store), store.verify());
    assert!(
        checked.tasks > 3 && checked.findings.is_empty(),
        "{checked:?}"
    );
    drop(store);
    // Zeroes are mostly free space, and ones its map.
    let data = |at: &usize| !matches!(whole[*at], 0 | 0xff);
    let written: Vec<usize> = (0..whole.len()).filter(data).collect();
    let mut dice = Dice::new(2);
    let (mut refused, mut verified) = (0, 0);
    for _ in 0..300 {
        let byte = written[dice.below(written.len() as u64) as usize];
        let bit = dice.below(8);
        let mut bent = whole.clone();
        bent[byte] ^= 1 << bit;
        let Ok(store) = RedbStore::with_backend(SimDisk::holding(bent)) else {
            refused += 1;
            continue;
        };
        let now = served(&store);
        refused += u32::from(now.iter().any(Option::is_none));
        let same = |(now, sound): (&Option<String>, &Option<String>)| now.is_none() || now == sound;
        if !now.iter().zip(&sound).all(same) {
            assert!(
                !store.verify().findings.is_empty(),
                "byte {byte} bit {bit}: other bytes, not told"
            );
            verified += 1;
        }
        // Closing writes the map of free pages, and redb panics over a bent one, even while it
        // unwinds from that; so it is not closed.
        std::mem::forget(store);
    }
    println!("{} bytes of {}", written.len(), whole.len());
    println!("300 flips: {refused} refused on reading, {verified} found by verifying only");
    assert!(refused > 60, "only {refused} flips hit anything");
}
