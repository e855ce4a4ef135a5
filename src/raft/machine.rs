//! The state, as openraft wants it: entries in, outcomes and effects out, snapshots both ways.

use futures::{Stream, StreamExt};
use openraft::storage::{
    EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta,
};
use openraft::{EntryPayload, StoredMembership};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::durations::Durations;
use super::gathered::{Gathered, Writing};
use super::lead::Lead;
use super::levels::Levels;
use super::lifecycle::{Duty, Lifecycle};
use super::rim::{NoRim, Rim};
use super::runner::{Runner, blocking};
use super::snapshots::{SnapshotData, Snapshots};
use super::types::{Attachment, Entry, LeaderId, LogId, Member, Reply, Stored, Types};
use super::upkeep::Cadence;
use crate::bugs::{self, Bug};
use crate::model::{
    Batch, Boot, Change, Clock, Epoch, Event, Fence, Level, NodeId, Seq, Time, decode, encode,
};
use crate::state::{Checkpoint, Shared};

type Meta = SnapshotMeta<LeaderId, u64, Member>;

/// What the rest of this floor learns from the fold.
pub(crate) struct Folded {
    /// The log index folded last.
    pub(crate) applied: watch::Sender<u64>,
    /// Something new may be due: the leader looks again.
    pub(crate) due: Notify,
    /// The planner has something to look at.
    pub(crate) plan: Notify,
    /// A task reached a final stage.
    pub(crate) finished: tokio::sync::broadcast::Sender<Seq>,
    /// What no checkpoint has yet.
    pub(crate) gathered: Arc<Gathered>,
    /// What the regular duties have done.
    pub(crate) lifecycle: Lifecycle,
    /// The log index of the last assignment of shards.
    pub(crate) assigned: AtomicU64,
    /// The first epoch in which this run of this node owned anything; zero: it has not.
    owner_since: AtomicU64,
    /// Who owns what may have to change: the leader looks again.
    pub(crate) owners: Notify,
    /// How long triggers take to get here.
    pub(crate) lead: Mutex<Lead>,
    pub(crate) levels: Levels,
    /// How long entries waited for the state, and how long their folds took.
    pub(crate) waits: Durations,
    pub(crate) folds: Durations,
}

/// So many finished tasks may be waited for before a slow waiter has to look for itself.
const FINISHED_BACKLOG: usize = 4_096;

impl Folded {
    pub(crate) fn new(cadence: &Cadence, level: Level) -> Folded {
        Folded {
            applied: watch::Sender::new(0),
            due: Notify::new(),
            plan: Notify::new(),
            finished: tokio::sync::broadcast::Sender::new(FINISHED_BACKLOG),
            gathered: Arc::new(Gathered::new(cadence.tasks, cadence.bytes)),
            lifecycle: Lifecycle::default(),
            assigned: AtomicU64::new(0),
            owner_since: AtomicU64::new(0),
            owners: Notify::new(),
            lead: Mutex::default(),
            levels: Levels::new(level),
            waits: Durations::default(),
            folds: Durations::default(),
        }
    }
}

impl Folded {
    /// Whether an attempt may have been handed to this run of this node, and to no earlier one.
    pub(crate) fn is_of_this_run(&self, fence: Fence) -> bool {
        let since = self.owner_since.load(Ordering::SeqCst);
        since > 0 && u64::from(fence.epoch.0) >= since
    }
}

/// The replicated state machine of one node.
pub(crate) struct Machine {
    state: Shared,
    snapshots: Snapshots,
    applied: Option<LogId>,
    members: Stored,
    rim: Arc<dyn Rim>,
    folded: Arc<Folded>,
    runner: Arc<dyn Runner>,
    me: (NodeId, Boot),
    /// Since when, counted in epochs, this run of this node owns anything. What was triggered
    /// under an older epoch belongs to an earlier run: replay hands nothing of it to the rim.
    owner_since: Option<Epoch>,
    changes: Vec<Change>,
    /// The term of the entry folded last.
    term: u64,
    /// What lies behind this index is new, and not replayed; with the clock that tells how old it is.
    live: Option<(u64, Arc<dyn Clock>)>,
}

impl Machine {
    /// Opens the store; the log is replayed from its checkpoint.
    pub(crate) fn open(
        snapshots: Snapshots,
        folded: Arc<Folded>,
        runner: Arc<dyn Runner>,
        me: (NodeId, Boot),
    ) -> io::Result<Machine> {
        let (state, attachment) = snapshots.state()?;
        folded.levels.note(state.level())?;
        folded.applied.send_replace(state.applied());
        // What came before, the store does not tell one by one.
        folded.assigned.store(state.applied(), Ordering::SeqCst);
        Ok(Machine {
            state: Shared::new(state),
            snapshots,
            applied: attachment.applied(),
            members: attachment.members(),
            rim: Arc::new(NoRim),
            folded,
            runner,
            me,
            owner_since: None,
            changes: Vec::new(),
            term: attachment
                .applied()
                .map_or(0, |id| id.committed_leader_id().term),
            live: None,
        })
    }

    /// The log index up to which the store holds everything.
    pub(crate) fn applied_index(&self) -> u64 {
        self.applied.map_or(0, |id| id.index())
    }

    /// Who acts on effects from now on.
    pub(crate) fn set_rim(&mut self, rim: Arc<dyn Rim>) {
        rim.new_term(self.term);
        rim.changed(&[self.state.read(|state| state.paused_change())]);
        self.rim = rim;
    }

    /// Measures, behind a log index, how long triggers take to get here.
    pub(crate) fn measure(&mut self, behind: u64, clock: Arc<dyn Clock>) {
        self.live = Some((behind, clock));
    }

    /// Nothing was ever folded into its store.
    pub(crate) fn is_new(&self) -> bool {
        self.applied.is_none()
    }

    pub(crate) fn state(&self) -> &Shared {
        &self.state
    }

    /// Folds an entry that has waited `since` then.
    fn fold(&mut self, entry: Entry, since: Instant) -> io::Result<Reply> {
        let index = entry.log_id.index();
        let term = entry.log_id.committed_leader_id().term;
        let new_term = std::mem::replace(&mut self.term, term) < term;
        let mut reply = Reply::default();
        match entry.payload {
            EntryPayload::Blank => self.state.write(|state| state.advance(index)),
            EntryPayload::Normal(payload) => {
                let batch = Batch::decode(&payload.0).map_err(io::Error::other)?;
                let proposed = is_trigger(&batch).then_some(batch.now);
                let (changes, folded) = (&mut self.changes, &self.folded);
                let (gathered, wants_planner, level);
                (reply.0, gathered, wants_planner, level) = self.state.write(|state| {
                    let begun = Instant::now();
                    folded.waits.note(begun - since);
                    state.prepare(&batch).map_err(io::Error::other)?;
                    let outcomes = state.apply(index, batch, changes);
                    folded.folds.note(begun.elapsed());
                    let (gathered, level) = (state.gathered(), state.level());
                    Ok::<_, io::Error>((outcomes, gathered, state.wants_planner(), level))
                })?;
                self.folded.levels.note(level)?;
                if wants_planner {
                    self.folded.plan.notify_one();
                }
                self.folded.gathered.note(gathered, payload.0.len());
                if let Some(proposed) = proposed {
                    self.measured(index, proposed);
                }
            }
            EntryPayload::Membership(members) => {
                self.state.write(|state| state.advance(index));
                self.members = StoredMembership::new(Some(entry.log_id), members);
            }
        }
        self.applied = Some(entry.log_id);
        if new_term {
            self.rim.new_term(term);
        }
        self.hand_out();
        Ok(reply)
    }

    /// Notes how long after its proposal a trigger was folded here, by this node's wall clock: that
    /// is the clock by which its tasks must not be late.
    fn measured(&self, index: u64, proposed: Time) {
        let Some((_, clock)) = self.live.as_ref().filter(|(behind, _)| index > *behind) else {
            return;
        };
        let took = clock.wall_us().saturating_sub(proposed.0 * 1_000);
        let mut lead = self
            .folded
            .lead
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        lead.note(Duration::from_micros(took));
    }

    /// Passes effects on to the rim, in log order.
    fn hand_out(&mut self) {
        for change in &self.changes {
            match *change {
                Change::Assigned { node, boot, epoch } => {
                    let index = self.applied.map_or(0, |id| id.index());
                    self.folded.assigned.store(index, Ordering::SeqCst);
                    if (node, boot) == self.me {
                        let since = *self.owner_since.get_or_insert(epoch);
                        let since = u64::from(since.0);
                        self.folded.owner_since.store(since, Ordering::SeqCst);
                    }
                }
                Change::Finished { seq, .. } => {
                    // An error only says that nobody waits.
                    let _ = self.folded.finished.send(seq);
                }
                _ => {}
            }
        }
        let (me, since) = (self.me, self.owner_since);
        self.changes.retain(|change| match change {
            Change::Triggered { fence, owner, .. } => {
                *owner == me.0
                    && (since.is_some_and(|epoch| fence.epoch >= epoch)
                        || bugs::on(Bug::ReplayFires))
            }
            Change::Assigned { node, boot, .. } => (*node, *boot) == me,
            _ => true,
        });
        if !self.changes.is_empty() {
            self.rim.changed(&self.changes);
            self.changes.clear();
        }
    }

    /// After a jump over part of the log: what is open here and was never handed out.
    fn hand_out_all(&mut self) {
        let me = self.me;
        let (paused, open, assigned) = self.state.read(|state| {
            let mine = state.shards().map(|(_, held)| held);
            let mine = mine.filter(|held| (held.node, held.boot) == me);
            (
                state.paused_change(),
                state.open_after(me.0, None, usize::MAX),
                mine.map(|held| held.epoch).min(),
            )
        });
        self.changes.push(paused);
        // The assignment itself may lie in what was jumped over.
        self.changes.extend(assigned.map(|epoch| Change::Assigned {
            node: me.0,
            boot: me.1,
            epoch,
        }));
        self.changes
            .extend(open.into_iter().map(|open| Change::Triggered {
                seq: open.seq,
                fence: open.fence,
                at: open.at,
                owner: me.0,
                hash: open.hash,
            }));
        self.hand_out();
        let index = self.applied.map_or(0, |id| id.index());
        self.folded.assigned.store(index, Ordering::SeqCst);
    }

    fn meta(&self) -> Meta {
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.members.clone(),
        }
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Stored)> {
        Ok((self.applied, self.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let index = entry.log_id.index();
            let since = Instant::now();
            self.folded.gathered.room().await;
            let reply = self.fold(entry, since)?;
            self.folded.applied.send_replace(index);
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        self.folded.due.notify_one();
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        let builder = self.get_snapshot_builder().await;
        builder.checkpoint.is_some().then_some(builder)
    }

    /// Freezes the state: from here on the fold writes to a new generation.
    async fn get_snapshot_builder(&mut self) -> Builder {
        let attachment = encode(&Attachment::new(self.applied.as_ref(), &self.members));
        let checkpoint = self.state.write(|state| state.begin_checkpoint(attachment));
        let writing = checkpoint.as_ref().map(|_| self.folded.gathered.begin());
        Builder {
            checkpoint,
            writing,
            meta: self.meta(),
            state: self.state.clone(),
            folded: self.folded.clone(),
            runner: self.runner.clone(),
        }
    }

    async fn install_snapshot(&mut self, _meta: &Meta, snapshot: SnapshotData) -> io::Result<()> {
        let snapshots = self.snapshots.clone();
        let install = move || match snapshot {
            SnapshotData::Received(name) => snapshots.install(&name),
            own => snapshots.install(&snapshots.write_out(own)?.0),
        };
        let installed = blocking(&*self.runner, "installing a snapshot", install);
        let (state, attachment) = installed.await.map_err(io::Error::other)??;
        self.applied = attachment.applied();
        self.members = attachment.members();
        let term = self.applied.map_or(0, |id| id.committed_leader_id().term);
        if std::mem::replace(&mut self.term, term) < term {
            self.rim.new_term(term);
        }
        let index = state.applied();
        self.folded.levels.note(state.level())?;
        tracing::info!(index, "took in a snapshot");
        let old = self.state.write(|live| std::mem::replace(live, state));
        self.folded.gathered.clear();
        let drop_old = Box::new(move || drop(old));
        self.runner.run("dropping what was replaced", drop_old);
        self.folded.applied.send_replace(index);
        self.hand_out_all();
        self.folded.due.notify_one();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<Snapshot<LeaderId, u64, Member, SnapshotData>>> {
        let image = self
            .state
            .read(|state| state.image())
            .map_err(io::Error::other)?;
        let Some((image, bytes, index)) = image else {
            return Ok(None);
        };
        let attachment = attachment(&bytes)?;
        let meta = SnapshotMeta {
            last_log_id: attachment.applied(),
            last_membership: attachment.members(),
        };
        Ok(Some(Snapshot {
            meta,
            snapshot: SnapshotData::Own { image, index },
        }))
    }
}

/// Writes a checkpoint to the store, beside the fold.
pub(crate) struct Builder {
    checkpoint: Option<Checkpoint>,
    writing: Option<Writing>,
    meta: Meta,
    state: Shared,
    folded: Arc<Folded>,
    runner: Arc<dyn Runner>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(
        &mut self,
    ) -> io::Result<Snapshot<LeaderId, u64, Member, SnapshotData>> {
        let busy = || io::Error::other("a checkpoint is on its way already");
        let checkpoint = self.checkpoint.take().ok_or_else(busy)?;
        let writing = self.writing.take();
        let (state, index) = (self.state.clone(), checkpoint.index());
        let (began, tasks) = (Instant::now(), checkpoint.tasks());
        let write = move || {
            checkpoint.write()?;
            let old = state.write(|state| state.end_checkpoint())?;
            // Here, and not under the lock: a generation takes its time to be dropped.
            drop((old, checkpoint, writing));
            state.read(|state| state.image())
        };
        let image = blocking(&*self.runner, "writing a checkpoint", write)
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        let (image, ..) = image.ok_or_else(busy)?;
        let lifecycle = &self.folded.lifecycle;
        lifecycle.note(Duty::Checkpoint, began, tasks as u64);
        let snapshot = SnapshotData::Own { image, index };
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot,
        })
    }
}

fn is_trigger(batch: &Batch) -> bool {
    let mut events = batch.events.iter();
    events.any(|event| matches!(event, Event::Trigger(_)))
}

/// Reads what a snapshot carries for Raft.
pub(crate) fn attachment(bytes: &[u8]) -> io::Result<Attachment> {
    decode(bytes).map_err(io::Error::other)
}
