//! Who belongs to the cluster, who leads, and who owns nothing, changed while work goes on.

use serde_json::{Value, json};
use std::time::Duration;

use super::{Begun, Trouble};
use crate::chance::Chance;
use crate::site::Site;
use crate::support::http::Client;
use crate::support::{now_ms, pass, seconds};

/// A change of membership must have come about by then.
const DONE_WITHIN: Duration = seconds(40);
/// One request may take so long: it answers when it is done.
const ANSWERED_WITHIN: Duration = seconds(20);
const LOOK: Duration = Duration::from_millis(50);

/// Its role, as a node sees it.
fn role(site: &Site, asked: u64, id: u64) -> Option<String> {
    let view = site.ask(asked, "/v1/cluster")?.json();
    let nodes = view["nodes"].as_array()?;
    let role = nodes.iter().find(|node| node["id"] == id)?["role"].as_str();
    role.map(str::to_owned)
}

/// Asks a node that runs, and is not `id`.
fn ask_another(
    site: &Site,
    id: u64,
    method: &str,
    path: &str,
    body: &Value,
) -> Option<(u16, Value)> {
    let mut others = site
        .nodes
        .iter()
        .filter(|node| node.id != id && node.runs());
    let mut client = Client::within(others.next()?.http, ANSWERED_WITHIN);
    let text = body.to_string();
    let text = if body.is_null() { "" } else { &text };
    let answer = client.send(method, path, "application/json", text.as_bytes());
    answer.ok().map(|answer| (answer.status, answer.json()))
}

fn start_another(site: &mut Site) -> (u64, String) {
    let id = site.next_id();
    site.new_node(id);
    let list = site.list();
    let node = site.node(id);
    node.args = vec!["--cluster".into(), list];
    node.start();
    (id, site.peer(id).to_string())
}

fn take_in(site: &mut Site, id: u64, peer: &str) -> Result<(), String> {
    let body = json!({ "id": id, "peer": peer, "promote": true });
    let taken = site.wait(DONE_WITHIN, |site| {
        if matches!(role(site, id, id).as_deref(), Some("follower" | "leader")) {
            return Some(());
        }
        // Asked again until it is so: the request names the node, and is the same each time.
        ask_another(site, id, "POST", "/v1/cluster/nodes", &body);
        None
    });
    taken.ok_or(format!("node {id} was not a voter within {DONE_WITHIN:?}"))
}

pub fn add(site: &mut Site, _: &mut Chance) -> Result<Begun, Trouble> {
    let (id, peer) = start_another(site);
    let detail = json!({ "peer": peer });
    Ok(Begun::new(vec![id], detail, move |site| {
        take_in(site, id, &peer).map(|()| json!("a voter"))
    }))
}

/// One node more, and one that was there goes for good.
pub fn remove(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let goes = *chance.pick(&site.running());
    let (id, peer) = start_another(site);
    take_in(site, id, &peer).map_err(Trouble::Failed)?;
    let detail = json!({ "comes": id, "goes": goes, "leader": site.leader() });
    Ok(Begun::new(vec![goes, id], detail, move |site| {
        let path = format!("/v1/cluster/nodes/{goes}");
        let end = now_ms() + DONE_WITHIN.as_millis() as u64;
        // It may end by itself as soon as it hears of it.
        loop {
            let answered = ask_another(site, goes, "DELETE", &path, &Value::Null);
            let gone = answered.is_some_and(|(status, _)| status == 200);
            if gone || role(site, id, id).is_some() && role(site, id, goes).is_none() {
                break;
            }
            if now_ms() > end {
                return Err(format!("node {goes} was not gone within {DONE_WITHIN:?}"));
            }
            pass(LOOK);
        }
        site.forget(goes);
        Ok(json!("gone"))
    }))
}

/// Somebody else is to lead.
pub fn lead(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let was = site.leader();
    let mut others = site.running();
    others.retain(|id| Some(*id) != was);
    let to = *chance.pick(&others);
    let answered = ask_another(site, 0, "POST", "/v1/cluster/lead", &json!({ "node": to }));
    let said = answered.map_or(Value::Null, |(status, body)| match status {
        200 => json!(status),
        _ => json!([status, body["detail"]]),
    });
    let detail = json!({ "from": was, "to": to, "answered": said });
    Ok(Begun::new(vec![to], detail, move |site| {
        // Who does not take it in time leaves it to the one before: then there is an election.
        match site.wait(DONE_WITHIN, |site| site.agreed_leader()) {
            Some(leader) => Ok(json!({ "leads": leader })),
            None => Err("nobody leads".into()),
        }
    }))
}

/// A node gives its work away, and is given some again.
pub fn drain(site: &mut Site, chance: &mut Chance) -> Result<Begun, Trouble> {
    let id = *chance.pick(&site.running());
    let ask = move |site: &mut Site, drain: bool| {
        let body = json!({ "node": id, "drain": drain });
        site.wait(DONE_WITHIN, |site| {
            let answered = ask_another(site, id, "POST", "/v1/cluster/drain", &body);
            answered.filter(|(status, _)| *status == 200).map(drop)
        })
    };
    let drained = ask(site, true);
    let why = format!("node {id} owned shards still after {DONE_WITHIN:?}");
    drained.ok_or(Trouble::Failed(why))?;
    Ok(Begun::new(vec![id], json!("owns nothing"), move |site| {
        let back = ask(site, false).map(|()| json!("may own again"));
        back.ok_or(format!("node {id} was not taken back"))
    }))
}
