//! The real clock: the only place that reads it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::bugs::{self, Bug};
use crate::model::{Clock, Time};

/// A wall clock that moves by more than this against the steady one has jumped.
const JUMP_US: u64 = 500_000;
/// A jump is believed after so long. Until then time goes on as if nothing had happened, and the
/// other nodes have the chance to say that this clock is wrong.
const BELIEVED_AFTER: Duration = Duration::from_secs(3);

/// The machine's clocks.
///
/// The wall clock is read anew each time, but a jump is not believed at once: a clock that is
/// suddenly an hour ahead must not fire the future. A node that is alone believes it in the end,
/// because nobody can tell it otherwise.
pub struct SystemClock {
    read: Reader,
    jump: Mutex<Guard>,
}

/// What a machine's clocks say: the wall clock in microseconds since 1970, and the steady one.
type Reader = Box<dyn Fn() -> (u64, Duration) + Send + Sync>;

/// Wall and steady as they last agreed.
struct Guard {
    wall_us: u64,
    steady: Duration,
    jumped: Option<Duration>,
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::of(|| (wall_us(), steady()))
    }
}

impl SystemClock {
    /// The clock of a machine that is simulated.
    pub fn of(read: impl Fn() -> (u64, Duration) + Send + Sync + 'static) -> SystemClock {
        let (wall_us, steady) = read();
        let guard = Guard {
            wall_us,
            steady,
            jumped: None,
        };
        SystemClock {
            read: Box::new(read),
            jump: Mutex::new(guard),
        }
    }
}

impl Guard {
    /// The instant to go by, given what both clocks say.
    fn read(&mut self, wall_us: u64, steady: Duration) -> u64 {
        let elapsed = steady.saturating_sub(self.steady).as_micros() as u64;
        let expected = self.wall_us + elapsed;
        if wall_us.abs_diff(expected) > JUMP_US {
            let since = *self.jumped.get_or_insert(steady);
            if steady.saturating_sub(since) < BELIEVED_AFTER && !bugs::on(Bug::ClockBelieved) {
                return expected;
            }
            tracing::warn!(
                "the wall clock jumped by {} ms; going by it from now on",
                (wall_us as i64 - expected as i64) / 1_000
            );
        }
        *self = Guard {
            wall_us,
            steady,
            jumped: None,
        };
        wall_us
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Time {
        Time(self.wall_us() / 1_000)
    }

    fn wall_us(&self) -> u64 {
        let mut guard = self.jump.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall_us, steady) = (self.read)();
        guard.read(wall_us, steady)
    }

    fn raw_us(&self) -> u64 {
        (self.read)().0
    }

    fn steady(&self) -> Duration {
        (self.read)().1
    }
}

#[allow(clippy::disallowed_methods)] // This is the file that the ban points to.
fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |duration| duration.as_micros() as u64)
}

fn steady() -> Duration {
    let now = rustix::time::clock_gettime(STEADY);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Counts the time a machine is suspended, where the system has such a clock.
#[cfg(target_os = "linux")]
const STEADY: rustix::time::ClockId = rustix::time::ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const STEADY: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: u64 = 3_600_000_000;

    fn guard() -> Guard {
        Guard {
            wall_us: 10 * HOUR_US,
            steady: Duration::from_secs(100),
            jumped: None,
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(100 + seconds)
    }

    #[test]
    fn small_steps_are_followed() {
        let mut guard = guard();
        assert_eq!(
            guard.read(10 * HOUR_US + 1_200_000, at(1)),
            10 * HOUR_US + 1_200_000
        );
        assert_eq!(
            guard.read(10 * HOUR_US + 1_800_000, at(2)),
            10 * HOUR_US + 1_800_000
        );
    }

    #[test]
    fn a_jump_is_not_believed_at_once_but_in_the_end() {
        for jumped in [11 * HOUR_US, 9 * HOUR_US] {
            let mut guard = guard();
            assert_eq!(guard.read(jumped, at(1)), 10 * HOUR_US + 1_000_000);
            assert_eq!(
                guard.read(jumped + 2_900_000, at(3)),
                10 * HOUR_US + 3_000_000
            );
            assert_eq!(guard.read(jumped + 3_000_000, at(4)), jumped + 3_000_000);
        }
    }

    #[test]
    fn a_jump_that_is_taken_back_leaves_no_trace() {
        let mut guard = guard();
        guard.read(11 * HOUR_US, at(1));
        assert_eq!(
            guard.read(10 * HOUR_US + 2_000_000, at(2)),
            10 * HOUR_US + 2_000_000
        );
        assert!(guard.jumped.is_none());
    }
}
