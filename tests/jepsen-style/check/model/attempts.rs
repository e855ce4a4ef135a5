//! What happens to attempts: they are begun, reported, and end.

use serde_json::Value;

use super::super::words::{instant, span};
use super::{Attempt, Ending, Model, Place, first, shard};

/// One trigger folds no more.
const TRIGGER_MAX: u64 = 8_192;
/// How long after a callback's time-out its outcome is given up.
const OUTCOME_GRACE_MS: u64 = 30_000;
/// How much further ahead another node's clock is believed.
const CLOCK_TRUST_MS: u64 = 1_000;

impl Model {
    /// Deadlines that have passed, then what is due, in order of (instant, creation).
    pub(super) fn trigger(&mut self, at: Place, event: &Value) {
        let until = instant(&event["until"]).unwrap_or(0);
        let max = event["max"].as_u64().unwrap_or(0).min(TRIGGER_MAX) as usize;
        let late = first(&self.deadlines, at.now, max);
        for (_, seq) in &late {
            self.retry(at, *seq, at.now, Ending::Deadline);
        }
        let rest = max - late.len();
        let due = first(&self.waiting, until, rest);
        let more = first(&self.waiting, until, rest + 1).len() > due.len();
        for (instant, seq) in &due {
            self.begin(at, *seq, "triggered", *instant);
        }
        // With more to come, the hand stands just before the last one's instant.
        let reached = match (more, due.last()) {
            (false, _) => until,
            (true, Some((instant, _))) => instant.saturating_sub(1),
            (true, None) => self.hand,
        };
        self.hand = self.hand.max(reached);
    }

    /// An attempt was begun by its owner; `None` if the log never began it.
    fn reported(&mut self, at: Place, seq: u64, fence: u64, what: &str) -> Option<&mut Attempt> {
        let Some(task) = self.tasks.get(&seq) else {
            if seq == 0 || seq > self.next_seq {
                let text = format!(
                    "I-4: index {}: {what} of task {seq}, never submitted",
                    at.index
                );
                self.wrong.push(text);
            }
            return None; // Retired.
        };
        let key = task.key.clone();
        let (stage, held) = (task.stage, task.fence);
        let begun = self
            .attempts
            .get_mut(&key)
            .and_then(|all| all.get_mut(&fence));
        if begun.is_none() {
            let broken = match stage {
                "scheduled" => "I-7",
                "retrying" => "I-19",
                "cancelled" => "I-18",
                "dead" | "done" => "I-13, I-19",
                _ => "I-14, I-15",
            };
            self.wrong.push(format!(
                "{broken}: index {}: {what} of attempt {} (fence {fence}) of {}/{}, which the log \
                 never began: the task is {stage} at fence {held}",
                at.index,
                fence & 0xffff_ffff,
                key.0,
                key.1
            ));
        }
        begun
    }

    pub(super) fn holds(&self, seq: u64, fence: u64) -> bool {
        let task = self.tasks.get(&seq);
        task.is_some_and(|task| task.fence == fence && task.is_open())
    }

    pub(super) fn started(&mut self, at: Place, event: &Value) {
        for one in event["attempts"].as_array().into_iter().flatten() {
            let (seq, fence) = (one[0].as_u64().unwrap_or(0), one[1].as_u64().unwrap_or(0));
            let began = instant(&one[2]).unwrap_or(0);
            let known = self.reported(at, seq, fence, "the start").cloned();
            if let Some(known) = known {
                self.not_early(at, seq, &known, began);
            }
            if self.holds(seq, fence) && self.tasks[&seq].stage == "triggered" {
                let from = at.now.max(began.min(at.now + CLOCK_TRUST_MS));
                let until = from + self.tasks[&seq].policy.timeout + OUTCOME_GRACE_MS;
                self.edit(at, seq, |task| {
                    task.stage = "running";
                    task.at = until;
                });
            }
        }
    }

    fn not_early(&mut self, at: Place, seq: u64, attempt: &Attempt, began: u64) {
        if began < attempt.at {
            let (app, id) = &self.tasks[&seq].key;
            self.wrong.push(format!(
                "I-7: index {}: attempt {} of {app}/{id} was begun at {began}, {} ms early",
                at.index,
                attempt.number,
                attempt.at - began
            ));
        }
    }

    /// The owner reports how an attempt ended.
    pub(super) fn ended(&mut self, kind: &str, at: Place, event: &Value) {
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let (seq, fence, end) = (
            number(&event["seq"]),
            number(&event["fence"]),
            &event["end"],
        );
        let expired = event["verdict"] == "expired";
        let report = (
            at.index,
            number(&end["status"]),
            span(&end["queued"]).unwrap_or(0),
        );
        let Some(attempt) = self.reported(at, seq, fence, kind) else {
            return;
        };
        attempt.reported = Some(report);
        let attempt = attempt.clone();
        if !expired {
            self.not_early(at, seq, &attempt, instant(&end["started"]).unwrap_or(0));
        }
        if attempt.ending == Ending::Withdrawn {
            let (app, id) = &self.tasks[&seq].key;
            self.wrong.push(format!(
                "I-18: index {}: attempt {} of {app}/{id} was withdrawn, and ends as {kind}",
                at.index, attempt.number
            ));
        }
        if !self.holds(seq, fence) {
            return; // Too late: refused, and recorded.
        }
        match kind {
            "accepted" => {
                self.close(seq, Ending::Accepted);
                let until = at.now + self.tasks[&seq].policy.accept_timeout;
                self.edit(at, seq, |task| {
                    task.stage = "accepted";
                    task.at = until;
                });
            }
            "done" => self.finish(at, seq, "done", Ending::Done),
            _ if expired => {
                let task = &self.tasks[&seq];
                if task.stage != "triggered" {
                    return;
                }
                let may = task
                    .policy
                    .expires_at
                    .is_some_and(|until| at.now + CLOCK_TRUST_MS >= until);
                if !may {
                    let text = format!("index {}: {seq} expired before its expires_at", at.index);
                    self.wrong.push(text);
                }
                self.finish(at, seq, "dead", Ending::Expired);
            }
            _ if event["verdict"] == "final" => self.finish(at, seq, "dead", Ending::Failed),
            _ => {
                let not_before = span(&event["verdict"]["retry"]["not_before"]).unwrap_or(0);
                let ended = instant(&end["ended"]).unwrap_or(0);
                let from = at.now.max(ended.min(at.now + CLOCK_TRUST_MS));
                let task = &self.tasks[&seq];
                let delay = task.policy.delay(task.tries + 1, seq).max(not_before);
                self.retry_at(at, seq, from + delay, Ending::Failed);
            }
        }
    }

    pub(super) fn retry(&mut self, at: Place, seq: u64, from: u64, ending: Ending) {
        let task = &self.tasks[&seq];
        let next = from + task.policy.delay(task.tries + 1, seq);
        self.retry_at(at, seq, next, ending);
    }

    /// Another try while there are some left and the task is not too old; else dead.
    fn retry_at(&mut self, at: Place, seq: u64, next: u64, ending: Ending) {
        let task = &self.tasks[&seq];
        let tries = task.tries + 1;
        let too_old = task.policy.max_age.is_some_and(|age| next > task.due + age);
        if tries >= task.policy.attempts || too_old {
            return self.finish(at, seq, "dead", ending);
        }
        self.close(seq, ending);
        self.edit(at, seq, |task| {
            task.stage = "retrying";
            task.at = next;
            task.tries = tries;
        });
        self.begin_if_due(at, seq);
    }

    pub(super) fn finish(&mut self, at: Place, seq: u64, stage: &'static str, ending: Ending) {
        self.close(seq, ending);
        self.edit(at, seq, |task| {
            task.stage = stage;
            task.at = at.now;
        });
        self.run_ended(at, seq, stage);
    }

    /// Notes how the open attempt ended, if one is open.
    pub(super) fn close(&mut self, seq: u64, ending: Ending) {
        let task = &self.tasks[&seq];
        let open = matches!(task.stage, "triggered" | "running" | "accepted");
        let all = self.attempts.get_mut(&task.key).filter(|_| open);
        if let Some(attempt) = all.and_then(|all| all.get_mut(&task.fence)) {
            attempt.ending = ending;
        }
    }

    /// The next attempt, under the next fence: 32 bits of epoch, 32 bits of attempt.
    pub(super) fn begin(&mut self, at: Place, seq: u64, why: &'static str, instant: u64) {
        let task = &self.tasks[&seq];
        let key = task.key.clone();
        let epoch = self.epochs.get(&shard(&key)).copied().unwrap_or(0);
        let owner = self.owners.get(&shard(&key)).copied().unwrap_or(0);
        let attempt = task.attempt + 1;
        let fence = (epoch << 32) | attempt;
        self.edit(at, seq, |task| {
            if task.is_final() {
                task.due = instant; // A series of its own.
                task.tries = 0;
            }
            task.stage = "triggered";
            task.at = instant;
            task.attempt = attempt;
            task.fence = fence;
            task.owner = owner;
        });
        let begun = Attempt {
            number: attempt,
            at: instant,
            due: self.tasks[&seq].due,
            index: at.index,
            now: at.now,
            why,
            ending: Ending::Open,
            reported: None,
        };
        let all = self.attempts.entry(key).or_default();
        // Who comes again after being dropped is another task.
        let same = !self.retired.contains(&self.tasks[&seq].key);
        if same && all.last_key_value().is_some_and(|(last, _)| *last >= fence) {
            self.wrong.push(format!(
                "I-14: index {}: fence {fence} does not rise",
                at.index
            ));
        }
        all.insert(fence, begun);
    }

    pub(super) fn begin_if_due(&mut self, at: Place, seq: u64) {
        let task = &self.tasks[&seq];
        if task.is_waiting() && task.at <= self.hand.max(at.now) {
            self.begin(at, seq, "triggered", task.at);
        }
    }
}
