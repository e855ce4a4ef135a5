//! The way of one attempt from its permit to its outcome, and what reports on the way.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attempts::Id;
use super::core::{Begin, Core};
use super::deliver::{Call, Delivered, Delivery, FailureKind};
use super::flows::{FlowKey, Grant, Reference, TargetView, Told};
use super::hold::{Bell, Hold};
use super::metrics::{ExecutorMetrics, Metrics, Result as Label};
use super::{Settings, Source, verdict};
use crate::model::{Change, Clock, Event, Http, Spec, Target, Time, Wait};
use crate::state::{Dispatch, Open};

/// Attempts looked up under one lock of the state.
pub(super) const LOOK_UP_MAX: usize = 256;
/// Attempts of one question that are looked up to tell whether they were kept.
const UNSURE_MAX: usize = 64;

/// An attempt that is due, looked up and read.
pub(super) struct Prepared {
    pub key: FlowKey,
    pub reference: Reference,
    dispatch: Dispatch,
    spec: Result<Spec, String>,
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
    runtime: Handle,
    calls: TaskTracker,
    abandon: CancellationToken,
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
        if core.renew(contact, self.clock.steady()) {
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
        let core = self.lock();
        let permits = core.targets.in_flight() as f64 / core.targets.total() as f64;
        let memory = core.waiting() as f64 / self.settings.held_max.max(1) as f64;
        permits.max(memory).clamp(0.0, 1.0)
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
        let steady = self.clock.steady();
        let mut core = self.lock();
        let ready: Vec<(Prepared, Grant)> = found
            .into_iter()
            .filter_map(|found| match found {
                Ok(prepared) => core
                    .route(&prepared.key, prepared.reference, steady)
                    .map(|grant| (prepared, grant)),
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
            for (found, grant) in self.prepare(taken).into_iter().zip(grants) {
                match found {
                    Ok(prepared) => self.spawn(prepared, grant),
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
    fn prepare(
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
            let waited_for = core.targets.waited_for(&prepared.key, prepared.reference);
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

    async fn carry_out(
        &self,
        prepared: Prepared,
        (started, waited_for): (Time, Wait),
        permit: &mut Permit,
    ) -> Event {
        let Prepared {
            reference,
            dispatch,
            spec,
            ..
        } = prepared;
        let report = verdict::Report {
            id: reference.id,
            node: self.settings.node,
            started,
            queued: match waited_for {
                // It was brought back when the pause was over.
                Wait::Paused => started.since(reference.at),
                _ => started.since(reference.at.max(reference.released)),
            },
            waited_for,
        };
        let spec = match spec {
            Ok(spec) => spec,
            Err(why) => return report.unreadable(&why, &self.metrics),
        };
        let first = dispatch.tries == 0 && dispatch.fence.attempt == 1;
        if let Some(at) = spec.expires_at.filter(|at| first && started >= *at) {
            return report.expired(at, &self.metrics);
        }
        if reference.given_up {
            return report.given_up(&self.metrics);
        }
        let timeout = spec.timeout();
        let Target::Http(http) = spec.target;
        let call = Call {
            seq: dispatch.seq,
            fence: dispatch.fence,
            key: dispatch.key,
            due: dispatch.due,
            started,
            http,
            timeout,
        };
        let begun = self.clock.steady();
        // A defect in the delivery must not leave the attempt open for ever.
        let delivered = AssertUnwindSafe(self.delivery.deliver(call))
            .catch_unwind()
            .await;
        let delivered = delivered.unwrap_or_else(|_| {
            Delivered::failed(
                FailureKind::Broken,
                "the delivery has a defect; see the log",
            )
        });
        permit.told = verdict::told(&delivered, self.clock.steady().saturating_sub(begun));
        report.delivered(delivered, self.clock.wall(), &self.metrics)
    }
}

/// A call's place among the permits; given back however the call ends, a panic included.
struct Permit {
    inner: Arc<Inner>,
    key: FlowKey,
    grant: Grant,
    told: Told,
    id: Id,
    polled: bool,
    begun: bool,
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

/// Calls with the same scheme, host and port share a queue and permits.
fn target_key(spec: &Result<Spec, String>) -> Arc<str> {
    match spec {
        Ok(Spec {
            target: Target::Http(http),
            ..
        }) => target_of(http).unwrap_or_default().into(),
        Err(_) => "".into(),
    }
}

/// `scheme://host:port`, as targets are told apart.
pub fn target_of(target: &Http) -> Option<String> {
    let uri: http::Uri = target.url.parse().ok()?;
    let scheme = uri.scheme_str()?;
    let port = uri
        .port_u16()
        .unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some(format!(
        "{scheme}://{}:{port}",
        uri.host()?.to_ascii_lowercase()
    ))
}
