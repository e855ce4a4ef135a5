//! The way of one attempt from its permit to its outcome, and what reports on the way.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attempts::Id;
use super::away::Others;
use super::core::{Begin, Core};
use super::deliver::{Call, Delivered, Delivery, FailureKind};
use super::flows::{FlowKey, Grant, Reference, TargetKey, TargetView, Told};
use super::handlers::Attempt;
use super::hold::{Bell, Hold};
use super::metrics::{ExecutorMetrics, Metrics, Result as Label};
use super::{Settings, Source, verdict};
use crate::model::{Change, Clock, Event, Spec, Target, Time, Wait};
use crate::raft::Picture;
use crate::state::{Dispatch, Open};

/// Attempts looked up under one lock of the state.
pub(super) const LOOK_UP_MAX: usize = 256;
/// Attempts of one question that are looked up to tell whether they were kept.
const UNSURE_MAX: usize = 64;

/// Why an attempt was given up that its target's breaker held back.
const BROKEN_TOO_LONG: &str =
    "the circuit breaker of its target was open until its max_age had passed";

/// An attempt that is due, looked up and read.
pub(super) struct Prepared {
    pub key: FlowKey,
    pub reference: Reference,
    pub dispatch: Dispatch,
    pub spec: Result<Spec, String>,
}

impl Prepared {
    /// The handler that it calls, if it does.
    pub fn handler(&self) -> Option<&str> {
        self.spec.as_ref().ok()?.target.handler()
    }
}

/// What all parts share.
pub(super) struct Inner {
    pub(super) settings: Settings,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) source: Source,
    delivery: Arc<dyn Delivery>,
    pub(super) outcomes: mpsc::Sender<Event>,
    core: Mutex<Core>,
    /// Wakes whoever holds.
    pub(super) due: Bell,
    pub(super) runtime: Handle,
    pub(super) calls: TaskTracker,
    pub(super) abandon: CancellationToken,
    pub(super) others: OnceLock<Arc<dyn Others>>,
    pub(super) begun: Notify,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    holder: Mutex<Option<tokio::task::JoinHandle<()>>>,
    reporter: Mutex<Option<tokio::task::JoinHandle<()>>>,
    pub(super) metrics: Metrics,
}

impl Inner {
    pub fn new(
        settings: Settings,
        clock: Arc<dyn Clock>,
        source: Source,
        delivery: Arc<dyn Delivery>,
        outcomes: mpsc::Sender<Event>,
    ) -> Inner {
        Inner {
            core: Mutex::new(Core::new(&settings)),
            settings,
            clock,
            source,
            delivery,
            outcomes,
            due: Bell::default(),
            runtime: Handle::current(),
            calls: TaskTracker::new(),
            abandon: CancellationToken::new(),
            others: OnceLock::new(),
            begun: Notify::new(),
            thread: Mutex::new(None),
            holder: Mutex::new(None),
            reporter: Mutex::new(None),
            metrics: Metrics::default(),
        }
    }

    pub fn start(self: &Arc<Self>) {
        let inner = self.clone();
        match self.settings.hold {
            Hold::Thread => {
                #[allow(clippy::expect_used)] // A node that cannot have one thread cannot run.
                let thread = std::thread::Builder::new()
                    .name("horolog-hold".into())
                    .spawn(move || inner.hold())
                    .expect("the holding thread starts");
                *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
            }
            Hold::Task => {
                let task = self.runtime.spawn(inner.hold_as_task());
                *self.holder.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
            }
        }
        let inner = self.clone();
        let reporter = self.runtime.spawn(async move {
            tokio::select! {
                () = inner.abandon.cancelled() => {}
                () = inner.report() => {}
                () = inner.sweep() => {}
            }
        });
        *self.reporter.lock().unwrap_or_else(PoisonError::into_inner) = Some(reporter);
    }

    pub fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn changed(&self, changes: &[Change]) {
        let mut core = self.lock();
        let before = core.next_at();
        let wall = self.clock.wall();
        changes.iter().for_each(|change| core.change(change, wall));
        let kicked = core.kicked;
        let earlier = match (before, core.next_at()) {
            (Some(before), Some(now)) => now < before,
            (before, now) => before != now,
        };
        drop(core);
        if earlier || kicked {
            self.due.ring();
        }
    }

    pub fn renew_lease(&self, contact: Duration) {
        let mut core = self.lock();
        let renewed = core.renew(contact, self.clock.steady());
        // What waits may go to another node, which nothing else would tell.
        if renewed || core.targets.queued() > 0 {
            core.kicked = true;
            drop(core);
            self.due.ring();
        }
    }

    pub fn withdraw(&self, id: Id) -> bool {
        let steady = self.clock.steady();
        self.lock().attempts.withdraw(id, steady)
    }

    pub fn restore(&self, id: Id) {
        self.lock().restore(id);
        self.due.ring();
    }

    /// While some of a flow were not kept, that goes by the flow, and for that an attempt must be
    /// looked up. Of many a few are, others each time, and the rest are taken for known: what is
    /// lost is found a little later, and a long pause costs no reading of all that it holds up.
    pub fn knows(&self, open: &[Open]) -> Vec<bool> {
        let steady = self.clock.steady();
        let core = self.lock();
        let mut known: Vec<bool> = open.iter().map(|open| core.knows(open, steady)).collect();
        let first = core.targets.first_spilled();
        drop(core);
        let perhaps = |open: &Open| first.is_some_and(|first| first <= (open.at, open.seq));
        let unsure = (0..open.len()).filter(|n| !known[*n] && perhaps(&open[*n]));
        let unsure: Vec<usize> = unsure.collect();
        unsure.iter().for_each(|n| known[*n] = true);
        let looked_up = UNSURE_MAX.min(unsure.len());
        let begin = steady.as_secs() as usize * looked_up % unsure.len().max(1);
        let part: Vec<usize> = unsure
            .iter()
            .cycle()
            .skip(begin)
            .take(looked_up)
            .copied()
            .collect();
        let ids: Vec<Id> = part
            .iter()
            .map(|n| (open[*n].seq, open[*n].fence))
            .collect();
        let found = (self.source.dispatch)(&ids);
        let core = self.lock();
        for (n, dispatch) in part.into_iter().zip(found) {
            // What the log does not have open any more is nobody's concern.
            let Some(dispatch) = dispatch else { continue };
            let (key, place) = (
                flow_key(&dispatch, &read(&dispatch)),
                (open[n].at, open[n].seq),
            );
            known[n] = core.targets.has_spilled(&key, place) || core.knows(&open[n], steady);
        }
        known
    }

    pub fn new_term(&self, term: u64) {
        self.lock().new_term(term);
        self.due.ring();
    }

    pub fn load(&self) -> f64 {
        self.lock().load()
    }

    pub fn targets(&self) -> Vec<TargetView> {
        let steady = self.clock.steady();
        self.lock().targets.view(steady)
    }

    pub fn queue_age(&self) -> Duration {
        let oldest = self.lock().targets.oldest();
        let now = self.clock.wall();
        oldest.map_or(Duration::ZERO, |at| now.since(at).std())
    }

    pub fn read_metrics(&self) -> ExecutorMetrics {
        let core = self.lock();
        let (held, queued) = (core.held(), core.targets.queued());
        let in_flight = core.targets.in_flight();
        drop(core);
        self.metrics.read(held, queued, in_flight)
    }

    pub async fn stop(&self, grace: Duration) {
        self.lock().stopping = true;
        self.due.ring();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic of the thread has been reported where it happened.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        let holder = self
            .holder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(holder) = holder {
            let _ = holder.await;
        }
        self.calls.close();
        let _ = tokio::time::timeout(grace, self.calls.wait()).await;
        self.abandon.cancel();
        self.calls.wait().await;
        let reporter = self
            .reporter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(reporter) = reporter {
            let _ = reporter.await;
        }
    }

    /// Looks due attempts up, then starts those that get a permit at once and queues the others.
    pub fn release_due(self: &Arc<Self>, due: Vec<Reference>) {
        let found = self.prepare(due.into_iter().map(|r| (None, r)).collect());
        let picture = self.picture_for(found.iter().flatten());
        let steady = self.clock.steady();
        let mut away = Vec::new();
        let mut core = self.lock();
        let ready: Vec<(Prepared, Grant)> = found
            .into_iter()
            .filter_map(|found| match found {
                Ok(prepared) => {
                    let prepared = self.place(&mut core, prepared, picture.as_ref(), &mut away)?;
                    core.route(&prepared.key, prepared.reference, steady)
                        .map(|grant| (prepared, grant))
                }
                Err((_, stale)) => {
                    core.attempts.remove(stale.id);
                    None
                }
            })
            .collect();
        drop(core);
        for (prepared, grant) in ready {
            self.spawn(prepared, grant);
        }
        away.into_iter()
            .for_each(|departure| self.send_off(departure));
    }

    /// Hands out permits until there are none, or nobody wants one.
    pub fn pump(self: &Arc<Self>) {
        loop {
            let steady = self.clock.steady();
            let mut core = self.lock();
            let mut taken = core.overdue(LOOK_UP_MAX, self.clock.wall(), steady);
            if taken.is_empty() {
                taken = core.take(LOOK_UP_MAX, steady);
            }
            let wake = core.wants_more();
            drop(core);
            if wake {
                self.due.ring();
            }
            if taken.is_empty() {
                return;
            }
            let grants: Vec<Grant> = taken.iter().map(|(_, _, grant)| *grant).collect();
            let taken = taken
                .into_iter()
                .map(|(key, r, _)| (Some(key), r))
                .collect();
            let found = self.prepare(taken);
            // One that moves has got a permit here, and stays; one that is given up is not called.
            let stays = |r: &Reference| r.moves || r.given_up;
            let placed = found.iter().flatten().filter(|p| !stays(&p.reference));
            let picture = self.picture_for(placed);
            for (found, grant) in found.into_iter().zip(grants) {
                match found {
                    Ok(prepared) if stays(&prepared.reference) => self.spawn(prepared, grant),
                    Ok(prepared) => self.place_taken(prepared, grant, picture.as_ref()),
                    Err((key, stale)) => {
                        let now = (self.clock.wall(), self.clock.steady());
                        let mut core = self.lock();
                        core.attempts.remove(stale.id);
                        key.iter()
                            .for_each(|key| core.free(key, grant, Told::NOTHING, now));
                    }
                }
            }
        }
    }

    /// Looks attempts up in the state and reads their specs. An attempt that is no longer
    /// current comes back as an error, with the target whose permit it holds.
    pub(super) fn prepare(
        &self,
        wanted: Vec<(Option<FlowKey>, Reference)>,
    ) -> Vec<Result<Prepared, (Option<FlowKey>, Reference)>> {
        let ids: Vec<Id> = wanted.iter().map(|(_, reference)| reference.id).collect();
        let found = (self.source.dispatch)(&ids);
        let mut found = found.into_iter();
        wanted
            .into_iter()
            .map(|(key, reference)| {
                let Some(dispatch) = found.next().flatten() else {
                    self.metrics.count(Label::Stale);
                    return Err((key, reference));
                };
                let spec = read(&dispatch);
                let key = key.unwrap_or_else(|| flow_key(&dispatch, &spec));
                let reference = Reference {
                    bytes: dispatch.spec.len(),
                    until: until(&dispatch, &spec),
                    ..reference
                };
                Ok(Prepared {
                    key,
                    reference,
                    dispatch,
                    spec,
                })
            })
            .collect()
    }

    /// Places an attempt that holds a permit.
    fn place_taken(self: &Arc<Self>, prepared: Prepared, grant: Grant, picture: Option<&Picture>) {
        let (key, mut away) = (prepared.key.clone(), Vec::new());
        let now = (self.clock.wall(), self.clock.steady());
        let mut core = self.lock();
        let here = self.place(&mut core, prepared, picture, &mut away);
        if here.is_none() {
            core.free(&key, grant, Told::NOTHING, now);
        }
        drop(core);
        if let Some(prepared) = here {
            self.spawn(prepared, grant);
        }
        away.into_iter()
            .for_each(|departure| self.send_off(departure));
    }

    fn spawn(self: &Arc<Self>, prepared: Prepared, grant: Grant) {
        let permit = Permit {
            inner: self.clone(),
            key: prepared.key.clone(),
            grant,
            told: Told::NOTHING,
            id: prepared.reference.id,
            polled: false,
            begun: false,
        };
        let inner = self.clone();
        self.calls.spawn_on(
            async move {
                let mut permit = permit;
                permit.polled = true;
                tokio::select! {
                    biased;
                    () = inner.abandon.cancelled() => {}
                    () = inner.attempt(prepared, &mut permit) => {}
                }
            },
            &self.runtime,
        );
    }

    /// Begins, calls, and hands the outcome over; only then is the permit free again.
    async fn attempt(&self, prepared: Prepared, permit: &mut Permit) {
        let wall_us = self.clock.wall_us();
        let wall = Time(wall_us / 1000);
        let (begin, waited_for) = {
            let steady = self.clock.steady();
            let mut core = self.lock();
            let waited_for = core.waited_for(&prepared.key, prepared.reference);
            let begin = core.begin(&prepared.key, prepared.reference, wall, steady);
            (begin, waited_for)
        };
        match begin {
            Begin::Go => permit.begun = true,
            Begin::Dropped => return,
            Begin::Waits => return self.due.ring(),
        }
        self.begun.notify_one();
        self.metrics
            .late(wall_us.saturating_sub(prepared.reference.at.0.saturating_mul(1000)));
        let event = self.carry_out(prepared, (wall, waited_for), permit).await;
        // A closed channel means that the node is going down; the log will redispatch.
        let _ = self.outcomes.send(event).await;
    }

    /// The outcome of an attempt that comes up too late to be tried.
    pub(super) fn expired(&self, prepared: &Prepared, begun: (Time, Wait)) -> Option<Event> {
        let (dispatch, spec) = (&prepared.dispatch, prepared.spec.as_ref().ok()?);
        let first = dispatch.tries == 0 && dispatch.fence.attempt == 1;
        let at = spec.expires_at.filter(|at| first && begun.0 >= *at)?;
        let report = self.report_of(prepared.reference, begun);
        Some(report.expired(at, &self.metrics))
    }

    pub(super) fn report_of(
        &self,
        reference: Reference,
        (started, waited_for): (Time, Wait),
    ) -> verdict::Report {
        verdict::Report {
            id: reference.id,
            node: self.settings.node,
            started,
            queued: match waited_for {
                // It was brought back when the pause was over, or when there was a node.
                Wait::Paused | Wait::Node => started.since(reference.at),
                _ => started.since(reference.at.max(reference.released)),
            },
            waited_for,
        }
    }

    pub(super) async fn carry_out(
        &self,
        prepared: Prepared,
        begun: (Time, Wait),
        permit: &mut Permit,
    ) -> Event {
        if let Some(expired) = self.expired(&prepared, begun) {
            return expired;
        }
        let Prepared {
            reference,
            dispatch,
            spec,
            ..
        } = prepared;
        let report = self.report_of(reference, begun);
        let spec = match spec {
            Ok(spec) => spec,
            Err(why) => return report.unreadable(&why, &self.metrics),
        };
        if reference.given_up {
            return report.given_up(BROKEN_TOO_LONG, &self.metrics);
        }
        let timeout = spec.timeout();
        let (due, started, node) = (dispatch.due, begun.0, self.settings.node);
        let (key, fence) = (dispatch.key, dispatch.fence);
        let called = match spec.target {
            Target::Http(http) => self.delivery.deliver(Call {
                seq: dispatch.seq,
                fence,
                key,
                due,
                started,
                node,
                http,
                timeout,
            }),
            Target::Handler(handled) => {
                let attempt = Attempt {
                    key,
                    fence,
                    due,
                    started,
                    node,
                    timeout,
                };
                self.settings.handlers.call(handled, attempt).boxed()
            }
        };
        let from = self.clock.steady();
        // A defect in the delivery must not leave the attempt open for ever.
        let delivered = AssertUnwindSafe(called).catch_unwind().await;
        let delivered = delivered.unwrap_or_else(|_| {
            Delivered::failed(
                FailureKind::Broken,
                "the delivery has a defect; see the log",
            )
        });
        permit.told = verdict::told(&delivered, self.clock.steady().saturating_sub(from));
        report.delivered(delivered, self.clock.wall(), &self.metrics)
    }
}

/// A call's place among the permits; given back however the call ends, a panic included.
pub(super) struct Permit {
    inner: Arc<Inner>,
    key: FlowKey,
    grant: Grant,
    told: Told,
    id: Id,
    polled: bool,
    begun: bool,
}

impl Permit {
    /// For an attempt that another node has begun; one was reserved.
    pub fn of_another(inner: Arc<Inner>, key: FlowKey, grant: Grant, id: Id) -> Permit {
        Permit {
            inner,
            key,
            grant,
            told: Told::NOTHING,
            id,
            polled: true,
            begun: false,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (wall, steady) = (self.inner.clock.wall(), self.inner.clock.steady());
        let mut core = self.inner.lock();
        if self.begun {
            core.attempts.end(self.id, steady);
        }
        core.free(&self.key, self.grant, self.told, (wall, steady));
        // A call that was dropped unpolled: the runtime is gone, and the next would fare alike.
        core.stopping |= !self.polled;
        drop(core);
        self.inner.pump();
    }
}

/// When an attempt that has not begun need not begin any more.
fn until(dispatch: &Dispatch, spec: &Result<Spec, String>) -> Option<Time> {
    let spec = spec.as_ref().ok()?;
    let first = dispatch.tries == 0 && dispatch.fence.attempt == 1;
    let expires = spec.expires_at.filter(|_| first);
    let age = spec.retry.as_ref().and_then(|retry| retry.max_age);
    expires
        .into_iter()
        .chain(age.map(|age| dispatch.due.plus(age)))
        .min()
}

fn read(dispatch: &Dispatch) -> Result<Spec, String> {
    Spec::decode(&dispatch.spec).map_err(|e| e.to_string())
}

fn flow_key(dispatch: &Dispatch, spec: &Result<Spec, String>) -> FlowKey {
    FlowKey {
        app: dispatch.key.app.clone(),
        target: target_key(spec),
    }
}

/// Calls with the same scheme, host and port share a queue and permits, and so do those of a handler.
fn target_key(spec: &Result<Spec, String>) -> TargetKey {
    let target = spec.as_ref().ok().and_then(|spec| target_of(&spec.target));
    target.unwrap_or_default().into()
}

/// `scheme://host:port` or `handler:bean.method`, as targets are told apart.
pub fn target_of(target: &Target) -> Option<String> {
    let http = match target {
        Target::Http(http) => http,
        Target::Handler(handled) => return Some(format!("handler:{}", handled.name())),
    };
    let uri: http::Uri = http.url.parse().ok()?;
    let scheme = uri.scheme_str()?;
    let port = uri
        .port_u16()
        .unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some(format!(
        "{scheme}://{}:{port}",
        uri.host()?.to_ascii_lowercase()
    ))
}
