//! The old paths' vocabulary: field names, stages, and how an old task reads in the new terms.
//!
//! The old documents give no field names, so those here are an assumption, and each can be
//! renamed in the settings.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

use super::body::parse;
use super::dto::{body, when};
use super::problem::Problem;
use super::schema::AnyJson;
use crate::model::{Backoff, Http, Retry, Span, Spec, Stage, Target, Time, When};

/// Every field of the old paths that may be renamed.
pub const FIELDS: [&str; 25] = [
    "appId",
    "uuid",
    "expireTime",
    "delay",
    "url",
    "method",
    "headers",
    "body",
    "timeout",
    "retryCount",
    "retryInterval",
    "sync",
    "code",
    "success",
    "message",
    "data",
    "stage",
    "stageName",
    "k",
    "total",
    "id",
    "shard",
    "current",
    "tasks",
    "next",
];

/// How the old paths differ from their assumed shape.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compat {
    /// Which HTTP status an error has.
    pub status: CompatStatus,
    /// Other names for the fields: `appId = "app_id"`.
    pub fields: BTreeMap<String, String>,
    /// The numbers of the three old stages.
    pub stages: OldStages,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompatStatus {
    /// The status that `/v1` would give.
    #[default]
    Http,
    /// 200; only `code` tells.
    #[serde(rename = "always_200")]
    Always200,
}

/// The numbers of the old stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OldStages {
    pub init: i64,
    pub todo: i64,
    pub done: i64,
}

impl Default for OldStages {
    fn default() -> OldStages {
        OldStages {
            init: 0,
            todo: 1,
            done: 2,
        }
    }
}

/// An old task: `url` may be missing where a task is only named.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct OldTask {
    #[schema(example = "shop")]
    pub app_id: String,
    pub uuid: Option<String>,
    pub expire_time: Option<Time>,
    pub delay: Option<Span>,
    #[schema(example = "http://127.0.0.1:9000/hook")]
    pub url: Option<String>,
    pub method: Option<String>,
    pub headers: Option<BTreeMap<String, String>>,
    #[schema(value_type = Option<AnyJson>)]
    pub body: Option<Box<RawValue>>,
    /// Milliseconds.
    pub timeout: Option<Span>,
    /// n retries are n + 1 attempts.
    pub retry_count: Option<u32>,
    /// Milliseconds.
    pub retry_interval: Option<Span>,
    /// Wait for the outcome (`/execute` only).
    pub sync: Option<bool>,
}

/// Names a task.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OldName {
    #[schema(example = "shop")]
    pub app_id: String,
    pub uuid: String,
}

impl Compat {
    /// A body under the configured names.
    pub fn parse<T: serde::de::DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Problem> {
        if self.fields.is_empty() {
            return parse(bytes);
        }
        let fields: BTreeMap<String, Box<RawValue>> = parse(bytes)?;
        let mut renamed = BTreeMap::new();
        for (name, value) in fields {
            let canonical = self
                .fields
                .iter()
                .find(|(_, configured)| **configured == name);
            let canonical = match canonical {
                Some((canonical, _)) => canonical,
                // It goes by another name here; two names for one field would hide one value.
                None if self.fields.contains_key(&name) => {
                    return Err(Problem::invalid(format!("unknown field `{name}`")));
                }
                None => &name,
            };
            renamed.insert(canonical.to_owned(), value);
        }
        let text = serde_json::to_vec(&renamed).unwrap_or_default();
        parse(&text)
    }

    /// The configured name of a field.
    pub fn name<'a>(&'a self, canonical: &'a str) -> &'a str {
        self.fields.get(canonical).map_or(canonical, String::as_str)
    }

    /// What is wrong with these settings.
    pub fn check(&self) -> Result<(), String> {
        for (canonical, name) in &self.fields {
            if !FIELDS.contains(&canonical.as_str()) {
                return Err(format!(
                    "compat.fields.{canonical}: known are {}",
                    FIELDS.join(", ")
                ));
            }
            if name.is_empty() {
                return Err(format!("compat.fields.{canonical}: must not be empty"));
            }
        }
        let mut names = BTreeSet::new();
        match FIELDS.iter().find(|field| !names.insert(self.name(field))) {
            Some(field) => Err(format!(
                "compat.fields: `{}` would name two fields",
                self.name(field)
            )),
            None => Ok(()),
        }
    }

    /// An old stage: its number and its name.
    pub fn stage(&self, stage: Stage) -> (i64, &'static str) {
        match stage {
            Stage::Scheduled => (self.stages.init, "INIT"),
            Stage::Triggered | Stage::Running | Stage::Accepted | Stage::Retrying => {
                (self.stages.todo, "TODO")
            }
            Stage::Done | Stage::Dead | Stage::Cancelled => (self.stages.done, "DONE"),
        }
    }
}

impl OldTask {
    /// The same in the new terms.
    pub fn split(self) -> Result<(When, Spec), Problem> {
        let attempts = match self.retry_count {
            Some(count) => Some(
                count
                    .checked_add(1)
                    .ok_or_else(|| Problem::invalid("`retryCount`: is too large"))?,
            ),
            None => None,
        };
        let backoff = self.retry_interval.map(Backoff::Fixed);
        let retry = (attempts.is_some() || backoff.is_some()).then_some(Retry {
            attempts,
            backoff,
            ..Retry::default()
        });
        let when = when(self.expire_time, self.delay)
            .map_err(|_| Problem::invalid("give `expireTime` or `delay`, not both"))?;
        let http = Http {
            method: self.method,
            url: self
                .url
                .ok_or_else(|| Problem::invalid("missing field `url`"))?,
            headers: self.headers.unwrap_or_default(),
            body: body(self.body.as_deref(), None)?,
            timeout: self.timeout,
        };
        let spec = Spec {
            target: Target::Http(http),
            retry,
            accept_timeout: None,
            expires_at: None,
            labels: BTreeMap::new(),
            placement: None,
            next: Default::default(),
        };
        Ok((when.unwrap_or(When::Now), spec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_task_in_new_terms() {
        let text = br#"{"appId":"shop","uuid":"u","expireTime":5000,"url":"http://a","method":"PUT",
            "headers":{"x":"y"},"body":{"n": 1},"timeout":2000,"retryCount":4,"retryInterval":500}"#;
        let task: OldTask = Compat::default().parse(text).unwrap();
        let (when, spec) = task.split().unwrap();
        assert_eq!(when, When::At(Time(5_000)));
        assert_eq!(spec.timeout(), Span(2_000));
        let retry = spec.retry();
        assert_eq!(
            (retry.attempts(), retry.backoff),
            (5, Some(Backoff::Fixed(Span(500))))
        );
        let http = spec.target.http().unwrap();
        assert_eq!(http.body, crate::model::Body::Json(r#"{"n": 1}"#.into()));
    }

    #[test]
    fn fields_are_renamed() {
        let compat = Compat {
            fields: [("appId".to_owned(), "app_id".to_owned())].into(),
            ..Compat::default()
        };
        let name: OldName = compat.parse(br#"{"app_id":"shop","uuid":"u"}"#).unwrap();
        assert_eq!(name.app_id, "shop");
        assert!(compat.check().is_ok());
        let wrong = Compat {
            fields: [("app".to_owned(), "x".to_owned())].into(),
            ..Compat::default()
        };
        assert!(wrong.check().unwrap_err().contains("compat.fields.app"));
        assert!(
            compat
                .parse::<OldName>(br#"{"appId":"a","uuid":"u"}"#)
                .is_err(),
            "the name it had before is no name any more"
        );
        let twice = Compat {
            fields: [("appId".to_owned(), "uuid".to_owned())].into(),
            ..Compat::default()
        };
        assert!(twice.check().unwrap_err().contains("`uuid`"));
    }

    #[test]
    fn names_may_be_swapped() {
        let swap = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let compat = Compat {
            fields: [swap("appId", "uuid"), swap("uuid", "appId")].into(),
            ..Compat::default()
        };
        assert!(compat.check().is_ok());
        let name: OldName = compat.parse(br#"{"uuid":"shop","appId":"u"}"#).unwrap();
        assert_eq!((name.app_id.as_str(), name.uuid.as_str()), ("shop", "u"));
    }

    #[test]
    fn stages_have_their_old_names() {
        let compat = Compat::default();
        assert_eq!(compat.stage(Stage::Scheduled), (0, "INIT"));
        assert_eq!(compat.stage(Stage::Retrying), (1, "TODO"));
        assert_eq!(compat.stage(Stage::Dead), (2, "DONE"));
    }

    #[test]
    fn contradictions_are_refused() {
        let split = |text: &str| Compat::default().parse::<OldTask>(text.as_bytes())?.split();
        for bad in [
            r#"{"appId":"a","url":"http://a","delay":1,"expireTime":1}"#,
            r#"{"appId":"a"}"#,
            r#"{"appId":"a","url":"http://a","retryCount":4294967295}"#,
            r#"{"appId":"a","url":"http://a","retries":1}"#,
            r#"{"appId":7,"url":"http://a"}"#,
        ] {
            assert_eq!(split(bad).unwrap_err().status().as_u16(), 422, "{bad}");
        }
    }
}
