//! The one place where errors become statuses: bad input, the fold's refusals, a busy cluster.
//!
//! `/v1` answers them as RFC 9457 problems; the old paths wrap the same [`Problem`] in their
//! envelope. 429 and 503 promise that nothing happened; 504 says that nobody knows.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::model::{IdError, Key, Refusal, SpecError};
use crate::raft::Busy;

/// The media type of every error under `/v1`.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// The log index at which a write was decided.
pub const INDEX_HEADER: &str = "horolog-index";

/// Declares every kind of error with its status, its stable name and its title.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $status:literal $slug:literal $title:literal,)*) => {
        /// What went wrong, as a stable name that a program may compare.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            /// Every kind, for the documentation and its test.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// (HTTP status, last segment of `type`, title)
            pub const fn parts(self) -> (u16, &'static str, &'static str) {
                match self { $(Kind::$name => ($status, $slug, $title),)* }
            }
        }
    };
}

kinds! {
    /// Not JSON, not UTF-8, not a path.
    Malformed 400 "malformed" "The request cannot be read",
    Unauthorized 401 "unauthorized" "A valid credential is required",
    Forbidden 403 "forbidden" "This request is not allowed",
    NoRoute 404 "no-such-path" "There is no such path",
    UnknownTask 404 "unknown-task" "There is no such task",
    UnknownSet 404 "unknown-shard-set" "There is no such shard set",
    UnknownSchedule 404 "unknown-schedule" "There is no such schedule",
    Method 405 "method-not-allowed" "This path has no such method",
    Slow 408 "request-timeout" "The request came too slowly",
    Content 409 "content-differs" "The task exists with other content",
    Stage 409 "wrong-stage" "The task's stage does not allow this",
    Fence 409 "stale-fence" "Another attempt holds the task",
    ScheduleContent 409 "schedule-differs" "The schedule exists with another definition",
    ScheduleRuns 409 "schedule-runs" "A run of the schedule is not over",
    SchedulesFull 409 "schedules-full" "There may not be more schedules",
    Membership 409 "membership" "The cluster was not changed",
    Set 409 "shard-set" "The shard set does not allow this",
    Changed 412 "changed" "The task has changed since",
    ScheduleChanged 412 "schedule-changed" "The schedule has changed since",
    TooLarge 413 "too-large" "The request is too large",
    MediaType 415 "media-type" "This content type is not read here",
    Invalid 422 "invalid" "A value is not acceptable",
    Overloaded 429 "overloaded" "Too much is waiting already",
    TooFast 429 "too-fast" "The application submits too fast",
    /// The operator must act; the log says what broke.
    Fault 500 "fault" "This node cannot read its own record",
    /// A node of an older version is a member still, or one that is held back.
    Level 503 "feature-level" "Not every node knows this yet",
    NoRoom 503 "no-room" "The disks are nearly full",
    NoLeader 503 "no-leader" "No leader is known at the moment",
    Starting 503 "starting" "This node is starting",
    NotReady 503 "not-ready" "This node is not ready",
    Contended 503 "contended" "The task changes too fast",
    Outcome 504 "outcome-unknown" "The outcome is unknown",
}

/// An error on its way to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub kind: Kind,
    pub detail: String,
    /// Seconds after which the same request may succeed.
    pub retry_after: Option<u64>,
    /// The task in question, when the caller may need it to ask again.
    pub key: Option<Key>,
    /// Where the log decided it.
    pub index: Option<u64>,
}

/// A problem as JSON (RFC 9457).
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub struct ProblemView<'a> {
    /// A stable relative URI that names the kind of problem.
    #[schema(example = "/problems/unknown-task")]
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    /// Seconds; also in the `Retry-After` header.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a str>,
    /// The task whose outcome is unknown, or that a batch's line spoke of.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Problem {
        Problem {
            kind,
            detail: detail.into(),
            retry_after: None,
            key: None,
            index: None,
        }
    }

    pub fn malformed(detail: impl Into<String>) -> Problem {
        Problem::new(Kind::Malformed, detail)
    }

    pub fn invalid(detail: impl Into<String>) -> Problem {
        Problem::new(Kind::Invalid, detail)
    }

    /// The fold said no, at this place in the log.
    pub fn refused(refusal: &Refusal, index: u64) -> Problem {
        let kind = match refusal {
            Refusal::Unknown => Kind::UnknownTask,
            Refusal::Content => Kind::Content,
            Refusal::Stage { .. } | Refusal::AlreadyDone => Kind::Stage,
            Refusal::Changed => Kind::Changed,
            Refusal::StaleFence { .. } => Kind::Fence,
            Refusal::NoSet => Kind::UnknownSet,
            Refusal::NotFilled | Refusal::TooManySets | Refusal::DefaultSet { .. } => Kind::Set,
            Refusal::TooManyPaused => Kind::Invalid,
            Refusal::Withdraw { .. } | Refusal::Moved | Refusal::ScheduleBusy => Kind::Contended,
            Refusal::NoSchedule => Kind::UnknownSchedule,
            Refusal::ScheduleExists => Kind::ScheduleContent,
            Refusal::ScheduleChanged { .. } => Kind::ScheduleChanged,
            Refusal::ScheduleRuns => Kind::ScheduleRuns,
            Refusal::SchedulesFull { .. } => Kind::SchedulesFull,
        };
        Problem {
            index: Some(index),
            retry_after: (kind == Kind::Contended).then_some(1),
            ..Problem::new(kind, refusal.to_string())
        }
    }

    /// Names the task, so that a caller of a batch, or after a 504, knows which one it was.
    pub fn about(mut self, key: &Key) -> Problem {
        self.key = Some(key.clone());
        self
    }

    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.kind.parts().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The JSON form, without a line break.
    pub fn json(&self) -> Vec<u8> {
        let (status, slug, title) = self.kind.parts();
        let view = ProblemView {
            r#type: format!("/problems/{slug}"),
            title,
            status,
            detail: &self.detail,
            retry_after: self.retry_after,
            app: self.key.as_ref().map(|key| &*key.app),
            id: self.key.as_ref().map(|key| &*key.id),
            index: self.index,
        };
        serde_json::to_vec(&view).unwrap_or_default()
    }
}

impl From<Busy> for Problem {
    fn from(busy: Busy) -> Problem {
        let (kind, retry_after) = match &busy {
            Busy::NoLeader => (Kind::NoLeader, Some(1)),
            Busy::Overloaded { retry_after } => {
                (Kind::Overloaded, Some(retry_after.0.div_ceil(1_000).max(1)))
            }
            Busy::TooFast { retry_after } => {
                (Kind::TooFast, Some(retry_after.0.div_ceil(1_000).max(1)))
            }
            Busy::NoRoom { retry_after } => {
                (Kind::NoRoom, Some(retry_after.0.div_ceil(1_000).max(1)))
            }
            Busy::Level { .. } => (Kind::Level, None),
            Busy::Unknown => (Kind::Outcome, None),
            Busy::Fault => (Kind::Fault, None),
        };
        Problem {
            retry_after,
            ..Problem::new(kind, busy.to_string())
        }
    }
}

impl From<IdError> for Problem {
    fn from(error: IdError) -> Problem {
        Problem::invalid(error.to_string())
    }
}

impl From<SpecError> for Problem {
    fn from(error: SpecError) -> Problem {
        Problem::invalid(error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.json()));
        *response.status_mut() = self.status();
        self.set_headers(&mut response);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        // The old paths' layer finds it here and wraps it in their envelope.
        response.extensions_mut().insert(self);
        response
    }
}

impl Problem {
    /// The headers that say the same as the body, whatever shape that has.
    pub fn set_headers(&self, response: &mut Response) {
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(index) = self.index {
            headers.insert(INDEX_HEADER, index.into());
        }
        if self.kind == Kind::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Span, Stage};

    #[test]
    fn refusals_have_their_statuses() {
        let status = |refusal: Refusal| Problem::refused(&refusal, 7).status().as_u16();
        assert_eq!(status(Refusal::Unknown), 404);
        assert_eq!(status(Refusal::Content), 409);
        assert_eq!(
            status(Refusal::Stage {
                stage: Stage::Running
            }),
            409
        );
        assert_eq!(status(Refusal::AlreadyDone), 409);
        assert_eq!(status(Refusal::Changed), 412);
        assert_eq!(status(Refusal::StaleFence { held: 1 }), 409);
    }

    #[test]
    fn busy_says_whether_it_had_an_effect() {
        let busy = Busy::Overloaded {
            retry_after: Span(1_200),
        };
        let problem = Problem::from(busy);
        assert_eq!(
            (problem.status().as_u16(), problem.retry_after),
            (429, Some(2))
        );
        let problem = Problem::from(Busy::NoLeader);
        assert_eq!(
            (problem.status().as_u16(), problem.retry_after),
            (503, Some(1))
        );
        let problem = Problem::from(Busy::Unknown);
        assert_eq!(
            (problem.status().as_u16(), problem.retry_after),
            (504, None)
        );
    }

    #[test]
    fn the_body_and_the_headers_agree() {
        let problem = Problem::from(Busy::NoLeader).about(&Key::new("shop", "order-17").unwrap());
        let json: serde_json::Value = serde_json::from_slice(&problem.json()).unwrap();
        assert_eq!(json["type"], "/problems/no-leader");
        assert_eq!(json["status"], 503);
        assert_eq!(json["retry_after"], 1);
        assert_eq!(json["id"], "order-17");
        let response = problem.into_response();
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["content-type"], PROBLEM_JSON);
    }

    #[test]
    fn names_are_unique() {
        let mut slugs: Vec<_> = Kind::ALL.iter().map(|kind| kind.parts().1).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), Kind::ALL.len());
    }
}
