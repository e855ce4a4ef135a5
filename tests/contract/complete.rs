//! Completion from outside: 202 and then done, done before anything, failed, fenced.

use serde_json::{Value, json};

use super::http;
use super::node::{now, shared};
use super::receiver::{Reply, receiver};
use super::task::{path, task, with};

const URL: &str = "http://127.0.0.1:9/hook";

fn done(app: &str, id: &str, body: &Value) -> http::Answer {
    shared().post(&(path(app, id) + "/done"), body)
}

/// An accepted task, and the fence its receiver saw.
fn accepted(app: &str, id: &str, more: Value) -> u64 {
    let hook = format!("/{app}-{id}");
    let url = receiver().on(&hook, |_| Reply::Status(202));
    shared().submit(&with(task(app, id, &url), more));
    shared().wait_stage(app, id, "accepted");
    receiver().wait(&hook, 1)[0].number("horolog-fence")
}

#[test]
fn accepted_and_done_later() {
    let node = shared();
    let fence = accepted("d-later", "a", json!({}));
    let there = path("d-later", "a");
    node.delete(&there).problem(409);
    node.patch(&there, &json!({ "delay": "1h" })).problem(409);
    node.post(&format!("{there}/run"), &json!({})).problem(409);
    done("d-later", "a", &json!({ "fence": fence - 1 })).problem(409);
    assert_eq!(node.task("d-later", "a")["stage"], "accepted");
    let ended = done(
        "d-later",
        "a",
        &json!({ "fence": fence, "result": { "n": 1 } }),
    )
    .expect(200);
    assert!(ended.index() > 0);
    assert_eq!(ended.json()["stage"], "done");
    done("d-later", "a", &json!({})).expect(200);
    done("d-later", "a", &json!({ "fence": fence })).expect(200);
    assert_eq!(
        node.kinds("d-later", "a"),
        ["submitted", "triggered", "accepted", "done"]
    );
    let explained = node.explained("d-later", "a");
    assert!(
        explained.contains("accepted it (202)") && explained.contains("marked done"),
        "{explained}"
    );
}

#[test]
fn an_empty_body_means_well() {
    let node = shared();
    for (id, headers) in [
        ("bare", &[][..]),
        ("json", &[("content-type", "application/json")]),
    ] {
        accepted("d-empty", id, json!({}));
        let there = path("d-empty", id) + "/done";
        let answer = http::send(node.http, "POST", &there, headers, b"").expect(200);
        assert_eq!(answer.json()["stage"], "done");
    }
}

#[test]
fn accepted_and_done_through_the_old_path() {
    accepted("d-old", "a", json!({}));
    let node = shared();
    let name = json!({ "appId": "d-old", "uuid": "a" });
    let answer = node.post("/api/task/done", &name).expect(200);
    assert_eq!(answer.json()["success"], true);
    assert_eq!(node.task("d-old", "a")["stage"], "done");
}

#[test]
fn accepted_and_never_done_is_tried_again() {
    let node = shared();
    let url = receiver().on("/never", |n| Reply::Status(if n == 0 { 202 } else { 200 }));
    let more = json!({ "accept_timeout": "400ms", "retry": { "backoff": { "fixed": "50ms" } } });
    node.submit(&with(task("d-never", "a", &url), more));
    let seen = receiver().wait("/never", 2);
    assert!(
        seen[1].at - seen[0].at >= 450,
        "{}",
        seen[1].at - seen[0].at
    );
    node.wait_stage("d-never", "a", "done");
    assert_eq!(
        node.kinds("d-never", "a"),
        [
            "submitted",
            "triggered",
            "accepted",
            "retry",
            "triggered",
            "done"
        ]
    );
    let attempts = node.part("d-never", "a", "attempts");
    assert_eq!(attempts[0]["status"], 202);
}

#[test]
fn a_done_task_never_fires() {
    let node = shared();
    let url = receiver().url("/never-fires");
    let due = now() + 400;
    node.submit(&with(task("d-early", "a", &url), json!({ "due_at": due })));
    let ended = done("d-early", "a", &json!({ "ok": true }))
        .expect(200)
        .json();
    assert_eq!(
        (&ended["stage"], &ended["attempt"]),
        (&json!("done"), &json!(0))
    );
    // A task due later has fired: this one did not.
    node.submit(&with(
        task("d-early", "b", &receiver().url("/fires")),
        json!({ "due_at": due + 200 }),
    ));
    node.wait_stage("d-early", "b", "done");
    assert!(receiver().seen("/never-fires").is_empty());
}

#[test]
fn failed_from_outside() {
    let node = shared();
    // Scheduled: dead at once.
    node.submit(&with(
        task("d-fail", "early", URL),
        json!({ "delay": "1h" }),
    ));
    let dead = done(
        "d-fail",
        "early",
        &json!({ "ok": false, "error": "not wanted" }),
    )
    .expect(200)
    .json();
    assert_eq!(
        (&dead["stage"], &dead["error"]),
        (&json!("dead"), &json!("not wanted"))
    );
    done("d-fail", "early", &json!({ "ok": false })).expect(200);
    done("d-fail", "early", &json!({})).problem(409);
    // Accepted: retried by its policy.
    let more = json!({ "retry": { "attempts": 2, "backoff": { "fixed": "10m" } } });
    accepted("d-fail", "later", more);
    let retried = done("d-fail", "later", &json!({ "ok": false, "error": "broke" }))
        .expect(200)
        .json();
    assert_eq!(
        (&retried["stage"], &retried["error"]),
        (&json!("retrying"), &json!("broke"))
    );
    // Retrying: dead.
    let dead = done("d-fail", "later", &json!({ "ok": false }))
        .expect(200)
        .json();
    assert_eq!(dead["stage"], "dead");
}

#[test]
fn other_final_stages_refuse() {
    let node = shared();
    node.submit(&with(task("d-final", "c", URL), json!({ "delay": "1h" })));
    node.delete(&path("d-final", "c")).expect(200);
    done("d-final", "c", &json!({})).problem(409);
    done("d-final", "c", &json!({ "ok": false })).problem(409);
    assert_eq!(node.task("d-final", "c")["stage"], "cancelled");
    node.submit(&with(task("d-final", "d", URL), json!({ "delay": "1h" })));
    done("d-final", "d", &json!({})).expect(200);
    done("d-final", "d", &json!({ "ok": false })).problem(409);
}

#[test]
fn unknown_tasks_are_unknown_under_v1() {
    done("d-unknown", "a", &json!({})).problem(404);
    done("d-unknown", "a", &json!({ "ok": false })).problem(404);
    // And no mark was kept.
    let made = shared().submit(&with(task("d-unknown", "a", URL), json!({ "delay": "1h" })));
    assert_eq!(made["stage"], "scheduled");
    done("d-unknown", "a", &json!({ "okay": true })).problem(422);
}
