//! Receivers that fail a few times, for ever, or say "never again"; and dead tasks run again.

use super::{Caller, task};
use crate::support::now_ms;

const APP: &str = "retry";

pub fn run(caller: &mut Caller) {
    let id = caller.shared.id("r");
    let due = now_ms() + caller.chance.below(600);
    let script = *caller
        .chance
        .pick(&["fail/1", "fail/2", "fail/3", "fail/99", "gone"]);
    let body = task(APP, &id, due, &caller.shared.sink.url(script));
    caller.submit(&body);
    if caller.chance.percent(30) {
        // While it is retried, or when it is dead.
        let wait = caller.chance.between(300, 2_500);
        caller.shared.pause(wait);
        match caller.chance.below(3) {
            0 => caller.run(APP, &id, false),
            1 => caller.cancel(APP, &id),
            _ => caller.read(APP, &id, false),
        };
    }
    let pause = caller.chance.between(150, 400);
    caller.shared.pause(pause);
}
