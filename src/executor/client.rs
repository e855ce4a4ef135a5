//! Callbacks over HTTP: the request as the task says, and as much of the answer as is kept.
//!
//! No redirect is followed: its target has not been submitted by anybody. A pooled connection
//! that turns out closed before anything was written is replaced, once or more; that is safe,
//! because the client hands the request back unsent. Anything else that breaks is a failed
//! attempt, since the receiver may have acted.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout_at};

use super::Settings;
use super::connector::{ConnectError, Connector};
use super::deliver::{Call, Delivered, Delivery, Failure, FailureKind};
use super::verdict::cut;
use crate::model::limits::{ANSWER_KEPT_BYTES, ANSWER_READ_BYTES};
use crate::model::{Body, Time};

/// Shorter than the five seconds after which common servers close an idle connection: a request
/// that meets such a close is a failed attempt.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// The real delivery. Cheap to share; pools its connections by target.
pub struct HttpDelivery {
    client: Client<Connector, Full<Bytes>>,
    user_agent: Option<HeaderValue>,
}

impl HttpDelivery {
    /// A client with this node's guard and name; https trusts the public authorities.
    pub fn new(settings: &Settings) -> HttpDelivery {
        HttpDelivery::trusting(settings, Vec::new())
    }

    /// The same, with further authorities, such as an operator's own.
    pub fn trusting(settings: &Settings, roots: Vec<CertificateDer<'static>>) -> HttpDelivery {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(settings.per_target)
            .build(Connector::new(settings.guard.clone(), roots));
        HttpDelivery {
            client,
            user_agent: HeaderValue::from_str(&settings.user_agent).ok(),
        }
    }
}

impl Delivery for HttpDelivery {
    fn deliver(&self, call: Call) -> BoxFuture<'static, Delivered> {
        let client = self.client.clone();
        let request = request(&call, self.user_agent.clone());
        Box::pin(async move {
            let request = match request {
                Ok(request) => request,
                Err(error) => {
                    let text = format!("the request cannot be written: {error}");
                    return Delivered::failed(FailureKind::Broken, text);
                }
            };
            let deadline = Instant::now() + call.timeout.std();
            let timed_out = || Failure {
                kind: FailureKind::Timeout,
                text: format!("timed out after {}", call.timeout),
            };
            match timeout_at(deadline, client.request(request)).await {
                Err(_) => Delivered {
                    failure: Some(timed_out()),
                    ..Delivered::default()
                },
                Ok(Err(error)) => Delivered {
                    failure: Some(describe(&error)),
                    ..Delivered::default()
                },
                Ok(Ok(response)) => read(response, deadline, timed_out).await,
            }
        })
    }
}

/// Reads the answer until its end, its bound or the deadline.
async fn read(
    response: http::Response<Incoming>,
    deadline: Instant,
    timed_out: impl Fn() -> Failure,
) -> Delivered {
    let (head, mut body) = response.into_parts();
    let mut kept = Vec::new();
    let mut size = 0;
    let mut failure = None;
    // Beyond the bound the connection is closed: reading on would only help the sender.
    while size <= ANSWER_READ_BYTES {
        match timeout_at(deadline, body.frame()).await {
            Err(_) => failure = Some(timed_out()),
            Ok(None) => break,
            Ok(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(&[][..], |bytes| bytes);
                size += bytes.len();
                let room = ANSWER_KEPT_BYTES - kept.len();
                kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Ok(Some(Err(error))) => {
                let text = format!("the answer broke off: {}", root(&error));
                let kind = FailureKind::Broken;
                failure = Some(Failure { kind, text });
            }
        }
        if failure.is_some() {
            break;
        }
    }
    let retry_after = head
        .headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    let answer = String::from_utf8_lossy(&kept);
    Delivered {
        status: head.status.as_u16(),
        retry_after: retry_after.map(Into::into),
        answer: (!kept.is_empty()).then(|| cut(&answer, ANSWER_KEPT_BYTES)),
        failure,
    }
}

/// The request, as the task and the contract of callbacks say.
fn request(
    call: &Call,
    user_agent: Option<HeaderValue>,
) -> Result<http::Request<Full<Bytes>>, http::Error> {
    let target = &call.http;
    let bytes = match &target.body {
        Body::Empty => Bytes::new(),
        Body::Text(text) | Body::Json(text) => Bytes::copy_from_slice(text.as_bytes()),
        Body::Bytes(bytes) => Bytes::copy_from_slice(bytes),
    };
    let mut request = http::Request::builder()
        .method(target.method())
        .uri(&target.url)
        .body(Full::new(bytes.clone()))?;
    let headers = request.headers_mut();
    for (name, value) in &target.headers {
        let name = HeaderName::from_bytes(name.as_bytes())?;
        headers.append(name, HeaderValue::from_str(value)?);
    }
    if matches!(target.body, Body::Json(_)) {
        let json = HeaderValue::from_static("application/json");
        headers.entry(CONTENT_TYPE).or_insert(json);
    }
    if let Some(user_agent) = user_agent {
        headers.entry(USER_AGENT).or_insert(user_agent);
    }
    headers.insert(CONTENT_LENGTH, bytes.len().into());
    for (name, value) in own_headers(call) {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_str(&value)?,
        );
    }
    Ok(request)
}

fn own_headers(call: &Call) -> [(&'static str, String); 8] {
    let Time(started) = call.started;
    [
        ("webhook-id", webhook_id(call)),
        ("webhook-timestamp", (started / 1000).to_string()),
        ("horolog-app", call.key.app.to_string()),
        ("horolog-task", call.key.id.to_string()),
        ("horolog-attempt", call.fence.attempt.to_string()),
        ("horolog-due", call.due.to_string()),
        ("horolog-fence", call.fence.number().to_string()),
        ("horolog-node", call.node.to_string()),
    ]
}

/// The same for every attempt of a task, and another for another task, also of another cluster
/// that calls the same receiver. Without a dot, which separates parts when webhooks are signed.
fn webhook_id(call: &Call) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(call.key.app.as_bytes())
        .update(&[0])
        .update(call.key.id.as_bytes());
    let hash = hasher.finalize().to_hex();
    format!("task_{}_{}", &hash[..16], call.seq.0)
}

/// What went wrong, in a few words.
fn describe(error: &hyper_util::client::legacy::Error) -> Failure {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(connect) = error.downcast_ref::<ConnectError>() {
            let kind = if connect.denied {
                FailureKind::Denied
            } else {
                FailureKind::Connect
            };
            let text = connect.text.clone();
            return Failure { kind, text };
        }
        cause = error.source();
    }
    Failure {
        kind: if error.is_connect() {
            FailureKind::Connect
        } else {
            FailureKind::Broken
        },
        text: format!("the exchange broke off: {}", root(error)),
    }
}

/// The innermost cause, which is the one that says something.
fn root(error: &(dyn Error + 'static)) -> String {
    let mut root = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    root.to_string()
}
