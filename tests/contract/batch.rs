//! `POST /v1/tasks/batch`: a task a line, a result a line, in order, while it streams.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};

use super::http::{self, Answer, connect};
use super::node::{shared, until};
use super::task::{PATIENCE, task, with};

const URL: &str = "http://127.0.0.1:9/hook";
const NDJSON: &[(&str, &str)] = &[("content-type", "application/x-ndjson")];

fn delayed(app: &str, id: &str) -> Value {
    with(task(app, id, URL), json!({ "delay": "1h" }))
}

fn batch(body: &[u8]) -> Answer {
    http::send(shared().http, "POST", "/v1/tasks/batch", NDJSON, body)
}

fn results(answer: &Answer) -> Vec<Value> {
    let text = answer.text();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_result_a_line_in_order_and_a_bad_line_alone() {
    let old = delayed("b-order", "old");
    shared().submit(&old);
    let mut other = old.clone();
    other["delay"] = json!("2h");
    let lines = [
        delayed("b-order", "a").to_string(),
        old.to_string(),
        "{ not json".to_owned(),
        other.to_string(),
        String::new(),
        json!({ "app": "b-order", "id": "x", "nonsense": 1 }).to_string(),
        delayed("b-order", "a").to_string(),
        json!({ "app": "b-order", "delay": "1h", "target": { "http": { "url": URL } } })
            .to_string(),
        delayed("b-order", "z").to_string(),
    ];
    // The last line has no end.
    let answer = batch(lines.join("\n").as_bytes()).expect(200);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let results = results(&answer);
    let statuses: Vec<_> = results
        .iter()
        .map(|r| r["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [201, 200, 400, 409, 422, 200, 201, 201]);
    assert_eq!(results[0]["id"], "a");
    assert_eq!(results[3]["id"], "old");
    assert_eq!(results[6]["id"].as_str().unwrap().len(), 36);
    assert_eq!(results[7]["id"], "z");
    for bad in [2, 3, 4] {
        assert!(results[bad]["detail"].is_string() && results[bad]["type"].is_string());
    }
    shared().get("/v1/tasks/b-order/z").expect(200);
    shared().get("/v1/tasks/b-order/x").problem(404);
}

#[test]
fn a_thousand_lines() {
    let lines: Vec<String> = (0..1_000)
        .map(|n| delayed("b-many", &format!("t{n:04}")).to_string())
        .collect();
    let results = results(&batch(lines.join("\n").as_bytes()).expect(200));
    assert_eq!(results.len(), 1_000);
    for (n, result) in results.iter().enumerate() {
        assert_eq!(
            (&result["status"], &result["id"]),
            (&json!(201), &json!(format!("t{n:04}")))
        );
    }
    let stats = shared().get("/v1/stats?app=b-many").expect(200).json();
    assert_eq!(stats["tasks"]["scheduled"], 1_000);
}

#[test]
fn answers_come_while_lines_are_sent() {
    let node = shared();
    let stream = connect(node.http);
    let mut writer = stream.try_clone().unwrap();
    let head = "POST /v1/tasks/batch HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
    writer.write_all(head.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    for n in 0..3 {
        let sent = format!("{}\n", delayed("b-stream", &format!("t{n}")));
        write!(writer, "{:x}\r\n{sent}\r\n", sent.len()).unwrap();
        // The answer to this line comes although the body has not ended.
        loop {
            line.clear();
            assert_ne!(
                reader.read_line(&mut line).unwrap(),
                0,
                "the answer ended early"
            );
            if line.starts_with('{') {
                break;
            }
        }
        let result: Value = serde_json::from_str(line.trim()).unwrap();
        assert_eq!(result["id"], format!("t{n}"));
    }
    writer.write_all(b"0\r\n\r\n").unwrap();
    // The terminating chunk, and no more.
    let mut rest = [0; 7];
    reader.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"\r\n0\r\n\r\n");
}

#[test]
fn a_long_line_fails_alone_and_a_long_body_ends() {
    let long = "x".repeat((1 << 20) + 1);
    let body = [
        delayed("b-long", "a").to_string(),
        long,
        delayed("b-long", "b").to_string(),
    ];
    let results = results(&batch(body.join("\n").as_bytes()).expect(200));
    let statuses: Vec<_> = results
        .iter()
        .map(|r| r["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [201, 413, 201]);
    // Announced as too large: refused before a line is read.
    let blank = vec![b'\n'; (64 << 20) + 1];
    batch(&blank).problem(413);
}

#[test]
fn only_ndjson_is_read() {
    http::send(
        shared().http,
        "POST",
        "/v1/tasks/batch",
        &[("content-type", "text/plain")],
        b"",
    )
    .problem(415);
    assert_eq!(batch(b"").expect(200).text(), "");
    batch(b"\n\n").expect(200);
}

#[test]
fn a_body_that_breaks_off_is_said_to() {
    let node = shared();
    let mut stream = connect(node.http);
    let whole = delayed("b-broken", "a").to_string();
    let sent = format!(
        "POST /v1/tasks/batch HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 9999\r\n\r\n{whole}\n{{\"app\""
    );
    stream.write_all(sent.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    // Whoever stops half-way may hear nothing; what came whole is kept, and the node lives.
    let _ = http::read(&mut stream);
    until("the first line", PATIENCE, || {
        (node.get("/v1/tasks/b-broken/a").status == 200).then_some(())
    });
    assert!(!node.log().contains("panicked"), "{}", node.log());
}
