//! Whether the machine itself was well: a thread that wants nothing but to be woken in time.
//!
//! When it is not, neither are the nodes, and that is no fault of theirs: such a time is written
//! down as the fault `machine`, which nobody installed and which does not count as one.

use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::record::Faults;
use crate::support::now_us;

const NAP: Duration = Duration::from_millis(50);
/// Whoever wakes so much too late was held up.
const STALL: Duration = Duration::from_millis(500);

/// Watches until it is dropped.
pub struct Machine {
    stop: Arc<AtomicBool>,
    worst_ms: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    pub fn watch(faults: Arc<Faults>) -> Machine {
        let stop = Arc::new(AtomicBool::new(false));
        let worst_ms = Arc::new(AtomicU64::new(0));
        let (stops, worst) = (stop.clone(), worst_ms.clone());
        let thread = std::thread::spawn(move || {
            while !stops.load(Ordering::Relaxed) {
                let (from_us, began) = (now_us(), Instant::now());
                std::thread::sleep(NAP);
                let late = began.elapsed().saturating_sub(NAP);
                let late_ms = late.as_millis() as u64;
                worst.fetch_max(late_ms, Ordering::Relaxed);
                if late >= STALL {
                    faults.held_up(from_us, &json!({ "late_ms": late_ms }));
                }
            }
        });
        Machine {
            stop,
            worst_ms,
            thread: Some(thread),
        }
    }

    /// How late it was woken at worst, ms.
    pub fn worst_ms(&self) -> u64 {
        self.worst_ms.load(Ordering::Relaxed)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the watch ends");
        }
    }
}
