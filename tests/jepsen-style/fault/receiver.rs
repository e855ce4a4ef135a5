//! A receiver that does everything wrong.

use serde_json::json;

use super::{Begun, Trouble};
use crate::chance::Chance;
use crate::sink::{EVILS, Evil};
use crate::site::Site;

fn be(site: &mut Site, evil: Vec<Evil>) -> Result<Begun, Trouble> {
    let shown = format!("{evil:?}").to_lowercase();
    site.sink.set_evil(evil);
    Ok(Begun::new(vec![], json!(shown), |site| {
        match site.sink.set_evil(vec![]) {
            0 => Err("nobody called".into()),
            times => Ok(json!({ "times": times })),
        }
    }))
}

pub fn evil(site: &mut Site, _: &mut Chance) -> Result<Begun, Trouble> {
    be(site, EVILS.to_vec())
}

pub fn hanging(site: &mut Site, _: &mut Chance) -> Result<Begun, Trouble> {
    be(site, vec![Evil::Hang])
}
