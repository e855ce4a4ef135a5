//! Applications: pause and resume their calls, and see which are paused.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

use super::auth::Principal;
use super::params::Params;
use super::problem::{INDEX_HEADER, Problem, ProblemView};
use super::write::{json, unasked};
use super::{Api, body};
use crate::model::limits::REASON_BYTES_MAX;
use crate::model::{Event, Key, Outcome, PauseApp, Paused, ResumeApp, Time};
use crate::raft::{Class, Decided};

/// Why an application is paused.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PauseRequest {
    /// For people, up to 512 bytes.
    pub reason: Option<String>,
}

/// An application.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = App)]
pub struct AppView {
    app: String,
    paused: bool,
    /// Since when, by whom, why, and where in the log: only of one that is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    since: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Apps {
    apps: Vec<AppView>,
}

impl AppView {
    fn new(app: &str, paused: Option<&Paused>) -> AppView {
        AppView {
            app: app.to_owned(),
            paused: paused.is_some(),
            since: paused.map(|paused| paused.at),
            by: paused.map(|paused| paused.by.to_string()),
            reason: paused.and_then(|paused| Some(paused.reason.as_ref()?.to_string())),
            index: paused.map(|paused| paused.index),
        }
    }
}

/// Stops calling the application's tasks. They are accepted, fall due and can be cancelled as
/// ever; calls that have begun end as they end. Paused again, it keeps its beginning.
#[utoipa::path(post, path = "/v1/apps/{app}/pause", tag = "apps", params(
    ("app" = String, Path),
), request_body(content = Option<PauseRequest>), responses(
    (status = 200, description = "It is paused", body = AppView),
    (status = 422, description = "A value is not acceptable", body = ProblemView),
))]
pub async fn pause(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    Path(app): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let request: PauseRequest = body::json_or_default(&headers, body).await?;
    let reason = request.reason.filter(|reason| !reason.is_empty());
    if reason.as_ref().is_some_and(|r| r.len() > REASON_BYTES_MAX) {
        let detail = format!("`reason`: longer than {REASON_BYTES_MAX} bytes");
        return Err(Problem::invalid(detail));
    }
    let app = checked(&app)?;
    let event = PauseApp {
        app: app.clone(),
        reason: reason.map(Into::into),
        by,
    };
    api.decide_app(&app, event.into()).await
}

/// Calls the application's tasks again: what fell due meanwhile at once, in order.
#[utoipa::path(post, path = "/v1/apps/{app}/resume", tag = "apps", params(
    ("app" = String, Path),
), responses(
    (status = 200, description = "It is not paused", body = AppView),
    (status = 422, description = "A value is not acceptable", body = ProblemView),
))]
pub async fn resume(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    Path(app): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let app = checked(&app)?;
    let event = ResumeApp {
        app: app.clone(),
        by,
    };
    api.decide_app(&app, event.into()).await
}

/// The applications that are paused, by name.
#[utoipa::path(get, path = "/v1/apps", tag = "apps", params(
    ("read" = Option<String>, Query, description = "`local`: at once, possibly stale"),
), responses((status = 200, body = Apps), (status = 503, body = ProblemView)))]
pub async fn list(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    let local = Params::read(&uri, &["read"])?.local_read()?;
    let cluster = api.reading(local).await?;
    let apps = cluster.state().read(|state| {
        let view = |(app, paused): (&Arc<str>, &Paused)| AppView::new(app, Some(paused));
        state.paused_apps().map(view).collect()
    });
    Ok(json(&Apps { apps }))
}

/// A name as tasks may have it.
fn checked(app: &str) -> Result<Arc<str>, Problem> {
    Ok(Key::new(app, "any")?.app)
}

impl Api {
    async fn decide_app(&self, app: &str, event: Event) -> Result<Response, Problem> {
        let mut decided = self.cluster()?.decide(Class::Cancel, vec![event]).await;
        let Decided { index, outcome } = decided.pop().ok_or_else(unasked)??;
        let paused = match outcome {
            Outcome::App(paused) => paused,
            Outcome::Refused(refusal) => return Err(Problem::refused(&refusal, index)),
            _ => return Err(unasked()),
        };
        let mut response = json(&AppView::new(app, paused.as_deref()));
        response.headers_mut().insert(INDEX_HEADER, index.into());
        Ok(response)
    }
}

/// What to add to the explanation of a task that is due and waits, at the end.
pub fn explain_pause(app: &str, paused: &Paused) -> String {
    let reason = match &paused.reason {
        Some(reason) => format!(", because: {reason}"),
        None => String::new(),
    };
    format!(
        "Its application {app} is paused since {} by {} (log index {}){reason}; it is called when \
         that is over.",
        paused.at, paused.by, paused.index
    )
}
