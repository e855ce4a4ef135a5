//! Which seconds of the next days will be crowded.

use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::plan::{Occurrences, Plan};
use super::{OCCURRENCES_ENUMERATED_MAX, OCCURRENCES_LISTED_MAX};
use crate::model::{Span, Time};

/// How many occurrences fall into each second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forecast {
    pub from: Time,
    /// Everything that fires before this is counted. Earlier than asked for when there was too
    /// much to enumerate.
    pub until: Time,
    pub occurrences: u64,
    /// The most crowded seconds with their occurrences, the most crowded first.
    pub busiest: Vec<(Time, u64)>,
    /// How many seconds have so many occurrences; those with none are left out.
    pub histogram: BTreeMap<u64, u64>,
}

/// Counts what fires from `from` until before `until`, jitter included, over all plans.
///
/// Plans are merged in order of time and the work ends after [`OCCURRENCES_ENUMERATED_MAX`]
/// occurrences, so that the answer is whole up to the instant that it names. `busiest` lists so
/// many seconds, at most [`OCCURRENCES_LISTED_MAX`].
pub fn forecast<'a>(
    plans: impl IntoIterator<Item = &'a Plan>,
    from: Time,
    until: Time,
    busiest: usize,
) -> Forecast {
    let mut heap: BinaryHeap<Reverse<(Time, usize)>> = BinaryHeap::new();
    let mut runs: Vec<(&Plan, Occurrences<'a>)> = Vec::new();
    for plan in plans {
        // What was planned before may fire within.
        let early = Time(from.0.saturating_sub(plan.jitter().0));
        let mut run = plan.since(early).without_limit();
        heap.extend(run.next().map(|at| Reverse((at, runs.len()))));
        runs.push((plan, run));
    }
    let mut seconds: BTreeMap<u64, u64> = BTreeMap::new();
    let mut enumerated = 0;
    let mut whole = until;
    while let Some(Reverse((planned, n))) = heap.pop() {
        if planned >= until {
            break;
        }
        if enumerated == OCCURRENCES_ENUMERATED_MAX {
            // Up to the second that this one falls into.
            whole = Time(planned.0 / 1_000 * 1_000);
            break;
        }
        enumerated += 1;
        let (plan, run) = &mut runs[n];
        let fires = plan.fires_at(planned);
        if fires >= from && fires < until {
            *seconds.entry(fires.0 / 1_000).or_default() += 1;
        }
        heap.extend(run.next().map(|at| Reverse((at, n))));
    }
    seconds.retain(|second, _| second * 1_000 < whole.0);
    summed(from, whole.max(from), &seconds, busiest)
}

fn summed(from: Time, until: Time, seconds: &BTreeMap<u64, u64>, busiest: usize) -> Forecast {
    let mut histogram = BTreeMap::new();
    for count in seconds.values() {
        *histogram.entry(*count).or_default() += 1;
    }
    let mut crowded: Vec<_> = seconds.iter().map(|(at, n)| (Reverse(*n), *at)).collect();
    crowded.sort_unstable();
    crowded.truncate(busiest.min(OCCURRENCES_LISTED_MAX));
    Forecast {
        from,
        until,
        occurrences: seconds.values().sum(),
        busiest: (crowded.into_iter())
            .map(|(Reverse(n), at)| (Time::default().plus(Span::seconds(at)), n))
            .collect(),
        histogram,
    }
}
