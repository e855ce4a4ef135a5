//! What happened, line by line: operations, deliveries, faults. The harness's own clock dates all.

use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::support::now_us;

/// Where runs go instead of `jepsen-runs`.
const RUNS: &str = "JEPSEN_RUNS";

/// The folder of all runs, and of their ledger.
pub fn runs() -> PathBuf {
    match std::env::var_os(RUNS) {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("jepsen-runs"),
    }
}

/// A file of NDJSON that many threads write to.
struct Lines(Mutex<BufWriter<File>>);

impl Lines {
    fn create(path: &Path) -> Lines {
        let file = File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Lines(Mutex::new(BufWriter::new(file)))
    }

    fn lock(&self) -> MutexGuard<'_, BufWriter<File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instant is read under the lock, so that lines stand in order of time.
    fn write_now(&self, mut line: Value) -> u64 {
        let mut file = self.lock();
        let t = now_us();
        line["t"] = json!(t);
        writeln!(file, "{line}").expect("the run's folder takes lines");
        t
    }

    fn write(&self, line: &Value) {
        writeln!(self.lock(), "{line}").expect("the run's folder takes lines");
    }

    fn flush(&self) {
        self.lock()
            .flush()
            .expect("the run's folder takes the lines");
    }
}

/// What an operation is about.
#[derive(Clone, Debug)]
pub struct Op {
    pub process: u64,
    pub node: u64,
    pub f: &'static str,
    pub app: Option<String>,
    pub id: Option<String>,
}

impl Op {
    fn line(&self, number: u64, kind: &str, value: &Value) -> Value {
        let mut line = json!({
            "op": number, "type": kind, "process": self.process, "node": self.node, "f": self.f,
            "value": value,
        });
        for (name, text) in [("app", &self.app), ("id", &self.id)] {
            if let Some(text) = text {
                line[name] = json!(text);
            }
        }
        line
    }
}

/// How an operation ended; see `work::call` for what counts as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Ok,
    Fail,
    Unknown,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            End::Ok => "ok",
            End::Fail => "fail",
            End::Unknown => "unknown",
        }
    }
}

/// Operations: `history.ndjson`.
pub struct History {
    lines: Lines,
    next: AtomicU64,
}

impl History {
    pub fn create(dir: &Path) -> History {
        History {
            lines: Lines::create(&dir.join("history.ndjson")),
            next: AtomicU64::new(1),
        }
    }

    /// Before the first byte is sent. Returns the operation's number.
    pub fn invoke(&self, op: &Op, asked: &Value) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lines.write_now(op.line(number, "invoke", asked));
        number
    }

    /// After the last byte was read, or when it was given up.
    pub fn end(&self, number: u64, op: &Op, end: End, got: &Value) {
        self.lines.write_now(op.line(number, end.name(), got));
    }

    pub fn flush(&self) {
        self.lines.flush();
    }
}

/// Faults: `faults.ndjson`.
pub struct Faults(Lines);

impl Faults {
    pub fn create(dir: &Path) -> Faults {
        Faults(Lines::create(&dir.join("faults.ndjson")))
    }

    /// `phase` is `begin` or `end`.
    pub fn note(&self, what: &str, nodes: &[u64], phase: &str, detail: &Value) {
        self.0
            .write_now(json!({ "what": what, "nodes": nodes, "phase": phase, "detail": detail }));
        self.0.flush();
    }

    /// The machine stood still from an instant until now.
    pub fn held_up(&self, from_us: u64, detail: &Value) {
        for (phase, t) in [("begin", from_us), ("end", now_us())] {
            self.0.write(
                &json!({ "what": "machine", "nodes": [], "phase": phase, "detail": detail, "t": t }),
            );
        }
        self.0.flush();
    }
}

/// Deliveries: `sink.ndjson`.
pub struct Deliveries(Lines);

impl Deliveries {
    pub fn create(dir: &Path) -> Deliveries {
        Deliveries(Lines::create(&dir.join("sink.ndjson")))
    }

    pub fn note(&self, line: &Value) {
        self.0.write(line);
    }

    pub fn flush(&self) {
        self.0.flush();
    }
}

/// The values of a file's lines.
pub fn read(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let parsed = text.lines().map(|line| {
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", path.display()))
    });
    parsed.collect()
}
