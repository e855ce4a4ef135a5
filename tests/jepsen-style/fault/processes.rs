//! kill -9 and restart; SIGSTOP and SIGCONT.

use serde_json::json;

use super::{Begun, Trouble};
use crate::chance::Chance;
use crate::site::Site;

/// `kill -9`, and another start when it ends.
fn kill(site: &mut Site, nodes: Vec<u64>) -> Begun {
    let leader = site.leader();
    for id in &nodes {
        site.node(*id).kill();
    }
    let again = nodes.clone();
    Begun::new(nodes, json!({ "leader": leader }), move |site| {
        again.iter().for_each(|id| site.node(*id).start());
        Ok(json!("started again"))
    })
}

pub fn kill_one(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let victim = site.victim(chance);
    Ok(kill(site, vec![victim]))
}

/// As many as the cluster bears, the leader among them.
pub fn kill_minority(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let mut nodes = site.running();
    chance.shuffle(&mut nodes);
    let leader = site.leader();
    nodes.sort_by_key(|id| Some(*id) != leader);
    nodes.truncate((site.nodes.len() - 1) / 2);
    Ok(kill(site, nodes))
}

pub fn kill_all(site: &mut Site, _: &mut Chance) -> Result<Begun, Trouble> {
    let nodes = site.running();
    Ok(kill(site, nodes))
}

fn pause(site: &mut Site, victim: u64) -> Begun {
    let leader = site.leader();
    site.node(victim).pause();
    Begun::new(vec![victim], json!({ "leader": leader }), move |site| {
        site.node(victim).resume();
        Ok(json!("goes on"))
    })
}

pub fn pause_leader(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let victim = match site.leader() {
        Some(leader) => leader,
        None => site.victim(chance),
    };
    Ok(pause(site, victim))
}

pub fn pause_any(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let victim = *chance.pick(&site.running());
    Ok(pause(site, victim))
}
