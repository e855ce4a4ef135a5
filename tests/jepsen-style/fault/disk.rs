//! Disks that are full, stand still, fail, or lose power. See `disks.rs`.

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use serde_json::json;
use std::fs::File;

use super::{Begun, Trouble};
use crate::chance::Chance;
use crate::disks::Disk;
use crate::site::Site;

/// What a full disk is filled with, bytes.
const LARGEST: u64 = 64 << 20;
const SMALLEST: u64 = 1 << 10;

/// The disk of a node.
fn disk(site: &mut Site, node: u64) -> Result<&mut Disk, Trouble> {
    let why = site.no_disks.clone();
    site.disks.get_mut(&node).ok_or(why)
}

/// The same, where it is known to be there.
fn there(site: &mut Site, node: u64) -> Result<&mut Disk, String> {
    site.disks.get_mut(&node).ok_or("it has no disk".into())
}

pub fn full(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let victim = site.victim(chance);
    let filler = disk(site, victim)?.path().join("filler");
    let failed = |e: std::io::Error| Trouble::Failed(e.to_string());
    let file = File::create(&filler).map_err(failed)?;
    let (mut at, mut piece) = (0, LARGEST);
    // Large pieces first, then what still fits.
    while piece >= SMALLEST {
        match fallocate(&file, FallocateFlags::empty(), at, piece) {
            Ok(()) => at += piece,
            Err(Errno::NOSPC) => piece /= 2,
            Err(error) => return Err(failed(error.into())),
        }
    }
    let filled = file.metadata().map_err(failed)?.len();
    let detail = json!({ "leader": site.leader(), "filled": filled });
    let mut begun = Begun::new(vec![victim], detail, move |site| {
        // For good: a power cut that follows must not bring it back.
        let gone = std::fs::remove_file(&filler).and_then(|()| {
            let dir = filler.parent().expect("it lies in one");
            File::open(dir)?.sync_all()
        });
        gone.map_err(|e| e.to_string())?;
        let ended = !site.node(victim).runs();
        if ended {
            site.node(victim).start();
        }
        Ok(json!({ "ended_by_itself": ended }))
    });
    begun.may_die = vec![victim];
    Ok(begun)
}

/// Writes and syncs wait; nothing is lost.
pub fn stalled(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let victim = site.victim(chance);
    let detail = json!({ "leader": site.leader() });
    disk(site, victim)?.stalled(true).map_err(Trouble::Failed)?;
    Ok(Begun::new(vec![victim], detail, move |site| {
        there(site, victim)?.stalled(false)?;
        Ok(json!("goes on"))
    }))
}

/// Every write and sync fails, and what was not synced is gone. A node cannot go on from there: it
/// must end, and not be believed in what it says meanwhile.
pub fn errors(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let victim = site.victim(chance);
    let detail = json!({ "leader": site.leader() });
    disk(site, victim)?.cut().map_err(Trouble::Failed)?;
    let mut begun = Begun::new(vec![victim], detail, move |site| {
        let ended = !site.node(victim).runs();
        if !ended {
            site.node(victim).kill();
        }
        restore(site, victim)?;
        Ok(json!({ "ended_by_itself": ended }))
    });
    begun.may_die = vec![victim];
    Ok(begun)
}

pub fn power_one(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let victim = site.victim(chance);
    power(site, vec![victim])
}

pub fn power_all(site: &mut Site, _: &mut Chance) -> Result<Begun, Trouble> {
    let nodes = site.running();
    power(site, nodes)
}

/// Processes are gone, and so is what they had not synced.
fn power(site: &mut Site, nodes: Vec<u64>) -> Result<Begun, Trouble> {
    let detail = json!({ "leader": site.leader() });
    for id in &nodes {
        disk(site, *id)?;
    }
    for id in &nodes {
        site.node(*id).kill();
        disk(site, *id)?.cut().map_err(Trouble::Failed)?;
    }
    let again = nodes.clone();
    Ok(Begun::new(nodes, detail, move |site| {
        for id in again {
            restore(site, id)?;
        }
        Ok(json!("power is back"))
    }))
}

/// Mounts what is left, and starts the node on it.
fn restore(site: &mut Site, node: u64) -> Result<(), String> {
    let disk = there(site, node)?;
    disk.unmount()?;
    disk.mount()?;
    site.node(node).start();
    Ok(())
}
