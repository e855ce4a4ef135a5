//! The words of an explanation: lateness by cause, how an attempt ended, who asked.

use crate::model::{AttemptEnd, Row, Span, Time, Wait};
use crate::raft::Picture;

/// Lateness below this is what a healthy cluster shows, and needs no causes.
const ON_TIME: Span = Span::millis(20);

/// The instants between which an attempt became late.
pub struct Lateness {
    pub due: Time,
    pub submitted: Time,
    /// When it was first handed to an owner.
    pub handed: Option<Time>,
    /// When it was handed to the owner that carried it out.
    pub triggered: Option<Time>,
    /// What happened between the two.
    pub between: &'static str,
    pub started: Time,
    pub queued: Span,
    /// What it was queued for.
    pub waited_for: Wait,
}

impl Lateness {
    /// `Attempt 1 began 1s late: 800ms because …`.
    pub fn sentence(&self, attempt: u32) -> String {
        if self.started.0 == 0 {
            return format!("Attempt {attempt} was never sent.");
        }
        let late = self.started.since(self.due);
        if late <= ON_TIME {
            return format!("Attempt {attempt} began {late} after it was due.");
        }
        let causes: Vec<String> = self
            .causes()
            .into_iter()
            .filter(|(span, _)| span.0 > 0)
            .map(|(span, cause)| format!("{span} {cause}"))
            .collect();
        format!(
            "Attempt {attempt} began {late} late: {}.",
            causes.join(", ")
        )
    }

    /// Each stretch between due and start goes to one cause; together they are the lateness.
    fn causes(&self) -> [(Span, &'static str); 5] {
        let clamp = |time: Time| time.clamp(self.due, self.started);
        let submitted = clamp(self.submitted);
        let handed = clamp(self.handed.unwrap_or(self.due)).max(submitted);
        let triggered = clamp(self.triggered.unwrap_or(handed)).max(handed);
        let rest = self.started.since(triggered);
        let queued = self.queued.min(rest);
        [
            (submitted.since(self.due), "because it was submitted late"),
            (handed.since(submitted), "until its trigger was committed"),
            (triggered.since(handed), self.between),
            (queued, kept(self.waited_for)),
            (Span(rest.0 - queued.0), "on the node that carried it out"),
        ]
    }
}

/// What kept an attempt from its turn.
fn kept(by: Wait) -> &'static str {
    match by {
        Wait::Turn => "in the queue of its target",
        Wait::Breaker => "in the queue of its target, whose circuit breaker was open",
        Wait::Paused => "because its application was paused",
        Wait::Node => "until a node was there that may and can carry it out",
    }
}

/// That no node has the handler of a task, when that is so.
pub fn explain_handler(name: &str, picture: &Picture) -> Option<String> {
    if picture.live.iter().any(|seen| seen.handlers.contains(name)) {
        return None;
    }
    let nodes: Vec<String> = picture.live.iter().map(|n| n.node.to_string()).collect();
    let nodes = match nodes.len() {
        0 => "none was heard".to_owned(),
        1 => format!("node {} was heard, without it", nodes[0]),
        _ => format!("nodes {} were heard, none with it", nodes.join(", ")),
    };
    Some(format!(
        "No live node has the handler `{name}`: {nodes}. It waits until one registers it."
    ))
}

/// `5ms before it was due`.
pub fn gap(at: Time, due: Time, what: &str) -> String {
    if at <= due {
        format!("{} before {what}", due.since(at))
    } else {
        format!("{} after {what}", at.since(due))
    }
}

/// `Attempt 1 ended at … after 30ms: HTTP 503, busy`.
pub fn end_of(row: &Row, end: &AttemptEnd, handler: bool) -> String {
    let (status, who) = match end.status {
        200 if handler => (String::from("done"), "handler"),
        _ if handler => (String::new(), "handler"),
        0 => (String::from("no answer"), "receiver"),
        status => (format!("HTTP {status}"), "receiver"),
    };
    let result = match end.error.as_deref() {
        None => status,
        // Errors about a status begin with it.
        Some(error) if error.starts_with(&status) => error.to_owned(),
        Some(error) => format!("{status}, {error}"),
    };
    let took = end.ended.since(end.started);
    format!(
        "Attempt {} ended at {}: {result}; the {who} took {took}.",
        row.fence.attempt, end.ended
    )
}

/// ` by token`, when it is known.
pub fn by(row: &Row) -> String {
    row.by
        .as_deref()
        .map_or(String::new(), |by| format!(" by {by}"))
}
