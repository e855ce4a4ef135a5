//! A task by its name: submit, read, cancel, change.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use std::sync::Arc;

use super::auth::Principal;
use super::dto::Submission;
use super::params::{Params, TaskKey};
use super::patch::Patch;
use super::problem::{Kind, Problem, ProblemView};
use super::view::{TaskView, spec};
use super::write::if_match;
use super::{Api, body};
use crate::model::{Cancel, ChangeTask, IfMatch, Key, Refusal, Task};
use crate::raft::Class;

/// A change without `If-Match` is merged anew so often when the task changed meanwhile.
const MERGES_MAX: usize = 4;
/// Marks an answer that may be stale.
pub const READ_HEADER: &str = "horolog-read";

/// Submits a task.
#[utoipa::path(post, path = "/v1/tasks", tag = "tasks", request_body = Submission, responses(
    (status = 201, description = "A new task", body = TaskView),
    (status = 200, description = "The task existed with the same content", body = TaskView),
    (status = 409, description = "It exists with other content", body = ProblemView),
    (status = 422, description = "A value is not acceptable", body = ProblemView),
    (status = 504, description = "The outcome is unknown; the id is given", body = ProblemView),
))]
pub async fn submit(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let submission: Submission = body::json(&headers, body).await?;
    Params::read(&uri, &[])?;
    let (app, id) = (submission.app.clone(), submission.id.clone());
    let (when, spec) = submission.split()?;
    let event = api.submit_event(&app, id.as_deref(), when, &spec, by)?;
    let key = event.key.clone();
    let written = api.write(Class::Submit, event, &key).await?;
    let status = if written.new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut response = api.answer(status, &written)?;
    let location = format!("/v1/tasks/{}/{}", key.app, key.id);
    if let (true, Ok(location)) = (written.new, HeaderValue::from_str(&location)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Reads a task.
#[utoipa::path(get, path = "/v1/tasks/{app}/{id}", tag = "tasks", params(
    ("app" = String, Path), ("id" = String, Path),
    ("read" = Option<String>, Query, description = "`local`: at once, may be stale"),
), responses(
    (status = 200, description = "The task", body = TaskView),
    (status = 404, description = "There is no such task", body = ProblemView),
))]
pub async fn read(
    State(api): State<Arc<Api>>,
    TaskKey(key): TaskKey,
    uri: Uri,
) -> Result<Response, Problem> {
    let local = Params::read(&uri, &["read"])?.local_read()?;
    let task = api.task(&key, local).await?;
    Ok(label(api.task_response(&task)?, local))
}

/// Cancels a task that has not begun.
#[utoipa::path(delete, path = "/v1/tasks/{app}/{id}", tag = "tasks", params(
    ("app" = String, Path), ("id" = String, Path),
    ("if-match" = Option<String>, Header, description = "the version that is meant"),
), responses(
    (status = 200, description = "Cancelled: no attempt starts any more", body = TaskView),
    (status = 404, description = "There is no such task", body = ProblemView),
    (status = 409, description = "Too late", body = ProblemView),
    (status = 412, description = "It has changed since", body = ProblemView),
))]
pub async fn cancel(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    TaskKey(key): TaskKey,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let event = Cancel {
        key: key.clone(),
        if_match: if_match(&headers)?,
        withdrawn: None,
        by,
    };
    let written = api.write(Class::Cancel, event, &key).await?;
    api.answer(StatusCode::OK, &written)
}

/// Changes a task that has not begun: a merge patch.
#[utoipa::path(patch, path = "/v1/tasks/{app}/{id}", tag = "tasks", params(
    ("app" = String, Path), ("id" = String, Path),
    ("if-match" = Option<String>, Header, description = "the version the change is based on"),
), request_body = Patch, responses(
    (status = 200, description = "The task as it is now", body = TaskView),
    (status = 404, description = "There is no such task", body = ProblemView),
    (status = 409, description = "Too late", body = ProblemView),
    (status = 412, description = "It has changed since", body = ProblemView),
    (status = 422, description = "A value is not acceptable", body = ProblemView),
))]
pub async fn change(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    TaskKey(key): TaskKey,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let given = if_match(&headers)?;
    let bytes = body::checked(&headers, body).await?;
    for _ in 0..MERGES_MAX {
        let event = merge(&api, &key, body::parse(&bytes)?, given, by.clone()).await?;
        match api.write(Class::Cancel, event, &key).await {
            Err(problem) if problem.kind == Kind::Changed && given.is_none() => {}
            other => return api.answer(StatusCode::OK, &other?),
        }
    }
    let problem = Problem::new(Kind::Contended, "others change this task all the time");
    Err(Problem {
        retry_after: Some(1),
        ..problem.about(&key)
    })
}

/// The event that a patch comes to, seen from the task as it is now. Only a change of the
/// instant needs no look at the task.
async fn merge(
    api: &Api,
    key: &Key,
    patch: Patch,
    given: IfMatch,
    by: crate::model::By,
) -> Result<ChangeTask, Problem> {
    let mut event = ChangeTask {
        key: key.clone(),
        if_match: given,
        withdrawn: None,
        when: patch.when()?,
        spec: None,
        by,
    };
    if patch.touches_spec() {
        let task = api.task(key, false).await?;
        event.spec = Some(api.patched(&task, patch)?);
        event.if_match = given.or(Some((task.seq, task.version)));
    }
    Ok(event)
}

impl Api {
    /// The task's spec with a patch applied, checked and encoded.
    pub(super) fn patched(&self, task: &Task, patch: Patch) -> Result<Arc<[u8]>, Problem> {
        let mut spec = spec(task)?;
        patch.apply(&mut spec)?;
        self.check(&spec)?;
        Ok(spec.encode())
    }

    /// The task as it is now, or as this node knows it.
    pub(super) async fn task(&self, key: &Key, local: bool) -> Result<Task, Problem> {
        let cluster = self.reading(local).await?;
        let found = cluster.read(|state| state.task(key))?;
        found.ok_or_else(|| unknown(key))
    }
}

/// There is no such task.
pub fn unknown(key: &Key) -> Problem {
    Problem::new(Kind::UnknownTask, Refusal::Unknown.to_string()).about(key)
}

/// Says on the answer that it may be stale.
pub fn label(mut response: Response, local: bool) -> Response {
    if local {
        response
            .headers_mut()
            .insert(READ_HEADER, HeaderValue::from_static("local"));
    }
    response
}
