//! Numbers for the metrics page, from the floors that count them.

use crate::api::AccessLog;
use crate::api::metrics::{BreakerNumbers, DutyNumbers, Histogram, Numbers};
use crate::executor::Executor;
use crate::raft::{Cluster, Counted, DURATION_BOUNDS, Duty};

/// Reads everything once.
pub(super) fn read(cluster: &Cluster, executor: &Executor, access: Option<&AccessLog>) -> Numbers {
    let attempts = executor.metrics();
    let log = cluster.log_status();
    let (tasks, apply_index) = cluster.state().read(|s| (s.stats(None), s.applied()));
    // A store that cannot be read says so to whoever needs it.
    let past = cluster.state().read(|s| s.past_size()).unwrap_or_default();
    Numbers {
        lateness: parted(&attempts.lateness),
        commit: timed(&cluster.commits()),
        fold_wait: timed(&cluster.fold_waits()),
        fold: timed(&cluster.folds()),
        tasks,
        attempts: attempts.results.labelled().to_vec(),
        apply_index,
        checkpoint_index: cluster.checkpoint(),
        checkpoint_age_seconds: cluster.checkpoint_age().as_secs(),
        log_bytes: log.bytes,
        log_entries: log.entries,
        scrub_passes: cluster.scrubbed().passes,
        scrub_findings: cluster.scrubbed().findings,
        scrub_bytes: cluster.scrubbed().bytes,
        scrub_age_seconds: cluster.scrub_age().as_secs(),
        history_tasks: past.tasks,
        history_bytes: past.bytes,
        duties: Duty::ALL.into_iter().map(|d| duty(cluster, d)).collect(),
        targets: targets(executor),
        paused_apps: cluster.state().read(|s| s.paused_apps().count() as u64),
        disk_free_bytes: cluster.disk().0,
        disk_low: cluster.disk().1,
        certificate_ends: None,
        access_lines_dropped: access.map_or(0, |log| log.dropped() as u64),
    }
}

fn timed(counted: &Counted) -> Histogram {
    Histogram {
        buckets: DURATION_BOUNDS.into_iter().zip(counted.buckets).collect(),
        above: counted.buckets[DURATION_BOUNDS.len()],
        sum: counted.sum,
    }
}

/// How many targets there are by the state of their breaker, and what waits there.
fn targets(executor: &Executor) -> Vec<BreakerNumbers> {
    let seen = executor.targets();
    ["closed", "half_open", "open"]
        .into_iter()
        .map(|name| {
            let mut numbers = BreakerNumbers {
                state: name,
                targets: 0,
                queued: 0,
            };
            for target in seen.iter().filter(|target| target.breaker.name() == name) {
                numbers.targets += 1;
                numbers.queued += target.queued as u64;
            }
            numbers
        })
        .collect()
}

fn duty(cluster: &Cluster, duty: Duty) -> DutyNumbers {
    let tally = cluster.tally(duty);
    DutyNumbers {
        name: duty.name(),
        runs: tally.runs,
        tasks: tally.handled,
        age_seconds: tally.age().map(|age| age.as_secs_f64()),
        took_seconds: tally.took.as_secs_f64(),
    }
}

/// The executor counts cumulatively, up to infinity; the page wants each bucket's own count.
fn parted(histogram: &crate::executor::Histogram) -> Histogram {
    let mut before = 0;
    let finite = histogram
        .buckets
        .iter()
        .filter(|(bound, _)| bound.is_finite());
    let buckets = finite
        .map(|(bound, count)| {
            let own = count.saturating_sub(before);
            before = *count;
            (*bound, own)
        })
        .collect();
    Histogram {
        buckets,
        above: histogram.count.saturating_sub(before),
        sum: histogram.sum,
    }
}
