//! The router without a cluster: bad input must be refused before anybody would be asked.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::Value;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tower::ServiceExt;

use super::*;
use crate::model::Time;

struct Still;

impl Clock for Still {
    fn wall(&self) -> Time {
        Time(1_000)
    }
    fn wall_us(&self) -> u64 {
        1_000_000
    }
    fn steady(&self) -> Duration {
        Duration::ZERO
    }
}

fn api(settings: ApiSettings) -> Api {
    Api {
        cluster: Arc::new(OnceLock::new()),
        clock: Arc::new(Still),
        settings,
        metrics: Arc::new(Registry::default()),
        check_target: Arc::new(|http| match http.url.contains("169.254.") {
            true => Err("callbacks.allow does not name this address".into()),
            false => Ok(()),
        }),
        new_id: Arc::new(|| "0190".into()),
        targets: Arc::new(Vec::new),
        access: None,
    }
}

/// A router that keeps an access log.
pub fn logged(log: AccessLog) -> Router {
    let mut api = api(ApiSettings::default());
    api.access = Some(log);
    router(api)
}

fn plain() -> Router {
    router(api(ApiSettings::default()))
}

struct Answer {
    status: u16,
    headers: axum::http::HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }
}

async fn call(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        text: String::from_utf8_lossy(&bytes).into_owned(),
    }
}

async fn send(method: &str, path: &str, body: impl Into<Body>) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(body.into())
        .unwrap();
    call(&plain(), request).await
}

const GOOD: &str =
    r#"{"app":"shop","id":"order-17","delay":"5s","target":{"http":{"url":"http://a/"}}}"#;

#[tokio::test]
async fn a_good_request_reaches_the_cluster() {
    // There is none here: 503 means that nothing else was wrong.
    for (method, path, body) in [
        ("POST", "/v1/tasks", GOOD),
        ("GET", "/v1/tasks?app=shop&limit=5", ""),
        ("GET", "/v1/tasks/shop/order-17", ""),
        ("GET", "/v1/tasks/shop/order-17?read=local", ""),
        ("DELETE", "/v1/tasks/shop/order-17", ""),
        ("PATCH", "/v1/tasks/shop/order-17", r#"{"delay":"1s"}"#),
        ("POST", "/v1/tasks/shop/order-17/run?wait=10s", ""),
        ("POST", "/v1/tasks/shop/order-17/done", ""),
        ("GET", "/v1/tasks/shop/order-17/events", ""),
        ("GET", "/v1/tasks/shop/order-17/attempts", ""),
        ("GET", "/v1/tasks/shop/order-17/explain", ""),
        (
            "POST",
            "/v1/tasks/bulk",
            r#"{"filter":{"app":"shop"},"action":"change","change":{"delay":"1s"},"dry_run":true}"#,
        ),
        ("GET", "/v1/stats", ""),
        ("GET", "/v1/cluster", ""),
        ("POST", "/v1/cluster/nodes", r#"{"id":4,"peer":"a:1"}"#),
        ("DELETE", "/v1/cluster/nodes/4", ""),
        (
            "POST",
            "/v1/cluster/nodes/3/replace",
            r#"{"id":4,"peer":"a:1"}"#,
        ),
        ("POST", "/v1/cluster/lead", r#"{"node":2}"#),
        ("POST", "/v1/cluster/lead", "{}"),
        ("POST", "/v1/cluster/drain", r#"{"node":2,"drain":false}"#),
        ("POST", "/submit", r#"{"appId":"shop","url":"http://a/"}"#),
        (
            "POST",
            "/inner/submit",
            r#"{"appId":"shop","url":"http://a/"}"#,
        ),
        ("POST", "/api/task/done", r#"{"appId":"shop","uuid":"u"}"#),
        ("POST", "/done", r#"{"appId":"shop","uuid":"u"}"#),
        ("POST", "/execute", r#"{"appId":"shop","uuid":"u"}"#),
        ("GET", "/v1/shards", ""),
        ("GET", "/v1/shards/eu?app=shop&id=order-17", ""),
        ("PUT", "/v1/shards/eu", r#"{"total":12}"#),
        ("DELETE", "/v1/shards/eu", ""),
        ("POST", "/v1/shards/eu/fill", r#"{"window":"1m"}"#),
        ("POST", "/v1/shards/eu/pop?shard=3&limit=5", ""),
        ("POST", "/shard/create", r#"{"k":"eu","total":12}"#),
        ("POST", "/shard/fill", "{}"),
        ("GET", "/shard/pop?id=eu&shard=3&limit=5", ""),
        ("GET", "/readyz", ""),
    ] {
        let answer = send(method, path, body).await;
        assert_eq!(answer.status, 503, "{method} {path}: {}", answer.text);
        assert_eq!(answer.headers["retry-after"], "1", "{method} {path}");
    }
}

#[tokio::test]
async fn bad_input_is_refused_with_a_problem() {
    let deep = format!(r#"{{"app":{}1{}}}"#, "[".repeat(9_000), "]".repeat(9_000));
    let long = format!(
        r#"{{"app":"a","id":"{}","target":{{"http":{{"url":"http://a"}}}}}}"#,
        "x".repeat(129)
    );
    let url = |url: &str| format!(r#"{{"app":"a","target":{{"http":{{"url":"{url}"}}}}}}"#);
    for (method, path, body, status) in [
        ("POST", "/v1/tasks", "{", 400),
        ("POST", "/v1/tasks", "", 400),
        ("POST", "/v1/tasks", "{}", 422),
        ("POST", "/v1/tasks", &deep, 422),
        ("POST", "/v1/tasks", &long, 422),
        ("POST", "/v1/tasks", &url("ftp://a"), 422),
        ("POST", "/v1/tasks", &url("http://169.254.169.254/"), 422),
        ("POST", "/v1/tasks?dry=1", GOOD, 422),
        ("GET", "/v1/tasks?cursor=x", "", 422),
        ("GET", "/v1/tasks?limit=0", "", 422),
        ("GET", "/v1/tasks?limit=1001", "", 422),
        ("GET", "/v1/tasks?colour=red", "", 422),
        ("GET", "/v1/tasks/a/%20", "", 422),
        ("GET", "/v1/tasks/a/%FF", "", 400),
        ("GET", "/v1/tasks/a/b?read=maybe", "", 422),
        ("POST", "/v1/tasks/a/b/run?wait=2h", "", 422),
        ("POST", "/v1/tasks/a/b/run", r#"{"agian":true}"#, 422),
        ("POST", "/v1/tasks/a/b/done", r#"{"ok":"yes"}"#, 422),
        ("PATCH", "/v1/tasks/a/b", r#"{"due_at":1,"delay":1}"#, 422),
        ("GET", "/nowhere", "", 404),
        ("GET", "/v1/tasks/a/b/c/d", "", 404),
        ("PUT", "/v1/tasks/a/b", "", 405),
    ] {
        let answer = send(method, path, body.to_owned()).await;
        assert_eq!(
            answer.status, status,
            "{method} {path} {:.80}: {}",
            body, answer.text
        );
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.json()["status"], status);
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_are_refused() {
    let answer = send("POST", "/v1/tasks", b"{\"app\":\"\xff\"}".to_vec()).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
}

#[tokio::test]
async fn a_wrong_method_names_the_right_ones() {
    let answer = send("PUT", "/v1/tasks/a/b", "").await;
    let allow = answer.headers["allow"].to_str().unwrap();
    for method in ["GET", "DELETE", "PATCH"] {
        assert!(allow.contains(method), "{allow}");
    }
}

#[tokio::test]
async fn a_wrong_content_type_is_refused() {
    for path in ["/v1/tasks", "/v1/tasks/batch", "/submit"] {
        let request = Request::post(path).header("content-type", "text/plain");
        let answer = call(&plain(), request.body(Body::from(GOOD)).unwrap()).await;
        assert_eq!(answer.status, 415, "{path}");
    }
}

#[tokio::test]
async fn too_large_is_413() {
    let answer = send("POST", "/v1/tasks", vec![b' '; (1 << 20) + 1]).await;
    assert_eq!(answer.status, 413);
}

#[tokio::test]
async fn old_paths_keep_their_envelope() {
    let answer = send("GET", "/uuid", "").await;
    assert_eq!(
        (answer.status, answer.json()["code"].as_u64()),
        (200, Some(0))
    );
    assert_eq!(answer.json()["data"]["uuid"], "0190");
    for (method, path, body, status) in [
        ("POST", "/submit", "{", 400),
        ("POST", "/submit", "{}", 422),
        ("GET", "/submit", "", 405),
        ("POST", "/done", r#"{"appId":"a"}"#, 422),
    ] {
        let answer = send(method, path, body).await;
        let json = answer.json();
        assert_eq!(answer.status, status, "{path} {body}");
        assert_eq!(
            (&json["code"], &json["success"]),
            (&status.into(), &false.into())
        );
        assert!(json["message"].is_string());
    }
}

#[tokio::test]
async fn the_old_status_and_names_are_settings() {
    let settings = ApiSettings {
        compat: Compat {
            status: CompatStatus::Always200,
            fields: [("code".to_owned(), "errno".to_owned())].into(),
            ..Compat::default()
        },
        ..ApiSettings::default()
    };
    let request = Request::post("/submit").body(Body::from("{}")).unwrap();
    let answer = call(&router(api(settings)), request).await;
    assert_eq!(
        (answer.status, answer.json()["errno"].as_u64()),
        (200, Some(422))
    );
}

#[tokio::test]
async fn a_batch_answers_line_by_line() {
    let body = format!("{GOOD}\nnonsense\n\n{{}}\n{GOOD}");
    let request = Request::post("/v1/tasks/batch").header("content-type", "application/x-ndjson");
    let answer = call(&plain(), request.body(Body::from(body)).unwrap()).await;
    assert_eq!(answer.status, 200);
    let lines: Vec<Value> = answer
        .text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let statuses: Vec<_> = lines
        .iter()
        .map(|line| line["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [503, 400, 422, 503]);
    assert_eq!(lines[0]["id"], "order-17");
}

#[tokio::test]
async fn credentials_are_demanded() {
    let settings = ApiSettings {
        token: Some(Credential::new("t")),
        ..ApiSettings::default()
    };
    let router = router(api(settings));
    let get = |path: &str, token: &str| {
        let request = Request::get(path).header("authorization", format!("Bearer {token}"));
        request.body(Body::empty()).unwrap()
    };
    assert_eq!(call(&router, get("/livez", "")).await.status, 200);
    assert_eq!(call(&router, get("/openapi.json", "t")).await.status, 200);
    let refused = call(&router, get("/metrics", "x")).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.headers["www-authenticate"], "Bearer");
    assert_eq!(call(&router, get("/nowhere", "x")).await.status, 401);
    assert_eq!(call(&router, get("/uuid", "x")).await.json()["code"], 401);
}

#[tokio::test]
async fn pages_of_other_sites_cannot_write() {
    let request = Request::post("/v1/tasks/a/b/run").header("sec-fetch-site", "cross-site");
    let answer = call(&plain(), request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, 403);
}

/// The document's operations, as (method, path).
fn operations() -> Vec<(String, String)> {
    let (_, document) = routes::documented();
    let document: Value = serde_json::from_str(&document.to_json().unwrap()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let mut operations = Vec::new();
    for (path, item) in paths {
        for method in item.as_object().unwrap().keys() {
            operations.push((method.to_uppercase(), path.clone()));
        }
    }
    operations
}

#[tokio::test]
async fn every_described_operation_exists() {
    let operations = operations();
    assert_eq!(operations.len(), 60);
    for (method, path) in operations {
        let path = path.replace("{app}", "a").replace("{id}", "b");
        let path = path.replace("{name}", "c");
        let path = path.replace("{duty}", "load");
        let answer = send(&method, &path, "").await;
        assert!(
            ![404, 405].contains(&answer.status),
            "{method} {path}: {}",
            answer.status
        );
    }
}

#[test]
fn every_route_is_described() {
    // A route that is added past the description would have to name itself here.
    let source = include_str!("routes.rs");
    assert!(!source.contains(".route(") && !source.contains(".nest("));
    let described = operations();
    for path in old::PATHS {
        assert!(described.iter().any(|(_, known)| known == path), "{path}");
    }
}

#[tokio::test]
async fn references_of_the_document_resolve() {
    let answer = send("GET", "/openapi.json", "").await;
    let document = answer.json();
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(members) => open.extend(members.values()),
            _ => {}
        }
    }
}

#[test]
fn examples_of_the_contract_are_read() {
    for text in [
        GOOD,
        r#"{"app":"a","due_at":"2026-01-01T00:00:00Z","target":{"http":{"url":"http://a","body":null}}}"#,
        r#"{"app":"a","due_at":1767225600000,"target":{"http":{"url":"http://a","body":[1,{"b":2}]}},
            "retry":{"backoff":{"list":["1s","1m","1h"]}},"labels":{}}"#,
    ] {
        let submission: dto::Submission = body::parse(text.as_bytes()).unwrap();
        let (_, spec) = submission.split().unwrap();
        assert_eq!(spec.check(), Ok(()));
    }
}

/// Bits of JSON, of paths and of nonsense, in any order.
fn fragment() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "null",
        "true",
        "1e999",
        "-1",
        "\"app\"",
        "\"id\"",
        "\"target\":{\"http\":{\"url\":\"http://a\"}}",
        "\"delay\":\"1s\"",
        "\\u0000",
        "\u{feff}",
        "{\"app\":\"a\",",
        "\"labels\":{}",
        "}\n",
    ]);
    let bits = prop_oneof![3 => known.prop_map(str::to_owned), 1 => ".{0,12}"];
    prop::collection::vec(bits, 0..12).prop_map(|bits| bits.concat())
}

fn path() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "v1", "tasks", "batch", "run", "done", "events", "stats", "cluster", "nodes", "submit",
        "inner", "execute", "a", "%2e%2e", "%00", "%ff", "%", "~", "", "livez",
    ]);
    let query = prop::sample::select(vec![
        "",
        "?",
        "?limit=",
        "?limit=99999999999999999999",
        "?app=%ff",
        "?cursor=====",
        "?a=1&a=2",
        "?wait=1s",
        "?due_from=x",
        "?label.=1",
        "?read=local",
    ]);
    (prop::collection::vec(known, 0..6), query)
        .prop_map(|(parts, query)| format!("/{}{query}", parts.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_request_breaks_the_router(
        method in prop::sample::select(vec!["GET", "POST", "PATCH", "DELETE", "PUT", "OPTIONS"]),
        path in path(),
        body in fragment(),
    ) {
        static ROUTER: OnceLock<Router> = OnceLock::new();
        let router = ROUTER.get_or_init(plain);
        let Ok(request) = Request::builder().method(method).uri(&path).body(Body::from(body)) else {
            return Ok(());
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answer = runtime.block_on(call(router, request));
        // 503 is the cluster that is not there; nothing else may be the server's fault.
        let fine = answer.status < 500 || answer.status == StatusCode::SERVICE_UNAVAILABLE;
        prop_assert!(fine, "{} {}: {} {}", method, path, answer.status, answer.text);
        if (400..500).contains(&answer.status) {
            let json = answer.json();
            prop_assert!(json["status"] == answer.status || json["code"] == answer.status, "{}", answer.text);
        }
    }
}
