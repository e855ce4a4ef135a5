//! When faults stop (I-32): one leader, equal hashes, a fresh write served, all due work final.

use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::fault::own_hashes;
use crate::site::Site;
use crate::support::http::Client;
use crate::support::{now_ms, seconds};
use crate::verdict::Verdict;

/// One leader and all nodes ready: the 15 s that are promised, and what starting costs a debug
/// build on a busy machine.
pub const READY_WITHIN: Duration = seconds(45);
/// What was due, with its retries and time-outs, has ended by then.
const DRAINED_WITHIN: Duration = seconds(90);
/// Nobody pauses an application any more, and every schedule is paused.
const SETTLED_WITHIN: Duration = seconds(20);
const SERVED_WITHIN: Duration = seconds(15);
const EQUAL_WITHIN: Duration = seconds(30);

/// The application of the write that shows that the cluster serves.
pub const APP: &str = "fresh";

/// Ends all faults, and looks. `settle` stops what would begin new work for ever, and says whether
/// it has.
pub fn heal(site: &mut Site, mut settle: impl FnMut(&Site) -> bool) -> Vec<Verdict> {
    site.wires.clear();
    site.sink.set_evil(Vec::new());
    site.watch(&site.ids());
    for id in site.ids() {
        if !site.node(id).runs() {
            site.node(id).start();
        }
    }
    let mut verdicts = Vec::new();
    let began = now_ms();
    let ready = site.wait(READY_WITHIN, |site| site.is_ready().then_some(()));
    let leader = site.agreed_leader();
    verdicts.push(said("I-32 one leader", ready, || {
        format!(
            "node {leader:?} leads, all ready after {} ms",
            now_ms() - began
        )
    }));
    let settled = site.wait(SETTLED_WITHIN, |site| settle(site).then_some(()));
    verdicts.push(said("schedules and pauses end", settled, || {
        format!("after {} ms", now_ms() - began)
    }));
    let drained = site.wait(DRAINED_WITHIN, |site| is_drained(site).then_some(()));
    verdicts.push(said("I-32 due work ends", drained, || {
        format!("after {} ms", now_ms() - began)
    }));
    let equal = site.wait(EQUAL_WITHIN, |site| equal_hashes(site).transpose());
    verdicts.push(match equal {
        Some(Ok(count)) => Verdict::of(
            "I-27 equal hashes",
            count,
            vec![],
            format!("{count} indexes on all nodes"),
        ),
        Some(Err(why)) => Verdict::of("I-27 equal hashes", 1, vec![why], String::new()),
        None => Verdict::of(
            "I-27 equal hashes",
            1,
            vec!["no index in common".into()],
            String::new(),
        ),
    });
    verdicts
}

/// A task goes in through each node, and comes out. The caller has recorded the submits.
pub fn served(site: &mut Site, ids: &[String]) -> Verdict {
    let began = now_ms();
    let served = site.wait(SERVED_WITHIN, |site| {
        let leader = site.leader()?;
        let node = site.nodes.iter().find(|node| node.id == leader)?;
        let mut client = Client::within(node.http, seconds(2));
        let done = ids.iter().all(|id| {
            let answer = client.send("GET", &format!("/v1/tasks/{APP}/{id}"), "", b"");
            answer.is_ok_and(|answer| answer.json()["stage"] == "done")
        });
        (done && !ids.is_empty()).then_some(())
    });
    said("I-32 serves", served, || {
        format!(
            "{} fresh tasks done after {} ms",
            ids.len(),
            now_ms() - began
        )
    })
}

fn said(name: &'static str, happened: Option<()>, well: impl FnOnce() -> String) -> Verdict {
    match happened {
        Some(()) => Verdict::of(name, 1, vec![], well()),
        None => Verdict::of(name, 1, vec!["not in time".into()], String::new()),
    }
}

/// Whether each node shows nothing open but what is due later.
fn is_drained(site: &Site) -> bool {
    let open = ["triggered", "running", "accepted", "retrying"];
    site.ids().into_iter().all(|id| {
        let stats = site.ask(id, "/v1/stats").map(|answer| answer.json());
        let Some(counts) = stats.as_ref().and_then(|stats| stats["tasks"].as_object()) else {
            return false;
        };
        let none = |stage: &&str| counts.get(*stage).and_then(Value::as_u64).unwrap_or(0) == 0;
        let path = format!("/v1/tasks?stage=scheduled&due_to={}&limit=1000", now_ms());
        let due = site.ask(id, &path).map(|answer| answer.json());
        let none_due = due.is_some_and(|page| {
            page["tasks"].as_array().is_some_and(Vec::is_empty) && page["next"].is_null()
        });
        open.iter().all(none) && none_due
    })
}

/// How many indexes were compared on all nodes; `None` while there are none.
fn equal_hashes(site: &Site) -> Result<Option<u64>, String> {
    let mut seen: BTreeMap<u64, BTreeMap<u64, String>> = BTreeMap::new();
    let ids = site.ids();
    for id in &ids {
        let view = site.ask(*id, "/v1/cluster").map(|answer| answer.json());
        let Some(hashes) = view.as_ref().and_then(|view| own_hashes(view, *id)) else {
            return Ok(None);
        };
        for (index, hash) in hashes {
            seen.entry(index).or_default().insert(*id, hash);
        }
    }
    for (index, hashes) in &seen {
        let mut all = hashes.values();
        let first = all.next();
        if all.any(|hash| Some(hash) != first) {
            return Err(format!("states differ at index {index}: {hashes:?}"));
        }
    }
    let last = |id: &u64| {
        seen.iter()
            .rev()
            .find(|(_, on)| on.contains_key(id))
            .map(|(at, _)| *at)
    };
    let mut lasts: Vec<Option<u64>> = ids.iter().map(last).collect();
    lasts.dedup();
    let common = seen.values().filter(|on| on.len() == ids.len()).count() as u64;
    Ok((common > 0 && lasts.len() == 1).then_some(common))
}
