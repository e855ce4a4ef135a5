//! Tasks that wait far from now lie on disk: they are there after a restart, and a new node is
//! given them while others fire.
//!
//! `FAR_TASKS=1000000 FAR_RATE=1000 cargo test --release --test far -- --nocapture` is the large
//! run.

mod support;

use horolog::model::Time;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::agree::assert_same_state;
use support::cluster::Cluster;
use support::http::Client;
use support::node::Node;
use support::receiver::Receiver;
use support::work::{is_purged, stages, submit_all, submit_surely, task};
use support::{now_ms, pass, seconds, serial, wait_for};

/// Lines of one batch of far tasks.
const BATCH: u64 = 1_000;
/// Far tasks are due over so many days, beginning tomorrow.
const DAYS: u64 = 30;
const DAY_MS: u64 = 86_400_000;
/// Near tasks are submitted so long before they are due.
const AHEAD_MS: u64 = 2_000;
/// Near tasks are submitted in so many batches a second.
const BEATS: u64 = 10;

fn asked(name: &str, usual: u64) -> u64 {
    #[allow(clippy::disallowed_methods)] // a test asks its caller
    let asked = std::env::var(name).ok();
    asked.map_or(usual, |n| {
        n.parse().unwrap_or_else(|_| panic!("{name} is a number"))
    })
}

fn far_due(n: u64, count: u64, from: u64) -> u64 {
    from + DAY_MS + n * (DAYS * DAY_MS / count)
}

/// Submits far tasks `far-0`… through every node.
fn load(cluster: &Cluster, count: u64, from: u64, url: &str) {
    let clients = cluster.clients();
    let nodes = clients.len() as u64;
    std::thread::scope(|scope| {
        for (k, mut client) in (0..).zip(clients) {
            scope.spawn(move || {
                for batch in (k..count.div_ceil(BATCH)).step_by(nodes as usize) {
                    let of = batch * BATCH..count.min((batch + 1) * BATCH);
                    let tasks: Vec<Value> = of
                        .map(|n| task(&format!("far-{n}"), far_due(n, count, from), url))
                        .collect();
                    submit_all(&mut client, &tasks);
                }
            });
        }
    });
}

/// Asserts that a node, asked for itself alone, has a sample of the far tasks as they were given.
#[track_caller]
fn assert_sample(client: &mut Client, count: u64, from: u64, sample: u64) {
    for k in 0..sample {
        let n = k * 7_919 % count;
        let answer = client.get(&format!("/v1/tasks/test/far-{n}?read=local"));
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "far-{n}: {}", answer.text());
        let task = answer.json();
        assert_eq!(task["stage"], "scheduled", "{task}");
        let due = Time::parse(task["due_at"].as_str().unwrap()).unwrap();
        assert_eq!(due, Time(far_due(n, count, from)), "{task}");
    }
}

fn own(view: &Value, id: u64) -> Value {
    let nodes = view["nodes"].as_array().cloned().unwrap_or_default();
    let mut nodes = nodes.into_iter();
    nodes.find(|n| n["id"] == id).unwrap_or_default()
}

#[test]
fn a_new_node_is_given_the_far_tasks_while_others_fire() {
    let (count, rate) = (asked("FAR_TASKS", 20_000), asked("FAR_RATE", 100));
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3)
        .fast()
        .set("HOROLOG_RAFT_SNAPSHOT_ENTRIES", 50)
        .set("HOROLOG_RAFT_KEPT_ENTRIES", 10)
        .start();
    let leader = cluster.wait_ready();
    let from = now_ms();
    load(&cluster, count, from, &receiver.url);
    println!("{count} far tasks were taken in {} ms", now_ms() - from);

    let stop = AtomicBool::new(false);
    let (mut feeder, url) = (cluster.client(leader), receiver.url.clone());
    let joined = std::thread::scope(|scope| {
        let fed = scope.spawn(|| {
            let (mut n, began) = (0, now_ms());
            while !stop.load(Ordering::Relaxed) {
                let due = now_ms() + AHEAD_MS;
                let near: Vec<Value> = (n..n + rate / BEATS)
                    .map(|n| task(&format!("near-{n}"), due, &url))
                    .collect();
                submit_all(&mut feeder, &near);
                n += rate / BEATS;
                let next = began + n * 1_000 / rate;
                pass(Duration::from_millis(next.saturating_sub(now_ms())));
            }
            n
        });
        receiver.wait_tasks(rate as usize, seconds(30));
        wait_for("a purged log", seconds(60), || {
            is_purged(&mut cluster.client(leader)).then_some(())
        });
        let began = now_ms();
        let mut fourth = Node::new(cluster.root(), 4);
        fourth.args = vec!["--join".into(), cluster.nodes[0].peer.to_string()];
        fourth.env = cluster.nodes[0].env.clone();
        fourth.start();
        cluster.nodes.push(fourth);
        let within = seconds(60 + count / 5_000);
        wait_for("node 4 as a voter that has caught up", within, || {
            let view = cluster.view(leader);
            let (fourth, led) = (own(&view, 4), own(&view, leader));
            let behind = led["last_applied"].as_u64()? - fourth["last_applied"].as_u64()?;
            (fourth["role"] == "follower" && behind < 100).then_some(())
        });
        let took = now_ms() - began;
        stop.store(true, Ordering::Relaxed);
        (fed.join().unwrap(), took)
    });
    let (near, took) = joined;
    receiver.wait_tasks(near as usize, seconds(30));
    let [p50, p99, worst] = receiver.lateness_ms();
    println!(
        "node 4 caught up in {took} ms; of {near} near tasks, lateness p50 {p50}, p99 {p99}, max {worst} ms"
    );

    receiver.assert_sound();
    assert_eq!(receiver.count() as u64, near, "nobody was disturbed");
    let said = cluster.node(4).said();
    assert!(said.contains("took in a snapshot"), "{said}");
    assert_same_state(&cluster);
    let mut fourth = cluster.client(4);
    let expected = [("done".to_owned(), near), ("scheduled".to_owned(), count)];
    assert_eq!(stages(&mut fourth), expected.into());
    assert_sample(&mut fourth, count, from, 1_000);

    // And it has them on disk: alone of all it is stopped and started.
    cluster.node(4).kill();
    cluster.node(4).start();
    cluster.wait_ready();
    let again = submit_surely(
        &mut cluster.client(4),
        &task("far-0", far_due(0, count, from), &receiver.url),
        seconds(10),
    );
    assert_eq!(again.status, 200, "known from disk: {}", again.text());
    assert_sample(&mut cluster.client(4), count, from, 100);
}
