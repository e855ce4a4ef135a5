//! The way into the log: what arrives while an entry is under way shares the next one.
//!
//! Only the leader's proposer appends. What waits (`waiting.rs`) is taken by class, most urgent first,
//! as much as one entry may hold; the entry gets one stamp, is encoded once, and is written fenced with the
//! leader's id, so that nothing decided under one term is appended under another.

use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::durations::{Counted, Durations};
use super::gathered::Gathered;
use super::types::{Payload, Raft, Reply, Types};
use super::waiting::{Class, Request, Waiting, by_app};
use super::wire::Verdict;
use crate::bugs::{self, Bug};
use crate::model::{Batch, Clock, Event, Time};
use crate::state::Shared;

/// Entries under way at once. Two keep the disk and the network busy at the same time; more
/// only make the entries smaller: with four, 64 clients got a tenth less through.
const ENTRIES_UNDER_WAY: usize = 2;
/// So long nobody waits for an entry; then its outcome is unknown.
const OUTCOME_WITHIN: Duration = Duration::from_secs(15);

/// See the module.
pub(crate) struct Proposer {
    waiting: Mutex<Waiting>,
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
    /// From the proposal of an entry to its fold.
    commit: Durations,
}

impl Proposer {
    /// `rate`: submits a second that each application may make; 0 for no such bound.
    pub(crate) fn new(clock: Arc<dyn Clock>, gathered: Arc<Gathered>, rate: u32) -> Proposer {
        Proposer {
            waiting: Mutex::new(Waiting::new(rate)),
            work: Notify::new(),
            open_term: AtomicU64::new(0),
            distrusted: AtomicBool::new(false),
            last_stamp: AtomicU64::new(0),
            under_way: Arc::new(Semaphore::new(ENTRIES_UNDER_WAY)),
            gathered,
            clock,
            commit: Durations::default(),
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

    pub(crate) fn commits(&self) -> Counted {
        self.commit.read()
    }

    /// Queues events for the next entry and waits for what becomes of them. Those of several
    /// applications go separate ways, each with its own.
    pub(crate) async fn propose(&self, class: Class, events: Vec<Event>) -> Vec<Verdict> {
        let count = events.len();
        if !self.is_open() {
            return vec![Verdict::NotLeader; count];
        }
        let mut verdicts = vec![Verdict::Unknown; count];
        let mut answers = Vec::new();
        for (app, part) in by_app(class, events) {
            let (places, events): (Vec<usize>, _) = part.into_iter().unzip();
            let (request, answer) = Request::new(events);
            let now = self.clock.steady();
            match lock(&self.waiting).push(class, &app, request, now) {
                Ok(()) => answers.push((places, answer)),
                Err(refused) => places.iter().for_each(|n| verdicts[*n] = refused.clone()),
            }
        }
        self.work.notify_one();
        for (places, answer) in answers {
            // A dropped reply says that the outcome is unknown.
            let decided = answer.await.unwrap_or_default();
            for (n, verdict) in places.into_iter().zip(decided) {
                verdicts[n] = verdict;
            }
        }
        verdicts
    }

    /// Whether submits are refused, because there is no room on disk.
    pub(crate) fn shut(&self, shut: bool) {
        lock(&self.waiting).shut = shut;
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

    /// The next entry's requests.
    fn take(&self) -> Vec<Request> {
        let held_back = self.gathered.holds_back();
        lock(&self.waiting).take(held_back)
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
                    proposer.commit.note(took);
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

fn refuse(requests: Vec<Request>) {
    for request in requests {
        let count = request.count();
        // Whoever asked may have gone.
        let _ = request.reply.send(vec![Verdict::NotLeader; count]);
    }
}

fn distribute(requests: Vec<Request>, index: u64, reply: Reply) {
    let mut outcomes = reply.0.into_iter();
    for request in requests {
        let verdicts = outcomes.by_ref().take(request.count());
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
        Proposer::new(Arc::new(Still), Arc::new(Gathered::new(10, 1_000)), 0)
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
        let event = || -> Vec<Event> {
            let (app, by) = ("shop".into(), "test".into());
            vec![crate::model::ResumeApp { app, by }.into()]
        };
        let refused = proposer.propose(Class::Cancel, event()).now_or_never();
        assert!(
            matches!(refused.unwrap()[..], [Verdict::NotLeader]),
            "at once"
        );
        proposer.open(8);
        assert_eq!(proposer.term(), 0, "whoever opens it");
        proposer.trust(true);
        assert_eq!(proposer.term(), 8);
        let waits = proposer.propose(Class::Cancel, event()).now_or_never();
        assert!(waits.is_none(), "for the next entry");
    }
}
