//! What an entry costs the timing wheel: to insert, to expire, and in a herd at one tick.
//!
//! Read the `time` of a group as nanoseconds per entry through its `thrpt`: 100 Melem/s is 10 ns.
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use horolog::wheel::Wheel;

const HOUR: u64 = 3_600_000;
const YEAR: u64 = 365 * 24 * HOUR;
const START: u64 = 1_790_000_000_000;
/// What one trigger folds.
const PIECE: usize = 8_192;

/// A wheel with `count` entries spread evenly, in disorder, over the `span` after its hand.
fn spread(count: u64, span: u64) -> Wheel {
    let mut wheel = Wheel::new(START);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for key in 0..count {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let offset = (u128::from(state) * u128::from(span)) >> 64;
        wheel.insert(START + 1 + offset as u64, key);
    }
    wheel
}

/// `count` entries at one tick a minute away; a `step` of 1 is the order of their keys.
fn herd(count: u64, step: u64) -> Wheel {
    let mut wheel = Wheel::new(START);
    (0..count).for_each(|i| wheel.insert(START + 60_000, i * step % count));
    wheel
}

fn drain(mut wheel: Wheel, until: u64) -> Wheel {
    let mut out = Vec::with_capacity(PIECE);
    while wheel.expire(until, PIECE, &mut out) {
        black_box(&out);
        out.clear();
    }
    wheel
}

/// As a scheduler does: from one due tick to the next.
fn walk(mut wheel: Wheel) -> Wheel {
    let mut out = Vec::with_capacity(PIECE);
    while let Some(due) = wheel.next_due() {
        out.clear();
        black_box(wheel.expire(due, PIECE, &mut out));
    }
    wheel
}

fn spreads(c: &mut Criterion) {
    for (name, span) in [("hour", HOUR), ("year", YEAR)] {
        let mut group = c.benchmark_group(name);
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(200));
        group.measurement_time(Duration::from_secs(1));
        for count in [10_000, 100_000, 1_000_000, 10_000_000_u64] {
            group.throughput(Throughput::Elements(count));
            group.bench_function(BenchmarkId::new("insert", count), |b| {
                b.iter_with_large_drop(|| spread(count, span));
            });
            let filled = || spread(count, span);
            group.bench_function(BenchmarkId::new("expire", count), |b| {
                b.iter_batched(
                    filled,
                    |wheel| drain(wheel, START + span),
                    BatchSize::PerIteration,
                );
            });
            group.bench_function(BenchmarkId::new("walk", count), |b| {
                b.iter_batched(filled, walk, BatchSize::PerIteration);
            });
        }
    }
}

fn herds(c: &mut Criterion) {
    let mut group = c.benchmark_group("herd");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_secs(1));
    let count = 1_000_000;
    group.throughput(Throughput::Elements(count));
    for (name, step) in [("in order", 1), ("in disorder", 618_033_989)] {
        group.bench_function(BenchmarkId::new("insert", name), |b| {
            b.iter_with_large_drop(|| herd(count, step));
        });
        let first = |mut wheel: Wheel| {
            wheel.expire(START + 60_000, PIECE, &mut Vec::with_capacity(PIECE));
            wheel
        };
        group.bench_function(BenchmarkId::new("first piece", name), |b| {
            b.iter_batched(|| herd(count, step), first, BatchSize::PerIteration);
        });
        group.bench_function(BenchmarkId::new("drain", name), |b| {
            let all = |wheel| drain(wheel, START + 60_000);
            b.iter_batched(|| herd(count, step), all, BatchSize::PerIteration);
        });
    }
}

criterion_group!(benches, spreads, herds);
criterion_main!(benches);
