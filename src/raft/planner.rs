//! The planner: only a leader has one. It works out which occurrences of schedules come next, and
//! proposes them a little ahead of their time.
//!
//! It goes on from the watermark of each schedule, which the log keeps, and never from "now": what
//! came due while nobody led is taken up by the next leader. A stretch that does not begin at the
//! watermark is refused by the fold, so nothing is planned twice, whoever proposes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::duties::leads;
use super::inner::Inner;
use super::lead;
use super::types::Raft;
use super::waiting::Class;
use super::wire::Verdict;
use crate::bugs::{self, Bug};
use crate::calendar::{Foreseen, Plan, PlanSpec, moved, tz_version};
use crate::model::limits::FIRE_MAX;
use crate::model::{FireSchedules, Outcome, Span, Stretch, Time};
use crate::state::Agenda;

/// Occurrences that may run beside others are decided so far ahead.
const AHEAD: Span = Span::seconds(1);
/// While nothing is due it is looked again after this: the wall clock may jump.
const IDLE: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);
/// Schedules that are worked out before others may have the thread.
const PIECE: usize = 32;

/// Whether this version can read when a schedule fires.
pub(super) fn reads(agenda: &Agenda) -> bool {
    parse(agenda).is_some()
}

/// What is planned of one schedule.
struct Planned {
    agenda: Agenda,
    /// `None`: its plan cannot be read here.
    plan: Option<Plan>,
    /// When it is to be looked at.
    wake: Option<Time>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Planner {
    all: BTreeMap<Arc<str>, Planned>,
    wakes: BTreeSet<(Time, Arc<str>)>,
    ahead: Span,
}

/// Plans for as long as this node leads.
pub(super) async fn run(inner: &Inner, raft: &Raft, term: u64) {
    let mut planner = Planner::default();
    // Everything is looked at, so what was noted before is of no use.
    let agenda = inner.state.write(|state| {
        state.take_attention();
        state.agenda()
    });
    let mut plans = Vec::new();
    for (n, mut agenda) in agenda.into_iter().enumerate() {
        if bugs::on(Bug::OccurrenceLost) {
            agenda.after = agenda.after.max(inner.clock.wall());
        }
        if n % PIECE == PIECE - 1 {
            tokio::task::yield_now().await;
        }
        plans.push(agenda.id.clone());
        planner.set(agenda);
    }
    planner.tell_moves(inner, &plans);
    while leads(raft, term) {
        planner.step(inner).await;
    }
}

impl Planner {
    async fn step(&mut self, inner: &Inner) {
        self.ahead = Span(inner.lead_us.load(Ordering::Relaxed).div_ceil(1_000));
        let noted = inner.state.write(|state| {
            let noted = state.take_attention().into_iter();
            noted
                .map(|id| (state.agenda_of(&id), id))
                .collect::<Vec<_>>()
        });
        for (agenda, id) in noted {
            match agenda {
                Some(agenda) => self.set(agenda),
                None => drop(self.forget(&id)),
            }
        }
        let now = inner.clock.wall();
        let stretches = self.due(now);
        if stretches.is_empty() {
            return self.wait(inner, now).await;
        }
        let event = FireSchedules {
            now,
            tz: tz_version().into(),
            stretches: stretches.clone(),
        };
        let verdicts = inner
            .proposer
            .propose(Class::Trigger, vec![event.into()])
            .await;
        match verdicts.first() {
            // What was refused, or came out otherwise, is noted by the fold.
            Some(Verdict::Decided {
                outcome: Outcome::Counted { .. },
                ..
            }) => {
                stretches
                    .into_iter()
                    .for_each(|stretch| self.passed(stretch));
            }
            _ => {
                // Whether it is in the log is not known, or it is not: the state tells.
                self.look_again(inner, &stretches);
                #[allow(clippy::disallowed_methods)] // Between two tries.
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn look_again(&mut self, inner: &Inner, stretches: &[Stretch]) {
        for stretch in stretches {
            match inner.state.read(|state| state.agenda_of(&stretch.id)) {
                Some(agenda) => self.set(agenda),
                None => drop(self.forget(&stretch.id)),
            }
        }
    }

    async fn wait(&self, inner: &Inner, now: Time) {
        let next = self.wakes.first().map(|(at, _)| at.since(now).std());
        let pause = next.unwrap_or(IDLE).min(IDLE).max(Duration::from_millis(1));
        #[allow(clippy::disallowed_methods)] // Until the next instant at which something is due.
        let sleep = tokio::time::sleep(pause);
        tokio::select! {
            () = inner.folded.plan.notified() => {}
            () = sleep => {}
        }
    }

    /// Takes in how a schedule stands.
    fn set(&mut self, agenda: Agenda) {
        let known = self.forget(&agenda.id);
        let same = known.filter(|known| {
            let was = &known.agenda;
            (was.born, was.version) == (agenda.born, agenda.version)
        });
        let plan = match same {
            Some(same) => same.plan,
            None => parse(&agenda),
        };
        self.keep(agenda, plan);
    }

    fn keep(&mut self, agenda: Agenda, plan: Option<Plan>) {
        let next = plan.as_ref().and_then(|plan| plan.next_after(agenda.after));
        // A version that is over has an end to be reached.
        let next = next.into_iter().chain(agenda.until).min();
        let ahead = self.ahead_of(&agenda);
        let wake = match agenda.waits {
            true => Some(Time(0)),
            false => next.map(|next| Time(next.0.saturating_sub(ahead.0))),
        };
        let wake = wake.filter(|_| plan.is_some());
        let id = agenda.id.clone();
        self.wakes.extend(wake.map(|at| (at, id.clone())));
        self.all.insert(id, Planned { agenda, plan, wake });
    }

    fn forget(&mut self, id: &Arc<str>) -> Option<Planned> {
        let known = self.all.remove(id)?;
        if let Some(at) = known.wake {
            self.wakes.remove(&(at, id.clone()));
        }
        Some(known)
    }

    /// Whether a run may meet another one decides how late its fate is to be known.
    fn ahead_of(&self, agenda: &Agenda) -> Span {
        match agenda.overlaps {
            true => AHEAD,
            false => self.ahead.min(lead::LEAD_MAX),
        }
    }

    /// What is to be proposed now: as much as one event may hold.
    fn due(&mut self, now: Time) -> Vec<Stretch> {
        let (mut stretches, mut room) = (Vec::new(), FIRE_MAX);
        for (wake, id) in &self.wakes {
            if *wake > now || room == 0 || stretches.len() == FIRE_MAX {
                break;
            }
            let Some(Planned {
                agenda,
                plan: Some(plan),
                ..
            }) = self.all.get(id)
            else {
                continue;
            };
            let horizon = now.plus(self.ahead_of(agenda));
            let horizon = agenda.until.map_or(horizon, |until| until.min(horizon));
            let horizon = horizon.max(agenda.watermark);
            let stretch = worked_out(agenda, plan, horizon, room);
            room -= stretch.occurrences.len();
            stretches.push(stretch);
        }
        stretches
    }

    /// A stretch is in the log.
    fn passed(&mut self, stretch: Stretch) {
        let Some(known) = self.forget(&stretch.id) else {
            return;
        };
        let mut agenda = known.agenda;
        agenda.watermark = stretch.until;
        agenda.after = agenda.after.max(stretch.until);
        agenda.waits = false;
        if agenda.until.is_some_and(|until| until <= stretch.until) {
            // What comes behind the end of a version the state has to tell.
            agenda.waits = false;
            self.all.insert(
                stretch.id,
                Planned {
                    agenda,
                    plan: known.plan,
                    wake: None,
                },
            );
            return;
        }
        self.keep(agenda, known.plan);
    }

    /// Says which schedules newer time-zone data has moved.
    fn tell_moves(&self, inner: &Inner, ids: &[Arc<str>]) {
        let (was, next) = inner.state.read(|state| {
            let next = ids.iter().filter_map(|id| {
                let s = state.schedule(id)?;
                Some((id.clone(), s.watermark, s.next?))
            });
            (state.tz_version().to_owned(), next.collect::<Vec<_>>())
        });
        if was.is_empty() || was == tz_version() {
            return;
        }
        let foreseen: Vec<_> = next
            .into_iter()
            .map(|(id, after, next)| {
                let tz_version = was.clone();
                (
                    id,
                    Foreseen {
                        tz_version,
                        after,
                        next: vec![next],
                    },
                )
            })
            .collect();
        let recorded = foreseen.iter().filter_map(|(id, foreseen)| {
            let plan = self.all.get(id)?.plan.as_ref()?;
            Some((&**id, foreseen, plan))
        });
        let moves = moved(recorded);
        tracing::warn!(
            was,
            is = tz_version(),
            moves = moves.len(),
            "other time-zone data"
        );
        for moved in moves {
            let (was, is) = (
                moved.was.map(|t| t.to_string()),
                moved.is.map(|t| t.to_string()),
            );
            tracing::warn!(
                schedule = moved.name,
                was,
                is,
                "its next occurrence has moved"
            );
        }
    }
}

/// A definition was checked when it came in; what cannot be read now is told, and waits for a
/// version that can.
fn parse(agenda: &Agenda) -> Option<Plan> {
    let spec: Result<PlanSpec, _> = serde_json::from_str(&agenda.plan);
    let plan = spec.map_err(|e| e.to_string());
    let plan = plan.and_then(|spec| Plan::parse(&agenda.id, &spec).map_err(|e| e.to_string()));
    match plan {
        Ok(plan) => Some(plan),
        Err(why) => {
            tracing::error!(schedule = %agenda.id, why, "its plan cannot be read; it does not fire");
            None
        }
    }
}

/// Every occurrence up to an instant, or so many of them.
fn worked_out(agenda: &Agenda, plan: &Plan, horizon: Time, max: usize) -> Stretch {
    let all = plan.after(agenda.after).without_limit();
    let within = all.take_while(|planned| *planned <= horizon);
    let occurrences: Vec<_> = within.take(max).map(|at| (at, plan.fires_at(at))).collect();
    let until = match occurrences.last() {
        Some((last, _)) if occurrences.len() == max => *last,
        _ => horizon,
    };
    Stretch {
        id: agenda.id.clone(),
        born: agenda.born,
        version: agenda.version,
        after: agenda.watermark,
        until,
        next: plan.next_after(until.max(agenda.after)),
        occurrences,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agenda(plan: &str, watermark: u64) -> Agenda {
        Agenda {
            id: "shop.report".into(),
            born: 1,
            watermark: Time(watermark),
            version: 1,
            plan: plan.into(),
            after: Time(watermark),
            until: None,
            overlaps: true,
            waits: false,
        }
    }

    #[test]
    fn it_goes_on_where_it_stopped_in_pieces() {
        let mut planner = Planner::default();
        planner.set(agenda(r#"{"every":"1s"}"#, 5_500));
        assert_eq!(planner.due(Time(4_000)), [], "not yet: a second ahead");
        let stretch = planner.due(Time(5_000)).remove(0);
        assert_eq!(stretch.occurrences, [(Time(6_000), Time(6_000))]);
        assert_eq!((stretch.after, stretch.until), (Time(5_500), Time(6_000)));
        assert_eq!(stretch.next, Some(Time(7_000)));
        planner.passed(stretch);
        assert_eq!(planner.due(Time(5_900)), []);
        // Nobody was there for two thousand seconds.
        let stretch = planner.due(Time(2_006_500)).remove(0);
        assert_eq!(stretch.occurrences.len(), FIRE_MAX);
        assert_eq!(stretch.until, Time(6_000 + FIRE_MAX as u64 * 1_000));
        planner.passed(stretch);
        let rest = planner.due(Time(2_006_500)).remove(0);
        assert_eq!(rest.occurrences.len(), 2_001 - FIRE_MAX);
        assert_eq!(rest.until, Time(2_007_500));
    }

    #[test]
    fn a_version_that_is_over_is_planned_to_its_end() {
        let mut planner = Planner::default();
        let until = Some(Time(7_200));
        planner.set(Agenda {
            until,
            ..agenda(r#"{"every":"5s"}"#, 5_500)
        });
        let stretch = planner.due(Time(6_300)).remove(0);
        assert_eq!((stretch.occurrences.len(), stretch.until), (0, Time(7_200)));
        planner.passed(stretch);
        assert_eq!(
            planner.due(Time(99_000)),
            [],
            "until the state tells the next version"
        );
        planner.set(Agenda {
            version: 2,
            ..agenda(r#"{"every":"5s"}"#, 7_200)
        });
        assert_eq!(planner.due(Time(9_500)).remove(0).version, 2);
    }

    #[test]
    fn what_may_not_overlap_is_decided_late() {
        let mut planner = Planner::default();
        let overlaps = false;
        planner.set(Agenda {
            overlaps,
            ..agenda(r#"{"every":"1s"}"#, 5_500)
        });
        assert_eq!(planner.due(Time(5_999)), []);
        assert_eq!(planner.due(Time(6_000)).len(), 1);
        planner.set(Agenda {
            waits: true,
            overlaps,
            ..agenda(r#"{"every":"1s"}"#, 6_000)
        });
        assert_eq!(
            planner.due(Time(6_100)).remove(0).until,
            Time(6_100),
            "something waits"
        );
    }

    #[test]
    fn a_plan_that_cannot_be_read_fires_nothing() {
        let mut planner = Planner::default();
        planner.set(agenda("nonsense", 0));
        assert_eq!(planner.due(Time(9_000_000)), []);
    }
}
