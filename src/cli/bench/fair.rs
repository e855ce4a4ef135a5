//! `bench fair`: one application submits ten times what it may, and the others do not notice.
//!
//! A calm application submits far below its bound, first alone, then while another one sends ten
//! times its own. What the calm one's tasks are late by is set side by side; both are from the same
//! run, on the same cluster, so that the machine's own unrest is in both.

use anyhow::{Result, ensure};
use std::time::Duration;

use super::Bench;
use super::books::Books;
use super::floors::block_on_value;
use super::lateness::{close, kind, settle};
use super::load::{Due, Load, Tally};
use super::report::Figure;
use super::sink::{Arrivals, Sink};
use super::submit::enter;
use super::target::Target;

/// Tasks a second that each application may submit, without `--rate`.
const ALLOWED: f64 = 500.0;
/// The calm one submits this part of it.
const CALM_PART: f64 = 0.5;
/// The hot one sends so many times of it…
const HOT_TIMES: f64 = 10.0;
/// …in batches of so many.
const HOT_LINES: usize = 50;
/// Connections of each, without `--connections`.
const CONNECTIONS: usize = 8;
/// Tasks are due so long after their submit, in milliseconds.
const DUE_MS: (u64, u64) = (500, 1_500);
/// The 99th percentile beside the hot one may be so much above that alone, in microseconds.
const GOAL_US: u64 = 5_000;

/// Measures.
pub fn run(bench: &mut Bench) -> Result<()> {
    ensure!(
        bench.args.server.is_none(),
        "what an application may submit is a setting: only a cluster of the bench's own has it"
    );
    let nodes = bench.nodes(&[1]);
    bench.progress.expect(2 * nodes.len());
    for count in nodes {
        block_on_value(cluster(bench, count))?;
    }
    Ok(())
}

async fn cluster(bench: &mut Bench, size: u16) -> Result<()> {
    let allowed = bench.args.rate.first().copied().unwrap_or(ALLOWED);
    let bound = format!("{allowed:.0}");
    let settings = vec![("HOROLOG_LIMITS_APP_SUBMITS_PER_SECOND", bound)];
    let dir = bench.dir.join("fair");
    let target = Target::with(&bench.args, &dir, size, settings).await?;
    let alone = calm(bench, &target, "alone", allowed * CALM_PART).await?;
    let hot_sink = Sink::start()?;
    let hot = load(bench, &target, "hot", &hot_sink, Some(HOT_LINES));
    let hot = tokio::spawn(
        Load {
            rate: Some(allowed * HOT_TIMES / HOT_LINES as f64),
            span: bench.span() + bench.warm_up(),
            ..hot
        }
        .run(),
    );
    let beside = calm(bench, &target, "beside", allowed * CALM_PART).await?;
    let hot = hot.await??;
    tell(bench, &target, &alone, &beside, &hot);
    finish(bench, &target, &hot_sink, &hot).await?;
    target.stop().await;
    Ok(())
}

fn load(bench: &Bench, target: &Target, name: &str, sink: &Sink, lines: Option<usize>) -> Load {
    let app = bench.app(&format!("{name}-{}", target.voters));
    Load {
        servers: target.servers.clone(),
        connections: bench.connections(&[CONNECTIONS])[0],
        kind: kind(&app, &sink.url(), target, lines),
        due: Due::Within {
            from: DUE_MS.0,
            to: DUE_MS.1,
        },
        span: bench.span(),
        warm_up: Duration::ZERO,
        rate: None,
        tasks_max: u64::MAX,
        numbers: Default::default(),
    }
}

/// The calm one's tasks of one stretch, with closed books.
async fn calm(bench: &mut Bench, target: &Target, name: &str, rate: f64) -> Result<Arrivals> {
    bench
        .progress
        .step(format!("{name}, {rate:.0} tasks/s, {}", target.size()));
    let sink = Sink::start()?;
    let load = Load {
        warm_up: bench.warm_up(),
        rate: Some(rate),
        ..load(bench, target, name, &sink, None)
    };
    let app = load.kind.app.clone();
    let tally = load.run().await?;
    settle(target, &app, &sink, tally.created, DUE_MS.1).await?;
    if !tally.kept_up() {
        let text = format!(
            "{app}: only {} of {} submits were sent in time",
            tally.sent, tally.intended
        );
        bench.report.problems.push(text);
    }
    let arrivals = sink.arrivals();
    close(bench, target, app, &tally, &arrivals).await?;
    Ok(arrivals)
}

fn tell(bench: &mut Bench, target: &Target, alone: &Arrivals, beside: &Arrivals, hot: &Tally) {
    let p99 = |arrivals: &Arrivals| arrivals.lateness.value_at_quantile(0.99);
    let size = target.size();
    let alone_figure = Figure::new("fair", format!("lateness alone, {size}"));
    bench.report.figure(alone_figure.latency(&alone.lateness));
    let over = p99(beside).saturating_sub(p99(alone));
    let what = format!("lateness beside one that sends {HOT_TIMES:.0} times its bound, {size}");
    let text = format!("p99 alone + {:.2} ms (≤ 5)", over as f64 / 1e3);
    let figure = Figure::new("fair", what).latency(&beside.lateness);
    bench.report.figure(figure.goal(text, over <= GOAL_US));
    let sent = hot.created + hot.refused;
    let part = hot.refused as f64 / sent.max(1) as f64;
    let figure = Figure::new("fair", format!("of {sent} tasks of the hot one, refused"));
    let figure = figure.rate(part * 100.0, "%");
    // Nine tenths are beyond the bound; a second's worth may come at once.
    bench.report.figure(figure.goal("≥ 80 %", part >= 0.8));
}

/// What was taken of the hot one's is called like anything else.
async fn finish(bench: &mut Bench, target: &Target, sink: &Sink, hot: &Tally) -> Result<()> {
    let app = bench.app(&format!("hot-{}", target.voters));
    settle(target, &app, sink, hot.created, DUE_MS.1).await?;
    let arrivals = sink.arrivals();
    let mut books = Books {
        app,
        arrived: arrivals.tasks,
        early: arrivals.early,
        duplicates: arrivals.duplicates,
        ..Books::default()
    };
    enter(&mut books, hot);
    // It was to be refused.
    books.refused = 0;
    bench.report.books(target.close(books).await?);
    Ok(())
}
