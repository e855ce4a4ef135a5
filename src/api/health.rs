//! Is it there, is it ready, how is it doing.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use std::sync::Arc;

use super::Api;
use super::problem::{Kind, Problem, ProblemView};
use super::write::json;

/// The process answers.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200)))]
pub async fn livez() -> Response {
    json(&serde_json::json!({ "live": true }))
}

/// A leader is known and this node has caught up.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200), (status = 503, description = "Not yet, and why", body = ProblemView)))]
pub async fn readyz(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let cluster = api.cluster()?;
    cluster.ready().map_err(|reason| Problem {
        retry_after: Some(1),
        ..Problem::new(Kind::NotReady, reason)
    })?;
    let (free, low) = cluster.disk();
    Ok(json(&match low {
        false => serde_json::json!({ "ready": true }),
        // It still serves all but submits, and so may every other node.
        true => serde_json::json!({
            "ready": true,
            "warning": format!(
                "the disk is nearly full ({free} bytes free): no tasks are taken until there is room"
            ),
        }),
    }))
}

/// OpenMetrics.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, content_type = "application/openmetrics-text")))]
pub async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &api.metrics)
        .map_err(|_| Problem::new(Kind::Fault, "the metrics cannot be written"))?;
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
    );
    Ok(response)
}
