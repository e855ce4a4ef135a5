//! How many calls at once a target bears: found out, between an eighth of the setting and all of it.
//!
//! Additive increase, multiplicative decrease. It begins with what the setting allows. A call that
//! failed as overload does (a time-out, no connection, 429, 503, a broken answer) halves it; calls
//! that have lately become much slower than they were for long take a tenth off. Both at most once
//! in the time a call takes, because calls under way tell of the same trouble. A target that stays
//! slow without failing is taken as it is, in the end: then that is what its calls take. Good calls add one
//! place for as many calls as there are places, while the places are in use. It never goes below an
//! eighth, so that a few calls that hang do not keep all others from the same host; a target that bears
//! not even that is the breaker's.

use std::time::Duration;

/// Weights of a new latency in the short and the long mean.
const SHORT: f64 = 1.0 / 10.0;
const LONG: f64 = 1.0 / 300.0;
/// Slower than the long mean by this factor…
const SLOWER: f64 = 2.0;
/// …and by this much: below it there is nothing to win.
const SLOWER_BY: Duration = Duration::from_millis(20);
/// Of the setting this part is always left.
const LEAST_PART: f64 = 1.0 / 8.0;
/// Between two decreases at least.
const APART_MIN: Duration = Duration::from_millis(100);

/// How a call went, as far as it tells of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bears {
    Well,
    Overloaded,
    /// It says nothing.
    Unknown,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Places {
    max: f64,
    limit: f64,
    /// Means of the latency, in seconds; 0 before the first.
    short: f64,
    long: f64,
    lowered: Option<Duration>,
}

impl Places {
    pub fn new(max: usize) -> Places {
        let max = max.max(1) as f64;
        Places {
            max,
            limit: max,
            short: 0.0,
            long: 0.0,
            lowered: None,
        }
    }

    /// Calls at once, from an eighth of the setting, but 1 at least, to all of it.
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// A call has ended after `took`, while so many were under way.
    pub fn end(&mut self, bears: Bears, took: Duration, under_way: usize, now: Duration) {
        match bears {
            Bears::Unknown => {}
            Bears::Overloaded => self.lower(0.5, took, now),
            Bears::Well => {
                let took = took.as_secs_f64();
                let mean = |mean: f64, weight: f64| match mean {
                    0.0 => took,
                    mean => mean + weight * (took - mean),
                };
                (self.short, self.long) = (mean(self.short, SHORT), mean(self.long, LONG));
                let slower = self.short > SLOWER * self.long
                    && self.short - self.long > SLOWER_BY.as_secs_f64();
                if slower {
                    self.lower(0.9, Duration::from_secs_f64(self.short), now);
                } else if under_way >= self.limit() {
                    self.limit = (self.limit + 1.0 / self.limit).min(self.max);
                }
            }
        }
    }

    fn lower(&mut self, to: f64, apart: Duration, now: Duration) {
        let apart = apart.max(APART_MIN);
        if self
            .lowered
            .is_some_and(|at| now < at.saturating_add(apart))
        {
            return;
        }
        self.lowered = Some(now);
        let least = (self.max * LEAST_PART).max(1.0);
        self.limit = (self.limit * to).max(least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAKES: Duration = Duration::from_millis(20);

    #[test]
    fn failures_halve_it_once_a_round_and_good_calls_bring_it_back() {
        let mut places = Places::new(64);
        let mut now = Duration::from_secs(1);
        (0..64).for_each(|_| places.end(Bears::Overloaded, TAKES, 64, now));
        assert_eq!(places.limit(), 32, "one round tells of one trouble");
        for _ in 0..10 {
            now += Duration::from_secs(1);
            places.end(Bears::Overloaded, TAKES, 1, now);
        }
        assert_eq!(places.limit(), 8, "an eighth is left");
        (0..100).for_each(|_| places.end(Bears::Well, TAKES, 0, now));
        assert_eq!(places.limit(), 8, "places that nobody uses are not needed");
        let mut calls = 0;
        while places.limit() < 64 {
            places.end(Bears::Well, TAKES, places.limit(), now);
            calls += 1;
        }
        assert!((1_500..3_000).contains(&calls), "{calls}");
    }

    #[test]
    fn a_target_that_slows_down_under_load_gets_less_and_one_that_was_always_slow_does_not() {
        let (mut places, mut now) = (Places::new(64), Duration::ZERO);
        let slow = Duration::from_secs(5);
        for _ in 0..500 {
            now += slow;
            places.end(Bears::Well, slow, 64, now);
        }
        assert_eq!(places.limit(), 64);
        // A receiver that was quick, and now has room for eight: more at once are all slower.
        let mut places = Places::new(64);
        let mut least = 64;
        for n in 0..2_000 {
            let under_way = if n < 300 { 4 } else { places.limit() };
            let took = TAKES * (under_way as u32).div_ceil(8);
            now += took / under_way.max(1) as u32;
            places.end(Bears::Well, took, under_way, now);
            least = least.min(places.limit());
        }
        assert!(least <= 50, "{least}");
    }

    proptest! {
        #![proptest_config(crate::thorough::cases(300))]

        #[test]
        fn it_stays_between_an_eighth_and_the_setting(
            max in 1usize..100,
            calls in prop::collection::vec((0u8..3, 0u64..20_000, 0usize..100), 0..300),
        ) {
            let (mut places, mut now) = (Places::new(max), Duration::ZERO);
            for (how, took, under_way) in calls {
                now += Duration::from_millis(took / 7);
                let bears = [Bears::Well, Bears::Overloaded, Bears::Unknown][how as usize];
                places.end(bears, Duration::from_millis(took), under_way, now);
                prop_assert!(((max / 8).max(1)..=max).contains(&places.limit()));
            }
        }
    }
}
