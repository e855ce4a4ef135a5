//! What callers send: a task and a change of one, and how they become the model's types.
//!
//! Unknown members are refused: a misspelt `dleay` that is ignored is a task that fires at once.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use utoipa::ToSchema;

use super::body::{maybe_object, object};
use super::problem::Problem;
use super::schema::AnyJson;
use crate::model::{
    Backoff, Body, Handled, Http, Next, Placement, Retry, Span, Spec, SpecError, Target, Template,
    Time, When,
};

/// A task to be done later. `due_at` and `delay` exclude each other; neither means now.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// 1–64 characters of `A–Z a–z 0–9 . _ ~ : -`.
    #[schema(example = "shop")]
    pub app: String,
    /// 1–128 such characters; missing, it becomes a UUIDv7.
    #[schema(example = "order-17")]
    pub id: Option<String>,
    pub due_at: Option<Time>,
    pub delay: Option<Span>,
    #[serde(deserialize_with = "object")]
    pub target: TargetDto,
    #[serde(default, deserialize_with = "maybe_object")]
    pub retry: Option<RetryDto>,
    /// How long a completion is awaited after a 202; 1 h by default.
    pub accept_timeout: Option<Span>,
    /// Dead if no attempt has begun by then.
    pub expires_at: Option<Time>,
    pub labels: Option<BTreeMap<String, String>>,
    /// Which node carries it out; as the nodes are set when missing.
    pub placement: Option<Placement>,
    /// A task that is started when this one is done.
    #[serde(default, deserialize_with = "maybe_object")]
    pub on_success: Option<Box<TemplateDto>>,
    /// A task that is started when this one is dead.
    #[serde(default, deserialize_with = "maybe_object")]
    pub on_failure: Option<Box<TemplateDto>>,
}

/// A task that the end of another one starts.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[schema(as = NextTask)]
#[serde(deny_unknown_fields)]
pub struct TemplateDto {
    /// That of the task before it when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// That of the task before it, and `:done` or `:dead`, when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// It is due so long after the end of the task before it; at once when missing.
    pub delay: Option<Span>,
    #[serde(deserialize_with = "object")]
    pub target: TargetDto,
    #[serde(default, deserialize_with = "maybe_object")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryDto>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_timeout: Option<Span>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    #[serde(default, deserialize_with = "maybe_object")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(no_recursion)]
    pub on_success: Option<Box<TemplateDto>>,
    #[serde(default, deserialize_with = "maybe_object")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(no_recursion)]
    pub on_failure: Option<Box<TemplateDto>>,
}

/// What is called: `http`, or `invoke`.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetDto {
    #[serde(default, deserialize_with = "maybe_object")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpDto>,
    /// `bean.method("a", true, 2L, 3D, 4)`: a handler in a program that embeds a node.
    #[schema(example = "demoTask.run(\"a\", 2L)")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invoke: Option<String>,
    /// An object for the handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub params: Option<Box<RawValue>>,
    /// For the handler: 10 s by default, at most 15 min.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
}

/// An HTTP callback. A string as `body` is sent as text, any other JSON as it was written.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpDto {
    /// `POST` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[schema(example = "http://127.0.0.1:9000/hook")]
    pub url: String,
    /// The values of `authorization`, `cookie` and `x-api-key` are answered as `***`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<AnyJson>)]
    pub body: Option<Box<RawValue>>,
    /// Any bytes, in place of `body`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// 10 s by default, at most 15 min.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
}

/// When a failed task is tried again.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryDto {
    /// All tries that may end, the first included; 3 by default.
    pub attempts: Option<u32>,
    pub backoff: Option<BackoffDto>,
    /// A delay is multiplied by a factor between 1 and 1 + jitter; 0.1 by default.
    pub jitter: Option<f64>,
    /// No attempt begins later than this after the due instant.
    pub max_age: Option<Span>,
}

/// The delay before the next attempt.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum BackoffDto {
    Exponential { first: Span, factor: f64, max: Span },
    Fixed(Span),
    Linear { first: Span, step: Span, max: Span },
    List(Vec<Span>),
}

impl Submission {
    /// The instant, and everything else, unchecked.
    pub fn split(self) -> Result<(When, Spec), Problem> {
        let when = when(self.due_at, self.delay)?.unwrap_or(When::Now);
        let spec = Spec {
            target: self.target.into_target()?,
            retry: self.retry.map(RetryDto::into_retry).transpose()?,
            accept_timeout: self.accept_timeout,
            expires_at: self.expires_at,
            labels: self.labels.unwrap_or_default(),
            placement: self.placement,
            next: next(self.on_success, self.on_failure)?,
        };
        Ok((when, spec))
    }
}

/// What follows a task.
pub(super) fn next(
    on_success: Option<Box<TemplateDto>>,
    on_failure: Option<Box<TemplateDto>>,
) -> Result<Next, SpecError> {
    let read = |name: &str, given: Option<Box<TemplateDto>>| {
        let within = |e: SpecError| SpecError::new(&format!("{name}.{}", e.field), e.reason);
        given
            .map(|dto| dto.into_template().map_err(within))
            .transpose()
    };
    Ok(Next::new(
        read("on_success", on_success)?,
        read("on_failure", on_failure)?,
    ))
}

impl TemplateDto {
    fn into_template(self) -> Result<Template, SpecError> {
        let spec = Spec {
            target: self.target.into_target()?,
            retry: self.retry.map(RetryDto::into_retry).transpose()?,
            accept_timeout: self.accept_timeout,
            expires_at: None,
            labels: self.labels,
            placement: self.placement,
            next: next(self.on_success, self.on_failure)?,
        };
        Ok(Template {
            app: self.app,
            id: self.id,
            delay: self.delay.unwrap_or_default(),
            spec: spec.encode(),
        })
    }
}

/// `due_at` or `delay`, not both.
pub fn when(due_at: Option<Time>, delay: Option<Span>) -> Result<Option<When>, Problem> {
    match (due_at, delay) {
        (Some(_), Some(_)) => Err(Problem::invalid("give `due_at` or `delay`, not both")),
        (Some(time), None) => Ok(Some(When::At(time))),
        (None, Some(span)) => Ok(Some(When::After(span))),
        (None, None) => Ok(None),
    }
}

impl TargetDto {
    pub(super) fn into_target(self) -> Result<Target, SpecError> {
        let wrong = |reason: &str| Err(SpecError::new("target", reason));
        match (self.http, self.invoke) {
            (Some(http), None) => match (&self.params, self.timeout) {
                (None, None) => Ok(Target::Http(http.into_http()?)),
                _ => wrong(
                    "`params` goes with `invoke`; the `timeout` of a request stands within `http`",
                ),
            },
            (None, Some(invoke)) => Ok(Target::Handler(Handled {
                invoke,
                params: self.params.as_deref().map(params).transpose()?,
                timeout: self.timeout,
                run_of: None,
            })),
            _ => wrong("give `http` or `invoke`, one of them"),
        }
    }
}

/// What goes with an invocation, as it was written.
pub(super) fn params(raw: &RawValue) -> Result<String, SpecError> {
    let text = raw.get().trim();
    match text.starts_with('{') {
        true => Ok(text.to_owned()),
        false => Err(SpecError::new("params", "is an object")),
    }
}

impl HttpDto {
    pub(super) fn into_http(self) -> Result<Http, SpecError> {
        Ok(Http {
            body: body(self.body.as_deref(), self.body_base64.as_deref())?,
            method: self.method,
            url: self.url,
            headers: self.headers,
            timeout: self.timeout,
        })
    }
}

/// At most one of the two forms of a body.
pub fn body(json: Option<&RawValue>, base64: Option<&str>) -> Result<Body, SpecError> {
    let wrong = |field: &str, reason: &str| Err(SpecError::new(field, reason));
    match (json, base64) {
        (Some(_), Some(_)) => wrong("target.http.body", "give `body` or `body_base64`, not both"),
        (None, None) => Ok(Body::Empty),
        (None, Some(text)) => match STANDARD.decode(text) {
            Ok(bytes) => Ok(Body::Bytes(bytes)),
            Err(_) => wrong(
                "target.http.body_base64",
                "is not standard base64 with padding",
            ),
        },
        (Some(raw), None) if raw.get().starts_with('"') => match serde_json::from_str(raw.get()) {
            Ok(text) => Ok(Body::Text(text)),
            Err(_) => wrong("target.http.body", "has a broken escape"),
        },
        (Some(raw), None) => Ok(Body::Json(raw.get().to_owned())),
    }
}

impl RetryDto {
    pub fn into_retry(self) -> Result<Retry, SpecError> {
        let jitter = |jitter| thousandths("retry.jitter", jitter);
        Ok(Retry {
            attempts: self.attempts,
            backoff: self.backoff.map(BackoffDto::into_backoff).transpose()?,
            jitter_milli: self.jitter.map(jitter).transpose()?,
            max_age: self.max_age,
        })
    }
}

impl BackoffDto {
    pub fn into_backoff(self) -> Result<Backoff, SpecError> {
        Ok(match self {
            BackoffDto::Fixed(span) => Backoff::Fixed(span),
            BackoffDto::Linear { first, step, max } => Backoff::Linear { first, step, max },
            BackoffDto::List(spans) => Backoff::List(spans),
            BackoffDto::Exponential { first, factor, max } => Backoff::Exponential {
                first,
                factor_milli: thousandths("retry.backoff.exponential.factor", factor)?,
                max,
            },
        })
    }
}

/// Below the log arithmetic is on integers only, so that every replica agrees.
fn thousandths(field: &str, number: f64) -> Result<u32, SpecError> {
    let milli = (number * 1_000.0).round();
    if (0.0..=f64::from(u32::MAX)).contains(&milli) {
        return Ok(milli as u32);
    }
    Err(SpecError::new(field, format!("{number} is out of range")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Result<(When, Spec), Problem> {
        crate::api::body::parse::<Submission>(text.as_bytes())?.split()
    }

    fn body_of(body: &str) -> Body {
        let text = format!(r#"{{"app":"a","target":{{"http":{{"url":"http://a",{body}}}}}}}"#);
        let spec = split(&text).unwrap().1;
        spec.target.http().unwrap().body.clone()
    }

    #[test]
    fn the_contracts_example_is_read() {
        let (when, spec) = split(
            r#"{"app":"shop","id":"order-17","delay":"1h30m","target":{"http":{"method":"PUT",
            "url":"http://127.0.0.1/x","headers":{"a":"b"},"body":{"x": 1.0},"timeout":"10s"}},
            "retry":{"attempts":5,"backoff":{"exponential":{"first":"1s","factor":2,"max":"10m"}},
            "jitter":0.1,"max_age":"1d"},"accept_timeout":"1h","expires_at":4102444800000,
            "labels":{"order":"17"}}"#,
        )
        .unwrap();
        assert_eq!(when, When::After(Span::minutes(90)));
        assert_eq!(spec.check(), Ok(()));
        let retry = spec.retry();
        assert_eq!((retry.attempts, retry.jitter_milli), (Some(5), Some(100)));
        assert_eq!(retry.backoff, Some(Backoff::DEFAULT));
    }

    #[test]
    fn every_back_off_is_read() {
        for (text, backoff) in [
            (r#"{"fixed":"5s"}"#, Backoff::Fixed(Span(5_000))),
            (
                r#"{"list":["1s","1m",3]}"#,
                Backoff::List(vec![Span(1_000), Span(60_000), Span(3)]),
            ),
            (
                r#"{"linear":{"first":"1s","step":"2s","max":"1m"}}"#,
                Backoff::Linear {
                    first: Span(1_000),
                    step: Span(2_000),
                    max: Span(60_000),
                },
            ),
        ] {
            let dto: BackoffDto = serde_json::from_str(text).unwrap();
            assert_eq!(dto.into_backoff().unwrap(), backoff);
        }
        assert!(serde_json::from_str::<BackoffDto>(r#"{"fixed":"5s","list":[]}"#).is_err());
        assert!(
            serde_json::from_str::<BackoffDto>(r#"{"linear":{"first":1,"step":1,"max":1,"x":1}}"#)
                .is_err()
        );
    }

    #[test]
    fn bodies_keep_what_was_written() {
        assert_eq!(
            body_of(r#""body": { "b":1,  "a":1.50 }"#),
            Body::Json(r#"{ "b":1,  "a":1.50 }"#.into())
        );
        assert_eq!(body_of(r#""body":"tä\n""#), Body::Text("tä\n".into()));
        assert_eq!(
            body_of(r#""body_base64":"AP8=""#),
            Body::Bytes(vec![0, 255])
        );
        assert_eq!(body_of(r#""body":null"#), Body::Empty);
    }

    #[test]
    fn a_handler_is_a_target_too() {
        let text = r#"{"app":"a","target":{"invoke":"demo.run('x', 2L)","params":{"n": 1},"timeout":"3s"}}"#;
        let (_, spec) = split(text).unwrap();
        assert_eq!(spec.check(), Ok(()));
        assert_eq!(spec.timeout(), Span(3_000));
        let Target::Handler(handled) = spec.target else {
            panic!("a handler")
        };
        assert_eq!(handled.name(), "demo.run");
        assert_eq!(handled.params.as_deref(), Some(r#"{"n": 1}"#));
    }

    #[test]
    fn what_follows_is_read_and_its_faults_are_named_by_their_place() {
        let target = r#""target":{"http":{"url":"http://a"}}"#;
        let text = format!(
            r#"{{"app":"a",{target},"on_success":{{"delay":"5s",{target},"on_failure":{{"id":"x",{target}}}}}}}"#
        );
        let (_, spec) = split(&text).unwrap();
        assert_eq!(spec.check(), Ok(()));
        let first = spec.next.on_success.as_ref().unwrap();
        assert_eq!((first.delay, &first.id), (Span(5_000), &None));
        let second = Spec::decode(&first.spec).unwrap().next.on_failure.unwrap();
        assert_eq!(second.id.as_deref(), Some("x"));
        assert_eq!(spec.count_targets(), 3);

        let text = format!(
            r#"{{"app":"a",{target},"on_failure":{{{target},"on_success":{{"target":{{}}}}}}}}"#
        );
        let problem = split(&text).unwrap_err();
        assert!(
            problem.detail.starts_with("`on_failure.on_success.target`"),
            "{}",
            problem.detail
        );
    }

    #[test]
    fn contradictions_are_refused() {
        for bad in [
            r#"{"app":"a","target":{}}"#,
            r#"{"app":"a","target":{"invoke":"a.b","http":{"url":"http://a"}}}"#,
            r#"{"app":"a","target":{"timeout":"3s","http":{"url":"http://a"}}}"#,
            r#"{"app":"a","target":{"invoke":"a.b","params":[1]}}"#,
            r#"{"app":"a","due_at":1,"delay":1,"target":{"http":{"url":"http://a"}}}"#,
            r#"{"app":"a","target":{"http":{"url":"http://a","body":1,"body_base64":""}}}"#,
            r#"{"app":"a","target":{"http":{"url":"http://a","body_base64":"?"}}}"#,
            r#"{"app":"a","target":{"http":{"url":"http://a","body":"\ud800"}}}"#,
            r#"{"app":"a","target":{"http":{"url":"http://a"}},"retry":{"jitter":1e300}}"#,
            r#"{"app":"a","target":{"http":{"url":"http://a"}},"retry":{"jitter":-1}}"#,
        ] {
            let problem = split(bad).unwrap_err();
            assert!([400, 422].contains(&problem.status().as_u16()), "{bad}");
        }
    }
}
