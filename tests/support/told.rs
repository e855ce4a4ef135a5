//! What an answer of the API means, in the words of a history.
//!
//! | what came back | end |
//! |---|---|
//! | 2xx | ok |
//! | 4xx; 503, which promises that nothing happened | fail |
//! | anything else; nothing; a part | unknown: the client goes on as another process |

use serde_json::{Map, Value, json};

/// How an answer ends its operation, and what of it the checkers look at.
pub fn told(status: u16, decided: Option<u64>, body: &Value) -> (&'static str, Value) {
    let mut got = shown(body);
    got["status"] = json!(status);
    if let Some(index) = decided {
        got["decided"] = json!(index);
    }
    if let 200..=299 = status {
        return ("ok", got);
    }
    let kind = body["type"].as_str().unwrap_or_default();
    got["problem"] = json!(kind.rsplit('/').next());
    got["detail"] = body["detail"].clone();
    match status {
        400..=499 | 503 => ("fail", got),
        _ => ("unknown", got),
    }
}

/// The members of a task, or of a bulk answer, that checkers look at.
pub fn shown(body: &Value) -> Value {
    let mut shown = Map::new();
    for name in [
        "app", "id", "index", "stage", "attempt", "outcome", "examined", "matched", "changed",
        "skipped", "next",
    ] {
        if !body[name].is_null() {
            shown.insert(name.into(), body[name].clone());
        }
    }
    let due = body["due_at"]
        .as_str()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok());
    if let Some(due) = due {
        shown.insert("due_at".into(), json!(due.as_millisecond()));
    }
    Value::Object(shown)
}
