//! Which node carries an attempt out: a pure function of what is known of the nodes.

use crate::model::{NodeId, Placement};
use crate::raft::{Picture, Seen};

/// Where an attempt goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Here,
    There(NodeId),
    /// Once on each of these.
    Everywhere(Vec<NodeId>),
    /// Nobody may or can at present.
    Nowhere,
}

/// What a choice depends on beside the placement.
pub(super) struct View<'a, L, D> {
    pub me: NodeId,
    pub picture: &'a Picture,
    /// The share of its capacity that a node uses, as far as it can be told; `None`: it has just
    /// refused something.
    pub load: L,
    /// A node with this load has enough to do.
    pub threshold: f64,
    /// Rises with each choice by turn.
    pub turn: u64,
    /// A number below the given one, by chance.
    pub draw: D,
}

impl<L: Fn(&Seen) -> Option<f64>, D: Fn(usize) -> usize> View<'_, L, D> {
    /// Where a task with this hash of its key goes; only to nodes with the handler, if it names one.
    pub fn choose(&self, placement: &Placement, hash: u64, handler: Option<&str>) -> Choice {
        let has = |seen: &&Seen| handler.is_none_or(|name| seen.handlers.contains(name));
        let live: Vec<&Seen> = self.picture.live.iter().filter(has).collect();
        let able = live.iter().filter(|seen| (self.load)(seen).is_some());
        let able: Vec<&Seen> = able.copied().collect();
        let node = |seen: Option<&&Seen>| seen.map(|seen| seen.node);
        match placement {
            // The owner lacks what it takes: whoever has least to do of those that do not.
            Placement::Owner if handler.is_some() && !live.iter().any(|s| s.node == self.me) => {
                self.here_or(self.idlest(&able).map(|(node, _)| node))
            }
            Placement::Owner => self.relieved(&able),
            Placement::Broadcast if live.is_empty() => Choice::Nowhere,
            Placement::Broadcast => Choice::Everywhere(live.iter().map(|seen| seen.node).collect()),
            Placement::Leader => {
                let leads = |node: &NodeId| live.iter().any(|seen| seen.node == *node);
                let leader = self.picture.leader;
                self.here_or(leader.filter(|node| handler.is_none() || leads(node)))
            }
            Placement::RoundRobin => {
                let next = self.turn.checked_rem(able.len() as u64).unwrap_or(0);
                self.here_or(node(able.get(next as usize)))
            }
            Placement::Random if able.is_empty() => Choice::Nowhere,
            Placement::Random => self.here_or(node(able.get((self.draw)(able.len())))),
            // The highest of a hash per node: a node that comes or goes moves its share only.
            Placement::Hash => {
                let weight = |seen: &&&Seen| {
                    xxhash_rust::xxh3::xxh3_64_with_seed(&seen.node.to_le_bytes(), hash)
                };
                self.here_or(live.iter().max_by_key(weight).map(|seen| seen.node))
            }
            Placement::Label { name, value } => {
                let labelled = |seen: &&Seen| seen.labels.get(name) == Some(value);
                let able: Vec<&Seen> = able.into_iter().filter(labelled).collect();
                self.here_or(self.idlest(&able).map(|(node, _)| node))
            }
        }
    }

    fn here_or(&self, node: Option<NodeId>) -> Choice {
        match node {
            None => Choice::Nowhere,
            Some(node) if node == self.me => Choice::Here,
            Some(node) => Choice::There(node),
        }
    }

    /// The least loaded; this node before others that are as idle.
    fn idlest(&self, nodes: &[&Seen]) -> Option<(NodeId, f64)> {
        let loaded = nodes
            .iter()
            .filter_map(|seen| Some((seen.node, (self.load)(seen)?)));
        loaded.min_by(|(a, one), (b, other)| {
            let order = one.total_cmp(other);
            order.then_with(|| (*a != self.me).cmp(&(*b != self.me)))
        })
    }

    /// The owner itself, unless it has too much to do and another one has not.
    fn relieved(&self, able: &[&Seen]) -> Choice {
        let mine = able.iter().find(|seen| seen.node == self.me);
        let mine = mine.and_then(|seen| (self.load)(seen)).unwrap_or(0.0);
        match self.idlest(able) {
            Some((node, load)) if mine >= self.threshold && load < self.threshold.min(mine) => {
                self.here_or(Some(node))
            }
            _ => Choice::Here,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn seen(node: NodeId, load: f64, labels: &[(&str, &str)]) -> Seen {
        let label = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        Seen {
            node,
            load,
            labels: labels.iter().map(label).collect(),
            handlers: Default::default(),
        }
    }

    /// As node 1 sees it, with these nodes refusing.
    fn choose(picture: &Picture, placement: &str, hash: u64, turn: u64, no: &[NodeId]) -> Choice {
        choose_for(picture, placement, hash, turn, no, None)
    }

    fn choose_for(
        picture: &Picture,
        placement: &str,
        hash: u64,
        turn: u64,
        no: &[NodeId],
        handler: Option<&str>,
    ) -> Choice {
        let view = View {
            me: 1,
            picture,
            load: |seen: &Seen| (!no.contains(&seen.node)).then_some(seen.load),
            threshold: 0.8,
            turn,
            draw: |below: usize| below - 1,
        };
        view.choose(&placement.parse().unwrap(), hash, handler)
    }

    fn three(loads: [f64; 3]) -> Picture {
        let [a, b, c] = loads;
        Picture {
            leader: Some(2),
            live: vec![
                seen(1, a, &[]),
                seen(2, b, &[("gpu", "yes")]),
                seen(3, c, &[("gpu", "yes")]),
            ],
        }
    }

    #[test]
    fn an_owner_gives_away_only_what_is_too_much_for_it_and_not_for_another() {
        let owner = |loads, no: &[NodeId]| choose(&three(loads), "owner", 7, 0, no);
        assert_eq!(owner([0.79, 0.0, 0.0], &[]), Choice::Here);
        assert_eq!(owner([0.8, 0.3, 0.2], &[]), Choice::There(3));
        assert_eq!(owner([0.8, 0.3, 0.2], &[3]), Choice::There(2));
        assert_eq!(owner([0.9, 0.8, 0.85], &[]), Choice::Here);
        assert_eq!(owner([0.9, 0.3, 0.2], &[2, 3]), Choice::Here);
    }

    #[test]
    fn a_handler_is_called_only_where_it_is() {
        let mut picture = three([0.0, 0.5, 0.2]);
        for seen in &mut picture.live[1..] {
            seen.handlers = std::sync::Arc::new(["a.b".to_owned()].into());
        }
        let at =
            |placement: &str, no: &[NodeId]| choose_for(&picture, placement, 7, 0, no, Some("a.b"));
        assert_eq!(at("owner", &[]), Choice::There(3), "the idlest that has it");
        assert_eq!(at("owner", &[3]), Choice::There(2));
        assert_eq!(at("owner", &[2, 3]), Choice::Nowhere);
        assert_eq!(at("broadcast", &[]), Choice::Everywhere(vec![2, 3]));
        assert_eq!(at("leader", &[]), Choice::There(2));
        assert_eq!(at("round_robin", &[]), Choice::There(2));
        assert_eq!(at("label:gpu=yes", &[]), Choice::There(3));
        assert!(matches!(at("hash", &[]), Choice::There(2 | 3)));
        let own = |placement| choose_for(&picture, placement, 7, 0, &[], Some("x.y"));
        for placement in [
            "owner",
            "broadcast",
            "leader",
            "round_robin",
            "random",
            "hash",
        ] {
            assert_eq!(
                own(placement),
                Choice::Nowhere,
                "{placement}: nobody has it"
            );
        }
    }

    #[test]
    fn the_others_go_where_they_say() {
        let idle = three([0.0; 3]);
        let ask = |placement: &str, turn| choose(&idle, placement, 7, turn, &[]);
        let turns: Vec<Choice> = (0..4).map(|turn| ask("round_robin", turn)).collect();
        let (two, three_) = (Choice::There(2), Choice::There(3));
        assert_eq!(
            turns,
            [Choice::Here, two.clone(), three_.clone(), Choice::Here]
        );
        assert_eq!(ask("random", 0), three_, "the last that can be drawn");
        assert_eq!(ask("leader", 0), two);
        assert_eq!(ask("broadcast", 0), Choice::Everywhere(vec![1, 2, 3]));
        assert_eq!(ask("label:gpu=yes", 0), two);
        assert_eq!(ask("label:gpu=no", 0), Choice::Nowhere);
        let busy = three([0.0, 0.9, 0.5]);
        assert_eq!(choose(&busy, "label:gpu=yes", 7, 0, &[]), three_);
        assert_eq!(
            choose(&busy, "label:gpu=yes", 7, 0, &[2, 3]),
            Choice::Nowhere
        );
        let none = Picture::default();
        for placement in ["leader", "random", "round_robin", "hash", "label:a=b"] {
            assert_eq!(
                choose(&none, placement, 7, 5, &[]),
                Choice::Nowhere,
                "{placement}"
            );
        }
    }

    proptest! {
        #![proptest_config(crate::thorough::cases(200))]

        /// One node more, or one less, moves nothing but what that node has; and all have some.
        #[test]
        fn a_hash_moves_only_what_it_must(gone in 1u64..=5) {
            let picture = |nodes: &BTreeSet<NodeId>| Picture {
                leader: None,
                live: nodes.iter().map(|node| seen(*node, 0.0, &[])).collect(),
            };
            let all: BTreeSet<NodeId> = (1..=5).collect();
            let mut fewer = all.clone();
            fewer.remove(&gone);
            let place = |nodes: &BTreeSet<NodeId>, hash| {
                match choose(&picture(nodes), "hash", hash, 0, &[]) {
                    Choice::Here => 1,
                    Choice::There(node) => node,
                    other => panic!("{other:?}"),
                }
            };
            let mut counts: BTreeMap<NodeId, u32> = BTreeMap::new();
            for hash in (0..500u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
                let (with, without) = (place(&all, hash), place(&fewer, hash));
                *counts.entry(with).or_default() += 1;
                prop_assert!(with == without || with == gone);
                prop_assert_ne!(without, gone);
            }
            prop_assert!(counts.len() == 5 && counts.values().all(|n| *n > 50), "{:?}", counts);
        }
    }
}
