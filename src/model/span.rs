//! Durations.

use bincode::{Decode, Encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

use super::limits::SPAN_MAX;

/// A duration in milliseconds, written `"1h30m"`, `"250ms"`, `"1d"` (24 h) or as a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Span(pub u64);

/// The units, largest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

impl Span {
    pub const ZERO: Span = Span(0);

    pub const fn millis(n: u64) -> Span {
        Span(n)
    }
    pub const fn seconds(n: u64) -> Span {
        Span(n * 1_000)
    }
    pub const fn minutes(n: u64) -> Span {
        Span(n * 60_000)
    }
    pub const fn hours(n: u64) -> Span {
        Span(n * 3_600_000)
    }
    pub const fn days(n: u64) -> Span {
        Span(n * 86_400_000)
    }

    /// The same as a standard duration.
    pub const fn std(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }

    /// Reads `1h30m`, `250ms`, `1d`, or a bare number of milliseconds.
    pub fn parse(text: &str) -> Result<Span, String> {
        let wrong = || format!("{text:?} is not a duration; write 250ms, 10s, 1h30m or 1d");
        if let Ok(millis) = text.parse::<u64>() {
            return Span(millis).checked();
        }
        let mut rest = text;
        let mut total = 0u64;
        let mut last_unit = u64::MAX;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let letters = rest
                .find(|c: char| !c.is_ascii_alphabetic())
                .unwrap_or(rest.len());
            let unit = UNITS
                .iter()
                .find(|(name, _)| *name == &rest[..letters])
                .ok_or_else(wrong)?;
            if unit.1 >= last_unit {
                return Err(wrong());
            }
            last_unit = unit.1;
            rest = &rest[letters..];
            total = number
                .checked_mul(unit.1)
                .and_then(|n| n.checked_add(total))
                .ok_or_else(wrong)?;
        }
        if text.is_empty() {
            Err(wrong())
        } else {
            Span(total).checked()
        }
    }

    fn checked(self) -> Result<Span, String> {
        if self > SPAN_MAX {
            return Err(format!(
                "{} ms is longer than {SPAN_MAX}, the longest allowed",
                self.0
            ));
        }
        Ok(self)
    }
}

impl From<std::time::Duration> for Span {
    fn from(duration: std::time::Duration) -> Span {
        Span(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0ms");
        }
        let mut rest = self.0;
        for (name, millis) in UNITS {
            if rest >= millis {
                write!(f, "{}{name}", rest / millis)?;
                rest %= millis;
            }
        }
        Ok(())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration: \"250ms\", \"1h30m\", \"1d\" or milliseconds")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                Span::parse(text).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, millis: u64) -> Result<Span, E> {
                Span(millis).checked().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Span, E> {
                Err(E::custom("a duration is not negative"))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_and_writes() {
        for (text, millis) in [
            ("250ms", 250),
            ("10s", 10_000),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
            ("0ms", 0),
        ] {
            assert_eq!(Span::parse(text), Ok(Span(millis)), "{text}");
            assert_eq!(Span(millis).to_string(), text);
        }
        assert_eq!(Span::parse("1500"), Ok(Span(1500)));
    }

    #[test]
    fn refuses_what_is_no_duration() {
        for bad in [
            "",
            "s",
            "1x",
            "1m1h",
            "1s1s",
            "-1s",
            "1.5s",
            "99999999999999999999d",
            "40000d",
            "1é",
        ] {
            assert!(Span::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(millis in 0..=SPAN_MAX.0) {
            prop_assert_eq!(Span::parse(&Span(millis).to_string()), Ok(Span(millis)));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = Span::parse(&text);
        }
    }
}
