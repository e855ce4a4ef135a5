//! Definitions: what their versions are, when they pause, and their end.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{decide, forget_old, occurrences::Occurrence, pass_pauses};
use crate::model::limits::*;
use crate::model::{
    DeleteSchedule, Fate, Outcome, PauseSchedule, PutSchedule, Refusal, Schedule, ScheduleBound,
    SchedulePause, Time, Version,
};
use crate::state::{Entry, State};

impl State {
    pub(in crate::state) fn put_schedule(&mut self, entry: Entry, event: PutSchedule) -> Outcome {
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

    pub(super) fn schedules_full(&self, new: bool, bytes: usize) -> Option<Refusal> {
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

    pub(in crate::state) fn pause_schedule(
        &mut self,
        entry: Entry,
        event: PauseSchedule,
    ) -> Outcome {
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
    pub(in crate::state) fn delete_schedule(
        &mut self,
        entry: Entry,
        event: &DeleteSchedule,
    ) -> Outcome {
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

    pub(super) fn living(
        &self,
        id: &str,
        if_version: Option<u32>,
    ) -> Result<&Arc<Schedule>, Refusal> {
        let found = self.table.schedule(id).filter(|s| s.deleted.is_none());
        let schedule = found.ok_or(Refusal::NoSchedule)?;
        let version = schedule.version().map_or(0, |v| v.number);
        match if_version.is_none_or(|seen| seen == version) {
            true => Ok(schedule),
            false => Err(Refusal::ScheduleChanged { version }),
        }
    }

    pub(super) fn answer_schedule(&self, id: &str, new: bool) -> Outcome {
        match self.table.schedule(id) {
            Some(schedule) => Outcome::Schedule {
                new,
                schedule: Box::new(schedule.head()),
            },
            None => Outcome::Refused(Refusal::NoSchedule),
        }
    }

    pub(in crate::state) fn edit_schedule<T>(
        &mut self,
        id: &str,
        f: impl FnOnce(&mut State, &mut Schedule) -> T,
    ) -> Option<T> {
        let mut schedule = self.table.take_schedule(id)?;
        let done = f(self, Arc::make_mut(&mut schedule));
        self.table.keep_schedule(schedule);
        Some(done)
    }
}
