//! What is kept in memory, and from where on the rest is read again.
//!
//! Memory is shared by the dynamic threshold of shared buffers: an application may queue as much as
//! is left besides all queues, and half of the memory at most; one of its flows as much as the
//! application may queue besides what it has, and a quarter at most. So however many targets never
//! answer, and whosesoever they are, a part is left for those that do. What does not fit is dropped,
//! its first place is noted, and from there the state is read again when there is room.

use std::collections::BTreeSet;

use super::{App, Application, Bounds, FlowKey, Flows, Reference, Stand};
use crate::model::{Seq, Time};

/// Of all that is queued one application has half at most…
const OF_ONE_APP: usize = 2;
/// …and one flow a quarter.
const OF_ONE_FLOW: usize = 4;

/// A place in order of due instants.
type Spot = (Time, Seq);

/// Notes one more place that was not kept.
fn spill(first: &mut Option<Spot>, reference: Reference) {
    let place = (reference.at, reference.id.0);
    *first = Some(first.map_or(place, |first| first.min(place)));
}

impl Bounds {
    /// How much a flow may have queued, in an application that has so much of what it may have.
    fn most_of_flow(&self, most: usize, queued: usize) -> usize {
        most.saturating_sub(queued).min(self.queued / OF_ONE_FLOW)
    }
}

impl Flows {
    /// How much an application may have queued at present.
    fn most(&self) -> usize {
        let free = self.bounds.queued.saturating_sub(self.queued);
        free.min(self.bounds.queued / OF_ONE_APP)
    }

    /// Queues; false when it is not kept, and its place is noted.
    pub fn push(&mut self, key: &FlowKey, reference: Reference) -> bool {
        let (bounds, most) = (self.bounds, self.most());
        let app = self.app(&key.app);
        if app.paused || app.queued >= most {
            spill(&mut app.spilled, reference);
            return false;
        }
        let max = bounds.most_of_flow(most, app.queued);
        let flow = app.flow(&key.target);
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
        let flow = self.app(&key.app).flow(&key.target);
        flow.queue.push_front(reference);
        self.count(key, true);
        self.want(key);
        true
    }

    /// Where to read again from, once this flow, or its application, has room again: more than a
    /// trickle, so that what is read is worth it.
    pub fn unspill(&mut self, key: &FlowKey) -> Option<Spot> {
        let whole = self.unspill_app(&key.app);
        let part = self.unspill_flow(key);
        whole.into_iter().chain(part).min()
    }

    fn unspill_app(&mut self, name: &App) -> Option<Spot> {
        let most = self.most();
        let app = self.apps.get_mut(name)?;
        let room = !app.paused && app.queued < most && app.queued <= most * 7 / 8;
        let first = app.spilled.filter(|_| room)?;
        app.spilled = None;
        Some(first)
    }

    fn unspill_flow(&mut self, key: &FlowKey) -> Option<Spot> {
        let most = self.most();
        let bounds = self.bounds;
        let app = self.apps.get_mut(&key.app)?;
        let max = bounds.most_of_flow(most, app.queued);
        let flow = app.flows.get_mut(&key.target)?;
        let room = flow.queue.len() < max && flow.queue.len() <= max / 2;
        let first = flow.spilled.filter(|_| room)?;
        flow.spilled = None;
        self.want(key);
        Some(first)
    }

    /// The same for all: what gave room to one may have been another.
    pub fn unspill_all(&mut self) -> Option<Spot> {
        let (mut apps, mut flows) = (Vec::new(), Vec::new());
        for (name, app) in &self.apps {
            apps.extend(app.spilled.map(|_| name.clone()));
            let spilled = app.flows.iter().filter(|(_, flow)| flow.spilled.is_some());
            flows.extend(spilled.map(|(target, _)| FlowKey {
                app: name.clone(),
                target: target.clone(),
            }));
        }
        let apps = apps.iter().filter_map(|name| self.unspill_app(name)).min();
        let flows = flows.iter().filter_map(|key| self.unspill_flow(key)).min();
        apps.into_iter().chain(flows).min()
    }

    /// The first place of all that was not kept, whosesoever it was.
    pub fn first_spilled(&self) -> Option<Spot> {
        let of_app = |app: &Application| {
            let flows = app.flows.values().filter_map(|flow| flow.spilled);
            flows.chain(app.spilled).min()
        };
        self.apps.values().filter_map(of_app).min()
    }

    /// Whether what lies at a place, in this flow, was not kept.
    pub fn has_spilled(&self, key: &FlowKey, place: Spot) -> bool {
        let before = |spilled: Option<Spot>| spilled.is_some_and(|first| first <= place);
        self.apps.get(&key.app).is_some_and(|app| {
            let flow = app.flows.get(&key.target);
            before(app.spilled) || flow.is_some_and(|flow| before(flow.spilled))
        })
    }

    pub fn is_paused(&self, app: &str) -> bool {
        self.apps.get(app).is_some_and(|app| app.paused)
    }

    /// Pauses just these applications; what they had waiting comes back, to be forgotten.
    /// Returns also the first place to read again, for those that were resumed.
    pub fn set_paused(
        &mut self,
        paused: &BTreeSet<App>,
        wall: Time,
    ) -> (Vec<Reference>, Option<Spot>) {
        let mut dropped = Vec::new();
        for name in paused {
            if !self.is_paused(name) {
                dropped.extend(self.pause(name));
            }
        }
        let over = |(name, app): (&App, &Application)| {
            (app.paused && !paused.contains(name)).then(|| name.clone())
        };
        let resumed: Vec<App> = self.apps.iter().filter_map(over).collect();
        let again = resumed.iter().filter_map(|name| {
            let app = self.app(name);
            app.paused = false;
            app.resumed = Some(wall);
            let first = app.spilled.take();
            if first.is_none() {
                // Nothing is to come that it could tell of.
                self.tidy(name);
            }
            first
        });
        let again = again.min();
        (dropped, again)
    }

    fn pause(&mut self, name: &App) -> Vec<Reference> {
        let app = self.app(name);
        app.paused = true;
        app.ring.clear();
        let flows = std::mem::take(&mut app.flows);
        let queued = std::mem::take(&mut app.queued);
        let mut first = app.spilled.take();
        self.queued -= queued;
        let mut dropped = Vec::with_capacity(queued);
        for (key, flow) in flows {
            let target = self.target(&key);
            target.queued -= flow.queue.len();
            match flow.stand {
                Stand::Offered => target.offered = target.offered.saturating_sub(1),
                Stand::Blocked => target.blocked.retain(|app| app != name),
                Stand::Idle => {}
            }
            self.offer(&key);
            first = first.into_iter().chain(flow.spilled).min();
            dropped.extend(flow.queue);
        }
        dropped
            .iter()
            .for_each(|reference| spill(&mut first, *reference));
        self.app(name).spilled = first;
        dropped
    }
}
