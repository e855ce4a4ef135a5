//! `bench submit`, S1: one task a request, due in an hour.

use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::books::Books;
use super::floors::{self, block_on_value};
use super::load::{Due, Load, Tally};
use super::report::Figure;
use super::request::Kind;
use super::target::Target;
use super::{Bench, HOUR_MS, cpu_each};

/// An open loop without `--rate` runs at this part of what the closed loop came to.
const OPEN_PART: f64 = 0.5;
/// The connections at which throughput has a goal.
const GOAL_CONNECTIONS: usize = 256;
/// One client's median against the sum of its parts.
const GOAL_LATENCY: f64 = 1.25;

/// The floor at one number of connections.
struct Floor {
    connections: usize,
    tally: Tally,
}

/// Measures S1 against H in the same run.
pub fn run(bench: &mut Bench) -> Result<()> {
    let (connections, sizes) = (bench.connections(&[1, 64, 256]), bench.nodes(&[1, 3]));
    bench
        .progress
        .expect(1 + connections.len() * (1 + 2 * sizes.len()));
    let sync_us = floors::append(bench, super::disk::SIZES[0], 1)?;
    let mut floor = Vec::new();
    for connections in connections {
        let tally = floors::singles(bench, connections)?;
        floor.push(Floor { connections, tally });
    }
    for size in sizes {
        block_on_value(cluster(bench, size, &floor, sync_us))?;
    }
    Ok(())
}

/// Every number of connections against one cluster, and its books.
async fn cluster(bench: &mut Bench, size: u16, floor: &[Floor], sync_us: u64) -> Result<()> {
    let target = Target::new(&bench.args, &bench.dir, size).await?;
    let app = bench.app(&format!("submit-{size}"));
    let numbers = Arc::<AtomicU64>::default();
    let mut books = Books {
        app: app.clone(),
        ..Books::default()
    };
    for at in floor {
        let load = Load {
            servers: target.servers.clone(),
            connections: at.connections,
            kind: Kind {
                app: app.clone(),
                url: "http://127.0.0.1:9/".into(),
                token: target.token.clone(),
                lines: None,
            },
            due: Due::At(HOUR_MS),
            span: bench.span(),
            warm_up: bench.warm_up(),
            rate: None,
            tasks_max: u64::MAX,
            numbers: numbers.clone(),
        };
        let rate = closed(bench, &target, &load, at, sync_us, &mut books).await?;
        let rates = match &bench.args.rate[..] {
            [] => vec![(rate * OPEN_PART).max(1.0)],
            given => given.to_vec(),
        };
        for rate in rates {
            open(bench, &target, &load, rate, &mut books).await?;
        }
    }
    let books = target.close(books).await?;
    bench.report.books(books);
    target.stop().await;
    Ok(())
}

/// As fast as the connections go; returns the rate.
async fn closed(
    bench: &mut Bench,
    target: &Target,
    load: &Load,
    floor: &Floor,
    sync_us: u64,
    books: &mut Books,
) -> Result<f64> {
    let what = format!("submits, {}, c = {}", target.size(), load.connections);
    bench.progress.step(&what);
    let before = target.cpu();
    let tally = load.clone().run().await?;
    let cpu = cpu_each(before, target.cpu(), tally.created);
    enter(books, &tally);
    let mut figure = Figure::new("S1", what)
        .rate(tally.rate(), "/s")
        .latency(&tally.latency)
        .cpu(cpu)
        .class(target.class())
        .against(format!("H({})", load.connections), floor.tally.rate());
    if load.connections == GOAL_CONNECTIONS {
        figure = figure.at_least(if target.voters > 1 { 0.40 } else { 0.75 });
    }
    bench.report.figure(figure);
    if load.connections == 1 && target.voters == 1 {
        let exchange = floor.tally.latency.value_at_quantile(0.5);
        bench.report.figure(one_client(&tally, sync_us + exchange));
    }
    Ok(tally.rate())
}

/// One client, one node: the median against one sync and one bare exchange.
fn one_client(tally: &Tally, parts_us: u64) -> Figure {
    let p50 = tally.latency.value_at_quantile(0.5) as f64;
    let figure = Figure::new("S1", "p50 of one client, one node")
        .rate(p50, "µs")
        .class("D2")
        .against("f + H(1)", parts_us as f64);
    let met = p50 <= parts_us as f64 * GOAL_LATENCY;
    figure.goal(format!("≤ {GOAL_LATENCY}"), met)
}

/// At a stated rate, for latency from the intended instant.
async fn open(
    bench: &mut Bench,
    target: &Target,
    load: &Load,
    rate: f64,
    books: &mut Books,
) -> Result<()> {
    let what = format!(
        "open loop at {rate:.0}/s, {}, c = {}",
        target.size(),
        load.connections
    );
    bench.progress.step(&what);
    let load = Load {
        rate: Some(rate),
        ..load.clone()
    };
    let before = target.cpu();
    let tally = load.run().await?;
    enter(books, &tally);
    if !tally.kept_up() {
        bench.report.problems.push(format!(
            "{what}: only {} of {} requests were sent in time",
            tally.sent, tally.intended
        ));
    }
    bench.report.figure(
        Figure::new("S1", what)
            .rate(tally.rate(), "/s")
            .latency(&tally.latency)
            .cpu(cpu_each(before, target.cpu(), tally.created))
            .class(target.class()),
    );
    Ok(())
}

/// Enters a run in the books.
pub fn enter(books: &mut Books, tally: &Tally) {
    books.submitted += tally.created;
    books.refused += tally.refused;
}
