//! One seed, one plan: the settings of the cluster, and which fault comes when.
//!
//! The plan names roles, not nodes ("the leader"): who that is shows only when it comes to it, and
//! stands in `faults.ndjson`.

use serde_json::{Value, json};

use crate::chance::Chance;
use crate::fault::{self, FAULTS, Kind};
use crate::options::{Options, RANDOM};

/// After each fault was there once, so many of a hundred have company.
const WITH_PERCENT: u64 = 35;
/// Families that go together, the one that lasts longer first: what they do does not meet.
const MAIN: [&str; 7] = [
    "partition",
    fault::NETNS,
    "wire",
    "client",
    "clock",
    "receiver",
    "overload",
];
const COMPANY: [&str; 2] = ["kill", "pause"];
/// A shorter run has no time for the slow timing, or for slow faults.
const LONG_FROM_SECONDS: u64 = 60;

/// Waited for before each fault, ms.
const REST_MS: (u64, u64) = (400, 1_200);

/// One fault: so long after the end of the one before, for so long.
#[derive(Clone, Debug)]
pub struct Step {
    pub kind: &'static Kind,
    pub rest_ms: u64,
    pub hold_ms: u64,
    /// What else the fault draws comes from this.
    pub seed: u64,
    /// Begins when half of the time is over, and ends with it.
    pub with: Option<&'static Kind>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    pub options: Options,
    /// Environment of all nodes.
    pub settings: Vec<(String, String)>,
    /// The log is purged behind checkpoints, so that who lags is sent a snapshot, and the exported
    /// log begins in the middle.
    pub purges: bool,
    pub steps: Vec<Step>,
    /// Seeds of the workload, the wires and the sink.
    pub seeds: [u64; 3],
}

impl Plan {
    pub fn new(options: Options) -> Plan {
        let mut chance = Chance::new(options.seed);
        let seeds = [chance.draw(), chance.draw(), chance.draw()];
        let nemeses = match options.nemeses[..] == [RANDOM] {
            true => any_families(&mut chance),
            false => options.nemeses.clone(),
        };
        let has = |family: &str| nemeses.iter().any(|name| name == family);
        let purges = has("snapshot");
        let mut settings = settings(&mut chance, purges, options.seconds >= LONG_FROM_SECONDS);
        // Nodes that cannot make it refuse to start.
        let bug = options.bug.clone();
        settings.extend(bug.map(|bug| (horolog::bugs::VARIABLE.to_owned(), bug)));
        let is_long = options.seconds >= LONG_FROM_SECONDS;
        let fits = |kind: &&Kind| has(kind.family) && (is_long || !kind.slow);
        let kinds: Vec<&Kind> = FAULTS.iter().filter(fits).collect();
        let steps = steps(&mut chance, &kinds, options.seconds * 1_000, is_long);
        Plan {
            options,
            settings,
            purges,
            steps,
            seeds,
        }
    }

    pub fn has(&self, family: &str) -> bool {
        self.steps.iter().any(|step| step.kind.family == family)
    }

    pub fn shown(&self) -> Value {
        let step = |step: &Step| {
            json!({
                "fault": step.kind.name(), "rest_ms": step.rest_ms, "hold_ms": step.hold_ms,
                "seed": step.seed, "with": step.with.map(Kind::name),
            })
        };
        let steps: Vec<Value> = self.steps.iter().map(step).collect();
        json!({
            "seed": self.options.seed, "options": self.options.shown(), "purges": self.purges,
            "settings": self.settings, "steps": steps,
        })
    }
}

/// Small numbers, so that what is rare in production happens all the time.
fn settings(chance: &mut Chance, purges: bool, is_long: bool) -> Vec<(String, String)> {
    let timing = match is_long && chance.percent(20) {
        true => "steady",
        false => "fast",
    };
    let every = *chance.pick(&["150", "400", "1000"]);
    let kept = if purges { "20" } else { "100000000" };
    let window = *chance.pick(&["2s", "5s", "2m"]);
    let age = *chance.pick(&["1s", "4s"]);
    let settings = [
        // Receivers go mad and get well again; who waits for a breaker then is not late for long.
        ("HOROLOG_CALLBACKS_BREAKER_OPEN_MAX", "1s"),
        ("HOROLOG_RAFT_TIMING", timing),
        ("HOROLOG_RAFT_SNAPSHOT_ENTRIES", every),
        ("HOROLOG_RAFT_KEPT_ENTRIES", kept),
        ("HOROLOG_STORE_WINDOW", window),
        ("HOROLOG_STORE_CHECKPOINT_AGE", age),
    ];
    settings
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// All kinds in random order, again and again, until the time is used up; each at least once,
/// except that some can happen only once in the life of a cluster.
fn steps(chance: &mut Chance, kinds: &[&'static Kind], time_ms: u64, is_long: bool) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut used_ms = 0;
    while !kinds.is_empty() && (steps.is_empty() || used_ms < time_ms) {
        let again = |kind: &&&'static Kind| steps.is_empty() || !kind.once;
        let mut round: Vec<&'static Kind> = kinds.iter().filter(again).copied().collect();
        if round.is_empty() {
            break;
        }
        chance.shuffle(&mut round);
        let first = steps.is_empty();
        for kind in round {
            if !first && used_ms >= time_ms {
                break;
            }
            let is_main = MAIN.contains(&kind.family);
            let with = match !first && is_main && chance.percent(WITH_PERCENT) {
                true => any_company(chance, kinds),
                false => None,
            };
            let step = Step {
                kind,
                with,
                rest_ms: between(chance, REST_MS, is_long),
                hold_ms: between(chance, kind.hold_ms, is_long),
                seed: chance.draw(),
            };
            used_ms += step.rest_ms + step.hold_ms;
            steps.push(step);
        }
    }
    steps
}

/// Most of the families, each by its own draw; seldom the one that takes the log's beginning away,
/// or the one that takes the place of wires.
fn any_families(chance: &mut Chance) -> Vec<String> {
    const MOST_PERCENT: u64 = 75;
    const PURGES_PERCENT: u64 = 30;
    const NET_PERCENT: u64 = 25;
    let has_net = chance.percent(NET_PERCENT);
    let drawn = fault::families().filter(|family| match *family {
        fault::NETNS => has_net,
        wired if fault::WIRED.contains(&wired) && has_net => false,
        "snapshot" => chance.percent(PURGES_PERCENT),
        _ => chance.percent(MOST_PERCENT),
    });
    let drawn: Vec<String> = drawn.map(str::to_owned).collect();
    match drawn.is_empty() {
        true => any_families(chance),
        false => drawn,
    }
}

/// A short run keeps to the lower quarter.
fn between(chance: &mut Chance, (from, to): (u64, u64), is_long: bool) -> u64 {
    let parts = if is_long { 1 } else { 4 };
    chance.between(from, from + (to - from) / parts)
}

fn any_company(chance: &mut Chance, kinds: &[&'static Kind]) -> Option<&'static Kind> {
    let fits = |kind: &&&'static Kind| COMPANY.contains(&kind.family);
    let fitting: Vec<&'static Kind> = kinds.iter().filter(fits).copied().collect();
    (!fitting.is_empty()).then(|| *chance.pick(&fitting))
}

#[test]
fn the_same_seed_makes_the_same_plan_and_each_fault_is_in_it() {
    let plan = |seed| Plan::new(Options::parse("--seconds 5", seed).unwrap()).shown();
    assert_eq!(plan(3), plan(3));
    assert_ne!(plan(3)["steps"], plan(4)["steps"]);
    let steps = plan(3)["steps"].as_array().unwrap().clone();
    let expected = FAULTS
        .iter()
        .filter(|kind| kind.family != fault::NETNS && !kind.slow);
    for kind in expected {
        let count = steps.iter().filter(|s| s["fault"] == kind.name()).count();
        assert_eq!(count, 1, "{}", kind.name());
    }
    let random = |seed| Plan::new(Options::parse("--nemesis random", seed).unwrap());
    assert_eq!(random(3).shown(), random(3).shown());
    let purging = (0..100).filter(|seed| random(*seed).purges).count();
    assert!((10..60).contains(&purging), "{purging}");
    let long = Plan::new(Options::parse("--minutes 30", 3).unwrap());
    let adds = long.steps.iter().filter(|s| s.kind.family == "add").count();
    assert!(adds == 1 && long.steps.len() > 300, "{}", long.steps.len());
    assert!(long.steps.iter().any(|step| step.with.is_some()));
    assert!(fault::families().count() > 8);
}
