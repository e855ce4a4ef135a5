//! What the fold answers.

use bincode::{Decode, Encode};

use super::{Fence, NodeId, Paused, Schedule, Seq, ShardSet, Stage, Task};

/// The answer to one event.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// A caller's event took effect (or already had): the task as it is after it.
    Task {
        /// This event created it.
        new: bool,
        task: Box<Task>,
    },
    /// A completion came before its submit, and a mark was kept.
    Marked,
    /// An inner event took effect.
    Folded,
    /// So many tasks were triggered, retired or redispatched.
    Counted {
        count: u32,
        /// The bound was reached; the same again will do more.
        more: bool,
    },
    /// The attempt's result came too late: another attempt holds the task, or nobody does.
    Stale { held: Fence },
    /// Nothing changed; the caller must act.
    Refused(Refusal),
    /// A shard set as it is after the event, and the shard that this one handed out.
    Set {
        set: Box<ShardSet>,
        popped: Option<u16>,
    },
    /// Whether the application is paused after the event.
    App(Option<Box<Paused>>),
    /// A caller's event about a schedule took effect (or already had).
    Schedule {
        /// This event created it, made a version, or began a run.
        new: bool,
        /// As it is after it, with the lines of the ledger that the event wrote, if it asked for
        /// runs.
        schedule: Box<Schedule>,
    },
}

/// Why an event had no effect. Every replica decides alike.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such task")]
    Unknown,
    #[error("a task with this id exists and its content differs; choose another id or change it")]
    Content,
    #[error("the task is {stage}; this is possible only earlier, or after a final outcome")]
    Stage { stage: Stage },
    #[error("the task is done; say again: true to run it once more")]
    AlreadyDone,
    #[error("the task has changed since; read it again")]
    Changed,
    #[error("the fence is stale: {held} holds the task")]
    StaleFence { held: u64 },
    /// Asks the proposer to have the owner withdraw the attempt; callers never see it.
    #[error("the attempt is with node {owner}")]
    Withdraw {
        seq: Seq,
        fence: Fence,
        owner: NodeId,
    },
    /// The attempt that the owner was asked about holds the task no more; callers see it only when
    /// their patience is over.
    #[error("the task has moved on meanwhile; ask again")]
    Moved,
    #[error("there is no such shard set; make it first")]
    NoSet,
    #[error("the shard set was never filled; fill it first")]
    NotFilled,
    #[error("there may be no more shard sets, or not with this number of shards; remove one")]
    TooManySets,
    #[error(
        "the shard set `default` places work, and has {held} shards for as long as this cluster \
         lives; make another set, which is a view over the same tasks"
    )]
    DefaultSet { held: u16 },
    #[error("so many applications are paused already that no more can be: resume some first")]
    TooManyPaused,
    #[error("there is no such schedule")]
    NoSchedule,
    #[error(
        "a schedule with this id exists and its definition differs; change it, or choose another id"
    )]
    ScheduleExists,
    #[error("the schedule has changed since: its version is {version}; read it again")]
    ScheduleChanged { version: u32 },
    #[error("a run of the schedule is not over, and its overlap policy is skip")]
    ScheduleRuns,
    #[error("{most} {what} are the most there may be; delete schedules, or make them smaller")]
    SchedulesFull { most: u64, what: ScheduleBound },
    #[error(
        "the planner has not got past the last changes of this schedule; try again in a moment"
    )]
    ScheduleBusy,
}

/// What there may not be more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ScheduleBound {
    Schedules,
    /// Of all their definitions and former versions.
    Bytes,
    /// Of occurrences that wait for a run to end.
    Waiting,
}

impl std::fmt::Display for ScheduleBound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ScheduleBound::Schedules => "schedules",
            ScheduleBound::Bytes => "bytes of definitions, former versions included,",
            ScheduleBound::Waiting => "occurrences that wait for a run to end",
        })
    }
}
