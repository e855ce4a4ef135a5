//! The keys of the settings, their kinds and what they mean: the table behind the environment
//! and the documentation.

/// How a value is written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Number,
    Span,
    /// `a,b,c`
    List,
    /// `a=1,b=2`
    Pairs,
    /// `0.8`
    Fraction,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As in the file: `section.name`.
    pub path: &'static str,
    pub kind: Kind,
    /// The flag of `serve` that sets it, if there is one.
    pub flag: &'static str,
    pub about: &'static str,
}

impl Key {
    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("HOROLOG_{}", self.path.to_uppercase().replace('.', "_"))
    }
}

/// The key of a path.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

const fn key(path: &'static str, kind: Kind, flag: &'static str, about: &'static str) -> Key {
    Key {
        path,
        kind,
        flag,
        about,
    }
}

/// Every setting, in the order of the documentation.
pub const KEYS: &[Key] = &[
    key("http", Kind::Text, "--http", "where clients connect"),
    key(
        "peer",
        Kind::Text,
        "--peer",
        "where the other nodes connect",
    ),
    key(
        "node.id",
        Kind::Number,
        "--id",
        "this node's number, 1 or more; never reused after its disk was wiped",
    ),
    key(
        "node.dir",
        Kind::Text,
        "--dir",
        "where its data lives; created when missing",
    ),
    key(
        "node.labels",
        Kind::Pairs,
        "",
        "what this node is called, for tasks that are placed by label: `gpu=yes,zone=a`",
    ),
    key(
        "node.timeout",
        Kind::Span,
        "",
        "a node that was not heard for so long is listed as dead; its shards move long before, when its lease has run out",
    ),
    key(
        "cluster.nodes",
        Kind::Pairs,
        "--cluster",
        "the peer addresses of all nodes of a new cluster, the same list for each: `1=ADDR,2=ADDR`",
    ),
    key(
        "cluster.join",
        Kind::Text,
        "--join",
        "a node of the running cluster to join",
    ),
    key(
        "cluster.feature_level",
        Kind::Number,
        "",
        "holds the cluster to a feature level that an older version knows, so that there is a way \
         back to it; 0: that of this version",
    ),
    key(
        "cluster.secret",
        Kind::Text,
        "",
        "what nodes, and callers of the internal paths, prove themselves with",
    ),
    key(
        "cluster.secret_file",
        Kind::Text,
        "--cluster-secret-file",
        "a file that holds `cluster.secret`",
    ),
    key(
        "cluster.tls.ca",
        Kind::Text,
        "",
        "TLS between nodes: the authority that issued the nodes' certificates, as PEM; with it go `cert` and `key`; SIGHUP reads all three anew",
    ),
    key(
        "cluster.tls.cert",
        Kind::Text,
        "",
        "this node's certificate, as PEM; it names the node as `node-N.horolog`",
    ),
    key(
        "cluster.tls.key",
        Kind::Text,
        "",
        "its key, as PEM; readable by its owner only",
    ),
    key(
        "api.token",
        Kind::Text,
        "",
        "what clients send as `Authorization: Bearer`; demanded when set",
    ),
    key(
        "api.token_file",
        Kind::Text,
        "--api-token-file",
        "a file that holds `api.token`",
    ),
    key(
        "api.wait_max",
        Kind::Span,
        "",
        "longest `?wait=` and synchronous execution",
    ),
    key(
        "raft.timing",
        Kind::Text,
        "",
        "`steady` (a leader's loss is noticed in seconds) or `fast` (well under one, on a quiet network)",
    ),
    key(
        "raft.snapshot_entries",
        Kind::Number,
        "",
        "a snapshot is made when the log behind the last one has so many entries; small numbers are for tests of catching up",
    ),
    key(
        "raft.kept_entries",
        Kind::Number,
        "",
        "so many entries stay behind a snapshot, for nodes that are a little behind",
    ),
    key(
        "raft.kept_bytes",
        Kind::Number,
        "",
        "but no more of them than have so many bytes of events: a start walks through the log's file",
    ),
    key(
        "log.engine",
        Kind::Text,
        "",
        "`redb` or `sled` (a feature of the build)",
    ),
    key(
        "store.checkpoint_tasks",
        Kind::Number,
        "",
        "the state goes to the store when so many tasks have changed since its last checkpoint; twice as many are held while one is written, then submits wait",
    ),
    key(
        "store.checkpoint_bytes",
        Kind::Number,
        "",
        "or when so many bytes of events are behind it; they bound what is held in the same way",
    ),
    key(
        "store.checkpoint_age",
        Kind::Span,
        "",
        "or when something has changed and the last checkpoint is so old",
    ),
    key(
        "store.window",
        Kind::Span,
        "",
        "what is due within this time is loaded from the store ahead of it",
    ),
    key(
        "store.window_bytes",
        Kind::Number,
        "",
        "but nothing more while that which was loaded takes so much memory, 16 bytes a task; what falls due then is read in pieces",
    ),
    key(
        "store.load_period",
        Kind::Span,
        "",
        "how often it is looked what must be loaded",
    ),
    key(
        "scrub.every",
        Kind::Span,
        "",
        "from the end of one search for damage in log and store to the next; the first begins with the node; `0s`: only when asked for",
    ),
    key(
        "scrub.bytes_per_second",
        Kind::Number,
        "",
        "how fast that reads",
    ),
    key(
        "disk.refuse_below",
        Kind::Text,
        "",
        "with less free space no submits are taken, while outcomes and cancels are: `512MiB` (but at most a tenth of the file system), `5%`; `0`: off",
    ),
    key(
        "callbacks.allow",
        Kind::List,
        "",
        "CIDRs and hosts that may be called although they are private",
    ),
    key(
        "callbacks.deny",
        Kind::List,
        "",
        "CIDRs and hosts that are never called",
    ),
    key(
        "callbacks.per_target",
        Kind::Number,
        "",
        "calls at once to one target; one that fails, answers 429 or becomes slow gets fewer for a while",
    ),
    key(
        "callbacks.max_bytes",
        Kind::Number,
        "",
        "bytes of the tasks that are being called at once; one call always fits",
    ),
    key(
        "callbacks.breaker.percent",
        Kind::Number,
        "",
        "a target is left alone when so many percent of its calls failed (no answer, or 5xx); `0`: never",
    ),
    key(
        "callbacks.breaker.calls",
        Kind::Number,
        "",
        "of at least so many",
    ),
    key(
        "callbacks.breaker.window",
        Kind::Span,
        "",
        "within this time",
    ),
    key(
        "callbacks.breaker.open",
        Kind::Span,
        "",
        "for so long at first, and twice as long each time that it has not become better; what is due there waits",
    ),
    key(
        "callbacks.breaker.open_max",
        Kind::Span,
        "",
        "but no longer than this",
    ),
    key(
        "callbacks.breaker.probes",
        Kind::Number,
        "",
        "calls at once to see whether it is well again, and how many of them must go well",
    ),
    key(
        "callbacks.total",
        Kind::Number,
        "",
        "calls at once in all; the share of them that is under way is this node's load",
    ),
    key(
        "placement.default",
        Kind::Text,
        "",
        "which node carries an attempt out, where its task says nothing: `owner` of its shard, `round_robin`, `random`, `hash`, `leader`, `broadcast`, or `label:NAME=VALUE`",
    ),
    key(
        "placement.threshold",
        Kind::Fraction,
        "",
        "with this load an owner gives work to the least loaded node, if that one has less",
    ),
    key(
        "retention.done",
        Kind::Span,
        "",
        "how long done and cancelled tasks, and marks, are kept",
    ),
    key(
        "retention.dead",
        Kind::Span,
        "",
        "how long dead tasks are kept",
    ),
    key(
        "retention.keep",
        Kind::Text,
        "",
        "`all`, or `failures`: what is done or cancelled leaves after a minute at most, what is dead stays its time",
    ),
    key(
        "retention.period",
        Kind::Span,
        "",
        "how often it is looked what is old enough to leave",
    ),
    key(
        "watchdog.period",
        Kind::Span,
        "",
        "how often the leader looks for due attempts that nobody holds, to hand them out again",
    ),
    key(
        "watchdog.after",
        Kind::Span,
        "",
        "it looks at attempts that could have begun so long ago",
    ),
    key(
        "history.retention",
        Kind::Span,
        "",
        "how long after its end the events of a task stay readable when the task itself is gone; `0`: they go with it",
    ),
    key(
        "history.max_bytes",
        Kind::Number,
        "",
        "or until the events of tasks that are gone take so many bytes of a node's store; the oldest go first",
    ),
    key(
        "compat.status",
        Kind::Text,
        "",
        "errors on the old paths: `http` (the status tells) or `always_200` (only `code` does)",
    ),
    key(
        "compat.fields",
        Kind::Pairs,
        "",
        "other names for fields of the old paths: `appId=app_id`",
    ),
    key(
        "compat.stages.init",
        Kind::Number,
        "",
        "the old number of INIT",
    ),
    key(
        "compat.stages.todo",
        Kind::Number,
        "",
        "the old number of TODO",
    ),
    key(
        "compat.stages.done",
        Kind::Number,
        "",
        "the old number of DONE",
    ),
    key(
        "access_log.dir",
        Kind::Text,
        "",
        "where the access log goes: `access` in the data directory without it; `off`: nowhere",
    ),
    key(
        "access_log.rotation",
        Kind::Text,
        "",
        "when a new file is begun: `daily` or `hourly`",
    ),
    key(
        "access_log.keep_days",
        Kind::Number,
        "",
        "how many days of it are kept besides today",
    ),
    key(
        "telemetry.format",
        Kind::Text,
        "",
        "`text` or `json`, on standard error",
    ),
    key(
        "telemetry.filter",
        Kind::Text,
        "",
        "what is logged, as `info` or `horolog=debug,warn`",
    ),
    key(
        "limits.connections",
        Kind::Number,
        "",
        "client connections at once",
    ),
    key(
        "limits.head_timeout",
        Kind::Span,
        "",
        "for a request's head, and how long a kept connection rests",
    ),
    key(
        "limits.body_timeout",
        Kind::Span,
        "",
        "between two pieces of a body",
    ),
    key(
        "limits.idle_timeout",
        Kind::Span,
        "",
        "for a connection on which nothing moves",
    ),
    key(
        "limits.shutdown_grace",
        Kind::Span,
        "",
        "for requests that run when the node stops",
    ),
    key(
        "limits.app_submits_per_second",
        Kind::Number,
        "",
        "tasks that one application may submit in a second, over the whole cluster; more are answered 429; `0`: no such bound, only an equal part of the room",
    ),
];

/// The page `docs/settings.md`, with the defaults as `Settings::default` has them.
pub fn page(defaults: &serde_json::Value) -> String {
    let mut page = String::from(
        "# Settings\n\n\
         A TOML file (`--config FILE`) is overridden by the environment, and that by flags of `serve`.\n\
         A key in the file is `section.name`; an unknown key or `HOROLOG_…` variable is an error that\n\
         names it. Lists are written `a,b` and pairs `a=1,b=2` in the environment, as TOML arrays and\n\
         tables in the file. Durations are `250ms`, `10s`, `1h30m`, `7d`.\n\n\
         A node whose listeners are all on loopback needs neither `cluster.secret` nor `api.token`; any\n\
         other refuses to start without both.\n\n\
         | key | environment | flag | default | what it is |\n|---|---|---|---|---|\n",
    );
    for key in KEYS {
        let pointer = format!("/{}", key.path.replace('.', "/"));
        let default = match defaults.pointer(&pointer) {
            Some(serde_json::Value::String(text)) => format!("`{text}`"),
            Some(serde_json::Value::Number(number)) => format!("`{number}`"),
            _ => String::new(),
        };
        let flag = match key.flag {
            "" => String::new(),
            flag => format!("`{flag}`"),
        };
        page.push_str(&format!(
            "| `{}` | `{}` | {flag} | {default} | {} |\n",
            key.path,
            key.variable(),
            key.about
        ));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::settings::Settings;
    use serde_json::Value;

    fn leaves(prefix: &str, value: &Value, out: &mut Vec<String>) {
        match value {
            Value::Object(members) if !members.is_empty() => {
                for (name, value) in members {
                    let path = if prefix.is_empty() {
                        name.clone()
                    } else {
                        format!("{prefix}.{name}")
                    };
                    leaves(&path, value, out);
                }
            }
            _ => out.push(prefix.to_owned()),
        }
    }

    #[test]
    fn the_table_and_the_struct_agree() {
        let mut struct_keys = Vec::new();
        let defaults = serde_json::to_value(Settings::default()).unwrap();
        leaves("", &defaults, &mut struct_keys);
        let mut table_keys: Vec<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
        struct_keys.sort();
        table_keys.sort();
        assert_eq!(struct_keys, table_keys);
        let mut variables: Vec<String> = KEYS.iter().map(Key::variable).collect();
        variables.sort();
        variables.dedup();
        assert_eq!(variables.len(), KEYS.len());
    }

    /// `HOROLOG_WRITE_DOCS=1 cargo test` writes the page anew.
    #[test]
    fn the_page_is_up_to_date() {
        let page = page(&serde_json::to_value(Settings::default()).unwrap());
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
        if std::env::var_os("HOROLOG_WRITE_DOCS").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), page);
    }
}
