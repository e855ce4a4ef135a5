//! Mistakes on purpose, so that the tests can show that they would notice.
//!
//! A build with `--features seeded-bugs` carries all of them; `HOROLOG_BUG=name` chooses the one
//! that a process makes. Each is the kind of mistake that somebody makes for good reasons, at the
//! place where it would be made. What catches which of them is printed by `just seeded-bugs` and
//! kept in docs/testing.md.
//!
//! Without the feature [`on`] is `false` at compile time, nothing is left of any of it, and a
//! node that is given `HOROLOG_BUG` refuses it as a setting that does not exist. No release can
//! carry the feature: it does not compile without debug assertions.

#[cfg(all(feature = "seeded-bugs", not(debug_assertions)))]
compile_error!(
    "the feature `seeded-bugs` breaks promises on purpose; it is for debug builds, and no release"
);

/// The variable that chooses.
pub const VARIABLE: &str = "HOROLOG_BUG";

/// Declares each with its name and the mistake that it stands for.
macro_rules! bugs {
    ($(#[doc = $stands_for:literal] $bug:ident = $name:literal,)*) => {
        /// The mistakes that a build with the feature can make.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug { $(#[doc = $stands_for] $bug,)* }

        impl Bug {
            pub const ALL: &[Bug] = &[$(Bug::$bug),*];

            /// As `HOROLOG_BUG` names it.
            pub const fn name(self) -> &'static str {
                match self { $(Bug::$bug => $name,)* }
            }

            /// The mistake, in a line.
            pub fn stands_for(self) -> &'static str {
                match self { $(Bug::$bug => $stands_for.trim_ascii(),)* }
            }
        }
    };
}

bugs! {
    // The log and its disk.
    /// The writer answers when the rows are written, not when they are synced.
    AckBeforeSync = "ack-before-sync",
    /// A row that is read back is taken as it is; its checksum is not looked at.
    ChecksumUnchecked = "checksum-unchecked",
    /// A vote is kept in memory, and forgotten by a restart.
    VoteNotSaved = "vote-not-saved",
    /// The log is purged up to what was folded, not up to what a checkpoint holds.
    PurgeBeyondCheckpoint = "purge-beyond-checkpoint",

    // Checkpoints and snapshots.
    /// A checkpoint claims one entry more than it holds, and a restart leaves that one out.
    CheckpointIndex = "checkpoint-index",
    /// Ids of finished tasks are left out of a checkpoint: the same submit is new again.
    DedupLost = "dedup-lost",
    /// What waits in the store is not put back into the wheel by a restart.
    WheelNotRebuilt = "wheel-not-rebuilt",
    /// A snapshot leaves out the completions that came before their submits.
    SnapshotDropsMarks = "snapshot-drops-marks",
    /// A snapshot leaves out the histories of tasks that have left.
    SnapshotDropsHistory = "snapshot-drops-history",

    // The fold.
    /// What the fold does follows the order of a hash map, which differs from node to node.
    HashedOrder = "hash-map-order",
    /// The fold asks the node's own clock, not the entry.
    OwnClock = "own-clock",
    /// The jitter of a delay is drawn where the log is folded.
    RandomJitter = "random-jitter",
    /// A report is believed whatever its fence.
    FenceUnchecked = "fence-unchecked",
    /// The same id with other content is answered as if it were the same task.
    ContentIgnored = "content-ignored",
    /// A completion that came before its submit is forgotten when that comes.
    MarkIgnored = "mark-ignored",
    /// One attempt more than the policy allows.
    OneRetryTooMany = "one-retry-too-many",
    /// The next attempt comes at once.
    BackoffIgnored = "backoff-ignored",
    /// A task that is to be tried again is not put into the queue.
    RetryLost = "retry-lost",
    /// An attempt of which nobody hears anything stays open for ever.
    DeadlineIgnored = "deadline-ignored",
    /// An attempt that is handed out again keeps its number.
    SameAttempt = "same-attempt",
    /// A task that is done runs again without being told so twice.
    DoneRevived = "done-revived",
    /// A cancel is answered, and the task stays in the queue.
    CancelledFires = "cancelled-fires",
    /// A task that is with its owner is cancelled without asking the owner.
    OwnerNotAsked = "owner-not-asked",
    /// The index of finished tasks is believed: who runs again leaves with the finished.
    RetireDropsPending = "retire-drops-pending",
    /// Labels that a change gives or takes are not told to the index.
    LabelIndexForgotten = "label-index-forgotten",
    /// A list shows what is in memory, not what lies only in the store.
    ListSkipsFar = "list-skips-far",

    // Schedules.
    /// A new leader plans from now on, and not from where the log stands.
    OccurrenceLost = "occurrence-lost",
    /// A stretch of time is taken up wherever it begins, also when it was taken up before.
    PlannedTwice = "planned-twice",
    /// A planner that has come to the end of a version is not told that there is another one.
    VersionNotTold = "version-not-told",
    /// What is to be skipped while a run is not over runs beside it.
    OverlapIgnored = "overlap-ignored",
    /// All that was missed runs, where one run is to stand for it.
    CatchUpAll = "catch-up-all",
    /// A paused schedule fires.
    PauseIgnored = "pause-ignored",

    // The leader, and whoever asks it.
    /// A read does not ask whether the leader has gone on without this node.
    StaleRead = "stale-read",
    /// What is not safe to say twice is sent again after its answer was lost.
    BlindRepeat = "blind-repeat",
    /// A new leader stamps by its own clock, also when the log is ahead of it.
    StampGoesBack = "stamp-goes-back",
    /// A bulk change reaches one waiting task more, which its filter does not name.
    BulkOneTooMany = "bulk-one-too-many",

    // The rim.
    /// A restart hands out what it folds again, as if it had just been triggered.
    ReplayFires = "replay-fires",
    /// Calls are begun without a look at the lease.
    LeaseIgnored = "lease-ignored",
    /// A call is begun when the task is triggered, which is shortly before it is due.
    EarlyDispatch = "early-dispatch",
    /// An owner that is asked to withdraw says yes, also when it has begun.
    BegunWithdrawn = "begun-withdrawn",
    /// One of several that had an attempt withdrawn takes it back for all of them.
    RestoredForAll = "restored-for-all",
    /// An outcome that no leader takes is dropped.
    OutcomeDropped = "outcome-dropped",
    /// An owner is given up while it holds a lease.
    DeniedWithLease = "denied-with-lease",
    /// A paused application is called.
    PausedAppCalled = "paused-app-called",
    /// However many calls of a target fail, it is called.
    BreakerNeverOpens = "breaker-never-opens",
    /// An errand goes to another node without the epoch of its owner.
    ErrandWithoutEpoch = "errand-without-epoch",
    /// A wall clock that jumps is believed at once.
    ClockBelieved = "clock-believed",
}

/// Whether this process makes this mistake.
#[cfg(not(feature = "seeded-bugs"))]
#[inline(always)]
pub const fn on(_: Bug) -> bool {
    false
}

#[cfg(feature = "seeded-bugs")]
pub use with::*;
#[cfg(not(feature = "seeded-bugs"))]
pub use without::*;

/// What a normal build has in place of the real thing: it is never called.
#[cfg(not(feature = "seeded-bugs"))]
mod without {
    pub const fn as_hashed<T>(_: &mut Vec<T>) {}
    pub const fn own_clock_ms(now: u64) -> u64 {
        now
    }
    pub const fn any_number(number: u64) -> u64 {
        number
    }
    /// # Errors
    /// None.
    pub const fn check() -> Result<(), String> {
        Ok(())
    }
}

#[cfg(feature = "seeded-bugs")]
mod with {
    use std::collections::HashMap;
    use std::hash::{BuildHasher, RandomState};
    use std::sync::OnceLock;

    use super::{Bug, VARIABLE};

    /// Read once: a process makes the same mistake all its life.
    fn chosen() -> &'static Result<Option<Bug>, String> {
        static CHOSEN: OnceLock<Result<Option<Bug>, String>> = OnceLock::new();
        #[allow(clippy::disallowed_methods)] // No setting: it must work below all floors.
        CHOSEN.get_or_init(|| match std::env::var(VARIABLE) {
            Ok(name) if !name.is_empty() => named(&name).map(Some),
            _ => Ok(None),
        })
    }

    /// # Errors
    /// There is no such bug; the names that there are.
    pub(super) fn named(name: &str) -> Result<Bug, String> {
        let found = Bug::ALL.iter().find(|bug| bug.name() == name);
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
            let names = names.join(", ");
            format!("{VARIABLE}={name}: there is no such bug; choose one of {names}")
        })
    }

    /// Whether this process makes this mistake.
    ///
    /// # Panics
    /// When the variable names none; [`check`] says so first where a message can be shown.
    pub fn on(bug: Bug) -> bool {
        match chosen() {
            Ok(chosen) => *chosen == Some(bug),
            Err(why) => panic!("{why}"),
        }
    }

    /// Whether the variable names a bug, or is not set; warns of the one that it names.
    ///
    /// # Errors
    /// It names none; the names that there are.
    pub fn check() -> Result<(), String> {
        if let Some(bug) = chosen().clone()? {
            eprintln!("broken on purpose: {}: {}", bug.name(), bug.stands_for());
        }
        Ok(())
    }

    /// Some things in the order in which a hash map has them.
    pub fn as_hashed<T>(items: &mut Vec<T>) {
        let map: HashMap<usize, T> = items.drain(..).enumerate().collect();
        items.extend(map.into_values());
    }

    /// The clock of this machine.
    #[allow(clippy::disallowed_methods)] // That is the mistake.
    pub fn own_clock_ms(_: u64) -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| now.as_millis() as u64)
    }

    /// Another one each time.
    pub fn any_number(number: u64) -> u64 {
        RandomState::new().hash_one(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_there_are_enough() {
        let mut names: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Bug::ALL.len());
        assert!(names.len() >= 22);
        let plain = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        assert!(names.iter().all(|name| plain(name)));
        assert!(Bug::ALL.iter().all(|bug| bug.stands_for().ends_with('.')));
    }

    /// In a normal build, at compile time.
    #[cfg(not(feature = "seeded-bugs"))]
    #[test]
    fn a_normal_build_makes_none() {
        const NONE: bool = !on(Bug::AckBeforeSync);
        const { assert!(NONE) };
    }

    #[cfg(feature = "seeded-bugs")]
    #[test]
    fn an_unknown_name_is_answered_with_those_that_there_are() {
        let error = with::named("none-such").unwrap_err();
        assert!(error.starts_with("HOROLOG_BUG=none-such: "), "{error}");
        assert!(Bug::ALL.iter().all(|bug| error.contains(bug.name())));
        assert_eq!(with::named("own-clock"), Ok(Bug::OwnClock));
    }
}
