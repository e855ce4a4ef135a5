//! A node's part in its cluster: replication, executor, and what takes outcomes from one to the
//! other. A node has an API in front of it; a simulation puts others in the place of its machine.

use anyhow::Context as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{outcomes, rim};
use crate::executor::{Delivery, Executor, Settings};
use crate::raft::{self, Cluster, Options, Running};

/// What is in flight at a stop is given so long.
const FINISH_WITHIN: Duration = Duration::from_secs(5);
/// Another node is given so long to take the lead.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(2);

/// See the module.
pub struct Part {
    cluster: Cluster,
    executor: Executor,
    running: Running,
    reporter: JoinHandle<()>,
    stop_reporter: CancellationToken,
}

impl Part {
    /// Forms, joins or comes back; returns when this node is a member of its cluster. The
    /// executor, which begins before that, is put into `slot`.
    ///
    /// # Errors
    /// When log, store or membership stand against it; the text says what to do.
    pub async fn start(
        options: Options,
        settings: Settings,
        delivery: Arc<dyn Delivery>,
        slot: &OnceLock<Executor>,
    ) -> anyhow::Result<Part> {
        let (outcomes, inbox) = tokio::sync::mpsc::channel(outcomes::WAITING_MAX);
        let (clock, fault) = (options.clock.clone(), options.fault.clone());
        let running = raft::start(options, |state| {
            let source = rim::source(state, settings.node, fault);
            let made = || Executor::start(settings, clock, source, delivery, outcomes);
            rim::rim(slot.get_or_init(made).clone())
        })
        .await?;
        let cluster = running.cluster.clone();
        let stop_reporter = CancellationToken::new();
        let reporter = outcomes::report(cluster.clone(), inbox, stop_reporter.clone());
        let reporter = tokio::spawn(reporter);
        let executor = slot.get().cloned();
        Ok(Part {
            cluster,
            executor: executor.context("the executor was not started")?,
            running,
            reporter,
            stop_reporter,
        })
    }

    /// The cluster, as this node sees it.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Hands over what it holds and ends; loses nothing.
    pub async fn stop(self) {
        self.running.hand_over(HAND_OVER_WITHIN).await;
        self.executor.stop(FINISH_WITHIN).await;
        self.stop_reporter.cancel();
        if tokio::time::timeout(FINISH_WITHIN, self.reporter)
            .await
            .is_err()
        {
            tracing::warn!("some outcomes could not be reported; their attempts will be repeated");
        }
        drop(self.cluster);
        self.running.stop().await;
    }
}
