//! The old paths of shard sets, in the old envelope.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa::ToSchema;

use super::auth::Principal;
use super::list::to_cursor;
use super::old::Envelope;
use super::params::Params;
use super::problem::Problem;
use super::shards::Wanted;
use super::{Api, body};
use crate::model::{ShardSet, Task};

/// A set to be made, or to get another number of shards.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OldSet {
    /// Its name.
    #[schema(example = "orders")]
    k: String,
    total: u16,
}

/// The set to be filled; all without a name.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OldFill {
    id: Option<String>,
}

/// Makes a shard set, or gives it another number of shards.
#[utoipa::path(post, path = "/shard/create", tag = "old paths", request_body = OldSet,
    responses((status = 200, body = Envelope), (status = "4XX", body = Envelope)))]
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let bytes = body::checked(&headers, body).await?;
    let OldSet { k, total } = api.settings.compat.parse(&bytes)?;
    let (index, set) = api.make_set(&k, Some(total), by).await?;
    let data = vec![("k", k.into()), ("total", set.total.into())];
    Ok(api.envelope(index, data))
}

/// Makes the tasks of the coming time available in one set, or in all.
#[utoipa::path(post, path = "/shard/fill", tag = "old paths", request_body = OldFill,
    responses((status = 200, body = Envelope), (status = "4XX", body = Envelope)))]
pub async fn fill(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let bytes = body::checked(&headers, body).await?;
    let OldFill { id } = match bytes.is_empty() {
        true => OldFill::default(),
        false => api.settings.compat.parse(&bytes)?,
    };
    let (index, _) = api.fill_sets(id.as_deref(), None, by).await?;
    Ok(api.envelope(index, Vec::new()))
}

/// The tasks of one shard: of the next one that was not handed out since the last fill, or of a
/// certain one.
#[utoipa::path(get, path = "/shard/pop", tag = "old paths", params(
    ("id" = Option<String>, Query, description = "the set; `default` without it"),
    ("shard" = Option<u16>, Query),
    ("limit" = Option<u32>, Query, description = "1–1,000; 100 by default"),
    ("cursor" = Option<String>, Query, description = "`next` of the answer before, with `shard`"),
), responses((status = 200, body = Envelope), (status = "4XX", body = Envelope)))]
pub async fn pop(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    uri: Uri,
) -> Result<Response, Problem> {
    let params = Params::read(&uri, &["id", "shard", "limit", "cursor"])?;
    let name = params.get("id").unwrap_or(ShardSet::DEFAULT).to_owned();
    let popped = api.pop_shard(Wanted::read(name, &params)?, by).await?;
    let current = popped.shard.map_or(Value::Null, Value::from);
    let shard = [("total", popped.fill.total.into()), ("current", current)];
    let tasks = popped.tasks.iter().map(|task| api.old_shard_task(task));
    let next = popped.next.as_ref().map(to_cursor);
    let data = vec![
        ("shard", api.renamed(shard)),
        ("tasks", tasks.collect()),
        ("next", next.map_or(Value::Null, Value::from)),
    ];
    Ok(api.envelope(popped.index, data))
}

impl Api {
    fn renamed<const N: usize>(&self, members: [(&'static str, Value); N]) -> Value {
        let named = |(name, value): (&'static str, Value)| {
            (self.settings.compat.name(name).to_owned(), value)
        };
        Value::Object(members.into_iter().map(named).collect::<Map<_, _>>())
    }

    fn old_shard_task(&self, task: &Task) -> Value {
        let (number, name) = self.settings.compat.stage(task.stage);
        self.renamed([
            ("appId", task.key.app.to_string().into()),
            ("uuid", task.key.id.to_string().into()),
            ("expireTime", task.due.0.into()),
            ("stage", number.into()),
            ("stageName", name.into()),
        ])
    }
}
