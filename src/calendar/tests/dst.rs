//! What happens on the days on which wall clocks jump. The tables of docs/schedules.md are the
//! fixture: what they say is computed and compared.

use super::*;

/// Zone, an instant shortly before the jump, another one behind it.
type Night = (&'static str, &'static str, &'static str);

const NIGHTS: [Night; 8] = [
    (
        "Europe/Berlin",
        "2027-03-27T23:30:00Z",
        "2027-03-28T03:00:00Z",
    ),
    (
        "Europe/Berlin",
        "2027-10-30T22:30:00Z",
        "2027-10-31T03:00:00Z",
    ),
    (
        "America/New_York",
        "2027-03-14T05:30:00Z",
        "2027-03-14T09:00:00Z",
    ),
    (
        "America/New_York",
        "2027-11-07T04:30:00Z",
        "2027-11-07T09:00:00Z",
    ),
    (
        "Australia/Lord_Howe",
        "2027-10-02T14:00:00Z",
        "2027-10-02T17:15:00Z",
    ),
    (
        "Australia/Lord_Howe",
        "2027-04-03T13:30:00Z",
        "2027-04-03T17:15:00Z",
    ),
    // Until 2026 the clocks went back for Ramadan, and forward after it.
    (
        "Africa/Casablanca",
        "2026-03-22T00:30:00Z",
        "2026-03-22T04:00:00Z",
    ),
    (
        "Africa/Casablanca",
        "2026-02-15T00:30:00Z",
        "2026-02-15T04:00:00Z",
    ),
];

const EXPRESSIONS: [(&str, &str); 5] = [
    ("daily at 02:00", "0 2 * * *"),
    ("daily at 02:30", "30 2 * * *"),
    ("daily at 02:15", "15 2 * * *"),
    ("hourly", "0 * * * *"),
    ("`*/30`", "*/30 * * * *"),
];

const POLICIES: [(Gap, Overlap); 2] = [(Gap::Skip, Overlap::Once), (Gap::After, Overlap::Twice)];

/// One row: what the wall clock shows when an expression fires in a night.
fn fires((zone, from, to): Night, expression: &str, (gap, overlap): (Gap, Overlap)) -> String {
    let spec = PlanSpec {
        dst: Dst { gap, overlap },
        ..PlanSpec::cron(expression).in_zone(zone)
    };
    let plan = plan(&spec);
    let within = plan.since(time(from)).take_while(|at| *at < time(to));
    let short = |at| {
        let text = shown(&plan, at);
        let offset = &text[19..];
        format!("{}{}", &text[11..16], offset.trim_end_matches(":00"))
    };
    let all: Vec<String> = within.map(short).collect();
    if all.is_empty() {
        "–".to_owned()
    } else {
        all.join(" ")
    }
}

fn tables() -> String {
    let mut page = String::new();
    for night in NIGHTS {
        let plan = cron("* * * * *", night.0);
        let jump = plan.zone.stretch((time(night.1).0 / 1_000) as i64).end;
        let jump = plan.zone.stretch(jump);
        let (word, (from, to)) = match (jump.gap(), jump.overlap()) {
            (Some(gap), _) => ("does not show", gap),
            (_, Some(overlap)) => ("shows twice", overlap),
            (None, None) => panic!("{night:?}: no jump"),
        };
        let clock = |wall| cron::civil(wall).unwrap().strftime("%H:%M").to_string();
        let date = cron::civil(from).unwrap().strftime("%-d %B %Y").to_string();
        page += &format!(
            "\n{}, {date}: the clock {word} {}–{}.\n\n| | `skip`, `once` | `after`, `twice` |\n|---|---|---|\n",
            night.0,
            clock(from),
            clock(to)
        );
        for (name, expression) in EXPRESSIONS {
            let [strict, lenient] = POLICIES.map(|policy| fires(night, expression, policy));
            page += &format!("| {name} | {strict} | {lenient} |\n");
        }
    }
    page
}

/// `UPDATE_DOCS=1 cargo test --lib dst_tables` writes them.
#[test]
fn the_dst_tables_are_what_is_computed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/schedules.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (before, rest) = page
        .split_once("<!-- dst tables -->\n")
        .expect("the mark before");
    let (written, after) = rest
        .split_once("\n<!-- end of dst tables -->")
        .expect("the mark after");
    let tables = tables();
    #[allow(clippy::disallowed_methods)] // a test asks its caller
    if std::env::var("UPDATE_DOCS").is_ok() {
        let page =
            format!("{before}<!-- dst tables -->\n{tables}\n<!-- end of dst tables -->{after}");
        std::fs::write(path, page).unwrap();
        return;
    }
    assert_eq!(
        written, tables,
        "UPDATE_DOCS=1 cargo test --lib dst_tables writes them anew"
    );
}

/// The tables, once more, by hand, for the night that everybody knows.
#[test]
fn berlin_by_hand() {
    let (spring, autumn) = (NIGHTS[0], NIGHTS[1]);
    let [strict, lenient] = POLICIES;
    for (night, expression, policy, expected) in [
        (spring, "30 2 * * *", strict, "–"),
        (spring, "30 2 * * *", lenient, "03:00+02"),
        (spring, "0,30 2 * * *", lenient, "03:00+02"),
        (spring, "0,30 2,3 * * *", lenient, "03:00+02 03:30+02"),
        (spring, "0 * * * *", strict, "01:00+01 03:00+02 04:00+02"),
        (spring, "0 * * * *", lenient, "01:00+01 03:00+02 04:00+02"),
        (
            spring,
            "30 * * * *",
            lenient,
            "00:30+01 01:30+01 03:30+02 04:30+02",
        ),
        (
            spring,
            "*/30 1-4 * * *",
            strict,
            "01:00+01 01:30+01 03:00+02 03:30+02 04:00+02 04:30+02",
        ),
        (autumn, "30 2 * * *", strict, "02:30+02"),
        (autumn, "30 2 * * *", lenient, "02:30+02 02:30+01"),
        (
            autumn,
            "0 * * * *",
            strict,
            "01:00+02 02:00+02 02:00+01 03:00+01",
        ),
        (
            autumn,
            "0 0-23 * * *",
            lenient,
            "01:00+02 02:00+02 02:00+01 03:00+01",
        ),
        (autumn, "0 1-3 * * *", strict, "01:00+02 02:00+02 03:00+01"),
        (autumn, "0 3 * * *", strict, "03:00+01"),
    ] {
        assert_eq!(
            fires(night, expression, policy),
            expected,
            "{expression} {policy:?}"
        );
    }
}

/// Asked from within a repeated hour, the second showing is still found; and a zone may leave out
/// a whole day.
#[test]
fn odd_places() {
    let weekly = PlanSpec {
        dst: Dst {
            gap: Gap::Skip,
            overlap: Overlap::Twice,
        },
        ..PlanSpec::cron("30 2 * * SUN").in_zone("Europe/Berlin")
    };
    assert_eq!(
        next(&plan(&weekly), "2027-10-31T00:40:00Z", 2),
        ["2027-10-31T02:30:00+01:00", "2027-11-07T02:30:00+01:00"]
    );
    let samoa = |gap| {
        let spec = PlanSpec {
            dst: Dst {
                gap,
                overlap: Overlap::Once,
            },
            ..PlanSpec::cron("0 10 * * *").in_zone("Pacific/Apia")
        };
        next(&plan(&spec), "2011-12-29T12:00:00Z", 3)
    };
    assert_eq!(
        samoa(Gap::Skip),
        [
            "2011-12-29T10:00:00-10:00",
            "2011-12-31T10:00:00+14:00",
            "2012-01-01T10:00:00+14:00"
        ]
    );
    assert_eq!(
        samoa(Gap::After),
        [
            "2011-12-29T10:00:00-10:00",
            "2011-12-31T00:00:00+14:00",
            "2011-12-31T10:00:00+14:00"
        ]
    );
    // 44 minutes and 30 seconds, until 1972.
    let monrovia = cron("0 0 * * *", "Africa/Monrovia");
    assert_eq!(
        monrovia.next_after(time("1971-06-01T12:00:00Z")),
        Some(time("1971-06-02T00:44:30Z"))
    );
}
