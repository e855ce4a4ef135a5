//! The old paths: the envelope, the credential, other names, other statuses.

use serde_json::{Value, json};

use super::http::{self, Answer};
use super::node::{Node, now, shared};
use super::receiver::{Reply, receiver};
use super::task::{millis, task, with};

/// A success in the envelope; its data.
#[track_caller]
fn data(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let json = answer.json();
    assert_eq!(
        (&json["code"], &json["success"], &json["message"]),
        (&json!(0), &json!(true), &json!("ok"))
    );
    json["data"].clone()
}

/// A failure in the envelope, with this HTTP status.
#[track_caller]
fn failure(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let json = answer.json();
    assert_eq!(json["success"], false);
    assert_ne!(json["code"], 0);
    assert!(json["message"].is_string() && json.get("data").is_some());
    json
}

#[test]
fn submit_fires_and_repeats_are_the_same_task() {
    let node = shared();
    let url = receiver().on("/old-submit", |n| {
        Reply::Status(if n < 2 { 500 } else { 200 })
    });
    let sent = json!({ "appId": "o-submit", "uuid": "order-1", "expireTime": now() + 200, "url": url, "method": "PUT",
        "headers": { "x-a": "b" }, "body": "hello", "timeout": 5_000, "retryCount": 2, "retryInterval": 50 });
    let first = node.post("/submit", &sent);
    assert_eq!(data(&first), json!({ "uuid": "order-1" }));
    assert!(first.index() > 0);
    assert_eq!(
        data(&node.post("/submit", &sent)),
        json!({ "uuid": "order-1" })
    );
    let seen = receiver().wait("/old-submit", 3);
    assert!(seen[0].at >= sent["expireTime"].as_u64().unwrap());
    assert_eq!(
        (seen[0].method.as_str(), seen[0].header("x-a")),
        ("PUT", "b")
    );
    assert_eq!(seen[0].body, b"hello");
    assert!(seen[1].at - seen[0].at >= 50);
    let done = node.wait_stage("o-submit", "order-1", "done");
    assert_eq!(done["retry"]["attempts"], 3);
    assert_eq!(done["target"]["http"]["timeout"], "5s");
    let other = with(sent, json!({ "body": "other" }));
    failure(&node.post("/submit", &other), 409);
}

#[test]
fn a_delay_and_a_made_id() {
    let node = shared();
    let sent = json!({ "appId": "o-delay", "delay": 3_600_000, "url": "http://127.0.0.1:9/" });
    let id = data(&node.post("/submit", &sent))["uuid"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(id.parse::<uuid::Uuid>().unwrap().get_version_num(), 7);
    let made = node.task("o-delay", &id);
    assert_eq!(
        millis(&made["due_at"]) - millis(&made["created_at"]),
        3_600_000
    );
    let one = data(&node.get("/uuid"))["uuid"]
        .as_str()
        .unwrap()
        .to_owned();
    let two = data(&node.get("/uuid"))["uuid"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(one < two && one.parse::<uuid::Uuid>().unwrap().get_version_num() == 7);
}

#[test]
fn errors_keep_the_envelope() {
    let node = shared();
    failure(&node.post("/submit", &json!({ "appId": "o-error" })), 422);
    failure(
        &node.post(
            "/submit",
            &json!({ "appId": "o-error", "url": "http://a/", "sync": true }),
        ),
        422,
    );
    failure(
        &node.post(
            "/submit",
            &json!({ "appId": "o error", "url": "http://a/" }),
        ),
        422,
    );
    failure(&http::send(node.http, "POST", "/submit", &[], b"{"), 400);
    failure(
        &http::send(
            node.http,
            "POST",
            "/submit",
            &[("content-type", "text/plain")],
            b"{}",
        ),
        415,
    );
    failure(
        &http::send(node.http, "POST", "/submit", &[], &vec![b' '; 2 << 20]),
        413,
    );
    failure(&node.get("/submit"), 405);
    failure(
        &node.post("/execute", &json!({ "appId": "o-error", "uuid": "nobody" })),
        404,
    );
}

#[test]
fn done_before_the_submit_is_born_done() {
    let node = shared();
    let url = receiver().url("/born-done");
    for (done, id) in [("/api/task/done", "a"), ("/done", "b")] {
        let marked = node.post(done, &json!({ "appId": "o-born", "uuid": id }));
        assert!(marked.index() > 0);
        data(&marked);
        node.get(&format!("/v1/tasks/o-born/{id}")).problem(404);
        // Again: the same.
        data(&node.post(done, &json!({ "appId": "o-born", "uuid": id })));
        let born = node.submit(&task("o-born", id, &url));
        assert_eq!(
            (&born["stage"], &born["attempt"]),
            (&json!("done"), &json!(0))
        );
    }
    // Through the old path as well, and a neighbour fires.
    data(&node.post("/api/task/done", &json!({ "appId": "o-born", "uuid": "c" })));
    data(&node.post(
        "/submit",
        &json!({ "appId": "o-born", "uuid": "c", "url": url }),
    ));
    data(&node.post(
        "/submit",
        &json!({ "appId": "o-born", "uuid": "d", "url": receiver().url("/born-alive") }),
    ));
    node.wait_stage("o-born", "d", "done");
    assert_eq!(node.task("o-born", "c")["stage"], "done");
    assert!(receiver().seen("/born-done").is_empty());
}

#[test]
fn execute_runs_now() {
    let node = shared();
    let url = receiver().url("/execute");
    node.submit(&with(
        task("o-execute", "named", &url),
        json!({ "delay": "1h" }),
    ));
    let ran = data(&node.post(
        "/execute",
        &json!({ "appId": "o-execute", "uuid": "named", "sync": true }),
    ));
    assert_eq!(
        ran,
        json!({ "uuid": "named", "stage": 2, "stageName": "DONE" })
    );
    let whole = json!({ "appId": "o-execute", "uuid": "whole", "url": url, "sync": true });
    assert_eq!(data(&node.post("/execute", &whole))["stageName"], "DONE");
    let later = json!({ "appId": "o-execute", "uuid": "later", "url": url, "delay": 3_600_000 });
    let begun = data(&node.post("/execute", &later));
    assert!(
        begun["stageName"] == "TODO" || begun["stageName"] == "DONE",
        "{begun}"
    );
    node.wait_stage("o-execute", "later", "done");
    assert_eq!(receiver().seen("/execute").len(), 3);
    failure(
        &node.post(
            "/execute",
            &json!({ "appId": "o-execute", "uuid": "named" }),
        ),
        409,
    );
}

#[test]
fn other_names_numbers_and_statuses() {
    let node = Node::start(&[
        ("HOROLOG_COMPAT_STATUS", "always_200"),
        (
            "HOROLOG_COMPAT_FIELDS",
            "appId=app_id,uuid=taskId,code=status,data=payload",
        ),
        ("HOROLOG_COMPAT_STAGES_DONE", "9"),
    ]);
    let url = receiver().url("/renamed");
    let sent = json!({ "app_id": "o-names", "taskId": "a", "url": url, "sync": true });
    let ran = node.post("/execute", &sent).expect(200).json();
    assert_eq!(ran["status"], 0);
    assert_eq!(
        ran["payload"],
        json!({ "taskId": "a", "stage": 9, "stageName": "DONE" })
    );
    for (path, body, code) in [
        ("/submit", json!({ "app_id": "o-names" }), 422),
        ("/submit", json!({ "appId": "o-names", "url": url }), 422),
        (
            "/execute",
            json!({ "app_id": "o-names", "taskId": "nobody" }),
            404,
        ),
        (
            "/execute",
            json!({ "app_id": "o-names", "taskId": "a" }),
            409,
        ),
    ] {
        let refused = node.post(path, &body).expect(200).json();
        assert_eq!(
            (&refused["status"], &refused["success"]),
            (&json!(code), &json!(false)),
            "{path} {body}"
        );
    }
    // Only the old paths do that.
    node.get("/v1/tasks/o-names/nobody").problem(404);
    node.get("/nowhere").problem(404);
}
