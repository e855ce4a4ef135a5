//! What holds work back: paused applications, breakers, rates, full disks.

use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::node::{Node, shared, until};
use super::receiver::{Receiver, Reply, receiver};
use super::task::{PATIENCE, path, task, with};

#[test]
fn a_paused_application_is_not_called_and_everything_else_goes_on() {
    let mut node = Node::start(&[]);
    let (url, other) = (receiver().url("/held"), receiver().url("/held-not"));
    let index = node
        .post("/v1/tasks", &task("x", "none", &other))
        .expect(201)
        .index();
    receiver().wait("/held-not", 1);

    let body = json!({ "reason": "maintenance" });
    let answer = node.post("/v1/apps/held/pause", &body).expect(200);
    let paused = answer.json();
    assert!(answer.index() > index);
    assert_eq!(
        (&paused["app"], &paused["paused"]),
        (&json!("held"), &json!(true))
    );
    assert_eq!(paused["by"], "loopback");
    for id in ["a", "b"] {
        node.submit(&task("held", id, &url));
        node.wait_stage("held", id, "triggered");
    }
    node.submit(&task("held-not", "a", &other));
    receiver().wait("/held-not", 2);
    let last = node.part("held", "a", "explain");
    let last = last.as_array().unwrap().last().unwrap().to_string();
    for word in [
        "held is paused since",
        "by loopback",
        "because: maintenance",
    ] {
        assert!(last.contains(word), "{last}");
    }
    let listed = node.get("/v1/apps").expect(200).json();
    assert_eq!(listed["apps"][0]["reason"], "maintenance");
    let metrics = node.get("/metrics").expect(200).text();
    assert!(metrics.contains("horolog_paused_apps 1"), "{metrics}");
    let cancelled = node.delete(&path("held", "b")).expect(200).json();
    assert_eq!(cancelled["stage"], "cancelled");

    // It is replicated state, and outlives the process.
    node.crash_and_restart();
    let text = node.cli(&["app", "list"]);
    assert!(text.out.contains("maintenance"), "{text:?}");
    assert!(receiver().seen("/held").is_empty());
    let resumed = node.cli(&["app", "resume", "held", "--json"]).json();
    assert_eq!(resumed, json!({ "app": "held", "paused": false }));
    node.wait_stage("held", "a", "done");
    assert_eq!(
        receiver().seen("/held").len(),
        1,
        "and the cancelled one never"
    );
    let told = node.part("held", "a", "explain").to_string();
    assert!(
        told.contains("because its application was paused"),
        "{told}"
    );
    node.post("/v1/apps/held/resume", &json!({})).expect(200);
    assert_eq!(node.get("/v1/apps").json()["apps"], json!([]));
}

#[test]
fn a_pause_that_makes_no_sense_is_refused() {
    let node = shared();
    node.post("/v1/apps/no%20name/pause", &json!({}))
        .problem(422);
    let long = json!({ "reason": "r".repeat(600) });
    node.post("/v1/apps/a/pause", &long).problem(422);
    node.post("/v1/apps/a/pause", &json!({ "why": "" }))
        .problem(422);
    node.post("/v1/apps/a/pause?force=1", &json!({}))
        .problem(422);
    assert_eq!(node.cli(&["app", "pause", "no name"]).code, Some(1));
}

#[test]
fn a_failing_target_is_left_alone_and_nothing_fails_meanwhile() {
    let node = Node::start(&[
        ("HOROLOG_CALLBACKS_BREAKER_CALLS", "4"),
        ("HOROLOG_CALLBACKS_BREAKER_OPEN", "10s"),
        ("HOROLOG_CALLBACKS_BREAKER_OPEN_MAX", "10s"),
    ]);
    let (ill, well) = (Receiver::start(), Receiver::start());
    let healed = Arc::new(AtomicBool::new(false));
    let heals = healed.clone();
    let url = ill.on("/", move |_| match heals.load(Ordering::SeqCst) {
        true => Reply::Status(200),
        false => Reply::Status(500),
    });
    let once = |id: &str| with(task("ill", id, &url), json!({ "retry": { "attempts": 1 } }));
    for id in ["a", "b", "c", "d"] {
        node.submit(&once(id));
        node.wait_stage("ill", id, "dead");
    }
    let targets = node.get("/v1/targets").expect(200).json();
    let target = &targets["targets"][0];
    assert_eq!(
        (&targets["node"], &target["breaker"]),
        (&json!(1), &json!("open"))
    );
    assert_eq!(target["target"], format!("http://{}", ill.address));
    node.submit(&once("waits"));
    let hurried = with(
        once("hurried"),
        json!({ "expires_at": super::node::now() + 1_500 }),
    );
    node.submit(&hurried);
    node.submit(&task("well", "a", &well.url("/")));
    node.wait_stage("well", "a", "done");
    let told = node.part("ill", "waits", "explain").to_string();
    assert!(told.contains("circuit breaker of http://"), "{told}");
    let metrics = node.get("/metrics").expect(200).text();
    assert!(
        metrics.contains("horolog_targets{breaker=\"open\"} 1"),
        "{metrics}"
    );
    healed.store(true, Ordering::SeqCst);

    node.wait_stage("ill", "hurried", "dead");
    assert!(node.kinds("ill", "hurried").contains(&"expired".to_owned()));
    node.wait_stage("ill", "waits", "done");
    assert_eq!(
        ill.seen("/").len(),
        5,
        "the one that expired was never called"
    );
    let told = node.part("ill", "waits", "explain").to_string();
    assert!(told.contains("whose circuit breaker was open"), "{told}");
}

#[test]
fn an_application_that_submits_too_fast_is_told_when_to_come_back() {
    let node = Node::start(&[("HOROLOG_LIMITS_APP_SUBMITS_PER_SECOND", "3")]);
    let url = receiver().url("/fast");
    let later =
        |app: &str, n: usize| with(task(app, &n.to_string(), &url), json!({ "delay": "1h" }));
    let refused = until("a refusal", PATIENCE, || {
        // More at once than may come in a second.
        let tasks: Vec<Value> = (0..50).map(|n| later("fast", n)).collect();
        batch(&node, &tasks);
        let one = node.post("/v1/tasks", &later("fast", 99));
        (one.status != 201 && one.status != 200).then_some(one)
    });
    let detail = refused.problem(429);
    assert!(detail.contains("app_submits_per_second"), "{detail}");
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!(seconds >= 1);
    node.post("/v1/tasks", &later("calm", 1)).expect(201);

    // Of a batch of both, each has its own bound.
    let answers = until("the bound again", PATIENCE, || {
        let both = [later("fast", 100), later("calm", 2), later("fast", 101)];
        let answers = batch(&node, &both);
        (answers[0]["status"] == 429).then_some(answers)
    });
    assert!(
        matches!(answers[1]["status"].as_u64(), Some(200 | 201)),
        "{answers:?}"
    );
    assert_eq!(answers[2]["status"], 429);
    assert!(answers[2]["retry_after"].as_u64() >= Some(1), "{answers:?}");
}

/// The answers to a batch, in the order of its tasks.
fn batch(node: &Node, tasks: &[Value]) -> Vec<Value> {
    let lines: String = tasks.iter().map(|task| format!("{task}\n")).collect();
    let head = [("content-type", "application/x-ndjson")];
    let path = "/v1/tasks/batch";
    let answer = super::http::send(node.http, "POST", path, &head, lines.as_bytes());
    let lines = answer.expect(200).text();
    let read = |line: &str| serde_json::from_str(line).unwrap();
    lines.lines().map(read).collect()
}

/// Five hundred of one application wait for a receiver when twenty of another come: these are
/// called in turn with the others, and not behind them.
#[test]
fn whoever_has_much_waiting_lets_the_others_have_their_turn() {
    const PLACES: usize = 4;
    const CALM: usize = 20;
    let node = Node::start(&[("HOROLOG_CALLBACKS_PER_TARGET", &PLACES.to_string())]);
    let slow = Receiver::start();
    let url = slow.on("/turns", |_| Reply::Gate);
    let patient = |app: &str, n: usize| {
        let http = json!({ "url": &url, "timeout": "2m" });
        json!({ "app": app, "id": n.to_string(), "target": { "http": http } })
    };
    let waiting = |count: usize| {
        until("all of them to wait", PATIENCE, || {
            let targets = node.get("/v1/targets").expect(200).json();
            (targets["targets"][0]["queued"] == count).then_some(())
        });
    };
    let hot: Vec<Value> = (0..500).map(|n| patient("hot", n)).collect();
    batch(&node, &hot);
    waiting(hot.len() - PLACES);
    let calm: Vec<Value> = (0..CALM).map(|n| patient("calm", n)).collect();
    batch(&node, &calm);
    waiting(hot.len() - PLACES + CALM);
    slow.open("/turns");
    let seen = slow.wait("/turns", hot.len() + CALM);
    let of_calm = |(n, arrival): (usize, &super::receiver::Arrival)| {
        (arrival.header("horolog-app") == "calm").then_some(n)
    };
    let turns: Vec<usize> = seen.iter().enumerate().filter_map(of_calm).collect();
    // One each; calls at once may arrive in another order than they began.
    assert_eq!(turns.len(), CALM);
    let last = turns[CALM - 1];
    assert!(last <= PLACES + 2 * CALM + PLACES, "{turns:?}");
}

#[test]
fn without_room_on_disk_no_tasks_are_taken_and_all_else_is() {
    // Nothing is ever entirely free.
    let node = Node::start(&[("HOROLOG_DISK_REFUSE_BELOW", "100%")]);
    let warned = until("the warning", PATIENCE, || {
        node.get("/readyz").expect(200).json()["warning"]
            .as_str()
            .map(String::from)
    });
    assert!(warned.contains("nearly full"), "{warned}");
    let refused = until("a refusal", PATIENCE, || {
        let answer = node.post("/v1/tasks", &task("full", "a", "http://127.0.0.1:9/"));
        (answer.status == 503).then_some(answer)
    });
    let detail = refused.problem(503);
    assert!(detail.contains("disk.refuse_below"), "{detail}");
    assert_eq!(refused.header("retry-after"), Some("30"));
    // Decided by the log, both of them.
    node.delete(&path("full", "nobody")).problem(404);
    let done = json!({ "appId": "full", "uuid": "early" });
    node.post("/api/task/done", &done).expect(200);
    let metrics = node.get("/metrics").expect(200).text();
    assert!(metrics.contains("horolog_disk_low 1"), "{metrics}");
}
