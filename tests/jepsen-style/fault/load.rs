//! Too much at once; somebody who was away for too long; and nothing at all.

use serde_json::json;
use std::sync::atomic::Ordering;

use super::{Begun, Trouble};
use crate::chance::Chance;
use crate::site::Site;

/// The workload of an overload, as a multiple of the usual.
const TENFOLD: u64 = 10;
/// With so much, the log gets longer than a node that is away may lag.
const BUSY: u64 = 4;

/// Quiet runs find bugs too.
pub fn nothing(_: &mut Site, _: &mut Chance) -> Result<Begun, Trouble> {
    Ok(Begun::new(vec![], json!(null), |_| Ok(json!(null))))
}

fn press(site: &mut Site, times: u64) {
    site.pressure.store(times, Ordering::Relaxed);
}

pub fn tenfold(site: &mut Site, _: &mut Chance) -> Result<Begun, Trouble> {
    press(site, TENFOLD);
    Ok(Begun::new(vec![], json!({ "times": TENFOLD }), |site| {
        press(site, 1);
        Ok(json!(null))
    }))
}

/// A node is down while the others write and purge more than it can get from their logs.
pub fn lagging(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let leader = site.leader();
    let mut nodes = site.running();
    nodes.retain(|id| Some(*id) != leader);
    let victim = *chance.pick(&nodes);
    site.node(victim).kill();
    press(site, BUSY);
    let detail = json!({ "leader": leader });
    Ok(Begun::new(vec![victim], detail, move |site| {
        press(site, 1);
        site.node(victim).start();
        Ok(json!("started again"))
    }))
}
