//! The one lock: holding, queues, permits, lease, withdrawals, and the test-and-set between them.
//!
//! Nothing here does I/O, reads a clock or calls out, so that the lock is short and every rule
//! can be tested by itself.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::attempts::{Attempts, Id, Place};
use super::away::Away;
use super::flows::{Bounds, FlowKey, Flows, Grant, Reference, Told};
use super::released::Released;
use crate::bugs::{self, Bug};
use crate::model::{Change, Epoch, Fence, NodeId, Seq, Time, Wait};
use crate::state::{Open, Release};

/// How often it is looked after what nobody asks for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
    pub targets: Flows,
    pub away: Away,
    contact: Option<Duration>,
    released: Released,
    /// What is older belongs to an earlier run of this node.
    since: Option<Epoch>,
    pub stopping: bool,
    /// Asks the holding thread to hand out permits.
    pub kicked: bool,
    /// When it was last looked after what nobody else asks for.
    looked: Duration,
    /// It has to be looked what waits at open breakers in vain.
    finds_overdue: bool,
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
            targets: Flows::new(Bounds {
                per_target: settings.per_target,
                total: settings.total,
                bytes: settings.bytes,
                queued: held_max,
                breaker: settings.breaker,
            }),
            away: Away::default(),
            contact: None,
            released: Released::default(),
            since: None,
            stopping: false,
            kicked: false,
            looked: Duration::ZERO,
            finds_overdue: false,
        }
    }

    /// Takes one change of the fold.
    pub fn change(&mut self, change: &Change, wall: Time) {
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
            Change::Paused { .. } if bugs::on(Bug::PausedAppCalled) => {}
            Change::Paused { ref apps } => {
                let (dropped, again) = self.targets.set_paused(apps, wall);
                dropped.iter().for_each(|one| self.attempts.remove(one.id));
                again.into_iter().for_each(|place| self.miss(place));
                self.kicked = true;
            }
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
            let Some(Reverse((_, seq, fence))) = self.heap.pop() else {
                break;
            };
            let id = (seq, fence);
            let held = self.attempts.get(id).filter(|e| e.place == Place::Held);
            // Its own instant, also where it was held for longer.
            let Some(at) = held.map(|entry| entry.at) else {
                continue;
            };
            if self.admit(id) {
                self.attempts.put(id, Place::Queued);
                due.push(Reference {
                    id,
                    at,
                    released: now,
                    bytes: 0,
                    until: None,
                    given_up: false,
                    moves: false,
                });
            }
        }
        due
    }

    /// Whether a waiting attempt may go on; parks what is withdrawn, drops what was let go.
    pub fn admit(&mut self, id: Id) -> bool {
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

    /// Gives a due attempt a permit, or queues it.
    pub fn route(
        &mut self,
        key: &FlowKey,
        reference: Reference,
        steady: Duration,
    ) -> Option<Grant> {
        let queued = self.attempts.get(reference.id).map(|entry| entry.place);
        if queued != Some(Place::Queued) {
            return None;
        }
        let leased = self.may_start(steady);
        let grant = leased
            .then(|| self.targets.reserve(key, reference))
            .flatten();
        if grant.is_none() && !self.targets.push(key, reference) {
            self.attempts.remove(reference.id);
        }
        self.kicked |= leased && self.targets.is_ready();
        grant
    }

    /// The next attempts in turn, each with a permit, at most `max`.
    pub fn take(&mut self, max: usize, steady: Duration) -> Vec<(FlowKey, Reference, Grant)> {
        let mut taken = Vec::new();
        while taken.len() < max && self.may_start(steady) {
            let Some((key, reference, grant)) = self.targets.take(steady) else {
                break;
            };
            if let Some(place) = self.targets.unspill(&key) {
                self.miss(place);
            }
            let queued = self.attempts.get(reference.id).map(|entry| entry.place);
            if queued == Some(Place::Queued) && self.admit(reference.id) {
                taken.push((key, reference, grant));
            } else {
                let now = (Time::default(), steady);
                self.targets.free(&key, grant, Told::NOTHING, now);
            }
        }
        taken
    }

    /// Whether permits may be handed out: somebody asked for it, a breaker's time has come, or what
    /// waits at open ones is to be looked after. Once in a while that is looked at, and whether there
    /// is room again for what did not fit.
    pub fn wakes(&mut self, steady: Duration) -> bool {
        if steady >= self.looked.saturating_add(LOOK_EVERY) {
            self.looked = steady;
            self.finds_overdue = self.targets.opens_at().is_some();
            if let Some(place) = self.targets.unspill_all() {
                self.miss(place);
            }
        }
        let half_open = self.targets.poll(steady);
        let overdue = self.finds_overdue && self.may_start(steady);
        std::mem::take(&mut self.kicked) || half_open || overdue
    }

    /// What waited at open breakers beyond its time, each with a permit, at most `max`.
    pub fn overdue(
        &mut self,
        max: usize,
        wall: Time,
        steady: Duration,
    ) -> Vec<(FlowKey, Reference, Grant)> {
        if !self.finds_overdue || !self.may_start(steady) {
            return Vec::new();
        }
        let overdue = self.targets.overdue(wall, max);
        self.finds_overdue = overdue.len() == max;
        overdue
    }

    /// The test-and-set. The caller holds a permit, which it keeps only on [`Begin::Go`].
    pub fn begin(
        &mut self,
        key: &FlowKey,
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
            self.hold_until(id, reference.at);
            return Begin::Waits;
        }
        if !self.may_start(steady) || self.targets.is_paused(&key.app) {
            if !self.targets.put_back(key, reference) {
                self.attempts.remove(id);
            }
            return Begin::Waits;
        }
        self.attempts.begin(id, wall, steady);
        Begin::Go
    }

    /// Why an attempt had to wait until now.
    pub fn waited_for(&self, key: &FlowKey, reference: Reference) -> Wait {
        let entry = self.attempts.get(reference.id);
        match entry.is_some_and(|entry| entry.homeless) {
            true => Wait::Node,
            false => self.targets.waited_for(key, reference),
        }
    }

    /// Gives a permit back, and notes where to read again when its queue has room.
    pub fn free(&mut self, key: &FlowKey, grant: Grant, told: Told, now: (Time, Duration)) {
        let place = self.targets.unspill(key);
        self.targets.free(key, grant, told, now);
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
            self.hold_until(id, entry.at);
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

    /// When the lease ends, on the steady clock.
    pub fn leased_until(&self) -> Duration {
        self.contact
            .map_or(Duration::ZERO, |contact| contact.saturating_add(self.lease))
    }

    pub fn me(&self) -> NodeId {
        self.node
    }

    pub fn held_max(&self) -> usize {
        self.held_max
    }

    /// Whether this node has let go of an attempt's shard.
    pub fn is_released(&self, id: Id, hash: u64) -> bool {
        self.released.has(id, hash)
    }

    /// Holds a known attempt until an instant, and then looks at it again.
    pub fn hold_until(&mut self, id: Id, until: Time) {
        self.attempts.put(id, Place::Held);
        self.heap.push(Reverse((until, id.0, id.1)));
    }

    pub fn may_start(&self, steady: Duration) -> bool {
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

    /// Whether something is missing, and half of what the queues leave of the memory is free for it.
    pub fn wants_more(&self) -> bool {
        let left = self.held_max.saturating_sub(self.targets.queued());
        self.missing.is_some() && self.held() <= left / 2
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

    /// See [`super::Executor::knows`]; what was not kept of a flow is not counted here.
    pub fn knows(&self, open: &Open, steady: Duration) -> bool {
        let (id, place) = ((open.seq, open.fence), (open.at, open.seq));
        self.attempts.knows(id, steady)
            // What was let go of is about to be given away, or comes back with the next term.
            || self.released.has(id, open.hash)
            || self.missing.iter().chain(&self.reading).any(|first| *first <= place)
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
mod tests;
