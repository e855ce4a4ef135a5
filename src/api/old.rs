//! The old paths: the same events as `/v1`, in the old envelope.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::{Map, Value};
use std::sync::Arc;

use super::auth::Principal;
use super::old_fields::{CompatStatus, OldName, OldTask};
use super::problem::{INDEX_HEADER, Kind, Problem};
use super::write::{Written, json};
use super::{Api, body};
use crate::model::{By, Complete, Key, Run, Task};
use crate::raft::Class;

/// The paths that speak the envelope.
pub const PATHS: [&str; 6] = [
    "/submit",
    "/uuid",
    "/api/task/done",
    "/inner/submit",
    "/execute",
    "/done",
];

/// The old envelope.
#[derive(serde::Serialize, utoipa::ToSchema)]
#[schema(as = Envelope)]
pub struct Envelope {
    /// 0: well; otherwise the HTTP status that `/v1` would give.
    code: u16,
    success: bool,
    message: String,
    data: Option<Value>,
}

/// Submits a delayed task.
#[utoipa::path(post, path = "/submit", tag = "old paths", request_body = OldTask,
    responses((status = 200, body = Envelope), (status = "4XX", body = Envelope)))]
pub async fn submit(
    state: State<Arc<Api>>,
    principal: Extension<Principal>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    take(state, principal, headers, body).await
}

/// The same, with the cluster credential.
#[utoipa::path(post, path = "/inner/submit", tag = "old paths", request_body = OldTask,
    responses((status = 200, body = Envelope), (status = "4XX", body = Envelope)))]
pub async fn inner_submit(
    state: State<Arc<Api>>,
    principal: Extension<Principal>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    take(state, principal, headers, body).await
}

async fn take(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let bytes = body::checked(&headers, body).await?;
    let task: OldTask = api.settings.compat.parse(&bytes)?;
    if task.sync.is_some() {
        return Err(Problem::invalid(
            "unknown field `sync`: it belongs to /execute",
        ));
    }
    let (key, written) = api.submit_old(task, by).await?;
    Ok(api.envelope(written.index, vec![("uuid", key.id.to_string().into())]))
}

/// A fresh task id.
#[utoipa::path(get, path = "/uuid", tag = "old paths", responses((status = 200, body = Envelope)))]
pub async fn uuid(State(api): State<Arc<Api>>) -> Response {
    api.envelope(0, vec![("uuid", (api.new_id)().into())])
}

/// Marks a task done, also before its submit.
#[utoipa::path(post, path = "/api/task/done", tag = "old paths", request_body = OldName,
    responses((status = 200, body = Envelope), (status = "4XX", body = Envelope)))]
pub async fn task_done(
    state: State<Arc<Api>>,
    principal: Extension<Principal>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    mark(state, principal, headers, body).await
}

/// The same, with the cluster credential.
#[utoipa::path(post, path = "/done", tag = "old paths", request_body = OldName,
    responses((status = 200, body = Envelope), (status = "4XX", body = Envelope)))]
pub async fn inner_done(
    state: State<Arc<Api>>,
    principal: Extension<Principal>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    mark(state, principal, headers, body).await
}

async fn mark(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let bytes = body::checked(&headers, body).await?;
    let name: OldName = api.settings.compat.parse(&bytes)?;
    let key = Key::new(&name.app_id, &name.uuid)?;
    let event = Complete {
        key: key.clone(),
        fence: None,
        asked: None,
        ok: true,
        error: None,
        result: None,
        mark: true,
        by,
    };
    let written = api.write(Class::Outcome, event, &key).await?;
    Ok(api.envelope(written.index, vec![("uuid", key.id.to_string().into())]))
}

/// Runs a task now, by its name or as a whole; with `sync` the answer waits for the outcome.
#[utoipa::path(post, path = "/execute", tag = "old paths", request_body = OldTask,
    responses((status = 200, body = Envelope), (status = "4XX", body = Envelope)))]
pub async fn execute(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let bytes = body::checked(&headers, body).await?;
    let task: OldTask = api.settings.compat.parse(&bytes)?;
    let sync = task.sync.unwrap_or(false);
    let mut written = api.execute_old(task, by).await?;
    if sync {
        api.wait(&mut written, api.settings.wait_max).await?;
    }
    let data = written
        .task
        .as_ref()
        .map_or(vec![], |task| api.old_task(task));
    Ok(api.envelope(written.index, data))
}

impl Api {
    async fn submit_old(&self, task: OldTask, by: By) -> Result<(Key, Written), Problem> {
        let (app, id) = (task.app_id.clone(), task.uuid.clone());
        let (when, spec) = task.split()?;
        let event = self.submit_event(&app, id.as_deref(), when, &spec, by)?;
        let key = event.key.clone();
        let written = self.write(Class::Submit, event, &key).await?;
        Ok((key, written))
    }

    /// A whole task is submitted first; what its submit already set going is not refused.
    async fn execute_old(&self, task: OldTask, by: By) -> Result<Written, Problem> {
        let now = task.expire_time.is_none() && task.delay.is_none();
        let (key, submitted) = match (&task.url, &task.uuid) {
            (Some(_), _) => {
                let (key, written) = self.submit_old(task, by.clone()).await?;
                (key, Some(written))
            }
            (None, Some(uuid)) => (Key::new(&task.app_id, uuid)?, None),
            (None, None) => {
                return Err(Problem::invalid(
                    "name a task by `uuid`, or send a whole one",
                ));
            }
        };
        let fresh = match submitted {
            Some(written) if written.new && now => return Ok(written),
            Some(written) => written.new.then_some(written),
            None => None,
        };
        let event = Run {
            key: key.clone(),
            if_match: None,
            again: false,
            by,
        };
        match (self.write(Class::Submit, event, &key).await, fresh) {
            (Err(problem), Some(written)) if problem.kind == Kind::Stage => Ok(written),
            (other, _) => other,
        }
    }

    fn old_task(&self, task: &Task) -> Vec<(&'static str, Value)> {
        let (number, name) = self.settings.compat.stage(task.stage);
        vec![
            ("uuid", task.key.id.to_string().into()),
            ("stage", number.into()),
            ("stageName", name.into()),
        ]
    }

    /// A success; index 0 stands for an answer that is no write.
    fn envelope(&self, index: u64, data: Vec<(&'static str, Value)>) -> Response {
        let names = data.into_iter();
        let compat = &self.settings.compat;
        let data: Map<_, _> = names
            .map(|(name, v)| (compat.name(name).to_owned(), v))
            .collect();
        let mut response = self.wrap(0, "ok", Value::Object(data));
        if index != 0 {
            response.headers_mut().insert(INDEX_HEADER, index.into());
        }
        response
    }

    fn wrap(&self, code: u16, message: &str, data: Value) -> Response {
        let members = [
            ("code", code.into()),
            ("success", (code == 0).into()),
            ("message", message.into()),
            ("data", data),
        ];
        let compat = &self.settings.compat;
        let members: Map<_, _> = members
            .into_iter()
            .map(|(name, value)| (compat.name(name).to_owned(), value))
            .collect();
        json(&members)
    }
}

/// The middleware that puts a problem of an old path into the envelope, wherever it arose.
pub async fn envelope(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let old = PATHS.contains(&request.uri().path());
    let mut response = next.run(request).await;
    if !old {
        return response;
    }
    let Some(problem) = response.extensions_mut().remove::<Problem>() else {
        return response;
    };
    let data = match &problem.key {
        Some(key) => {
            let name = api.settings.compat.name("uuid").to_owned();
            Value::Object([(name, key.id.to_string().into())].into_iter().collect())
        }
        None => Value::Null,
    };
    let mut wrapped = api.wrap(problem.kind.parts().0, &problem.detail, data);
    *wrapped.status_mut() = match api.settings.compat.status {
        CompatStatus::Http => problem.status(),
        CompatStatus::Always200 => StatusCode::OK,
    };
    problem.set_headers(&mut wrapped);
    if let Some(allow) = response.headers().get("allow") {
        wrapped.headers_mut().insert("allow", allow.clone());
    }
    *wrapped.extensions_mut() = std::mem::take(response.extensions_mut());
    wrapped
}
