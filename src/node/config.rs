//! From settings to what a node is told at its start.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use super::Config;
use super::settings::{Engine, Keep, Settings, Timing};
use crate::api::AccessRotation;
use crate::executor::{Guard, Handlers, Rule};
use crate::log::EngineKind;
use crate::raft::{self, Cadence, Origin, Retention, ScrubPace, Watch, Watermark};

impl Config {
    /// Turns checked settings into a node's start.
    ///
    /// # Errors
    /// Names the setting that cannot be used.
    pub fn new(settings: &Settings) -> Result<Config, String> {
        let id = settings
            .node
            .id
            .ok_or("node.id: say which node this is, with --id N")?;
        let dir = settings.node.dir.clone();
        let origin = match (&settings.cluster.join, settings.cluster.nodes.is_empty()) {
            (Some(address), _) => Origin::Join(address.clone()),
            (None, false) => Origin::Listed(settings.cluster.nodes.clone()),
            (None, true) => Origin::Alone,
        };
        Ok(Config {
            id,
            dir: dir.ok_or("node.dir: say where the data lives, with --dir DIR")?,
            http: address("http", &settings.http)?,
            peer: address("peer", &settings.peer)?,
            http_advertised: Some(settings.http.clone()).filter(|text| !text.ends_with(":0")),
            peer_advertised: settings.cluster.nodes.get(&id).cloned(),
            origin,
            engine: match settings.log.engine {
                Engine::Redb => EngineKind::Redb,
                Engine::Sled => EngineKind::Sled,
            },
            timing: match settings.raft.timing {
                Timing::Steady => raft::Timing::Steady,
                Timing::Fast => raft::Timing::Fast,
            },
            labels: settings.node.labels.clone(),
            retention: Retention {
                finished: settings.retention.done,
                dead: settings.retention.dead,
                marks: settings.retention.done,
                failures_only: settings.retention.keep == Keep::Failures,
                period: settings.retention.period,
                history: settings.history.retention,
                history_bytes: settings.history.max_bytes,
            },
            cadence: Cadence {
                entries: settings.raft.snapshot_entries,
                tasks: settings.store.checkpoint_tasks,
                bytes: settings.store.checkpoint_bytes,
                age: settings.store.checkpoint_age,
                window: settings.store.window,
                window_bytes: settings.store.window_bytes,
                kept: settings.raft.kept_entries,
                kept_bytes: settings.raft.kept_bytes,
                load_period: settings.store.load_period,
            },
            scrub: ScrubPace {
                every: settings.scrub.every,
                bytes_per_second: settings.scrub.bytes_per_second,
            },
            watch: Watch {
                period: settings.watchdog.period,
                after: settings.watchdog.after,
            },
            node_timeout: settings.node.timeout.std(),
            secret: settings
                .cluster
                .secret
                .as_ref()
                .map(|secret| secret.0.clone()),
            tls: settings.cluster.tls.files()?,
            api: settings.api_settings(),
            limits: settings.serve_limits(),
            guard: guard(settings)?,
            per_target: settings.callbacks.per_target as usize,
            total: settings.callbacks.total as usize,
            placement: settings.placement.placement()?,
            placement_threshold: settings.placement.threshold,
            call_bytes: usize::try_from(settings.callbacks.max_bytes).unwrap_or(usize::MAX),
            breaker: settings.callbacks.breaker.settings(),
            app_rate: settings.limits.app_submits_per_second,
            level: settings.cluster.level()?,
            disk: Watermark::parse(&settings.disk.refuse_below)
                .map_err(|e| format!("disk.refuse_below: {e}"))?,
            access_log: access_log(settings),
            handlers: Handlers::default(),
        })
    }
}

/// Beside the data, unless another place is named; nowhere when it is `off`.
fn access_log(settings: &Settings) -> Option<(PathBuf, usize, AccessRotation)> {
    let log = &settings.access_log;
    let dir = match &log.dir {
        Some(dir) if dir.as_os_str() == "off" => return None,
        Some(dir) => dir.clone(),
        None => settings.node.dir.as_ref()?.join("access"),
    };
    Some((dir, log.keep_days as usize, log.rotation))
}

/// A node that only this machine can reach may call anything; others deny what is private.
fn guard(settings: &Settings) -> Result<Guard, String> {
    let rules = |key: &str, texts: &[String]| -> Result<Vec<Rule>, String> {
        texts
            .iter()
            .map(|text| Rule::parse(text).map_err(|e| format!("{key}: {e}")))
            .collect()
    };
    Ok(Guard {
        allow: rules("callbacks.allow", &settings.callbacks.allow)?,
        deny: rules("callbacks.deny", &settings.callbacks.deny)?,
        open: settings.is_loopback()?,
    })
}

fn address(key: &str, text: &str) -> Result<SocketAddr, String> {
    let wrong = |why: String| format!("{key}: {text:?} is no address to listen on: {why}");
    let mut found = text.to_socket_addrs().map_err(|e| wrong(e.to_string()))?;
    found.next().ok_or_else(|| wrong("it names nothing".into()))
}
