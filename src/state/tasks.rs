//! What callers ask for: submit, cancel, change, run, complete.

use std::sync::Arc;

use super::record::NewRow;
use super::table::Known;
use super::{Entry, Mark, State};
use crate::bugs::{self, Bug};
use crate::model::{
    Cancel, Change, ChangeTask, Complete, Decision, Fence, Key, Outcome, Refusal, RowKind, Run,
    Seq, Span, Stage, Submit, Task, Time, Verb,
};

impl State {
    pub(super) fn submit(&mut self, entry: Entry, event: Submit) -> Outcome {
        if let Some(task) = self.table.find(&event.key) {
            return if task.digest == event.digest || bugs::on(Bug::ContentIgnored) {
                Outcome::Task {
                    new: false,
                    task: Box::new(task.clone()),
                }
            } else {
                Outcome::Refused(Refusal::Content)
            };
        }
        let due = event.when.resolve(entry.now);
        let seq = Seq(self.core.next_seq);
        self.core.next_seq += 1;
        let task = Task {
            seq,
            key: event.key,
            spec: event.spec,
            digest: event.digest,
            stage: Stage::Scheduled,
            due,
            at: due,
            fence: Fence::default(),
            tries: 0,
            owner: 0,
            created: entry.now,
            finished: None,
            submitted: entry.index,
            index: entry.index,
            version: 1,
            outcome: None,
            error: None,
        };
        let mark = self.table.take_mark(&task.key);
        let mark = mark.filter(|_| !bugs::on(Bug::MarkIgnored));
        let row = NewRow {
            until: due,
            by: Some(event.by),
            ..NewRow::of(RowKind::Submitted)
        };
        self.table.create(entry, task, row);
        self.opened(seq);
        match mark {
            Some(mark) => {
                let row = NewRow {
                    by: Some(mark.by),
                    ..NewRow::of(RowKind::Done)
                };
                self.finish(
                    entry,
                    seq,
                    Stage::Done,
                    "marked done before it was submitted",
                    row,
                );
            }
            None => self.begin_if_due(entry, seq),
        }
        self.answer(seq, true)
    }

    pub(super) fn cancel(&mut self, entry: Entry, event: &Cancel) -> Outcome {
        let (seq, decision) = match self.decide(&event.key, event.if_match, Verb::Cancel) {
            Ok(found) => found,
            Err(refusal) => return Outcome::Refused(refusal),
        };
        if let Err(refusal) = self.still_there(seq, event.withdrawn) {
            return Outcome::Refused(refusal);
        }
        match decision {
            Decision::Same => {}
            Decision::To(_) if bugs::on(Bug::CancelledFires) => {
                return self.answer_as(seq, Stage::Cancelled);
            }
            Decision::To(_) => self.cancelled(entry, seq, event),
            Decision::Withdraw(_) => match self.withdrawn(seq, event.withdrawn) {
                Ok(()) => self.cancelled(entry, seq, event),
                Err(refusal) => return Outcome::Refused(refusal),
            },
            _ => return self.refuse_stage(seq),
        }
        self.answer(seq, false)
    }

    fn cancelled(&mut self, entry: Entry, seq: Seq, event: &Cancel) {
        let row = NewRow {
            by: Some(event.by.clone()),
            ..NewRow::of(RowKind::Cancelled)
        };
        self.finish(entry, seq, Stage::Cancelled, "cancelled", row);
    }

    pub(super) fn change(&mut self, entry: Entry, event: ChangeTask) -> Outcome {
        let (seq, decision) = match self.decide(&event.key, event.if_match, Verb::Change) {
            Ok(found) => found,
            Err(refusal) => return Outcome::Refused(refusal),
        };
        if let Err(refusal) = self.still_there(seq, event.withdrawn) {
            return Outcome::Refused(refusal);
        }
        let stage = match decision {
            Decision::To(stage) => stage,
            Decision::Withdraw(stage) => match self.withdrawn(seq, event.withdrawn) {
                Ok(()) => stage,
                Err(refusal) => return Outcome::Refused(refusal),
            },
            _ => return self.refuse_stage(seq),
        };
        self.close(seq);
        let due = event.when.map(|when| when.resolve(entry.now));
        let until = due
            .or_else(|| self.table.task(seq).map(|task| task.at))
            .unwrap_or_default();
        let row = NewRow {
            until,
            by: Some(event.by),
            ..NewRow::of(RowKind::Changed)
        };
        self.table.edit(entry, seq, row, |task| {
            task.stage = stage;
            if let Some(due) = due {
                task.due = due;
                task.at = due;
            }
            if let Some(spec) = event.spec {
                task.spec = spec;
            }
        });
        self.begin_if_due(entry, seq);
        self.answer(seq, false)
    }

    pub(super) fn run(&mut self, entry: Entry, event: &Run) -> Outcome {
        let (seq, decision) = match self.decide(&event.key, event.if_match, Verb::Run) {
            Ok(found) => found,
            Err(refusal) => return Outcome::Refused(refusal),
        };
        match decision {
            Decision::Same => {}
            Decision::To(_) => self.run_now(entry, seq, event),
            Decision::Again(_) if event.again || bugs::on(Bug::DoneRevived) => {
                self.run_now(entry, seq, event);
            }
            Decision::Again(_) => return Outcome::Refused(Refusal::AlreadyDone),
            _ => return self.refuse_stage(seq),
        }
        self.answer(seq, false)
    }

    fn run_now(&mut self, entry: Entry, seq: Seq, event: &Run) {
        self.begin(entry, seq, RowKind::Run, entry.now, Some(event.by.clone()));
    }

    pub(super) fn complete(&mut self, entry: Entry, event: Complete) -> Outcome {
        let Some(task) = self.table.find(&event.key) else {
            return self.mark(entry, event);
        };
        let (seq, stage) = (task.seq, task.stage);
        if let Some(fence) = event.fence
            && fence != task.fence.number()
        {
            let held = task.fence.number();
            return Outcome::Refused(Refusal::StaleFence { held });
        }
        let verb = if event.ok {
            Verb::CompleteOk
        } else {
            Verb::CompleteFailed
        };
        let goes_on = matches!(stage, Stage::Running | Stage::Accepted);
        if !(goes_on && event.asked == Some(task.fence))
            && let Err(refusal) = self.still_there(seq, event.asked)
        {
            return Outcome::Refused(refusal);
        }
        // Whoever knows the fence has it from the attempt itself, which so has begun.
        if stage.asks_owner(verb)
            && event.fence.is_none()
            && let Err(refusal) = self.withdrawn(seq, event.asked)
        {
            return Outcome::Refused(refusal);
        }
        let by = Some(event.by);
        let result = |kind| NewRow {
            by: by.clone(),
            ..NewRow::of(kind)
        };
        match stage.decide(verb) {
            Decision::Same => {}
            Decision::To(Stage::Done) => {
                let why = event.result.as_deref().unwrap_or("marked done");
                self.finish(entry, seq, Stage::Done, why, result(RowKind::Done));
            }
            Decision::To(_) => {
                let error = event.error.unwrap_or_else(|| "marked failed".into());
                self.give_up(entry, seq, error, result(RowKind::Dead));
            }
            Decision::RetryOrDead => {
                let error = event.error.unwrap_or_else(|| "marked failed".into());
                let from = (entry.now, Span::ZERO);
                self.retry_or_dead(entry, seq, from, error, result(RowKind::Retry));
            }
            _ => return self.refuse_stage(seq),
        }
        self.answer(seq, false)
    }

    fn mark(&mut self, entry: Entry, event: Complete) -> Outcome {
        // Born done needs a success; there is no being born dead.
        if !event.mark || !event.ok {
            return Outcome::Refused(Refusal::Unknown);
        }
        let mark = Mark {
            at: entry.now,
            by: event.by,
        };
        if !matches!(self.table.look_mark(&event.key), Known::Here(_)) {
            self.table.put_mark(event.key, mark);
        }
        Outcome::Marked
    }

    /// Finds the task and looks up what the verb does to it.
    fn decide(
        &self,
        key: &Key,
        if_match: Option<(Seq, u32)>,
        verb: Verb,
    ) -> Result<(Seq, Decision), Refusal> {
        let task = self.table.find(key).ok_or(Refusal::Unknown)?;
        if if_match.is_some_and(|seen| seen != (task.seq, task.version)) {
            return Err(Refusal::Changed);
        }
        Ok((task.seq, task.stage.decide(verb)))
    }

    /// What was asked of an owner counts while its attempt is about to begin, and no longer: the
    /// event may be the repetition of one whose answer was lost.
    fn still_there(&self, seq: Seq, asked: Option<Fence>) -> Result<(), Refusal> {
        let stage = self.table.task(seq).map(|task| task.stage);
        match asked.is_some() && stage != Some(Stage::Triggered) {
            true => Err(Refusal::Moved),
            false => Ok(()),
        }
    }

    /// Whether the attempt that holds the task is the one its owner withdrew.
    fn withdrawn(&self, seq: Seq, withdrawn: Option<Fence>) -> Result<(), Refusal> {
        let Some(task) = self.table.task(seq) else {
            return Err(Refusal::Unknown);
        };
        if withdrawn == Some(task.fence) || bugs::on(Bug::OwnerNotAsked) {
            return Ok(());
        }
        Err(Refusal::Withdraw {
            seq,
            fence: task.fence,
            owner: task.owner,
        })
    }

    fn refuse_stage(&self, seq: Seq) -> Outcome {
        let stage = self.table.task(seq).map_or(Stage::Done, |task| task.stage);
        Outcome::Refused(Refusal::Stage { stage })
    }

    pub(super) fn answer(&self, seq: Seq, new: bool) -> Outcome {
        match self.table.task(seq) {
            Some(task) => Outcome::Task {
                new,
                task: Box::new(task.clone()),
            },
            None => Outcome::Refused(Refusal::Unknown),
        }
    }

    /// An answer that shows what is not so: only for [`bugs`].
    fn answer_as(&self, seq: Seq, stage: Stage) -> Outcome {
        match self.answer(seq, false) {
            Outcome::Task { new, mut task } => {
                task.stage = stage;
                Outcome::Task { new, task }
            }
            other => other,
        }
    }

    /// An instant that has passed already triggers in the same fold.
    pub(super) fn begin_if_due(&mut self, entry: Entry, seq: Seq) {
        let Some(task) = self.table.task(seq) else {
            return;
        };
        if task.stage.is_waiting() && task.at <= self.core.hand.max(entry.now) {
            self.begin(entry, seq, RowKind::Triggered, task.at, None);
        }
    }

    /// Tells the owner of an open attempt that it is over.
    pub(super) fn close(&mut self, seq: Seq) {
        if let Some(task) = self.table.task(seq)
            && task.stage.is_open()
        {
            self.changes.push(Change::Closed {
                seq,
                fence: task.fence,
            });
        }
    }

    /// The one way into a final stage.
    pub(super) fn finish(
        &mut self,
        entry: Entry,
        seq: Seq,
        stage: Stage,
        outcome: &str,
        row: NewRow,
    ) {
        if !self.stage(seq).is_none_or(Stage::is_final) {
            self.ended(seq);
        }
        self.close(seq);
        let outcome: Arc<str> = outcome.into();
        let error = row.error.clone();
        // An attempt that was withdrawn, or never began, has not ended.
        let tried = !matches!(row.kind, RowKind::Cancelled | RowKind::Expired);
        self.table.edit(entry, seq, row, |task| {
            if tried && (task.stage.is_open() || task.stage == Stage::Accepted) {
                task.tries = task.tries.saturating_add(1);
            }
            task.stage = stage;
            task.finished = Some(entry.now);
            task.at = entry.now;
            task.outcome = Some(outcome);
            if error.is_some() || stage == Stage::Done {
                task.error = error;
            }
        });
        self.changes.push(Change::Finished { seq, stage });
        self.run_ended(entry, seq, stage);
        self.follow(entry, seq, stage);
    }

    /// To the dead-letter list.
    pub(super) fn give_up(&mut self, entry: Entry, seq: Seq, error: Arc<str>, row: NewRow) {
        let row = NewRow {
            error: Some(error),
            until: Time(0),
            ..row
        };
        let outcome = match row.kind {
            RowKind::Expired => "expired",
            _ => "given up",
        };
        self.finish(entry, seq, Stage::Dead, outcome, row);
    }
}
