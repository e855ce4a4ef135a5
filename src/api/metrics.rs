//! The metrics that the contract names, from plain numbers that the floors below count.
//!
//! Those floors know nothing of metrics formats: they hand over [`Numbers`] when somebody looks.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;

use crate::model::{Stage, Time};

/// A histogram's counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// (upper bound in seconds, observations between the bound before and this one), ascending.
    pub buckets: Vec<(f64, u64)>,
    /// Observations above the last bound.
    pub above: u64,
    /// Of all observations, in seconds.
    pub sum: f64,
}

/// A regular duty of this node since its process started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DutyNumbers {
    pub name: &'static str,
    pub runs: u64,
    /// Tasks it moved, handed out, dropped or wrote.
    pub tasks: u64,
    /// Since its last run ended; `None`: it has not run here.
    pub age_seconds: Option<f64>,
    /// What the last run took.
    pub took_seconds: f64,
}

/// The targets of this node whose breaker is in one state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BreakerNumbers {
    pub state: &'static str,
    pub targets: u64,
    /// Due attempts that wait for them.
    pub queued: u64,
}

/// What the metrics show at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Numbers {
    /// Start of an attempt less its due instant.
    pub lateness: Histogram,
    /// From proposal to the answer of the log.
    pub commit: Histogram,
    /// How long entries that could be folded waited for the state.
    pub fold_wait: Histogram,
    /// How long the folds of entries took.
    pub fold: Histogram,
    /// Per stage, indexed as [`Stage::ALL`].
    pub tasks: [u64; 8],
    /// Attempts that ended on this node, by result: `ok`, `accepted`, `failed`…
    pub attempts: Vec<(&'static str, u64)>,
    pub apply_index: u64,
    pub checkpoint_index: u64,
    pub checkpoint_age_seconds: u64,
    /// Of this node's log on disk.
    pub log_bytes: u64,
    /// In this node's log; what was purged is not among them.
    pub log_entries: u64,
    /// Passes of the scrub that ended with nothing found.
    pub scrub_passes: u64,
    pub scrub_findings: u64,
    /// Read in this pass, or in the last one.
    pub scrub_bytes: u64,
    /// Since the last pass ended, or the process started.
    pub scrub_age_seconds: u64,
    /// Retired tasks whose history this node's store holds, and its bytes.
    pub history_tasks: u64,
    pub history_bytes: u64,
    pub duties: Vec<DutyNumbers>,
    pub targets: Vec<BreakerNumbers>,
    pub paused_apps: u64,
    pub disk_free_bytes: u64,
    /// Submits are refused because of it.
    pub disk_low: bool,
    /// When the certificate for peers ends; `None` without TLS.
    pub certificate_ends: Option<Time>,
    /// Access-log lines that a slow disk cost.
    pub access_lines_dropped: u64,
}

/// Where the numbers come from.
pub type Source = Arc<dyn Fn() -> Numbers + Send + Sync>;

/// Registers the metrics; the source is asked at each scrape.
pub fn register(registry: &mut Registry, source: Source) {
    registry.register_collector(Box::new(Metrics(source)));
}

struct Metrics(Source);

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let numbers = (self.0)();
        let late = "Start of an attempt less its due instant";
        histogram(
            &mut encoder,
            "horolog_lateness_seconds",
            late,
            &numbers.lateness,
        )?;
        let commit = "From a proposal to the answer of the log";
        histogram(
            &mut encoder,
            "horolog_commit_seconds",
            commit,
            &numbers.commit,
        )?;
        let wait = "From when an entry could be folded until the state was free for it";
        let name = "horolog_fold_wait_seconds";
        histogram(&mut encoder, name, wait, &numbers.fold_wait)?;
        let fold = "The fold of an entry, with reading what it names";
        histogram(&mut encoder, "horolog_fold_seconds", fold, &numbers.fold)?;
        let mut family = encoder.encode_descriptor(
            "horolog_tasks",
            "Tasks by stage",
            None,
            MetricType::Gauge,
        )?;
        for (stage, count) in Stage::ALL.iter().zip(numbers.tasks) {
            let labels = [("stage", stage.name())];
            ConstGauge::new(signed(count)).encode(family.encode_family(&labels)?)?;
        }
        let help = "Attempts that ended on this node";
        let mut family =
            encoder.encode_descriptor("horolog_attempts", help, None, MetricType::Counter)?;
        for (result, count) in numbers.attempts.iter().copied() {
            let labels = [("result", result)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        let help = "Log index folded last";
        gauge(
            &mut encoder,
            "horolog_apply_index",
            help,
            numbers.apply_index,
        )?;
        let help = "Log index up to which the store holds everything";
        gauge(
            &mut encoder,
            "horolog_checkpoint_index",
            help,
            numbers.checkpoint_index,
        )?;
        let help = "Age of the newest checkpoint, or of the process if it made none";
        gauge(
            &mut encoder,
            "horolog_checkpoint_age_seconds",
            help,
            numbers.checkpoint_age_seconds,
        )?;
        let help = "Bytes of the log on disk, free pages included";
        gauge(&mut encoder, "horolog_log_bytes", help, numbers.log_bytes)?;
        let help = "Entries in the log, those that were purged not among them";
        gauge(
            &mut encoder,
            "horolog_log_entries",
            help,
            numbers.log_entries,
        )?;
        let help = "Age of the newest whole pass of the scrub, or of the process if there was none";
        let age = numbers.scrub_age_seconds;
        gauge(&mut encoder, "horolog_scrub_age_seconds", help, age)?;
        let help = "Bytes that the scrub has read in this pass, or in the last one";
        gauge(
            &mut encoder,
            "horolog_scrub_bytes",
            help,
            numbers.scrub_bytes,
        )?;
        let help = "Passes of the scrub that found nothing";
        let passes = numbers.scrub_passes;
        counter(&mut encoder, "horolog_scrub_passes", help, passes)?;
        let help = "What the scrub has found wrong";
        let findings = numbers.scrub_findings;
        counter(&mut encoder, "horolog_scrub_findings", help, findings)?;
        let help = "Retired tasks whose history is in the store";
        let tasks = numbers.history_tasks;
        gauge(&mut encoder, "horolog_history_tasks", help, tasks)?;
        let help = "Bytes of the histories of retired tasks in the store, its own pages aside";
        let bytes = numbers.history_bytes;
        gauge(&mut encoder, "horolog_history_bytes", help, bytes)?;
        duties(&mut encoder, &numbers.duties)?;
        pressure(&mut encoder, &numbers)?;
        let help = "Access log lines dropped because the disk was slow";
        let name = "horolog_access_lines_dropped";
        counter(&mut encoder, name, help, numbers.access_lines_dropped)
    }
}

fn duties(encoder: &mut DescriptorEncoder<'_>, duties: &[DutyNumbers]) -> fmt::Result {
    let name = "horolog_lifecycle_runs";
    let help = "Runs of a regular duty on this node, by itself or by hand";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for duty in duties {
        ConstCounter::new(duty.runs).encode(family.encode_family(&[("duty", duty.name)])?)?;
    }
    let name = "horolog_lifecycle_tasks";
    let help = "Tasks that a regular duty loaded, handed out again, dropped or wrote";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for duty in duties {
        ConstCounter::new(duty.tasks).encode(family.encode_family(&[("duty", duty.name)])?)?;
    }
    let name = "horolog_lifecycle_last_age_seconds";
    let help = "Since the last run of a regular duty ended; nothing for one that has not run here";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (duty, age) in duties.iter().filter_map(|d| Some((d, d.age_seconds?))) {
        ConstGauge::new(age).encode(family.encode_family(&[("duty", duty.name)])?)?;
    }
    let name = "horolog_lifecycle_last_run_seconds";
    let help = "What the last run of a regular duty took";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for duty in duties {
        let took = ConstGauge::new(duty.took_seconds);
        took.encode(family.encode_family(&[("duty", duty.name)])?)?;
    }
    Ok(())
}

/// What holds calls and submits back.
fn pressure(encoder: &mut DescriptorEncoder<'_>, numbers: &Numbers) -> fmt::Result {
    let name = "horolog_targets";
    let help = "Targets that this node calls or has called lately, by the state of their breaker";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for one in &numbers.targets {
        let count = ConstGauge::new(signed(one.targets));
        count.encode(family.encode_family(&[("breaker", one.state)])?)?;
    }
    let name = "horolog_targets_queued";
    let help = "Due attempts that wait at targets, by the state of their breaker";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for one in &numbers.targets {
        let count = ConstGauge::new(signed(one.queued));
        count.encode(family.encode_family(&[("breaker", one.state)])?)?;
    }
    let help = "Applications that are paused";
    gauge(encoder, "horolog_paused_apps", help, numbers.paused_apps)?;
    let help = "Bytes free on the disk of the data";
    let free = numbers.disk_free_bytes;
    gauge(encoder, "horolog_disk_free_bytes", help, free)?;
    let help = "1 while that is below disk.refuse_below";
    gauge(
        encoder,
        "horolog_disk_low",
        help,
        u64::from(numbers.disk_low),
    )?;
    let Some(ends) = numbers.certificate_ends else {
        return Ok(());
    };
    let name = "horolog_peer_certificate_end_seconds";
    let help = "When this node's certificate for its peers ends, in Unix time";
    gauge(encoder, name, help, ends.0 / 1_000)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(signed(value)).encode(family)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, count: u64) -> fmt::Result {
    let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(count).encode(family)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    histogram: &Histogram,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    let mut buckets = histogram.buckets.clone();
    buckets.push((f64::INFINITY, histogram.above));
    let count = buckets.iter().map(|(_, count)| count).sum();
    family.encode_histogram::<NoLabelSet>(histogram.sum, count, &buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contracts_names_are_there() {
        let numbers = Numbers {
            lateness: Histogram {
                buckets: vec![(0.001, 2), (0.01, 1)],
                above: 1,
                sum: 0.5,
            },
            tasks: [5, 0, 0, 0, 0, 7, 0, 0],
            attempts: vec![("ok", 7)],
            apply_index: 42,
            checkpoint_age_seconds: 17,
            log_bytes: 4_096,
            log_entries: 40,
            scrub_passes: 3,
            scrub_bytes: 1_000,
            history_tasks: 3,
            history_bytes: 1_234,
            duties: vec![DutyNumbers {
                name: "load",
                runs: 3,
                tasks: 40,
                age_seconds: Some(0.5),
                took_seconds: 0.25,
            }],
            ..Numbers::default()
        };
        let mut registry = Registry::default();
        register(&mut registry, Arc::new(move || numbers.clone()));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "horolog_lateness_seconds_bucket{le=\"0.001\"} 2",
            "horolog_lateness_seconds_bucket{le=\"0.01\"} 3",
            "horolog_lateness_seconds_bucket{le=\"+Inf\"} 4",
            "horolog_lateness_seconds_count 4",
            "horolog_tasks{stage=\"scheduled\"} 5",
            "horolog_tasks{stage=\"done\"} 7",
            "horolog_attempts_total{result=\"ok\"} 7",
            "horolog_commit_seconds_count 0",
            "horolog_apply_index 42",
            "horolog_checkpoint_index 0",
            "horolog_checkpoint_age_seconds 17",
            "horolog_log_bytes 4096",
            "horolog_log_entries 40",
            "horolog_scrub_passes_total 3",
            "horolog_scrub_findings_total 0",
            "horolog_scrub_bytes 1000",
            "horolog_scrub_age_seconds 0",
            "horolog_history_tasks 3",
            "horolog_history_bytes 1234",
            "horolog_lifecycle_runs_total{duty=\"load\"} 3",
            "horolog_lifecycle_tasks_total{duty=\"load\"} 40",
            "horolog_lifecycle_last_age_seconds{duty=\"load\"} 0.5",
            "horolog_lifecycle_last_run_seconds{duty=\"load\"} 0.25",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
