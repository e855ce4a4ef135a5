//! Whether all nodes hold the same state.

use std::collections::BTreeMap;

use super::cluster::Cluster;
use super::node::Node;
use super::{seconds, wait_for};

/// Asserts that all running nodes have folded the same log up to the same index, and that equal
/// indexes show equal hashes (I-27). Says how many indexes were compared on all of them.
#[track_caller]
pub fn assert_same_state(cluster: &Cluster) -> usize {
    let running: Vec<&Node> = cluster.nodes.iter().filter(|node| node.runs()).collect();
    let mut common = 0;
    wait_for("the same index on every node", seconds(20), || {
        let views = running.iter().map(|node| own_hashes(node));
        let views: Vec<BTreeMap<u64, String>> = views.collect::<Option<_>>()?;
        let mut seen: BTreeMap<u64, Vec<(u64, String)>> = BTreeMap::new();
        for (node, hashes) in running.iter().zip(&views) {
            for (index, hash) in hashes {
                let others = seen.entry(*index).or_default();
                others.push((node.id, hash.clone()));
            }
        }
        for (index, hashes) in &seen {
            let same = hashes.iter().all(|(_, hash)| *hash == hashes[0].1);
            assert!(same, "I-27: states differ at index {index}: {hashes:?}");
        }
        let on_all = |hashes: &&Vec<(u64, String)>| hashes.len() == running.len();
        common = seen.values().filter(on_all).count();
        let last = views.iter().map(|hashes| hashes.keys().next_back());
        let last: Vec<Option<&u64>> = last.collect();
        (last.iter().all(|at| *at == last[0]) && common > 0).then_some(())
    });
    common
}

/// Hashes by index, as a node says of itself.
fn own_hashes(node: &Node) -> Option<BTreeMap<u64, String>> {
    let view = node.client().get("/v1/cluster").ok()?.json();
    let nodes = view["nodes"].as_array()?;
    let own = nodes.iter().find(|n| n["id"].as_u64() == Some(node.id))?;
    let hashes = own["state_hashes"].as_array()?.iter();
    hashes
        .map(|h| Some((h["index"].as_u64()?, h["hash"].as_str()?.to_owned())))
        .collect()
}
