//! Every setting of a node: one struct, from which the file, the environment, the flags and the
//! documentation follow.
//!
//! A TOML file is overridden by the environment, and that by flags (`settings_load`). The keys,
//! their kinds and their descriptions stand in `settings_keys`; tests hold the two together. Those of
//! what holds work back have a file of their own (`settings_pressure`).

use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

pub use super::settings_pressure::{Breaker, Callbacks, Disk, Limits};
use crate::api::{AccessRotation, ApiSettings, Compat, Credential, is_loopback, serve};
use crate::model::limits::{LABEL_BYTES_MAX, LABELS_MAX};
use crate::model::{Level, NodeId, Placement, Span};
use crate::raft::{Cadence, SCRUB_BYTES_PER_SECOND_MIN, ScrubPace, TlsFiles, Watch, Watermark};

/// The settings of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub http: String,
    pub peer: String,
    pub node: Node,
    pub cluster: Cluster,
    pub api: Api,
    pub raft: Raft,
    pub log: Log,
    pub store: Store,
    pub scrub: Scrub,
    pub disk: Disk,
    pub callbacks: Callbacks,
    pub placement: PlacementSettings,
    pub retention: Retention,
    pub history: History,
    pub watchdog: Watchdog,
    pub compat: Compat,
    pub access_log: AccessLog,
    pub telemetry: Telemetry,
    pub limits: Limits,
}

/// A secret that shows in no log and no error.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Hidden {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    pub id: Option<NodeId>,
    pub dir: Option<PathBuf>,
    pub labels: BTreeMap<String, String>,
    pub timeout: Span,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    pub secret: Option<Hidden>,
    pub secret_file: Option<PathBuf>,
    #[serde(deserialize_with = "numbered")]
    pub nodes: BTreeMap<NodeId, String>,
    pub join: Option<String>,
    pub tls: ClusterTls,
    /// 0: that of the version.
    pub feature_level: u16,
}

impl Cluster {
    /// The feature level that this node says it knows.
    ///
    /// # Errors
    /// This version does not know the one that is set.
    pub fn level(&self) -> Result<Level, String> {
        match Level(self.feature_level) {
            Level(0) => Ok(Level::NEWEST),
            level if level <= Level::NEWEST => Ok(level),
            level => Err(format!(
                "cluster.feature_level: {level} is more than this version knows, which is {}; take \
                 that, or leave it out",
                Level::NEWEST
            )),
        }
    }
}

/// The certificates with which nodes show each other who they are; all three or none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterTls {
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

impl ClusterTls {
    /// The files, if they are set.
    ///
    /// # Errors
    /// Names what is missing when only a part is.
    pub fn files(&self) -> Result<Option<TlsFiles>, String> {
        match (&self.ca, &self.cert, &self.key) {
            (None, None, None) => Ok(None),
            (Some(ca), Some(cert), Some(key)) => Ok(Some(TlsFiles {
                ca: ca.clone(),
                cert: cert.clone(),
                key: key.clone(),
            })),
            (ca, cert, key) => {
                let all = [("ca", ca), ("cert", cert), ("key", key)];
                let missing: Vec<String> = all
                    .iter()
                    .filter(|(_, path)| path.is_none())
                    .map(|(name, _)| format!("cluster.tls.{name}"))
                    .collect();
                Err(format!(
                    "{}: must be set as well: TLS between nodes takes cluster.tls.ca, \
                     cluster.tls.cert and cluster.tls.key",
                    missing.join(" and ")
                ))
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    pub token: Option<Hidden>,
    pub token_file: Option<PathBuf>,
    pub wait_max: Span,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raft {
    pub timing: Timing,
    pub snapshot_entries: u64,
    pub kept_entries: u64,
    pub kept_bytes: u64,
}

/// How soon the loss of a leader is noticed, against how much jitter is endured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Timing {
    #[default]
    Steady,
    Fast,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub engine: Engine,
}

/// The embedded store that holds the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    #[default]
    Redb,
    Sled,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    pub checkpoint_tasks: u64,
    pub checkpoint_bytes: u64,
    pub checkpoint_age: Span,
    pub window: Span,
    pub window_bytes: u64,
    pub load_period: Span,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scrub {
    pub every: Span,
    pub bytes_per_second: u64,
}

/// On which node attempts are carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlacementSettings {
    pub default: String,
    pub threshold: f64,
}

impl PlacementSettings {
    /// What applies to tasks that say nothing.
    ///
    /// # Errors
    /// Says what to write.
    pub fn placement(&self) -> Result<Placement, String> {
        let placement = self.default.parse();
        placement.map_err(|e| format!("placement.default: {e}"))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    pub done: Span,
    pub dead: Span,
    pub keep: Keep,
    pub period: Span,
}

/// Which finished tasks are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    #[default]
    All,
    Failures,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Watchdog {
    pub period: Span,
    pub after: Span,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    pub retention: Span,
    pub max_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLog {
    pub dir: Option<PathBuf>,
    pub keep_days: u32,
    pub rotation: AccessRotation,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    pub format: Format,
    pub filter: String,
}

/// How the log for people (on standard error) is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Text,
    Json,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            http: "127.0.0.1:7400".into(),
            peer: "127.0.0.1:7500".into(),
            node: Node::default(),
            cluster: Cluster::default(),
            api: Api::default(),
            raft: Raft::default(),
            log: Log::default(),
            store: Store::default(),
            scrub: Scrub::default(),
            disk: Disk::default(),
            callbacks: Callbacks::default(),
            placement: PlacementSettings::default(),
            retention: Retention::default(),
            history: History::default(),
            watchdog: Watchdog::default(),
            compat: Compat::default(),
            access_log: AccessLog::default(),
            telemetry: Telemetry::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Node {
    fn default() -> Node {
        Node {
            id: None,
            dir: None,
            labels: BTreeMap::new(),
            timeout: Span::seconds(30),
        }
    }
}

impl Default for Api {
    fn default() -> Api {
        Api {
            token: None,
            token_file: None,
            wait_max: Span::minutes(1),
        }
    }
}

impl Default for Raft {
    fn default() -> Raft {
        let cadence = Cadence::default();
        Raft {
            timing: Timing::default(),
            snapshot_entries: cadence.entries,
            kept_entries: cadence.kept,
            kept_bytes: cadence.kept_bytes,
        }
    }
}

impl Default for Store {
    fn default() -> Store {
        let cadence = Cadence::default();
        Store {
            checkpoint_tasks: cadence.tasks,
            checkpoint_bytes: cadence.bytes,
            checkpoint_age: cadence.age,
            window: cadence.window,
            window_bytes: cadence.window_bytes,
            load_period: cadence.load_period,
        }
    }
}

impl Default for Scrub {
    fn default() -> Scrub {
        let pace = ScrubPace::default();
        Scrub {
            every: pace.every,
            bytes_per_second: pace.bytes_per_second,
        }
    }
}

impl Default for PlacementSettings {
    fn default() -> PlacementSettings {
        PlacementSettings {
            default: Placement::Owner.to_string(),
            threshold: 0.8,
        }
    }
}

impl Default for Retention {
    fn default() -> Retention {
        Retention {
            done: Span::days(7),
            dead: Span::days(30),
            keep: Keep::default(),
            period: Span::seconds(5),
        }
    }
}

impl Default for History {
    fn default() -> History {
        History {
            retention: Span::days(7),
            max_bytes: 1 << 30,
        }
    }
}

impl Default for Watchdog {
    fn default() -> Watchdog {
        let Watch { period, after } = Watch::default();
        Watchdog { period, after }
    }
}

impl Default for AccessLog {
    fn default() -> AccessLog {
        AccessLog {
            dir: None,
            keep_days: 1,
            rotation: AccessRotation::default(),
        }
    }
}

impl Default for Telemetry {
    fn default() -> Telemetry {
        Telemetry {
            format: Format::Text,
            filter: "info,openraft=warn".into(),
        }
    }
}

/// TOML's keys are text; node ids are numbers.
fn numbered<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<NodeId, String>, D::Error> {
    let named = BTreeMap::<String, String>::deserialize(deserializer)?;
    let number = |(id, address): (String, String)| match id.parse() {
        Ok(0) | Err(_) => Err(serde::de::Error::custom(format!("{id:?} is not a node id"))),
        Ok(id) => Ok((id, address)),
    };
    named.into_iter().map(number).collect()
}

impl Settings {
    /// What cannot be right, with the name of the setting to change.
    pub fn check(&self) -> Result<(), String> {
        match self.node.id {
            None => return Err("node.id: say which node this is, with --id N".into()),
            Some(0) => return Err("node.id: node ids begin with 1".into()),
            Some(_) => {}
        }
        if self.node.dir.is_none() {
            return Err("node.dir: say where the data lives, with --dir DIR".into());
        }
        self.check_cluster()?;
        self.check_bounds()?;
        self.compat.check()?;
        self.check_loopback()
    }

    fn check_cluster(&self) -> Result<(), String> {
        let nodes = &self.cluster.nodes;
        if !nodes.is_empty() && self.cluster.join.is_some() {
            return Err("cluster.nodes and cluster.join: give one of them".into());
        }
        self.cluster.tls.files()?;
        self.cluster.level()?;
        match self.node.id {
            Some(id) if !nodes.is_empty() && !nodes.contains_key(&id) => {
                Err(format!("cluster.nodes: this node, {id}, is not among them"))
            }
            _ => Ok(()),
        }
    }

    fn check_bounds(&self) -> Result<(), String> {
        for (key, wrong) in [
            ("callbacks.per_target", self.callbacks.per_target == 0),
            ("callbacks.total", self.callbacks.total == 0),
            ("callbacks.max_bytes", self.callbacks.max_bytes == 0),
            (
                "callbacks.breaker.window",
                self.callbacks.breaker.window == Span::ZERO,
            ),
            (
                "callbacks.breaker.probes",
                self.callbacks.breaker.probes == 0,
            ),
            ("raft.snapshot_entries", self.raft.snapshot_entries == 0),
            ("store.checkpoint_tasks", self.store.checkpoint_tasks == 0),
            ("store.checkpoint_bytes", self.store.checkpoint_bytes == 0),
            (
                "store.checkpoint_age",
                self.store.checkpoint_age == Span::ZERO,
            ),
            ("store.load_period", self.store.load_period == Span::ZERO),
            ("retention.period", self.retention.period == Span::ZERO),
            ("watchdog.period", self.watchdog.period == Span::ZERO),
            ("node.timeout", self.node.timeout == Span::ZERO),
            ("limits.connections", self.limits.connections == 0),
            (
                "limits.head_timeout",
                self.limits.head_timeout == Span::ZERO,
            ),
            (
                "limits.body_timeout",
                self.limits.body_timeout == Span::ZERO,
            ),
        ] {
            if wrong {
                return Err(format!("{key}: must be more than 0"));
            }
        }
        self.placement.placement()?;
        if !(self.placement.threshold > 0.0 && self.placement.threshold <= 1.0) {
            return Err(
                "placement.threshold: is a share of the capacity, more than 0 and up to 1".into(),
            );
        }
        let fits = |text: &String| (1..=LABEL_BYTES_MAX).contains(&text.len());
        let labels = &self.node.labels;
        if labels.len() > LABELS_MAX || !labels.iter().all(|(n, v)| fits(n) && fits(v)) {
            return Err(format!(
                "node.labels: at most {LABELS_MAX}, names and values of 1 to {LABEL_BYTES_MAX} bytes"
            ));
        }
        if self.callbacks.breaker.percent > 100 {
            return Err("callbacks.breaker.percent: must be 100 or less; 0 turns it off".into());
        }
        Watermark::parse(&self.disk.refuse_below).map_err(|e| format!("disk.refuse_below: {e}"))?;
        if self.scrub.bytes_per_second < SCRUB_BYTES_PER_SECOND_MIN {
            return Err(format!(
                "scrub.bytes_per_second: must be {SCRUB_BYTES_PER_SECOND_MIN} or more; scrub.every = \"0s\" turns it off"
            ));
        }
        if self.limits.idle_timeout <= self.api.wait_max {
            let least = self.api.wait_max;
            return Err(format!(
                "limits.idle_timeout: must be longer than api.wait_max ({least})"
            ));
        }
        for (key, secret) in [
            ("cluster.secret", &self.cluster.secret),
            ("api.token", &self.api.token),
        ] {
            let fits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
            if secret.as_ref().is_some_and(|secret| !fits(&secret.0)) {
                return Err(format!(
                    "{key}: must be visible ASCII without spaces, and not empty"
                ));
            }
        }
        Ok(())
    }

    /// Beyond loopback nothing starts without credentials: there are no defaults to forget.
    fn check_loopback(&self) -> Result<(), String> {
        if self.is_loopback()? {
            return Ok(());
        }
        let missing: Vec<&str> = [
            ("cluster.secret", self.cluster.secret.is_none()),
            ("api.token", self.api.token.is_none()),
        ]
        .into_iter()
        .filter_map(|(key, missing)| missing.then_some(key))
        .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{}: must be set, because `http` ({}) or `peer` ({}) listens beyond loopback",
            missing.join(" and "),
            self.http,
            self.peer
        ))
    }

    /// Whether every listener can be reached only from this machine.
    pub fn is_loopback(&self) -> Result<bool, String> {
        let mut all = addresses("http", &self.http)?;
        all.extend(addresses("peer", &self.peer)?);
        Ok(all.iter().all(|address| is_loopback(address.ip())))
    }

    /// What the API needs of all this.
    pub fn api_settings(&self) -> ApiSettings {
        let credential = |hidden: &Option<Hidden>| hidden.as_ref().map(|h| Credential::new(&h.0));
        ApiSettings {
            token: credential(&self.api.token),
            secret: credential(&self.cluster.secret),
            wait_max: self.api.wait_max,
            compat: self.compat.clone(),
        }
    }

    /// What the accept loop needs of all this.
    pub fn serve_limits(&self) -> serve::Limits {
        serve::Limits {
            connections: self.limits.connections,
            head: self.limits.head_timeout.std(),
            body: self.limits.body_timeout.std(),
            idle: self.limits.idle_timeout.std(),
            grace: self.limits.shutdown_grace.std(),
        }
    }
}

fn addresses(key: &str, text: &str) -> Result<Vec<SocketAddr>, String> {
    let wrong = |why: String| format!("{key}: {text:?} is no address to listen on: {why}");
    let found: Vec<_> = text
        .to_socket_addrs()
        .map_err(|error| wrong(error.to_string()))?
        .collect();
    if found.is_empty() {
        return Err(wrong("it names nothing".into()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(http: &str, peer: &str, secret: bool, token: bool) -> Settings {
        let hidden = |set: bool| set.then(|| Hidden("s3cret".into()));
        let mut settings = Settings {
            http: http.into(),
            peer: peer.into(),
            ..Settings::default()
        };
        (settings.node.id, settings.node.dir) = (Some(1), Some("data".into()));
        (settings.cluster.secret, settings.api.token) = (hidden(secret), hidden(token));
        settings
    }

    #[test]
    fn beyond_loopback_credentials_are_needed() {
        for (http, peer, secret, token, named) in [
            ("127.0.0.1:1", "127.0.0.1:2", false, false, None),
            ("[::1]:1", "127.0.0.1:2", false, false, None),
            (
                "0.0.0.0:1",
                "127.0.0.1:2",
                false,
                false,
                Some("cluster.secret and api.token"),
            ),
            (
                "127.0.0.1:1",
                "0.0.0.0:2",
                false,
                true,
                Some("cluster.secret"),
            ),
            ("[::]:1", "127.0.0.1:2", true, false, Some("api.token")),
            ("0.0.0.0:1", "0.0.0.0:2", true, true, None),
            ("nonsense", "127.0.0.1:2", true, true, Some("http")),
        ] {
            match (settings(http, peer, secret, token).check(), named) {
                (Ok(()), None) => {}
                (Err(error), Some(named)) => assert!(error.starts_with(named), "{error}"),
                (result, _) => panic!("{http} {peer}: {result:?}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_right_is_named() {
        type Change = fn(&mut Settings);
        let wrong: [(&str, Change); 21] = [
            ("callbacks.total", |s| s.callbacks.total = 0),
            ("placement.default", |s| {
                s.placement.default = "master".into()
            }),
            ("placement.threshold", |s| s.placement.threshold = f64::NAN),
            ("placement.threshold", |s| s.placement.threshold = 1.1),
            ("node.labels", |s| {
                s.node.labels = [("gpu".into(), String::new())].into()
            }),
            ("disk.refuse_below", |s| s.disk.refuse_below = "much".into()),
            ("callbacks.breaker.percent", |s| {
                s.callbacks.breaker.percent = 101
            }),
            ("cluster.feature_level", |s| s.cluster.feature_level = 999),
            ("cluster.tls.ca and cluster.tls.key", |s| {
                s.cluster.tls.cert = Some("c".into())
            }),
            ("scrub.bytes_per_second", |s| s.scrub.bytes_per_second = 0),
            ("node.id", |s| s.node.id = None),
            ("node.dir", |s| s.node.dir = None),
            ("cluster.nodes", |s| {
                s.cluster.nodes = [(2, "a:1".into())].into()
            }),
            ("callbacks.per_target", |s| s.callbacks.per_target = 0),
            ("watchdog.period", |s| s.watchdog.period = Span(0)),
            ("node.timeout", |s| s.node.timeout = Span(0)),
            ("retention.period", |s| s.retention.period = Span(0)),
            ("store.load_period", |s| s.store.load_period = Span(0)),
            ("limits.idle_timeout", |s| s.limits.idle_timeout = Span(1)),
            ("api.token", |s| s.api.token = Some(Hidden("a b".into()))),
            ("compat.fields", |s| {
                s.compat.fields = [("x".into(), "y".into())].into()
            }),
        ];
        for (key, change) in wrong {
            let mut settings = settings("127.0.0.1:1", "127.0.0.1:2", false, false);
            change(&mut settings);
            assert!(settings.check().unwrap_err().starts_with(key), "{key}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let text = format!("{:?}", settings("127.0.0.1:1", "127.0.0.1:2", true, true));
        assert!(!text.contains("s3cret"));
    }
}
