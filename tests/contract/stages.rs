//! What cancelling and changing do, stage by stage.

use serde_json::json;

use super::node::{Node, now, shared};
use super::receiver::{Receiver, Reply, receiver};
use super::task::{millis, path, task, with};

const URL: &str = "http://127.0.0.1:9/hook";

#[test]
fn scheduled_tasks_are_cancelled_and_never_fire() {
    let node = shared();
    let url = receiver().url("/cancelled");
    let due = now() + 400;
    node.submit(&with(task("k-sched", "a", &url), json!({ "due_at": due })));
    let there = path("k-sched", "a");
    let cancelled = node.delete(&there).expect(200);
    let first = cancelled.index();
    assert_eq!(cancelled.json()["stage"], "cancelled");
    assert!(cancelled.json()["finished_at"].is_string());
    // Again: the same answer, and nothing changes.
    let again = node.delete(&there).expect(200);
    assert_eq!(again.json(), cancelled.json());
    assert!(again.index() > first);
    node.patch(&there, &json!({ "delay": "1h" })).problem(409);
    node.delete(&path("k-sched", "nobody")).problem(404);
    node.submit(&with(
        task("k-sched", "b", &receiver().url("/not-cancelled")),
        json!({ "due_at": due + 200 }),
    ));
    node.wait_stage("k-sched", "b", "done");
    assert!(receiver().seen("/cancelled").is_empty());
    let explained = node.explained("k-sched", "a");
    assert!(explained.contains("It was cancelled at"), "{explained}");
    // Run by hand it starts a new series.
    let done = node
        .post(&format!("{there}/run?wait=10s"), &json!({}))
        .expect(200)
        .json();
    assert_eq!(done["stage"], "done");
    assert_eq!(receiver().seen("/cancelled").len(), 1);
}

#[test]
fn retrying_tasks_are_cancelled_and_changed() {
    let node = shared();
    let url = receiver().on("/retrying", |_| Reply::Status(500));
    let retry = json!({ "retry": { "backoff": { "fixed": "1h" } } });
    for id in ["a", "b"] {
        node.submit(&with(task("k-retry", id, &url), retry.clone()));
        node.wait_stage("k-retry", id, "retrying");
    }
    assert_eq!(
        node.delete(&path("k-retry", "a")).expect(200).json()["stage"],
        "cancelled"
    );
    let elsewhere = receiver().url("/retried-elsewhere");
    let patch = json!({ "target": { "http": { "url": elsewhere } } });
    let changed = node.patch(&path("k-retry", "b"), &patch).expect(200).json();
    assert_eq!(changed["stage"], "retrying");
    node.patch(&path("k-retry", "b"), &json!({ "delay": 0 }))
        .expect(200);
    receiver().wait("/retried-elsewhere", 1);
    node.wait_stage("k-retry", "b", "done");
    assert_eq!(receiver().seen("/retrying").len(), 2);
}

#[test]
fn a_change_is_a_merge() {
    let node = shared();
    let first = json!({ "delay": "1h", "labels": { "a": "1", "b": "2" }, "retry": { "attempts": 7, "jitter": 0.5 } });
    let mut sent = with(task("k-merge", "a", URL), first);
    sent["target"]["http"]["headers"] = json!({ "authorization": "s3cret", "x": "1" });
    node.submit(&sent);
    let there = path("k-merge", "a");
    let due = now() + 7_200_000;
    let patch = json!({ "due_at": due, "labels": { "a": null, "c": "3" }, "retry": { "attempts": 9 },
        "target": { "http": { "method": "PUT", "headers": { "x": null, "y": "2" } } } });
    let changed = node.patch(&there, &patch).expect(200).json();
    assert_eq!(millis(&changed["due_at"]), due);
    assert_eq!(changed["labels"], json!({ "b": "2", "c": "3" }));
    assert_eq!(
        (&changed["retry"]["attempts"], &changed["retry"]["jitter"]),
        (&json!(9), &json!(0.5))
    );
    let http = &changed["target"]["http"];
    assert_eq!(
        (&http["method"], &http["url"]),
        (&json!("PUT"), &json!(URL))
    );
    assert_eq!(http["headers"], json!({ "authorization": "***", "y": "2" }));
    assert_eq!(node.task("k-merge", "a"), changed);
    assert_eq!(node.kinds("k-merge", "a"), ["submitted", "changed"]);
    // What is not acceptable changes nothing.
    for bad in [
        json!({ "stage": "done" }),
        json!({ "id": "b" }),
        json!({ "due_at": 1, "delay": 1 }),
        json!({ "target": { "http": { "url": "nonsense" } } }),
        json!({ "retry": { "attempts": 0 } }),
    ] {
        node.patch(&there, &bad).problem(422);
    }
    assert_eq!(node.task("k-merge", "a"), changed);
    // The first submit is still the same submit.
    assert_eq!(node.post("/v1/tasks", &sent).expect(200).json(), changed);
}

#[test]
fn a_task_is_brought_forward() {
    let node = shared();
    let url = receiver().url("/forward");
    node.submit(&with(
        task("k-forward", "a", &url),
        json!({ "delay": "1h" }),
    ));
    let due = now() + 200;
    node.patch(&path("k-forward", "a"), &json!({ "due_at": due }))
        .expect(200);
    let seen = receiver().wait("/forward", 1);
    assert!((due..due + 2_000).contains(&seen[0].at));
    assert_eq!(millis(&json!(seen[0].header("horolog-due"))), due);
}

#[test]
fn a_triggered_task_that_waits_is_withdrawn() {
    let node = Node::start(&[("HOROLOG_CALLBACKS_PER_TARGET", "1")]);
    let slow = Receiver::start();
    let url = slow.on("/slow", |_| Reply::Gate);
    node.submit(&task("k-withdraw", "holds", &url));
    slow.wait("/slow", 1);
    let waiting = slow.url("/waiting");
    for id in ["a", "b", "c"] {
        node.submit(&task("k-withdraw", id, &waiting));
        node.wait_stage("k-withdraw", id, "triggered");
    }
    let explained = node.explained("k-withdraw", "a");
    assert!(
        explained.contains("waits for its turn at the target"),
        "{explained}"
    );
    let cancelled = node.delete(&path("k-withdraw", "a")).expect(200).json();
    assert_eq!(cancelled["stage"], "cancelled");
    let changed = node
        .patch(&path("k-withdraw", "b"), &json!({ "delay": "1h" }))
        .expect(200)
        .json();
    assert_eq!(changed["stage"], "scheduled");
    // A change that keeps the instant is triggered anew.
    let label = json!({ "labels": { "k": "v" } });
    node.patch(&path("k-withdraw", "c"), &label).expect(200);
    slow.open("/slow");
    node.wait_stage("k-withdraw", "c", "done");
    node.wait_stage("k-withdraw", "holds", "done");
    let seen = slow.seen("/waiting");
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].header("horolog-task"), "c");
    assert_eq!(node.task("k-withdraw", "a")["stage"], "cancelled");
    assert_eq!(node.task("k-withdraw", "b")["stage"], "scheduled");
}

#[test]
fn an_attempt_that_began_is_not_cancelled() {
    let node = shared();
    let url = receiver().on("/began", |_| Reply::Gate);
    node.submit(&task("k-began", "a", &url));
    receiver().wait("/began", 1);
    // Under way for less than a second: not logged as running yet, and too late all the same.
    node.delete(&path("k-began", "a")).problem(409);
    receiver().open("/began");
    node.wait_stage("k-began", "a", "done");
}
