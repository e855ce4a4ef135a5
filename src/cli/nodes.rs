//! A cluster on loopback, a process per node: for `dev` and `bench`.

use anyhow::{Context as _, Result, anyhow, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

use super::client::{Remote, Server};

/// Between two looks at whether a node is ready.
const LOOK: Duration = Duration::from_millis(50);
/// A cluster that is not ready by then has a problem that waiting will not solve.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Node i listens to its peers at `port + PEER_PORTS + i - 1`.
const PEER_PORTS: u16 = 100;
/// A node that was asked to stop is killed after this.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// One node's process.
pub(super) struct NodeProcess {
    pub(super) id: u16,
    pub(super) url: String,
    pub(super) log: PathBuf,
    dir: PathBuf,
    child: Child,
}

/// The processes of a cluster.
pub(super) struct Nodes {
    pub(super) nodes: Vec<NodeProcess>,
    port: u16,
    /// Settings of every node, as variables.
    settings: Vec<(&'static str, String)>,
}

impl Nodes {
    /// Starts `count` nodes with their data below `dir`.
    pub(super) fn start(dir: &Path, port: u16, count: u16) -> Result<Nodes> {
        Nodes::start_with(dir, port, count, Vec::new())
    }

    /// The same, with settings.
    pub(super) fn start_with(
        dir: &Path,
        port: u16,
        count: u16,
        settings: Vec<(&'static str, String)>,
    ) -> Result<Nodes> {
        let last = port
            .checked_add(PEER_PORTS)
            .and_then(|p| p.checked_add(count));
        if last.is_none() {
            bail!("--port {port}: there is no room above it for the peer ports");
        }
        let mut nodes = Nodes {
            nodes: Vec::new(),
            port,
            settings,
        };
        for id in 1..=count {
            is_free(port + id - 1)?;
            is_free(port + PEER_PORTS + id - 1)?;
        }
        for id in 1..=count {
            let node_dir = dir.join(format!("node-{id}"));
            std::fs::create_dir_all(&node_dir)
                .with_context(|| format!("cannot create {}", node_dir.display()))?;
            let log = dir.join(format!("node-{id}.log"));
            let child = nodes.spawn(id, count, &node_dir, &log)?;
            let url = format!("http://127.0.0.1:{}", port + id - 1);
            nodes.nodes.push(NodeProcess {
                id,
                url,
                log,
                dir: node_dir,
                child,
            });
        }
        Ok(nodes)
    }

    fn spawn(&self, id: u16, count: u16, dir: &Path, log: &Path) -> Result<Child> {
        let peer = |id: u16| format!("127.0.0.1:{}", self.port + PEER_PORTS + id - 1);
        let list: Vec<String> = (1..=count).map(|id| format!("{id}={}", peer(id))).collect();
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        Command::new(std::env::current_exe().context("where is this program?")?)
            .arg("serve")
            .args(["--id", &id.to_string()])
            .arg("--dir")
            .arg(dir)
            .args(["--http", &format!("127.0.0.1:{}", self.port + id - 1)])
            .args(["--peer", &peer(id)])
            .args(["--cluster", &list.join(",")])
            .arg("--stop-with-stdin")
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(output)
            // Ctrl-C reaches the parent, which stops its children in good order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a node")
    }

    /// Waits until every node knows a leader.
    pub(super) async fn ready(&mut self) -> Result<()> {
        let places = self.places();
        let answers = async {
            for place in &places {
                let server = place.server()?;
                while server.get("/readyz").await.is_err() {
                    #[allow(clippy::disallowed_methods)] // Asked over HTTP, nothing wakes us.
                    tokio::time::sleep(LOOK).await;
                }
            }
            Ok(())
        };
        // A node that has ended makes waiting vain, whoever else may answer at its address.
        tokio::select! {
            ready = tokio::time::timeout(READY_WITHIN, answers) => match ready {
                Ok(ready) => ready,
                Err(_) => Err(anyhow!("the nodes found no leader within {READY_WITHIN:?}")),
            },
            failed = self.failure() => Err(failed),
        }
    }

    /// Waits for a node to end by itself; why it did.
    async fn failure(&mut self) -> anyhow::Error {
        loop {
            for node in &mut self.nodes {
                match node.child.try_wait() {
                    Ok(None) => {}
                    Ok(Some(status)) => {
                        let end = tail(&node.log);
                        return anyhow!("node {} ended with {status}:\n{end}", node.id);
                    }
                    Err(error) => return error.into(),
                }
            }
            #[allow(clippy::disallowed_methods)] // A process that ends wakes nobody here.
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The nodes whose processes have ended since the last look; with `restart`, started again.
    pub(super) fn ended(&mut self, restart: bool) -> Result<Vec<u16>> {
        let mut ended = Vec::new();
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            if node.child.id().is_none() || node.child.try_wait()?.is_none() {
                continue;
            }
            ended.push(node.id);
            if restart {
                let id = node.id;
                self.restart(id)?;
            }
        }
        Ok(ended)
    }

    /// Kills a node as it stands; returns when it is gone.
    pub(super) async fn kill(&mut self, id: u16) -> Result<()> {
        let at = self.place_of(id)?;
        Ok(self.nodes[at].child.kill().await?)
    }

    /// Starts a node whose process has ended.
    pub(super) fn restart(&mut self, id: u16) -> Result<()> {
        let at = self.place_of(id)?;
        let node = &self.nodes[at];
        self.nodes[at].child = self.spawn(id, self.nodes.len() as u16, &node.dir, &node.log)?;
        Ok(())
    }

    fn place_of(&self, id: u16) -> Result<usize> {
        let at = self.nodes.iter().position(|node| node.id == id);
        at.with_context(|| format!("there is no node {id}"))
    }

    /// Stops all nodes, in good order while they do.
    pub(super) async fn stop(mut self) {
        for node in &mut self.nodes {
            // Its end is the signal.
            drop(node.child.stdin.take());
        }
        for node in &mut self.nodes {
            let ended = tokio::time::timeout(STOP_WITHIN, node.child.wait()).await;
            if ended.is_err() {
                // It may have ended meanwhile.
                let _ = node.child.kill().await;
            }
        }
    }

    /// Where the nodes are, for those who only talk to them.
    pub(super) fn places(&self) -> Vec<Place> {
        let place = |node: &NodeProcess| Place {
            id: u64::from(node.id),
            url: node.url.clone(),
            pid: node.child.id(),
            dir: node.dir.clone(),
        };
        self.nodes.iter().map(place).collect()
    }
}

/// A node as others see it.
pub(super) struct Place {
    pub(super) id: u64,
    pub(super) url: String,
    pub(super) pid: Option<u32>,
    pub(super) dir: PathBuf,
}

impl Place {
    /// A client of this node.
    pub(super) fn server(&self) -> Result<Server> {
        Server::new(&Remote {
            server: self.url.clone(),
            token: None,
            json: false,
        })
    }
}

/// Another cluster at this port would answer in place of the one that is being started.
fn is_free(port: u16) -> Result<()> {
    std::net::TcpListener::bind(("127.0.0.1", port))
        .map(drop)
        .with_context(|| format!("cannot listen on 127.0.0.1:{port}; choose another --port"))
}

/// The last lines of a file.
fn tail(path: &Path) -> String {
    const LINES: usize = 5;
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
