//! Wall clocks that jump, by libfaketime; monotonic ones are left alone.

use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Begun, Trouble};
use crate::chance::Chance;
use crate::site::Site;

/// The library, where it is installed.
pub fn library() -> Option<PathBuf> {
    fs::read_dir("/usr/lib").ok()?.flatten().find_map(|entry| {
        let path = entry.path().join("faketime/libfaketimeMT.so.1");
        path.exists().then_some(path)
    })
}

/// The file from which a node's clock is read, each second.
fn file(root: &Path, id: u64) -> PathBuf {
    root.join(format!("clock-{id}"))
}

fn set(root: &Path, id: u64, offset: &str) -> std::io::Result<()> {
    let path = file(root, id);
    let part = path.with_extension("part");
    fs::write(&part, format!("{offset}\n"))?;
    fs::rename(part, path)
}

/// What a node's environment needs so that its clock can be set later.
pub fn settings(root: &Path, id: u64, library: &Path) -> Vec<(String, String)> {
    set(root, id, "+0s").expect("the run's folder takes a file");
    let path = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
    vec![
        ("LD_PRELOAD".into(), path(library)),
        ("FAKETIME_TIMESTAMP_FILE".into(), path(&file(root, id))),
        ("FAKETIME_CACHE_DURATION".into(), "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
    ]
}

fn jump(site: &mut Site, victim: u64, offset: String) -> Result<Begun, Trouble> {
    if site.faketime.is_none() {
        return Err(Trouble::Skipped("libfaketime is not installed".into()));
    }
    let failed = |e: std::io::Error| Trouble::Failed(e.to_string());
    set(&site.root, victim, &offset).map_err(failed)?;
    let detail = json!({ "leader": site.leader(), "offset": offset });
    Ok(Begun::new(vec![victim], detail, move |site| {
        set(&site.root, victim, "+0s").map_err(|e| e.to_string())?;
        Ok(json!("right again"))
    }))
}

pub fn ahead(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let victim = site.victim(chance);
    jump(site, victim, format!("+{}s", chance.between(2, 7_200)))
}

pub fn back(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let victim = site.victim(chance);
    jump(site, victim, format!("-{}s", chance.between(2, 7_200)))
}

/// Within what nodes bear of each other.
pub fn little(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let victim = site.victim(chance);
    let sign = *chance.pick(&["+", "-"]);
    jump(site, victim, format!("{sign}0.{}s", chance.between(1, 3)))
}
