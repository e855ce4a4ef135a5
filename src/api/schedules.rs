//! Schedules: created, read, changed, paused, run, deleted.

use axum::Extension;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

use super::auth::Principal;
use super::params::Params;
use super::problem::{INDEX_HEADER, Kind, Problem, ProblemView};
use super::schedule_dto::{ScheduleDto, defined, plan_of, shown};
use super::schema::AnyJson;
use super::tasks::label;
use super::write::{json, unasked};
use super::{Api, body, fires};
use crate::calendar::{Plan, compare};
use crate::model::limits::{PACE_DEFAULT, PAGE_DEFAULT, PAGE_MAX, QUEUE_MAX, REASON_BYTES_MAX};
use crate::model::{By, DeleteSchedule, Event, Outcome, PauseSchedule, PutSchedule, Refusal};
use crate::model::{RunSchedule, Schedule, Span, Time, schedule_id};
use crate::raft::{Busy, Class, Decided};

/// How far a dry run looks into the past and the future unless it is told.
const DRY_RUN: Span = Span::days(30);

/// `{id}` of a path, with its group.
pub struct ScheduleId(pub Arc<str>);

impl<S: Send + Sync> FromRequestParts<S> for ScheduleId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<ScheduleId, Problem> {
        let Path(id) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::malformed(error.body_text()))?;
        Ok(ScheduleId(schedule_id(&id)?))
    }
}

/// Why a schedule is paused.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseDto {
    reason: Option<String>,
}

/// Occurrences of the past to be run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackfillDto {
    /// The first instant…
    from: Time,
    /// … and the one before which it ends.
    to: Time,
    /// So far apart they run; 100 ms by default.
    pace: Option<Span>,
}

/// The version to go back to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevertDto {
    version: u32,
}

/// Creates a schedule.
#[utoipa::path(post, path = "/v1/schedules", tag = "schedules", request_body = ScheduleDto, responses(
    (status = 201, description = "A new schedule", body = AnyJson),
    (status = 200, description = "It existed with the same definition", body = AnyJson),
    (status = 409, description = "It exists with another definition", body = ProblemView),
    (status = 422, description = "A value is not acceptable", body = ProblemView),
))]
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let dto: ScheduleDto = body::json(&headers, body).await?;
    let missing = || Problem::invalid("`id`: missing; write group.name");
    let id = schedule_id(dto.id.as_deref().ok_or_else(missing)?)?;
    let (definition, _) = api.defined(dto, &id)?;
    let event = PutSchedule {
        id: id.clone(),
        create: true,
        if_version: None,
        definition,
        why: "created".into(),
        by,
    };
    let (new, schedule, index) = api.schedule_event(event).await?;
    let mut response = api.schedule_answer(&schedule, index)?;
    if new {
        *response.status_mut() = StatusCode::CREATED;
        if let Ok(location) = HeaderValue::from_str(&format!("/v1/schedules/{id}")) {
            response.headers_mut().insert(header::LOCATION, location);
        }
    }
    Ok(response)
}

/// Every schedule, in order of ids.
#[utoipa::path(get, path = "/v1/schedules", tag = "schedules", params(
    ("group" = Option<String>, Query, description = "only this group's"),
    ("state" = Option<String>, Query, description = "`active`, `paused`, `finished` or `deleted`; all but the deleted ones by default"),
    ("limit" = Option<u32>, Query, description = "1–1,000; 100 by default"),
    ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ("read" = Option<String>, Query),
), responses((status = 200, description = "`schedules`, and `next`: the cursor of the next page", body = AnyJson)))]
pub async fn list(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    let params = Params::read(&uri, &["group", "state", "limit", "cursor", "read"])?;
    let limit = params.number("limit", 1, PAGE_MAX)?.unwrap_or(PAGE_DEFAULT);
    let local = params.local_read()?;
    let all = api.reading(local).await?.state().read(|state| {
        let all = state.schedules().cloned();
        all.collect::<Vec<_>>()
    });
    let (group, wanted) = (params.get("group"), params.get("state"));
    let (now, after) = (api.clock.wall(), params.get("cursor").unwrap_or_default());
    let (mut page, mut next) = (Vec::new(), None);
    for schedule in all.iter().filter(|s| &*s.id > after) {
        let of = schedule.id.split_once('.').map(|(group, _)| group);
        if group.is_some() && of != group || wanted.is_none() && schedule.deleted.is_some() {
            continue;
        }
        let schedule = shown(schedule, now)?;
        if wanted.is_some_and(|wanted| schedule["state"] != wanted) {
            continue;
        }
        if page.len() == limit {
            next = page.last().map(|last: &Value| last["id"].clone());
            break;
        }
        page.push(schedule);
    }
    Ok(label(
        json(&json!({ "schedules": page, "next": next })),
        local,
    ))
}

/// A schedule as it is now.
#[utoipa::path(get, path = "/v1/schedules/{id}", tag = "schedules",
    params(("id" = String, Path, description = "`group.name`"), ("read" = Option<String>, Query)),
    responses((status = 200, body = AnyJson), (status = 404, body = ProblemView)))]
pub async fn read(
    State(api): State<Arc<Api>>,
    ScheduleId(id): ScheduleId,
    uri: Uri,
) -> Result<Response, Problem> {
    let local = Params::read(&uri, &["read"])?.local_read()?;
    let schedule = api.schedule(&id, local).await?;
    let response = api.schedule_answer(&schedule, schedule.index)?;
    Ok(label(response, local))
}

/// Gives a schedule a new definition, as a new version. With `dry_run` nothing changes, and the
/// answer tells which occurrences would.
#[utoipa::path(put, path = "/v1/schedules/{id}", tag = "schedules", params(
    ("id" = String, Path),
    ("if-match" = Option<String>, Header, description = "the version the change is based on; `version` in the body says the same"),
    ("dry_run" = Option<bool>, Query),
    ("from" = Option<String>, Query, description = "of a dry run: 30 days ago by default"),
    ("to" = Option<String>, Query, description = "of a dry run: in 30 days by default"),
), request_body = ScheduleDto, responses(
    (status = 200, body = AnyJson),
    (status = 404, body = ProblemView),
    (status = 412, description = "It has changed since", body = ProblemView),
    (status = 422, body = ProblemView),
))]
pub async fn change(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    ScheduleId(id): ScheduleId,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let params = Params::read(&uri, &["dry_run", "from", "to"])?;
    let dto: ScheduleDto = body::json(&headers, body).await?;
    if let Some(other) = &dto.id
        && schedule_id(other)? != id
    {
        return Err(Problem::invalid(format!(
            "`id`: {other:?} is not {id:?} of the path"
        )));
    }
    let if_version = if_version(&headers)?.or(dto.version);
    let (definition, plan) = api.defined(dto, &id)?;
    match params.get("dry_run") {
        None | Some("false") => {}
        Some("true") => return api.dry_run(&id, &plan, &params).await,
        Some(other) => {
            return Err(Problem::invalid(format!(
                "`dry_run`: {other:?} is neither true nor false"
            )));
        }
    }
    let event = PutSchedule {
        id,
        create: false,
        if_version,
        definition,
        why: "changed".into(),
        by,
    };
    let (_, schedule, index) = api.schedule_event(event).await?;
    api.schedule_answer(&schedule, index)
}

/// Gives a schedule the definition of one of its former versions, as a new version.
#[utoipa::path(post, path = "/v1/schedules/{id}/revert", tag = "schedules",
    params(("id" = String, Path)), request_body = RevertDto, responses(
    (status = 200, body = AnyJson), (status = 404, body = ProblemView), (status = 422, body = ProblemView),
))]
pub async fn revert(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    ScheduleId(id): ScheduleId,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let RevertDto { version } = body::json(&headers, body).await?;
    let schedule = api.schedule(&id, false).await?;
    let missing = || {
        Problem::invalid(format!(
            "`version`: {version} is none of those that are kept; see the history"
        ))
    };
    let former = schedule.version_of(version).ok_or_else(missing)?;
    let event = PutSchedule {
        id,
        create: false,
        if_version: schedule.version().map(|v| v.number),
        definition: former.definition.clone(),
        why: format!("reverted to {version}").into(),
        by,
    };
    let (_, schedule, index) = api.schedule_event(event).await?;
    api.schedule_answer(&schedule, index)
}

/// Skips a schedule's occurrences from now on.
#[utoipa::path(post, path = "/v1/schedules/{id}/pause", tag = "schedules",
    params(("id" = String, Path)), request_body = PauseDto,
    responses((status = 200, body = AnyJson), (status = 404, body = ProblemView)))]
pub async fn pause(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    ScheduleId(id): ScheduleId,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let PauseDto { reason } = body::json_or_default(&headers, body).await?;
    if reason
        .as_ref()
        .is_some_and(|reason| reason.len() > REASON_BYTES_MAX)
    {
        return Err(Problem::invalid(format!(
            "`reason`: at most {REASON_BYTES_MAX} bytes"
        )));
    }
    api.set_paused(id, true, reason.map(Into::into), by).await
}

/// Lets a schedule fire again.
#[utoipa::path(post, path = "/v1/schedules/{id}/resume", tag = "schedules",
    params(("id" = String, Path)),
    responses((status = 200, body = AnyJson), (status = 404, body = ProblemView)))]
pub async fn resume(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    ScheduleId(id): ScheduleId,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    api.set_paused(id, false, None, by).await
}

/// Deletes a schedule: nothing of it fires any more. What runs goes on; its ledger stays readable
/// for a while.
#[utoipa::path(delete, path = "/v1/schedules/{id}", tag = "schedules",
    params(("id" = String, Path), ("if-match" = Option<String>, Header)),
    responses((status = 200, body = AnyJson), (status = 404, body = ProblemView), (status = 412, body = ProblemView)))]
pub async fn delete(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    ScheduleId(id): ScheduleId,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let if_version = if_version(&headers)?;
    let event = DeleteSchedule { id, if_version, by };
    let (_, schedule, index) = api.schedule_event(event).await?;
    api.schedule_answer(&schedule, index)
}

/// Runs a schedule now, as its overlap policy allows.
#[utoipa::path(post, path = "/v1/schedules/{id}/run", tag = "schedules", params(("id" = String, Path)),
    responses((status = 200, description = "The line of the ledger", body = AnyJson),
        (status = 404, body = ProblemView), (status = 409, body = ProblemView)))]
pub async fn run(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    ScheduleId(id): ScheduleId,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    api.run_schedule(id, Vec::new(), Span::ZERO, by).await
}

/// Runs what a schedule would have run between two instants, by its definition of now.
#[utoipa::path(post, path = "/v1/schedules/{id}/backfill", tag = "schedules",
    params(("id" = String, Path)), request_body = BackfillDto,
    responses((status = 200, description = "The lines of the ledger", body = AnyJson),
        (status = 404, body = ProblemView), (status = 422, body = ProblemView)))]
pub async fn backfill(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    ScheduleId(id): ScheduleId,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let dto: BackfillDto = body::json(&headers, body).await?;
    let schedule = api.schedule(&id, false).await?;
    let plan = schedule.version().map(|v| plan_of(&id, &v.definition));
    let plan = plan.ok_or_else(unasked)??;
    if dto.to > api.clock.wall() {
        return Err(Problem::invalid(
            "`to`: lies in the future; a backfill is of the past",
        ));
    }
    let all = plan.since(dto.from).without_limit();
    let all = all.take_while(|at| *at < dto.to).take(QUEUE_MAX + 1);
    let planned: Vec<Time> = all.collect();
    match planned.len() {
        0 => Err(Problem::invalid(
            "`from`, `to`: no occurrence lies between them",
        )),
        n if n > QUEUE_MAX => Err(Problem::invalid(format!(
            "`from`, `to`: more than {QUEUE_MAX} occurrences lie between them; ask for less at a time"
        ))),
        _ => {
            api.run_schedule(id, planned, dto.pace.unwrap_or(PACE_DEFAULT), by)
                .await
        }
    }
}

/// The versions of a schedule, the newest first: who made them, when, and what they changed.
#[utoipa::path(get, path = "/v1/schedules/{id}/history", tag = "schedules",
    params(("id" = String, Path), ("read" = Option<String>, Query)),
    responses((status = 200, body = AnyJson), (status = 404, body = ProblemView)))]
pub async fn history(
    State(api): State<Arc<Api>>,
    ScheduleId(id): ScheduleId,
    uri: Uri,
) -> Result<Response, Problem> {
    let local = Params::read(&uri, &["read"])?.local_read()?;
    let schedule = api.schedule(&id, local).await?;
    let (mut versions, mut before): (Vec<Value>, Option<Value>) = (Vec::new(), None);
    for version in &schedule.versions {
        let definition = defined(&id, version)?;
        versions.push(json!({
            "version": version.number,
            "at": version.at,
            "by": version.by,
            "why": version.why,
            "index": version.index,
            "from": version.from,
            "until": version.until,
            "occurrences": version.taken,
            "changed": before.as_ref().map(|before| changed(before, &definition)),
            "definition": definition,
        }));
        before = versions.last().map(|last| last["definition"].clone());
    }
    versions.reverse();
    Ok(label(json(&json!({ "versions": versions })), local))
}

/// The members in which two definitions differ: what they were, and are.
fn changed(before: &Value, now: &Value) -> Value {
    let names = [before, now].into_iter().filter_map(Value::as_object);
    let names: std::collections::BTreeSet<&String> = names.flat_map(|o| o.keys()).collect();
    let differ = |name: &&String| **name != "version" && before[*name] != now[*name];
    let pair = |name: &String| (name.clone(), json!([before[name], now[name]]));
    Value::Object(names.into_iter().filter(differ).map(pair).collect())
}

/// The version of `If-Match`: a number, quoted or not.
fn if_version(headers: &HeaderMap) -> Result<Option<u32>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.trim_matches('"').parse();
    let wrong = |_| Problem::malformed("If-Match: give the version, as in the ETag, or *");
    number.map(Some).map_err(wrong)
}

impl Api {
    /// Proposes an event about a schedule; whether it had an effect, and how the schedule stands.
    async fn schedule_event(
        &self,
        event: impl Into<Event>,
    ) -> Result<(bool, Box<Schedule>, u64), Problem> {
        let mut answers = self
            .cluster()?
            .decide(Class::Cancel, vec![event.into()])
            .await;
        let Decided { index, outcome } = answers.pop().unwrap_or(Err(Busy::Unknown))?;
        match outcome {
            Outcome::Schedule { new, schedule } => Ok((new, schedule, index)),
            Outcome::Refused(refusal) => Err(Problem::refused(&refusal, index)),
            _ => Err(unasked()),
        }
    }

    /// A definition that may be stored, and its plan.
    fn defined(
        &self,
        dto: ScheduleDto,
        id: &str,
    ) -> Result<(crate::model::Definition, Plan), Problem> {
        let (definition, plan, spec) = dto.into_definition(id)?;
        self.check(&spec)?;
        if plan.next_after(self.clock.wall()).is_none() {
            return Err(Problem::invalid(
                "nothing of it lies in the future; it would never fire",
            ));
        }
        Ok((definition, plan))
    }

    /// The schedule as it is now, or as this node knows it.
    pub(super) async fn schedule(&self, id: &str, local: bool) -> Result<Arc<Schedule>, Problem> {
        let found = self
            .reading(local)
            .await?
            .state()
            .read(|state| state.schedule(id));
        found.ok_or_else(|| Problem::new(Kind::UnknownSchedule, Refusal::NoSchedule.to_string()))
    }

    fn schedule_answer(&self, schedule: &Schedule, index: u64) -> Result<Response, Problem> {
        let mut response = json(&shown(schedule, self.clock.wall())?);
        let version = schedule.version().map_or(0, |v| v.number);
        response.headers_mut().insert(INDEX_HEADER, index.into());
        if let Ok(etag) = HeaderValue::from_str(&format!("\"{version}\"")) {
            response.headers_mut().insert(header::ETAG, etag);
        }
        Ok(response)
    }

    async fn set_paused(
        &self,
        id: Arc<str>,
        paused: bool,
        reason: Option<Arc<str>>,
        by: By,
    ) -> Result<Response, Problem> {
        let event = PauseSchedule {
            id,
            paused,
            reason,
            by,
        };
        let (_, schedule, index) = self.schedule_event(event).await?;
        self.schedule_answer(&schedule, index)
    }

    async fn run_schedule(
        &self,
        id: Arc<str>,
        planned: Vec<Time>,
        pace: Span,
        by: By,
    ) -> Result<Response, Problem> {
        // The end of a UUIDv7 is chance.
        let fresh: String = (self.new_id)().chars().filter(|c| *c != '-').collect();
        let tag = fresh
            .get(fresh.len().saturating_sub(16)..)
            .unwrap_or(&fresh);
        let event = RunSchedule {
            id,
            tag: tag.into(),
            planned,
            pace,
            by,
        };
        let (_, schedule, index) = self.schedule_event(event).await?;
        let lines = schedule
            .fires
            .iter()
            .map(|fire| fires::line(&schedule, fire));
        let mut response = json(&json!({ "fires": lines.collect::<Vec<_>>() }));
        response.headers_mut().insert(INDEX_HEADER, index.into());
        Ok(response)
    }

    async fn dry_run(&self, id: &str, plan: &Plan, params: &Params) -> Result<Response, Problem> {
        let schedule = self.schedule(id, false).await?;
        let old = schedule.version().ok_or_else(unasked)?;
        let now = self.clock.wall();
        let from = params
            .time("from")?
            .unwrap_or(Time(now.0.saturating_sub(DRY_RUN.0)));
        let to = params.time("to")?.unwrap_or(now.plus(DRY_RUN));
        let old = plan_of(id, &old.definition)?;
        let (past, future) = (from.min(now), to.max(now));
        let next: Vec<Time> = plan.after(now).take(10).collect();
        Ok(json(&json!({
            "past": compare(&old, plan, past, now.min(to)),
            "future": compare(&old, plan, now.max(from), future),
            "next": next,
        })))
    }
}
