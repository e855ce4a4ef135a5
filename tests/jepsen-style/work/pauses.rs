//! An application that is not called for a while, with tasks that fall due meanwhile.

use serde_json::json;

use super::call::Request;
use super::{Caller, Ended, task};
use crate::support::now_ms;

pub const APP: &str = "held";

pub fn run(caller: &mut Caller) {
    hold(caller, "pause", APP);
    for _ in 0..caller.chance.between(2, 6) {
        let id = caller.shared.id("w");
        let due = now_ms() + caller.chance.below(900);
        let url = caller.shared.sink.url("ok");
        caller.submit(&task(APP, &id, due, &url));
    }
    let held = caller.chance.between(200, 1_500);
    caller.shared.pause(held);
    hold(caller, "resume", APP);
    let rest = caller.chance.between(500, 1_500);
    caller.shared.pause(rest);
}

/// `pause` or `resume`.
pub fn hold(caller: &mut Caller, f: &'static str, app: &str) -> Ended {
    let (node, door) = caller.any_door();
    let request = Request::new("POST", format!("/v1/apps/{app}/{f}")).json(&json!({}));
    caller.at(node, door, f, (Some(app), None), json!({}), request)
}
