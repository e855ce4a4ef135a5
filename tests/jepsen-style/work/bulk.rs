//! Groups of tasks that are changed together while some of them fall due.

use serde_json::{Value, json};

use super::call::Request;
use super::{Caller, Ended, task};
use crate::support::now_ms;

const APP: &str = "bulk";
/// A walk of more requests is given up.
const REQUESTS_MAX: usize = 20;

pub fn run(caller: &mut Caller) {
    let group = caller.shared.id("group");
    for _ in 0..caller.chance.between(3, 10) {
        let id = caller.shared.id("b");
        let due = now_ms() + caller.chance.between(200, 2_500);
        let mut body = task(APP, &id, due, &caller.shared.sink.url("ok"));
        body["labels"] = json!({ "group": group });
        caller.submit(&body);
    }
    caller.shared.remember_group(&group);
    let filter = json!({ "app": APP, "labels": { "group": group } });
    let mut body = json!({ "filter": filter });
    let action = *caller.chance.pick(&["cancel", "run", "change", "done"]);
    body["action"] = json!(action);
    if action == "change" {
        body["change"] = json!({ "due_at": now_ms() + caller.chance.between(100, 2_000) });
    }
    if caller.chance.percent(15) {
        body["dry_run"] = json!(true);
    }
    go(caller, body);
    let pause = caller.chance.between(400, 1_000);
    caller.shared.pause(pause);
}

/// Until `next` is null, each request an operation.
fn go(caller: &mut Caller, mut body: Value) {
    for _ in 0..REQUESTS_MAX {
        let (node, door) = caller.any_door();
        let request = Request::new("POST", "/v1/tasks/bulk").json(&body);
        let ended = caller.at(node, door, "bulk", (Some(APP), None), body.clone(), request);
        match ended {
            Ended::Ok(answer) if answer.json()["next"].is_string() => {
                body["cursor"] = answer.json()["next"].clone();
            }
            _ => return,
        }
    }
}
