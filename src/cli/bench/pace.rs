//! Waiting for an instant more finely than a runtime's millisecond: an open loop at thousands a
//! second would else measure its own timer.

use std::io;
use std::time::Duration;
use tokio::time::Instant;

#[cfg(target_os = "linux")]
pub use linux::Pacer;
#[cfg(not(target_os = "linux"))]
pub use portable::Pacer;

#[cfg(target_os = "linux")]
mod linux {
    use super::*;
    use rustix::fd::OwnedFd;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::unix::AsyncFd;

    /// A timer of the kernel's.
    pub struct Pacer {
        timer: AsyncFd<OwnedFd>,
    }

    impl Pacer {
        pub fn new() -> io::Result<Pacer> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            // Deprecated for descriptors that somebody else may close; this one is owned.
            #[allow(deprecated)]
            let timer = AsyncFd::new(timer)?;
            Ok(Pacer { timer })
        }

        /// Returns at the instant, or at once when it has passed.
        pub async fn until(&self, at: Instant) -> io::Result<()> {
            loop {
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(());
                }
                timerfd_settime(
                    self.timer.get_ref(),
                    TimerfdTimerFlags::empty(),
                    &once(left),
                )?;
                let mut ready = self.timer.readable().await?;
                // How often it expired is of no interest, only that it is no longer readable.
                let _ = rustix::io::read(self.timer.get_ref(), &mut [0; 8]);
                ready.clear_ready();
            }
        }
    }

    fn once(left: Duration) -> Itimerspec {
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        Itimerspec {
            it_interval: zero,
            it_value: Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            },
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod portable {
    use super::*;

    /// The runtime's timer, a millisecond coarse.
    pub struct Pacer;

    impl Pacer {
        pub fn new() -> io::Result<Pacer> {
            Ok(Pacer)
        }

        /// Returns at the instant, or at once when it has passed.
        pub async fn until(&self, at: Instant) -> io::Result<()> {
            tokio::time::sleep_until(at).await;
            Ok(())
        }
    }
}

/// When the `n`-th of `rate` events a second is intended, counted from the first.
pub fn offset(n: u64, rate: f64) -> Duration {
    Duration::from_secs_f64(n as f64 / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_never_returns_early() {
        let pacer = Pacer::new().unwrap();
        for micros in [0, 50, 700, 3_000] {
            let at = Instant::now() + Duration::from_micros(micros);
            pacer.until(at).await.unwrap();
            assert!(Instant::now() >= at);
        }
    }

    #[test]
    fn events_are_evenly_spread() {
        assert_eq!(offset(0, 2_000.0), Duration::ZERO);
        assert_eq!(offset(3, 2_000.0), Duration::from_micros(1_500));
    }
}
