//! What happened to a task: its events, its attempts, and the story they tell.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

use super::apps::explain_pause;
use super::explain_words::explain_handler;
use super::params::{Params, TaskKey};
use super::problem::{Problem, ProblemView};
use super::tasks::{label, unknown};
use super::write::json;
use super::{Api, explain::explain};
use crate::executor::{BreakerState, target_of};
use crate::model::{Key, NodeId, Row, RowKind, Spec, Stage, Time};
use crate::state::History;

/// One event of a task.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TaskEvent)]
pub struct EventView {
    index: u64,
    at: Time,
    kind: &'static str,
    attempt: u32,
    node: Option<NodeId>,
    fence: Option<u64>,
    /// The HTTP status, when an attempt ended with it.
    status: Option<u16>,
    #[schema(value_type = Option<String>)]
    error: Option<Arc<str>>,
    /// The principal that asked for it.
    #[schema(value_type = Option<String>)]
    by: Option<Arc<str>>,
}

/// What is told beside the history of a task that is gone; nothing, of one that is there.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Retirement {
    /// The task was retired: its id is free, or names another task by now.
    #[serde(skip_serializing_if = "Option::is_none")]
    retired: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<PastView>,
}

/// What stays of a retired task.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PastTask)]
pub struct PastView {
    app: String,
    id: String,
    stage: &'static str,
    due_at: Time,
    created_at: Time,
    finished_at: Option<Time>,
    #[schema(value_type = Option<String>)]
    outcome: Option<Arc<str>>,
    #[schema(value_type = Option<String>)]
    error: Option<Arc<str>>,
}

impl Retirement {
    fn of(history: &History) -> Retirement {
        let task = &history.task;
        Retirement {
            retired: history.retired.then_some(true),
            task: history.retired.then(|| PastView {
                app: task.key.app.to_string(),
                id: task.key.id.to_string(),
                stage: task.stage.name(),
                due_at: task.due,
                created_at: task.created,
                finished_at: task.finished,
                outcome: task.outcome.clone(),
                error: task.error.clone(),
            }),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Events {
    events: Vec<EventView>,
    #[serde(flatten)]
    retirement: Retirement,
    /// Tasks that had this id before, the newest first; absent when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    past: Vec<Events>,
}

/// One attempt of a task.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = Attempt)]
pub struct AttemptView {
    attempt: u32,
    fence: u64,
    node: Option<NodeId>,
    started: Option<Time>,
    ended: Option<Time>,
    status: Option<u16>,
    #[schema(value_type = Option<String>)]
    error: Option<Arc<str>>,
    /// The first KiB of what the receiver answered.
    #[schema(value_type = Option<String>)]
    answer: Option<Arc<str>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Attempts {
    attempts: Vec<AttemptView>,
    #[serde(flatten)]
    retirement: Retirement,
    /// As in the events.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    past: Vec<Attempts>,
}

/// Why a task is where it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Explanation {
    app: String,
    id: String,
    stage: &'static str,
    /// In order of time; the last one says how it stands now.
    sentences: Vec<String>,
    #[serde(flatten)]
    retirement: Retirement,
    /// As in the events.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    past: Vec<Explanation>,
}

/// The events of a task, in the order of the log.
#[utoipa::path(get, path = "/v1/tasks/{app}/{id}/events", tag = "history", params(
    ("app" = String, Path), ("id" = String, Path), ("read" = Option<String>, Query),
), responses((status = 200, description = "Of the task, or of the last one that had this id and was retired", body = Events), (status = 404, body = ProblemView)))]
pub async fn events(
    State(api): State<Arc<Api>>,
    TaskKey(key): TaskKey,
    uri: Uri,
) -> Result<Response, Problem> {
    let (now, past, local) = api.histories(&key, &uri).await?;
    let answer = Events {
        past: past.iter().map(events_of).collect(),
        ..events_of(&now)
    };
    Ok(label(json(&answer), local))
}

/// The attempts of a task.
#[utoipa::path(get, path = "/v1/tasks/{app}/{id}/attempts", tag = "history", params(
    ("app" = String, Path), ("id" = String, Path), ("read" = Option<String>, Query),
), responses((status = 200, body = Attempts), (status = 404, body = ProblemView)))]
pub async fn attempts(
    State(api): State<Arc<Api>>,
    TaskKey(key): TaskKey,
    uri: Uri,
) -> Result<Response, Problem> {
    let (now, past, local) = api.histories(&key, &uri).await?;
    let told = |history: &History| Attempts {
        attempts: attempts_of(&history.rows),
        retirement: Retirement::of(history),
        past: Vec::new(),
    };
    let answer = Attempts {
        past: past.iter().map(told).collect(),
        ..told(&now)
    };
    Ok(label(json(&answer), local))
}

/// Why the task was late, retried, moved, or has not run yet, in plain sentences.
#[utoipa::path(get, path = "/v1/tasks/{app}/{id}/explain", tag = "history", params(
    ("app" = String, Path), ("id" = String, Path), ("read" = Option<String>, Query),
), responses((status = 200, body = Explanation), (status = 404, body = ProblemView)))]
pub async fn explanation(
    State(api): State<Arc<Api>>,
    TaskKey(key): TaskKey,
    uri: Uri,
) -> Result<Response, Problem> {
    let (now, past, local) = api.histories(&key, &uri).await?;
    let told = |history: &History| Explanation {
        app: key.app.to_string(),
        id: key.id.to_string(),
        stage: history.task.stage.name(),
        sentences: explain(&history.task, &history.rows, api.clock.wall()),
        retirement: Retirement::of(history),
        past: Vec::new(),
    };
    let mut answer = Explanation {
        past: past.iter().map(told).collect(),
        ..told(&now)
    };
    answer.sentences.extend(api.held_up(&now)?);
    Ok(label(json(&answer), local))
}

impl Api {
    /// What a due task waits for at this moment, as far as this node knows.
    fn held_up(&self, history: &History) -> Result<Option<String>, Problem> {
        let task = &history.task;
        let waits = matches!(
            task.stage,
            Stage::Scheduled | Stage::Retrying | Stage::Triggered
        );
        if history.retired || !waits {
            return Ok(None);
        }
        let cluster = self.cluster()?;
        let app = &task.key.app;
        let paused = cluster
            .state()
            .read(|state| Some(explain_pause(app, state.paused(app)?)));
        let spec = Spec::decode(&task.spec).ok();
        let handler = spec.as_ref().and_then(|spec| spec.target.handler());
        let unknown = handler.and_then(|name| explain_handler(name, &cluster.picture()));
        let known = paused.or(unknown);
        if known.is_some() || task.owner != cluster.node() {
            return Ok(known);
        }
        let target = spec.and_then(|spec| target_of(&spec.target));
        let seen = (self.targets)().into_iter();
        let broken = seen
            .filter(|seen| seen.breaker != BreakerState::Closed)
            .find(|seen| Some(&seen.target) == target.as_ref());
        Ok(broken.map(|seen| {
            format!(
                "The circuit breaker of {} is {} on this node: its last calls failed. What is due \
                 there waits, until it is well again.",
                seen.target,
                seen.breaker.name().replace('_', "-")
            )
        }))
    }

    /// The task of an id, or the last one that was, and those before it.
    async fn histories(
        &self,
        key: &Key,
        uri: &Uri,
    ) -> Result<(History, Vec<History>, bool), Problem> {
        let local = Params::read(uri, &["read"])?.local_read()?;
        let cluster = self.reading(local).await?;
        let mut found = cluster.read(|state| state.histories(key))?.into_iter();
        let now = found.next().ok_or_else(|| unknown(key))?;
        Ok((now, found.collect(), local))
    }
}

fn events_of(history: &History) -> Events {
    Events {
        events: events_told(&history.rows).collect(),
        retirement: Retirement::of(history),
        past: Vec::new(),
    }
}

/// The rows that are events. A refused result is none: nothing changed. Attempts and explain
/// show it.
pub fn events_told(rows: &[Row]) -> impl Iterator<Item = EventView> {
    let rows = rows.iter().filter(|row| row.kind != RowKind::Stale);
    rows.map(event)
}

fn event(row: &Row) -> EventView {
    let end = row.end.as_deref();
    EventView {
        index: row.index,
        at: row.at,
        kind: row.kind.name(),
        attempt: row.fence.attempt,
        node: (row.node != 0).then_some(row.node),
        fence: (row.fence.attempt != 0).then(|| row.fence.number()),
        status: end.map(|end| end.status).filter(|status| *status != 0),
        error: row
            .error
            .clone()
            .or_else(|| end.and_then(|end| end.error.clone())),
        by: row.by.clone(),
    }
}

/// Attempts in order of their fences: begun by a trigger or a move, filled in by what ended them.
pub(super) fn attempts_of(rows: &[Row]) -> Vec<AttemptView> {
    let mut attempts: Vec<AttemptView> = Vec::new();
    for row in rows.iter().filter(|row| row.fence.attempt != 0) {
        let fence = row.fence.number();
        let begins = matches!(
            row.kind,
            RowKind::Triggered | RowKind::Redispatched | RowKind::Run
        );
        let known = attempts.iter().rposition(|attempt| attempt.fence == fence);
        if row.kind == RowKind::Redispatched {
            overtaken(attempts.last_mut(), row);
        }
        let place = match known {
            Some(place) => place,
            None if begins || row.end.is_some() || row.kind == RowKind::Started => {
                attempts.push(AttemptView {
                    attempt: row.fence.attempt,
                    fence,
                    ..AttemptView::default()
                });
                attempts.len() - 1
            }
            None => continue,
        };
        fill(&mut attempts[place], row);
    }
    attempts
}

fn fill(attempt: &mut AttemptView, row: &Row) {
    if row.node != 0 {
        attempt.node = Some(row.node);
    }
    if row.kind == RowKind::Started {
        // Reported a little later than it was; the end brings the exact instant.
        attempt.started = Some(row.at);
    }
    if let Some(end) = row.end.as_deref() {
        attempt.started = (end.started.0 != 0).then_some(end.started);
        attempt.ended = Some(end.ended);
        attempt.status = (end.status != 0).then_some(end.status);
        attempt.error = end.error.clone();
        attempt.answer = end.answer.clone();
    } else if attempt.ended.is_none() && matches!(row.kind, RowKind::Retry | RowKind::Dead) {
        // It was given up: its own end never came.
        attempt.ended = Some(row.at);
        attempt.error = row.error.clone();
    }
}

/// The attempt lost its shard before its outcome was known.
fn overtaken(attempt: Option<&mut AttemptView>, row: &Row) {
    let Some(attempt) = attempt.filter(|attempt| attempt.ended.is_none()) else {
        return;
    };
    let cause = row.by.as_deref().unwrap_or("no cause given");
    attempt.ended = Some(row.at);
    attempt.error = Some(format!("its shard moved ({cause})").into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AttemptEnd, Epoch, Fence, Span};

    fn row(index: u64, kind: RowKind, attempt: u32, end: Option<AttemptEnd>) -> Row {
        Row {
            index,
            at: Time(index),
            kind,
            fence: Fence {
                epoch: Epoch(1),
                attempt,
            },
            node: 2,
            until: Time(0),
            error: None,
            by: None,
            end: end.map(Box::new),
        }
    }

    #[test]
    fn attempts_are_gathered_from_rows() {
        let end = |status| {
            Some(AttemptEnd {
                started: Time(5),
                ended: Time(6),
                queued: Span(0),
                waited_for: Default::default(),
                status,
                error: None,
                answer: Some("hello".into()),
            })
        };
        let rows = [
            row(1, RowKind::Submitted, 0, None),
            row(2, RowKind::Triggered, 1, None),
            row(3, RowKind::Retry, 1, end(503)),
            row(4, RowKind::Triggered, 2, None),
            row(5, RowKind::Redispatched, 3, None),
        ];
        let attempts = attempts_of(&rows);
        let numbers: Vec<_> = attempts.iter().map(|a| (a.attempt, a.status)).collect();
        assert_eq!(numbers, [(1, Some(503)), (2, None), (3, None)]);
        assert_eq!(attempts[0].answer.as_deref(), Some("hello"));
        assert_eq!(
            attempts[1].error.as_deref(),
            Some("its shard moved (no cause given)")
        );
        assert!(attempts[2].ended.is_none());
    }

    #[test]
    fn an_event_has_the_contracts_members() {
        let json = serde_json::to_value(event(&row(1, RowKind::Submitted, 0, None))).unwrap();
        let members: Vec<_> = json
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            members,
            [
                "at", "attempt", "by", "error", "fence", "index", "kind", "node", "status"
            ]
        );
        assert!(json["fence"].is_null());
    }
}
