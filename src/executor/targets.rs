//! A queue and permits for each target, so that a slow one delays itself only.
//!
//! Targets that could start something stand in a ring; the total is handed out one call a turn.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::attempts::Id;
use crate::model::{Seq, Time};

/// A due attempt that waits for a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub id: Id,
    pub at: Time,
    /// When it left the hold.
    pub released: Time,
    /// Another node may carry it out when this one has too much to do.
    pub moves: bool,
}

/// So far from its head a queue is searched for what may move.
const GIVEN_FROM: usize = 64;

/// `scheme://host:port`, in lower case.
pub(super) type TargetKey = Arc<str>;

#[derive(Default)]
struct Target {
    queue: VecDeque<Reference>,
    in_flight: usize,
    in_ring: bool,
    /// The first place that did not fit into the queue.
    spilled: Option<(Time, Seq)>,
}

/// All targets with anything to do.
pub(super) struct Targets {
    targets: HashMap<TargetKey, Target>,
    ring: VecDeque<TargetKey>,
    in_flight: usize,
    queued: usize,
    per_target: usize,
    total: usize,
    queue_max: usize,
}

impl Targets {
    pub fn new(per_target: usize, total: usize, queue_max: usize) -> Targets {
        Targets {
            targets: HashMap::new(),
            ring: VecDeque::new(),
            in_flight: 0,
            queued: 0,
            per_target: per_target.max(1),
            total: total.max(1),
            queue_max: queue_max.max(1),
        }
    }

    /// Permits taken.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// References waiting.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// The instant of what has waited longest, of those that are next at their targets.
    pub fn oldest(&self) -> Option<Time> {
        let fronts = self.targets.values().filter_map(|t| t.queue.front());
        fronts.map(|reference| reference.at).min()
    }

    /// The bound on permits.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Takes a permit out of turn: only when nobody waits for one.
    pub fn reserve(&mut self, key: &TargetKey) -> bool {
        if !self.ring.is_empty() || self.in_flight >= self.total {
            return false;
        }
        let target = self.targets.entry(key.clone()).or_default();
        if !target.queue.is_empty() || target.in_flight >= self.per_target {
            return false;
        }
        target.in_flight += 1;
        self.in_flight += 1;
        true
    }

    /// Queues; false when this target's queue is full, and the place is noted.
    pub fn push(&mut self, key: &TargetKey, reference: Reference) -> bool {
        let target = self.targets.entry(key.clone()).or_default();
        if target.queue.len() >= self.queue_max {
            let place = (reference.at, reference.id.0);
            target.spilled = Some(target.spilled.map_or(place, |first| first.min(place)));
            return false;
        }
        target.queue.push_back(reference);
        self.queued += 1;
        self.offer(key);
        true
    }

    /// Puts back what was taken and could not begin; its permit is freed separately.
    pub fn put_back(&mut self, key: &TargetKey, reference: Reference) {
        let target = self.targets.entry(key.clone()).or_default();
        target.queue.push_front(reference);
        self.queued += 1;
        self.offer(key);
    }

    /// The next reference in turn, with a permit.
    pub fn take(&mut self) -> Option<(TargetKey, Reference)> {
        while self.in_flight < self.total {
            let key = self.ring.pop_front()?;
            let Some(target) = self.targets.get_mut(&key) else {
                continue;
            };
            target.in_ring = false;
            let Some(reference) = target.queue.pop_front() else {
                continue;
            };
            target.in_flight += 1;
            self.in_flight += 1;
            self.queued -= 1;
            self.offer(&key);
            return Some((key, reference));
        }
        None
    }

    /// What has waited longest and may move, without a permit: for another node. Looks at the first
    /// few of the queue whose head has waited longest.
    pub fn give(&mut self) -> Option<(TargetKey, Reference)> {
        let waiting = self.targets.iter_mut().filter_map(|(key, target)| {
            let moves = target.queue.iter().take(GIVEN_FROM).position(|r| r.moves)?;
            let head = target.queue.front()?;
            Some(((head.at, head.id), key, &mut target.queue, moves))
        });
        let (_, key, queue, place) = waiting.min_by_key(|(head, ..)| *head)?;
        let (key, reference) = (key.clone(), queue.remove(place)?);
        self.queued -= 1;
        Some((key, reference))
    }

    /// Gives a permit back.
    pub fn free(&mut self, key: &TargetKey) {
        if let Some(target) = self.targets.get_mut(key) {
            target.in_flight -= 1;
            self.in_flight -= 1;
            self.offer(key);
            self.tidy(key);
        }
    }

    /// Where to read again from, once this target's queue has run half empty.
    pub fn unspill(&mut self, key: &TargetKey) -> Option<(Time, Seq)> {
        let half = self.queue_max / 2;
        let target = self.targets.get_mut(key)?;
        if target.queue.len() > half {
            return None;
        }
        let place = target.spilled.take();
        self.tidy(key);
        place
    }

    /// Whether some target's queue was too full for what lies at a place.
    pub fn spilled_before(&self, place: (Time, Seq)) -> bool {
        let spilled = |target: &Target| target.spilled.is_some_and(|first| first <= place);
        self.targets.values().any(spilled)
    }

    /// Puts a target that could start something into the ring.
    fn offer(&mut self, key: &TargetKey) {
        if let Some(target) = self.targets.get_mut(key)
            && !target.in_ring
            && !target.queue.is_empty()
            && target.in_flight < self.per_target
        {
            target.in_ring = true;
            self.ring.push_back(key.clone());
        }
    }

    /// Forgets a target that has nothing to do, so that names seen once cost nothing.
    fn tidy(&mut self, key: &TargetKey) {
        let idle = |t: &Target| {
            t.queue.is_empty() && t.in_flight == 0 && !t.in_ring && t.spilled.is_none()
        };
        if self.targets.get(key).is_some_and(idle) {
            self.targets.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Fence;

    fn reference(seq: u64) -> Reference {
        Reference {
            id: (Seq(seq), Fence::default()),
            at: Time(seq),
            released: Time(seq),
            moves: seq.is_multiple_of(2),
        }
    }

    #[test]
    fn the_total_is_handed_out_in_turns() {
        let mut targets = Targets::new(10, 4, 100);
        let (slow, quick): (TargetKey, TargetKey) = ("slow".into(), "quick".into());
        (0..10).for_each(|n| assert!(targets.push(&slow, reference(n))));
        (10..12).for_each(|n| assert!(targets.push(&quick, reference(n))));
        assert_eq!(targets.oldest(), Some(Time(0)));
        let taken: Vec<u64> = std::iter::from_fn(|| targets.take())
            .map(|(_, r)| r.id.0.0)
            .collect();
        assert_eq!(taken, [0, 10, 1, 11]);
        assert_eq!(targets.oldest(), Some(Time(2)));
        targets.free(&slow);
        assert_eq!(targets.take().map(|(_, r)| r.id.0.0), Some(2));
        assert!(targets.take().is_none());
    }

    #[test]
    fn a_full_queue_notes_its_first_missing_place() {
        let mut targets = Targets::new(1, 1, 2);
        let key: TargetKey = "a".into();
        let fits: Vec<bool> = (1..5).map(|n| targets.push(&key, reference(n))).collect();
        assert_eq!(fits, [true, true, false, false]);
        assert_eq!(targets.unspill(&key), None);
        targets.take().unwrap();
        assert_eq!(targets.unspill(&key), Some((Time(3), Seq(3))));
        assert_eq!(targets.unspill(&key), None);
    }

    #[test]
    fn an_idle_target_is_forgotten() {
        let mut targets = Targets::new(1, 1, 2);
        let key: TargetKey = "a".into();
        assert!(targets.reserve(&key) && !targets.reserve(&key));
        targets.free(&key);
        assert!(targets.targets.is_empty());
    }
}
