//! How far ahead of its instant a task is triggered.
//!
//! The trigger is committed shortly before the instant and the dispatch held until it, so that
//! replication adds nothing to lateness. Each node measures how long triggers take from their
//! proposal, by the leader's wall clock, until it has folded them, by its own: that is the time by
//! which its tasks would be late. Owners report a high percentile of that, and the lead of all is
//! that of the slowest.

use std::time::Duration;

use crate::model::Span;

/// Never less: the scheduler's own wake-up takes about that.
const LEAD_MIN: Span = Span::millis(2);
/// Never more: a task that is handed to its owner is harder to cancel.
pub(super) const LEAD_MAX: Span = Span::millis(250);
/// As long as nobody has measured anything.
const LEAD_FIRST: Span = Span::millis(20);
/// So many triggers are remembered.
const REMEMBERED: usize = 64;

/// What one node has measured.
#[derive(Default)]
pub(crate) struct Lead {
    took_us: Vec<u64>,
    next: usize,
}

impl Lead {
    /// Notes how long a trigger took.
    pub(crate) fn note(&mut self, took: Duration) {
        let us = took.as_micros() as u64;
        match self.took_us.len() < REMEMBERED {
            true => self.took_us.push(us),
            false => self.took_us[self.next] = us,
        }
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// The time within which 95 of 100 came, µs; zero: nothing was measured.
    pub(crate) fn high_us(&self) -> u32 {
        let mut sorted = self.took_us.clone();
        sorted.sort_unstable();
        let high = sorted.get(sorted.len().saturating_sub(1) * 19 / 20);
        high.map_or(0, |us| (*us).clamp(1, u64::from(u32::MAX)) as u32)
    }
}

/// What is due within this span is to be triggered now, when the slowest owner needs so many µs.
pub(crate) fn span(slowest_us: u32) -> Span {
    // A margin of half, and the wake-up.
    let millis = u64::from(slowest_us) * 3 / 2 / 1_000 + 2;
    match slowest_us {
        0 => LEAD_FIRST,
        _ => Span(millis.clamp(LEAD_MIN.0, LEAD_MAX.0)),
    }
}

/// How far one trigger reaches: twice the lead, so that steady work costs one small entry per lead
/// and not one per task.
pub(crate) fn reach(span: Span) -> Span {
    Span((span.0 * 2 + 4).min(LEAD_MAX.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_slow_triggers_and_stays_in_bounds() {
        let mut lead = Lead::default();
        assert_eq!(span(lead.high_us()), Span(20));
        (0..100).for_each(|_| lead.note(Duration::from_micros(800)));
        assert_eq!(span(lead.high_us()), Span(3));
        (0..100).for_each(|_| lead.note(Duration::from_millis(40)));
        assert_eq!(span(lead.high_us()), Span(62));
        (0..100).for_each(|_| lead.note(Duration::from_secs(9)));
        let longest = span(lead.high_us());
        assert_eq!((longest, reach(longest)), (LEAD_MAX, LEAD_MAX));
    }

    #[test]
    fn one_straggler_does_not_make_all_early() {
        let mut lead = Lead::default();
        (0..63).for_each(|_| lead.note(Duration::from_millis(2)));
        lead.note(Duration::from_secs(1));
        assert_eq!(lead.high_us(), 2_000);
    }
}
