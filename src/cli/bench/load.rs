//! The load generator: one task and one keep-alive connection each, prebuilt bytes, no HTTP library.
//!
//! Closed loop: a connection sends its next request when the last one is answered; that shows
//! throughput. Open loop: requests are intended at fixed instants whatever the server does, and
//! latency counts from those instants, so that a pause of the server is seen by every request
//! that should have been sent meanwhile.

use anyhow::{Context as _, Result, bail};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::latency::{Micros, micros, note};
use super::pace::{Pacer, offset};
use super::request::{Kind, Template};
use super::wire::{Answer, Answers};
use crate::model::Clock;
use crate::node::SystemClock;

/// No request takes so long unless something is broken.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// When the tasks are due.
#[derive(Clone, Copy, Debug)]
pub enum Due {
    /// So long after the run's begin, in milliseconds.
    At(u64),
    /// So long after their own intended instant, evenly spread, in milliseconds.
    Within { from: u64, to: u64 },
}

/// What to do to a server.
#[derive(Clone)]
pub struct Load {
    pub servers: Vec<SocketAddr>,
    pub connections: usize,
    pub kind: Kind,
    pub due: Due,
    pub span: Duration,
    /// Sent but not counted, so that connections and caches are warm.
    pub warm_up: Duration,
    /// Requests a second for an open loop.
    pub rate: Option<f64>,
    /// Ends the run after so many tasks, too.
    pub tasks_max: u64,
    /// Hands out the tasks' numbers; runs on the same application share it.
    pub numbers: Arc<AtomicU64>,
}

/// What came of it.
#[derive(Debug)]
pub struct Tally {
    /// From the intended instant in an open loop, else from the send, to the whole answer.
    pub latency: Micros,
    /// Tasks that the server says are new, warm-up included.
    pub created: u64,
    /// Tasks that got any other answer.
    pub refused: u64,
    /// Tasks that were new within the measured span.
    pub counted: u64,
    /// Tasks whose submit was answered after they were due.
    pub too_late: u64,
    pub seconds: f64,
    /// Requests that an open loop intended and sent within the span.
    pub intended: u64,
    pub sent: u64,
}

impl Tally {
    fn new() -> Tally {
        Tally {
            latency: micros(),
            created: 0,
            refused: 0,
            counted: 0,
            too_late: 0,
            seconds: 0.0,
            intended: 0,
            sent: 0,
        }
    }

    /// Tasks a second.
    pub fn rate(&self) -> f64 {
        self.counted as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Whether an open loop came to what it intended.
    pub fn kept_up(&self) -> bool {
        const PART: f64 = 0.98;
        self.sent as f64 >= self.intended as f64 * PART
    }
}

/// What the connections of one run share.
struct Run {
    load: Load,
    begin: Instant,
    begin_ms: u64,
    clock: SystemClock,
    tally: Mutex<Tally>,
    left: AtomicU64,
}

impl Load {
    /// Runs until the span is over and every request is answered.
    ///
    /// # Errors
    /// When a connection breaks: then nobody knows what was done.
    pub async fn run(self) -> Result<Tally> {
        let mut streams = Vec::new();
        for k in 0..self.connections {
            let server = self.servers[k % self.servers.len()];
            let stream = TcpStream::connect(server).await;
            let stream = stream.with_context(|| format!("cannot connect to {server}"))?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let clock = SystemClock::default();
        let run = Arc::new(Run {
            begin: Instant::now(),
            begin_ms: clock.wall().0,
            clock,
            tally: Mutex::new(Tally::new()),
            left: AtomicU64::new(self.tasks_max),
            load: self,
        });
        let mut connections = JoinSet::new();
        for (k, stream) in streams.into_iter().enumerate() {
            connections.spawn(Connection::new(run.clone(), k, stream).run());
        }
        while let Some(ended) = connections.join_next().await {
            ended??;
        }
        let run = Arc::into_inner(run).context("a connection outlived its run")?;
        Ok(run.finish())
    }
}

impl Run {
    fn finish(self) -> Tally {
        let spent = self.begin.elapsed().min(self.end() - self.begin);
        let mut tally = self
            .tally
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        tally.seconds = spent.saturating_sub(self.load.warm_up).as_secs_f64();
        if let Some(rate) = self.load.rate {
            tally.intended = (tally.seconds * rate) as u64;
        }
        tally
    }

    fn end(&self) -> Instant {
        self.begin + self.load.warm_up + self.load.span
    }

    /// Takes a share of the tasks that are left; false when there is none.
    fn take(&self, tasks: u64) -> bool {
        let take = |left: u64| left.checked_sub(tasks);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    fn due_ms(&self, number: u64, intended: Instant) -> u64 {
        match self.load.due {
            Due::At(ms) => self.begin_ms + ms,
            Due::Within { from, to } => {
                let since = intended.saturating_duration_since(self.begin);
                let spread = (to - from).max(1);
                self.begin_ms + since.as_millis() as u64 + from + scatter(number) % spread
            }
        }
    }

    fn note(&self, answer: Answer, intended: Instant, due_ms: u64) {
        let now = Instant::now();
        let tasks = self.load.kind.tasks();
        let created = match self.load.kind.lines {
            None => u64::from(answer.status == 201),
            Some(_) => answer.created,
        };
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.created += created;
        tally.refused += tasks - created.min(tasks);
        if matches!(self.load.due, Due::Within { .. }) && self.clock.wall().0 >= due_ms {
            tally.too_late += tasks;
        }
        if intended >= self.begin + self.load.warm_up && now <= self.end() {
            tally.counted += created;
            tally.sent += 1;
            note(&mut tally.latency, now.saturating_duration_since(intended));
        }
    }
}

/// One connection of a run.
struct Connection {
    run: Arc<Run>,
    number: usize,
    stream: TcpStream,
    answers: Answers,
    template: Template,
}

impl Connection {
    fn new(run: Arc<Run>, number: usize, stream: TcpStream) -> Connection {
        let template = run.load.kind.template();
        Connection {
            run,
            number,
            stream,
            answers: Answers::default(),
            template,
        }
    }

    async fn run(mut self) -> Result<()> {
        let pacer = Pacer::new()?;
        let end = self.run.end();
        for turn in 0.. {
            let intended = match self.run.load.rate {
                None => Instant::now(),
                Some(rate) => {
                    let place = turn * self.run.load.connections + self.number;
                    let at = self.run.begin + offset(place as u64, rate);
                    pacer.until(at.min(end)).await?;
                    at
                }
            };
            // An open loop that has fallen behind gives up what it can no longer send in time.
            if intended >= end || Instant::now() >= end {
                return Ok(());
            }
            if !self.run.take(self.run.load.kind.tasks()) {
                return Ok(());
            }
            self.submit(intended).await?;
        }
        Ok(())
    }

    async fn submit(&mut self, intended: Instant) -> Result<()> {
        let run = &self.run;
        let tasks = run.load.kind.tasks();
        let first = run.load.numbers.fetch_add(tasks, Ordering::Relaxed);
        let due = |number| run.due_ms(number, intended);
        let request = self.template.fill(first, due);
        let (stream, answers) = (&mut self.stream, &mut self.answers);
        let exchange = tokio::time::timeout(ANSWER_WITHIN, exchange(stream, request, answers));
        let answer = exchange.await.context("a request got no answer")??;
        self.run.note(answer, intended, due(first));
        Ok(())
    }
}

async fn exchange(stream: &mut TcpStream, request: &[u8], answers: &mut Answers) -> Result<Answer> {
    stream.write_all(request).await?;
    loop {
        if let Some(answer) = answers.next()? {
            return Ok(answer);
        }
        if stream.read_buf(answers.buffer()).await? == 0 {
            bail!("the server closed a connection");
        }
    }
}

/// Spreads consecutive numbers over the whole range, the same in every run.
fn scatter(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_that_falls_behind_is_seen() {
        let mut tally = Tally::new();
        tally.intended = 1_000;
        tally.sent = 981;
        assert!(tally.kept_up());
        tally.sent = 900;
        assert!(!tally.kept_up());
    }

    #[test]
    fn dues_are_spread_evenly() {
        let mut seconds = [0; 10];
        (0..10_000).for_each(|n| seconds[(scatter(n) % 10_000 / 1_000) as usize] += 1);
        assert!(
            seconds.iter().all(|n| (900..1_100).contains(n)),
            "{seconds:?}"
        );
    }
}
