//! One field of a cron expression: lists of values, ranges, steps and `H`, as a set of bits.

use super::error::PlanError;
use super::spread;

/// What may stand in a field.
pub(super) struct Field {
    pub name: &'static str,
    /// The smallest value.
    pub low: u16,
    /// The largest number that may be written.
    pub high: u16,
    /// How many different values there are; ranges wrap around after so many.
    pub size: u16,
    /// Names of the values from `low` on.
    pub names: &'static [&'static str],
    /// The last value that `H` draws; nothing if `H` makes no sense.
    pub spread_to: Option<u16>,
}

const MONTHS: &[&str] = &[
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
pub(super) const WEEKDAYS: &[&str] = &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const fn plain(name: &'static str, low: u16, high: u16) -> Field {
    Field {
        name,
        low,
        high,
        size: high - low + 1,
        names: &[],
        spread_to: Some(high),
    }
}

pub(super) const SECOND: Field = plain("second", 0, 59);
pub(super) const MINUTE: Field = plain("minute", 0, 59);
pub(super) const HOUR: Field = plain("hour", 0, 23);
/// `H` keeps to the days that every month has.
pub(super) const DAY: Field = Field {
    spread_to: Some(28),
    ..plain("day-of-month", 1, 31)
};
pub(super) const MONTH: Field = Field {
    names: MONTHS,
    ..plain("month", 1, 12)
};
/// 0 and 7 are Sunday.
pub(super) const WEEKDAY_UNIX: Field = Field {
    size: 7,
    names: WEEKDAYS,
    spread_to: Some(6),
    ..plain("day-of-week", 0, 7)
};
/// 1 is Sunday.
pub(super) const WEEKDAY_QUARTZ: Field = Field {
    names: WEEKDAYS,
    ..plain("day-of-week", 1, 7)
};
/// Years do not wrap, and nothing is spread over them.
pub(super) const YEAR: Field = Field {
    spread_to: None,
    ..plain("year", super::YEAR_FIRST as u16, super::YEAR_LAST as u16)
};

impl Field {
    /// What is allowed, in words.
    pub fn allowed(&self) -> String {
        let numbers = format!("{}-{}", self.low, self.high);
        match (self.names.first(), self.names.last()) {
            (Some(first), Some(last)) => format!("{numbers} or {first}-{last}"),
            _ => numbers,
        }
    }

    /// A value as its distance from `low`, with 7 as another Sunday.
    fn index(&self, value: u16) -> u16 {
        (value - self.low) % self.size
    }
}

/// A piece of a field, and where it stands.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    pub member: &'a str,
    pub field: &'a Field,
    pub text: &'a str,
    pub column: usize,
    /// Whose `H` it is.
    pub owner: &'a str,
}

impl<'a> Item<'a> {
    pub fn refuse(&self, allowed: impl Into<String>) -> PlanError {
        PlanError {
            member: self.member.to_owned(),
            field: Some(self.field.name),
            column: Some(self.column),
            found: self.text.to_owned(),
            allowed: allowed.into(),
        }
    }

    /// A part of this piece, from a byte on.
    fn part(&self, from: usize, to: usize) -> Item<'a> {
        Item {
            text: &self.text[from..to],
            column: self.column + self.text[..from].chars().count(),
            ..*self
        }
    }

    pub fn until(&self, end: usize) -> Item<'a> {
        self.part(0, end)
    }

    pub fn from(&self, start: usize) -> Item<'a> {
        self.part(start, self.text.len())
    }

    /// The pieces between commas.
    pub fn list(self) -> impl Iterator<Item = Item<'a>> {
        let mut from = 0;
        self.text.split(',').map(move |text| {
            let item = self.part(from, from + text.len());
            from += text.len() + 1;
            item
        })
    }

    /// A number from `low` to `high`.
    pub fn number(&self, low: u16, high: u16) -> Result<u16, PlanError> {
        let digits = !self.text.is_empty() && self.text.bytes().all(|b| b.is_ascii_digit());
        let number = digits.then(|| self.text.parse().ok()).flatten();
        number
            .filter(|number| (low..=high).contains(number))
            .ok_or_else(|| self.refuse(format!("a number from {low} to {high}")))
    }

    /// A value of the field: a number or a name.
    pub fn value(&self) -> Result<u16, PlanError> {
        let named = self.field.names.iter().position(|name| *name == self.text);
        match named {
            Some(at) => Ok(self.field.low + at as u16),
            None => self
                .number(self.field.low, self.field.high)
                .map_err(|_| self.refuse(self.field.allowed())),
        }
    }

    /// Calls `take` with the distance from the field's lowest value of each value that is meant.
    ///
    /// # Errors
    /// It is not `*`, a value, `a-b` or `H`, with or without `/step`.
    pub fn values(&self, take: &mut impl FnMut(u16)) -> Result<(), PlanError> {
        let (range, step) = match self.text.find('/') {
            Some(at) => {
                // A larger one would silently mean the first value only.
                let step = self.from(at + 1).number(1, self.field.high)?;
                (self.until(at), Some(step))
            }
            None => (*self, None),
        };
        let field = self.field;
        let last = field.size - 1;
        let (from, count) = if range.text == "*" || (range.text.is_empty() && step.is_some()) {
            (0, last)
        } else if range.text.starts_with('H') {
            return range.spread(step, take);
        } else if let Some(dash) = range.text.find('-') {
            let (a, b) = (range.until(dash).value()?, range.from(dash + 1).value()?);
            let count = match b.checked_sub(a) {
                Some(count) => count,
                None if field.spread_to.is_none() => {
                    return Err(range.refuse("a range that rises: years do not wrap"));
                }
                None => field.size - (a - b),
            };
            (field.index(a), count)
        } else {
            let from = field.index(range.value()?);
            (from, if step.is_some() { last - from } else { 0 })
        };
        for k in (0..=count).step_by(usize::from(step.unwrap_or(1))) {
            take((from + k) % field.size);
        }
        Ok(())
    }

    /// `H`, `H(a-b)`: a value that the owner's name decides; with a step, where it begins.
    fn spread(&self, step: Option<u16>, take: &mut impl FnMut(u16)) -> Result<(), PlanError> {
        let field = self.field;
        let Some(to) = field.spread_to else {
            return Err(self.refuse(field.allowed()));
        };
        if self.owner.is_empty() {
            return Err(
                self.refuse("no H: it is drawn from the schedule's name, and there is none")
            );
        }
        let (a, b) = match self.text {
            "H" => (field.low, to),
            text if text.starts_with("H(") && text.ends_with(')') => {
                let inner = self.part(2, text.len() - 1);
                let dash = inner.text.find('-').unwrap_or(inner.text.len());
                let b = inner.from((dash + 1).min(inner.text.len()));
                (inner.until(dash).value()?, b.value()?)
            }
            _ => return Err(self.refuse("H, H/step, H(a-b) or H(a-b)/step")),
        };
        if a > b {
            return Err(self.refuse("H(a-b) with a not above b"));
        }
        let width = step.unwrap_or(u16::MAX).min(b - a + 1);
        let drawn = spread::draw(self.owner, field.name, u64::from(width)) as u16;
        let all = (a + drawn..=b).step_by(usize::from(step.unwrap_or(u16::MAX)));
        all.for_each(|value| take(field.index(value)));
        Ok(())
    }
}
