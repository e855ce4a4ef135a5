//! For the tests of the checkers: one short run that keeps every promise, written by hand, and
//! ways to break it.
//!
//! `a` is delivered; `b` is cancelled in time; `c` fails, is handed to another node, fails again,
//! is dead, is run again, and is completed from outside; `d` is submitted without an answer, and
//! changed; `e` and `f` never came to be; `g` is withdrawn after its trigger, and cancelled.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;

use super::Verdict;

/// When the run begins, in milliseconds.
const START: u64 = 1_800_000_000_000;
pub const NODES: u64 = 3;

/// Milliseconds after the beginning, as an instant of the log.
pub fn at(ms: u64) -> Value {
    let instant = jiff::Timestamp::from_millisecond((START + ms) as i64).unwrap();
    json!(format!("{instant:.3}"))
}

/// The same as the history has them.
pub fn ms(ms: u64) -> u64 {
    START + ms
}

pub fn us(ms: u64) -> u64 {
    (START + ms) * 1_000
}

pub const fn fence(epoch: u64, attempt: u64) -> u64 {
    epoch << 32 | attempt
}

/// A run in the making. Log indexes and op numbers are those of [`Build::good`].
#[derive(Clone, Default)]
pub struct Build {
    pub history: Vec<Value>,
    pub sink: Vec<Value>,
    pub faults: Vec<Value>,
    pub log: Vec<Value>,
    /// Another log of node 2.
    pub other: Option<Vec<Value>>,
    pub stats: Value,
    /// What node 1 told of schedules.
    pub told: Option<Value>,
    /// The last index of which nodes say that it is decided, if it is not the last.
    pub said: Option<usize>,
    ops: u64,
}

impl Build {
    /// An operation; answered with the given type, unless that is empty. Returns its number.
    pub fn op(
        &mut self,
        f: &str,
        id: &str,
        asked: Value,
        from: u64,
        kind: &str,
        got: Value,
    ) -> u64 {
        let op = self.ops;
        self.ops += 1;
        let line = |kind: &str, t: u64, value: Value| {
            let mut line = json!({
                "op": op, "type": kind, "process": op % 4, "node": op % NODES + 1, "f": f,
                "t": us(t), "app": "app", "value": value
            });
            if !id.is_empty() {
                line["id"] = json!(id);
            }
            line
        };
        self.history.push(line("invoke", from, asked));
        if !kind.is_empty() {
            self.history.push(line(kind, from + 10, got));
        }
        op
    }

    /// A log entry with one event.
    pub fn log(&mut self, kind: &str, now: u64, event: Value) -> u64 {
        let index = self.log.len() as u64 + 1;
        self.log.push(json!({
            "index": index, "term": 1, "leader": 1, "kind": kind, "stamp": at(now), "now": at(now),
            "event": event
        }));
        index
    }

    pub fn deliver(&mut self, id: &str, attempt: u64, fence: u64, due: u64, t: u64, answer: u64) {
        self.sink.push(json!({
            "t": us(t), "app": "app", "id": id, "attempt": attempt, "fence": fence, "due": ms(due),
            "answer": answer, "end": us(t + 2)
        }));
    }

    pub fn fault(&mut self, what: &str, from: u64, to: u64) {
        for (phase, t) in [("begin", from), ("end", to)] {
            let line = json!({ "t": us(t), "what": what, "nodes": [1], "phase": phase });
            self.faults.push(line);
        }
    }

    /// What an operation was answered.
    pub fn got(&mut self, op: u64) -> &mut Value {
        let mut lines = self.history.iter_mut();
        let line = lines.find(|line| line["op"] == op && line["type"] != "invoke");
        &mut line.expect("it was answered")["value"]
    }

    /// Lets an operation concern all applications.
    pub fn unnamed(&mut self, op: u64) {
        for line in self.history.iter_mut().filter(|line| line["op"] == op) {
            line.as_object_mut().unwrap().remove("app");
        }
    }

    /// Drops an operation.
    pub fn forget(&mut self, op: u64) {
        self.history.retain(|line| line["op"] != op);
    }

    pub fn entry(&mut self, index: u64) -> &mut Value {
        &mut self.log[index as usize - 1]
    }

    /// The only delivery of a task and attempt.
    pub fn delivery(&mut self, id: &str, attempt: u64) -> &mut Value {
        let mut sink = self.sink.iter_mut();
        let found = sink.find(|line| line["id"] == id && line["attempt"] == attempt);
        found.expect("it was delivered")
    }

    /// Writes the folder.
    pub fn write(&self, dir: &Path) {
        let lines = |values: &[Value]| values.iter().map(|v| format!("{v}\n")).collect::<String>();
        fs::write(dir.join("history.ndjson"), lines(&self.history)).unwrap();
        fs::write(dir.join("sink.ndjson"), lines(&self.sink)).unwrap();
        fs::write(dir.join("faults.ndjson"), lines(&self.faults)).unwrap();
        if let Some(told) = &self.told {
            fs::write(dir.join("schedules-1.json"), told.to_string()).unwrap();
        }
        for node in 1..=NODES {
            let other = self.other.as_ref().filter(|_| node == 2);
            let log = lines(other.unwrap_or(&self.log));
            fs::write(dir.join(format!("log-{node}.ndjson")), log).unwrap();
            let hashes = json!([{ "index": 20, "hash": "aa" }]);
            let status = json!({
                "cluster": { "leader": 2, "nodes": [
                    { "id": node, "last_applied": self.said.unwrap_or(self.log.len()), "state_hashes": hashes }
                ] },
                "stats": self.stats
            });
            fs::write(dir.join(format!("status-{node}.json")), status.to_string()).unwrap();
        }
    }

    /// What all checkers say.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let dir = tempfile::tempdir().unwrap();
        self.write(dir.path());
        super::check(dir.path())
    }

    pub fn verdict(&self, name: &str) -> Verdict {
        let mut verdicts = self.verdicts().into_iter();
        verdicts.find(|verdict| verdict.name == name).unwrap()
    }

    /// Asserts that nothing is wrong with it.
    #[track_caller]
    pub fn passes(&self, name: &str) {
        let verdict = self.verdict(name);
        assert!(verdict.ok && verdict.checked > 0, "{verdict:#?}");
        assert_eq!(verdict.undecided, 0, "{verdict:#?}");
    }

    /// Asserts that a checker finds something wrong, and says so in these words.
    #[track_caller]
    pub fn fails(&self, name: &str, words: &str) {
        let verdict = self.verdict(name);
        assert!(!verdict.ok, "{verdict:#?}");
        assert!(
            verdict.text.contains(words),
            "{words:?} is not in {verdict:#?}"
        );
    }

    /// The good run, with something changed.
    pub fn but(change: impl FnOnce(&mut Build)) -> Build {
        let mut build = Build::good();
        change(&mut build);
        build
    }

    /// See the module.
    pub fn good() -> Build {
        let mut b = Build::default();
        b.log
            .push(json!({ "index": 1, "term": 1, "leader": 1, "kind": "membership" }));
        b.log
            .push(json!({ "index": 2, "term": 1, "leader": 1, "kind": "blank" }));
        b.log("assign", 0, assign(1));
        // 0: a, 1: b, 2: b is cancelled.
        b.log("submit", 100, submit("a", &at(1_000), Value::Null));
        b.op(
            "submit",
            "a",
            json!({ "due_at": ms(1_000) }),
            95,
            "ok",
            task(201, 4, "scheduled", 1_000, 0),
        );
        b.log(
            "submit",
            200,
            json!({
                "key": key("b"), "when": { "after": "5s" }, "spec": spec(Value::Null), "by": "t"
            }),
        );
        b.op(
            "submit",
            "b",
            json!({ "delay": "5s" }),
            195,
            "ok",
            task(201, 5, "scheduled", 5_200, 0),
        );
        b.log("cancel", 300, asks("b"));
        b.op(
            "cancel",
            "b",
            json!({}),
            295,
            "ok",
            task(200, 6, "cancelled", 5_200, 0),
        );
        // 3: c, 4: again, 5: with other content.
        let retry = json!({ "attempts": 2, "backoff": { "fixed": "1s" }, "jitter_milli": 0 });
        let asked = json!({ "due_at": ms(1_000), "retry": { "attempts": 2 } });
        b.log("submit", 400, submit("c", &at(1_000), retry.clone()));
        b.op(
            "submit",
            "c",
            asked.clone(),
            395,
            "ok",
            task(201, 7, "scheduled", 1_000, 0),
        );
        b.log("submit", 500, submit("c", &at(1_000), retry));
        let mut again = task(200, 7, "scheduled", 1_000, 0);
        again["decided"] = json!(8);
        b.op("submit", "c", asked, 495, "ok", again);
        b.log("submit", 550, submit("c", &at(7_000), Value::Null));
        b.op(
            "submit",
            "c",
            json!({ "due_at": ms(7_000) }),
            545,
            "fail",
            refused(409, 9),
        );
        // 6: a is read, 7: all are listed.
        b.op(
            "read",
            "a",
            json!({}),
            600,
            "ok",
            task(200, 4, "scheduled", 1_000, 0),
        );
        b.op(
            "list",
            "",
            json!({ "limit": 2 }),
            700,
            "ok",
            json!({ "status": 200, "tasks": [
            item("a", 4, "scheduled", 1_000, 0), item("b", 6, "cancelled", 5_200, 0),
            item("c", 7, "scheduled", 1_000, 0)
        ] }),
        );
        b.log("trigger", 990, json!({ "until": at(1_000), "max": 8_192 }));
        b.deliver("a", 1, fence(1, 1), 1_000, 1_000, 200);
        b.deliver("c", 1, fence(1, 1), 1_000, 1_001, 500);
        b.log("done", 1_004, outcome(1, fence(1, 1), 1_000, 200));
        b.log("failed", 1_005, outcome(3, fence(1, 1), 1_001, 500));
        // 8: too late to cancel a, 9: c is read.
        b.log("cancel", 1_105, asks("a"));
        b.op("cancel", "a", json!({}), 1_100, "fail", refused(409, 13));
        b.op(
            "read",
            "c",
            json!({}),
            1_200,
            "ok",
            task(200, 12, "retrying", 1_000, 1),
        );
        // The second attempt of c begins with node 1, and is handed to node 2 as the third.
        b.log(
            "trigger",
            2_000,
            json!({ "until": at(2_005), "max": 8_192 }),
        );
        b.log("assign", 2_003, assign(2));
        b.deliver("c", 3, fence(2, 3), 1_000, 2_005, 500);
        b.log("failed", 2_008, outcome(3, fence(2, 3), 2_005, 500));
        // 10: c is dead, and runs again; 11: it is completed from outside.
        b.log("run", 3_001, asks("c"));
        b.op(
            "run",
            "c",
            json!({}),
            2_995,
            "ok",
            task(200, 17, "triggered", 3_001, 4),
        );
        b.deliver("c", 4, fence(2, 4), 3_001, 3_002, 202);
        b.log("accepted", 3_005, outcome(3, fence(2, 4), 3_002, 202));
        let mut complete = asks("c");
        complete["ok"] = json!(true);
        b.log("complete", 3_105, complete);
        b.op(
            "complete",
            "c",
            json!({}),
            3_100,
            "ok",
            task(200, 19, "done", 3_001, 4),
        );
        // 12: d takes effect without an answer, 13: e does not.
        b.log("submit", 3_201, submit("d", &at(9_000), Value::Null));
        b.op(
            "submit",
            "d",
            json!({ "due_at": ms(9_000) }),
            3_200,
            "",
            Value::Null,
        );
        b.op(
            "submit",
            "e",
            json!({ "due_at": ms(9_000) }),
            3_210,
            "unknown",
            Value::Null,
        );
        b.op(
            "list",
            "",
            json!({}),
            3_300,
            "ok",
            json!({ "status": 200, "tasks": [
            item("a", 11, "done", 1_000, 1), item("b", 6, "cancelled", 5_200, 0),
            item("c", 19, "done", 3_001, 4), item("d", 20, "scheduled", 9_000, 0)
        ] }),
        );
        // 15: d is changed, 16: there is no e, 17: f is refused.
        let mut change = asks("d");
        change["when"] = json!({ "at": at(8_000) });
        b.log("change", 3_405, change);
        b.op(
            "change",
            "d",
            json!({ "due_at": ms(8_000) }),
            3_400,
            "ok",
            task(200, 21, "scheduled", 8_000, 0),
        );
        b.op(
            "read",
            "e",
            json!({}),
            3_450,
            "fail",
            json!({ "status": 404 }),
        );
        b.op(
            "submit",
            "f",
            json!({}),
            3_460,
            "fail",
            json!({ "status": 503 }),
        );
        // 18: g is triggered, 19: and withdrawn in time.
        b.log("submit", 3_500, submit("g", &at(4_000), Value::Null));
        b.op(
            "submit",
            "g",
            json!({ "due_at": ms(4_000) }),
            3_495,
            "ok",
            task(201, 22, "scheduled", 4_000, 0),
        );
        b.log(
            "trigger",
            3_990,
            json!({ "until": at(4_000), "max": 8_192 }),
        );
        b.log("cancel", 3_992, asks("g"));
        let mut cancel = asks("g");
        cancel["withdrawn"] = json!(fence(2, 1));
        b.log("cancel", 3_995, cancel);
        b.op(
            "cancel",
            "g",
            json!({}),
            3_990,
            "ok",
            task(200, 25, "cancelled", 4_000, 1),
        );
        b.stats = json!({ "index": 25, "tasks": { "done": 2, "cancelled": 2, "scheduled": 1 } });
        b
    }
}

fn key(id: &str) -> Value {
    json!({ "app": "app", "id": id })
}

pub fn asks(id: &str) -> Value {
    json!({ "key": key(id), "if_match": null, "withdrawn": null, "when": null, "spec": null, "by": "t" })
}

pub fn spec(retry: Value) -> Value {
    json!({ "target": { "http": { "url": "http://sink/", "timeout": null } }, "retry": retry })
}

pub fn submit(id: &str, due: &Value, retry: Value) -> Value {
    json!({ "key": key(id), "when": { "at": due }, "spec": spec(retry), "by": "t" })
}

pub fn assign(node: u64) -> Value {
    let shards: Vec<u64> = (0..64).collect();
    json!({ "shards": shards, "node": node, "boot": 1, "cause": "leader" })
}

/// An attempt that took two milliseconds.
pub fn outcome(seq: u64, fence: u64, started: u64, status: u64) -> Value {
    json!({
        "seq": seq, "fence": fence, "node": 1, "verdict": { "retry": { "not_before": "0ms" } },
        "end": {
            "started": at(started), "ended": at(started + 2), "queued": "0ms", "status": status
        }
    })
}

pub fn task(status: u64, index: u64, stage: &str, due: u64, attempt: u64) -> Value {
    json!({
        "status": status, "index": index, "stage": stage, "due_at": ms(due), "attempt": attempt
    })
}

fn refused(status: u64, decided: u64) -> Value {
    json!({ "status": status, "problem": "no", "decided": decided })
}

pub fn item(id: &str, index: u64, stage: &str, due: u64, attempt: u64) -> Value {
    let mut item = task(200, index, stage, due, attempt);
    item["app"] = json!("app");
    item["id"] = json!(id);
    item
}
