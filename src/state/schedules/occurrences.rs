//! Occurrences: each once, in order, and what becomes of it.

use std::sync::Arc;

use super::{decide, follows, forget_old, is_spent, of, pass_pauses, waits};
use crate::bugs::{self, Bug};
use crate::model::limits::*;
use crate::model::{
    CatchUp, Cause, Fate, Fire, FireSchedules, Key, Outcome, OverlapPolicy, Queued, Refusal,
    RowKind, RunOf, RunSchedule, Running, Schedule, ScheduleBound, Seq, Spec, Stage, Stretch,
    Submit, Target, Time, Version, When, proof_with,
};
use crate::state::record::NewRow;
use crate::state::{Entry, State, StoreFault};

/// An occurrence on its way to its fate.
pub(super) struct Occurrence {
    version: u32,
    planned: Time,
    /// When its task is due.
    at: Time,
    cause: Cause,
    tag: Option<Arc<str>>,
}

impl Occurrence {
    pub(super) fn of(version: u32, planned: Time, at: Time) -> Occurrence {
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
    /// Takes up what a planner has worked out. A stretch that does not go on from where its
    /// schedule stands has no effect: somebody else was faster, or the schedule has changed.
    pub(in crate::state) fn fire(&mut self, entry: Entry, event: FireSchedules) -> Outcome {
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
                // Behind the end of a version another one may come, of which a planner knows nothing.
                let goes_on = |(version, _): (&Version, Time)| version.number == stretch.version;
                let goes_on = s.due_version().is_some_and(goes_on) || bugs::on(Bug::VersionNotTold);
                s.watermark == stretch.until && !waits(s) && goes_on
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
            if s.is_paused_at(*planned) && !bugs::on(Bug::PauseIgnored) {
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
            CatchUp::Once if bugs::on(Bug::CatchUpAll) => (QUEUE_MAX, Fate::Coalesced),
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
            OverlapPolicy::Skip if busy && !bugs::on(Bug::OverlapIgnored) => Fate::SkippedOverlap,
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
        match &mut spec.target {
            Target::Handler(handled) => {
                handled.run_of = Some(RunOf {
                    schedule: s.id.to_string(),
                    version: o.version,
                    planned: o.planned,
                    cause: o.cause,
                });
            }
            Target::Http(http) => {
                for (name, value) in [
                    ("horolog-schedule", s.id.to_string()),
                    ("horolog-schedule-version", o.version.to_string()),
                    ("horolog-planned-at", o.planned.to_string()),
                    ("horolog-cause", o.cause.name().to_owned()),
                ] {
                    http.headers.insert(name.to_owned(), value);
                }
            }
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

    pub(super) fn record(
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
    pub(in crate::state) fn run_schedule(&mut self, entry: Entry, event: &RunSchedule) -> Outcome {
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
    pub(in crate::state) fn run_ended(&mut self, entry: Entry, seq: Seq, stage: Stage) {
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

    /// A run that the schedule still waits for is over, or is gone (`None`), or its end would not be
    /// told to the schedule. Says whether that was so.
    pub(in crate::state) fn end_run(
        &mut self,
        entry: Entry,
        id: &Arc<str>,
        seq: Seq,
        stage: Option<Stage>,
    ) -> bool {
        let Some(s) = self.table.schedule(id) else {
            return false;
        };
        if !s.running.iter().any(|run| run.seq == seq) {
            return false;
        }
        if stage.is_some_and(|stage| !stage.is_final()) {
            let known = self.table.schedules.runs.insert(seq, id.clone());
            return known.as_ref() != Some(id);
        }
        self.table.schedules.runs.insert(seq, id.clone());
        self.run_ended(entry, seq, stage.unwrap_or(Stage::Cancelled));
        true
    }

    /// A task is a run by the index of runs only. Says whether that was so.
    pub(in crate::state) fn forget_stray(&mut self, seq: Seq) -> bool {
        let Some(id) = self.table.run_of(seq) else {
            return false;
        };
        let known = self.table.schedule(id);
        if known.is_some_and(|s| s.running.iter().any(|run| run.seq == seq)) {
            return false;
        }
        self.table.schedules.runs.remove(&seq).is_some()
    }

    /// A line says that its occurrence waits in line, and it does not: nothing will come of it. Says
    /// whether that was so.
    pub(in crate::state) fn miss_line(&mut self, entry: Entry, id: &str, line: u64) -> bool {
        let missed = self.edit_schedule(id, |_, s| {
            let fire = s.line(line).filter(|fire| fire.fate == Fate::Queued);
            let lost = fire.filter(|_| s.queue.iter().all(|queued| queued.line != line));
            let cause = lost.map(|fire| fire.cause);
            cause.map(|cause| decide(s, entry, line, cause, Fate::Missed, None))
        });
        missed.flatten().is_some()
    }

    // What `prepare` brings into memory.

    pub(in crate::state) fn warm_stretch(&mut self, stretch: &Stretch) -> Result<(), StoreFault> {
        let Some(s) = self.table.schedule(&stretch.id).cloned() else {
            return Ok(());
        };
        let planned = stretch
            .occurrences
            .iter()
            .map(|(at, _)| (stretch.version, *at));
        let held = s.held.iter().copied();
        for (version, planned) in planned.chain(held) {
            self.warm_run_of(&s, version, &s.key(version, planned, Cause::Planned, None))?;
        }
        self.warm_schedule(&s)
    }

    pub(in crate::state) fn warm_run(&mut self, event: &RunSchedule) -> Result<(), StoreFault> {
        let Some(s) = self.table.schedule(&event.id).cloned() else {
            return Ok(());
        };
        let tag = Some(&*event.tag);
        let number = s.version().map_or(0, |v| v.number);
        for planned in &event.planned {
            self.warm_run_of(&s, number, &s.key(number, *planned, Cause::Backfill, tag))?;
        }
        self.warm_run_of(&s, number, &s.key(number, Time(0), Cause::Manual, tag))?;
        self.warm_schedule(&s)
    }

    /// The task of an occurrence, and what it could start: it may be born done.
    fn warm_run_of(&mut self, s: &Schedule, version: u32, key: &Key) -> Result<(), StoreFault> {
        self.table.warm_key(key)?;
        let version = s.version_of(version).or(s.version());
        let task = version.map(|version| &version.definition.task);
        task.map_or(Ok(()), |task| self.warm_chain(key, task))
    }

    fn warm_schedule(&mut self, s: &Schedule) -> Result<(), StoreFault> {
        for queued in &s.queue {
            let key = s.key(
                queued.version,
                queued.planned,
                queued.cause,
                queued.tag.as_deref(),
            );
            self.warm_run_of(s, queued.version, &key)?;
        }
        let mut running = s.running.iter();
        running.try_for_each(|run| self.table.warm_seq(run.seq))
    }
}
