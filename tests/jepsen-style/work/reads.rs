//! Reads of what others wrote, at every node, linearizable and local.

use super::Caller;

pub fn run(caller: &mut Caller) {
    let shared = caller.shared.clone();
    if let Some((app, id)) = shared.any_known(&mut caller.chance) {
        let local = caller.chance.percent(25);
        caller.read(&app, &id, local);
    }
    let pause = caller.chance.between(60, 180);
    shared.pause(pause);
}
