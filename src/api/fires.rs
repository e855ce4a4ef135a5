//! The ledger: what became of every occurrence, how its runs went, and the proof that none is
//! missing.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;

use super::Api;
use super::audit::{Audit, audit};
use super::history::attempts_of;
use super::params::Params;
use super::problem::{Problem, ProblemView};
use super::schedule_dto::{plan_of, totals};
use super::schedules::ScheduleId;
use super::schema::AnyJson;
use super::tasks::label;
use super::write::{json, unasked};
use crate::calendar::{Plan, forecast, preview, tz_version};
use crate::model::limits::{OCCURRENCES_LISTED_MAX, PAGE_DEFAULT, PAGE_MAX};
use crate::model::{Fire, Schedule, Span, Time, schedule_id};
use crate::raft::Cluster;

/// How far ahead jumps of the clock are looked for, and seconds are counted, unless it is said.
const PREVIEW: Span = Span::days(366);
const FORECAST: Span = Span::days(1);
/// Forecasts look no further.
const FORECAST_MAX: Span = Span::days(366);
/// Seconds that a forecast names.
const BUSIEST: usize = 20;

/// A line of the ledger.
pub fn line(schedule: &Schedule, fire: &Fire) -> Value {
    let (outcome, reason) = fire.fate.names();
    let key = schedule.key_of(fire);
    json!({
        "schedule": schedule.id,
        "version": fire.version,
        "planned": fire.planned,
        "cause": fire.cause,
        "outcome": outcome,
        "reason": reason,
        "decided": fire.decided,
        "index": fire.index,
        "task": fire.seq.map(|_| json!({ "app": key.app, "id": key.id })),
        "ended": fire.ended.map(|(at, _)| at),
        "stage": fire.ended.map(|(_, stage)| stage.name()),
    })
}

/// The same, with how its task went as far as that is kept.
fn run_of(cluster: &Cluster, schedule: &Schedule, fire: &Fire) -> Result<Value, Problem> {
    let mut told = line(schedule, fire);
    let key = schedule.key_of(fire);
    let histories = cluster.read(|state| state.histories(&key))?;
    if let Some(history) = histories.iter().find(|h| Some(h.task.seq) == fire.seq) {
        let task = &history.task;
        let attempts = attempts_of(&history.rows);
        told["stage"] = task.stage.name().into();
        told["result"] = json!(task.outcome);
        told["error"] = json!(task.error);
        told["attempts"] = json!(attempts);
        told["retired"] = history.retired.into();
    }
    Ok(told)
}

/// What became of a schedule's occurrences, the newest first.
#[utoipa::path(get, path = "/v1/schedules/{id}/fires", tag = "schedules", params(
    ("id" = String, Path),
    ("outcome" = Option<String>, Query, description = "`fired`, `late`, `skipped`, `coalesced`, `missed`, `cancelled` or `queued`"),
    ("from" = Option<String>, Query, description = "planned at or after this"),
    ("to" = Option<String>, Query, description = "planned before this"),
    ("before" = Option<u64>, Query, description = "`next` of the page before"),
    ("limit" = Option<u32>, Query), ("read" = Option<String>, Query),
), responses((status = 200, body = AnyJson), (status = 404, body = ProblemView)))]
pub async fn fires(
    State(api): State<Arc<Api>>,
    ScheduleId(id): ScheduleId,
    uri: Uri,
) -> Result<Response, Problem> {
    let params = Params::read(&uri, &["outcome", "from", "to", "before", "limit", "read"])?;
    let limit = params.number("limit", 1, PAGE_MAX)?.unwrap_or(PAGE_DEFAULT);
    let before = params
        .number("before", 0, usize::MAX)?
        .unwrap_or(usize::MAX);
    let (from, to) = (
        params.time("from")?.unwrap_or(Time(0)),
        params.time("to")?.unwrap_or(Time(u64::MAX)),
    );
    let outcome = params.get("outcome");
    let local = params.local_read()?;
    let s = api.schedule(&id, local).await?;
    let end = s.first + s.fires.len() as u64;
    let numbered = (s.first..end).rev().zip(s.fires.iter().rev());
    let wanted = numbered.filter(|(n, fire)| {
        *n < before as u64
            && (from..to).contains(&fire.planned)
            && outcome.is_none_or(|outcome| outcome == fire.fate.names().0)
    });
    let page: Vec<_> = wanted.take(limit + 1).collect();
    let next = (page.len() > limit).then(|| page[limit - 1].0);
    let lines: Vec<Value> = page
        .iter()
        .take(limit)
        .map(|(_, fire)| line(&s, fire))
        .collect();
    let answer = json!({
        "fires": lines,
        "next": next,
        "totals": totals(&s),
        "kept_from": s.fires.front().map(|fire| fire.planned),
        "watermark": s.watermark,
    });
    Ok(label(json(&answer), local))
}

/// The last runs of all schedules, or of one, the newest first: with attempts, errors and answers.
#[utoipa::path(get, path = "/v1/runs", tag = "schedules", params(
    ("schedule" = Option<String>, Query), ("limit" = Option<u32>, Query), ("read" = Option<String>, Query),
), responses((status = 200, body = AnyJson)))]
pub async fn runs(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    let params = Params::read(&uri, &["schedule", "limit", "read"])?;
    let limit = params.number("limit", 1, PAGE_MAX)?.unwrap_or(PAGE_DEFAULT);
    let only = params.get("schedule").map(schedule_id).transpose()?;
    let local = params.local_read()?;
    let cluster = api.reading(local).await?;
    let schedules = schedules_of(cluster, only.as_deref());
    let mut last: Vec<(u64, Time, &Schedule, &Fire)> = Vec::new();
    for s in &schedules {
        let ran = s
            .fires
            .iter()
            .rev()
            .filter(|fire| fire.seq.is_some())
            .take(limit);
        last.extend(ran.map(|fire| (fire.index, fire.planned, &**s, fire)));
        if last.len() > limit * 4 {
            newest(&mut last, limit);
        }
    }
    newest(&mut last, limit);
    let told = last.iter().map(|(_, _, s, fire)| run_of(cluster, s, fire));
    let told: Vec<Value> = told.collect::<Result<_, _>>()?;
    Ok(label(json(&json!({ "runs": told })), local))
}

fn newest(last: &mut Vec<(u64, Time, &Schedule, &Fire)>, limit: usize) {
    last.sort_unstable_by(|a, b| (b.0, b.1, &b.2.id).cmp(&(a.0, a.1, &a.2.id)));
    last.truncate(limit);
}

fn schedules_of(cluster: &Cluster, only: Option<&str>) -> Vec<Arc<Schedule>> {
    cluster.state().read(|state| match only {
        Some(id) => state.schedule(id).into_iter().collect(),
        None => state.schedules().cloned().collect(),
    })
}

/// Works out anew what should have fired, and holds the ledger against it. No difference: proven.
#[utoipa::path(get, path = "/v1/audit", tag = "schedules", params(
    ("from" = Option<String>, Query, description = "the beginning of time by default"),
    ("to" = Option<String>, Query, description = "a few seconds ago by default, and at most"),
    ("schedule" = Option<String>, Query),
), responses((status = 200, description = "`differences`: 0 is proof", body = AnyJson), (status = 422, body = ProblemView)))]
pub async fn audit_ledger(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    let params = Params::read(&uri, &["from", "to", "schedule"])?;
    let only = params.get("schedule").map(schedule_id).transpose()?;
    let from = params.time("from")?.unwrap_or(Time(0));
    let latest = Time(api.clock.wall().0.saturating_sub(super::audit::GRACE.0));
    let to = params.time("to")?.unwrap_or(latest).min(latest);
    if from > to {
        return Err(Problem::invalid(format!("`from`: {from} lies after {to}")));
    }
    let cluster = api.reading(false).await?;
    let schedules = schedules_of(cluster, only.as_deref());
    let recorded = cluster.state().read(|state| state.tz_version().to_owned());
    let work = move || {
        let mut whole = Audit::default();
        for schedule in &schedules {
            audit(schedule, from, to, &mut whole)?;
        }
        Ok::<_, Problem>(whole)
    };
    // It may go through a million instants.
    let whole = tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| unasked())??;
    Ok(json(&json!({
        "from": from,
        "to": to,
        "schedules": whole.schedules,
        "expected": whole.expected,
        "outcomes": whole.outcomes,
        "by_count_only": whole.by_count_only,
        "unproven": whole.unproven,
        "differences": whole.count,
        "found": whole.found,
        "tz_version": tz_version(),
        "tz_version_recorded": recorded,
    })))
}

/// When a schedule fires next, and what the jumps of the wall clock do to it.
#[utoipa::path(get, path = "/v1/schedules/{id}/next", tag = "schedules", params(
    ("id" = String, Path), ("count" = Option<u32>, Query, description = "10 by default, at most 1,000"),
    ("from" = Option<String>, Query, description = "after this; now by default"), ("read" = Option<String>, Query),
), responses((status = 200, body = AnyJson), (status = 404, body = ProblemView)))]
pub async fn next(
    State(api): State<Arc<Api>>,
    ScheduleId(id): ScheduleId,
    uri: Uri,
) -> Result<Response, Problem> {
    let params = Params::read(&uri, &["count", "from", "read"])?;
    let count = params
        .number("count", 1, OCCURRENCES_LISTED_MAX)?
        .unwrap_or(10);
    let local = params.local_read()?;
    let s = api.schedule(&id, local).await?;
    let version = s.version().ok_or_else(unasked)?;
    let plan = plan_of(&id, &version.definition)?;
    let from = params.time("from")?.unwrap_or_else(|| api.clock.wall());
    let over = s.deleted.is_some() || version.until.is_some();
    let count = if over { 0 } else { count };
    let fires = plan.after(from).having_run(version.runs).take(count);
    let fires: Vec<Value> = fires
        .map(|at| json!({ "planned": at, "fires_at": plan.fires_at(at), "local": plan.shown(at) }))
        .collect();
    let answer = json!({
        "schedule": id,
        "version": version.number,
        "zone": plan.zone(),
        "tz_version": tz_version(),
        "from": from,
        "fires": fires,
        "jumps": preview(&plan, from, PREVIEW),
    });
    Ok(label(json(&answer), local))
}

/// How many occurrences of all schedules fall into each second of the next time.
#[utoipa::path(get, path = "/v1/schedules/forecast", tag = "schedules", params(
    ("from" = Option<String>, Query, description = "now by default"),
    ("span" = Option<String>, Query, description = "1 d by default, at most 366 d"), ("read" = Option<String>, Query),
), responses((status = 200, body = AnyJson), (status = 422, body = ProblemView)))]
pub async fn crowds(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    let params = Params::read(&uri, &["from", "span", "read"])?;
    let from = params.time("from")?.unwrap_or_else(|| api.clock.wall());
    let span = params.span("span", FORECAST_MAX)?.unwrap_or(FORECAST);
    let local = params.local_read()?;
    let schedules = schedules_of(api.reading(local).await?, None);
    let work = move || {
        let living = schedules
            .iter()
            .filter(|s| s.deleted.is_none() && s.paused.is_none());
        let open = living.filter_map(|s| Some((s, s.version().filter(|v| v.until.is_none())?)));
        let plans = open.map(|(s, version)| plan_of(&s.id, &version.definition));
        let plans: Vec<Plan> = plans.collect::<Result<_, _>>()?;
        Ok::<_, Problem>(forecast(&plans, from, from.plus(span), BUSIEST))
    };
    let seen = tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| unasked())??;
    Ok(label(json(&seen), local))
}
