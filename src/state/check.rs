//! Looks whether what belongs together fits together, in both directions: schedules and the tasks
//! that are their runs, the ledger and what waits in line, the tasks that wait and what was
//! triggered.
//!
//! The fold keeps all this together, and properties say so; the check is for the day on which it
//! does not. It only looks, in pieces, between which the fold goes on; what can be mended is
//! proposed, and mended by the fold, if it is still so. What differs between replicas is none of its
//! business: state hashes tell that, and rot on disk is the scrub's.

use std::sync::Arc;

use super::schedules::is_intact;
use super::{Entry, State, StoreFault};
use crate::model::{Fate, Outcome, Repair, Schedule, Seq, Task, Time};

/// Something that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In words.
    pub what: String,
    /// What mends it; `None`: somebody has to look.
    pub repair: Option<Repair>,
}

/// What one piece of a check has come to.
#[derive(Debug, Default)]
pub struct Checked<T> {
    /// Schedules, or tasks, that were looked at.
    pub examined: u64,
    pub findings: Vec<Finding>,
    /// Where the next piece begins; `None`: that was all.
    pub next: Option<T>,
}

impl Finding {
    fn new(what: String, repair: Repair) -> Finding {
        Finding {
            what,
            repair: Some(repair),
        }
    }
}

impl State {
    /// The schedules behind an id, and the tasks that are their runs.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn check_schedules(
        &self,
        after: Option<&str>,
        max: usize,
    ) -> Result<Checked<Arc<str>>, StoreFault> {
        let mut checked = Checked::default();
        for schedule in self.table.schedules_after(after).take(max) {
            checked.examined += 1;
            self.check_schedule(schedule, &mut checked.findings)?;
            checked.next = Some(schedule.id.clone());
        }
        if checked.examined < max as u64 {
            checked.next = None;
        }
        if after.is_none() {
            self.check_strays(&mut checked.findings);
        }
        Ok(checked)
    }

    fn check_schedule(&self, s: &Schedule, findings: &mut Vec<Finding>) -> Result<(), StoreFault> {
        let id = &s.id;
        if !is_intact(s) {
            findings.push(Finding {
                what: format!("schedule {id}: a definition is not what its hash says"),
                repair: None,
            });
        }
        for run in &s.running {
            let repair = Repair::Run {
                schedule: id.clone(),
                seq: run.seq,
            };
            let what = match self.task_by_seq(run.seq)? {
                None => format!("its run {} is no task any more", run.seq.0),
                Some(task) if task.stage.is_final() => {
                    format!(
                        "its run {} is {}, and it waits for it still",
                        task.key, task.stage
                    )
                }
                Some(_) if self.table.run_of(run.seq) != Some(id) => {
                    format!("the end of its run {} would not be told to it", run.seq.0)
                }
                Some(_) => continue,
            };
            findings.push(Finding::new(format!("schedule {id}: {what}"), repair));
        }
        for (n, fire) in (s.first..).zip(&s.fires) {
            let waits = s.queue.iter().any(|queued| queued.line == n);
            if fire.fate == Fate::Queued && !waits {
                let repair = Repair::Line {
                    schedule: id.clone(),
                    line: n,
                };
                let what = format!(
                    "schedule {id}: the occurrence of {} waits in line by its ledger only",
                    fire.planned
                );
                findings.push(Finding::new(what, repair));
            }
        }
        Ok(())
    }

    /// Tasks that are runs by the index of runs only.
    fn check_strays(&self, findings: &mut Vec<Finding>) {
        for (seq, id) in self.table.runs() {
            let schedule = self.table.schedule(id);
            let known = schedule.is_some_and(|s| s.running.iter().any(|run| run.seq == seq));
            if !known {
                let what = format!("task {} is a run of {id}, which does not know it", seq.0);
                findings.push(Finding::new(what, Repair::Stray { seq }));
            }
        }
    }

    /// Tasks that wait for an instant at which everything due was triggered: those of the store
    /// behind a place. They are suspects: one that has just come may be among them.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn check_stored(
        &self,
        after: Option<(Time, Seq)>,
        max: usize,
    ) -> Result<Checked<(Time, Seq)>, StoreFault> {
        let places = self.table.store.far(after, self.core.hand, max)?;
        let mut checked = Checked {
            examined: places.len() as u64,
            next: (places.len() == max)
                .then(|| places.last().copied())
                .flatten(),
            ..Checked::default()
        };
        for (_, seq) in places {
            let task = self.task_by_seq(seq)?;
            checked
                .findings
                .extend(task.and_then(|task| self.asleep(&task)));
        }
        Ok(checked)
    }

    /// The same of those that memory holds, behind a number.
    pub fn check_near(&self, after: Option<Seq>, max: usize) -> Checked<Seq> {
        let from = after.map_or(Seq(0), |seq| Seq(seq.0.saturating_add(1)));
        let mut checked = Checked::default();
        // Each source in order; the piece ends where the first of them was cut short.
        let mut seqs = std::collections::BTreeSet::new();
        let mut end = None;
        for layer in self.table.layers() {
            let piece: Vec<Seq> = layer
                .cells
                .range(from..)
                .map(|(seq, _)| *seq)
                .take(max)
                .collect();
            if piece.len() == max {
                end = end.min(piece.last().copied()).or(piece.last().copied());
            }
            seqs.extend(piece);
        }
        for seq in seqs
            .into_iter()
            .filter(|seq| end.is_none_or(|end| *seq <= end))
        {
            checked.examined += 1;
            if let Some(task) = self.table.task(seq) {
                checked.findings.extend(self.asleep(task));
            }
        }
        checked.next = end;
        checked
    }

    fn asleep(&self, task: &Task) -> Option<Finding> {
        self.is_asleep(task).then(|| {
            let what = format!(
                "task {} is {} and waits for {}, at which everything due was triggered",
                task.key, task.stage, task.at
            );
            Finding::new(what, Repair::Wake { seq: task.seq })
        })
    }

    fn is_asleep(&self, task: &Task) -> bool {
        task.stage.is_waiting() && task.at <= self.core.hand
    }

    /// Mends what is still as the check has seen it.
    pub(super) fn mend(&mut self, entry: Entry, repairs: &[Repair]) -> Outcome {
        let mended = repairs.iter().filter(|repair| self.mend_one(entry, repair));
        Outcome::Counted {
            count: mended.count() as u32,
            more: false,
        }
    }

    fn mend_one(&mut self, entry: Entry, repair: &Repair) -> bool {
        match repair {
            Repair::Run { schedule, seq } => {
                let stage = self.table.task(*seq).map(|task| task.stage);
                self.end_run(entry, schedule, *seq, stage)
            }
            Repair::Stray { seq } => self.forget_stray(*seq),
            Repair::Line { schedule, line } => self.miss_line(entry, schedule, *line),
            Repair::Wake { seq } => {
                let asleep = self
                    .table
                    .task(*seq)
                    .is_some_and(|task| self.is_asleep(task));
                if asleep {
                    self.begin_if_due(entry, *seq);
                }
                asleep
            }
        }
    }
}
