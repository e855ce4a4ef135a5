//! The events: what the log holds.
//!
//! Each has a frozen `…V1` struct and an explicit number, never the enum's order. A change of
//! shape is a `…V2` with a new number; the old one stays readable for ever. An unknown number
//! stops the node: a newer version wrote it, and guessing would make replicas differ.

use bincode::{Decode, Encode};
use serde::Serialize;
use std::sync::Arc;

use super::{
    AttemptEnd, Boot, By, Definition, Digest, Fence, Key, Level, NodeId, Seq, Shard, Span,
};
use super::{Time, When};

/// A new task.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct SubmitV1 {
    pub key: Key,
    pub when: When,
    /// An encoded `Spec`.
    #[serde(serialize_with = "super::shown::spec")]
    pub spec: Arc<[u8]>,
    #[serde(serialize_with = "super::shown::hex")]
    pub digest: Digest,
    pub by: By,
}

/// The version a change was based on: `If-Match`.
pub type IfMatch = Option<(Seq, u32)>;

/// Cancels a task that has not begun.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct CancelV1 {
    pub key: Key,
    pub if_match: IfMatch,
    /// The owner withdrew this attempt before it began.
    pub withdrawn: Option<Fence>,
    pub by: By,
}

/// Changes a task that has not begun.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct ChangeV1 {
    pub key: Key,
    pub if_match: IfMatch,
    pub withdrawn: Option<Fence>,
    /// A new instant, unless it stays.
    pub when: Option<When>,
    /// The whole new spec, unless it stays.
    #[serde(serialize_with = "super::shown::spec_or_none")]
    pub spec: Option<Arc<[u8]>>,
    pub by: By,
}

/// Runs a task now.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct RunV1 {
    pub key: Key,
    pub if_match: IfMatch,
    /// Also when it is done.
    pub again: bool,
    pub by: By,
}

/// Somebody outside says how a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct CompleteV1 {
    pub key: Key,
    /// The attempt that is meant, when given.
    pub fence: Option<u64>,
    /// The owner was asked about this attempt, and withdrew it or had begun it: nothing begins
    /// after the answer. Counts only while this attempt holds the task.
    pub asked: Option<Fence>,
    pub ok: bool,
    pub error: Option<Arc<str>>,
    pub result: Option<Arc<str>>,
    /// Keep a mark when the task is not known yet, so that it is born done.
    pub mark: bool,
    pub by: By,
}

/// Calls of an application's tasks begin no more; everything else goes on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct PauseV1 {
    pub app: Arc<str>,
    pub reason: Option<Arc<str>>,
    pub by: By,
}

/// They begin again.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct ResumeV1 {
    pub app: Arc<str>,
    pub by: By,
}

/// Everything due up to an instant becomes triggered, in order of (instant, seq).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct TriggerV1 {
    pub until: Time,
    /// No more than so many in one fold.
    pub max: u32,
}

/// Attempts that have been open for a while.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct StartedV1 {
    pub node: NodeId,
    pub attempts: Vec<(Seq, Fence, Time)>,
}

/// The receiver answered 202.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct AcceptedV1 {
    pub seq: Seq,
    pub fence: Fence,
    pub node: NodeId,
    pub end: AttemptEnd,
}

/// The receiver answered 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct DoneV1 {
    pub seq: Seq,
    pub fence: Fence,
    pub node: NodeId,
    pub end: AttemptEnd,
}

/// What a failed attempt means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Try again, if the policy allows; not before this delay.
    Retry { not_before: Span },
    /// The receiver wants no more of it (410, 489).
    Final,
    /// It had not begun by `expires_at`.
    Expired,
}

/// The attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct FailedV1 {
    pub seq: Seq,
    pub fence: Fence,
    pub node: NodeId,
    pub verdict: Verdict,
    pub end: AttemptEnd,
}

/// The one rule of ownership: from here on these shards belong to this run of this node. What the
/// former owner had open in them becomes the next attempt.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct AssignV1 {
    pub shards: Vec<Shard>,
    pub node: NodeId,
    pub boot: Boot,
    /// Why, in a word: `start`, `lease`, `drain`, `balance`.
    pub cause: Arc<str>,
    /// These the former owner has begun, and ends them itself.
    pub kept: Vec<(Seq, Fence)>,
}

/// These attempts are lost: each that is open still becomes the next attempt, of whoever owns its
/// shard now.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct AgainV1 {
    pub attempts: Vec<(Seq, Fence)>,
    /// Why, in a word: `watchdog`, `start`, `lease`.
    pub cause: Arc<str>,
}

/// The cluster's feature level: from here on entries may hold what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct RaiseV1 {
    pub level: Level,
}

/// Finished tasks leave: those done or cancelled up to one instant, those dead up to another,
/// marks that never met their task up to a third. What happened to a task stays readable after it
/// has left, until the history of what finished at its instant leaves too.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct RetireV1 {
    pub finished_up_to: Time,
    pub dead_up_to: Time,
    pub marks_up_to: Time,
    /// Histories of retired tasks that finished up to here are gone. Never goes back.
    pub history_up_to: Time,
    /// No more than so many in one fold.
    pub max: u32,
}

/// A shard set is to have so many shards; none: it is removed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct MakeSetV1 {
    pub name: Arc<str>,
    pub total: Option<u16>,
    pub by: By,
}

/// The tasks that are due within a window become available in a shard set, or in all.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct FillSetsV1 {
    pub name: Option<Arc<str>>,
    pub window: Span,
    pub by: By,
}

/// The next shard of a set's last fill is handed out.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct PopShardV1 {
    pub name: Arc<str>,
    pub by: By,
}

/// A new schedule, or a new version of one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct PutScheduleV1 {
    pub id: Arc<str>,
    /// There is to be none yet; otherwise there is to be one.
    pub create: bool,
    /// The version that a change is based on.
    pub if_version: Option<u32>,
    pub definition: Definition,
    /// Why, in a word, as the history of versions tells it.
    pub why: Arc<str>,
    pub by: By,
}

/// From now on a schedule's occurrences are skipped, or are not any more.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct PauseScheduleV1 {
    pub id: Arc<str>,
    pub paused: bool,
    pub reason: Option<Arc<str>>,
    pub by: By,
}

/// Nothing of a schedule fires any more. Its ledger stays for a while.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct DeleteScheduleV1 {
    pub id: Arc<str>,
    pub if_version: Option<u32>,
    pub by: By,
}

/// Runs a schedule now, or for occurrences of the past.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct RunScheduleV1 {
    pub id: Arc<str>,
    /// Names the request, so that a repeated one is the same one.
    pub tag: Arc<str>,
    /// The occurrences; none: now.
    pub planned: Vec<Time>,
    /// So far apart.
    pub pace: Span,
    pub by: By,
}

/// What a planner has worked out of one schedule: all its occurrences of a stretch of time.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Stretch {
    pub id: Arc<str>,
    /// The schedule that is meant, and its version.
    pub born: u64,
    pub version: u32,
    /// The watermark from which it goes on; any other is refused.
    pub after: Time,
    /// The watermark afterwards.
    pub until: Time,
    /// The occurrences between, in order, and when each fires.
    pub occurrences: Vec<(Time, Time)>,
    /// The first occurrence later than `until`.
    pub next: Option<Time>,
}

/// Occurrences of schedules are taken up.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct FireV1 {
    /// The instant at which they were worked out.
    pub now: Time,
    /// The time-zone data by which.
    pub tz: Arc<str>,
    pub stretches: Vec<Stretch>,
}

pub use AcceptedV1 as Accepted;
pub use AgainV1 as Again;
pub use AssignV1 as Assign;
pub use CancelV1 as Cancel;
pub use ChangeV1 as ChangeTask;
pub use CompleteV1 as Complete;
pub use DeleteScheduleV1 as DeleteSchedule;
pub use DoneV1 as Done;
pub use FailedV1 as Failed;
pub use FillSetsV1 as FillSets;
pub use FireV1 as FireSchedules;
pub use MakeSetV1 as MakeSet;
pub use PauseScheduleV1 as PauseSchedule;
pub use PauseV1 as PauseApp;
pub use PopShardV1 as PopShard;
pub use PutScheduleV1 as PutSchedule;
pub use RaiseV1 as Raise;
pub use ResumeV1 as ResumeApp;
pub use RetireV1 as Retire;
pub use RunScheduleV1 as RunSchedule;
pub use RunV1 as Run;
pub use StartedV1 as Started;
pub use SubmitV1 as Submit;
pub use TriggerV1 as Trigger;

/// Declares the enum and its numbers in one place, so that they cannot drift apart.
macro_rules! events {
    ($($number:literal $name:ident($body:ident),)*) => {
        /// Anything that changes state.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
        #[serde(untagged)]
        pub enum Event {
            $($name($body),)*
        }

        impl Event {
            /// Every number in use, with its name.
            pub const KINDS: &'static [(u16, &'static str)] = &[$(($number, stringify!($name)),)*];

            /// The number in the log.
            pub const fn kind(&self) -> u16 {
                match self { $(Event::$name(_) => $number,)* }
            }

            /// Its name among [`Event::KINDS`].
            pub const fn name(&self) -> &'static str {
                match self { $(Event::$name(_) => stringify!($name),)* }
            }

            pub(super) fn encode_body(&self, out: &mut Vec<u8>) {
                match self { $(Event::$name(body) => super::batch::encode_into(body, out),)* }
            }

            pub(super) fn decode_body(kind: u16, bytes: &[u8]) -> Result<Event, super::CodecError> {
                match kind {
                    $($number => super::batch::decode::<$body>(bytes).map(Event::$name),)*
                    _ => Err(super::CodecError::UnknownKind(kind)),
                }
            }
        }

        $(impl From<$body> for Event {
            fn from(body: $body) -> Event { Event::$name(body) }
        })*
    };
}

events! {
    1 Submit(SubmitV1),
    2 Cancel(CancelV1),
    3 Change(ChangeV1),
    4 Run(RunV1),
    5 Complete(CompleteV1),
    6 Pause(PauseV1),
    7 Resume(ResumeV1),
    10 Trigger(TriggerV1),
    11 Started(StartedV1),
    12 Accepted(AcceptedV1),
    13 Done(DoneV1),
    14 Failed(FailedV1),
    20 Assign(AssignV1),
    21 Again(AgainV1),
    22 MakeSet(MakeSetV1),
    23 FillSets(FillSetsV1),
    24 PopShard(PopShardV1),
    25 Raise(RaiseV1),
    30 Retire(RetireV1),
    40 PutSchedule(PutScheduleV1),
    41 PauseSchedule(PauseScheduleV1),
    42 DeleteSchedule(DeleteScheduleV1),
    43 RunSchedule(RunScheduleV1),
    44 Fire(FireV1),
}
