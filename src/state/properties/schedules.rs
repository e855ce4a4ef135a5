//! Schedules under random wishes: every occurrence ends in exactly one line of the ledger, whoever
//! plans it and however often; and what the log says does not depend on checkpoints.

use proptest::prelude::*;
use std::collections::BTreeSet;

use super::super::tests::{self, assign_all, schedules as desk};
use super::{State, cooler, empty, fold, restored, snapshot};
use crate::model::*;

const IDS: [&str; 2] = ["shop.a", "shop.b"];

#[derive(Clone, Debug)]
enum Wish {
    Put {
        period: u64,
        catch_up: u8,
        max_runs: Option<u64>,
    },
    Pause(bool),
    Delete,
    Run {
        tag: u8,
        backfill: u8,
    },
    /// A planner that looks so far ahead, and proposes so much at once.
    Plan {
        ahead: u64,
        max: usize,
    },
    /// What a planner proposed earlier is proposed again.
    Stale,
    End {
        pick: u8,
        ok: bool,
    },
    Trigger,
}

#[derive(Clone, Debug)]
struct Step {
    which: usize,
    wish: Wish,
    moved: u64,
    shared: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let wish = prop_oneof![
        3 => (1u64..8, 0u8..4, prop::option::weighted(0.2, 1u64..6))
            .prop_map(|(n, catch_up, max_runs)| Wish::Put { period: n * 100, catch_up, max_runs }),
        2 => any::<bool>().prop_map(Wish::Pause),
        1 => Just(Wish::Delete),
        2 => (0u8..6, 0u8..5).prop_map(|(tag, backfill)| Wish::Run { tag, backfill }),
        12 => (0u64..400, 1usize..6).prop_map(|(ahead, max)| Wish::Plan { ahead, max }),
        2 => Just(Wish::Stale),
        6 => (any::<u8>(), any::<bool>()).prop_map(|(pick, ok)| Wish::End { pick, ok }),
        3 => Just(Wish::Trigger),
    ];
    let moved = prop_oneof![8 => 0u64..400, 1 => 2_000u64..4_000];
    (0usize..2, wish, moved, prop::bool::weighted(0.2)).prop_map(|(which, wish, moved, shared)| {
        Step {
            which,
            wish,
            moved,
            shared,
        }
    })
}

/// A pause of a schedule, and the entries that began and ended it.
#[derive(Clone, Debug)]
struct Paused {
    id: &'static str,
    from: (u64, Time),
    until: Option<(u64, Time)>,
}

struct Writer {
    state: State,
    log: Vec<Vec<u8>>,
    pending: Vec<Event>,
    now: u64,
    overlap: [OverlapPolicy; 2],
    stale: Option<FireSchedules>,
    pauses: Vec<Paused>,
}

impl Writer {
    fn new(overlap: [OverlapPolicy; 2]) -> Writer {
        let mut writer = Writer {
            state: empty(),
            log: Vec::new(),
            pending: vec![assign_all(1, 1).into()],
            now: 10_000,
            overlap,
            stale: None,
            pauses: Vec::new(),
        };
        writer.finish();
        writer
    }

    fn take(&mut self, step: &Step) {
        self.now += step.moved;
        if let Some(event) = self.event(step.which, &step.wish) {
            self.pending.push(event);
        }
        if !step.shared {
            self.finish();
        }
    }

    fn event(&mut self, which: usize, wish: &Wish) -> Option<Event> {
        let id = IDS[which];
        Some(match *wish {
            Wish::Put {
                period,
                catch_up,
                max_runs,
            } => {
                let living = self.state.schedule(id).is_some_and(|s| s.deleted.is_none());
                let all = CatchUp::All {
                    window: Span(1_500),
                    max: 4,
                    pace: Span(10),
                };
                let definition = Definition {
                    overlap: self.overlap[which],
                    queue_max: 2,
                    catch_up: [CatchUp::Skip, CatchUp::Once, all, CatchUp::Once]
                        [usize::from(catch_up)],
                    misfire: Span(900),
                    max_runs,
                    ..desk::every(period)
                };
                desk::put(id, !living, definition).into()
            }
            Wish::Pause(paused) => desk::pause(id, paused).into(),
            Wish::Delete => DeleteSchedule {
                id: id.into(),
                if_version: None,
                by: tests::by(),
            }
            .into(),
            Wish::Run { tag, backfill } => {
                let planned: Vec<u64> = (0..u64::from(backfill)).map(|n| n * 77).collect();
                desk::run_now(id, &format!("r{tag}-{backfill}"), &planned).into()
            }
            Wish::Plan { ahead, max } => {
                let horizon = Time(self.now + ahead);
                let agenda = self.state.agenda().into_iter();
                let stretches = agenda.map(|agenda| desk::stretch(&agenda, horizon, max));
                let event = desk::fire(self.now, stretches.collect());
                self.stale = Some(event.clone());
                event.into()
            }
            Wish::Stale => self.stale.clone()?.into(),
            Wish::End { pick, ok } => {
                let s = self.state.schedule(id)?;
                let run = s.running.get(usize::from(pick) % s.running.len().max(1))?;
                let task = self.state.task_by_seq(run.seq).unwrap()?;
                match ok {
                    true => tests::done(&task).into(),
                    false => tests::failed_for(&task, Verdict::Final).into(),
                }
            }
            Wish::Trigger => tests::trigger(self.now, 100).into(),
        })
    }

    fn finish(&mut self) {
        let now = Time(self.now);
        let events = std::mem::take(&mut self.pending);
        let batch = Batch {
            stamp: now,
            now,
            events,
        };
        self.log.push(batch.encode());
        let index = self.log.len() as u64;
        self.state.prepare(&batch).unwrap();
        let outcomes = self.state.apply(index, batch.clone(), &mut Vec::new());
        self.state.audit();
        for (event, outcome) in batch.events.iter().zip(&outcomes) {
            if matches!(outcome, Outcome::Schedule { new: true, .. }) {
                self.note(event, (index, now));
            }
        }
        self.check(index);
    }

    fn note(&mut self, event: &Event, at: (u64, Time)) {
        let id = |id: &str| IDS.into_iter().find(|known| *known == id).unwrap();
        let end = |pauses: &mut Vec<Paused>, id: &str| {
            for pause in pauses
                .iter_mut()
                .filter(|p| p.id == id && p.until.is_none())
            {
                pause.until = Some(at);
            }
        };
        match event {
            Event::PauseSchedule(e) if e.paused => {
                let (id, from, until) = (id(&e.id), at, None);
                self.pauses.push(Paused { id, from, until });
            }
            Event::PauseSchedule(e) => end(&mut self.pauses, &e.id),
            Event::DeleteSchedule(e) => end(&mut self.pauses, &e.id),
            _ => {}
        }
    }

    /// I-20, I-21, I-22, I-25, at every entry.
    fn check(&self, index: u64) {
        for (n, id) in IDS.into_iter().enumerate() {
            let Some(s) = self.state.schedule(id) else {
                continue;
            };
            if self.overlap[n] != OverlapPolicy::Allow {
                assert!(s.running.len() <= 1, "I-20: {:?}", s.running);
            }
            let mut seqs = BTreeSet::new();
            assert!(
                s.fires
                    .iter()
                    .filter_map(|f| f.seq)
                    .all(|seq| seqs.insert(seq)),
                "I-22"
            );
            for version in s.versions.iter().filter(|_| s.first == 0) {
                let period: u64 = version.definition.plan.parse().unwrap();
                let end = version
                    .until
                    .map_or(s.watermark, |until| until.min(s.watermark));
                let all = (version.from.0 / period + 1..).map(|n| n * period);
                let expected: Vec<u64> = all.take_while(|at| *at <= end.0).collect();
                let lines = s.fires.iter().filter(|f| f.cause == Cause::Planned);
                let lines = lines
                    .filter(|f| f.version == version.number)
                    .map(|f| f.planned.0);
                let held = s
                    .held
                    .iter()
                    .filter(|h| h.0 == version.number)
                    .map(|h| h.1.0);
                let mut found: Vec<u64> = lines.chain(held).collect();
                found.sort_unstable();
                assert_eq!(
                    found, expected,
                    "I-21, I-25: {id}, version {}",
                    version.number
                );
                let proof = expected
                    .iter()
                    .fold(0, |sum, at| proof_with(sum, Time(*at)));
                assert_eq!(
                    (version.taken, version.proof),
                    (expected.len() as u64, proof)
                );
            }
            for fire in s
                .fires
                .iter()
                .filter(|f| f.index == index && f.cause == Cause::Planned)
            {
                self.paused(id, fire, index);
            }
        }
    }

    /// Skipped for a pause is what lies within one, and nothing else; where entries are shared the
    /// order within decides, and is not known here.
    fn paused(&self, id: &str, fire: &Fire, index: u64) {
        let of = self.pauses.iter().filter(|p| p.id == id);
        let near = |at: Option<(u64, Time)>| at.is_some_and(|(entry, _)| entry == index);
        if of.clone().any(|p| near(Some(p.from)) || near(p.until)) {
            return;
        }
        let mut of = of.filter(|p| fire.planned > p.from.1);
        let within = of.any(|p| p.until.is_none_or(|(_, until)| fire.planned <= until));
        let waited = fire.decided.since(fire.planned) > Span(0) && fire.seq.is_some();
        assert!(
            within == (fire.fate == Fate::SkippedPaused)
                || within && waited
                || fire.fate == Fate::Cancelled,
            "{fire:?} {within} {:?}",
            self.pauses
        );
    }
}

fn policy() -> impl Strategy<Value = OverlapPolicy> {
    use OverlapPolicy::*;
    prop::sample::select(vec![Allow, Skip, QueueOne, QueueAll, CancelRunning])
}

proptest! {
    #![proptest_config(crate::thorough::cases(60))]

    #[test]
    fn every_occurrence_ends_once_and_replicas_agree(
        overlap in [policy(), policy()],
        steps in prop::collection::vec(step(), 1..120),
        cut in any::<prop::sample::Index>(),
        seed: u64,
    ) {
        let mut writer = Writer::new(overlap);
        steps.iter().for_each(|step| writer.take(step));
        writer.finish();
        let log = writer.log;
        let mut plain = empty();
        let expected = fold(&mut plain, &log, |_, _| {});
        prop_assert!(snapshot(&plain) == snapshot(&writer.state), "byte for byte");
        // Other borders, then a snapshot and the tail.
        let mut whole = empty();
        let trace = fold(&mut whole, &log, cooler(seed));
        prop_assert_eq!(trace.differs(&expected, &log), None);
        let mut other = empty();
        let cut = cut.index(log.len() + 1);
        fold(&mut other, &log[..cut], cooler(seed));
        let mut late = restored(&snapshot(&other));
        late.audit();
        let trace = fold(&mut late, &log, cooler(seed));
        prop_assert_eq!(&trace.hashes[..], &expected.hashes[cut..]);
        prop_assert!(snapshot(&late) == snapshot(&plain), "byte for byte");
    }
}
