//! Power cuts and full disks, on the simulated disk.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use super::super::sim_disk::{Dice, SimDisk};
use super::super::*;
use super::model::{Change, Model};
use super::{entries, entry};
use crate::thorough;
use bytes::Bytes;

fn open(disk: &SimDisk) -> Result<(LogStore, Writer), LogFault> {
    LogStore::stepped(Box::new(RedbEngine::with_backend(disk.clone())?))
}

/// What a log went through: its states in order, and how many changes were acknowledged.
struct Past {
    states: Vec<Model>,
    acknowledged: Arc<AtomicUsize>,
}

impl Past {
    /// Works on a store until the power goes, or for a while.
    fn live(store: &LogStore, writer: &mut Writer, start: Model, dice: &mut Dice) -> Past {
        let mut past = Past {
            states: vec![start],
            acknowledged: Arc::default(),
        };
        let mut step = Step::Wrote;
        for _ in 0..30 {
            for _ in 0..dice.below(4) {
                past.submit(store, dice);
            }
            step = writer.step();
            if step == Step::Over {
                break;
            }
        }
        assert!(step == Step::Over || past.acknowledged.load(Ordering::SeqCst) > 0);
        past
    }

    fn submit(&mut self, store: &LogStore, dice: &mut Dice) {
        let model = &self.states[self.states.len() - 1];
        let change = model.change(dice.roll(), dice.below(1_000), dice.below(1 << 40));
        self.push(store, change);
    }

    fn push(&mut self, store: &LogStore, change: Change) {
        let mut model = self.states[self.states.len() - 1].clone();
        model.apply(&change);
        self.states.push(model);
        let (number, acknowledged) = (self.states.len() - 1, self.acknowledged.clone());
        let done = move |result: io::Result<()>| {
            if result.is_ok() {
                assert_eq!(
                    acknowledged.swap(number, Ordering::SeqCst),
                    number - 1,
                    "in order"
                );
            }
        };
        change.submit(store, Box::new(done));
    }

    /// A log found afterwards must be one of the states since the last acknowledgement.
    fn allows(&self, found: &Model) -> bool {
        self.states[self.acknowledged.load(Ordering::SeqCst)..].contains(found)
    }
}

/// A chain of lives of one log, each ended by a power cut. Tells what was lost, if anything.
fn chain(seed: u64, cuts: u64, lying: bool) -> Result<(), String> {
    let mut dice = Dice::new(seed);
    let mut disk = SimDisk::new();
    let mut model = Model::default();
    for cut in 0..cuts {
        let said = |what: String| format!("seed {seed}, cut {cut}: {what}");
        let (store, mut writer) = open(&disk).map_err(|fault| said(fault.to_string()))?;
        if lying {
            disk.sync_is_noop();
        }
        disk.power_off_after(dice.below(80));
        let past = Past::live(&store, &mut writer, model, &mut dice);
        let mut after = disk.cut(dice.roll());
        drop((store, writer));
        if dice.below(4) == 0 {
            // The power goes again while the log is being opened.
            after.power_off_after(dice.below(12));
            let recovering = open(&after);
            let again = after.cut(dice.roll());
            drop(recovering);
            after = again;
        }
        let found = open(&after).map_err(|fault| said(fault.to_string()))?;
        let found = Model::of(&found.0);
        if !past.allows(&found) {
            return Err(said(format!(
                "an acknowledged change is lost, found {:?}",
                found.bounds
            )));
        }
        (disk, model) = (after, found);
    }
    Ok(())
}

/// Cuts in the usual run.
const CUTS: u64 = 1_000;
const CUTS_OF_A_LOG: u64 = 20;

#[test]
fn nothing_acknowledged_is_lost_after_power_cuts() {
    let count = thorough::power_cuts(CUTS).div_ceil(CUTS_OF_A_LOG);
    if let Err(loss) = thorough::chains(count, |seed| chain(seed, CUTS_OF_A_LOG, false)) {
        panic!("{loss}");
    }
    println!("{} cuts of the log", count * CUTS_OF_A_LOG);
}

/// The power goes at every single operation of the disk, one after the other, while the log
/// appends, votes, cuts its end off, purges, sweeps and is closed.
#[test]
fn a_cut_at_every_step_loses_nothing() {
    let changes = |model: &Model, n: u64| match n {
        3 | 7 => Change::Vote(Bytes::from(format!("vote {n}"))),
        4 => Change::Truncate(model.entries.get(6).map(|entry| entry.at.index)),
        6 => Change::Purge(model.entries[3].at),
        _ => {
            let next = model.bounds.next_index().unwrap_or(0);
            Change::Append(entries(n, next..next + 4))
        }
    };
    for seed in 0..3 {
        let mut steps = 0;
        loop {
            let disk = SimDisk::new();
            let (store, mut writer) = open(&disk).unwrap();
            let mut past = Past {
                states: vec![Model::default()],
                acknowledged: Arc::default(),
            };
            disk.power_off_after(steps);
            for n in 0..10 {
                let change = changes(&past.states[past.states.len() - 1], n);
                past.push(&store, change);
                writer.step();
            }
            store.close();
            while writer.step() == Step::Wrote {}
            drop((store, writer));
            let after = disk.cut(seed * 1_000 + steps);
            let found = open(&after).unwrap_or_else(|e| panic!("step {steps}: {e}"));
            let found = Model::of(&found.0);
            assert!(past.allows(&found), "step {steps}: {:?}", found.bounds);
            if !disk.is_off() {
                break;
            }
            steps += 1;
        }
        println!("the power went at each of {steps} operations");
        assert!(steps > 50, "{steps}");
    }
}

#[test]
fn the_same_check_finds_the_loss_when_syncs_do_nothing() {
    let losses = (0..50)
        .filter(|seed| chain(*seed, 20, true).is_err())
        .count();
    assert!(
        losses > 45,
        "only {losses} of 50 chains were seen to lose anything"
    );
}

/// Appends until the disk fails and checks what everybody was told and what is found later.
fn survives_a_failing_disk(bytes: u64, kind: io::ErrorKind) {
    let disk = SimDisk::new();
    let (store, mut writer) = open(&disk).unwrap();
    let (told, hears) = mpsc::channel();
    store.on_fault(Box::new(move |fault| told.send(fault.to_string()).unwrap()));
    disk.fail_after(bytes, kind);
    let (answer, answers) = mpsc::channel();
    let mut index = 0;
    loop {
        let answer = answer.clone();
        let done = Box::new(move |result: io::Result<()>| answer.send((index, result)).unwrap());
        store.append(vec![entry(1, index)], done);
        if writer.step() == Step::Over {
            break;
        }
        index += 1;
    }
    drop((store, writer, answer));
    assert_eq!(hears.try_iter().count(), 1, "the hook is called once");
    let (acknowledged, refused): (Vec<_>, Vec<_>) =
        answers.iter().partition(|(_, result)| result.is_ok());
    assert_eq!(refused.len(), 1);
    disk.heal();
    let (store, mut writer) = open(&disk).unwrap();
    let found = Model::of(&store).entries;
    assert!(found.len() >= acknowledged.len(), "{bytes} bytes, {kind}");
    assert_eq!(found, entries(1, 0..found.len() as u64));
    let next = found.len() as u64;
    store.append(
        entries(1, next..next + 1),
        Box::new(|result| result.unwrap()),
    );
    assert_eq!(writer.step(), Step::Wrote, "with space the log goes on");
}

#[test]
fn a_full_or_failing_disk_loses_nothing_acknowledged() {
    for step in 0..60 {
        survives_a_failing_disk(step * 7_919, io::ErrorKind::StorageFull);
        survives_a_failing_disk(step * 7_919, io::ErrorKind::Other);
    }
}
