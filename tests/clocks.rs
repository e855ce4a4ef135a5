//! Nodes whose clock is wrong, or jumps (I-7, I-11, I-12): the real binary under libfaketime,
//! which fakes the wall clock and leaves the monotonic one alone.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use support::agree::assert_same_state;
use support::cluster::Cluster;
use support::node::Node;
use support::receiver::Receiver;
use support::work::{self, APP, spread, task};
use support::{now_ms, pass_until, seconds, serial, wait_for};

/// The library, where it is installed.
fn faketime() -> Option<PathBuf> {
    let found = fs::read_dir("/usr/lib").ok()?.flatten().find_map(|entry| {
        let path = entry.path().join("faketime/libfaketimeMT.so.1");
        path.exists().then_some(path)
    });
    if found.is_none() {
        println!("skipped: libfaketime is not installed");
    }
    found
}

fn fake(node: &mut Node, library: &Path, settings: &[(&str, &str)]) {
    let preload = ("LD_PRELOAD", library.to_str().unwrap());
    let fixed = [preload, ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    let all = fixed.iter().chain(settings);
    node.env
        .extend(all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
}

/// How far a node's clock is off the others, as a node says.
fn skew_ms(cluster: &Cluster, asked: u64, node: u64) -> i64 {
    let nodes = cluster.view(asked)["nodes"].as_array().cloned().unwrap();
    let found = nodes.iter().find(|n| n["id"] == node).unwrap();
    found["clock_skew_ms"].as_i64().unwrap()
}

/// Submits a task with a delay through each node; asserts that the instants are right by the
/// true clock.
#[track_caller]
fn assert_delays(cluster: &Cluster, prefix: &str, url: &str) -> u64 {
    let running = cluster.nodes.iter().filter(|node| node.runs());
    let ids: Vec<u64> = running.map(|node| node.id).collect();
    for &id in &ids {
        let body = json!({
            "app": APP, "id": format!("{prefix}-{id}"), "delay": "3s",
            "target": { "http": { "url": url } }
        });
        let sent = now_ms();
        let mut client = cluster.client(id);
        let answer = work::submit_surely(&mut client, &body, seconds(15));
        let due = instant(&answer.json()["due_at"]);
        let (least, most) = (sent + 3_000 - 600, now_ms() + 3_000 + 600);
        assert!(
            (least..=most).contains(&due),
            "through node {id}: due {} ms after it was sent",
            due as i64 - sent as i64
        );
    }
    ids.len() as u64
}

fn instant(text: &Value) -> u64 {
    let instant: jiff::Timestamp = text.as_str().unwrap().parse().unwrap();
    instant.as_millisecond() as u64
}

#[test]
fn a_node_that_starts_an_hour_ahead() {
    let _one = serial();
    let Some(library) = faketime() else { return };
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3).fast();
    // It writes the first membership, and so is the first to stand for election.
    fake(cluster.node(1), &library, &[("FAKETIME", "+3600s")]);
    let cluster = cluster.start();
    let leader = wait_for("a leader with a right clock", seconds(20), || {
        cluster.agreed_leader().filter(|leader| *leader != 1)
    });
    let skew = wait_for("node 1's clock as it is", seconds(10), || {
        let skew = skew_ms(&cluster, leader, 1);
        (skew.abs() > 3_590_000).then_some(skew)
    });
    let from = now_ms() + 2_000;
    let tasks: Vec<Value> = (0..600)
        .map(|n| task(&format!("t-{n}"), from + n * 10, &receiver.url))
        .collect();
    spread(cluster.clients(), &tasks);
    let far = task("far", now_ms() + 1_800_000, &receiver.url);
    work::submit_surely(&mut cluster.client(1), &far, seconds(10));
    let delayed = assert_delays(&cluster, "delayed", &receiver.url);
    receiver.wait_tasks(600 + delayed as usize, seconds(30));
    assert_eq!(receiver.times().get("far"), None, "I-11");
    let cancelled = cluster.client(1).delete(&format!("/v1/tasks/{APP}/far"));
    assert_eq!(cancelled.unwrap().status, 200);
    receiver.assert_sound();
    assert_same_state(&cluster);
    let [p50, p99, max] = receiver.lateness_ms();
    println!(
        "node {leader} leads, node 1 is seen {skew} ms off, lateness p50 {p50} p99 {p99} max {max} ms"
    );
    assert_ne!(cluster.agreed_leader(), Some(1));
}

/// Lets the clock of whoever leads jump by so many seconds, and back.
fn jump(offset: &str) {
    let _one = serial();
    let Some(library) = faketime() else { return };
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3).fast();
    let file = |cluster: &Cluster, id: u64| cluster.root().join(format!("clock-{id}"));
    let set = |path: &Path, offset: &str| {
        let part = path.with_extension("part");
        fs::write(&part, format!("{offset}\n")).unwrap();
        fs::rename(part, path).unwrap();
    };
    for id in 1..=3 {
        let path = file(&cluster, id);
        set(&path, "+0s");
        let settings = [
            ("FAKETIME_TIMESTAMP_FILE", path.to_str().unwrap()),
            ("FAKETIME_CACHE_DURATION", "1"),
        ];
        fake(cluster.node(id), &library, &settings);
    }
    let mut cluster = cluster.start();
    let old = cluster.wait_ready();
    let from = now_ms() + 1_500;
    let tasks: Vec<Value> = (0..800)
        .map(|n| task(&format!("t-{n}"), from + n * 10, &receiver.url))
        .collect();
    spread(cluster.clients(), &tasks);
    let far = task("far", now_ms() + 1_800_000, &receiver.url);
    work::submit_surely(&mut cluster.client(old), &far, seconds(10));
    pass_until(from + 2_000);
    let jumped = now_ms();
    set(&file(&cluster, old), offset);
    let new = wait_for("another leader", seconds(20), || {
        cluster.agreed_leader().filter(|leader| *leader != old)
    });
    let took = now_ms() - jumped;
    let delayed = assert_delays(&cluster, "delayed", &receiver.url);
    receiver.wait_tasks(800 + delayed as usize, seconds(30));
    assert_eq!(receiver.times().get("far"), None, "I-11");
    receiver.assert_sound();
    let gap = receiver.longest_gap_ms(jumped, from + 8_000);
    println!(
        "the clock of node {old} jumped by {offset}; node {new} led {took} ms later; longest gap \
         {gap} ms, second deliveries {}",
        receiver.count() - receiver.times().len()
    );
    // What is right again takes part again.
    set(&file(&cluster, old), "+0s");
    wait_for("a clock that agrees again", seconds(15), || {
        (skew_ms(&cluster, new, old).abs() < 500).then_some(())
    });
    // At that very moment it may have to lead, while it still goes by the time it had before.
    cluster.node(new).kill();
    wait_for(
        "a leader in place of the one that died",
        seconds(20),
        || cluster.agreed_leader().filter(|leader| *leader != new),
    );
    let after = assert_delays(&cluster, "after", &receiver.url);
    let done = 800 + delayed + after;
    receiver.wait_tasks(done as usize, seconds(30));
    assert_eq!(receiver.times().get("far"), None, "I-11");
    receiver.assert_sound();
    cluster.node(new).start();
    cluster.wait_ready();
    let cancelled = cluster.client(old).delete(&format!("/v1/tasks/{APP}/far"));
    assert_eq!(cancelled.unwrap().status, 200);
    wait_for("the end of every task", seconds(20), || {
        let stages = work::stages(&mut cluster.client(old));
        (stages.get("done") == Some(&done)).then_some(())
    });
    assert_same_state(&cluster);
}

#[test]
fn the_leaders_clock_jumps_an_hour_ahead() {
    jump("+3600s");
}

#[test]
fn the_leaders_clock_jumps_an_hour_back() {
    jump("-3600s");
}
