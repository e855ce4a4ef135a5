//! Few tasks that many clients want at once: everything races with the due time, and with
//! everything else.

use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError};

use super::{Caller, task};
use crate::support::now_ms;

const APP: &str = "hot";
/// So many tasks are wanted at a time.
const WANTED: usize = 4;
/// After so many operations on it a task is left in peace: a checker must be able to follow.
const OPERATIONS_MAX: u32 = 14;

/// The tasks that are raced for.
#[derive(Default)]
pub struct Race(Mutex<Vec<Hot>>);

struct Hot {
    id: String,
    body: Value,
    left: u32,
}

pub fn run(caller: &mut Caller) {
    let (id, body, is_new) = pick(caller);
    let url = caller.shared.sink.url("ok");
    // Seldom something comes before the submit.
    let kind = match is_new && caller.chance.percent(85) {
        true => 0,
        false => caller.chance.below(20),
    };
    match kind {
        0..3 => drop(caller.submit(&body)),
        3..7 => drop(caller.cancel(APP, &id)),
        7..10 => {
            let due = now_ms() + caller.chance.below(900);
            caller.change(APP, &id, json!({ "due_at": due }));
        }
        10 => {
            let change = json!({ "target": { "http": { "url": url } } });
            caller.change(APP, &id, change);
        }
        11 => drop(caller.run(APP, &id, false)),
        12 => drop(caller.run(APP, &id, true)),
        13 => drop(caller.complete(APP, &id, json!({}))),
        14 => {
            let body = json!({ "ok": false, "error": "given up" });
            caller.complete(APP, &id, body);
        }
        15 => drop(caller.read(APP, &id, true)),
        _ => drop(caller.read(APP, &id, false)),
    }
    let pause = caller.chance.between(10, 110);
    caller.shared.pause(pause);
}

/// One of the tasks that are wanted, and whether nothing was done with it yet; a new one takes the
/// place of each that had its share.
fn pick(caller: &mut Caller) -> (String, Value, bool) {
    let race = caller.race.clone();
    let mut race = race.0.lock().unwrap_or_else(PoisonError::into_inner);
    race.retain(|hot| hot.left > 0);
    while race.len() < WANTED {
        let id = caller.shared.id("h");
        let due = now_ms() + caller.chance.between(200, 2_500);
        let script = *caller
            .chance
            .pick(&["ok", "ok", "slow/150", "fail/1", "later"]);
        let body = task(APP, &id, due, &caller.shared.sink.url(script));
        let left = OPERATIONS_MAX;
        race.push(Hot { id, body, left });
    }
    let at = caller.chance.below(race.len() as u64) as usize;
    let is_new = race[at].left == OPERATIONS_MAX;
    race[at].left -= 1;
    (race[at].id.clone(), race[at].body.clone(), is_new)
}
