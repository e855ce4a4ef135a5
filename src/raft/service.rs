//! What this node answers to its peers.

use bytes::Bytes;
use std::sync::{Arc, PoisonError};

use super::cluster::{Busy, Cluster};
use super::duties;
use super::errand;
use super::inner::Inner;
use super::members;
use super::peer::{Answer, Handler, Self_};
use super::receive::Received;
use super::runner::blocking;
use super::snapshots::SnapshotData;
use super::types::Raft;
use super::waiting::Class;
use super::watchdog;
use super::wire::{self, Chunk, Chunked, Join, Ordered, Ping, Propose, Status, Verdict, Withdraw};
use crate::model::{Batch, NodeId, decode, encode};
use crate::state::Release;

/// Answers peers.
pub(crate) struct Service(pub(crate) Arc<Inner>);

type Hello = super::peer::Hello;

impl Handler for Service {
    fn me(&self) -> Self_ {
        *self.0.me.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, hello: &Hello) -> Result<(), String> {
        let me = self.me();
        if hello.cluster != 0 && me.cluster != 0 && hello.cluster != me.cluster {
            return Err(format!(
                "node {} belongs to another cluster than node {}",
                hello.from, me.node
            ));
        }
        let known = self
            .0
            .members()
            .get(&hello.from)
            .map(|member| member.incarnation);
        match known {
            Some(incarnation) if incarnation != hello.incarnation => Err(wiped(hello.from)),
            _ => Ok(()),
        }
    }

    fn handle(self: Arc<Self>, hello: Arc<Hello>, kind: u8, body: Bytes) -> Answer {
        Box::pin(async move {
            let member = hello.cluster != 0 && hello.cluster == self.me().cluster;
            let answered = match kind {
                wire::STATUS => Ok(encode(&self.status())),
                wire::JOIN => self.join(&body).await,
                _ if !member => Err("this node is not in that cluster (yet)".into()),
                wire::PING => self.ping(hello.from, &body),
                _ => self.answer(kind, body).await,
            };
            if let Err(e) = &answered {
                tracing::debug!(from = hello.from, kind, "peer request failed: {e}");
            }
            answered.map(Bytes::from)
        })
    }
}

/// What a node is told whose directory is not the one the cluster knows.
pub(crate) fn wiped(node: u64) -> String {
    format!(
        "node {node} is known with another data directory: a disk that was wiped must not vote \
         under its old id. Give back the old directory, or start with a new --id and --join; \
         then remove the old node from the cluster"
    )
}

type Answered = Result<Vec<u8>, String>;

fn text(e: impl ToString) -> String {
    e.to_string()
}

impl Service {
    fn status(&self) -> Status {
        let me = self.me();
        let members = self.0.members();
        Status {
            node: me.node,
            incarnation: me.incarnation,
            cluster: if members.is_empty() { 0 } else { me.cluster },
            http: self.0.http.clone(),
            members: members
                .into_iter()
                .map(|(id, m)| (id, m.incarnation))
                .collect(),
        }
    }

    async fn answer(&self, kind: u8, body: Bytes) -> Answered {
        let raft = self.0.raft().ok_or("Raft is not running yet")?;
        match kind {
            wire::APPEND => {
                let request = wire::read_append_request(&body).map_err(text)?;
                let response = raft.append_entries(request).await.map_err(text)?;
                Ok(wire::append_response(&response).to_vec())
            }
            wire::VOTE => {
                let request = wire::read_vote_request(&body).map_err(text)?;
                self.may_vote(request.leadership_transfer)?;
                Ok(wire::vote_response(&raft.vote(request).await.map_err(text)?).to_vec())
            }
            wire::PRE_VOTE => {
                let request = wire::read_vote_request(&body).map_err(text)?;
                self.may_vote(false)?;
                Ok(wire::vote_response(&raft.pre_vote(request).await.map_err(text)?).to_vec())
            }
            wire::TRANSFER => {
                let request = wire::read_transfer_request(&body).map_err(text)?;
                self.0.refuse_votes();
                raft.handle_transfer_leader(request)
                    .await
                    .map_err(text)?
                    .map_err(text)?;
                Ok(Vec::new())
            }
            wire::SNAPSHOT => self.snapshot(raft, &body).await,
            wire::VIEW => Ok(encode(&self.0.facts(true))),
            wire::PROPOSE => self.propose(&body).await,
            wire::BARRIER => self.barrier(raft).await,
            wire::WITHDRAW => self.withdraw(&body).await,
            wire::RELEASE => {
                let release: Release = decode(&body).map_err(text)?;
                Ok(encode(&self.0.rim.release(&release)))
            }
            wire::MOVED => {
                let join: Join = decode(&body).map_err(text)?;
                let noted = Cluster(self.0.clone()).note_address(join).await;
                Ok(encode::<wire::Asked>(&noted))
            }
            wire::ERRAND => {
                let sent = decode(&body).map_err(text)?;
                Ok(encode(&errand::run(&self.0, sent).await))
            }
            wire::ORDER => {
                let order = decode(&body).map_err(text)?;
                let obeyed = members::obey(&self.0, order).await;
                Ok(encode::<Result<Ordered, String>>(&obeyed))
            }
            wire::DUTY => {
                let duty = decode(&body).map_err(text)?;
                let ran = Cluster(self.0.clone()).run_to_its_end(duty).await;
                let answer = ran.map_err(|busy| !matches!(busy, Busy::NoLeader));
                Ok(encode::<wire::Told>(&answer))
            }
            wire::DRAIN => {
                let drain = decode(&body).map_err(text)?;
                let drained = Cluster(self.0.clone()).drain_here(drain).await;
                Ok(encode::<wire::Asked>(&drained))
            }
            wire::LOOK => {
                let looked = watchdog::look_here(&Cluster(self.0.clone())).await;
                let told = looked.map(|h| (h.examined, h.handled));
                let told = told.map_err(|busy| !matches!(busy, Busy::NoLeader));
                Ok(encode::<wire::Looked>(&told))
            }
            _ => Err(format!("request kind {kind} is unknown here")),
        }
    }

    fn ping(&self, from: NodeId, body: &[u8]) -> Answered {
        let Ping { facts, asks, .. } = decode(body).map_err(text)?;
        let granted = self.0.grant(facts, asks);
        let led = self.0.raft().and_then(duties::led);
        let removed = led.filter(|_| !self.0.members().contains_key(&from));
        Ok(encode(&Ping {
            facts: self.0.facts(false),
            removed_in: removed.unwrap_or(0),
            wall_us: self.0.clock.raw_us(),
            asks: false,
            lease_age_us: granted.map(|age| age.as_micros() as u64),
        }))
    }

    /// A vote must not bring about a leader that believes leases to be over that are not.
    fn may_vote(&self, transfer: bool) -> Result<(), String> {
        match !transfer && self.0.refuses_votes(self.0.clock.steady()) {
            true => {
                Err("this node has just started, or seen the lead handed over: no vote yet".into())
            }
            false => Ok(()),
        }
    }

    async fn snapshot(&self, raft: &Raft, body: &[u8]) -> Answered {
        let chunk: Chunk = decode(body).map_err(text)?;
        let inner = self.0.clone();
        let vote = chunk.vote.into();
        let take = move || {
            let mut receiving = inner
                .receiving
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            receiving.take(&inner.snapshots, &chunk)
        };
        let received = blocking(&*self.0.runner, "taking in a piece of a snapshot", take);
        let answer = match received.await.map_err(text)?.map_err(text)? {
            Received::Next => Chunked::Next,
            Received::Restart => Chunked::Restart,
            Received::Whole(name) => {
                let attachment = self.0.snapshots.received_attachment(&name);
                let attachment = attachment.map_err(text)?;
                let meta = openraft::storage::SnapshotMeta {
                    last_log_id: attachment.applied(),
                    last_membership: attachment.members(),
                };
                let snapshot = openraft::storage::Snapshot {
                    meta,
                    snapshot: SnapshotData::Received(name),
                };
                let response = raft
                    .install_full_snapshot(vote, snapshot)
                    .await
                    .map_err(text)?;
                wire::snapshot_response(&response)
            }
        };
        Ok(encode(&answer))
    }

    /// Fails only before anything is proposed: the caller may take that for "no effect".
    async fn propose(&self, body: &[u8]) -> Answered {
        let Propose { class, events } = decode(body).map_err(text)?;
        let class = Class::from_number(class).ok_or("unknown class of work")?;
        let batch = Batch::decode(&events).map_err(text)?;
        let verdicts = self.0.propose(class, batch.events).await;
        Ok(encode::<Vec<Verdict>>(&verdicts))
    }

    /// The index up to which a read must have been folded; 0 when this node is not to be asked.
    async fn barrier(&self, raft: &Raft) -> Answered {
        Ok(encode(&Cluster::read_index(&self.0, raft).await))
    }

    /// Fails only before anything is withdrawn, as [`Service::propose`] does.
    async fn withdraw(&self, body: &[u8]) -> Answered {
        let Withdraw { seq, fence, event } = decode(body).map_err(text)?;
        let event = Batch::decode(&event)
            .map_err(text)?
            .events
            .pop()
            .ok_or("no event")?;
        let verdict = Cluster(self.0.clone())
            .withdraw_here(seq, fence, event)
            .await;
        Ok(encode(&verdict))
    }

    async fn join(&self, body: &[u8]) -> Answered {
        let join: Join = decode(body).map_err(text)?;
        let cluster = Cluster(self.0.clone());
        let taken = cluster.take_in(join).await.map(|()| self.me().cluster);
        Ok(encode::<Result<u128, String>>(&taken))
    }
}
