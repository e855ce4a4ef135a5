//! What callers ask for: submit, cancel, change, run, complete.

use serde_json::Value;

use super::super::policy::Policy;
use super::super::run::Key;
use super::super::words::{instant, span};
use super::table::table;
use super::{Answer, Ending, Model, Place, Task};

impl Model {
    pub(super) fn asked(&mut self, kind: &str, at: Place, event: &Value) {
        let text = |name: &str| event["key"][name].as_str().unwrap_or_default().to_owned();
        let key = (text("app"), text("id"));
        let version = |model: &Model| model.ids.get(&key).map(|seq| model.tasks[seq].version);
        let before = version(self);
        let (kind, status, asks_owner) = match kind {
            "submit" => ("submit", self.submit(at, &key, event), false),
            "complete" => {
                let (status, asks_owner) = self.complete(at, &key, event);
                ("complete", status, asks_owner)
            }
            "cancel" => self.act("cancel", at, &key, event),
            "change" => self.act("change", at, &key, event),
            _ => self.act("run", at, &key, event),
        };
        let answer = Answer {
            kind,
            status,
            task: self.ids.get(&key).map(|seq| self.tasks[seq].seen()),
            changed: version(self) != before,
            asks_owner,
        };
        if asks_owner {
            self.asked_owner.insert((key.clone(), kind));
        }
        self.answers
            .entry((at.index, key))
            .or_default()
            .push(answer);
    }

    fn submit(&mut self, at: Place, key: &Key, event: &Value) -> u64 {
        let content = (event["when"].clone(), event["spec"].clone());
        if let Some(seq) = self.ids.get(key) {
            return if self.tasks[seq].content == content {
                200
            } else {
                409
            };
        }
        self.next_seq += 1;
        let seq = self.next_seq;
        let due = due(&event["when"], at.now).unwrap_or(at.now);
        let task = Task {
            key: key.clone(),
            stage: "scheduled",
            due,
            at: due,
            attempt: 0,
            fence: 0,
            owner: 0,
            tries: 0,
            version: 0,
            index: at.index,
            policy: Policy::of(&event["spec"]),
            content,
        };
        self.ids.insert(key.clone(), seq);
        self.tasks.insert(seq, task);
        self.edit(at, seq, |_| {});
        if self.marks.remove(key).is_some() {
            self.finish(at, seq, "done", Ending::Completed);
        }
        self.begin_if_due(at, seq);
        201
    }

    /// Cancel, change, run: what the table says.
    fn act(
        &mut self,
        kind: &'static str,
        at: Place,
        key: &Key,
        event: &Value,
    ) -> (&'static str, u64, bool) {
        let Some(seq) = self.ids.get(key).copied() else {
            return (kind, 404, false);
        };
        let task = &self.tasks[&seq];
        if let Some(based) = event["if_match"].as_array()
            && *based != [Value::from(seq), Value::from(task.version)]
        {
            return (kind, 412, false);
        }
        let (mut to, fence) = (table(kind, task.stage), task.fence);
        // What an owner withdrew counts while that attempt is about to begin.
        if event["withdrawn"].is_u64() && task.stage != "triggered" && kind != "run" {
            return (kind, 409, true);
        }
        if let Some(then) = to.strip_prefix("withdraw ") {
            if event["withdrawn"].as_u64() != Some(fence) {
                return (kind, 409, true);
            }
            self.close(seq, Ending::Withdrawn);
            to = then;
        }
        if let Some(then) = to.strip_prefix("again ") {
            if event["again"] != true {
                return (kind, 409, false);
            }
            to = then;
        }
        match (to, kind) {
            ("-", _) => return (kind, 409, false),
            ("same", _) => {}
            (_, "cancel") => self.finish(at, seq, "cancelled", Ending::Withdrawn),
            (_, "run") => self.begin(at, seq, "run", at.now),
            _ => self.change(at, seq, to, event),
        }
        (kind, 200, false)
    }

    fn change(&mut self, at: Place, seq: u64, to: &'static str, event: &Value) {
        let due = due(&event["when"], at.now);
        self.edit(at, seq, |task| {
            task.stage = to;
            if let Some(due) = due {
                task.due = due;
                task.at = due;
            }
            if event["spec"].is_object() {
                task.policy = Policy::of(&event["spec"]);
            }
        });
        self.begin_if_due(at, seq);
    }

    /// The status of the answer, and whether the owner is to be asked first: an attempt that has not
    /// begun does not begin after a completion either. What is said after that was asked counts for
    /// that attempt only.
    fn complete(&mut self, at: Place, key: &Key, event: &Value) -> (u64, bool) {
        let ok = event["ok"] == true;
        let Some(seq) = self.ids.get(key).copied() else {
            // Only the old paths keep a mark of what comes before its submit.
            if event["mark"] != true || !ok {
                return (404, false);
            }
            self.marks.entry(key.clone()).or_insert(at.now);
            return (200, false);
        };
        let task = &self.tasks[&seq];
        let (named, asked) = (event["fence"].as_u64(), event["asked"].as_u64());
        if named.is_some_and(|fence| fence != task.fence) {
            return (409, false);
        }
        let counts = match task.stage {
            "triggered" => named.is_some() || asked == Some(task.fence),
            "running" | "accepted" => asked.is_none_or(|asked| asked == task.fence),
            _ => asked.is_none(),
        };
        if !counts {
            return (409, true);
        }
        let verb = if ok { "complete ok" } else { "complete failed" };
        match table(verb, task.stage) {
            "-" => return (409, false),
            "same" => {}
            "retry" => self.retry(at, seq, at.now, Ending::Completed),
            to => self.finish(at, seq, to, Ending::Completed),
        }
        (200, false)
    }
}

/// The due instant that was asked for, by the leader's clock; `None` if nothing was said.
fn due(when: &Value, now: u64) -> Option<u64> {
    match when {
        Value::Null => None,
        Value::String(_) => Some(now),
        when => instant(&when["at"]).or_else(|| span(&when["after"]).map(|after| now + after)),
    }
}
