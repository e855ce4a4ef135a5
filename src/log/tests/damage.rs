//! Flipped bits and cut files. Each is harmless or refused; other bytes are never served.

use std::fs;
use std::path::Path;

use bytes::Bytes;

use super::super::sim_disk::{Dice, SimDisk};
use super::super::*;
use super::model::Model;
use super::{append, at, entries, wait};

/// A log with a bit of everything, closed as it should be, and what it held.
fn closed_log() -> (tempfile::TempDir, Model) {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(dir.path(), EngineKind::Redb).unwrap();
    append(&store, entries(1, 0..150));
    append(&store, entries(2, 150..200));
    wait(|done| store.save_vote(Bytes::from_static(b"the vote"), done)).unwrap();
    wait(|done| store.purge(at(1, 9), done)).unwrap();
    append(&store, entries(3, 200..300));
    let model = Model::of(&store);
    store.close();
    (dir, model)
}

/// What became of a log whose bytes were changed.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Harmless,
    Refused,
}

/// Opens a file's bytes and reads everything there is to read.
fn fate(bytes: Vec<u8>, truth: &Model, what: &str) -> Fate {
    let engine = match RedbEngine::with_backend(SimDisk::holding(bytes)) {
        Ok(engine) => engine,
        Err(fault) => return refused(&fault, what),
    };
    let (store, _writer) = match LogStore::stepped(Box::new(engine)) {
        Ok(opened) => opened,
        Err(fault) => return refused(&fault, what),
    };
    assert_eq!(
        (store.bounds(), store.vote()),
        (truth.bounds, truth.vote.clone()),
        "{what}"
    );
    match store.read(0..u64::MAX, usize::MAX) {
        Ok(read) => {
            assert_eq!(read, truth.entries, "{what}: other entries were served");
            Fate::Harmless
        }
        Err(fault) => refused(&fault, what),
    }
}

fn refused(fault: &LogFault, what: &str) -> Fate {
    let damage = matches!(fault, LogFault::Damaged { .. } | LogFault::Missing { .. });
    assert!(damage, "{what}: not called damage: {fault}");
    assert!(
        fault.to_string().contains("let a node with a new id"),
        "{what}: no way out: {fault}"
    );
    Fate::Refused
}

#[test]
fn a_flipped_bit_is_harmless_or_refused() {
    let (dir, truth) = closed_log();
    let whole = fs::read(dir.path().join("log.redb")).unwrap();
    assert_eq!(fate(whole.clone(), &truth, "untouched"), Fate::Harmless);
    // Zeroes are mostly free space.
    let written: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    let mut dice = Dice::new(1);
    let mut refused = 0;
    for _ in 0..1_500 {
        let byte = written[dice.below(written.len() as u64) as usize];
        let bit = dice.below(8);
        let mut bent = whole.clone();
        bent[byte] ^= 1 << bit;
        refused +=
            u32::from(fate(bent, &truth, &format!("byte {byte} bit {bit}")) == Fate::Refused);
    }
    assert!(refused > 300, "only {refused} flips hit anything");
}

#[test]
fn a_flipped_bit_in_the_files_header_is_harmless_or_refused() {
    let (dir, truth) = closed_log();
    let whole = fs::read(dir.path().join("log.redb")).unwrap();
    for bit in 0..320 * 8 {
        let mut bent = whole.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        fate(bent, &truth, &format!("byte {} bit {}", bit / 8, bit % 8));
    }
}

#[test]
fn a_cut_file_is_refused() {
    let (dir, truth) = closed_log();
    let whole = fs::read(dir.path().join("log.redb")).unwrap();
    let mut dice = Dice::new(2);
    for _ in 0..100 {
        let length = 1 + dice.below(whole.len() as u64 - 1) as usize;
        let cut = fate(
            whole[..length].to_vec(),
            &truth,
            &format!("cut to {length}"),
        );
        assert_eq!(cut, Fate::Refused, "cut to {length} of {}", whole.len());
    }
}

#[test]
fn a_damaged_entry_is_named_when_it_is_read() {
    let (dir, _) = closed_log();
    let path = dir.path().join("log.redb");
    // Opened, and then the disk goes bad under the running store.
    let disk = SimDisk::holding(fs::read(&path).unwrap());
    let engine = RedbEngine::with_backend(disk.clone()).unwrap();
    let whole = disk.bytes();
    let payload = entries(2, 170..171)[0].payload.clone();
    let mut bent = 0;
    for place in 0..whole.len() - payload.len() {
        if whole[place..].starts_with(&payload) {
            redb::StorageBackend::write(&disk, place as u64, b"!").unwrap();
            bent += 1;
        }
    }
    assert!(bent > 0);
    let (store, _writer) = LogStore::stepped(Box::new(engine)).unwrap();
    let fault = store.read(160..180, usize::MAX).unwrap_err();
    assert!(
        fault.to_string().contains("entry 170 is damaged"),
        "{fault}"
    );
    assert_eq!(
        store.read(160..170, usize::MAX).unwrap().len(),
        10,
        "the others are still sound"
    );
}

/// Copies a data directory, as it lies on the disk.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, target).unwrap()),
        }
    }
}

/// Flips bits of one file of a log that was not closed, as after a kill, and says how many flips
/// were refused.
fn flips_after_a_kill(kind: EngineKind, file: &str, flips: usize) -> usize {
    let source = tempfile::tempdir().unwrap();
    let store = LogStore::open(source.path(), kind).unwrap();
    append(&store, entries(1, 0..150));
    append(&store, entries(2, 150..300));
    wait(|done| store.save_vote(Bytes::from_static(b"the vote"), done)).unwrap();
    let killed = tempfile::tempdir().unwrap();
    copy(source.path(), killed.path());
    let truth = Model::of(&store);
    let whole = fs::read(killed.path().join(file)).unwrap();
    let written: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    let mut dice = Dice::new(3);
    let mut refusals = 0;
    for _ in 0..flips {
        let byte = written[dice.below(written.len() as u64) as usize];
        let mut bent = whole.clone();
        bent[byte] ^= 1 << dice.below(8);
        let dir = tempfile::tempdir().unwrap();
        copy(killed.path(), dir.path());
        fs::write(dir.path().join(file), bent).unwrap();
        match LogStore::open(dir.path(), kind) {
            Ok(store) => assert_eq!(Model::of(&store), truth, "byte {byte}"),
            Err(_) => refusals += 1,
        }
    }
    refusals
}

#[test]
fn a_damaged_end_is_not_taken_for_a_torn_one() {
    let refusals = flips_after_a_kill(EngineKind::Redb, "log.redb", 300);
    assert!(refusals > 100, "only {refusals} flips hit anything");
}

#[cfg(feature = "sled")]
#[test]
fn sled_does_not_drop_its_end_unnoticed() {
    let refusals = flips_after_a_kill(EngineKind::Sled, "log.sled/db", 150);
    assert!(refusals > 50, "only {refusals} flips hit anything");
}

#[test]
fn an_older_copy_of_the_log_is_refused() {
    let (dir, _) = closed_log();
    let path = dir.path().join("log.redb");
    let older = fs::read(&path).unwrap();
    let store = LogStore::open(dir.path(), EngineKind::Redb).unwrap();
    append(&store, entries(3, 300..301));
    store.close();
    fs::write(&path, older).unwrap();
    let fault = LogStore::open(dir.path(), EngineKind::Redb).err().unwrap();
    assert!(fault.to_string().contains("its end was lost"), "{fault}");
}
