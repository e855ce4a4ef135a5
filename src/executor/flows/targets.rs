//! Targets: their room, their breakers, and whom they offer a place.

use std::collections::VecDeque;
use std::time::Duration;

use super::{App, Bounds, FlowKey, Flows, Grant, Reference, Stand, TargetKey, Told};
use crate::executor::breaker::{Breaker, BreakerState, Ticket};
use crate::executor::places::Places;
use crate::model::Time;

pub(super) struct Target {
    pub in_flight: usize,
    /// Flows that stand in their application's ring on behalf of a place here.
    pub offered: usize,
    pub queued: usize,
    /// Applications that wait for a place here, in turn.
    pub blocked: VecDeque<App>,
    pub places: Places,
    pub breaker: Breaker,
    /// When its breaker was last seen not to be closed, on the wall clock.
    pub broken_until: Option<Time>,
}

impl Target {
    fn new(bounds: &Bounds) -> Target {
        Target {
            in_flight: 0,
            offered: 0,
            queued: 0,
            blocked: VecDeque::new(),
            places: Places::new(bounds.per_target),
            breaker: Breaker::default(),
            broken_until: None,
        }
    }

    pub fn has_room(&self, bounds: &Bounds) -> bool {
        // Offered flows will become calls.
        self.in_flight + self.offered < self.places.limit()
            && self
                .breaker
                .lets_through(&bounds.breaker, self.offered as u32)
    }

    /// Nothing but what was learnt would be lost with it. An open breaker is in the list of these.
    pub fn is_idle(&self) -> bool {
        let open = matches!(self.breaker.state(), BreakerState::Open { .. });
        self.in_flight == 0 && self.queued == 0 && self.offered == 0 && !open
    }
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

impl Flows {
    /// The targets that are called, or were lately, by name.
    pub fn view(&self, steady: Duration) -> Vec<TargetView> {
        let settings = &self.bounds.breaker;
        let view = |(key, target): (&TargetKey, &Target)| {
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
        };
        let mut views: Vec<TargetView> = self.targets.iter().map(view).collect();
        views.sort_by(|a, b| a.target.cmp(&b.target));
        views
    }

    /// The instant of what has waited longest, of those that are next in their flows. What waits
    /// at a target that is left alone does not count: another node could not call it either.
    pub fn oldest(&self) -> Option<Time> {
        let flows = self.apps.values().flat_map(|app| &app.flows);
        let called = flows.filter(|(target, _)| !self.is_broken(target));
        let fronts = called.filter_map(|(_, flow)| flow.queue.front());
        fronts.map(|reference| reference.at).min()
    }

    pub(super) fn is_broken(&self, target: &TargetKey) -> bool {
        let target = self.targets.get(target);
        target.is_some_and(|target| target.breaker.state() != BreakerState::Closed)
    }

    /// When the next open breaker becomes half-open.
    pub fn opens_at(&self) -> Option<Duration> {
        self.open.first().map(|(until, _)| *until)
    }

    /// Breakers whose time has come let probes through; true if there was one.
    pub fn poll(&mut self, steady: Duration) -> bool {
        let mut any = false;
        while self.opens_at().is_some_and(|until| until <= steady) {
            let Some((_, key)) = self.open.pop_first() else {
                break;
            };
            self.target(&key).breaker.poll(steady);
            self.offer(&key);
            any = true;
        }
        any
    }

    /// Attempts that wait at open breakers beyond their time, each with a permit: so many at most,
    /// and no more than there are permits.
    pub fn overdue(&mut self, wall: Time, max: usize) -> Vec<(FlowKey, Reference, Grant)> {
        let max = max.min(self.left());
        let mut overdue = Vec::new();
        for (_, target) in &self.open {
            for (name, app) in &mut self.apps {
                let Some(flow) = app.flows.get_mut(target) else {
                    continue;
                };
                flow.queue.retain(|reference| {
                    let late = reference.until.is_some_and(|until| until <= wall);
                    let goes = late && overdue.len() < max;
                    if goes {
                        let (app, target) = (name.clone(), target.clone());
                        overdue.push((FlowKey { app, target }, *reference));
                    }
                    !goes
                });
            }
        }
        let give_up = |(key, mut reference): (FlowKey, Reference)| {
            reference.given_up = true;
            self.count(&key, false);
            let grant = self.permit(&key, reference);
            self.stand_down(&key);
            (key, reference, grant)
        };
        overdue.into_iter().map(give_up).collect()
    }

    pub(super) fn target(&mut self, key: &TargetKey) -> &mut Target {
        let bounds = &self.bounds;
        self.targets
            .entry(key.clone())
            .or_insert_with(|| Target::new(bounds))
    }

    /// A call has ended: breaker and places hear how it went.
    pub(super) fn hear(
        &mut self,
        key: &TargetKey,
        ticket: Ticket,
        told: Told,
        (wall, steady): (Time, Duration),
    ) {
        let settings = self.bounds.breaker;
        let target = self.target(key);
        let under_way = target.in_flight;
        target.places.end(told.bears, told.took, under_way, steady);
        target.in_flight -= 1;
        let before = target.breaker.state();
        target.breaker.end(&settings, ticket, told.went, steady);
        let after = target.breaker.state();
        if before != BreakerState::Closed || after != BreakerState::Closed {
            target.broken_until = Some(wall);
        }
        if let (false, BreakerState::Open { until }) = (before == after, after) {
            self.open.insert((until, key.clone()));
            self.withdraw_offers(key);
        }
    }

    /// Gives the places that a target has left to the flows that wait for one.
    pub(super) fn offer(&mut self, key: &TargetKey) {
        let bounds = self.bounds;
        while let Some(target) = self.targets.get_mut(key)
            && target.has_room(&bounds)
            && let Some(name) = target.blocked.pop_front()
        {
            target.offered += 1;
            let app = self.app(&name);
            app.flow(key).stand = Stand::Offered;
            app.ring.push_back(key.clone());
            self.stand_in_ring(&name);
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
        let target = self.target(key);
        target.offered = 0;
        names
            .into_iter()
            .for_each(|name| target.blocked.push_front(name));
    }
}
