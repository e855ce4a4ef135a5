//! The feature level: what every node of a cluster knows how to fold.
//!
//! A node that cannot fold an entry must stop, so nothing is written that a member does not know.
//! The level is in the replicated state. A new cluster begins at that of the node that first leads
//! it; from then on it rises, and never falls, when every member has said that it knows more. So a
//! cluster is upgraded one node after the other, and what is new can be used when the last one is.
//! (CockroachDB and Kafka do the same, as `cluster version` and `metadata.version`.)

use bincode::{Decode, Encode};
use serde::Serialize;

use super::Event;

/// What a node knows, or a cluster may write.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize,
)]
pub struct Level(pub u16);

impl Level {
    /// Tasks, from submit to retirement, and the ownership of shards.
    pub const TASKS: Level = Level(1);
    /// Schedules, shard sets, and applications that are paused.
    pub const SCHEDULES: Level = Level(2);
    /// What this version knows.
    pub const NEWEST: Level = Level::SCHEDULES;
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Event {
    /// The level at which it may be written.
    pub const fn level(&self) -> Level {
        match self {
            Event::Pause(_)
            | Event::Resume(_)
            | Event::MakeSet(_)
            | Event::FillSets(_)
            | Event::PopShard(_)
            | Event::PutSchedule(_)
            | Event::PauseSchedule(_)
            | Event::DeleteSchedule(_)
            | Event::RunSchedule(_)
            | Event::Fire(_) => Level::SCHEDULES,
            Event::Submit(_)
            | Event::Cancel(_)
            | Event::Change(_)
            | Event::Run(_)
            | Event::Complete(_)
            | Event::Trigger(_)
            | Event::Started(_)
            | Event::Accepted(_)
            | Event::Done(_)
            | Event::Failed(_)
            | Event::Assign(_)
            | Event::Again(_)
            | Event::Raise(_)
            | Event::Retire(_) => Level::TASKS,
        }
    }
}
