//! A fixed distance between instants, by elapsed time: no zone, no drift.

use super::error::PlanError;
use super::{EVERY_MIN, spread};
use crate::model::Span;

/// `90s`, `90s phase 10s`, `90s phase H`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Every {
    period: i64,
    /// Milliseconds after the anchor, less than a period.
    phase: i64,
    /// What periods are counted from: the plan's start, or 1970-01-01T00:00:00Z.
    anchor: i64,
}

impl Every {
    pub fn parse(member: &str, text: &str, owner: &str, anchor: i64) -> Result<Every, PlanError> {
        let wrong = |found: &str| {
            let allowed = "a period such as 90s, with a phase if need be: 90s phase 10s";
            PlanError::of(member, found, allowed)
        };
        let mut words = text.split_whitespace();
        let period = words.next().ok_or_else(|| wrong(text))?;
        let period = Span::parse(period).map_err(|_| wrong(period))?;
        if period < EVERY_MIN {
            let allowed = format!("a period of at least {EVERY_MIN}");
            return Err(PlanError::of(member, period, allowed));
        }
        let phase = match (words.next(), words.next(), words.next()) {
            (None, ..) => 0,
            (Some("phase"), Some("H" | "h"), None) if owner.is_empty() => {
                let allowed = "no H: it is drawn from the schedule's name, and there is none";
                return Err(PlanError::of(member, text, allowed));
            }
            (Some("phase"), Some("H" | "h"), None) => spread::draw(owner, "every", period.0),
            (Some("phase"), Some(phase), None) => {
                let phase = Span::parse(phase).map_err(|_| wrong(phase))?;
                if phase >= period {
                    let allowed = format!("a phase shorter than the period of {period}");
                    return Err(PlanError::of(member, phase, allowed));
                }
                phase.0
            }
            _ => return Err(wrong(text)),
        };
        Ok(Every {
            period: period.0 as i64,
            phase: phase as i64,
            anchor,
        })
    }

    /// The first instant at or after one, in milliseconds.
    pub fn at_or_after(&self, from: i64) -> i64 {
        let first = self.anchor + self.phase;
        let behind = (first - from).rem_euclid(self.period);
        from.saturating_add(behind)
    }
}
