//! Bytes that come late, never, in part, or changed.

use serde_json::json;

use super::{Begun, Trouble};
use crate::chance::Chance;
use crate::site::Site;
use crate::wires::{CLIENTS, Mood};

/// Sets a mood; when it ends it must have been done to something.
fn set(
    site: &mut Site,
    nodes: Vec<u64>,
    ways: Vec<(u64, u64)>,
    mood: Mood,
) -> Result<Begun, Trouble> {
    let detail = json!({ "leader": site.leader(), "mood": mood.shown(), "ways": ways });
    site.wires.set(ways, mood);
    Ok(Begun::new(nodes, detail, |site| match site.wires.clear() {
        0 => Err("it was done to nothing".into()),
        hits => Ok(json!({ "chunks": hits })),
    }))
}

/// All that one node says and hears among nodes.
fn of_one(site: &mut Site, chance: &mut Chance, mood: Mood) -> Result<Begun, Trouble> {
    let victim = site.victim(chance);
    let ways = super::partition::isolated(site, victim);
    set(site, vec![victim], ways, mood)
}

fn of_all(site: &mut Site, mood: Mood) -> Result<Begun, Trouble> {
    let ids = site.ids();
    let pairs = ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b)));
    let ways = pairs.filter(|(a, b)| a != b).collect();
    set(site, ids.clone(), ways, mood)
}

pub fn delay(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let ms = chance.between(20, 400);
    match chance.percent(50) {
        true => of_all(site, Mood::Late(ms / 4)),
        false => of_one(site, chance, Mood::Late(ms)),
    }
}

pub fn half_open(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    of_one(site, chance, Mood::Silent)
}

pub fn truncate(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let percent = chance.between(3, 15);
    of_all(site, Mood::Truncate(percent))
}

pub fn corrupt(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let percent = chance.between(3, 15);
    of_all(site, Mood::Corrupt(percent))
}

/// Between clients and some of the nodes. Nothing is corrupted there: plain HTTP has no checksum,
/// and a changed id would be a request that somebody made.
fn clients(site: &mut Site, chance: &mut Chance, mood: Mood) -> Result<Begun, Trouble> {
    let mut nodes = site.ids();
    chance.shuffle(&mut nodes);
    nodes.truncate(chance.between(1, 2) as usize);
    let to_only = chance.percent(30);
    let ways = nodes.iter().flat_map(|id| match to_only {
        // Requests arrive, answers do not.
        true => vec![(*id, CLIENTS)],
        false => vec![(*id, CLIENTS), (CLIENTS, *id)],
    });
    let ways = ways.collect();
    set(site, nodes, ways, mood)
}

pub fn client_cut(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    clients(site, chance, Mood::Cut)
}

pub fn client_delay(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let ms = chance.between(50, 600);
    clients(site, chance, Mood::Late(ms))
}

pub fn client_truncate(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let percent = chance.between(20, 50);
    clients(site, chance, Mood::Truncate(percent))
}
