//! How far ahead of its instant a task is triggered.
//!
//! The trigger is committed shortly before the instant and the dispatch held until it, so that
//! replication adds nothing to lateness. How long a commit takes is measured; the lead is a high
//! percentile of it.

use std::time::Duration;

use crate::model::Span;

/// Never less: the scheduler's own wake-up takes about that.
const LEAD_MIN: Span = Span::millis(2);
/// Never more: a task that is handed to its owner is harder to cancel.
const LEAD_MAX: Span = Span::millis(250);
/// So many commits are remembered.
const REMEMBERED: usize = 64;

/// Measures commits and says how far ahead to trigger.
#[derive(Default)]
pub(crate) struct Lead {
    took_us: Vec<u64>,
    next: usize,
}

impl Lead {
    /// Notes how long a trigger took from its proposal to its fold.
    pub(crate) fn note(&mut self, took: Duration) {
        let us = took.as_micros() as u64;
        match self.took_us.len() < REMEMBERED {
            true => self.took_us.push(us),
            false => self.took_us[self.next] = us,
        }
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// What is due within this span is to be triggered now.
    pub(crate) fn span(&self) -> Span {
        let mut sorted = self.took_us.clone();
        sorted.sort_unstable();
        let high = sorted
            .get(sorted.len().saturating_sub(1) * 19 / 20)
            .copied();
        // A margin of half, and the wake-up.
        let millis = high.map_or(20, |us| us * 3 / 2 / 1_000 + 2);
        Span(millis.clamp(LEAD_MIN.0, LEAD_MAX.0))
    }

    /// How far one trigger reaches: twice the lead, so that steady work costs one small entry
    /// per lead and not one per task.
    pub(crate) fn reach(&self) -> Span {
        let span = self.span();
        Span((span.0 * 2 + 4).min(LEAD_MAX.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_slow_commits_and_stays_in_bounds() {
        let mut lead = Lead::default();
        assert_eq!(lead.span(), Span(20));
        (0..100).for_each(|_| lead.note(Duration::from_micros(800)));
        assert_eq!(lead.span(), Span(3));
        (0..100).for_each(|_| lead.note(Duration::from_millis(40)));
        assert_eq!(lead.span(), Span(62));
        (0..100).for_each(|_| lead.note(Duration::from_secs(9)));
        assert_eq!((lead.span(), lead.reach()), (LEAD_MAX, LEAD_MAX));
    }
}
