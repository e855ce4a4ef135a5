//! What black-box tests stand on: real processes, an HTTP client, and a receiver that remembers.
//!
//! Nothing here looks into a node; it knows the binary, its command line, HTTP and signals. A test
//! that fails keeps the nodes' directories and logs, and says where they are.

#![allow(dead_code)] // Each test binary uses its part.
#![allow(clippy::disallowed_methods)] // Outside the product there is only the machine's clock.

pub mod agree;
pub mod cluster;
pub mod explained;
pub mod http;
pub mod node;
pub mod receiver;
pub mod schedules;
pub mod told;
pub mod work;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(20);

/// One at a time: whoever measures, or loads the machine, takes this first.
pub fn serial() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    // A test that failed left nothing behind that the next one could stumble over.
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks until there is something, and returns it.
///
/// # Panics
/// When there is nothing within so long; says what was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            start.elapsed() < within,
            "waited {within:?} in vain for: {what}"
        );
        std::thread::sleep(LOOK);
    }
}

/// Lets time pass until an instant of the wall clock: load goes on, or silence is watched.
pub fn pass_until(wall_ms: u64) {
    while let Some(left) = wall_ms.checked_sub(now_ms()).filter(|left| *left > 0) {
        std::thread::sleep(Duration::from_millis(left));
    }
}

/// Lets time pass.
pub fn pass(time: Duration) {
    pass_until(now_ms() + time.as_millis() as u64);
}

/// The wall clock, in milliseconds.
pub fn now_ms() -> u64 {
    now_us() / 1_000
}

/// The wall clock, in microseconds.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
