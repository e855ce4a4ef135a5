//! A change of a task: a merge patch (RFC 7396), typed. What is absent stays, `null` goes back
//! to the default, objects are merged; a back-off is replaced as a whole, being one of several.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use utoipa::ToSchema;

use super::body::maybe_object;
use super::dto::{BackoffDto, RetryDto, body, params, when};
use super::problem::Problem;
use super::schema::AnyJson;
use super::view::MASK;
use crate::model::{Http, Placement, Retry, Span, Spec, Target, Time, When};

/// Distinguishes `null` (some of none) from absent (none).
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// The same for an object.
fn given_object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    maybe_object(deserializer).map(Some)
}

type Texts = BTreeMap<String, Option<String>>;

/// The members to change.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    due_at: Option<Time>,
    delay: Option<Span>,
    #[serde(default, deserialize_with = "maybe_object")]
    target: Option<TargetPatch>,
    #[serde(default, deserialize_with = "given_object")]
    #[schema(value_type = Option<RetryPatch>)]
    retry: Option<Option<RetryPatch>>,
    #[serde(default, deserialize_with = "given")]
    accept_timeout: Option<Option<Span>>,
    #[serde(default, deserialize_with = "given")]
    expires_at: Option<Option<Time>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    labels: Option<Option<Texts>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Placement>)]
    placement: Option<Option<Placement>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TargetPatch {
    #[serde(default, deserialize_with = "maybe_object")]
    http: Option<HttpPatch>,
    invoke: Option<String>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Object>)]
    params: Option<Option<Box<RawValue>>>,
    #[serde(default, deserialize_with = "given")]
    timeout: Option<Option<Span>>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HttpPatch {
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    method: Option<Option<String>>,
    url: Option<String>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    headers: Option<Option<Texts>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<AnyJson>)]
    body: Option<Option<Box<RawValue>>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    body_base64: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    timeout: Option<Option<Span>>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RetryPatch {
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>)]
    attempts: Option<Option<u32>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<BackoffDto>)]
    backoff: Option<Option<BackoffDto>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<f64>)]
    jitter: Option<Option<f64>>,
    #[serde(default, deserialize_with = "given")]
    max_age: Option<Option<Span>>,
}

impl Patch {
    /// The new instant, if it changes.
    pub fn when(&self) -> Result<Option<When>, Problem> {
        when(self.due_at, self.delay)
    }

    /// Whether more than the instant changes.
    pub fn touches_spec(&self) -> bool {
        self.target.is_some()
            || self.retry.is_some()
            || self.accept_timeout.is_some()
            || self.expires_at.is_some()
            || self.labels.is_some()
            || self.placement.is_some()
    }

    /// The spec with the members changed, unchecked.
    pub fn apply(self, spec: &mut Spec) -> Result<(), Problem> {
        if let Some(target) = self.target {
            target.apply(&mut spec.target)?;
        }
        if let Some(patch) = self.retry {
            spec.retry = match patch {
                Some(patch) => Some(patch.merged(spec.retry.take().unwrap_or_default())?),
                None => None,
            };
        }
        spec.accept_timeout = self.accept_timeout.unwrap_or(spec.accept_timeout);
        spec.expires_at = self.expires_at.unwrap_or(spec.expires_at);
        merge(&mut spec.labels, self.labels);
        spec.placement = self.placement.unwrap_or(spec.placement.take());
        Ok(())
    }
}

impl TargetPatch {
    fn apply(self, target: &mut Target) -> Result<(), Problem> {
        let invokes = self.invoke.is_some() || self.params.is_some() || self.timeout.is_some();
        match (target, self.http) {
            (Target::Http(http), Some(patch)) if !invokes => patch.apply(http),
            (Target::Handler(handled), None) => {
                if let Some(invoke) = self.invoke {
                    handled.invoke = invoke;
                }
                if let Some(given) = self.params {
                    handled.params = given.as_deref().map(params).transpose()?;
                }
                handled.timeout = self.timeout.unwrap_or(handled.timeout);
                Ok(())
            }
            (Target::Http(_), _) => Err(Problem::invalid(
                "`target`: the task makes a request; change it within `http`",
            )),
            (Target::Handler(_), Some(_)) => Err(Problem::invalid(
                "`target.http`: the task calls a handler; change `invoke`, `params` or `timeout`",
            )),
        }
    }
}

impl HttpPatch {
    fn apply(self, http: &mut Http) -> Result<(), Problem> {
        if let Some(method) = self.method {
            http.method = method;
        }
        if let Some(url) = self.url {
            http.url = url;
        }
        if let Some(timeout) = self.timeout {
            http.timeout = timeout;
        }
        if self.body.is_some() || self.body_base64.is_some() {
            let json = self.body.flatten();
            let base64 = self.body_base64.flatten();
            http.body = body(json.as_deref(), base64.as_deref())?;
        }
        let headers = self
            .headers
            .map(|given| given.map(|texts| unmask(texts, &http.headers)));
        merge(&mut http.headers, headers);
        Ok(())
    }
}

/// A masked value that comes back as it was answered means the value it hides.
fn unmask(mut texts: Texts, known: &BTreeMap<String, String>) -> Texts {
    texts.retain(|name, value| value.as_deref() != Some(MASK) || !known.contains_key(name));
    texts
}

impl RetryPatch {
    fn merged(self, old: Retry) -> Result<Retry, Problem> {
        let new = RetryDto {
            attempts: self.attempts.flatten(),
            backoff: None,
            jitter: self.jitter.flatten(),
            max_age: self.max_age.flatten(),
        }
        .into_retry()?;
        let backoff = match self.backoff {
            Some(given) => given.map(BackoffDto::into_backoff).transpose()?,
            None => old.backoff,
        };
        Ok(Retry {
            attempts: if self.attempts.is_some() {
                new.attempts
            } else {
                old.attempts
            },
            backoff,
            jitter_milli: if self.jitter.is_some() {
                new.jitter_milli
            } else {
                old.jitter_milli
            },
            max_age: if self.max_age.is_some() {
                new.max_age
            } else {
                old.max_age
            },
        })
    }
}

fn merge(texts: &mut BTreeMap<String, String>, patch: Option<Option<Texts>>) {
    match patch {
        None => {}
        Some(None) => texts.clear(),
        Some(Some(patch)) => {
            for (name, value) in patch {
                match value {
                    Some(value) => texts.insert(name, value),
                    None => texts.remove(&name),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::body::parse;
    use crate::api::dto::Submission;
    use crate::model::{Backoff, Body};

    fn patched(patch: &str) -> Spec {
        let first = r#"{"app":"a","target":{"http":{"url":"http://a","headers":{"authorization":"s","x":"1"},
            "body":"t"}},"retry":{"attempts":5,"jitter":0.5},"labels":{"k":"v","l":"w"},"expires_at":9}"#;
        let (_, mut spec) = parse::<Submission>(first.as_bytes())
            .unwrap()
            .split()
            .unwrap();
        parse::<Patch>(patch.as_bytes())
            .unwrap()
            .apply(&mut spec)
            .unwrap();
        spec
    }

    #[test]
    fn what_is_absent_stays() {
        assert_eq!(patched("{}"), patched(r#"{"delay":"1s"}"#));
        let spec = patched(r#"{"target":{"http":{"url":"http://b"}}}"#);
        let http = spec.target.http().unwrap();
        assert_eq!(
            (http.url.as_str(), &http.body),
            ("http://b", &Body::Text("t".into()))
        );
    }

    #[test]
    fn null_goes_back_to_the_default() {
        let spec = patched(r#"{"retry":null,"labels":{"k":null},"expires_at":null}"#);
        assert_eq!((spec.retry, spec.expires_at), (None, None));
        assert_eq!(spec.labels.keys().collect::<Vec<_>>(), ["l"]);
        assert!(patched(r#"{"labels":null}"#).labels.is_empty());
    }

    #[test]
    fn retry_is_merged_member_by_member() {
        let retry = patched(r#"{"retry":{"attempts":2,"backoff":{"fixed":"1s"}}}"#).retry();
        assert_eq!((retry.attempts, retry.jitter_milli), (Some(2), Some(500)));
        assert_eq!(retry.backoff, Some(Backoff::Fixed(Span(1_000))));
    }

    #[test]
    fn a_masked_value_means_what_it_hides() {
        let spec =
            patched(r#"{"target":{"http":{"headers":{"authorization":"***","x":null,"y":"2"}}}}"#);
        let http = spec.target.http().unwrap();
        let headers: Vec<_> = http
            .headers
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(headers, [("authorization", "s"), ("y", "2")]);
    }

    #[test]
    fn a_handlers_call_is_changed_and_stays_one() {
        let first = r#"{"app":"a","target":{"invoke":"a.b(1)","params":{"n":1},"timeout":"3s"}}"#;
        let spec = || {
            parse::<Submission>(first.as_bytes())
                .unwrap()
                .split()
                .unwrap()
                .1
        };
        let patch =
            |text: &str, spec: &mut Spec| parse::<Patch>(text.as_bytes()).unwrap().apply(spec);
        let mut changed = spec();
        let text = r#"{"target":{"invoke":"a.c","params":null}}"#;
        patch(text, &mut changed).unwrap();
        let Target::Handler(handled) = &changed.target else {
            panic!("a handler")
        };
        assert_eq!((handled.name(), &handled.params), ("a.c", &None));
        assert_eq!(changed.timeout(), Span(3_000));
        for (text, part) in [
            (
                r#"{"target":{"http":{"url":"http://b"}}}"#,
                "calls a handler",
            ),
            (r#"{"target":{"params":[]}}"#, "is an object"),
        ] {
            let problem = patch(text, &mut spec()).unwrap_err();
            assert!(problem.detail.contains(part), "{}", problem.detail);
        }
        let mut http = patched("{}");
        let problem = patch(r#"{"target":{"invoke":"a.c"}}"#, &mut http).unwrap_err();
        assert!(
            problem.detail.contains("within `http`"),
            "{}",
            problem.detail
        );
    }

    #[test]
    fn unknown_members_are_refused() {
        assert!(parse::<Patch>(br#"{"stage":"done"}"#).is_err());
        assert!(parse::<Patch>(br#"{"target":{"http":{"uri":"x"}}}"#).is_err());
    }
}
