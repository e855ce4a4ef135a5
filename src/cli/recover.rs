//! `recover`: one survivor goes on alone, when a majority of the nodes is lost for good.

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use std::path::PathBuf;

use super::log::Stopped;
use super::output::{line, say};
use crate::raft::{go_on_alone, standing};

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// The data directory of the survivor, which is stopped.
    dir: PathBuf,
    /// Do it. Without this it is only said what would be done.
    #[arg(long)]
    accept_loss: bool,
}

/// Does what a `recover` line says.
///
/// # Errors
/// The directory cannot be read or written; or nothing was done because the loss is not accepted.
pub fn run(args: &RecoverArgs) -> Result<()> {
    let node = Stopped::open(&args.dir)?;
    let log = node.log.context("the log cannot be opened")?;
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| anyhow!(e);
    let stands = standing(&args.dir, &node.identity, &log).map_err(failed)?;
    let id = node.identity.node;
    let others: Vec<String> = stands
        .members
        .iter()
        .filter(|(other, _)| **other != id)
        .map(|(other, peer)| format!("{other} ({peer})"))
        .collect();
    line(&format!(
        "node {id}: log index {} of term {}; the other members: {}",
        stands.last.index,
        stands.last.term,
        match others.is_empty() {
            true => "none".into(),
            false => others.join(", "),
        }
    ));
    if others.is_empty() {
        bail!("node {id} is the only member already; start it");
    }
    say(&format!(
        "\n\
         !!  This is for when a majority of the nodes is lost for good. If enough of them can come\n\
         !!  back, with their directories, start them instead: nothing is lost then.\n\
         !!\n\
         !!  Node {id} becomes a cluster of its own, with what its log holds. Whatever was\n\
         !!  acknowledged and has not come to this node is LOST, and tasks that the others have run\n\
         !!  since will run AGAIN. Of several survivors take the one with the highest term, and of\n\
         !!  those the one with the highest index.\n\
         !!\n\
         !!  The others must never run again with their directories: stop them, keep the\n\
         !!  directories aside, and let new nodes join with new numbers.\n"
    ));
    if !args.accept_loss {
        bail!("nothing was done; say --accept-loss to do it");
    }
    go_on_alone(&args.dir, &node.identity, &log, &stands).map_err(failed)?;
    line(&format!(
        "node {id} is a cluster of its own; start it, and let new nodes --join"
    ));
    Ok(())
}
