//! `serve`: one node.

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

use crate::node::{Config, Node, telemetry};

use crate::node::settings::Settings;
use crate::node::settings_load::SettingsError;

/// One node. What is not given comes from the environment, the file, or the defaults.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArgs {
    /// This node's number, 1 or more.
    #[arg(long, value_name = "N")]
    pub id: Option<u64>,
    /// Where its data lives; created when missing.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Where clients connect.
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// Where the other nodes connect.
    #[arg(long, value_name = "ADDR")]
    pub peer: Option<String>,
    /// The peer addresses of all nodes of a new cluster, the same list for each.
    #[arg(long, value_name = "1=ADDR,2=ADDR,…", conflicts_with = "join")]
    pub cluster: Option<String>,
    /// A node of the running cluster to join.
    #[arg(long, value_name = "ADDR")]
    pub join: Option<String>,
    /// A file with settings.
    #[arg(long, value_name = "FILE", env = "HOROLOG_CONFIG")]
    pub config: Option<PathBuf>,
    /// A file with the cluster's secret.
    #[arg(long, value_name = "FILE")]
    pub cluster_secret_file: Option<PathBuf>,
    /// A file with the clients' token.
    #[arg(long, value_name = "FILE")]
    pub api_token_file: Option<PathBuf>,
    /// Stop when standard input ends: for a parent that must not leave this process behind.
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

/// Runs a node until it is told to stop, or cannot go on.
///
/// # Errors
/// Why it did not start, or why it had to stop; each says what to do.
pub fn run(args: &ServeArgs) -> Result<()> {
    let settings = args.settings()?;
    telemetry::init(&settings.telemetry).map_err(|e| anyhow!(e))?;
    let config = Config::new(&settings).map_err(|e| anyhow!(e))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime could not start")?;
    runtime.block_on(serve(config, args.stop_with_stdin))
}

async fn serve(config: Config, stop_with_stdin: bool) -> Result<()> {
    let (id, dir) = (config.id, config.dir.display().to_string());
    let fault: Arc<dyn Fn(String) + Send + Sync> = Arc::new(|why| {
        // What is on disk is whole; a restart is the way on, and every moment counts.
        tracing::error!("this node cannot go on: {why}");
        std::process::exit(1);
    });
    let mut hangups = signal(SignalKind::hangup()).context("SIGHUP cannot be heard")?;
    let mut stop = Box::pin(stop_signal(stop_with_stdin));
    let node = tokio::select! {
        node = Node::start(config, fault) => node?,
        () = &mut stop => return Ok(()),
    };
    tracing::info!(id, %dir, http = %node.http(), "this node takes part");
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(()) = hangups.recv() => node.reload(),
        }
    }
    tracing::info!(id, "stopping");
    node.stop().await;
    Ok(())
}

/// Ends with Ctrl-C, SIGTERM, or standard input where that was asked for.
async fn stop_signal(with_stdin: bool) {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => drop(signals.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    let stdin_ends = async {
        match with_stdin {
            true => drop(stdin_end().await),
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
        () = stdin_ends => {}
    }
}

/// Waits for the end of standard input on a thread of its own, which nothing waits for.
fn stdin_end() -> tokio::sync::oneshot::Receiver<()> {
    let (tx, rx) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // An error is an end as well.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        tx.send(())
    });
    rx
}

impl ServeArgs {
    /// The settings, with these flags over the environment over the file.
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        Settings::read(self.config.as_deref(), self.flags())
    }

    fn flags(&self) -> Vec<(&'static str, String)> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.to_string_lossy().into_owned());
        [
            ("node.id", self.id.map(|id| id.to_string())),
            ("node.dir", path(&self.dir)),
            ("http", self.http.clone()),
            ("peer", self.peer.clone()),
            ("cluster.nodes", self.cluster.clone()),
            ("cluster.join", self.join.clone()),
            ("cluster.secret_file", path(&self.cluster_secret_file)),
            ("api.token_file", path(&self.api_token_file)),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::settings_keys::{KEYS, find};
    use std::collections::BTreeSet;

    #[test]
    fn every_flag_is_in_the_table() {
        let args = ServeArgs {
            id: Some(1),
            dir: Some("d".into()),
            http: Some("a:1".into()),
            peer: Some("a:2".into()),
            cluster: Some("1=a:2".into()),
            join: Some("a:3".into()),
            config: None,
            cluster_secret_file: Some("s".into()),
            api_token_file: Some("t".into()),
            stop_with_stdin: false,
        };
        let used: BTreeSet<_> = args
            .flags()
            .iter()
            .map(|(key, _)| find(key).unwrap().path)
            .collect();
        let documented = KEYS
            .iter()
            .filter(|key| !key.flag.is_empty())
            .map(|key| key.path)
            .collect();
        assert_eq!(used, documented);
    }
}
