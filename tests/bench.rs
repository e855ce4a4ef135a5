//! `horolog bench` end to end: a short run against a real node, whose books must balance.

use serde_json::Value;
use std::process::{Command, Output};

fn bench(args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_horolog"))
        .arg("bench")
        .args(args.split(' '))
        .output()
        .expect("the binary runs")
}

#[test]
fn a_short_run_counts_and_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("figures.json");
    let args = format!(
        "submit --nodes 1 --seconds 1 --connections 4 --rate 50 --json --dir {} --out {}",
        dir.path().display(),
        out.display()
    );
    let ran = bench(&args);
    let talk = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{talk}");
    let report: Value = serde_json::from_slice(&ran.stdout).expect("JSON on standard output");
    let written = std::fs::read_to_string(&out).expect("the file");
    assert_eq!(
        serde_json::from_str::<Value>(&written).ok().as_ref(),
        Some(&report)
    );

    assert_eq!(report["valid"], true, "{talk}");
    assert_eq!(report["problems"], Value::Array(Vec::new()));
    assert_eq!(report["facts"]["version"], env!("CARGO_PKG_VERSION"));
    for fact in ["cores", "kernel", "memory_bytes", "disk", "at", "build"] {
        assert!(!report["facts"][fact].is_null(), "{fact}");
    }
    let books = &report["books"][0];
    assert_eq!(books["balanced"], true);
    assert_eq!(books["submitted"], books["pending"]);
    assert!(books["submitted"].as_u64() > Some(50), "{books}");

    let figures = report["figures"].as_array().expect("figures");
    let closed = figures.iter().find(|f| f["id"] == "S1").expect("S1");
    assert_eq!(closed["durability"], "D2");
    assert_eq!(closed["against"]["floor"], "H(4)");
    assert!(closed["value"].as_f64() > Some(0.0));
    assert!(closed["against"]["ratio"].as_f64() > Some(0.0));
    assert!(closed["latency"]["p99_us"].as_u64() >= closed["latency"]["p50_us"].as_u64());
    for floor in ["f", "H"] {
        assert!(figures.iter().any(|f| f["id"] == floor), "{floor}");
    }

    // Nothing but the figures is left behind.
    assert_eq!(
        std::fs::read_dir(dir.path()).expect("the folder").count(),
        1
    );
}

#[test]
fn wrong_usage_is_status_2() {
    for args in [
        "nonsense",
        "submit --rate 0",
        "submit --nodes 0",
        "floors --seconds 0",
    ] {
        assert_eq!(bench(args).status.code(), Some(2), "{args}");
    }
}
