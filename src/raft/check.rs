//! Whether schedules, their runs and the tasks that wait fit together: looked at by each new leader,
//! and by whoever is asked; mended through the log.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use super::cluster::{Busy, Cluster};
use super::inner::Inner;
use super::planner;
use super::waiting::Class;
use crate::model::{Mend, NodeId, Outcome};
use crate::state::{Checked, Finding, State, StoreFault};

/// Looked at while the state is held; so that the fold waits for a millisecond or so at most.
const SCHEDULES: usize = 16;
const TASKS: usize = 256;
/// A check stops here: so much is wrong that the next one should see what is left.
pub const FINDINGS_MAX: usize = 1_000;

/// What a check has come to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The node whose state was looked at, and the log index it had folded.
    pub node: NodeId,
    pub index: u64,
    pub schedules: u64,
    pub tasks: u64,
    pub findings: Vec<Found>,
    /// There were [`FINDINGS_MAX`] findings, and it did not look further.
    pub more: bool,
    pub took: Duration,
}

/// One thing that did not fit.
#[derive(Clone, Debug)]
pub struct Found {
    /// In words.
    pub what: String,
    /// The log has mended it.
    pub mended: bool,
}

impl Cluster {
    /// Looks at this node's state, and has the log mend what it can. What is wrong with one
    /// schedule or task holds up nothing else.
    ///
    /// # Errors
    /// [`Busy::NoLeader`] when none is known; [`Busy::Fault`] when the store cannot be read.
    pub async fn check(&self) -> Result<Report, Busy> {
        self.barrier().await?;
        let began = Instant::now();
        let mut report = Report {
            node: self.0.node,
            index: *self.0.folded.applied.borrow(),
            ..Report::default()
        };
        let mut findings = Vec::new();
        report.schedules = walk(&self.0, &mut findings, |state, after: &Option<Arc<str>>| {
            let mut checked = state.check_schedules(after.as_deref(), SCHEDULES)?;
            checked.findings.extend(unreadable(state, after.as_deref()));
            Ok(checked)
        })
        .await?;
        report.tasks = walk(&self.0, &mut findings, |state, after| {
            state.check_stored(*after, TASKS)
        })
        .await?;
        report.tasks += walk(&self.0, &mut findings, |state, after| {
            Ok(state.check_near(*after, TASKS))
        })
        .await?;
        report.more = findings.len() >= FINDINGS_MAX;
        for finding in findings {
            let mended = self.mend(&finding).await?;
            tracing::warn!(mended, "the consistency check: {}", finding.what);
            let what = finding.what;
            report.findings.push(Found { what, mended });
        }
        report.took = began.elapsed();
        Ok(report)
    }

    async fn mend(&self, finding: &Finding) -> Result<bool, Busy> {
        let Some(repair) = finding.repair.clone() else {
            return Ok(false);
        };
        let event = Mend {
            repairs: vec![repair],
        };
        let mut answers = self.decide(Class::Retire, vec![event.into()]).await;
        let decided = answers.pop().unwrap_or(Err(Busy::Unknown))?;
        Ok(matches!(decided.outcome, Outcome::Counted { count: 1, .. }))
    }
}

/// Walks in pieces, between which the fold goes on; how much it has looked at.
async fn walk<T>(
    inner: &Inner,
    findings: &mut Vec<Finding>,
    piece: impl Fn(&State, &Option<T>) -> Result<Checked<T>, StoreFault>,
) -> Result<u64, Busy> {
    let (mut examined, mut after) = (0, None);
    while findings.len() < FINDINGS_MAX {
        let checked = inner.state.read(|state| piece(state, &after));
        let checked = checked.map_err(|_| Busy::Fault)?;
        examined += checked.examined;
        findings.extend(checked.findings);
        after = checked.next;
        if after.is_none() {
            break;
        }
        tokio::task::yield_now().await;
    }
    findings.truncate(FINDINGS_MAX);
    Ok(examined)
}

/// Schedules that will never fire because nobody can read when.
fn unreadable(state: &State, after: Option<&str>) -> Vec<Finding> {
    let agendas = state.agenda_after(after, SCHEDULES);
    let unreadable = agendas.into_iter().filter(|agenda| !planner::reads(agenda));
    let finding = unreadable.map(|agenda| Finding {
        what: format!(
            "schedule {}: this version cannot read when it fires",
            agenda.id
        ),
        repair: None,
    });
    finding.collect()
}

/// Once, when a lead has begun.
pub(super) async fn at_start(inner: &Arc<Inner>) {
    match Cluster(inner.clone()).check().await {
        Ok(report) => tracing::debug!(
            schedules = report.schedules,
            tasks = report.tasks,
            findings = report.findings.len(),
            took = ?report.took,
            "schedules, runs and waiting tasks were checked"
        ),
        // The next leader checks again, and anybody can ask for it.
        Err(why) => tracing::warn!("no consistency check: {why}"),
    }
    std::future::pending().await
}
