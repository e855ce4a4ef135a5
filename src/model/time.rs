//! Instants.

use bincode::{Decode, Encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

use super::Span;

/// An instant: milliseconds since 1970-01-01T00:00:00Z.
///
/// In JSON it is given as an RFC 3339 string or as epoch milliseconds, and answered as RFC 3339
/// in UTC with milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Time(pub u64);

impl Time {
    /// The last instant that RFC 3339 can write: 9999-12-31T23:59:59.999Z less a day's margin.
    pub const MAX: Time = Time(253_402_214_399_999);

    /// `self + span`, never beyond [`Time::MAX`], and never before `self`.
    pub fn plus(self, span: Span) -> Time {
        Time(self.0.saturating_add(span.0)).min(Time::MAX.max(self))
    }

    /// How long after `earlier` this is; nothing when it is not later.
    pub fn since(self, earlier: Time) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }

    /// Reads RFC 3339, with any offset.
    pub fn parse(text: &str) -> Result<Time, String> {
        let instant: jiff::Timestamp = text
            .parse()
            .map_err(|_| format!("{text:?} is not an instant; write 2026-01-31T09:30:00Z"))?;
        u64::try_from(instant.as_millisecond())
            .map(Time)
            .map_err(|_| format!("{text:?} lies before 1970"))
            .and_then(Time::checked)
    }

    fn checked(self) -> Result<Time, String> {
        if self > Time::MAX {
            return Err(format!("{} ms lies beyond the year 9999", self.0));
        }
        Ok(self)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0.min(Time::MAX.0)).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(millis) {
            Ok(instant) => write!(f, "{instant:.3}"),
            Err(_) => write!(f, "{millis} ms"),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Time;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an instant: an RFC 3339 string or epoch milliseconds")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Time, E> {
                Time::parse(text).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, millis: u64) -> Result<Time, E> {
                Time(millis).checked().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, millis: i64) -> Result<Time, E> {
                Err(E::custom(format!("{millis} ms lies before 1970")))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_and_writes_one() {
        let a: Time = serde_json::from_str("\"2026-01-31T10:30:00.250+01:00\"").unwrap();
        let b: Time = serde_json::from_str(&a.0.to_string()).unwrap();
        assert_eq!(a, b);
        assert_eq!(
            serde_json::to_string(&a).unwrap(),
            "\"2026-01-31T09:30:00.250Z\""
        );
        assert_eq!(Time(0).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn refuses_what_is_no_instant() {
        for bad in [
            "\"tomorrow\"",
            "-1",
            "1e400",
            "18446744073709551615",
            "\"1969-01-01T00:00:00Z\"",
            "1.5",
            "null",
        ] {
            assert!(serde_json::from_str::<Time>(bad).is_err(), "{bad}");
        }
    }
}
