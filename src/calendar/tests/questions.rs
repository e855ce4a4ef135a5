//! What-if: previews, forecasts, differences, moves.

use super::*;
use crate::model::Span;

#[test]
fn a_forecast_counts_each_second_once_for_each_plan() {
    let hourly = cron("0 * * * *", "UTC");
    let quarter = cron("*/15 * * * *", "UTC");
    let from = time("2027-01-01T00:00:00Z");
    let until = time("2027-01-02T00:00:00Z");
    let forecast = forecast([&hourly, &quarter, &quarter], from, until, 2);
    assert_eq!((forecast.until, forecast.occurrences), (until, 24 + 2 * 96));
    let expected = [(2, 72), (3, 24)];
    assert_eq!(forecast.histogram, expected.into_iter().collect());
    assert_eq!(
        forecast.busiest,
        [(from, 3), (time("2027-01-01T01:00:00Z"), 3)]
    );
}

#[test]
fn a_forecast_follows_the_jitter() {
    let spec = r#"{"crons":["0 0 * * *"],"jitter":"1h"}"#;
    let plans: Vec<Plan> = (0..200)
        .map(|n| Plan::parse(&format!("g.{n}"), &serde_json::from_str(spec).unwrap()).unwrap())
        .collect();
    let of = |from, until| forecast(&plans, time(from), time(until), 1_000);
    let whole = of("2027-01-01T00:00:00Z", "2027-01-02T00:00:00Z");
    assert_eq!(whole.occurrences, 200);
    assert!(whole.busiest[0].1 < 5, "{whole:?}");
    // Planned at midnight, fired after it.
    let late = of("2027-01-01T00:30:00Z", "2027-01-01T12:00:00Z");
    assert!((60..140).contains(&late.occurrences), "{late:?}");
}

#[test]
fn too_much_is_cut_at_an_instant_and_told() {
    let plan = cron("* * * * * ?", "UTC");
    let from = time("2027-01-01T00:00:00Z");
    let forecast = forecast([&plan; 10], from, time("2028-01-01T00:00:00Z"), 1);
    assert_eq!(forecast.occurrences, OCCURRENCES_ENUMERATED_MAX);
    assert_eq!(
        forecast.until,
        from.plus(Span::seconds(OCCURRENCES_ENUMERATED_MAX / 10))
    );
    assert_eq!(forecast.histogram, [(10, 100_000)].into_iter().collect());
    let count = plan.count_between(from, time("2028-01-01T00:00:00Z"));
    assert_eq!((count.n, count.exact), (OCCURRENCES_ENUMERATED_MAX, false));
}

#[test]
fn a_change_is_compared_with_the_past_and_the_future() {
    let old = cron("0 9 * * *", "Europe/Berlin");
    let new = cron("0 9,21 * * *", "Europe/London");
    let (from, until) = (time("2026-10-24T00:00:00Z"), time("2026-10-27T00:00:00Z"));
    let found = compare(&old, &new, from, until);
    assert_eq!(
        (found.same, found.only_old_count, found.only_new_count),
        (0, 3, 6)
    );
    assert_eq!(
        found.only_old[1..],
        [time("2026-10-25T08:00:00Z"), time("2026-10-26T08:00:00Z")]
    );
    assert_eq!(found.only_new[0], time("2026-10-24T08:00:00Z"));
    let same = compare(&old, &old, from, until);
    assert_eq!(
        (
            same.same,
            same.only_old_count,
            same.only_new_count,
            same.until
        ),
        (3, 0, 0, until)
    );
    let secondly = cron("* * * * * ?", "UTC");
    let much = compare(&old, &secondly, from, Time::MAX);
    assert!(
        much.until < time("2026-11-06T00:00:00Z") && much.only_new.len() == OCCURRENCES_LISTED_MAX
    );
}

#[test]
fn new_rules_of_a_zone_say_which_schedules_they_move() {
    let berlin = cron("0 9 * * *", "Europe/Berlin");
    let at_night = cron("30 2 * * *", "Europe/Berlin");
    let tokyo = cron("0 9 * * *", "Asia/Tokyo");
    let after = time("2027-03-01T00:00:00Z");
    let recorded = [&berlin, &at_night, &tokyo].map(|plan| plan.foresee(after, 60));
    assert_eq!(recorded[0].tz_version, tz_version());
    let json = serde_json::to_string(&recorded[0]).unwrap();
    assert_eq!(
        serde_json::from_str::<Foreseen>(&json).unwrap(),
        recorded[0]
    );
    let told = |plans: [&Plan; 3]| {
        let names = ["berlin", "at_night", "tokyo"];
        moved((0..3).map(|n| (names[n], &recorded[n], plans[n])))
    };
    assert_eq!(told([&berlin, &at_night, &tokyo]), []);
    // Summer time is abolished, and winter's stays.
    let abolished =
        || zone::Zone::with_rules("Europe/Berlin", jiff::tz::TimeZone::posix("CET-1").unwrap());
    let now = [
        berlin.clone().under(abolished()),
        at_night.clone().under(abolished()),
    ];
    let moves = told([&now[0], &now[1], &tokyo]);
    let names: Vec<&str> = moves.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["berlin", "at_night"]);
    assert_eq!(moves[0].was, Some(time("2027-03-28T07:00:00Z")));
    assert_eq!(moves[0].is, Some(time("2027-03-28T08:00:00Z")));
    assert_eq!(moves[0].gone, 33);
    // On that day 02:30 did not exist.
    assert_eq!(moves[1].was, Some(time("2027-03-29T00:30:00Z")));
    assert_eq!(moves[1].is, Some(time("2027-03-28T01:30:00Z")));
}

#[test]
fn a_preview_names_each_jump_that_touches() {
    let of = |expression: &str, dst: &str| {
        let spec = PlanSpec {
            dst: serde_json::from_str(dst).unwrap(),
            ..PlanSpec::cron(expression).in_zone("Europe/Berlin")
        };
        let jumps = preview(&plan(&spec), time("2027-01-01T00:00:00Z"), Span::days(365));
        let told = |j: &Jump| format!("{} {:?} {} {}", j.at, j.effect, j.count, j.times[0]);
        jumps.iter().map(told).collect::<Vec<_>>()
    };
    assert_eq!(of("0 9 * * *", "{}"), [""; 0]);
    assert_eq!(
        of("*/20 1-3 * * *", "{}"),
        [
            "2027-03-28T01:00:00.000Z Skipped 3 2027-03-28T02:00:00",
            "2027-10-31T01:00:00.000Z FiresOnce 3 2027-10-31T02:00:00"
        ]
    );
    assert_eq!(
        of("30 2 * * *", r#"{"gap":"after","overlap":"twice"}"#),
        [
            "2027-03-28T01:00:00.000Z MovedToEnd 1 2027-03-28T02:30:00",
            "2027-10-31T01:00:00.000Z FiresTwice 1 2027-10-31T02:30:00"
        ]
    );
    assert_eq!(
        of("0 * * * *", "{}"),
        ["2027-10-31T01:00:00.000Z FiresTwice 1 2027-10-31T02:00:00"]
    );
}
