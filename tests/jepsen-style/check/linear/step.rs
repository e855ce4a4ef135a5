//! What each operation does to a task, and what its answer says about it.

use serde_json::Value;

use super::super::model::{STAGES, table};
use super::super::run::{End, Op};
use super::super::words::{instant, span};

/// A task is triggered so long before it is due at most: 250 ms of lead, and half a second by
/// which clocks may differ unnoticed, twice.
const AHEAD_US: u64 = 1_250_000;

/// A set of stages, by their place in [`STAGES`]; the bit after them is "not there".
type Set = u16;
const ABSENT: Set = 1 << STAGES.len();

fn set(names: &[&str]) -> Set {
    let bit = |name: &&str| {
        STAGES
            .iter()
            .position(|stage| stage == name)
            .map_or(0, |n| 1 << n)
    };
    names.iter().map(bit).fold(0, |all, bit| all | bit)
}

pub fn names(set: Set) -> Vec<&'static str> {
    let stages = STAGES.iter().enumerate();
    let mut names: Vec<_> = stages
        .filter(|(n, _)| set & (1 << n) != 0)
        .map(|(_, s)| *s)
        .collect();
    names.extend((set & ABSENT != 0).then_some("absent"));
    names
}

/// What is known of a task between two operations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub stages: Set,
    /// Due, in milliseconds, and whether it is that exactly or that at least.
    pub due_ms: (u64, bool),
    /// Which content it was submitted with.
    pub content: usize,
    /// The last change is not before this log index, nor its attempts fewer.
    pub index: u64,
    attempt: u64,
}

impl Place {
    pub const NOWHERE: Place = Place {
        stages: ABSENT,
        due_ms: (0, false),
        content: 0,
        index: 0,
        attempt: 0,
    };

    fn is_there(&self) -> bool {
        self.stages & ABSENT == 0
    }

    /// What may have happened by itself until an instant.
    fn passed(mut self, until_us: u64) -> Place {
        let mut open = set(&["triggered", "running", "accepted", "retrying"]);
        if until_us.saturating_add(AHEAD_US) >= self.due_ms.0.saturating_mul(1_000) {
            open |= set(&["scheduled"]);
        }
        if self.stages & open != 0 {
            self.stages |= set(&[
                "triggered",
                "running",
                "accepted",
                "retrying",
                "done",
                "dead",
            ]);
        }
        self
    }

    /// Only the stages in which an operation has one of these effects.
    fn only(mut self, keep: impl Fn(&str) -> bool) -> Option<Place> {
        let kept = names(self.stages).into_iter().filter(|name| keep(name));
        self.stages = set(&kept.collect::<Vec<_>>());
        (self.stages != 0).then_some(self)
    }

    /// Narrowed to what an answer shows of the task.
    fn shown(mut self, answer: &Value) -> Option<Place> {
        if let Some(stage) = answer["stage"].as_str() {
            self.stages &= set(&[stage]);
        }
        if let Some(due) = instant(&answer["due_at"]) {
            let (known, exact) = self.due_ms;
            if (exact && due != known) || due < known {
                return None;
            }
            self.due_ms = (due, true);
        }
        for (known, name) in [(&mut self.index, "index"), (&mut self.attempt, "attempt")] {
            let seen = answer[name].as_u64().unwrap_or(*known);
            if seen < *known {
                return None;
            }
            *known = seen;
        }
        (self.stages != 0).then_some(self)
    }
}

/// An operation on one task, as the search sees it.
#[derive(Clone)]
pub struct Step<'a> {
    pub op: &'a Op,
    /// What was asked of this task.
    pub asked: &'a Value,
    /// `bulk` and `list` come down to one of the other kinds.
    pub f: &'a str,
    pub answer: &'a Value,
    pub end: End,
    pub ended_us: u64,
    pub content: usize,
}

impl Step<'_> {
    /// The task after this step, if the step can be the next one.
    pub fn from(&self, place: &Place) -> Option<Place> {
        let place = place.clone().passed(self.ended_us);
        if self.end == End::Fail {
            return self.refused(place);
        }
        match self.f {
            "submit" => self.submitted(place),
            "read" => place.is_there().then(|| place.shown(self.answer))?,
            _ if !place.is_there() => None,
            "cancel" => self.moved(place, "cancel"),
            "change" => self.changed(place),
            "run" => self.run(place),
            _ => self.completed(place),
        }
    }

    fn sees(&self, place: Place) -> Option<Place> {
        let place = place.passed(self.ended_us);
        match self.end {
            End::Ok => place.shown(self.answer),
            _ => Some(place),
        }
    }

    /// 404, 409 and 412 say something about the task; other refusals do not.
    fn refused(&self, place: Place) -> Option<Place> {
        let status = self.answer["status"].as_u64().unwrap_or(0);
        let fenced = !self.asked["fence"].is_null();
        match (status, self.f) {
            (404, _) => (!place.is_there()).then_some(place),
            (409, "submit") => (place.is_there() && place.content != self.content).then_some(place),
            // An attempt that cannot be withdrawn has begun, although it is not logged yet.
            (409, "cancel" | "change") => place.only(|stage| {
                let to = table(self.f, stage);
                stage != "absent" && (to == "-" || to.starts_with("withdraw"))
            }),
            (409, "run") => place.only(|stage| {
                let to = table("run", stage);
                stage != "absent" && (to == "-" || to.starts_with("again"))
            }),
            (409, "complete") => {
                let verb = self.verb();
                place.only(|stage| stage != "absent" && (fenced || table(verb, stage) == "-"))
            }
            (412, _) => place.is_there().then_some(place),
            _ => Some(place),
        }
    }

    fn submitted(&self, place: Place) -> Option<Place> {
        let created = self.answer["status"].as_u64() == Some(201);
        if place.is_there() {
            let known = !(created && self.end == End::Ok) && place.content == self.content;
            return match (self.end, known) {
                // The index is that of the repetition; the task's last change may be before it.
                (End::Ok, true) => {
                    let index = place.index;
                    let seen = self.sees(Place { index: 0, ..place })?;
                    Some(Place { index, ..seen })
                }
                (End::Ok, false) => None,
                // Sent again without an answer: whatever it was told, nothing changed.
                _ => Some(place),
            };
        }
        if self.end == End::Ok && !created {
            return None;
        }
        self.sees(Place {
            stages: set(&["scheduled"]),
            due_ms: self.due(self.op.began_us / 1_000),
            content: self.content,
            ..place
        })
    }

    /// When it is due at least, and whether exactly then. A delay counts by the leader's clock.
    fn due(&self, now_ms: u64) -> (u64, bool) {
        match instant(&self.asked["due_at"]) {
            Some(due) => (due, true),
            None => {
                let delay = span(&self.asked["delay"]).unwrap_or(0);
                ((now_ms + delay).saturating_sub(AHEAD_US / 1_000), false)
            }
        }
    }

    /// Goes where the table says, from every stage from which it says so.
    fn moved(&self, place: Place, verb: &str) -> Option<Place> {
        let again = self.asked["again"] == true;
        let mut to = 0;
        for stage in names(place.stages) {
            to |= match table(verb, stage).split_once(' ') {
                Some(("again", then)) if again => set(&[then]),
                Some(("withdraw", then)) => set(&[then]),
                Some(_) => 0,
                None => match table(verb, stage) {
                    "same" => set(&[stage]),
                    "retry" => set(&["retrying", "dead"]),
                    then => set(&[then]),
                },
            };
        }
        let place = Place {
            stages: to,
            ..place
        };
        (to != 0).then(|| self.sees(place))?
    }

    fn changed(&self, mut place: Place) -> Option<Place> {
        let asked = &self.asked;
        let before = place.clone();
        if !asked["due_at"].is_null() || !asked["delay"].is_null() {
            place.due_ms = self.due(self.op.began_us / 1_000);
        }
        // What leaves the stage is decided by the old instant, what follows by the new one.
        let stages = before.only(|stage| table("change", stage) != "-" && stage != "absent")?;
        place.stages = stages.stages;
        self.moved(place, "change")
    }

    fn run(&self, mut place: Place) -> Option<Place> {
        // A final task begins anew, and is due then.
        if place.stages & set(&["done", "dead", "cancelled"]) != 0 {
            place.due_ms = (0, false);
        }
        // With `wait`, the answer shows what became of it.
        self.moved(place, "run")
    }

    fn completed(&self, place: Place) -> Option<Place> {
        self.moved(place, self.verb())
    }

    fn verb(&self) -> &'static str {
        match self.asked["ok"] == false {
            true => "complete failed",
            false => "complete ok",
        }
    }
}
