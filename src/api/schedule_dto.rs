//! A schedule as callers write it and read it, and how that becomes the model's definition.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

use super::body::{maybe_object, object};
use super::dto::{HttpDto, RetryDto, TemplateDto, next, params};
use super::problem::{Kind, Problem};
use super::schema::AnyJson;
use super::view;
use crate::calendar::{Dst, ExclusionSpec, Plan, PlanSpec};
use crate::model::limits::{
    CATCH_UP_MAX_DEFAULT, LABELS_MAX, MISFIRE_DEFAULT, PACE_DEFAULT, QUEUE_MAX, SCHEDULE_BYTES_MAX,
};
use crate::model::{
    Argument, Body, CatchUp, Definition, Fate, Handled, Http, Invoke, OverlapPolicy, Placement,
    Schedule, Span, Spec, Target, Time, Version,
};

/// A schedule: when it fires, what it calls, and what it does when that is not possible.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleDto {
    /// `group.name`, or `name` in the group `DEFAULT`. Its runs are tasks of the application that is
    /// called like the group.
    #[schema(example = "shop.report")]
    pub id: Option<String>,
    /// Unix cron (5 fields), Quartz (6 or 7), `@daily` and its like, `@every 90s`.
    #[serde(default)]
    #[schema(example = json!(["0 30 9 ? * MON-FRI"]))]
    crons: Vec<String>,
    /// A period of elapsed time, `90s` or `90s phase 10s`.
    every: Option<String>,
    /// One instant.
    at: Option<Time>,
    /// An IANA name; `UTC` by default.
    #[schema(example = "Europe/Berlin")]
    zone: Option<String>,
    /// `{"gap": "skip" | "after", "overlap": "once" | "twice"}`
    #[serde(default)]
    #[schema(value_type = Object)]
    dst: Dst,
    /// `{"dates": ["12-25"], "weekdays": ["SUN"]}`
    #[serde(default)]
    #[schema(value_type = Object)]
    exclude: ExclusionSpec,
    start: Option<Time>,
    end: Option<Time>,
    max_runs: Option<u64>,
    jitter: Option<Span>,
    /// `allow` (by default), `skip`, `queue_one`, `queue_all`, `cancel_running`
    #[schema(value_type = Option<String>)]
    overlap: Option<OverlapPolicy>,
    /// How many may wait under `queue_all`; 1,000 by default, and at most.
    queue_max: Option<u32>,
    /// `"skip"`, `"once"` (by default), `{"all": {"window": "1h", "max": 100, "pace": "100ms"}}`
    #[schema(value_type = Option<AnyJson>)]
    catch_up: Option<CatchUpDto>,
    /// So late may a run begin without being caught up with; 1 min by default.
    misfire: Option<Span>,
    #[serde(deserialize_with = "object")]
    target: ScheduleTarget,
    /// Handed to what it runs: an object.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    params: Option<Box<RawValue>>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(default, deserialize_with = "maybe_object")]
    retry: Option<RetryDto>,
    accept_timeout: Option<Span>,
    /// Which node carries its runs out; as the nodes are set when missing.
    placement: Option<Placement>,
    /// A task that is started when a run is done. It has no `id`: each run has its own.
    #[serde(default, deserialize_with = "maybe_object")]
    on_success: Option<Box<TemplateDto>>,
    /// A task that is started when a run is dead, likewise.
    #[serde(default, deserialize_with = "maybe_object")]
    on_failure: Option<Box<TemplateDto>>,
    /// The version that a change is based on, in place of `If-Match`.
    pub version: Option<u32>,
}

/// What a schedule calls: `http`; `invoke` with `url`; or `invoke` alone, a handler in a program that
/// embeds a node.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleTarget {
    http: Option<HttpDto>,
    /// `bean.method("a", true, 2L, 3D, 4)`: what a handler is to do. To one behind `url` it is sent as
    /// JSON with its arguments typed.
    #[schema(example = "demoTask.run(\"a\", 2L)")]
    invoke: Option<String>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    timeout: Option<Span>,
}

/// What happens to occurrences that nobody could begin in time.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CatchUpDto {
    Skip,
    Once,
    All {
        window: Span,
        #[serde(default = "catch_up_max")]
        max: u32,
        #[serde(default = "pace")]
        pace: Span,
    },
}

fn catch_up_max() -> u32 {
    CATCH_UP_MAX_DEFAULT
}

fn pace() -> Span {
    PACE_DEFAULT
}

impl From<CatchUpDto> for CatchUp {
    fn from(dto: CatchUpDto) -> CatchUp {
        match dto {
            CatchUpDto::Skip => CatchUp::Skip,
            CatchUpDto::Once => CatchUp::Once,
            CatchUpDto::All { window, max, pace } => CatchUp::All { window, max, pace },
        }
    }
}

impl From<CatchUp> for CatchUpDto {
    fn from(policy: CatchUp) -> CatchUpDto {
        match policy {
            CatchUp::Skip => CatchUpDto::Skip,
            CatchUp::Once => CatchUpDto::Once,
            CatchUp::All { window, max, pace } => CatchUpDto::All { window, max, pace },
        }
    }
}

fn wrong(field: &str, reason: impl std::fmt::Display) -> Problem {
    Problem::invalid(format!("`{field}`: {reason}"))
}

impl ScheduleDto {
    /// The definition, with its plan read; all of it checked but what its target may be.
    pub fn into_definition(self, id: &str) -> Result<(Definition, Plan, Spec), Problem> {
        let spec = PlanSpec {
            crons: self.crons,
            every: self.every,
            at: self.at,
            zone: self.zone.unwrap_or_else(|| "UTC".to_owned()),
            dst: self.dst,
            exclude: self.exclude,
            start: self.start,
            end: self.end,
            max_runs: self.max_runs,
            jitter: self.jitter,
        };
        let plan = Plan::parse(id, &spec).map_err(|e| Problem::invalid(e.to_string()))?;
        let params = self.params.as_deref().map(params).transpose()?;
        let (invoke, target) = self.target.into_target(params.as_deref())?;
        let labels = self.labels.unwrap_or_default();
        if labels.len() > LABELS_MAX {
            return Err(wrong("labels", format!("at most {LABELS_MAX} are allowed")));
        }
        let task = Spec {
            labels,
            target,
            retry: self.retry.map(RetryDto::into_retry).transpose()?,
            accept_timeout: self.accept_timeout,
            expires_at: None,
            placement: self.placement,
            next: next(self.on_success, self.on_failure)?,
        };
        if task.next.names_ids() {
            let reason = "each run would start the task with this one id; leave it out";
            return Err(wrong("on_success.id", reason));
        }
        let most = QUEUE_MAX as u32;
        let queue_max = self.queue_max.unwrap_or(most);
        if !(1..=most).contains(&queue_max) {
            return Err(wrong("queue_max", format!("is a number from 1 to {most}")));
        }
        let catch_up = self.catch_up.map(CatchUp::from).unwrap_or_default();
        if let CatchUp::All { max, .. } = catch_up
            && !(1..=most).contains(&max)
        {
            return Err(wrong(
                "catch_up.all.max",
                format!("is a number from 1 to {most}"),
            ));
        }
        let text = serde_json::to_string(&spec).map_err(|e| Problem::invalid(e.to_string()))?;
        let definition = Definition {
            plan: text.into(),
            task: task.encode(),
            invoke,
            params: params.map(Arc::from),
            overlap: self.overlap.unwrap_or_default(),
            queue_max,
            catch_up,
            misfire: self.misfire.unwrap_or(MISFIRE_DEFAULT),
            max_runs: self.max_runs,
        };
        if definition.bytes() > SCHEDULE_BYTES_MAX {
            let bytes = definition.bytes();
            let text = format!("the definition has {bytes} bytes, at most {SCHEDULE_BYTES_MAX}");
            return Err(Problem::new(Kind::TooLarge, text));
        }
        Ok((definition, plan, task))
    }
}

impl ScheduleTarget {
    fn into_target(self, params: Option<&str>) -> Result<(Option<Arc<str>>, Target), Problem> {
        let invoke = match (self.http, self.invoke) {
            (Some(http), None) => {
                if self.url.is_some() || !self.headers.is_empty() || self.timeout.is_some() {
                    let reason =
                        "`url`, `headers` and `timeout` stand within `http`, or beside `invoke`";
                    return Err(wrong("target", reason));
                }
                let mut http = http.into_http()?;
                if http.body == Body::Empty
                    && let Some(params) = params
                {
                    http.body = Body::Json(params.to_owned());
                }
                return Ok((None, Target::Http(http)));
            }
            (None, Some(invoke)) => invoke,
            _ => {
                return Err(wrong(
                    "target",
                    "give `http`, `invoke` with `url`, or `invoke`",
                ));
            }
        };
        let parsed: Invoke = invoke.parse().map_err(|e| wrong("target.invoke", e))?;
        let Some(url) = self.url else {
            if !self.headers.is_empty() {
                return Err(wrong("target.headers", "go with a `url`"));
            }
            let handled = Handled {
                invoke: invoke.clone(),
                params: params.map(str::to_owned),
                timeout: self.timeout,
                run_of: None,
            };
            return Ok((Some(invoke.into()), Target::Handler(handled)));
        };
        let http = Http {
            method: None,
            url,
            headers: self.headers,
            body: Body::Json(invocation(&parsed, params)?),
            timeout: self.timeout,
        };
        Ok((Some(invoke.into()), Target::Http(http)))
    }
}

/// What is sent for an invoke target.
fn invocation(invoke: &Invoke, params: Option<&str>) -> Result<String, Problem> {
    let arguments = invoke.arguments().iter().map(|argument| match argument {
        Argument::Text(text) => json!({ "type": "text", "value": text }),
        Argument::Bool(value) => json!({ "type": "bool", "value": value }),
        Argument::Int(value) => json!({ "type": "int", "value": value }),
        Argument::Long(value) => json!({ "type": "long", "value": value }),
        Argument::Double(value) => json!({ "type": "double", "value": value }),
    });
    let params = params.map(serde_json::from_str::<Value>).transpose();
    let params = params.map_err(|e| wrong("params", e))?;
    let sent = json!({
        "bean": invoke.bean(),
        "method": invoke.method(),
        "arguments": arguments.collect::<Vec<_>>(),
        "params": params.unwrap_or_else(|| json!({})),
    });
    Ok(sent.to_string())
}

/// The plan of a stored definition.
pub fn plan_of(id: &str, definition: &Definition) -> Result<Plan, Problem> {
    let broken = |e: String| {
        Problem::new(
            Kind::Fault,
            format!("schedule {id}: its plan cannot be read: {e}"),
        )
    };
    let spec: PlanSpec =
        serde_json::from_str(&definition.plan).map_err(|e| broken(e.to_string()))?;
    Plan::parse(id, &spec).map_err(|e| broken(e.to_string()))
}

/// A definition as it may be sent again, but for what is masked.
pub fn defined(id: &str, version: &Version) -> Result<Value, Problem> {
    let definition = &version.definition;
    let broken =
        |e: String| Problem::new(Kind::Fault, format!("schedule {id} cannot be read: {e}"));
    let mut shown: Value =
        serde_json::from_str(&definition.plan).map_err(|e| broken(e.to_string()))?;
    let spec = Spec::decode(&definition.task).map_err(|e| broken(e.to_string()))?;
    let retry = view::retry(&spec.retry());
    let timeout = spec.timeout();
    let (on_success, on_failure) = view::next(spec.next)?;
    let target = match (spec.target, &definition.invoke) {
        (Target::Handler(handled), _) => json!({ "invoke": handled.invoke, "timeout": timeout }),
        (Target::Http(http), None) => json!({ "http": view::http(http)? }),
        (Target::Http(http), Some(invoke)) => {
            let http = view::http(http)?;
            json!({ "invoke": invoke, "url": http.url, "headers": http.headers, "timeout": timeout })
        }
    };
    let params = definition.params.as_ref();
    let params = params.map(|text| view::raw(text.to_string())).transpose()?;
    let more = json!({
        "id": id,
        "version": version.number,
        "overlap": definition.overlap,
        "queue_max": definition.queue_max,
        "catch_up": CatchUpDto::from(definition.catch_up),
        "misfire": definition.misfire,
        "target": target,
        "params": params,
        "labels": spec.labels,
        "retry": retry,
        "accept_timeout": spec.accept_timeout,
        "placement": spec.placement,
        "on_success": on_success,
        "on_failure": on_failure,
    });
    if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
        shown.extend(more);
    }
    Ok(shown)
}

/// A schedule as the API answers it: its definition, and how it stands.
pub fn shown(s: &Schedule, now: Time) -> Result<Value, Problem> {
    let broken = || Problem::new(Kind::Fault, "a schedule without a version");
    let version = s.version().ok_or_else(broken)?;
    let mut shown = defined(&s.id, version)?;
    let first = s.versions.front().map_or(version, |first| first);
    let next = match (&s.deleted, version.until) {
        (None, None) => {
            plan_of(&s.id, &version.definition)?.next_after(s.watermark.max(now).max(version.from))
        }
        _ => None,
    };
    let state = match (&s.deleted, &s.paused) {
        (Some(_), _) => "deleted",
        (_, Some(_)) => "paused",
        _ if next.is_none() => "finished",
        _ => "active",
    };
    let paused = s
        .paused
        .as_ref()
        .map(|p| json!({ "since": p.since, "reason": p.reason, "by": p.by }));
    let deleted = s
        .deleted
        .as_ref()
        .map(|(at, by)| json!({ "at": at, "by": by }));
    let more = json!({
        "state": state,
        "paused": paused,
        "deleted": deleted,
        "next": next,
        "watermark": s.watermark,
        "running": s.running.len(),
        "queued": s.queue.len(),
        "totals": totals(s),
        "created_at": s.created,
        "changed_at": version.at,
        "changed_by": version.by,
        "index": s.index.max(first.index),
    });
    if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
        shown.extend(more);
    }
    Ok(shown)
}

/// Occurrences of the plan by what became of them.
pub fn totals(s: &Schedule) -> Value {
    let mut totals = serde_json::Map::new();
    for (fate, n) in Fate::ALL.into_iter().zip(s.totals) {
        let name = match fate.names() {
            ("skipped", Some(why)) => format!("skipped_{why}"),
            (name, _) => name.to_owned(),
        };
        totals.insert(name, n.into());
    }
    Value::Object(totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Definition, Plan, Spec), Problem> {
        super::super::body::parse::<ScheduleDto>(text.as_bytes())?.into_definition("shop.report")
    }

    fn version(definition: Definition) -> Version {
        Version {
            number: 3,
            digest: definition.digest(),
            definition,
            from: Time(0),
            until: None,
            at: Time(0),
            index: 1,
            by: "token".into(),
            why: "created".into(),
            taken: 0,
            proof: 0,
            runs: 0,
        }
    }

    #[test]
    fn a_definition_is_shown_as_it_may_be_sent_again() {
        let text = r#"{"crons":["0 30 9 ? * MON-FRI"],"zone":"Europe/Berlin","max_runs":5,
            "overlap":"queue_all","queue_max":7,"catch_up":{"all":{"window":"1h"}},
            "target":{"http":{"url":"http://a/x"}},"params":{"a": 1},"labels":{"k":"v"},
            "placement":"leader"}"#;
        let (definition, ..) = read(text).unwrap();
        assert_eq!(definition.params.as_deref(), Some(r#"{"a": 1}"#));
        let shown = defined("shop.report", &version(definition)).unwrap();
        assert_eq!(shown["target"]["http"]["body"], json!({ "a": 1 }));
        assert_eq!(shown["catch_up"]["all"]["max"], 100);
        let again = shown.to_string();
        let again: ScheduleDto = super::super::body::parse(again.as_bytes()).unwrap();
        let (again, _, task) = again.into_definition("shop.report").unwrap();
        assert_eq!(task.placement, Some(Placement::Leader));
        assert_eq!(plan_of("x.y", &again).unwrap().zone(), "Europe/Berlin");
        assert_eq!(
            (again.overlap, again.queue_max),
            (OverlapPolicy::QueueAll, 7)
        );
    }

    #[test]
    fn what_follows_a_run_has_no_id_and_is_shown_as_it_may_be_sent_again() {
        let target = r#""target":{"http":{"url":"http://a/"}}"#;
        let text = |id: &str| {
            format!(
                r#"{{"every":"5s",{target},"on_success":{{"delay":"1s",{target}}},
                "on_failure":{{{target},"on_success":{{{id}{target}}}}}}}"#
            )
        };
        let (definition, _, spec) = read(&text("")).unwrap();
        let shown = defined("x.y", &version(definition)).unwrap();
        assert_eq!(shown["on_success"]["delay"], "1s");
        let again: ScheduleDto = super::super::body::parse(shown.to_string().as_bytes()).unwrap();
        let (_, _, again) = again.into_definition("x.y").unwrap();
        let inner = |spec: &Spec| {
            spec.next
                .on_failure
                .clone()
                .map(|t| Spec::decode(&t.spec).unwrap())
        };
        assert_eq!(inner(&again).unwrap().count_targets(), 2);
        assert_eq!(again.count_targets(), spec.count_targets());
        let problem = read(&text(r#""id":"one","#)).err().unwrap();
        assert!(
            problem.detail.contains("leave it out"),
            "{}",
            problem.detail
        );
    }

    #[test]
    fn an_invocation_is_typed_json() {
        let text = r#"{"every":"5s","params":{"k":[1]},
            "target":{"invoke":"demo.Task.run(\"a, b\", true, 2L, 3D, 4)","url":"http://a/x"}}"#;
        let (definition, _, spec) = read(text).unwrap();
        assert!(definition.invoke.unwrap().starts_with("demo.Task.run"));
        let Some(Body::Json(body)) = spec.target.http().map(|http| &http.body) else {
            panic!()
        };
        let sent: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (&sent["bean"], &sent["method"]),
            (&json!("demo.Task"), &json!("run"))
        );
        assert_eq!(sent["arguments"][2], json!({ "type": "long", "value": 2 }));
        assert_eq!(
            sent["arguments"][3],
            json!({ "type": "double", "value": 3.0 })
        );
        assert_eq!(sent["params"]["k"][0], 1);
    }

    #[test]
    fn without_a_url_a_handler_is_meant_and_shown_as_it_may_be_sent_again() {
        let target = json!({ "invoke": "demo.run(1)", "timeout": "3s" });
        let text = json!({ "every": "5s", "params": { "k": 1 }, "target": target }).to_string();
        let (definition, _, spec) = read(&text).unwrap();
        let Target::Handler(handled) = &spec.target else {
            panic!("a handler")
        };
        assert_eq!((handled.name(), spec.timeout()), ("demo.run", Span(3_000)));
        assert_eq!(handled.params.as_deref(), Some(r#"{"k":1}"#));
        let again = defined("x.y", &version(definition)).unwrap();
        assert_eq!(again["target"], target);
        assert_eq!(again["params"], json!({ "k": 1 }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let target = r#""target":{"http":{"url":"http://a/"}}"#;
        for (text, part) in [
            (
                format!(r#"{{"crons":["0 25 * * *"],{target}}}"#),
                "crons[0], hour field",
            ),
            (
                format!(r#"{{{target}}}"#),
                "at least one of crons, every and at",
            ),
            (
                format!(r#"{{"every":"5s","zone":"Mars/Base",{target}}}"#),
                "zone",
            ),
            (
                format!(r#"{{"every":"5s","overlap":"never",{target}}}"#),
                "overlap",
            ),
            (format!(r#"{{"every":"5s","cron":"x",{target}}}"#), "cron"),
            (
                format!(r#"{{"every":"5s","queue_max":0,{target}}}"#),
                "queue_max",
            ),
            (
                format!(r#"{{"every":"5s","params":[1],{target}}}"#),
                "params",
            ),
            (
                format!(
                    r#"{{"every":"5s","catch_up":{{"all":{{"window":"1h","max":0}}}},{target}}}"#
                ),
                "catch_up",
            ),
            (
                format!(r#"{{"every":"5s","placement":"master",{target}}}"#),
                "placement",
            ),
            (r#"{"every":"5s"}"#.into(), "target"),
            (r#"{"every":"5s","target":{}}"#.into(), "target"),
            (
                r#"{"every":"5s","target":{"invoke":"a.b(1","url":"http://a/"}}"#.into(),
                "column 6",
            ),
            (
                r#"{"every":"5s","target":{"invoke":"a.b(1)","headers":{"x":"y"}}}"#.into(),
                "target.headers",
            ),
        ] {
            let problem = read(&text).err().unwrap();
            assert_eq!(problem.status().as_u16(), 422, "{text}");
            assert!(problem.detail.contains(part), "{text}: {}", problem.detail);
        }
    }
}
