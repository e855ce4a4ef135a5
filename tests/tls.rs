//! TLS between nodes: real nodes with certificates that `cluster certs` has made.

mod support;

use rustix::process::Signal;
use std::path::{Path, PathBuf};
use support::agree::assert_same_state;
use support::cluster::Cluster;
use support::node::{Node, binary};
use support::receiver::Receiver;
use support::work::{metric, spread, submit_surely, task, wait_all_done};
use support::{now_ms, seconds, serial, wait_for};

/// Runs `cluster certs`; returns where the files are.
fn certs(dir: PathBuf, args: &[&str]) -> PathBuf {
    let made = binary()
        .args(["cluster", "certs", "--dir"])
        .arg(&dir)
        .args(args)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    let settings = String::from_utf8_lossy(&made.stdout);
    assert!(settings.contains("[cluster.tls]"), "{settings}");
    dir
}

/// Gives a node the certificate of `id`.
fn equip(node: &mut Node, dir: &Path, id: u64) {
    for (name, file) in [
        ("CA", "ca.pem".to_owned()),
        ("CERT", format!("node-{id}.pem")),
        ("KEY", format!("node-{id}-key.pem")),
    ] {
        let value = dir.join(file).display().to_string();
        node.env
            .push((format!("HOROLOG_CLUSTER_TLS_{name}"), value));
    }
}

/// Three nodes with certificates that are good for so long.
fn cluster(days: &str) -> (Cluster, PathBuf) {
    let mut cluster = Cluster::new(3).fast();
    let dir = certs(cluster.root().join("certs"), &["--days", days]);
    for node in &mut cluster.nodes {
        let id = node.id;
        equip(node, &dir, id);
    }
    (cluster.start(), dir)
}

#[test]
fn certificates_are_renewed_while_tasks_fire() {
    const COUNT: u64 = 500;
    let _one = serial();
    let receiver = Receiver::start();
    let (mut cluster, dir) = cluster("10");
    let from = now_ms() + 1_000;
    let tasks: Vec<_> = (0..COUNT)
        .map(|n| task(&format!("t-{n}"), from + n * 10, &receiver.url))
        .collect();
    spread(cluster.clients(), &tasks);

    certs(dir, &["--renew", "--days", "300"]);
    for node in &cluster.nodes {
        node.signal(Signal::HUP);
        wait_for("the new certificate in use", seconds(10), || {
            let said = node.said();
            said.contains("new connections use the new certificates")
                .then_some(())
        });
    }
    let ends = metric(
        &mut cluster.client(1),
        "horolog_peer_certificate_end_seconds",
    );
    let days = ends.saturating_sub(now_ms() / 1_000) / 86_400;
    assert!((298..=300).contains(&days), "{days}");
    // Only new connections show them: one node comes back.
    let away = cluster.wait_ready() % 3 + 1;
    cluster.node(away).kill();
    cluster.node(away).start();
    cluster.wait_ready();
    receiver.wait_tasks(COUNT as usize, seconds(30));
    wait_all_done(cluster.clients(), COUNT, seconds(20));
    assert_same_state(&cluster);

    // A file that is spoilt leaves what is in use in use.
    let key = cluster.root().join("certs/node-1-key.pem");
    std::fs::write(key, "nonsense").unwrap();
    cluster.node(1).signal(Signal::HUP);
    wait_for("a word about the spoilt key", seconds(10), || {
        let said = cluster.node(1).said();
        said.contains("cluster.tls.key: ").then_some(())
    });
    let last = task("last", now_ms() + 200, &receiver.url);
    submit_surely(&mut cluster.client(1), &last, seconds(10));
    receiver.wait_tasks(COUNT as usize + 1, seconds(15));
}

#[test]
fn strangers_are_told_why() {
    let _one = serial();
    let (cluster, dir) = cluster("10");
    certs(dir.clone(), &["--nodes", "4"]);
    let foreign = certs(cluster.root().join("foreign"), &["--nodes", "4"]);
    let joining = |with: Option<(&Path, u64)>, name: &str| {
        let mut node = Node::new(&cluster.root().join(name), 4);
        std::fs::create_dir_all(&node.dir).unwrap();
        node.args = vec!["--join".into(), cluster.nodes[0].peer.to_string()];
        if let Some((dir, id)) = with {
            equip(&mut node, dir, id);
        }
        node.start();
        node
    };
    for (with, name, words) in [
        (None, "plain", "this node speaks TLS with its peers"),
        (Some((&*foreign, 4)), "foreign", "authority"),
        (
            Some((&*dir, 3)),
            "another",
            "is node 3's, and this is node 4: it needs one that names node-4.horolog",
        ),
    ] {
        let mut node = joining(with, name);
        assert_eq!(node.exits(seconds(20)).code(), Some(1), "{name}");
        let said = node.said();
        assert!(said.contains(words), "{name}: {said}");
    }
    let refused = cluster.nodes[0].said();
    assert!(
        refused.contains("a peer at 127.0.0.1 is refused"),
        "{refused}"
    );

    let mut fourth = joining(Some((&dir, 4)), "good");
    wait_for("node 4 among the others", seconds(20), || {
        let answer = fourth.client().get("/readyz").ok()?;
        (answer.status == 200).then_some(())
    });
    fourth.kill();
}

#[test]
fn a_listed_node_without_tls_hears_that_the_others_have_it() {
    let _one = serial();
    let mut cluster = Cluster::new(3).fast();
    let dir = certs(cluster.root().join("certs"), &[]);
    for node in &mut cluster.nodes {
        let id = node.id;
        if id != 3 {
            equip(node, &dir, id);
        }
        node.start();
    }
    for (id, words) in [
        (3, "this node speaks TLS with its peers"),
        (1, "does not speak TLS: either every node has cluster.tls"),
    ] {
        wait_for(&format!("node {id}'s word"), seconds(15), || {
            cluster.node(id).said().contains(words).then_some(())
        });
    }
    cluster.node(3).kill();
    equip(cluster.node(3), &dir, 3);
    cluster.node(3).start();
    cluster.wait_ready();
}
