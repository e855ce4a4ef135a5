//! `dev`: a cluster on this machine, for trying things out.

use anyhow::{Context as _, Result};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

use super::nodes::Nodes;
use super::output::{line, say};
use super::{block_on, demo};

/// How often it is looked whether a node has ended.
const LOOK: Duration = Duration::from_millis(200);

/// A cluster on loopback, one process per node.
#[derive(Clone, Debug, Args)]
pub struct DevArgs {
    /// Where the data lives; temporary without it.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Node i has HTTP at port + i - 1 and its peer port at port + 100 + i - 1.
    #[arg(long, default_value_t = 7400)]
    pub port: u16,
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,
    /// Start a receiver, submit tasks, and show each as it fires.
    #[arg(long)]
    pub demo: bool,
    /// Restart a node whose process was killed.
    #[arg(long)]
    pub restart: bool,
}

/// Runs the cluster until it is told to stop.
///
/// # Errors
/// When it cannot be started.
pub fn run(args: &DevArgs) -> Result<()> {
    let folder = Folder::new(args.dir.as_deref())?;
    block_on(cluster(args, folder.path()))
}

async fn cluster(args: &DevArgs, dir: &Path) -> Result<()> {
    let mut stop = Box::pin(stop_signal()?);
    let mut nodes = Nodes::start(dir, args.port, args.nodes)?;
    for node in &nodes.nodes {
        line(&format!(
            "node {}  {}  log: {}",
            node.id,
            node.url,
            node.log.display()
        ));
    }
    let ended = tokio::select! {
        ready = nodes.ready() => match ready {
            Ok(()) => run_on(args, &mut nodes, &mut stop).await,
            Err(e) => Err(e),
        },
        () = &mut stop => Ok(()),
    };
    nodes.stop().await;
    ended
}

async fn run_on(
    args: &DevArgs,
    nodes: &mut Nodes,
    stop: &mut (impl Future<Output = ()> + Unpin),
) -> Result<()> {
    line("ready");
    let places = nodes.places();
    let demo = async {
        match args.demo {
            true => demo::run(places).await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = demo => ended,
        ended = watch(nodes, args.restart) => ended,
        () = stop => Ok(()),
    }
}

/// Says when a node's process has ended, and starts it again if that was asked for.
async fn watch(nodes: &mut Nodes, restart: bool) -> Result<()> {
    loop {
        for id in nodes.ended(restart)? {
            let what = if restart {
                "and is started again"
            } else {
                "(--restart would start it)"
            };
            say(&format!("node {id} has ended {what}"));
        }
        #[allow(clippy::disallowed_methods)] // The end of a process is polled.
        tokio::time::sleep(LOOK).await;
    }
}

fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut terminated = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    Ok(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
        }
    })
}

/// Where the data lives: kept, or gone with this process.
pub(super) struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn new(kept: Option<&Path>) -> Result<Folder> {
        let Some(path) = kept else {
            return Folder::temporary(&std::env::temp_dir(), "dev");
        };
        Folder::make(path.to_path_buf(), false)
    }

    /// A folder within another that goes with this process.
    pub(super) fn temporary(parent: &Path, verb: &str) -> Result<Folder> {
        let name = format!("horolog-{verb}-{}", std::process::id());
        Folder::make(parent.join(name), true)
    }

    fn make(path: PathBuf, temporary: bool) -> Result<Folder> {
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Folder { path, temporary })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // What is left behind lies in the system's folder for such things.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
