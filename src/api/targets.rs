//! The targets as this node sees them: breakers, places, what waits.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

use super::Api;
use super::params::Params;
use super::problem::{Problem, ProblemView};
use super::write::json;
use crate::executor::{BreakerState, TargetView};
use crate::model::{NodeId, Span};

/// A target that a node calls, or has called lately.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Target)]
pub struct TargetDto {
    /// `scheme://host:port`, or `handler:bean.method`
    target: String,
    /// `closed`; `open`: it failed too often and is left alone, and what is due there waits;
    /// `half_open`: few calls are let through, to see.
    breaker: &'static str,
    /// For how long it is left alone yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    tried_again_in: Option<Span>,
    /// Calls that ended in the breaker's window, and how many of them failed.
    calls: u32,
    failed: u32,
    /// Calls at once that it gets at present.
    places: usize,
    in_flight: usize,
    /// Due attempts that wait for it.
    queued: usize,
}

/// Each node judges for itself, by the calls that it makes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Targets {
    node: NodeId,
    targets: Vec<TargetDto>,
}

impl TargetDto {
    fn new(view: TargetView, steady: Duration) -> TargetDto {
        let tried_again_in = match view.breaker {
            BreakerState::Open { until } => Some(until.saturating_sub(steady).into()),
            _ => None,
        };
        TargetDto {
            target: view.target,
            breaker: view.breaker.name(),
            tried_again_in,
            calls: view.calls,
            failed: view.failed,
            places: view.places,
            in_flight: view.in_flight,
            queued: view.queued,
        }
    }
}

/// The targets of the node that is asked.
#[utoipa::path(get, path = "/v1/targets", tag = "cluster",
    responses((status = 200, body = Targets), (status = 503, body = ProblemView)))]
pub async fn list(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let node = api.cluster()?.node();
    let steady = api.clock.steady();
    let dto = |view| TargetDto::new(view, steady);
    let targets = (api.targets)().into_iter().map(dto).collect();
    Ok(json(&Targets { node, targets }))
}
