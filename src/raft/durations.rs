//! How long something took, counted in buckets: for metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets, in seconds.
pub const DURATION_BOUNDS: [f64; 12] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 4.0,
];
const BUCKETS: usize = DURATION_BOUNDS.len() + 1;

/// Counts durations, from any thread.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

/// What was counted until now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// Up to each of [`DURATION_BOUNDS`], and behind the bound before it; the last is what lay above
    /// them all.
    pub buckets: [u64; BUCKETS],
    /// Of all, in seconds.
    pub sum: f64,
}

impl Durations {
    pub(crate) fn note(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = DURATION_BOUNDS.partition_point(|bound| *bound < seconds);
        self.buckets[at].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(took.as_nanos() as u64, Relaxed);
    }

    pub(crate) fn read(&self) -> Counted {
        Counted {
            buckets: std::array::from_fn(|at| self.buckets[at].load(Relaxed)),
            sum: self.sum_ns.load(Relaxed) as f64 / 1e9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        let durations = Durations::default();
        for micros in [0, 500, 501, 5_000, 5_001, 4_000_000, 4_000_001] {
            durations.note(Duration::from_micros(micros));
        }
        let read = durations.read();
        assert_eq!(read.buckets, [2, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert!((read.sum - 8.011_003).abs() < 1e-6, "{read:?}");
    }
}
