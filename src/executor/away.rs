//! Attempts that another node carries out, and those that this one carries out for another.
//!
//! The owner begins an attempt as it begins its own: the test-and-set under the one lock, under the
//! lease. Then it asks the other node instead of the wire, and reports what came of it. What was
//! refused has not begun, and waits here again; what was lost is handed out again by the log. A node
//! with too much to do gives away what waits in its queues as well.

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::attempts::{Id, Place};
use super::broadcast::{self, Part};
use super::core::{Begin, Core};
use super::flows::{FlowKey, Reference};
use super::metrics::Result as Label;
use super::placement::{Choice, View};
use super::run::{Inner, LOOK_UP_MAX, Permit, Prepared};
use crate::bugs::{self, Bug};
use crate::model::{Again, Event, NodeId, Placement, Spec, Time, Wait};
use crate::raft::{Errand, PERFORMER, Picture, Returned, Seen, draw};

/// The other nodes, as the executor sees them.
pub trait Others: Send + Sync + 'static {
    /// Who is there.
    fn picture(&self) -> Picture;
    /// Has a node carry an attempt out that this one has begun.
    fn errand(&self, node: NodeId, errand: Errand) -> BoxFuture<'static, Returned>;
}

/// Attempts that one node carries out for this one at once: half of what one connection takes.
const AWAY_MAX: usize = 256;
/// A node that has refused something is asked for nothing that another could do for so long.
const REFUSED_FOR: Duration = Duration::from_millis(200);
/// The same of one that did not answer: by then it was heard again, or it is known to be silent. Else
/// what it has lost would be lost with it a second time.
const LOST_FOR: Duration = Duration::from_secs(3);
/// What nobody may carry out at present is looked at again after half the time that it is late, within
/// these: few look often, and many that wait for long cost little.
const AGAIN_AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));
/// What has waited for so long at its target is given away too, whatever the load.
const GIVE_AFTER: Duration = Duration::from_secs(1);

/// A broadcast waits so long for a node that has no room, or as long as its call may take: the log
/// expects the outcome soon after that time-out.
const ROOM_WITHIN: Duration = Duration::from_secs(15);
/// It is looked no more often than that what to give away: a look goes over all targets.
const GIVE_EVERY: Duration = Duration::from_millis(20);

/// Why an attempt was given up that no node may carry out.
fn nobody(handler: Option<&str>) -> String {
    let sought = match handler {
        Some(name) => format!("with the handler {name} was there"),
        None => "was there for its placement".to_owned(),
    };
    format!("no node {sought} until its max_age had passed")
}

/// What is with others.
#[derive(Default)]
pub(super) struct Away {
    by_node: BTreeMap<NodeId, usize>,
    /// Until when, of the steady clock.
    refused: BTreeMap<NodeId, Duration>,
    turn: u64,
    /// Nothing that waits is given away before then, of the steady clock.
    gives_from: Duration,
}

impl Away {
    fn share(&self, node: NodeId) -> f64 {
        let out = self.by_node.get(&node).copied().unwrap_or(0);
        out as f64 / AWAY_MAX as f64
    }

    fn takes(&self, node: NodeId, steady: Duration) -> bool {
        self.share(node) < 1.0 && self.refused.get(&node).is_none_or(|until| steady >= *until)
    }
}

impl Core {
    /// How busy this node is, from 0 to 1: the fuller of permits and memory.
    pub fn load(&self) -> f64 {
        let permits = self.targets.in_flight() as f64 / self.targets.total() as f64;
        let memory = self.waiting() as f64 / self.held_max() as f64;
        permits.max(memory).clamp(0.0, 1.0)
    }

    fn choose(
        &mut self,
        (placement, hash, handler): (&Placement, u64, Option<&str>),
        picture: &Picture,
        (threshold, late): (f64, bool),
        steady: Duration,
    ) -> Choice {
        let own = self.load();
        // What waits for too long is too much, whatever the permits in all say.
        let own = if late { 1.0 } else { own };
        let (away, me) = (&self.away, self.me());
        let load = |seen: &Seen| match seen.node == me {
            true => Some(own),
            false => away
                .takes(seen.node, steady)
                .then(|| seen.load.max(away.share(seen.node))),
        };
        let turn = away.turn;
        let view = View {
            me,
            picture,
            load,
            threshold,
            turn,
            draw,
        };
        let choice = view.choose(placement, hash, handler);
        self.away.turn += u64::from(*placement == Placement::RoundRobin);
        match choice {
            Choice::There(node) if !self.away.takes(node, steady) => Choice::Nowhere,
            choice => choice,
        }
    }

    /// The test-and-set of an attempt that goes elsewhere. Without a lease it waits at its target.
    fn begin_away(
        &mut self,
        key: &FlowKey,
        reference: Reference,
        node: NodeId,
        (wall, steady): (Time, Duration),
    ) -> Begin {
        let id = reference.id;
        let queued = self.attempts.get(id).map(|entry| entry.place) == Some(Place::Queued);
        if !queued || !self.admit(id) {
            return Begin::Dropped;
        }
        if wall < reference.at {
            self.hold_until(id, reference.at);
            return Begin::Waits;
        }
        if !self.may_start(steady) || self.targets.is_paused(&key.app) {
            self.wait_at(key, reference);
            return Begin::Waits;
        }
        self.attempts.begin(id, wall, steady);
        self.attempts.elsewhere(id, node);
        Begin::Go
    }

    /// What has waited longest and may move; its queue has room again.
    fn give(&mut self) -> Option<(FlowKey, Reference)> {
        let (key, reference) = self.targets.give()?;
        if let Some(place) = self.targets.unspill(&key) {
            self.miss(place);
        }
        Some((key, reference))
    }

    fn wait_at(&mut self, key: &FlowKey, reference: Reference) {
        self.attempts.put(reference.id, Place::Queued);
        if !self.targets.push(key, reference) {
            self.attempts.remove(reference.id);
        }
    }

    /// It surely has not begun after all, and waits again. False: this node has promised to end it,
    /// so that it must be handed out again by the log.
    fn unbegin(&mut self, key: &FlowKey, reference: Reference, until: Option<Time>) -> bool {
        let id = reference.id;
        let Some(entry) = self.attempts.get(id) else {
            return true;
        };
        match entry.place {
            Place::Begun { closed: true } => self.attempts.remove(id),
            Place::Begun { closed: false } if self.is_released(id, entry.hash) => return false,
            Place::Begun { closed: false } => match until {
                Some(until) => self.hold_until(id, until),
                None => self.wait_at(key, reference),
            },
            _ => {}
        }
        true
    }
}

/// An attempt's place among those that are away; given back however it ends.
struct Seat {
    inner: Arc<Inner>,
    nodes: Vec<NodeId>,
    id: Id,
    begun: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let steady = self.inner.clock.steady();
        let mut core = self.inner.lock();
        for node in &self.nodes {
            if let Some(out) = core.away.by_node.get_mut(node) {
                *out = out.saturating_sub(1);
            }
        }
        if self.begun {
            core.attempts.end(self.id, steady);
        }
        core.kicked = true;
        drop(core);
        self.inner.due.ring();
    }
}

/// Where an attempt is to be carried out, and what it takes to see to it.
pub(super) struct Departure {
    prepared: Prepared,
    choice: Choice,
    seat: Seat,
}

impl Inner {
    pub fn meet(&self, others: Arc<dyn Others>) {
        // Set once, when the node has become a member.
        let _ = self.others.set(others);
    }

    fn placement<'a>(&'a self, prepared: &'a Prepared) -> &'a Placement {
        let own = prepared
            .spec
            .as_ref()
            .ok()
            .and_then(|spec| spec.placement.as_ref());
        own.unwrap_or(&self.settings.placement)
    }

    /// Who is there, if any of these attempts may be for another node.
    pub(super) fn picture_for<'a>(
        &self,
        mut prepared: impl Iterator<Item = &'a Prepared>,
    ) -> Option<Picture> {
        let others = self.others.get()?;
        let load = self.lock().load();
        let placed = prepared.any(|prepared| {
            prepared.handler().is_some() || *self.placement(prepared) != Placement::Owner
        });
        (placed || load >= self.settings.placement_threshold).then(|| others.picture())
    }

    /// Sees to a due attempt that is not, or not now, for this node. Gives it back when it is for this
    /// one.
    pub(super) fn place(
        self: &Arc<Self>,
        core: &mut Core,
        mut prepared: Prepared,
        picture: Option<&Picture>,
        away: &mut Vec<Departure>,
    ) -> Option<Prepared> {
        let placement = self.placement(&prepared);
        prepared.reference.moves = *placement == Placement::Owner && prepared.handler().is_none();
        let steady = self.clock.steady();
        let alone = Picture::default();
        let picture = match picture {
            Some(picture) => picture,
            // As long as nobody else is known.
            None if !self.has_handler_of(&prepared) => &alone,
            None => return Some(prepared),
        };
        // What cannot begin waits at its target, and is placed when it can.
        if !core.may_start(steady) || core.targets.is_paused(&prepared.key.app) {
            return Some(prepared);
        }
        let asked = (
            self.placement(&prepared),
            prepared.dispatch.key.hash(),
            prepared.handler(),
        );
        let threshold = (self.settings.placement_threshold, false);
        match core.choose(asked, picture, threshold, steady) {
            Choice::Here => return Some(prepared),
            Choice::Nowhere if prepared.reference.moves => return Some(prepared),
            Choice::Nowhere if !self.is_over(prepared.reference) => {
                core.attempts.is_homeless(prepared.reference.id);
                core.hold_until(
                    prepared.reference.id,
                    self.look_again_at(prepared.reference),
                );
            }
            choice => away.push(self.depart(core, prepared, choice)),
        }
        None
    }

    /// Whether this node can do what the attempt calls for.
    fn has_handler_of(&self, prepared: &Prepared) -> bool {
        let handlers = &self.settings.handlers;
        prepared.handler().is_none_or(|name| handlers.has(name))
    }

    /// There is no sense in carrying it out any more.
    fn is_over(&self, reference: Reference) -> bool {
        let now = self.clock.wall();
        reference.until.is_some_and(|until| until <= now)
    }

    fn look_again_at(&self, reference: Reference) -> Time {
        let now = self.clock.wall();
        let late = now.since(reference.at).std() / 2;
        let again = now.plus(late.clamp(AGAIN_AFTER.0, AGAIN_AFTER.1).into());
        let until = reference.until.filter(|until| *until > now);
        until.map_or(again, |until| again.min(until))
    }

    fn depart(self: &Arc<Self>, core: &mut Core, prepared: Prepared, choice: Choice) -> Departure {
        let me = self.settings.node;
        let nodes = match &choice {
            Choice::There(node) => vec![*node],
            Choice::Everywhere(nodes) => nodes.iter().copied().filter(|n| *n != me).collect(),
            _ => Vec::new(),
        };
        for node in &nodes {
            *core.away.by_node.entry(*node).or_default() += 1;
        }
        let seat = Seat {
            inner: self.clone(),
            nodes,
            id: prepared.reference.id,
            begun: false,
        };
        Departure {
            prepared,
            choice,
            seat,
        }
    }

    /// Gives away what waits at its targets while this node has too much to do and another has not.
    pub(super) fn give(self: &Arc<Self>) {
        let Some(others) = self.others.get() else {
            return;
        };
        let (threshold, wall) = (self.settings.placement_threshold, self.clock.wall());
        let late = |core: &Core| {
            let oldest = core.targets.oldest();
            oldest.is_some_and(|at| wall.since(at).std() >= GIVE_AFTER)
        };
        {
            let (mut core, steady) = (self.lock(), self.clock.steady());
            let waits = core.targets.queued() > 0 && core.may_start(steady);
            if !waits || steady < core.away.gives_from {
                return;
            }
            core.away.gives_from = steady + GIVE_EVERY;
            if core.load() < threshold && !late(&core) {
                return;
            }
        }
        let picture = others.picture();
        let mut core = self.lock();
        let (mut given, mut planned) = (Vec::new(), BTreeMap::new());
        while given.len() < LOOK_UP_MAX {
            let (steady, late) = (self.clock.steady(), late(&core));
            let asked = (&Placement::Owner, 0, None);
            let choice = core.choose(asked, &picture, (threshold, late), steady);
            let Choice::There(node) = choice else { break };
            let Some((key, reference)) = core.give() else {
                break;
            };
            // Counted at once, so that the next one sees it.
            *core.away.by_node.entry(node).or_default() += 1;
            *planned.entry(node).or_default() += 1usize;
            given.push((node, key, reference));
        }
        drop(core);
        let nodes: Vec<NodeId> = given.iter().map(|(node, ..)| *node).collect();
        let wanted = given
            .into_iter()
            .map(|(_, key, r)| (Some(key), r))
            .collect();
        let found = self.prepare(wanted);
        let mut core = self.lock();
        for (node, count) in planned {
            if let Some(out) = core.away.by_node.get_mut(&node) {
                *out = out.saturating_sub(count);
            }
        }
        let mut away = Vec::new();
        for (node, found) in nodes.into_iter().zip(found) {
            match found {
                Ok(prepared) => away.push(self.depart(&mut core, prepared, Choice::There(node))),
                Err((_, stale)) => core.attempts.remove(stale.id),
            }
        }
        drop(core);
        away.into_iter()
            .for_each(|departure| self.send_off(departure));
    }

    /// Begins it, and has it carried out.
    pub(super) fn send_off(self: &Arc<Self>, departure: Departure) {
        let inner = self.clone();
        let task = async move {
            let Departure {
                prepared,
                choice,
                mut seat,
            } = departure;
            tokio::select! {
                biased;
                () = inner.abandon.cancelled() => {}
                () = inner.carried_out_by(prepared, choice, &mut seat) => {}
            }
        };
        self.calls.spawn_on(task, &self.runtime);
    }

    async fn carried_out_by(self: &Arc<Self>, prepared: Prepared, choice: Choice, seat: &mut Seat) {
        let node = match choice {
            Choice::There(node) => node,
            _ => self.settings.node,
        };
        let wall = self.clock.wall();
        let (begin, until, waited_for) = {
            let (key, reference) = (&prepared.key, prepared.reference);
            let steady = self.clock.steady();
            let mut core = self.lock();
            let waited_for = core.waited_for(key, reference);
            let begin = core.begin_away(key, reference, node, (wall, steady));
            (begin, core.leased_until(), waited_for)
        };
        match begin {
            Begin::Go => seat.begun = true,
            Begin::Dropped => return,
            Begin::Waits => return self.due.ring(),
        }
        self.begun.notify_one();
        let over = self.expired(&prepared, (wall, waited_for)).or_else(|| {
            let report = self.report_of(prepared.reference, (wall, waited_for));
            let why = || nobody(prepared.handler());
            (choice == Choice::Nowhere).then(|| report.given_up(&why(), &self.metrics))
        });
        if let Some(over) = over {
            let _ = self.outcomes.send(over).await;
            return;
        }
        let spec = prepared.spec.as_ref().ok();
        let mut fence = prepared.dispatch.fence;
        if bugs::on(Bug::ErrandWithoutEpoch) {
            fence.epoch = Default::default();
        }
        let errand = Errand {
            seq: prepared.dispatch.seq,
            fence,
            at: prepared.reference.at,
            until,
            leader: *self.placement(&prepared) == Placement::Leader,
            timeout: spec.map(Spec::timeout).unwrap_or_default(),
        };
        let event = match choice {
            Choice::Everywhere(nodes) => Some(self.everywhere(nodes, errand, wall).await),
            _ => self.there(node, errand, &prepared).await,
        };
        match event.map(|event| with_wait(event, prepared.reference.at, waited_for)) {
            // A closed channel means that the node is going down; the log will redispatch.
            Some(event) => drop(self.outcomes.send(event).await),
            None => seat.begun = false,
        }
    }

    /// The outcome; `None`: it has not begun, and waits here again.
    async fn there(&self, node: NodeId, errand: Errand, prepared: &Prepared) -> Option<Event> {
        let others = self.others.get()?;
        let again = |why: &str| {
            tracing::debug!(seq = errand.seq.0, node, "handed out again: {why}");
            self.metrics.count(Label::Lost);
            let event = Again {
                attempts: vec![(errand.seq, errand.fence)],
                cause: PERFORMER.into(),
            };
            Some(Event::from(event))
        };
        match others.errand(node, errand).await {
            Returned::Ended(event) => {
                self.metrics.count(Label::Away);
                Some(event)
            }
            Returned::Lost(why) => {
                let until = self.clock.steady() + LOST_FOR;
                self.lock().away.refused.insert(node, until);
                again(&why)
            }
            Returned::Refused(why) => {
                tracing::trace!(seq = errand.seq.0, node, "refused: {why}");
                let steady = self.clock.steady();
                let moves = prepared.reference.moves;
                let later = (!moves).then(|| self.look_again_at(prepared.reference));
                let mut core = self.lock();
                core.away.refused.insert(node, steady + REFUSED_FOR);
                if later.is_some() {
                    // Told with the outcome: the other node counts from when it took it.
                    core.attempts.is_homeless(prepared.reference.id);
                }
                let waits = core.unbegin(&prepared.key, prepared.reference, later);
                drop(core);
                if waits { None } else { again(&why) }
            }
        }
    }

    /// Once on each of these nodes, all at once; one outcome of them all.
    async fn everywhere(
        self: &Arc<Self>,
        nodes: Vec<NodeId>,
        errand: Errand,
        started: Time,
    ) -> Event {
        let calls = nodes.into_iter().map(|node| async move {
            let part = self.part(node, errand).await;
            (node, part)
        });
        let parts = join_all(calls).await;
        let id = (errand.seq, errand.fence);
        broadcast::together(id, self.settings.node, parts, (started, self.clock.wall()))
    }

    async fn part(self: &Arc<Self>, node: NodeId, mut errand: Errand) -> Part {
        let room_within = errand.timeout.std().min(ROOM_WITHIN);
        let give_up = self.clock.steady() + room_within;
        loop {
            let returned = match self.others.get() {
                _ if node == self.settings.node => match self.clone().errand(errand).await {
                    Ok(event) => Returned::Ended(event),
                    Err(why) => Returned::Refused(why),
                },
                Some(others) => others.errand(node, errand).await,
                None => Returned::Refused("the other nodes are not known yet".into()),
            };
            match returned {
                Returned::Ended(event) => return Part::Ended(event),
                Returned::Lost(why) => return Part::Failed(why),
                Returned::Refused(why) if self.clock.steady() >= give_up => {
                    return Part::Failed(why);
                }
                Returned::Refused(_) => {}
            }
            #[allow(clippy::disallowed_methods)] // Until a busy node has room for it.
            tokio::time::sleep(AGAIN_AFTER.0).await;
            errand.until = self.lock().leased_until();
        }
    }

    /// Carries an attempt out that its owner has begun, if this node has room for it and its own
    /// state knows of no later one.
    pub(super) async fn errand(self: Arc<Self>, errand: Errand) -> Result<Event, String> {
        let reference = Reference {
            id: (errand.seq, errand.fence),
            at: errand.at,
            released: errand.at.max(self.clock.wall()),
            bytes: 0,
            until: None,
            given_up: false,
            moves: false,
        };
        let found = self.prepare(vec![(None, reference)]).pop();
        let Some(Ok(prepared)) = found else {
            return Err("the attempt is not current any more".into());
        };
        if !self.has_handler_of(&prepared) {
            let name = prepared.handler().unwrap_or_default();
            return Err(format!("this node has no handler {name}"));
        }
        let (key, reference) = (prepared.key.clone(), prepared.reference);
        let (grant, waited_for) = {
            let mut core = self.lock();
            if core.stopping {
                return Err("this node is about to stop".into());
            }
            let Some(grant) = core.targets.reserve(&key, reference) else {
                return Err("this node has no room for it".into());
            };
            (grant, core.targets.waited_for(&key, reference))
        };
        let permit = Permit::of_another(self.clone(), key, grant, reference.id);
        let inner = self.clone();
        let call = async move {
            let mut permit = permit;
            let mut wall_us = inner.clock.wall_us();
            // This node's clock may be a little behind the owner's.
            while wall_us < errand.at.0.saturating_mul(1_000) {
                if inner.clock.steady() >= errand.until {
                    return Err("this node's clock is behind".to_owned());
                }
                #[allow(clippy::disallowed_methods)] // Waits for the wall clock, which can jump.
                tokio::time::sleep(Duration::from_millis(1)).await;
                wall_us = inner.clock.wall_us();
            }
            if inner.clock.steady() >= errand.until {
                return Err("the lease under which it was to begin has run out".to_owned());
            }
            inner
                .metrics
                .late(wall_us.saturating_sub(errand.at.0.saturating_mul(1_000)));
            let called =
                inner.carry_out(prepared, (Time(wall_us / 1_000), waited_for), &mut permit);
            tokio::select! {
                biased;
                () = inner.abandon.cancelled() => Err("this node has stopped".to_owned()),
                event = called => Ok(event),
            }
        };
        // Whoever asked may be gone before it ends; a stop waits for it.
        let call = self.calls.spawn_on(call, &self.runtime);
        match call.await {
            Ok(ended) => ended,
            Err(_) => Err("this node has stopped".to_owned()),
        }
    }
}

/// What only the owner knows: that no node was there for it before.
fn with_wait(mut event: Event, at: Time, waited_for: Wait) -> Event {
    let end = match &mut event {
        Event::Done(e) => &mut e.end,
        Event::Accepted(e) => &mut e.end,
        Event::Failed(e) => &mut e.end,
        _ => return event,
    };
    if waited_for == Wait::Node {
        end.queued = end.started.since(at);
        end.waited_for = waited_for;
    }
    event
}

impl super::Executor {
    /// Tells of the other nodes; before that everything is carried out here.
    pub fn meet(&self, others: Arc<dyn Others>) {
        self.inner.meet(others);
    }

    /// Carries an attempt out that its owner has begun. The error says why it has not begun here.
    pub fn errand(&self, errand: Errand) -> BoxFuture<'static, Result<Event, String>> {
        self.inner.clone().errand(errand).boxed()
    }
}
