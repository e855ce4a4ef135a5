//! `bench growth`, S6, and `bench memory`, S7: one node while more and more tasks wait.
//!
//! The tasks come in batches and are due over 30 days from tomorrow on. At each power of ten the
//! node makes a checkpoint of what it has; then it is measured. To what a submit costs belongs its
//! part in the checkpoints: the last of them is made by hand, and counted.

use anyhow::{Context as _, Result, ensure};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::time::Instant;

use super::books::Books;
use super::facts::{bytes_below, resident_bytes};
use super::floors::block_on_value;
use super::load::{Due, Load};
use super::page::above;
use super::report::Figure;
use super::request::Kind;
use super::submit::enter;
use super::target::Target;
use super::{Bench, HOUR_MS, cpu_each};

/// Where it begins, and how far it goes without `--pending`.
const FIRST: u64 = 100_000;
const LAST: u64 = 1_000_000;
/// As tasks are imported.
const LINES: u64 = 1_000;
const CONNECTIONS: usize = 4;
/// Submits a second while more and more tasks wait, without `--rate`.
const RATE: f64 = 500.0;
const SUBMITTERS: usize = 16;
/// Resident memory above that of the first step; CPU of a submit against that of the first step.
const GOAL_BYTES: f64 = 150.0 * 1_048_576.0;
const GOAL_CPU: f64 = 1.25;
/// The fold does not wait longer, for readers or a checkpoint; a bound of the metric, in seconds.
const PAUSE: &str = "0.005";
/// The metric of what it waits.
const WAITS: &str = "horolog_fold_wait_seconds";
const MIB: f64 = 1_048_576.0;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Growth,
    Memory,
}

/// The numbers of waiting tasks at which something is measured.
pub fn steps(pending: Option<u64>) -> Vec<u64> {
    let last = pending.unwrap_or(LAST);
    let powers = std::iter::successors(Some(FIRST), |n| n.checked_mul(10));
    let mut steps: Vec<u64> = powers.take_while(|n| *n < last).collect();
    steps.push(last);
    steps
}

/// One node that is filled step by step.
pub struct Filling {
    pub target: Target,
    pub books: Books,
    pub numbers: Arc<AtomicU64>,
}

impl Filling {
    pub async fn start(bench: &Bench, what: &str) -> Result<Filling> {
        let dir = bench.dir.join(what);
        let target = Target::with(&bench.args, &dir, 1, Vec::new()).await?;
        let books = Books {
            app: bench.app(what),
            ..Books::default()
        };
        Ok(Filling {
            target,
            books,
            numbers: Arc::default(),
        })
    }

    fn load(&self, lines: Option<usize>) -> Load {
        Load {
            servers: self.target.servers.clone(),
            connections: CONNECTIONS,
            kind: Kind {
                app: self.books.app.clone(),
                url: "http://127.0.0.1:9/".into(),
                token: self.target.token.clone(),
                lines,
            },
            due: Due::Within {
                from: 24 * HOUR_MS,
                to: 31 * 24 * HOUR_MS,
            },
            span: Duration::from_secs(24 * 3_600),
            warm_up: Duration::ZERO,
            rate: None,
            tasks_max: 0,
            numbers: self.numbers.clone(),
        }
    }

    /// Loads until so many tasks wait, and has them in the store; says how fast they came.
    pub async fn fill(&mut self, tasks: u64) -> Result<f64> {
        let more = tasks.saturating_sub(self.books.submitted);
        let lines = LINES.min(more.max(1));
        let load = Load {
            tasks_max: more / lines * lines,
            ..self.load(Some(lines as usize))
        };
        let begin = Instant::now();
        let tally = load.run().await?;
        enter(&mut self.books, &tally);
        let rate = tally.created as f64 / begin.elapsed().as_secs_f64();
        self.checkpointed().await?;
        Ok(rate)
    }

    /// Has the node make a checkpoint of all that was acknowledged so far.
    async fn checkpointed(&self) -> Result<()> {
        let stats = self.target.stats(&self.books.app).await?;
        let index = stats["index"].as_u64().context("an index in the stats")?;
        self.target.checkpoint().await?;
        let cluster = self.target.server.get("/v1/cluster").await?.json;
        let reached = cluster["nodes"][0]["checkpoint"].as_u64();
        ensure!(
            reached >= Some(index),
            "the checkpoint ends at {reached:?}, before {index}"
        );
        Ok(())
    }

    /// How many entries have waited too long for the fold.
    async fn pauses(&self) -> Result<u64> {
        above(&self.target.metrics().await?, WAITS, PAUSE)
            .context("a histogram of the fold's waits")
    }

    /// Closes the books and stops the node.
    pub async fn finish(self, bench: &mut Bench) -> Result<()> {
        let books = self.target.close(self.books).await?;
        bench.report.books(books);
        self.target.stop().await;
        Ok(())
    }
}

/// Measures one of the two at each step.
pub fn run(bench: &mut Bench, what: What) -> Result<()> {
    block_on_value(measure(bench, what))
}

async fn measure(bench: &mut Bench, what: What) -> Result<()> {
    let steps = steps(bench.args.pending);
    bench.progress.expect(steps.len());
    let name = if what == What::Growth {
        "growth"
    } else {
        "memory"
    };
    let mut filling = Filling::start(bench, name).await?;
    let mut first = None;
    for tasks in steps {
        bench.progress.step(format!("{tasks} pending"));
        let rate = filling.fill(tasks).await?;
        match what {
            What::Growth => growth(bench, &mut filling, tasks, &mut first).await?,
            What::Memory => memory(bench, &filling, tasks, rate, &mut first).await?,
        }
    }
    filling.finish(bench).await
}

/// Submits at a steady rate while so many wait.
async fn growth(
    bench: &mut Bench,
    filling: &mut Filling,
    tasks: u64,
    first: &mut Option<f64>,
) -> Result<()> {
    let rate = bench.args.rate.first().copied().unwrap_or(RATE);
    let load = Load {
        connections: bench.connections(&[SUBMITTERS])[0],
        span: bench.span(),
        warm_up: bench.warm_up(),
        rate: Some(rate),
        tasks_max: u64::MAX,
        ..filling.load(None)
    };
    let (before, pauses) = (filling.target.cpu(), filling.pauses().await?);
    let tally = load.run().await?;
    filling.checkpointed().await?;
    let cpu = cpu_each(before, filling.target.cpu(), tally.created);
    enter(&mut filling.books, &tally);
    if !tally.kept_up() {
        let text = format!(
            "{tasks} pending: only {} of {} requests were sent in time",
            tally.sent, tally.intended
        );
        bench.report.problems.push(text);
    }
    let what = format!("submits at {rate:.0}/s, {tasks} pending");
    let mut figure = Figure::new("S6", what)
        .rate(tally.rate(), "/s")
        .latency(&tally.latency)
        .cpu(cpu)
        .class(filling.target.class());
    if let Some(cpu) = cpu {
        let least = *first.get_or_insert(cpu);
        figure = figure.goal(format!("CPU ≤ {GOAL_CPU} ×"), cpu <= least * GOAL_CPU);
    }
    bench.report.figure(figure);
    let pauses = filling.pauses().await? - pauses;
    let text = format!("entries that waited over 5 ms for the fold, {tasks} pending");
    let figure = Figure::new("S6", text).rate(pauses as f64, "");
    bench.report.figure(figure.goal("none", pauses == 0));
    Ok(())
}

/// What the node occupies while so many wait, when a checkpoint has put the last of them into the
/// store.
async fn memory(
    bench: &mut Bench,
    filling: &Filling,
    tasks: u64,
    rate: f64,
    first: &mut Option<f64>,
) -> Result<()> {
    let (pid, dir) = filling
        .target
        .first()
        .context("memory is that of an own node")?;
    let resident = resident_bytes(pid).context("the node's memory cannot be read")? as f64;
    let least = *first.get_or_insert(resident);
    let store = bytes_below(&dir.join("state")) as f64;
    let rest = bytes_below(&dir) as f64 - store;
    let figure = Figure::new("S7", format!("resident, {tasks} pending"))
        .rate(resident / MIB, "MiB")
        .goal("≤ 150 MiB above the first", resident - least <= GOAL_BYTES);
    bench.report.figure(figure);
    let of_each = |what: &str, bytes: f64| {
        Figure::new("S7", format!("{what}, {tasks} pending")).rate(bytes / tasks as f64, "B/task")
    };
    bench.report.figure(of_each("store on disk", store));
    bench.report.figure(of_each("log on disk", rest));
    let loaded = Figure::new("S7", format!("loaded in batches, up to {tasks} pending"));
    bench.report.figure(loaded.rate(rate, "/s"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_up_in_powers_of_ten() {
        assert_eq!(steps(None), [100_000, 1_000_000]);
        assert_eq!(steps(Some(10_000_000)), [100_000, 1_000_000, 10_000_000]);
        assert_eq!(steps(Some(250_000)), [100_000, 250_000]);
        assert_eq!(steps(Some(3_000)), [3_000]);
    }
}
