//! Why a task is where it is, in plain sentences, from its rows alone.
//!
//! Pure: the rows are the log's events as seen from one task, so the story is the same on every
//! node and after every replay. Lateness is split by cause, because "it was late" is the question
//! and "whose fault" the answer that is wanted.

use super::explain_words::{Lateness, by, end_of, gap};
use crate::model::{Placement, Row, RowKind, Spec, Stage, Task, Time};
use crate::raft::{PERFORMER, WATCHDOG};

/// The story of a task, a sentence per step, and how it stands at `now`.
pub fn explain(task: &Task, rows: &[Row], now: Time) -> Vec<String> {
    let mut story = Story {
        task,
        handler: Spec::decode(&task.spec).is_ok_and(|spec| spec.target.handler().is_some()),
        due: task.due,
        submitted: task.created,
        triggered: None,
        handed: None,
        between: MOVED,
        sentences: Vec::new(),
    };
    for row in rows {
        story.step(row);
    }
    story.ending(now);
    story.sentences
}

/// What the time between two hand-outs of an attempt is called.
const MOVED: &str = "until its shard had moved";
/// Another node was to carry it out, and its answer never came.
const UNANSWERED: &str = "until it was handed out again because another node did not answer";
const LOST: &str = "until it was missed and handed out again";

struct Story<'a> {
    task: &'a Task,
    /// It calls a handler.
    handler: bool,
    /// The instant that the next attempt is measured against.
    due: Time,
    submitted: Time,
    /// When the present attempt's trigger was folded.
    triggered: Option<Time>,
    /// When the first of a chain of redispatched attempts was handed out.
    handed: Option<Time>,
    /// Why it was handed out again.
    between: &'static str,
    sentences: Vec<String>,
}

impl Story<'_> {
    fn say(&mut self, sentence: String) {
        self.sentences.push(sentence);
    }

    fn step(&mut self, row: &Row) {
        match row.kind {
            RowKind::Submitted => self.submitted(row),
            RowKind::Changed => self.changed(row),
            RowKind::Run => self.run(row),
            RowKind::Triggered => self.triggered(row),
            RowKind::Redispatched => self.redispatched(row),
            RowKind::Started => self.say(format!(
                "Attempt {} was still open at {}, on node {}.",
                row.fence.attempt, row.at, row.node
            )),
            RowKind::Stale => self.say(format!(
                "A result that node {} reported at {} under the fence {} came too late and was refused.",
                row.node,
                row.at,
                row.fence.number()
            )),
            RowKind::Followed => {
                let child = row.by.as_deref().unwrap_or_default();
                self.say(match row.error.as_deref() {
                    None => format!("Its end started the task {child}, due at {}.", row.until),
                    Some(why) => format!("Its end asked for the task {child}, {why}."),
                });
            }
            RowKind::Cancelled => {
                self.say(format!("It was cancelled at {}{}.", row.at, by(row)));
            }
            RowKind::Expired => {
                let text = "no attempt had begun by its `expires_at`";
                self.say(format!("It was given up at {}: {text}.", row.at));
            }
            RowKind::Accepted | RowKind::Retry | RowKind::Done | RowKind::Dead => self.ended(row),
        }
    }

    fn submitted(&mut self, row: &Row) {
        self.due = row.until;
        self.submitted = row.at;
        let arrival = if row.until > row.at {
            format!("{} ahead", row.until.since(row.at))
        } else if row.at.since(row.until).0 == 0 {
            "at once".to_owned()
        } else {
            format!("{} before it was submitted", row.at.since(row.until))
        };
        self.say(format!(
            "It was submitted at {}{} (log index {}), due at {}, {arrival}.",
            row.at,
            by(row),
            row.index,
            row.until
        ));
    }

    fn changed(&mut self, row: &Row) {
        if row.until.0 != 0 {
            self.due = row.until;
        }
        self.submitted = self.submitted.max(row.at.min(self.due));
        let due = self.due;
        self.say(format!(
            "It was changed at {}{} (log index {}); due at {due}.",
            row.at,
            by(row),
            row.index
        ));
    }

    fn run(&mut self, row: &Row) {
        self.due = row.at;
        self.submitted = row.at;
        self.triggered = Some(row.at);
        self.handed = Some(row.at);
        self.say(format!(
            "It was run by hand at {}{} (log index {}): attempt {} was handed to node {}.",
            row.at,
            by(row),
            row.index,
            row.fence.attempt,
            row.node
        ));
    }

    fn triggered(&mut self, row: &Row) {
        self.triggered = Some(row.at);
        self.handed = Some(row.at);
        self.say(format!(
            "Attempt {} was triggered at log index {}, {}, and handed to node {}.",
            row.fence.attempt,
            row.index,
            gap(row.at, self.due, "it was due"),
            row.node
        ));
    }

    fn redispatched(&mut self, row: &Row) {
        let handed = self.handed.unwrap_or(row.at);
        self.triggered = Some(row.at);
        self.handed = Some(handed);
        // The fold notes the cause of the assignment where other rows note the principal.
        let cause = row.by.as_deref().unwrap_or("no cause given");
        let (between, why) = match cause {
            WATCHDOG => (LOST, "Nobody held its attempt any more"),
            PERFORMER => (
                UNANSWERED,
                "The node that was to carry it out for its owner did not answer",
            ),
            _ => (MOVED, "Its shard moved"),
        };
        self.between = between;
        self.say(format!(
            "{why} ({cause}): attempt {} was handed to node {} at log index {}, {} after the \
             one before; this does not count as a try.",
            row.fence.attempt,
            row.node,
            row.index,
            row.at.since(handed)
        ));
    }

    fn ended(&mut self, row: &Row) {
        if let Some(end) = row.end.as_deref() {
            let lateness = Lateness {
                due: self.due,
                submitted: self.submitted,
                handed: self.handed,
                triggered: self.triggered,
                between: self.between,
                started: end.started,
                queued: end.queued,
                waited_for: end.waited_for,
            };
            self.say(lateness.sentence(row.fence.attempt));
            self.say(end_of(row, end, self.handler));
        }
        match row.kind {
            RowKind::Retry => self.retried(row),
            RowKind::Accepted => self.say(format!(
                "The receiver accepted it (202) and its completion is awaited until {}.",
                row.until
            )),
            RowKind::Dead => self.died(row),
            _ if row.end.is_none() => {
                self.say(format!("It was marked done at {}{}.", row.at, by(row)));
            }
            _ => {}
        }
    }

    fn retried(&mut self, row: &Row) {
        let why = match (&row.end, &row.error) {
            (None, Some(error)) => format!("Attempt {} failed: {error}. ", row.fence.attempt),
            _ => String::new(),
        };
        self.due = row.until;
        self.submitted = row.at;
        self.handed = None;
        self.say(format!(
            "{why}The next try is not before {}, {} later.",
            row.until,
            row.until.since(row.at)
        ));
    }

    fn died(&mut self, row: &Row) {
        let error = row.error.as_deref().unwrap_or("no reason was given");
        self.say(format!(
            "It was given up at {}{}: {error}{}.",
            row.at,
            by(row),
            self.last_straw(row)
        ));
    }

    /// Which rule ended it.
    fn last_straw(&self, row: &Row) -> String {
        let status = row.end.as_ref().map_or(0, |end| end.status);
        if matches!(status, 410 | 489) {
            return match self.handler {
                true => "; the handler said that it is of no use to try again".to_owned(),
                false => format!("; {status} means that the receiver wants no more of it"),
            };
        }
        let attempts = Spec::decode(&self.task.spec).map(|spec| spec.retry().attempts());
        match attempts {
            Ok(attempts) if self.task.stage == Stage::Dead && self.task.tries >= attempts => {
                format!("; all {attempts} attempts that its policy allows have failed")
            }
            _ => String::new(),
        }
    }

    /// How it stands now, when it has not ended.
    fn ending(&mut self, now: Time) {
        let Task {
            at, owner, fence, ..
        } = *self.task;
        let ahead = if at > now {
            format!("in {}", at.since(now))
        } else {
            format!("{} ago", now.since(at))
        };
        let sentence = match self.task.stage {
            Stage::Scheduled if at > now => format!("It is not due yet: it runs at {at}, {ahead}."),
            Stage::Scheduled => format!(
                "It is due since {ahead} and waits for its trigger: the log is behind, or no leader serves."
            ),
            Stage::Retrying => format!("It waits for its next try at {at}, {ahead}."),
            Stage::Triggered if at > now => {
                format!(
                    "Node {owner} holds attempt {} until {at}, {ahead}.",
                    fence.attempt
                )
            }
            Stage::Triggered => format!(
                "Attempt {} could begin on node {owner} since {at}, {ahead}; it waits for {}, or is under way for less than a second.",
                fence.attempt,
                waits_for(self.task)
            ),
            Stage::Running => format!(
                "Attempt {} is under way on node {owner}; it is given up at {at}.",
                fence.attempt
            ),
            Stage::Accepted => {
                format!("Its completion is awaited until {at}; then it is tried again.")
            }
            Stage::Done | Stage::Dead | Stage::Cancelled => return,
        };
        self.say(sentence);
    }
}

/// What an attempt that is due may wait for, as far as its task says.
fn waits_for(task: &Task) -> String {
    let spec = Spec::decode(&task.spec).ok();
    let handler = spec.as_ref().and_then(|spec| spec.target.handler());
    if let Some(name) = handler {
        return format!("a live node with the handler `{name}` and room for it");
    }
    match spec.and_then(|spec| spec.placement) {
        Some(Placement::Label { name, value }) => {
            format!("a live node with the label `{name}={value}` and room for it")
        }
        Some(Placement::Leader) => "the leader to have room for it".to_owned(),
        _ => "its turn at the target".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AttemptEnd, Epoch, Fence, Span};

    fn task(stage: Stage, at: u64) -> Task {
        let mut task = crate::api::view::tests::task(
            r#"{"app":"a","due_at":10000,"target":{"http":{"url":"http://a"}},"retry":{"attempts":2}}"#,
        );
        (task.stage, task.at, task.owner) = (stage, Time(at), 2);
        task.fence = Fence {
            epoch: Epoch(1),
            attempt: 1,
        };
        task
    }

    fn row(index: u64, at: u64, kind: RowKind, attempt: u32, until: u64) -> Row {
        Row {
            index,
            at: Time(at),
            kind,
            fence: Fence {
                epoch: Epoch(1),
                attempt,
            },
            node: 2,
            until: Time(until),
            error: None,
            by: None,
            end: None,
        }
    }

    fn ended(mut row: Row, started: u64, queued: u64, status: u16) -> Row {
        row.end = Some(Box::new(AttemptEnd {
            started: Time(started),
            ended: row.at,
            queued: Span(queued),
            waited_for: Default::default(),
            status,
            error: (status >= 400).then(|| "refused".into()),
            answer: None,
        }));
        row
    }

    fn story(task: &Task, rows: &[Row]) -> String {
        explain(task, rows, Time(12_000)).join("\n")
    }

    #[test]
    fn what_kept_an_attempt_is_named() {
        use crate::model::Wait;
        for (waited_for, words) in [
            (Wait::Turn, "2s in the queue of its target."),
            (
                Wait::Breaker,
                "2s in the queue of its target, whose circuit breaker was open.",
            ),
            (Wait::Paused, "2s because its application was paused."),
            (Wait::Node, "2s until a node was there that may and can"),
        ] {
            let mut done = ended(row(3, 12_100, RowKind::Done, 1, 0), 12_000, 2_000, 200);
            if let Some(end) = &mut done.end {
                end.waited_for = waited_for;
            }
            let rows = [
                row(1, 5_000, RowKind::Submitted, 0, 10_000),
                row(2, 9_990, RowKind::Triggered, 1, 10_000),
                done,
            ];
            let story = story(&task(Stage::Done, 0), &rows);
            assert!(story.contains(words), "{story}");
        }
    }

    #[test]
    fn on_time() {
        let rows = [
            row(1, 1_000, RowKind::Submitted, 0, 10_000),
            row(5, 9_990, RowKind::Triggered, 1, 10_000),
            ended(row(6, 10_040, RowKind::Done, 1, 0), 10_002, 0, 200),
        ];
        let story = story(&task(Stage::Done, 10_040), &rows);
        for part in [
            "9s ahead",
            "log index 5, 10ms before it was due",
            "2ms after it was due",
            "200",
        ] {
            assert!(story.contains(part), "{part} in\n{story}");
        }
    }

    #[test]
    fn lateness_is_split_by_cause() {
        let rows = [
            row(1, 11_000, RowKind::Submitted, 0, 10_000),
            row(2, 11_200, RowKind::Triggered, 1, 10_000),
            row(3, 11_500, RowKind::Redispatched, 2, 10_000),
            ended(row(4, 11_900, RowKind::Done, 2, 0), 11_800, 250, 200),
        ];
        let story = story(&task(Stage::Done, 11_900), &rows);
        for part in [
            "1s before it was submitted",
            "began 1s800ms late",
            "1s because it was submitted late",
            "200ms until its trigger was committed",
            "300ms until its shard had moved",
            "250ms in the queue of its target",
            "50ms on the node",
        ] {
            assert!(story.contains(part), "{part} in\n{story}");
        }
    }

    #[test]
    fn a_performer_that_did_not_answer_is_named_as_the_cause() {
        let mut again = row(3, 13_000, RowKind::Redispatched, 2, 10_000);
        again.by = Some(PERFORMER.into());
        let rows = [
            row(1, 9_000, RowKind::Submitted, 0, 10_000),
            row(2, 9_990, RowKind::Triggered, 1, 10_000),
            again,
            ended(row(4, 13_100, RowKind::Done, 2, 0), 13_000, 0, 200),
        ];
        let story = story(&task(Stage::Done, 13_100), &rows);
        for part in [
            "did not answer (performer): attempt 2 was handed to node 2",
            "3s until it was handed out again because another node did not answer",
        ] {
            assert!(story.contains(part), "{part} in\n{story}");
        }
    }

    #[test]
    fn what_waits_says_for_what() {
        let rows = [
            row(1, 9_000, RowKind::Submitted, 0, 10_000),
            row(2, 9_990, RowKind::Triggered, 1, 10_000),
        ];
        let told = |placement: &str| {
            let text = format!(
                r#"{{"app":"a","due_at":10000,"target":{{"http":{{"url":"http://a"}}}}{placement}}}"#
            );
            let task = Task {
                stage: Stage::Triggered,
                at: Time(10_000),
                ..crate::api::view::tests::task(&text)
            };
            story(&task, &rows)
        };
        let label = told(r#","placement":{"label":"gpu=yes"}"#);
        assert!(label.contains("it waits for a live node with the label `gpu=yes`"));
        let leader = told(r#","placement":"leader""#);
        assert!(leader.contains("it waits for the leader"));
        assert!(told("").contains("it waits for its turn at the target"));
        let handled = Task {
            stage: Stage::Triggered,
            at: Time(10_000),
            ..crate::api::view::tests::task(
                r#"{"app":"a","due_at":10000,"target":{"invoke":"demo.run(1)"}}"#,
            )
        };
        let handled = story(&handled, &rows);
        assert!(handled.contains("a live node with the handler `demo.run` and room"));
    }

    #[test]
    fn what_was_lost_and_handed_out_again_says_so() {
        let mut again = row(3, 41_000, RowKind::Redispatched, 2, 10_000);
        again.by = Some(WATCHDOG.into());
        let rows = [
            row(1, 9_000, RowKind::Submitted, 0, 10_000),
            row(2, 9_990, RowKind::Triggered, 1, 10_000),
            again,
            ended(row(4, 41_900, RowKind::Done, 2, 0), 41_000, 0, 200),
        ];
        let story = story(&task(Stage::Done, 41_900), &rows);
        for part in [
            "Nobody held its attempt any more (watchdog): attempt 2 was handed to node 2",
            "does not count as a try",
            "began 31s late: 31s until it was missed and handed out again",
        ] {
            assert!(story.contains(part), "{part} in\n{story}");
        }
    }

    #[test]
    fn retries_and_death() {
        let mut dead = ended(row(9, 11_100, RowKind::Dead, 2, 0), 11_050, 0, 500);
        dead.error = Some("HTTP 500".into());
        let rows = [
            row(1, 1_000, RowKind::Submitted, 0, 10_000),
            row(5, 9_990, RowKind::Triggered, 1, 10_000),
            ended(row(6, 10_040, RowKind::Retry, 1, 11_045), 10_002, 0, 503),
            row(8, 11_045, RowKind::Triggered, 2, 11_045),
            dead,
        ];
        let mut task = task(Stage::Dead, 11_100);
        task.tries = 2;
        let story = story(&task, &rows);
        for part in [
            "HTTP 503",
            "not before 1970-01-01T00:00:11.045Z, 1s5ms later",
            "all 2 attempts",
        ] {
            assert!(story.contains(part), "{part} in\n{story}");
        }
    }

    #[test]
    fn why_not_yet() {
        let rows = [row(1, 1_000, RowKind::Submitted, 0, 20_000)];
        assert!(
            story(&task(Stage::Scheduled, 20_000), &rows)
                .contains("it runs at 1970-01-01T00:00:20.000Z, in 8s")
        );
        assert!(story(&task(Stage::Retrying, 13_000), &rows).contains("next try"));
        assert!(story(&task(Stage::Accepted, 13_000), &rows).contains("awaited until"));
        assert!(story(&task(Stage::Triggered, 11_000), &rows).contains("turn at the target"));
        assert!(story(&task(Stage::Scheduled, 11_000), &rows).contains("due since 1s ago"));
    }

    #[test]
    fn marked_and_cancelled() {
        let mut marked = row(2, 5_000, RowKind::Done, 0, 0);
        marked.by = Some("token".into());
        assert!(
            story(&task(Stage::Done, 5_000), &[marked])
                .contains("marked done at 1970-01-01T00:00:05.000Z by token")
        );
        let cancelled = row(2, 5_000, RowKind::Cancelled, 0, 0);
        assert!(story(&task(Stage::Cancelled, 5_000), &[cancelled]).contains("was cancelled"));
    }

    #[test]
    fn gone_for_the_receiver() {
        let dead = ended(row(3, 10_050, RowKind::Dead, 1, 0), 10_001, 0, 410);
        assert!(story(&task(Stage::Dead, 10_050), &[dead]).contains("410 means"));
    }
}
