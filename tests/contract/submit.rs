//! `POST /v1/tasks`: identity, comparison, values, defaults, bounds.

use serde_json::{Value, json};

use super::http;
use super::node::{now, shared};
use super::task::{millis, path, task, with};

/// Nobody listens there, and nothing in these cases is due.
const URL: &str = "http://127.0.0.1:9/hook";

#[test]
fn new_is_201_same_is_200_other_is_409() {
    let node = shared();
    let sent = with(task("s-same", "order-17", URL), json!({ "delay": "1h" }));
    let first = node.post("/v1/tasks", &sent).expect(201);
    assert_eq!(first.header("location"), Some("/v1/tasks/s-same/order-17"));
    assert!(first.index() > 0);
    assert!(first.header("etag").is_some());
    let made = first.json();
    assert_eq!(
        (&made["stage"], &made["attempt"]),
        (&json!("scheduled"), &json!(0))
    );
    assert_eq!(made["index"], first.index());

    let again = node.post("/v1/tasks", &sent).expect(200);
    assert!(again.index() > first.index(), "decided later in the log");
    assert_eq!(again.json(), made, "the first due time stands");
    assert_eq!(again.header("etag"), first.header("etag"));

    // Spelled differently it is still the same delay, and the order of members is nothing.
    for delay in [json!(3_600_000), json!("60m"), json!("3600s")] {
        let same = with(sent.clone(), json!({ "delay": delay }));
        node.post("/v1/tasks", &same).expect(200);
    }
    let other = |more: Value| {
        node.post("/v1/tasks", &with(sent.clone(), more))
            .problem(409)
    };
    other(json!({ "delay": "2h" }));
    other(json!({ "labels": { "a": "b" } }));
    other(json!({ "retry": { "attempts": 3 } }));
    other(json!({ "accept_timeout": "1h" }));
    other(json!({ "target": { "http": { "url": URL, "method": "POST" } } }));
    let mut at = sent.clone();
    at.as_object_mut().unwrap().remove("delay");
    node.post("/v1/tasks", &at).problem(409);
    at["due_at"] = made["due_at"].clone();
    node.post("/v1/tasks", &at).problem(409);
    assert_eq!(
        node.task("s-same", "order-17"),
        made,
        "nothing of that had an effect"
    );
}

#[test]
fn a_problem_of_a_write_says_where_it_was_decided() {
    let node = shared();
    let sent = with(task("s-index", "a", URL), json!({ "delay": "1h" }));
    let first = node.post("/v1/tasks", &sent).expect(201).index();
    let changed = with(sent.clone(), json!({ "delay": "2h" }));
    let refused = node.post("/v1/tasks", &changed);
    refused.problem(409);
    assert!(refused.index() > first);
    let missing = node.delete(&path("s-index", "nobody"));
    missing.problem(404);
    assert!(missing.index() > first);
}

#[test]
fn the_answer_to_a_repeated_submit_shows_the_task_as_it_is() {
    let node = shared();
    let sent = with(task("s-now", "a", URL), json!({ "delay": "1h" }));
    node.submit(&sent);
    node.delete(&path("s-now", "a")).expect(200);
    assert_eq!(
        node.post("/v1/tasks", &sent).expect(200).json()["stage"],
        "cancelled"
    );
}

#[test]
fn a_missing_id_becomes_a_uuid_of_version_7() {
    let node = shared();
    let mut sent = with(task("s-uuid", "x", URL), json!({ "delay": "1h" }));
    sent.as_object_mut().unwrap().remove("id");
    let ids: Vec<uuid::Uuid> = (0..3)
        .map(|_| node.submit(&sent)["id"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(ids.iter().all(|id| id.get_version_num() == 7), "{ids:?}");
    assert!(
        ids[0] < ids[1] && ids[1] < ids[2],
        "ordered by time: {ids:?}"
    );
    let made = ids[0].get_timestamp().unwrap().to_unix().0;
    assert!(made.abs_diff(now() / 1_000) < 60);
}

#[test]
fn instants_have_two_spellings_and_one_form() {
    let node = shared();
    for (n, (given, answered)) in [
        (
            json!("2099-01-31T10:30:00+01:00"),
            "2099-01-31T09:30:00.000Z",
        ),
        (json!("2099-01-31T09:30:00.25Z"), "2099-01-31T09:30:00.250Z"),
        (json!("2099-01-31t09:30:00z"), "2099-01-31T09:30:00.000Z"),
        (json!(4_102_444_800_123_u64), "2100-01-01T00:00:00.123Z"),
        (
            json!("2099-01-31T09:30:00.9999999Z"),
            "2099-01-31T09:30:00.999Z",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("t{n}");
        let sent = with(
            task("s-instant", &id, URL),
            json!({ "due_at": given, "expires_at": given }),
        );
        assert_eq!(node.submit(&sent)["due_at"], answered, "{given}");
    }
    for given in [
        json!("tomorrow"),
        json!("2099-01-31"),
        json!("2099-01-31T09:30:00"),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!("1960-01-01T00:00:00Z"),
        json!(true),
        json!([]),
    ] {
        let sent = with(task("s-instant", "bad", URL), json!({ "due_at": given }));
        let detail = node.post("/v1/tasks", &sent).problem(422);
        assert!(detail.contains("due_at"), "{given}: {detail}");
    }
}

#[test]
fn durations_have_many_spellings_and_one_form() {
    let node = shared();
    for (n, (given, answered)) in [
        (json!("1h30m"), "1h30m"),
        (json!(5_400_000), "1h30m"),
        (json!("90m"), "1h30m"),
        (json!("1d"), "1d"),
        (json!("24h"), "1d"),
        (json!("250ms"), "250ms"),
        (json!("1d2h3m4s5ms"), "1d2h3m4s5ms"),
        (json!("1500"), "1s500ms"),
        (json!(0), "0ms"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("d{n}");
        let more =
            json!({ "delay": "1h", "retry": { "max_age": given, "backoff": { "fixed": given } } });
        let made = node.submit(&with(task("s-span", &id, URL), more));
        assert_eq!(made["retry"]["max_age"], answered, "{given}");
        assert_eq!(made["retry"]["backoff"]["fixed"], answered, "{given}");
    }
    for given in [
        json!("1w"),
        json!("-1s"),
        json!(-5),
        json!("1.5s"),
        json!(0.5),
        json!(""),
        json!("1m1h"),
        json!("99999999999999999999d"),
        json!(u64::MAX),
        json!(null),
    ] {
        let sent = with(task("s-span", "bad", URL), json!({ "delay": given }));
        if given.is_null() {
            // JSON's null is absence.
            continue;
        }
        let detail = node.post("/v1/tasks", &sent).problem(422);
        assert!(detail.contains("delay"), "{given}: {detail}");
    }
}

#[test]
fn due_at_and_delay_say_when() {
    let node = shared();
    let before = now();
    let made = node.submit(&with(
        task("s-when", "delay", URL),
        json!({ "delay": "10m" }),
    ));
    let due = millis(&made["due_at"]);
    assert!(
        (before + 600_000..=now() + 600_000).contains(&due),
        "{made}"
    );
    assert_eq!(due, millis(&made["created_at"]) + 600_000);
    let both = with(
        task("s-when", "both", URL),
        json!({ "delay": 1, "due_at": 1 }),
    );
    node.post("/v1/tasks", &both).problem(422);
    // Neither: now.
    let made = node.submit(&task("s-when", "neither", URL));
    assert_eq!(made["due_at"], made["created_at"]);
}

#[test]
fn defaults_are_filled_in() {
    let node = shared();
    let made = node.submit(&with(task("s-default", "a", URL), json!({ "delay": "1h" })));
    let http = &made["target"]["http"];
    assert_eq!(http["method"], "POST");
    assert_eq!(http["timeout"], "10s");
    assert_eq!(
        made["retry"],
        json!({ "attempts": 3, "jitter": 0.1, "max_age": null,
            "backoff": { "exponential": { "first": "1s", "factor": 2.0, "max": "10m" } } })
    );
    assert_eq!(made["labels"], json!({}));
    for member in ["finished_at", "outcome", "error", "owner"] {
        assert!(
            made.get(member).is_some_and(Value::is_null),
            "{member} in {made}"
        );
    }
    assert!(made["shard"].is_u64());
}

#[test]
fn secret_headers_are_masked() {
    let node = shared();
    let headers = json!({ "Authorization": "Bearer s3cret", "cookie": "s3cret", "X-Api-Key": "s3cret", "x-other": "plain" });
    let http = json!({ "http": { "url": URL, "headers": headers } });
    let sent = with(
        task("s-mask", "a", URL),
        json!({ "delay": "1h", "target": http }),
    );
    let first = node.post("/v1/tasks", &sent).expect(201);
    let masked =
        json!({ "Authorization": "***", "cookie": "***", "X-Api-Key": "***", "x-other": "plain" });
    assert_eq!(first.json()["target"]["http"]["headers"], masked);
    for path in [
        "/v1/tasks/s-mask/a",
        "/v1/tasks?app=s-mask",
        "/v1/tasks/s-mask/a/events",
    ] {
        assert!(
            !node.get(path).expect(200).text().contains("s3cret"),
            "{path}"
        );
    }
    // The hidden values still count when contents are compared.
    let mut other = sent.clone();
    other["target"]["http"]["headers"]["Authorization"] = json!("Bearer other");
    node.post("/v1/tasks", &other).problem(409);
}

#[test]
fn bodies_come_back_as_they_were_written() {
    let node = shared();
    for (id, body) in [
        ("text", json!({ "body": "tä\n\"x\"" })),
        ("json", json!({ "body": { "n": [1, null] } })),
        ("bytes", json!({ "body_base64": "AP8=" })),
    ] {
        let mut sent = with(task("s-body", id, URL), json!({ "delay": "1h" }));
        for (name, value) in body.as_object().unwrap() {
            sent["target"]["http"][name] = value.clone();
        }
        let made = node.submit(&sent);
        for (name, value) in body.as_object().unwrap() {
            assert_eq!(&made["target"]["http"][name], value);
        }
    }
}

#[test]
fn names_are_checked_and_kept_to_the_byte() {
    let node = shared();
    let delayed = |app: &str, id: &str| with(task(app, id, URL), json!({ "delay": "1h" }));
    let (app, id) = ("A".repeat(64), "i".repeat(128));
    node.submit(&delayed(&app, &id));
    for id in ["a.b_c~d:e-1", "ABC", "abc"] {
        assert_eq!(node.submit(&delayed("s-name", id))["id"], id);
    }
    let long = "A".repeat(65);
    for (app, id) in [
        ("", "x"),
        (long.as_str(), "x"),
        ("s-name", ""),
        ("s-name", &"i".repeat(129)),
        ("s-name", "a/b"),
        ("s-name", "a b"),
        ("s-name", "é"),
        ("s name", "x"),
    ] {
        node.post("/v1/tasks", &delayed(app, id)).problem(422);
    }
    node.get("/v1/tasks/s-name/nobody").problem(404);
    node.get("/v1/tasks/s-name/a%20b").problem(422);
    node.get("/v1/tasks/s-name/a%3Ab").problem(404);
    assert_eq!(node.get("/v1/tasks/s-name/a.b_c~d%3Ae-1").status, 200);
}

#[test]
fn what_is_not_acceptable_is_named() {
    let node = shared();
    for (more, named) in [
        (json!({ "dleay": "1s" }), "dleay"),
        (json!({ "retry": { "attempts": 0 } }), "retry.attempts"),
        (json!({ "retry": { "jitter": -1 } }), "retry.jitter"),
        (
            json!({ "retry": { "backoff": { "list": [] } } }),
            "retry.backoff",
        ),
        (
            json!({ "retry": { "backoff": { "sometimes": 1 } } }),
            "retry.backoff",
        ),
        (
            json!({ "target": { "http": { "url": "ftp://a/" } } }),
            "target.http.url",
        ),
        (
            json!({ "target": { "http": { "url": URL, "timeout": "16m" } } }),
            "target.http.timeout",
        ),
        (
            json!({ "target": { "http": { "url": URL, "method": "G E T" } } }),
            "target.http.method",
        ),
        (
            json!({ "target": { "http": { "url": URL, "headers": { "host": "x" } } } }),
            "target.http.headers",
        ),
        (
            json!({ "target": { "http": { "url": URL, "body": 1, "body_base64": "" } } }),
            "target.http.body",
        ),
        (
            json!({ "target": { "http": { "url": URL, "body_base64": "?" } } }),
            "target.http.body_base64",
        ),
        (json!({ "labels": { "": "x" } }), "labels"),
        (json!({ "labels": { "k": 7 } }), "labels"),
    ] {
        let sent = with(task("s-bad", "a", URL), more);
        let detail = node.post("/v1/tasks", &sent).problem(422);
        assert!(detail.contains(named), "{named}: {detail}");
    }
    node.get("/v1/tasks/s-bad/a").problem(404);
    let raw = |body: &[u8], kind: &str| {
        http::send(
            node.http,
            "POST",
            "/v1/tasks",
            &[("content-type", kind)],
            body,
        )
    };
    raw(b"{", "application/json").problem(400);
    raw(b"", "application/json").problem(400);
    raw(b"{}", "text/plain").problem(415);
    raw(b"\xff\xfe", "application/json").problem(400);
}

#[test]
fn a_large_task_is_413_and_the_client_sees_it() {
    let node = shared();
    let head = br#"{"app":"s-large","id":"a","delay":"1h","target":{"http":{"url":"http://127.0.0.1:9/","body":""#;
    let body = |size: usize| {
        let fill = vec![b'x'; size - head.len() - 4];
        [&head[..], &fill, b"\"}}}"].concat()
    };
    let send = |bytes: &[u8]| http::send(node.http, "POST", "/v1/tasks", &[], bytes);
    send(&body(1 << 20)).expect(201);
    for size in [(1 << 20) + 1, 8 << 20, 16 << 20] {
        send(&body(size)).problem(413);
    }
}

#[test]
fn if_match_guards_changes() {
    let node = shared();
    let sent = with(task("s-etag", "a", URL), json!({ "delay": "1h" }));
    let first = node.post("/v1/tasks", &sent).expect(201);
    let tag = first.header("etag").unwrap();
    let path = path("s-etag", "a");
    let guarded = |tag: &str| {
        node.send(
            "PATCH",
            &path,
            &[("if-match", tag)],
            &json!({ "delay": "2h" }),
        )
    };
    assert_eq!(node.get(&path).header("etag"), Some(tag));
    let changed = guarded(tag).expect(200);
    assert_ne!(changed.header("etag"), Some(tag));
    guarded(tag).problem(412);
    guarded("\"nonsense\"").problem(412);
    guarded("*").expect(200);
    let cancel = |tag: &str| http::send(node.http, "DELETE", &path, &[("if-match", tag)], b"");
    cancel(tag).problem(412);
    let current = node.get(&path);
    cancel(current.header("etag").unwrap()).expect(200);
    assert_ne!(node.get(&path).header("etag"), current.header("etag"));
}
