//! `GET /v1/tasks` and `/v1/stats`.

use serde_json::{Value, json};
use std::collections::BTreeSet;

use super::node::{Node, now, shared, until};
use super::task::{PATIENCE, task, with};

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

/// What is due soon is in memory, what is due in a month lies in the store; after a checkpoint, and
/// after a restart, both are found by their label, and only they are looked at.
#[test]
fn a_label_finds_what_is_near_and_what_is_far() {
    let settings = [
        ("HOROLOG_RAFT_SNAPSHOT_ENTRIES", "60"),
        ("HOROLOG_STORE_CHECKPOINT_AGE", "500ms"),
    ];
    let mut node = Node::start(&settings);
    let sent = |id: &str, delay: &str, labels: Value| {
        let more = json!({ "delay": delay, "labels": labels });
        node.submit(&with(task("l-far", id, URL), more))["index"]
            .as_u64()
            .unwrap()
    };
    for n in 0..40 {
        let delay = if n % 2 == 0 { "1h" } else { "30d" };
        sent(&format!("other-{n:02}"), delay, json!({ "all": "yes" }));
    }
    sent("near", "1h", json!({ "order": "17", "all": "yes" }));
    let last = sent("far", "30d", json!({ "order": "17", "all": "yes" }));
    let checkpointed = |node: &Node, index: u64| {
        until("a checkpoint", PATIENCE, || {
            let cluster = node.get("/v1/cluster").expect(200).json();
            let done = cluster["nodes"][0]["checkpoint"].as_u64()? >= index;
            done.then_some(())
        });
    };
    let found = |node: &Node, query: &str| names(&list(node, query));
    let dry = json!({ "filter": { "labels": { "order": "17", "all": "yes" } },
        "action": "cancel", "dry_run": true });
    let check = |node: &Node, ids: &[&str]| {
        assert_eq!(found(node, "label.order=17"), ids);
        assert_eq!(found(node, "label.all=yes&label.order=17&app=l-far"), ids);
        assert_eq!(found(node, "label.order=17&app=l-fa"), [""; 0]);
        let told = node.post("/v1/tasks/bulk", &dry).expect(200).json();
        let looked = (&told["examined"], &told["changed"]);
        assert_eq!(looked, (&json!(ids.len()), &json!(ids.len())), "{told}");
    };
    check(&node, &["l-far/far", "l-far/near"]);
    checkpointed(&node, last);
    check(&node, &["l-far/far", "l-far/near"]);
    node.crash_and_restart();
    check(&node, &["l-far/far", "l-far/near"]);
    // The same submit is recognized on disk; labels move with a change, of far tasks too.
    let again = with(
        task("l-far", "far", URL),
        json!({ "delay": "30d", "labels": { "order": "17", "all": "yes" } }),
    );
    node.post("/v1/tasks", &again).expect(200);
    let other = with(task("l-far", "far", URL), json!({ "delay": "31d" }));
    node.post("/v1/tasks", &other).problem(409);
    let moved = json!({ "labels": { "order": "18" } });
    node.patch("/v1/tasks/l-far/far", &moved).expect(200);
    let changed = node.patch(
        "/v1/tasks/l-far/other-01",
        &json!({ "labels": { "order": "17" } }),
    );
    let last = changed.expect(200).index();
    check(&node, &["l-far/near", "l-far/other-01"]);
    assert_eq!(found(&node, "label.order=18"), ["l-far/far"]);
    checkpointed(&node, last);
    node.crash_and_restart();
    check(&node, &["l-far/near", "l-far/other-01"]);
    assert_eq!(found(&node, "label.order=18"), ["l-far/far"]);
    // And in pages, all of them once.
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = list(&node, &format!("label.all=yes&limit=5{cursor}"));
        seen.extend(names(&page));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 42, "{seen:?}");
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    let dir = node.crash();
    let verified = super::node::cli(&["log", "verify", dir.to_str().unwrap()], &[]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
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
