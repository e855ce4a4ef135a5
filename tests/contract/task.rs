//! What most cases do with tasks.

use serde_json::{Value, json};
use std::time::Duration;

use super::node::{Node, until};

/// Long enough for a busy machine, short enough to notice a hang.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A task with the members that must be there.
pub fn task(app: &str, id: &str, url: &str) -> Value {
    json!({ "app": app, "id": id, "target": { "http": { "url": url } } })
}

/// The same with further members.
pub fn with(mut task: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        task[name] = value.clone();
    }
    task
}

pub fn path(app: &str, id: &str) -> String {
    format!("/v1/tasks/{app}/{id}")
}

impl Node {
    /// Submits a task that must be new; its JSON.
    #[track_caller]
    pub fn submit(&self, task: &Value) -> Value {
        self.post("/v1/tasks", task).expect(201).json()
    }

    #[track_caller]
    pub fn task(&self, app: &str, id: &str) -> Value {
        self.get(&path(app, id)).expect(200).json()
    }

    /// The task, once it is in this stage.
    #[track_caller]
    pub fn wait_stage(&self, app: &str, id: &str, stage: &str) -> Value {
        until(&format!("{app}/{id} is {stage}"), PATIENCE, || {
            let task = self.task(app, id);
            (task["stage"] == stage).then_some(task)
        })
    }

    #[track_caller]
    pub fn part(&self, app: &str, id: &str, part: &str) -> Value {
        let whole = self.get(&format!("{}/{part}", path(app, id))).expect(200);
        let member = if part == "explain" { "sentences" } else { part };
        whole.json()[member].clone()
    }

    /// The kinds of a task's events, in order.
    #[track_caller]
    pub fn kinds(&self, app: &str, id: &str) -> Vec<String> {
        let events = self.part(app, id, "events");
        let kind = |event: &Value| event["kind"].as_str().unwrap().to_owned();
        events.as_array().unwrap().iter().map(kind).collect()
    }

    /// The explanation as one text.
    #[track_caller]
    pub fn explained(&self, app: &str, id: &str) -> String {
        let sentences = self.part(app, id, "explain");
        let text = |s: &Value| s.as_str().unwrap().to_owned();
        let all: Vec<String> = sentences.as_array().unwrap().iter().map(text).collect();
        all.join("\n")
    }
}

/// Epoch milliseconds of an instant as the API answers it.
#[track_caller]
pub fn millis(value: &Value) -> u64 {
    let text = value.as_str().unwrap_or_else(|| panic!("{value}"));
    let shape = "2026-01-01T00:00:00.000Z";
    assert!(text.len() == shape.len() && text.ends_with('Z'), "{text}");
    let instant: jiff::Timestamp = text.parse().unwrap();
    instant.as_millisecond() as u64
}
