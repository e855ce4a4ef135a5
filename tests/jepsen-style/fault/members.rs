//! One node more, while work goes on.

use serde_json::json;

use super::{Begun, Trouble};
use crate::chance::Chance;
use crate::site::Site;
use crate::support::http::Client;
use crate::support::seconds;

/// A new node must be a voter by then.
const IN_WITHIN: std::time::Duration = seconds(40);

pub fn add(site: &mut Site, _: &mut Chance) -> Result<Begun, Trouble> {
    let id = site.ids().into_iter().max().unwrap_or(0) + 1;
    site.new_node(id);
    let list = site.list();
    let node = site.node(id);
    node.args = vec!["--cluster".into(), list];
    node.start();
    let peer = site.peer(id).to_string();
    let detail = json!({ "peer": peer });
    Ok(Begun::new(vec![id], detail, move |site| {
        let body = json!({ "id": id, "peer": peer, "promote": true });
        let taken = site.wait(IN_WITHIN, |site| {
            let view = site.ask(id, "/v1/cluster").map(|a| a.json());
            let role = view.as_ref().and_then(|view| {
                let nodes = view["nodes"].as_array()?;
                nodes.iter().find(|node| node["id"] == id)?["role"].as_str()
            });
            if matches!(role, Some("follower" | "leader")) {
                return Some(());
            }
            // Asked again until it is so: the request names the node, and is the same each time.
            let asked = site
                .nodes
                .iter()
                .find(|node| node.id != id && node.runs())?;
            let _ = Client::within(asked.http, seconds(20)).post("/v1/cluster/nodes", &body);
            None
        });
        match taken {
            Some(()) => Ok(json!("a voter")),
            None => Err(format!("node {id} was not a voter within {IN_WITHIN:?}")),
        }
    }))
}
