//! A small HTTP client for the verbs that speak to a running server.

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::Span;

/// How long an answer is awaited, besides what `--wait` asks for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer: a page of a thousand large tasks.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Which server, and how to answer.
#[derive(Clone, Debug, Args)]
pub struct Remote {
    /// The server.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "HOROLOG_SERVER",
        default_value = "http://127.0.0.1:7400"
    )]
    pub server: String,
    /// The client token.
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "HOROLOG_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,
    /// Print what the server answered, as JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

/// A server to ask.
pub struct Server {
    base: String,
    token: Option<String>,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// What it answered.
pub struct Answer {
    pub text: String,
    pub json: Value,
}

impl Server {
    pub fn new(remote: &Remote) -> Result<Server> {
        let base = remote.server.trim_end_matches('/').to_owned();
        let uri: Uri = base.parse().with_context(|| format!("--server {base:?}"))?;
        if uri.scheme_str() != Some("http") || uri.authority().is_none() {
            bail!("--server {base:?}: write http://HOST:PORT");
        }
        Ok(Server {
            base,
            token: remote.token.clone(),
            client: Client::builder(TokioExecutor::new()).build(HttpConnector::new()),
        })
    }

    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.call(Method::GET, path, None, Span::ZERO).await
    }

    /// Sends a request; an answer that is no success is an error with the server's own words.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        wait: Span,
    ) -> Result<Answer> {
        let body = body.map(|bytes| ("application/json", bytes));
        self.send(method, path, body, wait).await
    }

    /// The same with lines of JSON.
    pub async fn ndjson(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        wait: Span,
    ) -> Result<Answer> {
        let body = Some(("application/x-ndjson", body));
        self.send(method, path, body, wait).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Vec<u8>)>,
        wait: Span,
    ) -> Result<Answer> {
        let uri = format!("{}{path}", self.base);
        let mut request = Request::builder().method(method).uri(&uri);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some((media_type, _)) = &body {
            request = request.header(header::CONTENT_TYPE, *media_type);
        }
        let bytes = body.map(|(_, bytes)| bytes).unwrap_or_default();
        let request = request.body(Full::from(bytes))?;
        let answered = tokio::time::timeout(PATIENCE + wait.std(), self.exchange(request));
        match answered.await {
            Ok(answer) => answer,
            Err(_) => Err(anyhow!(
                "{} gave no answer; the outcome is unknown",
                self.base
            )),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let unreachable = || format!("{} cannot be reached; is the server running?", self.base);
        let response = self
            .client
            .request(request)
            .await
            .with_context(unreachable)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
        let bytes = body
            .await
            .map_err(|error| anyhow!("the answer broke off: {error}"))?;
        let text = String::from_utf8(bytes.to_bytes().into()).context("the answer is no text")?;
        let json = lenient(&text, NESTED);
        if status.is_success() {
            return Ok(Answer { text, json });
        }
        let part = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        match (part("title"), part("detail")) {
            (title, _) if title.is_empty() => Err(anyhow!("the server answered {status}")),
            (title, detail) => Err(anyhow!("{title} ({}): {detail}", status.as_u16())),
        }
    }
}

/// A task's own parts lie within this depth.
pub const NESTED: usize = 6;

/// JSON as a value, where a part may be nested too deeply, or hold a number too large, to be one:
/// a task's body may be any JSON. Such a part becomes its text.
pub fn lenient(text: &str, depth: usize) -> Value {
    if let Ok(value) = serde_json::from_str(text) {
        return value;
    }
    if depth == 0 {
        return text.into();
    }
    if let Ok(members) = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(text) {
        let inner = |(name, part): (_, Box<RawValue>)| (name, lenient(part.get(), depth - 1));
        return Value::Object(members.into_iter().map(inner).collect());
    }
    match serde_json::from_str::<Vec<Box<RawValue>>>(text) {
        Ok(items) => items
            .iter()
            .map(|item| lenient(item.get(), depth - 1))
            .collect(),
        Err(_) => Value::Null,
    }
}

/// A path segment or a query value: what is not plain is percent-encoded.
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'~' | b'-' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_value_stays_text() {
        let deep = format!("{}1e400{}", "[".repeat(200), "]".repeat(200));
        let task = format!(r#"{{"id":"a","target":{{"http":{{"body":{deep}}}}}}}"#);
        let read = lenient(&task, NESTED);
        assert_eq!(read["id"], "a");
        assert!(read["target"]["http"]["body"].is_array());
        assert_eq!(lenient("no JSON", NESTED), Value::Null);
    }

    #[test]
    fn segments_are_encoded() {
        assert_eq!(encode("a.b_c~d-1"), "a.b_c~d-1");
        assert_eq!(encode("a/b c:ü"), "a%2Fb%20c%3A%C3%BC");
    }

    /// A server that answers canned JSON, until the sender goes.
    async fn serve() -> (Server, tokio::sync::oneshot::Sender<()>) {
        use axum::http::{HeaderMap, StatusCode};
        use axum::routing::get;
        let problem = r#"{"title":"There is no such task","status":404,"detail":"look elsewhere"}"#;
        let router = axum::Router::new()
            .route(
                "/who",
                get(|headers: HeaderMap| async move {
                    format!(
                        "{{\"bearer\":{:?}}}",
                        headers["authorization"].to_str().unwrap()
                    )
                }),
            )
            .route(
                "/gone",
                get(move || async move { (StatusCode::NOT_FOUND, problem) }),
            );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let limits = crate::api::serve::Limits::default();
        tokio::spawn(crate::api::serve::serve(listener, router, limits, async {
            let _ = stopped.await;
        }));
        let remote = Remote {
            server,
            token: Some("t".into()),
            json: false,
        };
        (Server::new(&remote).unwrap(), stop)
    }

    #[tokio::test]
    async fn answers_and_problems_come_through() {
        let (server, _stop) = serve().await;
        assert_eq!(server.get("/who").await.unwrap().json["bearer"], "Bearer t");
        let error = server.get("/gone").await.err().unwrap().to_string();
        assert_eq!(error, "There is no such task (404): look elsewhere");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named() {
        let remote = Remote {
            server: "http://127.0.0.1:1".into(),
            token: None,
            json: false,
        };
        let error = Server::new(&remote).unwrap().get("/").await.err().unwrap();
        assert!(
            error
                .to_string()
                .contains("http://127.0.0.1:1 cannot be reached")
        );
    }

    #[test]
    fn the_server_is_checked() {
        let server = |url: &str| {
            Server::new(&Remote {
                server: url.into(),
                token: None,
                json: false,
            })
            .map(|s| s.base)
        };
        assert_eq!(server("http://a:1/").unwrap(), "http://a:1");
        assert!(server("a:1").is_err() && server("https://a").is_err());
    }
}
