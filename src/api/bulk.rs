//! `POST /v1/tasks/bulk`: one action for every task that a filter names.
//!
//! A request walks a bounded part of the list and answers how far it came; the same body with the
//! answer's `next` as `cursor` goes on from there. Each task is its own event: it is acted on as
//! it was when it matched, or, if it has changed meanwhile, looked at again.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

use super::auth::Principal;
use super::list::{checked_labels, from_cursor, to_cursor};
use super::params::Params;
use super::patch::Patch;
use super::problem::{INDEX_HEADER, Kind, Problem, ProblemView};
use super::write::json;
use super::{Api, body};
use crate::bugs::{self, Bug};
use crate::model::limits::{PAGE_EXAMINED_MAX, PAGE_MAX};
use crate::model::{By, Cancel, ChangeTask, Complete, Event, IfMatch, Key, Outcome};
use crate::model::{Refusal, Run, Stage, Task, Time};
use crate::raft::{Busy, Class, Decided};
use crate::state::Filter;

/// Tasks whose events go to the log together.
const PIECE: usize = 100;
/// A request that has taken so long ends with the piece it is at.
const ENOUGH: Duration = Duration::from_secs(5);
/// A task that changes under the walk is looked at so often.
const LOOKS_MAX: usize = 4;

/// What to do with which tasks.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkRequest {
    /// `{}` means every task.
    filter: BulkFilter,
    action: Action,
    /// For `change`: the same merge patch for each.
    #[schema(value_type = Option<Patch>)]
    change: Option<Box<RawValue>>,
    /// Says what would happen, judged by the stages, and does nothing.
    #[serde(default)]
    dry_run: bool,
    /// `next` of the answer before.
    cursor: Option<String>,
}

/// Which tasks; all that is said must hold.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BulkFilter {
    app: Option<String>,
    #[schema(value_type = Option<String>)]
    stage: Option<String>,
    labels: BTreeMap<String, String>,
    /// Inclusive.
    due_from: Option<Time>,
    /// Exclusive.
    due_to: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Action {
    Cancel,
    Run,
    Change,
    Done,
}

/// How far one request came.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct BulkProgress {
    /// Tasks looked at.
    examined: usize,
    /// Those that the filter names.
    matched: usize,
    /// Those that the action took effect on, or would.
    changed: usize,
    /// The others by reason: the stage that forbids it, `changed`, `unknown`, `invalid`.
    skipped: BTreeMap<&'static str, usize>,
    /// Send the same with this as `cursor`; null: that was all.
    next: Option<String>,
    dry_run: bool,
}

/// Acts on every task that a filter names.
#[utoipa::path(post, path = "/v1/tasks/bulk", tag = "tasks", request_body = BulkRequest, responses(
    (status = 200, description = "How far it came", body = BulkProgress),
    (status = 422, description = "A value is not acceptable", body = ProblemView),
    (status = 504, description = "The outcome is unknown; send the same again", body = ProblemView),
))]
pub async fn bulk(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let request: BulkRequest = body::json(&headers, body).await?;
    Params::read(&uri, &[])?;
    let mut walk = Walk::new(&api, request, by)?;
    walk.go().await?;
    let mut response = json(&walk.progress);
    if walk.index > 0 {
        response
            .headers_mut()
            .insert(INDEX_HEADER, walk.index.into());
    }
    Ok(response)
}

impl BulkFilter {
    fn checked(self) -> Result<Filter, Problem> {
        if let Some(app) = &self.app {
            Key::new(app, "any")?;
        }
        Ok(Filter {
            app: self.app,
            stage: self.stage.as_deref().map(super::list::stage).transpose()?,
            labels: checked_labels(self.labels.into_iter().collect())?,
            due_from: self.due_from,
            due_to: self.due_to,
        })
    }
}

impl Action {
    fn class(self) -> Class {
        match self {
            Action::Cancel | Action::Change => Class::Cancel,
            Action::Run => Class::Submit,
            Action::Done => Class::Outcome,
        }
    }

    /// The stage, if it forbids the action, or leaves it nothing to do.
    fn obstacle(self, stage: Stage) -> Option<&'static str> {
        use Stage::{Accepted, Cancelled, Dead, Done, Running};
        let forbidden: &[Stage] = match self {
            Action::Cancel | Action::Change => &[Running, Accepted, Done, Dead, Cancelled],
            Action::Run => &[Running, Accepted, Done],
            Action::Done => &[Done, Dead, Cancelled],
        };
        forbidden.contains(&stage).then(|| stage.name())
    }
}

/// What became of one task.
enum Fate {
    Changed(u64),
    Skipped(&'static str),
    /// Look at it again.
    Stale,
}

/// One request on its way.
struct Walk<'a> {
    api: &'a Api,
    filter: Filter,
    action: Action,
    patch: Option<Box<RawValue>>,
    by: By,
    after: Option<Key>,
    progress: BulkProgress,
    /// The highest log index decided.
    index: u64,
}

impl Walk<'_> {
    fn new(api: &Api, request: BulkRequest, by: By) -> Result<Walk<'_>, Problem> {
        match (&request.change, request.action) {
            (Some(raw), Action::Change) => drop(patch(raw)?.when()?),
            (None, Action::Change) => {
                return Err(Problem::invalid("`change`: say what changes"));
            }
            (Some(_), _) => {
                return Err(Problem::invalid(
                    "`change` belongs to the action \"change\"",
                ));
            }
            (None, _) => {}
        }
        Ok(Walk {
            api,
            filter: request.filter.checked()?,
            action: request.action,
            patch: request.change,
            by,
            after: request.cursor.as_deref().map(from_cursor).transpose()?,
            progress: BulkProgress {
                dry_run: request.dry_run,
                ..BulkProgress::default()
            },
            index: 0,
        })
    }

    /// Walks until it is through, or has done enough, or cannot go on.
    async fn go(&mut self) -> Result<(), Problem> {
        let cluster = self.api.reading(false).await?;
        let begun = self.api.clock.steady();
        loop {
            let (filter, after) = (&self.filter, self.after.as_ref());
            let mut page = cluster.list(filter, after, PIECE)?;
            let next = page.next;
            if bugs::on(Bug::BulkOneTooMany) && !page.tasks.is_empty() {
                let waiting = Filter {
                    stage: Some(Stage::Scheduled),
                    ..Filter::default()
                };
                let more = cluster.list(&waiting, None, 1)?;
                page.tasks.extend(more.tasks);
            }
            if let Err(problem) = self.piece(page.tasks).await {
                // What was done is told; the next request begins with what was not.
                if self.progress.matched == 0 && self.progress.examined == 0 {
                    return Err(problem);
                }
                self.progress.next = self.after.as_ref().map(to_cursor);
                return Ok(());
            }
            self.progress.examined += page.examined;
            self.progress.next = next.as_ref().map(to_cursor);
            let full = self.progress.examined >= PAGE_EXAMINED_MAX
                || self.progress.matched >= PAGE_MAX
                || self.api.clock.steady().saturating_sub(begun) >= ENOUGH;
            if next.is_none() || full {
                return Ok(());
            }
            self.after = next;
        }
    }

    /// Acts on some tasks. On failure `after` is the last one before it.
    async fn piece(&mut self, tasks: Vec<Task>) -> Result<(), Problem> {
        let mut results = self.act(&tasks).await.into_iter();
        for task in tasks {
            let Some(mut result) = results.next() else {
                break;
            };
            let mut looks = 1;
            while matches!(result, Ok(Fate::Stale)) {
                looks += 1;
                result = self.again(&task.key, looks).await;
            }
            match result.map_err(|problem| honest(problem, results.as_slice()))? {
                Fate::Changed(index) => {
                    self.progress.changed += 1;
                    self.index = self.index.max(index);
                }
                Fate::Skipped(reason) => {
                    *self.progress.skipped.entry(reason).or_default() += 1;
                }
                Fate::Stale => {}
            }
            self.progress.matched += 1;
            self.after = Some(task.key);
        }
        Ok(())
    }

    /// A task that had changed meanwhile, as it is now.
    async fn again(&self, key: &Key, looks: usize) -> Result<Fate, Problem> {
        let cluster = self.api.reading(false).await?;
        let Some(task) = cluster.read(|state| state.task(key))? else {
            return Ok(Fate::Skipped("unknown"));
        };
        if looks > LOOKS_MAX || !self.filter.takes(&task) {
            return Ok(Fate::Skipped("changed"));
        }
        let result = self.act(std::slice::from_ref(&task)).await.pop();
        result.unwrap_or(Err(Busy::Unknown.into()))
    }

    /// One result for each task, in order.
    async fn act(&self, tasks: &[Task]) -> Vec<Result<Fate, Problem>> {
        let mut results = Vec::with_capacity(tasks.len());
        let mut events = Vec::new();
        let mut proposed = Vec::new();
        for (n, task) in tasks.iter().enumerate() {
            let reason = match (self.action.obstacle(task.stage), self.event(task)) {
                (Some(stage), _) => Some(stage),
                (None, Err(_)) => Some("invalid"),
                (None, Ok(event)) => {
                    if !self.progress.dry_run {
                        events.push(event);
                        proposed.push(n);
                    }
                    None
                }
            };
            // A dry run decides nothing: no index.
            results.push(Ok(reason.map_or(Fate::Changed(0), Fate::Skipped)));
        }
        if events.is_empty() {
            return results;
        }
        let answers = match self.api.cluster() {
            Ok(cluster) => cluster.decide(self.action.class(), events).await,
            Err(problem) => return tasks.iter().map(|_| Err(problem.clone())).collect(),
        };
        let mut answers = answers.into_iter();
        for n in proposed {
            results[n] = result(answers.next().unwrap_or(Err(Busy::Unknown)));
        }
        results
    }

    /// The event that the action comes to for a task as it is.
    fn event(&self, task: &Task) -> Result<Event, Problem> {
        let (key, by) = (task.key.clone(), self.by.clone());
        let if_match: IfMatch = Some((task.seq, task.version));
        Ok(match self.action {
            Action::Cancel => Event::from(Cancel {
                key,
                if_match,
                withdrawn: None,
                by,
            }),
            Action::Run => Event::from(Run {
                key,
                if_match,
                again: false,
                by,
            }),
            Action::Change => {
                let patch = match &self.patch {
                    Some(raw) => patch(raw)?,
                    None => Patch::default(),
                };
                Event::from(ChangeTask {
                    key,
                    if_match,
                    withdrawn: None,
                    when: patch.when()?,
                    spec: match patch.touches_spec() {
                        true => Some(self.api.patched(task, patch)?),
                        false => None,
                    },
                    by,
                })
            }
            Action::Done => Event::from(Complete {
                key,
                fence: None,
                asked: None,
                ok: true,
                error: None,
                result: None,
                mark: false,
                by,
            }),
        })
    }
}

fn patch(raw: &RawValue) -> Result<Patch, Problem> {
    body::parse(raw.get().as_bytes())
}

/// What may be said of a task that failed. A refusal would promise that nothing happened, and the
/// tasks behind it went to the log together with it.
fn honest(problem: Problem, behind: &[Result<Fate, Problem>]) -> Problem {
    let may_have_changed = |result: &Result<Fate, Problem>| match result {
        // A dry run has no index.
        Ok(Fate::Changed(index)) => *index > 0,
        Ok(_) => false,
        Err(problem) => problem.kind == Kind::Outcome,
    };
    match behind.iter().any(may_have_changed) {
        true => Busy::Unknown.into(),
        false => problem,
    }
}

fn result(answer: Result<Decided, Busy>) -> Result<Fate, Problem> {
    let Decided { index, outcome } = answer?;
    Ok(match outcome {
        Outcome::Refused(Refusal::Changed) => Fate::Stale,
        Outcome::Refused(refusal) => Fate::Skipped(match refusal {
            Refusal::Stage { stage } => stage.name(),
            Refusal::AlreadyDone => Stage::Done.name(),
            Refusal::Unknown => "unknown",
            _ => "changed",
        }),
        _ => Fate::Changed(index),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<BulkRequest, Problem> {
        body::parse(text.as_bytes())
    }

    #[test]
    fn filters_are_read_like_those_of_lists() {
        let text = r#"{"filter":{"app":"shop","stage":"dead","labels":{"order":"17"},"due_from":5,
            "due_to":9},"action":"run"}"#;
        let filter = request(text).unwrap().filter.checked().unwrap();
        assert_eq!(filter.app.as_deref(), Some("shop"));
        assert_eq!(filter.stage, Some(Stage::Dead));
        assert_eq!(filter.labels, [("order".into(), "17".into())]);
        assert_eq!(
            (filter.due_from, filter.due_to),
            (Some(Time(5)), Some(Time(9)))
        );
        for bad in [
            r#"{"stage":"asleep"}"#,
            r#"{"app":" "}"#,
            r#"{"labels":{"":"x"}}"#,
        ] {
            let text = format!(r#"{{"filter":{bad},"action":"run"}}"#);
            let problem = request(&text).unwrap().filter.checked().unwrap_err();
            assert_eq!(problem.status().as_u16(), 422, "{bad}");
        }
        for bad in [
            r#"{"action":"run"}"#,
            r#"{"filter":{}}"#,
            r#"{"filter":{},"action":"delete"}"#,
            r#"{"filter":{"ap":"x"},"action":"run"}"#,
        ] {
            assert!(request(bad).is_err(), "{bad}");
        }
    }

    /// Found by the fault harness, seed 1007: a first task that had changed meanwhile could not be
    /// looked at again, the leader being gone, and the answer was a 503 although the others of the
    /// same entry had been changed.
    #[test]
    fn a_refusal_is_only_given_when_nothing_behind_it_took_effect() {
        let gone = || Problem::from(Busy::NoLeader);
        let after = |behind: Vec<Result<Fate, Problem>>| honest(gone(), &behind).status().as_u16();
        assert_eq!(after(vec![]), 503);
        let untouched = [Ok(Fate::Skipped("done")), Ok(Fate::Stale), Err(gone())];
        assert_eq!(after(untouched.into()), 503);
        assert_eq!(after(vec![Ok(Fate::Changed(0))]), 503, "a dry run");
        assert_eq!(after(vec![Ok(Fate::Stale), Ok(Fate::Changed(9))]), 504);
        assert_eq!(after(vec![Err(Busy::Unknown.into())]), 504);
    }

    #[test]
    fn stages_that_forbid_an_action_are_told() {
        use Action::{Cancel, Done, Run};
        let names = |action: Action| {
            let named = Stage::ALL
                .iter()
                .filter_map(|stage| action.obstacle(*stage));
            named.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(Cancel), "running accepted done dead cancelled");
        assert_eq!(names(Run), "running accepted done");
        assert_eq!(names(Done), "done dead cancelled");
    }
}
