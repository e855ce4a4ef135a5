//! What an answer means, and the event that says so.

use std::sync::Arc;
use std::time::Duration;

use super::attempts::Id;
use super::deliver::{Delivered, Failure, FailureKind};
use super::flows::Told;
use super::metrics::{Metrics, Result as Label};
use super::places::Bears;
use crate::model::limits::ERROR_BYTES_MAX;
use crate::model::{Accepted, AttemptEnd, Done, Event, Failed, NodeId, Span, Time, Verdict, Wait};

/// The longest `Retry-After` that is honoured: a receiver may not park a task for ever.
const RETRY_AFTER_MAX: Span = Span::days(31);

/// How an attempt went, in the terms of the log.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Done,
    Accepted,
    Failed {
        verdict: Verdict,
        label: Label,
        error: String,
    },
}

/// The rules. A status that says "never again" counts even if its answer broke off; a success
/// counts only when the whole answer arrived.
fn judge(delivered: &Delivered, now: Time) -> Judged {
    let status = delivered.status;
    let not_before = match status {
        429 | 503 => delivered
            .retry_after
            .as_deref()
            .map_or(Span::ZERO, |v| retry_after(v, now)),
        _ => Span::ZERO,
    };
    let verdict = match status {
        410 | 489 => Verdict::Final,
        _ => Verdict::Retry { not_before },
    };
    let failed = |label, error| Judged::Failed {
        verdict,
        label,
        error,
    };
    match &delivered.failure {
        Some(Failure { kind, text }) => failed(label(*kind), text.clone()),
        None if status == 202 => Judged::Accepted,
        None if (200..300).contains(&status) => Judged::Done,
        None => failed(Label::FailedStatus, format!("HTTP {status}")),
    }
}

/// What a call tells of its target's health and load. An answer that refuses this one request
/// (4xx) shows a target that is well; a call that the guard forbade shows nothing.
pub(super) fn told(delivered: &Delivered, took: Duration) -> Told {
    let kind = delivered.failure.as_ref().map(|failure| failure.kind);
    let (went, bears) = match (kind, delivered.status) {
        (Some(FailureKind::Denied), _) => (None, Bears::Unknown),
        (Some(FailureKind::Handler), 500..) => (Some(false), Bears::Unknown),
        (Some(FailureKind::Handler), _) => (Some(true), Bears::Well),
        (Some(_), _) | (None, 503) => (Some(false), Bears::Overloaded),
        (None, 429) => (Some(true), Bears::Overloaded),
        (None, 500..) => (Some(false), Bears::Unknown),
        (None, _) => (Some(true), Bears::Well),
    };
    Told { went, bears, took }
}

fn label(kind: FailureKind) -> Label {
    match kind {
        FailureKind::Timeout => Label::Timeout,
        FailureKind::Connect => Label::Connect,
        FailureKind::Denied => Label::Denied,
        FailureKind::Broken => Label::Broken,
        FailureKind::Handler => Label::FailedStatus,
    }
}

/// Seconds or an HTTP date; anything else asks for nothing.
fn retry_after(value: &str, now: Time) -> Span {
    let value = value.trim();
    let asked = match value.parse::<u64>() {
        Ok(seconds) => Span(seconds.saturating_mul(1000)),
        Err(_) => jiff::fmt::rfc2822::parse(value)
            .ok()
            .and_then(|date| u64::try_from(date.timestamp().as_millisecond()).ok())
            .map_or(Span::ZERO, |at| Time(at).since(now)),
    };
    asked.min(RETRY_AFTER_MAX)
}

/// What is known of an attempt before it ends.
pub(super) struct Report {
    pub id: Id,
    pub node: NodeId,
    pub started: Time,
    pub queued: Span,
    pub waited_for: Wait,
}

impl Report {
    /// The exchange took place, or was tried.
    pub fn delivered(self, delivered: Delivered, now: Time, metrics: &Metrics) -> Event {
        let judged = judge(&delivered, now);
        let mut end = self.end(now);
        end.status = delivered.status;
        end.answer = delivered.answer;
        let ((seq, fence), node) = (self.id, self.node);
        match judged {
            Judged::Done => {
                metrics.count(Label::Done);
                let done = Done {
                    seq,
                    fence,
                    node,
                    end,
                };
                done.into()
            }
            Judged::Accepted => {
                metrics.count(Label::Accepted);
                let accepted = Accepted {
                    seq,
                    fence,
                    node,
                    end,
                };
                accepted.into()
            }
            Judged::Failed {
                verdict,
                label,
                error,
            } => {
                metrics.count(label);
                self.failed(verdict, end, &error)
            }
        }
    }

    /// It came up after `expires_at`, and was not tried.
    pub fn expired(self, at: Time, metrics: &Metrics) -> Event {
        metrics.count(Label::Expired);
        let end = self.end(self.started);
        self.failed(Verdict::Expired, end, &format!("not started by {at}"))
    }

    /// It waited for something until its `max_age` had passed; the policy ends it.
    pub fn given_up(self, why: &str, metrics: &Metrics) -> Event {
        metrics.count(Label::Expired);
        let end = self.end(self.started);
        let verdict = Verdict::Retry {
            not_before: Span::ZERO,
        };
        self.failed(verdict, end, why)
    }

    /// The spec is of no use to this version.
    pub fn unreadable(self, why: &str, metrics: &Metrics) -> Event {
        metrics.count(Label::Broken);
        let end = self.end(self.started);
        let verdict = Verdict::Retry {
            not_before: Span::ZERO,
        };
        self.failed(verdict, end, &format!("the task cannot be read: {why}"))
    }

    fn end(&self, now: Time) -> AttemptEnd {
        AttemptEnd {
            started: self.started,
            ended: now.max(self.started),
            queued: self.queued,
            waited_for: self.waited_for,
            ..AttemptEnd::default()
        }
    }

    fn failed(self, verdict: Verdict, mut end: AttemptEnd, error: &str) -> Event {
        end.error = Some(cut(error, ERROR_BYTES_MAX));
        let failed = Failed {
            seq: self.id.0,
            fence: self.id.1,
            node: self.node,
            verdict,
            end,
        };
        failed.into()
    }
}

/// The beginning of a text, cut between characters.
pub(super) fn cut(text: &str, bytes: usize) -> Arc<str> {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16, retry_after: Option<&str>) -> Option<Verdict> {
        let delivered = Delivered {
            retry_after: retry_after.map(Into::into),
            ..Delivered::status(status)
        };
        // 1994-11-06T08:49:37Z
        match judge(&delivered, Time(784_111_777_000)) {
            Judged::Failed { verdict, .. } => Some(verdict),
            _ => None,
        }
    }

    fn retry(millis: u64) -> Option<Verdict> {
        let not_before = Span(millis);
        Some(Verdict::Retry { not_before })
    }

    #[test]
    fn statuses() {
        for ok in [200, 201, 204, 299] {
            assert_eq!(judge(&Delivered::status(ok), Time(0)), Judged::Done);
        }
        assert_eq!(judge(&Delivered::status(202), Time(0)), Judged::Accepted);
        for last in [410, 489] {
            assert_eq!(verdict(last, None), Some(Verdict::Final));
        }
        for again in [301, 302, 307, 400, 401, 404, 408, 429, 500, 502, 503, 599] {
            assert_eq!(verdict(again, None), retry(0), "{again}");
        }
    }

    #[test]
    fn retry_after_is_a_number_or_a_date_on_two_statuses_only() {
        assert_eq!(verdict(429, Some("7")), retry(7_000));
        assert_eq!(verdict(503, Some(" 120 ")), retry(120_000));
        assert_eq!(verdict(500, Some("7")), retry(0));
        let date = Some("Sun, 06 Nov 1994 08:50:37 GMT");
        assert_eq!(verdict(503, date), retry(60_000));
        assert_eq!(
            verdict(503, Some("Sun, 06 Nov 1994 08:00:00 GMT")),
            retry(0)
        );
        assert_eq!(verdict(503, Some("soon")), retry(0));
        assert_eq!(verdict(503, Some("-5")), retry(0));
        assert_eq!(
            verdict(429, Some("99999999999999")),
            retry(RETRY_AFTER_MAX.0)
        );
    }

    #[test]
    fn a_success_with_half_an_answer_is_none_and_a_final_status_stays_final() {
        let half = |status| Delivered {
            status,
            ..Delivered::failed(FailureKind::Broken, "the answer broke off")
        };
        assert!(matches!(
            judge(&half(200), Time(0)),
            Judged::Failed {
                verdict: Verdict::Retry { .. },
                ..
            }
        ));
        assert!(matches!(
            judge(&half(410), Time(0)),
            Judged::Failed {
                verdict: Verdict::Final,
                ..
            }
        ));
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(&*cut("añb", 2), "a");
        assert_eq!(&*cut("añb", 3), "añ");
        assert_eq!(&*cut("a", 9), "a");
    }
}
