//! What is known of the nodes: facts they tell each other, and the picture made of them.

use bincode::{Decode, Encode};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::errand::HandlerNames;
use crate::model::{Boot, Level, NodeId, Time};
use crate::state::StateHash;

/// A clock further off the others' median than this is not trusted.
pub(crate) const SKEW_MAX_US: i64 = 500_000;

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub(crate) struct Facts {
    pub(crate) node: NodeId,
    pub(crate) boot: Boot,
    pub(crate) version: String,
    /// Thousandths.
    pub(crate) load: u16,
    pub(crate) applied: u64,
    pub(crate) checkpoint: u64,
    /// State hashes at agreed indexes, newest last, and at present.
    pub(crate) hashes: Vec<(u64, StateHash)>,
    pub(crate) scrub: Scrubbed,
    /// Its disk is nearly full.
    pub(crate) low: bool,
    /// It wants to own nothing: it is about to stop, or its clock is off.
    pub(crate) resigns: bool,
    /// How long triggers take from their proposal until this node has folded them, µs: a high
    /// percentile of the last ones; zero: there were none.
    pub(crate) lag_us: u32,
    /// For how long what has waited longest at a target has been due.
    pub(crate) queue_age_ms: u64,
    /// Its own clock that counts suspended time, as it said this, µs.
    pub(crate) steady_us: u64,
    /// The feature level that it knows.
    pub(crate) level: Level,
    /// What it is set to be called.
    pub(crate) labels: BTreeMap<String, String>,
    /// What the program that it runs in can be asked for by name.
    pub(crate) handlers: HandlerNames,
}

/// What a node's scrub has done since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Scrubbed {
    /// Passes that ended with nothing found.
    pub passes: u64,
    /// When the last one did; zero: none yet.
    pub finished: Time,
    /// A node that found something ends, so others hardly see one.
    pub findings: u64,
    /// Read in this pass, or in the last one.
    pub bytes: u64,
}

/// What was heard of a peer, and when.
#[derive(Clone, Debug)]
struct Heard {
    facts: Facts,
    at: Duration,
    /// Its clock minus ours.
    offset_us: i64,
}

/// Everything heard, by node.
#[derive(Default)]
pub(crate) struct Registry(Mutex<BTreeMap<NodeId, Heard>>);

impl Registry {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a peer said at a steady instant.
    pub(crate) fn heard(&self, facts: Facts, at: Duration, offset_us: i64) {
        self.lock().insert(
            facts.node,
            Heard {
                facts,
                at,
                offset_us,
            },
        );
    }

    pub(crate) fn facts(&self, node: NodeId) -> Option<(Facts, i64)> {
        self.lock()
            .get(&node)
            .map(|heard| (heard.facts.clone(), heard.offset_us))
    }

    /// An instant of our steady clock as one of a node's own, and the start of it that this counts
    /// for; `None` for one that had passed when it was heard. Early by what its last answer took on
    /// the way, never late.
    pub(crate) fn on_its_clock(&self, node: NodeId, until: Duration) -> Option<(Boot, Duration)> {
        let known = self.lock();
        let heard = known.get(&node)?;
        let ahead = until.checked_sub(heard.at)?;
        let then = Duration::from_micros(heard.facts.steady_us);
        Some((heard.facts.boot, then + ahead))
    }

    /// Nodes that said last that their disk is nearly full.
    pub(crate) fn low(&self) -> Vec<NodeId> {
        let heard = self.lock();
        let low = heard.iter().filter(|(_, heard)| heard.facts.low);
        low.map(|(id, _)| *id).collect()
    }

    /// How long ago a node was heard.
    pub(crate) fn silent_for(&self, node: NodeId, now: Duration) -> Option<Duration> {
        self.lock()
            .get(&node)
            .map(|heard| now.saturating_sub(heard.at))
    }

    /// How far our clock is off the median of all voters' clocks, ours included; `None` while
    /// fewer than a majority are known. With two clocks nobody can say which one is wrong, and
    /// a single one has nothing to be compared with.
    pub(crate) fn skew_us(
        &self,
        me: NodeId,
        voters: &[NodeId],
        now: Duration,
        fresh: Duration,
    ) -> Option<i64> {
        let heard = self.lock();
        let mut offsets: Vec<i64> = voters
            .iter()
            .filter(|id| **id != me)
            .filter_map(|id| heard.get(id))
            .filter(|h| now.saturating_sub(h.at) <= fresh)
            .map(|h| h.offset_us)
            .collect();
        offsets.push(0);
        if offsets.len() * 2 <= voters.len() {
            return None;
        }
        offsets.sort_unstable();
        if offsets.len() == 2 {
            // The mean: both are equally likely to be right.
            return Some(-(offsets[0] + offsets[1]) / 2);
        }
        Some(-offsets[offsets.len() / 2])
    }

    /// The hashes that a majority of the voters agree on and ours contradicts: this node has
    /// diverged. Returns the index and what the others say.
    pub(crate) fn contradicted(
        &self,
        voters: &[NodeId],
        ours: &[(u64, StateHash)],
    ) -> Option<(u64, StateHash, StateHash)> {
        let heard = self.lock();
        for (index, hash) in ours {
            let mut others: BTreeMap<String, (StateHash, usize)> = BTreeMap::new();
            for facts in voters
                .iter()
                .filter_map(|id| heard.get(id))
                .map(|h| &h.facts)
            {
                if let Some((_, theirs)) = facts.hashes.iter().find(|(at, _)| at == index) {
                    others.entry(theirs.to_string()).or_insert((*theirs, 0)).1 += 1;
                }
            }
            let majority = others.values().find(|(_, count)| count * 2 > voters.len());
            if let Some((theirs, _)) = majority.filter(|(theirs, _)| theirs != hash) {
                return Some((*index, *hash, *theirs));
            }
        }
        None
    }
}

/// A node as the cluster sees it.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// The feature level that it knows.
    pub level: Level,
    pub id: NodeId,
    pub http: String,
    pub peer: String,
    /// `leader`, `follower` or `learner`.
    pub role: &'static str,
    pub alive: bool,
    /// 0…1.
    pub load: f64,
    /// For how long what has waited longest at a target has been due.
    pub queue_age_ms: u64,
    /// It is to own nothing: it was drained, is about to stop, or its clock is off.
    pub resigns: bool,
    pub last_applied: u64,
    pub checkpoint: u64,
    pub clock_skew_ms: i64,
    pub version: String,
    pub labels: BTreeMap<String, String>,
    pub handlers: HandlerNames,
    pub state_hashes: Vec<(u64, String)>,
    pub scrub: Scrubbed,
    /// Where its scrub is, in words; of this node only.
    pub scrub_place: String,
}

/// The cluster as one node sees it.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// What every member knows how to fold.
    pub level: Level,
    pub leader: Option<NodeId>,
    pub term: u64,
    pub nodes: Vec<NodeView>,
    pub shards_total: u16,
    pub shards_owned: BTreeMap<NodeId, u64>,
    /// Every shard, by number.
    pub shards: Vec<ShardView>,
}

/// A shard as this node's state knows it.
#[derive(Clone, Copy, Debug)]
pub struct ShardView {
    pub shard: u16,
    /// `None` before the first assignment.
    pub owner: Option<NodeId>,
    pub epoch: u64,
    /// Tasks that are not final.
    pub open: u64,
    /// Nothing submitted at or below this log index is open.
    pub committed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);
    const FRESH: Duration = Duration::from_secs(1);

    fn registry(offsets: &[(NodeId, i64)]) -> Registry {
        let registry = Registry::default();
        for (node, offset) in offsets {
            registry.heard(
                Facts {
                    node: *node,
                    ..Facts::default()
                },
                NOW,
                *offset,
            );
        }
        registry
    }

    #[test]
    fn an_instant_on_anothers_clock_is_never_later_than_meant() {
        let registry = Registry::default();
        let facts = Facts {
            node: 2,
            boot: 3,
            steady_us: 7_000_000,
            ..Facts::default()
        };
        // It said so at 7 s of its clock; that was heard, some time later, at 100 s of ours.
        registry.heard(facts, NOW, 0);
        let second = Duration::from_secs(1);
        let there = registry.on_its_clock(2, NOW + second);
        assert_eq!(there, Some((3, 8 * second)));
        assert_eq!(registry.on_its_clock(2, NOW - second), None);
        assert_eq!(registry.on_its_clock(3, NOW + second), None);
    }

    #[test]
    fn the_odd_clock_out_knows_it() {
        let ours_ahead = registry(&[(2, -3_600_000_000), (3, -3_600_000_010)]);
        let skew = ours_ahead.skew_us(1, &[1, 2, 3], NOW, FRESH).unwrap();
        assert!(skew >= 3_600_000_000);
        let other_ahead = registry(&[(2, 3_600_000_000), (3, 10)]);
        assert!(
            other_ahead
                .skew_us(1, &[1, 2, 3], NOW, FRESH)
                .unwrap()
                .abs()
                <= 10
        );
    }

    #[test]
    fn a_minority_knows_nothing() {
        assert_eq!(registry(&[]).skew_us(1, &[1, 2, 3], NOW, FRESH), None);
        let late = NOW + Duration::from_secs(5);
        assert_eq!(
            registry(&[(2, 0)]).skew_us(1, &[1, 2, 3], late, FRESH),
            None
        );
        assert_eq!(registry(&[]).skew_us(1, &[1], NOW, FRESH), Some(0));
    }

    #[test]
    fn whoever_differs_from_the_majority_is_told() {
        let (a, b) = (StateHash::ZERO, {
            let mut hash = StateHash::ZERO;
            hash.add(StateHash::of(b"other"));
            hash
        });
        let registry = Registry::default();
        for (node, hash) in [(2, b), (3, b)] {
            let facts = Facts {
                node,
                hashes: vec![(256, hash)],
                ..Facts::default()
            };
            registry.heard(facts, NOW, 0);
        }
        assert!(registry.contradicted(&[1, 2, 3], &[(256, a)]).is_some());
        assert!(registry.contradicted(&[1, 2, 3], &[(256, b)]).is_none());
        assert!(registry.contradicted(&[1, 2, 3], &[(512, a)]).is_none());
    }
}
