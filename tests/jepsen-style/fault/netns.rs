//! Partitions of a real network: packets are lost, cables pulled, lines slow. See `net.rs`.

use serde_json::json;

use super::partition::{self, Shape};
use super::{Begun, Trouble};
use crate::chance::Chance;
use crate::net::Net;
use crate::site::Site;

fn net(site: &mut Site) -> Result<&mut Net, Trouble> {
    site.net.as_mut().map_err(|why| why.clone())
}

fn healed(site: &mut Site) -> Result<(), String> {
    site.net.as_mut().map_or(Ok(()), Net::heal)
}

/// `Net::cut` has looked whether it is so.
fn cut(site: &mut Site, (nodes, ways): Shape) -> Result<Begun, Trouble> {
    let detail = json!({ "leader": site.leader(), "cut": ways });
    net(site)?.cut(&ways).map_err(Trouble::Failed)?;
    Ok(Begun::new(nodes, detail, |site| {
        healed(site).map(|()| json!("healed"))
    }))
}

pub fn halves(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let shape = partition::halves_of(site, chance);
    cut(site, shape)
}

pub fn ring(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let shape = partition::ring_of(site, chance);
    cut(site, shape)
}

pub fn one_way(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let shape = partition::one_way_of(site, chance);
    cut(site, shape)
}

pub fn leader(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let shape = partition::leader_of(site, chance);
    cut(site, shape)
}

pub fn bridge(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let shape = partition::bridge_of(site, chance);
    cut(site, shape)
}

/// A node's cable is pulled: it sees nobody, neither nodes nor clients nor receivers.
pub fn unplugged(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let victim = site.victim(chance);
    let detail = json!({ "leader": site.leader() });
    net(site)?.plugged(victim, false).map_err(Trouble::Failed)?;
    Ok(Begun::new(vec![victim], detail, move |site| {
        let net = site.net.as_ref().map_err(|_| "there is no network")?;
        net.plugged(victim, true).map(|()| json!("plugged in"))
    }))
}

/// A line on which most packets wait or are lost.
pub fn narrow(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let victim = site.victim(chance);
    let kbit = chance.between(16, 200);
    let detail = json!({ "leader": site.leader(), "kbit": kbit });
    net(site)?
        .slow(victim, Some(kbit))
        .map_err(Trouble::Failed)?;
    Ok(Begun::new(vec![victim], detail, move |site| {
        let net = site.net.as_ref().map_err(|_| "there is no network")?;
        let held = net.held(victim)?;
        net.slow(victim, None)?;
        match held {
            0 => Err("the line was wide enough for everything".into()),
            held => Ok(json!({ "held": held })),
        }
    }))
}
