//! The one lock: holding, queues, permits, lease, withdrawals, and the test-and-set between them.
//!
//! Nothing here does I/O, reads a clock or calls out, so that the lock is short and every rule
//! can be tested by itself.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::attempts::{Attempts, Id, Place};
use super::released::Released;
use super::targets::{Reference, TargetKey, Targets};
use crate::bugs::{self, Bug};
use crate::model::{Change, Epoch, Fence, NodeId, Seq, Time};
use crate::state::{Open, Release};

/// What [`Core::begin`] decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// It has begun, now and once.
    Go,
    /// Closed, withdrawn or released meanwhile.
    Dropped,
    /// Not now: it waits again.
    Waits,
}

/// All that the executor knows.
pub(super) struct Core {
    node: NodeId,
    lease: Duration,
    held_max: usize,
    heap: BinaryHeap<Reverse<(Time, Seq, Fence)>>,
    /// The first place in (at, seq) order that may be open and is not in memory.
    missing: Option<(Time, Seq)>,
    /// From where on what was missing is being read.
    reading: Option<(Time, Seq)>,
    pub attempts: Attempts,
    pub targets: Targets,
    contact: Option<Duration>,
    released: Released,
    /// What is older belongs to an earlier run of this node.
    since: Option<Epoch>,
    pub stopping: bool,
    /// Asks the holding thread to hand out permits.
    pub kicked: bool,
}

impl Core {
    pub fn new(settings: &super::Settings) -> Core {
        let held_max = settings.held_max.max(4);
        Core {
            node: settings.node,
            lease: settings.lease,
            held_max,
            heap: BinaryHeap::new(),
            missing: None,
            reading: None,
            attempts: Attempts::default(),
            // A quarter each: one slow target cannot fill the memory that all share.
            targets: Targets::new(settings.per_target, settings.total, held_max / 4),
            contact: None,
            released: Released::default(),
            since: None,
            stopping: false,
            kicked: false,
        }
    }

    /// Takes one change of the fold.
    pub fn change(&mut self, change: &Change) {
        match *change {
            Change::Triggered {
                seq,
                fence,
                at,
                owner,
                hash,
            } if owner == self.node => self.hold(Open {
                at,
                seq,
                fence,
                hash,
            }),
            Change::Assigned { node, epoch, .. } if node == self.node => {
                self.since.get_or_insert(epoch);
            }
            Change::Closed { seq, fence } => self.attempts.close((seq, fence)),
            _ => {}
        }
    }

    /// Holds an attempt, or notes that it did not fit.
    pub fn hold(&mut self, open: Open) {
        let (at, id) = (open.at, (open.seq, open.fence));
        let older = self.since.is_some_and(|since| open.fence.epoch < since);
        if older || self.released.has(id, open.hash) || self.attempts.get(id).is_some() {
            return;
        }
        if self.waiting() >= self.held_max {
            self.miss((at, id.0));
            return;
        }
        self.attempts.add(open);
        self.heap.push(Reverse((at, id.0, id.1)));
    }

    /// References in memory that have not begun.
    pub fn waiting(&self) -> usize {
        self.heap.len() + self.targets.queued()
    }

    /// References in the heap.
    pub fn held(&self) -> usize {
        self.heap.len()
    }

    /// The earliest instant that is waited for.
    pub fn next_at(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// Takes what is due out of the hold, at most `max`.
    pub fn pop_due(&mut self, now: Time, max: usize) -> Vec<Reference> {
        let mut due = Vec::new();
        let early = bugs::on(Bug::EarlyDispatch);
        while due.len() < max && self.next_at().is_some_and(|at| at <= now || early) {
            let Some(Reverse((at, seq, fence))) = self.heap.pop() else {
                break;
            };
            let id = (seq, fence);
            if self.attempts.get(id).map(|entry| entry.place) != Some(Place::Held) {
                continue;
            }
            if self.admit(id) {
                self.attempts.put(id, Place::Queued);
                due.push(Reference {
                    id,
                    at,
                    released: now,
                });
            }
        }
        due
    }

    /// Whether a waiting attempt may go on; parks what is withdrawn, drops what was let go.
    fn admit(&mut self, id: Id) -> bool {
        let entry = self.attempts.get(id);
        if entry.is_some_and(|entry| self.released.has(id, entry.hash)) {
            self.attempts.remove(id);
            return false;
        }
        if self.attempts.is_withdrawn(id) {
            self.attempts.put(id, Place::Parked);
            return false;
        }
        true
    }

    /// Gives a due attempt a permit (true), or queues it at its target.
    pub fn route(&mut self, key: &TargetKey, reference: Reference, steady: Duration) -> bool {
        let queued = self.attempts.get(reference.id).map(|entry| entry.place);
        if queued != Some(Place::Queued) {
            return false;
        }
        if self.may_start(steady) && self.targets.reserve(key) {
            return true;
        }
        if !self.targets.push(key, reference) {
            self.attempts.remove(reference.id);
        }
        false
    }

    /// The next attempts in turn, each with a permit, at most `max`.
    pub fn take(&mut self, max: usize, steady: Duration) -> Vec<(TargetKey, Reference)> {
        let mut taken = Vec::new();
        while taken.len() < max && self.may_start(steady) {
            let Some((key, reference)) = self.targets.take() else {
                break;
            };
            if let Some(place) = self.targets.unspill(&key) {
                self.miss(place);
            }
            let queued = self.attempts.get(reference.id).map(|entry| entry.place);
            if queued == Some(Place::Queued) && self.admit(reference.id) {
                taken.push((key, reference));
            } else {
                self.targets.free(&key);
            }
        }
        taken
    }

    /// The test-and-set. The caller holds a permit, which it keeps only on [`Begin::Go`].
    pub fn begin(
        &mut self,
        key: &TargetKey,
        reference: Reference,
        wall: Time,
        steady: Duration,
    ) -> Begin {
        let id = reference.id;
        let queued = self.attempts.get(id).map(|entry| entry.place) == Some(Place::Queued);
        if !queued || !self.admit(id) {
            return Begin::Dropped;
        }
        if wall < reference.at && !bugs::on(Bug::EarlyDispatch) {
            self.attempts.put(id, Place::Held);
            self.heap.push(Reverse((reference.at, id.0, id.1)));
            return Begin::Waits;
        }
        if !self.may_start(steady) {
            self.targets.put_back(key, reference);
            return Begin::Waits;
        }
        self.attempts.begin(id, wall, steady);
        Begin::Go
    }

    /// Gives a permit back, and notes where to read again when its queue has room.
    pub fn free(&mut self, key: &TargetKey) {
        let place = self.targets.unspill(key);
        self.targets.free(key);
        if let Some(place) = place {
            self.miss(place);
        }
    }

    /// Takes a withdrawal back; what came up meanwhile is due again.
    pub fn restore(&mut self, id: Id) {
        self.attempts.restore(id);
        if let Some(entry) = self.attempts.get(id)
            && entry.place == Place::Parked
            && !self.attempts.is_withdrawn(id)
        {
            self.attempts.put(id, Place::Held);
            self.heap.push(Reverse((entry.at, id.0, id.1)));
        }
    }

    /// See [`super::Executor::release`].
    pub fn release(&mut self, release: &Release) -> Vec<Id> {
        self.released.add(release);
        let mut asked = Released::default();
        asked.add(release);
        self.attempts.begun(|id, hash| asked.has(id, hash))
    }

    /// Takes back what older leaders were promised; what was dropped meanwhile is read again.
    pub fn new_term(&mut self, term: u64) {
        if self.released.forget_before(term) {
            self.miss((Time(0), Seq(0)));
        }
    }

    /// Notes a contact; true when the lease had run out and now has not.
    pub fn renew(&mut self, contact: Duration, steady: Duration) -> bool {
        let before = self.may_start(steady);
        self.contact = self.contact.max(Some(contact));
        !before && self.may_start(steady)
    }

    fn may_start(&self, steady: Duration) -> bool {
        let leased = |contact: Duration| steady < contact.saturating_add(self.lease);
        let unasked = bugs::on(Bug::LeaseIgnored)
            // Nothing was heard yet: it looks like the lease of the run before.
            || bugs::on(Bug::ReplayFires) && self.contact.is_none();
        !self.stopping && (unasked || self.contact.is_some_and(leased))
    }

    /// Notes a place that is not in memory.
    pub fn miss(&mut self, place: (Time, Seq)) {
        self.missing = Some(self.missing.map_or(place, |first| first.min(place)));
    }

    /// Whether something is missing, and half of the memory is free for it.
    pub fn wants_more(&self) -> bool {
        self.missing.is_some() && self.waiting() <= self.held_max / 2
    }

    /// Where to read on from, exclusively, and how many. What is missed from now on is noted
    /// anew, so that reading without the lock loses nothing.
    pub fn start_reading(&mut self, max: usize) -> Option<((Time, Seq), usize)> {
        let limit = max
            .min(self.held_max - self.waiting().min(self.held_max))
            .max(1);
        self.reading = self.missing.take();
        self.reading.map(|place| (before(place), limit))
    }

    /// Takes what was read; a full piece means that there is more behind it.
    pub fn finish_reading(&mut self, piece: &[Open], limit: usize) {
        if piece.len() >= limit
            && let Some(last) = piece.last()
        {
            self.miss((last.at, Seq(last.seq.0.saturating_add(1))));
        }
        piece.iter().for_each(|open| self.hold(*open));
        self.reading = None;
    }

    /// See [`super::Executor::knows`].
    pub fn knows(&self, open: &Open, steady: Duration) -> bool {
        let (id, at) = ((open.seq, open.fence), open.at);
        let behind = |place: &(Time, Seq)| *place <= (at, id.0);
        // What was let go of is about to be given away, or comes back with the next term.
        self.attempts.knows(id, steady)
            || self.released.has(id, open.hash)
            || self.missing.iter().chain(&self.reading).any(behind)
            || self.targets.spilled_before((at, id.0))
    }
}

/// The place right before another, because reading goes on *after* a place.
fn before((at, seq): (Time, Seq)) -> (Time, Seq) {
    match seq.0.checked_sub(1) {
        Some(less) => (at, Seq(less)),
        None => (Time(at.0.saturating_sub(1)), Seq(u64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::{Guard, Settings};

    const NOW: Duration = Duration::from_secs(10);
    const ID: Id = (
        Seq(1),
        Fence {
            epoch: Epoch(1),
            attempt: 1,
        },
    );

    const OPEN: Open = Open {
        at: Time(5),
        seq: ID.0,
        fence: ID.1,
        hash: 65,
    };

    fn release(epoch: Epoch) -> Release {
        Release {
            term: 1,
            total: 64,
            shards: vec![crate::model::Shard(1)],
            epoch,
        }
    }

    #[test]
    fn what_was_let_go_of_in_vain_is_read_again() {
        let (mut core, ..) = about_to_begin();
        core.release(&release(Epoch(1)));
        core.new_term(1);
        assert!(!core.wants_more());
        core.new_term(2);
        assert_eq!(core.start_reading(9), Some((before((Time(0), Seq(0))), 9)));
        core.attempts.remove(ID);
        core.finish_reading(&[OPEN], 9);
        assert_eq!(core.held(), 1);
    }

    #[test]
    fn what_an_earlier_run_had_is_not_taken() {
        let mut core = Core::new(&Settings::new(1, Guard::open()));
        let assigned = |node| Change::Assigned {
            node,
            boot: 2,
            epoch: Epoch(2),
        };
        core.change(&assigned(2));
        core.hold(OPEN);
        assert_eq!(core.held(), 1, "another node's assignment says nothing");
        core.attempts.remove(ID);
        core.change(&assigned(1));
        core.hold(OPEN);
        assert_eq!(core.held(), 1);
    }

    /// One attempt, due at 5, looked up and with a permit.
    fn about_to_begin() -> (Core, TargetKey, Reference) {
        let mut core = Core::new(&Settings::new(1, Guard::open()));
        core.renew(NOW, NOW);
        core.hold(OPEN);
        let reference = core.pop_due(Time(5), 9)[0];
        let key: TargetKey = "a".into();
        assert!(core.route(&key, reference, NOW));
        (core, key, reference)
    }

    #[test]
    fn a_clock_that_jumps_back_at_the_last_moment_is_heard() {
        let (mut core, key, reference) = about_to_begin();
        assert_eq!(core.begin(&key, reference, Time(4), NOW), Begin::Waits);
        core.free(&key);
        assert_eq!((core.held(), core.targets.in_flight()), (1, 0));
    }

    #[test]
    fn a_lease_that_runs_out_at_the_last_moment_is_heard() {
        let (mut core, key, reference) = about_to_begin();
        let late = NOW + Duration::from_millis(1_500);
        assert_eq!(core.begin(&key, reference, Time(5), late), Begin::Waits);
        core.free(&key);
        assert!(core.take(9, late).is_empty());
        assert!(core.renew(late, late), "the renewal matters");
        assert!(!core.renew(late, late), "the next one does not");
        assert_eq!(core.take(9, late).len(), 1);
    }

    #[test]
    fn one_begins_once() {
        let (mut core, key, reference) = about_to_begin();
        assert_eq!(core.begin(&key, reference, Time(5), NOW), Begin::Go);
        assert_eq!(core.begin(&key, reference, Time(5), NOW), Begin::Dropped);
    }

    #[test]
    fn withdrawn_closed_or_released_at_the_last_moment_is_heard() {
        for which in 0..3 {
            let (mut core, key, reference) = about_to_begin();
            match which {
                0 => assert!(core.attempts.withdraw(ID, NOW)),
                1 => core.attempts.close(ID),
                _ => assert_eq!(core.release(&release(Epoch(1))), []),
            }
            assert_eq!(core.begin(&key, reference, Time(5), NOW), Begin::Dropped);
        }
    }

    #[test]
    fn places_follow_each_other() {
        assert_eq!(before((Time(5), Seq(1))), (Time(5), Seq(0)));
        assert_eq!(before((Time(5), Seq(0))), (Time(4), Seq(u64::MAX)));
    }
}
