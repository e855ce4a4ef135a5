//! One outcome of an attempt that every live node has carried out.

use std::sync::Arc;

use super::attempts::Id;
use super::verdict::cut;
use crate::model::limits::{ANSWER_KEPT_BYTES, ERROR_BYTES_MAX};
use crate::model::{Accepted, AttemptEnd, Done, Event, Failed, NodeId, Span, Time, Verdict};

/// What came of it on one node.
pub(super) enum Part {
    Ended(Event),
    /// Nobody knows whether it began there, or it could not begin in time.
    Failed(String),
}

/// How it went on one node.
struct Ended {
    node: NodeId,
    end: AttemptEnd,
    /// Why it failed.
    verdict: Option<Verdict>,
    accepted: bool,
}

fn ended(node: NodeId, part: Part) -> Ended {
    let failed = |why: &str| AttemptEnd {
        error: Some(why.into()),
        ..AttemptEnd::default()
    };
    let (end, verdict, accepted) = match part {
        Part::Ended(Event::Done(e)) => (e.end, None, false),
        Part::Ended(Event::Accepted(e)) => (e.end, None, true),
        Part::Ended(Event::Failed(e)) => (e.end, Some(e.verdict), false),
        Part::Ended(_) => (failed("it answered something else"), Some(RETRY), false),
        Part::Failed(why) => (failed(&why), Some(RETRY), false),
    };
    Ended {
        node,
        end,
        verdict,
        accepted,
    }
}

const RETRY: Verdict = Verdict::Retry {
    not_before: Span::ZERO,
};

/// Failed if one has failed: for good if all those have failed for good, else to be tried again no
/// sooner than any of them asked for. Else accepted if one has accepted, else done.
pub(super) fn together(
    (seq, fence): Id,
    node: NodeId,
    parts: Vec<(NodeId, Part)>,
    (started, now): (Time, Time),
) -> Event {
    let parts: Vec<Ended> = parts
        .into_iter()
        .map(|(node, part)| ended(node, part))
        .collect();
    let verdict = parts.iter().filter_map(|part| part.verdict).reduce(worse);
    let odd = parts.iter().find(|part| part.verdict.is_some());
    let shown = odd.or(parts.first());
    let end = AttemptEnd {
        started,
        ended: now.max(started),
        status: shown.map_or(0, |part| part.end.status),
        queued: parts
            .iter()
            .map(|part| part.end.queued)
            .max()
            .unwrap_or_default(),
        error: verdict.map(|_| errors(&parts)),
        waited_for: shown.map(|part| part.end.waited_for).unwrap_or_default(),
        answer: Some(answers(&parts)),
    };
    match verdict {
        Some(verdict) => Failed {
            seq,
            fence,
            node,
            verdict,
            end,
        }
        .into(),
        None if parts.iter().any(|part| part.accepted) => Accepted {
            seq,
            fence,
            node,
            end,
        }
        .into(),
        None => Done {
            seq,
            fence,
            node,
            end,
        }
        .into(),
    }
}

fn worse(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::Retry { not_before: a }, Verdict::Retry { not_before: b }) => Verdict::Retry {
            not_before: a.max(b),
        },
        (Verdict::Retry { not_before }, _) | (_, Verdict::Retry { not_before }) => {
            Verdict::Retry { not_before }
        }
        _ => Verdict::Final,
    }
}

fn errors(parts: &[Ended]) -> Arc<str> {
    let failed = parts.iter().filter(|part| part.verdict.is_some());
    let each = failed.map(|part| {
        let why = part.end.error.as_deref().unwrap_or("failed");
        format!("node {}: {why}", part.node)
    });
    cut(&each.collect::<Vec<_>>().join("; "), ERROR_BYTES_MAX)
}

fn answers(parts: &[Ended]) -> Arc<str> {
    let each = parts.iter().map(|part| match part.end.status {
        0 => format!("node {}: no answer", part.node),
        status => format!("node {}: HTTP {status}", part.node),
    });
    cut(&each.collect::<Vec<_>>().join("; "), ANSWER_KEPT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Fence, Seq};

    fn end(status: u16, error: Option<&str>) -> AttemptEnd {
        AttemptEnd {
            status,
            error: error.map(Into::into),
            ..AttemptEnd::default()
        }
    }

    fn done(node: NodeId) -> (NodeId, Part) {
        let (seq, fence, end) = (Seq(1), Fence::default(), end(200, None));
        let done = Done {
            seq,
            fence,
            node,
            end,
        };
        (node, Part::Ended(done.into()))
    }

    fn failed(node: NodeId, verdict: Verdict) -> (NodeId, Part) {
        let failed = Failed {
            seq: Seq(1),
            fence: Fence::default(),
            node,
            verdict,
            end: end(500, Some("HTTP 500")),
        };
        (node, Part::Ended(failed.into()))
    }

    fn all(parts: Vec<(NodeId, Part)>) -> Event {
        together((Seq(1), Fence::default()), 1, parts, (Time(5), Time(9)))
    }

    #[test]
    fn done_when_all_are_and_failed_when_one_is() {
        let Event::Done(e) = all(vec![done(1), done(2)]) else {
            panic!("all were done")
        };
        assert_eq!(
            e.end.answer.as_deref(),
            Some("node 1: HTTP 200; node 2: HTTP 200")
        );
        assert_eq!(
            (e.end.started, e.end.ended, e.end.error),
            (Time(5), Time(9), None)
        );

        let later = Verdict::Retry {
            not_before: Span(7),
        };
        let lost = (3, Part::Failed("it has fallen silent".into()));
        let Event::Failed(e) = all(vec![done(1), failed(2, later), lost]) else {
            panic!("two have failed")
        };
        assert_eq!((e.verdict, e.end.status), (later, 500));
        let said = e.end.error.unwrap();
        assert_eq!(&*said, "node 2: HTTP 500; node 3: it has fallen silent");
    }

    #[test]
    fn it_is_given_up_only_when_nobody_would_try_again() {
        for (other, verdict) in [(Verdict::Final, Verdict::Final), (RETRY, RETRY)] {
            let Event::Failed(e) = all(vec![failed(1, Verdict::Final), done(2), failed(3, other)])
            else {
                panic!("two have failed")
            };
            assert_eq!(e.verdict, verdict);
        }
    }
}
