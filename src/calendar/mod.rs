//! When schedules fire: expressions, time zones, and questions about them.
//!
//! Pure functions of (expression, zone, policy, time-zone data): nothing here reads a clock, and
//! nothing here is used inside the fold. A planner computes the next instants *before* it proposes
//! them, and the event carries them; so a release with newer time-zone data cannot change what was
//! decided, and says which schedules it moves ([`moved`]).
//!
//! A [`PlanSpec`] is what a user writes, a [`Plan`] what it means:
//!
//! ```
//! use horolog::calendar::{Plan, PlanSpec};
//! use horolog::model::Time;
//!
//! let spec: PlanSpec = serde_json::from_str(
//!     r#"{ "crons": ["0 30 9 ? * MON-FRI", "0 0 12 L * ?"], "zone": "Europe/Berlin",
//!          "exclude": { "dates": ["12-25"] } }"#,
//! )?;
//! let plan = Plan::parse("shop.report", &spec)?;
//! let from = Time::parse("2026-12-24T08:30:00Z")?;
//! let next: Vec<String> = plan.after(from).take(3).map(|time| time.to_string()).collect();
//! assert_eq!(
//!     next,
//!     ["2026-12-28T08:30:00.000Z", "2026-12-29T08:30:00.000Z", "2026-12-30T08:30:00.000Z"]
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! From the inside out: `field` reads one field, `days` says which days of a month are meant,
//! `cron` walks over times on a wall clock, `zone` knows where the wall clock jumps, and `plan`
//! makes instants of all this. What the dialects are, and what happens when the wall clock jumps,
//! is in `docs/schedules.md`.

mod compare;
mod cron;
mod days;
mod error;
mod every;
mod exclude;
mod field;
mod forecast;
mod plan;
mod preview;
mod spread;
#[cfg(test)]
mod tests;
mod zone;

pub use compare::{Difference, Foreseen, Move, compare, moved};
pub use cron::Dialect;
pub use error::PlanError;
pub use exclude::ExclusionSpec;
pub use forecast::{Forecast, forecast};
pub use plan::{Count, Occurrences, Plan, PlanSpec};
pub use preview::{Effect, Jump, preview};
pub use zone::{Dst, Gap, Overlap, tz_version, zone_names};

use crate::model::limits::{
    EVERY_MIN, EXCLUDED_DATES_MAX, EXPRESSION_BYTES_MAX, EXPRESSIONS_MAX,
    OCCURRENCES_ENUMERATED_MAX, OCCURRENCES_LISTED_MAX, SCHEDULE_JITTER_MAX,
};

/// The years that expressions know, as in Quartz.
pub const YEAR_FIRST: i16 = 1970;
/// See [`YEAR_FIRST`]: after this one only `at` fires.
pub const YEAR_LAST: i16 = 2099;
