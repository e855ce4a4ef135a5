//! The description of the API that the running server serves.

use axum::Extension;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{InfoBuilder, OpenApi, SecurityRequirement};

/// The document, written once.
#[derive(Clone)]
pub struct Document(pub Bytes);

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "health",
    responses((status = 200, content_type = "application/json")))]
pub async fn document(Extension(Document(bytes)): Extension<Document>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// What the routes do not say themselves.
pub fn complete(document: &mut OpenApi) {
    document.info = InfoBuilder::new()
        .title("horolog")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "An event-sourced scheduler for delayed tasks. Any node takes any request. Every answer \
             to a write carries `Horolog-Index`. 429 and 503 mean surely no effect; 504 means that \
             the outcome is unknown: ask, or send the same again.",
        ))
        .build();
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "the client token; on the internal paths the cluster secret",
        ))
        .build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    let none: [&str; 0] = [];
    document.security = Some(vec![
        SecurityRequirement::new("bearer", none),
        SecurityRequirement::default(),
    ]);
}

/// The bytes that are served.
pub fn bytes(document: &OpenApi) -> Document {
    Document(document.to_json().unwrap_or_default().into())
}
