//! Whole walks over lists, page by page, at one node each.

use serde_json::{Value, json};
use std::net::SocketAddr;

use super::Caller;
use super::call::{Request, judge, shown};
use crate::record::{End, Op};

const FILTERS: [(&str, &str); 5] = [
    ("plain", ""),
    ("hot", ""),
    ("outside", ""),
    ("herd", "&stage=scheduled"),
    ("retry", "&stage=dead"),
];
/// After each long walk so many short ones, by label.
const GROUPS: u32 = 3;
/// A walk of more pages is given up.
const PAGES_MAX: usize = 2_000;

pub fn run(caller: &mut Caller) {
    let (app, rest) = *caller.chance.pick(&FILTERS);
    let limit = *caller.chance.pick(&[50, 200, 1_000]);
    let door = caller.any_door();
    walk(caller, door, Some(app), &format!("&limit={limit}{rest}"));
    let shared = caller.shared.clone();
    for _ in 0..GROUPS {
        if let Some(group) = shared.any_group(&mut caller.chance) {
            let door = caller.any_door();
            walk(
                caller,
                door,
                Some("bulk"),
                &format!("&limit=3&label.group={group}"),
            );
        }
    }
    let pause = caller.chance.between(500, 1_200);
    caller.shared.pause(pause);
}

/// One operation: all pages, or as many as came. Returns whether it came to its end.
pub fn walk(
    caller: &mut Caller,
    (node, door): (u64, SocketAddr),
    app: Option<&str>,
    rest: &str,
) -> bool {
    let op = Op {
        process: caller.process,
        node,
        f: "list",
        app: app.map(str::to_owned),
        id: None,
    };
    let shared = caller.shared.clone();
    let asked = asked(app, rest);
    let number = shared.history.invoke(&op, &asked);
    let mut tasks: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    let first = app.map_or(String::new(), |app| format!("&app={app}"));
    for pages in 1..=PAGES_MAX {
        let path = format!(
            "/v1/tasks?{}",
            format!("{first}{rest}{cursor}").trim_start_matches('&')
        );
        let came = caller.exchange(door, &Request::new("GET", path));
        let (end, mut got, _) = judge(came.as_ref().map(Clone::clone).map_err(copy));
        let page = came.map(|answer| answer.json()).unwrap_or_default();
        let of_page = page["tasks"].as_array().filter(|_| end == End::Ok);
        let Some(of_page) = of_page else {
            got["pages"] = json!(pages);
            shared.history.end(number, &op, end, &got);
            if end == End::Unknown {
                caller.next_life();
            }
            return false;
        };
        tasks.extend(of_page.iter().map(shown));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => {
                let got = json!({ "status": 200, "pages": pages, "tasks": tasks });
                shared.history.end(number, &op, End::Ok, &got);
                return true;
            }
        }
    }
    let got = json!({ "error": "the walk does not end" });
    shared.history.end(number, &op, End::Unknown, &got);
    false
}

fn copy(error: &std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), error.to_string())
}

/// The query as an object.
fn asked(app: Option<&str>, rest: &str) -> Value {
    let mut asked = json!({});
    if let Some(app) = app {
        asked["app"] = json!(app);
    }
    for (name, value) in rest.split('&').filter_map(|part| part.split_once('=')) {
        asked[name] = match value.parse::<u64>() {
            Ok(number) => json!(number),
            Err(_) => json!(value),
        };
    }
    asked
}
