//! Tasks that fall due soon, late or never; and the same submit again.

use serde_json::json;

use super::{Caller, Ended, task};
use crate::support::now_ms;

const APP: &str = "plain";

pub fn run(caller: &mut Caller) {
    let id = caller.shared.id("p");
    let due = match caller.chance.below(20) {
        // Waits beyond the end of the run.
        0 => now_ms() + 3_600_000,
        // Was due already.
        1 | 2 => now_ms() - caller.chance.below(2_000),
        _ => now_ms() + caller.chance.below(4_000),
    };
    let script = *caller.chance.pick(&["ok", "ok", "ok", "slow/200"]);
    let mut body = task(APP, &id, due, &caller.shared.sink.url(script));
    if caller.chance.percent(20) {
        // A delay instead of an instant: the instant is the leader's to say.
        body.as_object_mut().expect("an object").remove("due_at");
        body["delay"] = json!(caller.chance.below(3_000));
    }
    let ended = caller.submit(&body);
    // A client that does not know sends the same again, as the contract tells it to.
    let again = match ended {
        Ended::Unknown => 70,
        Ended::Ok(_) | Ended::Fail => 15,
    };
    if caller.chance.percent(again) {
        caller.submit(&body);
    }
    if caller.chance.percent(5) {
        // Same id, other content.
        body["labels"] = json!({ "other": "yes" });
        caller.submit(&body);
    }
    let pause = caller.chance.between(60, 200);
    caller.shared.pause(pause);
}
