//! What is known of each attempt: whether it waits, has begun, or was withdrawn.
//!
//! An attempt that has begun is remembered until the log closes it, even when its outcome was
//! handed over long ago: a withdrawal must still hear "begun", and reading the state again must
//! not start it twice.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::bugs::{self, Bug};
use crate::model::limits::OUTCOME_GRACE;
use crate::model::{Fence, NodeId, Seq, Time};
use crate::state::Open;

/// An attempt's name.
pub(super) type Id = (Seq, Fence);

/// Withdrawals remembered at most. One is short-lived: the log tells within moments what became
/// of it. Beyond the bound a withdrawal is refused, which the caller hears as "too late".
const WITHDRAWN_MAX: usize = 1 << 16;

/// Where an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the heap, not due yet.
    Held,
    /// Due: being looked up, in its target's queue, or about to begin.
    Queued,
    /// Came up while it was withdrawn; in no queue.
    Parked,
    /// Its call is under way.
    Begun { closed: bool },
    /// Its outcome was handed over at this steady instant; the log has not closed it yet.
    Ended { since: Duration },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub at: Time,
    /// Of the key: decides the shard.
    pub hash: u64,
    pub place: Place,
    /// When it came up there was no node for it.
    pub homeless: bool,
}

/// That an attempt was withdrawn.
struct Withdrawal {
    /// When it was asked for last.
    since: Duration,
    /// By how many that have not taken it back: cancels and changes of one task may overlap.
    asked: usize,
}

/// The attempts of this node.
#[derive(Default)]
pub(super) struct Attempts {
    entries: HashMap<Id, Entry>,
    withdrawn: HashMap<Id, Withdrawal>,
    /// Begun attempts in the order of their beginning, until they are old enough to be reported.
    young: VecDeque<(Duration, Time, Id)>,
    /// Which of those that have begun another node carries out.
    elsewhere: HashMap<Id, NodeId>,
}

impl Attempts {
    /// Adds one; false when it is known already.
    pub fn add(&mut self, open: Open) -> bool {
        let mut new = false;
        self.entries
            .entry((open.seq, open.fence))
            .or_insert_with(|| {
                new = true;
                Entry {
                    at: open.at,
                    hash: open.hash,
                    place: Place::Held,
                    homeless: false,
                }
            });
        new
    }

    pub fn get(&self, id: Id) -> Option<Entry> {
        self.entries.get(&id).copied()
    }

    /// Moves a known attempt.
    pub fn put(&mut self, id: Id, place: Place) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.place = place;
        }
    }

    /// Notes that no node may or can carry it out at present.
    pub fn is_homeless(&mut self, id: Id) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.homeless = true;
        }
    }

    /// Forgets an attempt that has not begun.
    pub fn remove(&mut self, id: Id) {
        self.elsewhere.remove(&id);
        self.entries.remove(&id);
    }

    /// The log closed it: forgotten, unless its call is still under way.
    pub fn close(&mut self, id: Id) {
        self.withdrawn.remove(&id);
        match self.entries.get_mut(&id) {
            Some(Entry {
                place: Place::Begun { closed },
                ..
            }) => *closed = true,
            Some(_) => drop(self.entries.remove(&id)),
            None => {}
        }
    }

    /// Its call begins.
    pub fn begin(&mut self, id: Id, wall: Time, steady: Duration) {
        self.put(id, Place::Begun { closed: false });
        self.young.push_back((steady, wall, id));
    }

    /// Another node carries it out.
    pub fn elsewhere(&mut self, id: Id, node: NodeId) {
        self.elsewhere.insert(id, node);
    }

    /// Which other node carries an attempt out.
    pub fn where_is(&self, id: Id) -> Option<NodeId> {
        self.elsewhere.get(&id).copied()
    }

    /// Its outcome was handed over, or its call was given up.
    pub fn end(&mut self, id: Id, steady: Duration) {
        self.elsewhere.remove(&id);
        match self.get(id).map(|entry| entry.place) {
            Some(Place::Begun { closed: true }) => self.remove(id),
            Some(Place::Begun { closed: false }) => self.put(id, Place::Ended { since: steady }),
            _ => {}
        }
    }

    /// See [`super::Executor::withdraw`].
    pub fn withdraw(&mut self, id: Id, steady: Duration) -> bool {
        if let Some(Place::Begun { .. } | Place::Ended { .. }) = self.get(id).map(|e| e.place) {
            return bugs::on(Bug::BegunWithdrawn);
        }
        if self.withdrawn.len() >= WITHDRAWN_MAX && !self.withdrawn.contains_key(&id) {
            return false;
        }
        let withdrawal = self.withdrawn.entry(id).or_insert(Withdrawal {
            since: steady,
            asked: 0,
        });
        withdrawal.since = steady;
        withdrawal.asked += 1;
        true
    }

    /// Whether an attempt waits, is under way, was withdrawn, or ended so recently that the log may
    /// not have heard of it.
    pub fn knows(&self, id: Id, steady: Duration) -> bool {
        let fresh = |since: Duration| steady.saturating_sub(since) < OUTCOME_GRACE.std();
        let known = |entry: &Entry| !matches!(entry.place, Place::Ended { since } if !fresh(since));
        self.is_withdrawn(id) || self.entries.get(&id).is_some_and(known)
    }

    /// Takes one withdrawal back; the attempt stays withdrawn while another is not.
    pub fn restore(&mut self, id: Id) {
        if let Some(withdrawal) = self.withdrawn.get_mut(&id) {
            withdrawal.asked -= 1;
            if withdrawal.asked == 0 || bugs::on(Bug::RestoredForAll) {
                self.withdrawn.remove(&id);
            }
        }
    }

    pub fn is_withdrawn(&self, id: Id) -> bool {
        self.withdrawn.contains_key(&id)
    }

    /// Those of the wanted attempts, named with the hash of their key, whose call is under way, or
    /// whose outcome is on its way to the log: the next owner would begin those again. In order, as
    /// they go into the log.
    pub fn begun(&self, wanted: impl Fn(Id, u64) -> bool) -> Vec<Id> {
        let begun = |entry: &Entry| {
            let open = Place::Begun { closed: false };
            entry.place == open || matches!(entry.place, Place::Ended { .. })
        };
        let of = self.entries.iter();
        let of = of.filter(|(id, entry)| begun(entry) && wanted(**id, entry.hash));
        let mut ids: Vec<Id> = of.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Attempts under way that have been open for `age`, each reported once; at most `max`.
    pub fn grown(
        &mut self,
        steady: Duration,
        age: Duration,
        max: usize,
    ) -> Vec<(Seq, Fence, Time)> {
        let mut grown = Vec::new();
        while let Some(&(begun, wall, id)) = self.young.front() {
            let open = matches!(
                self.get(id).map(|entry| entry.place),
                Some(Place::Begun { closed: false })
            );
            if open && (steady.saturating_sub(begun) < age || grown.len() == max) {
                break;
            }
            self.young.pop_front();
            if open {
                grown.push((id.0, id.1, wall));
            }
        }
        grown
    }

    /// Whether some attempt may still have to be reported as open for a while.
    pub fn has_young(&self) -> bool {
        !self.young.is_empty()
    }

    /// Ended attempts and withdrawals that nobody has closed since `before`; normally none.
    pub fn forgotten(&self, before: Duration, max: usize) -> Vec<Id> {
        let ended = self
            .entries
            .iter()
            .filter_map(|(id, entry)| match entry.place {
                Place::Ended { since } if since < before => Some(*id),
                _ => None,
            });
        let withdrawn = self.withdrawn.iter().filter(|(_, w)| w.since < before);
        ended
            .chain(withdrawn.map(|(id, _)| *id))
            .take(max)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Epoch;

    const ID: Id = (
        Seq(1),
        Fence {
            epoch: Epoch(1),
            attempt: 1,
        },
    );

    fn open((seq, fence): Id) -> Open {
        Open {
            at: Time(5),
            seq,
            fence,
            hash: 7,
        }
    }

    #[test]
    fn what_began_is_remembered_until_closed() {
        let mut attempts = Attempts::default();
        assert!(attempts.add(open(ID)));
        attempts.begin(ID, Time(5), Duration::ZERO);
        attempts.end(ID, Duration::ZERO);
        assert!(!attempts.withdraw(ID, Duration::ZERO), "it began");
        assert!(!attempts.add(open(ID)), "reading it again starts nothing");
        attempts.close(ID);
        assert!(attempts.get(ID).is_none());
    }

    #[test]
    fn it_stays_withdrawn_until_everybody_has_taken_that_back() {
        let mut attempts = Attempts::default();
        attempts.add(open(ID));
        assert!(attempts.withdraw(ID, Duration::ZERO));
        assert!(attempts.withdraw(ID, Duration::ZERO));
        attempts.restore(ID);
        assert!(attempts.is_withdrawn(ID), "the other one may have moved it");
        attempts.restore(ID);
        assert!(!attempts.is_withdrawn(ID));
    }

    #[test]
    fn a_call_outlives_its_closing() {
        let mut attempts = Attempts::default();
        attempts.add(open(ID));
        attempts.begin(ID, Time(5), Duration::ZERO);
        attempts.close(ID);
        assert!(!attempts.withdraw(ID, Duration::ZERO));
        assert_eq!(attempts.begun(|_, _| true), [], "nobody begins it again");
        attempts.end(ID, Duration::ZERO);
        assert!(attempts.get(ID).is_none());
    }

    #[test]
    fn an_outcome_on_its_way_to_the_log_is_waited_for() {
        let mut attempts = Attempts::default();
        attempts.add(open(ID));
        attempts.begin(ID, Time(5), Duration::ZERO);
        attempts.end(ID, Duration::ZERO);
        assert_eq!(attempts.begun(|id, hash| (id, hash) == (ID, 7)), [ID]);
        attempts.close(ID);
        assert_eq!(attempts.begun(|_, _| true), []);
    }

    #[test]
    fn only_what_is_still_open_is_reported_and_once() {
        let mut attempts = Attempts::default();
        let other = (Seq(2), ID.1);
        for id in [ID, other] {
            attempts.add(open(id));
            attempts.begin(id, Time(5), Duration::ZERO);
        }
        attempts.end(ID, Duration::ZERO);
        let second = Duration::from_secs(1);
        assert!(attempts.grown(second / 2, second, 9).is_empty());
        assert_eq!(
            attempts.grown(second, second, 9),
            [(other.0, other.1, Time(5))]
        );
        assert!(attempts.grown(second * 2, second, 9).is_empty());
    }
}
