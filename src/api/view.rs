//! A task as the API answers it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

use super::dto::{BackoffDto, HttpDto, RetryDto, TargetDto, TemplateDto};
use super::problem::{Kind, Problem};
use crate::model::limits::JITTER_DEFAULT_MILLI;
use crate::model::{
    Backoff, Body, Http, Next, NodeId, Placement, Retry, Spec, Target, Task, Template, Time,
};

/// Headers whose values are never answered.
pub use crate::model::HEADERS_MASKED as MASKED;
/// What stands in their place.
pub use crate::model::MASK;

/// A task as it is now. Defaults are filled in.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Task)]
pub struct TaskView {
    #[schema(value_type = String)]
    app: Arc<str>,
    #[schema(value_type = String)]
    id: Arc<str>,
    /// `scheduled`, `triggered`, `running`, `accepted`, `retrying`, `done`, `dead`, `cancelled`.
    stage: &'static str,
    due_at: Time,
    /// Attempts begun so far.
    attempt: u32,
    created_at: Time,
    finished_at: Option<Time>,
    #[schema(value_type = Option<String>)]
    outcome: Option<Arc<str>>,
    #[schema(value_type = Option<String>)]
    error: Option<Arc<str>>,
    shard: u16,
    /// The node that carries out the last attempt.
    owner: Option<NodeId>,
    /// Log index of the last change.
    index: u64,
    labels: BTreeMap<String, String>,
    target: TargetDto,
    retry: RetryDto,
    /// Which node carries it out; null: as the nodes are set.
    placement: Option<Placement>,
    /// What its end starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    on_success: Option<Box<TemplateDto>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_failure: Option<Box<TemplateDto>>,
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct TaskPage {
    pub tasks: Vec<TaskView>,
    /// Pass it as `cursor` for the next page; null: that was all.
    pub next: Option<String>,
}

impl TaskView {
    /// Fails only when the stored spec cannot be read, which is a fault of this node.
    pub fn new(task: &Task, shards: u16) -> Result<TaskView, Problem> {
        let spec = spec(task)?;
        let retry = retry(&spec.retry());
        let (on_success, on_failure) = next(spec.next)?;
        Ok(TaskView {
            app: task.key.app.clone(),
            id: task.key.id.clone(),
            stage: task.stage.name(),
            due_at: task.due,
            attempt: task.fence.attempt,
            created_at: task.created,
            finished_at: task.finished,
            outcome: task.outcome.clone(),
            error: task.error.clone(),
            shard: task.shard(shards).0,
            owner: (task.owner != 0).then_some(task.owner),
            index: task.index,
            labels: spec.labels,
            target: target(spec.target)?,
            retry,
            placement: spec.placement,
            on_success,
            on_failure,
        })
    }
}

type Templates = (Option<Box<TemplateDto>>, Option<Box<TemplateDto>>);

/// What follows, as it may be sent again, but for what is masked.
pub(super) fn next(next: Next) -> Result<Templates, Problem> {
    let shown = |given: Option<Template>| given.map(|t| template(t).map(Box::new)).transpose();
    Ok((shown(next.on_success)?, shown(next.on_failure)?))
}

fn template(template: Template) -> Result<TemplateDto, Problem> {
    let fault = |_| Problem::new(Kind::Fault, "the stored template cannot be read");
    let spec = Spec::decode(&template.spec).map_err(fault)?;
    let (on_success, on_failure) = next(spec.next)?;
    Ok(TemplateDto {
        app: template.app,
        id: template.id,
        delay: Some(template.delay),
        target: target(spec.target)?,
        retry: spec.retry.as_ref().map(retry),
        accept_timeout: spec.accept_timeout,
        labels: spec.labels,
        placement: spec.placement,
        on_success,
        on_failure,
    })
}

/// The stored spec.
pub fn spec(task: &Task) -> Result<Spec, Problem> {
    Spec::decode(&task.spec).map_err(|error| {
        tracing::error!(task = %task.key, %error, "the stored spec cannot be read");
        Problem::new(Kind::Fault, "the stored task cannot be read")
    })
}

pub(super) fn target(target: Target) -> Result<TargetDto, Problem> {
    let timeout = Some(target.timeout());
    Ok(match target {
        Target::Http(target) => TargetDto {
            http: Some(http(target)?),
            ..TargetDto::default()
        },
        Target::Handler(handled) => TargetDto {
            invoke: Some(handled.invoke),
            params: handled.params.map(raw).transpose()?,
            timeout,
            ..TargetDto::default()
        },
    })
}

/// JSON as it was written.
pub(super) fn raw(text: String) -> Result<Box<RawValue>, Problem> {
    let fault = |_| Problem::new(Kind::Fault, "the stored JSON is not what it should be");
    RawValue::from_string(text).map_err(fault)
}

pub(super) fn http(http: Http) -> Result<HttpDto, Problem> {
    let method = Some(http.method().to_owned());
    let timeout = http
        .timeout
        .unwrap_or(crate::model::limits::TIMEOUT_DEFAULT);
    let mut body_base64 = None;
    let body = match &http.body {
        Body::Empty => None,
        Body::Bytes(bytes) => {
            body_base64 = Some(STANDARD.encode(bytes));
            None
        }
        Body::Text(text) => Some(serde_json::value::to_raw_value(text)),
        Body::Json(text) => Some(RawValue::from_string(text.clone())),
    };
    let body = body
        .transpose()
        .map_err(|_| Problem::new(Kind::Fault, "the stored body is not what it should be"))?;
    Ok(HttpDto {
        method,
        url: http.url,
        headers: masked(http.headers),
        body,
        body_base64,
        timeout: Some(timeout),
    })
}

fn masked(mut headers: BTreeMap<String, String>) -> BTreeMap<String, String> {
    for (name, value) in &mut headers {
        if MASKED
            .iter()
            .any(|secret| name.eq_ignore_ascii_case(secret))
        {
            *value = MASK.to_owned();
        }
    }
    headers
}

pub(super) fn retry(retry: &Retry) -> RetryDto {
    let backoff = match retry.backoff.as_ref().unwrap_or(&Backoff::DEFAULT) {
        Backoff::Fixed(span) => BackoffDto::Fixed(*span),
        Backoff::List(spans) => BackoffDto::List(spans.clone()),
        &Backoff::Linear { first, step, max } => BackoffDto::Linear { first, step, max },
        &Backoff::Exponential {
            first,
            factor_milli,
            max,
        } => BackoffDto::Exponential {
            first,
            factor: f64::from(factor_milli) / 1_000.0,
            max,
        },
    };
    RetryDto {
        attempts: Some(retry.attempts()),
        backoff: Some(backoff),
        jitter: Some(f64::from(retry.jitter_milli.unwrap_or(JITTER_DEFAULT_MILLI)) / 1_000.0),
        max_age: retry.max_age,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::model::{Fence, Key, Seq, Stage};

    /// A task as a submit of this JSON would leave it.
    pub fn task(json: &str) -> Task {
        let submission: crate::api::dto::Submission = serde_json::from_str(json).unwrap();
        let key = Key::new(&submission.app, submission.id.as_deref().unwrap_or("t")).unwrap();
        let (when, spec) = submission.split().unwrap();
        let spec = spec.encode();
        Task {
            seq: Seq(3),
            digest: Spec::digest(&spec, when),
            key,
            spec,
            stage: Stage::Scheduled,
            due: when.resolve(Time(1_000)),
            at: when.resolve(Time(1_000)),
            fence: Fence::default(),
            tries: 0,
            owner: 0,
            created: Time(1_000),
            finished: None,
            submitted: 1,
            index: 7,
            version: 1,
            outcome: None,
            error: None,
        }
    }

    #[test]
    fn a_task_is_answered_as_the_contract_says() {
        let task = task(
            r#"{"app":"shop","id":"order-17","due_at":5000,"labels":{"order":"17"},
            "target":{"http":{"url":"http://a/","headers":{"Authorization":"s3cret","X":"y"},
            "body":{"n": 1.0}}}}"#,
        );
        let text = serde_json::to_string(&TaskView::new(&task, 64).unwrap()).unwrap();
        assert!(text.contains(r#""body":{"n": 1.0}"#), "{text}");
        assert!(!text.contains("s3cret"));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let members: Vec<_> = json
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut contract = [
            "app",
            "id",
            "stage",
            "due_at",
            "attempt",
            "created_at",
            "finished_at",
            "outcome",
            "error",
            "shard",
            "owner",
            "index",
            "labels",
            "target",
            "retry",
            "placement",
        ];
        contract.sort_unstable();
        assert_eq!(members, contract);
        assert_eq!(json["due_at"], "1970-01-01T00:00:05.000Z");
        assert_eq!(json["shard"], 17);
        assert!(json["owner"].is_null());
        assert_eq!(json["target"]["http"]["method"], "POST");
        assert_eq!(json["target"]["http"]["headers"]["Authorization"], "***");
        assert_eq!(json["target"]["http"]["timeout"], "10s");
        assert_eq!(json["retry"]["attempts"], 3);
        assert_eq!(json["retry"]["jitter"], 0.1);
        assert_eq!(json["retry"]["backoff"]["exponential"]["max"], "10m");
    }

    #[test]
    fn bytes_and_text_come_back() {
        for (sent, member) in [
            (r#""body_base64":"AP8=""#, "body_base64"),
            (r#""body":"x\"y""#, "body"),
        ] {
            let json = format!(r#"{{"app":"a","target":{{"http":{{"url":"http://a",{sent}}}}}}}"#);
            let view = serde_json::to_value(TaskView::new(&task(&json), 64).unwrap()).unwrap();
            let wanted: serde_json::Value = serde_json::from_str(&format!("{{{sent}}}")).unwrap();
            assert_eq!(view["target"]["http"][member], wanted[member]);
        }
    }
}
