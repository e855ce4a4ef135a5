//! Submits in turn: deficit round robin over applications, a bounded share of the waiting room for
//! each, and a rate for those that have one.
//!
//! Whoever waits alone may fill half of the room; each of n that wait gets an equal part of what
//! the others leave (the dynamic threshold of shared buffers), so one application that submits
//! many times what the log can take finds its own part full, and others find room. Turns are
//! counted in bytes, because that is what an entry is filled with.
//!
//! Pure: instants of the steady clock come in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::model::Span;

/// Bytes that an application may put into entries before the next one has its turn.
const QUANTUM: usize = 32 << 10;
/// Rates of so many applications are remembered; beyond that all begin anew.
const RATES_MAX: usize = 10_000;

/// What one request takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub events: usize,
    pub bytes: usize,
}

impl Size {
    pub fn add(&mut self, other: Size) {
        self.events += other.events;
        self.bytes += other.bytes;
    }

    pub fn sub(&mut self, other: Size) {
        self.events -= other.events;
        self.bytes -= other.bytes;
    }
}

/// Why a request may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The application's part of the room.
    Room,
    /// It submits faster than it may.
    Rate { retry_after: Span },
}

struct Lane<T> {
    waiting: VecDeque<(Size, T)>,
    size: Size,
    deficit: usize,
}

/// See the module.
pub(super) struct Turns<T> {
    lanes: BTreeMap<Arc<str>, Lane<T>>,
    /// Applications that wait, in turn.
    ring: VecDeque<Arc<str>>,
    size: Size,
    max: Size,
    /// Events a second for each application; 0: as many as there is room for.
    rate: u32,
    /// Events that an application may submit at once, and when that was so.
    rates: BTreeMap<Arc<str>, (f64, Duration)>,
}

impl<T> Turns<T> {
    pub fn new(max: Size, rate: u32) -> Turns<T> {
        Turns {
            lanes: BTreeMap::new(),
            ring: VecDeque::new(),
            size: Size::default(),
            max,
            rate,
            rates: BTreeMap::new(),
        }
    }

    /// Lets a request wait for its turn, or says why not. A request that is alone always may.
    pub fn push(&mut self, app: &Arc<str>, size: Size, item: T, now: Duration) -> Result<(), Full> {
        let own = self
            .lanes
            .get(app)
            .map_or(Size::default(), |lane| lane.size);
        // An application's part is what is left besides it.
        let fits = |own: usize, more: usize, all: usize, max: usize| {
            own + more <= max.saturating_sub(all) && all + more <= max
        };
        let room = fits(own.events, size.events, self.size.events, self.max.events)
            && fits(own.bytes, size.bytes, self.size.bytes, self.max.bytes);
        if !room && self.size.events > 0 {
            return Err(Full::Room);
        }
        self.spend(app, size.events, now)?;
        let lane = self.lanes.entry(app.clone()).or_insert_with(|| {
            self.ring.push_back(app.clone());
            Lane {
                waiting: VecDeque::new(),
                size: Size::default(),
                deficit: 0,
            }
        });
        lane.waiting.push_back((size, item));
        lane.size.add(size);
        self.size.add(size);
        Ok(())
    }

    /// A bucket that holds a second's worth; a request that is larger leaves it in debt.
    fn spend(&mut self, app: &Arc<str>, events: usize, now: Duration) -> Result<(), Full> {
        if self.rate == 0 {
            return Ok(());
        }
        let rate = f64::from(self.rate);
        if self.rates.len() >= RATES_MAX && !self.rates.contains_key(app) {
            self.rates.clear();
        }
        let (left, at) = self.rates.entry(app.clone()).or_insert((rate, now));
        let passed = now.saturating_sub(*at).as_secs_f64();
        (*left, *at) = ((*left + passed * rate).min(rate), now);
        if *left < 1.0 {
            let millis = ((1.0 - *left) / rate * 1000.0).ceil() as u64;
            return Err(Full::Rate {
                retry_after: Span(millis.max(1)),
            });
        }
        *left -= events as f64;
        Ok(())
    }

    /// The next request in turn, if what it takes fits; a turn that has come stays until it does.
    pub fn next(&mut self, fits: impl Fn(Size) -> bool) -> Option<T> {
        loop {
            let app = self.ring.front()?.clone();
            let lane = self.lanes.get_mut(&app)?;
            let size = lane.waiting.front().map(|(size, _)| *size)?;
            if lane.deficit < size.bytes {
                lane.deficit += QUANTUM;
                // Alone, or large: it has its turn when it has been passed over often enough.
                self.ring.rotate_left(1);
                continue;
            }
            if !fits(size) {
                return None;
            }
            let item = lane.waiting.pop_front()?;
            lane.deficit -= size.bytes;
            lane.size.sub(size);
            self.size.sub(size);
            if lane.waiting.is_empty() {
                self.lanes.remove(&app);
                self.ring.pop_front();
            }
            return Some(item.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Duration = Duration::from_secs(10);
    const MAX: Size = Size {
        events: 1_000,
        bytes: 1 << 30,
    };

    fn size(events: usize, bytes: usize) -> Size {
        Size { events, bytes }
    }

    fn drain(turns: &mut Turns<char>, most: usize) -> String {
        std::iter::from_fn(|| turns.next(|_| true))
            .take(most)
            .collect()
    }

    #[test]
    fn applications_take_turns_by_bytes() {
        let mut turns = Turns::new(MAX, 0);
        let (hot, cold) = ("hot".into(), "cold".into());
        for _ in 0..100 {
            turns.push(&hot, size(1, QUANTUM), 'h', NOW).unwrap();
        }
        for _ in 0..4 {
            turns.push(&cold, size(1, QUANTUM / 2), 'c', NOW).unwrap();
        }
        assert_eq!(drain(&mut turns, 8), "hcchcchh");
    }

    #[test]
    fn one_that_floods_finds_its_part_full_and_others_find_room() {
        let mut turns = Turns::new(MAX, 0);
        let hot: Arc<str> = "hot".into();
        let taken = (0..2_000).filter(|_| turns.push(&hot, size(1, 1), 'h', NOW).is_ok());
        assert_eq!(taken.count(), 500);
        for n in 0..10 {
            let cold: Arc<str> = format!("cold-{n}").into();
            for _ in 0..20 {
                turns.push(&cold, size(1, 1), 'c', NOW).unwrap();
            }
        }
        assert_eq!(turns.push(&hot, size(1, 1), 'h', NOW), Err(Full::Room));
        assert_eq!(drain(&mut turns, 1_000).len(), 700);
        let large = size(5_000, 1 << 31);
        turns.push(&hot, large, 'h', NOW).unwrap();
        assert_eq!(drain(&mut turns, 9), "h", "one that is alone always may");
    }

    #[test]
    fn a_rate_is_kept_and_says_when_to_come_back() {
        let mut turns = Turns::new(MAX, 100);
        let (a, b) = ("a".into(), "b".into());
        turns.push(&a, size(140, 1), 'a', NOW).unwrap();
        let again = turns.push(&a, size(1, 1), 'a', NOW);
        assert_eq!(
            again,
            Err(Full::Rate {
                retry_after: Span(410)
            })
        );
        turns.push(&b, size(1, 1), 'b', NOW).unwrap();
        let later = NOW + Duration::from_millis(410);
        turns.push(&a, size(1, 1), 'a', later).unwrap();
        assert!(turns.push(&a, size(1, 1), 'a', later).is_err());
    }

    proptest! {
        #![proptest_config(crate::thorough::cases(200))]

        /// Over any stretch in which two applications both wait, neither gets ahead of the other
        /// by more than a quantum and one request.
        #[test]
        fn nobody_gets_ahead_by_more_than_a_turn(
            sizes in prop::collection::vec((any::<bool>(), 1usize..80_000), 1..200),
        ) {
            let mut turns = Turns::new(size(10_000, 1 << 40), 0);
            let names: [Arc<str>; 2] = ["a".into(), "b".into()];
            let mut left = [0usize; 2];
            for (which, bytes) in &sizes {
                let which = usize::from(*which);
                turns.push(&names[which], size(1, *bytes), (which, *bytes), NOW).unwrap();
                left[which] += 1;
            }
            let mut got = [0isize; 2];
            while left.iter().all(|left| *left > 0) {
                let (which, bytes) = turns.next(|_| true).unwrap();
                got[which] += bytes as isize;
                left[which] -= 1;
                let ahead = (got[0] - got[1]).unsigned_abs();
                prop_assert!(ahead <= 2 * QUANTUM + 80_000, "{ahead}");
            }
            let rest = std::iter::from_fn(|| turns.next(|_| true)).count();
            prop_assert_eq!(rest, left.iter().sum::<usize>());
            prop_assert_eq!(turns.size, Size::default());
        }
    }
}
