//! Tasks to give to a cluster, and what became of them.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

use super::http::{Answer, Client};
use super::{seconds, wait_for};

/// The application that tests speak as.
pub const APP: &str = "test";

/// A task due at an instant.
pub fn task(id: &str, due_ms: u64, url: &str) -> Value {
    json!({ "app": APP, "id": id, "due_at": due_ms, "target": { "http": { "url": url } } })
}

/// Submits tasks as one batch; asserts that each was taken as new. What is answered 503 has
/// surely not happened (a busy machine has cost a leader its place), and is sent again.
#[track_caller]
pub fn submit_all(client: &mut Client, tasks: &[Value]) {
    let mut left: Vec<&Value> = tasks.iter().collect();
    wait_for("all submits to be taken", seconds(20), || {
        let body: String = left.iter().map(|task| format!("{task}\n")).collect();
        let answer = client.send(
            "POST",
            "/v1/tasks/batch",
            "application/x-ndjson",
            body.as_bytes(),
        );
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let lines = answer.lines();
        assert_eq!(lines.len(), left.len());
        let busy = |line: &Value| match line["status"].as_u64() {
            Some(201) => false,
            Some(503) => true,
            _ => panic!("{line}"),
        };
        let mut lines = lines.iter();
        left.retain(|_| lines.next().is_some_and(busy));
        left.is_empty().then_some(())
    });
}

/// Submits tasks evenly through several nodes at the same time.
#[track_caller]
pub fn spread(clients: Vec<Client>, tasks: &[Value]) {
    let share = tasks.len().div_ceil(clients.len());
    std::thread::scope(|scope| {
        for (mut client, tasks) in clients.into_iter().zip(tasks.chunks(share)) {
            scope.spawn(move || submit_all(&mut client, tasks));
        }
    });
}

pub fn submit(client: &mut Client, task: &Value) -> std::io::Result<Answer> {
    client.post("/v1/tasks", task)
}

/// Sends the same submit until it is acknowledged: that is what its id is for.
#[track_caller]
pub fn submit_surely(client: &mut Client, task: &Value, within: Duration) -> Answer {
    wait_for("an acknowledged submit", within, || {
        submit(client, task).ok().filter(Answer::is_ok)
    })
}

pub fn read(client: &mut Client, id: &str) -> Answer {
    client.get(&format!("/v1/tasks/{APP}/{id}")).unwrap()
}

/// The kinds of a task's events, oldest first.
pub fn kinds(client: &mut Client, id: &str) -> Vec<String> {
    let answer = client.get(&format!("/v1/tasks/{APP}/{id}/events")).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let events = answer.json()["events"].as_array().cloned();
    let kind = |event: Value| event["kind"].as_str().unwrap_or_default().to_owned();
    events.unwrap_or_default().into_iter().map(kind).collect()
}

/// All tasks that match, by id.
pub fn list(client: &mut Client, filter: &str) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/tasks?app={APP}&limit=1000{filter}{cursor}");
        let page = client.get(&path).unwrap();
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        for task in page["tasks"].as_array().unwrap() {
            let id = task["id"].as_str().unwrap().to_owned();
            let twice = found.insert(id, task.clone());
            assert!(twice.is_none(), "listed twice: {task}");
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

/// How many tasks are in each stage, as this node has it at present.
pub fn stages(client: &mut Client) -> BTreeMap<String, u64> {
    let Ok(answer) = client.get(&format!("/v1/stats?app={APP}&read=local")) else {
        return BTreeMap::new();
    };
    let tasks = answer.json()["tasks"].as_object().cloned();
    let counts = tasks.unwrap_or_default().into_iter();
    let counts = counts.map(|(stage, n)| (stage, n.as_u64().unwrap_or(0)));
    counts.filter(|(_, n)| *n > 0).collect()
}

/// Waits until each node says by itself that these many tasks are done and none is anything else.
#[track_caller]
pub fn wait_all_done(clients: Vec<Client>, count: u64, within: Duration) {
    for mut client in clients {
        let mut last = BTreeMap::new();
        let what = format!("{count} tasks done on every node, and nothing else");
        wait_for(&what, within + seconds(1), || {
            let now = stages(&mut client);
            if now != last {
                last = now;
                eprintln!("    stages: {last:?}");
            }
            (last == BTreeMap::from([("done".to_owned(), count)])).then_some(())
        });
    }
}

/// A number that a node shows in its metrics.
#[track_caller]
pub fn metric(client: &mut Client, name: &str) -> u64 {
    let page = client.get("/metrics").unwrap().text();
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")));
    let number = line.and_then(|n| n.parse().ok());
    number.unwrap_or_else(|| panic!("{name} is not in\n{page}"))
}

/// Whether a node has purged a good part of its log: whoever needs that part takes a snapshot.
pub fn is_purged(client: &mut Client) -> bool {
    let folded = metric(client, "horolog_apply_index");
    metric(client, "horolog_log_entries") < folded / 2
}

/// Tasks that were begun more than once, with the kinds of their events.
pub fn repeated(client: &mut Client) -> BTreeMap<String, Vec<String>> {
    let again = |task: &Value| task["attempt"].as_u64().unwrap_or(0) > 1;
    let tasks = list(client, "").into_iter().filter(|(_, task)| again(task));
    let ids: Vec<String> = tasks.map(|(id, _)| id).collect();
    ids.into_iter()
        .map(|id| (id.clone(), kinds(client, &id)))
        .collect()
}
