//! `bench floors`: what this machine can do at best, piece by piece.

use anyhow::Result;
use std::time::Duration;

use super::answer::AnswerServer;
use super::load::{Due, Load, Tally};
use super::report::Figure;
use super::request::Kind;
use super::{Bench, calls, cpu_each, disk, fold, jitter};
use crate::cli::block_on;

/// Lines of a batch where H is measured with batches.
const BATCH_LINES: usize = 1_000;
/// Callbacks at once: the executor's default bound for one target is above it.
const CALLS_AT_ONCE: usize = 64;
/// A disk shows itself within this; longer runs only wear it.
const DISK_SPAN_MAX: Duration = Duration::from_secs(2);

/// Measures every floor.
pub fn run(bench: &mut Bench) -> Result<()> {
    let connections = bench.connections(&[1, 64, 256]);
    bench.progress.expect(10 + connections.len());
    for files in [1, 3] {
        for size in disk::SIZES {
            append(bench, size, files)?;
        }
    }
    for connections in connections {
        singles(bench, connections)?;
    }
    lines(bench, BATCH_LINES, 4)?;
    call(bench)?;
    wake(bench)?;
    in_memory(bench)?;
    log(bench)?;
    Ok(())
}

/// f, for one size.
pub fn append(bench: &mut Bench, size: usize, files: usize) -> Result<u64> {
    let what = format!("append {} KiB, {files} file(s)", size >> 10);
    bench.progress.step(&what);
    let span = bench.span().min(DISK_SPAN_MAX);
    let appends = disk::measure(&bench.dir, size, files, span)?;
    let p50 = appends.latency.value_at_quantile(0.5);
    let mib = appends.bytes_per_second / f64::from(1 << 20);
    bench.report.figure(
        Figure::new("f", what)
            .rate(mib, "MiB/s")
            .latency(&appends.latency),
    );
    Ok(p50)
}

/// H: the bare server and single submits.
pub fn singles(bench: &mut Bench, connections: usize) -> Result<Tally> {
    bench.progress.step(format!("H({connections})"));
    let what = format!("axum answers submits, c = {connections}");
    answers(bench, "H", what, None, connections)
}

/// Hb: the bare server and batches, in lines a second.
pub fn lines(bench: &mut Bench, lines: usize, connections: usize) -> Result<f64> {
    bench.progress.step(format!("Hb({lines})"));
    let what = format!("axum answers batches of {lines}, c = {connections}");
    Ok(answers(bench, "Hb", what, Some(lines), connections)?.rate())
}

fn answers(
    bench: &mut Bench,
    id: &'static str,
    what: String,
    lines: Option<usize>,
    connections: usize,
) -> Result<Tally> {
    let server = AnswerServer::start()?;
    let load = Load {
        servers: vec![server.address],
        connections,
        kind: Kind {
            app: "bench".into(),
            url: "http://127.0.0.1:9/".into(),
            token: None,
            lines,
        },
        due: Due::At(super::HOUR_MS),
        span: bench.span(),
        warm_up: bench.warm_up(),
        rate: None,
        tasks_max: u64::MAX,
        numbers: Default::default(),
    };
    let before = server.cpu();
    let tally = block_on_value(load.run())?;
    bench.report.figure(
        Figure::new(id, what)
            .rate(tally.rate(), "/s")
            .latency(&tally.latency)
            .cpu(cpu_each(before, server.cpu(), tally.created)),
    );
    Ok(tally)
}

fn call(bench: &mut Bench) -> Result<()> {
    bench.progress.step("X");
    let calls = calls::measure(CALLS_AT_ONCE, bench.span())?;
    bench.report.figure(
        Figure::new(
            "X",
            format!("callbacks by the bare client, {CALLS_AT_ONCE} at once"),
        )
        .rate(calls.rate, "/s")
        .latency(&calls.latency),
    );
    Ok(())
}

/// j: p50 and p99 in microseconds.
pub fn wake(bench: &mut Bench) -> Result<(u64, u64)> {
    bench.progress.step("j");
    let late = jitter::measure(bench.span());
    bench
        .report
        .figure(Figure::new("j", "a waiting thread wakes up late by").latency(&late));
    Ok((late.value_at_quantile(0.5), late.value_at_quantile(0.99)))
}

fn in_memory(bench: &mut Bench) -> Result<()> {
    bench.progress.step("A");
    let folds = fold::measure_fold(bench.span())?;
    for (what, rate) in [
        ("submits folded in memory", folds.submits),
        ("events of whole lives folded in memory", folds.lives),
    ] {
        bench.report.figure(Figure::new("A", what).rate(rate, "/s"));
    }
    Ok(())
}

/// W, in submits a second.
pub fn log(bench: &mut Bench) -> Result<f64> {
    bench.progress.step("W");
    let dir = bench.dir.join("floor-log");
    let rate = fold::measure_log(&dir, bench.span())?;
    std::fs::remove_dir_all(&dir)?;
    bench.report.figure(
        Figure::new("W", "submits encoded, checksummed, appended, synced")
            .rate(rate, "/s")
            .class("D2"),
    );
    Ok(rate)
}

/// As [`block_on`], with a value.
pub fn block_on_value<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut value = None;
    block_on(async {
        value = Some(work.await?);
        Ok(())
    })?;
    value.ok_or_else(|| anyhow::anyhow!("nothing came of it"))
}
