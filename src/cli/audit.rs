//! `audit`: what should have fired, worked out anew and held against the ledger.

use anyhow::{Result, bail};
use clap::Args;

use super::client::{Remote, Server, encode};
use super::output::{line, say, show, table, text};
use crate::model::Time;

#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(flatten)]
    remote: Remote,
    /// Occurrences planned at or after this; all by default.
    #[arg(long, value_name = "TIME", value_parser = Time::parse)]
    from: Option<Time>,
    /// Occurrences planned up to this; a few seconds ago by default.
    #[arg(long, value_name = "TIME", value_parser = Time::parse)]
    to: Option<Time>,
    /// Only this schedule.
    #[arg(long, value_name = "ID")]
    schedule: Option<String>,
}

/// Audits the ledger.
///
/// # Errors
/// There are differences, or the server did not answer.
pub async fn run(args: AuditArgs) -> Result<()> {
    let times = [("from", args.from), ("to", args.to)];
    let times = times.map(|(name, at)| at.map(|at| (name, at.0.to_string())));
    let only = args.schedule.map(|id| ("schedule", encode(&id)));
    let query = times.into_iter().flatten().chain(only);
    let query: Vec<String> = query
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let server = Server::new(&args.remote)?;
    let answer = server
        .get(&format!("/v1/audit?{}", query.join("&")))
        .await?;
    show(&answer, args.remote.json, |audit| {
        for member in [
            "schedules",
            "expected",
            "outcomes",
            "by_count_only",
            "differences",
            "from",
            "to",
        ] {
            line(&format!("{member:<14} {}", text(audit, member)));
        }
        let found = audit["found"].as_array().filter(|found| !found.is_empty());
        if let Some(found) = found {
            let members = ["schedule", "version", "planned", "what", "detail"];
            table(
                &members,
                found
                    .iter()
                    .map(|row| members.map(|m| text(row, m)).to_vec()),
            );
        }
        for version in audit["unproven"].as_array().into_iter().flatten() {
            say(&format!(
                "{version} has too many occurrences to count; its lines were compared"
            ));
        }
    });
    match answer.json["differences"].as_u64() {
        Some(0) => Ok(()),
        Some(n) => bail!("{n} differences between what should have fired and the ledger"),
        None => bail!("the server's answer counts no differences"),
    }
}
