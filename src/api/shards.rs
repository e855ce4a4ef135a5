//! Named shard sets: views that cut the same tasks into parts, for consumers that share them out among
//! themselves.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

use super::auth::Principal;
use super::list::{from_cursor, to_cursor};
use super::params::Params;
use super::problem::{INDEX_HEADER, Kind, Problem, ProblemView};
use super::view::TaskView;
use super::write::json;
use super::{Api, body};
use crate::model::limits::{
    PAGE_DEFAULT, PAGE_MAX, SHARD_FILL_WINDOW, SHARD_SET_TOTAL_MAX, SPAN_MAX,
};
use crate::model::{
    By, Event, Fill, FillSets, Key, MakeSet, Outcome, PopShard, Refusal, Shard, ShardSet, Span,
    Task, Time,
};
use crate::raft::{Busy, Class};
use crate::state::Filter;

/// Pages of the list of all tasks that one answer goes through at most; then it ends early and says
/// where it goes on.
const PAGES_MAX: usize = 32;

/// A set as it is now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ShardSet)]
pub struct SetView {
    name: String,
    /// How many shards the tasks are cut into, from the next fill on.
    total: u16,
    fill: Option<FillView>,
    /// The shard of the task that was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u16>,
}

/// The last fill.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ShardFill)]
struct FillView {
    /// Its position in the log.
    index: u64,
    /// How many shards this fill hands out.
    total: u16,
    /// It has the tasks that are due up to here.
    until: Time,
    /// The next shard to be handed out; `total`: all have been.
    next: u16,
}

/// All sets, the default one first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ShardSets)]
pub struct SetsView {
    sets: Vec<SetView>,
}

/// How many shards a set is to have.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSet {
    /// 1–4,096.
    #[schema(example = 12)]
    total: u16,
}

/// How far a fill reaches.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NewFill {
    /// What is due within this time; 2 min by default.
    window: Option<Span>,
}

/// A shard that was handed out, with its tasks.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PoppedShard)]
pub struct PoppedView {
    set: String,
    total: u16,
    /// Null: all shards of this fill have been handed out.
    shard: Option<u16>,
    tasks: Vec<TaskView>,
    /// More of this shard: pass it as `cursor`, with the shard.
    next: Option<String>,
}

impl From<&ShardSet> for SetView {
    fn from(set: &ShardSet) -> SetView {
        let fill = |fill: Fill| FillView {
            index: fill.index,
            total: fill.total,
            until: fill.until,
            next: fill.next,
        };
        SetView {
            name: set.name.to_string(),
            total: set.total,
            fill: set.fill.map(fill),
            shard: None,
        }
    }
}

/// What one pop gave.
pub(super) struct Popped {
    pub index: u64,
    pub fill: Fill,
    pub shard: Option<u16>,
    pub tasks: Vec<Task>,
    pub next: Option<Key>,
}

/// What to pop.
pub(super) struct Wanted {
    pub name: String,
    /// The next one that has not been handed out, without it.
    pub shard: Option<u16>,
    pub limit: usize,
    pub after: Option<Key>,
}

impl Wanted {
    /// Reads `shard`, `limit` and `cursor`.
    pub fn read(name: String, params: &Params) -> Result<Wanted, Problem> {
        let most = usize::from(SHARD_SET_TOTAL_MAX);
        let wanted = Wanted {
            name,
            shard: params.number("shard", 0, most)?.map(|shard| shard as u16),
            limit: params.number("limit", 1, PAGE_MAX)?.unwrap_or(PAGE_DEFAULT),
            after: params.get("cursor").map(from_cursor).transpose()?,
        };
        match wanted.after.is_some() && wanted.shard.is_none() {
            true => Err(Problem::invalid(
                "`cursor` goes on within a shard: give `shard`, too",
            )),
            false => Ok(wanted),
        }
    }
}

impl Api {
    /// Makes a set, changes its number of shards, or removes it.
    pub(super) async fn make_set(
        &self,
        name: &str,
        total: Option<u16>,
        by: By,
    ) -> Result<(u64, ShardSet), Problem> {
        ShardSet::check(name, total.unwrap_or(1)).map_err(Problem::invalid)?;
        let name = name.into();
        match self.set_event(MakeSet { name, total, by }).await? {
            (index, Outcome::Set { set, .. }) => Ok((index, *set)),
            _ => Err(strange()),
        }
    }

    /// Fills a set, or all; gives the log index and how many were filled.
    pub(super) async fn fill_sets(
        &self,
        name: Option<&str>,
        window: Option<Span>,
        by: By,
    ) -> Result<(u64, u32), Problem> {
        name.map_or(Ok(()), ShardSet::check_name)
            .map_err(Problem::invalid)?;
        let window = window.unwrap_or(SHARD_FILL_WINDOW);
        if window > SPAN_MAX {
            return Err(Problem::invalid(format!(
                "`window`: {window} is longer than {SPAN_MAX}"
            )));
        }
        let name = name.map(Into::into);
        match self.set_event(FillSets { name, window, by }).await? {
            (index, Outcome::Counted { count, .. }) => Ok((index, count)),
            _ => Err(strange()),
        }
    }

    /// Hands out a shard with its tasks, as they are now: those that are due in the fill's window and
    /// neither done, nor dead, nor cancelled.
    pub(super) async fn pop_shard(&self, wanted: Wanted, by: By) -> Result<Popped, Problem> {
        ShardSet::check_name(&wanted.name).map_err(Problem::invalid)?;
        let (index, fill, shard) = match wanted.shard {
            Some(shard) => {
                let fill = self.filled(&wanted.name).await?;
                if shard >= fill.total {
                    let why = format!(
                        "`shard`: {shard} is not below {}, the set's total",
                        fill.total
                    );
                    return Err(Problem::invalid(why));
                }
                (0, fill, Some(shard))
            }
            None => {
                let name = wanted.name.as_str().into();
                match self.set_event(PopShard { name, by }).await? {
                    (index, Outcome::Set { set, popped }) => {
                        (index, set.fill.ok_or_else(strange)?, popped)
                    }
                    _ => return Err(strange()),
                }
            }
        };
        let (mut tasks, mut next) = (Vec::new(), wanted.after);
        if let Some(shard) = shard {
            let filter = Filter {
                part: Some((Shard(shard), fill.total)),
                open: true,
                due_to: Some(fill.until.plus(Span(1))),
                ..Filter::default()
            };
            let cluster = self.reading(false).await?;
            for _ in 0..PAGES_MAX {
                let room = wanted.limit - tasks.len();
                let page = cluster.list(&filter, next.as_ref(), room)?;
                tasks.extend(page.tasks);
                next = page.next;
                if next.is_none() || tasks.len() == wanted.limit {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        Ok(Popped {
            index,
            fill,
            shard,
            tasks,
            next,
        })
    }

    async fn filled(&self, name: &str) -> Result<Fill, Problem> {
        let cluster = self.reading(false).await?;
        let (index, set) = cluster
            .state()
            .read(|state| (state.applied(), state.set(name)));
        let refused = |refusal| Problem::refused(&refusal, index);
        let set = set.ok_or_else(|| refused(Refusal::NoSet))?;
        set.fill.ok_or_else(|| refused(Refusal::NotFilled))
    }

    async fn set_event(&self, event: impl Into<Event>) -> Result<(u64, Outcome), Problem> {
        let mut answers = self
            .cluster()?
            .decide(Class::Submit, vec![event.into()])
            .await;
        let decided = answers.pop().unwrap_or(Err(Busy::Unknown))?;
        match decided.outcome {
            Outcome::Refused(refusal) => Err(Problem::refused(&refusal, decided.index)),
            outcome => Ok((decided.index, outcome)),
        }
    }
}

fn strange() -> Problem {
    Problem::new(
        Kind::Fault,
        "the log answered with something else than was asked",
    )
}

fn at_index(index: u64, mut response: Response) -> Response {
    if index != 0 {
        response.headers_mut().insert(INDEX_HEADER, index.into());
    }
    response
}

/// Every shard set.
#[utoipa::path(get, path = "/v1/shards", tag = "shards",
    responses((status = 200, body = SetsView), (status = 503, body = ProblemView)))]
pub async fn sets(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let cluster = api.reading(false).await?;
    let sets = cluster.state().read(|state| state.sets());
    let sets = sets.iter().map(SetView::from).collect();
    Ok(json(&SetsView { sets }))
}

/// One set, and which of its shards a task falls into: the stable hash of (app, id) modulo `total`.
#[utoipa::path(get, path = "/v1/shards/{name}", tag = "shards", params(
    ("name" = String, Path),
    ("app" = Option<String>, Query, description = "with `id`: a task, which need not exist"),
    ("id" = Option<String>, Query),
), responses((status = 200, body = SetView), (status = 404, body = ProblemView)))]
pub async fn set(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let params = Params::read(&uri, &["app", "id"])?;
    ShardSet::check_name(&name).map_err(Problem::invalid)?;
    let key = match (params.get("app"), params.get("id")) {
        (Some(app), Some(id)) => Some(Key::new(app, id)?),
        (None, None) => None,
        _ => {
            return Err(Problem::invalid(
                "a task has an `app` and an `id`: give both",
            ));
        }
    };
    let cluster = api.reading(false).await?;
    let (index, set) = cluster
        .state()
        .read(|state| (state.applied(), state.set(&name)));
    let set = set.ok_or_else(|| Problem::refused(&Refusal::NoSet, index))?;
    Ok(json(&SetView {
        shard: key.map(|key| set.hit(key.hash()).0),
        ..SetView::from(&set)
    }))
}

/// Makes a set, or gives it another number of shards, from its next fill on. That of `default` is
/// fixed: it places work.
#[utoipa::path(put, path = "/v1/shards/{name}", tag = "shards", request_body = NewSet,
    params(("name" = String, Path)),
    responses((status = 200, body = SetView),
        (status = 409, description = "It is `default`, or there are too many", body = ProblemView),
        (status = 422, body = ProblemView)))]
pub async fn make(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    Path(name): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let NewSet { total } = body::json(&headers, body).await?;
    let (index, set) = api.make_set(&name, Some(total), by).await?;
    Ok(at_index(index, json(&SetView::from(&set))))
}

/// Removes a set; its tasks are what they were.
#[utoipa::path(delete, path = "/v1/shards/{name}", tag = "shards", params(("name" = String, Path)),
    responses((status = 200, description = "As it was", body = SetView),
        (status = 404, body = ProblemView), (status = 409, body = ProblemView)))]
pub async fn remove(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let (index, set) = api.make_set(&name, None, by).await?;
    Ok(at_index(index, json(&SetView::from(&set))))
}

/// Makes the tasks of the coming time available: every shard of the set is handed out anew.
#[utoipa::path(post, path = "/v1/shards/{name}/fill", tag = "shards",
    params(("name" = String, Path)), request_body(content = Option<NewFill>),
    responses((status = 200, body = SetView), (status = 404, body = ProblemView)))]
pub async fn fill(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    Path(name): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::read(&uri, &[])?;
    let NewFill { window } = body::json_or_default(&headers, body).await?;
    let (index, _) = api.fill_sets(Some(&name), window, by).await?;
    let cluster = api.reading(false).await?;
    let set = cluster.state().read(|state| state.set(&name));
    let set = set.ok_or_else(|| Problem::refused(&Refusal::NoSet, index))?;
    Ok(at_index(index, json(&SetView::from(&set))))
}

/// Hands out the next shard of the last fill, or shows a certain one, with its tasks.
#[utoipa::path(post, path = "/v1/shards/{name}/pop", tag = "shards", params(
    ("name" = String, Path),
    ("shard" = Option<u16>, Query, description = "this one, whether it was handed out or not"),
    ("limit" = Option<u32>, Query, description = "1–1,000; 100 by default"),
    ("cursor" = Option<String>, Query, description = "`next` of the answer before"),
), responses((status = 200, body = PoppedView), (status = 404, body = ProblemView),
    (status = 409, description = "It was never filled", body = ProblemView),
    (status = 504, description = "A shard may have been handed out: `fill.next` of the set tells, and \
        it can be asked for by its number", body = ProblemView)))]
pub async fn pop(
    State(api): State<Arc<Api>>,
    Extension(Principal(by)): Extension<Principal>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let params = Params::read(&uri, &["shard", "limit", "cursor"])?;
    let popped = api
        .pop_shard(Wanted::read(name.clone(), &params)?, by)
        .await?;
    let shards = api.cluster()?.state().read(|state| state.shard_total());
    let tasks = popped.tasks.iter().map(|task| TaskView::new(task, shards));
    let view = PoppedView {
        set: name,
        total: popped.fill.total,
        shard: popped.shard,
        tasks: tasks.collect::<Result<_, _>>()?,
        next: popped.next.as_ref().map(to_cursor),
    };
    Ok(at_index(popped.index, json(&view)))
}
