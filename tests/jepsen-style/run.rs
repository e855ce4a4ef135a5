//! One run: form, work, disturb, heal, look, write down.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::chance::Chance;
use crate::check;
use crate::disks::Disk;
use crate::fault::{Begun, Kind, NETNS, Trouble};
use crate::heal::{self, READY_WITHIN};
use crate::machine::Machine;
use crate::net::Net;
use crate::options::Options;
use crate::plan::Plan;
use crate::record::{self, Faults, History};
use crate::report;
use crate::sink::Sink;
use crate::site::Site;
use crate::support::node::binary;
use crate::support::{now_ms, schedules, seconds};
use crate::verdict::Verdict;
use crate::wires::Wires;
use crate::work::{self, Caller, Crew};

/// A new cluster serves by then.
const FORMED_WITHIN: Duration = seconds(60);
const STOPPED_WITHIN: Duration = seconds(30);
/// Of each kind of operation at least so many must have been answered well.
const ANSWERED_MIN: u64 = 3;
/// The client that comes when all others have gone.
const LAST: u64 = 900;
/// Final looks and fresh writes are tried so often.
const TRIES: u32 = 5;

/// What came of a run.
pub struct Outcome {
    pub dir: PathBuf,
    pub verdicts: Vec<Verdict>,
    pub repeat: String,
    /// What happened how often, for the ledger.
    pub happened: BTreeMap<String, u64>,
}

impl Outcome {
    pub fn is_ok(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.ok)
    }
}

/// What happened to the plan.
#[derive(Default)]
struct Done {
    /// By the name of the fault.
    happened: BTreeMap<String, u64>,
    skipped: BTreeMap<String, String>,
    failed: Vec<String>,
}

/// Runs a plan. Everything it leaves is in `jepsen-runs/<seed>`.
pub fn run(plan: &Plan) -> Outcome {
    let dir = folder(&plan.options);
    fs::write(dir.join("plan.json"), format!("{:#}\n", plan.shown())).unwrap();
    let [work_seed, wire_seed, sink_seed] = plan.seeds;
    let net = match plan.has(NETNS) {
        true => Net::new(),
        false => Err(Trouble::Skipped("the plan needs none".into())),
    };
    let host = net.as_ref().map_or(Ipv4Addr::LOCALHOST.into(), Net::host);
    let sink = Arc::new(Sink::start(&dir, host, Chance::new(sink_seed)));
    let wires = Wires::new(Chance::new(wire_seed));
    let mut site = Site::new(&dir, plan, wires, sink.clone(), net);
    let began = now_ms();
    site.nodes.iter_mut().for_each(|node| node.start());
    let formed = site.wait(FORMED_WITHIN, |site| site.is_ready().then_some(()));
    assert!(
        formed.is_some(),
        "the cluster did not form; see {}",
        dir.display()
    );
    println!("    formed after {} ms", now_ms() - began);

    let history = History::create(&dir);
    let shared = work::Shared::new(
        history,
        site.doors.clone(),
        sink.clone(),
        site.pressure.clone(),
    );
    let shared = Arc::new(shared);
    let crew = Crew::start(shared.clone(), Chance::new(work_seed));
    let faults = Arc::new(Faults::create(&dir));
    let machine = Machine::watch(faults.clone());
    let mut done = disturb(&mut site, plan, &faults);
    if let Err(why) = crew.stop() {
        done.failed.push(why);
    }
    let mut last = Caller::new(shared.clone(), LAST, Chance::new(0), Default::default());
    let mut verdicts = heal::heal(&mut site, |site| settle(site, &mut last));
    verdicts.push(look(&mut site, &shared, &mut last));
    verdicts.push(hear_schedules(&site, &mut last, &dir));
    drop(last);
    shared.history.flush();
    verdicts.push(honest(
        &site,
        &done,
        &record::read(&dir.join("history.ndjson")),
    ));
    verdicts.push(deaths(&site));
    verdicts.push(keep(&mut site, &dir));
    drop(shared);
    // Processes and small file systems first: they must not write into what is being read.
    let disks = close(site);
    println!(
        "    the machine was late by {} ms at worst",
        machine.worst_ms()
    );
    drop(machine);
    let sink = Arc::into_inner(sink).expect("nobody else has the sink any more");
    verdicts.push(well_called(&sink));
    sink.close();
    verdicts.extend(check::check(&dir));
    drop(disks);
    let outcome = Outcome {
        repeat: format!("just jepsen {}", plan.options.shown()),
        dir,
        verdicts,
        happened: done.happened,
    };
    report::write(&outcome, plan, &done.skipped);
    if outcome.is_ok() && !plan.options.keep {
        tidy(&outcome.dir);
    }
    outcome
}

/// An empty folder for this run.
fn folder(options: &Options) -> PathBuf {
    let seed = options.seed;
    let name = match &options.bug {
        Some(bug) => format!("{bug}-{seed}"),
        None => seed.to_string(),
    };
    let dir = record::runs().join(name);
    if dir.exists() {
        // A run that was killed may have left its disks behind.
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            if entry.path().extension().is_some_and(|end| end == "img") {
                Disk::release(&entry.path().with_extension(""));
            }
        }
        fs::remove_dir_all(&dir).unwrap();
    }
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Follows the plan.
fn disturb(site: &mut Site, plan: &Plan, faults: &Faults) -> Done {
    let mut done = Done::default();
    for step in &plan.steps {
        site.pass(Duration::from_millis(step.rest_ms), &[]);
        // Each fault meets a cluster that works.
        if site
            .wait(READY_WITHIN, |site| site.is_ready().then_some(()))
            .is_none()
        {
            let late = format!(
                "I-32: before {}: not ready {READY_WITHIN:?} after the last fault ended",
                step.kind.name()
            );
            println!("    {late}");
            done.failed.push(late);
        }
        let mut chance = Chance::new(step.seed);
        let half = Duration::from_millis(step.hold_ms / 2);
        let Some(main) = begin(site, step.kind, &mut chance, faults, &mut done) else {
            continue;
        };
        site.pass(half, &main.may_die);
        let company = step.with;
        let company = company.and_then(|with| begin(site, with, &mut chance, faults, &mut done));
        site.pass(half, &main.may_die);
        site.watch(&main.may_die);
        if let (Some(begun), Some(kind)) = (company, step.with) {
            end(site, kind, begun, faults, &mut done);
        }
        end(site, step.kind, main, faults, &mut done);
    }
    done
}

fn begin(
    site: &mut Site,
    kind: &Kind,
    chance: &mut Chance,
    faults: &Faults,
    done: &mut Done,
) -> Option<Begun> {
    let name = kind.name();
    match (kind.begin)(site, chance) {
        Ok(begun) => {
            println!("    {name} on {:?}: {}", begun.nodes, begun.detail);
            note(faults, kind, &begun.nodes, "begin", &begun.detail);
            Some(begun)
        }
        Err(Trouble::Skipped(why)) => {
            if done.skipped.insert(name.clone(), why.clone()).is_none() {
                println!("    {name} is skipped: {why}");
            }
            None
        }
        Err(Trouble::Failed(why)) => {
            done.failed
                .push(format!("{name} could not be installed: {why}"));
            None
        }
    }
}

fn end(site: &mut Site, kind: &Kind, begun: Begun, faults: &Faults, done: &mut Done) {
    let name = kind.name();
    match (begun.end)(site) {
        Ok(detail) => {
            note(faults, kind, &begun.nodes, "end", &detail);
            *done.happened.entry(name).or_default() += 1;
        }
        Err(why) => {
            note(faults, kind, &begun.nodes, "end", &json!({ "failed": why }));
            println!("    {name}: {why}");
            done.failed.push(format!("{name}: {why}"));
        }
    }
}

fn note(faults: &Faults, kind: &Kind, nodes: &[u64], phase: &str, more: &Value) {
    let detail = json!({ "variant": kind.what, "more": more });
    faults.note(kind.family, nodes, phase, &detail);
}

/// Lets every application go on, and pauses every schedule, on record; whether all of them are.
fn settle(site: &Site, caller: &mut Caller) -> bool {
    let Some(leader) = site.leader() else {
        return false;
    };
    let ask = |path: &str| {
        let answer = site.ask(leader, path)?;
        [200, 404].contains(&answer.status).then(|| answer.json())
    };
    let mut settled = true;
    let Some(apps) = ask("/v1/apps") else {
        return false;
    };
    for app in apps["apps"].as_array().into_iter().flatten() {
        settled = false;
        work::hold(caller, "resume", app["app"].as_str().unwrap_or_default());
    }
    for id in schedules::ids() {
        match ask(&format!("/v1/schedules/{id}")) {
            Some(s) if s["state"] == "active" || s["state"] == "finished" => {
                settled = false;
                work::ask(caller, schedules::pause(&id));
            }
            Some(_) => {}
            None => settled = false,
        }
    }
    settled
}

/// Writes down the ledger of every schedule, as each node tells it.
fn hear_schedules(site: &Site, caller: &mut Caller, dir: &Path) -> Verdict {
    let mut wrong = Vec::new();
    let doors: Vec<_> = site.doors.read().unwrap().clone();
    for (node, door) in &doors {
        match (0..TRIES).find_map(|_| work::told(caller, *door)) {
            Some(told) => {
                fs::write(dir.join(format!("schedules-{node}.json")), told.to_string()).unwrap();
            }
            None => wrong.push(format!("node {node} does not tell its schedules")),
        }
    }
    let nodes = doors.len() as u64;
    Verdict::of("schedules are told", nodes, wrong, format!("{nodes} nodes"))
}

/// Fresh tasks through each node, and then everything as each node lists it; all on record.
fn look(site: &mut Site, shared: &Arc<work::Shared>, caller: &mut Caller) -> Verdict {
    let doors: Vec<_> = site.doors.read().unwrap().clone();
    let mut ids = Vec::new();
    for (node, door) in &doors {
        for _ in 0..TRIES {
            let id = shared.id("f");
            if caller.submit_at(*node, *door, heal::APP, &id).is_ok() {
                ids.push(id);
                break;
            }
        }
    }
    let mut verdict = heal::served(site, &ids);
    for (node, door) in &doors {
        let walked = (0..TRIES).any(|_| work::walk(caller, (*node, *door), None, "&limit=1000"));
        if !walked {
            verdict.ok = false;
            verdict.text = format!("node {node} could not be listed");
        }
    }
    if ids.len() < doors.len() {
        verdict.ok = false;
        verdict.text = "not every node took a fresh task".into();
    }
    verdict
}

/// Every planned fault and every kind of operation happened.
fn honest(site: &Site, done: &Done, history: &[Value]) -> Verdict {
    let mut wrong = done.failed.clone();
    if site.wires.strangers() > 0 {
        wrong.push("there were connections between nodes whose caller is not known".into());
    }
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for op in history.iter().filter(|op| op["type"] == "ok") {
        *counts.entry(op["f"].as_str().unwrap_or("?")).or_default() += 1;
    }
    for f in [
        "submit", "cancel", "change", "run", "complete", "read", "list", "bulk", "schedule",
        "pause", "resume",
    ] {
        let count = counts.get(f).copied().unwrap_or(0);
        if count < ANSWERED_MIN {
            wrong.push(format!(
                "only {count} × {f} went well: too few to say anything"
            ));
        }
    }
    let well = format!(
        "{} faults, {counts:?}, {} skipped",
        done.happened.values().sum::<u64>(),
        done.skipped.len()
    );
    Verdict::of("honest", history.len() as u64, wrong, well)
}

fn deaths(site: &Site) -> Verdict {
    let nodes = site.nodes.len() as u64;
    Verdict::of(
        "nobody died by itself",
        nodes,
        site.deaths.clone(),
        format!("{nodes} nodes"),
    )
}

fn well_called(sink: &Sink) -> Verdict {
    let (astray, odd) = sink.astray();
    let mut wrong = Vec::new();
    if astray > 0 {
        wrong.push(format!("{astray} redirects were followed"));
    }
    if odd > 0 {
        wrong.push(format!("{odd} requests were no callbacks"));
    }
    Verdict::of(
        "well called",
        sink.arrived() as u64,
        wrong,
        format!("{} calls", sink.arrived()),
    )
}

/// Writes down what the nodes say and hold; stops them.
fn keep(site: &mut Site, dir: &Path) -> Verdict {
    for id in site.ids() {
        let status = site.status(id);
        fs::write(
            dir.join(format!("status-{id}.json")),
            format!("{status:#}\n"),
        )
        .unwrap();
    }
    let mut wrong = Vec::new();
    let mut rows = 0;
    for id in site.ids() {
        if site.node(id).runs() {
            let status = site.node(id).terminate(STOPPED_WITHIN);
            if !status.success() {
                wrong.push(format!("node {id} stopped with {status}"));
            }
        }
        let data = site.node(id).dir.clone();
        let of_log = |verb: &str| binary().args(["log", verb]).arg(&data).output().unwrap();
        let export = of_log("export");
        if !export.status.success() {
            wrong.push(format!(
                "log export {id}: {}",
                String::from_utf8_lossy(&export.stderr)
            ));
        }
        rows += export.stdout.split(|byte| *byte == b'\n').count() as u64;
        fs::write(dir.join(format!("log-{id}.ndjson")), export.stdout).unwrap();
        let verify = of_log("verify");
        if !verify.status.success() {
            let found = String::from_utf8_lossy(&verify.stdout).into_owned();
            wrong.push(format!("I-28: log verify {id}: {found}"));
        }
    }
    Verdict::of("disks verify", rows, wrong, format!("{rows} lines of log"))
}

/// Ends processes and wires; what is mounted stays until the folder was looked at.
fn close(site: Site) -> BTreeMap<u64, Disk> {
    let Site {
        nodes, disks, net, ..
    } = site;
    drop(nodes);
    drop(net);
    disks
}

/// Data directories of a good run tell nothing more.
fn tidy(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // It may be busy still; then it stays.
        let _ = match entry.path() {
            path if name.starts_with("node-") && path.is_dir() => fs::remove_dir_all(path),
            path if name.ends_with(".img") => fs::remove_file(path),
            _ => Ok(()),
        };
    }
}

impl Caller {
    /// A task that is due now, through this very node.
    fn submit_at(
        &mut self,
        node: u64,
        door: std::net::SocketAddr,
        app: &str,
        id: &str,
    ) -> work::Ended {
        let url = self.shared.sink.url("ok");
        let body = work::task(app, id, now_ms(), &url);
        let request = work::Request::new("POST", "/v1/tasks").json(&body);
        self.at(node, door, "submit", (Some(app), Some(id)), body, request)
    }
}
