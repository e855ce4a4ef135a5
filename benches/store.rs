//! What a checkpoint costs, and the loading of a window: on a real file, by size of the generation,
//! size of the store and kind of id; and two layouts of what waits, on bare redb.
//!
//! `cargo bench --bench store` runs it all up to 10^5 tasks; `cargo bench --bench store -- 1000000`
//! up to so many. Figures are printed as rows of a table. Times include the sync.

#![allow(clippy::disallowed_methods)] // A measurement reads the real clock.

use std::time::{Duration, Instant};

use horolog::model::*;
use horolog::state::{RedbStore, State, Store as _};
use redb::{Database, Durability, ReadableDatabase, TableDefinition};

const START: u64 = 1_790_000_000_000;
/// Tasks are due over 30 days.
const SPREAD_MS: u64 = 30 * 24 * 3_600_000;
const BATCH: u64 = limits::BATCH_EVENTS_MAX as u64;
const LAYERS: [u64; 3] = [10_000, 100_000, 250_000];
/// So many tasks are read in due order.
const WINDOW: usize = 20_000;
/// So many at once.
const PIECE: usize = 4_096;

/// How the ids of tasks follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ids {
    V7,
    Random,
}

fn scatter(n: u64) -> u64 {
    let mixed = (n ^ n >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn id(n: u64, ids: Ids) -> String {
    match ids {
        // A millisecond for every ten, and the rest random: as v7 has it.
        Ids::V7 => format!("{:012x}-7{:015x}", START + n / 10, scatter(n) >> 4),
        Ids::Random => format!("{:016x}{:012x}", scatter(n), n),
    }
}

fn due(n: u64) -> u64 {
    START + 60_000 + scatter(n) % SPREAD_MS
}

/// A label of its own, or none.
fn spec(label: Option<u64>) -> std::sync::Arc<[u8]> {
    let spec = Spec {
        target: Target::Http(Http {
            url: "http://shop.example/orders/paid".into(),
            body: Body::Json(format!("{{\"fill\":\"{}\"}}", "x".repeat(189))),
            ..Http::default()
        }),
        retry: None,
        accept_timeout: None,
        expires_at: None,
        labels: label
            .map(|n| ("order".to_string(), n.to_string()))
            .into_iter()
            .collect(),
        placement: None,
        next: Default::default(),
    };
    spec.encode()
}

/// A state over a store in a file.
struct Desk {
    state: State,
    tasks: u64,
    index: u64,
    ids: Ids,
    /// Each task has a label.
    labelled: bool,
}

impl Desk {
    fn submit(&mut self, count: u64) {
        let plain = spec(None);
        let end = self.tasks + count;
        while self.tasks < end {
            let upto = end.min(self.tasks + BATCH);
            let submit = |n: u64| {
                let when = When::At(Time(due(n)));
                let spec = match self.labelled {
                    true => spec(Some(n)),
                    false => plain.clone(),
                };
                Event::from(Submit {
                    key: Key::new("shop", &id(n, self.ids)).expect("a good key"),
                    when,
                    digest: Spec::digest(&spec, when),
                    spec,
                    by: "bench".into(),
                })
            };
            let events = (self.tasks..upto).map(submit).collect();
            let (stamp, now) = (Time(START), Time(START));
            let batch = Batch { stamp, now, events };
            self.index += 1;
            self.state.prepare(&batch).expect("the store is read");
            self.state.apply(self.index, batch, &mut Vec::new());
            self.tasks = upto;
        }
    }

    fn checkpoint(&mut self) -> Duration {
        let begin = Instant::now();
        let checkpoint = self
            .state
            .begin_checkpoint(Vec::new())
            .expect("one at a time");
        checkpoint.write().expect("the store is written");
        drop(self.state.end_checkpoint().expect("the store is read"));
        begin.elapsed()
    }
}

fn micros_each(spent: Duration, tasks: u64) -> f64 {
    spent.as_secs_f64() * 1e6 / tasks as f64
}

/// Checkpoints of every size into a store of at least so many tasks, and its window.
fn checkpoints(dir: &std::path::Path, tasks: u64, ids: Ids, labelled: bool) {
    let name = if labelled { ", labelled" } else { "" };
    let path = dir.join(format!("{tasks}-{ids:?}.redb"));
    let store = RedbStore::open(&path).expect("a new store");
    let state = State::new(Box::new(store));
    let mut desk = Desk {
        state,
        tasks: 0,
        index: 0,
        ids,
        labelled,
    };
    while desk.tasks < tasks {
        desk.submit(100_000.min(tasks - desk.tasks));
        desk.checkpoint();
    }
    for layer in LAYERS {
        if layer > tasks * 3 {
            continue;
        }
        let begin = Instant::now();
        desk.submit(layer);
        let folded = begin.elapsed();
        let spent = desk.checkpoint();
        println!(
            "| checkpoint | {ids:?}{name} | {tasks} | {layer} | {:.2} µs/task | fold {:.2} µs/task |",
            micros_each(spent, layer),
            micros_each(folded, layer)
        );
    }
    let bytes = std::fs::metadata(&path).expect("the store's file").len();
    let held = desk.tasks;
    drop(desk);
    let begin = Instant::now();
    let store = RedbStore::open(&path).expect("the store opens");
    let opened = begin.elapsed();
    let begin = Instant::now();
    let (mut read, mut last) = (0, None);
    while read < WINDOW {
        let far = store.far(last, Time(u64::MAX), PIECE);
        let far = far.expect("the index is read");
        let Some(end) = far.last() else { break };
        last = Some(*end);
        for (_, seq) in far {
            std::hint::black_box(store.record(seq).expect("a record is read"));
            read += 1;
        }
    }
    let spent = begin.elapsed();
    println!(
        "| window | {ids:?}{name} | {held} | {read} | {:.2} µs/task | {} B/task on disk, opened in {:.1} ms |",
        micros_each(spent, read as u64),
        bytes / held,
        opened.as_secs_f64() * 1e3
    );
    drop(store);
    std::fs::remove_file(path).expect("the store's file");
}

/// Records by number, beside a small index by what is due.
const BY_NUMBER: TableDefinition<u64, &[u8]> = TableDefinition::new("by-number");
/// The record under its due minute.
const INLINE: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("inline");
/// An index that orders by minute only.
const MINUTES: TableDefinition<(u32, u64), u16> = TableDefinition::new("minutes");
/// As the store has it.
const INSTANTS: TableDefinition<(u64, u64), ()> = TableDefinition::new("instants");
const RECORD: [u8; 420] = [b'x'; 420];

#[derive(Clone, Copy, Debug)]
enum Layout {
    Inline,
    Minutes,
    Instants,
}

/// Writes `tasks` in generations of `layer`, due over `spread` ms, and reads a window.
fn layout(dir: &std::path::Path, tasks: u64, layer: u64, spread: u64, layout: Layout) {
    let path = dir.join("layout.redb");
    let db = Database::create(&path).expect("a new file");
    let due = |n: u64| START + 60_000 + scatter(n) % spread;
    let minute = |n: u64| (due(n) / 60_000) as u32;
    let (mut first, mut last) = (0, Duration::ZERO);
    while first < tasks {
        let mut minutes: Vec<(u32, u64)> = (first..first + layer).map(|n| (minute(n), n)).collect();
        let mut instants: Vec<(u64, u64)> = (first..first + layer).map(|n| (due(n), n)).collect();
        let begin = Instant::now();
        let mut txn = db.begin_write().expect("a transaction");
        txn.set_durability(Durability::Immediate).expect("durable");
        txn.set_quick_repair(true);
        if !matches!(layout, Layout::Inline) {
            let mut table = txn.open_table(BY_NUMBER).expect("a table");
            for n in first..first + layer {
                table.insert(n, &RECORD[..]).expect("a row");
            }
        }
        match layout {
            Layout::Inline => {
                minutes.sort_unstable();
                let mut table = txn.open_table(INLINE).expect("a table");
                for place in minutes {
                    table.insert(place, &RECORD[..]).expect("a row");
                }
            }
            Layout::Minutes => {
                minutes.sort_unstable();
                let mut table = txn.open_table(MINUTES).expect("a table");
                for place in minutes {
                    let ms = (due(place.1) % 60_000) as u16;
                    table.insert(place, ms).expect("a row");
                }
            }
            Layout::Instants => {
                instants.sort_unstable();
                let mut table = txn.open_table(INSTANTS).expect("a table");
                for place in instants {
                    table.insert(place, ()).expect("a row");
                }
            }
        }
        txn.commit().expect("a commit");
        last = begin.elapsed();
        first += layer;
    }
    drop(db);
    let db = Database::open(&path).expect("the file opens");
    let txn = db.begin_read().expect("a view");
    let begin = Instant::now();
    let mut numbers: Vec<u64> = Vec::new();
    let mut read = 0_u64;
    match layout {
        Layout::Inline => {
            let table = txn.open_table(INLINE).expect("a table");
            for row in table.range((0, 0)..).expect("a range").take(WINDOW) {
                read += u64::from(!row.expect("a row").1.value().to_vec().is_empty());
            }
        }
        Layout::Minutes => {
            let index = txn.open_table(MINUTES).expect("a table");
            let rows = index.range((0, 0)..).expect("a range").take(WINDOW);
            numbers.extend(rows.map(|row| row.expect("a row").0.value().1));
        }
        Layout::Instants => {
            let index = txn.open_table(INSTANTS).expect("a table");
            let rows = index.range((0, 0)..).expect("a range").take(WINDOW);
            numbers.extend(rows.map(|row| row.expect("a row").0.value().1));
        }
    }
    if !numbers.is_empty() {
        let table = txn.open_table(BY_NUMBER).expect("a table");
        for n in numbers {
            let record = table.get(n).expect("a look-up").expect("a record");
            read += u64::from(!record.value().to_vec().is_empty());
        }
    }
    let spent = begin.elapsed();
    let bytes = std::fs::metadata(&path).expect("the file").len();
    println!(
        "| layout | {layout:?}, due over {} s | {tasks} | {layer} | last write {:.2} µs/task | window {:.2} µs/task, {} B/task |",
        spread / 1_000,
        micros_each(last, layer),
        micros_each(spent, read),
        bytes / tasks
    );
    drop((txn, db));
    std::fs::remove_file(path).expect("the file");
}

fn main() {
    let most = std::env::args().filter_map(|arg| arg.parse().ok()).next();
    let most: u64 = most.unwrap_or(100_000);
    // Beside the target folder: the system's folder for such may lie in memory.
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
    println!("| what | ids or layout | in the store | layer | time | more |");
    println!("|---|---|---|---|---|---|");
    for tasks in [100_000, 1_000_000, 10_000_000] {
        if tasks > most {
            break;
        }
        for ids in [Ids::V7, Ids::Random] {
            checkpoints(dir.path(), tasks, ids, false);
        }
        checkpoints(dir.path(), tasks, Ids::V7, true);
        for spread in [SPREAD_MS, 60_000] {
            for kind in [Layout::Inline, Layout::Minutes, Layout::Instants] {
                layout(dir.path(), tasks, 100_000, spread, kind);
            }
        }
    }
}
