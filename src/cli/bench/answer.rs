//! The floor H: what any axum server on this machine would do that parses the same JSON and
//! answers as much, and stores nothing. In a process of its own, as the measured server is.

use anyhow::{Context as _, Result, bail};
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::facts::cpu_time;
use crate::cli::output::line;
use crate::model::Time;

/// A submit as the API reads it, member by member.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Submission {
    app: String,
    id: String,
    due_at: Time,
    target: Target,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Target {
    http: Http,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Http {
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<Box<RawValue>>,
}

/// A task as the API answers it.
#[derive(Serialize)]
struct Task {
    app: String,
    id: String,
    stage: &'static str,
    due_at: Time,
    attempt: u32,
    created_at: Time,
    finished_at: Option<Time>,
    shard: u16,
    owner: Option<u64>,
    index: u64,
    labels: BTreeMap<String, String>,
    target: Target,
}

/// The answer to a line of a batch.
#[derive(Serialize)]
struct Line {
    status: u16,
    id: String,
    index: u64,
}

async fn single(Json(given): Json<Submission>) -> impl IntoResponse {
    let task = Task {
        app: given.app,
        id: given.id,
        stage: "scheduled",
        due_at: given.due_at,
        attempt: 0,
        created_at: given.due_at,
        finished_at: None,
        shard: 1,
        owner: Some(1),
        index: 1,
        labels: given.labels.unwrap_or_default(),
        target: given.target,
    };
    (StatusCode::CREATED, Json(task))
}

async fn batch(body: Bytes) -> Result<impl IntoResponse, StatusCode> {
    let mut out = Vec::with_capacity(body.len() / 4);
    for text in body.split(|byte| *byte == b'\n').filter(|t| !t.is_empty()) {
        let given: Submission =
            serde_json::from_slice(text).map_err(|_| StatusCode::UNPROCESSABLE_ENTITY)?;
        let answer = Line {
            status: 201,
            id: given.id,
            index: given.due_at.0,
        };
        serde_json::to_writer(&mut out, &answer).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        out.push(b'\n');
    }
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], out))
}

/// The hidden verb: serves until standard input ends.
pub fn serve() -> Result<()> {
    std::thread::spawn(|| {
        // An error is an end as well.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(0);
    });
    let router = Router::new()
        .route("/v1/tasks", post(single))
        .route("/v1/tasks/batch", post(batch))
        .layer(DefaultBodyLimit::disable());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        line(&listener.local_addr()?.to_string());
        let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
            // As the API does; without it the answer is the same, later.
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, router).await?;
        Ok(())
    })
}

/// The process that serves the floor; ends when it is dropped.
pub struct AnswerServer {
    pub address: SocketAddr,
    child: Child,
}

impl AnswerServer {
    pub fn start() -> Result<AnswerServer> {
        let mut child = Command::new(std::env::current_exe().context("where is this program?")?)
            .args(["bench", "answer"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the server of the floor H")?;
        let mut text = String::new();
        if let Some(stdout) = child.stdout.take() {
            std::io::BufReader::new(stdout).read_line(&mut text)?;
        }
        let Ok(address) = text.trim().parse() else {
            bail!("the server of the floor H did not start: {text:?}");
        };
        Ok(AnswerServer { address, child })
    }

    /// The CPU time it has used.
    pub fn cpu(&self) -> Option<std::time::Duration> {
        cpu_time(self.child.id())
    }
}

impl Drop for AnswerServer {
    fn drop(&mut self) {
        // Its standard input ends, and so does it; it may have ended before.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
