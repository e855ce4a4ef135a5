//! The checkers of the fault harness, checked: runs written by hand, good and bad, and a real one.

mod support;

#[path = "jepsen-style/check/mod.rs"]
mod check;

use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use support::cluster::Cluster;
use support::http::{Answer, Client};
use support::receiver::{Receiver, Reply};
use support::work::{self, APP, list};
use support::{now_ms, now_us, pass, seconds, serial, wait_for};

/// What each receiver of the real run answers, attempt by attempt; the last one stays.
const SCRIPTS: [&[u16]; 4] = [&[200], &[500, 200], &[500, 500, 500], &[202, 200]];
/// A task that is not due while the run lasts.
const FAR_MS: u64 = 3_600_000;

/// Writes down what is done, as the harness does.
#[derive(Default)]
struct Book(Mutex<Vec<Value>>);

impl Book {
    fn invoke(&self, node: u64, f: &str, id: Option<&str>, asked: &Value) -> usize {
        let mut lines = self.0.lock().unwrap();
        let op = lines.len();
        let mut line = json!({
            "op": op, "type": "invoke", "process": node, "node": node, "f": f, "t": now_us(),
            "app": APP, "value": asked
        });
        if let Some(id) = id {
            line["id"] = json!(id);
        }
        lines.push(line);
        op
    }

    fn end(&self, op: usize, kind: &str, got: Value) {
        let line = json!({ "op": op, "type": kind, "t": now_us(), "value": got });
        self.0.lock().unwrap().push(line);
    }
}

/// What came back, as the history has it.
fn told(answer: &Answer) -> (&'static str, Value) {
    let mut got = json!({ "status": answer.status });
    let body = answer.json();
    for name in ["index", "stage", "due_at", "attempt", "title"] {
        got[name] = body[name].clone();
    }
    let decided = answer.headers.get("horolog-index");
    got["decided"] = json!(decided.and_then(|text| text.parse::<u64>().ok()));
    match answer.status {
        200..=299 => ("ok", got),
        400..=499 | 503 => ("fail", got),
        _ => ("unknown", got),
    }
}

/// A client of one node that keeps the book.
struct Caller<'a> {
    node: u64,
    client: Client,
    book: &'a Book,
}

impl Caller<'_> {
    fn ask(&mut self, f: &str, id: &str, asked: Value) {
        let path = format!("/v1/tasks/{APP}/{id}");
        let (method, path) = match f {
            "submit" => ("POST", "/v1/tasks".to_owned()),
            "cancel" => ("DELETE", path),
            "change" => ("PATCH", path),
            "run" => ("POST", format!("{path}/run")),
            "complete" => ("POST", format!("{path}/done")),
            _ => ("GET", path),
        };
        let op = self.book.invoke(self.node, f, Some(id), &asked);
        let body = match method {
            "GET" | "DELETE" => String::new(),
            _ => asked.to_string(),
        };
        let media_type = if body.is_empty() {
            ""
        } else {
            "application/json"
        };
        match self.client.send(method, &path, media_type, body.as_bytes()) {
            Ok(answer) => {
                let (kind, got) = told(&answer);
                self.book.end(op, kind, got);
            }
            Err(error) => self
                .book
                .end(op, "unknown", json!({ "error": error.to_string() })),
        }
    }

    fn walk(&mut self) {
        let op = self
            .book
            .invoke(self.node, "list", None, &json!({ "app": APP }));
        let mut tasks = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/tasks?app={APP}&limit=7{cursor}");
            let page = match self.client.get(&path) {
                Ok(page) if page.status == 200 => page.json(),
                _ => return self.book.end(op, "unknown", json!({})),
            };
            tasks.extend(page["tasks"].as_array().unwrap().iter().cloned());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        self.book
            .end(op, "ok", json!({ "status": 200, "tasks": tasks }));
    }
}

/// The script for a task such as `t2-07`.
fn replies(id: &str) -> &'static [u16] {
    let (client, n) = id[1..].split_once('-').unwrap();
    let [client, n] = [client, n].map(|part| part.parse::<usize>().unwrap());
    // The last client's tasks are all taken at once.
    let script = if client == 4 { 0 } else { client + n };
    SCRIPTS[script % SCRIPTS.len()]
}

/// Tasks that are delivered, fail, are cancelled, changed, run and completed, some of it when they
/// fall due.
fn work(mut caller: Caller<'_>, receiver: &Receiver) {
    for n in 0..14 {
        let (node, id) = (caller.node, format!("t{}-{n:02}", caller.node));
        let statuses = replies(&id).iter();
        receiver.script(&id, statuses.map(|s| Reply::status(*s)).collect());
        let due = match n % 5 {
            0 => now_ms() + FAR_MS,
            _ => now_ms() + 40 * (n as u64 % 7),
        };
        let task = json!({
            "app": APP, "id": id, "due_at": due, "target": { "http": { "url": receiver.url } },
            "retry": { "attempts": 2, "backoff": { "fixed": "200ms" } }, "accept_timeout": "1s"
        });
        caller.ask("submit", &id, task.clone());
        pass(std::time::Duration::from_millis(20 * (n as u64 % 5)));
        match n % 7 {
            0 | 4 => caller.ask("cancel", &id, json!({})),
            1 => caller.ask("change", &id, json!({ "due_at": now_ms() + 300 })),
            2 => caller.ask("run", &id, json!({})),
            3 => caller.ask("complete", &id, json!({ "ok": n > 6 })),
            5 => caller.ask("submit", &id, task),
            _ => {
                let mut other = task;
                other["due_at"] = json!(due + 1);
                caller.ask("submit", &id, other);
            }
        }
        caller.ask("read", &id, json!({}));
        let before = format!("t{}-{:02}", node % 3 + 1, n / 2);
        caller.ask("read", &before, json!({}));
        if n % 4 == 3 {
            caller.walk();
            caller.ask("run", &before, json!({ "again": n == 7 }));
        }
    }
}

/// The receiver's book.
fn deliveries(receiver: &Receiver) -> Vec<Value> {
    let mut times: HashMap<String, usize> = HashMap::new();
    let arrivals = receiver.arrivals().into_iter();
    let line = arrivals.map(|a| {
        let nth = times.entry(a.id.clone()).or_default();
        *nth += 1;
        let replies = replies(&a.id);
        json!({
            "t": a.at_us, "app": a.app, "id": a.id, "attempt": a.attempt, "fence": a.fence,
            "due": a.due_ms, "answer": replies[(*nth - 1).min(replies.len() - 1)], "end": a.at_us
        })
    });
    line.collect()
}

fn write(path: &Path, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(path, text).unwrap();
}

/// The end-to-end proof that the formats fit: a real cluster keeps its promises, by all checkers.
#[test]
fn a_real_run_passes() {
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3).fast().start();
    let book = Book::default();
    let mut faults = Vec::new();
    std::thread::scope(|scope| {
        for node in 1..=3 {
            let caller = Caller {
                node,
                client: cluster.client(node),
                book: &book,
            };
            let receiver = &receiver;
            scope.spawn(move || work(caller, receiver));
        }
    });
    // A leader is killed while tasks are due, and comes back.
    let old = cluster.wait_ready();
    let fault =
        |phase: &str| json!({ "t": now_us(), "what": "kill", "nodes": [old], "phase": phase });
    let other = old % 3 + 1;
    let mut caller = Caller {
        node: other,
        client: cluster.client(other),
        book: &book,
    };
    for n in 50..80 {
        let id = format!("t4-{n}");
        let task = work::task(&id, now_ms() + 300 + 20 * n as u64, &receiver.url);
        caller.ask("submit", &id, task);
    }
    faults.push(fault("begin"));
    cluster.node(old).kill();
    caller.ask("read", "t4-50", json!({}));
    cluster.node(old).start();
    cluster.wait_ready();
    faults.push(fault("end"));

    wait_for("all due tasks final", seconds(30), || {
        let tasks = list(&mut cluster.client(other), "");
        let rest = |task: &&Value| {
            let due: jiff::Timestamp = task["due_at"].as_str().unwrap().parse().unwrap();
            let far = due.as_millisecond() as u64 > now_ms() + FAR_MS / 2;
            match task["stage"].as_str().unwrap() {
                "done" | "dead" | "cancelled" => false,
                stage => !(far && stage == "scheduled"),
            }
        };
        (tasks.values().filter(rest).count() == 0).then_some(())
    });
    caller.walk();

    let dir = tempfile::tempdir().unwrap();
    for node in &cluster.nodes {
        let get = |path: &str| node.client().get(path).unwrap().json();
        let status = json!({ "cluster": get("/v1/cluster"), "stats": get("/v1/stats") });
        let path = dir.path().join(format!("status-{}.json", node.id));
        fs::write(path, status.to_string()).unwrap();
    }
    for node in &mut cluster.nodes {
        node.kill();
        let ran = support::node::binary()
            .args(["log", "export"])
            .arg(&node.dir)
            .output()
            .unwrap();
        assert!(
            ran.status.success(),
            "{}",
            String::from_utf8_lossy(&ran.stderr)
        );
        let path = dir.path().join(format!("log-{}.ndjson", node.id));
        fs::write(path, ran.stdout).unwrap();
    }
    write(
        &dir.path().join("history.ndjson"),
        &book.0.into_inner().unwrap(),
    );
    write(&dir.path().join("sink.ndjson"), &deliveries(&receiver));
    write(&dir.path().join("faults.ndjson"), &faults);

    let verdicts = check::check(dir.path());
    for verdict in &verdicts {
        println!(
            "{}: ok {}, checked {}, undecided {}\n{}\n",
            verdict.name, verdict.ok, verdict.checked, verdict.undecided, verdict.text
        );
    }
    if verdicts.iter().any(|v| !v.ok || v.undecided > 0) {
        let dir = dir.keep();
        panic!(
            "a run of the real binary must pass; it is kept in {}",
            dir.display()
        );
    }
    for bend in BENDS {
        assert_found(dir.path(), &bend);
    }
}

/// A file, the words that a line must have, what to do with the first such line, and which checkers
/// must find it.
type Bend = (
    &'static str,
    &'static [&'static str],
    fn(&mut Value) -> bool,
    &'static [&'static str],
);

/// What a broken product would leave behind. `false`: the line is gone.
const BENDS: [Bend; 7] = [
    (
        "sink.ndjson",
        &["t4-60"],
        |_| false,
        &["total queue", "sink's ledger"],
    ),
    (
        "sink.ndjson",
        &["t4-61"],
        |line| earlier(line, 5_000_000),
        &["sink's ledger"],
    ),
    (
        "sink.ndjson",
        &["t4-62"],
        |line| fenced(line, 1),
        &["total queue", "sink's ledger"],
    ),
    (
        "history.ndjson",
        &["invoke", "submit", "t4-63"],
        |_| false,
        &["well-formed", "total queue"],
    ),
    (
        "history.ndjson",
        &["\"stage\":\"cancelled\"", "\"decided\""],
        moved_on,
        &["replay"],
    ),
    (
        "history.ndjson",
        &["t4-79", "\"tasks\""],
        shortened,
        &["set-full"],
    ),
    (
        "log-2.ndjson",
        &["\"done\""],
        |line| {
            line["term"] = json!(99);
            true
        },
        &["replay"],
    ),
];

fn earlier(line: &mut Value, us: u64) -> bool {
    line["t"] = json!(line["t"].as_u64().unwrap() - us);
    true
}

fn fenced(line: &mut Value, fence: u64) -> bool {
    line["fence"] = json!(fence);
    true
}

/// An answer that says that a cancelled task went on.
fn moved_on(line: &mut Value) -> bool {
    line["value"]["stage"] = json!("triggered");
    true
}

/// A walk that lost its first task.
fn shortened(line: &mut Value) -> bool {
    line["value"]["tasks"].as_array_mut().unwrap().remove(0);
    true
}

/// Bends a run that was good, asserts that it is noticed, and bends it back.
#[track_caller]
fn assert_found(dir: &Path, (file, words, bend, finders): &Bend) {
    let path = dir.join(file);
    let good = fs::read_to_string(&path).unwrap();
    let has_words = |line: &&str| words.iter().all(|word| line.contains(word));
    let found = good.lines().find(has_words);
    let line = found.unwrap_or_else(|| panic!("{file} has no line with {words:?}"));
    let mut value: Value = serde_json::from_str(line).unwrap();
    let bent = match bend(&mut value) {
        true => format!("{value}\n"),
        false => String::new(),
    };
    fs::write(&path, good.replacen(&format!("{line}\n"), &bent, 1)).unwrap();
    for verdict in check::check(dir) {
        let must = finders.contains(&verdict.name);
        assert!(
            !must || !verdict.ok,
            "{file} {words:?} was not noticed: {verdict:#?}"
        );
    }
    fs::write(&path, good).unwrap();
}

/// What judges the product must not share a mistake with it.
#[test]
fn checkers_share_no_code_with_the_product() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jepsen-style/check");
    let mut count = 0;
    for dir in [root.clone(), root.join("model"), root.join("linear")] {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let text = fs::read_to_string(&path).unwrap();
                assert!(!text.contains("horolog::"), "{}", path.display());
                count += 1;
            }
        }
    }
    assert!(count > 15, "the files were found");
}
