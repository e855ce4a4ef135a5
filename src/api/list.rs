//! Lists and counts.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

use super::Api;
use super::params::Params;
use super::problem::{Problem, ProblemView};
use super::tasks::label;
use super::view::{TaskPage, TaskView};
use super::write::json;
use crate::model::limits::{LABEL_BYTES_MAX, LABELS_MAX, PAGE_DEFAULT, PAGE_MAX};
use crate::model::{Key, Stage};
use crate::state::Filter;

const FILTERS: [&str; 8] = [
    "app", "stage", "label.", "due_from", "due_to", "limit", "cursor", "read",
];

/// How many tasks are in which stage.
#[derive(Debug, Serialize, ToSchema)]
pub struct Stats {
    /// The log index at which the counts are exact.
    index: u64,
    tasks: BTreeMap<&'static str, u64>,
}

/// A page of tasks in (app, id) order.
#[utoipa::path(get, path = "/v1/tasks", tag = "tasks", params(
    ("app" = Option<String>, Query), ("stage" = Option<String>, Query),
    ("label.KEY" = Option<String>, Query, description = "only tasks whose label KEY has this value"),
    ("due_from" = Option<String>, Query, description = "inclusive"),
    ("due_to" = Option<String>, Query, description = "exclusive"),
    ("limit" = Option<u32>, Query, description = "1–1,000; 100 by default"),
    ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ("read" = Option<String>, Query),
), responses((status = 200, body = TaskPage), (status = 422, body = ProblemView)))]
pub async fn list(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    let params = Params::read(&uri, &FILTERS)?;
    let filter = filter(&params)?;
    let limit = params.number("limit", 1, PAGE_MAX)?.unwrap_or(PAGE_DEFAULT);
    let after = params.get("cursor").map(from_cursor).transpose()?;
    let local = params.local_read()?;
    let cluster = api.reading(local).await?;
    let page = cluster.list(&filter, after.as_ref(), limit)?;
    let shards = cluster.read(|state| Ok(state.shard_total()))?;
    let tasks: Result<_, _> = page
        .tasks
        .iter()
        .map(|task| TaskView::new(task, shards))
        .collect();
    let page = TaskPage {
        tasks: tasks?,
        next: page.next.as_ref().map(to_cursor),
    };
    Ok(label(json(&page), local))
}

/// Tasks per stage, of one application or of all.
#[utoipa::path(get, path = "/v1/stats", tag = "tasks", params(
    ("app" = Option<String>, Query), ("read" = Option<String>, Query),
), responses((status = 200, body = Stats), (status = 422, body = ProblemView)))]
pub async fn stats(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    let params = Params::read(&uri, &["app", "read"])?;
    let app = app(&params)?;
    let local = params.local_read()?;
    let cluster = api.reading(local).await?;
    let (index, counts) = cluster
        .state()
        .read(|state| (state.applied(), state.stats(app)));
    let names = Stage::ALL.iter().map(|stage| stage.name());
    let tasks = names.zip(counts).collect();
    Ok(label(json(&Stats { index, tasks }), local))
}

fn app(params: &Params) -> Result<Option<&str>, Problem> {
    if let Some(app) = params.get("app") {
        Key::new(app, "any")?;
    }
    Ok(params.get("app"))
}

fn filter(params: &Params) -> Result<Filter, Problem> {
    let labels = params
        .with_prefix("label.")
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    Ok(Filter {
        app: app(params)?.map(str::to_owned),
        stage: params.get("stage").map(stage).transpose()?,
        labels: checked_labels(labels)?,
        due_from: params.time("due_from")?,
        due_to: params.time("due_to")?,
    })
}

/// A stage by its name.
pub fn stage(name: &str) -> Result<Stage, Problem> {
    Stage::parse(name).ok_or_else(|| {
        let names: Vec<_> = Stage::ALL.iter().map(|stage| stage.name()).collect();
        Problem::invalid(format!("`stage`: {name:?} is none of {}", names.join(", ")))
    })
}

/// Labels that a task can have.
pub fn checked_labels(labels: Vec<(String, String)>) -> Result<Vec<(String, String)>, Problem> {
    let fits = |text: &str| text.len() <= LABEL_BYTES_MAX;
    let bad = |(k, v): &(String, String)| k.is_empty() || !fits(k) || !fits(v);
    match labels.len() > LABELS_MAX || labels.iter().any(bad) {
        true => Err(Problem::invalid("no task has such labels")),
        false => Ok(labels),
    }
}

/// A key has no slash in either part, so that one separates them.
pub fn to_cursor(key: &Key) -> String {
    URL_SAFE_NO_PAD.encode(key.to_string())
}

pub fn from_cursor(text: &str) -> Result<Key, Problem> {
    let wrong = || Problem::invalid("`cursor`: pass `next` of the page before, as it is");
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let (app, id) = text.split_once('/').ok_or_else(wrong)?;
    Key::new(app, id).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Time;

    fn read(query: &str) -> Result<Filter, Problem> {
        filter(&Params::read(
            &format!("/?{query}").parse().unwrap(),
            &FILTERS,
        )?)
    }

    #[test]
    fn filters_are_read() {
        let filter = read("app=shop&stage=dead&label.order=17&due_from=5&due_to=9").unwrap();
        assert_eq!(filter.app.as_deref(), Some("shop"));
        assert_eq!(filter.stage, Some(Stage::Dead));
        assert_eq!(filter.labels, [("order".into(), "17".into())]);
        assert_eq!(
            (filter.due_from, filter.due_to),
            (Some(Time(5)), Some(Time(9)))
        );
        for bad in ["stage=asleep", "app=%20", "label.=x", "due_to=later"] {
            assert_eq!(read(bad).unwrap_err().status().as_u16(), 422, "{bad}");
        }
    }

    #[test]
    fn cursors_come_back() {
        let key = Key::new("shop", "order:17~x").unwrap();
        assert_eq!(from_cursor(&to_cursor(&key)).unwrap(), key);
        for bad in ["", "!", "AAAA", "c2hvcA"] {
            assert_eq!(
                from_cursor(bad).unwrap_err().status().as_u16(),
                422,
                "{bad}"
            );
        }
    }
}
