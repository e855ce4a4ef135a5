//! From a file, the environment and flags to one set of settings. The later overrides the
//! earlier, key by key; what nobody knows is an error that names it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

use super::settings::{Hidden, Settings};
use super::settings_keys::{KEYS, Key, Kind, find};

/// Variables of the command line's client; they are no settings of a node.
const OTHER_VARIABLES: [&str; 3] = ["HOROLOG_SERVER", "HOROLOG_TOKEN", "HOROLOG_CONFIG"];

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

/// Where values come from, the strongest last.
#[derive(Debug, Default)]
pub struct Sources {
    /// Its name, for errors, and its text.
    pub file: Option<(String, String)>,
    /// All variables; those of others are passed over.
    pub environment: Vec<(String, String)>,
    /// Keys with their values as text.
    pub flags: Vec<(&'static str, String)>,
}

impl Settings {
    /// Reads the file, this process's environment, the flags, and the files that hold secrets.
    pub fn read(
        config: Option<&Path>,
        flags: Vec<(&'static str, String)>,
    ) -> Result<Settings, SettingsError> {
        let file = config.map(read_text).transpose()?;
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with("HOROLOG_"))
            .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
            .collect();
        let mut settings = Settings::from_sources(Sources {
            file,
            environment,
            flags,
        })?;
        let (cluster, api) = (&mut settings.cluster, &mut settings.api);
        read_secret("cluster.secret", &mut cluster.secret, &cluster.secret_file)?;
        read_secret("api.token", &mut api.token, &api.token_file)?;
        settings.check().map_err(SettingsError)?;
        Ok(settings)
    }

    /// Pure: the same without touching the disk, and unchecked.
    pub fn from_sources(sources: Sources) -> Result<Settings, SettingsError> {
        let mut merged = Merged::default();
        if let Some((name, text)) = sources.file {
            merged.file(&name, &text)?;
        }
        merged.layer = Layer::Environment;
        for (name, value) in sources.environment {
            merged.variable(&name, &value)?;
        }
        merged.layer = Layer::Flags;
        for (path, value) in sources.flags {
            let key =
                find(path).ok_or_else(|| SettingsError(format!("no setting is named {path}")))?;
            merged.set(key, key.flag, &value)?;
        }
        merged.settings()
    }
}

/// Values so far, and where each came from.
#[derive(Default)]
struct Merged {
    table: Table,
    origin: BTreeMap<&'static str, (Layer, String)>,
    layer: Layer,
}

/// The sources, the strongest last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Layer {
    #[default]
    File,
    Environment,
    Flags,
}

/// Two ways to say the same: a stronger source that uses one way overrides the other.
const TWINS: [(&str, &str); 2] = [
    ("cluster.secret", "cluster.secret_file"),
    ("api.token", "api.token_file"),
];

impl Merged {
    fn file(&mut self, name: &str, text: &str) -> Result<(), SettingsError> {
        let table: Table = text
            .parse()
            .map_err(|error| SettingsError(format!("{name}: {error}")))?;
        self.adopt(name, "", table)
    }

    /// Takes over known keys, whatever their depth.
    fn adopt(&mut self, name: &str, prefix: &str, table: Table) -> Result<(), SettingsError> {
        for (member, value) in table {
            let path = if prefix.is_empty() {
                member
            } else {
                format!("{prefix}.{member}")
            };
            match (find(&path), value) {
                (Some(key), Value::String(text)) if key.kind == Kind::Pairs => {
                    self.set(key, name, &text)?;
                }
                (Some(key), value) => self.put(key, name, value),
                (None, Value::Table(inner)) if is_section(&path) => {
                    self.adopt(name, &path, inner)?
                }
                (None, _) => return Err(SettingsError(format!("{name}: {}", unknown(&path)))),
            }
        }
        Ok(())
    }

    fn variable(&mut self, name: &str, value: &str) -> Result<(), SettingsError> {
        if !name.starts_with("HOROLOG_") || OTHER_VARIABLES.contains(&name) {
            return Ok(());
        }
        if cfg!(feature = "seeded-bugs") && name == crate::bugs::VARIABLE {
            return Ok(());
        }
        match KEYS.iter().find(|key| key.variable() == name) {
            Some(key) => self.set(key, name, value),
            None => Err(SettingsError(format!("{name}: there is no such setting"))),
        }
    }

    /// A value that was given as text.
    fn set(&mut self, key: &'static Key, origin: &str, text: &str) -> Result<(), SettingsError> {
        let value = parse(key.kind, text)
            .map_err(|reason| SettingsError(format!("{origin}: {}: {reason}", key.path)))?;
        self.put(key, origin, value);
        Ok(())
    }

    fn put(&mut self, key: &'static Key, origin: &str, value: Value) {
        self.origin
            .insert(key.path, (self.layer, origin.to_owned()));
        for (a, b) in TWINS {
            let twin = match key.path {
                path if path == a => b,
                path if path == b => a,
                _ => continue,
            };
            if self
                .origin
                .get(twin)
                .is_some_and(|(layer, _)| *layer != self.layer)
            {
                self.origin.remove(twin);
                self.place(twin, None);
            }
        }
        self.place(key.path, Some(value));
    }

    /// Writes or removes the value at a path.
    fn place(&mut self, path: &str, value: Option<Value>) {
        let mut table = &mut self.table;
        let (sections, name) = path.rsplit_once('.').unwrap_or(("", path));
        for section in sections.split('.').filter(|section| !section.is_empty()) {
            let inner = table
                .entry(section)
                .or_insert_with(|| Value::Table(Table::new()));
            match inner {
                Value::Table(inner) => table = inner,
                _ => return,
            }
        }
        match value {
            Some(value) => table.insert(name.to_owned(), value),
            None => table.remove(name),
        };
    }

    fn settings(self) -> Result<Settings, SettingsError> {
        let value = Value::Table(self.table);
        serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            let origin = self.origin.iter().find(|(key, _)| path.starts_with(*key));
            let origin = origin.map_or(String::new(), |(_, (_, origin))| format!("{origin}: "));
            SettingsError(format!(
                "{origin}{path}: {}",
                error.inner().to_string().trim_end()
            ))
        })
    }
}

fn is_section(path: &str) -> bool {
    let prefix = format!("{path}.");
    KEYS.iter().any(|key| key.path.starts_with(&prefix))
}

/// Names the key, and the one that was perhaps meant.
fn unknown(path: &str) -> String {
    let shared = |known: &str| {
        known
            .bytes()
            .zip(path.bytes())
            .take_while(|(a, b)| a == b)
            .count()
    };
    let near = KEYS.iter().max_by_key(|key| shared(key.path));
    match near {
        Some(key) if shared(key.path) >= 3 => {
            format!("there is no setting `{path}`; is `{}` meant?", key.path)
        }
        _ => format!("there is no setting `{path}`"),
    }
}

fn parse(kind: Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Text | Kind::Span => Ok(Value::String(text.to_owned())),
        Kind::Number => text
            .trim()
            .parse()
            .map(Value::Integer)
            .map_err(|_| format!("{text:?} is not a number")),
        Kind::List => Ok(Value::Array(parts(text).map(|part| part.into()).collect())),
        Kind::Pairs => parts(text)
            .map(|pair| match pair.split_once('=') {
                Some((name, value)) => Ok((name.trim().to_owned(), value.trim().into())),
                None => Err(format!("{pair:?} is not name=value")),
            })
            .collect::<Result<Table, _>>()
            .map(Value::Table),
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

fn read_text(path: &Path) -> Result<(String, String), SettingsError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| SettingsError(format!("{name}: cannot be read: {error}")))?;
    Ok((name, text))
}

fn read_secret(
    key: &str,
    secret: &mut Option<Hidden>,
    file: &Option<PathBuf>,
) -> Result<(), SettingsError> {
    let Some(file) = file else { return Ok(()) };
    if secret.is_some() {
        return Err(SettingsError(format!(
            "{key} and {key}_file: give one of them"
        )));
    }
    let (_, text) = read_text(file)?;
    *secret = Some(Hidden(text.trim().to_owned()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::settings::{Engine, Timing};
    use super::*;
    use crate::model::Span;

    fn load(
        file: &str,
        environment: &[(&str, &str)],
        flags: &[(&'static str, &str)],
    ) -> Result<Settings, String> {
        let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        let sources = Sources {
            file: Some(("horolog.toml".into(), file.into())),
            environment: environment.iter().map(owned).collect(),
            flags: flags
                .iter()
                .map(|(key, value)| (*key, value.to_string()))
                .collect(),
        };
        Settings::from_sources(sources).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_beat_the_environment_and_that_the_file() {
        let file = "http = \"127.0.0.1:1\"\n[node]\nid = 1\n[raft]\ntiming = \"fast\"";
        let variable = ("HOROLOG_HTTP", "127.0.0.1:2");
        let flag = ("http", "127.0.0.1:3");
        for (environment, flags, http) in [
            (&[][..], &[][..], "127.0.0.1:1"),
            (&[variable][..], &[][..], "127.0.0.1:2"),
            (&[variable][..], &[flag][..], "127.0.0.1:3"),
            (&[][..], &[flag][..], "127.0.0.1:3"),
        ] {
            let settings = load(file, environment, flags).unwrap();
            assert_eq!(settings.http, http);
            assert_eq!(
                (settings.node.id, settings.raft.timing),
                (Some(1), Timing::Fast)
            );
        }
        assert_eq!(load("", &[], &[]).unwrap(), Settings::default());
    }

    #[test]
    fn a_secret_file_and_a_secret_override_each_other() {
        let file = "[cluster]\nsecret = \"a\"";
        let settings = load(file, &[], &[("cluster.secret_file", "f")]).unwrap();
        assert_eq!(
            (settings.cluster.secret, settings.cluster.secret_file),
            (None, Some("f".into()))
        );
        let file = "[api]\ntoken_file = \"f\"";
        let settings = load(file, &[("HOROLOG_API_TOKEN", "t")], &[]).unwrap();
        assert_eq!(
            (settings.api.token, settings.api.token_file),
            (Some(Hidden("t".into())), None)
        );
    }

    #[test]
    fn every_kind_is_read_from_text() {
        let settings = load(
            "",
            &[
                ("HOROLOG_CLUSTER_NODES", "1=a:1, 2=b:2"),
                ("HOROLOG_CALLBACKS_ALLOW", "10.0.0.0/8,example.org"),
                ("HOROLOG_RETENTION_DONE", "1h"),
                ("HOROLOG_ACCESS_LOG_KEEP_DAYS", "3"),
                ("HOROLOG_COMPAT_FIELDS", "appId=app_id"),
                ("HOROLOG_LOG_ENGINE", "sled"),
                ("HOROLOG_SERVER", "http://elsewhere"),
                ("PATH", "/bin"),
            ],
            &[],
        )
        .unwrap();
        assert_eq!(
            settings.cluster.nodes,
            [(1, "a:1".into()), (2, "b:2".into())].into()
        );
        assert_eq!(settings.callbacks.allow, ["10.0.0.0/8", "example.org"]);
        assert_eq!(settings.retention.done, Span::hours(1));
        assert_eq!(settings.access_log.keep_days, 3);
        assert_eq!(settings.compat.name("appId"), "app_id");
        assert_eq!(settings.log.engine, Engine::Sled);
        let table = load("[cluster.nodes]\n1 = \"a:1\"\n2 = \"b:2\"", &[], &[]).unwrap();
        assert_eq!(table.cluster.nodes, settings.cluster.nodes);
        let text = load("[cluster]\nnodes = \"1=a:1,2=b:2\"", &[], &[]).unwrap();
        assert_eq!(text.cluster.nodes, settings.cluster.nodes);
    }

    #[test]
    fn errors_name_the_key_and_its_source() {
        for (file, environment, parts) in [
            (
                "[log]\nengin = \"redb\"",
                &[][..],
                &["horolog.toml", "log.engin", "log.engine"][..],
            ),
            ("colour = 1", &[][..], &["horolog.toml", "colour"][..]),
            (
                "[log]\nengine = \"sqlite\"",
                &[][..],
                &["horolog.toml", "log.engine", "sqlite"][..],
            ),
            ("node = 3", &[][..], &["node"][..]),
            ("a = ", &[][..], &["horolog.toml"][..]),
            (
                "",
                &[("HOROLOG_LOG_ENGIN", "redb")][..],
                &["HOROLOG_LOG_ENGIN"][..],
            ),
            (
                "",
                &[("HOROLOG_NODE_ID", "one")][..],
                &["HOROLOG_NODE_ID", "node.id"][..],
            ),
            (
                "",
                &[("HOROLOG_RETENTION_DONE", "soon")][..],
                &["HOROLOG_RETENTION_DONE", "retention.done"][..],
            ),
            (
                "",
                &[("HOROLOG_CLUSTER_NODES", "a:1")][..],
                &["HOROLOG_CLUSTER_NODES", "name=value"][..],
            ),
        ] {
            let error = load(file, environment, &[]).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{part} is not in {error}");
            }
        }
    }

    #[test]
    fn a_secret_comes_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "abc\n").unwrap();
        let mut secret = None;
        read_secret("cluster.secret", &mut secret, &Some(path.clone())).unwrap();
        assert_eq!(secret, Some(Hidden("abc".into())));
        assert!(read_secret("cluster.secret", &mut secret, &Some(path)).is_err());
    }
}
