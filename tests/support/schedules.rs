//! Schedules as workloads ask for them: few, and every few seconds, of forms whose instants anybody
//! can work out, with every policy; and what nodes tell of them in the end.

use serde_json::{Value, json};

/// The application of all runs.
pub const GROUP: &str = "cron";
/// Names in use, over and over: what was deleted comes again.
pub const COUNT: u64 = 6;
/// A ledger with fewer lines than this has lost none: so many each schedule of so few keeps.
const KEPT: usize = 5_000;

/// One thing that is asked of a schedule.
#[derive(Clone, Debug)]
pub struct Asked {
    /// For the history: `do`, `id`, `body`.
    pub asked: Value,
    pub method: &'static str,
    pub path: String,
    pub body: Option<Value>,
}

/// A number below another one.
type Below<'a> = &'a mut dyn FnMut(u64) -> u64;

pub fn ids() -> impl Iterator<Item = String> {
    (0..COUNT).map(|n| format!("{GROUP}.s-{n}"))
}

fn asked(what: &str, id: &str, body: Option<Value>) -> Asked {
    let path = |rest: &str| format!("/v1/schedules/{id}{rest}");
    let (method, path) = match what {
        "create" => ("POST", "/v1/schedules".to_owned()),
        "change" => ("PUT", path("")),
        "delete" => ("DELETE", path("")),
        act => ("POST", path(&format!("/{act}"))),
    };
    Asked {
        asked: json!({ "do": what, "id": id, "body": body }),
        method,
        path,
        body,
    }
}

pub fn pause(id: &str) -> Asked {
    asked("pause", id, None)
}

pub fn create(below: Below<'_>, id: &str, url: &dyn Fn(&str) -> String, now_ms: u64) -> Asked {
    asked("create", id, Some(definition(below, id, url, now_ms)))
}

/// Something that is done to one of them while it fires.
pub fn any(below: Below<'_>, url: &dyn Fn(&str) -> String, now_ms: u64) -> Asked {
    let id = format!("{GROUP}.s-{}", below(COUNT));
    match below(12) {
        0..3 => asked("change", &id, Some(definition(below, &id, url, now_ms))),
        3..5 => asked("pause", &id, None),
        5..8 => asked("resume", &id, None),
        8 => asked("run", &id, None),
        9 => asked("delete", &id, None),
        _ => create(below, &id, url, now_ms),
    }
}

fn definition(below: Below<'_>, id: &str, url: &dyn Fn(&str) -> String, now_ms: u64) -> Value {
    let seconds = 1 + below(4);
    let mut body = match below(6) {
        0 => json!({ "every": format!("{seconds}s") }),
        1 => json!({ "every": format!("{seconds}s phase {}ms", below(seconds * 1_000)) }),
        2 => json!({ "crons": [format!("*/{seconds} * * * * ?")] }),
        3 => json!({ "crons": ["@every 2s", format!("{}/7 * * * * ?", below(7))] }),
        4 => json!({ "at": now_ms + 500 + below(8_000), "every": "4s" }),
        _ => json!({ "every": "1s", "jitter": "700ms" }),
    };
    if below(8) == 0 {
        body = json!({ "at": now_ms + 500 + below(8_000) });
    }
    let mut pick = |of: &[Value]| of[below(of.len() as u64) as usize].clone();
    let overlaps = ["allow", "skip", "queue_one", "queue_all", "cancel_running"];
    body["overlap"] = pick(&overlaps.map(Value::from));
    let all = json!({ "all": { "window": "10s", "max": 4, "pace": "200ms" } });
    body["catch_up"] = pick(&["skip".into(), "once".into(), all]);
    body["misfire"] = pick(&["1s", "2500ms", "1m"].map(Value::from));
    body["queue_max"] = pick(&[1.into(), 3.into(), 1_000.into()]);
    let scripts = [
        "ok",
        "ok",
        "slow/300",
        "slow/1200",
        "fail/1",
        "fail/99",
        "later",
    ];
    let script = pick(&scripts.map(Value::from));
    if pick(&[0.into(), 1.into(), 2.into(), 3.into()]) == 0 {
        body["max_runs"] = pick(&[1.into(), 5.into()]);
    }
    body["id"] = json!(id);
    body["target"] = json!({
        "http": { "url": url(script.as_str().unwrap_or("ok")), "timeout": "1500ms" }
    });
    body["retry"] = json!({ "attempts": 2, "backoff": { "fixed": "300ms" }, "jitter": 0.1 });
    body["accept_timeout"] = json!("700ms");
    body
}

/// Where a page of a ledger is: the first one, or the one that an answer names.
pub fn fires(id: &str, before: Option<&Value>) -> String {
    let before = before.map_or(String::new(), |next| format!("&before={next}"));
    format!("/v1/schedules/{id}/fires?limit=1000{before}")
}

/// A ledger from its pages, the newest first, as the checkers read it.
pub fn ledger(id: &str, pages: &[Value]) -> Value {
    let lines = pages.iter().filter_map(|page| page["fires"].as_array());
    let lines: Vec<&Value> = lines.flatten().collect();
    let last = pages.last();
    json!({
        "id": id, "whole": lines.len() < KEPT, "fires": lines,
        "watermark": pages.first().map(|page| &page["watermark"]),
        "kept_from": last.map(|page| &page["kept_from"]),
    })
}
