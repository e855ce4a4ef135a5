//! Schedules: their versions, and what becomes of their occurrences.
//!
//! A planner works out which instants lie behind a schedule's watermark; the fold takes them up in
//! order, each once, because a stretch that does not begin at the watermark is refused. So a new
//! leader goes on where the log stands, and two that believe to lead cannot fire anything twice.
//!
//! `define.rs` has what callers say of schedules, `occurrences.rs` what becomes of them:
//!
//! ```text
//! Fire ─► paused? ─► misfired? ─► overlap? ─► a task like any other
//!            │           │           │
//!            └───────────┴───────────┴──► a line in the ledger
//! ```

mod define;
mod occurrences;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::hash::StateHash;
use super::table::Table;
use super::{Entry, State};
use crate::bugs::{self, Bug};
use crate::model::limits::*;
use crate::model::{Cause, Fate, OverlapPolicy, Schedule, Seq, Stretch, Time, Version, encode};

/// Every schedule, and what follows from them.
#[derive(Default)]
pub(crate) struct Schedules {
    all: BTreeMap<Arc<str>, (StateHash, Arc<Schedule>)>,
    /// The schedule of every run that is not over.
    runs: BTreeMap<Seq, Arc<str>>,
    /// Changed since the last freeze.
    changed: BTreeSet<Arc<str>>,
    /// Of all definitions.
    bytes: usize,
    /// What a planner has to look at again. Not replicated.
    attention: BTreeSet<Arc<str>>,
}

/// What a planner needs to know of one schedule.
#[derive(Clone, Debug)]
pub struct Agenda {
    pub id: Arc<str>,
    pub born: u64,
    pub watermark: Time,
    /// Of the version that is to be taken up next.
    pub version: u32,
    pub plan: Arc<str>,
    /// Its occurrences are later than this…
    pub after: Time,
    /// … and no later than this.
    pub until: Option<Time>,
    /// Whether a run may begin beside another, so that it may be decided a little ahead.
    pub overlaps: bool,
    /// Something waits only for the planner to come by.
    pub waits: bool,
}

/// This schedule's part in the state hash: all of it but the texts, of which hashes are kept.
pub(crate) fn own_hash(s: &Schedule) -> StateHash {
    let versions: Vec<_> = s
        .versions
        .iter()
        .map(|v| {
            let span = (v.number, v.digest, v.from, v.until, v.at, v.index);
            (span, (&v.by, &v.why, v.taken, v.proof, v.runs))
        })
        .collect();
    let who = (&s.id, s.created, s.born, s.index, versions);
    let now = (
        s.watermark,
        &s.paused,
        &s.pauses,
        &s.deleted,
        s.totals,
        s.next,
    );
    let open = (&s.running, &s.queue, s.catch_until, &s.held);
    let ledger = (s.first, s.lost, s.fires.len() as u64, s.chain);
    StateHash::of(&encode(&(who, now, open, ledger)))
}

/// Whether its definitions are what their hashes say.
pub(crate) fn is_intact(s: &Schedule) -> bool {
    !s.versions.is_empty() && s.versions.iter().all(|v| v.digest == v.definition.digest())
}

#[cfg(test)]
impl Schedules {
    pub(super) fn runs_mut(&mut self) -> &mut BTreeMap<Seq, Arc<str>> {
        &mut self.runs
    }
}

impl Table {
    fn take_schedule(&mut self, id: &str) -> Option<Arc<Schedule>> {
        let (hash, schedule) = self.schedules.all.remove(id)?;
        self.hash.remove(hash);
        self.schedules.bytes -= schedule.bytes();
        Some(schedule)
    }

    fn keep_schedule(&mut self, schedule: Arc<Schedule>) {
        self.schedules.changed.insert(schedule.id.clone());
        let hash = own_hash(&schedule);
        self.hash.add(hash);
        self.load_schedule(schedule, hash);
    }

    /// Takes in a schedule whose hash counts already.
    pub(crate) fn load_schedule(&mut self, schedule: Arc<Schedule>, hash: StateHash) {
        let (id, all) = (schedule.id.clone(), &mut self.schedules);
        all.bytes += schedule.bytes();
        let running = schedule.running.iter();
        all.runs.extend(running.map(|run| (run.seq, id.clone())));
        all.all.insert(id, (hash, schedule));
    }

    fn drop_schedule(&mut self, id: &str) {
        if let Some(schedule) = self.take_schedule(id) {
            for run in &schedule.running {
                self.schedules.runs.remove(&run.seq);
            }
            self.schedules.changed.insert(schedule.id.clone());
        }
    }

    /// What changed since this was asked last: for a checkpoint.
    pub(crate) fn changed_schedules(&mut self) -> BTreeMap<Arc<str>, Option<Arc<Schedule>>> {
        let all = &self.schedules.all;
        let changed = std::mem::take(&mut self.schedules.changed).into_iter();
        let now = |id: Arc<str>| {
            let now = all.get(&id).map(|(_, schedule)| schedule.clone());
            (id, now)
        };
        changed.map(now).collect()
    }

    /// How many schedules a checkpoint would write.
    pub(crate) fn schedules_dirty(&self) -> usize {
        self.schedules.changed.len()
    }

    pub(crate) fn all_schedules(&self) -> impl Iterator<Item = &Arc<Schedule>> {
        self.schedules.all.values().map(|(_, schedule)| schedule)
    }

    /// Those behind an id, in order.
    pub(super) fn schedules_after(
        &self,
        after: Option<&str>,
    ) -> impl Iterator<Item = &Arc<Schedule>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.schedules.all.range::<str, _>((from, Bound::Unbounded));
        range.map(|(_, (_, schedule))| schedule)
    }

    /// The schedule of which a task is a run that is not over.
    pub(super) fn run_of(&self, seq: Seq) -> Option<&Arc<str>> {
        self.schedules.runs.get(&seq)
    }

    /// Every run that is not over, with its schedule.
    pub(super) fn runs(&self) -> impl Iterator<Item = (Seq, &Arc<str>)> {
        self.schedules.runs.iter().map(|(seq, id)| (*seq, id))
    }

    pub(super) fn schedule(&self, id: &str) -> Option<&Arc<Schedule>> {
        self.schedules.all.get(id).map(|(_, schedule)| schedule)
    }
}

impl State {
    /// A schedule, also when it is deleted and its ledger is still here.
    pub fn schedule(&self, id: &str) -> Option<Arc<Schedule>> {
        self.table.schedule(id).cloned()
    }

    /// Every schedule, in order of ids.
    pub fn schedules(&self) -> impl Iterator<Item = &Arc<Schedule>> {
        self.table.all_schedules()
    }

    /// Whether a planner has to look at some schedules again.
    pub fn wants_planner(&self) -> bool {
        !self.table.schedules.attention.is_empty()
    }

    /// Those it has to look at, once.
    pub fn take_attention(&mut self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.table.schedules.attention)
    }

    fn attend(&mut self, id: &Arc<str>) {
        self.table.schedules.attention.insert(id.clone());
    }

    /// The time-zone data by which occurrences were worked out last; empty before the first.
    pub fn tz_version(&self) -> &str {
        &self.core.tz
    }

    /// What is to be planned of a schedule; `None`: nothing more.
    pub fn agenda_of(&self, id: &str) -> Option<Agenda> {
        self.table.schedule(id).and_then(|s| agenda(s))
    }

    /// What is to be planned of those behind an id.
    pub fn agenda_after(&self, after: Option<&str>, max: usize) -> Vec<Agenda> {
        let schedules = self.table.schedules_after(after).take(max);
        schedules.filter_map(|s| agenda(s)).collect()
    }

    /// What is to be planned of all of them.
    pub fn agenda(&self) -> Vec<Agenda> {
        self.table
            .all_schedules()
            .filter_map(|s| agenda(s))
            .collect()
    }

    #[cfg(test)]
    pub(super) fn audit_schedules(&self) {
        let all = &self.table.schedules;
        let mut runs = BTreeMap::new();
        for (id, (hash, s)) in &all.all {
            assert_eq!((id, *hash), (&s.id, own_hash(s)), "the hash of {id}");
            assert!(is_intact(s));
            runs.extend(s.running.iter().map(|run| (run.seq, id.clone())));
            let taken: u64 = s.totals.iter().sum::<u64>() + s.held.len() as u64;
            let by_version: u64 = s.versions.iter().map(|v| v.taken).sum();
            let whole = s.versions[0].number == 1;
            assert!(
                taken == by_version || !whole && taken > by_version,
                "I-25: {id}: {taken} outcomes of {by_version} occurrences"
            );
            assert_eq!(
                s.totals[0],
                s.queue.iter().filter(|q| q.cause == Cause::Planned).count() as u64
            );
            for run in &s.running {
                let stage = self.table.task(run.seq).map(|task| task.stage);
                assert!(
                    stage.is_none_or(|stage| !stage.is_final()),
                    "{id}: {stage:?}"
                );
            }
        }
        assert_eq!(all.runs, runs, "the index of runs");
        assert_eq!(
            all.bytes,
            self.table.all_schedules().map(|s| s.bytes()).sum::<usize>()
        );
    }
}

fn of(s: &mut Schedule, version: u32) -> Option<&mut Version> {
    s.versions.iter_mut().find(|v| v.number == version)
}

/// Whether a stretch goes on from where a schedule stands, and keeps within its version.
fn follows(s: &Schedule, stretch: &Stretch) -> bool {
    let Some((version, after)) = s.due_version() else {
        // Nothing new; but what waits may begin.
        return s.born == stretch.born
            && stretch.after == s.watermark
            && stretch.until == s.watermark
            && stretch.occurrences.is_empty()
            && s.version_of(stretch.version).is_some();
    };
    let planned = stretch.occurrences.iter().map(|(planned, _)| *planned);
    let again = bugs::on(Bug::PlannedTwice);
    let after = if again { stretch.after } else { after };
    let rising = planned.clone().is_sorted_by(|a, b| a < b);
    let within = |at: Time| at > after && at <= stretch.until;
    s.born == stretch.born
        && version.number == stretch.version
        && (stretch.after == s.watermark || again)
        && (stretch.until >= s.watermark || again)
        && version.until.is_none_or(|until| stretch.until <= until)
        && rising
        && planned.clone().all(within)
        && stretch.occurrences.len() <= FIRE_MAX
}

/// Decides the fate of an occurrence that waited.
fn decide(s: &mut Schedule, entry: Entry, line: u64, cause: Cause, fate: Fate, seq: Option<Seq>) {
    if cause == Cause::Planned {
        s.totals[Fate::Queued as usize] -= 1;
        s.totals[fate as usize] += 1;
    }
    s.rewrite(line, |fire| {
        fire.fate = fate;
        fire.seq = seq;
        fire.decided = entry.now;
        fire.index = entry.index;
    });
}

/// Pauses behind the watermark have no say any more.
fn pass_pauses(s: &mut Schedule) {
    let watermark = s.watermark;
    s.pauses.retain(|(_, until)| *until > watermark);
}

/// Versions beyond those that are kept leave, once the watermark has passed them.
fn forget_old(s: &mut Schedule) {
    while s.versions.len() > VERSIONS_KEPT
        && let Some(first) = s.versions.front()
        && first.until.is_some_and(|until| until <= s.watermark)
    {
        s.versions.pop_front();
    }
}

/// Whether a version has had all its runs.
fn is_spent(s: &Schedule, version: u32) -> bool {
    let version = s.version_of(version);
    version.is_some_and(|v| v.definition.max_runs.is_some_and(|most| v.runs >= most))
}

/// Whether something waits only for a planner to come by.
fn waits(s: &Schedule) -> bool {
    !s.held.is_empty() || s.running.is_empty() && !s.queue.is_empty()
}

fn agenda(s: &Schedule) -> Option<Agenda> {
    let waits = waits(s);
    let made = |version: &Version, after, until| Agenda {
        id: s.id.clone(),
        born: s.born,
        watermark: s.watermark,
        version: version.number,
        plan: version.definition.plan.clone(),
        after,
        until,
        overlaps: version.definition.overlap == OverlapPolicy::Allow,
        waits,
    };
    match s.due_version() {
        Some((version, after)) => Some(made(version, after, version.until)),
        None if waits => s.version().map(|v| made(v, s.watermark, Some(s.watermark))),
        None => None,
    }
}
