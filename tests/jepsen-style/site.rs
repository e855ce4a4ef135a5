//! The cluster under test: processes of the real binary that see each other through the wires.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use crate::chance::Chance;
use crate::disks::Disk;
use crate::fault::{DISKS, Trouble};
use crate::net::Net;
use crate::plan::Plan;
use crate::sink::Sink;
use crate::support::http::{Answer, Client, TOKEN};
use crate::support::node::Node;
use crate::support::{now_ms, pass, seconds};
use crate::wires::{Mood, Wires};

/// How many nodes form the cluster.
pub const FIRST_NODES: u64 = 3;
/// What nodes log, where more is asked for than they do by themselves.
const FILTER: &str = "JEPSEN_LOG";
/// How large a node's own disk is, MiB: first, and for each minute of the run. Its image takes only
/// what was written.
const DISK_MIB: (u64, u64) = (512, 64);
/// What the harness itself asks a node must be answered by then.
const ASK_WITHIN: Duration = seconds(2);
const LOOK: Duration = Duration::from_millis(50);

/// Where clients find the nodes: behind the wires. It grows when a node is added.
pub type Doors = Arc<RwLock<Vec<(u64, SocketAddr)>>>;

/// See the module.
pub struct Site {
    pub nodes: Vec<Node>,
    pub wires: Wires,
    pub sink: Arc<Sink>,
    pub doors: Doors,
    pub root: PathBuf,
    /// Disks of nodes, where the plan needs them.
    pub disks: BTreeMap<u64, Disk>,
    /// Why there are none.
    pub no_disks: Trouble,
    disk_mib: Option<u64>,
    /// The library that fakes clocks.
    pub faketime: Option<PathBuf>,
    /// How much the workload does, as a multiple of the usual.
    pub pressure: Arc<std::sync::atomic::AtomicU64>,
    /// Where nodes run in namespaces of their own; or why they do not.
    pub net: Result<Net, Trouble>,
    /// Of every node that there was.
    peers: BTreeMap<u64, SocketAddr>,
    /// Nodes that were removed.
    gone: Vec<u64>,
    settings: Vec<(String, String)>,
    /// Nodes that ended by themselves although nothing was done to them.
    pub deaths: Vec<String>,
}

/// Nodes that others can reach start only with credentials, and call private addresses only where
/// they may.
fn settings_beyond_loopback(net: &Net) -> [(String, String); 3] {
    let token = TOKEN.get_or_init(|| "what-clients-of-the-harness-say".into());
    [
        ("HOROLOG_API_TOKEN".into(), token.clone()),
        (
            "HOROLOG_CLUSTER_SECRET".into(),
            "what-nodes-of-the-harness-say".into(),
        ),
        ("HOROLOG_CALLBACKS_ALLOW".into(), net.host().to_string()),
    ]
}

impl Site {
    /// Nodes that are not started yet.
    pub fn new(
        root: &Path,
        plan: &Plan,
        wires: Wires,
        sink: Arc<Sink>,
        net: Result<Net, Trouble>,
    ) -> Site {
        let mut site = Site {
            nodes: Vec::new(),
            wires,
            sink,
            doors: Doors::default(),
            root: root.to_owned(),
            disks: BTreeMap::new(),
            no_disks: Trouble::Skipped("the plan needs none".into()),
            disk_mib: None,
            faketime: None,
            pressure: Arc::new(1.into()),
            net,
            peers: BTreeMap::new(),
            gone: Vec::new(),
            settings: plan.settings.clone(),
            deaths: Vec::new(),
        };
        if let Ok(filter) = std::env::var(FILTER) {
            let name = "HOROLOG_TELEMETRY_FILTER".into();
            site.settings.push((name, filter));
        }
        if let Ok(net) = &site.net {
            site.settings.extend(settings_beyond_loopback(net));
        }
        if DISKS.iter().any(|family| plan.has(family)) {
            let (first, a_minute) = DISK_MIB;
            site.disk_mib = Some(first + plan.options.seconds / 60 * a_minute);
        }
        if plan.has("clock") {
            site.faketime = crate::fault::clock::library();
        }
        for id in 1..=FIRST_NODES {
            site.new_node(id);
        }
        let list = site.list();
        for node in &mut site.nodes {
            node.args = vec!["--cluster".into(), list.clone()];
        }
        site
    }

    /// A node that is behind the wires, and not started.
    pub fn new_node(&mut self, id: u64) {
        let mut node = Node::new(&self.root, id);
        node.env = self.settings.clone();
        if let Some(library) = &self.faketime {
            node.env
                .extend(crate::fault::clock::settings(&self.root, id, library));
        }
        if let Some(mib) = self.disk_mib {
            match Disk::make(&node.dir, mib) {
                Ok(disk) => drop(self.disks.insert(id, disk)),
                Err(why) => self.no_disks = why,
            }
        }
        match &mut self.net {
            Ok(net) => {
                net.add(id).expect("a place in the network");
                node.net = Some(net.file(id));
                node.http.set_ip(net.of(id));
                node.peer.set_ip(net.of(id));
                self.peers.insert(id, node.peer);
            }
            Err(_) => {
                self.peers.insert(id, self.wires.to_peer(id, node.peer));
            }
        }
        let door = self.wires.to_http(id, node.http);
        self.doors.write().unwrap().push((id, door));
        self.nodes.push(node);
    }

    /// Cuts ways between nodes, by whatever they speak over.
    ///
    /// # Errors
    /// When it could not be done.
    pub fn part(&mut self, ways: Vec<(u64, u64)>) -> Result<(), String> {
        match &mut self.net {
            Ok(net) => net.cut(&ways),
            Err(_) => {
                self.wires.set(ways, Mood::Cut);
                Ok(())
            }
        }
    }

    /// Mends what `part` cut.
    ///
    /// # Errors
    /// When it could not be done.
    pub fn unite(&mut self) -> Result<(), String> {
        self.wires.clear();
        self.net.as_mut().map_or(Ok(()), Net::heal)
    }

    /// The peer addresses of all nodes, as the nodes are told.
    pub fn list(&self) -> String {
        let here = self.peers.iter().filter(|(id, _)| !self.gone.contains(id));
        let shown = here.map(|(id, address)| format!("{id}={address}"));
        shown.collect::<Vec<_>>().join(",")
    }

    /// A number that no node had.
    pub fn next_id(&self) -> u64 {
        self.peers.keys().max().map_or(1, |last| last + 1)
    }

    /// A node that was removed from the cluster: nobody asks it any more.
    pub fn forget(&mut self, id: u64) {
        if self.node(id).runs() {
            self.node(id).kill();
        }
        self.nodes.retain(|node| node.id != id);
        self.doors.write().unwrap().retain(|(node, _)| *node != id);
        self.gone.push(id);
    }

    /// Where the others find a node.
    pub fn peer(&self, id: u64) -> SocketAddr {
        self.peers[&id]
    }

    pub fn ids(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    pub fn running(&self) -> Vec<u64> {
        let running = self.nodes.iter().filter(|node| node.runs());
        running.map(|node| node.id).collect()
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        let found = self.nodes.iter_mut().find(|node| node.id == id);
        found.expect("there is such a node")
    }

    /// Asks a node past the wires.
    pub fn ask(&self, id: u64, path: &str) -> Option<Answer> {
        let node = self.nodes.iter().find(|node| node.id == id)?;
        node.runs().then_some(())?;
        Client::within(node.http, ASK_WITHIN)
            .send("GET", path, "", b"")
            .ok()
    }

    fn named_leader(&self, id: u64) -> Option<u64> {
        let view = self.ask(id, "/v1/cluster")?.json();
        view["leader"].as_u64()
    }

    /// Whom all running nodes take for their leader.
    pub fn agreed_leader(&self) -> Option<u64> {
        let mut named: Vec<Option<u64>> = self
            .running()
            .into_iter()
            .map(|id| self.named_leader(id))
            .collect();
        named.dedup();
        match named[..] {
            [leader] => leader,
            _ => None,
        }
    }

    /// Whoever leads, or whoever is taken for the leader by most.
    pub fn leader(&self) -> Option<u64> {
        let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
        for leader in self
            .running()
            .into_iter()
            .filter_map(|id| self.named_leader(id))
        {
            *votes.entry(leader).or_default() += 1;
        }
        let most = votes.into_iter().max_by_key(|(_, votes)| *votes);
        most.map(|(leader, _)| leader)
    }

    /// The leader three times out of four, if there is one, else anybody.
    pub fn victim(&self, chance: &mut Chance) -> u64 {
        let biased = chance.percent(75);
        let any = *chance.pick(&self.running());
        match self.leader() {
            Some(leader) if biased => leader,
            _ => any,
        }
    }

    /// Notes nodes that ended by themselves, with their last words.
    pub fn watch(&mut self, expected: &[u64]) {
        let gone: Vec<u64> = self
            .nodes
            .iter()
            .filter(|node| node.runs() && !node.is_alive())
            .map(|node| node.id)
            .collect();
        for id in gone {
            self.node(id).reap();
            let said = self.node(id).said();
            let last: Vec<&str> = said.lines().rev().take(3).collect();
            if expected.contains(&id) {
                continue;
            }
            // What met a full disk may end a moment after there is room again.
            let has_disk = self.disks.contains_key(&id);
            let full = last
                .iter()
                .any(|line| line.contains("No space left on device"));
            if !(has_disk && full) {
                let death = format!("node {id} ended by itself: {}", last.join(" / "));
                println!("    {death}");
                self.deaths.push(death);
            }
            // A supervisor would start it again.
            self.node(id).start();
        }
    }

    /// Lets time pass; looks after the nodes meanwhile.
    pub fn pass(&mut self, time: Duration, expected: &[u64]) {
        let end = now_ms() + time.as_millis() as u64;
        while now_ms() < end {
            self.watch(expected);
            pass(LOOK.min(Duration::from_millis(end.saturating_sub(now_ms()))));
        }
    }

    /// Looks until something is there; `None` when it is not there in time.
    pub fn wait<T>(
        &mut self,
        within: Duration,
        mut look: impl FnMut(&mut Site) -> Option<T>,
    ) -> Option<T> {
        let end = now_ms() + within.as_millis() as u64;
        loop {
            if let Some(found) = look(self) {
                return Some(found);
            }
            if now_ms() >= end {
                return None;
            }
            self.pass(LOOK, &[]);
        }
    }

    /// Whether all nodes run, are ready, and agree who leads.
    pub fn is_ready(&self) -> bool {
        let ready = |id: u64| self.ask(id, "/readyz").is_some_and(|a| a.status == 200);
        self.running().len() == self.nodes.len()
            && self.ids().into_iter().all(ready)
            && self.agreed_leader().is_some()
    }

    /// What a node says of the cluster and of the tasks.
    pub fn status(&self, id: u64) -> Value {
        let ask = |path: &str| {
            self.ask(id, path)
                .map_or(Value::Null, |answer| answer.json())
        };
        json!({ "cluster": ask("/v1/cluster"), "stats": ask("/v1/stats") })
    }
}
