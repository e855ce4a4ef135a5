//! Who may call next: queues by application and target, places, and turns.
//!
//! ```text
//! a due attempt ─► flow (application, target) ─► the target has room: offered ─► the application's
//!                  a queue (kept.rs)              breaker, places (targets.rs)   turn ─► a permit
//! ```
//!
//! * A target has room for as many calls as its places say (`places.rs`), for none while its
//!   breaker is open (`breaker.rs`). Flows that wait for the same target take turns.
//! * Applications with something to call take turns, one call each, so that one with a hundred
//!   thousand due tasks delays another by one call, not by its queue.
//! * While permits run short a target gets no more than twice what is left (the dynamic threshold
//!   of shared buffers): targets that never answer leave permits for the others.
//! * Memory is shared alike (`kept.rs`): what does not fit is remembered by its first place and read
//!   again from the state. Of a paused application nothing is kept.

mod kept;
mod targets;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::attempts::Id;
use super::breaker::{BreakerSettings, Ticket};
use super::places::Bears;
use crate::model::{Seq, Time, Wait};
use targets::Target;

pub use targets::TargetView;

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
    /// Another node may carry it out when this one has too much to do.
    pub moves: bool,
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
    /// References queued in all.
    pub queued: usize,
    pub breaker: BreakerSettings,
}

/// A target that runs short of permits gets this many times what is left.
const THRESHOLD: usize = 2;
/// Flows looked at for one permit at most, while permits run short.
const LOOKED_AT_MAX: usize = 128;
/// So far from its head a queue is searched for what may move.
const GIVEN_FROM: usize = 64;
/// Idle targets remembered, with what was learnt of them.
const IDLE_KEPT: usize = 4096;

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
    /// When it was last resumed: what was due before has waited for that.
    resumed: Option<Time>,
    /// The first place that was not kept because of the application's own bound, or its pause.
    spilled: Option<(Time, Seq)>,
}

impl Application {
    fn flow(&mut self, target: &TargetKey) -> &mut Flow {
        self.flows.entry(target.clone()).or_default()
    }

    fn is_idle(&self) -> bool {
        self.flows.is_empty()
            && self.in_flight == 0
            && !self.paused
            && !self.in_ring
            && self.spilled.is_none()
    }
}

/// See the module.
pub(super) struct Flows {
    bounds: Bounds,
    targets: HashMap<TargetKey, Target>,
    apps: BTreeMap<App, Application>,
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
                queued: bounds.queued.max(4),
                ..bounds
            },
            targets: HashMap::new(),
            apps: BTreeMap::new(),
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

    /// The bound on permits.
    pub fn total(&self) -> usize {
        self.bounds.total
    }

    /// Permits left.
    fn left(&self) -> usize {
        self.bounds.total.saturating_sub(self.in_flight)
    }

    /// Whether somebody may be called, as far as is known without looking.
    pub fn is_ready(&self) -> bool {
        !self.ring.is_empty() && self.left() > 0
    }

    /// Takes a permit out of turn: only when nobody waits for one.
    pub fn reserve(&mut self, key: &FlowKey, reference: Reference) -> Option<Grant> {
        let waited_for = |app: &Application| app.paused || app.flows.contains_key(&key.target);
        let in_turn = !self.ring.is_empty() || self.apps.get(&key.app).is_some_and(waited_for);
        if in_turn || self.left() == 0 || !self.fits(reference) || self.is_scarce(&key.target) {
            return None;
        }
        let bounds = self.bounds;
        let target = self.target(&key.target);
        if !target.blocked.is_empty() || !target.has_room(&bounds) {
            return None;
        }
        Some(self.permit(key, reference))
    }

    /// One call more, if there is any, stays within the bytes.
    fn fits(&self, reference: Reference) -> bool {
        self.bytes == 0 || self.bytes.saturating_add(reference.bytes) <= self.bounds.bytes
    }

    /// A target has its part of the permits while these run short.
    fn is_scarce(&self, target: &TargetKey) -> bool {
        let in_flight = self.targets.get(target).map_or(0, |t| t.in_flight);
        in_flight > 0 && in_flight >= self.left().saturating_mul(THRESHOLD)
    }

    /// Counts a call that is about to begin.
    fn permit(&mut self, key: &FlowKey, reference: Reference) -> Grant {
        self.in_flight += 1;
        self.bytes += reference.bytes;
        self.apps.entry(key.app.clone()).or_default().in_flight += 1;
        let target = self.target(&key.target);
        target.in_flight += 1;
        Grant {
            ticket: target.breaker.begin(),
            bytes: reference.bytes,
        }
    }

    /// The next reference in turn, with a permit.
    pub fn take(&mut self, steady: Duration) -> Option<(FlowKey, Reference, Grant)> {
        self.poll(steady);
        for _ in 0..LOOKED_AT_MAX {
            if self.left() == 0 {
                return None;
            }
            let name = self.ring.pop_front()?;
            let Some(app) = self.apps.get_mut(&name) else {
                continue;
            };
            app.in_ring = false;
            let Some(target) = app.ring.pop_front() else {
                continue;
            };
            let key = FlowKey { app: name, target };
            let flow = app.flows.get(&key.target);
            let Some(next) = flow.and_then(|flow| flow.queue.front()).copied() else {
                self.pass_on(&key);
                continue;
            };
            if self.is_scarce(&key.target) {
                self.app(&key.app).ring.push_back(key.target.clone());
                self.stand_in_ring(&key.app);
                continue;
            }
            if !self.fits(next) {
                // Its turn stays its own; what is under way makes room.
                let app = self.app(&key.app);
                app.ring.push_front(key.target);
                app.in_ring = true;
                self.ring.push_front(key.app);
                return None;
            }
            let grant = self.permit(&key, next);
            self.app(&key.app).flow(&key.target).queue.pop_front();
            self.count(&key, false);
            self.pass_on(&key);
            return Some((key, next, grant));
        }
        None
    }

    /// An offer was used, or was for nothing: the next one of the target has it.
    fn pass_on(&mut self, key: &FlowKey) {
        self.stand_in_ring(&key.app);
        self.app(&key.app).flow(&key.target).stand = Stand::Idle;
        let target = self.target(&key.target);
        target.offered = target.offered.saturating_sub(1);
        self.want(key);
    }

    /// What has waited longest and may move, without a permit: for another node. Looks at the first
    /// few of the queue whose head has waited longest; what waits at a target that is left alone
    /// could not be called from there either.
    pub fn give(&mut self) -> Option<(FlowKey, Reference)> {
        let mut first: Option<((Time, Id), &App, &TargetKey, usize)> = None;
        for (name, app) in &self.apps {
            for (target, flow) in &app.flows {
                let Some(head) = flow.queue.front().map(|head| (head.at, head.id)) else {
                    continue;
                };
                let later = first.as_ref().is_some_and(|(least, ..)| *least <= head);
                if later || self.is_broken(target) {
                    continue;
                }
                let mut few = flow.queue.iter().take(GIVEN_FROM);
                if let Some(place) = few.position(|reference| reference.moves) {
                    first = Some((head, name, target, place));
                }
            }
        }
        let (_, app, target, place) = first?;
        let (app, target) = (app.clone(), target.clone());
        let key = FlowKey { app, target };
        let reference = self.app(&key.app).flow(&key.target).queue.remove(place)?;
        self.count(&key, false);
        self.stand_down(&key);
        self.tidy(&key.app);
        Some((key, reference))
    }

    /// A flow that something was taken from out of turn stands nowhere any more if it is empty.
    fn stand_down(&mut self, key: &FlowKey) {
        let app = self.app(&key.app);
        let flow = app.flow(&key.target);
        if flow.queue.is_empty() {
            match std::mem::take(&mut flow.stand) {
                Stand::Idle => {}
                Stand::Blocked => {
                    let target = self.target(&key.target);
                    target.blocked.retain(|app| *app != key.app);
                }
                Stand::Offered => {
                    app.ring.retain(|target| *target != key.target);
                    if app.ring.is_empty() && std::mem::take(&mut app.in_ring) {
                        self.ring.retain(|name| *name != key.app);
                    }
                    let target = self.target(&key.target);
                    target.offered = target.offered.saturating_sub(1);
                }
            }
        }
        self.want(key);
    }

    /// Gives a permit back, with what the call told of its target.
    pub fn free(&mut self, key: &FlowKey, grant: Grant, told: Told, now: (Time, Duration)) {
        self.in_flight -= 1;
        self.bytes -= grant.bytes;
        self.app(&key.app).in_flight -= 1;
        self.hear(&key.target, grant.ticket, told, now);
        self.offer(&key.target);
        self.tidy(&key.app);
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

    fn app(&mut self, name: &App) -> &mut Application {
        self.apps.entry(name.clone()).or_default()
    }

    fn count(&mut self, key: &FlowKey, more: bool) {
        let by = |n: usize| if more { n + 1 } else { n - 1 };
        self.queued = by(self.queued);
        let target = self.target(&key.target);
        target.queued = by(target.queued);
        let app = self.app(&key.app);
        app.queued = by(app.queued);
    }

    /// A flow with something to call stands in its target's queue for a place.
    fn want(&mut self, key: &FlowKey) {
        let Some(app) = self.apps.get_mut(&key.app) else {
            return;
        };
        let Some(flow) = app.flows.get_mut(&key.target) else {
            return;
        };
        if flow.stand == Stand::Idle && !flow.queue.is_empty() {
            flow.stand = Stand::Blocked;
            let app = key.app.clone();
            self.target(&key.target).blocked.push_back(app);
        } else if flow.stand == Stand::Idle && flow.spilled.is_none() {
            app.flows.remove(&key.target);
        }
        self.offer(&key.target);
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

    /// Forgets what has nothing to do: names seen once cost nothing for ever. Of an application that
    /// was resumed not all may have been read again, though it is idle for a moment; those few are
    /// forgotten with the next sweep.
    fn tidy(&mut self, app: &App) {
        let is_over = |app: &Application| app.is_idle() && app.resumed.is_none();
        if self.apps.get(app).is_some_and(is_over) {
            self.apps.remove(app);
        }
        if self.targets.len() > self.sweep_at {
            self.targets.retain(|_, target| !target.is_idle());
            self.apps.retain(|_, app| !app.is_idle());
            self.sweep_at = IDLE_KEPT.max(self.targets.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests;
