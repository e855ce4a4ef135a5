//! Who should own which shard: pure functions, and how often to listen to them.
//!
//! Three questions, in order of urgency. [`homes`]: where do shards go whose owner is gone? [`even`]:
//! which shards must move so that all own alike? [`relieve`]: which one should leave a node that has
//! too much to do? None moves more shards than its question needs.
//!
//! Numbers and load would pull to and fro if both were followed to the letter. So numbers are left
//! alone while they are within a quarter of the mean ([`is_uneven`]), and load may use that room;
//! once they are not, they are made wholly even.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{NodeId, Shard};

/// Planned moves in a minute at most, those for load included: each costs its shard a moment in
/// which nothing begins, and what waits there a fresh hand-out.
pub(crate) const MOVES_PER_MINUTE: f64 = 64.0;
/// Uneven numbers are looked at for so long before anything moves: a node that comes and goes
/// should not move shards each time.
pub(crate) const UNEVEN_FOR: Duration = Duration::from_secs(2);
/// Between two moves for load: it takes so long until the first one shows.
pub(crate) const RELIEVE_EVERY: Duration = Duration::from_secs(10);
/// The load is averaged over about so long.
pub(crate) const LOAD_OVER: Duration = Duration::from_secs(10);
/// A node with this load has too much to do, …
const HOT: f64 = 0.8;
/// …and is relieved by one that has less by so much.
const COOLER: f64 = 0.3;

/// A node that may own shards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    /// 0…1, averaged.
    pub(crate) load: f64,
}

/// One shard changes hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) shard: Shard,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
}

fn counts(owners: &[NodeId], candidates: &[Candidate]) -> BTreeMap<NodeId, usize> {
    let mut counts: BTreeMap<NodeId, usize> = candidates.iter().map(|c| (c.node, 0)).collect();
    for owner in owners {
        if let Some(count) = counts.get_mut(owner) {
            *count += 1;
        }
    }
    counts
}

fn with_owner(owners: &[NodeId]) -> impl Iterator<Item = (Shard, NodeId)> + '_ {
    let numbered = owners.iter().enumerate();
    numbered.map(|(n, owner)| (Shard(n as u16), *owner))
}

/// New homes for the shards of nodes that are gone: each goes to whoever owns the fewest by then.
/// `owners` has the owner of each shard, by number.
pub(crate) fn homes(
    owners: &[NodeId],
    gone: impl Fn(NodeId) -> bool,
    candidates: &[Candidate],
) -> Vec<Move> {
    let mut counts = counts(owners, candidates);
    let mut moves = Vec::new();
    for (shard, from) in with_owner(owners).filter(|(_, owner)| gone(*owner)) {
        let fewest = counts.iter_mut().filter(|(node, _)| **node != from);
        let Some((to, count)) = fewest.min_by_key(|(_, count)| **count) else {
            break;
        };
        *count += 1;
        moves.push(Move {
            shard,
            from,
            to: *to,
        });
    }
    moves
}

/// How many shards a node may own at least and at most before numbers count as uneven.
fn bounds(total: usize, nodes: usize) -> (usize, usize) {
    let (least, most) = (total / nodes, total.div_ceil(nodes));
    (least - least / 4, most + least / 4)
}

/// Whether some candidate owns so many more or fewer than the others that something must be done.
pub(crate) fn is_uneven(owners: &[NodeId], candidates: &[Candidate]) -> bool {
    let counts = counts(owners, candidates);
    if counts.is_empty() {
        return false;
    }
    let (least, most) = bounds(counts.values().sum(), counts.len());
    counts.values().any(|count| !(least..=most).contains(count))
}

/// The fewest moves after which all candidates own alike. Shards of others are left where they are.
pub(crate) fn even(owners: &[NodeId], candidates: &[Candidate]) -> Vec<Move> {
    let counts = counts(owners, candidates);
    let total: usize = counts.values().sum();
    if counts.is_empty() {
        return Vec::new();
    }
    // Those that own the most keep the odd ones: that moves the fewest.
    let mut order: Vec<(NodeId, usize)> = counts.into_iter().collect();
    order.sort_by_key(|(node, count)| (std::cmp::Reverse(*count), *node));
    let (share, odd) = (total / order.len(), total % order.len());
    let targets = order.iter().enumerate();
    let mut off: BTreeMap<NodeId, isize> = targets
        .map(|(n, (node, count))| {
            let target = share + usize::from(n < odd);
            (*node, *count as isize - target as isize)
        })
        .collect();
    let mut takers: Vec<NodeId> = Vec::new();
    for (node, off) in &off {
        takers.extend((*off..0).map(|_| *node));
    }
    let mut moves = Vec::new();
    for (shard, from) in with_owner(owners) {
        let Some(surplus) = off.get_mut(&from).filter(|off| **off > 0) else {
            continue;
        };
        let Some(to) = takers.pop() else { break };
        *surplus -= 1;
        moves.push(Move { shard, from, to });
    }
    moves
}

/// One shard from the hottest node to the coolest, if that one has too much to do, the other has
/// clearly less, and numbers leave room for it.
pub(crate) fn relieve(owners: &[NodeId], candidates: &[Candidate]) -> Option<Move> {
    let by_load = |a: &&Candidate, b: &&Candidate| a.load.total_cmp(&b.load);
    let hot = candidates.iter().max_by(by_load)?;
    let cool = candidates.iter().min_by(by_load)?;
    if hot.load < HOT || hot.load - cool.load < COOLER {
        return None;
    }
    let counts = counts(owners, candidates);
    let (least, most) = bounds(counts.values().sum(), counts.len());
    let room = counts[&hot.node] > least && counts[&cool.node] < most;
    let (shard, from) = with_owner(owners).find(|(_, owner)| *owner == hot.node)?;
    let to = cool.node;
    room.then_some(Move { shard, from, to })
}

/// How many moves may still be made: so many a minute.
#[derive(Debug)]
pub(crate) struct Allowance {
    left: f64,
    at: Duration,
}

impl Allowance {
    pub(crate) fn new(now: Duration) -> Allowance {
        Allowance {
            left: MOVES_PER_MINUTE,
            at: now,
        }
    }

    /// Takes up to so many; says how many were left.
    pub(crate) fn take(&mut self, wanted: usize, now: Duration) -> usize {
        let passed = now.saturating_sub(self.at).as_secs_f64() / 60.0;
        self.left = (self.left + passed * MOVES_PER_MINUTE).min(MOVES_PER_MINUTE);
        self.at = now;
        let taken = wanted.min(self.left as usize);
        self.left -= taken as f64;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn idle(nodes: &[NodeId]) -> Vec<Candidate> {
        let idle = |node: &NodeId| Candidate {
            node: *node,
            load: 0.0,
        };
        nodes.iter().map(idle).collect()
    }

    fn after(owners: &[NodeId], moves: &[Move]) -> Vec<NodeId> {
        let mut owners = owners.to_vec();
        for step in moves {
            assert_eq!(owners[usize::from(step.shard.0)], step.from);
            assert_ne!(step.from, step.to);
            owners[usize::from(step.shard.0)] = step.to;
        }
        owners
    }

    fn shares(owners: &[NodeId], nodes: &[NodeId]) -> Vec<usize> {
        let of = |node: &NodeId| owners.iter().filter(|owner| *owner == node).count();
        nodes.iter().map(of).collect()
    }

    #[test]
    fn a_new_cluster_is_spread_and_a_fourth_node_moves_a_quarter() {
        let none = vec![0; 64];
        let three = after(&none, &homes(&none, |node| node == 0, &idle(&[1, 2, 3])));
        assert_eq!(shares(&three, &[1, 2, 3]), [22, 21, 21]);
        assert_eq!(even(&three, &idle(&[1, 2, 3])), []);
        assert!(is_uneven(&three, &idle(&[1, 2, 3, 4])));
        let moves = even(&three, &idle(&[1, 2, 3, 4]));
        assert_eq!(moves.len(), 16, "a quarter, and no more");
        assert_eq!(
            shares(&after(&three, &moves), &[1, 2, 3, 4]),
            [16, 16, 16, 16]
        );
    }

    #[test]
    fn what_a_lost_node_had_is_shared_and_comes_back() {
        let owners: Vec<NodeId> = (0..64).map(|n| n % 3 + 1).collect();
        let moves = homes(&owners, |node| node == 2, &idle(&[1, 3]));
        assert_eq!(moves.len(), 21);
        let two = after(&owners, &moves);
        assert_eq!(shares(&two, &[1, 2, 3]), [32, 0, 32]);
        assert!(!is_uneven(&two, &idle(&[1, 3])) && is_uneven(&two, &idle(&[1, 2, 3])));
        let back = even(&two, &idle(&[1, 2, 3]));
        assert_eq!(back.len(), 21, "the fewest that make it even");
        assert_eq!(shares(&after(&two, &back), &[1, 2, 3]), [22, 21, 21]);
    }

    #[test]
    fn nobody_left_nothing_moves() {
        let owners = vec![7; 4];
        assert_eq!(homes(&owners, |_| true, &[]), []);
        assert_eq!(even(&owners, &[]), []);
        assert_eq!(relieve(&owners, &[]), None);
        assert_eq!(homes(&owners, |_| true, &idle(&[7])), [], "not to itself");
    }

    #[test]
    fn a_hot_node_is_relieved_within_bounds_that_evenness_leaves_alone() {
        let mut owners: Vec<NodeId> = (0..64).map(|n| n % 3 + 1).collect();
        let mut candidates = idle(&[1, 2, 3]);
        assert_eq!(relieve(&owners, &candidates), None);
        candidates[1].load = 0.79;
        assert_eq!(relieve(&owners, &candidates), None, "not hot enough");
        candidates[1].load = 0.9;
        candidates[0].load = 0.7;
        candidates[2].load = 0.65;
        assert_eq!(relieve(&owners, &candidates), None, "nobody is cooler");
        candidates[2].load = 0.2;
        let mut moved = 0;
        while let Some(step) = relieve(&owners, &candidates) {
            assert_eq!((step.from, step.to), (2, 3));
            owners = after(&owners, &[step]);
            assert!(!is_uneven(&owners, &candidates), "no pulling back");
            moved += 1;
        }
        assert_eq!(moved, 5, "down to three quarters of its share");
    }

    #[test]
    fn moves_are_counted_by_the_minute() {
        let mut allowance = Allowance::new(Duration::ZERO);
        assert_eq!(allowance.take(40, Duration::ZERO), 40);
        assert_eq!(allowance.take(40, Duration::ZERO), 24);
        assert_eq!(allowance.take(40, Duration::from_secs(15)), 16);
        assert_eq!(allowance.take(100, Duration::from_secs(600)), 64);
    }

    proptest! {
        #![proptest_config(crate::thorough::cases(200))]

        /// However the shards lie: evenness is reached in one go, with no more moves than the
        /// surplus, and then there is peace; and nobody who is gone keeps anything.
        #[test]
        fn any_picture_becomes_even_by_the_fewest_moves(
            owners in prop::collection::vec(0u64..7, 1..200),
            alive in prop::collection::btree_set(1u64..7, 1..6),
        ) {
            let nodes: Vec<NodeId> = alive.iter().copied().collect();
            let candidates = idle(&nodes);
            let homed = after(&owners, &homes(&owners, |node| !alive.contains(&node), &candidates));
            prop_assert!(homed.iter().all(|owner| alive.contains(owner)));
            let moves = even(&homed, &candidates);
            let balanced = after(&homed, &moves);
            prop_assert_eq!(even(&balanced, &candidates), []);
            prop_assert!(!is_uneven(&balanced, &candidates));
            let (before, now) = (shares(&homed, &nodes), shares(&balanced, &nodes));
            let surplus: usize = before.iter().zip(&now).map(|(b, n)| b.saturating_sub(*n)).sum();
            prop_assert_eq!(moves.len(), surplus, "no shard moves twice or in vain");
            let (least, most) = (now.iter().min().unwrap(), now.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", now);
            // Whatever lies above the share moves, but for one each that may stay with the odd ones.
            let (share, odd) = (homed.len() / nodes.len(), homed.len() % nodes.len());
            let above = before.iter().filter(|b| **b > share).count();
            let all: usize = before.iter().map(|b| b.saturating_sub(share)).sum();
            prop_assert_eq!(moves.len(), all - odd.min(above));
        }
    }
}
