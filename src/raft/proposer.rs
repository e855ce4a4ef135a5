//! The way into the log: what arrives while an entry is under way shares the next one.
//!
//! Only the leader's proposer appends. Work is taken by class, most urgent first, as much as one
//! entry may hold; the entry gets one stamp, is encoded once, and is written fenced with the
//! leader's id, so that nothing decided under one term is appended under another.

use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::gathered::Gathered;
use super::turns::{self, Full, Size, Turns};
use super::types::{Payload, Raft, Reply, Types};
use super::wire::Verdict;
use crate::bugs::{self, Bug};
use crate::model::limits::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX};
use crate::model::{Batch, Clock, Event, Span, Time};
use crate::state::Shared;

/// Order of work under load, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Trigger = 0,
    Outcome = 1,
    Cancel = 2,
    Submit = 3,
}

impl Class {
    pub(crate) const ALL: [Class; 4] =
        [Class::Trigger, Class::Outcome, Class::Cancel, Class::Submit];

    pub(crate) fn from_number(number: u8) -> Option<Class> {
        Class::ALL.get(usize::from(number)).copied()
    }
}

/// Events that may wait in one class. Submits share theirs by application (`turns.rs`).
const WAITING_EVENTS_MAX: usize = 65_536;
/// Bytes that may wait in one class.
const WAITING_BYTES_MAX: usize = 128 << 20;
/// Entries under way at once. Two keep the disk and the network busy at the same time; more
/// only make the entries smaller: with four, 64 clients got a tenth less through.
const ENTRIES_UNDER_WAY: usize = 2;
/// What a client is asked to wait while a disk is nearly full: room does not come by itself.
const RETRY_AFTER_FULL: Span = Span::seconds(30);
/// So long nobody waits for an entry; then its outcome is unknown.
const OUTCOME_WITHIN: Duration = Duration::from_secs(15);

struct Request {
    events: Vec<Event>,
    /// How many they were, also after they moved into the entry.
    count: usize,
    bytes: usize,
    reply: oneshot::Sender<Vec<Verdict>>,
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<Request>,
    events: usize,
    bytes: usize,
}

/// What waits for an entry.
struct Waiting {
    /// The classes before the submits.
    urgent: [Queue; Class::Submit as usize],
    submits: Turns<Request>,
}

/// One entry's worth, as it is filled.
#[derive(Default)]
struct Filled {
    taken: Vec<Request>,
    events: usize,
    bytes: usize,
}

impl Filled {
    /// Whole requests: the first goes in whatever its size.
    fn fits(&self, size: Size) -> bool {
        let fits = self.events + size.events <= BATCH_EVENTS_MAX
            && self.bytes + size.bytes <= BATCH_BYTES_MAX;
        fits || self.taken.is_empty()
    }

    fn take(&mut self, request: Request) {
        self.events += request.count;
        self.bytes += request.bytes;
        self.taken.push(request);
    }
}

/// See the module.
pub(crate) struct Proposer {
    waiting: Mutex<Waiting>,
    /// No submits are taken: there is no room on disk.
    shut: AtomicBool,
    work: Notify,
    /// The term in which this node may propose; 0 for none. Opened by the leader's duties once
    /// the term's first entry is folded and the clocks are known.
    open_term: AtomicU64,
    /// This node's clock is off the others': nothing may be stamped with it. The duties hand the
    /// lead over then, but may be in the middle of something.
    distrusted: AtomicBool,
    last_stamp: AtomicU64,
    under_way: Arc<Semaphore>,
    gathered: Arc<Gathered>,
    clock: Arc<dyn Clock>,
    commit: Mutex<Commits>,
}

/// How long entries took from their proposal to their fold.
#[derive(Clone, Debug, Default)]
pub struct Commits {
    /// Seconds: upper bounds and counts.
    pub buckets: [u64; COMMIT_BOUNDS.len() + 1],
    pub sum: f64,
    pub count: u64,
}

/// Upper bounds of the commit histogram, in seconds.
pub const COMMIT_BOUNDS: [f64; 12] = [
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 1.0, 4.0,
];

impl Commits {
    fn note(&mut self, seconds: f64) {
        let at = COMMIT_BOUNDS.iter().position(|bound| seconds <= *bound);
        self.buckets[at.unwrap_or(COMMIT_BOUNDS.len())] += 1;
        self.sum += seconds;
        self.count += 1;
    }
}

impl Proposer {
    /// `rate`: submits a second that each application may make; 0 for no such bound.
    pub(crate) fn new(clock: Arc<dyn Clock>, gathered: Arc<Gathered>, rate: u32) -> Proposer {
        let max = Size {
            events: WAITING_EVENTS_MAX,
            bytes: WAITING_BYTES_MAX,
        };
        Proposer {
            waiting: Mutex::new(Waiting {
                urgent: Default::default(),
                submits: Turns::new(max, rate),
            }),
            shut: AtomicBool::new(false),
            work: Notify::new(),
            open_term: AtomicU64::new(0),
            distrusted: AtomicBool::new(false),
            last_stamp: AtomicU64::new(0),
            under_way: Arc::new(Semaphore::new(ENTRIES_UNDER_WAY)),
            gathered,
            clock,
            commit: Mutex::default(),
        }
    }

    /// Lets proposals of a term through, or none (0).
    pub(crate) fn open(&self, term: u64) {
        self.open_term.store(term, Ordering::SeqCst);
    }

    /// From now on the clock may be stamped with, or not.
    pub(crate) fn trust(&self, trusted: bool) {
        self.distrusted.store(!trusted, Ordering::SeqCst);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.term() != 0
    }

    /// The term in which it may propose now; 0 for none.
    fn term(&self) -> u64 {
        match self.distrusted.load(Ordering::SeqCst) {
            true => 0,
            false => self.open_term.load(Ordering::SeqCst),
        }
    }

    pub(crate) fn commits(&self) -> Commits {
        lock(&self.commit).clone()
    }

    /// Queues events for the next entry and waits for what becomes of them.
    pub(crate) async fn propose(&self, class: Class, events: Vec<Event>) -> Vec<Verdict> {
        let count = events.len();
        if !self.is_open() {
            return vec![Verdict::NotLeader; count];
        }
        let bytes = events.iter().map(size).sum();
        let (reply, answer) = oneshot::channel();
        let app = events.first().map(app).unwrap_or_default();
        let request = Request {
            events,
            count,
            bytes,
            reply,
        };
        if let Err(refused) = self.queue(class, &app, request) {
            return vec![refused; count];
        }
        self.work.notify_one();
        answer
            .await
            .unwrap_or_else(|_| vec![Verdict::Unknown; count])
    }

    /// Whether submits are refused, because there is no room on disk.
    pub(crate) fn shut(&self, shut: bool) {
        self.shut.store(shut, Ordering::Relaxed);
    }

    /// Lets a request wait for an entry, or says why not.
    fn queue(&self, class: Class, app: &Arc<str>, request: Request) -> Result<(), Verdict> {
        let (count, bytes) = (request.count, request.bytes);
        let overloaded = |after: Span| Verdict::Overloaded {
            retry_after_ms: after.0,
        };
        let mut waiting = lock(&self.waiting);
        let Some(queue) = waiting.urgent.get_mut(class as usize) else {
            if self.shut.load(Ordering::Relaxed) {
                return Err(Verdict::NoRoom {
                    retry_after_ms: RETRY_AFTER_FULL.0,
                });
            }
            let size = Size {
                events: count,
                bytes,
            };
            let pushed = waiting
                .submits
                .push(app, size, request, self.clock.steady());
            return pushed.map_err(|full| match full {
                Full::Room => overloaded(turns::RETRY_AFTER),
                Full::Rate { retry_after } => Verdict::TooFast {
                    retry_after_ms: retry_after.0,
                },
            });
        };
        let full =
            queue.events + count > WAITING_EVENTS_MAX || queue.bytes + bytes > WAITING_BYTES_MAX;
        if full && queue.events > 0 {
            return Err(overloaded(turns::RETRY_AFTER));
        }
        queue.events += count;
        queue.bytes += bytes;
        queue.requests.push_back(request);
        Ok(())
    }

    /// Appends what is queued, until told to stop.
    pub(crate) async fn run(self: Arc<Self>, raft: Raft, state: Shared, stop: CancellationToken) {
        let mut checkpoints = self.gathered.watch();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.work.notified() => {}
                // Submits that were held back may go on.
                Ok(()) = checkpoints.changed() => {}
            }
            loop {
                let Ok(place) = self.under_way.clone().acquire_owned().await else {
                    return;
                };
                let requests = self.take();
                if requests.is_empty() {
                    break;
                }
                self.append(&raft, &state, requests, place).await;
            }
        }
    }

    /// The next entry's requests: whole ones, by class. Submits stay while the state has more of
    /// them than its checkpoints can follow; what is due must not wait for these.
    fn take(&self) -> Vec<Request> {
        let held_back = self.gathered.holds_back();
        let mut waiting = lock(&self.waiting);
        let mut filled = Filled::default();
        for queue in &mut waiting.urgent {
            while let Some(next) = queue.requests.front() {
                let size = Size {
                    events: next.count,
                    bytes: next.bytes,
                };
                if !filled.fits(size) {
                    return filled.taken;
                }
                let Some(request) = queue.requests.pop_front() else {
                    break;
                };
                queue.events -= request.count;
                queue.bytes -= request.bytes;
                filled.take(request);
            }
        }
        while !held_back && let Some((_, request)) = waiting.submits.next(|size| filled.fits(size))
        {
            filled.take(request);
        }
        filled.taken
    }

    async fn append(
        self: &Arc<Self>,
        raft: &Raft,
        state: &Shared,
        mut requests: Vec<Request>,
        place: tokio::sync::OwnedSemaphorePermit,
    ) {
        #[allow(clippy::disallowed_methods)] // It refuses a moment too long at worst.
        let leader = raft.as_leader().ok();
        let now = self.clock.wall();
        // Asked after the clock was read, so that no wrong time is trusted.
        let open = self.term();
        let Some(leader) = leader.filter(|leader| leader.leader_id().term == open) else {
            return refuse(requests);
        };
        let events = requests
            .iter_mut()
            .flat_map(|r| std::mem::take(&mut r.events));
        let batch = Batch {
            stamp: self.stamp(state, now),
            now,
            events: events.collect(),
        };
        let payload = Payload(batch.encode().into());
        let (responder, answer) = ProgressResponder::<Types, _>::complete_only();
        let start = self.clock.steady();
        let written = raft
            .write(payload)
            .with_leader(leader.to_committed_leader_id())
            .responder(responder);
        if written.await.is_err() {
            return; // Dropped replies say that the outcome is unknown; the process is ending.
        }
        let proposer = self.clone();
        tokio::spawn(async move {
            let answer = tokio::time::timeout(OUTCOME_WITHIN, answer).await;
            drop(place);
            match answer {
                Ok(Ok(Ok(response))) => {
                    let took = proposer.clock.steady().saturating_sub(start);
                    lock(&proposer.commit).note(took.as_secs_f64());
                    distribute(requests, response.log_id.index(), response.data);
                }
                Ok(Ok(Err(ClientWriteError::ForwardToLeader(_)))) => refuse(requests),
                // Replaced by another leader's entry, too late, or shutting down.
                _ => drop(requests),
            }
        });
    }

    /// Never goes back, across leaders too: the log's last stamp is folded before a term opens.
    fn stamp(&self, state: &Shared, now: Time) -> Time {
        let folded = state.read(|state| state.stamp());
        let last = Time(self.last_stamp.load(Ordering::Relaxed));
        let stamp = match bugs::on(Bug::StampGoesBack) {
            true => now,
            false => now.max(folded).max(last),
        };
        self.last_stamp.store(stamp.0, Ordering::Relaxed);
        stamp
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whose submit it is; of a batch, the first one's.
fn app(event: &Event) -> Arc<str> {
    match event {
        Event::Submit(e) => e.key.app.clone(),
        Event::Run(e) => e.key.app.clone(),
        _ => Arc::default(),
    }
}

/// About how many bytes an event takes in the log.
fn size(event: &Event) -> usize {
    const SMALL: usize = 200;
    match event {
        Event::Submit(e) => e.spec.len() + SMALL,
        Event::Change(e) => e.spec.as_ref().map_or(0, |spec| spec.len()) + SMALL,
        Event::Done(e) => e.end.answer.as_ref().map_or(0, |text| text.len()) + SMALL,
        Event::Failed(e) => e.end.answer.as_ref().map_or(0, |text| text.len()) + SMALL,
        Event::Started(e) => e.attempts.len() * 40 + SMALL,
        _ => SMALL,
    }
}

fn refuse(requests: Vec<Request>) {
    for request in requests {
        let count = request.count;
        // Whoever asked may have gone.
        let _ = request.reply.send(vec![Verdict::NotLeader; count]);
    }
}

fn distribute(requests: Vec<Request>, index: u64, reply: Reply) {
    let mut outcomes = reply.0.into_iter();
    for request in requests {
        let verdicts = outcomes.by_ref().take(request.count);
        let verdicts = verdicts
            .map(|outcome| Verdict::Decided { index, outcome })
            .collect();
        let _ = request.reply.send(verdicts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{MemoryStore, State};
    use futures::FutureExt as _;

    struct Still;

    impl Clock for Still {
        fn wall(&self) -> Time {
            Time(1_000)
        }

        fn wall_us(&self) -> u64 {
            1_000_000
        }

        fn steady(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn proposer() -> Proposer {
        Proposer::new(Arc::new(Still), Arc::new(Gathered::new(10, 1_000)))
    }

    #[test]
    fn stamps_never_go_back_under_one_leader_or_the_next() {
        let state = Shared::new(State::new(Box::<MemoryStore>::default()));
        let first = proposer();
        assert_eq!(first.stamp(&state, Time(1_000)), Time(1_000));
        assert_eq!(first.stamp(&state, Time(700)), Time(1_000), "I-10");
        let folded = Batch {
            stamp: Time(1_000),
            now: Time(700),
            events: Vec::new(),
        };
        state.write(|state| state.apply(1, folded, &mut Vec::new()));
        let next = proposer();
        assert_eq!(next.stamp(&state, Time(800)), Time(1_000), "I-10");
        assert_eq!(next.stamp(&state, Time(1_200)), Time(1_200));
    }

    /// Found by the fault harness, seed 2011: a leader whose clock had jumped back by hours went on
    /// to stamp for three seconds, until its duties came round to handing over, and a delay counted
    /// by that clock fired at once.
    #[test]
    fn a_clock_that_is_not_trusted_stamps_nothing() {
        let proposer = proposer();
        proposer.open(7);
        assert_eq!(proposer.term(), 7);
        proposer.trust(false);
        assert!(!proposer.is_open() && proposer.term() == 0);
        let refused = proposer.propose(Class::Submit, Vec::new()).now_or_never();
        assert_eq!(refused.map(|verdicts| verdicts.len()), Some(0), "at once");
        proposer.open(8);
        assert_eq!(proposer.term(), 0, "whoever opens it");
        proposer.trust(true);
        assert_eq!(proposer.term(), 8);
        let waits = proposer.propose(Class::Submit, Vec::new()).now_or_never();
        assert!(waits.is_none(), "for the next entry");
    }
}
