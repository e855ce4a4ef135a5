//! `bench recover`, S8: one node is killed while it is written to, and is back.
//!
//! Every submit that was answered before must be there afterwards; the one of each client that
//! was not is sent again, so that the books can be closed exactly. Some tasks fall due while the
//! node is down: they must arrive once it is ready, and at once.

use anyhow::{Context as _, Result, ensure};
use http::Method;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::floors::block_on_value;
use super::pending::{Filling, steps};
use super::report::Figure;
use super::request::task_id;
use super::sink::Sink;
use super::{Bench, HOUR_MS};
use crate::api::to_cursor;
use crate::cli::client::{Remote, Server};
use crate::model::{Clock as _, Key, Span};
use crate::node::SystemClock;

const CLIENTS: u64 = 8;
/// The node is written to for so long before it is killed.
const LOAD: Duration = Duration::from_secs(3);
/// What falls due later is submitted before that within this time.
const PREPARE: Duration = Duration::from_secs(4);
/// Ids known before the kill and read after it: from so many places among all of them…
const SAMPLE_PLACES: u64 = 100;
/// …so many from each.
const SAMPLE_EACH: usize = 100;
/// So many tasks fall due while the node is down…
const OVERDUE: u64 = 500;
/// …so long after it is killed.
const OVERDUE_AFTER: Duration = Duration::from_millis(50);
/// They are lost if they have not come by then.
const OVERDUE_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at the receiver.
const LOOK: Duration = Duration::from_millis(2);
const GOAL: Duration = Duration::from_secs(2);
/// The last overdue call, after the node was ready.
const GOAL_OVERDUE: Duration = Duration::from_secs(1);

/// Kills and recovers at each step.
pub fn run(bench: &mut Bench) -> Result<()> {
    ensure!(
        bench.args.server.is_none(),
        "only a node of the bench's own is killed"
    );
    block_on_value(measure(bench))
}

async fn measure(bench: &mut Bench) -> Result<()> {
    let steps = steps(bench.args.pending);
    bench.progress.expect(steps.len());
    let mut filling = Filling::start(bench, "recover").await?;
    for (n, tasks) in steps.into_iter().enumerate() {
        bench.progress.step(format!("{tasks} pending, then killed"));
        filling.fill(tasks).await?;
        once(bench, &mut filling, n, tasks).await?;
    }
    filling.finish(bench).await
}

async fn once(bench: &mut Bench, filling: &mut Filling, round: usize, tasks: u64) -> Result<()> {
    let app = filling.books.app.clone();
    let sample = sample(&filling.target.server, &app, tasks).await?;
    let sink = Sink::start()?;
    let kill_at = Instant::now() + PREPARE + LOAD;
    let overdue = (PREPARE + LOAD + OVERDUE_AFTER).as_millis() as u64;
    let overdue = SystemClock::default().wall().0 + overdue;
    submit_overdue(filling, &app, &sink.url(), overdue).await?;
    ensure!(
        Instant::now() + LOAD / 2 < kill_at,
        "the machine is too slow: {OVERDUE} submits took more than {PREPARE:?}"
    );
    let url = format!("http://{}", filling.target.servers[0]);
    let due = SystemClock::default().wall().0 + 48 * HOUR_MS;
    let mut clients = JoinSet::new();
    for k in 0..CLIENTS {
        let server = Arc::new(client(&url)?);
        let submit = Submits {
            app: app.clone(),
            round,
            client: k,
            due,
        };
        clients.spawn(async move { submit.until_refused(&server).await });
    }
    #[allow(clippy::disallowed_methods)] // The load runs meanwhile.
    tokio::time::sleep_until(kill_at).await;
    let begin = Instant::now();
    filling.target.kill(1).await?;
    filling.target.start(1)?;
    filling.target.ready().await?;
    let ready = begin.elapsed();
    let arrived = arrive(&sink).await;
    filling.books.arrived += sink.tasks();
    filling.books.early += sink.arrivals().early;
    filling.books.duplicates += sink.arrivals().duplicates;
    if arrived.is_none() {
        let text = format!("{} of {OVERDUE} overdue tasks arrived", sink.tasks());
        bench.report.problems.push(text);
    }
    let mut answered: Vec<(u64, u64)> = Vec::new();
    while let Some(ended) = clients.join_next().await {
        answered.push(ended?);
    }
    // Whether the first unanswered one of each client was taken, nobody knows; now all do.
    for (k, count) in &answered {
        let submit = Submits {
            app: app.clone(),
            round,
            client: *k,
            due,
        };
        submit.send(&filling.target.server, *count).await?;
        filling.books.submitted += count + 1;
    }
    let books = filling.target.close(filling.books.clone()).await?;
    bench.report.problems.extend(books.problems());
    for id in &sample {
        let path = format!("/v1/tasks/{app}/{id}");
        let found = filling.target.server.get(&path).await;
        found.with_context(|| format!("{id} was there before the kill"))?;
    }
    let told: u64 = answered.iter().map(|(_, count)| count).sum();
    let what = format!(
        "kill to ready, {tasks} pending, {told} submits under way, {} ids read",
        sample.len()
    );
    let figure = Figure::new("S8", what)
        .rate(ready.as_secs_f64() * 1e3, "ms")
        .goal("≤ 2 s", ready <= GOAL);
    bench.report.figure(figure);
    if let Some(after) = arrived {
        let what = format!("ready to the last of {OVERDUE} overdue calls, {tasks} pending");
        let figure = Figure::new("S8", what)
            .rate(after.as_secs_f64() * 1e3, "ms")
            .goal("≤ 1 s", after <= GOAL_OVERDUE);
        bench.report.figure(figure);
    }
    Ok(())
}

/// Submits tasks that are due when the node is down.
async fn submit_overdue(filling: &mut Filling, app: &str, url: &str, due: u64) -> Result<()> {
    for number in 0..OVERDUE {
        let task = serde_json::json!({
            "app": app,
            "id": task_id(number, due),
            "due_at": due,
            "target": { "http": { "url": url } },
        });
        post(&filling.target.server, &task).await?;
    }
    filling.books.submitted += OVERDUE;
    Ok(())
}

/// Waits until all overdue tasks were called; how long that took.
async fn arrive(sink: &Sink) -> Option<Duration> {
    let begin = Instant::now();
    while begin.elapsed() < OVERDUE_WITHIN {
        if sink.tasks() >= OVERDUE {
            return Some(begin.elapsed());
        }
        #[allow(clippy::disallowed_methods)] // The bench looks from outside.
        tokio::time::sleep(LOOK).await;
    }
    None
}

async fn post(server: &Server, task: &serde_json::Value) -> Result<()> {
    let body = Some(task.to_string().into_bytes());
    server
        .call(Method::POST, "/v1/tasks", body, Span::ZERO)
        .await
        .map(drop)
}

fn client(url: &str) -> Result<Server> {
    Server::new(&Remote {
        server: url.to_owned(),
        token: None,
        json: false,
    })
}

/// Ids from all over those that were loaded, as a list shows them.
async fn sample(server: &Server, app: &str, tasks: u64) -> Result<Vec<String>> {
    let mut ids: Vec<String> = Vec::new();
    for place in 0..SAMPLE_PLACES {
        let before = task_id(tasks / SAMPLE_PLACES * place, 0);
        let before = Key::new(app, &before).map_err(|e| anyhow::anyhow!("{before}: {e}"))?;
        let cursor = to_cursor(&before);
        let path = format!("/v1/tasks?app={app}&limit={SAMPLE_EACH}&cursor={cursor}");
        let page = server.get(&path).await?.json;
        let tasks = page["tasks"].as_array().context("a page of tasks")?;
        ids.extend(
            tasks
                .iter()
                .filter_map(|task| task["id"].as_str())
                .map(str::to_owned),
        );
    }
    ids.sort_unstable();
    ids.dedup();
    ensure!(!ids.is_empty(), "the list is empty");
    Ok(ids)
}

/// One client's submits.
struct Submits {
    app: String,
    round: usize,
    client: u64,
    due: u64,
}

impl Submits {
    async fn send(&self, server: &Server, number: u64) -> Result<()> {
        let task = serde_json::json!({
            "app": self.app,
            "id": format!("r-{}-{}-{number}", self.round, self.client),
            "due_at": self.due,
            "target": { "http": { "url": "http://127.0.0.1:9/" } },
        });
        post(server, &task).await
    }

    /// Submits until an answer fails; how many were answered.
    async fn until_refused(self, server: &Server) -> (u64, u64) {
        let mut answered = 0;
        while self.send(server, answered).await.is_ok() {
            answered += 1;
        }
        (self.client, answered)
    }
}
