//! Every handler, case by case. Each case folds a few events and says what a user would see.
//!
//! [`Desk`] is one node's state with a clock that the case sets; after every fold it audits the
//! whole state, so a case need only look at what it is about.

mod apps;
mod attempts;
mod bounds;
mod cancel;
mod change;
mod check;
mod complete;
mod history;
mod owners;
mod read;
mod retention;
mod retry;
mod run;
pub(crate) mod schedules;
mod sets;
mod submit;
mod trigger;

use std::sync::Arc;

use super::{MemoryStore, State};
use crate::model::*;

/// The node that owns every shard unless a case says otherwise.
pub(super) const OWNER: NodeId = 1;

/// One state, its clock and its log index.
pub(super) struct Desk {
    pub(super) state: State,
    pub(super) now: u64,
    pub(super) index: u64,
    /// The effects of the last fold.
    pub(super) changes: Vec<Change>,
}

impl Desk {
    /// An empty state at instant 1,000, all shards with [`OWNER`].
    pub(super) fn new() -> Desk {
        let state = State::new(Box::new(MemoryStore::default()));
        let mut desk = Desk {
            state,
            now: 1_000,
            index: 0,
            changes: Vec::new(),
        };
        desk.fold(assign_all(OWNER, 1));
        desk
    }

    /// Sets the leader's clock.
    pub(super) fn at(&mut self, now: u64) -> &mut Desk {
        self.now = now;
        self
    }

    pub(super) fn fold_all(&mut self, events: Vec<Event>) -> Vec<Outcome> {
        self.index += 1;
        let (stamp, now) = (Time(self.now), Time(self.now));
        let batch = Batch { stamp, now, events };
        self.changes.clear();
        self.state.prepare(&batch).unwrap();
        let outcomes = self.state.apply(self.index, batch, &mut self.changes);
        self.state.audit();
        outcomes
    }

    pub(super) fn fold(&mut self, event: impl Into<Event>) -> Outcome {
        self.fold_all(vec![event.into()]).remove(0)
    }

    pub(super) fn submit_at(&mut self, id: &str, due: u64) -> Task {
        shown(self.fold(submit(id, When::At(Time(due)), &spec())))
    }

    /// Submits with a policy: `attempts` tries, one second apart, no jitter.
    pub(super) fn submit_with_tries(&mut self, id: &str, due: u64, attempts: u32) -> Task {
        let spec = with_retry(Retry {
            attempts: Some(attempts),
            backoff: Some(Backoff::Fixed(Span(1_000))),
            jitter_milli: Some(0),
            max_age: None,
        });
        shown(self.fold(submit(id, When::At(Time(due)), &spec)))
    }

    /// Moves the hand and the clock to an instant.
    pub(super) fn trigger(&mut self, until: u64) -> Outcome {
        self.now = self.now.max(until);
        self.fold(trigger(until, 100))
    }

    pub(super) fn task(&self, id: &str) -> Task {
        self.state
            .task(&key(id))
            .unwrap()
            .expect("the task is known")
    }

    pub(super) fn stage(&self, id: &str) -> Stage {
        self.task(id).stage
    }

    pub(super) fn fence(&self, id: &str) -> Fence {
        self.task(id).fence
    }

    pub(super) fn rows(&self, id: &str) -> Vec<Row> {
        self.state
            .rows(&key(id))
            .unwrap()
            .expect("the task is known")
            .1
    }

    pub(super) fn kinds(&self, id: &str) -> Vec<&'static str> {
        self.rows(id).iter().map(|row| row.kind.name()).collect()
    }

    /// Brings a task with three tries into a stage by the usual way; a new desk's is due at 2,000.
    pub(super) fn bring(&mut self, id: &str, stage: Stage) -> Task {
        let waits = matches!(stage, Stage::Scheduled | Stage::Cancelled);
        let due = if waits { self.now + 1_000 } else { 2_000 };
        self.submit_with_tries(id, due, 3);
        if !waits {
            self.trigger(2_000);
        }
        match stage {
            Stage::Scheduled | Stage::Triggered => {}
            Stage::Running => drop(self.fold(started(&self.task(id)))),
            Stage::Accepted => drop(self.fold(accepted(&self.task(id)))),
            Stage::Retrying => drop(self.fold(failed(&self.task(id)))),
            Stage::Done => drop(self.fold(done(&self.task(id)))),
            Stage::Dead => drop(self.fold(failed_for(&self.task(id), Verdict::Final))),
            Stage::Cancelled => drop(self.fold(cancel(id))),
        }
        let task = self.task(id);
        assert_eq!(task.stage, stage);
        task
    }
}

pub(super) fn key(id: &str) -> Key {
    Key::new("shop", id).unwrap()
}

pub(super) fn spec() -> Spec {
    Spec {
        target: Target::Http(Http {
            url: "http://shop.example/hook".into(),
            ..Http::default()
        }),
        retry: None,
        accept_timeout: None,
        expires_at: None,
        labels: Default::default(),
        placement: None,
        next: Default::default(),
    }
}

pub(super) fn with_retry(retry: Retry) -> Spec {
    Spec {
        retry: Some(retry),
        ..spec()
    }
}

pub(super) fn by() -> By {
    "test".into()
}

pub(super) fn submit(id: &str, when: When, spec: &Spec) -> Submit {
    let encoded = spec.encode();
    Submit {
        key: key(id),
        when,
        digest: Spec::digest(&encoded, when),
        spec: encoded,
        by: by(),
    }
}

pub(super) fn cancel(id: &str) -> Cancel {
    Cancel {
        key: key(id),
        if_match: None,
        withdrawn: None,
        by: by(),
    }
}

pub(super) fn change(id: &str) -> ChangeTask {
    ChangeTask {
        key: key(id),
        if_match: None,
        withdrawn: None,
        when: None,
        spec: None,
        by: by(),
    }
}

pub(super) fn change_due(id: &str, due: u64) -> ChangeTask {
    ChangeTask {
        when: Some(When::At(Time(due))),
        ..change(id)
    }
}

pub(super) fn run(id: &str) -> Run {
    Run {
        key: key(id),
        if_match: None,
        again: false,
        by: by(),
    }
}

pub(super) fn run_again(id: &str) -> Run {
    Run {
        again: true,
        ..run(id)
    }
}

pub(super) fn complete(id: &str) -> Complete {
    Complete {
        key: key(id),
        fence: None,
        asked: None,
        ok: true,
        error: None,
        result: None,
        mark: false,
        by: by(),
    }
}

pub(super) fn complete_failed(id: &str) -> Complete {
    Complete {
        ok: false,
        error: Some("no stock".into()),
        ..complete(id)
    }
}

pub(super) fn trigger(until: u64, max: u32) -> Trigger {
    Trigger {
        until: Time(until),
        max,
    }
}

pub(super) fn started(task: &Task) -> Started {
    Started {
        node: task.owner,
        attempts: vec![(task.seq, task.fence, task.at)],
    }
}

/// An answer that came at once.
pub(super) fn end(task: &Task, status: u16) -> AttemptEnd {
    AttemptEnd {
        started: task.at,
        ended: task.at,
        status,
        ..AttemptEnd::default()
    }
}

pub(super) fn accepted(task: &Task) -> Accepted {
    Accepted {
        seq: task.seq,
        fence: task.fence,
        node: task.owner,
        end: end(task, 202),
    }
}

pub(super) fn done(task: &Task) -> Done {
    Done {
        seq: task.seq,
        fence: task.fence,
        node: task.owner,
        end: end(task, 200),
    }
}

pub(super) fn failed_for(task: &Task, verdict: Verdict) -> Failed {
    let error: Option<Arc<str>> = Some("HTTP 500".into());
    Failed {
        seq: task.seq,
        fence: task.fence,
        node: task.owner,
        verdict,
        end: AttemptEnd {
            error,
            ..end(task, 500)
        },
    }
}

pub(super) fn failed(task: &Task) -> Failed {
    let not_before = Span::ZERO;
    failed_for(task, Verdict::Retry { not_before })
}

pub(super) fn assign_all(node: NodeId, boot: Boot) -> Assign {
    let shards = (0..limits::SHARDS_DEFAULT).map(Shard).collect();
    Assign {
        shards,
        node,
        boot,
        cause: "start".into(),
        kept: Vec::new(),
    }
}

pub(super) fn retire(finished_up_to: u64, dead_up_to: u64, max: u32) -> Retire {
    Retire {
        finished_up_to: Time(finished_up_to),
        dead_up_to: Time(dead_up_to),
        marks_up_to: Time(finished_up_to),
        history_up_to: Time(0),
        max,
    }
}

pub(super) fn counted(count: u32, more: bool) -> Outcome {
    Outcome::Counted { count, more }
}

/// The task in an answer.
#[track_caller]
pub(super) fn shown(outcome: Outcome) -> Task {
    match outcome {
        Outcome::Task { task, .. } => *task,
        other => panic!("not a task: {other:?}"),
    }
}

#[track_caller]
pub(super) fn assert_stage_refused(outcome: Outcome, stage: Stage) {
    assert_eq!(outcome, Outcome::Refused(Refusal::Stage { stage }));
}

/// Pauses an application.
pub(super) fn pause(app: &str) -> PauseApp {
    PauseApp {
        app: app.into(),
        reason: Some("maintenance".into()),
        by: by(),
    }
}

/// Resumes it.
pub(super) fn resume(app: &str) -> ResumeApp {
    ResumeApp {
        app: app.into(),
        by: by(),
    }
}
