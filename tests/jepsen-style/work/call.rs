//! One operation: asked once, and ended as ok, fail or unknown (`support/told.rs`).

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::hot::Race;
use crate::chance::Chance;
use crate::record::{End, Op};
use crate::support::http::{Answer, Client};
use crate::support::told::told;

pub use crate::support::told::shown;

/// After this a client gives up.
const PATIENCE: Duration = Duration::from_secs(3);
/// A client that lost an answer goes on under a number that is so much higher.
const NEXT_LIFE: u64 = 1_000;

/// A client: one thread, one process at a time, a connection to each node.
pub struct Caller {
    pub shared: Arc<Shared>,
    pub chance: Chance,
    pub race: Arc<Race>,
    pub process: u64,
    clients: BTreeMap<SocketAddr, Client>,
}

/// How it ended.
pub enum Ended {
    Ok(Answer),
    Fail,
    Unknown,
}

impl Ended {
    pub fn is_ok(&self) -> bool {
        matches!(self, Ended::Ok(_))
    }
}

/// A request, as it goes out.
pub struct Request {
    method: &'static str,
    path: String,
    media_type: &'static str,
    body: Vec<u8>,
}

impl Request {
    pub fn new(method: &'static str, path: impl Into<String>) -> Request {
        Request {
            method,
            path: path.into(),
            media_type: "",
            body: Vec::new(),
        }
    }

    pub fn json(mut self, body: &Value) -> Request {
        self.media_type = "application/json";
        self.body = body.to_string().into_bytes();
        self
    }

    pub fn lines(mut self, lines: &[Value]) -> Request {
        self.media_type = "application/x-ndjson";
        self.body = lines
            .iter()
            .flat_map(|l| format!("{l}\n").into_bytes())
            .collect();
        self
    }
}

impl Caller {
    pub fn new(shared: Arc<Shared>, process: u64, chance: Chance, race: Arc<Race>) -> Caller {
        Caller {
            shared,
            chance,
            race,
            process,
            clients: BTreeMap::new(),
        }
    }

    /// Any node, and its door.
    pub fn any_door(&mut self) -> (u64, SocketAddr) {
        let doors = self.shared.doors.read().unwrap();
        *self.chance.pick(&doors)
    }

    /// One exchange, nothing recorded. An error: the outcome is unknown.
    pub fn exchange(&mut self, door: SocketAddr, request: &Request) -> std::io::Result<Answer> {
        let client = self
            .clients
            .entry(door)
            .or_insert_with(|| Client::within(door, PATIENCE));
        client.send(
            request.method,
            &request.path,
            request.media_type,
            &request.body,
        )
    }

    /// The client of an answer that got lost is another one from now on.
    pub fn next_life(&mut self) {
        self.process += NEXT_LIFE;
    }

    /// One operation on one task through any node.
    pub fn on_task(
        &mut self,
        f: &'static str,
        (app, id): (&str, &str),
        asked: Value,
        request: Request,
    ) -> Ended {
        let (node, door) = self.any_door();
        self.at(node, door, f, (Some(app), Some(id)), asked, request)
    }

    /// One operation at a node.
    pub fn at(
        &mut self,
        node: u64,
        door: SocketAddr,
        f: &'static str,
        (app, id): (Option<&str>, Option<&str>),
        asked: Value,
        request: Request,
    ) -> Ended {
        let op = Op {
            process: self.process,
            node,
            f,
            app: app.map(str::to_owned),
            id: id.map(str::to_owned),
        };
        let shared = self.shared.clone();
        let number = shared.history.invoke(&op, &asked);
        let (end, got, ended) = judge(self.exchange(door, &request));
        shared.history.end(number, &op, end, &got);
        if end == End::Unknown {
            self.next_life();
        }
        if let (Ended::Ok(_), Some(app), Some(id), "submit") = (&ended, app, id, f) {
            shared.remember(app, id);
        }
        ended
    }

    pub fn submit(&mut self, body: &Value) -> Ended {
        let name = |member: &str| body[member].as_str().unwrap_or_default().to_owned();
        let (app, id) = (name("app"), name("id"));
        let request = Request::new("POST", "/v1/tasks").json(body);
        self.on_task("submit", (&app, &id), body.clone(), request)
    }

    pub fn cancel(&mut self, app: &str, id: &str) -> Ended {
        let request = Request::new("DELETE", path(app, id, ""));
        self.on_task("cancel", (app, id), json!({}), request)
    }

    pub fn change(&mut self, app: &str, id: &str, change: Value) -> Ended {
        let request = Request::new("PATCH", path(app, id, "")).json(&change);
        self.on_task("change", (app, id), change, request)
    }

    pub fn run(&mut self, app: &str, id: &str, again: bool) -> Ended {
        let body = match again {
            true => json!({ "again": true }),
            false => json!({}),
        };
        let request = Request::new("POST", path(app, id, "/run")).json(&body);
        self.on_task("run", (app, id), body, request)
    }

    pub fn complete(&mut self, app: &str, id: &str, body: Value) -> Ended {
        let request = Request::new("POST", path(app, id, "/done")).json(&body);
        self.on_task("complete", (app, id), body, request)
    }

    pub fn read(&mut self, app: &str, id: &str, local: bool) -> Ended {
        let (query, asked) = match local {
            true => ("?read=local", json!({ "read": "local" })),
            false => ("", json!({})),
        };
        let request = Request::new("GET", path(app, id, query));
        self.on_task("read", (app, id), asked, request)
    }
}

fn path(app: &str, id: &str, rest: &str) -> String {
    format!("/v1/tasks/{app}/{id}{rest}")
}

/// What an exchange was.
pub fn judge(came: std::io::Result<Answer>) -> (End, Value, Ended) {
    let answer = match came {
        Ok(answer) => answer,
        Err(error) => {
            let got = json!({ "error": error.to_string() });
            return (End::Unknown, got, Ended::Unknown);
        }
    };
    let decided = answer.headers.get("horolog-index");
    let decided = decided.and_then(|index| index.parse().ok());
    match told(answer.status, decided, &answer.json()) {
        ("ok", got) => (End::Ok, got, Ended::Ok(answer)),
        ("fail", got) => (End::Fail, got, Ended::Fail),
        (_, got) => (End::Unknown, got, Ended::Unknown),
    }
}

#[test]
fn answers_are_judged_as_the_table_says() {
    let answer = |status: u16| Answer {
        status,
        headers: [("horolog-index".to_owned(), "7".to_owned())].into(),
        body: br#"{"stage":"done","due_at":"1970-01-01T00:00:01Z","index":5}"#.to_vec(),
    };
    for (status, end) in [
        (200, End::Ok),
        (201, End::Ok),
        (404, End::Fail),
        (409, End::Fail),
        (429, End::Fail),
        (503, End::Fail),
        (500, End::Unknown),
        (504, End::Unknown),
        (302, End::Unknown),
    ] {
        assert_eq!(judge(Ok(answer(status))).0, end, "{status}");
    }
    let got = judge(Ok(answer(200))).1;
    let all = json!({ "status": 200, "decided": 7, "index": 5, "stage": "done", "due_at": 1000 });
    assert_eq!(got, all);
    let lost = std::io::Error::from(std::io::ErrorKind::TimedOut);
    assert_eq!(judge(Err(lost)).0, End::Unknown);
}
