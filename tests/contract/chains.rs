//! What the end of a task starts.

use serde_json::{Value, json};

use super::node::shared;
use super::receiver::{Reply, receiver};
use super::task::{path, task, with};

const APP: &str = "c-chain";

fn next(url: &str, more: Value) -> Value {
    with(json!({ "target": { "http": { "url": url } } }), more)
}

/// The events of a task that say what its end started: who, and why not.
fn followed(id: &str) -> Vec<(Value, Value)> {
    let events = shared().part(APP, id, "events");
    let events = events.as_array().unwrap().clone();
    let followed = events.iter().filter(|event| event["kind"] == "followed");
    followed
        .map(|event| (event["by"].clone(), event["error"].clone()))
        .collect()
}

#[test]
fn each_end_starts_what_it_should_and_both_histories_say_so() {
    let node = shared();
    let good = receiver().on("/chain/good", |_| Reply::Status(200));
    let bad = receiver().on("/chain/bad", |_| Reply::Status(410));
    let last = next(&good, json!({}));
    let second = next(
        &bad,
        json!({ "delay": "50ms", "labels": { "step": "2" }, "on_success": last, "on_failure": last }),
    );
    let first = with(
        task(APP, "one", &good),
        json!({ "on_success": second, "on_failure": next(&good, json!({ "id": "alarm" })) }),
    );
    let made = node.submit(&first);
    assert_eq!(made["on_success"]["labels"]["step"], "2");
    assert_eq!(made["on_failure"]["id"], "alarm");

    node.wait_stage(APP, "one", "done");
    let second = node.wait_stage(APP, "one:done", "dead");
    assert_eq!(second["labels"]["step"], "2");
    node.wait_stage(APP, "one:done:dead", "done");
    assert_eq!(followed("one"), [(json!("c-chain/one:done"), Value::Null)]);
    assert_eq!(
        followed("one:done"),
        [(json!("c-chain/one:done:dead"), Value::Null)]
    );
    let born = &node.part(APP, "one:done:dead", "events")[0];
    assert_eq!(
        (&born["kind"], &born["by"]),
        (&json!("submitted"), &json!("task c-chain/one:done"))
    );
    let (ended, started) = (node.task(APP, "one"), node.part(APP, "one:done", "events"));
    let gap = super::task::millis(&second["due_at"]) - super::task::millis(&ended["finished_at"]);
    assert_eq!(
        (gap, &started[0]["index"]),
        (50, &ended["index"]),
        "in the fold of the end"
    );
    for none in ["one:dead", "alarm", "one:done:done"] {
        node.get(&path(APP, none)).problem(404);
    }
    let told = node.part(APP, "one", "explain").to_string();
    assert!(
        told.contains("Its end started the task c-chain/one:done, due at"),
        "{told}"
    );
    let told = node.part(APP, "one:done", "explain").to_string();
    assert!(told.contains("by task c-chain/one "), "{told}");
}

#[test]
fn a_cancelled_task_starts_nothing_and_one_that_is_there_is_left_alone() {
    let node = shared();
    let good = receiver().on("/chain/other", |_| Reply::Status(200));
    let both =
        json!({ "on_success": next(&good, json!({})), "on_failure": next(&good, json!({})) });
    let later = with(task(APP, "cancelled", &good), json!({ "delay": "1h" }));
    node.submit(&with(later, both));
    node.delete(&path(APP, "cancelled")).expect(200);
    assert_eq!(node.kinds(APP, "cancelled"), ["submitted", "cancelled"]);
    for none in ["cancelled:done", "cancelled:dead"] {
        node.get(&path(APP, none)).problem(404);
    }

    let there = with(task(APP, "there", &good), json!({ "delay": "1h" }));
    node.submit(&there);
    let follows = json!({ "on_success": next(&good, json!({ "id": "there" })) });
    node.submit(&with(task(APP, "two", &good), follows));
    node.wait_stage(APP, "two", "done");
    let why = json!("not started: there was a task with this id");
    assert_eq!(followed("two"), [(json!("c-chain/there"), why)]);
    assert_eq!(node.task(APP, "there")["stage"], "scheduled");
}

#[test]
fn chains_that_cannot_be_are_refused_where_they_are_wrong() {
    let node = shared();
    let url = receiver().url("/chain/none");
    let row = |length| {
        (0..length).fold(next(&url, json!({})), |last, _| {
            next(&url, json!({ "on_success": last }))
        })
    };
    for (next, part) in [
        (row(16), "at most 16"),
        (next("nowhere", json!({})), "on_success.target.http.url"),
        (next(&url, json!({ "id": "a b" })), "on_success"),
        (next(&url, json!({ "dleay": "1s" })), "dleay"),
        (json!({ "id": "x" }), "target"),
    ] {
        let sent = with(task(APP, "wrong", &url), json!({ "on_success": next }));
        let answer = node.post("/v1/tasks", &sent);
        let problem = answer.text();
        assert!([400, 422].contains(&answer.status), "{problem}");
        assert!(problem.contains(part), "{part}: {problem}");
    }
}
