//! Rot in the files of one node (I-28): flipped bits, cut files, stale blocks and missing records are
//! found at its start or by its scrub; the node says what is wrong, where, and what to do, and ends.
//! The others go on, and are untouched.

mod support;

use redb::{Database, TableDefinition};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use support::agree::assert_same_state;
use support::cluster::Cluster;
use support::node::{Node, binary};
use support::work::{read, submit_all, submit_surely, task};
use support::{now_ms, seconds, serial, wait_for};

/// Tasks of a cluster before anything is done to it.
const TASKS: u64 = 300;
const BLOCK: usize = 4_096;
const URL: &str = "http://127.0.0.1:9/hook";

/// A cluster that holds tasks for tomorrow, checkpoints every second, and scrubs all the time.
fn cluster() -> Cluster {
    let cluster = Cluster::new(3)
        .fast()
        .set("HOROLOG_STORE_CHECKPOINT_AGE", "500ms")
        .set("HOROLOG_SCRUB_EVERY", "200ms")
        .set("HOROLOG_SCRUB_BYTES_PER_SECOND", 64 << 20)
        .start();
    submit_far(&cluster, 1, 0..TASKS);
    (1..=3).for_each(|id| wait_checkpoint(&cluster, id));
    cluster
}

fn id(n: u64) -> String {
    format!("task-{n:06}")
}

fn submit_far(cluster: &Cluster, through: u64, numbers: std::ops::Range<u64>) {
    let due = now_ms() + 86_400_000;
    let tasks: Vec<_> = numbers.map(|n| task(&id(n), due + n, URL)).collect();
    submit_all(&mut cluster.client(through), &tasks);
}

/// What a node says of itself in `/v1/cluster`.
fn own(cluster: &Cluster, id: u64) -> Option<serde_json::Value> {
    let view = cluster.client(id).get("/v1/cluster").ok()?.json();
    let nodes = view["nodes"].as_array()?;
    nodes.iter().find(|node| node["id"] == id).cloned()
}

/// Waits until a node has everything submitted so far in its store.
#[track_caller]
fn wait_checkpoint(cluster: &Cluster, id: u64) {
    let target = wait_for("its index", seconds(10), || {
        own(cluster, id)?["last_applied"].as_u64()
    });
    wait_for("a checkpoint", seconds(30), || {
        (own(cluster, id)?["checkpoint"].as_u64()? >= target).then_some(())
    });
}

fn store(node: &Node) -> PathBuf {
    node.dir.join("state/state.redb")
}

fn log(node: &Node) -> PathBuf {
    node.dir.join("log.redb")
}

/// Flips a bit behind every occurrence of some text, in the live copy and in given-up ones.
#[track_caller]
fn bend(path: &Path, text: &str) {
    let bytes = fs::read(path).unwrap();
    let text = text.as_bytes();
    let places = (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text));
    let file = File::options().write(true).open(path).unwrap();
    let mut bent = 0;
    for at in places {
        let at = at + text.len() - 1;
        file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
        bent += 1;
    }
    assert!(bent > 0, "it is in {}", path.display());
}

fn verify(dir: &Path) -> Output {
    let mut command = binary();
    command.args(["log", "verify", "--data"]).arg(dir);
    command.output().unwrap()
}

/// What `log verify` finds; empty when all is well. It never dies of what it finds.
#[track_caller]
fn findings(dir: &Path) -> String {
    let ran = verify(dir);
    let (out, err) = (text(&ran.stdout), text(&ran.stderr));
    let expected = i32::from(!out.is_empty());
    assert_eq!(ran.status.code(), Some(expected), "{out}\n{err}");
    assert!(!err.contains("panicked"), "{err}");
    out
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Starts a damaged node, or lets it run, until it ends by itself. Returns what it said since
/// it was started here; all it said, when it ran: it may have found the damage before this asks.
#[track_caller]
fn ends(cluster: &mut Cluster, id: u64) -> String {
    let node = cluster.node(id);
    let mut before = 0;
    if !node.runs() {
        before = node.said().len();
        node.start();
    }
    let status = node.exits(seconds(30));
    let said = node.said().split_off(before);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        !said.contains("panicked") && !said.contains("backtrace"),
        "{said}"
    );
    let way_out = ["replace this node", "let a node with a new id"];
    assert!(way_out.iter().any(|way| said.contains(way)), "{said}");
    said
}

/// The others agree, serve everything, and take more.
#[track_caller]
fn others_go_on(cluster: &Cluster, without: u64, name: &str) {
    cluster.wait_ready();
    for node in cluster.nodes.iter().filter(|node| node.runs()) {
        let mut client = node.client();
        let due = now_ms() + 86_400_000;
        let new = format!("{name}-{}", node.id);
        submit_surely(&mut client, &task(&new, due, URL), seconds(10));
        for n in (0..TASKS).step_by(37) {
            assert_eq!(read(&mut client, &id(n)).status, 200, "{}", id(n));
        }
    }
    assert!(
        cluster
            .nodes
            .iter()
            .any(|node| node.id == without && !node.runs())
    );
    assert_same_state(cluster);
}

/// A follower, so that nothing moves when it goes.
fn follower(cluster: &Cluster) -> u64 {
    cluster.wait_ready() % 3 + 1
}

/// The scrub comes round, finds nothing in a sound cluster at work, and says so.
#[test]
fn a_sound_cluster_is_scrubbed_and_has_no_findings() {
    let _one = serial();
    let mut cluster = cluster();
    for round in 1..=5 {
        submit_far(&cluster, round % 3 + 1, round * 1_000..round * 1_000 + 200);
        let rounds = |node: u64| own(&cluster, node)?["scrub"]["passes"].as_u64();
        let before = wait_for("the node", seconds(5), || rounds(2));
        wait_for("two more passes", seconds(20), || {
            (rounds(2)? >= before + 2).then_some(())
        });
    }
    for node in 1..=3 {
        let view = own(&cluster, node).unwrap();
        let scrub = &view["scrub"];
        assert_eq!(scrub["findings"], 0, "{view}");
        assert!(scrub["finished_at"].is_string() && scrub["bytes"].as_u64() > Some(100_000));
        let metrics = cluster.client(node).get("/metrics").unwrap().text();
        assert!(
            metrics.contains("horolog_scrub_findings_total 0"),
            "{metrics}"
        );
        let passes = metrics
            .lines()
            .find(|l| l.starts_with("horolog_scrub_passes_total "));
        assert!(passes.is_some_and(|l| !l.ends_with(" 0")), "{metrics}");
    }
    assert_same_state(&cluster);

    wait_checkpoint(&cluster, 2);
    cluster.node(2).kill();
    let dir = cluster.node(2).dir.clone();
    assert_eq!(findings(&dir), "");
    let histories = export(&dir, &["--history"]);
    assert_eq!(histories.len() as u64, TASKS + 5 * 200);
    for told in &histories {
        assert_eq!(
            (&told["stage"], &told["event"]["kind"]),
            (&"scheduled".into(), &"submitted".into())
        );
    }
    let entries = export(&dir, &[]);
    let mut members = entries.iter().filter(|entry| entry["kind"] == "membership");
    let members = &members.next_back().unwrap()["members"];
    assert_eq!(members["nodes"].as_object().unwrap().len(), 3, "{members}");
    let peer = cluster.node(3).peer.to_string();
    assert_eq!(members["nodes"]["3"]["peer"], peer.as_str(), "{members}");
}

/// The lines of `log export`.
fn export(dir: &Path, more: &[&str]) -> Vec<serde_json::Value> {
    let mut command = binary();
    command.args(["log", "export"]).arg(dir).args(more);
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let out = text(&ran.stdout);
    let lines = out.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

#[test]
fn a_flipped_bit_in_a_stopped_nodes_store_is_found_and_a_new_node_takes_its_place() {
    let _one = serial();
    let mut cluster = cluster();
    let bad = follower(&cluster);
    cluster.node(bad).kill();
    let path = store(cluster.node(bad));
    bend(&path, &id(77));
    let said = ends(&mut cluster, bad);
    println!("{}", said.lines().last().unwrap_or_default());
    others_go_on(&cluster, bad, "without");
    let found = findings(&cluster.node(bad).dir.clone());
    assert!(found.contains("store: "), "{found}");

    let mut fourth = Node::new(cluster.root(), 4);
    let peer = cluster.node(bad % 3 + 1).peer.to_string();
    fourth.args = vec!["--join".into(), peer];
    fourth.env = cluster.node(bad).env.clone();
    fourth.start();
    cluster.nodes.push(fourth);
    others_go_on(&cluster, bad, "with-4");
}

#[test]
fn a_flipped_bit_in_a_stopped_nodes_log_is_refused() {
    let _one = serial();
    let mut cluster = cluster();
    let bad = follower(&cluster);
    // A clean stop and a kill: the engine opens its file in two different ways.
    let stopped = cluster.node(bad).terminate(seconds(20));
    assert!(stopped.success());
    let path = log(cluster.node(bad));
    let whole = fs::read(&path).unwrap();
    bend(&path, &id(5));
    let said = ends(&mut cluster, bad);
    assert!(said.contains("damaged"), "{said}");
    let found = findings(&cluster.node(bad).dir.clone());
    assert!(found.starts_with("log: "), "{found}");

    fs::write(&path, whole).unwrap();
    cluster.node(bad).start();
    cluster.wait_ready();
    cluster.node(bad).kill();
    bend(&path, &id(5));
    ends(&mut cluster, bad);
    others_go_on(&cluster, bad, "without");
}

#[test]
fn cut_files_are_refused() {
    let _one = serial();
    let mut cluster = cluster();
    let bad = follower(&cluster);
    cluster.node(bad).kill();
    for path in [store(cluster.node(bad)), log(cluster.node(bad))] {
        let whole = fs::read(&path).unwrap();
        for length in [0, 1_000, whole.len() / 2, whole.len() - BLOCK] {
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len(length as u64).unwrap();
            let said = ends(&mut cluster, bad);
            assert!(said.contains("damaged"), "{length}: {said}");
            let found = findings(&cluster.node(bad).dir.clone());
            assert!(!found.is_empty(), "cut to {length}");
            fs::write(&path, &whole).unwrap();
        }
    }
    // As it was, it is fit to go on.
    cluster.node(bad).start();
    cluster.wait_ready();
    assert_same_state(&cluster);
}

/// A block as it was at an earlier stop: a write that the disk acknowledged and lost.
#[test]
fn a_stale_block_is_found() {
    let _one = serial();
    let mut cluster = cluster();
    let bad = follower(&cluster);
    for (file, name) in [(store as fn(&Node) -> PathBuf, "store"), (log, "log")] {
        assert!(cluster.node(bad).terminate(seconds(20)).success());
        let path = file(cluster.node(bad));
        let earlier = fs::read(&path).unwrap();
        cluster.node(bad).start();
        cluster.wait_ready();
        let from = if name == "store" { 2_000 } else { 3_000 };
        submit_far(&cluster, bad, from..from + 200);
        wait_checkpoint(&cluster, bad);
        assert!(cluster.node(bad).terminate(seconds(20)).success());
        let later = fs::read(&path).unwrap();
        let blocks = earlier.len().min(later.len()) / BLOCK;
        let at = |n: usize| n * BLOCK..(n + 1) * BLOCK;
        let changed = (1..blocks).filter(|n| earlier[at(*n)] != later[at(*n)]);
        let (mut tried, mut hit) = (0, None);
        for n in changed {
            let mut stale = later.clone();
            stale[at(n)].copy_from_slice(&earlier[at(n)]);
            fs::write(&path, &stale).unwrap();
            tried += 1;
            if !findings(&cluster.node(bad).dir.clone()).is_empty() {
                hit = Some(stale);
                break;
            }
            // A page that is free now; opening it has written to the file.
            fs::write(&path, &later).unwrap();
        }
        println!("{name}: found with the {tried}. of the blocks that had changed");
        fs::write(&path, hit.expect("a live block had changed")).unwrap();
        ends(&mut cluster, bad);
        fs::write(&path, &later).unwrap();
        cluster.node(bad).start();
        cluster.wait_ready();
    }
    cluster.node(bad).kill();
    others_go_on(&cluster, bad, "without");
}

/// Everything is in memory, and the disk changes a bit below it.
#[test]
fn rot_under_a_running_node_is_found_within_a_pass() {
    let _one = serial();
    let mut cluster = cluster();
    let bad = follower(&cluster);
    let path = store(cluster.node(bad));
    bend(&path, &id(123));
    let said = ends(&mut cluster, bad);
    assert!(
        said.contains("the scrub found damage in the store"),
        "{said}"
    );
    assert!(
        said.contains("of state.redb are not what was written"),
        "{said}"
    );
    others_go_on(&cluster, bad, "without");
}

#[test]
fn rot_under_a_running_leaders_log_is_found_within_a_pass() {
    let _one = serial();
    let mut cluster = cluster();
    let bad = cluster.wait_ready();
    let path = log(cluster.node(bad));
    bend(&path, &id(200));
    let said = ends(&mut cluster, bad);
    assert!(said.contains("damage in the log"), "{said}");
    assert!(
        said.contains("of log.redb are not what was written"),
        "{said}"
    );
    others_go_on(&cluster, bad, "without");
}

#[test]
fn a_record_dropped_by_hand_is_named_and_ends_the_node() {
    const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("tasks");
    let _one = serial();
    let mut cluster = cluster();
    let bad = follower(&cluster);
    assert!(cluster.node(bad).terminate(seconds(20)).success());
    assert_eq!(findings(&cluster.node(bad).dir.clone()), "");
    {
        let db = Database::open(store(cluster.node(bad))).unwrap();
        let txn = db.begin_write().unwrap();
        let dropped = txn
            .open_table(RECORDS)
            .unwrap()
            .remove(42)
            .unwrap()
            .is_some();
        assert!(dropped, "task 42 is there, and nothing has touched it");
        txn.commit().unwrap();
    }
    let found = findings(&cluster.node(bad).dir.clone());
    for part in [
        "store: `ids` leads from test/",
        "to task 42, which is not there",
        "a record was lost or changed",
    ] {
        assert!(found.contains(part), "{part} is not in {found}");
    }
    let said = ends(&mut cluster, bad);
    assert!(said.contains("to task 42, which is not there"), "{said}");
    others_go_on(&cluster, bad, "without");
}

/// I-27 on real directories: the log from zero, and over each checkpoint, gives the same hash.
#[test]
fn the_log_from_zero_and_over_each_checkpoint_gives_the_same_hash() {
    let _one = serial();
    let mut cluster = cluster();
    let node = follower(&cluster);
    let mut hashes = Vec::new();
    for round in 1..=3 {
        submit_far(&cluster, node, round * 1_000..round * 1_000 + 150);
        if round == 2 {
            wait_checkpoint(&cluster, node);
        }
        cluster.node(node).kill();
        let dir = cluster.node(node).dir.clone();
        let ran = verify(&dir);
        let (out, err) = (text(&ran.stdout), text(&ran.stderr));
        assert!(ran.status.success(), "{out}{err}");
        let replay = err
            .lines()
            .find(|line| line.starts_with("replay: "))
            .unwrap();
        println!("{replay}");
        assert!(!replay.contains("equal at 0 "), "{replay}");
        assert!(replay.contains("; from zero equal at "), "{replay}");
        hashes.push(replay.split("state hash ").nth(1).unwrap()[..32].to_owned());
        cluster.node(node).start();
        cluster.wait_ready();
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 3, "each round had a state of its own");
    assert_same_state(&cluster);
}
