//! Schedules, policy by policy. The planner of these cases knows one calendar: every so many
//! milliseconds.

use super::*;
use crate::model::limits::LATE_AFTER;

/// A definition that fires every so many milliseconds.
pub(crate) fn every(ms: u64) -> Definition {
    Definition {
        plan: ms.to_string().into(),
        task: spec().encode(),
        invoke: None,
        params: None,
        overlap: OverlapPolicy::Allow,
        queue_max: 100,
        catch_up: CatchUp::Once,
        misfire: Span(5_000),
        max_runs: None,
    }
}

pub(crate) fn put(id: &str, create: bool, definition: Definition) -> PutSchedule {
    PutSchedule {
        id: id.into(),
        create,
        if_version: None,
        definition,
        why: "created".into(),
        by: by(),
    }
}

pub(crate) fn pause(id: &str, paused: bool) -> PauseSchedule {
    PauseSchedule {
        id: id.into(),
        paused,
        reason: None,
        by: by(),
    }
}

pub(crate) fn run_now(id: &str, tag: &str, planned: &[u64]) -> RunSchedule {
    RunSchedule {
        id: id.into(),
        tag: tag.into(),
        planned: planned.iter().map(|at| Time(*at)).collect(),
        pace: Span(10),
        by: by(),
    }
}

/// What a planner would propose for one schedule, up to an instant, a few occurrences at most.
pub(crate) fn stretch(agenda: &crate::state::Agenda, horizon: Time, max: usize) -> Stretch {
    let period: u64 = agenda.plan.parse().unwrap();
    let horizon = agenda.until.map_or(horizon, |until| until.min(horizon));
    let horizon = horizon.max(agenda.watermark);
    let all = (agenda.after.0 / period + 1..).map(|n| Time(n * period));
    let within = all.clone().take_while(|at| *at <= horizon);
    let occurrences: Vec<_> = within.take(max).map(|at| (at, at)).collect();
    let whole = occurrences.len() < max;
    let until = match occurrences.last() {
        Some((last, _)) if !whole => *last,
        _ => horizon,
    };
    Stretch {
        id: agenda.id.clone(),
        born: agenda.born,
        version: agenda.version,
        after: agenda.watermark,
        until,
        next: all.clone().find(|at| *at > until),
        occurrences,
    }
}

pub(crate) fn fire(now: u64, stretches: Vec<Stretch>) -> FireSchedules {
    FireSchedules {
        now: Time(now),
        tz: "test".into(),
        stretches,
    }
}

impl Desk {
    /// Plans one schedule until nothing is left to plan.
    fn plan(&mut self, id: &str) {
        for _ in 0..100 {
            let Some(agenda) = self.state.agenda_of(id) else {
                return;
            };
            let stretch = stretch(&agenda, Time(self.now), 4);
            if stretch.occurrences.is_empty() && !agenda.waits && stretch.until == agenda.watermark
            {
                return;
            }
            let outcome = self.fold(fire(self.now, vec![stretch]));
            assert_eq!(outcome, counted(1, false));
        }
        panic!("planning {id} does not end");
    }

    fn schedule(&self, id: &str) -> Schedule {
        (*self.state.schedule(id).unwrap()).clone()
    }

    /// The ledger in words: `planned fate`.
    fn ledger(&self, id: &str) -> Vec<String> {
        let lines = self.schedule(id).fires.into_iter();
        lines
            .map(|f| format!("{} {:?}", f.planned.0, f.fate))
            .collect()
    }

    fn open_runs(&self, id: &str) -> Vec<Task> {
        let running = self.schedule(id).running;
        let task = |run: &Running| self.state.task_by_seq(run.seq).unwrap().unwrap();
        running.iter().map(task).collect()
    }

    fn deliver(&mut self, id: &str) {
        for task in self.open_runs(id) {
            self.fold(done(&task));
        }
    }
}

#[test]
fn an_occurrence_becomes_a_task_once() {
    let mut desk = Desk::new();
    desk.fold(put("shop.report", true, every(500)));
    desk.at(1_600);
    let agenda = desk.state.agenda_of("shop.report").unwrap();
    let once = fire(1_600, vec![stretch(&agenda, Time(1_600), 10)]);
    assert_eq!(desk.fold(once.clone()), counted(1, false));
    assert_eq!(
        desk.fold(once),
        counted(0, false),
        "another leader said the same"
    );
    assert_eq!(desk.ledger("shop.report"), ["1500 Fired"]);
    let key = Key::new("shop", "report:1:1500").unwrap();
    let task = desk.state.task(&key).unwrap().unwrap();
    assert_eq!((task.stage, task.due), (Stage::Triggered, Time(1_500)));
    let Target::Http(http) = Spec::decode(&task.spec).unwrap().target else {
        panic!("it is a request")
    };
    assert_eq!(
        http.headers["horolog-planned-at"],
        "1970-01-01T00:00:01.500Z"
    );
    assert_eq!(http.headers["horolog-schedule"], "shop.report");
    desk.fold(done(&task));
    let schedule = desk.schedule("shop.report");
    assert!(schedule.running.is_empty());
    assert_eq!(schedule.fires[0].ended, Some((Time(1_600), Stage::Done)));
    assert_eq!(schedule.watermark, Time(1_600));
    assert_eq!(desk.state.tz_version(), "test");
}

#[test]
fn definitions_have_versions() {
    let mut desk = Desk::new();
    let new = |outcome: Outcome| match outcome {
        Outcome::Schedule { new, schedule } => (new, schedule.version().unwrap().number),
        other => panic!("{other:?}"),
    };
    assert_eq!(new(desk.fold(put("a.b", true, every(500)))), (true, 1));
    assert_eq!(
        new(desk.fold(put("a.b", true, every(500)))),
        (false, 1),
        "repeated"
    );
    let refused = |outcome, refusal| assert_eq!(outcome, Outcome::Refused(refusal));
    refused(
        desk.fold(put("a.b", true, every(700))),
        Refusal::ScheduleExists,
    );
    refused(
        desk.fold(put("a.c", false, every(700))),
        Refusal::NoSchedule,
    );
    let on = |version, ms| PutSchedule {
        if_version: Some(version),
        ..put("a.b", false, every(ms))
    };
    refused(
        desk.fold(on(2, 700)),
        Refusal::ScheduleChanged { version: 1 },
    );
    // What the old one should have done until now is still expected.
    desk.at(2_200);
    assert_eq!(new(desk.fold(on(1, 700))), (true, 2));
    desk.at(2_900).plan("a.b");
    assert_eq!(
        desk.ledger("a.b"),
        ["1500 Late", "2000 Fired", "2800 Fired"]
    );
    let versions: Vec<u32> = desk
        .schedule("a.b")
        .fires
        .iter()
        .map(|f| f.version)
        .collect();
    assert_eq!(versions, [1, 1, 2]);
    for n in 0..40 {
        desk.now += 10;
        desk.fold(put("a.b", false, every(100_000 + n)));
        desk.plan("a.b");
    }
    let schedule = desk.schedule("a.b");
    assert_eq!(schedule.versions.len(), crate::model::limits::VERSIONS_KEPT);
    assert_eq!(schedule.version().unwrap().number, 42);
    let delete = |if_version| DeleteSchedule {
        id: "a.b".into(),
        if_version,
        by: by(),
    };
    refused(
        desk.fold(delete(Some(1))),
        Refusal::ScheduleChanged { version: 42 },
    );
    desk.fold(delete(None));
    desk.at(90_000).plan("a.b");
    assert_eq!(desk.ledger("a.b").len(), 3, "nothing fires afterwards");
    refused(desk.fold(pause("a.b", true)), Refusal::NoSchedule);
    assert_eq!(
        new(desk.fold(put("a.b", true, every(500)))),
        (true, 43),
        "its ids go on"
    );
    desk.at(90_600).plan("a.b");
    assert_eq!(desk.ledger("a.b").last().unwrap(), "90500 Fired");
}

#[test]
fn what_lies_within_a_pause_is_skipped_whenever_it_is_planned() {
    let mut desk = Desk::new();
    desk.fold(put("a.b", true, every(500)));
    desk.at(1_700).fold(pause("a.b", true));
    desk.at(2_600).fold(pause("a.b", false));
    desk.at(3_100).fold(pause("a.b", true));
    desk.at(3_600).plan("a.b");
    let expected = [
        "1500 Late",
        "2000 SkippedPaused",
        "2500 SkippedPaused",
        "3000 Fired",
        "3500 SkippedPaused",
    ];
    assert_eq!(desk.ledger("a.b"), expected);
    assert!(LATE_AFTER < Span(2_100));
    desk.fold(pause("a.b", false));
    assert_eq!(desk.schedule("a.b").pauses, [], "the planner has passed it");
}

#[test]
fn a_run_that_is_not_over_decides_by_the_policy() {
    let with = |overlap| Definition {
        overlap,
        queue_max: 2,
        ..every(500)
    };
    let ledger = |overlap| {
        let mut desk = Desk::new();
        desk.fold(put("a.b", true, with(overlap)));
        for now in [1_500, 2_000, 2_500, 3_000] {
            desk.at(now).plan("a.b");
        }
        let open = desk.open_runs("a.b").len();
        desk.deliver("a.b");
        desk.at(3_100).plan("a.b");
        (open, desk.ledger("a.b").join(", "))
    };
    let told = |open, text: &str| (open, text.to_owned());
    assert_eq!(
        ledger(OverlapPolicy::Allow),
        told(4, "1500 Fired, 2000 Fired, 2500 Fired, 3000 Fired")
    );
    let skipped = "1500 Fired, 2000 SkippedOverlap, 2500 SkippedOverlap, 3000 SkippedOverlap";
    assert_eq!(ledger(OverlapPolicy::Skip), told(1, skipped));
    let one = "1500 Fired, 2000 Late, 2500 Coalesced, 3000 Coalesced";
    assert_eq!(ledger(OverlapPolicy::QueueOne), told(1, one));
    let all = "1500 Fired, 2000 Late, 2500 Queued, 3000 SkippedOverlap";
    assert_eq!(ledger(OverlapPolicy::QueueAll), told(1, all));
    assert_eq!(
        ledger(OverlapPolicy::CancelRunning),
        told(1, "1500 Fired, 2000 Fired, 2500 Fired, 3000 Fired")
    );
}

#[test]
fn a_cancelled_run_is_over_for_good() {
    let mut desk = Desk::new();
    let overlap = OverlapPolicy::CancelRunning;
    desk.fold(put(
        "a.b",
        true,
        Definition {
            overlap,
            ..every(500)
        },
    ));
    desk.at(1_500).plan("a.b");
    let first = desk.open_runs("a.b").remove(0);
    desk.at(2_000).plan("a.b");
    assert!(desk.changes.contains(&Change::Closed {
        seq: first.seq,
        fence: first.fence
    }));
    assert!(matches!(desk.fold(done(&first)), Outcome::Stale { .. }));
    let lines = desk.schedule("a.b").fires;
    assert_eq!(lines[0].ended, Some((Time(2_000), Stage::Cancelled)));
    assert_eq!(lines[1].ended, None);
}

#[test]
fn what_was_missed_is_caught_up_with_by_the_policy() {
    let ledger = |catch_up, max_runs| {
        let mut desk = Desk::new();
        desk.fold(put(
            "a.b",
            true,
            Definition {
                catch_up,
                max_runs,
                ..every(1_000)
            },
        ));
        desk.at(2_000).plan("a.b");
        // Nobody plans for eight seconds; the threshold is five.
        desk.at(10_300).plan("a.b");
        desk.at(11_000).plan("a.b");
        let schedule = desk.schedule("a.b");
        let ran = schedule
            .fires
            .iter()
            .filter(|f| f.fate.ran())
            .map(|f| f.planned.0 / 1_000);
        let due = desk.open_runs("a.b").into_iter().map(|task| task.due.0);
        (
            ran.collect::<Vec<_>>(),
            due.collect::<Vec<_>>(),
            schedule.totals[5] + schedule.totals[6],
        )
    };
    assert_eq!(
        ledger(CatchUp::Skip, None),
        (vec![2, 11], vec![2_000, 11_000], 8)
    );
    assert_eq!(
        ledger(CatchUp::Once, None),
        (vec![2, 10, 11], vec![2_000, 10_000, 11_000], 7)
    );
    let all = |window, max| CatchUp::All {
        window: Span(window),
        max,
        pace: Span(20),
    };
    let paced = vec![2_000, 8_000, 10_320, 10_340, 11_000];
    assert_eq!(
        ledger(all(60_000, 3), None),
        (vec![2, 8, 9, 10, 11], paced, 5)
    );
    let paced = vec![2_000, 9_000, 10_320, 11_000];
    assert_eq!(
        ledger(all(1_500, 100), None),
        (vec![2, 9, 10, 11], paced, 6)
    );
    assert_eq!(
        ledger(CatchUp::Once, Some(2)),
        (vec![2, 10], vec![2_000, 10_000], 7)
    );
    assert_eq!(
        ledger(all(60_000, 3), Some(3)),
        (vec![2, 8, 9], vec![2_000, 8_000, 10_320], 6)
    );
}

#[test]
fn max_runs_ends_a_schedule() {
    let mut desk = Desk::new();
    let max_runs = Some(2);
    desk.fold(put(
        "a.b",
        true,
        Definition {
            max_runs,
            ..every(500)
        },
    ));
    desk.at(4_000).plan("a.b");
    assert_eq!(desk.ledger("a.b"), ["1500 Late", "2000 Late"]);
    assert!(desk.state.agenda_of("a.b").is_none());
    assert_eq!(
        desk.schedule("a.b").version().unwrap().until,
        Some(Time(2_000))
    );
}

#[test]
fn runs_that_are_asked_for_are_the_same_when_repeated() {
    let mut desk = Desk::new();
    let overlap = OverlapPolicy::Skip;
    desk.fold(put(
        "a.b",
        true,
        Definition {
            overlap,
            ..every(500)
        },
    ));
    let lines = |outcome: Outcome| match outcome {
        Outcome::Schedule { new, schedule } => (new, schedule.fires.len()),
        other => panic!("{other:?}"),
    };
    assert_eq!(lines(desk.fold(run_now("a.b", "r1", &[]))), (true, 1));
    assert_eq!(lines(desk.fold(run_now("a.b", "r1", &[]))), (false, 1));
    let refused = desk.fold(run_now("a.b", "r2", &[]));
    assert_eq!(refused, Outcome::Refused(Refusal::ScheduleRuns));
    // A backfill waits in line instead.
    assert_eq!(
        lines(desk.fold(run_now("a.b", "b1", &[500, 1_000]))),
        (true, 2)
    );
    desk.deliver("a.b");
    desk.at(1_200).plan("a.b");
    assert_eq!(desk.open_runs("a.b")[0].key.id.as_ref(), "b:b1:500");
    desk.deliver("a.b");
    desk.plan("a.b");
    assert_eq!(desk.open_runs("a.b")[0].key.id.as_ref(), "b:b1:1000");
    let totals: u64 = desk.schedule("a.b").totals.iter().sum();
    assert_eq!(totals, 0, "none of them is an occurrence of the plan");
}

#[test]
fn a_task_with_the_same_id_makes_an_occurrence_missed() {
    let mut desk = Desk::new();
    desk.fold(put("shop.a", true, every(500)));
    let taken = Submit {
        key: Key::new("shop", "a:1:1500").unwrap(),
        ..submit("x", When::At(Time(9_000)), &spec())
    };
    desk.fold(taken);
    desk.at(1_500).plan("shop.a");
    assert_eq!(desk.ledger("shop.a"), ["1500 Missed"]);
}

/// A planner that has come to the end of a version is told, so that it looks at the next one; the
/// changed schedule would not fire until another leader came.
#[test]
fn the_end_of_a_version_is_told_to_the_planner() {
    let mut desk = Desk::new();
    let policy = |period, overlap| Definition {
        overlap,
        ..every(period)
    };
    desk.fold(put("shop.a", true, policy(1_000, OverlapPolicy::Skip)));
    desk.plan("shop.a");
    // The watermark is behind when the change comes, as with any schedule that is not due just now.
    desk.now += 300;
    desk.fold(put("shop.a", false, policy(2_000, OverlapPolicy::Skip)));
    desk.state.take_attention();
    let agenda = desk.state.agenda_of("shop.a").unwrap();
    assert_eq!((agenda.version, agenda.until), (1, Some(Time(desk.now))));
    let rest = stretch(&agenda, Time(desk.now), 4);
    desk.fold(fire(desk.now, vec![rest]));
    assert!(desk.state.take_attention().contains("shop.a"));
    assert_eq!(desk.state.agenda_of("shop.a").unwrap().version, 2);
    // One that goes on needs nobody's attention.
    desk.now += 100;
    let agenda = desk.state.agenda_of("shop.a").unwrap();
    desk.fold(fire(desk.now, vec![stretch(&agenda, Time(desk.now), 4)]));
    assert!(desk.state.take_attention().is_empty());
}
