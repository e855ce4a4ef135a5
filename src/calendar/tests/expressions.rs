//! What expressions mean, and how they are refused.

use super::*;

/// The next times in UTC, without the seconds if they are 0.
fn utc(expression: &str, after: &str, n: usize) -> Vec<String> {
    let times = next(&cron(expression, "UTC"), after, n);
    let short = times.iter().map(|time| {
        let time = time.trim_end_matches("+00:00");
        time.strip_suffix(":00").unwrap_or(time).to_owned()
    });
    short.collect()
}

/// Every example of Quartz's page on CronTrigger, of its lesson on the same, and of the notes on
/// CronExpression; with what they say in words, as times.
#[test]
fn every_example_of_quartz() {
    let fixture = include_str!("fixtures/quartz.txt");
    let mut count = 0;
    for line in fixture.lines().filter(|line| !line.starts_with('#')) {
        let parts: Vec<&str> = line.split(" = ").collect();
        let [expression, after, expected] = parts[..] else {
            panic!("{line}");
        };
        let expected: Vec<&str> = expected.split_whitespace().collect();
        let times = utc(expression, &format!("{after}:00Z"), expected.len());
        assert_eq!(times, expected, "{line}");
        count += 1;
    }
    assert!(count > 25, "{count}");
}

#[test]
fn days_of_the_month() {
    let of = |days: &str, expected: [&str; 4]| {
        let times = utc(&format!("0 0 0 {days} * ?"), "2026-12-31T12:00:00Z", 4);
        let dates = times.iter().map(|time| &time[5..10]);
        assert_eq!(dates.collect::<Vec<_>>(), expected, "{days}");
    };
    of("L", ["01-31", "02-28", "03-31", "04-30"]);
    of("L-3", ["01-28", "02-25", "03-28", "04-27"]);
    of("L-29", ["01-02", "03-02", "04-01", "05-02"]);
    of("L-30", ["01-01", "03-01", "05-01", "07-01"]);
    // 31 January and 28 February 2027 are Sundays.
    of("LW", ["01-29", "02-26", "03-31", "04-30"]);
    of("L-2W", ["01-29", "02-26", "03-29", "04-28"]);
    of("1W", ["01-01", "02-01", "03-01", "04-01"]);
    of("2W", ["01-01", "02-02", "03-02", "04-02"]);
    of("31W", ["01-29", "03-31", "05-31", "07-30"]);
    of("15W", ["01-15", "02-15", "03-15", "04-15"]);
    of("15W,L,3", ["01-03", "01-15", "01-31", "02-03"]);
    of("30-2", ["01-01", "01-02", "01-30", "01-31"]);
    of("28/2", ["01-28", "01-30", "02-28", "03-28"]);
    // A first that is a Saturday moves to Monday the third, and not into the month before.
    assert_eq!(
        utc("0 0 0 1W 5 ?", "2027-01-01T00:00:00Z", 1),
        ["2027-05-03T00:00"]
    );
}

#[test]
fn days_of_the_week() {
    // 2027-01-01 is a Friday.
    let of = |expression: &str, expected: [&str; 4]| {
        let times = utc(expression, "2026-12-31T12:00:00Z", 4);
        let dates = times.iter().map(|time| &time[5..10]);
        assert_eq!(dates.collect::<Vec<_>>(), expected, "{expression}");
    };
    for same in [
        "0 0 * * 5",
        "0 0 * * FRI",
        "0 0 0 ? * 6",
        "0 0 0 * * fri",
        "0 0 0 ? * FRI *",
    ] {
        of(same, ["01-01", "01-08", "01-15", "01-22"]);
    }
    for same in [
        "0 0 * * 0",
        "0 0 * * 7",
        "0 0 0 ? * 1",
        "@weekly",
        "0 0 ? * SUN",
    ] {
        of(same, ["01-03", "01-10", "01-17", "01-24"]);
    }
    for same in [
        "0 0 * * FRI-MON",
        "0 0 * * 5-1",
        "0 0 0 ? * 6-2",
        "0 0 * * 5-7,1",
        "0 0 * * 5-8/1",
    ] {
        if same.contains('8') {
            assert!(refusal(same).contains("day-of-week"));
        } else {
            of(same, ["01-01", "01-02", "01-03", "01-04"]);
        }
    }
    of("0 0 * * FRI-MON/2", ["01-01", "01-03", "01-08", "01-10"]);
    of("0 0 0 ? * FRI#2", ["01-08", "02-12", "03-12", "04-09"]);
    of("0 0 * * 5#5", ["01-29", "04-30", "07-30", "10-29"]);
    of("0 0 0 ? * 6L", ["01-29", "02-26", "03-26", "04-30"]);
    of("0 0 * * 5L", ["01-29", "02-26", "03-26", "04-30"]);
    of("0 0 0 ? * L", ["01-02", "01-09", "01-16", "01-23"]);
}

#[test]
fn unix_takes_either_day_and_quartz_refuses_both() {
    // The 13th, or a Friday.
    assert_eq!(
        utc("0 0 13 * FRI", "2027-01-05T00:00:00Z", 3),
        ["2027-01-08T00:00", "2027-01-13T00:00", "2027-01-15T00:00"]
    );
    for same in ["0 0 13 * *", "0 0 13 * ?", "0 0 13 * */1"] {
        let times = utc(same, "2027-01-05T00:00:00Z", 2);
        assert_eq!(times, ["2027-01-13T00:00", "2027-02-13T00:00"], "{same}");
    }
    // What is written as a restriction counts as one.
    let times = utc("0 0 13 * 0-6", "2027-01-05T00:00:00Z", 2);
    assert_eq!(times, ["2027-01-06T00:00", "2027-01-07T00:00"]);
    assert!(refusal("0 0 0 1-31 * FRI").contains("or ? there"));
    assert_eq!(
        refusal("0 0 0 13 * FRI"),
        "crons[0], day-of-week field, column 12: found \"FRI\"; \
         allowed is ? when day-of-month is restricted, or ? there"
    );
    assert!(refusal("0 0 0 ? * ?").contains("day-of-month is ? already"));
}

#[test]
fn steps_ranges_and_years() {
    let at = "2026-12-31T23:00:00Z";
    assert_eq!(
        utc("0 0 22-2/2 * * ?", at, 4),
        [
            "2027-01-01T00:00",
            "2027-01-01T02:00",
            "2027-01-01T22:00",
            "2027-01-02T00:00"
        ]
    );
    for same in [
        "0 50/5 * * * ?",
        "0 50-59/5 * * * ?",
        "50,55 * * * *",
        "0 50,55/50 * * * *",
    ] {
        assert_eq!(
            utc(same, at, 3),
            ["2026-12-31T23:50", "2026-12-31T23:55", "2027-01-01T00:50"],
            "{same}"
        );
    }
    assert_eq!(utc("0 0 0 ? NOV-FEB 1 2030", at, 1), ["2030-01-06T00:00"]);
    assert_eq!(
        utc("0 0 0 1 1 ? 2030/30", at, 4),
        ["2030-01-01T00:00", "2060-01-01T00:00", "2090-01-01T00:00"]
    );
    assert_eq!(utc("59 59 23 31 12 ? 2099", at, 2), ["2099-12-31T23:59:59"]);
    assert_eq!(
        utc("0 0 29 2 MON", "2096-02-28T12:00:00Z", 1),
        ["2096-02-29T00:00"]
    );
    // A leap day on a Monday comes every 28 years.
    assert_eq!(
        utc("0 0 0 ? 2 MON#5", "2024-03-01T00:00:00Z", 3),
        ["2044-02-29T00:00", "2072-02-29T00:00"]
    );
}

#[test]
fn what_cannot_be_is_refused_and_told() {
    for (bad, told) in [
        ("", "'', 0 fields"),
        ("* * * *", "'* * * *', 4 fields"),
        ("* * * * * * * *", "8 fields"),
        (
            "60 * * * *",
            "minute field, column 1: found \"60\"; allowed is 0-59",
        ),
        (
            "* 24 * * *",
            "hour field, column 3: found \"24\"; allowed is 0-23",
        ),
        (
            "* *  1,32 * *",
            "day-of-month field, column 8: found \"32\"; allowed is 1-31",
        ),
        (
            "* * 0 * *",
            "day-of-month field, column 5: found \"0\"; allowed is 1-31",
        ),
        (
            "* * * 13 *",
            "month field, column 7: found \"13\"; allowed is 1-12 or JAN-DEC",
        ),
        ("* * * FOO *", "found \"FOO\"; allowed is 1-12 or JAN-DEC"),
        (
            "* * * * 8",
            "day-of-week field, column 9: found \"8\"; allowed is 0-7 or SUN-SAT",
        ),
        (
            "* * * ? * 0",
            "day-of-week field, column 11: found \"0\"; allowed is 1-7 or SUN-SAT",
        ),
        (
            "* * * * ? *",
            "month field, column 9: found \"?\"; allowed is 1-12 or JAN-DEC",
        ),
        (
            "*/0 * * * *",
            "minute field, column 3: found \"0\"; allowed is a number from 1 to 59",
        ),
        (
            "*/60 * * * *",
            "found \"60\"; allowed is a number from 1 to 59",
        ),
        ("1-2-3 * * * *", "found \"2-3\"; allowed is 0-59"),
        (
            "1,,2 * * * *",
            "minute field, column 3: found \"\"; allowed is 0-59",
        ),
        ("*-5 * * * *", "found \"*\""),
        ("+5 * * * *", "found \"+5\""),
        ("٣ * * * *", "found \"٣\""),
        ("é * * 40 *", "found \"é\""),
        (
            "* * W * *",
            "day-of-month field, column 5: found \"W\"; allowed is a day before the W",
        ),
        ("* * 32W * *", "a day before the W"),
        (
            "* * L-31 * *",
            "column 7: found \"31\"; allowed is a number from 0 to 30",
        ),
        ("* * L3 * *", "L, L-3, LW or L-3W"),
        (
            "* * * * MON#6",
            "column 13: found \"6\"; allowed is a number from 1 to 5",
        ),
        ("* * * * L", "a day before the L"),
        ("* * * * MON-FRI#2", "day-of-week field"),
        ("* * * * 1,*#2", "found \"*\""),
        (
            "0 0 0 1 1 ? 1969",
            "year field, column 13: found \"1969\"; allowed is 1970-2099",
        ),
        ("0 0 0 1 1 ? 2030-2020", "years do not wrap"),
        ("0 0 30 2 *", "\"0 0 30 2 *\"; allowed is a day that exists"),
        ("0 0 0 L-30 2 ?", "a day that exists"),
        ("0 0 0 29 2 ? 2027", "a day that exists"),
        ("0 0 31W 4,6,9,11 *", "a day that exists"),
        ("@often", "@hourly, @daily, @midnight"),
        ("@every", "@every 90s, or 5 to 7 fields"),
        (
            "@every 10",
            "crons[0]: found \"10ms\"; allowed is a period of at least 1s",
        ),
        (
            "@every 1h phase 1h",
            "found \"1h\"; allowed is a phase shorter than the period of 1h",
        ),
        ("@every 1h at 3", "a period such as 90s"),
        ("@every soon", "found \"soon\""),
        ("H(5-1) * * * *", "a not above b"),
        ("H(5) * * * *", "minute field"),
        ("HH * * * *", "H, H/step, H(a-b) or H(a-b)/step"),
        ("0 0 0 1 1 ? H", "allowed is 1970-2099"),
    ] {
        let refusal = refusal(bad);
        assert!(refusal.contains(told), "{bad}: {refusal}");
    }
    let long = vec!["1"; 300].join(",") + " * * * *";
    assert!(refusal(&long).contains("at most 512 bytes"));
}

#[test]
fn every_member_is_checked() {
    let refused = |json: &str| {
        let spec = serde_json::from_str::<PlanSpec>(json).map_err(|e| e.to_string());
        spec.and_then(|spec| Plan::parse("", &spec).map_err(|e| e.to_string()))
            .expect_err(json)
    };
    for (json, told) in [
        (
            "{}",
            "plan: found \"none of them\"; allowed is at least one of crons, every and at",
        ),
        (r#"{"cron":"* * * * *"}"#, "unknown field `cron`"),
        (
            r#"{"crons":["0 0 * * *"],"zone":"Europe/Berln"}"#,
            "zone: found \"Europe/Berln\"",
        ),
        (r#"{"crons":["0 0 * * *"],"zone":"local"}"#, "zone: "),
        (
            r#"{"crons":["0 0 * * *"],"dst":{"gap":"maybe"}}"#,
            "unknown variant `maybe`, expected `skip` or `after`",
        ),
        (
            r#"{"crons":["0 0 * * *"],"exclude":{"dates":["2027-02-30"]}}"#,
            "exclude.dates[0]: found \"2027-02-30\"",
        ),
        (
            r#"{"crons":["0 0 * * *"],"exclude":{"dates":["xx-zz"]}}"#,
            "or 12-25 for every year",
        ),
        (
            r#"{"crons":["0 0 * * *"],"exclude":{"weekdays":["SAT","x"]}}"#,
            "exclude.weekdays[1]",
        ),
        (
            r#"{"crons":["0 0 * * MON"],"exclude":{"weekdays":["MON"]}}"#,
            "crons[0]: found \"what never fires\"",
        ),
        (
            r#"{"every":"7d phase 4d","exclude":{"weekdays":["MON"]}}"#,
            "every: found \"what never fires\"",
        ),
        (
            r#"{"at":"2027-01-01T00:00:00Z","exclude":{"dates":["01-01"]}}"#,
            "at: found",
        ),
        (
            r#"{"crons":["0 0 1 1 *"],"start":"2027-01-02T00:00:00Z","end":"2027-12-31T00:00:00Z"}"#,
            "never fires",
        ),
        (
            r#"{"every":"1h","start":"2027-01-02T00:00:00Z","end":"2027-01-02T00:00:00Z"}"#,
            "end: ",
        ),
        (r#"{"every":"1h","max_runs":0}"#, "max_runs"),
        (
            r#"{"every":"1h","jitter":"25h"}"#,
            "jitter: found \"1d1h\"; allowed is at most 1d",
        ),
        (
            r#"{"crons":["H * * * *"]}"#,
            "no H: it is drawn from the schedule's name",
        ),
        (
            r#"{"every":"1h phase H"}"#,
            "no H: it is drawn from the schedule's name",
        ),
        // Only a gap would show this time.
        (
            r#"{"crons":["0 30 2 28 3 ? 2027"],"zone":"Europe/Berlin"}"#,
            "never fires",
        ),
    ] {
        let refused = refused(json);
        assert!(refused.contains(told), "{json}: {refused}");
    }
    let spec: PlanSpec = serde_json::from_str(r#"{"crons":["0 0 * * *"]}"#).unwrap();
    assert_eq!(
        serde_json::to_string(&spec).unwrap(),
        r#"{"crons":["0 0 * * *"],"zone":"UTC","dst":{"gap":"skip","overlap":"once"},"exclude":{}}"#
    );
}

/// What is refused is refused at once, and nothing searches for long.
#[test]
fn rare_and_impossible_expressions_cost_little() {
    let steps = |expression: &str, zone: &str| {
        let spec = PlanSpec::cron(expression).in_zone(zone);
        Plan::parse("", &spec)
            .is_ok_and(|plan| plan.next_after(time("2000-01-01T00:00:00Z")).is_some())
    };
    // A thousand of each would take minutes if they searched second by second.
    for _ in 0..100 {
        assert!(!steps("0 0 30 2 *", "Europe/Berlin"));
        assert!(!steps("0 0 0 31 2,4,6,9,11 ? *", "Europe/Berlin"));
        assert!(steps("0 0 0 29 2 ? 2096", "Europe/Berlin"));
    }
}

#[test]
fn unions_fire_once_an_instant_and_keep_their_bounds() {
    let spec: PlanSpec = serde_json::from_str(
        r#"{"crons":["0 0 * * *","0 */12 * * *","@every 6h"],"at":"2027-01-01T05:00:00Z",
            "start":"2027-01-01T00:00:00Z","end":"2027-01-02T00:00:00Z","max_runs":3}"#,
    )
    .unwrap();
    let plan = plan(&spec);
    let hours = |from: Occurrences<'_>| -> Vec<String> {
        from.map(|at| at.to_string()[11..13].to_owned()).collect()
    };
    let start = time("2027-01-01T00:00:00Z");
    assert_eq!(
        hours(plan.since(Time(0)).without_limit()),
        ["00", "05", "06", "12", "18"]
    );
    assert_eq!(hours(plan.since(start)), ["00", "05", "06"]);
    assert_eq!(hours(plan.after(start).having_run(1)), ["05", "06"]);
    assert_eq!(hours(plan.after(start).having_run(7)), [""; 0]);
    assert_eq!(plan.next_after(time("2027-01-01T18:00:00Z")), None);
    let all = plan.count_between(Time(0), Time::MAX);
    assert_eq!((all.n, all.exact), (5, true));
}

#[test]
fn periods_count_from_their_anchor_and_never_drift() {
    let of = |json: &str| plan(&serde_json::from_str::<PlanSpec>(json).unwrap());
    let plain = of(r#"{"every":"90s"}"#);
    let phased = of(r#"{"crons":["@every 90s phase 10s"]}"#);
    let started = of(r#"{"every":"90s phase 10s","start":"2027-01-01T00:00:07.5Z"}"#);
    let after = time("2027-01-01T00:00:00Z");
    let seconds = |plan: &Plan| -> Vec<String> {
        let next = plan.after(after).take(3);
        next.map(|at| at.to_string()[14..23].to_owned()).collect()
    };
    assert_eq!(seconds(&plain), ["01:30.000", "03:00.000", "04:30.000"]);
    assert_eq!(seconds(&phased), ["00:10.000", "01:40.000", "03:10.000"]);
    assert_eq!(seconds(&started), ["00:17.500", "01:47.500", "03:17.500"]);
    let far = time("2098-07-01T00:00:00Z");
    let next = phased.next_after(far).unwrap();
    assert_eq!(next.0 % 90_000, 10_000, "no drift after 70 years");
    assert!(next.0 - far.0 <= 90_000);
    assert_eq!(
        plain.next_after(time("2099-12-31T23:59:59Z")),
        None,
        "the calendar's end"
    );
}

#[test]
fn spreading_is_stable_and_stays_within() {
    let of = |name: &str, expression: &str| {
        let plan = Plan::parse(name, &PlanSpec::cron(expression)).unwrap();
        plan.after(time("2027-01-01T00:00:00Z"))
            .take(500)
            .collect::<Vec<_>>()
    };
    assert_eq!(of("a.b", "H H * * *"), of("a.b", "H H * * *"));
    assert_ne!(of("a.b", "H H * * *"), of("a.c", "H H * * *"));
    let minute = |at: &Time| at.0 / 60_000 % 60;
    for n in 0..50 {
        let name = format!("group.{n}");
        let all = of(&name, "H(10-29)/10 * * * *");
        assert!(
            all.iter().all(|at| (10..30).contains(&minute(at))),
            "{name}"
        );
        assert_eq!(
            minute(&all[0]).abs_diff(minute(&all[1])),
            10,
            "twice an hour"
        );
        let quarter = of(&name, "H/15 * * * *");
        assert_eq!(quarter[1].0 - quarter[0].0, 15 * 60_000);
        // Every month has the day that was drawn.
        assert_eq!(
            of(&name, "0 0 0 H * ?")[12].0,
            of(&name, "0 0 0 H * ?")[0].0 + 31_536_000_000
        );
    }
    let jittered = plan(&serde_json::from_str(r#"{"every":"1h","jitter":"10m"}"#).unwrap());
    let delays: Vec<u64> = (jittered.after(Time(0)).take(200))
        .map(|planned| jittered.fires_at(planned).0 - planned.0)
        .collect();
    assert!(delays.iter().all(|delay| *delay <= 600_000));
    assert!(delays.iter().max() > Some(&550_000) && delays.iter().min() < Some(&50_000));
    assert_eq!(
        jittered.fires_at(Time(3_600_000)),
        jittered.clone().fires_at(Time(3_600_000))
    );
}

#[test]
fn excluded_days_are_days_of_the_zone() {
    let spec: PlanSpec = serde_json::from_str(
        r#"{"crons":["0 30 * * * ?"],"every":"12h","zone":"Asia/Tokyo",
            "exclude":{"dates":["2027-01-02","01-04"],"weekdays":["SUN"]}}"#,
    )
    .unwrap();
    let plan = plan(&spec);
    // Friday is free, Saturday a date, Sunday a weekday, Monday a date of every year.
    let all: Vec<String> = next(&plan, "2027-01-01T13:00:00Z", 5);
    assert_eq!(
        all,
        [
            "2027-01-01T22:30:00+09:00",
            "2027-01-01T23:30:00+09:00",
            "2027-01-05T00:30:00+09:00",
            "2027-01-05T01:30:00+09:00",
            "2027-01-05T02:30:00+09:00"
        ]
    );
    let every: PlanSpec = serde_json::from_str(
        r#"{"every":"12h","zone":"Asia/Tokyo","exclude":{"dates":["2027-01-02"]}}"#,
    )
    .unwrap();
    assert_eq!(
        next(&super::plan(&every), "2027-01-01T11:00:00Z", 3),
        [
            "2027-01-01T21:00:00+09:00",
            "2027-01-03T09:00:00+09:00",
            "2027-01-03T21:00:00+09:00"
        ]
    );
}
