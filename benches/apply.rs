//! What an event costs the fold, in memory: `prepare` and `apply`, batches as large as the log's.
//!
//! `submit` is a stream of new tasks, `labelled` one of tasks with a label each; `life` is submit → trigger → done over so many tasks at
//! once. Read `thrpt` as events per second.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use horolog::model::*;
use horolog::state::{MemoryStore, State};

const START: u64 = 1_790_000_000_000;
/// Tasks become due over a minute.
const SPREAD: u64 = 60_000;
const BATCH: usize = limits::BATCH_EVENTS_MAX;

/// A state and its log index.
struct Desk {
    state: State,
    index: u64,
}

impl Desk {
    fn new() -> Desk {
        let state = State::new(Box::new(MemoryStore::default()));
        let mut desk = Desk { state, index: 0 };
        let shards = (0..limits::SHARDS_DEFAULT).map(Shard).collect();
        let cause = "start".into();
        desk.fold(
            START,
            vec![
                Assign {
                    shards,
                    node: 1,
                    boot: 1,
                    cause,
                    kept: Vec::new(),
                }
                .into(),
            ],
        );
        desk
    }

    fn fold(&mut self, now: u64, events: Vec<Event>) -> Vec<Change> {
        self.index += 1;
        let (stamp, now) = (Time(now), Time(now));
        let batch = Batch { stamp, now, events };
        let mut changes = Vec::new();
        self.state.prepare(&batch).expect("memory does not fail");
        black_box(self.state.apply(self.index, batch, &mut changes));
        changes
    }

    fn fold_all(&mut self, batches: Vec<Vec<Event>>) {
        for events in batches {
            self.fold(START, events);
        }
    }

    /// Triggers everything as time passes, and answers every attempt at once.
    fn live_out(&mut self) {
        let mut now = START;
        while now < START + SPREAD {
            now += 100;
            loop {
                let until = Time(now);
                let max = limits::TRIGGER_MAX;
                let changes = self.fold(now, vec![Trigger { until, max }.into()]);
                let full = changes.len() == max as usize;
                let done: Vec<Event> = changes.iter().filter_map(|c| answer(c, until)).collect();
                for events in done.chunks(BATCH) {
                    self.fold(now, events.to_vec());
                }
                if !full {
                    break;
                }
            }
        }
    }
}

fn answer(change: &Change, now: Time) -> Option<Event> {
    let Change::Triggered { seq, fence, at, .. } = *change else {
        return None;
    };
    let end = AttemptEnd {
        started: at,
        ended: now,
        status: 200,
        ..AttemptEnd::default()
    };
    let node = 1;
    Some(
        Done {
            seq,
            fence,
            node,
            end,
        }
        .into(),
    )
}

/// `count` submits in batches, their instants in disorder; each with a label of its own, or none.
fn submits(count: u64, labelled: bool) -> Vec<Vec<Event>> {
    let spec = |labels| Spec {
        target: Target::Http(Http {
            url: "http://shop.example/orders/paid".into(),
            body: Body::Json("{\"order\":17}".into()),
            ..Http::default()
        }),
        retry: None,
        accept_timeout: None,
        expires_at: None,
        labels,
        placement: None,
        next: Default::default(),
    };
    let submit = |n: u64| {
        let when = When::At(Time(
            START + 1 + n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (SPREAD - 1),
        ));
        let label = labelled.then(|| ("order".to_string(), n.to_string()));
        // Each has bytes of its own, as when it comes out of the log.
        let spec = spec(label.into_iter().collect()).encode();
        Event::from(Submit {
            key: Key::new("shop", &format!("order-{n:012}")).expect("a good key"),
            when,
            digest: Spec::digest(&spec, when),
            spec,
            by: "bench".into(),
        })
    };
    let numbers: Vec<u64> = (0..count).collect();
    let batches = numbers.chunks(BATCH);
    batches
        .map(|chunk| chunk.iter().map(|n| submit(*n)).collect())
        .collect()
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_secs(1));
    for count in [10_000, 1_000_000_u64] {
        group.throughput(Throughput::Elements(count));
        for (name, labelled) in [("submit", false), ("labelled", true)] {
            group.bench_function(BenchmarkId::new(name, count), |b| {
                let fold = |(mut desk, batches): (Desk, _)| {
                    desk.fold_all(batches);
                    desk
                };
                let setup = || (Desk::new(), submits(count, labelled));
                b.iter_batched(setup, fold, BatchSize::PerIteration);
            });
        }
        // Submit, the task's share of a trigger, done.
        group.throughput(Throughput::Elements(count * 3));
        group.bench_function(BenchmarkId::new("life", count), |b| {
            let fold = |(mut desk, batches): (Desk, _)| {
                desk.fold_all(batches);
                desk.live_out();
                assert_eq!(desk.state.stats(None)[Stage::Done as usize], count);
                desk
            };
            let setup = || (Desk::new(), submits(count, false));
            b.iter_batched(setup, fold, BatchSize::PerIteration);
        });
    }
}

criterion_group!(benches, apply);
criterion_main!(benches);
