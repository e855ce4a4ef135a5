//! The consistency check, by hand.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

use super::Api;
use super::params::Params;
use super::problem::{Problem, ProblemView};
use super::write::json;
use crate::model::NodeId;
use crate::raft::{Found, Report};

/// What a check has come to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConsistencyCheck)]
pub struct CheckView {
    /// The node whose state was looked at.
    node: NodeId,
    /// The log index that it had folded.
    index: u64,
    /// Schedules that were looked at.
    schedules: u64,
    /// Tasks that were looked at: those in memory, and those in the store that are overdue.
    tasks: u64,
    findings: Vec<FindingView>,
    /// There were too many findings, and it did not look further: check again.
    more: bool,
    /// Milliseconds it took.
    took_ms: f64,
}

/// Something that did not fit.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConsistencyFinding)]
struct FindingView {
    what: String,
    /// The log has mended it; otherwise somebody has to look.
    mended: bool,
}

impl From<Report> for CheckView {
    fn from(report: Report) -> CheckView {
        let view = |Found { what, mended }| FindingView { what, mended };
        CheckView {
            node: report.node,
            index: report.index,
            schedules: report.schedules,
            tasks: report.tasks,
            findings: report.findings.into_iter().map(view).collect(),
            more: report.more,
            took_ms: report.took.as_micros() as f64 / 1_000.0,
        }
    }
}

/// Whether schedules, their ledgers, the tasks that are their runs, and the tasks that wait fit
/// together. What does not is mended by events, where it can be.
#[utoipa::path(post, path = "/v1/cluster/check", tag = "cluster",
    responses(
        (status = 200, description = "What was found, and what was done", body = CheckView),
        (status = 503, description = "No leader is known", body = ProblemView),
        (status = 504, description = "A repair is on its way still", body = ProblemView),
    ))]
pub async fn check(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let report = api.cluster()?.check().await?;
    Ok(json(&CheckView::from(report)))
}
