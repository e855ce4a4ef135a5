//! Shard sets, on the new paths, the old ones and the command line. Each case has a node of its own:
//! fills are the whole cluster's.

use serde_json::{Value, json};
use std::collections::BTreeSet;

use super::node::{Node, now};
use super::task::{task, with};

const APP: &str = "shards";

fn submit(node: &Node, name: &str, count: usize, due: u64) -> BTreeSet<String> {
    let ids: BTreeSet<String> = (0..count).map(|n| format!("{name}-{n:03}")).collect();
    for id in &ids {
        let task = with(
            task(APP, id, "http://127.0.0.1:9/"),
            json!({ "due_at": due }),
        );
        node.post("/v1/tasks", &task).expect(201);
    }
    ids
}

fn post(node: &Node, path: &str, body: &Value) -> (u16, Value) {
    let answer = node.post(path, body);
    (answer.status, answer.json())
}

fn put(node: &Node, name: &str, total: u32) -> (u16, Value) {
    let path = format!("/v1/shards/{name}");
    let answer = node.send("PUT", &path, &[], &json!({ "total": total }));
    (answer.status, answer.json())
}

#[test]
fn a_set_is_made_resized_filled_and_handed_out_while_tasks_come() {
    let mut node = Node::start(&[]);
    let due = now() + 60_000;
    let near = submit(&node, "near", 150, due);
    // Beyond the window.
    submit(&node, "far", 20, due + 3_600_000);

    assert_eq!(put(&node, "eu", 3).1["total"], 3);
    let (status, refused) = post(&node, "/v1/shards/eu/pop", &json!({}));
    assert_eq!(
        (status, &refused["type"]),
        (409, &json!("/problems/shard-set")),
        "{refused}"
    );
    let (status, filled) = post(&node, "/v1/shards/eu/fill", &json!({}));
    assert_eq!(
        (status, &filled["fill"]["total"]),
        (200, &json!(3)),
        "{filled}"
    );

    // Resized in the middle: this fill goes on as it was.
    let mut seen = BTreeSet::new();
    let mut take = |node: &Node, total: u64| -> Option<u64> {
        let (status, mut popped) = post(node, "/v1/shards/eu/pop?limit=20", &json!({}));
        assert_eq!((status, &popped["total"]), (200, &json!(total)), "{popped}");
        let shard = popped["shard"].as_u64()?;
        loop {
            for task in popped["tasks"].as_array().unwrap() {
                let id = task["id"].as_str().unwrap().to_owned();
                let asked = node.get(&format!("/v1/shards/eu?app={APP}&id={id}"));
                let set = asked.json();
                if set["total"] == total {
                    assert_eq!(set["shard"], shard, "the hit test agrees: {set}");
                }
                assert!(seen.insert(id), "none twice: {task}");
            }
            let Some(next) = popped["next"].as_str() else {
                return Some(shard);
            };
            let path = format!("/v1/shards/eu/pop?shard={shard}&limit=20&cursor={next}");
            popped = post(node, &path, &json!({})).1;
        }
    };
    assert_eq!(take(&node, 3), Some(0));
    // It is in the log like everything else.
    node.crash_and_restart();
    assert_eq!(put(&node, "eu", 8).0, 200);
    assert_eq!((take(&node, 3), take(&node, 3)), (Some(1), Some(2)));
    assert_eq!(take(&node, 3), None, "all are out");
    assert_eq!(seen, near, "none left out, and nothing beyond the window");

    // The next fill has the new number, and what has come meanwhile.
    let more = submit(&node, "more", 30, due);
    assert_eq!(
        post(&node, "/v1/shards/eu/fill", &json!({ "window": "5m" })).0,
        200
    );
    seen.clear();
    let mut take = |node: &Node| -> Option<u64> {
        let (_, popped) = post(node, "/v1/shards/eu/pop?limit=1000", &json!({}));
        let tasks = popped["tasks"].as_array().unwrap();
        let ids = tasks
            .iter()
            .map(|task| task["id"].as_str().unwrap().to_owned());
        ids.for_each(|id| assert!(seen.insert(id)));
        popped["shard"].as_u64()
    };
    let shards: Vec<_> = (0..9).map(|_| take(&node)).collect();
    assert_eq!(shards, (0..8).map(Some).chain([None]).collect::<Vec<_>>());
    assert_eq!(seen, near.union(&more).cloned().collect());
}

#[test]
fn the_default_set_and_bad_input_are_refused_with_what_to_do() {
    let node = Node::start(&[]);
    let (status, refused) = put(&node, "default", 128);
    assert_eq!(status, 409, "{refused}");
    let why = refused["detail"].as_str().unwrap();
    assert!(
        why.contains("64 shards") && why.contains("make another set"),
        "{why}"
    );
    for (name, total, status) in [
        ("a%20b", 3, 422),
        ("a", 0, 422),
        ("a", 4_097, 422),
        ("a", 70_000, 422),
    ] {
        assert_eq!(put(&node, name, total).0, status, "{name} {total}");
    }
    for (path, status) in [
        ("/v1/shards/nobody", 404),
        ("/v1/shards/default?app=a", 422),
        ("/v1/shards/default?app=a&id=%20", 422),
    ] {
        assert_eq!(node.get(path).status, status, "{path}");
    }
    for (path, status) in [
        ("/v1/shards/nobody/fill", 404),
        ("/v1/shards/nobody/pop", 404),
        ("/v1/shards/nobody/pop?shard=0", 404),
        ("/v1/shards/default/pop?shard=0", 409),
        ("/v1/shards/default/pop?cursor=YS9i", 422),
    ] {
        assert_eq!(post(&node, path, &json!({})).0, status, "{path}");
    }
    assert_eq!(post(&node, "/v1/shards/default/fill", &json!({})).0, 200);
    assert_eq!(
        post(&node, "/v1/shards/default/pop?shard=64", &json!({})).0,
        422
    );
    node.delete("/v1/shards/default").problem(409);
}

#[test]
fn the_old_paths_speak_the_old_envelope() {
    let node = Node::start(&[]);
    submit(&node, "a", 1, now() + 60_000);
    let data = |node: &Node, path: &str, body: &Value| -> Value {
        let (status, envelope) = post(node, path, body);
        assert_eq!((status, &envelope["code"]), (200, &json!(0)), "{envelope}");
        envelope["data"].clone()
    };
    let made = data(
        &node,
        "/shard/create",
        &json!({ "k": "orders", "total": 1 }),
    );
    assert_eq!(made, json!({ "k": "orders", "total": 1 }));
    data(&node, "/shard/fill", &json!({ "id": "orders" }));
    let popped = node.get("/shard/pop?id=orders&limit=5").json();
    let data_ = &popped["data"];
    assert_eq!(
        data_["shard"],
        json!({ "total": 1, "current": 0 }),
        "{popped}"
    );
    assert_eq!(
        (&data_["tasks"][0]["uuid"], &data_["tasks"][0]["stageName"]),
        (&json!("a-000"), &json!("INIT"))
    );
    let empty = node.get("/shard/pop?id=orders&limit=5").json();
    assert_eq!(empty["data"]["shard"]["current"], Value::Null, "{empty}");
    // All of them, without a name; and the set that places work.
    data(&node, "/shard/fill", &json!({}));
    let popped = node.get("/shard/pop").json();
    assert_eq!(
        popped["data"]["shard"],
        json!({ "total": 64, "current": 0 })
    );
    let refused = node.get("/shard/pop?id=nobody");
    assert_eq!(
        (refused.status, &refused.json()["success"]),
        (404, &json!(false))
    );
}

#[test]
fn the_command_line_makes_fills_and_shows_sets() {
    let node = Node::start(&[]);
    let cases: [(&[&str], &str); 7] = [
        (&["make", "eu", "4"], "eu"),
        (&["fill", "eu", "--window", "1m"], "eu"),
        (&["pop", "eu"], "shard 0 of 4"),
        (
            &["pop", "eu", "--shard", "3", "--limit", "5"],
            "shard 3 of 4",
        ),
        (&["hit", "default", "shop", "order-17"], "shard 17 of 64"),
        (&["list"], "default"),
        (&["remove", "eu"], "eu is removed"),
    ];
    for (args, shows) in cases {
        let ran = node.cli(&[&["shards"][..], args].concat());
        assert!(
            ran.code == Some(0) && ran.out.contains(shows),
            "{args:?}: {ran:?}"
        );
    }
    let ran = node.cli(&["shards", "make", "default", "3"]);
    assert!(
        ran.code == Some(1) && ran.err.contains("places work"),
        "{ran:?}"
    );
}
