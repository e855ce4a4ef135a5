//! `cluster certs`: an authority of one's own, and a certificate for each node.

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::output::{line, say};
use crate::model::{Clock as _, Span};
use crate::node::SystemClock;
use crate::raft::Authority;

const CA: &str = "ca.pem";
const CA_KEY: &str = "ca-key.pem";
/// The authority lives ten times as long as what it issues.
const AUTHORITY_LIVES: u64 = 10;
/// A hundred years: longer is a slip of the finger.
const DAYS_MAX: u64 = 36_500;

/// Makes the certificates for TLS between nodes, with an authority of your own.
///
/// What is there stays: with more --nodes than before, only the missing ones are made, by the
/// same authority.
#[derive(Debug, Args)]
pub struct CertsArgs {
    /// Where they go; created when missing.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// One for each of the nodes 1 to N.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    nodes: u64,
    /// How many days they are good for.
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=DAYS_MAX))]
    days: u64,
    /// Make those of the nodes anew, by the same authority.
    #[arg(long)]
    renew: bool,
}

/// Writes the files; prints the settings that name them.
///
/// # Errors
/// Which file cannot be written, or does not fit to what is there.
pub fn run(args: &CertsArgs) -> Result<()> {
    let dir = &args.dir;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let now = SystemClock::default().wall();
    let lives = Span::days(args.days);
    let authority = authority(
        dir,
        Span::days(args.days.saturating_mul(AUTHORITY_LIVES).min(DAYS_MAX)),
    )?;
    for node in 1..=args.nodes {
        let cert = dir.join(format!("node-{node}.pem"));
        let key = dir.join(format!("node-{node}-key.pem"));
        if cert.exists() && key.exists() && !args.renew {
            say(&format!(
                "{} is there and stays; --renew makes it anew",
                cert.display()
            ));
        } else {
            let issued = authority.issue(node, now, lives).map_err(|e| anyhow!(e))?;
            write(&key, &issued.key, 0o600)?;
            write(&cert, &issued.cert, 0o644)?;
        }
    }
    say("Each node gets ca.pem and its own two files; ca-key.pem goes to none of them.");
    for node in 1..=args.nodes {
        let path = |name: &str| dir.join(name).display().to_string();
        line(&format!("# node {node}"));
        line("[cluster.tls]");
        line(&format!("ca = {:?}", path(CA)));
        line(&format!("cert = {:?}", path(&format!("node-{node}.pem"))));
        line(&format!(
            "key = {:?}",
            path(&format!("node-{node}-key.pem"))
        ));
    }
    Ok(())
}

/// The one that is there, or a new one.
fn authority(dir: &Path, lives: Span) -> Result<Authority> {
    let (cert, key) = (dir.join(CA), dir.join(CA_KEY));
    match (cert.exists(), key.exists()) {
        (true, true) => {
            let text = fs::read_to_string(&key)
                .with_context(|| format!("cannot read {}", key.display()))?;
            Authority::from_key(&text).map_err(|e| anyhow!("{}: {e}", key.display()))
        }
        (false, false) => {
            let now = SystemClock::default().wall();
            let (authority, issued) = Authority::new(now, lives).map_err(|e| anyhow!(e))?;
            write(&key, &issued.key, 0o600)?;
            write(&cert, &issued.cert, 0o644)?;
            Ok(authority)
        }
        (cert_there, _) => {
            let (there, missing) = if cert_there {
                (CA, CA_KEY)
            } else {
                (CA_KEY, CA)
            };
            bail!(
                "{}: {there} is there and {missing} is not: give it back, or choose an empty --dir",
                dir.display()
            )
        }
    }
}

/// Beside its place first, then into it: a node that reads it meanwhile gets the old or the new.
fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let beside = path.with_extension("new");
    let failed = || format!("cannot write {}", path.display());
    // What a broken run left behind, with whatever mode.
    let _ = fs::remove_file(&beside);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .with_context(failed)?;
    file.write_all(text.as_bytes()).with_context(failed)?;
    file.sync_all().with_context(failed)?;
    fs::rename(&beside, path).with_context(failed)
}
