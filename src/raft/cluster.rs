//! One node's part in the cluster, as the floors above use it.

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::ReadPolicy;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

use super::durations::Counted;
use super::inner::Inner;
use super::peer::{CallError, Lane};
use super::types::{Member, Raft};
use super::view::{ClusterView, Facts, NodeView, Scrubbed, ShardView};
use super::waiting::Class;
use super::wire::{self, Propose, Verdict, Withdraw};
use crate::bugs::{self, Bug};
use crate::model::{
    Batch, Event, Fence, Key, Level, NodeId, Outcome, Refusal, Seq, Span, Stage, Task, Time,
    decode, encode,
};
use crate::state::{Filter, Page, Shared, State, StoreFault};

/// While no leader is known, a request waits so long for one.
pub(super) const LEADER_WITHIN: Duration = Duration::from_secs(1);
/// A request that may have been appended is given so long to come back.
pub(super) const OUTCOME_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks for a leader.
pub(super) const LOOK: Duration = Duration::from_millis(15);
/// How long a peer may take to tell its facts.
const VIEW_WITHIN: Duration = Duration::from_millis(300);

/// What an event came to, and where in the log.
#[derive(Clone, Debug)]
pub struct Decided {
    pub index: u64,
    pub outcome: Outcome,
}

/// Why there is no answer. All but the last two surely had no effect.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Busy {
    #[error("no leader is known at the moment")]
    NoLeader,
    #[error("too much is waiting already")]
    Overloaded { retry_after: Span },
    #[error("the application submits faster than limits.app_submits_per_second allows")]
    TooFast { retry_after: Span },
    #[error(
        "the disks of the cluster are nearly full (disk.refuse_below): no tasks are taken until \
         there is room; outcomes and cancels are"
    )]
    NoRoom { retry_after: Span },
    #[error(
        "this needs feature level {needs}, and the cluster is at {reached}: it rises by itself when \
         every member runs a version that knows it, and none is held back by cluster.feature_level; \
         GET /v1/cluster tells what each knows"
    )]
    Level { needs: Level, reached: Level },
    #[error("the outcome is unknown: ask, or send the same again")]
    Unknown,
    #[error("this node cannot read its own record")]
    Fault,
}

/// See the module.
#[derive(Clone)]
pub struct Cluster(pub(crate) Arc<Inner>);

impl Cluster {
    /// This node.
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// The state as this node has it.
    pub fn state(&self) -> &Shared {
        &self.0.state
    }

    /// Reads the state; a store that cannot be read ends this node.
    ///
    /// # Errors
    /// [`Busy::Fault`]: the process is about to end.
    pub fn read<T>(&self, f: impl FnOnce(&State) -> Result<T, StoreFault>) -> Result<T, Busy> {
        self.whole(self.0.state.read(f))
    }

    /// What was read; or the end of this node.
    fn whole<T>(&self, read: Result<T, StoreFault>) -> Result<T, Busy> {
        read.map_err(|e| {
            (self.0.fault)(e.to_string());
            Busy::Fault
        })
    }

    /// One page of a list, behind a key.
    ///
    /// # Errors
    /// As of [`Cluster::read`].
    pub fn list(&self, filter: &Filter, after: Option<&Key>, limit: usize) -> Result<Page, Busy> {
        self.whole(self.0.state.list(filter, after, limit))
    }

    /// Proposes events; one answer each, in order. Goes to the leader, wherever that is; has
    /// owners withdraw attempts where a cancel, a change or a completion needs it.
    pub async fn decide(&self, class: Class, events: Vec<Event>) -> Vec<Result<Decided, Busy>> {
        let keep = events
            .iter()
            .any(|e| matches!(e, Event::Cancel(_) | Event::Change(_) | Event::Complete(_)));
        let kept = if keep { events.clone() } else { Vec::new() };
        let verdicts = self.propose(class, events).await;
        let mut answers = Vec::with_capacity(verdicts.len());
        for (n, verdict) in verdicts.into_iter().enumerate() {
            answers.push(answer(match kept.get(n) {
                Some(event) => self.with_owner(class, event, verdict).await,
                None => verdict,
            }));
        }
        answers
    }

    /// Where the fold says that the owner must withdraw an attempt first, has it do so. The task may
    /// change hands meanwhile, and then it is the next owner's to do.
    async fn with_owner(&self, class: Class, event: &Event, mut verdict: Verdict) -> Verdict {
        let start = Instant::now();
        while let Some(held) = owner_asked_for(&verdict) {
            verdict = self.withdraw(held, event.clone()).await;
            if start.elapsed() >= LEADER_WITHIN {
                break;
            }
            if has_moved(&verdict) || matches!(verdict, Verdict::NotLeader) {
                #[allow(clippy::disallowed_methods)] // Until another node owns it.
                tokio::time::sleep(LOOK).await;
                let again = self.propose(class, vec![event.clone()]).await.pop();
                verdict = again.unwrap_or(Verdict::Unknown);
            }
        }
        verdict
    }

    /// To the leader, again while that is surely without effect.
    async fn propose(&self, class: Class, events: Vec<Event>) -> Vec<Verdict> {
        let count = events.len();
        let start = Instant::now();
        let may_repeat = events.iter().all(may_repeat);
        // Once an answer was lost, no later refusal says that nothing happened.
        let mut maybe = false;
        loop {
            let (verdicts, sent) = self.propose_once(class, &events).await;
            let again = match verdicts.first() {
                Some(Verdict::NotLeader) if maybe => start.elapsed() < OUTCOME_WITHIN,
                Some(Verdict::NotLeader) => start.elapsed() < LEADER_WITHIN,
                Some(Verdict::Unknown) if sent => may_repeat && start.elapsed() < OUTCOME_WITHIN,
                _ => false,
            };
            if !again {
                return match verdicts.len() == count {
                    true => verdicts.into_iter().map(|v| settle(v, maybe)).collect(),
                    false => vec![Verdict::Unknown; count],
                };
            }
            maybe |= sent && matches!(verdicts.first(), Some(Verdict::Unknown));
            #[allow(clippy::disallowed_methods)] // Until there is a leader.
            tokio::time::sleep(LOOK).await;
        }
    }

    /// One try; also says whether the events left this node.
    async fn propose_once(&self, class: Class, events: &[Event]) -> (Vec<Verdict>, bool) {
        let count = events.len();
        let all = |verdict: Verdict| vec![verdict; count];
        let Some(leader) = self.0.leader() else {
            return (all(Verdict::NotLeader), false);
        };
        if leader == self.0.node {
            return (self.0.propose(class, events.to_vec()).await, false);
        }
        let Some(member) = self.0.members().remove(&leader) else {
            return (all(Verdict::NotLeader), false);
        };
        let batch = Batch {
            stamp: Time(0),
            now: Time(0),
            events: events.to_vec(),
        };
        let body = encode(&Propose {
            class: class as u8,
            events: batch.encode(),
        })
        .into();
        let to = (leader, member.peer.as_str());
        let call = self
            .0
            .peers
            .call(to, Lane::Forward, wire::PROPOSE, body, OUTCOME_WITHIN);
        match call.await {
            Ok(bytes) => (
                decode(&bytes).unwrap_or_else(|_| all(Verdict::Unknown)),
                true,
            ),
            Err(CallError::Lost { .. }) => (all(Verdict::Unknown), true),
            Err(_) => (all(Verdict::NotLeader), false),
        }
    }

    /// Has the owner take its attempt back and propose the event with its fence.
    async fn withdraw(&self, held: (Seq, Fence, NodeId), event: Event) -> Verdict {
        let (seq, fence, owner) = held;
        if owner == self.0.node {
            return self.withdraw_here(seq, fence, event).await;
        }
        let Some(member) = self.0.members().remove(&owner) else {
            return Verdict::NotLeader;
        };
        let event = Batch {
            stamp: Time(0),
            now: Time(0),
            events: vec![event],
        }
        .encode();
        let body = encode(&Withdraw { seq, fence, event }).into();
        let to = (owner, member.peer.as_str());
        match self
            .0
            .peers
            .call(to, Lane::Forward, wire::WITHDRAW, body, OUTCOME_WITHIN)
            .await
        {
            Ok(bytes) => decode(&bytes).unwrap_or(Verdict::Unknown),
            Err(CallError::Lost { .. }) => Verdict::Unknown,
            Err(_) => Verdict::NotLeader,
        }
    }

    /// The owner's part: test-and-set, then the event with its fence until the log has decided.
    pub(crate) async fn withdraw_here(&self, seq: Seq, fence: Fence, event: Event) -> Verdict {
        if !self.0.folded.is_of_this_run(fence) {
            // An earlier run of this node may have begun it, and this one knows nothing of that.
            // Whoever asked asks again, until the log has handed it out again.
            return Verdict::NotLeader;
        }
        let withdrawn = self.0.rim.withdraw(seq, fence);
        if !withdrawn && !matches!(event, Event::Complete(_)) {
            let outcome = Outcome::Refused(Refusal::Stage {
                stage: Stage::Running,
            });
            let index = *self.0.folded.applied.borrow();
            return Verdict::Decided { index, outcome };
        }
        let event = match event {
            Event::Cancel(e) => Event::Cancel(crate::model::Cancel {
                withdrawn: Some(fence),
                ..e
            }),
            Event::Change(e) => Event::Change(crate::model::ChangeTask {
                withdrawn: Some(fence),
                ..e
            }),
            Event::Complete(e) => Event::Complete(crate::model::Complete {
                asked: Some(fence),
                ..e
            }),
            other => other,
        };
        // It stays withheld until the log tells, also when the one who asked has gone.
        let cluster = self.clone();
        let decided = tokio::spawn(async move {
            let (verdict, lost) = cluster.until_told(seq, fence, event).await;
            match &verdict {
                Verdict::Decided {
                    index,
                    outcome: Outcome::Refused(_),
                } => {
                    if withdrawn {
                        cluster.restore(seq, fence, *index).await;
                    }
                    // Refused may be the repetition of what had taken effect.
                    if lost { Verdict::Unknown } else { verdict }
                }
                _ => verdict,
            }
        });
        decided.await.unwrap_or(Verdict::Unknown)
    }

    /// The last verdict, and whether an earlier one was lost.
    async fn until_told(&self, seq: Seq, fence: Fence, event: Event) -> (Verdict, bool) {
        let mut lost = false;
        loop {
            let mut verdicts = self.propose(Class::Cancel, vec![event.clone()]).await;
            match verdicts.pop() {
                Some(decided @ Verdict::Decided { .. }) => return (decided, lost),
                Some(Verdict::Unknown) | None => {
                    // The fold itself may have told meanwhile: another fence, another stage.
                    let open = self.read(|state| state.dispatch(seq, fence));
                    if !matches!(open, Ok(Some(_))) {
                        return (Verdict::Unknown, true);
                    }
                    lost = true;
                }
                Some(_) if self.0.stop.is_cancelled() => return (Verdict::Unknown, lost),
                Some(_) => {}
            }
            #[allow(clippy::disallowed_methods)] // Until a leader answers.
            tokio::time::sleep(LOOK * 4).await;
        }
    }

    /// The event was refused, so the attempt may go on: unless another event has moved the task, or
    /// this very one has, whose first answer was lost. What is folded here up to the refusal tells.
    async fn restore(&self, seq: Seq, fence: Fence, index: u64) {
        let mut applied = self.0.folded.applied.subscribe();
        if applied.wait_for(|at| *at >= index).await.is_ok() {
            self.0.rim.restore(seq, fence);
        }
    }

    /// After this returns, [`Cluster::state`] shows every write acknowledged before the call.
    ///
    /// # Errors
    /// [`Busy::NoLeader`] when no leader with a quorum can be asked in time.
    pub async fn barrier(&self) -> Result<(), Busy> {
        if bugs::on(Bug::StaleRead) {
            return Ok(());
        }
        let start = Instant::now();
        loop {
            let index = self.ask_read_index().await;
            if index > 0 {
                let mut applied = self.0.folded.applied.subscribe();
                let caught_up = applied.wait_for(|at| *at >= index);
                return match tokio::time::timeout(LEADER_WITHIN, caught_up).await {
                    Ok(Ok(_)) => Ok(()),
                    _ => Err(Busy::NoLeader),
                };
            }
            if start.elapsed() >= LEADER_WITHIN {
                return Err(Busy::NoLeader);
            }
            #[allow(clippy::disallowed_methods)] // Until there is a leader.
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn ask_read_index(&self) -> u64 {
        let Some(leader) = self.0.leader() else {
            return 0;
        };
        if leader == self.0.node {
            let Some(raft) = self.0.raft() else { return 0 };
            return Cluster::read_index(&self.0, raft).await;
        }
        let Some(member) = self.0.members().remove(&leader) else {
            return 0;
        };
        let to = (leader, member.peer.as_str());
        let call = self.0.peers.call(
            to,
            Lane::Forward,
            wire::BARRIER,
            Default::default(),
            LEADER_WITHIN,
        );
        call.await
            .ok()
            .and_then(|bytes| decode(&bytes).ok())
            .unwrap_or(0)
    }

    /// The leader's part of a barrier: by its lease while that holds, else by asking a quorum.
    /// 0: this node cannot say.
    ///
    /// openraft's own lease is by a clock that stands still in suspension: a leader that wakes would
    /// answer by a lease that ended while it slept. So ours must hold as well.
    pub(crate) async fn read_index(inner: &Inner, raft: &Raft) -> u64 {
        if inner.skewed.load(Ordering::SeqCst) || !inner.proposer.is_open() {
            return 0;
        }
        let leased = inner.leases.holds(inner.clock.steady(), inner.timing);
        let by_lease = leased.then_some(ReadPolicy::LeaseRead);
        for policy in by_lease.into_iter().chain([ReadPolicy::ReadIndex]) {
            let asked = raft.get_read_log_id(policy);
            if let Ok(Ok((read, _))) = tokio::time::timeout(LEADER_WITHIN, asked).await {
                return read.index();
            }
        }
        0
    }

    /// Waits until a task is in a final stage; `None` if it is not by then.
    pub async fn finished(&self, seq: Seq, within: Duration) -> Option<Task> {
        let mut finished = self.0.folded.finished.subscribe();
        let look = || self.read(|state| state.task_by_seq(seq)).ok().flatten();
        let wait = async {
            loop {
                match look() {
                    Some(task) if task.stage.is_final() => return Some(task),
                    None => return None,
                    Some(_) => {}
                }
                loop {
                    use tokio::sync::broadcast::error::RecvError;
                    match finished.recv().await {
                        Ok(done) if done == seq => break,
                        Ok(_) => {}
                        Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => return None,
                    }
                }
            }
        };
        tokio::time::timeout(within, wait).await.ok().flatten()
    }

    /// Ok when a leader is known and this node has caught up; else the reason.
    pub fn ready(&self) -> Result<(), String> {
        let Some(raft) = self.0.raft() else {
            return Err("the cluster is being formed".into());
        };
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.running_state.is_err() {
            return Err("Raft has stopped".into());
        }
        let Some(leader) = self.0.leader() else {
            return Err("no leader is known".into());
        };
        if leader == self.0.node && !self.0.proposer.is_open() {
            return Err("this node has just become the leader".into());
        }
        let applied = metrics.last_applied.map_or(0, |id| id.index());
        if applied < self.0.opened_at {
            return Err(format!(
                "replaying the log: {applied} of {}",
                self.0.opened_at
            ));
        }
        if self.0.folded.levels.reached() == Level::default() {
            return Err("the cluster is being formed: it has no feature level yet".into());
        }
        let unowned = |state: &State| state.shards().any(|(_, held)| held.node == 0);
        if self.0.state.read(unowned) {
            return Err("the cluster is being formed: its shards have no owner yet".into());
        }
        let committed = metrics.cluster_committed.map_or(0, |id| id.index());
        if committed.saturating_sub(applied) > 100_000 {
            return Err(format!("catching up: {applied} of {committed}"));
        }
        Ok(())
    }

    /// Bytes free on this node's disk, and whether that is less than it should be.
    pub fn disk(&self) -> (u64, bool) {
        (self.0.room.free(), self.0.room.is_low())
    }

    /// The whole cluster, asked freshly.
    pub async fn view(&self) -> ClusterView {
        let (leader, term, voters) = match self.0.raft() {
            Some(raft) => {
                let metrics = raft.server_metrics();
                let metrics = metrics.borrow_watched();
                let leads = metrics.state == ServerState::Leader;
                let leader = metrics.current_leader;
                let isolated = leads && !self.0.proposer.is_open();
                let voters: Vec<NodeId> = metrics.membership_config.voter_ids().collect();
                (
                    leader.filter(|_| !isolated),
                    metrics.vote.leader_id().term,
                    voters,
                )
            }
            None => (None, 0, Vec::new()),
        };
        let mut members = self.0.members();
        if self.0.removed.get().is_some() {
            // The last it has of the log may still hold itself.
            members.remove(&self.0.node);
        }
        let facts = members
            .iter()
            .map(|(id, member)| self.ask_facts(*id, member));
        let facts = futures::future::join_all(facts).await;
        let nodes = members.iter().zip(facts).map(|((id, member), facts)| {
            let role = match () {
                () if leader == Some(*id) => "leader",
                () if voters.contains(id) => "follower",
                () => "learner",
            };
            self.node_view(*id, member, role, facts)
        });
        let nodes = nodes.collect();
        let (shards_owned, shards) = self.0.state.read(|state| {
            let mut owned: BTreeMap<NodeId, u64> = BTreeMap::new();
            for (_, held) in state.shards().filter(|(_, held)| held.node != 0) {
                *owned.entry(held.node).or_default() += 1;
            }
            let progress = state.shards().zip(state.progress());
            let shards: Vec<ShardView> = progress
                .map(|((shard, held), (_, committed))| ShardView {
                    shard: shard.0,
                    owner: (held.node != 0).then_some(held.node),
                    epoch: held.epoch.0.into(),
                    open: committed.open,
                    committed: committed.position,
                })
                .collect();
            (owned, shards)
        });
        ClusterView {
            level: self.0.folded.levels.reached(),
            leader,
            term,
            nodes,
            shards_total: shards.len() as u16,
            shards_owned,
            shards,
        }
    }

    async fn ask_facts(&self, id: NodeId, member: &Member) -> Option<Facts> {
        if id == self.0.node {
            return Some(self.0.facts(true));
        }
        let to = (id, member.peer.as_str());
        let call = self.0.peers.call(
            to,
            Lane::Urgent,
            wire::VIEW,
            Default::default(),
            VIEW_WITHIN,
        );
        call.await.ok().and_then(|bytes| decode(&bytes).ok())
    }

    fn node_view(
        &self,
        id: NodeId,
        member: &Member,
        role: &'static str,
        fresh: Option<Facts>,
    ) -> NodeView {
        let now = self.0.clock.steady();
        let me = id == self.0.node;
        let (heard, offset_us) = self.0.registry.facts(id).unwrap_or_default();
        let silent = self.0.registry.silent_for(id, now);
        let alive = me || fresh.is_some() || silent.is_some_and(|s| s < self.0.node_timeout);
        let facts = fresh.unwrap_or(heard);
        let own_skew = self.0.skew_us.load(Ordering::Relaxed);
        NodeView {
            id,
            http: member.http.clone(),
            peer: member.peer.clone(),
            role,
            alive,
            load: f64::from(facts.load) / 1_000.0,
            queue_age_ms: facts.queue_age_ms,
            resigns: facts.resigns,
            last_applied: facts.applied,
            checkpoint: facts.checkpoint,
            clock_skew_ms: (own_skew + if me { 0 } else { offset_us }) / 1_000,
            version: facts.version,
            level: facts.level,
            labels: facts.labels,
            handlers: facts.handlers,
            scrub: facts.scrub,
            scrub_place: if me {
                self.0.scrub.place()
            } else {
                String::new()
            },
            state_hashes: facts
                .hashes
                .iter()
                .map(|(at, hash)| (*at, hash.to_string()))
                .collect(),
        }
    }

    /// How long entries took from their proposal here to their fold.
    pub fn commits(&self) -> Counted {
        self.0.proposer.commits()
    }

    /// How long entries that could be folded waited for the state: for readers, for the window
    /// being loaded, for a checkpoint.
    pub fn fold_waits(&self) -> Counted {
        self.0.folded.waits.read()
    }

    /// How long the fold of an entry took, with reading what it names.
    pub fn folds(&self) -> Counted {
        self.0.folded.folds.read()
    }

    /// The log index of the newest snapshot.
    pub fn checkpoint(&self) -> u64 {
        self.0.checkpoint.load(Ordering::Relaxed)
    }

    /// Since that snapshot was made, or since this node started.
    pub fn checkpoint_age(&self) -> Duration {
        let at = Duration::from_millis(self.0.checkpoint_at_ms.load(Ordering::Relaxed));
        self.0.clock.steady().saturating_sub(at)
    }

    /// Begins a pass of the scrub at once and without pauses; one under way hurries to its end.
    pub fn scrub_now(&self) {
        self.0.scrub.begin_now();
    }

    /// What the scrub of this node has done.
    pub fn scrubbed(&self) -> Scrubbed {
        self.0.scrub.scrubbed()
    }

    /// Since its last pass ended, or since this node started.
    pub fn scrub_age(&self) -> Duration {
        let at = Duration::from_millis(self.0.scrubbed_at_ms.load(Ordering::Relaxed));
        self.0.clock.steady().saturating_sub(at)
    }

    /// How far ahead of their instants tasks are triggered at present.
    pub fn lead(&self) -> Duration {
        Duration::from_micros(self.0.lead_us.load(Ordering::Relaxed))
    }

    /// Bytes and rows of the log, and what its engine promises.
    pub fn log_status(&self) -> crate::log::LogStatus {
        self.0.log.status()
    }
}

/// Whether an event that may have been decided may be proposed again. A repeated submit is the same
/// submit, and a repeated report is stale. But a failure told from outside would count twice: it
/// ends the attempt, and told again the task, because one that waits for its retry keeps its fence;
/// and a success that names no attempt would end the next one, should the task be run again.
fn may_repeat(event: &Event) -> bool {
    match event {
        _ if bugs::on(Bug::BlindRepeat) => true,
        Event::Cancel(_) | Event::Change(_) | Event::Run(_) => false,
        // The second would hand out what nobody gets, or what somebody has.
        Event::PopShard(_) | Event::FillSets(_) => false,
        // Somebody else may have said the opposite in between.
        Event::Pause(_) | Event::Resume(_) => false,
        Event::DeleteSchedule(_) => false,
        Event::Complete(complete) => complete.ok && complete.fence.is_some(),
        _ => true,
    }
}

/// The last verdict on an event of which an earlier proposal may have been decided, or not.
fn settle(verdict: Verdict, maybe: bool) -> Verdict {
    match verdict {
        Verdict::NotLeader
        | Verdict::Overloaded { .. }
        | Verdict::TooFast { .. }
        | Verdict::NoRoom { .. }
        | Verdict::Level { .. }
            if maybe =>
        {
            Verdict::Unknown
        }
        verdict => verdict,
    }
}

/// The attempt that stands in the way of an event, and the node that may withdraw it.
fn owner_asked_for(verdict: &Verdict) -> Option<(Seq, Fence, NodeId)> {
    match verdict {
        Verdict::Decided {
            outcome: Outcome::Refused(Refusal::Withdraw { seq, fence, owner }),
            ..
        } => Some((*seq, *fence, *owner)),
        _ => None,
    }
}

/// What the owner was asked came too late to count: the event is tried anew without it.
fn has_moved(verdict: &Verdict) -> bool {
    let moved = |outcome: &Outcome| matches!(outcome, Outcome::Refused(Refusal::Moved));
    matches!(verdict, Verdict::Decided { outcome, .. } if moved(outcome))
}

fn answer(verdict: Verdict) -> Result<Decided, Busy> {
    match verdict {
        Verdict::Decided { index, outcome } => Ok(Decided { index, outcome }),
        Verdict::NotLeader => Err(Busy::NoLeader),
        Verdict::TooFast { retry_after_ms } => Err(Busy::TooFast {
            retry_after: Span(retry_after_ms),
        }),
        Verdict::NoRoom { retry_after_ms } => Err(Busy::NoRoom {
            retry_after: Span(retry_after_ms),
        }),
        Verdict::Level { needs, reached } => Err(Busy::Level { needs, reached }),
        Verdict::Overloaded { retry_after_ms } => Err(Busy::Overloaded {
            retry_after: Span(retry_after_ms),
        }),
        Verdict::Unknown => Err(Busy::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{By, Complete, Key};

    #[test]
    fn what_would_be_done_twice_is_not_repeated() {
        let complete = |ok, fence| {
            Event::from(Complete {
                key: Key::new("a", "b").unwrap(),
                fence,
                asked: None,
                ok,
                error: None,
                result: None,
                mark: false,
                by: By::from("test"),
            })
        };
        assert!(may_repeat(&complete(true, Some(7))));
        for (ok, fence) in [(true, None), (false, Some(7)), (false, None)] {
            assert!(!may_repeat(&complete(ok, fence)), "{ok} {fence:?}");
        }
    }

    /// Found by the fault harness, seed 21: a batch that was answered 503, and took effect.
    #[test]
    fn a_refusal_after_a_lost_answer_does_not_say_that_nothing_happened() {
        let busy = Verdict::Overloaded { retry_after_ms: 1 };
        for verdict in [Verdict::NotLeader, busy] {
            assert!(matches!(settle(verdict.clone(), true), Verdict::Unknown));
            assert!(!matches!(settle(verdict, false), Verdict::Unknown));
        }
    }
}
