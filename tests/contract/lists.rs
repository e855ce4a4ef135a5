//! `GET /v1/tasks` and `/v1/stats`.

use serde_json::{Value, json};
use std::collections::BTreeSet;

use super::node::{Node, now, shared};
use super::task::{task, with};

const URL: &str = "http://127.0.0.1:9/hook";

fn add(app: &str, id: &str, more: Value) {
    shared().submit(&with(
        with(task(app, id, URL), json!({ "delay": "1h" })),
        more,
    ));
}

fn names(page: &Value) -> Vec<String> {
    let tasks = page["tasks"].as_array().unwrap();
    tasks
        .iter()
        .map(|t| {
            format!(
                "{}/{}",
                t["app"].as_str().unwrap(),
                t["id"].as_str().unwrap()
            )
        })
        .collect()
}

fn list(node: &Node, query: &str) -> Value {
    node.get(&format!("/v1/tasks?{query}")).expect(200).json()
}

#[test]
fn in_order_and_filtered() {
    let node = shared();
    let due = now() + 3_600_000;
    for (n, id) in ["b", "a", "C", "a-1", "a.2"].into_iter().enumerate() {
        let more = json!({ "labels": { "order": n.to_string(), "all": "yes" } });
        add("l-order", id, more);
    }
    for (id, at) in [("x", due), ("y", due + 1), ("z", due + 2)] {
        let mut sent = task("l-due", id, URL);
        sent["due_at"] = json!(at);
        node.submit(&sent);
    }
    assert_eq!(
        names(&list(node, "app=l-order")),
        [
            "l-order/C",
            "l-order/a",
            "l-order/a-1",
            "l-order/a.2",
            "l-order/b"
        ]
    );
    assert_eq!(
        names(&list(node, "app=l-order&label.order=1")),
        ["l-order/a"]
    );
    assert_eq!(
        names(&list(node, "label.order=1&label.all=yes&app=l-order")),
        ["l-order/a"]
    );
    assert_eq!(
        names(&list(node, "app=l-order&label.order=1&label.all=no")),
        [""; 0]
    );
    let range = |from: u64, to: u64| {
        names(&list(
            node,
            &format!("app=l-due&due_from={from}&due_to={to}"),
        ))
    };
    assert_eq!(
        range(due, due + 2),
        ["l-due/x", "l-due/y"],
        "from is inclusive, to exclusive"
    );
    assert_eq!(range(due + 3, due + 9), [""; 0]);
    node.delete("/v1/tasks/l-order/b").expect(200);
    assert_eq!(
        names(&list(node, "app=l-order&stage=cancelled")),
        ["l-order/b"]
    );
    assert_eq!(names(&list(node, "app=l-order&stage=scheduled")).len(), 4);
    assert_eq!(
        list(node, "app=l-nobody"),
        json!({ "tasks": [], "next": null })
    );
    // A prefix of an application is another application.
    assert_eq!(names(&list(node, "app=l-orde")), [""; 0]);
    let whole = node.task("l-order", "a");
    assert_eq!(list(node, "app=l-order&label.order=1")["tasks"][0], whole);
}

#[test]
fn a_walk_returns_what_was_there_once_while_others_come() {
    let node = shared();
    let there: BTreeSet<String> = (0..50).map(|n| format!("l-walk/t{n:03}")).collect();
    for n in 0..50 {
        add("l-walk", &format!("t{n:03}"), json!({}));
    }
    let (mut seen, mut cursor, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let more = cursor.map_or(String::new(), |c| format!("&cursor={c}"));
        let page = list(node, &format!("app=l-walk&limit=7{more}"));
        assert!(names(&page).len() <= 7);
        seen.extend(names(&page));
        // Before and behind the place reached, and the tasks there change.
        add("l-walk", &format!("s{pages:03}"), json!({}));
        add("l-walk", &format!("t{:03}x", pages * 5), json!({}));
        node.delete(&format!("/v1/tasks/l-walk/t{:03}", pages * 3))
            .expect(200);
        pages += 1;
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    let unique: BTreeSet<String> = seen.iter().cloned().collect();
    assert_eq!(unique.len(), seen.len(), "no task twice");
    assert!(there.is_subset(&unique), "{:?}", there.difference(&unique));
    assert!(seen.is_sorted());
}

#[test]
fn limits_and_unknown_parameters() {
    let node = shared();
    let lines: Vec<String> = (0..120)
        .map(|n| {
            with(
                task("l-limit", &format!("{n}"), URL),
                json!({ "delay": "1h" }),
            )
            .to_string()
        })
        .collect();
    let kind = [("content-type", "application/x-ndjson")];
    super::http::send(
        node.http,
        "POST",
        "/v1/tasks/batch",
        &kind,
        lines.join("\n").as_bytes(),
    )
    .expect(200);
    assert_eq!(names(&list(node, "app=l-limit")).len(), 100);
    assert_eq!(names(&list(node, "app=l-limit&limit=1000")).len(), 120);
    assert_eq!(names(&list(node, "app=l-limit&limit=1")).len(), 1);
    for bad in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=-1",
        "limit=1&limit=2",
        "stage=asleep",
        "colour=red",
        "label.=x",
        "due_from=tomorrow",
        "cursor=nonsense",
        "app=a%20b",
        "read=remote",
    ] {
        node.get(&format!("/v1/tasks?{bad}")).problem(422);
    }
    for bad in [
        "/v1/stats?stage=done",
        "/v1/cluster?x=1",
        "/v1/tasks/a/b?x=1",
    ] {
        node.get(bad).problem(422);
    }
    for good in ["due_from=2026-01-01T00:00:00%2B01:00", "due_to=1"] {
        list(node, good);
    }
}

#[test]
fn counts_are_exact() {
    let node = shared();
    for n in 0..7 {
        add("l-stats", &n.to_string(), json!({}));
    }
    node.delete("/v1/tasks/l-stats/0").expect(200);
    node.post("/v1/tasks/l-stats/1/done", &json!({}))
        .expect(200);
    let last = node
        .post("/v1/tasks/l-stats/2/done", &json!({ "ok": false }))
        .expect(200)
        .index();
    let stats = node.get("/v1/stats?app=l-stats").expect(200).json();
    assert!(stats["index"].as_u64().unwrap() >= last);
    assert_eq!(
        stats["tasks"],
        json!({ "scheduled": 4, "triggered": 0, "running": 0, "accepted": 0, "retrying": 0,
            "done": 1, "dead": 1, "cancelled": 1 })
    );
    let all = node.get("/v1/stats").expect(200).json();
    assert!(all["tasks"]["scheduled"].as_u64().unwrap() >= 4);
    let local = node.get("/v1/stats?app=l-stats&read=local").expect(200);
    assert_eq!(local.header("horolog-read"), Some("local"));
    let local = node.get("/v1/tasks/l-stats/3?read=local").expect(200);
    assert_eq!(local.header("horolog-read"), Some("local"));
    assert_eq!(node.get("/v1/tasks/l-stats/3").header("horolog-read"), None);
}
