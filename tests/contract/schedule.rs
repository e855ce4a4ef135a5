//! `horolog schedule next`, which needs no server, and where the runs of a schedule are carried out.

use serde_json::{Value, json};

use super::node::{Node, cli, until};
use super::receiver::Receiver;
use super::task::PATIENCE;

/// Around the night in which Berlin's clocks are set forward.
const SPRING: [&str; 6] = [
    "schedule",
    "next",
    "30 2 * * *",
    "--zone=Europe/Berlin",
    "--from=2027-03-27T12:00:00Z",
    "--count=2",
];

#[test]
fn the_next_times_and_what_the_clocks_do_to_them() {
    let ran = cli(&SPRING, &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for wanted in [
        "2027-03-29T00:30:00.000Z",
        "2027-03-29T02:30:00+02:00[Europe/Berlin]",
    ] {
        assert!(ran.out.contains(wanted), "{ran:?}");
    }
    for wanted in [
        "at 2027-03-28T01:00:00.000Z the clock leaves out 2027-03-28T02:00:00 to 2027-03-28T03:00:00, \
         with 2027-03-28T02:30:00 of crons[0]: they are skipped",
        "they fire the first time only",
        "time-zone data 20",
    ] {
        assert!(ran.err.contains(wanted), "{wanted}: {ran:?}");
    }
    let after = cli(
        &[&SPRING[..], &["--dst=gap=after,overlap=twice", "--json"]].concat(),
        &[],
    )
    .json();
    assert_eq!(
        after["fires"][0],
        json!({ "at": "2027-03-28T01:00:00.000Z", "local": "2027-03-28T03:00:00+02:00[Europe/Berlin]" })
    );
    assert_eq!(after["dst"], json!({ "gap": "after", "overlap": "twice" }));
    assert_eq!(after["dialects"], json!(["unix"]));
    assert_eq!(after["jumps"][0]["effect"], "moved_to_end");
    assert_eq!(after["jumps"][1]["effect"], "fires_twice");
}

#[test]
fn several_expressions_end_and_spread() {
    let words = [
        "schedule",
        "next",
        "0 0 0 1 1 ? 2027",
        "0 0 0 2 1 ? 2027",
        "--from=2026-12-31T00:00:00Z",
    ];
    let ran = cli(&words, &[]);
    assert!(
        ran.out.contains("2027-01-02") && ran.err.contains("no more after these"),
        "{ran:?}"
    );
    let spread = |name: &str| {
        let words = [
            "schedule",
            "next",
            "H H * * *",
            "--from=2027-01-01T00:00:00Z",
            "--json",
            name,
        ];
        cli(&words, &[]).json()["fires"].clone()
    };
    assert_eq!(spread("--name=shop.report"), spread("--name=shop.report"));
    assert_ne!(spread("--name=shop.report"), spread("--name=shop.other"));
}

#[test]
fn bad_input_is_status_2_and_says_where() {
    for (words, told) in [
        (
            &["0 25 * * *"][..],
            "error: crons[0], hour field, column 3: found \"25\"; allowed is 0-23",
        ),
        (&["0 0 30 2 *"], "allowed is a day that exists"),
        (
            &["@daily", "--zone=Europe/Berln"],
            "zone: found \"Europe/Berln\"; allowed is an IANA name",
        ),
        (
            &["@daily", "nonsense"],
            "crons[1]: found \"'nonsense', 1 fields\"",
        ),
        (&["H * * * *"], "no H: it is drawn from the schedule's name"),
        (
            &["@daily", "--dst=gap=maybe"],
            "is none of gap=skip, gap=after",
        ),
        (&["@daily", "--from=soon"], "\"soon\" is not an instant"),
        (&["@daily", "--count=0"], "0 is not in 1..=1000"),
        (&[], "EXPR"),
    ] {
        let ran = cli(&[&["schedule", "next"], words].concat(), &[]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{ran:?}");
        assert!(ran.err.contains(told), "{told}: {ran:?}");
    }
}

/// Makes a schedule that waits for its hour, runs it by hand, and gives the id of the run.
#[track_caller]
fn run_placed(node: &Node, name: &str, url: &str, placement: &Value) -> String {
    let id = format!("place.{name}");
    let definition = json!({
        "id": id, "every": "1h", "target": { "http": { "url": url } }, "placement": placement,
    });
    let made = node.post("/v1/schedules", &definition).expect(201).json();
    assert_eq!(made["placement"], *placement, "{made}");
    node.post(&format!("/v1/schedules/{id}/run"), &json!({}))
        .expect(200);
    let run = until("the run is a task", PATIENCE, || {
        let fires = node.get(&format!("/v1/schedules/{id}/fires")).expect(200);
        let run = fires.json()["fires"][0]["task"]["id"].clone();
        run.as_str().map(str::to_owned)
    });
    assert_eq!(node.task("place", &run)["placement"], *placement);
    run
}

#[test]
fn the_runs_of_a_schedule_go_where_its_placement_says() {
    let node = Node::start(&[("HOROLOG_NODE_LABELS", "gpu=yes")]);
    let receiver = Receiver::start();
    let waits = json!({ "label": "gpu=no" });
    let waits = run_placed(&node, "waits", &receiver.url("/waits"), &waits);
    for (name, placement) in [
        ("labelled", json!({ "label": "gpu=yes" })),
        ("lead", json!("leader")),
    ] {
        let path = format!("/{name}");
        let run = run_placed(&node, name, &receiver.url(&path), &placement);
        node.wait_stage("place", &run, "done");
        assert_eq!(receiver.seen(&path).len(), 1);
    }
    let why = until("it is due", PATIENCE, || {
        let why = node.explained("place", &waits);
        why.contains("could begin").then_some(why)
    });
    assert!(
        why.contains("it waits for a live node with the label `gpu=no`"),
        "{why}"
    );
    assert_eq!(receiver.seen("/waits").len(), 0);

    let wrong = json!({
        "id": "place.wrong", "every": "1h", "target": { "http": { "url": receiver.url("/") } },
        "placement": "master",
    });
    let told = node.post("/v1/schedules", &wrong).problem(422);
    assert!(
        told.contains("placement") && told.contains("round_robin"),
        "{told}"
    );
}
