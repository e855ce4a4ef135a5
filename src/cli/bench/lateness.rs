//! `bench lateness`, S4: how long after its instant a task's request arrives.

use anyhow::Result;
use std::time::Duration;
use tokio::time::Instant;

use super::books::Books;
use super::floors::{self, block_on_value};
use super::jitter::Jitter;
use super::load::{Due, Load, Tally};
use super::report::Figure;
use super::request::Kind;
use super::sink::{Arrivals, Sink};
use super::submit::enter;
use super::target::Target;
use super::{Bench, HOUR_MS, cpu_each};
use crate::model::Span;

/// Tasks a second, without `--rate`.
const RATE: f64 = 2_000.0;
/// Connections that submit, without `--connections`.
const CONNECTIONS: usize = 16;
/// Tasks that only wait, without `--pending`.
const PENDING: u64 = 100_000;
/// The pending tasks are loaded in batches like this.
const PENDING_LINES: usize = 1_000;
const PENDING_CONNECTIONS: usize = 4;
/// After the last due instant everything is given so long to arrive, and to be told to the log.
const GRACE: Duration = Duration::from_secs(15);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(100);
/// The earliest a task is due after its submit, and the latest, in milliseconds.
const DUE_FROM_MS: u64 = 1_000;
const DUE_TO_MS: u64 = 60_000;
/// Above the machine's own jitter, in microseconds: the median and the 99th percentile.
const GOAL_US: (u64, u64) = (200, 1_000);

/// Measures S4 against j in the same run.
pub fn run(bench: &mut Bench) -> Result<()> {
    let rates = match &bench.args.rate[..] {
        [] => vec![RATE],
        given => given.to_vec(),
    };
    let nodes = bench.nodes(&[3]);
    bench.progress.expect(1 + nodes.len() * (1 + rates.len()));
    let jitter = floors::wake(bench)?;
    for count in nodes {
        block_on_value(cluster(bench, count, &rates, jitter))?;
    }
    Ok(())
}

async fn cluster(bench: &mut Bench, size: u16, rates: &[f64], jitter: (u64, u64)) -> Result<()> {
    let dir = bench.dir.join("lateness");
    let target = Target::new(&bench.args, &dir, size).await?;
    load_pending(bench, &target).await?;
    for rate in rates {
        one_rate(bench, &target, *rate, jitter).await?;
    }
    target.stop().await;
    Ok(())
}

/// The tasks that only wait: due long after the run.
async fn load_pending(bench: &mut Bench, target: &Target) -> Result<()> {
    let pending = bench.args.pending.unwrap_or(PENDING);
    bench.progress.step(format!("{pending} pending tasks"));
    if pending == 0 {
        return Ok(());
    }
    let app = bench.app(&format!("pending-{}", target.voters));
    let lines = PENDING_LINES.min(pending as usize);
    let load = Load {
        servers: target.servers.clone(),
        connections: PENDING_CONNECTIONS,
        kind: kind(&app, "http://127.0.0.1:9/", target, Some(lines)),
        due: Due::At(24 * HOUR_MS),
        span: Duration::from_secs(3_600),
        warm_up: Duration::ZERO,
        rate: None,
        tasks_max: pending,
        numbers: Default::default(),
    };
    let tally = load.run().await?;
    let mut books = Books {
        app,
        ..Books::default()
    };
    enter(&mut books, &tally);
    bench.report.books(target.close(books).await?);
    Ok(())
}

async fn one_rate(bench: &mut Bench, target: &Target, rate: f64, jitter: (u64, u64)) -> Result<()> {
    let what = format!("lateness at {rate:.0} tasks/s, {}", target.size());
    bench.progress.step(&what);
    let sink = Sink::start()?;
    let app = bench.app(&format!("late-{}-{rate:.0}", target.voters));
    let span = bench.span();
    let due_to = (span.as_millis() as u64 / 2).clamp(DUE_FROM_MS + 1_000, DUE_TO_MS);
    let load = Load {
        servers: target.servers.clone(),
        connections: bench.connections(&[CONNECTIONS])[0],
        kind: kind(&app, &sink.url(), target, None),
        due: Due::Within {
            from: DUE_FROM_MS,
            to: due_to,
        },
        span,
        warm_up: Duration::ZERO,
        rate: Some(rate),
        tasks_max: u64::MAX,
        numbers: Default::default(),
    };
    let (before, under_load) = (target.cpu(), Jitter::start());
    let tally = load.run().await?;
    settle(target, &app, &sink, tally.created, due_to).await?;
    let cpu = cpu_each(before, target.cpu(), tally.created);
    let under_load = under_load.stop();
    check(bench, &what, &tally, rate, span);
    let arrivals = sink.arrivals();
    close(bench, target, app, &tally, &arrivals).await?;
    let figure = Figure::new("S4", &what)
        .rate(tally.rate(), "/s")
        .latency(&arrivals.lateness)
        .cpu(cpu)
        .class(target.class());
    bench.report.figure(goal(figure, &arrivals, jitter));
    let submits = Figure::new("S4", format!("{what}: its submits"));
    bench.report.figure(submits.latency(&tally.latency));
    let loaded = Figure::new("j", "the same thread while that went on");
    bench.report.figure(loaded.latency(&under_load));
    bench.report.draw(what, &arrivals.lateness);
    Ok(())
}

/// Tasks of an application, for a receiver.
pub fn kind(app: &str, url: &str, target: &Target, lines: Option<usize>) -> Kind {
    Kind {
        app: app.to_owned(),
        url: url.to_owned(),
        token: target.token.clone(),
        lines,
    }
}

/// Waits until everything has arrived and the log knows it; what has not by then never will.
#[allow(clippy::disallowed_methods)] // reason: the bench looks from outside, at its own pace
pub async fn settle(
    target: &Target,
    app: &str,
    sink: &Sink,
    submitted: u64,
    due_to_ms: u64,
) -> Result<()> {
    let end = Instant::now() + Span(due_to_ms).std() + GRACE;
    while Instant::now() < end && sink.tasks() < submitted {
        tokio::time::sleep(LOOK).await;
    }
    while Instant::now() < end {
        let stats = target.stats(app).await?;
        if stats["tasks"]["done"].as_u64() >= Some(submitted) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Whether the generator did its part.
fn check(bench: &mut Bench, what: &str, tally: &Tally, rate: f64, span: Duration) {
    if !tally.kept_up() {
        bench.report.problems.push(format!(
            "{what}: only {} of {:.0} submits were sent in time",
            tally.sent,
            rate * span.as_secs_f64()
        ));
    }
    if tally.too_late > 0 {
        bench.report.problems.push(format!(
            "{what}: {} submits were answered after they were due",
            tally.too_late
        ));
    }
}

/// Closes the books of one application.
pub async fn close(
    bench: &mut Bench,
    target: &Target,
    app: String,
    tally: &Tally,
    arrivals: &Arrivals,
) -> Result<()> {
    let mut books = Books {
        app,
        arrived: arrivals.tasks,
        early: arrivals.early,
        duplicates: arrivals.duplicates,
        ..Books::default()
    };
    enter(&mut books, tally);
    let books = target.close(books).await?;
    if books.pending > 0 {
        let text = format!(
            "{}: {} tasks never came to an end",
            books.app, books.pending
        );
        bench.report.problems.push(text);
    }
    bench.report.books(books);
    Ok(())
}

/// Lateness less jitter, against what was set out.
fn goal(figure: Figure, arrivals: &Arrivals, (j50, j99): (u64, u64)) -> Figure {
    let at = |quantile| arrivals.lateness.value_at_quantile(quantile);
    let over = (at(0.5).saturating_sub(j50), at(0.99).saturating_sub(j99));
    let text = format!(
        "p50 j + {:.2} (≤ 0.2), p99 j + {:.2} ms (≤ 1)",
        over.0 as f64 / 1e3,
        over.1 as f64 / 1e3
    );
    let met = over.0 <= GOAL_US.0 && over.1 <= GOAL_US.1 && arrivals.early == 0;
    figure.goal(text, met)
}
