//! One run: a cluster of machines, clients, and faults, tick by tick, from one seed.
//!
//! ```text
//! two seconds of peace ─► work and faults ─► all faults end ─► until all that is due has ended ─► checks
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use horolog::log::sim_disk::Dice;
use horolog::model::Span;
use horolog::raft::{Cadence, ScrubPace, Timing, seed_chance};
use horolog::state::State;
use serde_json::{Value, json};

use crate::check::{self, Verdict};
use crate::disk::End;
use crate::faults::What;
use crate::machine::{Answer, EPOCH_US, Machine, Site, Truth, exchange};
use crate::schedules;
use crate::sink::Sink;
use crate::told::{shown, told};
use crate::wires::Wires;
use crate::work::{Ask, Work};

/// Time goes on in such steps.
pub const TICK_US: u64 = 1_000;
/// A client gives up after this.
const PATIENCE: Duration = Duration::from_secs(3);
/// When faults stop: one leader and everything served within this (I-32).
const SERVES_WITHIN_US: u64 = 15_000_000;
/// And all due work final within this, retries and time-outs included.
const DRAINED_WITHIN_US: u64 = 60_000_000;
/// How often states are compared.
const COMPARE_EVERY_US: u64 = 500_000;
/// Pages of a list at most.
const PAGES_MAX: usize = 100;
/// What a node tells of its schedules when all is quiet has come within this.
const TOLD_WITHIN_US: u64 = 10_000_000;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Of work and faults.
    pub lasts_us: u64,
    /// `None`: faults are drawn. Else these, each with its beginning and its length.
    pub faults: Option<Vec<(u64, u64, What)>>,
    /// Checkpoints and purges come often, whatever the seed says.
    pub compacts: bool,
    /// Disks say that they have synced, and have not.
    pub disks_lie: bool,
    /// It ends when its time is over: nothing is healed and nothing is judged.
    pub brief: bool,
    /// What happens is told in words, and a run that fails leaves its folder behind.
    pub words: bool,
}

impl Plan {
    /// A plan of which the seed says everything but its length.
    pub fn drawn(seed: u64, seconds: u64) -> Plan {
        Plan {
            seed,
            lasts_us: seconds * 1_000_000,
            faults: None,
            compacts: false,
            disks_lie: false,
            brief: false,
            words: false,
        }
    }

    /// The same with these faults.
    pub fn with(self, faults: Vec<(u64, u64, What)>) -> Plan {
        Plan {
            faults: Some(faults),
            ..self
        }
    }

    pub fn compacting(self) -> Plan {
        Plan {
            compacts: true,
            ..self
        }
    }

    pub fn with_lying_disks(self) -> Plan {
        Plan {
            disks_lie: true,
            ..self
        }
    }

    pub fn in_brief(self) -> Plan {
        Plan {
            brief: true,
            ..self
        }
    }

    pub fn in_words(self) -> Plan {
        Plan {
            words: true,
            ..self
        }
    }
}

/// What was done, for the ledger.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub simulated_us: u64,
    pub faults: BTreeMap<&'static str, u64>,
    /// Steps in whose middle the power went.
    pub crashes: BTreeMap<&'static str, u64>,
    pub steps: BTreeMap<&'static str, u64>,
    pub operations: BTreeMap<String, u64>,
    pub deliveries: u64,
    pub entries: u64,
    pub starts: u64,
    pub compared: u64,
    pub undecided: u64,
    pub checked: u64,
    /// Changes of who leads and who owns that were answered well, by their path.
    pub changed: BTreeMap<&'static str, u64>,
}

impl Ledger {
    pub fn add(&mut self, other: &Ledger) {
        self.simulated_us += other.simulated_us;
        for (to, from) in [
            (&mut self.faults, &other.faults),
            (&mut self.crashes, &other.crashes),
            (&mut self.steps, &other.steps),
            (&mut self.changed, &other.changed),
        ] {
            from.iter()
                .for_each(|(name, n)| *to.entry(*name).or_default() += n);
        }
        for (name, n) in &other.operations {
            *self.operations.entry(name.clone()).or_default() += n;
        }
        self.deliveries += other.deliveries;
        self.entries += other.entries;
        self.starts += other.starts;
        self.compared += other.compared;
        self.undecided += other.undecided;
        self.checked += other.checked;
    }
}

/// What came of a run.
pub struct Outcome {
    pub seed: u64,
    pub seconds: u64,
    pub violations: Vec<String>,
    pub ledger: Ledger,
    /// Everything that happened, in order, if it was asked for.
    pub words: String,
}

/// Lines of what happened.
struct Trace(Option<String>);

impl Trace {
    fn note(&mut self, line: &str) {
        if let Some(words) = &mut self.0 {
            words.push_str(line);
            words.push('\n');
        }
    }
}

/// What a node last said of itself: counts, the cluster, and what is due and not begun.
type Look = (Value, Value, Value);

type Answered = Arc<Mutex<Vec<(u64, Option<Asked>)>>>;

/// What came back.
enum Asked {
    One(Answer),
    /// All pages, or none.
    List(Option<Vec<Value>>),
}

struct World {
    site: Site,
    machines: Vec<Machine>,
    dice: Dice,
    work: Work,
    trace: Trace,
    ledger: Ledger,
    violations: Vec<String>,
    answered: Answered,
    /// Operations without an end: the node, and what was asked.
    open: BTreeMap<u64, (u64, Ask)>,
    history: Vec<Value>,
    fault_lines: Vec<Value>,
    stamp_us: u64,
    operations: u64,
    /// When machines without a process get one.
    starts: BTreeMap<u64, u64>,
    active: Vec<(u64, What)>,
    /// Their disks were made to fail since they started.
    sabotaged: BTreeMap<u64, bool>,
    hashes: BTreeMap<u64, (u64, String)>,
    looks: Arc<Mutex<BTreeMap<u64, Look>>>,
    /// Changes of who leads and who owns that came about.
    changed: Arc<Mutex<Vec<(&'static str, Value)>>>,
    /// What each node told of its schedules in the end.
    told: Arc<Mutex<BTreeMap<u64, Value>>>,
}

/// Runs a plan.
pub fn run(plan: &Plan) -> Outcome {
    seed_chance(plan.seed);
    let place = ["/dev/shm", "/tmp"]
        .into_iter()
        .find(|dir| PathBuf::from(dir).is_dir());
    let dir = tempfile::Builder::new()
        .prefix("horolog-simulate-")
        .tempdir_in(place.unwrap_or("."))
        .expect("a folder");
    let mut world = World::new(plan, dir.path().to_owned());
    world.go(plan);
    let mut outcome = world.judge(plan);
    if !outcome.violations.is_empty() && plan.words {
        let kept = dir.keep();
        std::fs::write(kept.join("trace.txt"), &outcome.words).expect("the trace is written");
        outcome
            .violations
            .push(format!("all of it is in {}", kept.display()));
    }
    outcome
}

impl World {
    fn new(plan: &Plan, dir: PathBuf) -> World {
        let mut dice = Dice::new(plan.seed);
        let truth = Truth::default();
        let timing = match dice.below(3) {
            0 => Timing::Steady,
            _ => Timing::Fast,
        };
        let often = dice.below(2) == 0 || plan.compacts;
        let cadence = Cadence {
            entries: if often { 40 + dice.below(200) } else { 2_000 },
            age: Span::seconds(if often { 3 } else { 20 }),
            kept: 10 + dice.below(60),
            window: Span::seconds(8),
            ..Cadence::default()
        };
        let site = Site {
            nodes: 3,
            timing,
            cadence,
            scrub: ScrubPace {
                every: Span::seconds(15),
                ..ScrubPace::default()
            },
            sink: Sink::new(truth.clone(), dice.roll()),
            wires: Wires::new(dice.roll()),
            truth,
            dir,
            disks_lie: plan.disks_lie,
        };
        let machines = (1..=site.nodes).map(|id| Machine::new(&site, id, Dice::new(dice.roll())));
        let machines = machines.collect();
        World {
            machines,
            work: Work::new(Dice::new(dice.roll())),
            dice,
            trace: Trace(plan.words.then(String::new)),
            ledger: Ledger::default(),
            violations: Vec::new(),
            answered: Arc::default(),
            open: BTreeMap::new(),
            history: Vec::new(),
            fault_lines: Vec::new(),
            stamp_us: 0,
            operations: 0,
            starts: (1..=site.nodes).map(|id| (id, 0)).collect(),
            active: Vec::new(),
            sabotaged: BTreeMap::new(),
            hashes: BTreeMap::new(),
            looks: Arc::default(),
            changed: Arc::default(),
            told: Arc::default(),
            site,
        }
    }

    fn now_us(&self) -> u64 {
        self.site.truth.us()
    }

    /// Later than any stamp before: what came one after the other stays so.
    fn stamp(&mut self) -> u64 {
        self.stamp_us = (self.stamp_us + 1).max(EPOCH_US + self.now_us());
        self.stamp_us
    }

    fn go(&mut self, plan: &Plan) {
        let mut to_come = plan.faults.clone();
        let mut next_fault_us = 2_500_000;
        while self.now_us() < plan.lasts_us {
            self.tick();
            let now_us = self.now_us();
            for ask in self.work.at(now_us, (EPOCH_US + now_us) / 1_000) {
                let node = 1 + self.dice.below(self.site.nodes);
                self.ask(node, ask);
            }
            if let Some(to_come) = &mut to_come {
                for (_, lasts, what) in to_come
                    .extract_if(.., |(at, ..)| *at <= now_us)
                    .collect::<Vec<_>>()
                {
                    self.begin(what, lasts);
                }
            } else if now_us >= next_fault_us {
                let (what, lasts) = What::draw(&mut self.dice, self.site.nodes);
                self.begin(what, lasts);
                next_fault_us = now_us + self.dice.below(5_000_000);
            }
        }
        if !plan.brief {
            self.heal();
        }
    }

    fn tick(&mut self) {
        let now_us = self.now_us() + TICK_US;
        self.site.truth.set(now_us);
        let over: Vec<_> = self
            .active
            .extract_if(.., |(until, _)| *until <= now_us)
            .collect();
        over.into_iter().for_each(|(_, what)| self.end_fault(&what));
        self.site.wires.tick(now_us);
        let first = self.dice.below(self.site.nodes) as usize;
        for n in 0..self.machines.len() {
            let at = (first + n) % self.machines.len();
            self.start_if_due(at);
            self.machines[at].tick();
            self.collect(at);
        }
        if now_us.is_multiple_of(COMPARE_EVERY_US) {
            self.compare();
        }
        if now_us.is_multiple_of(50 * TICK_US) {
            let (writes, bytes, pipes, bent) = self.site.wires.counts();
            let disks = self.machines.iter().map(|machine| {
                let life = machine.life.iter().flat_map(|life| life.disks.each());
                life.map(|disk| disk.digest()).fold(0, u64::wrapping_add)
            });
            let disks: Vec<u64> = disks.collect();
            let came = self.site.sink.count();
            self.trace.note(&format!(
                "{now_us} wires {writes} {bytes} {pipes} {bent} disks {disks:?} came {came}"
            ));
        }
    }

    fn start_if_due(&mut self, at: usize) {
        let now_us = self.now_us();
        let id = self.machines[at].id;
        if self.starts.get(&id).is_some_and(|due| *due <= now_us) {
            self.starts.remove(&id);
            self.sabotaged.insert(id, false);
            self.ledger.starts += 1;
            self.trace.note(&format!("{now_us} node {id} starts"));
            self.machines[at].start();
        }
    }

    /// What a machine came to in a tick.
    fn collect(&mut self, at: usize) {
        let id = self.machines[at].id;
        let answered = std::mem::take(&mut *lock(&self.answered));
        for (op, asked) in answered {
            self.end_op(op, asked);
        }
        let Some(life) = &self.machines[at].life else {
            return;
        };
        let off = life.disks.each().iter().any(|disk| disk.is_off());
        let (face, now_us) = (life.face.clone(), self.now_us());
        let fault = lock(&face.fault).take();
        let ended = *lock(&face.ended);
        if off {
            let step = self.machines[at].shared.crashed().unwrap_or("elsewhere");
            *self.ledger.crashes.entry(step).or_default() += 1;
            self.finish(at, End::PowerLost, "the power went in a step");
        } else if let Some(why) = fault {
            if self.sabotaged.get(&id) != Some(&true) {
                self.violations
                    .push(format!("{now_us} us: node {id} ended by itself: {why}"));
            }
            self.finish(at, End::Killed, &why);
        } else if ended {
            self.finish(at, End::Killed, "stopped");
        }
    }

    /// Ends a process; another one follows.
    fn finish(&mut self, at: usize, end: End, why: &str) {
        let (id, now_us) = (self.machines[at].id, self.now_us());
        self.trace
            .note(&format!("{now_us} node {id} ends ({end:?}): {why}"));
        self.machines[at].end(end);
        let lost: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, (n, _))| *n == id)
            .map(|(op, _)| *op)
            .collect();
        for op in lost {
            self.end_op(op, None);
        }
        let after = 50_000 + self.dice.below(1_500_000);
        let due = self.starts.entry(id).or_insert(0);
        *due = (*due).max(now_us + after);
    }

    fn begin(&mut self, what: What, lasts: u64) {
        let now_us = self.now_us();
        *self.ledger.faults.entry(what.name()).or_default() += 1;
        self.trace
            .note(&format!("{now_us} begins: {what:?} for {lasts}"));
        self.fault_line(&what, "begin");
        what.set(true, &self.site.wires, &mut self.machines, now_us + lasts);
        match &what {
            What::Ends(end, nodes) => {
                for id in nodes {
                    self.starts.insert(*id, now_us + lasts);
                    self.finish((*id - 1) as usize, *end, "a fault");
                }
            }
            What::Stops(id) => self.machines[(*id - 1) as usize].stop(),
            What::Fails(id, ..) => drop(self.sabotaged.insert(*id, true)),
            What::Crash(id, _) => drop(self.sabotaged.insert(*id, true)),
            What::Leads(id) => {
                let body = json!({ "node": id });
                let asked = 1 + self.dice.below(self.site.nodes);
                self.change(asked, "/v1/cluster/lead", body);
            }
            What::Drains(id) => self.drain(*id, true),
            _ => {}
        }
        self.active.push((now_us + lasts, what));
    }

    fn end_fault(&mut self, what: &What) {
        let now_us = self.now_us();
        if let What::Drains(id) = what {
            self.drain(*id, false);
        }
        self.trace.note(&format!("{now_us} ends: {}", what.name()));
        what.set(false, &self.site.wires, &mut self.machines, now_us);
        // What still goes wrong elsewhere goes on.
        for (until, other) in self.active.clone() {
            if !matches!(
                other,
                What::Cut(..)
                    | What::Crash(..)
                    | What::Fails(..)
                    | What::StandsStill(..)
                    | What::Leads(_)
                    | What::Drains(_)
            ) {
                other.set(true, &self.site.wires, &mut self.machines, until);
            }
        }
        if let What::Fails(id, ..) = what {
            let life = &self.machines[(*id - 1) as usize].life;
            let disks = life.iter().flat_map(|life| life.disks.each());
            disks.for_each(|disk| disk.heal());
        }
        self.fault_line(what, "end");
    }

    /// Asks a node to change who leads or owns; nobody waits for the answer.
    fn change(&mut self, node: u64, path: &'static str, body: Value) {
        let done = self.changed.clone();
        self.machines[(node - 1) as usize].ask(move |router| async move {
            let answer = exchange(&router, ("POST", path, Some(&body))).await;
            if answer.status == 200 {
                lock(&done).push((path, body));
            }
        });
    }

    /// The node itself is asked; who starts again has forgotten it.
    fn drain(&mut self, id: u64, drain: bool) {
        self.change(
            id,
            "/v1/cluster/drain",
            json!({ "node": id, "drain": drain }),
        );
    }

    fn fault_line(&mut self, what: &What, phase: &str) {
        let t = self.stamp();
        let line = json!({
            "t": t, "what": what.name(), "nodes": what.nodes(), "phase": phase,
            "detail": format!("{what:?}"),
        });
        self.fault_lines.push(line);
    }

    fn ask(&mut self, node: u64, ask: Ask) -> Option<u64> {
        let at = (node - 1) as usize;
        self.machines[at].router()?;
        let t = self.stamp();
        self.operations += 1;
        let op = self.operations;
        self.history
            .push(line(op, "invoke", node, t, &ask, &ask.asked));
        let answered = self.answered.clone();
        let sent = ask.clone();
        self.machines[at].ask(move |router| async move {
            let asked = tokio::time::timeout(PATIENCE, carry(router, sent)).await;
            lock(&answered).push((op, asked.ok()));
        });
        self.open.insert(op, (node, ask));
        Some(op)
    }

    fn end_op(&mut self, op: u64, asked: Option<Asked>) {
        let Some((node, ask)) = self.open.remove(&op) else {
            return;
        };
        let (end, got) = match asked {
            None => ("unknown", json!({ "error": "no answer" })),
            Some(Asked::One(answer)) => told(answer.status, answer.decided, &answer.body),
            Some(Asked::List(Some(tasks))) => ("ok", json!({ "status": 200, "tasks": tasks })),
            Some(Asked::List(None)) => ("unknown", json!({ "error": "not all pages came" })),
        };
        let t = self.stamp();
        let kind = format!("{} {end}", ask.f);
        *self.ledger.operations.entry(kind).or_default() += 1;
        self.trace
            .note(&format!("{t} op {op} {} {end} {}", ask.f, got["status"]));
        self.history.push(line(op, end, node, t, &ask, &got));
    }

    /// I-27: whoever has folded the same index has the same hash.
    fn compare(&mut self) {
        for machine in &self.machines {
            let Some(life) = &machine.life else { continue };
            let part = lock(&life.face.part);
            let Some(part) = &*part else { continue };
            let seen: Vec<(u64, String)> = part.cluster().state().read(|state| {
                let now = (state.applied(), state.hash());
                let hashes = state.hashes().chain([now]);
                hashes
                    .map(|(index, hash)| (index, hash.to_string()))
                    .collect()
            });
            for (index, hash) in seen {
                let first = self
                    .hashes
                    .entry(index)
                    .or_insert_with(|| (machine.id, hash.clone()));
                self.ledger.compared += u64::from(first.0 != machine.id);
                if first.1 != hash {
                    self.violations.push(format!(
                        "I-27: at index {index} node {} has the state {}, node {} {hash}",
                        first.0, first.1, machine.id
                    ));
                }
            }
        }
    }

    /// I-32: all faults end; then the cluster serves, and all that is due comes to its end.
    fn heal(&mut self) {
        let began_us = self.now_us();
        self.trace.note(&format!("{began_us} heals"));
        for (_, what) in std::mem::take(&mut self.active) {
            self.end_fault(&what);
        }
        for machine in &mut self.machines {
            if machine.is_still() {
                machine.stand_still(began_us, false);
            }
            machine.stall(0);
            machine.disarm();
        }
        self.work.end();
        // Ids of fresh tasks, and the node each was submitted to. Whoever was asked before there was
        // a leader may have refused: so until one of every node's has come.
        let mut fresh: BTreeMap<String, u64> = BTreeMap::new();
        let mut served_us = None;
        while self.now_us() < began_us + DRAINED_WITHIN_US {
            self.tick();
            let now_us = self.now_us();
            let since_us = now_us - began_us;
            if since_us.is_multiple_of(500_000) && served_us.is_none() {
                let served = self.served(&fresh);
                for node in (1..=self.site.nodes).filter(|node| !served.contains(node)) {
                    let (id, ask) = self.work.fresh((EPOCH_US + now_us) / 1_000);
                    if self.ask(node, ask).is_some() {
                        fresh.insert(id, node);
                    }
                }
            }
            if since_us.is_multiple_of(500_000) {
                self.resume_all();
                self.pause_schedules();
                // A request that was on its way may have come late.
                (1..=self.site.nodes).for_each(|id| self.drain(id, false));
            }
            if since_us.is_multiple_of(250_000) {
                self.look();
                let serves = self.served(&fresh).len() as u64 == self.site.nodes;
                if serves && served_us.is_none() {
                    served_us = Some(since_us);
                }
                if served_us.is_none() && since_us > SERVES_WITHIN_US {
                    self.violations.push(format!(
                        "I-32: {} s after the last fault the cluster does not serve: {}",
                        SERVES_WITHIN_US / 1_000_000,
                        self.situation()
                    ));
                    return;
                }
                if served_us.is_some()
                    && self.open.is_empty()
                    && self.is_drained()
                    && self.is_equal()
                {
                    self.compare();
                    self.hear_schedules();
                    return;
                }
            }
        }
        self.violations.push(format!(
            "I-32: {} s after the last fault not all has come to its end: {}",
            DRAINED_WITHIN_US / 1_000_000,
            self.situation()
        ));
    }

    /// Asks every node how it is; the answers come with the ticks.
    fn look(&mut self) {
        let due_ms = (EPOCH_US + self.now_us()) / 1_000;
        for machine in &self.machines {
            let (looks, id) = (self.looks.clone(), machine.id);
            machine.ask(move |router| async move {
                let get = async |path: &str| {
                    let asked = exchange(&router, ("GET", path, None));
                    tokio::time::timeout(PATIENCE, asked)
                        .await
                        .map(|a| a.body)
                        .unwrap_or_default()
                };
                let stats = get("/v1/stats").await;
                let cluster = get("/v1/cluster").await;
                let path = format!("/v1/tasks?stage=scheduled&due_to={due_ms}&limit=1000");
                let due = get(&path).await;
                lock(&looks).insert(id, (stats, cluster, due));
            });
        }
    }

    fn is_drained(&self) -> bool {
        let looks = lock(&self.looks);
        let open = ["triggered", "running", "accepted", "retrying"];
        looks.len() as u64 == self.site.nodes
            && looks.values().all(|(stats, _, due)| {
                let none = |stage: &&str| stats["tasks"][*stage].as_u64().unwrap_or(0) == 0;
                let page = due["tasks"].as_array().is_some_and(Vec::is_empty);
                stats["tasks"].is_object() && open.iter().all(none) && page
            })
    }

    /// No pause outlives the run, also one that comes late.
    fn resume_all(&mut self) {
        let paused = self.read_states(|state| {
            let apps = state.paused_apps().map(|(app, _)| app.to_string());
            apps.collect::<Vec<String>>()
        });
        let paused: BTreeSet<String> = paused.into_iter().flatten().collect();
        for app in paused {
            let mut nodes = 1..=self.site.nodes;
            nodes.find_map(|node| self.ask(node, Ask::resume(&app)));
        }
    }

    /// So that runs come to an end.
    fn pause_schedules(&mut self) {
        let firing = self.read_states(|state| {
            let firing = state.schedules();
            let firing = firing.filter(|s| s.deleted.is_none() && s.paused.is_none());
            firing.map(|s| s.id.to_string()).collect::<Vec<String>>()
        });
        let firing: BTreeSet<String> = firing.into_iter().flatten().collect();
        for id in firing {
            let mut nodes = 1..=self.site.nodes;
            nodes.find_map(|node| self.ask(node, Ask::schedule(schedules::pause(&id))));
        }
    }

    /// Every node's ledgers, and its proof of them.
    fn hear_schedules(&mut self) {
        let t = self.stamp();
        for machine in &self.machines {
            let (told, id) = (self.told.clone(), machine.id);
            machine.ask(move |router| async move {
                if let Some(mut ledgers) = tell_schedules(&router).await {
                    ledgers["t"] = json!(t);
                    lock(&told).insert(id, ledgers);
                }
            });
        }
        let until_us = self.now_us() + TOLD_WITHIN_US;
        while (lock(&self.told).len() as u64) < self.site.nodes {
            if self.now_us() >= until_us {
                let text = "I-32: not every node tells its schedules, though all is quiet";
                return self.violations.push(text.into());
            }
            self.tick();
        }
    }

    fn states(&self) -> Vec<(u64, String)> {
        self.read_states(|state| (state.applied(), state.hash().to_string()))
    }

    /// Of all nodes that run.
    fn read_states<T>(&self, read: impl Fn(&State) -> T) -> Vec<T> {
        let lives = self
            .machines
            .iter()
            .filter_map(|machine| machine.life.as_ref());
        let look = |life: &crate::machine::Life| {
            let part = lock(&life.face.part);
            let part = part.as_ref()?;
            Some(part.cluster().state().read(&read))
        };
        lives.filter_map(look).collect()
    }

    fn is_equal(&self) -> bool {
        let states = self.states();
        states.len() as u64 == self.site.nodes && states.windows(2).all(|two| two[0] == two[1])
    }

    /// The nodes of which a fresh task has been delivered.
    fn served(&self, fresh: &BTreeMap<String, u64>) -> BTreeSet<u64> {
        let came = self.site.sink.came();
        let done = came
            .iter()
            .filter(|came| came.app == "fresh" && came.answer == 200);
        done.filter_map(|came| fresh.get(&came.id).copied())
            .collect()
    }

    fn situation(&self) -> String {
        let mut text = format!("states {:?}; ", self.states());
        let looks = lock(&self.looks);
        for (id, (stats, cluster, due)) in &*looks {
            let due = due["tasks"].as_array().map_or(0, Vec::len);
            let _ = write!(
                text,
                "node {id}: {} leader {} due {due}; ",
                stats["tasks"], cluster["leader"]
            );
        }
        let up: Vec<bool> = self.machines.iter().map(Machine::is_up).collect();
        let _ = write!(text, "up {up:?}, {} operations open", self.open.len());
        text
    }

    /// Writes down what happened, and has it checked.
    fn judge(mut self, plan: &Plan) -> Outcome {
        self.ledger.simulated_us = self.now_us();
        for (path, body) in &*lock(&self.changed) {
            if body["drain"] != false {
                *self.ledger.changed.entry(path).or_default() += 1;
            }
        }
        for machine in &self.machines {
            for (name, n) in &*lock(&machine.shared.steps) {
                *self.ledger.steps.entry(name).or_default() += n;
            }
        }
        let run = self.site.dir.join("run");
        std::fs::create_dir_all(&run).expect("a folder");
        let write = |name: &str, lines: Vec<String>| {
            let text: String = lines.into_iter().map(|line| line + "\n").collect();
            std::fs::write(run.join(name), text).expect("the folder takes it");
        };
        let lines = |values: &[Value]| values.iter().map(Value::to_string).collect::<Vec<_>>();
        let came = self.site.sink.came();
        self.ledger.deliveries = came.len() as u64;
        let came = came.iter().map(|came| came.line().to_string());
        let came: Vec<String> = came.collect();
        came.iter().for_each(|line| self.trace.note(line));
        write("history.ndjson", lines(&self.history));
        write("sink.ndjson", came);
        write("faults.ndjson", lines(&self.fault_lines));
        for machine in &self.machines {
            let mut log = Vec::new();
            for entry in machine.book.entries() {
                self.ledger.entries = self.ledger.entries.max(entry.at.index);
                match horolog::cli::log_lines(&entry) {
                    Ok(lines) => log.extend(lines),
                    Err(why) => self
                        .violations
                        .push(format!("a log cannot be read: {why:#}")),
                }
            }
            log.iter().for_each(|line| self.trace.note(line));
            write(&format!("log-{}.ndjson", machine.id), log);
        }
        for (id, (stats, cluster, _)) in &*lock(&self.looks) {
            let status = json!({ "cluster": cluster, "stats": stats });
            write(&format!("status-{id}.json"), vec![status.to_string()]);
        }
        for (id, told) in &*lock(&self.told) {
            write(&format!("schedules-{id}.json"), vec![told.to_string()]);
        }
        let verdicts = match plan.brief {
            true => Vec::new(),
            false => check::check(&run),
        };
        for Verdict {
            name,
            ok,
            undecided,
            checked,
            text,
        } in verdicts
        {
            self.ledger.undecided += undecided;
            self.ledger.checked += checked;
            if !ok {
                self.violations.push(format!("{name}: {text}"));
            }
        }
        Outcome {
            seed: plan.seed,
            seconds: plan.lasts_us / 1_000_000,
            violations: self.violations,
            ledger: self.ledger,
            words: self.trace.0.unwrap_or_default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line of the history.
fn line(op: u64, kind: &str, node: u64, t: u64, ask: &Ask, value: &Value) -> Value {
    let mut line = json!({
        "op": op, "type": kind, "process": op, "node": node, "f": ask.f, "t": t, "value": value,
    });
    for (name, text) in [("app", &ask.app), ("id", &ask.id)] {
        if let Some(text) = text {
            line[name] = json!(text);
        }
    }
    line
}

/// What a node tells of all schedules; `None`: not all of it came.
async fn tell_schedules(router: &Router) -> Option<Value> {
    let mut all = json!({});
    for id in schedules::ids() {
        let mut pages: Vec<Value> = Vec::new();
        loop {
            let next = pages.last().map(|page| &page["next"]);
            let answer = exchange(router, ("GET", &schedules::fires(&id, next), None)).await;
            match answer.status {
                200 => pages.push(answer.body),
                404 => break,
                _ => return None,
            }
            if pages.last().is_none_or(|page| page["next"].is_null()) {
                break;
            }
        }
        if !pages.is_empty() {
            all[&id] = schedules::ledger(&id, &pages);
        }
    }
    let audit = exchange(router, ("GET", "/v1/audit", None)).await;
    let told = (audit.status == 200).then_some(audit.body)?;
    Some(json!({ "schedules": all, "audit": told }))
}

/// Asks, page by page where it is a list.
async fn carry(router: Router, ask: Ask) -> Asked {
    if ask.f != "list" {
        return Asked::One(exchange(&router, (ask.method, &ask.path, ask.body.as_ref())).await);
    }
    let mut tasks = Vec::new();
    let mut cursor = String::new();
    for _ in 0..PAGES_MAX {
        let path = format!("{}{cursor}", ask.path);
        let answer = exchange(&router, ("GET", &path, None)).await;
        let Some(page) = answer.body["tasks"]
            .as_array()
            .filter(|_| answer.status == 200)
        else {
            return Asked::List(None);
        };
        tasks.extend(page.iter().map(shown));
        match answer.body["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Asked::List(Some(tasks)),
        }
    }
    Asked::List(None)
}
