//! Schedules as their users see them: real processes that fire on time, keep a ledger, lose their
//! leader, and come back after everybody was down.
//!
//! Each test prints its figures: `cargo test --test schedules -- --nocapture`.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use support::cluster::Cluster;
use support::http::{Answer, Client};
use support::node::binary;
use support::receiver::{OTHERWISE, Receiver, Reply};
use support::{now_ms, pass, seconds, serial, wait_for};

fn definition(id: &str, every: &str, url: &str, more: Value) -> Value {
    let mut whole = json!({ "id": id, "every": every, "target": { "http": { "url": url } } });
    whole
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    whole
}

#[track_caller]
fn create(client: &mut Client, definition: &Value) -> Value {
    let answer = client.post("/v1/schedules", definition).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()
}

#[track_caller]
fn ok(answer: std::io::Result<Answer>) -> Value {
    let answer = answer.unwrap();
    assert!(answer.is_ok(), "{} {}", answer.status, answer.text());
    answer.json()
}

/// The lines of a ledger that were planned by the plan, oldest first: instant and outcome.
fn ledger(client: &mut Client, id: &str) -> Vec<(String, String)> {
    let told = ok(client.get(&format!("/v1/schedules/{id}/fires?limit=1000")));
    let lines = told["fires"].as_array().unwrap().iter().rev();
    let planned = lines.filter(|line| line["cause"] == "planned");
    let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    planned
        .map(|line| (text(line, "planned"), text(line, "outcome")))
        .collect()
}

fn counts(lines: &[(String, String)]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for (_, outcome) in lines {
        *counts.entry(outcome.as_str()).or_default() += 1;
    }
    counts
}

/// Runs `horolog audit` until it covers an instant; it must find nothing.
#[track_caller]
fn proven(server: SocketAddr, up_to_ms: u64) -> Value {
    wait_for("an audit that covers it all", seconds(30), || {
        let mut command = binary();
        command.args(["audit", "--json", "--server", &format!("http://{server}")]);
        let ran = command.output().unwrap();
        let audit: Value = serde_json::from_slice(&ran.stdout).ok()?;
        let to = audit["to"].as_str()?.parse::<jiff::Timestamp>().ok()?;
        if (to.as_millisecond() as u64) < up_to_ms {
            return None;
        }
        assert_eq!(audit["differences"], 0, "{audit:#}");
        assert!(ran.status.success());
        Some(audit)
    })
}

/// Runs `horolog schedule …` and returns what it printed, as JSON.
#[track_caller]
fn said(server: SocketAddr, words: &[&str]) -> Value {
    let mut command = binary();
    command.arg("schedule").args(words);
    command.args(["--json", "--server", &format!("http://{server}")]);
    let ran = command.output().unwrap();
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{words:?}: {told}");
    serde_json::from_slice(&ran.stdout).unwrap()
}

#[test]
fn a_schedule_from_its_creation_to_its_end() {
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(1).start();
    let server = cluster.node(1).http;
    let client = &mut cluster.client(1);
    let tick = definition(
        "shop.tick",
        "1s",
        &receiver.url,
        json!({ "params": { "a": 1 } }),
    );
    let made = create(client, &tick);
    assert_eq!(
        (&made["version"], &made["state"]),
        (&json!(1), &json!("active"))
    );
    assert_eq!(
        ok(client.post("/v1/schedules", &tick))["version"],
        1,
        "the same again"
    );
    let other = definition("shop.tick", "2s", &receiver.url, json!({}));
    assert_eq!(client.post("/v1/schedules", &other).unwrap().status, 409);
    let wrong = json!({ "id": "shop.wrong", "crons": ["0 25 * * *"], "target": { "http": { "url": "http://a/" } } });
    let refused = client.post("/v1/schedules", &wrong).unwrap();
    assert_eq!(
        (
            refused.status,
            refused.text().contains("crons[0], hour field")
        ),
        (422, true)
    );
    assert_eq!(client.get("/v1/schedules/shop.wrong").unwrap().status, 404);

    receiver.wait_tasks(3, seconds(10));
    receiver.assert_sound();
    let lines = ledger(client, "shop.tick");
    assert!(
        lines
            .iter()
            .all(|(_, outcome)| outcome == "fired" || outcome == "late"),
        "{lines:?}"
    );
    // The newest ones may have been decided ahead of their time.
    wait_for("a run with its answer", seconds(10), || {
        let runs = ok(client.get("/v1/runs?schedule=shop.tick&limit=10"));
        let mut runs = runs["runs"].as_array().unwrap().iter();
        runs.any(|run| run["attempts"][0]["status"] == 200)
            .then_some(())
    });

    // Changed, on the version that was read only; and back again.
    let on = |version: u32, every: &str| {
        let more = json!({ "version": version, "overlap": "skip" });
        definition("shop.tick", every, &receiver.url, more).to_string()
    };
    let put = |client: &mut Client, query: &str, body: String| {
        let path = format!("/v1/schedules/shop.tick{query}");
        client
            .send("PUT", &path, "application/json", body.as_bytes())
            .unwrap()
    };
    assert_eq!(put(client, "", on(7, "2s")).status, 412);
    let (from, to) = (now_ms() - 60_000, now_ms() + 60_000);
    let dry = put(
        client,
        &format!("?dry_run=true&from={from}&to={to}"),
        on(1, "2s"),
    )
    .json();
    assert!(
        (29..=31).contains(&dry["future"]["only_old_count"].as_u64().unwrap()),
        "{dry:#}"
    );
    assert_eq!(put(client, "", on(1, "2s")).json()["version"], 2);
    let history = ok(client.get("/v1/schedules/shop.tick/history"));
    assert_eq!(
        history["versions"][0]["changed"]["every"],
        json!(["1s", "2s"])
    );
    let back = client.post("/v1/schedules/shop.tick/revert", &json!({ "version": 1 }));
    assert_eq!(ok(back)["version"], 3);

    // Paused, its occurrences are skipped; it can be run by hand all the same.
    let reason = json!({ "reason": "holidays" });
    let paused = ok(client.post("/v1/schedules/shop.tick/pause", &reason));
    assert_eq!(
        (&paused["state"], &paused["paused"]["reason"]),
        (&json!("paused"), &json!("holidays"))
    );
    wait_for("a skipped one", seconds(10), || {
        ledger(client, "shop.tick")
            .iter()
            .any(|(_, outcome)| outcome == "skipped")
            .then_some(())
    });
    let run = ok(client.send("POST", "/v1/schedules/shop.tick/run", "", b""));
    assert_eq!(
        (&run["fires"][0]["cause"], &run["fires"][0]["outcome"]),
        (&json!("manual"), &json!("fired"))
    );
    let past = now_ms() - 100_000;
    let backfill = json!({ "from": past, "to": past + 5_000, "pace": "1ms" });
    let filled = ok(client.post("/v1/schedules/shop.tick/backfill", &backfill));
    assert_eq!(filled["fires"].as_array().unwrap().len(), 5);
    wait_for("the backfilled runs", seconds(10), || {
        let arrived = receiver.times();
        (arrived
            .keys()
            .filter(|id| id.split(':').nth(1).is_some_and(|tag| tag.len() == 16))
            .count()
            >= 5)
            .then_some(())
    });
    ok(client.send("POST", "/v1/schedules/shop.tick/resume", "", b""));

    let next = ok(client.get("/v1/schedules/shop.tick/next?count=3"));
    assert_eq!(next["fires"].as_array().unwrap().len(), 3);
    let seen = ok(client.get("/v1/schedules/forecast?span=1m"));
    assert!(
        (59..=61).contains(&seen["occurrences"].as_u64().unwrap()),
        "{seen:#}"
    );
    assert_eq!(
        ok(client.get("/v1/schedules?group=shop"))["schedules"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let words = [
        "create",
        "shop.nightly",
        "--cron",
        "@daily",
        "--zone",
        "Europe/Berlin",
        "--url",
        "http://127.0.0.1:9/",
    ];
    assert_eq!(said(server, &words)["state"], "active");
    assert_eq!(
        said(server, &["update", "shop.nightly", "--overlap", "skip"])["version"],
        2
    );
    let kept = said(server, &["get", "shop.nightly"]);
    assert_eq!(
        (&kept["zone"], &kept["crons"]),
        (&json!("Europe/Berlin"), &json!(["@daily"]))
    );
    assert_eq!(said(server, &["fires", "shop.nightly"])["fires"], json!([]));
    assert_eq!(
        said(server, &["list", "--group", "shop"])["schedules"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        said(server, &["delete", "shop.nightly"])["state"],
        "deleted"
    );
    let audit = proven(server, now_ms());
    assert!(audit["expected"].as_u64().unwrap() >= 4, "{audit:#}");
    assert_eq!(
        ok(client.delete("/v1/schedules/shop.tick"))["state"],
        "deleted"
    );
    assert_eq!(
        client
            .post("/v1/schedules/shop.tick/pause", &json!({}))
            .unwrap()
            .status,
        404
    );
}

#[test]
fn runs_of_a_slow_receiver_never_overlap_and_targets_may_be_invoked() {
    let _one = serial();
    let receiver = Receiver::start();
    let cluster = Cluster::new(1).start();
    let client = &mut cluster.client(1);
    let slow = Reply {
        after: seconds(2),
        ..Reply::status(200)
    };
    receiver.script(OTHERWISE, vec![slow]);
    create(
        client,
        &definition("a.slow", "1s", &receiver.url, json!({ "overlap": "skip" })),
    );
    receiver.wait_tasks(3, seconds(20));
    let arrivals = receiver.arrivals();
    for two in arrivals.windows(2) {
        assert!(
            two[1].at_us - two[0].at_us >= 2_000_000,
            "two at once: {two:?}"
        );
    }
    let lines = ledger(client, "a.slow");
    let skipped = counts(&lines).get("skipped").copied().unwrap_or(0);
    assert!(skipped >= 2, "{lines:?}");
    let invoke = json!({ "invoke": "demoTask.run('a', 2L)", "url": receiver.url });
    create(
        client,
        &json!({ "id": "a.call", "crons": ["@every 1s"], "target": invoke }),
    );
    wait_for("the invocation", seconds(10), || {
        receiver
            .times()
            .keys()
            .any(|id| id.starts_with("call:"))
            .then_some(())
    });
    let bad = json!({ "id": "a.bad", "every": "1s", "target": { "invoke": "run(1)", "url": receiver.url } });
    let refused = client.post("/v1/schedules", &bad).unwrap();
    assert!(
        refused.status == 422 && refused.text().contains("bean.method"),
        "{}",
        refused.text()
    );
}

#[test]
fn no_occurrence_is_missed_or_doubled_when_the_leader_dies_or_all_are_down() {
    let _one = serial();
    let receiver = Receiver::start();
    let mut cluster = Cluster::new(3).fast().start();
    let client = &mut cluster.client(1);
    for n in 0..20 {
        let id = format!("every.s{n:02}");
        create(client, &definition(&id, "1s", &receiver.url, json!({})));
    }
    let all = json!({ "all": { "window": "1h", "max": 3, "pace": "1ms" } });
    for (id, catch_up) in [
        ("skip", json!("skip")),
        ("once", json!("once")),
        ("all", all),
    ] {
        let more = json!({ "catch_up": catch_up, "misfire": "2s" });
        create(
            client,
            &definition(&format!("down.{id}"), "1s", &receiver.url, more),
        );
    }
    receiver.wait_tasks(60, seconds(20));
    let old = cluster.wait_ready();
    let killed = now_ms();
    cluster.node(old).kill();
    pass(seconds(4));
    cluster.node(old).start();
    cluster.wait_ready();
    let audit = proven(cluster.nodes[0].http, killed + 4_000);
    println!(
        "after the kill of the leader: {} expected, none missing",
        audit["expected"]
    );

    for node in &mut cluster.nodes {
        node.kill();
    }
    let down = now_ms();
    pass(seconds(6));
    let back = now_ms();
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.wait_ready();
    let audit = proven(cluster.nodes[1].http, back + 2_000);
    println!(
        "after all were down: {} expected: {}",
        audit["expected"], audit["outcomes"]
    );
    let client = &mut cluster.client(2);
    // What was planned while all were down, but for what was decided ahead of it.
    let within = |(planned, outcome): &(String, String)| {
        let at = planned.parse::<jiff::Timestamp>().unwrap().as_millisecond() as u64;
        (down + 1_500..back).contains(&at).then(|| outcome.clone())
    };
    let mut ran = BTreeMap::new();
    for policy in ["skip", "once", "all"] {
        let lines = ledger(client, &format!("down.{policy}"));
        let missed: Vec<String> = lines.iter().filter_map(within).collect();
        assert!((3..=5).contains(&missed.len()), "{missed:?}");
        let late: Vec<_> = lines.iter().filter(|line| line.1 == "late").collect();
        println!("{policy}: {missed:?}");
        ran.insert(policy, (missed, late.len()));
    }
    assert!(
        ran["skip"].0.iter().all(|outcome| outcome == "skipped"),
        "{ran:?}"
    );
    // The newest ones that were missed run; those may lie between the start and the first leader.
    assert!(
        ran["once"]
            .0
            .iter()
            .all(|o| o == "coalesced" || o == "late"),
        "{ran:?}"
    );
    assert!(
        ran["once"].0.iter().filter(|o| *o == "late").count() <= 1,
        "{ran:?}"
    );
    assert!(
        ran["all"].0.iter().all(|o| o == "skipped" || o == "late"),
        "{ran:?}"
    );
    assert!(
        ran["all"].0.iter().filter(|o| *o == "late").count() <= 3,
        "{ran:?}"
    );
    assert_eq!(ran["all"].0.len(), ran["once"].0.len());
    // Each occurrence is one task: a second arrival has a higher fence and its reason.
    receiver.assert_sound();
    let times = receiver.times();
    for a in receiver.arrivals().iter().filter(|a| times[&a.id] > 1) {
        let events = ok(client.get(&format!("/v1/tasks/{}/{}/events", a.app, a.id)));
        let again = events["events"].as_array().unwrap().iter();
        let again = again.filter(|e| e["kind"] == "redispatched" || e["kind"] == "retry");
        assert!(
            times[&a.id] <= 1 + again.count(),
            "I-22: {} came twice: {events:#}",
            a.id
        );
    }
    support::agree::assert_same_state(&cluster);
}
