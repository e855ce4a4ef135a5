//! `bench failover`, S9: how long dispatch pauses when the leader goes.
//!
//! Tasks are submitted beforehand and fall due evenly, some every few milliseconds; then the leader
//! is killed, paused, or has its lead moved. What is measured is what a receiver sees: the longest
//! time in which nothing came, and how late the latest task was, which is one that was with the node
//! that went. Every task must come.

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::time::Instant;

use super::Bench;
use super::books::Books;
use super::floors::block_on_value;
use super::latency::{Micros, micros, note};
use super::lateness::kind;
use super::load::{Due, Load};
use super::report::Figure;
use super::sink::Sink;
use super::submit::enter;
use super::target::Target;

/// Tasks a second that fall due, without `--rate`.
const RATE: f64 = 1_000.0;
const CONNECTIONS: usize = 4;
const LINES: usize = 200;
/// The first task is due so long after the submits begin; all must be answered by then.
const LEAD: Duration = Duration::from_secs(2);
/// Tasks fall due for so long.
const SPAN: Duration = Duration::from_secs(6);
/// The leader goes between these, after the first task was due.
const STRIKES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(1_500));
/// A paused leader wakes after this.
const PAUSE: Duration = Duration::from_secs(5);
/// What has not come so long after it was due never will.
const ARRIVES_WITHIN: Duration = Duration::from_secs(90);
/// The cluster is whole again, with every node at work, by then.
const WHOLE_WITHIN: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(20);
/// The goals of a gap with `fast` timing: median and worst; and of a planned move.
const GOAL_FAST: (Duration, Duration) = (Duration::from_millis(700), Duration::from_millis(1_500));
const GOAL_MOVE: Duration = Duration::from_millis(50);

/// What happens to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Pause,
    Move,
}

impl Fault {
    const ALL: [Fault; 3] = [Fault::Kill, Fault::Pause, Fault::Move];

    fn name(self) -> &'static str {
        match self {
            Fault::Kill => "leader killed",
            Fault::Pause => "leader paused",
            Fault::Move => "lead moved",
        }
    }
}

/// One kind of fault: what was submitted, and what the receiver saw.
struct Trial {
    fault: Fault,
    sink: Sink,
    books: Books,
    numbers: Arc<AtomicU64>,
    /// Moves that were answered with a refusal.
    refused: u32,
    gaps: Micros,
    latest: Micros,
}

/// Measures each kind of fault with each timing.
pub fn run(bench: &mut Bench) -> Result<()> {
    ensure!(
        bench.args.server.is_none(),
        "only the leader of the bench's own cluster is killed"
    );
    let timings = ["steady", "fast"];
    bench.progress.expect(timings.len() * Fault::ALL.len());
    for timing in timings {
        block_on_value(measure(bench, timing))?;
    }
    Ok(())
}

async fn measure(bench: &mut Bench, timing: &str) -> Result<()> {
    let dir = bench.dir.join(format!("failover-{timing}"));
    let settings = vec![("HOROLOG_RAFT_TIMING", timing.to_owned())];
    let mut target = Target::with(&bench.args, &dir, 3, settings).await?;
    for fault in Fault::ALL {
        let what = format!("{}, timing {timing}", fault.name());
        bench.progress.step(&what);
        faults(bench, &mut target, fault, &what).await?;
    }
    target.stop().await;
    Ok(())
}

/// One kind of fault, again and again.
async fn faults(bench: &mut Bench, target: &mut Target, fault: Fault, what: &str) -> Result<()> {
    let mut trial = Trial {
        fault,
        sink: Sink::start()?,
        books: Books {
            app: bench.app(&what.replace(", ", " ").replace(' ', "-")),
            ..Books::default()
        },
        numbers: Arc::default(),
        refused: 0,
        gaps: micros(),
        latest: micros(),
    };
    let rounds = bench.args.rounds;
    let rate = bench.args.rate.first().copied().unwrap_or(RATE);
    for round in 0..rounds {
        whole(target).await?;
        let part = f64::from(round) / f64::from(rounds);
        let strike = LEAD + STRIKES.0 + (STRIKES.1 - STRIKES.0).mul_f64(part);
        trial.once(target, strike, rate).await?;
    }
    target.ready().await?;
    settle(target, &trial.books).await?;
    trial.tell(bench, target, what).await
}

impl Trial {
    /// One fault under load.
    async fn once(&mut self, target: &mut Target, strike: Duration, rate: f64) -> Result<()> {
        let begin = Instant::now();
        let load = Load {
            servers: target.servers.clone(),
            connections: CONNECTIONS,
            kind: kind(&self.books.app, &self.sink.url(), target, Some(LINES)),
            due: Due::Within {
                from: LEAD.as_millis() as u64,
                to: (LEAD + SPAN).as_millis() as u64,
            },
            span: LEAD,
            warm_up: Duration::ZERO,
            rate: None,
            tasks_max: (rate * SPAN.as_secs_f64()) as u64,
            numbers: self.numbers.clone(),
        };
        enter(&mut self.books, &load.run().await?);
        ensure!(
            begin.elapsed() < LEAD,
            "the machine is too slow: the submits of a round took more than {LEAD:?}"
        );
        until(begin + strike).await;
        let leader = target.leader().await?;
        self.sink.watch();
        match self.fault {
            Fault::Kill => target.kill(leader).await?,
            Fault::Pause => target.signal(leader, Signal::STOP)?,
            // Refused when the other one has not taken it in time: the gap is then what it is.
            Fault::Move => self.refused += u32::from(target.move_lead().await.is_err()),
        }
        if self.fault == Fault::Pause {
            until(begin + strike + PAUSE).await;
            target.signal(leader, Signal::CONT)?;
        }
        self.arrive(begin + LEAD + SPAN + ARRIVES_WITHIN).await?;
        let watched = self.sink.watched();
        note(&mut self.gaps, watched.gap);
        note(&mut self.latest, watched.latest);
        if self.fault == Fault::Kill {
            target.start(leader)?;
        }
        Ok(())
    }

    /// Waits until every task has come.
    async fn arrive(&self, end: Instant) -> Result<()> {
        let submitted = self.books.submitted;
        while self.sink.tasks() < submitted {
            ensure!(
                Instant::now() < end,
                "{}: {} of {submitted} tasks have come, and no more within {ARRIVES_WITHIN:?}",
                self.fault.name(),
                self.sink.tasks()
            );
            until(Instant::now() + LOOK).await;
        }
        Ok(())
    }

    async fn tell(mut self, bench: &mut Bench, target: &Target, what: &str) -> Result<()> {
        let median = Duration::from_micros(self.gaps.value_at_quantile(0.5));
        let worst = Duration::from_micros(self.gaps.max());
        let rounds = bench.args.rounds;
        let refused = match self.refused {
            0 => String::new(),
            refused => format!(" ({refused} refused)"),
        };
        let text = format!("{what} {rounds} times{refused}: nothing came for");
        let mut figure = Figure::new("S9", text)
            .latency(&self.gaps)
            .class(target.class());
        if self.fault == Fault::Move {
            figure = figure.goal("median ≤ 50 ms", median <= GOAL_MOVE);
        } else if what.ends_with("fast") {
            let met = median <= GOAL_FAST.0 && worst <= GOAL_FAST.1;
            figure = figure.goal("median ≤ 0.7 s, worst ≤ 1.5 s", met);
        }
        bench.report.figure(figure);
        let latest = Figure::new("S9", format!("{what}: the latest task of each"));
        bench.report.figure(latest.latency(&self.latest));
        bench
            .report
            .draw(format!("{what}: nothing came for"), &self.gaps);
        let arrivals = self.sink.arrivals();
        self.books.arrived = arrivals.tasks;
        self.books.early = arrivals.early;
        self.books.duplicates = arrivals.duplicates;
        let books = target.close(self.books).await?;
        bench.report.problems.extend(books.problems());
        bench.report.books(books);
        Ok(())
    }
}

/// Waits until all nodes are ready, agree on a leader, and own shards.
async fn whole(target: &mut Target) -> Result<()> {
    target.ready().await?;
    let end = Instant::now() + WHOLE_WITHIN;
    while Instant::now() < end {
        let cluster = target.server.get("/v1/cluster").await?.json;
        let owned = cluster["shards"]["owned"].as_object();
        let at_work = owned.map_or(0, |owned| {
            owned
                .values()
                .filter(|shards| shards.as_u64() > Some(0))
                .count()
        });
        if at_work == target.voters && cluster["leader"].is_u64() {
            return Ok(());
        }
        until(Instant::now() + LOOK).await;
    }
    bail!("not every node owned shards within {WHOLE_WITHIN:?}")
}

/// Waits until the log knows that everything is done.
async fn settle(target: &Target, books: &Books) -> Result<()> {
    let end = Instant::now() + ARRIVES_WITHIN;
    while Instant::now() < end {
        let stats = target.stats(&books.app).await.context("the stats")?;
        if stats["tasks"]["done"].as_u64() >= Some(books.submitted) {
            break;
        }
        until(Instant::now() + LOOK).await;
    }
    Ok(())
}

#[allow(clippy::disallowed_methods)] // The bench acts and looks from outside, at its own pace.
async fn until(at: Instant) {
    tokio::time::sleep_until(at).await;
}
