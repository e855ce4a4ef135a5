//! The regular duties, run by hand: over HTTP and from the command line.

use serde_json::{Value, json};

use super::http;
use super::node::{Node, shared, until};
use super::task::{task, with};
use std::time::Duration;

const URL: &str = "http://127.0.0.1:9/hook";
const DUTIES: [&str; 4] = ["load", "watchdog", "retire", "checkpoint"];

fn far(app: &str, id: &str) -> Value {
    with(task(app, id, URL), json!({ "delay": "1h" }))
}

fn run(node: &Node, duty: &str) -> Value {
    let answer = node.post(&format!("/v1/lifecycle/{duty}"), &json!({}));
    let answer = answer.expect(200);
    let ran = answer.json();
    assert_eq!(ran["index"], answer.index());
    ran
}

#[test]
fn each_says_what_it_did() {
    let node = shared();
    for duty in DUTIES {
        let ran = run(node, duty);
        assert_eq!((&ran["duty"], &ran["node"]), (&json!(duty), &json!(1)));
        assert!(ran["index"].as_u64().unwrap() > 0, "{ran}");
        assert!(ran["examined"].as_u64().unwrap() >= ran["handled"].as_u64().unwrap());
        assert!(ran["took_ms"].as_f64().unwrap() >= 0.0);
        let text = node.cli(&["cluster", "run", duty]);
        assert_eq!(text.code, Some(0), "{text:?}");
        assert!(
            text.out.starts_with(&format!("{duty} on node 1: ")),
            "{text:?}"
        );
        let ran = node.cli(&["cluster", "run", duty, "--json"]).json();
        assert_eq!(ran["duty"], duty);
    }
}

#[test]
fn what_is_no_duty_is_refused() {
    let node = shared();
    let wrong = node.post("/v1/lifecycle/sleep", &json!({}));
    wrong.problem(404);
    assert!(wrong.text().contains("load, watchdog, retire, checkpoint"));
    http::send(node.http, "GET", "/v1/lifecycle/load", &[], b"").problem(405);
    node.post("/v1/lifecycle/load?fast=1", &json!({}))
        .problem(422);
    assert_eq!(node.cli(&["cluster", "run", "sleep"]).code, Some(2));
}

#[test]
fn they_need_the_token() {
    let node = Node::start(&[("HOROLOG_API_TOKEN", "t0ken")]);
    for duty in DUTIES {
        let path = format!("/v1/lifecycle/{duty}");
        node.post(&path, &json!({})).problem(401);
        let bearer = [("authorization", "Bearer t0ken")];
        node.send("POST", &path, &bearer, &json!({})).expect(200);
    }
}

#[test]
fn a_checkpoint_covers_every_write_before_it() {
    let mut node = Node::start(&[]);
    let index = node
        .post("/v1/tasks", &far("l-check", "a"))
        .expect(201)
        .index();
    let ran = run(&node, "checkpoint");
    assert!(ran["index"].as_u64().unwrap() >= index, "{ran}");
    assert_eq!(ran["handled"], 1);
    let cluster = node.get("/v1/cluster").expect(200).json();
    assert!(
        cluster["nodes"][0]["checkpoint"].as_u64() >= Some(index),
        "shown by the time it is answered: {cluster}"
    );
    node.crash_and_restart();
    assert_eq!(node.task("l-check", "a")["stage"], "scheduled");
}

#[test]
fn retire_drops_what_is_old_enough_and_the_watchdog_leaves_what_waits() {
    let settings = [
        ("HOROLOG_RETENTION_DONE", "0s"),
        ("HOROLOG_RETENTION_PERIOD", "1h"),
        ("HOROLOG_WATCHDOG_PERIOD", "1h"),
        ("HOROLOG_WATCHDOG_AFTER", "0s"),
    ];
    let node = Node::start(&settings);
    for id in ["a", "b", "c"] {
        node.post("/v1/tasks", &far("l-gone", id)).expect(201);
    }
    node.delete("/v1/tasks/l-gone/a").expect(200);
    node.delete("/v1/tasks/l-gone/b").expect(200);
    node.get("/v1/tasks/l-gone/a").expect(200);
    until("both are gone", Duration::from_secs(10), || {
        run(&node, "retire");
        (node.get("/v1/tasks/l-gone/b").status == 404).then_some(())
    });
    node.get("/v1/tasks/l-gone/a").problem(404);
    node.get("/v1/tasks/l-gone/c").expect(200);

    let before = run(&node, "watchdog");
    let after = run(&node, "watchdog");
    assert_eq!(after["index"], before["index"], "nothing was written");
    assert_eq!(
        (&after["examined"], &after["handled"]),
        (&json!(0), &json!(0))
    );

    let metrics = node.get("/metrics").expect(200).text();
    let value = |series: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(series));
        let value = line
            .and_then(|line| line.rsplit_once(' '))
            .map(|(_, v)| v.parse());
        value
            .unwrap_or_else(|| panic!("{series}: {metrics}"))
            .unwrap()
    };
    assert_eq!(value("horolog_lifecycle_tasks_total{duty=\"retire\"}"), 2.0);
    assert_eq!(
        value("horolog_lifecycle_tasks_total{duty=\"watchdog\"}"),
        0.0
    );
    assert!(value("horolog_lifecycle_runs_total{duty=\"watchdog\"}") >= 2.0);
    assert!(value("horolog_lifecycle_runs_total{duty=\"load\"}") >= 1.0);
    assert!(value("horolog_lifecycle_last_age_seconds{duty=\"watchdog\"}") < 60.0);
    assert!(value("horolog_lifecycle_last_run_seconds{duty=\"retire\"}") < 60.0);
    assert!(value("horolog_log_entries") > 0.0);
}
