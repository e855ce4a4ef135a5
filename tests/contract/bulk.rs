//! `POST /v1/tasks/bulk`: one action for many tasks, with a dry run, resumable.

use serde_json::{Value, json};

use super::node::shared;
use super::task::{task, with};

const URL: &str = "http://127.0.0.1:9/hook";

fn add(app: &str, id: &str, group: &str) {
    let more = json!({ "delay": "1h", "labels": { "group": group } });
    shared().submit(&with(task(app, id, URL), more));
}

fn bulk(body: &Value) -> Value {
    shared().post("/v1/tasks/bulk", body).expect(200).json()
}

fn stage(app: &str, id: &str) -> Value {
    shared().task(app, id)["stage"].clone()
}

#[test]
fn a_dry_run_tells_and_the_real_one_does() {
    for n in 0..5 {
        add("k-cancel", &format!("in-{n}"), "a");
    }
    add("k-cancel", "out", "b");
    shared().delete("/v1/tasks/k-cancel/in-0").expect(200);
    let mut body = json!({
        "filter": { "app": "k-cancel", "labels": { "group": "a" } },
        "action": "cancel", "dry_run": true,
    });
    let told = json!({
        "examined": 5, "matched": 5, "changed": 4, "skipped": { "cancelled": 1 },
        "next": null, "dry_run": true,
    });
    assert_eq!(bulk(&body), told);
    assert_eq!(stage("k-cancel", "in-1"), "scheduled");
    body["dry_run"] = json!(false);
    let answer = shared().post("/v1/tasks/bulk", &body).expect(200);
    assert!(answer.header("horolog-index").is_some());
    let mut done = told.clone();
    done["dry_run"] = json!(false);
    assert_eq!(answer.json(), done);
    for n in 0..5 {
        assert_eq!(stage("k-cancel", &format!("in-{n}")), "cancelled");
    }
    assert_eq!(stage("k-cancel", "out"), "scheduled");
    let again = bulk(&body);
    assert_eq!(
        (&again["changed"], &again["skipped"]),
        (&json!(0), &json!({ "cancelled": 5 }))
    );
}

#[test]
fn changes_are_merged_into_each_task() {
    add("k-change", "a", "a");
    add("k-change", "b", "b");
    let change = json!({ "labels": { "seen": "yes" }, "due_at": "2030-01-01T00:00:00Z" });
    let body = json!({ "filter": { "app": "k-change" }, "action": "change", "change": change });
    assert_eq!(bulk(&body)["changed"], 2);
    for id in ["a", "b"] {
        let task = shared().task("k-change", id);
        assert_eq!(task["labels"], json!({ "group": id, "seen": "yes" }));
        assert_eq!(task["due_at"], "2030-01-01T00:00:00.000Z");
    }
    let body =
        json!({ "filter": { "app": "k-change", "labels": { "seen": "yes" } }, "action": "done" });
    assert_eq!(bulk(&body)["changed"], 2);
    assert_eq!(stage("k-change", "b"), "done");
}

#[test]
fn a_long_walk_goes_on_where_it_ended() {
    let mut lines = String::new();
    for n in 0..1_250 {
        let one = with(
            task("k-long", &format!("t-{n:04}"), URL),
            json!({ "delay": "1h" }),
        );
        lines += &format!("{one}\n");
    }
    let ndjson = &[("content-type", "application/x-ndjson")];
    let http = shared().http;
    super::http::send(http, "POST", "/v1/tasks/batch", ndjson, lines.as_bytes()).expect(200);
    let mut body = json!({ "filter": { "app": "k-long" }, "action": "cancel" });
    let (mut changed, mut requests) = (0, 0);
    loop {
        let progress = bulk(&body);
        changed += progress["changed"].as_u64().unwrap();
        requests += 1;
        assert!(
            progress["matched"].as_u64().unwrap() <= 1_000,
            "bounded work a request"
        );
        if progress["next"].is_null() {
            break;
        }
        body["cursor"] = progress["next"].clone();
    }
    assert_eq!(changed, 1_250);
    assert!(requests > 1);
    let left = shared()
        .get("/v1/tasks?app=k-long&stage=scheduled")
        .expect(200);
    assert_eq!(left.json()["tasks"], json!([]));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for body in [
        json!({ "action": "cancel" }),
        json!({ "filter": {}, "action": "burn" }),
        json!({ "filter": { "stage": "asleep" }, "action": "cancel" }),
        json!({ "filter": { "app": "k-x" }, "action": "change" }),
        json!({ "filter": { "app": "k-x" }, "action": "cancel", "change": { "delay": 1 } }),
        json!({ "filter": { "app": "k-x" }, "action": "change", "change": { "dely": 1 } }),
        json!({ "filter": { "app": "k-x" }, "action": "cancel", "cursor": "!" }),
    ] {
        shared().post("/v1/tasks/bulk", &body).expect(422);
    }
}
