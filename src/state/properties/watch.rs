//! Looks at every entry as it is folded, and knows nothing of how the fold works: it judges by
//! outcomes, changes, histories and pages alone.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Filter, History, State};
use super::script::{self, BACKOFF, attempts_of};
use crate::model::*;

/// What was seen so far.
#[derive(Default)]
pub(super) struct Watcher {
    /// The rim's view: the one open attempt of each task, by the changes alone.
    rim: BTreeMap<Seq, Fence>,
    /// Tasks whose cancel was acknowledged.
    cancelled: BTreeSet<Seq>,
    /// The clock of each entry.
    clocks: Vec<Time>,
    latest: Time,
    /// Every task that is, and those that were and can still be read, as last seen.
    lasting: BTreeMap<Seq, History>,
    floor: Time,
    /// Histories of retired tasks that were looked at.
    pub(super) retired: u32,
    /// Tasks that were started by the end of others, and those that were there already.
    pub(super) followed: u32,
    pub(super) met: u32,
    pub(super) stages: BTreeSet<Stage>,
    pub(super) rows: BTreeSet<RowKind>,
    pub(super) answers: BTreeMap<&'static str, u32>,
}

impl Watcher {
    pub(super) fn entry(
        &mut self,
        state: &State,
        hand: Time,
        batch: &Batch,
        outcomes: &[Outcome],
        changes: &[Change],
    ) {
        assert_eq!(outcomes.len(), batch.events.len(), "an answer each");
        self.clocks.push(batch.now);
        let until = batch.events.iter().filter_map(|event| match event {
            Event::Trigger(trigger) => Some(trigger.until),
            _ => None,
        });
        let reached = until.fold(hand.max(batch.now), Time::max);
        self.latest = self.latest.max(reached);
        for outcome in outcomes {
            *self.answers.entry(name(outcome)).or_default() += 1;
        }
        self.acknowledged(batch, outcomes);
        if let ([event], [outcome]) = (&batch.events[..], outcomes) {
            self.believed(event, outcome);
        }
        changes.iter().for_each(|change| self.effect(change));
        assert!(state.hand() >= hand, "the hand never goes back");
        let tasks = pages(state);
        self.counts(state, &tasks);
        self.rim_agrees(&tasks);
        if let [Event::Trigger(_)] = batch.events[..] {
            in_order(hand, changes, &outcomes[0], &tasks);
        }
        for task in &tasks {
            self.stages.insert(task.stage);
            let rows = state.rows(&task.key).unwrap().unwrap().1;
            self.history(&rows, task);
            let (task, retired) = (task.clone(), false);
            let seen = History {
                task,
                rows,
                retired,
            };
            self.lasting.insert(seen.task.seq, seen);
        }
        self.past(state, batch, &tasks);
        // What leaves at once cannot be looked at any more.
        if !batch
            .events
            .iter()
            .any(|event| matches!(event, Event::Retire(_)))
        {
            self.chains();
        }
    }

    /// What ended in this entry started what it was to start, once; and nothing else did.
    fn chains(&mut self) {
        let index = self.clocks.len() as u64;
        let mut started: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for history in self.lasting.values() {
            let rows = &history.rows;
            if history.task.stage.is_final() && !history.retired {
                let next = Spec::decode(&history.task.spec).unwrap().next;
                let last = rows.iter().rev().find(|row| row.kind != RowKind::Stale);
                let follows = last.unwrap().kind == RowKind::Followed;
                let expected = next.after(history.task.stage).is_some();
                assert_eq!(follows, expected, "{}: {rows:?}", history.task.key);
            }
            for row in rows
                .iter()
                .filter(|r| r.kind == RowKind::Followed && r.index == index)
            {
                let child = row.by.as_deref().unwrap().to_owned();
                match row.error {
                    None => {
                        let parent = format!("task {}", history.task.key);
                        started.entry(child).or_default().push(parent);
                        self.followed += 1;
                    }
                    Some(_) => self.met += 1,
                }
            }
        }
        let mut born: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for history in self.lasting.values() {
            let first = &history.rows[0];
            let by = first.by.as_deref().filter(|by| by.starts_with("task "));
            if let Some(by) = by.filter(|_| first.index == index) {
                let child = history.task.key.to_string();
                born.entry(child).or_default().push(by.to_owned());
            }
        }
        started
            .values_mut()
            .chain(born.values_mut())
            .for_each(|parents| parents.sort());
        assert_eq!(
            born, started,
            "each child has its parent, each parent its child"
        );
    }

    /// Whoever has gone can be read as it was last seen, until its own time is over; then nothing
    /// is left of it.
    fn past(&mut self, state: &State, batch: &Batch, tasks: &[Task]) {
        for event in &batch.events {
            if let Event::Retire(retire) = event {
                self.floor = self.floor.max(retire.history_up_to);
            }
        }
        let alive: BTreeSet<Seq> = tasks.iter().map(|task| task.seq).collect();
        let told = script::keys().flat_map(|key| state.histories(&key).unwrap());
        let told: BTreeMap<Seq, History> = told.map(|h| (h.task.seq, h)).collect();
        for (seq, history) in &told {
            assert_eq!(history.retired, !alive.contains(seq));
            assert!(!history.retired || history.task.at > self.floor, "is gone");
            self.retired += u32::from(history.retired);
        }
        let floor = self.floor;
        if batch.events.len() == 1 {
            self.lasting
                .retain(|seq, seen| alive.contains(seq) || seen.task.at > floor);
            assert!(told.keys().eq(self.lasting.keys()), "all that should be");
            for (history, seen) in told.values().zip(self.lasting.values()) {
                let expected = Task {
                    spec: history.task.spec.clone(),
                    ..seen.task.clone()
                };
                assert_eq!((&history.task, &history.rows), (&expected, &seen.rows));
            }
        }
        // In an entry that is shared, a task may end and leave unseen.
        self.lasting = told;
    }

    /// I-18, for entries in which the cancel stands alone: what is shared is judged by histories.
    fn acknowledged(&mut self, batch: &Batch, outcomes: &[Outcome]) {
        for (event, outcome) in batch.events.iter().zip(outcomes) {
            match (event, outcome) {
                (Event::Cancel(_), Outcome::Task { task, .. }) if outcomes.len() == 1 => {
                    assert_eq!(task.stage, Stage::Cancelled);
                    self.cancelled.insert(task.seq);
                }
                (Event::Run(_), Outcome::Task { task, .. }) => {
                    self.cancelled.remove(&task.seq);
                }
                _ => {}
            }
        }
    }

    /// I-15: only the attempt that the rim knows as open may report.
    fn believed(&self, event: &Event, outcome: &Outcome) {
        let (seq, fence) = match event {
            Event::Accepted(e) => (e.seq, e.fence),
            Event::Done(e) => (e.seq, e.fence),
            Event::Failed(e) => (e.seq, e.fence),
            _ => return,
        };
        let open = self.rim.get(&seq) == Some(&fence);
        let stale = matches!(outcome, Outcome::Stale { .. });
        assert_eq!(stale, !open, "I-15: {event:?} → {outcome:?}");
    }

    /// At most one open attempt each, and each is closed once.
    fn effect(&mut self, change: &Change) {
        match *change {
            Change::Triggered { seq, fence, at, .. } => {
                assert!(at <= self.latest, "I-7: {seq:?} is early");
                assert!(
                    !self.cancelled.contains(&seq),
                    "I-18: {seq:?} was cancelled"
                );
                assert_eq!(self.rim.insert(seq, fence), None, "I-15: two open attempts");
            }
            Change::Closed { seq, fence } => {
                assert_eq!(self.rim.remove(&seq), Some(fence), "closed what was open");
            }
            Change::Finished { stage, .. } => assert!(stage.is_final()),
            Change::Assigned { .. } | Change::Paused { .. } => {}
        }
    }

    fn rim_agrees(&self, tasks: &[Task]) {
        let open = tasks.iter().filter(|task| task.stage.is_open());
        let open: BTreeMap<Seq, Fence> = open.map(|task| (task.seq, task.fence)).collect();
        assert_eq!(self.rim, open, "the rim knows what is open");
    }

    fn counts(&self, state: &State, tasks: &[Task]) {
        for app in [None, Some("shop"), Some("bank")] {
            let mut counts = [0; 8];
            let wanted = |task: &&Task| app.is_none_or(|app| app == &*task.key.app);
            for task in tasks.iter().filter(wanted) {
                counts[task.stage as usize] += 1;
            }
            assert_eq!(state.stats(app), counts, "counts of {app:?}");
        }
    }

    /// A task's history, row by row, must lead by legal steps to where the task stands.
    fn history(&mut self, rows: &[Row], task: &Task) {
        assert_eq!(rows[0].kind, RowKind::Submitted);
        let mut now = Walk::begin(&rows[0]);
        for row in &rows[1..] {
            assert!(row.at >= now.last.at, "I-10: stamps never decrease");
            assert!(row.index >= now.last.index);
            let clock = self.clocks[row.index as usize - 1];
            now.step(row, clock, attempts_of(&task.key));
            now.last = row.clone();
        }
        self.rows.extend(rows.iter().map(|row| row.kind));
        assert_eq!(now.stage, task.stage, "the history ends where the task is");
        assert_eq!(now.fence, task.fence);
    }
}

/// What one trigger began came in order, and before all that it left waiting. Retries of what ran
/// into its deadline come first when the hand had passed their instants already.
fn in_order(hand: Time, changes: &[Change], outcome: &Outcome, tasks: &[Task]) {
    let begun = changes.iter().filter_map(|change| match change {
        Change::Triggered { at, seq, .. } => Some((*at, *seq)).filter(|_| *at > hand),
        _ => None,
    });
    let begun: Vec<(Time, Seq)> = begun.collect();
    assert!(begun.is_sorted(), "in (instant, seq) order: {begun:?}");
    if let (Outcome::Counted { more: true, .. }, Some(last)) = (outcome, begun.last()) {
        for task in tasks.iter().filter(|task| task.stage.is_waiting()) {
            assert!((task.at, task.seq) > *last, "{} was passed over", task.key);
        }
    }
}

/// A task as its history tells it.
struct Walk {
    stage: Stage,
    fence: Fence,
    /// Tries that ended in this series.
    ended: u32,
    /// The instant before which the next attempt must not begin.
    waits_until: Time,
    /// The instant before which a running or accepted task is not given up.
    deadline: Time,
    last: Row,
}

impl Walk {
    fn begin(row: &Row) -> Walk {
        Walk {
            stage: Stage::Scheduled,
            fence: Fence::default(),
            ended: 0,
            waits_until: row.until,
            deadline: Time(0),
            last: row.clone(),
        }
    }

    fn step(&mut self, row: &Row, clock: Time, attempts: u32) {
        if row.kind == RowKind::Stale {
            let current = row.fence == self.fence && self.stage.is_open();
            assert!(!current, "I-15: the current attempt was called stale");
            return;
        }
        if row.kind == RowKind::Followed {
            let ends = [RowKind::Done, RowKind::Dead, RowKind::Expired];
            assert!(
                ends.contains(&self.last.kind),
                "{row:?} after {:?}",
                self.last
            );
            assert_eq!(row.index, self.last.index, "in the fold of the end");
            return;
        }
        let next = legal(self.stage, row.kind);
        let next = next.unwrap_or_else(|| panic!("I-13: {} by {:?}", self.stage, row));
        match row.kind {
            RowKind::Triggered | RowKind::Run | RowKind::Redispatched => self.begins(row),
            _ => assert_eq!(row.fence, self.fence, "{row:?}"),
        }
        let deadline_passed = row.end.is_none() && row.by.is_none();
        if deadline_passed && matches!(row.kind, RowKind::Retry | RowKind::Dead) {
            assert!(clock >= self.deadline, "{row:?} before {}", self.deadline);
        }
        match row.kind {
            RowKind::Started | RowKind::Accepted => self.deadline = row.until,
            RowKind::Retry => {
                self.ended += 1;
                assert!(self.ended < attempts, "I-19: more tries than allowed");
                assert!(row.until.0 >= clock.0 + BACKOFF, "I-19: {row:?} at {clock}");
                self.waits_until = row.until;
            }
            RowKind::Changed => self.waits_until = row.until,
            _ => {}
        }
        self.stage = next;
    }

    fn begins(&mut self, row: &Row) {
        assert!(
            row.fence > self.fence && row.fence.number() > self.fence.number(),
            "I-14: {row:?} after {:?}",
            self.fence
        );
        assert_eq!(row.fence.attempt, self.fence.attempt + 1, "I-14");
        if row.kind == RowKind::Triggered {
            assert_eq!(row.until, self.waits_until, "I-7, I-19: at its instant");
        }
        if self.stage.is_final() {
            self.ended = 0;
        }
        self.fence = row.fence;
    }
}

/// Where a row of a kind leads from a stage, by the table; `None` where it may not occur.
fn legal(from: Stage, kind: RowKind) -> Option<Stage> {
    let allowed = |verbs: &[Verb], to: Stage| {
        let leads = |verb: &Verb| match from.decide(*verb) {
            Decision::To(stage) | Decision::Withdraw(stage) | Decision::Again(stage) => stage == to,
            Decision::RetryOrDead => matches!(to, Stage::Retrying | Stage::Dead),
            Decision::Same | Decision::Refuse => false,
        };
        verbs.iter().any(leads).then_some(to)
    };
    match kind {
        RowKind::Submitted | RowKind::Stale | RowKind::Followed => None,
        RowKind::Changed => match from {
            Stage::Retrying => allowed(&[Verb::Change], Stage::Retrying),
            _ => allowed(&[Verb::Change], Stage::Scheduled),
        },
        RowKind::Run => allowed(&[Verb::Run], Stage::Triggered),
        RowKind::Triggered => allowed(&[Verb::Trigger], Stage::Triggered),
        RowKind::Redispatched => allowed(&[Verb::Redispatch], Stage::Triggered),
        RowKind::Started => allowed(&[Verb::Started], Stage::Running),
        RowKind::Accepted => allowed(&[Verb::Accepted], Stage::Accepted),
        RowKind::Retry => allowed(
            &[Verb::Failed, Verb::Deadline, Verb::CompleteFailed],
            Stage::Retrying,
        ),
        RowKind::Done => allowed(&[Verb::Done, Verb::CompleteOk], Stage::Done),
        RowKind::Dead => allowed(
            &[Verb::Failed, Verb::Deadline, Verb::CompleteFailed],
            Stage::Dead,
        ),
        RowKind::Expired => allowed(&[Verb::Expired], Stage::Dead),
        RowKind::Cancelled => allowed(&[Verb::Cancel], Stage::Cancelled),
    }
}

/// Every task, page by page.
fn pages(state: &State) -> Vec<Task> {
    let mut tasks: Vec<Task> = Vec::new();
    let mut after = None;
    loop {
        let page = state.list(&Filter::default(), after.as_ref(), 5).unwrap();
        tasks.extend(page.tasks);
        after = page.next;
        if after.is_none() {
            assert!(tasks.is_sorted_by(|a, b| a.key < b.key), "once, in order");
            return tasks;
        }
    }
}

fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Task { new: true, .. } => "new",
        Outcome::Task { new: false, .. } => "task",
        Outcome::Marked => "marked",
        Outcome::Folded => "folded",
        Outcome::Counted { more: true, .. } => "more",
        Outcome::Counted { count: 0, .. } => "none",
        Outcome::Counted { .. } => "counted",
        Outcome::Stale { .. } => "stale",
        Outcome::Refused(Refusal::Unknown) => "unknown",
        Outcome::Refused(Refusal::Content) => "content",
        Outcome::Refused(Refusal::Stage { .. }) => "stage",
        Outcome::Refused(Refusal::AlreadyDone) => "already done",
        Outcome::Refused(Refusal::Changed) => "changed",
        Outcome::Refused(Refusal::StaleFence { .. }) => "stale fence",
        Outcome::Refused(Refusal::Withdraw { .. }) => "withdraw",
        Outcome::Refused(Refusal::Moved) => "moved",
        Outcome::Set { .. } => "set",
        Outcome::Refused(
            Refusal::NoSet | Refusal::NotFilled | Refusal::TooManySets | Refusal::DefaultSet { .. },
        ) => "no set",
        Outcome::Refused(Refusal::TooManyPaused) => "too many paused",
        Outcome::App(Some(_)) => "paused",
        Outcome::App(None) => "resumed",
        // They have scripts of their own.
        Outcome::Schedule { .. } | Outcome::Refused(_) => "of a schedule",
    }
}
