//! `horolog import`: resumable, with refused lines apart.

use serde_json::json;

use super::node::shared;
use super::task::{task, with};

fn tasks(n: usize) -> String {
    let line = |n| {
        with(
            task("i-all", &format!("t-{n}"), "http://127.0.0.1:9/"),
            json!({ "delay": "1h" }),
        )
    };
    (0..n).map(|n| format!("{}\n", line(n))).collect()
}

#[test]
fn a_second_run_skips_what_is_done_and_refused_lines_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (file, state, rejects) = (path("tasks"), path("state"), path("rejects"));
    let bad = "{ no json\n\n{\"app\":\"i-all\",\"target\":{}}\n{\"app\":\"i-all\",\"id\":\"x\",\"nonsense\":1}\n";
    std::fs::write(&file, tasks(1_100) + bad).unwrap();
    let words = [
        "import",
        &file,
        "--state",
        &state,
        "--rejects",
        &rejects,
        "--json",
    ];
    let counts = |out: &str| serde_json::from_str::<serde_json::Value>(out).unwrap();

    let ran = shared().cli(&words);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let first = json!({ "skipped": 0, "created": 1_100, "existed": 0, "rejected": 3 });
    assert_eq!(counts(&ran.out), first);
    assert!(ran.err.contains("line 1103: it has no id"), "{ran:?}");
    assert_eq!(
        std::fs::read_to_string(&rejects).unwrap(),
        bad.replace("\n\n", "\n")
    );
    assert_eq!(std::fs::read_to_string(&state).unwrap(), "1104\n");

    let ran = shared().cli(&words);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let again = json!({ "skipped": 1_104, "created": 0, "existed": 0, "rejected": 0 });
    assert_eq!(counts(&ran.out), again);

    // The note is behind, as after a crash: what was sent is recognized.
    std::fs::write(&state, "1000\n").unwrap();
    let ran = shared().cli(&words);
    let behind = json!({ "skipped": 1_000, "created": 0, "existed": 100, "rejected": 3 });
    assert_eq!(counts(&ran.out), behind);
}
