//! What a task asks for: where the callback goes, how it is retried, how long it may take.
//!
//! A [`Spec`] keeps what was sent and what was not, so that a repeated submit can be compared
//! with the first one; the defaults are given by its methods.

use bincode::{Decode, Encode};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::limits::*;
use super::{Cause, Digest, Invoke, Next, Placement, Retry, Span, Time};

/// When a task is due, as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Nothing was said: at once.
    Now,
    /// At an instant.
    At(Time),
    /// So long after the leader takes the submit.
    After(Span),
}

impl When {
    /// The due instant for a submit that the leader takes at `now`.
    pub fn resolve(self, now: Time) -> Time {
        match self {
            When::Now => now.min(Time::MAX),
            When::At(time) => time.min(Time::MAX),
            When::After(span) => now.plus(span),
        }
    }
}

/// Headers whose values are never shown.
pub const HEADERS_MASKED: [&str; 3] = ["authorization", "cookie", "x-api-key"];
/// What stands in their place.
pub const MASK: &str = "***";

/// A callback's body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    #[default]
    Empty,
    /// Text, sent as it is.
    Text(String),
    /// JSON, sent as it was written; sets `content-type: application/json` unless given.
    Json(String),
    /// Any bytes (`body_base64`).
    Bytes(#[serde(serialize_with = "super::shown::hex")] Vec<u8>),
}

/// An HTTP callback.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Http {
    /// Absent: `POST`.
    pub method: Option<String>,
    pub url: String,
    #[serde(serialize_with = "super::shown::headers")]
    pub headers: BTreeMap<String, String>,
    pub body: Body,
    pub timeout: Option<Span>,
}

/// A handler within a program that embeds a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Handled {
    /// `bean.method("a", 2L)`, as it was written: see [`Invoke`].
    pub invoke: String,
    /// A JSON object that goes with it.
    pub params: Option<String>,
    pub timeout: Option<Span>,
    /// What it is the run of.
    pub run_of: Option<RunOf>,
}

/// The occurrence of a schedule that a task is the run of.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct RunOf {
    pub schedule: String,
    /// Of its definition.
    pub version: u32,
    pub planned: Time,
    pub cause: Cause,
}

/// What is called when a task is due.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    Http(Http),
    Handler(Handled),
}

impl Target {
    /// The request, when it is one.
    pub fn http(&self) -> Option<&Http> {
        match self {
            Target::Http(http) => Some(http),
            Target::Handler(_) => None,
        }
    }

    /// The name of the handler, when one is called.
    pub fn handler(&self) -> Option<&str> {
        match self {
            Target::Http(_) => None,
            Target::Handler(handled) => Some(handled.name()),
        }
    }

    /// How long one attempt may take.
    pub fn timeout(&self) -> Span {
        let given = match self {
            Target::Http(http) => http.timeout,
            Target::Handler(handled) => handled.timeout,
        };
        given.unwrap_or(TIMEOUT_DEFAULT)
    }
}

/// All that a task says about itself but its ids and its instant.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Spec {
    /// Encoded first, so that [`Spec::labels_of`] reads nothing else.
    pub labels: BTreeMap<String, String>,
    pub target: Target,
    pub retry: Option<Retry>,
    pub accept_timeout: Option<Span>,
    /// Dead if no attempt has begun by then.
    pub expires_at: Option<Time>,
    /// Absent: as the node that owns it is set.
    pub placement: Option<Placement>,
    /// Encoded last: see [`Spec::starts_more`].
    pub next: Next,
}

/// What is wrong with a spec; says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {reason}")]
pub struct SpecError {
    /// The JSON path of the field.
    pub field: String,
    pub reason: String,
}

impl SpecError {
    pub fn new(field: &str, reason: impl Into<String>) -> SpecError {
        SpecError {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

impl Spec {
    /// The policy with its defaults.
    pub fn retry(&self) -> Retry {
        self.retry.clone().unwrap_or_default()
    }

    pub fn accept_timeout(&self) -> Span {
        self.accept_timeout.unwrap_or(ACCEPT_TIMEOUT_DEFAULT)
    }

    /// How long one attempt may take.
    pub fn timeout(&self) -> Span {
        self.target.timeout()
    }

    /// The form that is stored, replicated and hashed.
    pub fn encode(&self) -> Arc<[u8]> {
        super::batch::encode(self).into()
    }

    /// Reads [`Spec::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Spec, super::CodecError> {
        super::batch::decode(bytes)
    }

    /// The labels of an encoded spec, without reading the rest of it. Bytes that are no spec have
    /// none.
    pub fn labels_of(encoded: &[u8]) -> Vec<(&str, &str)> {
        // How many there are comes first; most tasks have none, and pay nothing.
        if encoded.starts_with(&[0; 8]) {
            return Vec::new();
        }
        super::batch::borrow_first(encoded).unwrap_or_default()
    }

    /// Whether the end of a task with this encoded spec starts another one, told without reading it.
    pub fn starts_more(encoded: &[u8]) -> bool {
        encoded.last() == Some(&1)
    }

    /// Looks at what is called by it and by all that may follow it.
    ///
    /// # Errors
    /// The first that `look` has.
    pub fn each_target<E>(&self, look: &mut dyn FnMut(&Target) -> Result<(), E>) -> Result<(), E> {
        look(&self.target)?;
        let Next {
            on_success,
            on_failure,
            ..
        } = &self.next;
        for template in [on_success, on_failure].into_iter().flatten() {
            if let Ok(spec) = Spec::decode(&template.spec) {
                spec.each_target(look)?;
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub fn count_targets(&self) -> usize {
        let mut count = 0;
        let _ = self.each_target::<()>(&mut |_| {
            count += 1;
            Ok(())
        });
        count
    }

    /// A hash of the content as sent: two submits with the same digest are the same submit.
    pub fn digest(encoded: &[u8], when: When) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(encoded);
        hasher.update(&super::batch::encode(&when));
        let mut digest = Digest::default();
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        digest
    }

    /// Checks every bound, so that nothing later has to.
    pub fn check(&self) -> Result<(), SpecError> {
        let mut left = TEMPLATES_MAX;
        self.check_with(&mut left)
    }

    /// `left`: so many may follow it.
    pub(super) fn check_with(&self, left: &mut usize) -> Result<(), SpecError> {
        self.next.check(left)?;
        match &self.target {
            Target::Http(http) => http.check()?,
            Target::Handler(handled) => handled.check()?,
        }
        if let Some(retry) = &self.retry {
            check_retry(retry)?;
        }
        if self.labels.len() > LABELS_MAX {
            return Err(SpecError::new(
                "labels",
                format!("at most {LABELS_MAX} are allowed"),
            ));
        }
        for (key, value) in &self.labels {
            if key.is_empty() || key.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX {
                let reason = format!("keys and values have 1 to {LABEL_BYTES_MAX} bytes");
                return Err(SpecError::new("labels", reason));
            }
        }
        Ok(())
    }
}

impl Http {
    /// The method with its default.
    pub fn method(&self) -> &str {
        self.method.as_deref().unwrap_or("POST")
    }

    fn check(&self) -> Result<(), SpecError> {
        let at = |field: &str| format!("target.http.{field}");
        let wrong = |field: &str, reason: String| Err(SpecError::new(&at(field), reason));
        if self.url.len() > URL_BYTES_MAX {
            return wrong(
                "url",
                format!("has {} bytes, at most {URL_BYTES_MAX}", self.url.len()),
            );
        }
        check_url(&self.url).or_else(|reason| wrong("url", reason))?;
        match http::Method::from_bytes(self.method().as_bytes()) {
            Ok(method) if method != http::Method::CONNECT && self.method().len() <= 32 => {}
            _ => return wrong("method", format!("{:?} is not a method", self.method())),
        }
        check_timeout(self.timeout).or_else(|reason| wrong("timeout", reason))?;
        if self.headers.len() > HEADERS_MAX {
            return wrong("headers", format!("at most {HEADERS_MAX} are allowed"));
        }
        for (name, value) in &self.headers {
            check_header(name, value).or_else(|reason| wrong("headers", reason))?;
        }
        Ok(())
    }

    /// The address, when the URL names one literally; resolved names are checked when they are
    /// connected to.
    pub fn literal_address(&self) -> Option<IpAddr> {
        let uri: http::Uri = self.url.parse().ok()?;
        uri.host()?.trim_matches(['[', ']']).parse().ok()
    }
}

impl Handled {
    /// What the handler is registered under: what stands before the arguments.
    pub fn name(&self) -> &str {
        self.invoke.split('(').next().unwrap_or_default().trim()
    }

    fn check(&self) -> Result<(), SpecError> {
        let wrong = |field: &str, reason: String| SpecError::new(field, reason);
        let parsed = self.invoke.parse::<Invoke>();
        parsed.map_err(|e| wrong("target.invoke", e.to_string()))?;
        check_timeout(self.timeout).map_err(|reason| wrong("target.timeout", reason))
    }
}

fn check_timeout(timeout: Option<Span>) -> Result<(), String> {
    match timeout.filter(|timeout| !(Span(1)..=TIMEOUT_MAX).contains(timeout)) {
        Some(timeout) => Err(format!("{timeout} is not within 1ms and {TIMEOUT_MAX}")),
        None => Ok(()),
    }
}

fn check_url(url: &str) -> Result<(), String> {
    let wrong = |why: &str| {
        Err(format!(
            "{url:?} {why}; write http://host/path or https://…"
        ))
    };
    let Ok(uri) = url.parse::<http::Uri>() else {
        return wrong("is not a URL");
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return wrong("has no http or https scheme");
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => wrong("carries credentials"),
        Some(authority) if authority.host().is_empty() => wrong("has no host"),
        Some(authority) if authority.as_str().ends_with(':') => wrong("has an empty port"),
        Some(_) => Ok(()),
        None => wrong("has no host"),
    }
}

/// Headers that the caller of a callback sets itself; a task's own would contradict the message.
const RESERVED: [&str; 8] = [
    "content-length",
    "transfer-encoding",
    "connection",
    "host",
    "upgrade",
    "te",
    "trailer",
    "expect",
];

fn check_header(name: &str, value: &str) -> Result<(), String> {
    let lower = name.to_ascii_lowercase();
    if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Err(format!("{name:?} is not a header name"));
    }
    if RESERVED.contains(&lower.as_str())
        || lower.starts_with("horolog-")
        || lower.starts_with("webhook-")
    {
        return Err(format!("{name:?} is set by the scheduler itself"));
    }
    if value.len() > HEADER_BYTES_MAX {
        return Err(format!(
            "{name:?} has {} bytes, at most {HEADER_BYTES_MAX}",
            value.len()
        ));
    }
    http::HeaderValue::from_str(value)
        .map(drop)
        .map_err(|_| format!("the value of {name:?} has characters that a header may not have"))
}

fn check_retry(retry: &Retry) -> Result<(), SpecError> {
    use super::Backoff;
    if let Some(attempts) = retry.attempts
        && !(1..=ATTEMPTS_MAX).contains(&attempts)
    {
        let reason = format!("{attempts} is not within 1 and {ATTEMPTS_MAX}");
        return Err(SpecError::new("retry.attempts", reason));
    }
    if retry.jitter_milli.is_some_and(|milli| milli > 10_000) {
        return Err(SpecError::new("retry.jitter", "is a number from 0 to 10"));
    }
    match &retry.backoff {
        Some(Backoff::List(spans)) if spans.is_empty() || spans.len() > BACKOFF_LIST_MAX => {
            let reason = format!("lists 1 to {BACKOFF_LIST_MAX} delays");
            Err(SpecError::new("retry.backoff.list", reason))
        }
        Some(Backoff::Exponential { factor_milli, .. })
            if !(1_000..=100_000).contains(factor_milli) =>
        {
            Err(SpecError::new(
                "retry.backoff.exponential.factor",
                "is a number from 1 to 100",
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(url: &str) -> Spec {
        Spec {
            target: Target::Http(Http {
                url: url.into(),
                ..Http::default()
            }),
            retry: None,
            accept_timeout: None,
            expires_at: None,
            labels: BTreeMap::new(),
            placement: None,
            next: Default::default(),
        }
    }

    #[test]
    fn urls_are_checked() {
        for good in [
            "http://a/",
            "https://a.b:8443/x?y=z",
            "http://[::1]:80/",
            "http://127.0.0.1",
        ] {
            assert_eq!(spec(good).check(), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a",
            "/a",
            "ftp://a/",
            "http://",
            "http://u:p@a/",
            "http://a b/",
            "http://a:/",
            "http:///x",
        ] {
            assert!(spec(bad).check().is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_that_would_contradict_the_message_are_refused() {
        for name in [
            "Content-Length",
            "Horolog-Fence",
            "webhook-id",
            "Host",
            "bad name",
        ] {
            let mut spec = spec("http://a/");
            let Target::Http(http) = &mut spec.target else {
                unreachable!("it was made so")
            };
            http.headers.insert(name.into(), "1".into());
            assert!(spec.check().is_err(), "{name}");
        }
    }

    #[test]
    fn handlers_are_named_by_what_stands_before_their_arguments() {
        let of = |invoke: &str, timeout| Spec {
            target: Target::Handler(Handled {
                invoke: invoke.into(),
                timeout,
                ..Handled::default()
            }),
            ..spec("http://a/")
        };
        for (written, name) in [
            ("demo.run", "demo.run"),
            (" demo.run ( ) ", "demo.run"),
            ("a.b.c('(', 2L)", "a.b.c"),
        ] {
            let spec = of(written, None);
            assert_eq!(spec.check(), Ok(()), "{written}");
            assert_eq!(spec.target.handler(), Some(name));
            assert_eq!(written.parse::<Invoke>().unwrap().name(), name);
        }
        let wrong = |spec: Spec| spec.check().unwrap_err().to_string();
        assert!(wrong(of("run(1)", None)).starts_with("`target.invoke`: column 1: run alone"));
        let long = of("a.b", Some(Span(TIMEOUT_MAX.0 + 1)));
        assert!(wrong(long).starts_with("`target.timeout`: "));
    }

    #[test]
    fn the_digest_tells_contents_and_instants_apart() {
        let (a, b) = (spec("http://a/").encode(), spec("http://b/").encode());
        let now = Spec::digest(&a, When::Now);
        assert_eq!(now, Spec::digest(&a, When::Now));
        assert_ne!(now, Spec::digest(&b, When::Now));
        assert_ne!(now, Spec::digest(&a, When::After(Span(0))));
        assert_ne!(
            Spec::digest(&a, When::After(Span(5))),
            Spec::digest(&a, When::At(Time(5)))
        );
    }

    #[test]
    fn labels_are_read_without_the_rest() {
        let mut spec = spec("http://a/");
        assert_eq!(Spec::labels_of(&spec.encode()), []);
        for labels in [
            vec![("a", "")],
            vec![("\0\0\0\0\0\0\0\0", "\0")],
            vec![("", "x"), ("order", "17"), ("ä", "ö")],
        ] {
            let owned = labels.iter().map(|(n, v)| (n.to_string(), v.to_string()));
            spec.labels = owned.collect();
            assert_eq!(Spec::labels_of(&spec.encode()), labels);
        }
        let whole = spec.encode();
        for cut in 0..8 {
            assert_eq!(Spec::labels_of(&whole[..cut]), []);
        }
        assert_eq!(Spec::labels_of(&[255; 64]), []);
    }

    #[test]
    fn literal_addresses_are_seen() {
        let literal = |url: &str| {
            let address = spec(url).target.http().and_then(Http::literal_address);
            address.map(|a| a.to_string())
        };
        assert_eq!(literal("http://127.0.0.1:80/"), Some("127.0.0.1".into()));
        assert_eq!(literal("http://[::1]/"), Some("::1".into()));
        assert_eq!(literal("http://localhost/"), None);
    }
}
