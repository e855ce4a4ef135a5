//! Which days of a month an expression means.

use jiff::civil::Date;

use super::error::PlanError;
use super::field::{DAY, Item};

/// Bits 1 to 31 of a month.
pub(super) type DayBits = u32;

/// How the two fields of days go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Neither restricts anything.
    Every,
    ByDate,
    ByWeekday,
    /// Unix: both are restricted, and either suffices.
    Either,
}

/// The fields day-of-month and day-of-week.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Days {
    pub rule: Rule,
    /// `15`: bit 15.
    pub dates: DayBits,
    /// `L-3`: bit 3.
    pub from_last: u32,
    /// `L-3W`: bit 3.
    pub from_last_workday: u32,
    /// `15W`: bit 15.
    pub near_workday: DayBits,
    /// Bit 0 is Sunday.
    pub weekdays: u8,
    /// `FRI#2`: bit 5 of the second.
    pub nth: [u8; 5],
    /// `FRIL`: bit 5.
    pub last_weekdays: u8,
}

impl Days {
    pub fn none() -> Days {
        Days {
            rule: Rule::Every,
            dates: 0,
            from_last: 0,
            from_last_workday: 0,
            near_workday: 0,
            weekdays: 0,
            nth: [0; 5],
            last_weekdays: 0,
        }
    }

    /// One piece of the day-of-month field.
    pub fn take_date(&mut self, item: &Item<'_>) -> Result<(), PlanError> {
        let text = item.text;
        if let Some(rest) = text.strip_prefix('L') {
            let (back, workday) = match rest.strip_suffix('W') {
                Some(back) => (back, true),
                None => (rest, false),
            };
            let n = match back {
                "" => 0,
                _ if back.starts_with('-') => item.until(1 + back.len()).from(2).number(0, 30)?,
                _ => return Err(item.refuse("L, L-3, LW or L-3W")),
            };
            *(if workday {
                &mut self.from_last_workday
            } else {
                &mut self.from_last
            }) |= 1 << n;
        } else if let Some(day) = text.strip_suffix('W') {
            let n = item.until(day.len()).number(DAY.low, DAY.high);
            self.near_workday |=
                1 << n.map_err(|_| item.refuse("a day before the W, as in 15W"))?;
        } else {
            item.values(&mut |value| self.dates |= 2 << value)?;
        }
        Ok(())
    }

    /// One piece of the day-of-week field.
    pub fn take_weekday(&mut self, item: &Item<'_>) -> Result<(), PlanError> {
        let text = item.text;
        let one = |item: Item<'_>| {
            let mut bit = 0u8;
            item.value()?;
            item.values(&mut |value| bit |= 1 << value).map(|()| bit)
        };
        if let Some(at) = text.find('#') {
            let n = item.from(at + 1).number(1, 5)?;
            self.nth[usize::from(n) - 1] |= one(item.until(at))?;
        } else if text == "L" && item.field.low == 1 {
            // Quartz: the last day of the week.
            self.weekdays |= 1 << 6;
        } else if let Some(day) = text.strip_suffix('L') {
            let day = one(item.until(day.len()));
            self.last_weekdays |= day.map_err(|_| item.refuse("a day before the L, as in FRIL"))?;
        } else {
            item.values(&mut |value| self.weekdays |= 1 << value)?;
        }
        Ok(())
    }

    /// The days of a month that are meant.
    pub fn of(&self, month: Month) -> DayBits {
        match self.rule {
            Rule::Every => month.all(),
            Rule::ByDate => self.by_date(month),
            Rule::ByWeekday => self.by_weekday(month),
            Rule::Either => self.by_date(month) | self.by_weekday(month),
        }
    }

    fn by_date(&self, month: Month) -> DayBits {
        let mut days = self.dates & month.all();
        for back in bits(self.from_last) {
            days |= month.counted_back(back).map_or(0, |day| 1 << day);
        }
        for back in bits(self.from_last_workday) {
            let day = month.counted_back(back);
            days |= day.map_or(0, |day| 1 << month.nearest_workday(day));
        }
        for day in bits(self.near_workday & month.all()) {
            days |= 1 << month.nearest_workday(day);
        }
        days
    }

    fn by_weekday(&self, month: Month) -> DayBits {
        let mut days = month.weekdays(self.weekdays);
        for (n, weekdays) in self.nth.iter().enumerate() {
            let weeks = 0xfe << (7 * n);
            days |= month.weekdays(*weekdays) & weeks as u32;
        }
        for weekday in bits(u32::from(self.last_weekdays)) {
            let all = month.weekdays(1 << weekday);
            days |= 1 << all.ilog2();
        }
        days
    }
}

/// Which bits are set.
pub(super) fn bits(mut set: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let lowest = (set != 0).then(|| set.trailing_zeros());
        set &= set.wrapping_sub(1);
        lowest
    })
}

/// How long a month is and on which weekday it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Month {
    length: u32,
    /// 0 is Sunday.
    first: u32,
}

impl Month {
    /// Of a year and a month that exist.
    pub fn new(year: i16, month: i8) -> Month {
        let first = Date::new(year, month, 1).expect("a month of the calendar");
        Month {
            length: first.days_in_month() as u32,
            first: first.weekday().to_sunday_zero_offset() as u32,
        }
    }

    pub fn all(self) -> DayBits {
        ((1u64 << (self.length + 1)) - 2) as u32
    }

    /// All days of these weekdays; bit 0 is Sunday.
    pub fn weekdays(self, weekdays: u8) -> DayBits {
        /// Every seventh day, the first included.
        const WEEKLY: u64 = 1 | 1 << 7 | 1 << 14 | 1 << 21 | 1 << 28;
        let days = bits(u32::from(weekdays))
            .map(|weekday| WEEKLY << (1 + (weekday + 7 - self.first) % 7))
            .fold(0, |all, days| all | days);
        days as u32 & self.all()
    }

    fn counted_back(self, back: u32) -> Option<u32> {
        self.length.checked_sub(back).filter(|day| *day > 0)
    }

    /// The working day that is nearest to a day, in the same month.
    fn nearest_workday(self, day: u32) -> u32 {
        match (self.first + day - 1) % 7 {
            6 if day == 1 => 3,
            6 => day - 1,
            0 if day == self.length => day - 2,
            0 => day + 1,
            _ => day,
        }
    }
}
