//! Many tasks due at the same millisecond, submitted as one batch.

use serde_json::{Value, json};

use super::call::{Request, judge};
use super::{Caller, task};
use crate::record::{End, Op};
use crate::support::http::Answer;
use crate::support::now_ms;

const APP: &str = "herd";
/// Processes of herds begin here: each line of a batch is an operation of its own.
const PROCESSES: u64 = 1_000_000_000;

pub fn run(caller: &mut Caller) {
    let (few, many) = match caller.shared.is_pressed() {
        true => (60, 200),
        false => (10, 60),
    };
    let count = caller.chance.between(few, many);
    let due = now_ms() + caller.chance.between(300, 2_000);
    let url = caller.shared.sink.url("ok");
    let ids: Vec<String> = (0..count).map(|_| caller.shared.id("g")).collect();
    let bodies: Vec<Value> = ids.iter().map(|id| task(APP, id, due, &url)).collect();
    batch(caller, &ids, &bodies);
    let pause = caller.chance.between(1_500, 3_000);
    caller.shared.pause(pause);
}

fn batch(caller: &mut Caller, ids: &[String], bodies: &[Value]) {
    let shared = caller.shared.clone();
    let (node, door) = caller.any_door();
    let op = |id: &String| Op {
        process: PROCESSES + id[2..].parse::<u64>().unwrap_or(0),
        node,
        f: "submit",
        app: Some(APP.into()),
        id: Some(id.clone()),
    };
    let ops: Vec<Op> = ids.iter().map(op).collect();
    let invoke = |(op, body): (&Op, &Value)| shared.history.invoke(op, body);
    let numbers: Vec<u64> = ops.iter().zip(bodies).map(invoke).collect();
    let request = Request::new("POST", "/v1/tasks/batch").lines(bodies);
    let came = caller.exchange(door, &request);
    let is_whole = |answer: &Answer| answer.status == 200;
    let lines = match &came {
        Ok(answer) if is_whole(answer) => answer.lines(),
        _ => Vec::new(),
    };
    for (n, (op, number)) in ops.iter().zip(numbers).enumerate() {
        let (end, got) = match (lines.get(n), &came) {
            (Some(line), _) => of_line(line),
            (None, Ok(answer)) if !is_whole(answer) => {
                let (end, got, _) = judge(Ok(answer.clone()));
                (end, got)
            }
            _ => (
                End::Unknown,
                json!({ "error": "the answer has no line for it" }),
            ),
        };
        shared.history.end(number, op, end, &got);
    }
}

/// A line of the answer is judged as an answer of its own.
fn of_line(line: &Value) -> (End, Value) {
    let Some(status) = line["status"].as_u64() else {
        return (End::Unknown, json!({ "error": "no status" }));
    };
    let (end, got, _) = judge(Ok(Answer {
        status: status as u16,
        headers: Default::default(),
        body: line.to_string().into_bytes(),
    }));
    (end, got)
}
