//! The cluster under test: one of the bench's own, or one that runs already.

use anyhow::{Context as _, Result, bail};
use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::BenchArgs;
use super::books::Books;
use super::facts::cpu_time;
use crate::cli::client::{Remote, Server};
use crate::cli::nodes::Nodes;
use crate::model::Span;

/// Candidates for the ports of a cluster, below those that outgoing connections take.
const PORTS: std::ops::Range<u16> = 12_000..22_000;
const PORTS_STEP: u16 = 10;
/// As `Nodes` lays them out.
const PEER_PORTS: u16 = 100;

/// A cluster to be measured.
pub struct Target {
    pub servers: Vec<SocketAddr>,
    pub voters: usize,
    pub token: Option<String>,
    pub server: Server,
    nodes: Option<Nodes>,
}

impl Target {
    /// The cluster that the arguments name, or a new one of `count` nodes below `dir`.
    pub async fn new(args: &BenchArgs, dir: &Path, count: u16) -> Result<Target> {
        Target::with(args, dir, count, Vec::new()).await
    }

    /// The same, with settings for nodes of the bench's own.
    pub async fn with(
        args: &BenchArgs,
        dir: &Path,
        count: u16,
        settings: Vec<(&'static str, String)>,
    ) -> Result<Target> {
        let mut nodes = None;
        let urls: Vec<String> = match &args.server {
            Some(urls) => urls.split(',').map(str::to_owned).collect(),
            None => {
                let started = nodes.insert(Nodes::start_with(
                    &dir.join(format!("nodes-{count}")),
                    free_ports(count)?,
                    count,
                    settings,
                )?);
                started.ready().await?;
                started.places().into_iter().map(|p| p.url).collect()
            }
        };
        let mut target = Target {
            servers: Vec::new(),
            voters: 0,
            token: args.token.clone(),
            server: server(&urls[0], &args.token)?,
            nodes,
        };
        target.find(&urls, args.leader_only).await?;
        Ok(target)
    }

    /// Learns who votes, and where requests go.
    async fn find(&mut self, urls: &[String], leader_only: bool) -> Result<()> {
        let cluster = self.server.get("/v1/cluster").await?.json;
        let nodes = cluster["nodes"].as_array().cloned().unwrap_or_default();
        let voter = |node: &&serde_json::Value| node["role"] != "learner";
        self.voters = nodes.iter().filter(voter).count();
        let leader = nodes.iter().find(|n| n["id"] == cluster["leader"]);
        let leader = leader.and_then(|n| n["http"].as_str());
        let places: Vec<&str> = match (leader_only, leader) {
            (true, Some(leader)) => vec![leader],
            _ => urls.iter().map(String::as_str).collect(),
        };
        for place in places {
            let authority = place.trim_start_matches("http://").trim_end_matches('/');
            let mut found = tokio::net::lookup_host(authority)
                .await
                .with_context(|| format!("{place}: write http://HOST:PORT"))?;
            self.servers
                .push(found.next().context("a name without an address")?);
        }
        Ok(())
    }

    /// What an acknowledged write has survived: D2 one disk, D3 a quorum of disks.
    pub fn class(&self) -> &'static str {
        if self.voters > 1 { "D3" } else { "D2" }
    }

    /// How many nodes, as people say it.
    pub fn size(&self) -> String {
        match self.voters {
            1 => "1 node".into(),
            n => format!("{n} nodes"),
        }
    }

    /// The tasks of an application, by stage.
    pub async fn stats(&self, app: &str) -> Result<serde_json::Value> {
        let path = format!("/v1/stats?app={app}");
        Ok(self.server.get(&path).await?.json)
    }

    /// The metrics page of the first node.
    pub async fn metrics(&self) -> Result<String> {
        Ok(self.server.get("/metrics").await?.text)
    }

    /// Has the state put into the store, and waits for it.
    pub async fn checkpoint(&self) -> Result<()> {
        let path = "/v1/lifecycle/checkpoint";
        self.server
            .call(Method::POST, path, None, Span::minutes(2))
            .await?;
        Ok(())
    }

    /// Closes the books of a run.
    pub async fn close(&self, books: Books) -> Result<Books> {
        let stats = self.stats(&books.app).await?;
        Ok(books.close(&stats))
    }

    /// The CPU time of all nodes, when they are ours.
    pub fn cpu(&self) -> Option<Duration> {
        let places = self.nodes.as_ref()?.places();
        places.iter().map(|place| cpu_time(place.pid?)).sum()
    }

    /// The first node's process and folder, when it is ours.
    pub fn first(&self) -> Option<(u32, PathBuf)> {
        let place = self.nodes.as_ref()?.places().into_iter().next()?;
        Some((place.pid?, place.dir))
    }

    /// Waits until every node of the bench's own knows a leader.
    pub async fn ready(&mut self) -> Result<()> {
        self.own()?.ready().await
    }

    /// Kills a node as it stands; returns when it is gone.
    pub async fn kill(&mut self, id: u16) -> Result<()> {
        self.own()?.kill(id).await
    }

    /// Starts a node that was killed.
    pub fn start(&mut self, id: u16) -> Result<()> {
        self.own()?.restart(id)
    }

    /// Stops a node's process, or lets it go on.
    pub fn signal(&mut self, id: u16, signal: Signal) -> Result<()> {
        let places = self.own()?.places();
        let place = places.into_iter().find(|place| place.id == u64::from(id));
        let pid = place.and_then(|place| Pid::from_raw(place.pid? as i32));
        kill_process(pid.context("that node does not run")?, signal)?;
        Ok(())
    }

    /// The node that leads, as any that answers sees it.
    pub async fn leader(&self) -> Result<u16> {
        let cluster = self.server.get("/v1/cluster").await?.json;
        let leader = cluster["leader"].as_u64().context("no leader is known")?;
        Ok(u16::try_from(leader)?)
    }

    /// Has the lead moved to another node; returns when it was.
    pub async fn move_lead(&self) -> Result<()> {
        let (path, body) = ("/v1/cluster/lead", b"{}".to_vec());
        let asked = self.server.call(Method::POST, path, Some(body), Span::ZERO);
        asked.await.map(drop)
    }

    fn own(&mut self) -> Result<&mut Nodes> {
        self.nodes
            .as_mut()
            .context("only nodes of the bench's own can be killed and started")
    }

    /// Stops what was started.
    pub async fn stop(self) {
        if let Some(nodes) = self.nodes {
            nodes.stop().await;
        }
    }
}

fn server(url: &str, token: &Option<String>) -> Result<Server> {
    Server::new(&Remote {
        server: url.to_owned(),
        token: token.clone(),
        json: false,
    })
}

/// A port above which every port that a cluster needs is free at this moment.
fn free_ports(count: u16) -> Result<u16> {
    let candidates: Vec<u16> = PORTS.step_by(usize::from(PORTS_STEP)).collect();
    // Runs at the same time begin their search at different places.
    let begin = std::process::id() as usize * 37 % candidates.len();
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let all_free = |base: u16| (base..base + count).all(|p| free(p) && free(p + PEER_PORTS));
    let mut candidates = candidates.iter().cycle().skip(begin).take(candidates.len());
    match candidates.find(|base| all_free(**base)) {
        Some(base) => Ok(*base),
        None => bail!("no free ports between {} and {}", PORTS.start, PORTS.end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_use_are_passed_over() {
        let base = free_ports(3).unwrap();
        let taken = std::net::TcpListener::bind(("127.0.0.1", base + PEER_PORTS + 1));
        let next = free_ports(3).unwrap();
        assert!(taken.is_err() || next != base);
    }
}
