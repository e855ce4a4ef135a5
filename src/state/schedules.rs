//! Schedules: their versions, and what becomes of their occurrences.
//!
//! A planner works out which instants lie behind a schedule's watermark; the fold takes them up in
//! order, each once, because a stretch that does not begin at the watermark is refused. So a new
//! leader goes on where the log stands, and two that believe to lead cannot fire anything twice.
//!
//! ```text
//! Fire ─► paused? ─► misfired? ─► overlap? ─► a task like any other
//!            │           │           │
//!            └───────────┴───────────┴──► a line in the ledger
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::hash::StateHash;
use super::record::NewRow;
use super::table::Table;
use super::{Entry, State, StoreFault};
use crate::model::limits::*;
use crate::model::{
    CatchUp, Cause, DeleteSchedule, Fate, Fire, FireSchedules, Key, Outcome, OverlapPolicy,
    PauseSchedule, PutSchedule, Queued, Refusal, RowKind, RunSchedule, Running, Schedule,
    ScheduleBound, SchedulePause, Seq, Spec, Stage, Stretch, Submit, Target, Time, Version, When,
    encode, proof_with,
};

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

    fn schedule(&self, id: &str) -> Option<&Arc<Schedule>> {
        self.schedules.all.get(id).map(|(_, schedule)| schedule)
    }
}

/// An occurrence on its way to its fate.
struct Occurrence {
    version: u32,
    planned: Time,
    /// When its task is due.
    at: Time,
    cause: Cause,
    tag: Option<Arc<str>>,
}

impl Occurrence {
    fn of(version: u32, planned: Time, at: Time) -> Occurrence {
        Occurrence {
            version,
            planned,
            at,
            cause: Cause::Planned,
            tag: None,
        }
    }
}

impl State {
    // Definitions.

    pub(super) fn put_schedule(&mut self, entry: Entry, event: PutSchedule) -> Outcome {
        let digest = event.definition.digest();
        let found = self.table.schedule(&event.id);
        let living = found.filter(|s| s.deleted.is_none());
        let same = living
            .and_then(|s| s.version())
            .is_some_and(|v| v.digest == digest);
        let number = found.and_then(|s| s.version()).map_or(0, |v| v.number);
        let refused = match (event.create, living) {
            (true, Some(_)) if !same => Some(Refusal::ScheduleExists),
            (false, None) => Some(Refusal::NoSchedule),
            (false, _) if !same && event.if_version.is_some_and(|v| v != number) => {
                Some(Refusal::ScheduleChanged { version: number })
            }
            (false, Some(s)) if !same && s.versions.len() >= VERSIONS_WAITING_MAX => {
                Some(Refusal::ScheduleBusy)
            }
            _ => None,
        };
        if let Some(refusal) = refused {
            return Outcome::Refused(refusal);
        }
        if same {
            return self.answer_schedule(&event.id, false);
        }
        if let Some(refusal) = self.schedules_full(living.is_none(), event.definition.bytes()) {
            return Outcome::Refused(refusal);
        }
        if found.is_none() {
            self.table.keep_schedule(Arc::new(Schedule {
                id: event.id.clone(),
                created: entry.now,
                born: entry.index,
                index: entry.index,
                versions: VecDeque::new(),
                watermark: entry.now,
                paused: None,
                pauses: Vec::new(),
                deleted: None,
                totals: [0; 9],
                next: None,
                running: Vec::new(),
                queue: VecDeque::new(),
                catch_until: Time(0),
                held: VecDeque::new(),
                fires: VecDeque::new(),
                first: 0,
                lost: Time(0),
                chain: 0,
            }));
        }
        self.edit_schedule(&event.id, |_, s| {
            // The version before stands for everything up to now that was not taken up yet; a
            // deleted one came to its end then.
            let last = s.versions.back_mut();
            let from = last.as_ref().map_or(entry.now, |last| last.from);
            let from = from.max(entry.now).max(s.watermark);
            if let Some(last) = last {
                last.until = Some(last.until.unwrap_or(from));
            }
            s.versions.push_back(Version {
                number: number + 1,
                definition: event.definition,
                digest,
                from,
                until: None,
                at: entry.now,
                index: entry.index,
                by: event.by,
                why: event.why,
                taken: 0,
                proof: 0,
                runs: 0,
            });
            s.deleted = None;
            s.index = entry.index;
            s.next = None;
            forget_old(s);
        });
        self.attend(&event.id);
        self.answer_schedule(&event.id, true)
    }

    fn schedules_full(&self, new: bool, bytes: usize) -> Option<Refusal> {
        let all = &self.table.schedules;
        let living = all.all.values().filter(|(_, s)| s.deleted.is_none());
        let full = |most: usize, what| {
            let most = most as u64;
            Some(Refusal::SchedulesFull { most, what })
        };
        if new && living.count() >= SCHEDULES_MAX {
            return full(SCHEDULES_MAX, ScheduleBound::Schedules);
        }
        if all.bytes + bytes > SCHEDULES_BYTES_MAX {
            return full(SCHEDULES_BYTES_MAX, ScheduleBound::Bytes);
        }
        None
    }

    pub(super) fn pause_schedule(&mut self, entry: Entry, event: PauseSchedule) -> Outcome {
        if let Err(refusal) = self.living(&event.id, None) {
            return Outcome::Refused(refusal);
        }
        let new = self.edit_schedule(&event.id, |_, s| match (event.paused, s.paused.take()) {
            (true, None) => {
                s.paused = Some(SchedulePause {
                    since: entry.now,
                    reason: event.reason,
                    by: event.by,
                });
                s.index = entry.index;
                true
            }
            (false, Some(pause)) => {
                s.pauses.push((pause.since, entry.now));
                s.index = entry.index;
                pass_pauses(s);
                true
            }
            (_, as_it_was) => {
                s.paused = as_it_was;
                false
            }
        });
        self.answer_schedule(&event.id, new == Some(true))
    }

    /// What waited does not run any more; what runs goes on.
    pub(super) fn delete_schedule(&mut self, entry: Entry, event: &DeleteSchedule) -> Outcome {
        if let Err(refusal) = self.living(&event.id, event.if_version) {
            return Outcome::Refused(refusal);
        }
        self.edit_schedule(&event.id, |state, s| {
            let watermark = s.watermark;
            // Those that the planner has not come to end here, too: nothing fires afterwards.
            s.versions
                .retain(|v| v.from <= watermark || v.until.is_none());
            for version in &mut s.versions {
                let end = watermark.max(version.from);
                version.until = Some(version.until.map_or(end, |until| until.min(end)));
            }
            for queued in std::mem::take(&mut s.queue) {
                decide(s, entry, queued.line, queued.cause, Fate::Cancelled, None);
            }
            for (version, planned) in std::mem::take(&mut s.held) {
                let occurrence = Occurrence::of(version, planned, planned);
                state.record(entry, s, &occurrence, Fate::Cancelled, None);
            }
            s.paused = None;
            s.pauses = Vec::new();
            s.next = None;
            s.index = entry.index;
            s.deleted = Some((entry.now, event.by.clone()));
        });
        self.attend(&event.id);
        let answer = self.answer_schedule(&event.id, true);
        self.forget_deleted();
        answer
    }

    fn forget_deleted(&mut self) {
        let deleted = |s: &Arc<Schedule>| s.deleted.as_ref().map(|(at, _)| (*at, s.id.clone()));
        let mut gone: Vec<_> = self.table.all_schedules().filter_map(deleted).collect();
        if let Some(surplus) = gone.len().checked_sub(SCHEDULES_DELETED_KEPT) {
            gone.sort_unstable();
            for (_, id) in gone.into_iter().take(surplus) {
                self.table.drop_schedule(&id);
            }
        }
    }

    fn living(&self, id: &str, if_version: Option<u32>) -> Result<&Arc<Schedule>, Refusal> {
        let found = self.table.schedule(id).filter(|s| s.deleted.is_none());
        let schedule = found.ok_or(Refusal::NoSchedule)?;
        let version = schedule.version().map_or(0, |v| v.number);
        match if_version.is_none_or(|seen| seen == version) {
            true => Ok(schedule),
            false => Err(Refusal::ScheduleChanged { version }),
        }
    }

    fn answer_schedule(&self, id: &str, new: bool) -> Outcome {
        match self.table.schedule(id) {
            Some(schedule) => Outcome::Schedule {
                new,
                schedule: Box::new(schedule.head()),
            },
            None => Outcome::Refused(Refusal::NoSchedule),
        }
    }

    fn edit_schedule<T>(
        &mut self,
        id: &str,
        f: impl FnOnce(&mut State, &mut Schedule) -> T,
    ) -> Option<T> {
        let mut schedule = self.table.take_schedule(id)?;
        let done = f(self, Arc::make_mut(&mut schedule));
        self.table.keep_schedule(schedule);
        Some(done)
    }

    // Occurrences.

    /// Takes up what a planner has worked out. A stretch that does not go on from where its
    /// schedule stands has no effect: somebody else was faster, or the schedule has changed.
    pub(super) fn fire(&mut self, entry: Entry, event: FireSchedules) -> Outcome {
        if self.core.tz != event.tz {
            self.core.tz = event.tz.clone();
        }
        let mut count = 0;
        for stretch in &event.stretches {
            let fits = self
                .table
                .schedule(&stretch.id)
                .is_some_and(|s| follows(s, stretch));
            if !fits {
                self.attend(&stretch.id);
                continue;
            }
            let as_planned = self.edit_schedule(&stretch.id, |state, s| {
                state.take_up(entry, s, stretch, event.now);
                s.watermark == stretch.until && !waits(s)
            });
            if as_planned != Some(true) {
                self.attend(&stretch.id);
            }
            count += 1;
        }
        Outcome::Counted {
            count: count as u32,
            more: false,
        }
    }

    fn take_up(&mut self, entry: Entry, s: &mut Schedule, stretch: &Stretch, now: Time) {
        let Some(version) = s.version_of(stretch.version) else {
            return;
        };
        let (misfire, catch_up) = (version.definition.misfire, version.definition.catch_up);
        s.watermark = stretch.until;
        s.next = stretch.next;
        for (planned, at) in &stretch.occurrences {
            let occurrence = Occurrence::of(stretch.version, *planned, *at);
            if let Some(version) = of(s, stretch.version) {
                version.taken += 1;
                version.proof = proof_with(version.proof, *planned);
            }
            if s.is_paused_at(*planned) {
                self.record(entry, s, &occurrence, Fate::SkippedPaused, None);
                continue;
            }
            if *planned > s.catch_until && *planned <= now && now.since(*planned) > misfire {
                s.catch_until = now;
            }
            if *planned <= s.catch_until {
                self.hold(entry, s, occurrence, catch_up);
            } else {
                self.meet(entry, s, occurrence, false);
            }
            if is_spent(s, stretch.version) {
                s.watermark = *planned;
                break;
            }
        }
        if s.watermark >= s.catch_until || s.due_version().is_none() {
            self.release(entry, s, catch_up);
        }
        if is_spent(s, stretch.version)
            && let (watermark, Some(version)) = (s.watermark, of(s, stretch.version))
        {
            // Its last run was begun: it ends here.
            version.until = Some(version.until.unwrap_or(watermark).min(watermark));
            s.next = None;
        }
        self.start_queued(entry, s);
        pass_pauses(s);
        forget_old(s);
    }

    /// An occurrence of a time in which nobody was there: which of them run is known when all of
    /// them are.
    fn hold(&mut self, entry: Entry, s: &mut Schedule, o: Occurrence, catch_up: CatchUp) {
        let (kept, fate) = match catch_up {
            CatchUp::Skip => (0, Fate::SkippedCatchUp),
            CatchUp::Once => (1, Fate::Coalesced),
            CatchUp::All { window, max, .. } => {
                let within = s.catch_until.since(o.planned) <= window;
                let most = (max as usize).min(QUEUE_MAX);
                (if within { most } else { 0 }, Fate::SkippedCatchUp)
            }
        };
        if kept == 0 {
            return self.record(entry, s, &o, fate, None);
        }
        s.held.push_back((o.version, o.planned));
        while s.held.len() > kept {
            if let Some((version, planned)) = s.held.pop_front() {
                let o = Occurrence::of(version, planned, planned);
                self.record(entry, s, &o, fate, None);
            }
        }
    }

    fn release(&mut self, entry: Entry, s: &mut Schedule, catch_up: CatchUp) {
        let pace = match catch_up {
            CatchUp::All { pace, .. } => pace.0,
            _ => 0,
        };
        for (n, (version, planned)) in (0u64..).zip(std::mem::take(&mut s.held)) {
            if is_spent(s, version) {
                let o = Occurrence::of(version, planned, planned);
                self.record(entry, s, &o, Fate::SkippedCatchUp, None);
                continue;
            }
            let at = match n {
                // Due when it was planned, so that its lateness is told as it is.
                0 => planned,
                n => Time(entry.now.0.saturating_add(n * pace)).min(Time::MAX),
            };
            self.meet(entry, s, Occurrence::of(version, planned, at), true);
        }
    }

    /// An occurrence whose time it is meets the run before it.
    fn meet(&mut self, entry: Entry, s: &mut Schedule, o: Occurrence, late: bool) {
        let Some(definition) = s.version_of(o.version).map(|v| &v.definition) else {
            return;
        };
        let (overlap, most) = (definition.overlap, definition.queue_max as usize);
        if let Some(version) = of(s, o.version).filter(|_| o.cause == Cause::Planned) {
            version.runs += 1;
        }
        let busy = !s.running.is_empty() || !s.queue.is_empty();
        let overlap = match (o.cause, overlap) {
            (_, OverlapPolicy::Allow) => OverlapPolicy::Allow,
            // Somebody wants all of them.
            (Cause::Backfill, _) => OverlapPolicy::QueueAll,
            (_, overlap) => overlap,
        };
        let most = if o.cause == Cause::Backfill {
            QUEUE_MAX
        } else {
            most
        };
        let fate = match overlap {
            OverlapPolicy::Skip if busy => Fate::SkippedOverlap,
            OverlapPolicy::QueueOne if !s.queue.is_empty() => Fate::Coalesced,
            OverlapPolicy::QueueAll if busy && s.queue.len() >= most => Fate::SkippedOverlap,
            OverlapPolicy::QueueOne | OverlapPolicy::QueueAll if busy => Fate::Queued,
            OverlapPolicy::CancelRunning => {
                self.cancel_runs(entry, s);
                return self.start(entry, s, &o, None, late);
            }
            _ => return self.start(entry, s, &o, None, late),
        };
        if !matches!(fate, Fate::Queued)
            && let Some(version) = of(s, o.version).filter(|_| o.cause == Cause::Planned)
        {
            version.runs -= 1;
        }
        let line = self.record_line(entry, s, &o, fate, None);
        if fate == Fate::Queued {
            s.queue.push_back(Queued {
                line,
                version: o.version,
                planned: o.planned,
                cause: o.cause,
                tag: o.tag,
            });
        }
    }

    /// Makes a task of an occurrence. `line` is its line in the ledger, if it waited.
    fn start(
        &mut self,
        entry: Entry,
        s: &mut Schedule,
        o: &Occurrence,
        line: Option<u64>,
        late: bool,
    ) {
        let late = late || entry.now.since(o.planned) > LATE_AFTER;
        let mut fate = if late { Fate::Late } else { Fate::Fired };
        let key = s.key(o.version, o.planned, o.cause, o.tag.as_deref());
        let seq = self.submit_run(entry, s, o, key);
        if seq.is_none() {
            fate = Fate::Missed;
        }
        let line = match line {
            Some(line) => {
                decide(s, entry, line, o.cause, fate, seq);
                line
            }
            None => self.record_line(entry, s, o, fate, seq),
        };
        let Some(seq) = seq else { return };
        match self.stage(seq).filter(|stage| stage.is_final()) {
            // Somebody marked it done before it came to be.
            Some(stage) => s.rewrite(line, |fire| fire.ended = Some((entry.now, stage))),
            None if s.running.len() < RUNNING_MAX => {
                s.running.push(Running { seq, line });
                self.table.schedules.runs.insert(seq, s.id.clone());
            }
            None => {}
        }
    }

    /// `None`: there is a task with this id.
    fn submit_run(&mut self, entry: Entry, s: &Schedule, o: &Occurrence, key: Key) -> Option<Seq> {
        if self.table.find(&key).is_some() {
            return None;
        }
        let version = s.version_of(o.version).or(s.version())?;
        let mut spec = Spec::decode(&version.definition.task).ok()?;
        let Target::Http(http) = &mut spec.target;
        for (name, value) in [
            ("horolog-schedule", s.id.to_string()),
            ("horolog-schedule-version", o.version.to_string()),
            ("horolog-planned-at", o.planned.to_string()),
            ("horolog-cause", o.cause.name().to_owned()),
        ] {
            http.headers.insert(name.to_owned(), value);
        }
        let (spec, when) = (spec.encode(), When::At(o.at));
        let event = Submit {
            digest: Spec::digest(&spec, when),
            key,
            when,
            spec,
            by: "schedule".into(),
        };
        match self.submit(entry, event) {
            Outcome::Task { new: true, task } => Some(task.seq),
            _ => None,
        }
    }

    /// Their outcomes count no more.
    fn cancel_runs(&mut self, entry: Entry, s: &mut Schedule) {
        for run in std::mem::take(&mut s.running) {
            self.table.schedules.runs.remove(&run.seq);
            let row = NewRow::of(RowKind::Cancelled);
            self.finish(
                entry,
                run.seq,
                Stage::Cancelled,
                "a later run took its place",
                row,
            );
            s.rewrite(run.line, |fire| {
                fire.ended = Some((entry.now, Stage::Cancelled))
            });
        }
    }

    /// Starts what waits, when nothing runs.
    fn start_queued(&mut self, entry: Entry, s: &mut Schedule) {
        for _ in 0..START_MAX {
            let allow = s
                .version()
                .is_some_and(|v| v.definition.overlap == OverlapPolicy::Allow);
            if !s.running.is_empty() && !allow {
                return;
            }
            let Some(queued) = s.queue.pop_front() else {
                return;
            };
            let o = Occurrence {
                version: queued.version,
                planned: queued.planned,
                at: entry.now,
                cause: queued.cause,
                tag: queued.tag,
            };
            self.start(entry, s, &o, Some(queued.line), true);
        }
    }

    fn record(
        &mut self,
        entry: Entry,
        s: &mut Schedule,
        o: &Occurrence,
        fate: Fate,
        seq: Option<Seq>,
    ) {
        self.record_line(entry, s, o, fate, seq);
    }

    fn record_line(
        &mut self,
        entry: Entry,
        s: &mut Schedule,
        o: &Occurrence,
        fate: Fate,
        seq: Option<Seq>,
    ) -> u64 {
        if o.cause == Cause::Planned {
            s.totals[fate as usize] += 1;
        }
        let fire = Fire {
            planned: o.planned,
            version: o.version,
            cause: o.cause,
            fate,
            decided: entry.now,
            index: entry.index,
            tag: o.tag.clone(),
            seq,
            ended: None,
        };
        s.write(fire, self.table.schedules.all.len() + 1)
    }

    /// Runs a schedule because somebody asked for it.
    pub(super) fn run_schedule(&mut self, entry: Entry, event: &RunSchedule) -> Outcome {
        let schedule = match self.living(&event.id, None) {
            Ok(schedule) => schedule,
            Err(refusal) => return Outcome::Refused(refusal),
        };
        let mut fires = schedule.fires.iter();
        if fires.any(|fire| fire.tag.as_deref() == Some(&*event.tag)) {
            return self.answer_run(&event.id, &event.tag, false);
        }
        let busy = !schedule.running.is_empty() || !schedule.queue.is_empty();
        let version = schedule.version();
        let overlap = version.map(|v| v.definition.overlap).unwrap_or_default();
        let number = version.map_or(0, |v| v.number);
        let now = event.planned.is_empty();
        if now && busy && overlap == OverlapPolicy::Skip {
            return Outcome::Refused(Refusal::ScheduleRuns);
        }
        if schedule.queue.len() + event.planned.len() > QUEUE_MAX {
            let (most, what) = (QUEUE_MAX as u64, ScheduleBound::Waiting);
            return Outcome::Refused(Refusal::SchedulesFull { most, what });
        }
        self.edit_schedule(&event.id, |state, s| {
            let asked = |planned, at, cause| Occurrence {
                version: number,
                planned,
                at,
                cause,
                tag: Some(event.tag.clone()),
            };
            if now {
                let o = asked(entry.now, entry.now, Cause::Manual);
                state.meet(entry, s, o, false);
            }
            for (n, planned) in (0u64..).zip(&event.planned) {
                let at = entry.now.0.saturating_add(n * event.pace.0);
                let o = asked(*planned, Time(at).min(Time::MAX), Cause::Backfill);
                state.meet(entry, s, o, true);
            }
        });
        self.answer_run(&event.id, &event.tag, true)
    }

    /// With the lines that the request has written.
    fn answer_run(&self, id: &str, tag: &str, new: bool) -> Outcome {
        let Some(schedule) = self.table.schedule(id) else {
            return Outcome::Refused(Refusal::NoSchedule);
        };
        let lines = schedule
            .fires
            .iter()
            .filter(|f| f.tag.as_deref() == Some(tag));
        let mut head = schedule.head();
        head.fires = lines.cloned().collect();
        Outcome::Schedule {
            new,
            schedule: Box::new(head),
        }
    }

    /// A task became final: if it was a run, the next one may begin.
    pub(super) fn run_ended(&mut self, entry: Entry, seq: Seq, stage: Stage) {
        let Some(id) = self.table.schedules.runs.remove(&seq) else {
            return;
        };
        let waits = self.edit_schedule(&id, |_, s| {
            let at = s.running.iter().position(|run| run.seq == seq);
            if let Some(run) = at.map(|at| s.running.remove(at)) {
                s.rewrite(run.line, |fire| fire.ended = Some((entry.now, stage)));
            }
            waits(s)
        });
        if waits == Some(true) {
            self.attend(&id);
        }
    }

    // What `prepare` brings into memory.

    pub(super) fn warm_stretch(&mut self, stretch: &Stretch) -> Result<(), StoreFault> {
        let Some(s) = self.table.schedule(&stretch.id).cloned() else {
            return Ok(());
        };
        let planned = stretch
            .occurrences
            .iter()
            .map(|(at, _)| (stretch.version, *at));
        let held = s.held.iter().copied();
        for (version, planned) in planned.chain(held) {
            self.table
                .warm_key(&s.key(version, planned, Cause::Planned, None))?;
        }
        self.warm_schedule(&s)
    }

    pub(super) fn warm_run(&mut self, event: &RunSchedule) -> Result<(), StoreFault> {
        let Some(s) = self.table.schedule(&event.id).cloned() else {
            return Ok(());
        };
        let tag = Some(&*event.tag);
        let number = s.version().map_or(0, |v| v.number);
        for planned in &event.planned {
            self.table
                .warm_key(&s.key(number, *planned, Cause::Backfill, tag))?;
        }
        self.table
            .warm_key(&s.key(number, Time(0), Cause::Manual, tag))?;
        self.warm_schedule(&s)
    }

    fn warm_schedule(&mut self, s: &Schedule) -> Result<(), StoreFault> {
        for queued in &s.queue {
            let key = s.key(
                queued.version,
                queued.planned,
                queued.cause,
                queued.tag.as_deref(),
            );
            self.table.warm_key(&key)?;
        }
        let mut running = s.running.iter();
        running.try_for_each(|run| self.table.warm_seq(run.seq))
    }

    // For those who ask.

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
    let rising = planned.clone().is_sorted_by(|a, b| a < b);
    let within = |at: Time| at > after && at <= stretch.until;
    s.born == stretch.born
        && version.number == stretch.version
        && stretch.after == s.watermark
        && stretch.until >= s.watermark
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
