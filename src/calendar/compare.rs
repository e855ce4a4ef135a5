//! What changes: between two plans, and between two versions of the time-zone data.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::iter::Peekable;

use super::plan::Plan;
use super::zone::tz_version;
use super::{OCCURRENCES_ENUMERATED_MAX, OCCURRENCES_LISTED_MAX};
use crate::model::Time;

/// What one plan has and the other has not, between two instants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub from: Time,
    /// Everything before this was compared; earlier than asked for when there was too much.
    pub until: Time,
    /// Occurrences that both have.
    pub same: u64,
    /// The first of those that only the old plan has.
    pub only_old: Vec<Time>,
    /// How many those are.
    pub only_old_count: u64,
    /// The first of those that only the new plan has.
    pub only_new: Vec<Time>,
    /// How many those are.
    pub only_new_count: u64,
}

/// Compares the occurrences of two plans from `from` until before `until`, `max_runs` and jitter
/// aside: a dry run of a change, against the future or the past.
///
/// Lists [`OCCURRENCES_LISTED_MAX`] of each kind, and ends after [`OCCURRENCES_ENUMERATED_MAX`]
/// occurrences.
///
/// ```
/// use horolog::calendar::{Plan, PlanSpec, compare};
/// use horolog::model::Time;
///
/// let old = Plan::parse("", &PlanSpec::cron("0 9 * * *"))?;
/// let new = Plan::parse("", &PlanSpec::cron("0 9 * * MON-FRI"))?;
/// let (from, until) = (Time::parse("2027-01-04T00:00:00Z")?, Time::parse("2027-01-11T00:00:00Z")?);
/// let difference = compare(&old, &new, from, until);
/// assert_eq!((difference.same, difference.only_old_count, difference.only_new_count), (5, 2, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn compare(old: &Plan, new: &Plan, from: Time, until: Time) -> Difference {
    let (mut olds, mut news) = (within(old, from, until), within(new, from, until));
    let mut found = Difference {
        from,
        until,
        same: 0,
        only_old: Vec::new(),
        only_old_count: 0,
        only_new: Vec::new(),
        only_new_count: 0,
    };
    let note = |at: Time, list: &mut Vec<Time>, count: &mut u64| {
        *count += 1;
        if list.len() < OCCURRENCES_LISTED_MAX {
            list.push(at);
        }
    };
    for step in 0.. {
        let (old, new) = (olds.peek().copied(), news.peek().copied());
        let order = match (old, new) {
            (None, None) => break,
            (Some(old), Some(new)) => old.cmp(&new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        if step == OCCURRENCES_ENUMERATED_MAX {
            found.until = old.into_iter().chain(new).min().unwrap_or(until);
            break;
        }
        match order {
            Ordering::Equal => {
                found.same += 1;
                olds.next();
                news.next();
            }
            Ordering::Less => {
                let at = olds.next().unwrap_or(from);
                note(at, &mut found.only_old, &mut found.only_old_count);
            }
            Ordering::Greater => {
                let at = news.next().unwrap_or(from);
                note(at, &mut found.only_new, &mut found.only_new_count);
            }
        }
    }
    found
}

fn within(plan: &Plan, from: Time, until: Time) -> Peekable<impl Iterator<Item = Time>> {
    let all = plan.since(from).without_limit();
    all.take_while(move |at| *at < until).peekable()
}

/// What a plan was going to do, under the time-zone data of then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Foreseen {
    pub tz_version: String,
    /// The first occurrences later than this…
    pub after: Time,
    /// … are these.
    pub next: Vec<Time>,
}

impl Plan {
    /// The next `n` occurrences (at most [`OCCURRENCES_LISTED_MAX`]) after an instant, to be held
    /// against what another release says.
    pub fn foresee(&self, after: Time, n: usize) -> Foreseen {
        let next = self.after(after).without_limit();
        Foreseen {
            tz_version: tz_version().to_owned(),
            after,
            next: next.take(n.min(OCCURRENCES_LISTED_MAX)).collect(),
        }
    }
}

/// A schedule whose occurrences are no longer where they were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Move {
    pub name: String,
    /// Under the version of the time-zone data that was recorded.
    pub tz_version: String,
    /// The first occurrence that differs: where it was…
    pub was: Option<Time>,
    /// … and where it is.
    pub is: Option<Time>,
    /// How many of those recorded are no occurrences any more.
    pub gone: usize,
}

/// Which plans do not do what was recorded of them: after an upgrade of the time-zone data, those
/// whose zone has new rules.
pub fn moved<'a>(
    recorded: impl IntoIterator<Item = (&'a str, &'a Foreseen, &'a Plan)>,
) -> Vec<Move> {
    let recorded = recorded.into_iter();
    let moves = recorded.filter_map(|(name, was, plan)| {
        let is = plan.foresee(was.after, was.next.len());
        let most = was.next.len().max(is.next.len());
        let first = (0..most).find(|n| was.next.get(*n) != is.next.get(*n))?;
        let kept = |at: &&Time| is.next.binary_search(at).is_ok();
        Some(Move {
            name: name.to_owned(),
            tz_version: was.tz_version.clone(),
            was: was.next.get(first).copied(),
            is: is.next.get(first).copied(),
            gone: was.next.len() - was.next.iter().filter(kept).count(),
        })
    });
    moves.collect()
}
