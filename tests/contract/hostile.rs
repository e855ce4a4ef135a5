//! Clients that mean harm, or know no better: nothing they send ends the node, fills its memory,
//! or gets anything but a refusal in due form.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::http::{self, Answer, connect};
use super::node::{Node, now, until};
use super::task::{task, with};

const URL: &str = "http://127.0.0.1:9/hook";
/// Requests of the random part, all threads together.
const REQUESTS: u64 = 10_000;
const THREADS: u64 = 8;
/// What the node may grow by: the tasks that were accepted, and what an allocator keeps.
const GROWTH_MAX: u64 = 160 << 20;

/// xorshift64*: the seed is all there is to a run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n
    }
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
    fn bytes(&mut self, max: usize) -> Vec<u8> {
        let length = self.below(max + 1);
        (0..length).map(|_| self.next() as u8).collect()
    }
}

const METHODS: [&str; 9] = [
    "GET",
    "POST",
    "POST",
    "POST",
    "PATCH",
    "DELETE",
    "PUT",
    "OPTIONS",
    "FROBNICATE",
];

const PATHS: [&str; 24] = [
    "/v1/tasks",
    "/v1/tasks",
    "/v1/tasks",
    "/v1/tasks/fuzz/a",
    "/v1/tasks/fuzz/a/run",
    "/v1/tasks/fuzz/a/run?wait=1ms",
    "/v1/tasks/fuzz/a/done",
    "/v1/tasks/fuzz/a/events",
    "/v1/tasks/fuzz/a/explain",
    "/v1/tasks/fuzz/a/attempts",
    "/v1/tasks/batch",
    "/v1/tasks?limit=1&stage=done",
    "/v1/stats",
    "/v1/cluster",
    "/v1/cluster/nodes",
    "/submit",
    "/inner/submit",
    "/uuid",
    "/api/task/done",
    "/done",
    "/execute",
    "/metrics",
    "/openapi.json",
    "/readyz",
];

/// Bodies that are read somewhere.
fn valid(chance: &mut Chance) -> String {
    let id = format!("f{}", chance.below(2_000));
    match chance.below(8) {
        0 => json!({ "appId": "fuzz", "uuid": id, "delay": 3_600_000, "url": URL, "headers": { "a": "b" },
            "body": "x", "timeout": 5, "retryCount": 2, "retryInterval": 7 }),
        1 => json!({ "appId": "fuzz", "uuid": id }),
        2 => json!({ "fence": 7, "ok": true, "error": "x", "result": { "a": [1] } }),
        3 => json!({ "again": true }),
        4 => json!({ "delay": "2h", "labels": { "k": null }, "retry": { "attempts": null },
            "target": { "http": { "headers": { "x": null } } } }),
        5 => json!({ "appId": "fuzz", "uuid": id, "delay": 3_600_000, "url": URL, "sync": false }),
        _ => json!({ "app": "fuzz", "id": id, "delay": "1h30m", "labels": { "order": "17" },
            "target": { "http": { "method": "PUT", "url": URL, "headers": { "x-a": "b" }, "body": { "n": [1, "two", null] },
            "timeout": "10s" } },
            "retry": { "attempts": 5, "backoff": { "exponential": { "first": "1s", "factor": 2, "max": "10m" } },
            "jitter": 0.1, "max_age": "1d" }, "accept_timeout": "1h", "expires_at": 4_102_444_800_000_u64 }),
    }
    .to_string()
}

/// What numbers and texts are replaced by.
const SPICE: [&str; 22] = [
    "1e400",
    "-1",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "0",
    "0.1",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"99999999999d\"",
    "\"9999-12-31T23:59:59Z\"",
    "\"-1s\"",
    "\"\u{202e}\"",
    "NaN",
    "'x'",
    "\"../../etc/passwd\"",
    "99999999999999999999999999999999999999999999999999",
];

fn mutated(chance: &mut Chance) -> Vec<u8> {
    let mut body = valid(chance).into_bytes();
    for _ in 0..chance.below(4) {
        let at = chance
            .below(body.len().max(1))
            .min(body.len().saturating_sub(1));
        match chance.below(9) {
            0 if !body.is_empty() => body[at] = chance.next() as u8,
            1 if !body.is_empty() => drop(body.remove(at)),
            2 => body.truncate(at),
            3 => {
                let piece = body[at..].to_vec();
                body.extend_from_slice(&piece);
            }
            4 => body.splice(at..at, chance.bytes(20)).for_each(drop),
            5 => body
                .splice(at..at, b"\xff\xc0\x80".iter().copied())
                .for_each(drop),
            _ => replace_value(chance, &mut body),
        }
    }
    body
}

/// Puts something else in the place of a value.
fn replace_value(chance: &mut Chance, body: &mut Vec<u8>) {
    let colons: Vec<usize> = (0..body.len()).filter(|n| body[*n] == b':').collect();
    if colons.is_empty() {
        return;
    }
    let from = *chance.pick(&colons) + 1;
    let length = body[from..]
        .iter()
        .position(|b| b",}]".contains(b))
        .unwrap_or(0);
    let spice = chance.pick(&SPICE).bytes();
    body.splice(from..from + length, spice).for_each(drop);
}

fn body(chance: &mut Chance, number: u64) -> Vec<u8> {
    let nested = |open: &str, depth: usize| open.repeat(depth).into_bytes();
    match number % 500 {
        0 => nested("[", 100_000),
        1 => nested("{\"a\":", 100_000),
        2 => [&br#"{"app":"fuzz","id":"deep","delay":"1h","target":{"http":{"url":"http://127.0.0.1:9/","body":"#[..],
            &nested("[", 100_000), &nested("]", 100_000), b"}}}"].concat(),
        3 => vec![b' '; 10 << 20],
        4 => [b"\"".as_slice(), &vec![b'9'; 10 << 20]].concat(),
        5 => vec![b'1'; 900_000],
        6 => chance.bytes(100_000),
        7..100 => Vec::new(),
        100..200 => valid(chance).into_bytes(),
        _ => mutated(chance),
    }
}

fn path(chance: &mut Chance) -> Vec<u8> {
    let mut path = chance.pick(&PATHS).as_bytes().to_vec();
    for _ in 0..chance.below(6) / 3 {
        let at = 1 + chance.below(path.len());
        let piece: &[u8] = match chance.below(9) {
            0 => b"%00",
            1 => b"/../..",
            2 => b"%ff%fe",
            3 => b"?limit=999999999999999999999",
            4 => b"?cursor=AAAA",
            5 => b"&wait=\xc3\xbc",
            6 => b"//",
            7 => &[b'a'; 5_000],
            _ => b"%",
        };
        let at = at.min(path.len());
        path.splice(at..at, piece.iter().copied()).for_each(drop);
    }
    path
}

/// A request's bytes, and whether it promises more than comes.
fn request(chance: &mut Chance, number: u64) -> (Vec<u8>, bool) {
    let body = body(chance, number);
    let mut bytes = Vec::new();
    // The place where such a body is read, or any.
    let fitting = ["\"app\"", "\"url\"", "\"appId\"", "\"fence\"", "\"again\""];
    let head = &body[..body.len().min(1_000)];
    let holds = |part: &&str| head.windows(part.len()).any(|w| w == part.as_bytes());
    let place = match fitting.iter().position(holds) {
        _ if chance.one_in(3) => None,
        Some(0) => Some("POST /v1/tasks"),
        Some(1) if holds(&"\"appId\"") => Some("POST /submit"),
        Some(2) => Some("POST /api/task/done"),
        Some(3) => Some("POST /v1/tasks/fuzz/f1/done"),
        Some(4) => Some("POST /v1/tasks/fuzz/f2/run"),
        Some(_) => Some("PATCH /v1/tasks/fuzz/f3"),
        None => None,
    };
    match place {
        Some(place) => bytes.extend_from_slice(place.as_bytes()),
        None => {
            bytes.extend_from_slice(chance.pick(&METHODS).as_bytes());
            bytes.push(b' ');
            bytes.extend(path(chance));
        }
    }
    bytes.extend_from_slice(b" HTTP/1.1\r\nhost: fuzz\r\nconnection: close\r\n");
    let kinds = [
        "application/json",
        "application/json",
        "application/json",
        "application/x-ndjson",
        "text/plain",
        "\u{7f}",
    ];
    if !chance.one_in(4) {
        bytes.extend_from_slice(format!("content-type: {}\r\n", chance.pick(&kinds)).as_bytes());
    }
    match chance.below(12) {
        0 => bytes.extend_from_slice(b"if-match: \"1-1\"\r\n"),
        1 => bytes.extend_from_slice(b"authorization: Bearer \xff\xff\r\n"),
        2 => {
            bytes.extend_from_slice(b"x-junk: ");
            bytes.extend(chance.bytes(200));
            bytes.extend_from_slice(b"\r\n");
        }
        3 => (0..200).for_each(|n| bytes.extend_from_slice(format!("x-{n}: y\r\n").as_bytes())),
        4 => bytes.extend_from_slice(format!("x-long: {}\r\n", "z".repeat(200_000)).as_bytes()),
        _ => {}
    }
    let mut half = false;
    let length = match chance.below(60) {
        0 => "-1".to_owned(),
        1 => "99999999999999999999".to_owned(),
        // More than comes: the connection ends before the body.
        2 => {
            half = true;
            (body.len() + 10).to_string()
        }
        _ => body.len().to_string(),
    };
    match chance.one_in(30) {
        true => {
            half = true;
            bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            bytes.extend_from_slice(format!("{:x}\r\n", body.len().max(1)).as_bytes());
            bytes.extend_from_slice(&body);
            let ends = ["\r\n0\r\n\r\n", "zz\r\n"];
            bytes.extend_from_slice(chance.pick(&ends).as_bytes());
        }
        false => {
            bytes.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes());
            bytes.extend_from_slice(&body);
        }
    }
    (bytes, half)
}

/// Sends, says that no more will come where more was promised, and reads the answer.
fn exchange(to: SocketAddr, bytes: &[u8], half: bool) -> Option<Answer> {
    let mut stream = connect(to);
    // A refusal may come before everything was sent.
    let _ = stream.write_all(bytes);
    if half {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    http::read(&mut stream)
}

/// Either it succeeded, or it was refused in due form.
fn check(bytes: &[u8], answer: &Answer) {
    let shown = || {
        let head = String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).into_owned();
        format!("{head}\n→ {} {}", answer.status, answer.text())
    };
    let served = (200..300).contains(&answer.status);
    let refused = (400..500).contains(&answer.status);
    assert!(served || refused, "{}", shown());
    // What is no HTTP is refused below the API, with a bare status.
    if refused && !answer.body.is_empty() {
        let json: serde_json::Value =
            serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{}", shown()));
        let status = json.get("status").or(json.get("code"));
        assert_eq!(status, Some(&json!(answer.status)), "{}", shown());
    }
}

fn resident(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

fn round(node: &Node, seed: u64, requests: u64) -> [u64; 3] {
    let work = |thread: u64| {
        let mut chance = Chance(seed << 4 | thread << 1 | 1);
        let mut seen = [0; 3];
        for number in 0..requests / THREADS {
            let (bytes, half) = request(&mut chance, number);
            match exchange(node.http, &bytes, half) {
                Some(answer) => {
                    check(&bytes, &answer);
                    seen[usize::from(answer.status >= 400)] += 1;
                }
                None => seen[2] += 1,
            }
        }
        seen
    };
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || work(n))).collect();
        let all = threads.into_iter().map(|t| t.join().unwrap());
        all.fold([0; 3], |sum, one| {
            [sum[0] + one[0], sum[1] + one[1], sum[2] + one[2]]
        })
    })
}

#[test]
fn ten_thousand_random_requests() {
    let mut node = Node::start(&[]);
    let seed = std::env::var("HOROLOG_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(now());
    println!("HOROLOG_TEST_SEED={seed}");
    let begun = Instant::now();
    let warm = round(&node, seed, REQUESTS / 5);
    let before = resident(&node);
    let rest = round(&node, seed.wrapping_add(1), REQUESTS * 4 / 5);
    let after = resident(&node);
    println!(
        "(served, refused, closed): {warm:?} and {rest:?} in {:?}; resident {before} then {after}",
        begun.elapsed()
    );
    assert!(node.is_alive(), "{}", node.log());
    assert!(
        rest[0] > 250 && rest[1] > 1_000 && rest[2] < REQUESTS / 10,
        "a fair mixture: {rest:?}"
    );
    assert!(
        after < before + GROWTH_MAX,
        "resident {before} then {after}"
    );
    assert!(!node.log().contains("panicked"), "{}", node.log());
    node.submit(&with(task("after", "a", URL), json!({ "delay": "1h" })));
    node.get("/readyz").expect(200);
}

#[test]
fn slow_and_silent_clients_are_let_go() {
    let limits = [
        ("HOROLOG_LIMITS_HEAD_TIMEOUT", "500ms"),
        ("HOROLOG_LIMITS_BODY_TIMEOUT", "500ms"),
        ("HOROLOG_LIMITS_CONNECTIONS", "64"),
    ];
    let node = Node::start(&limits);
    // A byte at a time: the head as a whole has its time.
    let mut slow = connect(node.http);
    let begun = Instant::now();
    let cut = until("the end of a slow head", Duration::from_secs(10), || {
        slow.write_all(b"G").err().map(|_| begun.elapsed())
    });
    assert!(cut < Duration::from_secs(5), "{cut:?}");
    for text in ["", "GET /uuid HT", "GET /uuid HTTP/1.1\r\nhost: a\r\nx: "] {
        let mut half = connect(node.http);
        half.write_all(text.as_bytes()).unwrap();
        let begun = Instant::now();
        let mut rest = String::new();
        let _ = half.read_to_string(&mut rest);
        assert!(begun.elapsed() < Duration::from_secs(5), "{text:?}");
        assert!(
            rest.is_empty() || rest.starts_with("HTTP/1.1 408"),
            "{rest}"
        );
    }
    let mut half = connect(node.http);
    half.write_all(
        b"POST /v1/tasks HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 9\r\n\r\n{",
    )
    .unwrap();
    http::read(&mut half).unwrap().problem(408);
    // All places taken by clients that say nothing: they go, and the next one is served.
    let silent: Vec<TcpStream> = (0..200).map(|_| connect(node.http)).collect();
    node.get("/uuid").expect(200);
    drop(silent);
}

#[test]
fn a_thousand_idle_connections_hold_up_nobody() {
    raise_open_files();
    let node = Node::start(&[]);
    let idle: Vec<TcpStream> = (0..1_000).map(|_| connect(node.http)).collect();
    let kept: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = connect(node.http);
            stream
                .write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
                .unwrap();
            assert!(stream.read(&mut [0; 1_024]).unwrap() > 0);
            stream
        })
        .collect();
    let begun = Instant::now();
    node.get("/uuid").expect(200);
    node.submit(&with(task("idle", "a", URL), json!({ "delay": "1h" })));
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop((idle, kept));
    node.get("/uuid").expect(200);
}

fn raise_open_files() {
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: now.maximum.map_or(Some(8_192), |max| Some(max.min(8_192))),
        maximum: now.maximum,
    };
    if now.current < wanted.current {
        setrlimit(Resource::Nofile, wanted).unwrap();
    }
}

#[test]
fn requests_in_a_row_are_answered_in_order() {
    let node = super::node::shared();
    let mut stream = connect(node.http);
    let mut bytes = Vec::new();
    for n in 0..100 {
        let last = if n == 99 { "connection: close\r\n" } else { "" };
        bytes.extend(format!("GET /v1/tasks/row/t{n} HTTP/1.1\r\nhost: a\r\n{last}\r\n").bytes());
    }
    stream.write_all(&bytes).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let places: Vec<usize> = (0..100)
        .map(|n| text.find(&format!("\"t{n}\"")).unwrap())
        .collect();
    assert!(places.is_sorted());
    assert_eq!(text.matches("HTTP/1.1 404").count(), 100);
}

#[test]
fn deep_json_and_large_numbers_are_refused_or_kept() {
    let node = super::node::shared();
    let send = |body: &str| http::send(node.http, "POST", "/v1/tasks", &[], body.as_bytes());
    let deep = "[".repeat(100_000);
    send(&deep).problem(400);
    // Not to be read either; that it has an unknown member is seen first.
    send(&"{\"a\":".repeat(100_000)).problem(422);
    for number in ["1e400", "1e308", "18446744073709551616", "-1", "NaN"] {
        let body =
            format!(r#"{{"app":"deep","delay":{number},"target":{{"http":{{"url":"{URL}"}}}}}}"#);
        let status = send(&body).status;
        assert!(status == 400 || status == 422, "{number}: {status}");
    }
    // A list is no object whose members come in their order.
    for list in [
        r#"["deep","x",null,"1h",{"http":{"url":"http://a"}}]"#,
        "[]",
        "[[]]",
    ] {
        send(list).problem(422);
    }
    // A body is sent as it was written, whatever its depth and its numbers.
    let body = format!("[1e400,{deep}{}]", "]".repeat(100_000));
    let whole = format!(
        r#"{{"app":"deep","id":"a","delay":"1h","target":{{"http":{{"url":"{URL}","body":{body}}}}}}}"#
    );
    assert!(send(&whole).expect(201).text().contains(&body));
    for rest in ["", "/events", "/explain"] {
        node.get(&format!("/v1/tasks/deep/a{rest}")).expect(200);
    }
    assert!(
        node.get("/v1/tasks?app=deep")
            .expect(200)
            .text()
            .contains(&body)
    );
    // The command line shows it too.
    let ran = node.cli(&["task", "get", "deep", "a", "--json"]);
    assert!(ran.code == Some(0) && ran.out.contains(&body));
    let ran = node.cli(&["task", "get", "deep", "a"]);
    assert!(
        ran.code == Some(0) && ran.out.contains("scheduled"),
        "{}",
        ran.out
    );
    let ran = node.cli(&["task", "list", "--app", "deep"]);
    assert!(
        ran.code == Some(0) && ran.out.contains("scheduled"),
        "{}",
        ran.out
    );
}
