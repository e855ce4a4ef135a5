//! The command line against a running server: data, talk, exit status.

use serde_json::{Value, json};

use super::node::{Node, cli, shared};
use super::receiver::{Reply, receiver};
use super::task::{task, with};

const URL: &str = "http://127.0.0.1:9/hook";

#[track_caller]
fn json(node: &Node, words: &[&str]) -> Value {
    node.cli(&[words, &["--json"]].concat()).json()
}

#[test]
fn a_task_from_submit_to_cancel() {
    let node = shared();
    let words = [
        "task",
        "submit",
        "--app",
        "m-life",
        "--id",
        "a",
        "--delay",
        "1h",
        "--url",
        URL,
        "--method",
        "PUT",
        "--header",
        "x-a: b",
        "--label",
        "order=17",
        "--body-json",
        "{\"n\": 1.0}",
        "--attempts",
        "7",
        "--timeout",
        "3s",
    ];
    let made = json(node, &words);
    assert_eq!(
        (&made["stage"], &made["labels"]),
        (&json!("scheduled"), &json!({ "order": "17" }))
    );
    assert_eq!(
        made,
        node.task("m-life", "a"),
        "--json is what the server answered"
    );
    let http = &made["target"]["http"];
    assert_eq!(
        (&http["method"], &http["headers"], &http["timeout"]),
        (&json!("PUT"), &json!({ "x-a": "b" }), &json!("3s"))
    );
    assert_eq!(json(node, &words), made, "the same again is no failure");
    assert_eq!(json(node, &["task", "get", "m-life", "a"]), made);
    let ran = node.cli(&["task", "get", "m-life", "a"]);
    assert_eq!(ran.code, Some(0));
    assert!(
        ran.out.contains("stage") && ran.out.contains("scheduled") && ran.err.is_empty(),
        "{ran:?}"
    );
    assert!(!ran.out.contains('\x1b'), "no colours where no terminal is");
    let listed = json(
        node,
        &["task", "list", "--app", "m-life", "--label", "order=17"],
    );
    assert_eq!(listed["tasks"], json!([made]));
    let ran = node.cli(&["task", "list", "--app", "m-life"]);
    assert!(
        ran.out.contains("m-life") && ran.err.contains("1 tasks"),
        "{ran:?}"
    );
    assert_eq!(
        json(node, &["task", "cancel", "m-life", "a"])["stage"],
        "cancelled"
    );
    let events = json(node, &["task", "events", "m-life", "a"]);
    assert_eq!(events["events"][1]["kind"], "cancelled");
    assert!(
        node.cli(&["task", "events", "m-life", "a"])
            .out
            .contains("cancelled")
    );
    let explained = node.cli(&["task", "explain", "m-life", "a"]);
    assert!(
        explained.out.contains("It was cancelled at"),
        "{explained:?}"
    );
    assert!(json(node, &["task", "explain", "m-life", "a"])["sentences"].is_array());
}

#[test]
fn tasks_are_explained_by_their_label() {
    let node = shared();
    for (app, id) in [("m-why", "a"), ("m-why", "b"), ("m-why-2", "c")] {
        let more = json!({ "delay": "1h", "labels": { "case": "m-why", "id": id } });
        node.submit(&with(task(app, id, URL), more));
    }
    node.delete("/v1/tasks/m-why/b").expect(200);
    let all = node.cli(&["task", "explain", "--label", "case=m-why"]);
    assert_eq!(all.code, Some(0), "{all:?}");
    let lines: Vec<&str> = all.out.lines().collect();
    for (n, title) in [
        (0, "m-why/a (scheduled)"),
        (3, "m-why/b (cancelled)"),
        (6, "m-why-2/c (scheduled)"),
    ] {
        assert_eq!(lines[n], title, "{}", all.out);
        assert!(lines[n + 1].starts_with("It was submitted at"), "{all:?}");
    }
    let one = [
        "task",
        "explain",
        "--label",
        "case=m-why",
        "--label",
        "id=b",
    ];
    let one = json(node, &one);
    let whole = json(node, &["task", "explain", "m-why", "b"]);
    assert_eq!(one, whole, "--json is what the server answered");
    let of_app = ["task", "explain", "m-why-2", "--label", "case=m-why"];
    assert_eq!(json(node, &of_app)["id"], "c");
    let none = node.cli(&["task", "explain", "--label", "case=m-nobody"]);
    assert_eq!((none.code, &*none.out), (Some(1), ""));
    assert!(none.err.contains("no task has case=m-nobody"), "{none:?}");
}

#[test]
fn run_and_done() {
    let node = shared();
    let url = receiver().on("/m-run", |n| Reply::Status(if n == 1 { 410 } else { 200 }));
    for id in ["a", "b", "c"] {
        node.submit(&with(task("m-run", id, &url), json!({ "delay": "1h" })));
    }
    let ran = json(node, &["task", "run", "m-run", "a", "--wait", "10s"]);
    assert_eq!(ran["stage"], "done");
    let refused = node.cli(&["task", "run", "m-run", "a"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.out.is_empty() && refused.err.contains("409"),
        "{refused:?}"
    );
    // An outcome that was waited for and is none to be glad of.
    let dead = node.cli(&[
        "task", "run", "m-run", "a", "--again", "--wait", "10s", "--json",
    ]);
    assert_eq!(dead.code, Some(1));
    assert!(dead.out.contains("\"dead\""), "{dead:?}");
    assert_eq!(json(node, &["task", "done", "m-run", "b"])["stage"], "done");
    let words = [
        "task",
        "done",
        "m-run",
        "c",
        "--failed",
        "--error",
        "not wanted",
    ];
    assert_eq!(json(node, &words)["error"], "not wanted");
}

#[test]
fn a_task_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("task.json");
    let sent = with(
        task("m-file", "a", URL),
        json!({ "delay": "1h", "retry": { "max_age": "2h" } }),
    );
    std::fs::write(&file, sent.to_string()).unwrap();
    let made = json(
        shared(),
        &["task", "submit", "--file", file.to_str().unwrap()],
    );
    assert_eq!(made["retry"]["max_age"], "2h");
}

#[test]
fn every_page() {
    let node = shared();
    for n in 0..7 {
        node.submit(&with(
            task("m-pages", &n.to_string(), URL),
            json!({ "delay": "1h" }),
        ));
    }
    let page = json(node, &["task", "list", "--app", "m-pages", "--limit", "3"]);
    let cursor = page["next"].as_str().unwrap();
    let next = json(
        node,
        &[
            "task", "list", "--app", "m-pages", "--limit", "3", "--cursor", cursor,
        ],
    );
    assert_eq!(next["tasks"][0]["id"], "3");
    let all = json(
        node,
        &["task", "list", "--app", "m-pages", "--limit", "3", "--all"],
    );
    assert_eq!(all["tasks"].as_array().unwrap().len(), 7);
    assert!(all["next"].is_null());
    let ran = node.cli(&["task", "list", "--app", "m-pages", "--limit", "3"]);
    assert!(ran.err.contains("--cursor"), "{ran:?}");
}

#[test]
fn the_cluster() {
    let status = json(shared(), &["cluster", "status"]);
    assert_eq!(status["leader"], 1);
    let ran = shared().cli(&["cluster", "status"]);
    assert!(
        ran.out.contains("leader 1") && ran.out.contains("127.0.0.1"),
        "{ran:?}"
    );
}

#[test]
fn failures_are_1_and_wrong_usage_is_2() {
    let node = shared();
    for words in [
        &["task", "get", "m-none", "nobody"][..],
        &["task", "get", "m none", "x"],
        &["task", "cancel", "m-none", "nobody", "--json"],
        &["task", "submit", "--app", "m-none", "--url", "nonsense"],
        &["task", "submit", "--file", "/nowhere/at/all"],
        &["task", "list", "--stage", "asleep"],
    ] {
        let ran = node.cli(words);
        assert_eq!(ran.code, Some(1), "{words:?}: {ran:?}");
        assert!(
            ran.out.is_empty() && ran.err.starts_with("error:"),
            "{ran:?}"
        );
    }
    for words in [
        &["task", "get", "x"][..],
        &["task", "submit", "--app", "a"],
        &["task", "nonsense"],
        &["nonsense"],
        &["dev", "--nodes", "0"],
        &["task", "run", "a", "b", "--wait", "soon"],
        &[],
    ] {
        let ran = node.cli(words);
        assert_eq!(ran.code, Some(2), "{words:?}: {ran:?}");
        assert!(ran.out.is_empty() && !ran.err.is_empty());
    }
    let nobody = cli(
        &["cluster", "status", "--server", "http://127.0.0.1:1"],
        &[],
    );
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.err.contains("is the server running?"), "{nobody:?}");
}

#[test]
fn completions_and_help() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = cli(&["completions", shell], &[]);
        assert_eq!(ran.code, Some(0));
        assert!(ran.out.contains("horolog") && ran.err.is_empty());
    }
    let ran = cli(&["--version"], &[]);
    assert!(
        ran.code == Some(0) && ran.out.starts_with("horolog "),
        "{ran:?}"
    );
    let ran = cli(&["--help"], &[]);
    assert_eq!(ran.code, Some(0));
    for verb in ["dev", "serve", "task", "cluster", "completions"] {
        assert!(ran.out.contains(verb), "{verb}");
    }
}
