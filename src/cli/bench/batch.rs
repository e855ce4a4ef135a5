//! `bench batch`, S2: many tasks a request, as NDJSON.

use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::books::Books;
use super::floors::{self, block_on_value};
use super::load::{Due, Load};
use super::report::Figure;
use super::request::Kind;
use super::submit::enter;
use super::target::Target;
use super::{Bench, HOUR_MS, cpu_each};

/// Clients that import do so on a few connections.
const CONNECTIONS: usize = 4;

/// The floor for one size of batch.
struct Floor {
    lines: usize,
    rate: f64,
}

/// Measures S2 against the smaller of W and Hb in the same run.
pub fn run(bench: &mut Bench) -> Result<()> {
    let connections = bench.connections(&[CONNECTIONS]);
    let (sizes, nodes) = (bench.args.lines.clone(), bench.nodes(&[1, 3]));
    let steps = connections.len() * sizes.len() * (1 + nodes.len());
    bench.progress.expect(1 + steps);
    let log = floors::log(bench)?;
    for connections in connections {
        let mut floor = Vec::new();
        for lines in &sizes {
            let lines = *lines;
            let rate = floors::lines(bench, lines, connections)?.min(log);
            floor.push(Floor { lines, rate });
        }
        for count in &nodes {
            block_on_value(cluster(bench, *count, connections, &floor))?;
        }
    }
    Ok(())
}

/// Every size of batch against one cluster, and its books.
async fn cluster(bench: &mut Bench, size: u16, connections: usize, floor: &[Floor]) -> Result<()> {
    let dir = bench.dir.join(format!("batch-{connections}"));
    let target = Target::new(&bench.args, &dir, size).await?;
    let app = bench.app(&format!("batch-{size}-{connections}"));
    let numbers = Arc::<AtomicU64>::default();
    let mut books = Books {
        app: app.clone(),
        ..Books::default()
    };
    for at in floor {
        let what = format!(
            "batches of {}, {}, c = {connections}",
            at.lines,
            target.size()
        );
        bench.progress.step(&what);
        let load = Load {
            servers: target.servers.clone(),
            connections,
            kind: Kind {
                app: app.clone(),
                url: "http://127.0.0.1:9/".into(),
                token: target.token.clone(),
                lines: Some(at.lines),
            },
            due: Due::At(HOUR_MS),
            span: bench.span(),
            warm_up: bench.warm_up(),
            rate: None,
            tasks_max: u64::MAX,
            numbers: numbers.clone(),
        };
        let before = target.cpu();
        let tally = load.run().await?;
        enter(&mut books, &tally);
        bench.report.figure(
            Figure::new("S2", what)
                .rate(tally.rate(), "/s")
                .latency(&tally.latency)
                .cpu(cpu_each(before, target.cpu(), tally.created))
                .class(target.class())
                .against("min(W, Hb)", at.rate)
                .at_least(if target.voters > 1 { 0.40 } else { 0.70 }),
        );
    }
    let books = target.close(books).await?;
    bench.report.books(books);
    target.stop().await;
    Ok(())
}
