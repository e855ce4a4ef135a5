//! The state, as openraft wants it: entries in, outcomes and effects out, snapshots both ways.

use futures::{Stream, StreamExt};
use openraft::storage::{
    EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta,
};
use openraft::{EntryPayload, StoredMembership};
use std::io;
use std::sync::Arc;
use tokio::sync::{Notify, watch};

use super::gathered::{Gathered, Writing};
use super::lifecycle::{Duty, Lifecycle};
use super::rim::{NoRim, Rim};
use super::snapshots::{SnapshotData, Snapshots, write_out};
use super::types::{Attachment, Entry, LeaderId, LogId, Member, Reply, Stored, Types};
use super::upkeep::Cadence;
use crate::model::{Batch, Boot, Change, Epoch, NodeId, Seq, decode, encode};
use crate::state::{Checkpoint, Shared};

type Meta = SnapshotMeta<LeaderId, u64, Member>;

/// What the rest of this floor learns from the fold.
pub(crate) struct Folded {
    /// The log index folded last.
    pub(crate) applied: watch::Sender<u64>,
    /// Something new may be due: the leader looks again.
    pub(crate) due: Notify,
    /// A task reached a final stage.
    pub(crate) finished: tokio::sync::broadcast::Sender<Seq>,
    /// What no checkpoint has yet.
    pub(crate) gathered: Arc<Gathered>,
    /// What the regular duties have done.
    pub(crate) lifecycle: Lifecycle,
}

/// So many finished tasks may be waited for before a slow waiter has to look for itself.
const FINISHED_BACKLOG: usize = 4_096;

impl Folded {
    pub(crate) fn new(cadence: &Cadence) -> Folded {
        Folded {
            applied: watch::Sender::new(0),
            due: Notify::new(),
            finished: tokio::sync::broadcast::Sender::new(FINISHED_BACKLOG),
            gathered: Arc::new(Gathered::new(cadence.tasks, cadence.bytes)),
            lifecycle: Lifecycle::default(),
        }
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
    me: (NodeId, Boot),
    /// Since when, counted in epochs, this run of this node owns anything. What was triggered
    /// under an older epoch belongs to an earlier run: replay hands nothing of it to the rim.
    owner_since: Option<Epoch>,
    changes: Vec<Change>,
}

impl Machine {
    /// Opens the store; the log is replayed from its checkpoint.
    pub(crate) fn open(
        snapshots: Snapshots,
        folded: Arc<Folded>,
        me: (NodeId, Boot),
    ) -> io::Result<Machine> {
        let (state, attachment) = snapshots.state()?;
        folded.applied.send_replace(state.applied());
        Ok(Machine {
            state: Shared::new(state),
            snapshots,
            applied: attachment.applied(),
            members: attachment.members(),
            rim: Arc::new(NoRim),
            folded,
            me,
            owner_since: None,
            changes: Vec::new(),
        })
    }

    /// The log index up to which the store holds everything.
    pub(crate) fn applied_index(&self) -> u64 {
        self.applied.map_or(0, |id| id.index())
    }

    /// Who acts on effects from now on.
    pub(crate) fn set_rim(&mut self, rim: Arc<dyn Rim>) {
        rim.changed(&[self.state.read(|state| state.paused_change())]);
        self.rim = rim;
    }

    /// Nothing was ever folded into its store.
    pub(crate) fn is_new(&self) -> bool {
        self.applied.is_none()
    }

    pub(crate) fn state(&self) -> &Shared {
        &self.state
    }

    fn fold(&mut self, entry: Entry) -> io::Result<Reply> {
        let index = entry.log_id.index();
        let mut reply = Reply::default();
        match entry.payload {
            EntryPayload::Blank => self.state.write(|state| state.advance(index)),
            EntryPayload::Normal(payload) => {
                let batch = Batch::decode(&payload.0).map_err(io::Error::other)?;
                let changes = &mut self.changes;
                let gathered;
                (reply.0, gathered) = self.state.write(|state| {
                    state.prepare(&batch).map_err(io::Error::other)?;
                    let outcomes = state.apply(index, batch, changes);
                    Ok::<_, io::Error>((outcomes, state.gathered()))
                })?;
                self.folded.gathered.note(gathered, payload.0.len());
            }
            EntryPayload::Membership(members) => {
                self.state.write(|state| state.advance(index));
                self.members = StoredMembership::new(Some(entry.log_id), members);
            }
        }
        self.applied = Some(entry.log_id);
        self.hand_out();
        Ok(reply)
    }

    /// Passes effects on to the rim, in log order.
    fn hand_out(&mut self) {
        for change in &self.changes {
            match *change {
                Change::Assigned { node, boot, epoch } if (node, boot) == self.me => {
                    self.owner_since.get_or_insert(epoch);
                }
                Change::Finished { seq, .. } => {
                    // An error only says that nobody waits.
                    let _ = self.folded.finished.send(seq);
                }
                _ => {}
            }
        }
        let (me, since) = (self.me.0, self.owner_since);
        self.changes.retain(|change| match change {
            Change::Triggered { fence, owner, .. } => {
                *owner == me && since.is_some_and(|epoch| fence.epoch >= epoch)
            }
            _ => true,
        });
        if !self.changes.is_empty() {
            self.rim.changed(&self.changes);
            self.changes.clear();
        }
    }

    /// After a jump over part of the log: what is open here and was never handed out.
    fn hand_out_all(&mut self) {
        let owner = self.me.0;
        let (paused, open) = self.state.read(|state| {
            let open = state.open_after(owner, None, usize::MAX);
            (state.paused_change(), open)
        });
        self.changes.push(paused);
        self.changes
            .extend(open.into_iter().map(|(at, seq, fence)| Change::Triggered {
                seq,
                fence,
                at,
                owner,
            }));
        self.hand_out();
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
            self.folded.gathered.room().await;
            let reply = self.fold(entry)?;
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
            snapshots: self.snapshots.clone(),
            folded: self.folded.clone(),
        }
    }

    async fn install_snapshot(&mut self, _meta: &Meta, snapshot: SnapshotData) -> io::Result<()> {
        let snapshots = self.snapshots.clone();
        let installed = tokio::task::spawn_blocking(move || match snapshot {
            SnapshotData::Received(path) => snapshots.install(&path),
            own => snapshots.install(&write_out(own)?.0),
        });
        let (state, attachment) = installed.await.map_err(io::Error::other)??;
        self.applied = attachment.applied();
        self.members = attachment.members();
        let index = state.applied();
        tracing::info!(index, "took in a snapshot");
        let old = self.state.write(|live| std::mem::replace(live, state));
        self.folded.gathered.clear();
        drop(tokio::task::spawn_blocking(move || drop(old)));
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
        let part = self.snapshots.part(&format!("send-{index}"));
        Ok(Some(Snapshot {
            meta,
            snapshot: SnapshotData::Own { image, part, index },
        }))
    }
}

/// Writes a checkpoint to the store, beside the fold.
pub(crate) struct Builder {
    checkpoint: Option<Checkpoint>,
    writing: Option<Writing>,
    meta: Meta,
    state: Shared,
    snapshots: Snapshots,
    folded: Arc<Folded>,
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
        let (began, tasks) = (tokio::time::Instant::now(), checkpoint.tasks());
        let written = tokio::task::spawn_blocking(move || {
            checkpoint.write()?;
            let old = state.write(|state| state.end_checkpoint())?;
            // Here, and not under the lock: a generation takes its time to be dropped.
            drop((old, checkpoint, writing));
            state.read(|state| state.image())
        });
        let image = written
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        let (image, ..) = image.ok_or_else(busy)?;
        let lifecycle = &self.folded.lifecycle;
        lifecycle.note(Duty::Checkpoint, began, tasks as u64);
        let part = self.snapshots.part(&format!("send-{index}"));
        let snapshot = SnapshotData::Own { image, part, index };
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot,
        })
    }
}

/// Reads what a snapshot carries for Raft.
pub(crate) fn attachment(bytes: &[u8]) -> io::Result<Attachment> {
    decode(bytes).map_err(io::Error::other)
}
