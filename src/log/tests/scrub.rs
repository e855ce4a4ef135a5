//! The walk over a log on disk: silent over a sound one whatever happens meanwhile, and it names what
//! is wrong.

use std::fs::File;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::super::sim_disk::Dice;
use super::super::*;
use super::{append, at, each_engine, entries, wait};

/// Walks to the end; how many entries, in how many steps.
fn walk(store: &LogStore, bytes: usize) -> Result<(u64, u64), LogFault> {
    let mut scrub = store.scrub()?;
    for steps in 1.. {
        if scrub.step(bytes)?.done {
            return Ok((scrub.entries, steps));
        }
    }
    unreachable!()
}

#[test]
fn a_sound_log_is_walked_whole_and_in_slices() {
    each_engine(|dir, kind| {
        let store = LogStore::open(dir, kind).unwrap();
        assert_eq!(walk(&store, 1_000).unwrap().0, 0, "an empty one");
        append(&store, entries(1, 0..500));
        assert_eq!(walk(&store, 1 << 20).unwrap().0, 500);
        let (entries_read, steps) = walk(&store, 1_000).unwrap();
        assert_eq!(entries_read, 500);
        assert!(steps > 50, "{steps} steps");
        wait(|done| store.purge(at(1, 99), done)).unwrap();
        assert_eq!(
            walk(&store, 1_000).unwrap().0,
            400,
            "what is purged is not looked at"
        );
        wait(|done| store.purge(at(1, 900), done)).unwrap();
        append(&store, entries(2, 901..950));
        assert_eq!(
            walk(&store, 1_000).unwrap().0,
            49,
            "a jump, as after a snapshot"
        );
        store.close();
        assert!(matches!(store.scrub().err(), Some(LogFault::Closed)));
    });
}

/// Nothing is called damaged while entries are written, cut off, and purged under the walk.
#[test]
fn a_log_at_work_has_no_findings() {
    each_engine(|dir, kind| {
        let store = LogStore::open(dir, kind).unwrap();
        append(&store, entries(1, 0..200));
        std::thread::scope(|threads| {
            let busy = threads.spawn(|| {
                let mut dice = Dice::new(7);
                for term in 2..150 {
                    let last = store.bounds().last.unwrap().index;
                    match dice.below(5) {
                        0 => wait(|done| store.truncate_after(Some(last - 3), done)).unwrap(),
                        1 => {
                            wait(|done| store.purge(at(1, last.saturating_sub(40)), done)).unwrap()
                        }
                        2 => wait(|done| store.save_vote(Bytes::from_static(b"v"), done)).unwrap(),
                        _ => append(&store, entries(term, last + 1..last + 30)),
                    }
                }
            });
            let mut walks = 0;
            while !busy.is_finished() || walks == 0 {
                walk(&store, 700 + walks * 100).unwrap();
                walks += 1;
            }
            println!("{walks} walks");
        });
    });
}

/// Bits that turn in the file of an open log are found although every page is in memory, wherever
/// they are; and the log reads on, from memory.
#[test]
fn a_bit_that_turns_under_an_open_log_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(dir.path(), EngineKind::Redb).unwrap();
    append(&store, entries(1, 0..300));
    walk(&store, 1 << 16).unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .open(dir.path().join("log.redb"))
        .unwrap();
    let length = file.metadata().unwrap().len();
    let mut dice = Dice::new(3);
    for _ in 0..50 {
        let at = BLOCK_BYTES as u64 + dice.below(length - BLOCK_BYTES as u64);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        let sound = byte[0];
        file.write_all_at(&[sound ^ 1 << dice.below(8)], at)
            .unwrap();
        let said = walk(&store, 1 << 16).unwrap_err().to_string();
        assert!(
            said.contains("of log.redb are not what was written"),
            "{said}"
        );
        assert!(
            said.contains("let a node with a new id"),
            "the way out: {said}"
        );
        file.write_all_at(&[sound], at).unwrap();
    }
    walk(&store, 1 << 16).unwrap();
}
