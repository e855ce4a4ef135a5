//! A circuit breaker: a target that fails is left alone for a while, and tried again with care.
//!
//! ```text
//!            share of failures in the window ≥ share, of at least so many calls
//!   closed ────────────────────────────────────────────────────────────────────► open
//!     ▲                                                                          │ after its time,
//!     │ every probe went well                            one probe failed        ▼ which doubles
//!     └───────────────────────────────── half-open ◄─────────────────────────────┘
//!                                            └──────────── open, for twice as long
//! ```
//!
//! Pure: instants of the steady clock come in, and nothing else does. What waits at an open
//! breaker waits; nothing fails because of it.

use std::time::Duration;

use crate::bugs::{self, Bug};

/// How a breaker judges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerSettings {
    /// Opens when this share of the calls in the window failed, in percent; 0: never.
    pub percent: u32,
    /// …of at least so many calls.
    pub least: u32,
    pub window: Duration,
    /// How long it is open first; each time it opens again without having closed, twice as long.
    pub open: Duration,
    pub open_max: Duration,
    /// Calls at once while half-open, and how many must go well to close it.
    pub probes: u32,
}

impl Default for BreakerSettings {
    fn default() -> BreakerSettings {
        BreakerSettings {
            percent: 50,
            least: 20,
            window: Duration::from_secs(10),
            open: Duration::from_secs(1),
            open_max: Duration::from_secs(15),
            probes: 3,
        }
    }
}

/// Parts of the window; the oldest leaves as a whole.
const PARTS: usize = 10;

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    Open {
        /// On the steady clock.
        until: Duration,
    },
    HalfOpen,
}

impl BreakerState {
    /// As the API names it.
    pub const fn name(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::Open { .. } => "open",
            BreakerState::HalfOpen => "half_open",
        }
    }
}

/// Says to which run of a state a call belongs: results of calls from before count for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ticket(u32);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    state: BreakerState,
    run: Ticket,
    /// Good and failed calls, by part of the window.
    parts: [(u64, u32, u32); PARTS],
    /// How often it opened since it was closed last.
    opened: u32,
    probing: u32,
    good: u32,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker {
            state: BreakerState::Closed,
            run: Ticket(0),
            parts: [(0, 0, 0); PARTS],
            opened: 0,
            probing: 0,
            good: 0,
        }
    }
}

impl Breaker {
    pub fn state(&self) -> BreakerState {
        self.state
    }

    /// Whether one more call may begin, besides so many that are about to.
    pub fn lets_through(&self, settings: &BreakerSettings, about_to: u32) -> bool {
        match self.state {
            BreakerState::Closed => true,
            BreakerState::Open { .. } => false,
            BreakerState::HalfOpen => self.probing + about_to < settings.probes.max(1),
        }
    }

    /// Becomes half-open when its time has come; true if it did.
    pub fn poll(&mut self, now: Duration) -> bool {
        match self.state {
            BreakerState::Open { until } if until <= now => {
                self.enter(BreakerState::HalfOpen);
                true
            }
            _ => false,
        }
    }

    /// A call begins.
    pub fn begin(&mut self) -> Ticket {
        self.probing += u32::from(self.state == BreakerState::HalfOpen);
        self.run
    }

    /// A call has ended, well (`Some(true)`), badly, or so that it tells nothing. True when it
    /// changed what is let through.
    pub fn end(
        &mut self,
        settings: &BreakerSettings,
        ticket: Ticket,
        went: Option<bool>,
        now: Duration,
    ) -> bool {
        if ticket != self.run || settings.percent == 0 {
            return false;
        }
        match (self.state, went) {
            (BreakerState::Closed, Some(well)) => {
                self.count(settings, well, now);
                let (calls, failed) = self.counted(settings, now);
                let share =
                    u64::from(failed) * 100 >= u64::from(settings.percent) * u64::from(calls);
                let trips = !well && calls >= settings.least.max(1) && share;
                let trips = trips && !bugs::on(Bug::BreakerNeverOpens);
                if trips {
                    self.open(settings, now);
                }
                trips
            }
            (BreakerState::HalfOpen, went) => {
                self.probing = self.probing.saturating_sub(1);
                match went {
                    Some(true) => self.good += 1,
                    Some(false) => self.open(settings, now),
                    None => {}
                }
                if self.good >= settings.probes.max(1) {
                    self.opened = 0;
                    self.enter(BreakerState::Closed);
                }
                true
            }
            _ => false,
        }
    }

    /// Calls in the window, and how many of them failed.
    pub fn counted(&self, settings: &BreakerSettings, now: Duration) -> (u32, u32) {
        let oldest = part(settings, now).saturating_sub(PARTS as u64 - 1);
        let inside = self.parts.iter().filter(|(at, ..)| *at >= oldest);
        inside.fold((0, 0), |(calls, failed), (_, good, bad)| {
            (calls + good + bad, failed + bad)
        })
    }

    fn count(&mut self, settings: &BreakerSettings, well: bool, now: Duration) {
        let at = part(settings, now);
        let slot = &mut self.parts[(at % PARTS as u64) as usize];
        if slot.0 != at {
            *slot = (at, 0, 0);
        }
        match well {
            true => slot.1 = slot.1.saturating_add(1),
            false => slot.2 = slot.2.saturating_add(1),
        }
    }

    fn open(&mut self, settings: &BreakerSettings, now: Duration) {
        let doubled = settings.open.saturating_mul(1u32 << self.opened.min(20));
        let until = now.saturating_add(doubled.min(settings.open_max.max(settings.open)));
        self.opened = self.opened.saturating_add(1);
        self.enter(BreakerState::Open { until });
    }

    fn enter(&mut self, state: BreakerState) {
        self.state = state;
        self.run = Ticket(self.run.0.wrapping_add(1));
        self.parts = [(0, 0, 0); PARTS];
        (self.probing, self.good) = (0, 0);
    }
}

/// The number of a part of the window; the first is 1, so that 0 is "never".
fn part(settings: &BreakerSettings, now: Duration) -> u64 {
    let length = (settings.window.as_millis() as u64 / PARTS as u64).max(1);
    now.as_millis() as u64 / length + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: BreakerSettings = BreakerSettings {
        percent: 50,
        least: 4,
        window: Duration::from_secs(10),
        open: Duration::from_secs(2),
        open_max: Duration::from_secs(5),
        probes: 2,
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn call(breaker: &mut Breaker, well: bool, now: Duration) -> bool {
        assert!(breaker.lets_through(&S, 0));
        let ticket = breaker.begin();
        breaker.end(&S, ticket, Some(well), now)
    }

    fn tripped(now: Duration) -> Breaker {
        let mut breaker = Breaker::default();
        (0..4).for_each(|_| {
            call(&mut breaker, false, now);
        });
        breaker
    }

    #[test]
    fn a_share_of_enough_calls_within_the_window_opens_it() {
        let mut breaker = Breaker::default();
        assert!(!(0..3).any(|_| call(&mut breaker, false, at(1))), "too few");
        assert!(!call(&mut breaker, true, at(12)), "the failures have left");
        assert!(!(0..2).any(|_| call(&mut breaker, true, at(12))));
        assert!(!(0..2).any(|_| call(&mut breaker, false, at(13))), "2 of 5");
        assert!(call(&mut breaker, false, at(13)), "3 of 6");
        assert_eq!(breaker.state(), BreakerState::Open { until: at(15) });
        assert!(!breaker.lets_through(&S, 0) && !breaker.poll(at(14)));
        assert!(breaker.poll(at(15)) && breaker.lets_through(&S, 0));
    }

    #[test]
    fn it_closes_when_all_probes_go_well_and_opens_for_longer_when_one_does_not() {
        let mut breaker = tripped(at(0));
        for (now, until) in [(2, 6), (6, 11), (11, 16)] {
            assert!(breaker.poll(at(now)));
            assert!(call(&mut breaker, false, at(now)));
            let open = BreakerState::Open { until: at(until) };
            assert_eq!(breaker.state(), open, "2, 4, 5, 5 s");
        }
        breaker.poll(at(16));
        let (one, two) = (breaker.begin(), breaker.begin());
        assert!(!breaker.lets_through(&S, 0), "two probes at once");
        breaker.end(&S, one, Some(true), at(17));
        assert!(breaker.lets_through(&S, 0));
        breaker.end(&S, two, Some(true), at(17));
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(breaker.counted(&S, at(17)), (0, 0));
        (0..4).for_each(|_| {
            call(&mut breaker, false, at(18));
        });
        let again = BreakerState::Open { until: at(20) };
        assert_eq!(breaker.state(), again, "it begins anew");
    }

    #[test]
    fn calls_from_before_and_calls_that_tell_nothing_do_not_count() {
        let mut breaker = Breaker::default();
        let before = breaker.begin();
        (0..4).for_each(|_| {
            call(&mut breaker, false, at(0));
        });
        breaker.poll(at(2));
        assert!(!breaker.end(&S, before, Some(false), at(2)));
        let probe = breaker.begin();
        breaker.end(&S, probe, None, at(2));
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        let off = BreakerSettings { percent: 0, ..S };
        let mut never = Breaker::default();
        for _ in 0..100 {
            let ticket = never.begin();
            assert!(!never.end(&off, ticket, Some(false), at(0)));
        }
    }

    proptest! {
        #![proptest_config(crate::thorough::cases(300))]

        /// Whatever happens: probes are bounded, what is open becomes half-open in bounded time,
        /// and a target that is well again is called without limits in the end.
        #[test]
        fn it_never_stays_shut(steps in prop::collection::vec((0u8..4, any::<bool>(), 0u64..3_000), 0..200)) {
            let (mut breaker, mut now) = (Breaker::default(), Duration::ZERO);
            let mut flying: Vec<(Ticket, Duration)> = Vec::new();
            for (what, well, pass) in steps {
                now += Duration::from_millis(pass);
                match what {
                    0 => {
                        breaker.poll(now);
                    }
                    1 if breaker.lets_through(&S, 0) => flying.push((breaker.begin(), now)),
                    _ if !flying.is_empty() => {
                        let (ticket, _) = flying.remove(pass as usize % flying.len());
                        let went = (what != 3).then_some(well);
                        breaker.end(&S, ticket, went, now);
                    }
                    _ => {}
                }
                if let BreakerState::Open { until } = breaker.state() {
                    prop_assert!(until <= now + S.open_max);
                }
                prop_assert!(breaker.probing <= S.probes);
            }
            for (ticket, _) in flying {
                breaker.end(&S, ticket, None, now);
            }
            now += S.open_max;
            breaker.poll(now);
            for _ in 0..S.probes {
                prop_assert!(breaker.lets_through(&S, 0));
                let ticket = breaker.begin();
                breaker.end(&S, ticket, Some(true), now);
            }
            prop_assert_eq!(breaker.state(), BreakerState::Closed);
        }
    }
}
