//! Partitions: who hears whom no more.

use serde_json::json;

use super::{Begun, Trouble};
use crate::chance::Chance;
use crate::site::Site;
use crate::wires::Mood;

type Ways = Vec<(u64, u64)>;

/// Cuts these ways; when it ends they must have kept something from passing.
fn cut(site: &mut Site, (nodes, ways): Shape) -> Result<Begun, Trouble> {
    if site.wires.strangers() > 0 {
        return Err(Trouble::Failed(
            "there are connections between nodes whose caller is not known".into(),
        ));
    }
    let detail = json!({ "leader": site.leader(), "cut": ways });
    site.wires.set(ways, Mood::Cut);
    Ok(Begun::new(nodes, detail, |site| match site.wires.clear() {
        0 => Err("nothing was kept from passing".into()),
        held => Ok(json!({ "held": held })),
    }))
}

/// Both ways between two groups.
fn between(left: &[u64], right: &[u64]) -> Ways {
    let pairs = left
        .iter()
        .flat_map(|a| right.iter().map(move |b| (*a, *b)));
    pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}

fn shuffled(site: &Site, chance: &mut Chance) -> Vec<u64> {
    let mut nodes = site.ids();
    chance.shuffle(&mut nodes);
    nodes
}

/// Around whom, and which ways are cut.
pub type Shape = (Vec<u64>, Ways);

pub fn halves(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let shape = halves_of(site, chance);
    cut(site, shape)
}

pub fn halves_of(site: &Site, chance: &mut Chance) -> Shape {
    let nodes = shuffled(site, chance);
    let (left, right) = nodes.split_at(nodes.len() / 2);
    (left.to_vec(), between(left, right))
}

pub fn ring(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let shape = ring_of(site, chance);
    cut(site, shape)
}

/// Each hears only its neighbours; three hear only the one before them.
pub fn ring_of(site: &Site, chance: &mut Chance) -> Shape {
    let nodes = shuffled(site, chance);
    let count = nodes.len();
    let mut ways = Ways::new();
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            let ahead = (to + count - from) % count;
            let hears = ahead == 1 || (count > 3 && ahead == count - 1);
            if !hears {
                ways.push((nodes[from], nodes[to]));
            }
        }
    }
    (nodes, ways)
}

pub fn one_way(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let shape = one_way_of(site, chance);
    cut(site, shape)
}

/// The leader is heard by nobody, or hears nobody.
pub fn one_way_of(site: &Site, chance: &mut Chance) -> Shape {
    let victim = site.victim(chance);
    let is_dumb = chance.percent(50);
    let others = site.ids().into_iter().filter(|id| *id != victim);
    let way = |other| match is_dumb {
        true => (victim, other),
        false => (other, victim),
    };
    (vec![victim], others.map(way).collect())
}

pub fn leader(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let shape = leader_of(site, chance);
    cut(site, shape)
}

/// The leader alone.
pub fn leader_of(site: &Site, chance: &mut Chance) -> Shape {
    let victim = match site.leader() {
        Some(leader) => leader,
        None => site.victim(chance),
    };
    (vec![victim], isolated(site, victim))
}

/// What must be cut so that a node is alone.
pub fn isolated(site: &Site, node: u64) -> Ways {
    let others: Vec<u64> = site.ids().into_iter().filter(|id| *id != node).collect();
    between(&[node], &others)
}

pub fn bridge(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let shape = bridge_of(site, chance);
    cut(site, shape)
}

/// Two groups that only one node connects.
pub fn bridge_of(site: &Site, chance: &mut Chance) -> Shape {
    let nodes = shuffled(site, chance);
    let (left, right) = nodes[1..].split_at((nodes.len() - 1) / 2);
    (vec![nodes[0]], between(left, right))
}
