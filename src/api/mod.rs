//! The HTTP API: `/v1`, the old paths, health, metrics.
//!
//! A request passes these stations; each has its file:
//!
//! ```text
//! serve (accept, time-outs) ─► access log ─► auth ─► route ─► body, params (400, 413, 415, 422)
//!    ─► dto ─► model event ─► Cluster::decide ─► problem | view
//! ```
//!
//! Handlers are thin: what can be wrong with a request is found before the cluster is asked, by
//! pure functions with tests of their own. `old` speaks the old paths' envelope over the same
//! events, `batch` streams, `explain` turns a task's rows into sentences.

mod access;
mod actions;
mod apps;
mod audit;
mod auth;
mod batch;
mod batch_lines;
mod body;
mod bulk;
mod check;
mod cluster;
mod dto;
mod explain;
mod explain_words;
mod fires;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod health;
mod history;
mod idle;
mod lifecycle;
mod list;
mod members;
pub mod metrics;
mod old;
mod old_fields;
mod old_shards;
mod openapi;
mod params;
mod patch;
mod problem;
mod routes;
mod schedule_dto;
mod schedules;
mod schema;
pub mod serve;
mod settings;
mod shards;
mod targets;
mod tasks;
mod view;
mod write;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use prometheus_client::registry::Registry;

pub use access::{AccessLog, AccessRotation};
pub use auth::{Credential, is_loopback};
pub use explain::explain;
pub use history::events_told;
pub use list::to_cursor;
pub use old_fields::{Compat, CompatStatus};
pub use problem::{Kind, Problem};
pub use routes::router;
pub use settings::ApiSettings;

#[cfg(any(test, fuzzing))]
pub(crate) use fuzz::read_anything;

use crate::executor::TargetView;
use crate::model::{Clock, Http};
use crate::raft::Cluster;

/// Says whether a target may be called, or names the setting that forbids it.
pub type CheckTarget = Arc<dyn Fn(&Http) -> Result<(), String> + Send + Sync>;
/// Makes a fresh task id.
pub type NewId = Arc<dyn Fn() -> String + Send + Sync>;

/// The targets as the executor sees them.
pub type SeeTargets = Arc<dyn Fn() -> Vec<TargetView> + Send + Sync>;

/// What the handlers share.
pub struct Api {
    /// Empty until this node is part of a cluster: the process answers `/livez` before that.
    pub cluster: Arc<OnceLock<Cluster>>,
    pub clock: Arc<dyn Clock>,
    pub settings: ApiSettings,
    pub metrics: Arc<Registry>,
    pub check_target: CheckTarget,
    pub new_id: NewId,
    pub targets: SeeTargets,
    /// None: no access log is kept.
    pub access: Option<AccessLog>,
}

impl Api {
    /// The cluster, or 503 while there is none.
    fn cluster(&self) -> Result<&Cluster, Problem> {
        self.cluster.get().ok_or_else(|| Problem {
            retry_after: Some(1),
            ..Problem::new(Kind::Starting, "this node has not joined its cluster yet")
        })
    }
}
