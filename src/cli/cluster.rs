//! `cluster …`: who leads, who follows, who owns what; one node more; another leader, a node without
//! work; duties by hand.

use anyhow::{Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::certs::{self, CertsArgs};
use super::client::{Remote, Server};
use super::output::{self, line, show, text};
use crate::model::Span;

#[derive(Debug, Args)]
pub struct ClusterArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows the nodes.
    Status,
    /// Adds a node that is running and waits to be added.
    Add {
        /// Its number.
        id: u64,
        /// Its peer address.
        peer: String,
        /// Keep it a learner: it holds everything and never votes.
        #[arg(long)]
        learner: bool,
    },
    /// Removes a node for good: it never comes back with its directory.
    Remove {
        /// Its number.
        id: u64,
    },
    /// Takes in a new node and, when it has caught up, removes another in the same step.
    Replace {
        /// The number of the node that goes; it may be dead.
        old: u64,
        /// The number of the new node, which is running and waits to be added.
        id: u64,
        /// The new node's peer address.
        peer: String,
    },
    /// Moves the lead to another voter.
    Lead {
        /// Its number; the fittest one when it is left out.
        to: Option<u64>,
    },
    /// Makes certificates for TLS between nodes.
    Certs(CertsArgs),
    /// Has a node give its shards to the others, and take no more until it starts again.
    Drain {
        /// Its number.
        id: u64,
        /// Let it take shards again.
        #[arg(long)]
        undo: bool,
    },
    /// Looks whether schedules, their runs and the tasks that wait fit together, and mends what can
    /// be mended. Fails when something is left.
    Check,
    /// Runs a regular duty at once: on the server that is asked, or on the leader if it is the
    /// leader's.
    Run { duty: Duty },
}

/// What is otherwise done with a period.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Duty {
    /// Loads what is due soon.
    Load,
    /// Hands out again what is due and nobody holds.
    Watchdog,
    /// Drops finished tasks that are old enough.
    Retire,
    /// Writes the state to the store.
    Checkpoint,
}

impl Duty {
    fn path(self) -> &'static str {
        match self {
            Duty::Load => "/v1/lifecycle/load",
            Duty::Watchdog => "/v1/lifecycle/watchdog",
            Duty::Retire => "/v1/lifecycle/retire",
            Duty::Checkpoint => "/v1/lifecycle/checkpoint",
        }
    }
}

/// How long a duty may take.
const RUN: Span = Span::minutes(3);
/// How long a node may take to catch up.
const CATCH_UP: Span = Span::minutes(6);

/// Does what a `cluster` line says.
pub async fn run(args: ClusterArgs) -> Result<()> {
    let server = Server::new(&args.remote)?;
    let ask = async |method: Method, path: &str, body: Option<Value>| {
        let body = body.map(|body| body.to_string().into_bytes());
        server.call(method, path, body, CATCH_UP).await
    };
    let answer = match args.verb {
        // Made here, without asking anybody.
        Verb::Certs(certs) => return certs::run(&certs),
        Verb::Status => server.get("/v1/cluster").await?,
        Verb::Add { id, peer, learner } => {
            let body = json!({ "id": id, "peer": peer, "promote": !learner });
            ask(Method::POST, "/v1/cluster/nodes", Some(body)).await?
        }
        Verb::Remove { id } => {
            let path = format!("/v1/cluster/nodes/{id}");
            ask(Method::DELETE, &path, None).await?
        }
        Verb::Replace { old, id, peer } => {
            let path = format!("/v1/cluster/nodes/{old}/replace");
            ask(Method::POST, &path, Some(json!({ "id": id, "peer": peer }))).await?
        }
        Verb::Lead { to } => {
            let body = json!({ "node": to });
            ask(Method::POST, "/v1/cluster/lead", Some(body)).await?
        }
        Verb::Drain { id, undo } => {
            let body = json!({ "node": id, "drain": !undo });
            ask(Method::POST, "/v1/cluster/drain", Some(body)).await?
        }
        Verb::Check => {
            let answer = server
                .call(Method::POST, "/v1/cluster/check", None, RUN)
                .await?;
            show(&answer, args.remote.json, checked);
            let findings = answer.json["findings"].as_array();
            let left = findings.into_iter().flatten();
            let left = left.filter(|finding| finding["mended"] == false).count();
            ensure!(left == 0, "{left} findings could not be mended");
            return Ok(());
        }
        Verb::Run { duty } => {
            let answer = server.call(Method::POST, duty.path(), None, RUN).await?;
            show(&answer, args.remote.json, ran);
            return Ok(());
        }
    };
    show(&answer, args.remote.json, status);
    Ok(())
}

fn checked(check: &Value) {
    let (node, index, took) = (
        text(check, "node"),
        text(check, "index"),
        text(check, "took_ms"),
    );
    let (schedules, tasks) = (text(check, "schedules"), text(check, "tasks"));
    let findings = check["findings"].as_array();
    for finding in findings.into_iter().flatten() {
        let done = if finding["mended"] == true {
            "mended"
        } else {
            "left as it is"
        };
        line(&format!("{} ({done})", text(finding, "what")));
    }
    let count = findings.map_or(0, Vec::len);
    line(&format!(
        "{count} findings among {schedules} schedules and {tasks} tasks of node {node}, in {took} ms, \
         at log index {index}"
    ));
}

fn ran(run: &Value) {
    let (duty, node) = (text(run, "duty"), text(run, "node"));
    let (handled, examined) = (text(run, "handled"), text(run, "examined"));
    let (index, took) = (text(run, "index"), text(run, "took_ms"));
    line(&format!(
        "{duty} on node {node}: {handled} of {examined} tasks handled in {took} ms, at log index {index}"
    ));
}

fn status(cluster: &Value) {
    let leader = match &cluster["leader"] {
        Value::Null => "no leader".to_owned(),
        leader => format!("leader {leader}"),
    };
    let shards = text(&cluster["shards"], "total");
    line(&format!(
        "{leader}, term {}, {shards} shards",
        cluster["term"]
    ));
    let progress = cluster["shards"]["progress"].as_array();
    let number = |name: &'static str| {
        let shards = progress.into_iter().flatten();
        shards.filter_map(move |shard| shard[name].as_u64())
    };
    if let Some(committed) = number("committed").min() {
        let open = number("open").sum::<u64>();
        line(&format!(
            "{open} tasks open, none up to log index {committed}"
        ));
    }
    let columns = [
        "id",
        "role",
        "alive",
        "http",
        "peer",
        "load",
        "queue_age_ms",
        "last_applied",
        "checkpoint",
        "clock_skew_ms",
        "version",
    ];
    let nodes = cluster["nodes"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let row = |node: &Value| {
        let mut row: Vec<String> = columns.iter().map(|name| text(node, name)).collect();
        row.push(text(&cluster["shards"]["owned"], &text(node, "id")));
        row
    };
    let mut header = columns.to_vec();
    header.push("shards");
    output::table(&header, nodes.iter().map(row));
}
