//! A disk that is full: one node's directory is a small file system.

use serde_json::json;
use std::fs::File;
use std::io::Write;

use super::{Begun, Trouble};
use crate::chance::Chance;
use crate::site::Site;

pub fn full(site: &mut Site, _: &mut Chance) -> Result<Begun, Trouble> {
    let Some((victim, mount)) = &site.small_disk else {
        let why = "mounting a small file system needs root";
        return Err(Trouble::Skipped(why.into()));
    };
    let (victim, filler) = (*victim, mount.path().join("filler"));
    let failed = |e: std::io::Error| Trouble::Failed(e.to_string());
    let mut file = File::create(&filler).map_err(failed)?;
    let mut piece = vec![7; 1 << 16];
    // Large pieces first, then what still fits.
    while !piece.is_empty() {
        match file.write(&piece) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                piece.truncate(piece.len() / 2);
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let filled = file.metadata().map_err(failed)?.len();
    let detail = json!({ "leader": site.leader(), "filled": filled });
    let mut begun = Begun::new(vec![victim], detail, move |site| {
        std::fs::remove_file(&filler).map_err(|e| e.to_string())?;
        let ended = !site.node(victim).runs();
        if ended {
            site.node(victim).start();
        }
        Ok(json!({ "ended_by_itself": ended }))
    });
    begun.may_die = vec![victim];
    Ok(begun)
}
