//! `bench`: floors and scenarios, measured side by side in one run.
//!
//! Absolute figures drift from run to run on a shared machine; what is told is the ratio to a
//! floor that was measured in the same run. A run counts only if its books balance.
//!
//! ```text
//! load (request, pace) ─► cluster under test (target) ─► sink     books: submitted = found
//!     wire reads answers      or the floor H (answer)             report: table, JSON, verdict
//! ```
//!
//! The floors are `disk` (f), `answer` (H, Hb), `calls` (X), `jitter` (j), `fold` (A, W); the
//! scenarios are `submit` (S1), `batch` (S2), `lateness` (S4), `growth` (S6), `memory` (S7),
//! `recover` (S8), `failover` (S9), `plateau` (S11) and `fair`.

mod answer;
mod batch;
mod books;
mod calls;
mod disk;
mod facts;
mod failover;
mod fair;
mod floors;
mod fold;
mod jitter;
mod latency;
mod lateness;
mod load;
mod pace;
mod page;
mod pending;
mod plateau;
mod progress;
mod recover;
mod report;
mod request;
mod sink;
mod submit;
mod target;
mod wire;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

use super::dev::Folder;
use super::output::{line, say};
use crate::model::Span;
use progress::Progress;
use report::Report;

/// An hour, in milliseconds.
const HOUR_MS: u64 = 3_600_000;
/// A measurement is preceded by this part of its own length.
const WARM_UP_PART: u32 = 10;

/// Measures floors and scenarios, side by side in one run.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[arg(default_value = "floors", value_enum)]
    pub what: Vec<What>,
    /// A folder on the disk that is to be measured; what is written there is removed again.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// A running server to measure in place of a cluster of its own; several with commas.
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// The client token of that server.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "HOROLOG_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,
    /// Nodes of the cluster: 1, 3, or both in turn with a comma.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: Vec<u16>,
    /// Send everything to the leader, not to all nodes in turn.
    #[arg(long)]
    pub leader_only: bool,
    /// Connections at once; several in turn with commas. Each scenario has its own default.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: Vec<u16>,
    /// How long each measurement takes.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Requests a second of open loops. By default half of what the closed loop came to for
    /// `submit`, and 2000 for `lateness` and `plateau`; for `fair` the tasks a second that each
    /// application may submit, 500 by default.
    #[arg(long, value_delimiter = ',', value_parser = rate)]
    pub rate: Vec<f64>,
    /// Tasks in a batch.
    #[arg(long, value_delimiter = ',', default_values_t = [10usize, 100, 1_000, 10_000])]
    pub lines: Vec<usize>,
    /// Tasks that only wait: 100,000 while lateness is measured; up to 1,000,000, a power of ten
    /// after the other, for `growth`, `memory` and `recover`.
    #[arg(long)]
    pub pending: Option<u64>,
    /// How often `failover` does each thing to a leader.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,
    /// How long `plateau` takes.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub minutes: u32,
    /// How long the tasks of `plateau` are kept, …
    #[arg(long, value_name = "DURATION", default_value = plateau::RETENTION, value_parser = Span::parse)]
    pub retention: Span,
    /// … and their histories, from the same end.
    #[arg(long, value_name = "DURATION", default_value = plateau::HISTORY, value_parser = Span::parse)]
    pub history: Span,
    /// Write the figures to this file, too, as JSON.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print the figures as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// What disk, HTTP, timers and memory allow at best.
    Floors,
    /// S1: one task a request.
    Submit,
    /// S2: NDJSON batches.
    Batch,
    /// S4: how late tasks fire.
    Lateness,
    /// S6: what a submit costs while more and more tasks wait.
    Growth,
    /// S7: memory and disk of one node while more and more tasks wait.
    Memory,
    /// S8: one node is killed under load, and is back.
    Recover,
    /// S9: for how long nothing fires when the leader is killed, paused, or its lead moved.
    Failover,
    /// S11: log, store, history and memory level off while tasks come and go.
    Plateau,
    /// One application submits ten times what it may; how late the others' tasks fire.
    Fair,
    /// Serves the floor H; the bench starts it.
    #[value(hide = true)]
    Answer,
}

/// One invocation.
struct Bench {
    args: BenchArgs,
    dir: PathBuf,
    report: Report,
    progress: Progress,
}

/// Measures.
///
/// # Errors
/// When something could not be measured, or the run does not count.
pub fn run(args: &BenchArgs) -> Result<()> {
    if args.what.contains(&What::Answer) {
        return answer::serve();
    }
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let folder = Folder::temporary(&parent, "bench")?;
    let mut bench = Bench {
        args: args.clone(),
        dir: folder.path().to_owned(),
        report: Report::new(folder.path(), args.seconds),
        progress: Progress::new(),
    };
    for what in &args.what {
        match what {
            What::Floors => floors::run(&mut bench)?,
            What::Submit => submit::run(&mut bench)?,
            What::Batch => batch::run(&mut bench)?,
            What::Lateness => lateness::run(&mut bench)?,
            What::Growth => pending::run(&mut bench, pending::What::Growth)?,
            What::Memory => pending::run(&mut bench, pending::What::Memory)?,
            What::Recover => recover::run(&mut bench)?,
            What::Failover => failover::run(&mut bench)?,
            What::Plateau => plateau::run(&mut bench)?,
            What::Fair => fair::run(&mut bench)?,
            What::Answer => {}
        }
    }
    let Bench { report, .. } = bench;
    finish(args, &report)
}

/// Shows the figures, and fails when they do not count.
fn finish(args: &BenchArgs, report: &Report) -> Result<()> {
    let json = report.json()?;
    if let Some(file) = &args.out {
        std::fs::write(file, &json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    match args.json {
        true => line(&json),
        false => report.show(),
    }
    if cfg!(debug_assertions) {
        say("this is a debug build: its figures say nothing");
    }
    if !report.problems.is_empty() {
        bail!(
            "this run does not count:\n  {}",
            report.problems.join("\n  ")
        );
    }
    Ok(())
}

impl Bench {
    fn span(&self) -> Duration {
        Duration::from_secs(self.args.seconds)
    }

    fn warm_up(&self) -> Duration {
        self.span() / WARM_UP_PART
    }

    fn connections(&self, default: &[usize]) -> Vec<usize> {
        match &self.args.connections[..] {
            [] => default.to_vec(),
            given => given.iter().map(|c| usize::from(*c)).collect(),
        }
    }

    /// How many nodes, in turn; a running server has as many as it has.
    fn nodes(&self, default: &[u16]) -> Vec<u16> {
        match (&self.args.server, &self.args.nodes[..]) {
            (Some(_), _) => vec![1],
            (None, []) => default.to_vec(),
            (None, given) => given.to_vec(),
        }
    }

    /// A name for the tasks of one run that no other run has.
    fn app(&self, what: &str) -> String {
        format!("bench-{:x}-{what}", self.report.facts.at.0)
    }
}

/// The CPU time of each of so many tasks, in microseconds.
fn cpu_each(before: Option<Duration>, after: Option<Duration>, tasks: u64) -> Option<f64> {
    let spent = after?.checked_sub(before?)?;
    (tasks > 0).then(|| spent.as_secs_f64() * 1e6 / tasks as f64)
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate < 1e9 => Ok(rate),
        _ => Err("give tasks a second".into()),
    }
}
