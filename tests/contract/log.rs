//! `horolog log`: the directory of a node that was killed, shown, exported and checked.

use serde_json::{Value, json};

use super::node::{Node, cli};
use super::task::{task, with};

#[test]
fn a_killed_nodes_log_is_exported_and_checked() {
    let mut node = Node::start(&[]);
    let mut sent = task("o-log", "a", "http://127.0.0.1:9/hook");
    sent["target"]["http"]["headers"] = json!({ "authorization": "Bearer s3cret" });
    node.submit(&with(sent, json!({ "delay": "1h" })));
    let ran = node.post("/v1/lifecycle/checkpoint", &json!({}));
    let checkpointed = ran.expect(200).json()["index"].as_u64();
    node.delete("/v1/tasks/o-log/a").expect(200);
    let index = node.task("o-log", "a")["index"].clone();
    let dir = node.crash();
    let dir = dir.to_str().unwrap();

    let shown = cli(&["log", "show", dir], &[]).json();
    assert_eq!(
        (&shown["node"], &shown["engine"]),
        (&json!(1), &json!("redb"))
    );
    assert!(shown["last"].as_u64() >= index.as_u64(), "{shown}");
    let checkpoint = &shown["checkpoint"];
    assert!(checkpoint["index"].as_u64() >= checkpointed, "{shown}");
    let shards = checkpoint["shards"].as_array().unwrap();
    let open = shards.iter().map(|shard| shard["open"].as_u64().unwrap());
    assert_eq!(open.sum::<u64>(), 1, "{shown}");
    let known = |shard: &Value| shard["committed"].as_u64() <= checkpoint["index"].as_u64();
    assert!(shards.iter().all(known), "{shown}");

    let ran = cli(&["log", "export", dir], &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.out.contains("s3cret"), "secrets are masked");
    let lines: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let find = |kind: &str| lines.iter().find(|line| line["kind"] == kind).unwrap();
    let submit = find("submit");
    assert_eq!(submit["event"]["key"], json!({ "app": "o-log", "id": "a" }));
    assert_eq!(submit["event"]["when"], json!({ "after": "1h" }));
    let http = &submit["event"]["spec"]["target"]["http"];
    assert_eq!(http["url"], "http://127.0.0.1:9/hook");
    let cancel = find("cancel");
    assert_eq!((&cancel["index"], &cancel["leader"]), (&index, &json!(1)));
    assert!(cancel["stamp"].is_string() && cancel["now"].is_string() && cancel["term"].is_u64());

    let at = index.to_string();
    let ran = cli(&["log", "export", dir, "--from", &at, "--to", &at], &[]);
    assert!(
        ran.out
            .lines()
            .all(|line| line.contains(&format!("\"index\":{at},")))
    );
    assert!(ran.out.contains("\"cancel\""), "{ran:?}");

    let ran = cli(&["log", "verify", dir], &[]);
    assert_eq!((ran.code, &*ran.out), (Some(0), ""), "{ran:?}");

    // The checksum catches a bit flipped within the url of the submit.
    let path = format!("{dir}/log.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    let url = b"127.0.0.1:9/hook";
    let places: Vec<usize> = (0..bytes.len() - url.len())
        .filter(|at| bytes[*at..].starts_with(url))
        .collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| bytes[*at] ^= 1);
    std::fs::write(&path, bytes).unwrap();
    let ran = cli(&["log", "verify", dir], &[]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.starts_with("log: "), "{ran:?}");
}

#[test]
fn what_is_no_directory_of_a_node_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    for verb in ["show", "export", "verify"] {
        let ran = cli(&["log", verb, dir.path().to_str().unwrap()], &[]);
        assert_eq!(ran.code, Some(1));
        assert!(ran.err.contains("no node's data directory"), "{ran:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
