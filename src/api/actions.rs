//! What can be done to a task from outside besides changing it: run it now, say how it ended.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;
use utoipa::ToSchema;

use super::auth::Principal;
use super::params::{Params, TaskKey};
use super::problem::{Problem, ProblemView};
use super::schema::AnyJson;
use super::view::TaskView;
use super::write::{Written, if_match};
use super::{Api, body};
use crate::model::limits::{ANSWER_KEPT_BYTES, ERROR_BYTES_MAX};
use crate::model::{By, Complete, Key, Run, Span};
use crate::raft::Class;

/// How to run a task now.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunRequest {
    /// Also when it is done.
    pub again: bool,
}

/// How a task ended. Nothing at all means: well.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DoneRequest {
    /// The attempt that is meant, as `Horolog-Fence` said.
    pub fence: Option<u64>,
    /// True unless it is said otherwise.
    pub ok: Option<bool>,
    pub error: Option<String>,
    #[schema(value_type = Option<AnyJson>)]
    pub result: Option<Box<RawValue>>,
}

/// Runs a task now.
#[utoipa::path(post, path = "/v1/tasks/{app}/{id}/run", tag = "tasks", params(
    ("app" = String, Path), ("id" = String, Path),
    ("wait" = Option<String>, Query, description = "answer once it is final, or after this long"),
), request_body(content = Option<RunRequest>), responses(
    (status = 200, description = "The task", body = TaskView),
    (status = 404, description = "There is no such task", body = ProblemView),
    (status = 409, description = "It runs, or is done", body = ProblemView),
))]
pub async fn run(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    TaskKey(key): TaskKey,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let wait = Params::read(&uri, &["wait"])?.span("wait", api.settings.wait_max)?;
    let request: RunRequest = body::json_or_default(&headers, body).await?;
    let event = Run {
        key: key.clone(),
        if_match: if_match(&headers)?,
        again: request.again,
        by,
    };
    let mut written = api.write(Class::Submit, event, &key).await?;
    if let Some(wait) = wait {
        api.wait(&mut written, wait).await?;
    }
    api.answer(StatusCode::OK, &written)
}

/// Says how a task ended.
#[utoipa::path(post, path = "/v1/tasks/{app}/{id}/done", tag = "tasks", params(
    ("app" = String, Path), ("id" = String, Path),
), request_body(content = Option<DoneRequest>), responses(
    (status = 200, description = "The task", body = TaskView),
    (status = 404, description = "There is no such task", body = ProblemView),
    (status = 409, description = "It ended otherwise, or the fence is stale", body = ProblemView),
))]
pub async fn done(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    TaskKey(key): TaskKey,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let request: DoneRequest = body::json_or_default(&headers, body).await?;
    let event = request.into_event(key.clone(), by);
    let written = api.write(Class::Outcome, event, &key).await?;
    api.answer(StatusCode::OK, &written)
}

impl DoneRequest {
    fn into_event(self, key: Key, by: By) -> Complete {
        let result = self.result.map(|raw| {
            let text = serde_json::from_str::<String>(raw.get());
            text.unwrap_or_else(|_| raw.get().to_owned())
        });
        Complete {
            key,
            fence: self.fence,
            asked: None,
            ok: self.ok.unwrap_or(true),
            error: self.error.map(|text| cut(&text, ERROR_BYTES_MAX).into()),
            result: result.map(|text| cut(&text, ANSWER_KEPT_BYTES).into()),
            mark: false,
            by,
        }
    }
}

/// The beginning of a text, at most so many bytes, whole characters.
fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Api {
    /// Replaces the task by what became of it, or by what it is at the deadline.
    pub(super) async fn wait(&self, written: &mut Written, wait: Span) -> Result<(), Problem> {
        let Some(task) = written.task.as_mut() else {
            return Ok(());
        };
        let cluster = self.cluster()?;
        let deadline = self.clock.steady() + wait.std();
        // This node may be behind: without the barrier it could still see an earlier ending.
        let caught_up = tokio::time::timeout(wait.std(), cluster.barrier()).await;
        if !matches!(caught_up, Ok(Ok(()))) {
            return Ok(());
        }
        let left = deadline.saturating_sub(self.clock.steady());
        let now = match cluster.finished(task.seq, left).await {
            Some(task) => Some(task),
            None => cluster.read(|state| state.task_by_seq(task.seq))?,
        };
        if let Some(now) = now {
            **task = now;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Complete {
        let request: DoneRequest = body::parse(text.as_bytes()).unwrap();
        request.into_event(Key::new("a", "b").unwrap(), "token".into())
    }

    #[test]
    fn nothing_means_well() {
        assert!(event("{}").ok);
        assert!(!event(r#"{"ok":false}"#).ok);
    }

    #[test]
    fn results_are_kept_as_text_and_cut() {
        assert_eq!(
            event(r#"{"result":"fine"}"#).result.as_deref(),
            Some("fine")
        );
        assert_eq!(
            event(r#"{"result":{"n": 1}}"#).result.as_deref(),
            Some(r#"{"n": 1}"#)
        );
        let long = event(&format!(r#"{{"error":"{}"}}"#, "ü".repeat(400)));
        assert_eq!(long.error.unwrap().len(), ERROR_BYTES_MAX);
    }
}
