//! A task, its stages, and the table of what each event does in each stage.

use bincode::{Decode, Encode};
use std::fmt;
use std::sync::Arc;

use super::{Digest, Fence, Key, NodeId, Seq, Shard, Time};

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[repr(u8)]
pub enum Stage {
    /// Waits for its due instant.
    Scheduled,
    /// Due (or nearly) and handed to its owner.
    Triggered,
    /// An attempt has been open for a while.
    Running,
    /// The receiver answered 202; its completion is awaited.
    Accepted,
    /// Failed, and waits for its next attempt.
    Retrying,
    /// Final: delivered, or marked done.
    Done,
    /// Final: given up; on the dead-letter list.
    Dead,
    /// Final: cancelled before it began.
    Cancelled,
}

impl Stage {
    /// Every stage, in the order of a task's life.
    pub const ALL: [Stage; 8] = [
        Stage::Scheduled,
        Stage::Triggered,
        Stage::Running,
        Stage::Accepted,
        Stage::Retrying,
        Stage::Done,
        Stage::Dead,
        Stage::Cancelled,
    ];

    /// The name that the API uses.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Scheduled => "scheduled",
            Stage::Triggered => "triggered",
            Stage::Running => "running",
            Stage::Accepted => "accepted",
            Stage::Retrying => "retrying",
            Stage::Done => "done",
            Stage::Dead => "dead",
            Stage::Cancelled => "cancelled",
        }
    }

    /// The inverse of [`Stage::name`].
    pub fn parse(name: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// No attempt will begin unless somebody runs the task again.
    pub const fn is_final(self) -> bool {
        matches!(self, Stage::Done | Stage::Dead | Stage::Cancelled)
    }

    /// Waits in the wheel for an attempt.
    pub const fn is_waiting(self) -> bool {
        matches!(self, Stage::Scheduled | Stage::Retrying)
    }

    /// An attempt is with an owner.
    pub const fn is_open(self) -> bool {
        matches!(self, Stage::Triggered | Stage::Running)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What can befall a task; the columns of the table in [`Stage::decide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Cancel,
    Change,
    Run,
    Trigger,
    Started,
    Accepted,
    Done,
    Failed,
    /// The attempt's owner lost its shard.
    Redispatch,
    /// The attempt, or the awaited completion, took too long.
    Deadline,
    /// No attempt had begun by `expires_at`.
    Expired,
    /// Somebody outside says that it succeeded.
    CompleteOk,
    /// Somebody outside says that it failed.
    CompleteFailed,
}

impl Verb {
    /// Every verb, in the order of the documentation's table.
    pub const ALL: [Verb; 13] = [
        Verb::Cancel,
        Verb::Change,
        Verb::Run,
        Verb::Trigger,
        Verb::Started,
        Verb::Accepted,
        Verb::Done,
        Verb::Failed,
        Verb::Redispatch,
        Verb::Deadline,
        Verb::Expired,
        Verb::CompleteOk,
        Verb::CompleteFailed,
    ];
}

/// What a verb does in a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The task moves on.
    To(Stage),
    /// Already so: answered like a success, and nothing changes.
    Same,
    /// Moves on once the owner has withdrawn the attempt that it has not begun.
    Withdraw(Stage),
    /// Moves on only if asked to run again explicitly.
    Again(Stage),
    /// `Retrying` while the policy allows another attempt, else `Dead`.
    RetryOrDead,
    /// Not in this stage.
    Refuse,
}

impl Stage {
    /// The table of stage × verb. `docs/stages.md` is printed from it, and a test compares them.
    pub const fn decide(self, verb: Verb) -> Decision {
        use Decision::{Again, Refuse, RetryOrDead, Same, To, Withdraw};
        use Stage::*;
        match (verb, self) {
            (Verb::Cancel, Scheduled | Retrying) => To(Cancelled),
            (Verb::Cancel, Triggered) => Withdraw(Cancelled),
            (Verb::Cancel, Cancelled) => Same,

            (Verb::Change, Scheduled) => To(Scheduled),
            (Verb::Change, Retrying) => To(Retrying),
            (Verb::Change, Triggered) => Withdraw(Scheduled),

            (Verb::Run, Scheduled | Retrying | Dead | Cancelled) => To(Triggered),
            (Verb::Run, Triggered) => Same,
            (Verb::Run, Done) => Again(Triggered),

            (Verb::Trigger, Scheduled | Retrying) => To(Triggered),

            (Verb::Started, Triggered) => To(Running),
            (Verb::Started, Running) => Same,
            (Verb::Accepted, Triggered | Running) => To(Accepted),
            (Verb::Done, Triggered | Running) => To(Done),
            (Verb::Failed, Triggered | Running) => RetryOrDead,
            (Verb::Redispatch, Triggered | Running) => To(Triggered),
            (Verb::Deadline, Running | Accepted) => RetryOrDead,
            (Verb::Expired, Triggered) => To(Dead),

            (Verb::CompleteOk, Scheduled | Triggered | Running | Accepted | Retrying) => To(Done),
            (Verb::CompleteOk, Done) => Same,
            (Verb::CompleteFailed, Scheduled | Retrying) => To(Dead),
            (Verb::CompleteFailed, Triggered | Running | Accepted) => RetryOrDead,
            (Verb::CompleteFailed, Dead) => Same,

            _ => Refuse,
        }
    }
}

impl Stage {
    /// Whether the owner is asked before the verb counts, although it counts in any case: an attempt
    /// that has not begun is withdrawn, so that none begins after the answer.
    pub const fn asks_owner(self, verb: Verb) -> bool {
        matches!(
            (verb, self),
            (Verb::CompleteOk | Verb::CompleteFailed, Stage::Triggered)
        )
    }
}

/// One task as the fold knows it. The spec stays encoded: the fold rarely needs to look inside.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Task {
    pub seq: Seq,
    pub key: Key,
    /// An encoded [`super::Spec`], as it stands now.
    pub spec: Arc<[u8]>,
    /// The content as first sent.
    pub digest: Digest,
    pub stage: Stage,
    /// The instant the user asked for.
    pub due: Time,
    /// The instant that matters now: the next attempt's in a waiting stage, the attempt's own in
    /// `Triggered`, the deadline in `Running` and `Accepted`, the end in a final stage.
    pub at: Time,
    /// Of the last attempt begun; `attempt` is 0 before the first.
    pub fence: Fence,
    /// Attempts of this series that ended and count against the policy.
    pub tries: u32,
    /// Where the shard lives; set when an attempt begins.
    pub owner: NodeId,
    pub created: Time,
    pub finished: Option<Time>,
    /// Log index of its submit.
    pub submitted: u64,
    /// Log index of the last change.
    pub index: u64,
    /// Counts changes: with `seq`, the ETag.
    pub version: u32,
    /// How it ended, in a word for people: `delivered`, `marked done`, `expired`…
    pub outcome: Option<Arc<str>>,
    pub error: Option<Arc<str>>,
}

impl Task {
    /// An opaque string that changes with every change.
    pub fn etag(&self) -> String {
        format!("\"{}-{}\"", self.seq.0, self.version)
    }

    /// Reads [`Task::etag`]; `None` for what never was one.
    pub fn parse_etag(text: &str) -> Option<(Seq, u32)> {
        let (seq, version) = text
            .trim()
            .strip_prefix('"')?
            .strip_suffix('"')?
            .split_once('-')?;
        Some((Seq(seq.parse().ok()?), version.parse().ok()?))
    }

    pub fn shard(&self, total: u16) -> Shard {
        self.key.shard(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_run_leaves_a_final_stage() {
        for stage in Stage::ALL.into_iter().filter(|s| s.is_final()) {
            for verb in Verb::ALL.into_iter().filter(|v| *v != Verb::Run) {
                assert!(
                    matches!(stage.decide(verb), Decision::Same | Decision::Refuse),
                    "{stage} {verb:?}"
                );
            }
        }
    }

    #[test]
    fn names_are_read_back() {
        for stage in Stage::ALL {
            assert_eq!(Stage::parse(stage.name()), Some(stage));
        }
        assert_eq!(Stage::parse("asleep"), None);
    }
}
