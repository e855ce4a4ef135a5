//! Who may call next: queues by application and target, places, and turns.
//!
//! ```text
//! a due attempt ─► flow (application, target) ─► the target has room: offered ─► the application's
//!                  a queue                        breaker, places               turn ─► a permit
//! ```
//!
//! * A target has room for as many calls as its places say (`places.rs`), for none while its
//!   breaker is open (`breaker.rs`). Flows that wait for the same target take turns.
//! * Applications with something to call take turns, one call each, so that one with a hundred
//!   thousand due tasks delays another by one call, not by its queue.
//! * While permits run short a target gets no more than twice what is left (the dynamic threshold
//!   of shared buffers): targets that never answer leave permits for the others.
//! * A paused application keeps nothing in memory: what comes up is dropped here, its first place
//!   is remembered, and read again from the state when the pause is over.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::attempts::Id;
use super::breaker::{Breaker, BreakerSettings, BreakerState, Ticket};
use super::places::{Bears, Places};
use crate::model::{Seq, Time, Wait};

/// A due attempt that waits for a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub id: Id,
    pub at: Time,
    /// When it left the hold.
    pub released: Time,
    /// How much its call takes in memory, as far as it is known.
    pub bytes: usize,
    /// When there is no sense in calling any more, as far as it is known.
    pub until: Option<Time>,
    /// That instant has passed while a breaker was open: it is to be given up, and not called.
    pub given_up: bool,
}

/// `scheme://host:port`, in lower case.
pub(super) type TargetKey = Arc<str>;
/// An application's name.
pub(super) type App = Arc<str>;

/// Whose call, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FlowKey {
    pub app: App,
    pub target: TargetKey,
}

/// How a call went, as far as it tells of its target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// Well, badly, or nothing to tell; for the breaker.
    pub went: Option<bool>,
    pub bears: Bears,
    pub took: Duration,
}

impl Told {
    /// The call did not take place.
    pub const NOTHING: Told = Told {
        went: None,
        bears: Bears::Unknown,
        took: Duration::ZERO,
    };
}

/// The bounds of [`Flows`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub per_target: usize,
    pub total: usize,
    /// Bytes of the calls under way.
    pub bytes: usize,
    /// References queued for one target of an application; for all of them twice as many, so that
    /// one target that never answers leaves room for the others.
    pub queue_max: usize,
    pub breaker: BreakerSettings,
}

/// A target that runs short of permits gets this many times what is left.
const THRESHOLD: usize = 2;
/// Flows looked at for one permit at most, while permits run short.
const LOOKED_AT_MAX: usize = 128;
/// Idle targets remembered, with what was learnt of them.
const IDLE_KEPT: usize = 4096;

struct Target {
    in_flight: usize,
    /// Flows that stand in their application's ring on behalf of a place here.
    offered: usize,
    queued: usize,
    /// Applications that wait for a place here, in turn.
    blocked: VecDeque<App>,
    places: Places,
    breaker: Breaker,
    /// When its breaker was last seen not to be closed, on the wall clock.
    broken_until: Option<Time>,
}

impl Target {
    fn has_room(&self, bounds: &Bounds) -> bool {
        // Offered flows will become calls.
        self.in_flight + self.offered < self.places.limit()
            && self
                .breaker
                .lets_through(&bounds.breaker, self.offered as u32)
    }

    fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.queued == 0 && self.offered == 0
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stand {
    #[default]
    Idle,
    /// In its target's queue for a place.
    Blocked,
    /// In its application's ring.
    Offered,
}

#[derive(Default)]
struct Flow {
    queue: VecDeque<Reference>,
    stand: Stand,
    /// The first place that did not fit into the queue.
    spilled: Option<(Time, Seq)>,
}

#[derive(Default)]
struct Application {
    flows: BTreeMap<TargetKey, Flow>,
    /// Targets of offered flows, in turn.
    ring: VecDeque<TargetKey>,
    in_ring: bool,
    queued: usize,
    in_flight: usize,
    paused: bool,
    /// When it was last resumed.
    resumed: Option<Time>,
    /// The first place that was not kept because of the application's own bound, or its pause.
    spilled: Option<(Time, Seq)>,
}

/// Notes one more place that was not kept.
fn spill(first: &mut Option<(Time, Seq)>, reference: Reference) {
    let place = (reference.at, reference.id.0);
    *first = Some(first.map_or(place, |first| first.min(place)));
}

/// What one target looks like from outside.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetView {
    pub target: String,
    pub breaker: BreakerState,
    /// Calls that count for the breaker, and how many of them failed.
    pub calls: u32,
    pub failed: u32,
    /// Places at present.
    pub places: usize,
    pub in_flight: usize,
    pub queued: usize,
}

/// See the module.
pub(super) struct Flows {
    bounds: Bounds,
    targets: HashMap<TargetKey, Target>,
    apps: HashMap<App, Application>,
    /// Applications with an offered flow, in turn.
    ring: VecDeque<App>,
    /// Open breakers, by the instant at which they become half-open.
    open: BTreeSet<(Duration, TargetKey)>,
    in_flight: usize,
    bytes: usize,
    queued: usize,
    sweep_at: usize,
}

/// A permit: to be given back by [`Flows::free`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Grant {
    ticket: Ticket,
    bytes: usize,
}

impl Flows {
    pub fn new(bounds: Bounds) -> Flows {
        Flows {
            bounds: Bounds {
                per_target: bounds.per_target.max(1),
                total: bounds.total.max(1),
                queue_max: bounds.queue_max.max(1),
                ..bounds
            },
            targets: HashMap::new(),
            apps: HashMap::new(),
            ring: VecDeque::new(),
            open: BTreeSet::new(),
            in_flight: 0,
            bytes: 0,
            queued: 0,
            sweep_at: IDLE_KEPT,
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

    /// The instant of what has waited longest, of those that are next in their flows. What waits
    /// at a target that is left alone does not count: this node could not call it either way.
    pub fn oldest(&self) -> Option<Time> {
        let flows = self.apps.values().flat_map(|app| &app.flows);
        let called = flows.filter(|(target, _)| !self.is_broken(target));
        let fronts = called.filter_map(|(_, flow)| flow.queue.front());
        fronts.map(|reference| reference.at).min()
    }

    fn is_broken(&self, target: &TargetKey) -> bool {
        let target = self.targets.get(target);
        target.is_some_and(|target| target.breaker.state() != BreakerState::Closed)
    }

    /// The bound on permits.
    pub fn total(&self) -> usize {
        self.bounds.total
    }

    /// Whether an open breaker's time has come.
    pub fn is_due(&self, steady: Duration) -> bool {
        self.open.first().is_some_and(|(until, _)| *until <= steady)
    }

    pub fn is_paused(&self, app: &str) -> bool {
        self.apps.get(app).is_some_and(|app| app.paused)
    }

    /// Takes a permit out of turn: only when nobody waits for one.
    pub fn reserve(&mut self, key: &FlowKey, reference: Reference) -> Option<Grant> {
        let bytes = self.bytes.saturating_add(reference.bytes);
        let free = self.bounds.total - self.in_flight;
        if !self.ring.is_empty() || free == 0 || (self.bytes > 0 && bytes > self.bounds.bytes) {
            return None;
        }
        let bounds = self.bounds;
        let app = self.apps.entry(key.app.clone()).or_default();
        if app.paused || app.flows.contains_key(&key.target) {
            return None;
        }
        let target = self.target(&key.target);
        let scarce = target.in_flight > 0 && target.in_flight >= free.saturating_mul(THRESHOLD);
        if scarce || !target.blocked.is_empty() || !target.has_room(&bounds) {
            return None;
        }
        target.in_flight += 1;
        let ticket = target.breaker.begin();
        self.in_flight += 1;
        self.bytes = bytes;
        if let Some(app) = self.apps.get_mut(&key.app) {
            app.in_flight += 1;
        }
        let bytes = reference.bytes;
        Some(Grant { ticket, bytes })
    }

    /// Whether somebody may be called, as far as is known without looking.
    pub fn is_ready(&self) -> bool {
        !self.ring.is_empty() && self.in_flight < self.bounds.total
    }

    /// Queues; false when it is not kept, and its place is noted.
    pub fn push(&mut self, key: &FlowKey, reference: Reference) -> bool {
        let max = self.bounds.queue_max;
        let app = self.apps.entry(key.app.clone()).or_default();
        if app.paused || app.queued >= max * 2 {
            spill(&mut app.spilled, reference);
            return false;
        }
        let flow = app.flows.entry(key.target.clone()).or_default();
        if flow.queue.len() >= max {
            spill(&mut flow.spilled, reference);
            return false;
        }
        flow.queue.push_back(reference);
        self.count(key, true);
        self.want(key);
        true
    }

    /// Puts back what was taken and could not begin; its permit is freed separately. False as
    /// with [`Flows::push`], when its application was paused meanwhile.
    pub fn put_back(&mut self, key: &FlowKey, reference: Reference) -> bool {
        if self.is_paused(&key.app) {
            return self.push(key, reference);
        }
        let app = self.apps.entry(key.app.clone()).or_default();
        let flow = app.flows.entry(key.target.clone()).or_default();
        flow.queue.push_front(reference);
        self.count(key, true);
        self.want(key);
        true
    }

    /// The next reference in turn, with a permit.
    pub fn take(&mut self, steady: Duration) -> Option<(FlowKey, Reference, Grant)> {
        self.poll(steady);
        for _ in 0..LOOKED_AT_MAX {
            if self.in_flight >= self.bounds.total {
                return None;
            }
            let name = self.ring.pop_front()?;
            let free = self.bounds.total - self.in_flight;
            let Some(app) = self.apps.get_mut(&name) else {
                continue;
            };
            app.in_ring = false;
            let Some(target) = app.ring.pop_front() else {
                continue;
            };
            let key = FlowKey { app: name, target };
            let next = app.flows.get(&key.target).and_then(|f| f.queue.front());
            let bytes = next.map_or(0, |reference| reference.bytes);
            let in_flight = self.targets.get(&key.target).map_or(0, |t| t.in_flight);
            if in_flight > 0 && in_flight >= free.saturating_mul(THRESHOLD) {
                app.ring.push_back(key.target.clone());
                self.stand_in_ring(&key.app);
                continue;
            }
            if self.bytes > 0 && self.bytes.saturating_add(bytes) > self.bounds.bytes {
                // Its turn stays its own; what is under way makes room.
                app.ring.push_front(key.target.clone());
                app.in_ring = true;
                self.ring.push_front(key.app);
                return None;
            }
            self.stand_in_ring(&key.app);
            if let Some((reference, grant)) = self.grant(&key) {
                return Some((key, reference, grant));
            }
        }
        None
    }

    /// Takes the first of an offered flow, and lets the next flow have the offer.
    fn grant(&mut self, key: &FlowKey) -> Option<(Reference, Grant)> {
        let app = self.apps.get_mut(&key.app)?;
        let flow = app.flows.get_mut(&key.target)?;
        flow.stand = Stand::Idle;
        let taken = flow.queue.pop_front();
        let target = self.target(&key.target);
        target.offered = target.offered.saturating_sub(1);
        let granted = taken.map(|reference| {
            target.in_flight += 1;
            let ticket = target.breaker.begin();
            let bytes = reference.bytes;
            (reference, Grant { ticket, bytes })
        });
        if let Some((reference, _)) = &granted {
            self.in_flight += 1;
            self.bytes += reference.bytes;
            self.count(key, false);
            if let Some(app) = self.apps.get_mut(&key.app) {
                app.in_flight += 1;
            }
        }
        self.want(key);
        granted
    }

    /// Attempts that wait at an open breaker beyond their time, each with a permit.
    pub fn overdue(&mut self, wall: Time) -> Vec<(FlowKey, Reference, Grant)> {
        let open: Vec<TargetKey> = self.open.iter().map(|(_, key)| key.clone()).collect();
        let mut overdue = Vec::new();
        for target in open {
            for (app, application) in &mut self.apps {
                let Some(flow) = application.flows.get_mut(&target) else {
                    continue;
                };
                let late = |r: &Reference| r.until.is_some_and(|until| until <= wall);
                overdue.extend(flow.queue.iter().filter(|r| late(r)).map(|r| {
                    let (app, target) = (app.clone(), target.clone());
                    (FlowKey { app, target }, *r)
                }));
                flow.queue.retain(|r| !late(r));
            }
        }
        overdue
            .into_iter()
            .map(|(key, reference)| {
                self.count(&key, false);
                self.in_flight += 1;
                self.bytes += reference.bytes;
                if let Some(app) = self.apps.get_mut(&key.app) {
                    app.in_flight += 1;
                    let flow = app.flows.get_mut(&key.target);
                    let empty = flow.filter(|flow| flow.queue.is_empty());
                    if let Some(flow) = empty
                        && std::mem::take(&mut flow.stand) == Stand::Blocked
                    {
                        let target = self.target(&key.target);
                        target.blocked.retain(|app| *app != key.app);
                    }
                }
                let target = self.target(&key.target);
                target.in_flight += 1;
                let (ticket, bytes) = (target.breaker.begin(), reference.bytes);
                self.want(&key);
                let given_up = true;
                let reference = Reference {
                    given_up,
                    ..reference
                };
                (key, reference, Grant { ticket, bytes })
            })
            .collect()
    }

    /// Whether some breaker is open.
    pub fn is_open_somewhere(&self) -> bool {
        !self.open.is_empty()
    }

    /// Gives a permit back, with what the call told of its target.
    pub fn free(&mut self, key: &FlowKey, grant: Grant, told: Told, now: (Time, Duration)) {
        let (wall, steady) = now;
        self.in_flight -= 1;
        self.bytes -= grant.bytes;
        if let Some(app) = self.apps.get_mut(&key.app) {
            app.in_flight -= 1;
        }
        let settings = self.bounds.breaker;
        let target = self.target(&key.target);
        target
            .places
            .end(told.bears, told.took, target.in_flight, steady);
        target.in_flight -= 1;
        let before = target.breaker.state();
        target
            .breaker
            .end(&settings, grant.ticket, told.went, steady);
        let after = target.breaker.state();
        if before != BreakerState::Closed || after != BreakerState::Closed {
            target.broken_until = Some(wall);
        }
        if let (false, BreakerState::Open { until }) = (before == after, after) {
            self.open.insert((until, key.target.clone()));
            self.withdraw_offers(&key.target);
        }
        self.offer(&key.target);
        self.tidy(key);
    }

    /// Why an attempt had to wait until now, besides for its turn.
    pub fn waited_for(&self, key: &FlowKey, reference: Reference) -> Wait {
        let app = self.apps.get(&key.app).and_then(|app| app.resumed);
        let target = self.targets.get(&key.target).and_then(|t| t.broken_until);
        if app.is_some_and(|resumed| resumed >= reference.at) {
            Wait::Paused
        } else if target.is_some_and(|broken| broken >= reference.released) {
            Wait::Breaker
        } else {
            Wait::Turn
        }
    }

    /// Pauses just these applications; what they had waiting comes back, to be forgotten.
    /// Returns also the first place to read again, for those that were resumed.
    pub fn set_paused(
        &mut self,
        paused: &BTreeSet<App>,
        wall: Time,
    ) -> (Vec<Reference>, Option<(Time, Seq)>) {
        let mut dropped = Vec::new();
        for name in paused {
            if !self.is_paused(name) {
                dropped.extend(self.pause(name));
            }
        }
        let resumed: Vec<App> = self
            .apps
            .iter()
            .filter(|(name, app)| app.paused && !paused.contains(*name))
            .map(|(name, _)| name.clone())
            .collect();
        let mut first = None;
        for name in resumed {
            let Some(app) = self.apps.get_mut(&name) else {
                continue;
            };
            app.paused = false;
            app.resumed = Some(wall);
            first = first.into_iter().chain(app.spilled.take()).min();
            // With nothing to come, nobody would forget it later.
            if app.in_flight == 0 && first.is_none() {
                self.apps.remove(&name);
            }
        }
        (dropped, first)
    }

    fn pause(&mut self, name: &App) -> Vec<Reference> {
        let app = self.apps.entry(name.clone()).or_default();
        app.paused = true;
        app.ring.clear();
        let (flows, queued) = (
            std::mem::take(&mut app.flows),
            std::mem::take(&mut app.queued),
        );
        self.queued -= queued;
        let (mut dropped, mut spilled) = (Vec::with_capacity(queued), Vec::new());
        for (key, flow) in flows {
            let target = self.target(&key);
            target.queued -= flow.queue.len();
            match flow.stand {
                Stand::Offered => target.offered = target.offered.saturating_sub(1),
                Stand::Blocked => target.blocked.retain(|app| app != name),
                Stand::Idle => {}
            }
            self.offer(&key);
            spilled.extend(flow.spilled);
            dropped.extend(flow.queue);
        }
        spilled.extend(dropped.iter().map(|r| (r.at, r.id.0)));
        if let Some(app) = self.apps.get_mut(name) {
            app.spilled = app.spilled.into_iter().chain(spilled).min();
        }
        dropped
    }

    /// Where to read again from, once this flow, or its application, has room again.
    pub fn unspill(&mut self, key: &FlowKey) -> Option<(Time, Seq)> {
        let max = self.bounds.queue_max;
        let app = self.apps.get_mut(&key.app)?;
        // What one stuck target holds must not keep the others from being read again.
        if app.paused || app.queued > max + max / 2 {
            return None;
        }
        let whole = app.spilled.take();
        let flow = app.flows.get_mut(&key.target);
        let flow = flow.filter(|flow| flow.queue.len() <= max / 2);
        let part = flow.and_then(|flow| flow.spilled.take());
        if part.is_some() {
            self.want(key);
        }
        whole.into_iter().chain(part).min()
    }

    /// Whether something that lies at a place was not kept.
    pub fn spilled_before(&self, place: (Time, Seq)) -> bool {
        let before = |spilled: Option<(Time, Seq)>| spilled.is_some_and(|first| first <= place);
        self.apps
            .values()
            .any(|app| before(app.spilled) || app.flows.values().any(|flow| before(flow.spilled)))
    }

    /// The targets that something is to be said of: waiting, called, limited or broken.
    pub fn view(&self, steady: Duration) -> Vec<TargetView> {
        let settings = &self.bounds.breaker;
        let mut views: Vec<TargetView> = self
            .targets
            .iter()
            .map(|(key, target)| {
                let (calls, failed) = target.breaker.counted(settings, steady);
                TargetView {
                    target: key.to_string(),
                    breaker: target.breaker.state(),
                    calls,
                    failed,
                    places: target.places.limit(),
                    in_flight: target.in_flight,
                    queued: target.queued,
                }
            })
            .collect();
        views.sort_by(|a, b| a.target.cmp(&b.target));
        views
    }

    fn target(&mut self, key: &TargetKey) -> &mut Target {
        if !self.targets.contains_key(key) {
            let target = Target {
                in_flight: 0,
                offered: 0,
                queued: 0,
                blocked: VecDeque::new(),
                places: Places::new(self.bounds.per_target),
                breaker: Breaker::default(),
                broken_until: None,
            };
            self.targets.insert(key.clone(), target);
        }
        #[allow(clippy::unwrap_used)] // It was put there just now.
        self.targets.get_mut(key).unwrap()
    }

    fn count(&mut self, key: &FlowKey, more: bool) {
        let by = |n: usize| if more { n + 1 } else { n - 1 };
        self.queued = by(self.queued);
        let target = self.target(&key.target);
        target.queued = by(target.queued);
        if let Some(app) = self.apps.get_mut(&key.app) {
            app.queued = by(app.queued);
        }
    }

    /// A flow with something to call stands in its target's queue for a place.
    fn want(&mut self, key: &FlowKey) {
        let Some(app) = self.apps.get_mut(&key.app) else {
            return;
        };
        let Some(flow) = app.flows.get_mut(&key.target) else {
            return;
        };
        let idle = flow.queue.is_empty() && flow.stand == Stand::Idle;
        if idle && flow.spilled.is_none() {
            app.flows.remove(&key.target);
        } else if flow.stand == Stand::Idle && !idle {
            flow.stand = Stand::Blocked;
            let app = key.app.clone();
            self.target(&key.target).blocked.push_back(app);
        }
        self.offer(&key.target);
    }

    /// Gives the places that a target has left to the flows that wait for one.
    fn offer(&mut self, key: &TargetKey) {
        loop {
            let bounds = self.bounds;
            let Some(target) = self.targets.get_mut(key) else {
                return;
            };
            if !target.has_room(&bounds) {
                return;
            }
            let Some(name) = target.blocked.pop_front() else {
                return;
            };
            target.offered += 1;
            if let Some(app) = self.apps.get_mut(&name) {
                if let Some(flow) = app.flows.get_mut(key) {
                    flow.stand = Stand::Offered;
                }
                app.ring.push_back(key.clone());
            }
            self.stand_in_ring(&name);
        }
    }

    fn stand_in_ring(&mut self, name: &App) {
        if let Some(app) = self.apps.get_mut(name)
            && !app.in_ring
            && !app.ring.is_empty()
        {
            app.in_ring = true;
            self.ring.push_back(name.clone());
        }
    }

    /// A breaker has opened: whoever had an offer waits again, first in line.
    fn withdraw_offers(&mut self, key: &TargetKey) {
        let mut names = Vec::new();
        for (name, app) in &mut self.apps {
            if let Some(flow) = app.flows.get_mut(key)
                && flow.stand == Stand::Offered
            {
                flow.stand = Stand::Blocked;
                app.ring.retain(|target| target != key);
                names.push(name.clone());
            }
        }
        // The order of the map must not decide whose turn it is.
        names.sort();
        let target = self.target(key);
        target.offered = 0;
        names
            .into_iter()
            .for_each(|name| target.blocked.push_front(name));
    }

    /// Breakers whose time has come let probes through.
    fn poll(&mut self, steady: Duration) {
        while self.is_due(steady) {
            let Some((_, key)) = self.open.pop_first() else {
                return;
            };
            if let Some(target) = self.targets.get_mut(&key) {
                target.breaker.poll(steady);
            }
            self.offer(&key);
        }
    }

    /// Forgets what has nothing to do: names seen once cost nothing for ever.
    fn tidy(&mut self, key: &FlowKey) {
        let idle = |app: &Application| {
            app.queued == 0
                && app.in_flight == 0
                && !app.paused
                && !app.in_ring
                && app.spilled.is_none()
                && app.flows.is_empty()
        };
        // A resumed one tells for a while why its tasks are late: for as long as it is busy.
        if self.apps.get(&key.app).is_some_and(idle) {
            self.apps.remove(&key.app);
        }
        if self.targets.len() > self.sweep_at {
            let closed = |target: &Target| target.breaker.state() == BreakerState::Closed;
            self.targets
                .retain(|_, target| !(target.is_idle() && closed(target)));
            self.sweep_at = IDLE_KEPT.max(self.targets.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests;
