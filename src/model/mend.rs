//! What puts together again what does not fit together.

use bincode::{Decode, Encode};
use serde::Serialize;
use std::sync::Arc;

use super::Seq;

/// One repair. It has an effect only where the state is as the check has seen it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// A schedule waits for a run that is over, or is no task any more: it waits no longer.
    Run { schedule: Arc<str>, seq: Seq },
    /// A run of a schedule that does not know it: it is a run of that schedule no more.
    Stray { seq: Seq },
    /// A line of a ledger says that an occurrence waits in line, and it does not: it was missed.
    Line { schedule: Arc<str>, line: u64 },
    /// A task waits for an instant at which everything due was triggered: it is put in again.
    Wake { seq: Seq },
}

impl Repair {
    /// The task that it is about.
    pub fn task(&self) -> Option<Seq> {
        match self {
            Repair::Run { seq, .. } | Repair::Stray { seq } | Repair::Wake { seq } => Some(*seq),
            Repair::Line { .. } => None,
        }
    }
}
