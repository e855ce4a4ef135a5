//! The proof of the ledger: what every version should have fired, worked out anew from the
//! definitions, held against what is recorded.
//!
//! Twice: by count and a sum of hashes over the whole span of each version, which also covers
//! lines that have given way; and line by line for those that are still there.

use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::problem::Problem;
use super::schedule_dto::plan_of;
use crate::calendar::Plan;
use crate::model::limits::{OCCURRENCES_ENUMERATED_MAX, OCCURRENCES_LISTED_MAX};
use crate::model::{Cause, Schedule, Span, Time, Version, proof_with};

/// What was planned less than this ago may not have been taken up yet: a change of leader takes
/// its time.
pub const GRACE: Span = Span::seconds(5);

/// Where ledger and definitions differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    schedule: Arc<str>,
    version: u32,
    /// The occurrence, if it is about one.
    planned: Option<Time>,
    /// `missing`, `double`, `unexpected`, `count`
    what: &'static str,
    detail: Option<String>,
}

/// What was compared, over all schedules.
#[derive(Debug, Default)]
pub struct Audit {
    pub schedules: u64,
    /// Occurrences that should have an outcome.
    pub expected: u64,
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Of those expected, how many are proven by count and sum only: their lines have given way.
    pub by_count_only: u64,
    /// Versions with more occurrences than one question works out: only their lines were compared.
    pub unproven: Vec<String>,
    pub count: u64,
    /// The first of the differences.
    pub found: Vec<Finding>,
}

impl Audit {
    fn find(
        &mut self,
        s: &Schedule,
        version: u32,
        planned: Option<Time>,
        what: &'static str,
        detail: Option<String>,
    ) {
        self.count += 1;
        if self.found.len() < OCCURRENCES_LISTED_MAX {
            self.found.push(Finding {
                schedule: s.id.clone(),
                version,
                planned,
                what,
                detail,
            });
        }
    }
}

/// Holds the ledger of one schedule against its definitions, for what was planned within a range.
///
/// # Errors
/// A plan cannot be read.
pub fn audit(s: &Schedule, from: Time, to: Time, whole: &mut Audit) -> Result<(), Problem> {
    whole.schedules += 1;
    // Lines of what was planned before this have given way, or may have.
    let kept_from = Time(s.lost.0 + 1);
    for version in &s.versions {
        let plan = plan_of(&s.id, &version.definition)?;
        by_count(s, version, &plan, whole);
        by_line(s, version, &plan, (from.max(kept_from), to), whole);
        if from < kept_from {
            let until = version.until.unwrap_or(to).min(to).min(kept_from);
            let (first, n) = (from.max(version.from), &mut whole.by_count_only);
            if first < until {
                *n += plan.count_between(Time(first.0 + 1), until).n;
            }
        }
    }
    Ok(())
}

/// Count and sum over the whole span of a version, as far as it was planned.
fn by_count(s: &Schedule, version: &Version, plan: &Plan, whole: &mut Audit) {
    let end = version
        .until
        .map_or(s.watermark, |until| until.min(s.watermark));
    let (mut count, mut proof) = (0u64, 0u64);
    let all = plan.after(version.from).without_limit();
    for planned in all.take_while(|planned| *planned <= end) {
        count += 1;
        proof = proof_with(proof, planned);
        if count > OCCURRENCES_ENUMERATED_MAX {
            whole
                .unproven
                .push(format!("{} version {}", s.id, version.number));
            return;
        }
    }
    if (count, proof) != (version.taken, version.proof) {
        let detail = format!(
            "{count} occurrences up to {end}, {} taken up, or others",
            version.taken
        );
        whole.find(s, version.number, None, "count", Some(detail));
    }
}

/// Every occurrence in a range has one line; every line is an occurrence.
fn by_line(
    s: &Schedule,
    version: &Version,
    plan: &Plan,
    (from, to): (Time, Time),
    whole: &mut Audit,
) {
    let begin = from.max(Time(version.from.0 + 1));
    let end = version.until.map_or(to, |until| until.min(to));
    let mut lines: BTreeMap<Time, u32> = BTreeMap::new();
    let own = s
        .fires
        .iter()
        .filter(|f| f.cause == Cause::Planned && f.version == version.number);
    for fire in own.filter(|f| f.planned >= from && f.planned <= to) {
        *lines.entry(fire.planned).or_default() += 1;
        *whole.outcomes.entry(fire.fate.names().0).or_default() += 1;
    }
    let held = s
        .held
        .iter()
        .filter(|(number, _)| *number == version.number);
    for (_, planned) in held.filter(|(_, planned)| *planned >= from && *planned <= to) {
        *lines.entry(*planned).or_default() += 1;
        *whole.outcomes.entry("pending").or_default() += 1;
    }
    let all = plan.since(begin).without_limit();
    let all = all.take_while(|planned| *planned <= end);
    for planned in all.take(OCCURRENCES_ENUMERATED_MAX as usize) {
        whole.expected += 1;
        match lines.remove(&planned) {
            Some(1) => {}
            Some(n) => whole.find(
                s,
                version.number,
                Some(planned),
                "double",
                Some(format!("{n} lines")),
            ),
            None => whole.find(s, version.number, Some(planned), "missing", None),
        }
    }
    for planned in lines.into_keys() {
        whole.find(s, version.number, Some(planned), "unexpected", None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::PlanSpec;
    use crate::model::{CatchUp, Definition, Fate, Fire, OverlapPolicy};

    /// A schedule that fires every second, planned up to 100 s, with a ledger as it should be.
    fn sound() -> Schedule {
        let every = PlanSpec {
            every: Some("1s".to_owned()),
            ..PlanSpec::default()
        };
        let definition = Definition {
            plan: serde_json::to_string(&every).unwrap().into(),
            task: Vec::new().into(),
            invoke: None,
            params: None,
            overlap: OverlapPolicy::Allow,
            queue_max: 1,
            catch_up: CatchUp::Once,
            misfire: Span(0),
            max_runs: None,
        };
        let planned = (1..=100).map(|n| Time(n * 1_000));
        let fire = |planned| Fire {
            planned,
            version: 1,
            cause: Cause::Planned,
            fate: Fate::Fired,
            decided: planned,
            index: 1,
            tag: None,
            seq: None,
            ended: None,
        };
        Schedule {
            id: "a.b".into(),
            created: Time(0),
            born: 1,
            index: 1,
            versions: [Version {
                number: 1,
                digest: definition.digest(),
                definition,
                from: Time(500),
                until: None,
                at: Time(500),
                index: 1,
                by: "token".into(),
                why: "created".into(),
                taken: 100,
                proof: planned.clone().fold(0, proof_with),
                runs: 100,
            }]
            .into(),
            watermark: Time(100_000),
            paused: None,
            pauses: Vec::new(),
            deleted: None,
            totals: [0; 9],
            next: None,
            running: Vec::new(),
            queue: Default::default(),
            catch_until: Time(0),
            held: Default::default(),
            fires: planned.map(fire).collect(),
            first: 0,
            lost: Time(0),
            chain: 0,
        }
    }

    fn found(s: &Schedule, to: u64) -> Vec<(&'static str, Option<Time>)> {
        let mut whole = Audit::default();
        audit(s, Time(0), Time(to), &mut whole).unwrap();
        assert_eq!(whole.count as usize, whole.found.len());
        whole.found.iter().map(|f| (f.what, f.planned)).collect()
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        assert_eq!(found(&sound(), 100_000), []);
        let mut s = sound();
        s.fires.remove(9);
        assert_eq!(found(&s, 100_000), [("missing", Some(Time(10_000)))]);
        let mut s = sound();
        let twice = s.fires[9].clone();
        s.fires.push_back(twice);
        assert_eq!(found(&s, 100_000), [("double", Some(Time(10_000)))]);
        let mut s = sound();
        s.fires[9].planned = Time(10_500);
        let moved = [
            ("missing", Some(Time(10_000))),
            ("unexpected", Some(Time(10_500))),
        ];
        assert_eq!(found(&s, 100_000), moved);
        let mut s = sound();
        s.versions[0].proof ^= 1;
        assert_eq!(found(&s, 100_000), [("count", None)]);
        assert_eq!(
            found(&sound(), 101_000),
            [("missing", Some(Time(101_000)))],
            "nobody planned it"
        );
    }

    #[test]
    fn lines_that_gave_way_are_proven_by_count() {
        let mut s = sound();
        let cut: Vec<Fire> = s.fires.drain(..40).collect();
        (s.first, s.lost) = (40, cut[39].planned);
        assert_eq!(found(&s, 100_000), []);
        let mut whole = Audit::default();
        audit(&s, Time(0), Time(100_000), &mut whole).unwrap();
        assert_eq!((whole.expected, whole.by_count_only), (60, 40));
        s.versions[0].taken -= 1;
        assert_eq!(
            found(&s, 100_000),
            [("count", None)],
            "one of them was lost before"
        );
    }
}
