//! One application submits ten times what it may; the others are not to notice.
//!
//! `FAIR_MS=5 FAIR_SECONDS=20 cargo test --release --test fair -- --nocapture` is the measurement on
//! a quiet machine; usual runs are short, and bear with a busy one.

mod support;

use serde_json::{Value, json};
use std::time::Duration;
use support::cluster::Cluster;
use support::receiver::Receiver;
use support::work::submit_all;
use support::{now_ms, pass_until, seconds, serial, wait_for};

/// What each application may submit in a second.
const RATE: u64 = 200;
/// What the calm one does.
const CALM: u64 = 50;

fn number(name: &str, usual: u64) -> u64 {
    let given = std::env::var_os(name).and_then(|text| text.to_str()?.parse().ok());
    given.unwrap_or(usual)
}

/// Submits the calm application's tasks of a stretch, spread evenly over it.
fn calm(cluster: &Cluster, from: u64, length: Duration, url: &str) -> usize {
    let every = 1_000 / CALM;
    let count = length.as_millis() as u64 / every;
    let task = |n: u64| {
        let (id, due) = (format!("{from}-{n}"), from + n * every);
        json!({ "app": "calm", "id": id, "due_at": due, "target": { "http": { "url": url } } })
    };
    let tasks: Vec<Value> = (0..count).map(task).collect();
    for part in tasks.chunks(100) {
        // As fast as it may and no faster.
        let lines: String = part.iter().map(|task| format!("{task}\n")).collect();
        wait_for("its submits to be taken", seconds(20), || {
            let mut client = cluster.client(1);
            let path = "/v1/tasks/batch";
            let sent = client.send("POST", path, "application/x-ndjson", lines.as_bytes());
            let taken = |line: &Value| matches!(line["status"].as_u64(), Some(200 | 201));
            sent.ok()?.lines().iter().all(taken).then_some(())
        });
    }
    tasks.len()
}

/// The 99th percentile of the calm application's lateness in a stretch, in microseconds.
fn p99_us(receiver: &Receiver, from: u64) -> u64 {
    let prefix = format!("{from}-");
    let mut late: Vec<u64> = receiver
        .arrivals()
        .iter()
        .filter(|a| a.app == "calm" && a.id.starts_with(&prefix))
        .map(|a| a.at_us.saturating_sub(a.due_ms * 1_000))
        .collect();
    late.sort_unstable();
    late[late.len() * 99 / 100]
}

fn of_calm(receiver: &Receiver) -> usize {
    receiver
        .arrivals()
        .iter()
        .filter(|a| a.app == "calm")
        .count()
}

#[test]
fn one_that_submits_ten_times_what_it_may_does_not_delay_the_others() {
    let _one = serial();
    let length = seconds(number("FAIR_SECONDS", 3));
    let allowed_ms = number("FAIR_MS", 3_000);
    let receiver = Receiver::start();
    let cluster = Cluster::new(1)
        .fast()
        .set("HOROLOG_LIMITS_APP_SUBMITS_PER_SECOND", RATE)
        .start();
    let url = &receiver.url;
    submit_all(
        &mut cluster.client(1),
        &[json!({ "app": "calm", "id": "warm", "target": { "http": { "url": url } } })],
    );

    let alone = now_ms() + 2_000;
    let count = calm(&cluster, alone, length, url);
    wait_for("all of them", length + seconds(30), || {
        (of_calm(&receiver) > count).then_some(())
    });
    let baseline = p99_us(&receiver, alone);

    let beside = now_ms() + 2_000;
    let count = count + calm(&cluster, beside, length, url);
    let until = beside + length.as_millis() as u64;
    let (mut sent, mut taken, mut refused) = (0, 0, 0);
    let mut client = cluster.client(1);
    while now_ms() < until {
        // Two batches of a thousand in a second: large, so that a slow machine sends too many too.
        let next = now_ms() + 500;
        let line = |n: u64| {
            let id = format!("{}", sent + n);
            let task = json!({ "app": "hot", "id": id, "target": { "http": { "url": url } } });
            format!("{task}\n")
        };
        let lines: String = (0..RATE * 5).map(line).collect();
        let path = "/v1/tasks/batch";
        let answer = client.send("POST", path, "application/x-ndjson", lines.as_bytes());
        for line in answer.unwrap().lines() {
            match line["status"].as_u64() {
                Some(201) => taken += 1,
                Some(429) => {
                    assert!(line["retry_after"].as_u64() >= Some(1), "{line}");
                    refused += 1;
                }
                _ => panic!("{line}"),
            }
        }
        sent += RATE * 5;
        pass_until(next);
    }
    wait_for("all of the calm one's", seconds(30), || {
        (of_calm(&receiver) > count).then_some(())
    });
    let flooded = p99_us(&receiver, beside);
    println!(
        "calm p99 lateness: {:.1} ms alone, {:.1} ms beside one that sent {sent} tasks, {taken} taken, {refused} refused with 429",
        baseline as f64 / 1e3,
        flooded as f64 / 1e3
    );
    assert!(refused > taken, "most of the excess is refused");
    assert!(
        flooded <= baseline + allowed_ms * 1_000,
        "{flooded} µs is more than {allowed_ms} ms above {baseline} µs"
    );
}
