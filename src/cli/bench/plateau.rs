//! `bench plateau`, S11: nothing grows for ever.
//!
//! Tasks come at a steady rate, are called a second later and done, leave after the retention, and
//! their histories after theirs. What the node keeps of all that rises at first and must then stay
//! where it is: the highest of the last third of the run is held against the highest of the third
//! before. Log and store are files that grow in steps and give nothing back; memory and the bytes
//! that count as history go up and down with the checkpoints; so highest is compared with highest.

use anyhow::{Context as _, Result, ensure};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use super::facts::{bytes_below, resident_bytes};
use super::floors::block_on_value;
use super::load::{Due, Load, Tally};
use super::page::gauge;
use super::report::Figure;
use super::request::Kind;
use super::sink::Sink;
use super::target::Target;
use super::{Bench, cpu_each};
use crate::cli::output::say;
use crate::model::Span;

/// Tasks a second, without `--rate`.
const RATE: f64 = 2_000.0;
/// Connections that submit, without `--connections`.
const CONNECTIONS: usize = 16;
/// From a task's submit to its call, in milliseconds.
const DELAY_MS: u64 = 1_000;
/// Between two samples: several to a checkpoint.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
const MINUTE: Duration = Duration::from_secs(60);
/// After the load everything is given so long to arrive.
const GRACE: Duration = Duration::from_secs(15);
/// The highest of the last third may be this many times the highest of the third before.
const GOAL: f64 = 1.10;
const MIB: f64 = 1_048_576.0;
/// At the least so many checkpoints are made in a third of the run: what they give back is seen.
const CHECKPOINTS: u32 = 4;
/// What is kept, in the order of a sample.
const NAMES: [&str; 4] = ["log on disk", "store on disk", "history", "resident"];

/// What a node keeps at one moment, in bytes.
type Sample = [u64; NAMES.len()];

/// Measures whether it levels off.
pub fn run(bench: &mut Bench) -> Result<()> {
    ensure!(
        bench.args.server.is_none(),
        "only a node of the bench's own can be looked into"
    );
    let (kept, history) = (bench.args.retention, bench.args.history);
    let (span, longest) = (span(bench), kept.max(history).std());
    ensure!(
        span >= 3 * longest,
        "--minutes: within a third of the run what is kept must be as old as it gets; make it \
         {} or more, or --retention and --history shorter",
        (3 * longest).as_secs().div_ceil(60)
    );
    block_on_value(measure(bench))
}

fn span(bench: &Bench) -> Duration {
    MINUTE * bench.args.minutes
}

async fn measure(bench: &mut Bench) -> Result<()> {
    let checkpoint_age = Span((span(bench) / (3 * CHECKPOINTS)).as_millis() as u64);
    let settings = vec![
        ("HOROLOG_STORE_CHECKPOINT_AGE", checkpoint_age.to_string()),
        ("HOROLOG_RETENTION_DONE", bench.args.retention.to_string()),
        ("HOROLOG_HISTORY_RETENTION", bench.args.history.to_string()),
        // It is rotated daily, and no part of this.
        ("HOROLOG_ACCESS_LOG_DIR", "off".to_owned()),
    ];
    let size = bench.nodes(&[1])[0];
    let dir = bench.dir.join("plateau");
    let target = Target::with(&bench.args, &dir, size, settings).await?;
    let rate = bench.args.rate.first().copied().unwrap_or(RATE);
    bench.progress.expect(1);
    bench.progress.step(format!("plateau at {rate:.0}/s"));
    let sink = Sink::start()?;
    let load = Load {
        servers: target.servers.clone(),
        connections: bench.connections(&[CONNECTIONS])[0],
        kind: Kind {
            app: bench.app("plateau"),
            url: sink.url(),
            token: target.token.clone(),
            lines: None,
        },
        due: Due::Within {
            from: DELAY_MS,
            to: DELAY_MS + 1,
        },
        span: span(bench),
        warm_up: Duration::ZERO,
        rate: Some(rate),
        tasks_max: u64::MAX,
        numbers: Arc::default(),
    };
    let before = target.cpu();
    let mut running = tokio::spawn(load.run());
    let (mut samples, mut ticks) = (Vec::new(), tokio::time::interval(SAMPLE_EVERY));
    let (begin, mut told) = (Instant::now(), 0);
    let tally = loop {
        tokio::select! {
            ended = &mut running => break ended??,
            _ = ticks.tick() => samples.push(sample(&target).await?),
        }
        let minute = begin.elapsed().as_secs() / MINUTE.as_secs();
        if let Some(last) = samples.last().filter(|_| minute > told) {
            told = minute;
            say(&format!("minute {minute}: {}", in_words(last)));
        }
    };
    arrive(&sink, tally.created).await;
    let cpu = cpu_each(before, target.cpu(), tally.created);
    bench.report.figure(
        Figure::new("S11", format!("tasks, {}", target.size()))
            .rate(tally.rate(), "/s")
            .latency(&tally.latency)
            .cpu(cpu)
            .class(target.class()),
    );
    check(bench, &tally, &sink);
    tell(bench, &samples);
    target.stop().await;
    Ok(())
}

/// What the first node keeps now.
async fn sample(target: &Target) -> Result<Sample> {
    let (pid, dir) = target.first().context("a node of its own")?;
    let page = target.metrics().await?;
    let history = gauge(&page, "horolog_history_bytes").context("no size of the history")?;
    let resident = resident_bytes(pid).context("the node's memory cannot be read")?;
    let store = bytes_below(&dir.join("state"));
    Ok([log_bytes(&dir), store, history, resident])
}

/// Everything in a node's folder but the store.
fn log_bytes(dir: &Path) -> u64 {
    bytes_below(dir) - bytes_below(&dir.join("state"))
}

fn in_words(sample: &Sample) -> String {
    let each = NAMES.iter().zip(sample);
    let each = each.map(|(name, bytes)| format!("{name} {:.0} MiB", *bytes as f64 / MIB));
    each.collect::<Vec<_>>().join(", ")
}

/// Waits until every task has arrived; what has not by then never will.
#[allow(clippy::disallowed_methods)] // reason: the bench looks from outside, at its own pace
async fn arrive(sink: &Sink, created: u64) {
    let end = Instant::now() + GRACE;
    while Instant::now() < end && sink.tasks() < created {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The server forgets its tasks in this run; so the receiver keeps the books.
fn check(bench: &mut Bench, tally: &Tally, sink: &Sink) {
    let arrivals = sink.arrivals();
    let (created, arrived) = (tally.created, arrivals.tasks);
    let mut wrong = |is: bool, text: String| {
        if is {
            bench.report.problems.push(format!("plateau: {text}"));
        }
    };
    wrong(
        !tally.kept_up(),
        format!(
            "only {} of {} were sent in time",
            tally.sent, tally.intended
        ),
    );
    wrong(tally.refused > 0, format!("{} refused", tally.refused));
    wrong(
        arrived != created,
        format!("{created} submitted, {arrived} arrived"),
    );
    wrong(arrivals.early > 0, format!("{} early", arrivals.early));
}

/// The highest of each minute, and the verdicts.
fn tell(bench: &mut Bench, samples: &[Sample]) {
    let a_minute = (MINUTE.as_secs() / SAMPLE_EVERY.as_secs()) as usize;
    let minutes = samples.chunks(a_minute).take(bench.args.minutes as usize);
    for (minute, samples) in minutes.enumerate() {
        for (n, name) in NAMES.iter().enumerate() {
            let what = format!("minute {}: {name}", minute + 1);
            let bytes = highest(samples, n) as f64;
            bench
                .report
                .figure(Figure::new("S11", what).rate(bytes / MIB, "MiB"));
        }
    }
    for (n, name) in NAMES.iter().enumerate() {
        let ratio = last_third(samples, n);
        let figure = Figure::new("S11", format!("{name}: last third ÷ second"));
        let met = ratio.is_finite() && ratio <= GOAL;
        let figure = figure.rate(ratio, "×").goal(format!("≤ {GOAL:.2}"), met);
        bench.report.figure(figure);
    }
}

fn highest(samples: &[Sample], n: usize) -> u64 {
    samples.iter().map(|sample| sample[n]).max().unwrap_or(0)
}

/// The highest of the last third over the highest of the second.
fn last_third(samples: &[Sample], n: usize) -> f64 {
    let third = samples.len() / 3;
    let (before, last) = samples[third..].split_at(third);
    highest(last, n) as f64 / highest(before, n) as f64
}

/// The defaults: a task is kept for a minute, its history for two.
pub const RETENTION: &str = "1m";
pub const HISTORY: &str = "2m";

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(of: impl Fn(u64) -> u64) -> Vec<Sample> {
        (0..90).map(|n| [of(n); NAMES.len()]).collect()
    }

    #[test]
    fn what_rises_and_stays_is_a_plateau_and_what_goes_on_rising_is_not() {
        // Up for a third; then a saw whose teeth are equal.
        let level = samples(|n| 1_000 + 20 * n.min(30) + 50 * (n % 7));
        assert!(last_third(&level, 0) <= GOAL);
        let rising = samples(|n| 1_000 + 20 * n);
        assert!(last_third(&rising, 3) > GOAL);
        // Nothing at all was measured.
        assert!(last_third(&samples(|_| 0), 1).is_nan());
    }

    #[test]
    fn gauges_are_found_by_their_whole_name() {
        let page = "# HELP horolog_a b\nhorolog_ab 3\nhorolog_a 7\n";
        assert_eq!(gauge(page, "horolog_a"), Some(7));
        assert_eq!(gauge(page, "horolog_b"), None);
    }
}
