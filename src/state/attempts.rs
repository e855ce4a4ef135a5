//! What happens to attempts: they are triggered, start, and end.

use std::sync::Arc;

use super::record::NewRow;
use super::{Entry, State};
use crate::bugs::{self, Bug};
use crate::model::limits::{OUTCOME_GRACE, TRIGGER_MAX};
use crate::model::{
    Accepted, AttemptEnd, Decision, Done, Failed, Fence, NodeId, Outcome, Refusal, RowKind, Seq,
    Span, Spec, Stage, Started, Time, Trigger, Verb, Verdict,
};

/// A report from a clock further ahead than this is not believed about when an attempt began or ended.
const CLOCK_TRUST: Span = Span::seconds(1);

impl State {
    /// Deadlines that have passed first, then what is due: at most `max` of both together.
    pub(super) fn trigger(&mut self, entry: Entry, event: &Trigger) -> Outcome {
        let max = event.max.min(TRIGGER_MAX) as usize;
        let (late, more_late) = self.table.take_deadlines(entry.now, max);
        for seq in &late {
            self.deadline(entry, *seq);
        }
        let (due, more_due) = self.table.take_due(event.until, max - late.len());
        let mut last = None;
        for seq in &due {
            let Some(task) = self.table.task(*seq) else {
                continue;
            };
            last = Some(task.at);
            self.begin(entry, *seq, RowKind::Triggered, task.at, None);
        }
        // With more to come the next one may be due at the very instant of the last one: the hand
        // stands before it, so that nothing waits behind the hand and newcomers keep the order.
        let reached = match (more_due, last) {
            (false, _) => event.until,
            (true, Some(at)) => Time(at.0.saturating_sub(1)),
            (true, None) => self.core.hand,
        };
        self.core.hand = self.core.hand.max(reached);
        Outcome::Counted {
            count: (late.len() + due.len()) as u32,
            more: more_late || more_due,
        }
    }

    fn deadline(&mut self, entry: Entry, seq: Seq) {
        if bugs::on(Bug::DeadlineIgnored) {
            return;
        }
        let Some(task) = self.table.task(seq) else {
            return;
        };
        if task.stage.decide(Verb::Deadline) != Decision::RetryOrDead {
            return;
        }
        let error: Arc<str> = match task.stage {
            Stage::Accepted => "accepted, but not marked done in time".into(),
            _ => "no outcome came from the attempt in time".into(),
        };
        let row = NewRow::of(RowKind::Retry);
        self.retry_or_dead(entry, seq, (entry.now, Span::ZERO), error, row);
    }

    pub(super) fn started(&mut self, entry: Entry, event: Started) -> Outcome {
        let mut count = 0;
        for (seq, fence, at) in event.attempts {
            if self.held(seq, fence) && self.stage(seq) == Some(Stage::Triggered) {
                let timeout = self.spec(seq).map_or(Span::ZERO, |spec| spec.timeout());
                let from = entry.now.max(trusted(at, entry.now));
                let until = from.plus(timeout).plus(OUTCOME_GRACE);
                let row = NewRow {
                    node: event.node,
                    until,
                    ..NewRow::of(RowKind::Started)
                };
                self.table.edit(entry, seq, row, |task| {
                    task.stage = Stage::Running;
                    task.at = until;
                });
                count += 1;
            }
        }
        Outcome::Counted { count, more: false }
    }

    pub(super) fn accepted(&mut self, entry: Entry, event: Accepted) -> Outcome {
        if !self.held(event.seq, event.fence) {
            return self.stale(entry, event.seq, event.fence, event.node, event.end);
        }
        let wait = self
            .spec(event.seq)
            .map_or(Span::ZERO, |spec| spec.accept_timeout());
        let until = entry.now.plus(wait);
        self.close(event.seq);
        let row = NewRow {
            until,
            ..ended(RowKind::Accepted, event.node, event.end)
        };
        self.table.edit(entry, event.seq, row, |task| {
            task.stage = Stage::Accepted;
            task.at = until;
        });
        Outcome::Folded
    }

    pub(super) fn done(&mut self, entry: Entry, event: Done) -> Outcome {
        if !self.held(event.seq, event.fence) {
            return self.stale(entry, event.seq, event.fence, event.node, event.end);
        }
        let row = ended(RowKind::Done, event.node, event.end);
        self.finish(entry, event.seq, Stage::Done, "delivered", row);
        Outcome::Folded
    }

    pub(super) fn failed(&mut self, entry: Entry, event: Failed) -> Outcome {
        if !self.held(event.seq, event.fence) {
            return self.stale(entry, event.seq, event.fence, event.node, event.end);
        }
        let error = event.end.error.clone().unwrap_or_else(|| "failed".into());
        match event.verdict {
            Verdict::Retry { not_before } => {
                // The delay counts from the end of the attempt, also where its clock is a little
                // ahead; what the receiver asked for counts from its answer, which is the same.
                let from = entry.now.max(trusted(event.end.ended, entry.now));
                let row = ended(RowKind::Retry, event.node, event.end);
                self.retry_or_dead(entry, event.seq, (from, not_before), error, row);
            }
            Verdict::Final => {
                let row = ended(RowKind::Dead, event.node, event.end);
                self.give_up(entry, event.seq, error, row);
            }
            Verdict::Expired => {
                let stage = self.stage(event.seq).unwrap_or(Stage::Dead);
                if stage.decide(Verb::Expired) == Decision::Refuse {
                    return Outcome::Refused(Refusal::Stage { stage });
                }
                let row = ended(RowKind::Expired, event.node, event.end);
                self.give_up(entry, event.seq, error, row);
            }
        }
        Outcome::Folded
    }

    /// Another attempt while the policy allows one, else the dead-letter list. The delay counts
    /// from an instant, and has a minimum.
    pub(super) fn retry_or_dead(
        &mut self,
        entry: Entry,
        seq: Seq,
        (from, not_before): (Time, Span),
        error: Arc<str>,
        row: NewRow,
    ) {
        let Some(task) = self.table.task(seq) else {
            return;
        };
        let tries = task.tries.saturating_add(1);
        let policy = self.spec(seq).map(|spec| spec.retry()).unwrap_or_default();
        let drawn = match bugs::on(Bug::RandomJitter) {
            true => Seq(bugs::any_number(seq.0)),
            false => seq,
        };
        let next = match bugs::on(Bug::BackoffIgnored) {
            true => from,
            false => from.plus(policy.delay(tries, drawn).max(not_before)),
        };
        let too_old = policy.max_age.is_some_and(|age| next > task.due.plus(age));
        let allowed = policy.attempts() + u32::from(bugs::on(Bug::OneRetryTooMany));
        if tries >= allowed || too_old {
            let why = match too_old && tries < policy.attempts() {
                true => format!("{error}; the next attempt would come after max_age").into(),
                false => error,
            };
            self.give_up(
                entry,
                seq,
                why,
                NewRow {
                    kind: RowKind::Dead,
                    ..row
                },
            );
            return;
        }
        self.close(seq);
        let row = NewRow {
            until: next,
            error: Some(error.clone()),
            ..row
        };
        self.table.edit(entry, seq, row, |task| {
            task.stage = Stage::Retrying;
            task.at = next;
            task.tries = tries;
            task.error = Some(error);
        });
        self.begin_if_due(entry, seq);
    }

    /// Whether this attempt holds the task and is still open.
    pub(super) fn held(&self, seq: Seq, fence: Fence) -> bool {
        self.table.task(seq).is_some_and(|task| {
            (task.fence == fence || bugs::on(Bug::FenceUnchecked)) && task.stage.is_open()
        })
    }

    pub(super) fn stage(&self, seq: Seq) -> Option<Stage> {
        self.table.task(seq).map(|task| task.stage)
    }

    /// The decoded spec. Its bytes were checked when they came in, so this does not fail.
    pub(super) fn spec(&self, seq: Seq) -> Option<Spec> {
        self.table
            .task(seq)
            .and_then(|task| Spec::decode(&task.spec).ok())
    }

    /// Refuses a result that came too late, and records that it came.
    fn stale(
        &mut self,
        entry: Entry,
        seq: Seq,
        fence: Fence,
        node: NodeId,
        end: AttemptEnd,
    ) -> Outcome {
        let Some(held) = self.table.task(seq).map(|task| task.fence) else {
            return Outcome::Stale {
                held: Fence::default(),
            };
        };
        let row = NewRow {
            fence: Some(fence),
            ..ended(RowKind::Stale, node, end)
        };
        self.table.note(entry, seq, row);
        Outcome::Stale { held }
    }
}

/// What another node's clock says, as far as it is believed.
fn trusted(reported: Time, now: Time) -> Time {
    reported.min(now.plus(CLOCK_TRUST))
}

fn ended(kind: RowKind, node: NodeId, end: AttemptEnd) -> NewRow {
    let error = end.error.clone();
    NewRow {
        node,
        error,
        until: Time(0),
        end: Some(Box::new(end)),
        ..NewRow::of(kind)
    }
}
