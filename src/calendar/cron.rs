//! A cron expression: which times on a wall clock it means, in no zone yet.
//!
//! Our own evaluator, some hundred lines of it: see `docs/schedules.md` for why no crate does it.

use jiff::civil::DateTime;
use jiff::tz::Offset;

use super::days::{Days, Month, Rule};
use super::error::PlanError;
use super::exclude::Exclusions;
use super::field::{DAY, HOUR, Item, MINUTE, MONTH, SECOND, WEEKDAY_QUARTZ, WEEKDAY_UNIX, YEAR};
use super::{EXPRESSION_BYTES_MAX, YEAR_FIRST, YEAR_LAST};

/// Seconds of a wall clock since it showed 1970-01-01T00:00:00.
pub(super) type Wall = i64;

const DAY_SECONDS: i64 = 86_400;

/// Who wrote the rules that an expression follows; its number of fields tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Five fields; 0 and 7 are Sunday; day-of-month and day-of-week together mean either.
    Unix,
    /// Six or seven fields; 1 is Sunday; one of day-of-month and day-of-week is `?` or `*`.
    Quartz,
}

/// A parsed expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cron {
    pub dialect: Dialect,
    /// Bit n is second n, and so on.
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: Days,
    /// Bit 1 is January.
    months: u64,
    years: Option<Years>,
}

/// Bit 0 is [`YEAR_FIRST`].
type Years = [u64; 3];

/// What the short names mean.
const ALIASES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

impl Cron {
    /// Reads an expression; `owner` decides what `H` means.
    ///
    /// # Errors
    /// It is none, or no year has a day that it means.
    pub fn parse(member: &str, text: &str, owner: &str) -> Result<Cron, PlanError> {
        if text.len() > EXPRESSION_BYTES_MAX {
            let found = format!("{} bytes", text.len());
            let allowed = format!("at most {EXPRESSION_BYTES_MAX} bytes");
            return Err(PlanError::of(member, found, allowed));
        }
        if text.trim_start().starts_with('@') {
            let alias = text.trim().to_ascii_lowercase();
            let known = ALIASES.iter().find(|(name, _)| *name == alias);
            let (_, meant) = known.ok_or_else(|| {
                let names: Vec<_> = ALIASES.iter().map(|(name, _)| *name).collect();
                let allowed = format!("{}, @every 90s, or 5 to 7 fields", names.join(", "));
                PlanError::of(member, text.trim(), allowed)
            })?;
            return Cron::parse(member, meant, owner);
        }
        let upper = text.to_ascii_uppercase();
        let words = words(&upper);
        let dialect = match words.len() {
            5 => Dialect::Unix,
            6 | 7 => Dialect::Quartz,
            count => {
                let found = format!("{text:?}, {count} fields").replace('"', "'");
                let allowed = "5 fields (Unix: minute hour day-of-month month day-of-week), \
                    6 (Quartz: a second before them) or 7 (a year behind them)";
                return Err(PlanError::of(member, found, allowed));
            }
        };
        let mut items = words.into_iter().map(|(column, text)| {
            move |field| Item {
                member,
                field,
                text,
                column,
                owner,
            }
        });
        let mut next = |field| items.next().map(|item| item(field));
        let seconds = match dialect {
            Dialect::Unix => 1,
            Dialect::Quartz => set(next(&SECOND))?,
        };
        let mut cron = Cron {
            dialect,
            seconds,
            minutes: set(next(&MINUTE))?,
            hours: set(next(&HOUR))?,
            days: Days::none(),
            months: 0,
            years: None,
        };
        let day = next(&DAY);
        cron.months = set(next(&MONTH))? << 1;
        let weekday = next(match dialect {
            Dialect::Unix => &WEEKDAY_UNIX,
            Dialect::Quartz => &WEEKDAY_QUARTZ,
        });
        cron.days = days(dialect, day, weekday)?;
        if let Some(item) = next(&YEAR) {
            let mut years = [0; 3];
            for item in item.list() {
                item.values(&mut |at| years[usize::from(at) / 64] |= 1 << (at % 64))?;
            }
            cron.years = Some(years);
        }
        match cron.fires() {
            true => Ok(cron),
            false => Err(PlanError::of(
                member,
                text,
                "a day that exists: no year has a day in these months that this means",
            )),
        }
    }

    /// Whether some year has a day that is meant. Days repeat every 28 years until 2099.
    fn fires(&self) -> bool {
        let years = (YEAR_FIRST..=YEAR_LAST).filter(|year| self.has_year(*year));
        let cycle = if self.years.is_some() { usize::MAX } else { 28 };
        years.take(cycle).any(|year| {
            let mut months = (1..=12).filter(|month| self.months & 1 << month != 0);
            months.any(|month| self.days.of(Month::new(year, month)) != 0)
        })
    }

    fn has_year(&self, year: i16) -> bool {
        match (&self.years, usize::try_from(year - YEAR_FIRST)) {
            (Some(years), Ok(at)) => years
                .get(at / 64)
                .is_some_and(|bits| bits >> (at % 64) & 1 == 1),
            // The last day of 1969 belongs to 1970 somewhere.
            (None, _) => year <= YEAR_LAST,
            (Some(_), Err(_)) => false,
        }
    }

    /// Whether it names no hour: it goes on through every hour of its days.
    pub fn goes_through_all_hours(&self) -> bool {
        self.hours == (1 << 24) - 1
    }

    /// The first time that is meant, at or after a time on the wall, on a day that is not
    /// excluded; none before the calendar ends.
    pub fn at_or_after(&self, from: Wall, free: &Exclusions) -> Option<Wall> {
        let start = civil(from)?;
        let second = from.rem_euclid(DAY_SECONDS) as u32;
        // Of the first day only the rest counts.
        let (mut first_month, mut first_day) = (start.month(), start.day() as u32);
        let mut rest = Some(second).filter(|second| *second > 0);
        for year in start.year()..=YEAR_LAST {
            if self.has_year(year) {
                for month in (first_month..=12).filter(|month| self.months & 1 << month != 0) {
                    let skipped = match (year, month) == (start.year(), start.month()) {
                        true => (1 << first_day) - 1,
                        false => 0,
                    };
                    if skipped == 0 {
                        rest = None;
                    }
                    let days = self.days.of(Month::new(year, month)) & free.free_days(year, month);
                    let mut days = days & !skipped;
                    if let Some(second) = rest.take()
                        && days & 1 << first_day != 0
                    {
                        if let Some(second) = self.second_from(second) {
                            return Some(wall(year, month, first_day as i8) + i64::from(second));
                        }
                        days &= !(1 << first_day);
                    }
                    if days != 0 {
                        let second = self.second_from(0)?;
                        let day = days.trailing_zeros() as i8;
                        return Some(wall(year, month, day) + i64::from(second));
                    }
                }
            }
            (first_month, first_day, rest) = (1, 1, None);
        }
        None
    }

    /// The first second of a day that is meant, at or after one.
    fn second_from(&self, second: u32) -> Option<u32> {
        let (h, m, s) = (second / 3_600, second / 60 % 60, second % 60);
        let at = |h: u32, m: u32, s: u32| h * 3_600 + m * 60 + s;
        let first_second = self.seconds.trailing_zeros();
        if self.hours >> h & 1 == 1 {
            if self.minutes >> m & 1 == 1
                && let Some(s) = from(self.seconds, s)
            {
                return Some(at(h, m, s));
            }
            if let Some(m) = from(self.minutes, m + 1) {
                return Some(at(h, m, first_second));
            }
        }
        let h = from(self.hours, h + 1)?;
        Some(at(h, self.minutes.trailing_zeros(), first_second))
    }
}

/// The lowest bit at or above one.
fn from(set: u64, at: u32) -> Option<u32> {
    let rest = set >> at << at;
    (rest != 0).then(|| rest.trailing_zeros())
}

/// The words of an expression, each with its column.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut rest = text;
    let mut column = 1;
    loop {
        let trimmed = rest.trim_start();
        column += rest[..rest.len() - trimmed.len()].chars().count();
        if trimmed.is_empty() {
            return words;
        }
        let end = trimmed.find(char::is_whitespace).unwrap_or(trimmed.len());
        words.push((column, &trimmed[..end]));
        column += trimmed[..end].chars().count();
        rest = &trimmed[end..];
    }
}

/// A field whose values are bits from 0 on.
fn set(item: Option<Item<'_>>) -> Result<u64, PlanError> {
    let mut bits = 0;
    for item in item.into_iter().flat_map(Item::list) {
        item.values(&mut |value| bits |= 1 << value)?;
    }
    Ok(bits)
}

fn days(
    dialect: Dialect,
    day: Option<Item<'_>>,
    weekday: Option<Item<'_>>,
) -> Result<Days, PlanError> {
    let (Some(day), Some(weekday)) = (day, weekday) else {
        unreachable!("the fields were counted");
    };
    let mut days = Days::none();
    match day.text {
        "?" => days.dates = !1,
        _ => day.list().try_for_each(|item| days.take_date(&item))?,
    }
    match weekday.text {
        "?" if day.text == "?" => {
            return Err(weekday.refuse("* or days here: day-of-month is ? already"));
        }
        "?" => days.weekdays = 0x7f,
        _ => weekday
            .list()
            .try_for_each(|item| days.take_weekday(&item))?,
    }
    days.rule = match (restricts(&day), restricts(&weekday), dialect) {
        (false, false, _) => Rule::Every,
        (true, false, _) => Rule::ByDate,
        (false, true, _) => Rule::ByWeekday,
        (true, true, Dialect::Unix) => Rule::Either,
        (true, true, Dialect::Quartz) => {
            return Err(weekday.refuse("? when day-of-month is restricted, or ? there"));
        }
    };
    Ok(days)
}

/// Whether a field of days counts as one that restricts: by how it is written, as POSIX has it, so
/// that `1-31` does although it leaves nothing out.
fn restricts(item: &Item<'_>) -> bool {
    !matches!(item.text, "*" | "?" | "*/1")
}

/// What a wall clock shows, for what the calendar covers.
pub(super) fn civil(wall: Wall) -> Option<DateTime> {
    let utc = jiff::Timestamp::from_second(wall).ok()?;
    Some(Offset::UTC.to_datetime(utc))
}

/// Midnight of a day that exists.
fn wall(year: i16, month: i8, day: i8) -> Wall {
    let midnight = jiff::civil::datetime(year, month, day, 0, 0, 0, 0);
    let utc = Offset::UTC.to_timestamp(midnight);
    utc.expect("a day of the calendar").as_second()
}
