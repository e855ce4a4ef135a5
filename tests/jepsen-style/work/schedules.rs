//! Schedules: some from the beginning, changed, paused, run, deleted and made again while they fire.

use serde_json::Value;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use super::call::Request;
use super::{Caller, Ended};
use crate::support::now_ms;
use crate::support::schedules::{self, Asked};

pub fn run(caller: &mut Caller) {
    let sink = caller.shared.sink.clone();
    let url = |script: &str| sink.url(script);
    if !caller.shared.scheduled.swap(true, Ordering::Relaxed) {
        for id in schedules::ids() {
            let chance = &mut caller.chance;
            let asked = schedules::create(&mut |n| chance.below(n), &id, &url, now_ms());
            ask(caller, asked);
        }
    }
    let wait = caller.chance.between(400, 2_500);
    caller.shared.pause(wait);
    let chance = &mut caller.chance;
    let asked = schedules::any(&mut |n| chance.below(n), &url, now_ms());
    ask(caller, asked);
}

pub fn ask(caller: &mut Caller, asked: Asked) -> Ended {
    let (node, door) = caller.any_door();
    let request = Request::new(asked.method, asked.path);
    let request = match &asked.body {
        Some(body) => request.json(body),
        None => request,
    };
    caller.at(node, door, "schedule", (None, None), asked.asked, request)
}

/// What a node tells of all schedules; `None`: not all of it came.
pub fn told(caller: &mut Caller, door: SocketAddr) -> Option<Value> {
    let mut get = |path: String| {
        let answer = caller.exchange(door, &Request::new("GET", path)).ok()?;
        Some((answer.status, answer.json()))
    };
    let mut all = serde_json::json!({});
    for id in schedules::ids() {
        let mut pages: Vec<Value> = Vec::new();
        loop {
            let next = pages.last().map(|page| &page["next"]);
            match get(schedules::fires(&id, next))? {
                (200, page) => pages.push(page),
                (404, _) => break,
                _ => return None,
            }
            if pages.last().is_none_or(|page| page["next"].is_null()) {
                break;
            }
        }
        if !pages.is_empty() {
            all[&id] = schedules::ledger(&id, &pages);
        }
    }
    let (_, audit) = get("/v1/audit".into()).filter(|(status, _)| *status == 200)?;
    Some(serde_json::json!({ "schedules": all, "audit": audit, "t": crate::support::now_us() }))
}
