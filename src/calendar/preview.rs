//! What the jumps of the wall clock do to a plan.

use serde::Serialize;

use super::OCCURRENCES_LISTED_MAX;
use super::cron::{Cron, Wall, civil};
use super::plan::{Plan, Rule};
use super::zone::{Gap, Overlap, Stretch};
use crate::model::{Span, Time};

/// Times on the wall that a [`Jump`] shows; the rest is counted.
const TIMES_SHOWN: usize = 4;

/// What a jump does to the times that it leaves out or shows twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Left out by the clock; nothing fires for them.
    Skipped,
    /// Left out by the clock; together they fire once, at the end of the gap.
    MovedToEnd,
    /// Shown twice; they fire the first time.
    FiresOnce,
    /// Shown twice; they fire both times.
    FiresTwice,
}

/// A change of the zone's offset that touches an expression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Jump {
    /// The instant of the change.
    pub at: Time,
    /// The member of the plan that it touches, such as `crons[0]`.
    pub member: String,
    pub effect: Effect,
    /// What the wall clock leaves out, or shows twice, begins with this time…
    pub wall_from: String,
    /// … and ends before this one.
    pub wall_to: String,
    /// How many times of the expression lie there.
    pub count: usize,
    /// The first of them.
    pub times: Vec<String>,
}

/// The jumps of the wall clock within `span` after an instant that touch a plan, at most
/// [`OCCURRENCES_LISTED_MAX`].
///
/// ```
/// use horolog::calendar::{Effect, Plan, PlanSpec, preview};
/// use horolog::model::{Span, Time};
///
/// let plan = Plan::parse("", &PlanSpec::cron("30 2 * * *").in_zone("Europe/Berlin"))?;
/// let jumps = preview(&plan, Time::parse("2027-01-01T00:00:00Z")?, Span::days(365));
/// assert_eq!(jumps[0].times, ["2027-03-28T02:30:00"]);
/// assert_eq!(jumps[0].effect, Effect::Skipped);
/// assert_eq!(jumps[1].effect, Effect::FiresOnce);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn preview(plan: &Plan, from: Time, span: Span) -> Vec<Jump> {
    let mut jumps = Vec::new();
    let until = (from.plus(span).0 / 1_000) as i64;
    let mut second = plan.zone.stretch((from.0 / 1_000) as i64).end;
    while second < until && jumps.len() < OCCURRENCES_LISTED_MAX {
        let stretch = plan.zone.stretch(second);
        for (member, rule) in &plan.rules {
            if let Rule::Cron(cron) = rule {
                jumps.extend(touched(plan, member, cron, &stretch));
            }
        }
        second = stretch.end;
    }
    jumps.truncate(OCCURRENCES_LISTED_MAX);
    jumps
}

/// What the beginning of a stretch does to one expression.
fn touched(plan: &Plan, member: &str, cron: &Cron, stretch: &Stretch) -> Option<Jump> {
    let named = !cron.goes_through_all_hours();
    let ((from, to), effect) = match (stretch.gap(), stretch.overlap()) {
        // What goes on through all hours misses nothing that it would notice.
        (Some(_), _) if !named => return None,
        (Some(gap), _) => match plan.dst.gap {
            Gap::Skip => (gap, Effect::Skipped),
            Gap::After => (gap, Effect::MovedToEnd),
        },
        (_, Some(overlap)) => match plan.dst.overlap {
            Overlap::Once if named => (overlap, Effect::FiresOnce),
            _ => (overlap, Effect::FiresTwice),
        },
        (None, None) => return None,
    };
    let mut times = Vec::new();
    let mut count = 0;
    let mut next = cron.at_or_after(from, &plan.free);
    while let Some(wall) = next.filter(|wall| *wall < to) {
        count += 1;
        if times.len() < TIMES_SHOWN {
            times.push(written(wall));
        }
        next = cron.at_or_after(wall + 1, &plan.free);
    }
    (count > 0).then(|| Jump {
        at: Time((stretch.start * 1_000) as u64),
        member: member.to_owned(),
        effect,
        wall_from: written(from),
        wall_to: written(to),
        count,
        times,
    })
}

fn written(wall: Wall) -> String {
    civil(wall).map_or_else(String::new, |shown| shown.to_string())
}
