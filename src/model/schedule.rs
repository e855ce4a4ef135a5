//! Schedules as the fold keeps them: what was asked for, version by version, and the ledger of
//! what became of every occurrence.
//!
//! The fold knows no calendar. A planner works out the instants before it proposes them, and the
//! events carry them; here they are only put in order and judged.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

use super::limits::{
    FIRES_KEPT, FIRES_KEPT_LEAST, FIRES_KEPT_MOST, SCHEDULE_GROUP_DEFAULT, SCHEDULE_NAME_BYTES_MAX,
};
use super::{By, Digest, IdError, Key, Seq, Span, Stage, Time, encode};

/// What the next run does while the one before is not over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverlapPolicy {
    /// It runs beside it.
    #[default]
    Allow,
    /// It is left out.
    Skip,
    /// It waits; more that come meanwhile become one with it.
    QueueOne,
    /// It waits in line, up to a bound; beyond that it is left out.
    QueueAll,
    /// The one before is cancelled: its outcome counts no more.
    CancelRunning,
}

/// What happens to occurrences that nobody could begin in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// They are left out.
    Skip,
    /// One run stands for all of them.
    #[default]
    Once,
    /// They run late: those planned within `window`, the newest `max` of them, `pace` apart.
    All { window: Span, max: u32, pace: Span },
}

/// What a schedule is to do.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Definition {
    /// When it fires: a plan of the calendar, as JSON. The fold never looks inside.
    pub plan: Arc<str>,
    /// The task that each run becomes: an encoded `Spec`.
    #[serde(serialize_with = "super::shown::spec")]
    pub task: Arc<[u8]>,
    /// The invoke target as it was written, when there is one.
    pub invoke: Option<Arc<str>>,
    /// The parameters as they were written: a JSON object.
    pub params: Option<Arc<str>>,
    pub overlap: OverlapPolicy,
    /// How many may wait under [`OverlapPolicy::QueueAll`].
    pub queue_max: u32,
    pub catch_up: CatchUp,
    /// So much later than planned an occurrence may begin and still be just late.
    pub misfire: Span,
    /// So many runs at most.
    pub max_runs: Option<u64>,
}

impl Definition {
    /// A hash of everything in it.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        digest.copy_from_slice(&blake3::hash(&encode(self)).as_bytes()[..16]);
        digest
    }

    /// Bytes it takes, about.
    pub fn bytes(&self) -> usize {
        let texts = [&self.invoke, &self.params];
        let texts = texts.into_iter().flatten().map(|text| text.len());
        self.plan.len() + self.task.len() + texts.sum::<usize>()
    }
}

/// A definition, and the span in which it is the one that counts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Version {
    pub number: u32,
    pub definition: Definition,
    /// Of the definition.
    pub digest: Digest,
    /// Occurrences later than this are its own…
    pub from: Time,
    /// … up to this one, once another version came, or the last run was begun.
    pub until: Option<Time>,
    /// When, where in the log, and by whom it was made.
    pub at: Time,
    pub index: u64,
    pub by: By,
    /// Why, in a word: `created`, `changed`, `reverted to 3`.
    pub why: Arc<str>,
    /// Occurrences of it that were taken up.
    pub taken: u64,
    /// The sum of a hash of each: with the count it proves which those were, also when the ledger
    /// has lost the oldest.
    pub proof: u64,
    /// Runs of it that count against `max_runs`.
    pub runs: u64,
}

/// Adds an occurrence to a [`Version::proof`].
pub fn proof_with(proof: u64, planned: Time) -> u64 {
    proof.wrapping_add(xxhash_rust::xxh3::xxh3_64(&planned.0.to_le_bytes()))
}

/// Why there is a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// An occurrence of the plan.
    Planned,
    /// Somebody said: now.
    Manual,
    /// Somebody asked for occurrences of the past.
    Backfill,
}

impl Cause {
    pub const fn name(self) -> &'static str {
        match self {
            Cause::Planned => "planned",
            Cause::Manual => "manual",
            Cause::Backfill => "backfill",
        }
    }
}

/// What became of an occurrence: exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Fate {
    /// It waits for the run before it; another fate will follow.
    Queued,
    /// It became a task in time.
    Fired,
    /// It became a task later than planned.
    Late,
    SkippedOverlap,
    SkippedPaused,
    SkippedCatchUp,
    /// Another occurrence stands for it.
    Coalesced,
    /// It could not run: a task with its id existed.
    Missed,
    /// It waited, and the schedule was deleted.
    Cancelled,
}

impl Fate {
    /// Every fate, in the order of [`Schedule::totals`].
    pub const ALL: [Fate; 9] = [
        Fate::Queued,
        Fate::Fired,
        Fate::Late,
        Fate::SkippedOverlap,
        Fate::SkippedPaused,
        Fate::SkippedCatchUp,
        Fate::Coalesced,
        Fate::Missed,
        Fate::Cancelled,
    ];

    /// The name that the API uses, and why, where that is not the same for all.
    pub const fn names(self) -> (&'static str, Option<&'static str>) {
        match self {
            Fate::Queued => ("queued", None),
            Fate::Fired => ("fired", None),
            Fate::Late => ("late", None),
            Fate::SkippedOverlap => ("skipped", Some("overlap")),
            Fate::SkippedPaused => ("skipped", Some("paused")),
            Fate::SkippedCatchUp => ("skipped", Some("catch_up")),
            Fate::Coalesced => ("coalesced", None),
            Fate::Missed => ("missed", Some("a task with its id existed")),
            Fate::Cancelled => ("cancelled", None),
        }
    }

    /// It became a task.
    pub const fn ran(self) -> bool {
        matches!(self, Fate::Fired | Fate::Late)
    }
}

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Fire {
    pub planned: Time,
    pub version: u32,
    pub cause: Cause,
    pub fate: Fate,
    /// When, and where in the log, its fate was decided.
    pub decided: Time,
    pub index: u64,
    /// The request that asked for it, unless the plan did.
    pub tag: Option<Arc<str>>,
    /// The task that it became.
    pub seq: Option<Seq>,
    /// How that task ended first.
    pub ended: Option<(Time, Stage)>,
}

/// A run that is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Running {
    pub seq: Seq,
    /// Its line in the ledger.
    pub line: u64,
}

/// An occurrence that waits for the run before it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Queued {
    /// Its line in the ledger.
    pub line: u64,
    pub version: u32,
    pub planned: Time,
    pub cause: Cause,
    pub tag: Option<Arc<str>>,
}

/// A pause.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SchedulePause {
    pub since: Time,
    pub reason: Option<Arc<str>>,
    pub by: By,
}

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Schedule {
    /// `group.name`
    pub id: Arc<str>,
    pub created: Time,
    /// The log index at which it came to be: tells it from one that had its id before.
    pub born: u64,
    /// The log index of the last change of what it is to do.
    pub index: u64,
    /// The last one is the one that counts; never empty.
    pub versions: VecDeque<Version>,
    /// Every occurrence up to here was taken up.
    pub watermark: Time,
    pub paused: Option<SchedulePause>,
    /// Pauses that are over, and that the watermark has not passed.
    pub pauses: Vec<(Time, Time)>,
    pub deleted: Option<(Time, By)>,
    /// Occurrences of the plan by [`Fate`].
    pub totals: [u64; 9],
    /// The first occurrence behind the watermark, as of the last fire: what an upgrade of the
    /// time-zone data may move.
    pub next: Option<Time>,
    pub running: Vec<Running>,
    pub queue: VecDeque<Queued>,
    /// Occurrences up to here are caught up with.
    pub catch_until: Time,
    /// Those of them that may run once all of them are known: version and instant.
    pub held: VecDeque<(u32, Time)>,
    /// The ledger; the oldest lines have given way.
    pub fires: VecDeque<Fire>,
    /// The number of its first line.
    pub first: u64,
    /// No line about an occurrence later than this has given way.
    pub lost: Time,
    /// A running hash of all that was ever written to it.
    pub chain: u64,
}

impl Schedule {
    /// The version that counts for what is asked for now.
    pub fn version(&self) -> Option<&Version> {
        self.versions.back()
    }

    pub fn version_of(&self, number: u32) -> Option<&Version> {
        self.versions.iter().find(|v| v.number == number)
    }

    /// The version whose occurrences are to be taken up next, and after which instant they lie;
    /// `None`: nothing will come.
    pub fn due_version(&self) -> Option<(&Version, Time)> {
        let mut spans = self
            .versions
            .iter()
            .map(|v| (v, v.from.max(self.watermark)));
        spans.find(|(v, after)| v.until.is_none_or(|until| until > *after))
    }

    /// Whether the schedule was paused at an instant.
    pub fn is_paused_at(&self, at: Time) -> bool {
        let open = self.paused.as_ref().is_some_and(|pause| at > pause.since);
        open || self
            .pauses
            .iter()
            .any(|(since, until)| at > *since && at <= *until)
    }

    /// The task that an occurrence becomes.
    pub fn key(&self, version: u32, planned: Time, cause: Cause, tag: Option<&str>) -> Key {
        let (group, name) = self
            .id
            .split_once('.')
            .unwrap_or((SCHEDULE_GROUP_DEFAULT, &self.id));
        let id = match (cause, tag) {
            (Cause::Manual, Some(tag)) => format!("{name}:run:{tag}"),
            (Cause::Backfill, Some(tag)) => format!("{name}:{tag}:{}", planned.0),
            _ => format!("{name}:{version}:{}", planned.0),
        };
        Key {
            app: group.into(),
            id: id.into(),
        }
    }

    /// The same by its line.
    pub fn key_of(&self, fire: &Fire) -> Key {
        self.key(fire.version, fire.planned, fire.cause, fire.tag.as_deref())
    }

    /// The line with a number, unless it has given way.
    pub fn line(&self, number: u64) -> Option<&Fire> {
        self.fires
            .get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Writes a line, and returns its number. Of so many schedules each keeps its part of what all
    /// may keep.
    pub fn write(&mut self, fire: Fire, schedules: usize) -> u64 {
        self.note(&fire);
        let number = self.first + self.fires.len() as u64;
        self.fires.push_back(fire);
        let kept = FIRES_KEPT / schedules.max(1);
        while self.fires.len() > kept.clamp(FIRES_KEPT_LEAST, FIRES_KEPT_MOST) {
            if let Some(gone) = self.fires.pop_front().filter(|f| f.cause == Cause::Planned) {
                self.lost = self.lost.max(gone.planned);
            }
            self.first += 1;
        }
        number
    }

    /// Changes a line, if it is still there.
    pub fn rewrite(&mut self, number: u64, change: impl FnOnce(&mut Fire)) {
        let at = number
            .checked_sub(self.first)
            .and_then(|at| usize::try_from(at).ok());
        if let Some(fire) = at.and_then(|at| self.fires.get_mut(at)) {
            change(fire);
            let fire = fire.clone();
            self.note(&fire);
        }
    }

    fn note(&mut self, fire: &Fire) {
        self.chain = xxhash_rust::xxh3::xxh3_64_with_seed(&encode(fire), self.chain);
    }

    /// Bytes of its definitions, about.
    pub fn bytes(&self) -> usize {
        self.versions.iter().map(|v| v.definition.bytes()).sum()
    }

    /// Without the ledger, and with nothing but the version that counts: what an answer carries.
    pub fn head(&self) -> Schedule {
        Schedule {
            id: self.id.clone(),
            created: self.created,
            born: self.born,
            index: self.index,
            versions: self.versions.back().cloned().into_iter().collect(),
            watermark: self.watermark,
            paused: self.paused.clone(),
            pauses: Vec::new(),
            deleted: self.deleted.clone(),
            totals: self.totals,
            next: self.next,
            running: self.running.clone(),
            queue: self.queue.clone(),
            catch_until: self.catch_until,
            held: self.held.clone(),
            fires: VecDeque::new(),
            first: self.first + self.fires.len() as u64,
            lost: self.lost,
            chain: self.chain,
        }
    }
}

/// Checks `group.name`, or `name` in the default group, and returns it with its group.
///
/// # Errors
/// A part is empty, too long, or has characters that an id may not have.
pub fn schedule_id(text: &str) -> Result<Arc<str>, IdError> {
    let (group, name) = text
        .split_once('.')
        .unwrap_or((SCHEDULE_GROUP_DEFAULT, text));
    // What tasks are called by must be a key.
    Key::new(group, name)?;
    if name.len() > SCHEDULE_NAME_BYTES_MAX {
        return Err(IdError::Long {
            field: "id",
            len: name.len(),
            max: SCHEDULE_NAME_BYTES_MAX,
        });
    }
    Ok(format!("{group}.{name}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_a_group() {
        assert_eq!(&*schedule_id("shop.report").unwrap(), "shop.report");
        assert_eq!(&*schedule_id("report").unwrap(), "DEFAULT.report");
        assert_eq!(&*schedule_id("a.b.c").unwrap(), "a.b.c");
        for bad in ["", ".a", "a.", "a/b", "a.b c"] {
            assert!(schedule_id(bad).is_err(), "{bad}");
        }
        assert!(schedule_id(&format!("a.{}", "x".repeat(91))).is_err());
        // The longest one makes tasks whose ids are no longer than an id may be.
        let longest = schedule_id(&format!("{}.{}", "g".repeat(64), "x".repeat(90))).unwrap();
        let (group, name) = longest.split_once('.').unwrap();
        let id = format!("{name}:{}:{}", u32::MAX, Time::MAX.0);
        assert!(Key::new(group, &id).is_ok(), "{}", id.len());
        let tag = "0".repeat(super::super::limits::SCHEDULE_TAG_BYTES_MAX);
        assert!(Key::new(group, &format!("{name}:{tag}:{}", Time::MAX.0)).is_ok());
    }

    #[test]
    fn fates_stand_in_the_order_of_their_totals() {
        for (n, fate) in Fate::ALL.into_iter().enumerate() {
            assert_eq!(fate as usize, n);
        }
    }
}
