//! Several nodes that form a cluster.

use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

use super::http::Client;
use super::node::Node;
use super::{seconds, wait_for};

/// A cluster of this many nodes takes so long at most to have a leader, on a busy machine.
const READY_WITHIN: Duration = seconds(30);

/// See the module. Nodes are counted from 1, as on the command line.
pub struct Cluster {
    pub nodes: Vec<Node>,
    root: Option<TempDir>,
}

impl Cluster {
    /// Nodes that know of each other and are not started yet.
    pub fn new(count: u64) -> Cluster {
        let root = TempDir::with_prefix("horolog-test-").unwrap();
        let mut nodes: Vec<Node> = (1..=count).map(|id| Node::new(root.path(), id)).collect();
        if count > 1 {
            let list: Vec<String> = nodes
                .iter()
                .map(|node| format!("{}={}", node.id, node.peer))
                .collect();
            for node in &mut nodes {
                node.args = vec!["--cluster".into(), list.join(",")];
            }
        }
        Cluster {
            nodes,
            root: Some(root),
        }
    }

    /// A setting of all nodes.
    pub fn set(mut self, name: &str, value: impl ToString) -> Cluster {
        for node in &mut self.nodes {
            node.env.push((name.into(), value.to_string()));
        }
        self
    }

    /// Notices a leader's loss quickly: for tests that are not about how quickly.
    pub fn fast(self) -> Cluster {
        self.set("HOROLOG_RAFT_TIMING", "fast")
    }

    /// Starts all nodes and waits until they serve.
    pub fn start(mut self) -> Cluster {
        self.nodes.iter_mut().for_each(Node::start);
        self.wait_ready();
        self
    }

    pub fn root(&self) -> &Path {
        self.root.as_ref().unwrap().path()
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        let found = self.nodes.iter_mut().find(|node| node.id == id);
        found.expect("there is such a node")
    }

    pub fn client(&self, id: u64) -> Client {
        let found = self.nodes.iter().find(|node| node.id == id);
        found.expect("there is such a node").client()
    }

    /// A client for each node that runs.
    pub fn clients(&self) -> Vec<Client> {
        let running = self.nodes.iter().filter(|node| node.runs());
        running.map(Node::client).collect()
    }

    /// Waits until every node that runs is ready and names the same leader.
    #[track_caller]
    pub fn wait_ready(&self) -> u64 {
        wait_for("a leader that all agree on", READY_WITHIN, || {
            let ready = |node: &&Node| node.client().get("/readyz").is_ok_and(|a| a.status == 200);
            let running = || self.nodes.iter().filter(|node| node.runs());
            running().all(|node| ready(&node)).then_some(())?;
            self.agreed_leader()
        })
    }

    /// Whom all running nodes name as their leader, if they agree.
    pub fn agreed_leader(&self) -> Option<u64> {
        let running = self.nodes.iter().filter(|node| node.runs());
        let mut named: Vec<Option<u64>> = running.map(leader_says).collect();
        named.dedup();
        match named[..] {
            [Some(leader)] => Some(leader),
            _ => None,
        }
    }

    /// What `/v1/cluster` of a node says.
    pub fn view(&self, id: u64) -> Value {
        let answer = self.client(id).get("/v1/cluster").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }
}

fn leader_says(node: &Node) -> Option<u64> {
    let answer = node.client().get("/v1/cluster").ok()?;
    answer.json()["leader"].as_u64()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Processes first: they must not write into what is being removed.
        self.nodes.clear();
        if std::thread::panicking()
            && let Some(root) = self.root.take()
        {
            eprintln!(
                "--- directories and logs are kept in {}",
                root.keep().display()
            );
        }
    }
}
