//! Finished tasks leave.

use super::{Class, State, StoreFault};
use crate::model::limits::RETIRE_MAX;
use crate::model::{Outcome, Retire, Time};

impl State {
    /// Drops finished tasks, oldest first, and unmet marks: at most `max` of each kind. The floor
    /// rises only as far as was dropped, so that "more" means the same on every replica.
    pub(super) fn retire(&mut self, event: &Retire) -> Outcome {
        let max = event.max.min(RETIRE_MAX) as usize;
        // First, so that what leaves with its history leaves nothing behind.
        let floor = self.core.history_floor.max(event.history_up_to);
        self.core.history_floor = floor;
        let mut count = 0;
        let mut more = false;
        for (class, until) in [
            (Class::Finished, event.finished_up_to),
            (Class::Dead, event.dead_up_to),
        ] {
            let (seqs, rest) = self.table.finished(class, until, max);
            count += seqs.len();
            more |= rest;
            for seq in seqs {
                self.table.retire(seq, floor);
            }
            if !rest {
                let floor = &mut self.core.floors[class as usize];
                *floor = (*floor).max(until);
            }
        }
        let (dropped, rest) = self.drop_marks(event.marks_up_to, max);
        Outcome::Counted {
            count: (count + dropped) as u32,
            more: more || rest,
        }
    }

    fn drop_marks(&mut self, until: Time, max: usize) -> (usize, bool) {
        let (keys, more) = self.table.old_marks(until, max);
        for key in &keys {
            self.table.take_mark(key);
        }
        (keys.len(), more)
    }

    /// Whether such an event would find anything to drop: a task that has grown old enough, a mark,
    /// or the history of what has left.
    ///
    /// # Errors
    /// The store cannot be read; the node must stop.
    pub fn has_retirable(&self, event: &Retire) -> Result<bool, StoreFault> {
        for (class, until) in [
            (Class::Finished, event.finished_up_to),
            (Class::Dead, event.dead_up_to),
        ] {
            if !self.table.finished(class, until, 1).0.is_empty()
                || self.table.may_leave(class, until)?
            {
                return Ok(true);
            }
        }
        let floor = self.core.history_floor;
        let first = self.table.first_past(floor)?;
        Ok(first.is_some_and(|at| at <= event.history_up_to)
            || self.table.may_drop_marks(event.marks_up_to)?)
    }
}
