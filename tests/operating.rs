//! What operators do to a running cluster: machines are replaced and removed, the lead is moved,
//! while tasks are submitted and fire. The procedures are those of `docs/operating.md`.
//!
//! Each test prints its figures: `cargo test --test operating -- --nocapture`.

mod support;

use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use support::agree::assert_same_state;
use support::cluster::Cluster;
use support::http::{Answer, Client};
use support::node::{Node, binary};
use support::receiver::Receiver;
use support::work::{stages, submit, submit_all, submit_surely, task, wait_all_done};
use support::{now_ms, pass, seconds, serial, wait_for};

/// A submit may be refused for one election; this is that with a good margin for a busy machine.
const REFUSED_AT_MOST: Duration = seconds(5);

/// What a `horolog cluster …` line said through a node: its answer, or its complaint.
fn cluster_verb(through: &Node, args: &[&str]) -> Result<Value, String> {
    let output = binary()
        .arg("cluster")
        .args(args)
        .args(["--json", "--server", &format!("http://{}", through.http)])
        .output()
        .unwrap();
    match output.status.code() {
        Some(0) => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        Some(1) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        other => panic!("exit status {other:?}: {output:?}"),
    }
}

fn ids(view: &Value) -> Vec<u64> {
    let nodes = view["nodes"].as_array().unwrap();
    nodes.iter().map(|n| n["id"].as_u64().unwrap()).collect()
}

/// A machine that runs and waits to be taken in, with an id and a directory of its own.
fn newcomer(cluster: &mut Cluster, id: u64) -> String {
    let mut node = Node::new(cluster.root(), id);
    let peer = node.peer.to_string();
    let known = cluster.nodes.iter().map(|n| format!("{}={}", n.id, n.peer));
    let list: Vec<String> = known.chain([format!("{id}={peer}")]).collect();
    node.args = vec!["--cluster".into(), list.join(",")];
    node.env = cluster.nodes[0].env.clone();
    node.start();
    cluster.nodes.push(node);
    peer
}

/// Submits a task after the other, due soon, through whoever answers, until told to stop.
struct Load {
    stop: AtomicBool,
    clients: Mutex<Vec<Client>>,
}

/// Ends the load whatever happens, so that a failed assertion is told.
struct Ends<'a>(&'a Load);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::SeqCst);
    }
}

fn since(ms: u64) -> Duration {
    Duration::from_millis(now_ms().saturating_sub(ms))
}

/// What came of it.
struct Sent {
    count: u64,
    /// The longest that one submit was refused.
    refused: Duration,
}

impl Load {
    fn new(cluster: &Cluster) -> Load {
        Load {
            stop: AtomicBool::new(false),
            clients: Mutex::new(cluster.clients()),
        }
    }

    fn clients(&self) -> MutexGuard<'_, Vec<Client>> {
        self.clients.lock().unwrap()
    }

    /// Goes through the nodes that run now.
    fn use_nodes_of(&self, cluster: &Cluster) {
        *self.clients() = cluster.clients();
    }

    fn run(&self, url: &str) -> Sent {
        let mut sent = Sent {
            count: 0,
            refused: Duration::ZERO,
        };
        while !self.stop.load(Ordering::SeqCst) {
            let task = task(&format!("t-{:05}", sent.count), now_ms() + 300, url);
            let began = now_ms();
            let mut turn = sent.count as usize;
            let mut tries = 0;
            while !self.send(turn, &task) {
                assert!(now_ms() < began + 60_000, "nobody takes {task}");
                (turn, tries) = (turn + 1, tries + 1);
                pass(Duration::from_millis(5));
            }
            if tries > 0 {
                sent.refused = sent.refused.max(since(began));
            }
            sent.count += 1;
            pass(Duration::from_millis(5));
        }
        sent
    }

    fn send(&self, turn: usize, task: &Value) -> bool {
        let mut clients = self.clients();
        let count = clients.len();
        submit(&mut clients[turn % count], task).is_ok_and(|a: Answer| a.is_ok())
    }
}

/// Asserts that all that was sent was delivered, nothing early, and on every node the same.
#[track_caller]
fn assert_all_delivered(cluster: &Cluster, receiver: &Receiver, sent: &Sent) {
    receiver.wait_tasks(sent.count as usize, seconds(60));
    wait_all_done(cluster.clients(), sent.count, seconds(30));
    receiver.assert_sound();
    assert_same_state(cluster);
    assert!(
        sent.refused <= REFUSED_AT_MOST,
        "a submit was refused for {:?}",
        sent.refused
    );
}

#[test]
fn every_machine_is_replaced_by_a_new_one_under_load() {
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3).fast().start();
    let load = Load::new(&cluster);
    let sent = std::thread::scope(|scope| {
        let sending = scope.spawn(|| load.run(&receiver.url));
        let ends = Ends(&load);
        for old in 1..=3 {
            let new = old + 3;
            let peer = newcomer(&mut cluster, new);
            // The second one is dead when it is replaced; it is the leader, if that can be had.
            if old == 2 {
                let _ = cluster_verb(&cluster.nodes[2], &["lead", "2"]);
                cluster.node(2).kill();
                load.use_nodes_of(&cluster);
            }
            let through = cluster.nodes.iter().rfind(|n| n.runs() && n.id != new);
            let words = [old.to_string(), new.to_string(), peer];
            let words: Vec<&str> = ["replace"]
                .into_iter()
                .chain(words.iter().map(String::as_str))
                .collect();
            let through = through.unwrap();
            let view = wait_for("the change", seconds(60), || {
                // While a leader is being elected it is refused, and says to try again.
                cluster_verb(through, &words)
                    .inspect_err(|why| println!("    {why}"))
                    .ok()
            });
            assert!(
                ids(&view).contains(&new) && !ids(&view).contains(&old),
                "{view}"
            );
            let node = cluster.nodes.iter().position(|n| n.id == old).unwrap();
            let mut gone = cluster.nodes.remove(node);
            load.use_nodes_of(&cluster);
            if gone.runs() {
                assert_eq!(gone.exits(seconds(20)).code(), Some(1));
                let said = gone.said();
                assert!(said.contains("no member of its cluster any more"), "{said}");
            }
            let leader = cluster.wait_ready();
            load.use_nodes_of(&cluster);
            println!("node {old} was replaced by node {new}; node {leader} leads");
        }
        drop(ends);
        sending.join().unwrap()
    });
    println!(
        "{} submits, the longest refused for {:?}",
        sent.count, sent.refused
    );
    assert_all_delivered(&cluster, &receiver, &sent);
}

#[test]
fn nodes_are_removed_as_long_as_a_majority_answers() {
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3).fast().start();
    let leader = cluster.wait_ready();
    let (away, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.node(away).kill();
    let at = |cluster: &Cluster, id: u64| cluster.nodes.iter().position(|n| n.id == id).unwrap();

    let through = at(&cluster, leader);
    let why = wait_for("a refusal that counts who answers", seconds(10), || {
        // Until it is noticed that a node is silent the removal of another would be granted.
        pass(seconds(1));
        cluster_verb(&cluster.nodes[through], &["remove", &other.to_string()]).err()
    });
    assert!(why.contains("only 1 answer"), "{why}");
    let why = cluster_verb(&cluster.nodes[through], &["remove", "9"]).unwrap_err();
    assert!(why.contains("node 9 is no member"), "{why}");

    let view = cluster_verb(&cluster.nodes[through], &["remove", &away.to_string()]).unwrap();
    assert_eq!(ids(&view).len(), 2, "{view}");
    // It did not hear of it; it is told when it comes back.
    cluster.node(away).start();
    assert_eq!(cluster.node(away).exits(seconds(20)).code(), Some(1));
    let said = cluster.node(away).said();
    assert!(said.contains("no member of its cluster any more"), "{said}");
    assert!(
        said.contains("come back with a new --id and --join"),
        "{said}"
    );

    // The leader itself, asked through itself; then the last one, in vain.
    let leader = cluster.wait_ready();
    let through = at(&cluster, leader);
    let view = cluster_verb(&cluster.nodes[through], &["remove", &leader.to_string()]).unwrap();
    assert_eq!(ids(&view).len(), 1, "{view}");
    assert_eq!(cluster.node(leader).exits(seconds(20)).code(), Some(1));
    let last = cluster.wait_ready();
    let through = at(&cluster, last);
    let why = cluster_verb(&cluster.nodes[through], &["remove", &last.to_string()]).unwrap_err();
    assert!(why.contains("the only voter"), "{why}");
    let mut client = cluster.client(last);
    let task = task("after", now_ms() + 200, &receiver.url);
    submit_surely(&mut client, &task, seconds(10));
    receiver.wait_tasks(1, seconds(15));
}

#[test]
fn the_lead_is_moved_to_each_node_under_load() {
    const ROUNDS: usize = 6;
    let _one = serial();
    let receiver = Receiver::start();
    let cluster = Cluster::new(3).start();
    let load = Load::new(&cluster);
    let sent = std::thread::scope(|scope| {
        let sending = scope.spawn(|| load.run(&receiver.url));
        let ends = Ends(&load);
        let mut leader = cluster.wait_ready();
        for round in 0..ROUNDS {
            let to = leader % 3 + 1;
            let through = &cluster.nodes[round % 3];
            let began = now_ms();
            let view = cluster_verb(through, &["lead", &to.to_string()]).unwrap();
            assert_eq!(view["leader"], to, "{view}");
            println!("from {leader} to {to} in {:?}", since(began));
            leader = cluster.wait_ready();
            assert_eq!(leader, to);
        }
        let view = cluster_verb(&cluster.nodes[0], &["lead"]).unwrap();
        assert_ne!(view["leader"], leader, "to the fittest other");
        drop(ends);
        sending.join().unwrap()
    });
    println!(
        "{} submits, the longest refused for {:?}",
        sent.count, sent.refused
    );
    cluster.wait_ready();
    assert_all_delivered(&cluster, &receiver, &sent);
}

/// There is no way back within a term: the leader must stand for election again.
#[test]
fn a_lead_that_nobody_takes_comes_back() {
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3).fast().start();
    let leader = cluster.wait_ready();
    let to = leader % 3 + 1;
    cluster.node(to).pause();
    // Heard a moment ago, so that it is tried.
    let through = cluster.nodes.iter().find(|n| n.id == leader).unwrap();
    let why = cluster_verb(through, &["lead", &to.to_string()]).unwrap_err();
    println!("{why}");
    let mut client = cluster.client(leader);
    let task = task("meanwhile", now_ms() + 200, &receiver.url);
    submit_surely(&mut client, &task, seconds(20));
    receiver.wait_tasks(1, seconds(20));
    cluster.node(to).resume();
    cluster.wait_ready();
    wait_all_done(cluster.clients(), 1, seconds(20));
    assert_same_state(&cluster);
}

#[test]
fn one_survivor_goes_on_alone_and_grows_again() {
    const TASKS: u64 = 200;
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3).fast().start();
    let url = &receiver.url;
    // A third is done before, a third falls due while nobody runs, a third later.
    let from = now_ms();
    let tasks: Vec<Value> = (0..TASKS)
        .map(|n| {
            task(
                &format!("t-{n:03}"),
                from + [100, 4_000, 15_000][n as usize % 3],
                url,
            )
        })
        .collect();
    submit_all(&mut cluster.client(1), &tasks);
    let first = TASKS.div_ceil(3);
    receiver.wait_tasks(first as usize, seconds(15));
    wait_for("the outcomes on every node", seconds(15), || {
        let done = |mut c: Client| stages(&mut c).get("done") == Some(&first);
        cluster.clients().into_iter().all(done).then_some(())
    });
    let survivor = 1;
    for id in 1..=3 {
        cluster.node(id).kill();
    }
    cluster.node(2).wipe();
    let recover = |more: &[&str]| {
        let dir = &cluster.nodes[0].dir;
        let output = binary()
            .arg("recover")
            .arg(dir)
            .args(more)
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said.into_owned())
    };
    let (status, said) = recover(&[]);
    assert_eq!(status, Some(1), "{said}");
    for part in ["LOST", "the other members: 2 (", "3 (", "say --accept-loss"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (status, said) = recover(&["--accept-loss"]);
    assert_eq!(status, Some(0), "{said}");

    cluster.node(survivor).start();
    assert_eq!(cluster.wait_ready(), survivor);
    assert_eq!(ids(&cluster.view(survivor)), [survivor]);
    // One of the lost comes back after all: it cannot speak to the new cluster, nor serve.
    cluster.node(3).start();
    wait_for("a refusal", seconds(20), || {
        let said = cluster.node(3).said();
        said.contains("belongs to another cluster").then_some(())
    });
    let ready = cluster.client(3).get("/readyz");
    assert!(ready.is_ok_and(|a| a.status == 503));
    cluster.node(3).kill();
    cluster.nodes.truncate(1);

    let peer = cluster.nodes[0].peer.to_string();
    for id in [4, 5] {
        let mut node = Node::new(cluster.root(), id);
        node.args = vec!["--join".into(), peer.clone()];
        node.env = cluster.nodes[0].env.clone();
        node.start();
        cluster.nodes.push(node);
    }
    wait_for("three voters", seconds(30), || {
        let view = cluster.view(survivor);
        let voters = view["nodes"]
            .as_array()?
            .iter()
            .filter(|n| n["role"] != "learner");
        (voters.count() == 3).then_some(())
    });
    receiver.wait_tasks(TASKS as usize, seconds(40));
    wait_all_done(cluster.clients(), TASKS, seconds(20));
    receiver.assert_sound();
    assert_same_state(&cluster);
    assert_eq!(
        receiver.count() as u64,
        TASKS,
        "what was done before is not done again"
    );
}
