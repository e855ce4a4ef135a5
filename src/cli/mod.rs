//! The command line: starts nodes, and speaks to a running server.
//!
//! Data goes to standard output, talk to standard error; `--json` prints what the server answered.
//! Exit status: 0, 1 for failed, 2 for wrong usage.

mod app;
mod audit;
pub mod bench;
mod certs;
mod client;
mod cluster;
mod demo;
pub mod dev;
mod import;
mod log;
mod nodes;
mod output;
mod recover;
mod schedule;
pub mod serve;
mod shards;
mod submit;
mod task;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use std::process::ExitCode;

pub use bench::BenchArgs;
pub use dev::DevArgs;
pub use log::lines as log_lines;
pub use serve::ServeArgs;

/// An event-sourced scheduler for delayed HTTP tasks: one binary, three of them make a cluster.
#[derive(Debug, Parser)]
#[command(name = "horolog", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a cluster on this machine, a process per node.
    Dev(DevArgs),
    /// Starts one node.
    Serve(Box<ServeArgs>),
    /// Measures floors and scenarios.
    Bench(BenchArgs),
    /// Submits, reads and changes tasks.
    Task(task::TaskArgs),
    /// Cuts tasks into shards for consumers that share them out.
    Shards(shards::ShardsArgs),
    /// Creates, reads and changes schedules; says what their expressions mean.
    Schedule(Box<schedule::ScheduleArgs>),
    /// Proves that schedules have fired as they should: exit status 1 if not.
    Audit(audit::AuditArgs),
    /// Shows the cluster, and changes its members.
    Cluster(cluster::ClusterArgs),
    /// Pauses and resumes the calls of applications.
    App(app::AppArgs),
    /// Submits tasks from a file of JSON lines, resumable.
    Import(import::ImportArgs),
    /// Reads the files of a stopped node.
    Log(log::LogArgs),
    /// Lets one survivor go on alone, when a majority of the nodes is lost for good.
    Recover(recover::RecoverArgs),
    /// Prints a completion script for a shell.
    Completions { shell: Shell },
}

/// What was asked for cannot be, whatever the world is like: exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUsage(String);

/// Parses the arguments of this process and does what they say.
pub fn run() -> ExitCode {
    // What is damaged is told by whoever reads it, and not by a backtrace.
    crate::log::quiet_hook();
    // Wrong usage ends here, with status 2.
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Dev(args) => dev::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Task(args) => block_on(task::run(args)),
        Command::Shards(args) => block_on(shards::run(args)),
        Command::Schedule(args) => block_on(schedule::run(*args)),
        Command::Audit(args) => block_on(audit::run(args)),
        Command::Cluster(args) => block_on(cluster::run(args)),
        Command::App(args) => block_on(app::run(args)),
        Command::Import(args) => block_on(import::run(args)),
        Command::Log(args) => log::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "horolog",
                &mut std::io::stdout(),
            );
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            match error.is::<WrongUsage>() {
                true => ExitCode::from(2),
                false => ExitCode::FAILURE,
            }
        }
    }
}

fn block_on(verb: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime could not start")?
        .block_on(verb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_contracts_lines_are_understood() {
        for line in [
            "horolog dev",
            "horolog dev --dir d --port 7400 --nodes 3 --demo --restart",
            "horolog serve --id 1 --dir d --http 127.0.0.1:1 --peer 127.0.0.1:2",
            "horolog serve --id 1 --dir d --http a:1 --peer a:2 --cluster 1=a:2,2=b:2,3=c:2",
            "horolog serve --id 4 --dir d --http a:1 --peer a:2 --join a:3 --config f",
            "horolog serve --config f --cluster-secret-file s --api-token-file t",
            "horolog task submit --app shop --id order-17 --delay 5s --url http://a/",
            "horolog task submit --file -",
            "horolog task submit --file - --json --server http://127.0.0.1:7401",
            "horolog task get shop order-17 --json",
            "horolog --help",
            "horolog task explain shop order-17 --server http://127.0.0.1:7401",
            "horolog task explain --label order=17 --label size=l --json",
            "horolog task explain shop --label order=17",
            "horolog task --json list --app shop --stage dead --label order=17 --all",
            "horolog task run shop order-17 --wait 10s --again",
            "horolog task done shop order-17 --failed --error broken",
            "horolog task cancel shop order-17",
            "horolog task events shop order-17",
            "horolog schedule next @daily --zone Europe/Berlin --count 3 --json",
            "horolog schedule next @daily @hourly --from 2027-01-01T00:00:00Z --dst gap=after",
            "horolog shards make eu 12",
            "horolog shards pop eu --shard 3 --limit 5 --json",
            "horolog task submit --app a --url http://a/ --placement label:gpu=yes",
            "horolog schedule create shop.report --cron @daily --url http://a/ --overlap skip",
            "horolog schedule create shop.report --file - --json",
            "horolog schedule update shop.report --every 5s --if-version 3 --dry-run",
            "horolog schedule pause shop.report --reason holidays",
            "horolog schedule backfill a.b --from 2027-01-01T00:00:00Z --to 2027-01-02T00:00:00Z",
            "horolog schedule fires a.b --outcome missed --server http://127.0.0.1:7401",
            "horolog schedule revert a.b 3",
            "horolog audit --from 2027-01-01T00:00:00Z --schedule a.b --json",
            "horolog cluster status --json",
            "horolog cluster add 4 a:1",
            "horolog cluster remove 4",
            "horolog cluster replace 3 4 a:1 --json",
            "horolog cluster lead",
            "horolog cluster lead 2 --server http://127.0.0.1:7401",
            "horolog cluster run load",
            "horolog cluster run watchdog --json",
            "horolog cluster run retire --server http://127.0.0.1:7401",
            "horolog cluster run checkpoint",
            "horolog import tasks.ndjson --state s --rejects r --json",
            "horolog import -",
            "horolog log show d",
            "horolog log export d --from 3 --to 9",
            "horolog log verify d",
            "horolog log verify --data d",
            "horolog log export d --history",
            "horolog recover data/1",
            "horolog recover data/1 --accept-loss",
            "horolog bench floors --json",
            "horolog completions bash",
        ] {
            let parsed = Cli::try_parse_from(line.split(' '));
            let helped = |e: &clap::Error| e.kind() == clap::error::ErrorKind::DisplayHelp;
            assert!(
                parsed.as_ref().map_or_else(helped, |_| true),
                "{line}: {parsed:?}"
            );
        }
    }

    #[test]
    fn wrong_usage_is_status_2() {
        for line in [
            "horolog task get shop",
            "horolog task explain shop",
            "horolog task explain shop order-17 --label order=17",
            "horolog task submit --app a --url http://a --at 1 --delay 1s",
            "horolog serve --join a:1 --cluster 1=a:1",
            "horolog schedule next",
            "horolog schedule next @daily --count 0",
            "horolog schedule next @daily --from yesterday",
            "horolog schedule next @daily --dst gap=maybe",
            "horolog cluster run sleep",
            "horolog nonsense",
            "horolog log verify",
            "horolog log verify d --data e",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
