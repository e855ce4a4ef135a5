//! Against a brute-force oracle: it goes from minute to minute, asks what the wall clock shows, and
//! looks whether that is in the sets from which the expression was written. It shares no line with
//! the evaluator, and neither parses nor searches.

use super::*;
use crate::thorough::cases;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// An expression as sets; an empty one is `*`.
#[derive(Clone, Debug)]
struct Sets {
    minutes: BTreeSet<i8>,
    hours: BTreeSet<i8>,
    days: BTreeSet<i8>,
    months: BTreeSet<i8>,
    /// 0 is Sunday.
    weekdays: BTreeSet<i8>,
}

fn listed(set: &BTreeSet<i8>) -> String {
    match set.is_empty() {
        true => "*".to_owned(),
        false => set.iter().map(i8::to_string).collect::<Vec<_>>().join(","),
    }
}

impl Sets {
    fn expression(&self) -> String {
        let sets = [
            &self.minutes,
            &self.hours,
            &self.days,
            &self.months,
            &self.weekdays,
        ];
        sets.map(listed).join(" ")
    }

    fn has(&self, shown: DateTime) -> bool {
        let within = |set: &BTreeSet<i8>, value| set.is_empty() || set.contains(&value);
        let day = within(&self.days, shown.day());
        let weekday = within(&self.weekdays, shown.weekday().to_sunday_zero_offset());
        let either = match self.days.is_empty() || self.weekdays.is_empty() {
            true => day && weekday,
            false => day || weekday,
        };
        either
            && shown.second() == 0
            && within(&self.minutes, shown.minute())
            && within(&self.hours, shown.hour())
            && within(&self.months, shown.month())
    }
}

/// What fires from one instant until before another, both whole half minutes: no zone has had an
/// offset of another kind since 1970.
fn walk(sets: &Sets, tz: &TimeZone, dst: Dst, from: i64, until: i64) -> Vec<i64> {
    const STEP: i64 = 30;
    /// What was shown longer ago than this is not shown again, by any zone since 1970.
    const MEMORY: i64 = 4 * 3_600 / STEP;
    let goes_on = sets.hours.is_empty() || sets.hours.len() == 24;
    let shown = |second| tz.to_datetime(Timestamp::from_second(second).unwrap());
    let mut seen = BTreeSet::new();
    let mut fired = Vec::new();
    let mut last = shown(from - MEMORY * STEP - STEP);
    for second in (from - MEMORY * STEP..until).step_by(STEP as usize) {
        let now = shown(second);
        let expected = last + jiff::SignedDuration::from_secs(STEP);
        let mut fires = false;
        if now > expected && dst.gap == Gap::After && !goes_on {
            let mut left_out = expected;
            while left_out < now {
                fires |= sets.has(left_out);
                left_out += jiff::SignedDuration::from_secs(STEP);
            }
        }
        if sets.has(now) {
            fires |= goes_on || dst.overlap == Overlap::Twice || !seen.contains(&now);
            seen.insert(now);
        }
        if fires && second >= from {
            fired.push(second);
        }
        last = now;
    }
    fired
}

fn some(low: i8, high: i8, most: usize) -> impl Strategy<Value = BTreeSet<i8>> {
    prop::collection::btree_set(low..=high, 1..=most)
}

fn or_all(
    set: impl Strategy<Value = BTreeSet<i8>>,
    weight: u32,
) -> impl Strategy<Value = BTreeSet<i8>> {
    prop_oneof![weight => Just(BTreeSet::new()), 1 => set]
}

fn sets() -> impl Strategy<Value = Sets> {
    let minutes =
        prop_oneof![2 => Just([0].into()), 2 => Just([0, 30].into()), 3 => some(0, 59, 4)];
    // Clocks jump at night.
    let hours = prop_oneof![2 => Just(BTreeSet::new()), 4 => some(0, 3, 3), 2 => some(0, 23, 8)];
    let days = or_all(some(1, 31, 8), 3);
    let weekdays = or_all(some(0, 6, 4), 3);
    (minutes, hours, days, or_all(some(1, 12, 9), 5), weekdays).prop_map(
        |(minutes, hours, days, months, weekdays)| Sets {
            minutes,
            hours,
            days,
            months,
            weekdays,
        },
    )
}

fn dst() -> impl Strategy<Value = Dst> {
    let gap = prop::sample::select(vec![Gap::Skip, Gap::After]);
    let overlap = prop::sample::select(vec![Overlap::Once, Overlap::Twice]);
    (gap, overlap).prop_map(|(gap, overlap)| Dst { gap, overlap })
}

/// A day around a jump of the zone between 1970 and 2100, or anywhere if there are none.
fn window(tz: &TimeZone, pick: u64) -> (i64, i64) {
    const FIRST: i64 = 2 * 86_400;
    const LAST: i64 = 4_102_444_800 - 3 * 86_400;
    let anywhere = FIRST + (pick % (LAST - FIRST) as u64) as i64;
    let after = Timestamp::from_second(anywhere).unwrap();
    let jump = tz
        .following(after)
        .next()
        .or_else(|| tz.preceding(after).next());
    let jump = jump.map(|jump| jump.timestamp().as_second());
    let middle = jump
        .filter(|at| (FIRST..LAST).contains(at))
        .unwrap_or(anywhere);
    let from = (middle - 10 * 3_600 - (pick % 3_600) as i64).div_euclid(60) * 60;
    (from, from + 86_400)
}

fn check(zone: &str, sets: &Sets, dst: Dst, pick: u64) -> Result<(), TestCaseError> {
    let tz = jiff::tz::TimeZoneDatabase::bundled().get(zone).unwrap();
    let (from, until) = window(&tz, pick);
    let expression = sets.expression();
    let spec = PlanSpec {
        dst,
        ..PlanSpec::cron(&expression).in_zone(zone)
    };
    let Ok(plan) = Plan::parse("", &spec) else {
        // Such as the 31st of February.
        return Ok(());
    };
    let expected = walk(sets, &tz, dst, from, until);
    let within = plan.since(Time(from as u64 * 1_000));
    let found: Vec<i64> = within
        .take_while(|at| at.0 < until as u64 * 1_000)
        .map(|at| (at.0 / 1_000) as i64)
        .collect();
    let place = format!("{expression} in {zone}, {dst:?}, {from}..{until}");
    prop_assert_eq!(&found, &expected, "{}", place);
    // Asked one by one, from anywhere, it says the same; and it rises.
    let mut at = Time(from as u64 * 1_000 - 1);
    for second in expected {
        let next = plan.next_after(at).unwrap();
        prop_assert!(next > at);
        prop_assert_eq!(next.0, second as u64 * 1_000, "{}", place);
        at = next;
    }
    Ok(())
}

/// Every zone once in the usual run, each at another jump with another expression and policy.
#[test]
fn all_zones_agree_with_a_walk_over_every_minute() {
    let zones = zone_names();
    assert!(zones.len() > 500, "{}", zones.len());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..cases(zones.len() as u32)
    });
    let turn = std::cell::Cell::new(0);
    let drawn = (sets(), dst(), any::<u64>());
    let result = runner.run(&drawn, |(sets, dst, pick)| {
        let zone = &zones[turn.get() % zones.len()];
        turn.set(turn.get() + 1);
        check(zone, &sets, dst, pick)
    });
    result.unwrap();
}

/// The oracle can tell: with the other policy it differs.
#[test]
fn the_oracle_notices_the_wrong_policy() {
    let sets = Sets {
        minutes: [30].into(),
        hours: [2].into(),
        days: BTreeSet::new(),
        months: BTreeSet::new(),
        weekdays: BTreeSet::new(),
    };
    let berlin = jiff::tz::TimeZoneDatabase::bundled()
        .get("Europe/Berlin")
        .unwrap();
    let autumn = (time("2027-10-30T12:00:00Z").0 / 1_000) as i64;
    let spring = (time("2027-03-27T12:00:00Z").0 / 1_000) as i64;
    let count = |from, gap, overlap| {
        let dst = Dst { gap, overlap };
        walk(&sets, &berlin, dst, from, from + 86_400).len()
    };
    assert_eq!(count(autumn, Gap::Skip, Overlap::Once), 1);
    assert_eq!(count(autumn, Gap::Skip, Overlap::Twice), 2);
    assert_eq!(count(spring, Gap::Skip, Overlap::Once), 0);
    assert_eq!(count(spring, Gap::After, Overlap::Once), 1);
}
