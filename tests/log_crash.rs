//! The log under `kill -9`: a child process writes and says what was acknowledged, the parent
//! kills it at a random moment, opens the log and looks for every acknowledged change.
//!
//! The child is this test binary itself, started again with a variable that names the directory.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use horolog::log::sim_disk::Dice;
use horolog::log::{Done, EngineKind, Entry, Kind, LogStore, Position};

const DIR: &str = "HOROLOG_LOG_CRASH_DIR";
const ENGINE: &str = "HOROLOG_LOG_CRASH_ENGINE";
/// The child purges so that it keeps about this many entries.
const KEPT: u64 = 2_000;

fn entry(index: u64) -> Entry {
    let mut dice = Dice::new(index);
    let payload: Vec<u8> = (0..dice.below(400)).map(|_| dice.roll() as u8).collect();
    Entry {
        at: at(index),
        kind: Kind::Batch,
        payload: payload.into(),
    }
}

fn at(index: u64) -> Position {
    Position {
        term: 1 + index / 1_000,
        node: 1,
        index,
    }
}

fn vote(index: u64) -> Bytes {
    Bytes::from(index.to_le_bytes().to_vec())
}

/// The last index of each kind that the child saw acknowledged.
#[derive(Clone, Copy, Debug, Default)]
struct Acknowledged {
    entry: Option<u64>,
    vote: Option<u64>,
    purge: Option<u64>,
}

/// Writes for ever. Does nothing unless it is the child.
#[test]
#[allow(clippy::disallowed_methods)] // The parent hands its settings down this way.
fn child() {
    let (Ok(dir), Ok(engine)) = (std::env::var(DIR), std::env::var(ENGINE)) else {
        return;
    };
    let store = LogStore::open(Path::new(&dir), engine_of(&engine)).unwrap();
    let out = Arc::new(Mutex::new(std::io::stdout()));
    let say = |kind: &'static str, index: u64| -> Done {
        let out = out.clone();
        Box::new(move |result| {
            result.unwrap();
            let mut out = out.lock().unwrap();
            writeln!(out, "\n{kind} {index}")
                .and_then(|()| out.flush())
                .unwrap();
        })
    };
    let mut next = store.bounds().last.map_or(0, |last| last.index + 1);
    let mut dice = Dice::new(next);
    loop {
        let end = next + 1 + dice.below(8);
        store.append((next..end).map(entry).collect(), say("entry", end - 1));
        next = end;
        store.note_committed(Some(at(next - 1)));
        match dice.below(20) {
            0 => store.save_vote(vote(next), say("vote", next)),
            1 => {
                // What follows a truncation is written again with the same bytes.
                let kept = next - 1;
                store.append(
                    (next..next + 3).map(entry).collect(),
                    say("entry", next - 1),
                );
                store.truncate_after(Some(kept), say("entry", kept));
            }
            2 if next > KEPT => store.purge(at(next - KEPT), say("purge", next - KEPT)),
            _ => {}
        }
    }
}

fn engine_of(name: &str) -> EngineKind {
    match name {
        "sled" => EngineKind::Sled,
        _ => EngineKind::Redb,
    }
}

fn start(dir: &Path, engine: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(ENGINE, engine)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills the child while it opens the log if `count` is 0. Else reads acknowledgements until `count` have come, kills the child, and reads what is left in the
/// pipe: it was acknowledged too. The kill falls anywhere, since the child writes on meanwhile.
fn kill_after(mut child: Child, count: u64, acknowledged: &mut Acknowledged) -> u64 {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = 0;
    while let Some(Ok(line)) = lines.next() {
        if count == 0 && line.starts_with("running") {
            child.kill().unwrap();
        }
        let Some((kind, index)) = line.split_once(' ') else {
            continue;
        };
        let Ok(index) = index.parse() else { continue };
        let place = match kind {
            "entry" => &mut acknowledged.entry,
            "vote" => &mut acknowledged.vote,
            "purge" => &mut acknowledged.purge,
            _ => continue,
        };
        *place = Some(index);
        seen += 1;
        if seen == count {
            child.kill().unwrap();
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    seen
}

/// Everything acknowledged is there, with the right bytes.
fn check(dir: &Path, engine: &str, acknowledged: &Acknowledged, round: u32) {
    let store = LogStore::open(dir, engine_of(engine))
        .unwrap_or_else(|fault| panic!("round {round}: {fault}"));
    let bounds = store.bounds();
    let last = bounds.last.map(|last| last.index);
    assert!(
        last >= acknowledged.entry,
        "round {round}: ends at {last:?}, {acknowledged:?}"
    );
    let purged = bounds.purged.map(|purged| purged.index);
    assert!(
        purged >= acknowledged.purge,
        "round {round}: a purge came back"
    );
    let first = purged.map_or(0, |purged| purged + 1);
    let read = store.read(0..u64::MAX, usize::MAX).unwrap();
    let expected: Vec<_> = (first..last.map_or(0, |last| last + 1))
        .map(entry)
        .collect();
    assert!(
        read == expected,
        "round {round}: entries {first} to {last:?} are not as written"
    );
    let found = store
        .vote()
        .map(|vote| u64::from_le_bytes(vote[..].try_into().unwrap()));
    assert!(
        found >= acknowledged.vote,
        "round {round}: vote {found:?}, {acknowledged:?}"
    );
    assert!(store.committed().map(|at| at.index) <= last);
}

fn survives_kills(engine: &str, rounds: u32) {
    let dir = tempfile::tempdir().unwrap();
    let mut dice = Dice::new(42);
    let mut acknowledged = Acknowledged::default();
    let mut total = 0;
    for round in 0..rounds {
        let child = start(dir.path(), engine);
        // Some die while they are still opening the log.
        let count = match dice.below(10) {
            0 => 0,
            _ => 1 + dice.below(60),
        };
        total += kill_after(child, count, &mut acknowledged);
        check(dir.path(), engine, &acknowledged, round);
    }
    assert!(
        total >= u64::from(rounds),
        "the children wrote too little: {total}"
    );
    println!("{engine}: {rounds} kills, {total} acknowledgements, {acknowledged:?}");
}

#[test]
fn redb_survives_kill_9() {
    survives_kills("redb", 250);
}

#[cfg(feature = "sled")]
#[test]
fn sled_survives_kill_9() {
    survives_kills("sled", 60);
}
