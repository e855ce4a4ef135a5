//! Who belongs to a cluster: wiped, foreign and shared directories, nodes that join, and nodes
//! that were away for long.

mod support;

use serde_json::Value;
use std::time::Duration;
use support::agree::assert_same_state;
use support::cluster::Cluster;
use support::node::{Node, binary, free_address};
use support::receiver::Receiver;
use support::work::{is_purged, spread, submit_surely, task, wait_all_done};
use support::{now_ms, seconds, serial, wait_for};

/// Asserts that a cluster takes a task through a node, and delivers it.
#[track_caller]
fn assert_works(cluster: &Cluster, through: u64, id: &str, receiver: &Receiver) {
    let mut client = cluster.client(through);
    submit_surely(
        &mut client,
        &task(id, now_ms() + 300, &receiver.url),
        seconds(10),
    );
    wait_for("its delivery", seconds(15), || {
        receiver.times().get(id).copied()
    });
}

#[test]
fn a_wiped_and_a_foreign_directory_are_refused() {
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3).fast().start();
    assert_works(&cluster, 2, "before", &receiver);

    cluster.node(2).kill();
    cluster.node(2).wipe();
    cluster.node(2).start();
    let began = now_ms();
    let status = cluster.node(2).exits(seconds(10));
    println!("the wiped node ended after {} ms", now_ms() - began);
    assert_eq!(status.code(), Some(1));
    let said = cluster.node(2).said();
    assert!(said.contains("known with another data directory"), "{said}");
    assert!(
        said.contains("start with a new --id and --join"),
        "the way out: {said}"
    );
    assert_works(&cluster, 1, "without-2", &receiver);
    assert_works(&cluster, 3, "without-2-either", &receiver);

    cluster.node(3).kill();
    let (own, foreign) = (cluster.node(2).dir.clone(), cluster.node(3).dir.clone());
    cluster.node(2).dir = foreign;
    cluster.node(2).start();
    let status = cluster.node(2).exits(seconds(10));
    assert_eq!(status.code(), Some(1));
    let said = cluster.node(2).said();
    assert!(said.contains("belongs to node 3"), "{said}");
    cluster.node(2).dir = own;

    cluster.node(3).start();
    cluster.wait_ready();
    assert_works(&cluster, 3, "after", &receiver);
    assert_same_state(&cluster);
}

#[test]
fn a_directory_is_used_once_at_a_time() {
    let _one = serial();
    let receiver = Receiver::start();
    let cluster = Cluster::new(1).fast().start();
    let mut second = Node::new(cluster.root(), 1);
    second.start();
    assert_eq!(second.exits(seconds(10)).code(), Some(1));
    let said = second.said();
    assert!(
        said.contains("another process uses this directory"),
        "{said}"
    );
    assert_works(&cluster, 1, "still", &receiver);
}

#[test]
fn nodes_join_while_tasks_go_on() {
    const COUNT: u64 = 600;
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3).fast().start();
    let from = now_ms() + 1_500;
    let url = &receiver.url;
    let tasks: Vec<_> = (0..COUNT)
        .map(|n| task(&format!("t-{n}"), from + n * 10, url))
        .collect();
    spread(cluster.clients(), &tasks);

    let mut fourth = Node::new(cluster.root(), 4);
    fourth.args = vec!["--join".into(), cluster.nodes[1].peer.to_string()];
    fourth.env = vec![("HOROLOG_RAFT_TIMING".into(), "fast".into())];
    fourth.start();
    cluster.nodes.push(fourth);
    wait_for("node 4 as a voter", seconds(20), || {
        let shown = binary()
            .args(["cluster", "status", "--json", "--server"])
            .arg(format!("http://{}", cluster.nodes[2].http))
            .output()
            .unwrap();
        let view: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
        let nodes = view["nodes"].as_array()?;
        let fourth = nodes.iter().find(|node| node["id"] == 4)?;
        (fourth["role"] == "follower" && fourth["alive"] == true).then_some(())
    });
    cluster.wait_ready();

    // It waits to be taken in by an operator: its list holds the cluster and itself.
    let mut fifth = Node::new(cluster.root(), 5);
    let mut list: Vec<String> = cluster
        .nodes
        .iter()
        .map(|n| format!("{}={}", n.id, n.peer))
        .collect();
    list.push(format!("5={}", fifth.peer));
    fifth.args = vec!["--cluster".into(), list.join(",")];
    fifth.env = vec![("HOROLOG_RAFT_TIMING".into(), "fast".into())];
    fifth.start();
    let peer = fifth.peer.to_string();
    cluster.nodes.push(fifth);
    let body = serde_json::json!({ "id": 5, "peer": peer, "promote": false });
    let mut client = cluster.client(3);
    let view = wait_for("node 5 as a learner", seconds(20), || {
        let answer = client.post("/v1/cluster/nodes", &body).ok()?;
        answer.is_ok().then(|| answer.json())
    });
    let roles: Vec<_> = view["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["role"].clone())
        .collect();
    assert_eq!(roles[4], "learner", "{view}");

    receiver.wait_tasks(COUNT as usize, seconds(30));
    cluster.wait_ready();
    assert_works(&cluster, 4, "through-4", &receiver);
    assert_works(&cluster, 5, "through-5", &receiver);
    wait_all_done(cluster.clients(), COUNT + 2, seconds(20));
    assert_eq!(receiver.count() as u64, COUNT + 2, "nobody was disturbed");
    receiver.assert_sound();
    assert_same_state(&cluster);

    // Four voters bear the loss of one, whoever it is.
    let leader = cluster.wait_ready();
    cluster.node(leader).kill();
    let other = if leader == 4 { 1 } else { 4 };
    assert_works(&cluster, other, "after-a-loss", &receiver);
}

#[test]
fn a_node_that_was_away_catches_up_by_snapshot() {
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3)
        .fast()
        .set("HOROLOG_RAFT_SNAPSHOT_ENTRIES", 200)
        .set("HOROLOG_RAFT_KEPT_ENTRIES", 20)
        .start();
    let leader = cluster.wait_ready();
    let away = leader % 3 + 1;
    cluster.node(away).kill();
    let mut client = cluster.client(leader);
    let mut count = 0;
    let mut submit_for = |client: &mut support::http::Client, span: Duration| {
        let until = now_ms() + span.as_millis() as u64;
        while now_ms() < until {
            // Half of them fire while the node is away, half later.
            let due = now_ms() + if count % 2 == 0 { 100 } else { 6_000 };
            submit_surely(
                client,
                &task(&format!("t-{count}"), due, &receiver.url),
                seconds(10),
            );
            count += 1;
        }
        count
    };
    submit_for(&mut client, seconds(2));
    wait_for("a purged log", seconds(60), || {
        submit_for(&mut client, seconds(1));
        is_purged(&mut client).then_some(())
    });
    cluster.node(away).start();
    let count = submit_for(&mut client, seconds(2));
    cluster.wait_ready();
    let view = cluster.view(away);
    println!("{count} tasks; node {away} is back");
    receiver.wait_tasks(count, seconds(30));
    wait_all_done(cluster.clients(), count as u64, seconds(20));
    assert_same_state(&cluster);
    assert_eq!(receiver.count(), count, "nobody was disturbed");
    let said = cluster.node(away).said();
    assert!(said.contains("took in a snapshot"), "{view}: {said}");

    // From a snapshot and the log behind it: the same state, and nothing fires again.
    for id in 1..=3 {
        cluster.node(id).kill();
    }
    for id in 1..=3 {
        cluster.node(id).start();
    }
    cluster.wait_ready();
    assert_works(&cluster, away, "after", &receiver);
    wait_all_done(cluster.clients(), count as u64 + 1, seconds(20));
    let compared = assert_same_state(&cluster);
    println!("after a restart from snapshots: equal at {compared} indexes");
    assert_eq!(
        receiver.count(),
        count + 1,
        "nothing that was done fires again"
    );
    receiver.assert_sound();
}

/// The log of a node ends where its checkpoint and the margin say, whoever is behind.
#[test]
fn a_stopped_follower_does_not_make_the_log_grow() {
    const KEPT: u64 = 50;
    const ROUND: u64 = 150;
    const ROUNDS: u64 = 5;
    let _one = serial();
    let mut cluster = Cluster::new(3)
        .fast()
        .set("HOROLOG_RAFT_KEPT_ENTRIES", KEPT)
        .start();
    let leader = cluster.wait_ready();
    let away = leader % 3 + 1;
    cluster.node(away).pause();
    let mut client = cluster.client(leader);
    let entries = |client: &mut support::http::Client| {
        let metrics = client.get("/metrics").ok()?.text();
        let line = metrics
            .lines()
            .find(|l| l.starts_with("horolog_log_entries "))?;
        line.rsplit_once(' ')?.1.parse::<u64>().ok()
    };
    let far = now_ms() + 3_600_000;
    for round in 0..ROUNDS {
        for n in 0..ROUND {
            let task = task(&format!("t-{round}-{n}"), far, "http://127.0.0.1:9/");
            submit_surely(&mut client, &task, seconds(10));
        }
        let ran = client.post("/v1/lifecycle/checkpoint", &serde_json::json!({}));
        let ran = ran.unwrap().json();
        let index = ran["index"].as_u64().unwrap();
        assert!(index >= (round + 1) * ROUND, "{ran}");
        // Twice the margin at most, and what came after the checkpoint.
        wait_for("a purge of the log", seconds(20), || {
            let entries = entries(&mut client)?;
            (entries <= 2 * KEPT + 20).then_some(())
        });
        println!(
            "{index} entries so far, {:?} in the log",
            entries(&mut client)
        );
    }
    cluster.node(away).resume();
    cluster.wait_ready();
    let said = wait_for("a snapshot", seconds(30), || {
        let said = cluster.node(away).said();
        said.contains("took in a snapshot").then_some(said)
    });
    assert!(!said.contains("panicked"), "{said}");
    assert_same_state(&cluster);

    // Duties of the leader are done there, whoever is asked; the others where they are asked for.
    let leader = cluster.wait_ready();
    for id in 1..=3 {
        for (duty, by) in [("watchdog", leader), ("retire", leader), ("load", id)] {
            let path = format!("/v1/lifecycle/{duty}");
            let ran = cluster.client(id).post(&path, &serde_json::json!({}));
            let ran = ran.unwrap();
            assert!(ran.is_ok(), "{}", ran.text());
            assert_eq!(ran.json()["node"], by, "{duty} on node {id}");
        }
    }
}

/// Who a node is says its directory, and where it is the membership: a node, and then the leader,
/// comes back elsewhere, is found there, and works.
#[test]
fn a_node_comes_back_at_other_addresses() {
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3).start();
    let leader = cluster.wait_ready();
    for (round, id) in [leader % 3 + 1, leader].into_iter().enumerate() {
        cluster.node(id).terminate(seconds(20));
        let node = cluster.node(id);
        (node.http, node.peer) = (free_address(), free_address());
        // What is told of the others is of the past as well.
        node.args.clear();
        node.start();
        let (http, peer) = (node.http.to_string(), node.peer.to_string());
        for asked in 1..=3 {
            wait_for("its new address, everywhere", seconds(40), || {
                let view = cluster.client(asked).get("/v1/cluster").ok()?.json();
                let nodes = view["nodes"].as_array()?.clone();
                let found = nodes.iter().find(|node| node["id"] == id)?;
                let there = found["http"] == *http && found["peer"] == *peer;
                (there && found["alive"] == true && nodes.len() == 3).then_some(())
            });
        }
        cluster.wait_ready();
        let tasks: Vec<Value> = (0..60)
            .map(|n| task(&format!("{round}-{n}"), now_ms() + 500, &receiver.url))
            .collect();
        spread(cluster.clients(), &tasks);
        receiver.wait_tasks(60 * (round + 1), seconds(30));
    }
    assert_same_state(&cluster);
}

/// Nodes are upgraded one after the other: what the older ones do not know is refused until the last
/// one knows it, everything else goes on, and there is no way back below what was reached.
#[test]
fn a_rolling_upgrade_waits_for_the_last_node() {
    const LEVEL: &str = "HOROLOG_CLUSTER_FEATURE_LEVEL";
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3).set(LEVEL, 1).start();
    let nightly = serde_json::json!({
        "id": "shop.nightly", "crons": ["0 0 2 * * ?"], "target": { "http": { "url": receiver.url } },
    });
    let level = |cluster: &Cluster, id: u64| cluster.view(id)["feature_level"].as_u64();
    for id in 1..=3 {
        let refused = cluster.client(id).post("/v1/schedules", &nightly).unwrap();
        assert_eq!(refused.status, 503, "{}", refused.text());
        let problem = refused.json();
        assert_eq!(problem["type"], "/problems/feature-level", "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("level 2, and the cluster is at 1"),
            "{detail}"
        );
        assert_eq!(level(&cluster, id), Some(1));

        // Its turn.
        cluster.node(id).terminate(seconds(20));
        cluster.node(id).env.retain(|(name, _)| name != LEVEL);
        cluster.node(id).start();
        cluster.wait_ready();
        assert_works(&cluster, id, &format!("after-{id}"), &receiver);
    }
    for id in 1..=3 {
        wait_for("the level", seconds(20), || {
            (level(&cluster, id) == Some(2)).then_some(())
        });
    }
    let made = cluster.client(2).post("/v1/schedules", &nightly).unwrap();
    assert_eq!(made.status, 201, "{}", made.text());

    cluster.node(3).terminate(seconds(20));
    cluster.node(3).env.push((LEVEL.into(), "1".into()));
    cluster.node(3).start();
    assert_eq!(cluster.node(3).exits(seconds(20)).code(), Some(1));
    let said = cluster.node(3).said();
    assert!(
        said.contains("its cluster is at feature level 2, and this node knows level 1"),
        "{said}"
    );
    assert!(!said.contains("panicked"), "{said}");
    cluster.node(3).env.retain(|(name, _)| name != LEVEL);
    cluster.node(3).start();
    cluster.wait_ready();
    assert_works(&cluster, 3, "back", &receiver);
    assert_same_state(&cluster);
}
