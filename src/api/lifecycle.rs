//! The regular duties, run by hand.

use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

use super::Api;
use super::params::Params;
use super::problem::{INDEX_HEADER, Kind, Problem, ProblemView};
use super::write::json;
use crate::model::NodeId;
use crate::raft::{Duty, Ran};

/// What one run did.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LifecycleRun)]
pub struct RunView {
    /// `load`, `watchdog`, `retire` or `checkpoint`
    duty: &'static str,
    /// The node that did it.
    node: NodeId,
    /// The log index that node had folded; for a checkpoint, up to which its store holds everything.
    index: u64,
    /// Tasks that were looked at.
    examined: u64,
    /// Tasks that were loaded, handed out again, dropped, or written to the store.
    handled: u64,
    /// Milliseconds it took.
    took_ms: f64,
}

impl RunView {
    fn new(duty: Duty, ran: Ran) -> RunView {
        RunView {
            duty: duty.name(),
            node: ran.node,
            index: ran.index,
            examined: ran.examined,
            handled: ran.handled,
            took_ms: ran.took_us as f64 / 1_000.0,
        }
    }
}

/// Runs a regular duty at once. `load` and `checkpoint` are done by the node that is asked,
/// `watchdog` and `retire` by the leader, wherever that is.
#[utoipa::path(post, path = "/v1/lifecycle/{duty}", tag = "cluster",
    params(("duty" = String, Path, description = "`load`: tasks that are due soon come into memory. \
        `watchdog`: due attempts that nobody holds are handed out again. `retire`: finished tasks \
        that are old enough leave. `checkpoint`: the state goes to the store")),
    responses(
        (status = 200, description = "It was done", body = RunView),
        (status = 404, description = "There is no such duty", body = ProblemView),
        (status = 503, description = "No leader is known; nothing was done", body = ProblemView),
        (status = 504, description = "It did not end in time, and may still", body = ProblemView),
    ))]
pub async fn run(
    State(api): State<Arc<Api>>,
    Path(duty): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let duty = Duty::named(&duty).ok_or_else(|| {
        let names = Duty::ALL.map(Duty::name).join(", ");
        Problem::new(
            Kind::NoRoute,
            format!("no duty is called {duty:?}: {names}"),
        )
    })?;
    let ran = api.cluster()?.run_duty(duty).await?;
    let mut response = json(&RunView::new(duty, ran));
    response
        .headers_mut()
        .insert(INDEX_HEADER, ran.index.into());
    Ok(response)
}
