//! Dispatch leases, as the leader grants them.
//!
//! An owner begins attempts only within the lease of its last contact with a leader that had a
//! quorum. It asks with each of its heartbeats; the answer says how long ago the leader last knew
//! of a quorum behind it, and the owner counts from when it asked, less that. The leader counts
//! from when it answered, so it never believes a lease to be over that the owner believes to hold;
//! clocks may run at rates that differ by less than the margin makes up for.
//!
//! What an earlier leader granted, a new one does not know. Every quorum that the earlier one knew
//! of came before the votes of the new one, so whatever it granted is over a lease after these. And
//! ordinary votes are refused until the leader was silent for longer than the lease lasts (by Raft's
//! own rule, and by [`Inner::refuse_votes`] after a restart and after a hand-over, which that rule
//! does not cover): a lead that was won by them begins with every lease over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::inner::Inner;
use super::timing::Timing;
use super::view::Facts;
use crate::bugs::{self, Bug};
use crate::model::NodeId;

/// What an owner said when it asked last, and what it was told.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) facts: Facts,
    pub(crate) at: Duration,
    /// When there was a quorum, as far as it was told; `None`: it was granted nothing.
    pub(crate) contact: Option<Duration>,
}

#[derive(Default)]
struct Known {
    /// When this node, as leader, last knew of a quorum.
    quorum: Option<Duration>,
    asked: BTreeMap<NodeId, Asked>,
    /// Owners that are about to lose their shards.
    denied: BTreeSet<NodeId>,
}

/// See the module. All instants are of the steady clock, which goes on in suspension.
#[derive(Default)]
pub(crate) struct Leases(Mutex<Known>);

impl Leases {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node leads, and knew of a quorum at that instant.
    pub(crate) fn quorum(&self, at: Duration) {
        let mut known = self.lock();
        known.quorum = known.quorum.max(Some(at));
    }

    /// Whether this node, as leader, knew of a quorum so lately that nobody else can lead by now.
    pub(crate) fn holds(&self, now: Duration, timing: Timing) -> bool {
        let quorum = self.lock().quorum;
        quorum.is_some_and(|at| now.saturating_sub(at) < timing.owner_lease())
    }

    /// A lead begins or ends: nothing is known.
    pub(crate) fn clear(&self) {
        *self.lock() = Known::default();
    }

    /// An owner asks. How long ago there was a quorum; `None`: it gets no lease.
    pub(crate) fn ask(
        &self,
        facts: Facts,
        may_have: bool,
        now: Duration,
        timing: Timing,
    ) -> Option<Duration> {
        let mut known = self.lock();
        let may_have = may_have && !known.denied.contains(&facts.node);
        let fresh = |at: &Duration| now.saturating_sub(*at) < timing.owner_lease();
        let granted = known.quorum.filter(|at| may_have && fresh(at));
        let before = known.asked.get(&facts.node).and_then(|asked| asked.contact);
        let asked = Asked {
            at: now,
            contact: before.max(granted),
            facts,
        };
        known.asked.insert(asked.facts.node, asked);
        granted.map(|at| now.saturating_sub(at))
    }

    /// What a node said when it asked last, if it ever did.
    pub(crate) fn asked(&self, node: NodeId) -> Option<Asked> {
        self.lock().asked.get(&node).cloned()
    }

    /// Grants a node nothing until [`Leases::allow`], unless it holds a lease by now: whether it is
    /// denied.
    pub(crate) fn deny(&self, node: NodeId, now: Duration, timing: Timing) -> bool {
        let mut known = self.lock();
        let contact = known.asked.get(&node).and_then(|asked| asked.contact);
        let over = contact.is_none_or(|at| now >= at + timing.lost_after())
            || bugs::on(Bug::DeniedWithLease);
        if over {
            known.denied.insert(node);
        }
        over
    }

    /// How long triggers take to reach the slowest of those that asked lately, µs.
    pub(crate) fn slowest_us(&self, now: Duration, timing: Timing) -> u32 {
        let known = self.lock();
        let lately = |asked: &&Asked| now.saturating_sub(asked.at) < timing.owner_lease();
        let lags = known.asked.values().filter(lately);
        lags.map(|asked| asked.facts.lag_us).max().unwrap_or(0)
    }

    pub(crate) fn allow(&self, node: NodeId) {
        self.lock().denied.remove(&node);
    }
}

impl Inner {
    /// Answers an owner that asks for a lease. It gets none before it has folded every assignment
    /// that this node has: else it might begin what was given to another one.
    pub(crate) fn grant(&self, facts: Facts, asks: bool) -> Option<Duration> {
        let leads = self.proposer.is_open() && !self.skewed.load(Ordering::SeqCst);
        if !leads || !self.members().contains_key(&facts.node) {
            return None;
        }
        let told = facts.applied >= self.folded.assigned.load(Ordering::SeqCst);
        let news = self.leases.asked(facts.node).is_none_or(|asked| {
            (asked.facts.boot, asked.facts.resigns) != (facts.boot, facts.resigns)
        });
        let granted = self
            .leases
            .ask(facts, asks && told, self.clock.steady(), self.timing);
        if news {
            self.folded.owners.notify_one();
        }
        granted
    }

    /// Refuses ordinary votes until every lease has run out that a leader may have granted with
    /// this node in its quorum.
    pub(crate) fn refuse_votes(&self) {
        let until = self.clock.steady() + self.timing.owner_lease() + self.timing.lease_margin();
        let us = until.as_micros() as u64;
        self.votes_from_us.fetch_max(us, Ordering::SeqCst);
    }

    /// Whether ordinary votes are refused at an instant.
    pub(crate) fn refuses_votes(&self, now: Duration) -> bool {
        (now.as_micros() as u64) < self.votes_from_us.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timing = Timing::Steady;

    fn facts(node: NodeId) -> Facts {
        Facts {
            node,
            ..Facts::default()
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_lease_to_read_by_ends_however_the_time_has_passed() {
        let leases = Leases::default();
        assert!(!leases.holds(ms(10_000), T));
        leases.quorum(ms(9_000));
        assert!(leases.holds(ms(10_000), T));
        assert!(!leases.holds(ms(9_000) + T.owner_lease(), T));
        leases.quorum(ms(12_000));
        leases.clear();
        assert!(!leases.holds(ms(12_000), T), "the lead is over");
    }

    #[test]
    fn nothing_is_granted_without_a_quorum_that_is_fresh() {
        let leases = Leases::default();
        assert_eq!(leases.ask(facts(2), true, ms(9_000), T), None);
        leases.quorum(ms(9_000));
        leases.quorum(ms(8_000));
        assert_eq!(leases.ask(facts(2), true, ms(9_200), T), Some(ms(200)));
        assert_eq!(leases.ask(facts(2), false, ms(9_200), T), None);
        assert_eq!(leases.ask(facts(2), true, ms(10_500), T), None);
        leases.clear();
        assert_eq!(leases.ask(facts(2), true, ms(9_200), T), None);
    }

    #[test]
    fn who_holds_a_lease_is_not_denied_and_who_is_denied_gets_none() {
        let leases = Leases::default();
        leases.quorum(ms(9_000));
        leases.ask(facts(2), true, ms(9_200), T);
        // A refusal does not end what was granted before.
        leases.ask(facts(2), false, ms(9_300), T);
        let over = ms(9_000) + T.lost_after();
        assert!(!leases.deny(2, over - ms(1), T));
        assert!(leases.deny(2, over, T));
        leases.quorum(over);
        assert_eq!(leases.ask(facts(2), true, over, T), None);
        leases.allow(2);
        assert_eq!(leases.ask(facts(2), true, over, T), Some(ms(0)));
        assert!(leases.deny(3, ms(0), T), "it was never granted any");
    }

    #[test]
    fn an_owner_stops_before_it_is_given_up() {
        for timing in [Timing::Steady, Timing::Fast] {
            assert!(timing.lost_after() >= timing.owner_lease() + timing.lease_margin());
        }
    }
}
