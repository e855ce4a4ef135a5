//! The consistency check: what is broken here by hand is found, mended by an event, and stays so.

use super::schedules::{every, fire, put, stretch};
use super::*;
use crate::state::queue::Queue;
use crate::state::{Checked, Finding};

impl State {
    /// Everything that does not fit, looked for in the smallest pieces.
    pub(in crate::state) fn misfits(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        walk(&mut findings, |after: &Option<Arc<str>>| {
            self.check_schedules(after.as_deref(), 1).unwrap()
        });
        walk(&mut findings, |after| self.check_stored(*after, 1).unwrap());
        walk(&mut findings, |after| self.check_near(*after, 1));
        findings
    }
}

fn walk<T>(findings: &mut Vec<Finding>, piece: impl Fn(&Option<T>) -> Checked<T>) {
    let mut after = None;
    loop {
        let checked = piece(&after);
        findings.extend(checked.findings);
        after = checked.next;
        if after.is_none() {
            return;
        }
    }
}

impl Desk {
    /// Folds while something is broken, which the audit would not let pass.
    fn fold_broken(&mut self, event: impl Into<Event>) -> Outcome {
        self.index += 1;
        let (stamp, now) = (Time(self.now), Time(self.now));
        let events = vec![event.into()];
        let batch = Batch { stamp, now, events };
        self.state.prepare(&batch).unwrap();
        let outcomes = self.state.apply(self.index, batch, &mut self.changes);
        outcomes.into_iter().next().unwrap()
    }

    /// Finds exactly one thing, has it mended, and nothing is left, nor done twice.
    #[track_caller]
    fn mends(&mut self, words: &str) {
        let mut findings = self.state.misfits();
        findings.dedup();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].what.contains(words), "{findings:?}");
        let repairs = vec![findings[0].repair.clone().unwrap()];
        let mend = Mend { repairs };
        assert_eq!(self.fold(mend.clone()), counted(1, false));
        assert_eq!(self.state.misfits(), []);
        assert_eq!(self.fold(mend), counted(0, false), "it is no more so");
    }

    /// A schedule that lets no run begin beside another, and its first run.
    fn one_run(&mut self, overlap: OverlapPolicy) -> Task {
        let definition = Definition {
            overlap,
            ..every(500)
        };
        self.fold(put("shop.report", true, definition));
        self.at(1_600).take_up();
        let run = self.state.schedule("shop.report").unwrap().running[0];
        self.state.task_by_seq(run.seq).unwrap().unwrap()
    }

    /// What the planner of the schedule proposes next.
    fn take_up(&mut self) {
        let agenda = self.state.agenda_of("shop.report").unwrap();
        self.fold(fire(self.now, vec![stretch(&agenda, Time(self.now), 10)]));
    }

    fn report(&self) -> Schedule {
        (*self.state.schedule("shop.report").unwrap()).clone()
    }
}

#[test]
fn a_schedule_that_waits_for_a_run_that_is_over_goes_on() {
    let mut desk = Desk::new();
    let run = desk.one_run(OverlapPolicy::Skip);
    assert_eq!(desk.state.misfits(), []);
    desk.state.table.schedules.runs_mut().remove(&run.seq);
    let broken = desk.state.misfits();
    assert!(broken[0].what.contains("would not be told"), "{broken:?}");
    desk.fold_broken(done(&run));
    desk.mends("is done, and it waits for it still");
    let ended = desk.report().fires[0].ended;
    assert_eq!(ended, Some((Time(1_600), Stage::Done)));
    desk.at(2_100).take_up();
    assert_eq!(
        desk.report().fires[1].fate,
        Fate::Fired,
        "nothing is in its way"
    );
}

#[test]
fn the_index_of_runs_is_right_in_both_directions() {
    let mut desk = Desk::new();
    let run = desk.one_run(OverlapPolicy::Skip);
    desk.state.table.schedules.runs_mut().remove(&run.seq);
    desk.mends("would not be told");
    let other = desk.submit_at("other", 9_000);
    let id: Arc<str> = "shop.report".into();
    desk.state.table.schedules.runs_mut().insert(other.seq, id);
    desk.mends("which does not know it");
    desk.fold(done(&run));
    assert!(desk.report().running.is_empty());
}

#[test]
fn an_occurrence_that_waits_by_the_ledger_only_was_missed() {
    let mut desk = Desk::new();
    desk.one_run(OverlapPolicy::QueueAll);
    desk.at(2_100).take_up();
    assert_eq!(desk.report().fires[1].fate, Fate::Queued);
    desk.state
        .edit_schedule("shop.report", |_, s| s.queue.clear());
    desk.mends("waits in line by its ledger only");
    assert_eq!(desk.report().fires[1].fate, Fate::Missed);
}

#[test]
fn a_task_that_nobody_wakes_is_triggered() {
    let mut desk = Desk::new();
    desk.submit_at("asleep", 3_000);
    assert!(desk.state.has_due(Time(3_000), Time(1_000)).unwrap());
    desk.state.table.waiting = Queue::new();
    desk.now = 3_000;
    desk.fold_broken(trigger(3_000, 100));
    assert_eq!(desk.stage("asleep"), Stage::Scheduled);
    desk.mends("at which everything due was triggered");
    assert_eq!(desk.stage("asleep"), Stage::Triggered);
    assert_eq!(desk.kinds("asleep"), ["submitted", "triggered"]);
}

#[test]
fn a_definition_that_is_not_what_it_was_is_told_and_left() {
    let mut desk = Desk::new();
    desk.one_run(OverlapPolicy::Skip);
    desk.state.edit_schedule("shop.report", |_, s| {
        s.versions[0].definition.queue_max += 1;
    });
    let findings = desk.state.misfits();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].repair, None);
    assert!(findings[0].what.contains("not what its hash says"));
}
