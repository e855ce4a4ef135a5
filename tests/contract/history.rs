//! Events, attempts and explanations, for every way in which a task comes to its end.

use serde_json::{Value, json};

use super::node::{Node, now, shared};
use super::receiver::{Receiver, Reply, receiver};
use super::task::{millis, path, task, with};

#[test]
fn on_time() {
    let node = shared();
    let url = receiver().on("/h-ontime", |_| Reply::Body(200, b"thanks".to_vec()));
    let due = now() + 500;
    let index =
        node.submit(&with(task("h-ontime", "a", &url), json!({ "due_at": due })))["index"].clone();
    let done = node.wait_stage("h-ontime", "a", "done");
    let events = node.part("h-ontime", "a", "events");
    let members = [
        "at", "attempt", "by", "error", "fence", "index", "kind", "node", "status",
    ];
    for event in events.as_array().unwrap() {
        let names: Vec<&str> = event
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(names, members);
        assert!(millis(&event["at"]) > 0);
    }
    let kinds: Vec<&Value> = (0..3).map(|n| &events[n]["kind"]).collect();
    assert_eq!(kinds, ["submitted", "triggered", "done"]);
    assert_eq!(
        (&events[0]["by"], &events[0]["attempt"]),
        (&json!("loopback"), &json!(0))
    );
    assert_eq!(events[0]["index"], index);
    assert_eq!(
        (&events[1]["node"], &events[1]["attempt"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(events[2]["status"], 200);
    assert_eq!(events[2]["index"], done["index"]);
    let fence = receiver().wait("/h-ontime", 1)[0].number("horolog-fence");
    assert_eq!(events[1]["fence"], fence);

    let attempts = node.part("h-ontime", "a", "attempts");
    assert_eq!(attempts.as_array().unwrap().len(), 1);
    let attempt = &attempts[0];
    assert_eq!(
        (&attempt["node"], &attempt["status"]),
        (&json!(1), &json!(200))
    );
    assert_eq!(attempt["answer"], "thanks");
    assert!(attempt["error"].is_null());
    assert!(millis(&attempt["started"]) >= due, "never early");
    assert!(millis(&attempt["ended"]) >= millis(&attempt["started"]));

    let explained = node.explained("h-ontime", "a");
    for part in [
        "It was submitted at",
        "ahead.",
        "was triggered at log index",
        "HTTP 200",
    ] {
        assert!(explained.contains(part), "{part} in\n{explained}");
    }
}

#[test]
fn late_because_of_a_retry() {
    let node = shared();
    let url = receiver().on("/h-retry", |n| {
        Reply::Status(if n == 0 { 503 } else { 200 })
    });
    let retry = json!({ "retry": { "backoff": { "fixed": "300ms" }, "jitter": 0 } });
    node.submit(&with(task("h-retry", "a", &url), retry));
    node.wait_stage("h-retry", "a", "done");
    let explained = node.explained("h-retry", "a");
    for part in [
        "HTTP 503",
        "The next try is not before",
        "300ms later",
        "Attempt 2 ended",
    ] {
        assert!(explained.contains(part), "{part} in\n{explained}");
    }
}

#[test]
fn waiting_and_overdue() {
    let node = shared();
    let url = receiver().url("/h-wait");
    node.submit(&with(task("h-wait", "a", &url), json!({ "delay": "1h" })));
    let explained = node.explained("h-wait", "a");
    assert!(explained.contains("It is not due yet"), "{explained}");
    // Submitted late: the lateness is the submitter's.
    node.submit(&with(
        task("h-wait", "b", &url),
        json!({ "due_at": now() - 5_000 }),
    ));
    node.wait_stage("h-wait", "b", "done");
    let explained = node.explained("h-wait", "b");
    assert!(
        explained.contains("because it was submitted late"),
        "{explained}"
    );
    assert!(explained.contains("before it was submitted"), "{explained}");
}

#[test]
fn cancelled_and_changed() {
    let node = shared();
    let url = receiver().url("/h-cancel");
    node.submit(&with(task("h-cancel", "a", &url), json!({ "delay": "1h" })));
    node.patch(&path("h-cancel", "a"), &json!({ "delay": "2h" }))
        .expect(200);
    node.delete(&path("h-cancel", "a")).expect(200);
    assert_eq!(
        node.kinds("h-cancel", "a"),
        ["submitted", "changed", "cancelled"]
    );
    let explained = node.explained("h-cancel", "a");
    for part in ["It was changed at", "It was cancelled at", "by loopback"] {
        assert!(explained.contains(part), "{part} in\n{explained}");
    }
    assert_eq!(node.part("h-cancel", "a", "attempts"), json!([]));
}

#[test]
fn unknown_tasks_have_no_history() {
    for part in ["events", "attempts", "explain"] {
        let there = format!("/v1/tasks/h-none/nobody/{part}");
        shared().get(&there).problem(404);
        shared().get(&format!("{there}?nonsense=1")).problem(422);
    }
}

#[test]
fn an_attempt_that_the_crash_interrupted_is_handed_out_again() {
    let mut node = Node::start(&[]);
    let slow = Receiver::start();
    let url = slow.on("/h-crash", |n| {
        if n == 0 {
            Reply::Hang
        } else {
            Reply::Status(200)
        }
    });
    // One try: what a crash interrupts is not counted as one.
    let once = json!({ "retry": { "attempts": 1 } });
    node.submit(&with(task("h-crash", "open", &url), once));
    let finished = receiver().url("/h-crash-finished");
    node.submit(&task("h-crash", "finished", &finished));
    node.wait_stage("h-crash", "finished", "done");
    let later = with(
        task("h-crash", "later", &finished),
        json!({ "delay": "1h" }),
    );
    let later = node.submit(&later);
    slow.wait("/h-crash", 1);
    node.crash_and_restart();
    let done = node.wait_stage("h-crash", "open", "done");
    assert_eq!(done["attempt"], 2);
    let seen = slow.wait("/h-crash", 2);
    assert!(seen[0].number("horolog-fence") < seen[1].number("horolog-fence"));
    assert_eq!(seen[0].header("webhook-id"), seen[1].header("webhook-id"));
    let mut kinds = node.kinds("h-crash", "open");
    // It is reported as begun when it has been open for a while before the crash.
    kinds.retain(|kind| kind != "started");
    assert_eq!(kinds, ["submitted", "triggered", "redispatched", "done"]);
    let attempts = node.part("h-crash", "open", "attempts");
    assert!(
        attempts[0]["error"]
            .as_str()
            .unwrap()
            .contains("its shard moved"),
        "{attempts}"
    );
    assert_eq!(attempts[1]["status"], 200);
    let explained = node.explained("h-crash", "open");
    for part in [
        "Its shard moved",
        "does not count as a try",
        "until its shard had moved",
    ] {
        assert!(explained.contains(part), "{part} in\n{explained}");
    }
    // Nothing else changed, and what was done did not fire again.
    assert_eq!(node.task("h-crash", "later"), later);
    assert_eq!(receiver().seen("/h-crash-finished").len(), 1);
}
