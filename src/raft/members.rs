//! Who belongs to the cluster, changed while it runs: nodes are taken in, removed and replaced,
//! and the lead is moved.
//!
//! Any node takes the request; the leader does the work. A leader that is itself to go hands the
//! lead over first, and the next one does it.

use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use std::time::Duration;
use tokio::time::Instant;

use super::cluster::{Cluster, LEADER_WITHIN, LOOK, OUTCOME_WITHIN};
use super::duties;
use super::inner::Inner;
use super::peer::Lane;
use super::service::wiped;
use super::types::{Member, Raft};
use super::wire::{self, Join, Order, Ordered};
use crate::model::{NodeId, decode, encode};

/// A new node is given so long to catch up before the one it replaces is let go.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(300);
/// Leaders that may each pass an order on before it is given up.
const PASSES_MAX: u32 = 8;

impl Cluster {
    /// Removes a node for good; its shards go to the others.
    ///
    /// # Errors
    /// Says why not, and what to do.
    pub async fn remove(&self, id: NodeId) -> Result<(), String> {
        // Best done with its shards given away; one that cannot be asked loses them with its lease.
        let drained = self.drain(id, true).await.is_ok();
        if let Err(why) = self.order(Order::Remove { id }).await {
            if drained {
                // In vain only if it is gone, and then nothing is drained.
                let _ = self.drain(id, false).await;
            }
            return Err(why);
        }
        self.sees(|cluster| !cluster.0.members().contains_key(&id))
            .await;
        Ok(())
    }

    /// Takes in the node that waits at a peer address, and when it has caught up removes another,
    /// in one step: at no time are there fewer voters.
    ///
    /// # Errors
    /// Says why not, and what to do. The new node may be a learner by then.
    pub async fn replace(&self, old: NodeId, id: NodeId, peer: String) -> Result<(), String> {
        let new = self.newcomer(id, peer, false).await?;
        self.order(Order::Replace { old, new }).await?;
        self.sees(|cluster| !cluster.0.members().contains_key(&old))
            .await;
        Ok(())
    }

    /// Moves the lead to a voter, or to whichever is fittest. Returns who leads then.
    ///
    /// # Errors
    /// Says why not, and what to do.
    pub async fn move_lead(&self, to: Option<NodeId>) -> Result<NodeId, String> {
        let before = self.0.leader();
        self.order(Order::Lead { to }).await?;
        let moved = |cluster: &Cluster| {
            let leader = cluster.0.leader();
            if leader == Some(cluster.0.node) && !cluster.0.proposer.is_open() {
                return false;
            }
            match to {
                Some(to) => leader == Some(to),
                None => leader.is_some() && leader != before,
            }
        };
        match self.sees(moved).await {
            true => self.0.leader().ok_or("no leader is known".into()),
            false => Err("the lead was not taken over in time; look at `cluster status`".into()),
        }
    }

    /// Waits until this node's own view shows what the leader has done: whoever asked here looks
    /// here next. In vain only when this node is cut off, and then its view says that.
    pub(super) async fn sees(&self, shown: impl Fn(&Cluster) -> bool) -> bool {
        let began = Instant::now();
        while !shown(self) {
            if began.elapsed() > LEADER_WITHIN {
                return false;
            }
            #[allow(clippy::disallowed_methods)] // Until the log has come here.
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    /// Has the leader do it, whoever that is by then.
    async fn order(&self, order: Order) -> Result<(), String> {
        let began = Instant::now();
        let mut passes = 0;
        loop {
            let ordered = match self.0.leader() {
                Some(leader) if leader == self.0.node => obey(&self.0, order.clone()).await?,
                Some(leader) => self.order_from(leader, &order).await?,
                None if began.elapsed() < OUTCOME_WITHIN => Ordered::NotLeader,
                None => return Err("no leader is known at the moment; try again".into()),
            };
            match ordered {
                Ordered::Done => return Ok(()),
                Ordered::Passed => passes += 1,
                Ordered::NotLeader => {}
            }
            if passes > PASSES_MAX || began.elapsed() > CATCH_UP_WITHIN {
                return Err("the lead went round and round; look at `cluster status`".into());
            }
            #[allow(clippy::disallowed_methods)] // Until there is another leader.
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn order_from(&self, leader: NodeId, order: &Order) -> Result<Ordered, String> {
        let Some(member) = self.0.members().remove(&leader) else {
            return Ok(Ordered::NotLeader);
        };
        let to = (leader, member.peer.as_str());
        let within = match order {
            Order::Replace { .. } => CATCH_UP_WITHIN + OUTCOME_WITHIN,
            _ => OUTCOME_WITHIN,
        };
        let body = encode(order).into();
        let call = self
            .0
            .peers
            .call(to, Lane::Urgent, wire::ORDER, body, within);
        let unknown = "; it may have been done: look at `cluster status`";
        let answer = call.await.map_err(|e| format!("{e}{unknown}"))?;
        decode::<Result<Ordered, String>>(&answer).map_err(|e| e.to_string())?
    }

    /// Whoever waits at a peer address to be taken in.
    async fn newcomer(&self, id: NodeId, peer: String, voter: bool) -> Result<Join, String> {
        let status = super::form::status(&self.0.peers, id, &peer)
            .await
            .map_err(|e| e.to_string())?;
        if status.cluster != 0 && !status.members.iter().any(|(member, _)| *member == id) {
            return Err(format!(
                "node {id} at {peer} belongs to another cluster already"
            ));
        }
        let (http, incarnation) = (status.http, status.incarnation);
        Ok(Join {
            id,
            peer,
            http,
            incarnation,
            voter,
        })
    }

    /// Takes in the node that waits at a peer address, as a learner or as a voter.
    ///
    /// # Errors
    /// Says why not, and what to do.
    pub async fn add(&self, id: NodeId, peer: String, voter: bool) -> Result<(), String> {
        let join = self.newcomer(id, peer, voter).await?;
        self.take_in(join).await?;
        self.sees(|cluster| cluster.0.members().contains_key(&id))
            .await;
        Ok(())
    }

    /// Takes a node in, on the leader or through it.
    pub(crate) async fn take_in(&self, join: Join) -> Result<(), String> {
        let leader = self
            .0
            .leader()
            .ok_or("no leader is known at the moment; try again")?;
        if leader != self.0.node {
            let member = self
                .0
                .members()
                .remove(&leader)
                .ok_or("the leader is not a member")?;
            let to = (leader, member.peer.as_str());
            let body = encode(&join).into();
            let call = self
                .0
                .peers
                .call(to, Lane::Urgent, wire::JOIN, body, OUTCOME_WITHIN);
            let answer = call.await.map_err(|e| e.to_string())?;
            let taken: Result<u128, String> = decode(&answer).map_err(|e| e.to_string())?;
            return taken.map(drop);
        }
        let raft = self.0.raft().ok_or("Raft is not running yet")?;
        let (id, voter) = (join.id, join.voter);
        match self.0.members().get(&id) {
            Some(known) if known.incarnation != join.incarnation => return Err(wiped(id)),
            Some(_) if !voter || self.0.voters().contains(&id) => return Ok(()),
            _ => {}
        }
        let member = Member {
            peer: join.peer,
            http: join.http,
            incarnation: join.incarnation,
        };
        raft.add_learner(id, member, false).await.map_err(refused)?;
        if voter {
            // It becomes a voter once it has caught up; whoever asked need not wait for that.
            let cluster = self.clone();
            tokio::spawn(async move {
                if let Err(why) = cluster.promote(id).await {
                    tracing::warn!(node = id, "stays a learner: {why}");
                }
            });
        }
        Ok(())
    }

    /// Makes a learner a voter once it has caught up.
    async fn promote(&self, id: NodeId) -> Result<(), String> {
        let raft = self.0.raft().ok_or("Raft is not running yet")?;
        let member = self.0.members().remove(&id).ok_or("it is not a member")?;
        let promoted = async || {
            raft.add_learner(id, member.clone(), true).await?;
            let change = ChangeMembers::AddVoterIds([id].into());
            raft.change_membership(change, true).await
        };
        let began = Instant::now();
        loop {
            match promoted().await {
                Ok(_) => break,
                // Another node is being taken in at this moment: each in its turn.
                Err(e) if is_for_later(&e) && began.elapsed() < CATCH_UP_WITHIN => {}
                Err(e) => return Err(refused(e)),
            }
            #[allow(clippy::disallowed_methods)] // Until the other change is through.
            tokio::time::sleep(LOOK).await;
        }
        tracing::info!(node = id, "became a voter");
        Ok(())
    }
}

/// Does what an operator ordered, if this node leads.
///
/// # Errors
/// Says why not, and what to do.
pub(crate) async fn obey(inner: &Inner, order: Order) -> Result<Ordered, String> {
    let raft = inner.raft().ok_or("Raft is not running yet")?;
    if inner.leader() != Some(inner.node) {
        return Ok(Ordered::NotLeader);
    }
    match order {
        Order::Remove { id } => remove(inner, raft, id).await,
        Order::Replace { old, new } => replace(inner, raft, old, new).await,
        Order::Lead { to } => lead(inner, raft, to).await,
    }
}

async fn remove(inner: &Inner, raft: &Raft, id: NodeId) -> Result<Ordered, String> {
    let voters = inner.voters();
    if !inner.members().contains_key(&id) {
        return Err(format!("node {id} is no member"));
    }
    if !voters.contains(&id) {
        let change = ChangeMembers::RemoveNodes([id].into());
        return changed(raft, change).await;
    }
    let rest: Vec<NodeId> = voters
        .iter()
        .copied()
        .filter(|other| *other != id)
        .collect();
    if rest.is_empty() {
        return Err(format!(
            "node {id} is the only voter, and holds everything; add another first"
        ));
    }
    enough_answer(inner, &rest)?;
    if id == inner.node {
        return pass_on(inner, raft, duties::successor(inner)).await;
    }
    let done = changed(raft, ChangeMembers::RemoveVoters([id].into())).await?;
    tracing::warn!(node = id, "was removed from the cluster");
    Ok(done)
}

/// Whether those who remain would have a majority that answers: else the change would be the last.
fn enough_answer(inner: &Inner, rest: &[NodeId]) -> Result<(), String> {
    let answering = rest.iter().filter(|id| duties::is_heard(inner, **id));
    let (answering, needed) = (answering.count(), rest.len() / 2 + 1);
    match answering >= needed {
        true => Ok(()),
        false => Err(format!(
            "of the {} voters that would remain only {answering} answer, and {needed} are needed \
             to decide anything; bring a node back or add one first",
            rest.len()
        )),
    }
}

async fn replace(inner: &Inner, raft: &Raft, old: NodeId, new: Join) -> Result<Ordered, String> {
    let id = new.id;
    if old == id {
        return Err("a node is replaced by one with another id: its directory is another".into());
    }
    let members = inner.members();
    if !members.contains_key(&old) {
        return match members.contains_key(&id) {
            // Asked again after the answer was lost.
            true => Ok(Ordered::Done),
            false => Err(format!("node {old} is no member")),
        };
    }
    if members
        .get(&id)
        .is_some_and(|known| known.incarnation != new.incarnation)
    {
        return Err(wiped(id));
    }
    let voters = inner.voters();
    let member = Member {
        peer: new.peer,
        http: new.http,
        incarnation: new.incarnation,
    };
    let caught_up = raft.add_learner(id, member, true);
    match tokio::time::timeout(CATCH_UP_WITHIN, caught_up).await {
        Ok(Ok(_)) => {}
        Ok(Err(e)) if is_for_later(&e) => return Ok(Ordered::NotLeader),
        Ok(Err(e)) => return Err(refused(e)),
        Err(_) => {
            return Err(format!(
                "node {id} has not caught up within {} s and goes on as a learner; node {old} is \
                 still there; try again later",
                CATCH_UP_WITHIN.as_secs()
            ));
        }
    }
    if !voters.contains(&old) {
        return changed(raft, ChangeMembers::RemoveNodes([old].into())).await;
    }
    let mut rest: Vec<NodeId> = voters
        .iter()
        .copied()
        .filter(|other| *other != old)
        .collect();
    if !rest.contains(&id) {
        rest.push(id);
    }
    enough_answer(inner, &rest)?;
    if old == inner.node {
        return pass_on(inner, raft, duties::successor(inner)).await;
    }
    let done = changed(
        raft,
        ChangeMembers::ReplaceAllVoters(rest.into_iter().collect()),
    )
    .await?;
    tracing::warn!(node = old, by = id, "was replaced");
    Ok(done)
}

/// What is removed is not kept as a learner.
async fn changed(raft: &Raft, change: ChangeMembers<NodeId, Member>) -> Result<Ordered, String> {
    match raft.change_membership(change, false).await {
        Ok(_) => Ok(Ordered::Done),
        Err(e) if is_for_later(&e) => Ok(Ordered::NotLeader),
        Err(e) => Err(refused(e)),
    }
}

/// A leader that has just begun to lead, or does not any more, has not changed anything.
fn is_for_later(e: &Failed) -> bool {
    matches!(
        e.api_error(),
        Some(
            ClientWriteError::ForwardToLeader(_)
                | ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_))
        )
    )
}

async fn lead(inner: &Inner, raft: &Raft, to: Option<NodeId>) -> Result<Ordered, String> {
    match to {
        Some(to) if to == inner.node => return Ok(Ordered::Done),
        Some(to) if !inner.voters().contains(&to) => {
            return Err(format!("node {to} is no voter"));
        }
        Some(to) if !duties::is_heard(inner, to) => {
            return Err(format!("node {to} does not answer at the moment"));
        }
        Some(to) if duties::resigns(inner, to) => {
            return Err(format!("node {to} is drained, or about to stop"));
        }
        _ => {}
    }
    let to = to.or_else(|| duties::successor(inner));
    pass_on(inner, raft, to).await.map(|_| Ordered::Done)
}

async fn pass_on(inner: &Inner, raft: &Raft, to: Option<NodeId>) -> Result<Ordered, String> {
    let to = to.ok_or("there is no other voter that answers")?;
    match duties::hand_over_to(inner, raft, to).await {
        true => Ok(Ordered::Passed),
        false => Err(format!(
            "node {to} did not take the lead in time; this node takes it again"
        )),
    }
}

type Failed = RaftError<super::types::Types, ClientWriteError<super::types::Types>>;

fn refused(e: Failed) -> String {
    e.to_string()
}
