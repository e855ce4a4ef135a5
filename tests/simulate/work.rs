//! What clients ask for: every kind of operation, many of them racing with the due time, with each
//! other, and with faults.

use std::collections::BTreeMap;

use horolog::log::sim_disk::Dice;
use serde_json::{Value, json};

use crate::schedules::{self, Asked};

/// One operation.
#[derive(Clone, Debug)]
pub struct Ask {
    pub f: &'static str,
    pub app: Option<String>,
    pub id: Option<String>,
    pub asked: Value,
    pub method: &'static str,
    pub path: String,
    pub body: Option<Value>,
}

/// Operations on one hot task at most: a checker must be able to follow.
const RACE_MAX: u64 = 9;

/// Draws operations.
pub struct Work {
    dice: Dice,
    next: u64,
    /// What is asked later, by the instant and the order in which it was thought of.
    later: BTreeMap<(u64, u64), Ask>,
    /// The next instant at which something new is thought of.
    next_us: u64,
    /// Between two such, at the mean.
    pace_us: u64,
    /// Schedules were created.
    scheduled: bool,
}

/// Where tasks are carried out, by their id: half of them say nothing. Not everywhere at once, since
/// the books know one delivery of each attempt.
const PLACEMENTS: [&str; 5] = ["owner", "round_robin", "random", "hash", "leader"];

fn task(app: &str, id: &str, due_ms: u64, what: &str) -> Value {
    let sum: usize = id.bytes().map(usize::from).sum();
    let mut task = plain(app, id, due_ms, what);
    if let Some(placement) = PLACEMENTS.get(sum % (2 * PLACEMENTS.len())) {
        task["placement"] = json!(placement);
    }
    task
}

fn plain(app: &str, id: &str, due_ms: u64, what: &str) -> Value {
    json!({
        "app": app, "id": id, "due_at": due_ms,
        "target": { "http": { "url": format!("http://{app}.example/{what}"), "timeout": "1500ms" } },
        "retry": { "attempts": 4, "backoff": { "fixed": "300ms" }, "jitter": 0.1 },
        "accept_timeout": "1500ms",
    })
}

/// Where runs of schedules go.
fn receiver(script: &str) -> String {
    format!("http://{}.example/{script}", schedules::GROUP)
}

fn path(app: &str, id: &str, rest: &str) -> String {
    format!("/v1/tasks/{app}/{id}{rest}")
}

impl Ask {
    fn of(f: &'static str, app: &str, id: &str, asked: Value) -> Ask {
        let (method, rest, body) = match f {
            "cancel" => ("DELETE", "", None),
            "change" => ("PATCH", "", Some(asked.clone())),
            "run" => ("POST", "/run", Some(asked.clone())),
            "complete" => ("POST", "/done", Some(asked.clone())),
            "read" if asked["read"] == "local" => ("GET", "?read=local", None),
            _ => ("GET", "", None),
        };
        Ask {
            f,
            app: Some(app.into()),
            id: Some(id.into()),
            asked,
            method,
            path: path(app, id, rest),
            body,
        }
    }

    pub fn submit(body: Value) -> Ask {
        let name = |member: &str| body[member].as_str().map(str::to_owned);
        Ask {
            f: "submit",
            app: name("app"),
            id: name("id"),
            asked: body.clone(),
            method: "POST",
            path: "/v1/tasks".into(),
            body: Some(body),
        }
    }

    /// Stops an application's calls, or lets them go on.
    fn hold(f: &'static str, app: &str) -> Ask {
        Ask {
            f,
            app: Some(app.into()),
            id: None,
            asked: json!({}),
            method: "POST",
            path: format!("/v1/apps/{app}/{f}"),
            body: None,
        }
    }

    pub fn resume(app: &str) -> Ask {
        Ask::hold("resume", app)
    }

    /// Something about a schedule.
    pub fn schedule(asked: Asked) -> Ask {
        Ask {
            f: "schedule",
            app: None,
            id: None,
            asked: asked.asked,
            method: asked.method,
            path: asked.path,
            body: asked.body,
        }
    }

    fn list(app: &str, limit: u64) -> Ask {
        Ask {
            f: "list",
            app: Some(app.into()),
            id: None,
            asked: json!({ "app": app, "limit": limit }),
            method: "GET",
            path: format!("/v1/tasks?app={app}&limit={limit}"),
            body: None,
        }
    }
}

impl Work {
    pub fn new(mut dice: Dice) -> Work {
        let pace_us = 30_000 + dice.below(120_000);
        Work {
            dice,
            next: 0,
            later: BTreeMap::new(),
            next_us: 2_000_000,
            pace_us,
            scheduled: false,
        }
    }

    /// What is asked at an instant. `wall_ms` is the true time by the wall.
    pub fn at(&mut self, now_us: u64, wall_ms: u64) -> Vec<Ask> {
        while self.next_us <= now_us {
            self.next_us += self.dice.below(self.pace_us * 2) + 1;
            self.think(now_us, wall_ms);
        }
        let later = self.later.split_off(&(now_us + 1, 0));
        std::mem::replace(&mut self.later, later)
            .into_values()
            .collect()
    }

    /// What would still be asked is not.
    pub fn end(&mut self) {
        self.later.clear();
    }

    /// Tasks that show that the cluster serves, one for each node.
    /// A task that is due at once, and its id.
    pub fn fresh(&mut self, wall_ms: u64) -> (String, Ask) {
        let id = self.id("f");
        let ask = Ask::submit(task("fresh", &id, wall_ms, "ok"));
        (id, ask)
    }

    fn id(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}-{}", self.next)
    }

    fn add(&mut self, at_us: u64, ask: Ask) {
        self.next += 1;
        self.later.insert((at_us, self.next), ask);
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.dice.below(of.len() as u64) as usize]
    }

    fn think(&mut self, now_us: u64, wall_ms: u64) {
        if !self.scheduled {
            self.scheduled = true;
            self.create_schedules(now_us, wall_ms);
        }
        match self.dice.below(100) {
            0..38 => self.plain(now_us, wall_ms),
            38..40 => {
                let asked = schedules::any(&mut |n| self.dice.below(n), &receiver, wall_ms);
                self.add(now_us, Ask::schedule(asked));
            }
            40..62 => self.hot(now_us, wall_ms),
            62..76 => self.retried(now_us, wall_ms),
            76..88 => self.outside(now_us, wall_ms),
            88..90 => self.herd(now_us, wall_ms),
            90..92 => self.paused(now_us),
            92..97 => {
                let app = self.pick(&["plain", "hot", "outside", "herd", "retry", "cron"]);
                let limit = [50, 200, 1_000][self.dice.below(3) as usize];
                self.add(now_us, Ask::list(app, limit));
            }
            _ => self.group(now_us, wall_ms),
        }
    }

    fn create_schedules(&mut self, now_us: u64, wall_ms: u64) {
        for id in schedules::ids() {
            let asked = schedules::create(&mut |n| self.dice.below(n), &id, &receiver, wall_ms);
            let later = self.dice.below(700_000);
            self.add(now_us + later, Ask::schedule(asked));
        }
    }

    fn plain(&mut self, now_us: u64, wall_ms: u64) {
        let id = self.id("p");
        let due = match self.dice.below(20) {
            0 => wall_ms + 3_600_000,
            1 | 2 => wall_ms - self.dice.below(2_000),
            3..6 => wall_ms + self.dice.below(25_000),
            _ => wall_ms + self.dice.below(4_000),
        };
        let what = self.pick(&["ok", "ok", "ok", "slow/200", "slow/1200", "break", "hang"]);
        let mut body = task("plain", &id, due, what);
        if self.dice.below(5) == 0 {
            body.as_object_mut().expect("an object").remove("due_at");
            body["delay"] = json!(self.dice.below(3_000));
        }
        self.add(now_us, Ask::submit(body.clone()));
        // As a client does that does not know.
        if self.dice.below(4) == 0 {
            let later = self.dice.below(4_000_000);
            self.add(now_us + later, Ask::submit(body.clone()));
        }
        if self.dice.below(20) == 0 {
            body["labels"] = json!({ "other": "yes" });
            let later = self.dice.below(2_000_000);
            self.add(now_us + later, Ask::submit(body));
        }
    }

    fn hot(&mut self, now_us: u64, wall_ms: u64) {
        let id = self.id("h");
        let until = 200 + self.dice.below(2_300);
        let what = self.pick(&["ok", "ok", "slow/150", "fail/1", "later"]);
        let body = task("hot", &id, wall_ms + until, what);
        self.add(now_us, Ask::submit(body.clone()));
        for n in 0..self.dice.below(RACE_MAX) {
            // Around the instant at which it is due, mostly.
            let at_ms = match self.dice.below(3) {
                0 => self.dice.below(until + 1_500),
                _ => (until + self.dice.below(120)).saturating_sub(60),
            };
            let ask = match self.dice.below(17) {
                0 => Ask::submit(body.clone()),
                1..6 => Ask::of("cancel", "hot", &id, json!({})),
                6..9 => {
                    let due = wall_ms + at_ms + self.dice.below(900);
                    Ask::of("change", "hot", &id, json!({ "due_at": due }))
                }
                9 => Ask::of("run", "hot", &id, json!({})),
                10 => Ask::of("run", "hot", &id, json!({ "again": true })),
                11 => Ask::of("complete", "hot", &id, json!({})),
                12 => {
                    let said = json!({ "ok": false, "error": "given up" });
                    Ask::of("complete", "hot", &id, said)
                }
                13 => Ask::of("read", "hot", &id, json!({ "read": "local" })),
                _ => Ask::of("read", "hot", &id, json!({})),
            };
            self.add(now_us + at_ms * 1_000 + n, ask);
        }
    }

    fn retried(&mut self, now_us: u64, wall_ms: u64) {
        let id = self.id("r");
        let what = self.pick(&["fail/1", "fail/2", "fail/3", "fail/99", "gone"]);
        let due = wall_ms + self.dice.below(600);
        self.add(now_us, Ask::submit(task("retry", &id, due, what)));
        if self.dice.below(3) == 0 {
            let at_us = now_us + 300_000 + self.dice.below(2_200_000);
            let f = self.pick(&["run", "cancel", "read"]);
            self.add(at_us, Ask::of(f, "retry", &id, json!({})));
        }
    }

    fn outside(&mut self, now_us: u64, wall_ms: u64) {
        let id = self.id("o");
        let due = wall_ms + self.dice.below(400);
        self.add(now_us, Ask::submit(task("outside", &id, due, "later")));
        let said = match self.dice.below(10) {
            0 => return,
            1 => json!({ "ok": false, "error": "it did not work" }),
            2 => json!({ "fence": 1 }),
            _ => json!({}),
        };
        let at_us = now_us + 50_000 + self.dice.below(1_150_000);
        self.add(at_us, Ask::of("complete", "outside", &id, said.clone()));
        if self.dice.below(4) == 0 {
            let at_us = at_us + self.dice.below(1_000_000);
            self.add(at_us, Ask::of("complete", "outside", &id, said));
        }
    }

    /// A group that is changed together while some of it falls due.
    fn group(&mut self, now_us: u64, wall_ms: u64) {
        let group = self.id("group");
        for _ in 0..3 + self.dice.below(7) {
            let id = self.id("b");
            let due = wall_ms + 200 + self.dice.below(2_300);
            let mut body = task("bulk", &id, due, "ok");
            body["labels"] = json!({ "group": group });
            self.add(now_us, Ask::submit(body));
        }
        let filter = json!({ "app": "bulk", "labels": { "group": group } });
        let action = self.pick(&["cancel", "run", "change", "done"]);
        let mut body = json!({ "filter": filter, "action": action });
        if action == "change" {
            body["change"] = json!({ "due_at": wall_ms + 500 + self.dice.below(2_000) });
        }
        let ask = Ask {
            f: "bulk",
            app: Some("bulk".into()),
            id: None,
            asked: body.clone(),
            method: "POST",
            path: "/v1/tasks/bulk".into(),
            body: Some(body),
        };
        let at_us = now_us + 100_000 + self.dice.below(2_000_000);
        self.add(at_us, ask);
    }

    /// An application is not called for a while, or until another resume, or until all faults are
    /// over: what is asked may get lost. Its tasks fall due meanwhile, and are cancelled and changed.
    fn paused(&mut self, now_us: u64) {
        let app = self.pick(&["plain", "hot", "outside", "herd", "retry", "cron"]);
        self.add(now_us, Ask::hold("pause", app));
        let later = self.dice.below(3_000_000);
        self.add(now_us + later, Ask::resume(app));
    }

    /// Many at one instant.
    fn herd(&mut self, now_us: u64, wall_ms: u64) {
        let due = wall_ms + 1_500 + self.dice.below(5_000);
        for _ in 0..20 + self.dice.below(80) {
            let id = self.id("d");
            let at_us = now_us + self.dice.below(1_200_000);
            self.add(at_us, Ask::submit(task("herd", &id, due, "ok")));
        }
    }
}
