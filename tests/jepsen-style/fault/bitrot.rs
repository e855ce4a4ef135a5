//! A file of a stopped node rots: a bit turns, the end is missing, a block lies where another was.
//!
//! The node is started on the rotten file behind a cut network: it may notice and refuse, or not
//! notice because the bit means nothing; what it shows of its state must be true (I-28). Then the
//! file is put back as it was. Nobody heard of what the node did meanwhile, so that this is no
//! disk that forgot.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::partition::isolated;
use super::{Begun, Trouble};
use crate::chance::Chance;
use crate::site::Site;
use crate::support::node::binary;

const LOG: &str = "log.redb";
const STORE: &str = "state/state.redb";
/// What redb writes at once.
const BLOCK: u64 = 4_096;

pub fn log(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    rot(site, chance, LOG, Damage::flip)
}

pub fn store(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    rot(site, chance, STORE, Damage::flip)
}

pub fn truncate(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let name = *chance.pick(&[LOG, STORE]);
    rot(site, chance, name, Damage::truncate)
}

pub fn misplaced(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let name = *chance.pick(&[LOG, STORE]);
    rot(site, chance, name, Damage::misplace)
}

type Draw = fn(&Path, &mut Chance) -> std::io::Result<Damage>;

fn rot(site: &mut Site, chance: &mut Chance, name: &str, draw: Draw) -> Result<Begun, Trouble> {
    let running = site.running();
    if running.len() < site.nodes.len() {
        return Err(Trouble::Failed("not all nodes run".into()));
    }
    let victim = *chance.pick(&running);
    let others: Vec<u64> = running.into_iter().filter(|id| *id != victim).collect();
    site.node(victim).kill();
    let dir = site.node(victim).dir.clone();
    let copy = site.root.join("sound");
    let failed = |e: std::io::Error| Trouble::Failed(e.to_string());
    copy_dir(&dir, &copy).map_err(failed)?;
    let (damage, noticed) = meaning(&copy, name, draw, chance).map_err(failed)?;
    damage.done_to(&dir.join(name)).map_err(failed)?;
    let ways = isolated(site, victim);
    site.part(ways).map_err(Trouble::Failed)?;
    site.node(victim).start();
    let detail = json!({
        "file": name, "damage": format!("{damage:?}").to_lowercase(), "verify_noticed": noticed,
    });
    let mut begun = Begun::new(vec![victim], detail, move |site| {
        let noticed = !site.node(victim).runs();
        let differs = compare(site, victim, &others);
        if !noticed {
            site.node(victim).kill();
        }
        let back = empty(&dir).and_then(|()| copy_dir(&copy, &dir));
        back.and_then(|()| fs::remove_dir_all(&copy))
            .map_err(|e| e.to_string())?;
        site.unite()?;
        site.node(victim).start();
        match differs {
            None => Ok(json!({ "refused_to_run": noticed })),
            Some(why) => Err(format!("I-28: {why}")),
        }
    });
    begun.may_die = vec![victim];
    Ok(begun)
}

/// What becomes of a file.
#[derive(Debug)]
enum Damage {
    Flip { byte: u64, bit: u64 },
    Truncate { to: u64 },
    Misplace { from: u64, to: u64 },
}

impl Damage {
    fn done_to(&self, path: &Path) -> std::io::Result<()> {
        let file = fs::File::options().read(true).write(true).open(path)?;
        match *self {
            Damage::Flip { byte: at, bit } => {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at)?;
                file.write_all_at(&[byte[0] ^ (1 << bit)], at)?;
            }
            Damage::Truncate { to } => file.set_len(to)?,
            Damage::Misplace { from, to } => {
                let mut block = vec![0; BLOCK as usize];
                file.read_exact_at(&mut block, from)?;
                file.write_all_at(&block, to)?;
            }
        }
        file.sync_all()
    }

    /// Any bit of a byte that is not 0.
    fn flip(path: &Path, chance: &mut Chance) -> std::io::Result<Damage> {
        const LOOKS: u32 = 400;
        let file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        let mut byte = [0];
        let mut at = 0;
        for _ in 0..LOOKS {
            at = chance.below(length);
            file.read_exact_at(&mut byte, at)?;
            if byte != [0] {
                break;
            }
        }
        let bit = chance.below(8);
        Ok(Damage::Flip { byte: at, bit })
    }

    fn truncate(path: &Path, chance: &mut Chance) -> std::io::Result<Damage> {
        let length = fs::metadata(path)?.len();
        Ok(Damage::Truncate {
            to: chance.below(length),
        })
    }

    /// One block over another.
    fn misplace(path: &Path, chance: &mut Chance) -> std::io::Result<Damage> {
        let blocks = fs::metadata(path)?.len() / BLOCK;
        let from = chance.below(blocks);
        let to = (from + 1 + chance.below(blocks - 1)) % blocks;
        Ok(Damage::Misplace {
            from: from * BLOCK,
            to: to * BLOCK,
        })
    }
}

/// A damage that means something, as `log verify` tells on a copy; much of a file is free space.
/// After some tries any will do. Says whether it was noticed.
fn meaning(
    sound: &Path,
    name: &str,
    draw: Draw,
    chance: &mut Chance,
) -> std::io::Result<(Damage, bool)> {
    const TRIES: u32 = 10;
    let probe = sound.with_file_name("probe");
    let mut tried = 0;
    loop {
        tried += 1;
        copy_dir(sound, &probe)?;
        let damage = draw(&probe.join(name), chance)?;
        damage.done_to(&probe.join(name))?;
        let verified = binary().args(["log", "verify"]).arg(&probe).output()?;
        fs::remove_dir_all(&probe)?;
        let noticed = !verified.status.success();
        if noticed || tried == TRIES {
            return Ok((damage, noticed));
        }
    }
}

/// The directory itself stays: it may be a file system of its own.
fn empty(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_dir(&entry.path(), &target)?,
            false => fs::copy(entry.path(), target).map(|_| ())?,
        }
    }
    Ok(())
}

/// How the hashes that a node shows of its own state differ from those of others.
fn compare(site: &Site, victim: u64, others: &[u64]) -> Option<String> {
    let of = |id: u64| own_hashes(&site.ask(id, "/v1/cluster")?.json(), id);
    let own = of(victim)?;
    others.iter().filter_map(|id| of(*id)).find_map(|theirs| {
        let wrong = own
            .iter()
            .find(|(index, hash)| theirs.get(*index).is_some_and(|t| t != *hash));
        wrong.map(|(index, _)| format!("node {victim} serves a wrong state at index {index}"))
    })
}

/// Hashes by index, as a node says of itself.
pub fn own_hashes(view: &Value, id: u64) -> Option<BTreeMap<u64, String>> {
    let nodes = view["nodes"].as_array()?;
    let own = nodes.iter().find(|node| node["id"] == id)?;
    let hashes = own["state_hashes"].as_array()?.iter();
    hashes
        .map(|h| Some((h["index"].as_u64()?, h["hash"].as_str()?.to_owned())))
        .collect()
}
