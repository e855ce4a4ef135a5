//! What a receiver gets, and what its answers lead to.

use serde_json::{Value, json};

use super::node::{Node, free, now, shared, until};
use super::receiver::{Arrival, Reply, receiver};
use super::task::{PATIENCE, millis, path, task, with};

/// Retries at once, so that a case does not wait.
fn quick(attempts: u32) -> Value {
    json!({ "retry": { "attempts": attempts, "backoff": { "fixed": "10ms" }, "jitter": 0 } })
}

fn gaps(seen: &[Arrival]) -> Vec<u64> {
    seen.windows(2)
        .map(|pair| pair[1].at - pair[0].at)
        .collect()
}

#[test]
fn headers_and_body_are_as_the_contract_says() {
    let node = shared();
    let url = receiver().on("/headers", |n| {
        Reply::Status(if n == 0 { 500 } else { 200 })
    });
    let due = now() + 300;
    let mut sent = with(task("c-head", "order:17", &url), quick(3));
    sent["due_at"] = json!(due);
    sent["target"]["http"]["method"] = json!("PUT");
    sent["target"]["http"]["headers"] =
        json!({ "X-Mine": "yes", "authorization": "Bearer s3cret" });
    // Exactly as written, number and spaces included.
    let raw = sent
        .to_string()
        .replace("\"method\"", "\"body\":{ \"n\": 1.0 },\"method\"");
    super::http::send(node.http, "POST", "/v1/tasks", &[], raw.as_bytes()).expect(201);
    let seen = receiver().wait("/headers", 2);
    for (n, arrival) in seen.iter().enumerate() {
        assert_eq!(arrival.method, "PUT");
        assert!(arrival.at >= due, "{} ms early", due - arrival.at);
        assert_eq!(arrival.body, br#"{ "n": 1.0 }"#);
        for (name, value) in [
            ("content-length", "12"),
            ("content-type", "application/json"),
            ("x-mine", "yes"),
            ("authorization", "Bearer s3cret"),
            ("horolog-app", "c-head"),
            ("horolog-task", "order:17"),
        ] {
            assert_eq!(arrival.header(name), value, "{name}");
        }
        assert_eq!(arrival.number("horolog-attempt"), n as u64 + 1);
        assert_eq!(millis(&json!(arrival.header("horolog-due"))), due);
        assert!(arrival.number("webhook-timestamp").abs_diff(now() / 1_000) < 60);
        assert!(arrival.headers.iter().all(|h| h.0 != "transfer-encoding"));
    }
    assert!(!seen[0].header("webhook-id").is_empty());
    assert_eq!(seen[0].header("webhook-id"), seen[1].header("webhook-id"));
    assert!(seen[0].number("horolog-fence") < seen[1].number("horolog-fence"));
}

#[test]
fn methods_and_bodies_go_out_as_given() {
    let node = shared();
    for (id, http, method, kind, body) in [
        ("none", json!({}), "POST", "", &b""[..]),
        ("text", json!({ "body": "tä" }), "POST", "", "tä".as_bytes()),
        (
            "bytes",
            json!({ "body_base64": "AP8=" }),
            "POST",
            "",
            &[0, 255],
        ),
        ("get", json!({ "method": "GET" }), "GET", "", b""),
        ("delete", json!({ "method": "DELETE" }), "DELETE", "", b""),
        (
            "own",
            json!({ "body": [1], "headers": { "Content-Type": "application/x+json" } }),
            "POST",
            "application/x+json",
            b"[1]",
        ),
    ] {
        let path = format!("/methods-{id}");
        let mut sent = task("c-method", id, &receiver().url(&path));
        for (name, value) in http.as_object().unwrap() {
            sent["target"]["http"][name] = value.clone();
        }
        node.submit(&sent);
        let seen = receiver().wait(&path, 1);
        assert_eq!(seen[0].method, method, "{id}");
        assert_eq!(seen[0].header("content-type"), kind, "{id}");
        assert_eq!(
            seen[0].header("content-length"),
            body.len().to_string(),
            "{id}"
        );
        assert_eq!(seen[0].body, body, "{id}");
    }
}

#[test]
fn it_fails_twice_and_then_succeeds() {
    let node = shared();
    let url = receiver().on("/twice", |n| Reply::Status(if n < 2 { 500 } else { 200 }));
    node.submit(&with(task("c-twice", "a", &url), quick(3)));
    let done = node.wait_stage("c-twice", "a", "done");
    assert_eq!(done["attempt"], 3);
    assert!(
        done["error"].is_null() && done["finished_at"].is_string(),
        "{done}"
    );
    assert_eq!(
        node.kinds("c-twice", "a"),
        [
            "submitted",
            "triggered",
            "retry",
            "triggered",
            "retry",
            "triggered",
            "done"
        ]
    );
    let attempts = node.part("c-twice", "a", "attempts");
    let statuses: Vec<_> = (0..3).map(|n| attempts[n]["status"].as_u64()).collect();
    assert_eq!(statuses, [Some(500), Some(500), Some(200)]);
    assert_eq!(receiver().seen("/twice").len(), 3);
}

#[test]
fn attempts_are_counted_and_the_last_failure_is_kept() {
    let node = shared();
    let url = receiver().on("/always", |_| Reply::Body(500, b"no way".to_vec()));
    node.submit(&with(task("c-dead", "a", &url), quick(2)));
    let dead = node.wait_stage("c-dead", "a", "dead");
    assert_eq!(dead["attempt"], 2);
    assert!(dead["error"].as_str().unwrap().contains("500"), "{dead}");
    assert_eq!(receiver().seen("/always").len(), 2);
    let attempts = node.part("c-dead", "a", "attempts");
    assert_eq!(attempts[1]["answer"], "no way");
    assert!(millis(&attempts[1]["ended"]) >= millis(&attempts[1]["started"]));
    let explained = node.explained("c-dead", "a");
    assert!(explained.contains("all 2 attempts"), "{explained}");
}

#[test]
fn backoff_is_measured_from_the_end_of_an_attempt() {
    let node = shared();
    for (id, backoff, least) in [
        ("fixed", json!({ "fixed": "200ms" }), [200, 200, 200]),
        (
            "linear",
            json!({ "linear": { "first": "100ms", "step": "150ms", "max": "300ms" } }),
            [100, 250, 300],
        ),
        (
            "exponential",
            json!({ "exponential": { "first": "100ms", "factor": 2, "max": "300ms" } }),
            [100, 200, 300],
        ),
        ("list", json!({ "list": ["50ms", "300ms"] }), [50, 300, 300]),
    ] {
        let path = format!("/backoff-{id}");
        let url = receiver().on(&path, |_| Reply::Status(503));
        let retry = json!({ "retry": { "attempts": 4, "backoff": backoff } });
        node.submit(&with(task("c-backoff", id, &url), retry));
        let dead = node.wait_stage("c-backoff", id, "dead");
        assert_eq!(dead["attempt"], 4);
        let attempts = node.part("c-backoff", id, "attempts");
        for (n, least) in least.into_iter().enumerate() {
            let gap = millis(&attempts[n + 1]["started"]) - millis(&attempts[n]["ended"]);
            // The jitter of 0.1, and a machine that has other things to do.
            assert!(
                (least..least + least / 10 + 1_000).contains(&gap),
                "{id} {n}: {gap}"
            );
        }
        let seen = gaps(&receiver().seen(&path));
        assert!(
            seen.iter().zip(least).all(|(gap, least)| *gap >= least),
            "{id}: {seen:?}"
        );
    }
}

#[test]
fn retry_after_is_a_minimum_for_that_task_only() {
    let node = shared();
    for (id, status) in [("429", 429), ("503", 503)] {
        let path = format!("/later-{id}");
        let url = receiver().on(&path, move |n| match n {
            0 => Reply::With(status, "retry-after", "2".into()),
            _ => Reply::Status(200),
        });
        node.submit(&with(task("c-later", id, &url), quick(3)));
    }
    // Another task of the same target is not held up.
    receiver().wait("/later-429", 1);
    node.submit(&task("c-later", "other", &receiver().url("/later-other")));
    receiver().wait("/later-other", 1);
    assert_eq!(receiver().seen("/later-429").len(), 1);
    for id in ["429", "503"] {
        let seen = receiver().wait(&format!("/later-{id}"), 2);
        let gap = seen[1].at - seen[0].at;
        assert!((2_000..4_000).contains(&gap), "{gap}");
        node.wait_stage("c-later", id, "done");
    }
    // A minimum: where the back-off is longer, that stands. On a 500 it asks for nothing.
    let url = receiver().on("/later-less", |n| match n {
        0 => Reply::With(429, "retry-after", "0".into()),
        1 => Reply::With(500, "retry-after", "30".into()),
        _ => Reply::Status(200),
    });
    let retry = json!({ "retry": { "attempts": 3, "backoff": { "fixed": "400ms" } } });
    node.submit(&with(task("c-later", "less", &url), retry));
    node.wait_stage("c-later", "less", "done");
    let gaps = gaps(&receiver().seen("/later-less"));
    assert!(
        gaps.iter().all(|gap| (400..3_000).contains(gap)),
        "{gaps:?}"
    );
}

#[test]
fn gone_is_final() {
    let node = shared();
    for status in [410, 489] {
        let (id, path) = (status.to_string(), format!("/gone-{status}"));
        let url = receiver().on(&path, move |_| Reply::Status(status));
        node.submit(&with(task("c-gone", &id, &url), quick(5)));
        let dead = node.wait_stage("c-gone", &id, "dead");
        assert_eq!(dead["attempt"], 1);
        assert_eq!(receiver().seen(&path).len(), 1);
        assert_eq!(
            node.kinds("c-gone", &id),
            ["submitted", "triggered", "dead"]
        );
        let explained = node.explained("c-gone", &id);
        assert!(
            explained.contains(&format!("{status} means")),
            "{explained}"
        );
    }
}

#[test]
fn a_redirect_is_a_failure_and_not_followed() {
    let node = shared();
    let elsewhere = receiver().url("/redirected");
    let url = receiver().on("/redirect", move |_| {
        Reply::With(307, "location", elsewhere.clone())
    });
    node.submit(&with(task("c-redirect", "a", &url), quick(2)));
    let dead = node.wait_stage("c-redirect", "a", "dead");
    assert!(dead["error"].as_str().unwrap().contains("307"), "{dead}");
    assert_eq!(receiver().seen("/redirect").len(), 2);
    assert!(receiver().seen("/redirected").is_empty());
}

#[test]
fn a_receiver_that_hangs_times_out() {
    let node = shared();
    let url = receiver().on("/hang", |_| Reply::Hang);
    let mut sent = with(task("c-hang", "a", &url), quick(2));
    sent["target"]["http"]["timeout"] = json!("300ms");
    node.submit(&sent);
    let dead = node.wait_stage("c-hang", "a", "dead");
    assert!(
        dead["error"]
            .as_str()
            .unwrap()
            .contains("timed out after 300ms"),
        "{dead}"
    );
    let attempts = node.part("c-hang", "a", "attempts");
    for n in 0..2 {
        let took = millis(&attempts[n]["ended"]) - millis(&attempts[n]["started"]);
        assert!((300..2_000).contains(&took), "{took}");
        assert!(attempts[n]["status"].is_null());
    }
}

#[test]
fn broken_answers_are_failures() {
    let node = shared();
    for (id, raw) in [
        ("half", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"),
        (
            "chunk",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        ),
        ("head", "HTTP/1.1 200 OK\r\nconte"),
        ("nothing", ""),
        ("nonsense", "I am no server\r\n\r\n"),
    ] {
        let path = format!("/broken-{id}");
        let url = receiver().on(&path, move |n| match n {
            0 => Reply::Raw(raw),
            _ => Reply::Status(200),
        });
        node.submit(&with(task("c-broken", id, &url), quick(2)));
        let done = node.wait_stage("c-broken", id, "done");
        assert_eq!(done["attempt"], 2, "{id}");
        let attempts = node.part("c-broken", id, "attempts");
        assert!(attempts[0]["error"].is_string(), "{id}: {attempts}");
    }
    let url = format!("http://{}/", free());
    node.submit(&with(task("c-broken", "refused", &url), quick(2)));
    let dead = node.wait_stage("c-broken", "refused", "dead");
    assert_eq!(dead["attempt"], 2);
    assert!(
        dead["error"]
            .as_str()
            .unwrap()
            .to_lowercase()
            .contains("refused"),
        "{dead}"
    );
}

#[test]
fn of_a_large_answer_the_first_kib_is_kept() {
    let node = shared();
    let url = receiver().on("/large", |_| Reply::Body(200, vec![b'y'; 10_000]));
    node.submit(&task("c-large", "a", &url));
    node.wait_stage("c-large", "a", "done");
    let attempts = node.part("c-large", "a", "attempts");
    assert_eq!(attempts[0]["answer"], "y".repeat(1_024));
    // Without an end: read up to the bound, and a success all the same.
    let url = receiver().on("/endless", |_| Reply::Endless);
    node.submit(&with(task("c-large", "endless", &url), quick(1)));
    let done = node.wait_stage("c-large", "endless", "done");
    assert_eq!(done["attempt"], 1);
}

#[test]
fn max_age_counts_from_the_due_instant() {
    let node = shared();
    let url = receiver().on("/age", |_| Reply::Status(500));
    let retry =
        json!({ "retry": { "attempts": 50, "backoff": { "fixed": "250ms" }, "max_age": "600ms" } });
    let made = node.submit(&with(task("c-age", "a", &url), retry));
    let dead = node.wait_stage("c-age", "a", "dead");
    assert!(
        dead["error"].as_str().unwrap().contains("max_age"),
        "{dead}"
    );
    let due = millis(&made["due_at"]);
    let seen = receiver().seen("/age");
    assert!((1..=3).contains(&seen.len()), "{}", seen.len());
    assert_eq!(dead["attempt"], seen.len());
    assert!(millis(&dead["finished_at"]) < due + 5_000);
}

#[test]
fn what_has_not_started_by_expires_at_is_dead() {
    let node = shared();
    let url = receiver().url("/expired");
    let sent = with(
        task("c-expire", "past", &url),
        json!({ "expires_at": now() - 1_000 }),
    );
    node.submit(&sent);
    let dead = node.wait_stage("c-expire", "past", "dead");
    assert_eq!(dead["outcome"], "expired");
    let kinds = node.kinds("c-expire", "past");
    assert_eq!(
        kinds.last().map(String::as_str),
        Some("expired"),
        "{kinds:?}"
    );
    assert!(receiver().seen("/expired").is_empty());
    let sent = with(
        task("c-expire", "future", &url),
        json!({ "expires_at": now() + 60_000 }),
    );
    node.submit(&sent);
    node.wait_stage("c-expire", "future", "done");
}

#[test]
fn a_dead_letter_runs_again() {
    let node = shared();
    let url = receiver().on("/again", |n| Reply::Status(if n < 2 { 500 } else { 200 }));
    node.submit(&with(task("c-again", "a", &url), quick(2)));
    node.wait_stage("c-again", "a", "dead");
    let run = path("c-again", "a") + "/run?wait=10s";
    let done = node.post(&run, &json!({})).expect(200);
    assert!(done.index() > 0);
    assert_eq!(
        done.json()["stage"],
        "done",
        "a new series, and its outcome"
    );
    assert_eq!(done.json()["attempt"], 3);
    // It is done: again only when that is said.
    node.post(&run, &json!({})).problem(409);
    assert_eq!(receiver().seen("/again").len(), 3);
    let again = node
        .post(&run, &json!({ "again": true }))
        .expect(200)
        .json();
    assert_eq!(
        (&again["stage"], &again["attempt"]),
        (&json!("done"), &json!(4))
    );
    let seen = receiver().wait("/again", 4);
    assert!(
        seen.windows(2)
            .all(|w| w[0].number("horolog-fence") < w[1].number("horolog-fence"))
    );
    assert!(
        seen.iter()
            .all(|s| s.header("webhook-id") == seen[0].header("webhook-id"))
    );
    node.post(&(path("c-again", "nobody") + "/run"), &json!({}))
        .problem(404);
    node.post(&(path("c-again", "a") + "/run?wait=1w"), &json!({}))
        .problem(422);
}

#[test]
fn a_new_series_has_all_its_attempts() {
    let node = shared();
    let url = receiver().on("/series", |n| Reply::Status(if n < 3 { 500 } else { 200 }));
    node.submit(&with(task("c-series", "a", &url), quick(2)));
    node.wait_stage("c-series", "a", "dead");
    let run = path("c-series", "a") + "/run";
    node.post(&run, &json!({})).expect(200);
    assert_eq!(node.wait_stage("c-series", "a", "done")["attempt"], 4);
}

#[test]
fn running_is_left_alone() {
    let node = shared();
    let url = receiver().on("/running", |_| Reply::Gate);
    node.submit(&task("c-running", "a", &url));
    node.wait_stage("c-running", "a", "running");
    let path = path("c-running", "a");
    node.post(&format!("{path}/run"), &json!({})).problem(409);
    node.delete(&path).problem(409);
    node.patch(&path, &json!({ "delay": "1h" })).problem(409);
    let listed = node.get("/v1/tasks?app=c-running&stage=running").json();
    assert_eq!(listed["tasks"].as_array().unwrap().len(), 1);
    let explained = node.explained("c-running", "a");
    assert!(explained.contains("under way on node 1"), "{explained}");
    receiver().open("/running");
    let done = node.wait_stage("c-running", "a", "done");
    assert_eq!(done["attempt"], 1);
    assert_eq!(
        node.kinds("c-running", "a"),
        ["submitted", "triggered", "started", "done"]
    );
    for refused in [
        node.delete(&path),
        node.patch(&path, &json!({ "delay": 1 })),
    ] {
        refused.problem(409);
    }
}

#[test]
fn a_slow_target_does_not_hold_up_another() {
    // Two calls at once to a target: the third task of the slow one waits, the fast one does not.
    let node = Node::start(&[("HOROLOG_CALLBACKS_PER_TARGET", "2")]);
    let slow = super::receiver::Receiver::start();
    let url = slow.on("/slow", |_| Reply::Gate);
    for id in ["a", "b", "c"] {
        node.submit(&task("c-slow", id, &url));
    }
    slow.wait("/slow", 2);
    node.submit(&task("c-slow", "fast", &receiver().url("/fast")));
    node.wait_stage("c-slow", "fast", "done");
    assert_eq!(slow.seen("/slow").len(), 2);
    slow.open("/slow");
    slow.wait("/slow", 3);
    let last = until("all three are done", PATIENCE, || {
        let stats = node.get("/v1/stats?app=c-slow").json();
        (stats["tasks"]["done"] == 4).then_some(stats)
    });
    assert!(last["index"].is_u64());
    let queued = ["a", "b", "c"].iter().any(|id| {
        let text = node.explained("c-slow", id);
        text.contains("in the queue of its target")
    });
    assert!(queued, "one of them waited, and its explanation says so");
}
