//! `POST /v1/tasks/batch`: NDJSON in, NDJSON out, in the same order, a line at a time.
//!
//! Lines are gathered into chunks, and a few chunks are on their way to the log at once, so that
//! one client fills the pipeline. Answers are kept aside up to a bound: a client that sends all
//! before it reads anything must not wait for itself.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{Stream, StreamExt};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde::Serialize;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::auth::Principal;
use super::batch_lines::{Lines, Piece};
use super::dto::Submission;
use super::params::Params;
use super::problem::{Kind, Problem, ProblemView};
use super::write::written;
use super::{Api, body};
use crate::model::limits::BATCH_BODY_BYTES_MAX;
use crate::model::{By, Event, Key, Submit};
use crate::raft::{Busy, Class};

/// Lines that go to the log together.
const CHUNK_LINES: usize = 500;
/// Chunks of one request that are on their way at once.
const CHUNKS_IN_FLIGHT: usize = 4;
/// Chunks of answers that wait for the client to read them.
const CHUNKS_KEPT: usize = 256;

/// The answer to one line: this, or a problem.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct BatchLine {
    /// 201 when new, 200 when it existed with the same content.
    status: u16,
    id: String,
    index: u64,
}

/// A line, read and checked, or what is wrong with it.
type Checked = Result<Submit, Problem>;

/// Submits many tasks, one a line.
#[utoipa::path(post, path = "/v1/tasks/batch", tag = "tasks",
    request_body(content = Submission, content_type = "application/x-ndjson",
        description = "a task a line, up to 1 MiB each and 64 MiB together"),
    responses(
        (status = 200, description = "A `BatchLine` or a problem for each line, in order",
            body = BatchLine, content_type = "application/x-ndjson"),
        (status = 413, body = ProblemView), (status = 415, body = ProblemView),
    ))]
pub async fn batch(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    uri: Uri,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    if let Err(problem) = body::media_type(&headers, body::is_ndjson) {
        body::drain(&mut body).await;
        return Err(problem);
    }
    if body.size_hint().lower() > BATCH_BODY_BYTES_MAX as u64 {
        body::drain(&mut body).await;
        return Err(too_large());
    }
    let (sender, receiver) = mpsc::channel(CHUNKS_KEPT);
    let work = AbortOnDropHandle::new(tokio::spawn(work(api, by, body, sender)));
    let answers = futures::stream::unfold((receiver, work), |(mut receiver, work)| async move {
        let answer = receiver.recv().await?;
        Some((Ok::<_, Infallible>(answer), (receiver, work)))
    });
    let mut response = Response::new(Body::from_stream(answers));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    Ok(response)
}

pub fn too_large() -> Problem {
    let detail = format!("a batch has at most {BATCH_BODY_BYTES_MAX} bytes");
    Problem::new(Kind::TooLarge, detail)
}

/// Reads, decides and answers until the body ends or the client is gone.
async fn work(api: Arc<Api>, by: By, body: Body, sender: mpsc::Sender<Bytes>) {
    let chunks = chunks(&api, by, body);
    let mut answers = pin!(
        chunks
            .map(|chunk| decide(&api, chunk))
            .buffered(CHUNKS_IN_FLIGHT)
    );
    while let Some(answer) = answers.next().await {
        if sender.send(answer).await.is_err() {
            return;
        }
    }
}

/// Lines in chunks: full ones under load, small ones when the client pauses.
fn chunks(api: &Arc<Api>, by: By, body: Body) -> impl Stream<Item = Vec<Checked>> {
    let api = Arc::clone(api);
    futures::stream::unfold(Lines::new(body), move |mut lines| {
        let (api, by) = (Arc::clone(&api), by.clone());
        async move {
            let mut chunk = Vec::new();
            while chunk.len() < CHUNK_LINES {
                let piece = match lines.next(chunk.is_empty()).await {
                    Piece::Line(line) => checked(&api, &by, &line),
                    Piece::Bad(problem) => Err(problem),
                    Piece::Pause | Piece::End => break,
                };
                chunk.push(piece);
            }
            (!chunk.is_empty()).then_some((chunk, lines))
        }
    })
}

fn checked(api: &Api, by: &By, line: &[u8]) -> Checked {
    let submission: Submission = body::parse(line)?;
    let (app, id) = (submission.app.clone(), submission.id.clone());
    let about = |problem: Problem| match id.as_deref().map(|id| Key::new(&app, id)) {
        Some(Ok(key)) => problem.about(&key),
        _ => problem,
    };
    let (when, spec) = submission.split().map_err(about)?;
    api.submit_event(&app, id.as_deref(), when, &spec, by.clone())
        .map_err(about)
}

/// The answers to one chunk, as lines.
async fn decide(api: &Api, chunk: Vec<Checked>) -> Bytes {
    let events: Vec<Event> = chunk
        .iter()
        .filter_map(|line| line.as_ref().ok())
        .map(|submit| submit.clone().into())
        .collect();
    let answers = match api.cluster() {
        _ if events.is_empty() => Ok(Vec::new()),
        Ok(cluster) => Ok(cluster.decide(Class::Submit, events).await),
        Err(problem) => Err(problem),
    };
    let (mut answers, down) = match answers {
        Ok(answers) => (answers.into_iter(), None),
        Err(problem) => (Vec::new().into_iter(), Some(problem)),
    };
    let mut out = Vec::with_capacity(chunk.len() * 64);
    for line in chunk {
        let result = line.and_then(|submit| {
            let answer = match &down {
                Some(problem) => Err(problem.clone()),
                None => written(answers.next().unwrap_or(Err(Busy::Unknown))),
            };
            match answer {
                Ok(written) => Ok((submit.key, written)),
                Err(problem) => Err(problem.about(&submit.key)),
            }
        });
        append(&mut out, result);
    }
    out.into()
}

fn append(out: &mut Vec<u8>, result: Result<(Key, super::write::Written), Problem>) {
    match result {
        Err(problem) => out.extend_from_slice(&problem.json()),
        Ok((key, written)) => {
            let line = BatchLine {
                status: if written.new { 201 } else { 200 },
                id: key.id.to_string(),
                index: written.index,
            };
            out.extend_from_slice(&serde_json::to_vec(&line).unwrap_or_default());
        }
    }
    out.push(b'\n');
}

/// The next frame of a body, if it is there already or `wait` says to wait for it.
pub async fn next_frame(body: &mut Body, wait: bool) -> Option<Option<Result<Bytes, Problem>>> {
    loop {
        let frame = if wait {
            body.frame().await
        } else {
            futures::FutureExt::now_or_never(body.frame())?
        };
        match frame {
            None => return Some(None),
            Some(Err(error)) => return Some(Some(Err(body::broken(error)))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Some(Some(Ok(data)));
                }
            }
        }
    }
}
