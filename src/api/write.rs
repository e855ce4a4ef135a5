//! One event on its way to the log and its answer on the way back.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;

use super::Api;
use super::problem::{INDEX_HEADER, Kind, Problem};
use super::view::TaskView;
use crate::model::{By, Event, IfMatch, Key, Outcome, Seq, Submit, Task, When};
use crate::model::{Http, Spec, Target};
use crate::raft::{Busy, Class, Cluster, Decided};

/// The log's answer to a caller's event.
pub struct Written {
    pub index: u64,
    /// None: a completion came before its submit, and a mark was kept.
    pub task: Option<Box<Task>>,
    /// This event created the task.
    pub new: bool,
}

impl Api {
    /// Proposes one event and waits for its place in the log.
    pub(super) async fn write(
        &self,
        class: Class,
        event: impl Into<Event>,
        key: &Key,
    ) -> Result<Written, Problem> {
        let mut answers = self.cluster()?.decide(class, vec![event.into()]).await;
        match answers.pop() {
            Some(answer) => written(answer).map_err(|problem| problem.about(key)),
            None => Err(Problem::from(Busy::Unknown).about(key)),
        }
    }

    /// The cluster, once this node shows every write acknowledged before; at once if `local`.
    pub(super) async fn reading(&self, local: bool) -> Result<&Cluster, Problem> {
        let cluster = self.cluster()?;
        if !local {
            cluster.barrier().await.map_err(|busy| match busy {
                // A read has no outcome that could be unknown: it may simply be asked again.
                Busy::Unknown => Problem::from(Busy::NoLeader),
                busy => Problem::from(busy),
            })?;
        }
        Ok(cluster)
    }

    /// A checked submit event. Nothing of it needs the cluster.
    pub(super) fn submit_event(
        &self,
        app: &str,
        id: Option<&str>,
        when: When,
        spec: &Spec,
        by: By,
    ) -> Result<Submit, Problem> {
        let key = match id {
            Some(id) => Key::new(app, id)?,
            None => Key::new(app, &(self.new_id)())?,
        };
        self.check(spec)?;
        let spec = spec.encode();
        Ok(Submit {
            digest: Spec::digest(&spec, when),
            key,
            when,
            spec,
            by,
        })
    }

    /// Bounds, and whether the target may be called at all.
    pub(super) fn check(&self, spec: &Spec) -> Result<(), Problem> {
        spec.check()?;
        let mut check =
            |target: &Target| target.http().map_or(Ok(()), |http| self.check_http(http));
        spec.each_target(&mut check)
    }

    fn check_http(&self, http: &Http) -> Result<(), Problem> {
        (self.check_target)(http)
            .map_err(|reason| Problem::invalid(format!("`target.http.url`: {reason}")))
    }

    /// The task as JSON, with its ETag and the index at which the write was decided.
    pub(super) fn answer(
        &self,
        status: StatusCode,
        written: &Written,
    ) -> Result<Response, Problem> {
        let mut response = match &written.task {
            Some(task) => self.task_response(task)?,
            None => json(&serde_json::json!({})),
        };
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(INDEX_HEADER, written.index.into());
        Ok(response)
    }

    /// The task as JSON, with its ETag.
    pub(super) fn task_response(&self, task: &Task) -> Result<Response, Problem> {
        let shards = self.cluster()?.state().read(|state| state.shard_total());
        let mut response = json(&TaskView::new(task, shards)?);
        if let Ok(etag) = HeaderValue::from_str(&task.etag()) {
            response.headers_mut().insert(header::ETAG, etag);
        }
        Ok(response)
    }
}

/// A decision as an answer or a problem.
pub fn written(answer: Result<Decided, Busy>) -> Result<Written, Problem> {
    let Decided { index, outcome } = answer?;
    let made = |task, new| Ok(Written { index, task, new });
    match outcome {
        Outcome::Task { new, task } => made(Some(task), new),
        Outcome::Refused(refusal) => Err(Problem::refused(&refusal, index)),
        Outcome::Marked => made(None, true),
        _ => Err(unasked()),
    }
}

/// The log's answer does not fit the question: a defect.
pub fn unasked() -> Problem {
    Problem::new(
        Kind::Fault,
        "the log answered with something that no caller asks for",
    )
}

/// `If-Match`: the version a change is based on. `*` is any. A tag that was never given out
/// matches nothing.
pub fn if_match(headers: &HeaderMap) -> Result<IfMatch, Problem> {
    let mut values = headers.get_all(header::IF_MATCH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if values.next().is_some() || text.contains(',') {
        return Err(Problem::malformed("If-Match: give one entity tag, or *"));
    }
    if text == "*" {
        return Ok(None);
    }
    Ok(Some(
        Task::parse_etag(text).unwrap_or((Seq(u64::MAX), u32::MAX)),
    ))
}

/// A JSON answer.
pub fn json(value: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_tags_are_read() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, text.parse().unwrap());
            if_match(&headers)
        };
        assert_eq!(if_match(&HeaderMap::new()).unwrap(), None);
        assert_eq!(read("*").unwrap(), None);
        assert_eq!(read("\"7-2\"").unwrap(), Some((Seq(7), 2)));
        assert_eq!(read("W/\"7-2\"").unwrap(), Some((Seq(u64::MAX), u32::MAX)));
        assert_eq!(read("\"1-1\", \"1-2\"").unwrap_err().status().as_u16(), 400);
    }
}
