//! A task that was retired: its id is free, and what happened to it can still be read.

use serde_json::{Value, json};

use super::node::{Node, cli, until};
use super::receiver::receiver;
use super::task::{PATIENCE, path, task, with};

/// Waits until an id names no task any more.
fn wait_retired(node: &Node, app: &str, id: &str) {
    until(&format!("{app}/{id} is retired"), PATIENCE, || {
        (node.get(&path(app, id)).status == 404).then_some(())
    });
}

fn events(node: &Node, app: &str, id: &str) -> Value {
    let there = format!("{}/events", path(app, id));
    node.get(&there).expect(200).json()
}

/// A gauge of the metrics page.
fn gauge(node: &Node, name: &str) -> u64 {
    let page = node.get("/metrics").expect(200).text();
    let line = page.lines().find(|line| line.starts_with(name)).unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

fn kinds(answer: &Value) -> Vec<&str> {
    let events = answer["events"].as_array().unwrap().iter();
    events.map(|e| e["kind"].as_str().unwrap()).collect()
}

#[test]
fn what_happened_outlives_the_task_and_a_crash() {
    let mut node = Node::start(&[
        ("HOROLOG_RETENTION_DONE", "1s"),
        ("HOROLOG_HISTORY_RETENTION", "1h"),
        ("HOROLOG_STORE_CHECKPOINT_AGE", "1s"),
    ]);
    let url = receiver().url("/past");
    node.submit(&task("past", "a", &url));
    wait_retired(&node, "past", "a");
    let whole = ["submitted", "triggered", "done"];
    let told = events(&node, "past", "a");
    assert_eq!(told["retired"], true);
    let kept = &told["task"];
    assert_eq!((&kept["app"], &kept["id"]), (&json!("past"), &json!("a")));
    assert_eq!(kept["stage"], "done");
    assert!(kept["finished_at"].is_string() && kept["outcome"].is_string());
    assert_eq!(kinds(&told), whole);
    assert!(told.get("past").is_none());
    assert_eq!(node.part("past", "a", "attempts")[0]["status"], 200);
    assert!(node.explained("past", "a").contains("HTTP 200"));
    for (verb, said) in [("history", "done"), ("explain", "HTTP 200")] {
        let ran = node.cli(&["task", verb, "past", "a"]);
        assert!(ran.out.contains("A task that was: done"), "{ran:?}");
        assert!(ran.out.contains(said), "{ran:?}");
    }
    until("it is in the store", PATIENCE, || {
        (gauge(&node, "horolog_history_tasks ") == 1).then_some(())
    });
    assert!(gauge(&node, "horolog_history_bytes ") > 100);

    node.crash_and_restart();
    node.get(&path("past", "a")).problem(404);
    assert_eq!(events(&node, "past", "a"), told);

    // The id names another task: that one first, as if there had never been one before.
    node.submit(&with(task("past", "a", &url), json!({ "delay": "1h" })));
    let both = events(&node, "past", "a");
    assert_eq!(kinds(&both), ["submitted"]);
    assert!(both.get("retired").is_none() && both.get("task").is_none());
    let former = both["past"].as_array().unwrap();
    assert_eq!(former.len(), 1);
    assert_eq!((&former[0], kinds(&former[0])), (&told, whole.to_vec()));

    let dir = node.crash();
    let dir = dir.to_str().unwrap();
    let ran = cli(&["log", "export", dir, "--history"], &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<Value> = lines
        .filter(|line: &Value| line["retired"] == true)
        .collect();
    assert_eq!(lines.len(), whole.len(), "{ran:?}");
    for (line, event) in lines.iter().zip(told["events"].as_array().unwrap()) {
        assert_eq!((&line["app"], &line["id"]), (&json!("past"), &json!("a")));
        assert_eq!(&line["event"], event);
    }
    let ran = cli(&["log", "verify", dir], &[]);
    assert_eq!((ran.code, &*ran.out), (Some(0), ""), "{ran:?}");
    assert!(ran.err.contains("1 retired tasks"), "{ran:?}");
}

#[test]
fn it_ends_after_its_time() {
    let node = Node::start(&[
        ("HOROLOG_RETENTION_DONE", "1s"),
        ("HOROLOG_HISTORY_RETENTION", "2s"),
    ]);
    node.submit(&task("past-age", "a", &receiver().url("/past-age")));
    until("its history is gone", PATIENCE, || {
        let there = format!("{}/events", path("past-age", "a"));
        (node.get(&there).status == 404).then_some(())
    });
    node.get(&path("past-age", "a")).problem(404);
}

#[test]
fn it_ends_when_it_takes_too_much_the_oldest_first() {
    const MOST: u64 = 4_000;
    let node = Node::start(&[
        ("HOROLOG_RETENTION_DONE", "1s"),
        ("HOROLOG_HISTORY_RETENTION", "1h"),
        ("HOROLOG_HISTORY_MAX_BYTES", &MOST.to_string()),
        ("HOROLOG_STORE_CHECKPOINT_AGE", "1s"),
    ]);
    let url = receiver().url("/past-bytes");
    let ids: Vec<String> = (0..20).map(|n| format!("t{n:02}")).collect();
    for id in &ids {
        node.submit(&task("past-bytes", id, &url));
        node.wait_stage("past-bytes", id, "done");
    }
    ids.iter()
        .for_each(|id| wait_retired(&node, "past-bytes", id));
    until("the store has what it may have", PATIENCE, || {
        let bytes = gauge(&node, "horolog_history_bytes ");
        (bytes > 0 && bytes <= MOST && gauge(&node, "horolog_history_tasks ") < 20).then_some(())
    });
    let there = |id: &String| {
        let events = format!("{}/events", path("past-bytes", id));
        node.get(&events).status == 200
    };
    let left: Vec<bool> = ids.iter().map(there).collect();
    assert!(left.is_sorted() && !left[0] && left[19], "{left:?}");
}
