//! `bench recover`, S8: one node is killed while it is written to, and is back.
//!
//! Every submit that was answered before must be there afterwards; the one of each client that
//! was not is sent again, so that the books can be closed exactly.

use anyhow::{Context as _, Result, ensure};
use http::Method;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::floors::block_on_value;
use super::pending::{Filling, steps};
use super::report::Figure;
use super::{Bench, HOUR_MS};
use crate::cli::client::{Remote, Server};
use crate::model::{Clock as _, Span};
use crate::node::SystemClock;

const CLIENTS: u64 = 8;
/// The node is written to for so long before it is killed.
const LOAD: Duration = Duration::from_secs(3);
/// Ids known before the kill and read after it.
const SAMPLE: usize = 1_000;
const GOAL: Duration = Duration::from_secs(2);

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
    let sample = sample(&filling.target.server, &app).await?;
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
    tokio::time::sleep(LOAD).await;
    let begin = Instant::now();
    filling.target.kill_first().await?;
    let ready = begin.elapsed();
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
        "kill to ready, {tasks} pending, {told} submits since the last checkpoint or before, {} ids read",
        sample.len()
    );
    let figure = Figure::new("S8", what)
        .rate(ready.as_secs_f64() * 1e3, "ms")
        .goal("≤ 2 s", ready <= GOAL);
    bench.report.figure(figure);
    Ok(())
}

fn client(url: &str) -> Result<Server> {
    Server::new(&Remote {
        server: url.to_owned(),
        token: None,
        json: false,
    })
}

/// Ids of tasks that wait, as a list shows them.
async fn sample(server: &Server, app: &str) -> Result<Vec<String>> {
    let page = server
        .get(&format!("/v1/tasks?app={app}&limit={SAMPLE}"))
        .await?
        .json;
    let tasks = page["tasks"].as_array().context("a page of tasks")?;
    let ids = tasks.iter().filter_map(|task| task["id"].as_str());
    let ids: Vec<String> = ids.map(str::to_owned).collect();
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
        let body = Some(task.to_string().into_bytes());
        server
            .call(Method::POST, "/v1/tasks", body, Span::ZERO)
            .await
            .map(drop)
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
