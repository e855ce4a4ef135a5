//! A plan: expressions in a zone under a policy, as instants.

use serde::{Deserialize, Serialize};

use super::cron::{Cron, Dialect, Wall};
use super::error::PlanError;
use super::every::Every;
use super::exclude::{ExclusionSpec, Exclusions};
use super::zone::{Dst, Gap, Overlap, Stretch, Zone};
use super::{EXPRESSIONS_MAX, OCCURRENCES_ENUMERATED_MAX, SCHEDULE_JITTER_MAX, YEAR_LAST, spread};
use crate::model::{Span, Time};

/// No zone is further from UTC than this, in seconds.
const OFFSET_MAX: i64 = 26 * 3_600;

/// When something fires, as a user writes it: any of `crons`, `every` and `at`, together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanSpec {
    /// Expressions: Unix (5 fields), Quartz (6 or 7), `@daily` and its like, `@every 90s`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub crons: Vec<String>,
    /// A period of elapsed time, `90s` or `90s phase 10s`, counted from `start` or else from 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<String>,
    /// One instant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// The zone of `crons` and `exclude`: an IANA name; `UTC` unless given.
    pub zone: String,
    /// What to do when the zone's clocks jump.
    pub dst: Dst,
    /// Days on which nothing fires.
    pub exclude: ExclusionSpec,
    /// Nothing fires before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Time>,
    /// Nothing fires at or after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<Time>,
    /// So often at most. How often it has run is not known here: see [`Occurrences::having_run`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_runs: Option<u64>,
    /// Each occurrence fires up to so much later, by a delay that name and occurrence decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Span>,
}

impl Default for PlanSpec {
    fn default() -> PlanSpec {
        PlanSpec {
            crons: Vec::new(),
            every: None,
            at: None,
            zone: "UTC".to_owned(),
            dst: Dst::default(),
            exclude: ExclusionSpec::default(),
            start: None,
            end: None,
            max_runs: None,
            jitter: None,
        }
    }
}

impl PlanSpec {
    /// One expression in UTC.
    pub fn cron(expression: &str) -> PlanSpec {
        PlanSpec {
            crons: vec![expression.to_owned()],
            ..PlanSpec::default()
        }
    }

    /// The same in a zone.
    pub fn in_zone(self, zone: &str) -> PlanSpec {
        PlanSpec {
            zone: zone.to_owned(),
            ..self
        }
    }
}

/// One of the things that make a plan fire.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    Cron(Cron),
    Every(Every),
    /// In milliseconds.
    At(i64),
}

/// A parsed [`PlanSpec`]; it fires at least once.
#[derive(Clone, Debug)]
pub struct Plan {
    name: String,
    /// The member that each rule stands in, such as `crons[0]`.
    pub(super) rules: Vec<(String, Rule)>,
    pub(super) zone: Zone,
    pub(super) dst: Dst,
    pub(super) free: Exclusions,
    /// Milliseconds: from, until.
    within: (i64, i64),
    max_runs: Option<u64>,
    jitter: Span,
}

impl Plan {
    /// Reads a plan. The name, such as `group.name`, decides `H` and jitter; it may be empty where
    /// neither is used.
    ///
    /// # Errors
    /// Something in it is no expression, zone or date, or out of bounds; or it never fires.
    pub fn parse(name: &str, spec: &PlanSpec) -> Result<Plan, PlanError> {
        let count = spec.crons.len();
        if count > EXPRESSIONS_MAX {
            let found = format!("{count} expressions");
            let allowed = format!("at most {EXPRESSIONS_MAX}");
            return Err(PlanError::of("crons", found, allowed));
        }
        let start = spec.start.map_or(0, |time| time.0 as i64);
        let end = spec.end.map_or(i64::MAX, |time| time.0 as i64);
        if start >= end {
            let allowed = "an instant after start";
            return Err(PlanError::of("end", Time(end as u64), allowed));
        }
        let mut rules = Vec::new();
        for (n, text) in spec.crons.iter().enumerate() {
            let member = format!("crons[{n}]");
            let rule = match every_text(text) {
                Some(period) => Rule::Every(Every::parse(&member, period, name, start)?),
                None => Rule::Cron(Cron::parse(&member, text, name)?),
            };
            rules.push((member, rule));
        }
        if let Some(text) = &spec.every {
            let every = Every::parse("every", text, name, start)?;
            rules.push(("every".to_owned(), Rule::Every(every)));
        }
        if let Some(at) = spec.at {
            rules.push(("at".to_owned(), Rule::At(at.0 as i64)));
        }
        if rules.is_empty() {
            let allowed = "at least one of crons, every and at";
            return Err(PlanError::of("plan", "none of them", allowed));
        }
        let jitter = spec.jitter.unwrap_or_default();
        if jitter > SCHEDULE_JITTER_MAX {
            let allowed = format!("at most {SCHEDULE_JITTER_MAX}");
            return Err(PlanError::of("jitter", jitter, allowed));
        }
        if spec.max_runs == Some(0) {
            return Err(PlanError::of("max_runs", 0, "1 or more"));
        }
        let plan = Plan {
            name: name.to_owned(),
            rules,
            zone: Zone::named(&spec.zone)?,
            dst: spec.dst,
            free: Exclusions::parse(&spec.exclude)?,
            within: (start, end),
            max_runs: spec.max_runs,
            jitter,
        };
        plan.each_rule_fires()?;
        Ok(plan)
    }

    /// Refuses a plan of which some part never fires: its author meant something else.
    fn each_rule_fires(&self) -> Result<(), PlanError> {
        for (member, rule) in &self.rules {
            if self.next_of(rule, self.within.0, &mut None).is_none() {
                let allowed = "something that fires at least once between start and end, on days that are not excluded";
                return Err(PlanError::of(member, "what never fires", allowed));
            }
        }
        Ok(())
    }

    /// The zone's name.
    pub fn zone(&self) -> &str {
        &self.zone.name
    }

    /// The dialect of each expression of `crons` that has fields.
    pub fn dialects(&self) -> impl Iterator<Item = Dialect> {
        self.rules.iter().filter_map(|(_, rule)| match rule {
            Rule::Cron(cron) => Some(cron.dialect),
            Rule::Every(_) | Rule::At(_) => None,
        })
    }

    /// The first occurrence later than an instant, however many there have been.
    pub fn next_after(&self, time: Time) -> Option<Time> {
        let from = time.0.saturating_add(1) as i64;
        let next = self
            .rules
            .iter()
            .filter_map(|(_, rule)| self.next_of(rule, from, &mut None));
        next.min().map(|at| Time(at as u64))
    }

    /// The occurrences later than an instant, in order, each instant once.
    pub fn after(&self, time: Time) -> Occurrences<'_> {
        Occurrences::new(self, time.0.saturating_add(1) as i64)
    }

    /// The occurrences from an instant on, in order, each instant once.
    pub fn since(&self, time: Time) -> Occurrences<'_> {
        Occurrences::new(self, time.0 as i64)
    }

    /// How many occurrences there are from `from` until before `to`, `max_runs` aside.
    pub fn count_between(&self, from: Time, to: Time) -> Count {
        let all = self.since(from).without_limit();
        let most = OCCURRENCES_ENUMERATED_MAX + 1;
        let n = all.take_while(|at| *at < to).take(most as usize).count() as u64;
        Count {
            n: n.min(OCCURRENCES_ENUMERATED_MAX),
            exact: n <= OCCURRENCES_ENUMERATED_MAX,
        }
    }

    /// When an occurrence fires: its own instant, and the jitter that is its own.
    ///
    /// A jitter longer than the distance between two occurrences may let the later one fire first.
    pub fn fires_at(&self, planned: Time) -> Time {
        if self.jitter == Span::ZERO {
            return planned;
        }
        let purpose = format!("jitter {}", planned.0);
        let delay = spread::draw(&self.name, &purpose, self.jitter.0 + 1);
        planned.plus(Span(delay))
    }

    /// What the wall clock shows at an instant, with offset and zone (RFC 9557):
    /// `2027-03-28T03:00:00+02:00[Europe/Berlin]`.
    pub fn shown(&self, at: Time) -> String {
        let at = jiff::Timestamp::from_millisecond(at.0 as i64);
        self.zone.write(at.unwrap_or(jiff::Timestamp::MAX))
    }

    /// The longest delay that [`Plan::fires_at`] adds.
    pub fn jitter(&self) -> Span {
        self.jitter
    }

    /// The same plan under other rules of its zone.
    #[cfg(test)]
    pub(super) fn under(self, zone: Zone) -> Plan {
        Plan { zone, ..self }
    }

    /// The first occurrence of one rule at or after an instant, in milliseconds.
    ///
    /// `near` keeps the stretch in which the search ended, where the next one will begin.
    fn next_of(&self, rule: &Rule, from: i64, near: &mut Option<Stretch>) -> Option<i64> {
        let (start, end) = self.within;
        let from = from.max(start);
        let next = match rule {
            Rule::Cron(cron) => {
                let second = from.div_euclid(1_000) + i64::from(from % 1_000 != 0);
                let second = self.next_of_cron(cron, second, near);
                second.map(|second| second * 1_000)
            }
            Rule::Every(every) => self.next_of_every(every, from),
            Rule::At(at) => Some(*at).filter(|at| *at >= from && self.is_free(at / 1_000)),
        };
        next.filter(|at| *at < end)
    }

    fn is_free(&self, second: i64) -> bool {
        self.free.is_empty() || self.free.frees(self.zone.shown(second))
    }

    fn next_of_every(&self, every: &Every, from: i64) -> Option<i64> {
        let mut next = every.at_or_after(from);
        while next < END * 1_000 && next < self.within.1 {
            let second = next.div_euclid(1_000);
            if self.is_free(second) {
                return Some(next);
            }
            next = every.at_or_after(self.zone.next_date(second) * 1_000);
        }
        None
    }

    /// The first instant at or after one at which an expression fires, in seconds.
    ///
    /// Between two changes of the offset the wall clock runs straight, so each such stretch is
    /// searched by itself: for what its beginning left out, then for what it shows.
    fn next_of_cron(&self, cron: &Cron, mut from: i64, near: &mut Option<Stretch>) -> Option<i64> {
        let named = !cron.goes_through_all_hours();
        let until = HORIZON.min(self.within.1 / 1_000 + 1);
        while from < until {
            let known = near.filter(|near| (near.start..near.end).contains(&from));
            let stretch = known.unwrap_or_else(|| self.zone.stretch(from));
            *near = Some(stretch);
            if named
                && self.dst.gap == Gap::After
                && stretch.start >= from
                && let Some((begins, ends)) = stretch.gap()
                && (cron.at_or_after(begins, &self.free)).is_some_and(|left_out| left_out < ends)
                && self.is_free(stretch.start)
            {
                return Some(stretch.start);
            }
            let mut low: Wall = from + stretch.offset;
            if named
                && self.dst.overlap == Overlap::Once
                && let Some((_, ends)) = stretch.overlap()
            {
                low = low.max(ends);
            }
            let shown = cron
                .at_or_after(low, &self.free)
                .map(|wall| wall - stretch.offset);
            if let Some(at) = shown.filter(|at| *at < stretch.end) {
                return Some(at);
            }
            from = self.worth_looking(cron, stretch.end, stretch.offset)?;
        }
        None
    }

    /// The end of a stretch, or a later instant before which nothing can fire: a rare expression
    /// would walk through every year's changes otherwise.
    fn worth_looking(&self, cron: &Cron, end: i64, offset: i64) -> Option<i64> {
        if end >= HORIZON {
            return None;
        }
        // What the wall clock may show after the end begins here.
        let shown = end + offset - 2 * OFFSET_MAX;
        let next = cron.at_or_after(shown, &self.free)?;
        Some(end.max(next - OFFSET_MAX))
    }
}

/// 2100-01-01T00:00:00Z, in seconds.
const END: i64 = 4_102_444_800;
/// By now every wall clock shows it.
const HORIZON: i64 = END + OFFSET_MAX;
const _: () = assert!(YEAR_LAST == 2099);

/// `90s` of `@every 90s`.
fn every_text(text: &str) -> Option<&str> {
    let (word, rest) = text.trim().split_once(char::is_whitespace)?;
    word.eq_ignore_ascii_case("@every").then_some(rest)
}

/// A number of occurrences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    pub n: u64,
    /// Otherwise there are more than so many.
    pub exact: bool,
}

/// The occurrences of a plan, in order.
#[derive(Clone, Debug)]
pub struct Occurrences<'a> {
    plan: &'a Plan,
    /// The next one of each rule.
    heads: Vec<Head>,
    left: u64,
}

#[derive(Clone, Debug)]
struct Head {
    next: Option<i64>,
    near: Option<Stretch>,
}

impl<'a> Occurrences<'a> {
    fn new(plan: &'a Plan, from: i64) -> Occurrences<'a> {
        let heads = plan.rules.iter().map(|(_, rule)| {
            let mut near = None;
            let next = plan.next_of(rule, from, &mut near);
            Head { next, near }
        });
        Occurrences {
            heads: heads.collect(),
            left: plan.max_runs.unwrap_or(u64::MAX),
            plan,
        }
    }

    /// Ends when the plan's `max_runs` are reached, of which so many are behind; without this none
    /// is.
    pub fn having_run(self, runs: u64) -> Occurrences<'a> {
        let most = self.plan.max_runs.unwrap_or(u64::MAX);
        let left = most.saturating_sub(runs);
        Occurrences { left, ..self }
    }

    /// As if there were no `max_runs`.
    pub fn without_limit(self) -> Occurrences<'a> {
        let left = u64::MAX;
        Occurrences { left, ..self }
    }
}

impl Iterator for Occurrences<'_> {
    type Item = Time;

    fn next(&mut self) -> Option<Time> {
        self.left = self.left.checked_sub(1)?;
        let next = self.heads.iter().filter_map(|head| head.next).min()?;
        for (head, (_, rule)) in self.heads.iter_mut().zip(&self.plan.rules) {
            if head.next == Some(next) {
                head.next = self.plan.next_of(rule, next + 1, &mut head.near);
            }
        }
        Some(Time(next as u64))
    }
}
