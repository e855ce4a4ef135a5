//! Tasks that the receiver takes (202) and that are done from outside, in time or not.

use serde_json::{Value, json};

use super::{Caller, Ended, task};
use crate::support::now_ms;

const APP: &str = "outside";

pub fn run(caller: &mut Caller) {
    let id = caller.shared.id("o");
    let due = now_ms() + caller.chance.below(400);
    let body = task(APP, &id, due, &caller.shared.sink.url("later"));
    if let Ended::Fail = caller.submit(&body) {
        return caller.shared.pause(200);
    }
    // Before it is called, while it is, after; or never: then it is called again after a while.
    let wait = caller.chance.between(50, 1_200);
    caller.shared.pause(wait);
    let said = match caller.chance.below(10) {
        0 => None,
        1 => Some(json!({ "ok": false, "error": "it did not work" })),
        2 => with_fence(caller, &id),
        _ => Some(json!({})),
    };
    if let Some(said) = said {
        let ended = caller.complete(APP, &id, said.clone());
        let again = if ended.is_ok() { 15 } else { 60 };
        if caller.chance.percent(again) {
            caller.complete(APP, &id, said);
        }
    }
    let pause = caller.chance.between(100, 300);
    caller.shared.pause(pause);
}

/// A fence from long ago: it must be refused, and change nothing.
fn with_fence(caller: &mut Caller, id: &str) -> Option<Value> {
    caller
        .read(APP, id, false)
        .is_ok()
        .then(|| json!({ "fence": 1 }))
}
