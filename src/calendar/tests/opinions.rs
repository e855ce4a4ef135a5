//! What others say of the same expressions: croniter (Python; its answers are a fixture), and
//! croner (Rust; asked on the spot). Where they differ from us and why is in docs/schedules.md.

use super::*;
use crate::thorough::cases;
use croner::Cron as Croner;
use croner::parser::{CronParser, Seconds};
use jiff::tz::TimeZone;
use proptest::prelude::*;

fn seconds(at: Option<Time>) -> Option<i64> {
    at.map(|at| (at.0 / 1_000) as i64)
}

/// Whether the zone's clocks jump within a day of an instant.
fn jumps_nearby(tz: &TimeZone, second: i64) -> bool {
    const DAY: i64 = 86_400;
    let from = jiff::Timestamp::from_second(second - DAY).unwrap();
    let next = tz.following(from).next();
    next.is_some_and(|jump| jump.timestamp().as_second() < second + DAY)
}

/// In each of these one field of days lists ranges that wrap and together are every day. To
/// croniter, and to nobody else, that is the same as a star.
const EVERYTHING: [&str; 4] = [
    "4-53/17 2,3,2 8-6,31-3,16-14 * */2,*/3",
    "30-40,31-27,26 12 */4 10 2-5,2/2,3-1",
    "* 5/2 */8 * 1,2-0",
    "0-48/14 1 */11 2-10,5 1-6/1,4-2",
];

/// croniter fires at the end of a gap, and twice in an overlap.
#[test]
fn croniter_says_the_same_of_10_000_expressions() {
    let fixture = include_str!("fixtures/croniter.txt");
    let (mut count, mut at_jumps, mut others) = (0, 0, Vec::new());
    for line in fixture.lines().filter(|line| !line.starts_with('#')) {
        let parts: Vec<&str> = line.split(" | ").collect();
        let [expression, zone, from, first, second] = parts[..] else {
            panic!("{line}");
        };
        let number = |text: &str| text.parse::<i64>().unwrap();
        let spec = PlanSpec {
            dst: Dst {
                gap: Gap::After,
                overlap: Overlap::Twice,
            },
            ..PlanSpec::cron(expression).in_zone(zone)
        };
        let plan = plan(&spec);
        let ours: Vec<i64> = (plan.after(Time(number(from) as u64 * 1_000)).take(2))
            .map(|at| (at.0 / 1_000) as i64)
            .collect();
        let first = number(from) + number(first);
        let theirs = [first, first + number(second)];
        count += 1;
        if ours != theirs {
            let tz = TimeZone::get(zone).unwrap();
            let jumps = (ours.iter().chain(&theirs)).any(|at| jumps_nearby(&tz, *at));
            let with_seconds = expression.split(' ').count() == 6;
            match EVERYTHING.contains(&expression) {
                true => {}
                // What it moves to the end of a gap keeps its seconds there.
                false if jumps && with_seconds => at_jumps += 1,
                false => others.push(format!("{line}: {ours:?} {theirs:?}")),
            }
        }
    }
    println!(
        "{count} expressions, {at_jumps} differ at jumps, {} elsewhere",
        others.len()
    );
    assert_eq!(count, 10_000);
    assert!(
        others.is_empty(),
        "{}\n{}",
        others.len(),
        others[..others.len().min(20)].join("\n")
    );
    assert_eq!(at_jumps, 6);
}

fn item(low: u8, high: u8) -> BoxedStrategy<String> {
    let pair = (low..=high, low..=high).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let step = 2..=(high - low).max(4) / 2;
    prop_oneof![
        3 => (low..=high).prop_map(|n| n.to_string()),
        1 => pair.clone().prop_map(|(a, b)| format!("{a}-{b}")),
        1 => (pair, step.clone()).prop_map(|((a, b), n)| format!("{a}-{b}/{n}")),
        1 => step.clone().prop_map(|n| format!("*/{n}")),
        1 => (low..=high, step).prop_map(|(a, n)| format!("{a}/{n}")),
    ]
    .boxed()
}

fn field(low: u8, high: u8, star: u32) -> BoxedStrategy<String> {
    let list = prop::collection::vec(item(low, high), 1..3).prop_map(|items| items.join(","));
    prop_oneof![star => Just("*".to_owned()), 3 => list].boxed()
}

/// A Unix and a Quartz expression that croner can read.
fn expression() -> impl Strategy<Value = String> {
    let day = prop_oneof![
        6 => field(1, 31, 3),
        1 => Just("L".to_owned()),
        1 => Just("LW".to_owned()),
        1 => (1..=28u8).prop_map(|day| format!("{day}W")),
    ];
    let weekday = |low: u8| {
        prop_oneof![
            6 => field(low, low + 6, 3).prop_map(move |text| match low {
                // From a day on, croner goes on to 7, which is Sunday once more.
                0 if text.contains('/') => "*".to_owned(),
                _ => text,
            }),
            1 => (low..=low + 6, 1..=5u8).prop_map(|(day, n)| format!("{day}#{n}")),
            1 => (low..=low + 6).prop_map(|day| format!("{day}L")),
            1 => Just("MON-FRI".to_owned()),
            1 => Just("SAT,SUN".to_owned()),
        ]
    };
    let time = (field(0, 59, 1), field(0, 23, 2), field(1, 12, 5));
    let unix = (time.clone(), day.clone(), weekday(0))
        .prop_map(|((m, h, month), day, weekday)| format!("{m} {h} {day} {month} {weekday}"));
    let quartz = (field(0, 59, 0), time, day, weekday(1), any::<bool>()).prop_map(
        |(s, (m, h, month), day, weekday, by_date)| match by_date {
            true => format!("{s} {m} {h} {day} {month} ?"),
            false => format!("{s} {m} {h} ? {month} {weekday}"),
        },
    );
    prop_oneof![unix, quartz]
}

fn croner(expression: &str) -> Result<Croner, croner::errors::CronError> {
    let quartz = expression.split(' ').count() > 5;
    let parser = CronParser::builder()
        .seconds(if quartz {
            Seconds::Required
        } else {
            Seconds::Disallowed
        })
        .alternative_weekdays(quartz)
        .sloppy_ranges(true);
    parser.build().parse(expression)
}

const ZONES: [&str; 6] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Asia/Kathmandu",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..cases(1_000) })]

    /// Away from jumps, about which croner has a policy of its own.
    #[test]
    fn croner_says_the_same(
        expression in expression(),
        zone in prop::sample::select(ZONES.to_vec()),
        from in 946_684_800i64..2_208_988_800,
    ) {
        let ours = Plan::parse("", &PlanSpec::cron(&expression).in_zone(zone));
        let theirs = croner(&expression);
        let tz = TimeZone::get(zone).unwrap();
        let start = jiff::Timestamp::from_second(from).unwrap().to_zoned(tz.clone());
        let Ok(plan) = ours else {
            // Refused as it never fires: croner searches, and says so then.
            let refused = ours.unwrap_err().to_string();
            prop_assert!(refused.contains("a day that exists"), "{}: {}", expression, refused);
            if let Ok(theirs) = theirs {
                prop_assert!(theirs.find_next_occurrence(&start, false).is_err(), "{}", expression);
            }
            return Ok(());
        };
        let theirs = theirs.map_err(|e| TestCaseError::fail(format!("{expression}: {e}")))?;
        let theirs = theirs.find_next_occurrence(&start, false).ok();
        let theirs = theirs.map(|at| at.timestamp().as_second());
        let ours = seconds(plan.next_after(Time(from as u64 * 1_000)));
        let near = ours.into_iter().chain(theirs).any(|at| jumps_nearby(&tz, at));
        // Its calendar goes on after ours ends.
        let beyond = ours.is_none() && theirs.is_some_and(|at| at > 4_102_000_000);
        prop_assert!(ours == theirs || near || beyond, "{}: {:?} {:?}", expression, ours, theirs);
    }
}
