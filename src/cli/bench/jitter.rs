//! The floor j: how late a waiting thread wakes up, which no scheduler on this machine can beat.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::time::Instant;

use super::latency::{Micros, micros, note};

/// Between two instants that are waited for.
const GAP: Duration = Duration::from_millis(2);

/// A thread that waits, again and again, until it is asked what it saw.
pub struct Jitter {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Micros>,
}

impl Jitter {
    pub fn start() -> Jitter {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || watch(&stopped));
        Jitter { stop, thread }
    }

    /// How late it woke up; empty if it came to grief.
    pub fn stop(self) -> Micros {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| micros())
    }
}

/// Measures for a while, with nothing else going on in this process.
pub fn measure(span: Duration) -> Micros {
    let jitter = Jitter::start();
    sleep(span);
    jitter.stop()
}

fn watch(stop: &AtomicBool) -> Micros {
    let mut late = micros();
    while !stop.load(Ordering::Relaxed) {
        let at = Instant::now() + GAP;
        sleep(GAP);
        note(&mut late, at.elapsed());
    }
    late
}

#[allow(clippy::disallowed_methods)] // reason: a sleep is what is measured
fn sleep(span: Duration) {
    std::thread::sleep(span);
}
