//! A run as its folder tells it: operations, deliveries, faults, the log, and what nodes said.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::Findings;
use super::words::instant;

/// (app, id).
pub type Key = (String, String);

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Ok,
    Fail,
    Unknown,
}

/// One operation: what was asked, when, and what came back.
#[derive(Clone, Debug)]
pub struct Op {
    pub n: u64,
    pub f: String,
    /// Absent for lists and bulk changes.
    pub key: Option<Key>,
    /// Absent when the operation concerns all applications.
    pub app: Option<String>,
    pub asked: Value,
    pub began_us: u64,
    pub end: End,
    /// Never, if it was not answered.
    pub ended_us: u64,
    pub got: Value,
}

impl Op {
    pub fn is_ok(&self) -> bool {
        self.end == End::Ok
    }

    /// The HTTP status; 0 when there was none.
    pub fn status(&self) -> u64 {
        self.got["status"].as_u64().unwrap_or(0)
    }

    /// It was refused in a way that promises that nothing happened.
    pub fn had_surely_no_effect(&self) -> bool {
        self.end == End::Fail
    }

    /// A read that may be stale, and says so.
    pub fn is_local(&self) -> bool {
        self.asked["read"] == "local" || self.asked["local"] == true
    }

    /// Its name in a text: `op 17 cancel`.
    pub fn name(&self) -> String {
        match &self.key {
            Some((app, id)) => format!("op {} {} {app}/{id}", self.n, self.f),
            None => format!("op {} {}", self.n, self.f),
        }
    }
}

/// What an answer says about a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub index: u64,
    pub stage: String,
    pub due_ms: Option<u64>,
    pub attempt: Option<u64>,
}

impl Seen {
    /// Absent when the answer shows no task.
    pub fn of(task: &Value) -> Option<Seen> {
        Some(Seen {
            index: task["index"].as_u64()?,
            stage: task["stage"].as_str()?.to_owned(),
            due_ms: instant(&task["due_at"]),
            attempt: task["attempt"].as_u64(),
        })
    }
}

/// A callback that arrived.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub key: Key,
    pub t_us: u64,
    pub attempt: u64,
    pub fence: u64,
    pub due_ms: u64,
    /// What the sink answered; 0 if it did not.
    pub answer: u64,
    pub end_us: u64,
}

/// A time during which something was broken on purpose.
#[derive(Clone, Debug)]
pub struct Fault {
    pub what: String,
    pub nodes: Vec<u64>,
    pub from_us: u64,
    pub to_us: u64,
}

/// A line of an exported log: one event, or an entry without events.
#[derive(Clone, Debug)]
pub struct Line {
    pub index: u64,
    pub term: u64,
    pub text: String,
}

/// Everything a run left behind.
#[derive(Default)]
pub struct Run {
    /// In the order of their beginning.
    pub ops: Vec<Op>,
    /// In the order of arrival.
    pub sink: Vec<Delivery>,
    pub faults: Vec<Fault>,
    pub logs: BTreeMap<u64, Vec<Line>>,
    pub status: BTreeMap<u64, Value>,
    /// Ledgers of schedules, and their audit, as nodes told them in the end.
    pub schedules: BTreeMap<u64, Value>,
}

impl Run {
    /// Reads a folder, and says what in it cannot be understood.
    pub fn load(dir: &Path) -> (Run, Findings) {
        let mut found = Findings::default();
        let mut run = Run {
            ops: ops(&lines(&dir.join("history.ndjson"), &mut found), &mut found),
            sink: sink(&lines(&dir.join("sink.ndjson"), &mut found), &mut found),
            faults: faults(&lines(&dir.join("faults.ndjson"), &mut found), &mut found),
            ..Run::default()
        };
        let names = fs::read_dir(dir).into_iter().flatten().flatten();
        for path in names.map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(node) = numbered(&name, "log-", ".ndjson") {
                let log = read(&path, &mut found);
                run.logs.insert(node, log_lines(&name, &log, &mut found));
            }
            for (before, told) in [
                ("status-", &mut run.status),
                ("schedules-", &mut run.schedules),
            ] {
                let Some(node) = numbered(&name, before, ".json") else {
                    continue;
                };
                let text = read(&path, &mut found);
                match serde_json::from_str(&text) {
                    Ok(value) => drop(told.insert(node, value)),
                    Err(error) => found.wrong(format!("{name}: {error}")),
                }
            }
        }
        (run, found)
    }

    /// Whether something was broken at any time between two instants.
    pub fn disturbed(&self, from_us: u64, to_us: u64) -> bool {
        let overlaps = |fault: &Fault| fault.from_us <= to_us && from_us <= fault.to_us;
        self.faults.iter().any(overlaps)
    }

    /// Operations on single tasks, by task.
    pub fn by_key(&self) -> BTreeMap<&Key, Vec<&Op>> {
        let mut by_key: BTreeMap<&Key, Vec<&Op>> = BTreeMap::new();
        for op in &self.ops {
            if let Some(key) = &op.key {
                by_key.entry(key).or_default().push(op);
            }
        }
        by_key
    }
}

fn numbered(name: &str, before: &str, after: &str) -> Option<u64> {
    name.strip_prefix(before)?.strip_suffix(after)?.parse().ok()
}

fn read(path: &Path, found: &mut Findings) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| {
        found.wrong(format!("{}: {error}", path.display()));
        String::new()
    })
}

/// The values of a file's lines.
fn lines(path: &Path, found: &mut Findings) -> Vec<Value> {
    let text = read(path, found);
    let mut values = Vec::new();
    for (n, line) in text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty())
    {
        match serde_json::from_str(line) {
            Ok(value) => values.push(value),
            Err(error) => found.wrong(format!("{}, line {}: {error}", path.display(), n + 1)),
        }
    }
    values
}

fn key(line: &Value) -> Option<Key> {
    Some((line["app"].as_str()?.into(), line["id"].as_str()?.into()))
}

/// Pairs each invoke with its end.
fn ops(lines: &[Value], found: &mut Findings) -> Vec<Op> {
    const KINDS: [&str; 11] = [
        "submit", "cancel", "change", "run", "complete", "read", "list", "bulk", "pause", "resume",
        "schedule",
    ];
    // They concern no task, or many.
    const MANY: [&str; 5] = ["list", "bulk", "pause", "resume", "schedule"];
    let mut ops: Vec<Op> = Vec::new();
    let mut place: BTreeMap<u64, usize> = BTreeMap::new();
    for line in lines {
        let (Some(n), Some(t), Some(kind)) = (
            line["op"].as_u64(),
            line["t"].as_u64(),
            line["type"].as_str(),
        ) else {
            found.wrong(format!("history: no op, t or type: {line}"));
            continue;
        };
        if kind == "invoke" {
            let f = line["f"].as_str().unwrap_or_default().to_owned();
            let key = key(line);
            let single = !MANY.contains(&f.as_str());
            found.check(
                KINDS.contains(&f.as_str())
                    && (key.is_some() || !single)
                    && !place.contains_key(&n),
                || {
                    format!(
                        "history: op {n}: f, app or id is missing or odd, or invoked twice: {line}"
                    )
                },
            );
            place.insert(n, ops.len());
            ops.push(Op {
                n,
                f,
                key: key.filter(|_| single),
                app: line["app"].as_str().map(str::to_owned),
                asked: line["value"].clone(),
                began_us: t,
                end: End::Unknown,
                ended_us: u64::MAX,
                got: Value::Null,
            });
            continue;
        }
        let end = match kind {
            "ok" => End::Ok,
            "fail" => End::Fail,
            "unknown" => End::Unknown,
            _ => {
                found.wrong(format!("history: op {n}: {kind:?} is no type"));
                continue;
            }
        };
        let op = place.get(&n).map(|at| &mut ops[*at]);
        match op.filter(|op| op.got.is_null() && op.ended_us == u64::MAX && op.began_us <= t) {
            Some(op) => {
                op.end = end;
                // Whatever was not answered may still take effect later.
                if end != End::Unknown {
                    op.ended_us = t;
                }
                op.got = match &line["value"] {
                    Value::Null => Value::Object(serde_json::Map::new()),
                    value => value.clone(),
                };
            }
            None => found.wrong(format!(
                "history: op {n} ends without, before, or twice after its invoke"
            )),
        }
    }
    ops.sort_by_key(|op| (op.began_us, op.n));
    ops
}

fn sink(lines: &[Value], found: &mut Findings) -> Vec<Delivery> {
    let mut sink = Vec::new();
    for line in lines {
        let number = |name: &str| line[name].as_u64();
        let delivery = || {
            let t_us = number("t")?;
            Some(Delivery {
                key: key(line)?,
                t_us,
                attempt: number("attempt")?,
                fence: number("fence")?,
                due_ms: instant(&line["due"])?,
                answer: number("answer").unwrap_or(0),
                end_us: number("end").unwrap_or(t_us),
            })
        };
        match delivery() {
            Some(delivery) => {
                found.checked += 1;
                sink.push(delivery);
            }
            None => found.wrong(format!("sink: members are missing: {line}")),
        }
    }
    sink.sort_by_key(|delivery| delivery.t_us);
    sink
}

/// Windows; one that never ends lasts for ever.
fn faults(lines: &[Value], found: &mut Findings) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    for line in lines {
        let (Some(t), Some(what)) = (line["t"].as_u64(), line["what"].as_str()) else {
            found.wrong(format!("faults: no t or what: {line}"));
            continue;
        };
        let nodes = line["nodes"].as_array().into_iter().flatten();
        let nodes: Vec<u64> = nodes.filter_map(Value::as_u64).collect();
        let open = faults
            .iter_mut()
            .rfind(|f| f.what == what && f.nodes == nodes && f.to_us == u64::MAX);
        if what == "none" {
            continue; // A time in which nothing is broken, on purpose.
        }
        match (line["phase"].as_str(), open) {
            (Some("begin"), _) => faults.push(Fault {
                what: what.to_owned(),
                nodes,
                from_us: t,
                to_us: u64::MAX,
            }),
            (Some("end"), Some(open)) => open.to_us = t,
            _ => found.wrong(format!("faults: neither begins nor ends anything: {line}")),
        }
    }
    faults
}

fn log_lines(name: &str, text: &str, found: &mut Findings) -> Vec<Line> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let head: Option<(u64, u64)> = serde_json::from_str::<Value>(line)
            .ok()
            .and_then(|v| Some((v["index"].as_u64()?, v["term"].as_u64()?)));
        match head {
            Some((index, term)) => {
                found.checked += 1;
                lines.push(Line {
                    index,
                    term,
                    text: line.to_owned(),
                });
            }
            None => found.wrong(format!("{name}: no line of an exported log: {line}")),
        }
    }
    lines
}
