//! Days on which nothing fires.

use jiff::civil::{Date, DateTime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::EXCLUDED_DATES_MAX;
use super::days::{DayBits, Month};
use super::error::PlanError;
use super::field::WEEKDAYS;

/// Days on which nothing fires, as they are written; days in the plan's zone.
///
/// ```
/// use horolog::calendar::ExclusionSpec;
///
/// let days: ExclusionSpec = serde_json::from_str(
///     r#"{ "dates": ["2027-05-06", "12-25"], "weekdays": ["SAT", "SUN"] }"#,
/// )?;
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExclusionSpec {
    /// `2027-05-06` for one day, `12-25` for that day of every year.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dates: Vec<String>,
    /// `SUN` to `SAT`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weekdays: Vec<String>,
}

/// The same, as sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Exclusions {
    weekdays: u8,
    /// By month of every year.
    yearly: [DayBits; 13],
    /// By year and month.
    dates: BTreeMap<(i16, i8), DayBits>,
}

impl Exclusions {
    pub fn parse(spec: &ExclusionSpec) -> Result<Exclusions, PlanError> {
        let mut free = Exclusions::default();
        if spec.dates.len() > EXCLUDED_DATES_MAX {
            let found = format!("{} dates", spec.dates.len());
            let allowed = format!("at most {EXCLUDED_DATES_MAX}");
            return Err(PlanError::of("exclude.dates", found, allowed));
        }
        for (n, text) in spec.dates.iter().enumerate() {
            let wrong = || {
                let allowed = "a date such as 2027-05-06, or 12-25 for every year";
                PlanError::of(&format!("exclude.dates[{n}]"), text, allowed)
            };
            match text.len() {
                5 => {
                    // A leap year has them all.
                    let date: Date = format!("2000-{text}").parse().map_err(|_| wrong())?;
                    free.yearly[date.month() as usize] |= 1 << date.day();
                }
                10 => {
                    let date: Date = text.parse().map_err(|_| wrong())?;
                    *free.dates.entry((date.year(), date.month())).or_default() |= 1 << date.day();
                }
                _ => return Err(wrong()),
            }
        }
        for (n, text) in spec.weekdays.iter().enumerate() {
            let upper = text.to_ascii_uppercase();
            let known = WEEKDAYS.iter().position(|name| **name == *upper);
            let weekday = known.ok_or_else(|| {
                PlanError::of(&format!("exclude.weekdays[{n}]"), text, WEEKDAYS.join(", "))
            })?;
            free.weekdays |= 1 << weekday;
        }
        Ok(free)
    }

    pub fn is_empty(&self) -> bool {
        *self == Exclusions::default()
    }

    /// The days of a month on which something may fire.
    pub fn free_days(&self, year: i16, month: i8) -> DayBits {
        let mut taken = self.yearly[month as usize];
        if self.weekdays != 0 {
            taken |= Month::new(year, month).weekdays(self.weekdays);
        }
        taken |= self.dates.get(&(year, month)).copied().unwrap_or(0);
        !taken
    }

    /// Whether something may fire when the wall clock shows this.
    pub fn frees(&self, shown: DateTime) -> bool {
        self.is_empty() || self.free_days(shown.year(), shown.month()) >> shown.day() & 1 == 1
    }
}
