//! On which node an attempt is carried out, whoever owns its shard.

use super::*;
use crate::support::http::Client;
use crate::support::receiver::{Arrival, Reply};
use crate::support::work::{APP, submit_all};
use serde_json::json;

/// What a node is called, for placement by label.
const LABELS: &str = "HOROLOG_NODE_LABELS";

fn placed(id: &str, due_ms: u64, url: &str, placement: &Value) -> Value {
    let mut task = task(id, due_ms, url);
    task["placement"] = placement.clone();
    task["retry"] = json!({ "attempts": 3, "backoff": { "fixed": "100ms" } });
    task
}

/// So many tasks of one placement, due soon; gives the node of each arrival, by task.
#[track_caller]
fn run(cluster: &Cluster, receiver: &Receiver, name: &str, placement: &Value) -> Vec<Arrival> {
    const COUNT: usize = 24;
    let due = now_ms() + 700;
    let ids: Vec<String> = (0..COUNT).map(|n| format!("{name}-{n}")).collect();
    let tasks: Vec<Value> = ids
        .iter()
        .map(|id| placed(id, due, &receiver.url, placement))
        .collect();
    submit_all(&mut cluster.client(1), &tasks);
    wait_for(&format!("{COUNT} tasks of {name}"), seconds(20), || {
        let done = ids
            .iter()
            .all(|id| stage(&mut cluster.client(1), id) == "done");
        done.then_some(())
    });
    let mut mine = receiver.arrivals();
    mine.retain(|arrival| ids.contains(&arrival.id));
    mine
}

fn get(client: &mut Client, id: &str, what: &str) -> Value {
    client
        .get(&format!("/v1/tasks/{APP}/{id}{what}"))
        .unwrap()
        .json()
}

fn stage(client: &mut Client, id: &str) -> String {
    get(client, id, "")["stage"]
        .as_str()
        .unwrap_or("")
        .to_owned()
}

/// How many came from each node.
fn by_node(arrivals: &[Arrival]) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for arrival in arrivals {
        *counts.entry(arrival.node).or_default() += 1;
    }
    counts
}

/// The nodes that the history names, of the first event of a kind.
fn event_of(client: &mut Client, id: &str, kind: &str) -> Value {
    let events = get(client, id, "/events")["events"].clone();
    let found = events
        .as_array()
        .unwrap()
        .iter()
        .find(|e| e["kind"] == kind);
    found
        .cloned()
        .unwrap_or_else(|| panic!("{id} has no {kind}: {events}"))
}

#[test]
fn each_placement_runs_where_it_says() {
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3);
    cluster
        .node(2)
        .env
        .push((LABELS.into(), "gpu=yes,zone=a".into()));
    let cluster = cluster.start();
    wait_spread(&cluster, 1, &[1, 2, 3]);
    let labels = &cluster.view(3)["nodes"][1]["labels"];
    assert_eq!(*labels, json!({ "gpu": "yes", "zone": "a" }));

    let turns = by_node(&run(&cluster, &receiver, "turns", &json!("round_robin")));
    println!("round_robin: {turns:?}");
    assert!(
        turns.len() == 3 && turns.values().all(|n| (4..=12).contains(n)),
        "{turns:?}"
    );
    let drawn = by_node(&run(&cluster, &receiver, "drawn", &json!("random")));
    println!("random: {drawn:?}");
    assert_eq!(drawn.len(), 3, "{drawn:?}");

    // The same task goes to the same node again, owner or not, and its history says to which.
    let hashed = run(&cluster, &receiver, "hashed", &json!("hash"));
    assert_eq!(by_node(&hashed).len(), 3, "{:?}", by_node(&hashed));
    let mut client = cluster.client(1);
    let mut elsewhere = 0;
    for arrival in &hashed {
        let done = event_of(&mut client, &arrival.id, "done");
        assert_eq!(done["node"], arrival.node, "{done}");
        let attempts = get(&mut client, &arrival.id, "/attempts");
        assert_eq!(attempts["attempts"][0]["node"], arrival.node, "{attempts}");
        let owner = get(&mut client, &arrival.id, "")["owner"].as_u64().unwrap();
        elsewhere += u64::from(owner != arrival.node);
        let path = format!("/v1/tasks/{APP}/{}/run", arrival.id);
        assert_eq!(
            client
                .post(&path, &json!({ "again": true }))
                .unwrap()
                .status,
            200
        );
    }
    assert!(elsewhere > 0, "some were carried out for their owner");
    wait_for("the same again", seconds(10), || {
        let twice = hashed.iter().all(|a| receiver.times()[&a.id] == 2);
        twice.then_some(())
    });
    for arrival in &hashed {
        let nodes = receiver
            .arrivals()
            .into_iter()
            .filter(|a| a.id == arrival.id);
        assert!(nodes.map(|a| a.node).all(|node| node == arrival.node));
    }

    let labelled = by_node(&run(
        &cluster,
        &receiver,
        "gpu",
        &json!({ "label": "gpu=yes" }),
    ));
    assert_eq!(labelled.into_keys().collect::<Vec<_>>(), [2]);

    // On the leader, before and after it moves.
    let leader = cluster.wait_ready();
    let before = by_node(&run(&cluster, &receiver, "lead-a", &json!("leader")));
    assert_eq!(before.into_keys().collect::<Vec<_>>(), [leader]);
    let next = leader % 3 + 1;
    cluster_cli(&cluster, leader, &["lead", &next.to_string()]);
    assert_eq!(cluster.wait_ready(), next);
    let after = by_node(&run(&cluster, &receiver, "lead-b", &json!("leader")));
    assert_eq!(after.into_keys().collect::<Vec<_>>(), [next]);

    // Once on every node; and all again when one has failed.
    let all = run(&cluster, &receiver, "all", &json!("broadcast"));
    assert_eq!(by_node(&all), BTreeMap::from([(1, 24), (2, 24), (3, 24)]));
    receiver.script("odd", [500, 200].map(Reply::status).to_vec());
    submit_all(
        &mut client,
        &[placed(
            "odd",
            now_ms() + 500,
            &receiver.url,
            &json!("broadcast"),
        )],
    );
    wait_for("a broadcast that failed once", seconds(10), || {
        (stage(&mut client, "odd") == "done").then_some(())
    });
    assert_eq!(receiver.times()["odd"], 6);
    let failed = event_of(&mut client, "odd", "retry");
    let why = failed["error"].as_str().unwrap();
    assert!(why.contains("HTTP 500") && why.contains("node "), "{why}");

    // Nobody has the label: it waits, and can be changed until somebody begins it.
    let nowhere = placed(
        "nowhere",
        now_ms(),
        &receiver.url,
        &json!({ "label": "gpu=no" }),
    );
    submit_all(&mut client, &[nowhere]);
    wait_for("its trigger", seconds(5), || {
        (stage(&mut client, "nowhere") == "triggered").then_some(())
    });
    let waited = now_ms() + 1_000;
    pass_until(waited);
    assert_eq!(stage(&mut client, "nowhere"), "triggered");
    assert!(!receiver.times().contains_key("nowhere"));
    let changed = client.send(
        "PATCH",
        &format!("/v1/tasks/{APP}/nowhere"),
        "application/json",
        json!({ "placement": { "label": "zone=a" } })
            .to_string()
            .as_bytes(),
    );
    assert_eq!(changed.unwrap().status, 200);
    wait_for("its new place", seconds(10), || {
        (stage(&mut client, "nowhere") == "done").then_some(())
    });
    assert_eq!(event_of(&mut client, "nowhere", "done")["node"], 2);
    receiver.assert_never_early();
    assert_same_state(&cluster);
}

#[test]
fn a_loaded_node_gives_work_away_and_a_lost_performer_costs_one_redispatch() {
    const COUNT: u64 = 120;
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3);
    // Two calls at once, and it is full.
    let full = 1;
    cluster
        .node(full)
        .env
        .push(("HOROLOG_CALLBACKS_TOTAL".into(), "2".into()));
    cluster.node(3).env.push((LABELS.into(), "gpu=yes".into()));
    let mut cluster = cluster.start();
    wait_spread(&cluster, full, &[1, 2, 3]);
    let from = now_ms() + 2_000;
    let slow = Reply {
        after: std::time::Duration::from_millis(300),
        ..Reply::status(200)
    };
    for n in 0..COUNT {
        receiver.script(&format!("load-{n:05}"), vec![slow.clone()]);
    }
    spread(
        cluster.clients(),
        &tasks("load", COUNT, from, 1, &receiver.url),
    );
    receiver.wait_tasks(COUNT as usize, seconds(30));
    wait_all_done(cluster.clients(), COUNT, seconds(10));
    let mut client = cluster.client(full);
    let (mut own, mut given) = (0, 0);
    for arrival in receiver.arrivals() {
        let owner = get(&mut client, &arrival.id, "")["owner"].as_u64().unwrap();
        match (owner == full, arrival.node == full) {
            (true, true) => own += 1,
            (true, false) => given += 1,
            (false, at_full) => assert!(!at_full, "nobody gives to a node that is full"),
        }
        let done = event_of(&mut client, &arrival.id, "done");
        assert_eq!(done["node"], arrival.node, "{done}");
    }
    println!(
        "node {full}, two calls at once: {own} here, {given} given away; lateness {:?} ms",
        receiver.lateness_ms()
    );
    assert!(given > own && own > 0, "{own} here, {given} given away");
    receiver.assert_sound();

    // The node that carries them out is killed in the middle.
    let hang = Reply {
        after: seconds(60),
        ..Reply::status(200)
    };
    let ids: Vec<String> = (0..12).map(|n| format!("gone-{n}")).collect();
    let due = now_ms() + 1_000;
    let mut gone: Vec<Value> = Vec::new();
    for id in &ids {
        receiver.script(id, vec![hang.clone(), Reply::status(200)]);
        let mut task = placed(id, due, &receiver.url, &json!({ "label": "gpu=yes" }));
        task["target"]["http"]["timeout"] = json!("90s");
        gone.push(task);
    }
    submit_all(&mut client, &gone);
    receiver.wait_tasks((COUNT + 12) as usize, seconds(20));
    let owners: BTreeMap<String, u64> = ids
        .iter()
        .map(|id| {
            (
                id.clone(),
                get(&mut client, id, "")["owner"].as_u64().unwrap(),
            )
        })
        .collect();
    cluster.node(3).kill();
    cluster.node(3).start();
    wait_for("all of them again", seconds(40), || {
        let done = ids.iter().all(|id| stage(&mut client, id) == "done");
        done.then_some(())
    });
    let mut lost = 0;
    for id in &ids {
        let events = get(&mut client, id, "/events")["events"].clone();
        let events = events.as_array().unwrap();
        let again = |cause: &str| {
            let of = |e: &&Value| e["kind"] == "redispatched" && e["by"] == cause;
            events.iter().filter(of).count()
        };
        assert_eq!(receiver.times()[id], 2, "{events:?}");
        if owners[id] != 3 {
            assert_eq!(again("performer"), 1, "{events:?}");
            lost += 1;
        }
        assert_eq!(event_of(&mut client, id, "done")["node"], 3);
    }
    println!("{lost} of 12 were with another node when it was lost, one redispatch each");
    assert!(lost > 0, "{owners:?}");
    receiver.assert_never_early();
    assert_explained(&cluster, &receiver);
    cluster.wait_ready();
    assert_same_state(&cluster);
}
