//! Who owns the shards: what the leader does about it.
//!
//! ```text
//! started again ─► the same node, at once          its earlier run is over
//! lease ran out ─► other nodes, at once            it begins nothing any more
//! resigns       ─► other nodes, after it let go    it ends what it has begun
//! uneven, hot   ─► gently (balance.rs), likewise
//! ```
//!
//! One loop decides, and waits for each of its events to be in the log, so that no two of its
//! decisions rest on the same picture. A change of leader alone changes no owner.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::Notify;

use super::balance::{self, Allowance, Candidate, Move};
use super::duties::{leads, until_decided};
use super::inner::Inner;
use super::lease::Asked;
use super::peer::Lane;
use super::types::Raft;
use super::{levels, wire};
use crate::model::limits::ASSIGN_MAX;
use crate::model::{Again, Assign, Boot, Fence, NodeId, Seq, Shard, decode, encode};
use crate::state::{Ownership, Release};

/// So often the leader looks while the dispatch lease lasts.
const LOOKS_PER_LEASE: u32 = 5;
/// A node that is further behind the log than this is given nothing more.
const BEHIND_MAX: u64 = 10_000;

/// The causes that events and explanations show.
mod cause {
    pub(super) const START: &str = "start";
    pub(super) const LEASE: &str = "lease";
    pub(super) const DRAIN: &str = "drain";
    pub(super) const BALANCE: &str = "balance";
}

/// What the leader thinks of a node.
#[derive(Clone, Debug)]
struct Standing {
    /// What it said last, when it asked; of this node itself, what is true.
    boot: Option<Boot>,
    /// It holds a lease, as far as it can be told.
    live: bool,
    /// It holds none, surely.
    over: bool,
    resigns: bool,
    /// It may be given more.
    takes: bool,
    load: f64,
}

/// One term of looking after owners.
pub(super) struct Owners<'a> {
    inner: &'a Inner,
    raft: &'a Raft,
    term: u64,
    became: Duration,
    /// Whatever an earlier leader granted had run out then.
    clean: bool,
    allowance: Allowance,
    uneven_since: Option<Duration>,
    relieved: Duration,
    loads: BTreeMap<NodeId, f64>,
    looked: Duration,
    boots: BTreeMap<NodeId, Boot>,
    /// What these had outside of their shards was handed out again when their lease had run out.
    buried: BTreeSet<NodeId>,
    /// A former owner was asked to let go of these, and no assignment followed yet.
    unfinished: Vec<Move>,
}

impl<'a> Owners<'a> {
    /// Call it right when the lead begins.
    pub(super) fn new(inner: &'a Inner, raft: &'a Raft, term: u64) -> Owners<'a> {
        inner.leases.clear();
        let now = inner.clock.steady();
        Owners {
            inner,
            raft,
            term,
            became: now,
            clean: !inner.refuses_votes(now),
            allowance: Allowance::new(now),
            uneven_since: None,
            relieved: now,
            loads: BTreeMap::new(),
            looked: now,
            boots: BTreeMap::new(),
            buried: BTreeSet::new(),
            unfinished: Vec::new(),
        }
    }

    /// Looks again and again until the term is over. Tells once that triggers may begin: everything
    /// that can be settled in moments is.
    pub(super) async fn run(mut self, settled: &Notify) {
        let mut told = false;
        while leads(self.raft, self.term) {
            self.step().await;
            levels::follow(self.inner, self.raft, self.term).await;
            if !told && self.is_settled() {
                settled.notify_one();
                told = true;
            }
            let pause = self.inner.timing.owner_lease() / LOOKS_PER_LEASE;
            #[allow(clippy::disallowed_methods)] // Leases run out without anything to wake us.
            let pause = tokio::time::sleep(pause);
            tokio::select! {
                () = pause => {}
                () = self.inner.folded.owners.notified() => {}
            }
        }
    }

    fn owned(&self) -> Vec<Ownership> {
        let state = &self.inner.state;
        state.read(|state| state.shards().map(|(_, held)| held).collect())
    }

    /// Every node that is a member or owns something.
    fn standings(&self, owned: &[Ownership]) -> BTreeMap<NodeId, Standing> {
        let owners = owned.iter().map(|held| held.node).filter(|node| *node != 0);
        let members = self.inner.members().into_keys();
        let nodes: BTreeSet<NodeId> = owners.chain(members).collect();
        let voters = self.inner.voters();
        let standing = |node: NodeId| (node, self.standing(node, voters.contains(&node)));
        nodes.into_iter().map(standing).collect()
    }

    fn standing(&self, node: NodeId, voter: bool) -> Standing {
        let (inner, now) = (self.inner, self.inner.clock.steady());
        if node == inner.node {
            let resigns = inner.resigns();
            return Standing {
                boot: Some(inner.boot),
                live: true,
                over: false,
                resigns,
                takes: voter && !resigns,
                load: inner.rim.load(),
            };
        }
        let asked = inner.leases.asked(node);
        let timing = inner.timing;
        let contact = asked.as_ref().and_then(|asked| asked.contact);
        let live = contact.is_some_and(|at| now < at + timing.owner_lease());
        let over = match contact {
            Some(at) => now >= at + timing.lost_after(),
            None => now >= self.given_up_at(node),
        };
        let fresh = |asked: &&Asked| now.saturating_sub(asked.at) < timing.lost_after();
        let facts = asked.as_ref().filter(fresh).map(|asked| &asked.facts);
        let resigns = facts.is_some_and(|facts| facts.resigns);
        let behind = |applied: u64| *inner.folded.applied.borrow() > applied + BEHIND_MAX;
        let able = facts.is_some_and(|facts| !facts.resigns && !behind(facts.applied));
        Standing {
            boot: facts.map(|facts| facts.boot),
            live,
            over,
            resigns,
            takes: voter && live && able,
            load: facts.map_or(0.0, |facts| f64::from(facts.load) / 1_000.0),
        }
    }

    /// When a node that was granted nothing in this term has surely no lease.
    fn given_up_at(&self, node: NodeId) -> Duration {
        let timing = self.inner.timing;
        match self.clean && self.was_silent(node) {
            true => self.became + timing.lease_margin(),
            false => self.became + timing.lost_after(),
        }
    }

    /// Nothing was heard of it for a lease when this term began, nor since.
    fn was_silent(&self, node: NodeId) -> bool {
        let now = self.inner.clock.steady();
        let silent = self.inner.registry.silent_for(node, now);
        silent
            .is_some_and(|s| s >= now.saturating_sub(self.became) + self.inner.timing.owner_lease())
    }

    /// Nothing is about to change hands within moments: what is triggered now goes to its owner.
    fn is_settled(&self) -> bool {
        let (inner, now) = (self.inner, self.inner.clock.steady());
        if now >= self.became + inner.timing.lost_after() {
            return true;
        }
        let owned = self.owned();
        let standings = self.standings(&owned);
        owned.iter().all(|held| {
            let Some(standing) = standings.get(&held.node) else {
                return false; // Nobody's.
            };
            let heard = inner.registry.facts(held.node).map(|(facts, _)| facts.boot);
            let same = standing.boot.or(heard) == Some(held.boot);
            same && (standing.live || !self.clean || !self.was_silent(held.node))
        })
    }

    /// Looks once, and does the most urgent thing that there is to do, wholly.
    async fn step(&mut self) {
        let owned = self.owned();
        let standings = self.standings(&owned);
        self.note_loads(&standings);
        for (node, standing) in &standings {
            if standing.live {
                self.buried.remove(node);
            }
            self.started_again(*node, standing, &owned).await;
        }
        let owned = self.owned();
        if self.lost(&owned, &standings).await || self.finish(&owned, &standings).await {
            return;
        }
        self.resigned(&owned, &standings).await;
        self.balance(&standings).await;
    }

    /// Each look adds a little to the average, by the time that has passed.
    fn note_loads(&mut self, standings: &BTreeMap<NodeId, Standing>) {
        let now = self.inner.clock.steady();
        let passed = now.saturating_sub(self.looked).as_secs_f64();
        let weight = (passed / balance::LOAD_OVER.as_secs_f64()).min(1.0);
        self.looked = now;
        self.loads.retain(|node, _| standings.contains_key(node));
        for (node, standing) in standings {
            let load = self.loads.entry(*node).or_insert(standing.load);
            *load += (standing.load - *load) * weight;
        }
    }

    fn candidates(&self, standings: &BTreeMap<NodeId, Standing>) -> Vec<Candidate> {
        let takers = standings.iter().filter(|(_, standing)| standing.takes);
        takers
            .map(|(node, standing)| Candidate {
                node: *node,
                load: self.loads.get(node).copied().unwrap_or(standing.load),
            })
            .collect()
    }

    /// A node that was started again has lost what its earlier run held: its shards stay with it.
    async fn started_again(&mut self, node: NodeId, standing: &Standing, owned: &[Ownership]) {
        let Some(boot) = standing.boot else { return };
        let before = self.boots.insert(node, boot);
        let older = |held: &Ownership| held.node == node && held.boot < boot;
        let any = owned.iter().any(older);
        if any || before.is_some_and(|before| before < boot) {
            // First, while nothing of the new run can be among them.
            self.again(node, cause::START).await;
        }
        if !any || !standing.live {
            return;
        }
        let shards = with_numbers(owned).filter(|(_, held)| older(held));
        let shards: Vec<Shard> = shards.map(|(shard, _)| shard).collect();
        tracing::info!(node, boot, count = shards.len(), "was started again");
        self.assign((node, boot), shards, cause::START, &[]).await;
    }

    /// Shards that nobody owns, or whose owner's lease has run out, go to others at once.
    async fn lost(&mut self, owned: &[Ownership], standings: &BTreeMap<NodeId, Standing>) -> bool {
        let candidates = self.candidates(standings);
        let owners: Vec<NodeId> = owned.iter().map(|held| held.node).collect();
        let over = |node: NodeId| standings.get(&node).is_some_and(|standing| standing.over);
        // A cluster that is being formed is given a moment, so that all get their share.
        let all_here = standings.values().all(|standing| standing.takes);
        let late = self.inner.clock.steady() >= self.became + self.inner.timing.lost_after();
        let gone = |node: NodeId| {
            if node == 0 {
                all_here || late
            } else {
                over(node)
            }
        };
        let moves = balance::homes(&owners, gone, &candidates);
        for (from, to, shards) in grouped(&moves) {
            let Some(boot) = standings.get(&to).and_then(|standing| standing.boot) else {
                continue;
            };
            self.take(from, (to, boot), shards).await;
        }
        let dead = standings.iter().filter(|(_, standing)| standing.over);
        let dead: Vec<NodeId> = dead.map(|(node, _)| *node).collect();
        for node in dead {
            if !candidates.is_empty() && !self.buried.contains(&node) {
                self.again(node, cause::LEASE).await;
                self.buried.insert(node);
            }
        }
        !moves.is_empty()
    }

    async fn take(&self, from: NodeId, to: (NodeId, Boot), shards: Vec<Shard>) {
        let inner = self.inner;
        if from == 0 {
            return self.assign(to, shards, cause::START, &[]).await;
        }
        // From here on it gets no lease until it has heard of this: it may be back any moment.
        if !inner.leases.deny(from, inner.clock.steady(), inner.timing) {
            return;
        }
        tracing::warn!(from, to = to.0, count = shards.len(), "an owner is lost");
        // One that answers all the same, because its clock is off, say, ends what it has begun.
        let heard = inner.registry.silent_for(from, inner.clock.steady());
        let kept = match heard.is_some_and(|silent| silent < inner.timing.owner_lease()) {
            true => self.let_go(from, &shards).await.unwrap_or_default(),
            false => Vec::new(),
        };
        self.assign(to, shards, cause::LEASE, &kept).await;
        inner.leases.allow(from);
    }

    /// What was begun and not finished: a former owner may have let go without our knowing.
    async fn finish(
        &mut self,
        owned: &[Ownership],
        standings: &BTreeMap<NodeId, Standing>,
    ) -> bool {
        let of = |step: &Move| owned.get(usize::from(step.shard.0)).map(|held| held.node);
        self.unfinished.retain(|step| of(step) == Some(step.from));
        let moves = std::mem::take(&mut self.unfinished);
        for (from, to, shards) in grouped(&moves) {
            let takes = standings.get(&to).is_some_and(|standing| standing.takes);
            let to = if takes { to } else { from };
            self.give(from, to, shards, cause::BALANCE, standings).await;
        }
        !moves.is_empty()
    }

    /// A node that is about to stop gives all away, and no number of moves is too high.
    async fn resigned(&mut self, owned: &[Ownership], standings: &BTreeMap<NodeId, Standing>) {
        let owners: Vec<NodeId> = owned.iter().map(|held| held.node).collect();
        let resigns = |node: NodeId| {
            let standing = standings.get(&node);
            standing.is_some_and(|standing| standing.resigns && !standing.over)
        };
        let moves = balance::homes(&owners, resigns, &self.candidates(standings));
        for (from, to, shards) in grouped(&moves) {
            self.give(from, to, shards, cause::DRAIN, standings).await;
        }
    }

    async fn balance(&mut self, standings: &BTreeMap<NodeId, Standing>) {
        let now = self.inner.clock.steady();
        let owners: Vec<NodeId> = self.owned().iter().map(|held| held.node).collect();
        let candidates = self.candidates(standings);
        if balance::is_uneven(&owners, &candidates) {
            self.uneven_since.get_or_insert(now);
        }
        let mut moves = match self.uneven_since {
            Some(_) => balance::even(&owners, &candidates),
            None => Vec::new(),
        };
        if moves.is_empty() {
            self.uneven_since = None;
            if now >= self.relieved + balance::RELIEVE_EVERY
                && let Some(step) = balance::relieve(&owners, &candidates)
            {
                self.relieved = now;
                moves.push(step);
            }
        }
        if self
            .uneven_since
            .is_some_and(|since| now < since + balance::UNEVEN_FOR)
        {
            return;
        }
        moves.truncate(self.allowance.take(moves.len(), now));
        for (from, to, shards) in grouped(&moves) {
            self.give(from, to, shards, cause::BALANCE, standings).await;
        }
    }

    /// A planned move: the owner lets go first, and ends what it has begun.
    async fn give(
        &mut self,
        from: NodeId,
        to: NodeId,
        shards: Vec<Shard>,
        cause: &str,
        standings: &BTreeMap<NodeId, Standing>,
    ) {
        let Some(boot) = standings.get(&to).and_then(|standing| standing.boot) else {
            return;
        };
        let Some(kept) = self.let_go(from, &shards).await else {
            let moves = shards.into_iter().map(|shard| Move { shard, from, to });
            self.unfinished.extend(moves);
            return;
        };
        tracing::info!(from, to, count = shards.len(), cause, "shards move");
        self.assign((to, boot), shards, cause, &kept).await;
    }

    /// Asks an owner to begin nothing more in some shards. What it has begun there and not ended;
    /// `None`: it did not answer, and may have heard.
    async fn let_go(&self, node: NodeId, shards: &[Shard]) -> Option<Vec<(Seq, Fence)>> {
        let inner = self.inner;
        let (total, epoch) = inner.state.read(|state| {
            let epochs = state.shards().map(|(_, held)| held.epoch);
            (state.shard_total(), epochs.max().unwrap_or_default())
        });
        let release = Release {
            term: self.term,
            total,
            shards: shards.to_vec(),
            epoch,
        };
        if node == inner.node {
            return Some(inner.rim.release(&release));
        }
        let member = inner.members().remove(&node)?;
        let to = (node, member.peer.as_str());
        let within = inner.timing.heartbeat() * 2;
        let body = encode(&release).into();
        let call = inner
            .peers
            .call(to, Lane::Urgent, wire::RELEASE, body, within);
        call.await.ok().and_then(|bytes| decode(&bytes).ok())
    }

    /// Proposes the assignment, in pieces that keep one fold short, until the log has it.
    async fn assign(
        &self,
        (node, boot): (NodeId, Boot),
        shards: Vec<Shard>,
        cause: &str,
        kept: &[(Seq, Fence)],
    ) {
        let open = self.inner.state.read(|state| state.open_by_shard());
        let mut pieces: Vec<Vec<Shard>> = Vec::new();
        let mut size = usize::MAX;
        for shard in shards {
            let attempts = open.get(usize::from(shard.0)).copied().unwrap_or(0);
            if size.saturating_add(attempts) > ASSIGN_MAX {
                pieces.push(Vec::new());
                size = 0;
            }
            size += attempts;
            if let Some(piece) = pieces.last_mut() {
                piece.push(shard);
            }
        }
        for shards in pieces {
            let event = Assign {
                shards,
                node,
                boot,
                cause: cause.into(),
                kept: kept.to_vec(),
            };
            if !until_decided(self.inner, self.raft, self.term, event.into()).await {
                return;
            }
        }
    }

    /// Hands out again what a node had begun in shards that are not its own any more.
    async fn again(&self, node: NodeId, cause: &str) {
        loop {
            let attempts = self.inner.state.read(|state| state.strays(node));
            let more = attempts.len() >= ASSIGN_MAX;
            if attempts.is_empty() {
                return;
            }
            let event = Again {
                attempts,
                cause: cause.into(),
            };
            if !until_decided(self.inner, self.raft, self.term, event.into()).await || !more {
                return;
            }
        }
    }
}

fn with_numbers(owned: &[Ownership]) -> impl Iterator<Item = (Shard, &Ownership)> {
    let numbered = owned.iter().enumerate();
    numbered.map(|(n, held)| (Shard(n as u16), held))
}

/// Moves between the same two nodes go together.
fn grouped(moves: &[Move]) -> Vec<(NodeId, NodeId, Vec<Shard>)> {
    let mut groups: BTreeMap<(NodeId, NodeId), Vec<Shard>> = BTreeMap::new();
    for step in moves {
        groups
            .entry((step.from, step.to))
            .or_default()
            .push(step.shard);
    }
    let groups = groups.into_iter();
    groups
        .map(|((from, to), shards)| (from, to, shards))
        .collect()
}
