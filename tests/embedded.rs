//! `examples/embedded.rs` beside two nodes of the binary, which have no handlers: what it registers is
//! called in it alone, whoever owns the task, and waits while it is gone.
//!
//! The program is this test binary itself, started again with a variable that says so.

#[path = "../examples/embedded.rs"]
mod program;
mod support;

use rustix::process::Signal;
use serde_json::{Value, json};
use std::process::Command;
use support::cluster::Cluster;
use support::http::Client;
use support::node::{Node, without_settings};
use support::{seconds, serial, wait_for};

const PROGRAM: &str = "EMBEDDED_PROGRAM";
/// The node with the handlers.
const EMBEDDED: u64 = 3;

/// Does nothing unless it is the program.
#[test]
#[allow(clippy::disallowed_methods)] // The parent says so this way.
fn the_program() {
    if std::env::var(PROGRAM).is_ok() {
        program::run(None).unwrap();
    }
}

fn embedded(node: &Node) -> Command {
    let mut command = without_settings(Command::new(std::env::current_exe().unwrap()));
    command
        .args(["the_program", "--exact", "--nocapture"])
        .env(PROGRAM, "yes")
        .env("HOROLOG_NODE_ID", node.id.to_string())
        .env("HOROLOG_NODE_DIR", &node.dir)
        .env("HOROLOG_HTTP", node.http.to_string())
        .env("HOROLOG_PEER", node.peer.to_string())
        .env("HOROLOG_CLUSTER_NODES", &node.args[1]);
    command
}

fn get(client: &mut Client, id: &str, what: &str) -> Value {
    let path = format!("/v1/tasks/shop/{id}{what}");
    client.get(&path).unwrap().json()
}

#[track_caller]
fn submit(client: &mut Client, id: &str, invoke: &str) {
    let retry = json!({ "attempts": 3, "backoff": { "fixed": "50ms" } });
    let task = json!({ "app": "shop", "id": id, "target": { "invoke": invoke }, "retry": retry });
    let answer = client.post("/v1/tasks", &task).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.json()["target"]["invoke"], invoke);
}

/// Waits until a task is in a stage; gives its attempts.
#[track_caller]
fn attempts(client: &mut Client, id: &str, stage: &str) -> Vec<Value> {
    wait_for(&format!("{id} to be {stage}"), seconds(30), || {
        (get(client, id, "")["stage"] == stage).then_some(())
    });
    let attempts = get(client, id, "/attempts");
    attempts["attempts"].as_array().unwrap().clone()
}

fn story(client: &mut Client, id: &str) -> String {
    get(client, id, "/explain")["sentences"].to_string()
}

#[test]
fn handlers_are_called_where_they_are_and_waited_for_while_they_are_not() {
    let _one = serial();
    let mut cluster = Cluster::new(3).fast();
    cluster.node(EMBEDDED).embedded = Some(embedded);
    let mut cluster = cluster.start();
    let client = &mut cluster.client(1);

    wait_for("its handlers to be known", seconds(10), || {
        let view = cluster.view(1);
        let nodes = view["nodes"].as_array().unwrap();
        let of = |id: u64| nodes.iter().find(|node| node["id"] == id);
        let (plain, embedded) = (&of(1)?["handlers"], &of(EMBEDDED)?["handlers"]);
        assert_eq!(plain, &json!([]));
        let names = json!(["clock.tick", "demoTask.demoMethod", "stock.take"]);
        (*embedded == names).then_some(())
    });

    // Tasks of every owner.
    let typed = r#"demoTask.demoMethod("a", 'b', true, 2L, 3D, 4)"#;
    let ids: Vec<String> = (0..12).map(|n| format!("typed-{n}")).collect();
    ids.iter().for_each(|id| submit(client, id, typed));
    for id in &ids {
        let last = attempts(client, id, "done").pop().unwrap();
        assert_eq!(last["node"], EMBEDDED, "{last}");
        assert_eq!(last["answer"], "a b true 2 3.0 4");
    }

    submit(client, "again", "stock.take('nails', 3)");
    let tries = attempts(client, "again", "done");
    assert_eq!(tries[0]["error"], "the warehouse does not answer");
    assert_eq!(tries[1]["answer"], "3 nails, at attempt 2");
    submit(client, "never", "stock.take('nails', 0)");
    let tries = attempts(client, "never", "dead");
    assert_eq!(tries.len(), 1, "{tries:?}");
    assert_eq!(tries[0]["error"], "0 nails are none");
    let told = story(client, "never");
    assert!(told.contains("of no use to try again"), "{told}");

    let tick = json!({ "id": "shop.tick", "every": "1s", "target": { "invoke": "clock.tick" } });
    let made = client.post("/v1/schedules", &tick).unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    let run = wait_for("a run of the schedule", seconds(20), || {
        let fires = client.get("/v1/schedules/shop.tick/fires").unwrap().json();
        let fires = fires["fires"].as_array().unwrap().clone();
        fires.into_iter().find(|fire| fire["stage"] == "done")
    });
    let (task, planned) = (run["task"]["id"].as_str().unwrap(), &run["planned"]);
    let last = attempts(client, task, "done").pop().unwrap();
    let expected = format!("shop.tick at {}", planned.as_str().unwrap());
    assert_eq!(last["answer"], expected);
    let path = "/v1/schedules/shop.tick/pause";
    assert!(client.post(path, &json!({})).unwrap().is_ok());

    // Nobody has it: it waits, and says for what.
    cluster.node(EMBEDDED).kill();
    submit(client, "waits", typed);
    let told = wait_for("the reason", seconds(20), || {
        Some(story(client, "waits")).filter(|told| told.contains("No live node has the handler"))
    });
    assert!(told.contains("`demoTask.demoMethod`"), "{told}");
    assert_eq!(get(client, "waits", "")["stage"], "triggered");
    cluster.node(EMBEDDED).start();
    let last = attempts(client, "waits", "done").pop().unwrap();
    assert_eq!(last["node"], EMBEDDED, "{last}");
    let told = story(client, "waits");
    assert!(told.contains("until a node was there"), "{told}");

    // A stop in good order ends the program.
    cluster.node(EMBEDDED).signal(Signal::INT);
    let ended = cluster.node(EMBEDDED).exits(seconds(20));
    assert!(ended.success(), "{ended}");
}
