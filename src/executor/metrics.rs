//! Counters, kept as plain atomics; whoever serves metrics reads them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Result {
    Done,
    Accepted,
    FailedStatus,
    Timeout,
    Connect,
    Denied,
    Broken,
    Expired,
    Stale,
    Away,
    Lost,
}

const RESULTS: usize = 11;

/// Upper bounds of the lateness buckets, in microseconds: 0.1 ms to 60 s.
pub const LATENESS_BOUNDS_US: [u64; 18] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
const BUCKETS: usize = LATENESS_BOUNDS_US.len() + 1;

/// Attempts by result since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub done: u64,
    pub accepted: u64,
    /// An answer that is no success, or an error of a handler.
    pub failed_status: u64,
    pub timeout: u64,
    /// No connection.
    pub connect: u64,
    /// Refused by the guard.
    pub denied: u64,
    /// The exchange broke, or the task could not be read.
    pub broken: u64,
    /// Came up after `expires_at`.
    pub expired: u64,
    /// Came up and was no longer current: nothing was called.
    pub stale: u64,
    /// Another node carried it out; how it ended is counted there.
    pub away: u64,
    /// The node that was to carry it out did not answer: it was handed out again.
    pub lost: u64,
}

impl Counts {
    /// With the label that each has in the metrics.
    pub fn labelled(&self) -> [(&'static str, u64); RESULTS] {
        [
            ("done", self.done),
            ("accepted", self.accepted),
            ("failed_status", self.failed_status),
            ("timeout", self.timeout),
            ("connect", self.connect),
            ("denied", self.denied),
            ("broken", self.broken),
            ("expired", self.expired),
            ("stale", self.stale),
            ("away", self.away),
            ("lost", self.lost),
        ]
    }
}

/// How long after its instant each attempt began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// (upper bound in seconds, attempts up to it); the last bound is infinite. Cumulative, as
    /// OpenMetrics wants it.
    pub buckets: Vec<(f64, u64)>,
    /// Seconds in all.
    pub sum: f64,
    pub count: u64,
}

/// What the executor says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExecutorMetrics {
    pub results: Counts,
    pub lateness: Histogram,
    /// References waiting for their instant.
    pub held: usize,
    /// References waiting for a permit.
    pub queued: usize,
    /// Calls that hold a permit.
    pub in_flight: usize,
}

#[derive(Default)]
pub(super) struct Metrics {
    results: [AtomicU64; RESULTS],
    lateness: [AtomicU64; BUCKETS],
    late_us: AtomicU64,
}

impl Metrics {
    pub fn count(&self, result: Result) {
        self.results[result as usize].fetch_add(1, Relaxed);
    }

    pub fn late(&self, us: u64) {
        let bucket = LATENESS_BOUNDS_US.partition_point(|bound| *bound < us);
        self.lateness[bucket].fetch_add(1, Relaxed);
        self.late_us.fetch_add(us, Relaxed);
    }

    pub fn read(&self, held: usize, queued: usize, in_flight: usize) -> ExecutorMetrics {
        let of = |result: Result| self.results[result as usize].load(Relaxed);
        ExecutorMetrics {
            results: Counts {
                done: of(Result::Done),
                accepted: of(Result::Accepted),
                failed_status: of(Result::FailedStatus),
                timeout: of(Result::Timeout),
                connect: of(Result::Connect),
                denied: of(Result::Denied),
                broken: of(Result::Broken),
                expired: of(Result::Expired),
                stale: of(Result::Stale),
                away: of(Result::Away),
                lost: of(Result::Lost),
            },
            lateness: self.read_lateness(),
            held,
            queued,
            in_flight,
        }
    }

    fn read_lateness(&self) -> Histogram {
        let bounds = LATENESS_BOUNDS_US.iter().map(|us| *us as f64 / 1e6);
        let mut count = 0;
        let buckets = bounds
            .chain([f64::INFINITY])
            .zip(&self.lateness)
            .map(|(bound, bucket)| {
                count += bucket.load(Relaxed);
                (bound, count)
            })
            .collect();
        Histogram {
            buckets,
            sum: self.late_us.load(Relaxed) as f64 / 1e6,
            count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_their_bounds_inclusive() {
        let metrics = Metrics::default();
        [100, 101, 70_000_000]
            .into_iter()
            .for_each(|us| metrics.late(us));
        let histogram = metrics.read(0, 0, 0).lateness;
        assert_eq!(histogram.buckets[0], (0.0001, 1));
        assert_eq!(histogram.buckets[1], (0.0002, 2));
        assert_eq!(histogram.buckets[17], (60.0, 2));
        assert_eq!(histogram.buckets[18], (f64::INFINITY, 3));
        assert_eq!(histogram.count, 3);
    }
}
