//! Shards spread over the nodes: each runs its share, a lost node's share moves, and comes back.
//!
//! Each test prints its figures: `cargo test --test spread -- --nocapture`.

mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use support::agree::assert_same_state;
use support::cluster::Cluster;
use support::explained::assert_explained;
use support::node::binary;
use support::receiver::Receiver;
use support::work::{self, spread, task, wait_all_done};
use support::{now_ms, pass_until, seconds, serial, wait_for};

/// So many tasks of a name, evenly due over a span that begins at an instant.
fn tasks(name: &str, count: u64, from_ms: u64, span_ms: u64, url: &str) -> Vec<Value> {
    let due = |n: u64| from_ms + n * span_ms / count;
    (0..count)
        .map(|n| task(&format!("{name}-{n:05}"), due(n), url))
        .collect()
}

/// How many shards each node owns, as one node sees it.
fn owned(cluster: &Cluster, asked: u64) -> BTreeMap<u64, u64> {
    let view = cluster.view(asked);
    let owned = view["shards"]["owned"].as_object().cloned().unwrap();
    let number = |(node, n): (String, Value)| (node.parse().unwrap(), n.as_u64().unwrap());
    owned.into_iter().map(number).collect()
}

/// How often shards have changed hands.
fn changes(cluster: &Cluster, asked: u64) -> u64 {
    let view = cluster.view(asked);
    let shards = view["shards"]["progress"].as_array().cloned().unwrap();
    let epochs = shards.iter().map(|shard| shard["epoch"].as_u64().unwrap());
    epochs.max().unwrap()
}

/// Waits until these nodes, and no others, own shards, each about as many as the others.
#[track_caller]
fn wait_spread(cluster: &Cluster, asked: u64, nodes: &[u64]) -> BTreeMap<u64, u64> {
    let what = format!("shards spread over {nodes:?}");
    let mut last = BTreeMap::new();
    wait_for(&what, seconds(30), || {
        let now = owned(cluster, asked);
        if now != last {
            last = now;
            eprintln!("    shards: {last:?}");
        }
        let mean = 64 / nodes.len() as u64;
        let even = last.values().all(|n| n.abs_diff(mean) <= 1);
        (even && last.keys().copied().eq(nodes.iter().copied())).then(|| last.clone())
    })
}

/// On which nodes the tasks of a name ended, in percent.
fn shares(cluster: &Cluster, name: &str) -> BTreeMap<u64, f64> {
    let leader = cluster.wait_ready();
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for (_, task) in work::list(&mut cluster.client(leader), "")
        .iter()
        .filter(|(id, _)| id.starts_with(name))
    {
        *counts.entry(task["owner"].as_u64().unwrap()).or_default() += 1;
    }
    let total: u64 = counts.values().sum();
    let share = |(node, n): (u64, u64)| (node, n as f64 * 100.0 / total as f64);
    counts.into_iter().map(share).collect()
}

/// Asserts that each of three nodes has run its share, unless this machine was so busy that leases
/// ran out meanwhile; then it says so.
#[track_caller]
fn assert_shared(cluster: &Cluster, before: u64, shares: &BTreeMap<u64, f64>) {
    if changes(cluster, cluster.wait_ready()) != before {
        eprintln!("    shares not judged: shards moved, this machine is too busy");
        return;
    }
    let fair = shares.values().all(|share| (25.0..=42.0).contains(share));
    assert!(fair && shares.len() == 3, "{shares:?}");
}

#[test]
fn three_nodes_share_the_work_and_a_lost_share_moves_and_returns() {
    const COUNT: u64 = 1_500;
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3).start();
    println!(
        "shares of shards: {:?}",
        wait_spread(&cluster, 1, &[1, 2, 3])
    );
    let leader = cluster.wait_ready();

    let from = now_ms() + 3_000;
    let before = changes(&cluster, 1);
    spread(
        cluster.clients(),
        &tasks("all", COUNT, from, 4_000, &receiver.url),
    );
    receiver.wait_tasks(COUNT as usize, seconds(60));
    wait_all_done(cluster.clients(), COUNT, seconds(20));
    let all = shares(&cluster, "all");
    println!(
        "shares of work: {all:.1?}, lateness {:?} ms",
        receiver.lateness_ms()
    );
    assert_shared(&cluster, before, &all);

    // A follower is lost, and with it a third of what is due.
    let lost = leader % 3 + 1;
    let from = now_ms() + 4_000;
    spread(
        cluster.clients(),
        &tasks("less", COUNT, from, 12_000, &receiver.url),
    );
    pass_until(from + 2_000);
    let killed = now_ms();
    cluster.node(lost).kill();
    let two: Vec<u64> = (1..=3).filter(|id| *id != lost).collect();
    wait_spread(&cluster, leader, &two);
    println!(
        "the shards of node {lost} moved within {} ms",
        now_ms() - killed
    );
    receiver.wait_tasks(2 * COUNT as usize, seconds(60));
    let gap = receiver.longest_gap_ms(killed, from + 12_000);
    let explained = assert_explained(&cluster, &receiver);
    let less = shares(&cluster, "less");
    println!(
        "each ran {less:.1?} of those, second deliveries {}, begun again {}, longest gap {gap} ms",
        explained.second,
        explained.again.len()
    );
    assert!(gap < 2_000, "the others went on: {gap} ms");

    // It comes back, and is given its share again.
    cluster.node(lost).start();
    wait_spread(&cluster, leader, &[1, 2, 3]);
    let from = now_ms() + 3_000;
    let before = changes(&cluster, leader);
    spread(
        cluster.clients(),
        &tasks("back", COUNT, from, 4_000, &receiver.url),
    );
    receiver.wait_tasks(3 * COUNT as usize, seconds(60));
    wait_all_done(cluster.clients(), 3 * COUNT, seconds(20));
    let back = shares(&cluster, "back");
    println!("back again: {back:.1?}");
    assert_shared(&cluster, before, &back);
    receiver.assert_never_early();
    assert_explained(&cluster, &receiver);
    assert_same_state(&cluster);
}

#[test]
fn an_owner_is_paused_for_twenty_seconds_under_load() {
    const COUNT: u64 = 5_000;
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3).start();
    wait_spread(&cluster, 1, &[1, 2, 3]);
    let leader = cluster.wait_ready();
    let paused = leader % 3 + 1;
    let from = now_ms() + 4_000;
    spread(
        cluster.clients(),
        &tasks("t", COUNT, from, 26_000, &receiver.url),
    );
    pass_until(from + 2_000);
    let since = now_ms();
    cluster.node(paused).pause();
    pass_until(since + 20_000);
    cluster.node(paused).resume();
    let woken = now_ms();
    receiver.wait_tasks(COUNT as usize, seconds(60));
    wait_spread(&cluster, leader, &[1, 2, 3]);
    wait_all_done(cluster.clients(), COUNT, seconds(30));
    receiver.assert_never_early();
    // A call may be on its way out when the pause begins, and come after its successor: that is
    // what the fence is for. Nothing is begun after the pause under an old one.
    let explained = assert_explained(&cluster, &receiver);
    let stale = receiver.stale();
    for arrival in &stale {
        let task = explained.again.iter().find(|task| task.id == arrival.id);
        let handed_to = task.and_then(|task| task.node_of(arrival.fence));
        let slept = since + 500..woken;
        assert!(
            handed_to != Some(paused) || !slept.contains(&arrival.due_ms),
            "I-15: begun without a lease: {arrival:?}"
        );
    }
    assert_same_state(&cluster);
    println!(
        "node {paused} paused: second deliveries {}, begun again {}, late ones that the fence tells \
         {}",
        explained.second,
        explained.again.len(),
        stale.len()
    );
}

#[test]
fn a_node_that_is_told_to_stop_gives_its_shards_away_first() {
    const COUNT: u64 = 2_000;
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3).start();
    wait_spread(&cluster, 1, &[1, 2, 3]);
    let leader = cluster.wait_ready();
    let leaves = leader % 3 + 1;
    let from = now_ms() + 3_000;
    spread(
        cluster.clients(),
        &tasks("t", COUNT, from, 8_000, &receiver.url),
    );
    pass_until(from + 3_000);
    let told = now_ms();
    cluster.node(leaves).signal(rustix::process::Signal::TERM);
    let status = cluster.node(leaves).exits(seconds(15));
    println!("stopped within {} ms", now_ms() - told);
    assert_eq!(status.code(), Some(0));
    let left = owned(&cluster, leader);
    assert!(!left.contains_key(&leaves), "{left:?}");
    receiver.wait_tasks(COUNT as usize, seconds(60));
    cluster.wait_ready();
    wait_all_done(cluster.clients(), COUNT, seconds(20));
    receiver.assert_never_early();
    let explained = assert_explained(&cluster, &receiver);
    let gap = receiver.longest_gap_ms(told, from + 8_000);
    let taken = explained
        .again
        .iter()
        .filter(|task| task.was_taken())
        .count();
    println!(
        "second deliveries {}, begun again {}, {taken} of them by force, longest gap {gap} ms",
        explained.second,
        explained.again.len()
    );
    assert!(
        explained.second <= taken,
        "what moves as planned comes once"
    );
    assert!(gap < 2_000, "nobody waits for a lease to run out: {gap} ms");
    assert_same_state(&cluster);
}

/// Asks a node by the command line; returns the cluster as it is afterwards.
#[track_caller]
fn cluster_cli(cluster: &Cluster, asked: u64, args: &[&str]) -> Value {
    let node = cluster.nodes.iter().find(|node| node.id == asked).unwrap();
    let ran = binary()
        .args(["cluster", "--json"])
        .args(args)
        .args(["--server", &format!("http://{}", node.http)])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{args:?}: {text}");
    serde_json::from_slice(&ran.stdout).unwrap()
}

#[test]
fn operators_drain_a_node_and_move_the_lead() {
    const COUNT: u64 = 1_500;
    let _one = serial();
    let receiver = Receiver::start();
    let cluster = Cluster::new(3).start();
    wait_spread(&cluster, 1, &[1, 2, 3]);
    let leader = cluster.wait_ready();
    let (drained, next) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let from = now_ms() + 3_000;
    spread(
        cluster.clients(),
        &tasks("t", COUNT, from, 8_000, &receiver.url),
    );

    pass_until(from + 1_000);
    // Asked of any node; it answers when it is done.
    let view = cluster_cli(&cluster, next, &["drain", &drained.to_string()]);
    let owned = view["shards"]["owned"].as_object().unwrap();
    assert!(!owned.contains_key(&drained.to_string()), "{owned:?}");
    let node = &view["nodes"][drained as usize - 1];
    assert_eq!(
        (&node["id"], &node["resigns"]),
        (&drained.into(), &true.into())
    );
    let mut client = cluster.client(leader);
    let refused = client.post("/v1/cluster/lead", &serde_json::json!({ "node": drained }));
    assert_eq!(refused.unwrap().status, 409, "it does not want to lead");
    let refused = client.post("/v1/cluster/lead", &serde_json::json!({ "node": 9 }));
    assert_eq!(refused.unwrap().status, 409, "it does not exist");
    cluster_cli(&cluster, leader, &["drain", &drained.to_string(), "--undo"]);
    wait_spread(&cluster, leader, &[1, 2, 3]);

    let from = now_ms() + 2_000;
    spread(
        cluster.clients(),
        &tasks("lead", COUNT, from, 6_000, &receiver.url),
    );
    pass_until(from + 1_000);
    let asked = now_ms();
    let view = cluster_cli(&cluster, drained, &["lead", &next.to_string()]);
    let moved = now_ms() - asked;
    assert_eq!(view["leader"], next, "{view}");
    receiver.wait_tasks(2 * COUNT as usize, seconds(60));
    wait_all_done(cluster.clients(), 2 * COUNT, seconds(20));
    receiver.assert_never_early();
    let gap = receiver.longest_gap_ms(asked, from + 6_000);
    let explained = assert_explained(&cluster, &receiver);
    let taken = explained
        .again
        .iter()
        .filter(|task| task.was_taken())
        .count();
    println!(
        "the lead moved in {moved} ms, longest gap {gap} ms; second deliveries {}, begun again {}, \
         {taken} of them by force",
        explained.second,
        explained.again.len()
    );
    assert!(
        explained.second <= taken,
        "what moves as planned comes once"
    );
    assert_same_state(&cluster);
}
