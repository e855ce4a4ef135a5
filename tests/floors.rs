//! The floors hold: a module uses only modules on floors below its own.
//!
//! Read from the sources, line by line, because no compiler checks it. A path counts wherever it
//! stands, `use crate::…` or inline; comments do not. The same walk bans from the lowest floors
//! what would let a clock, chance or the order of a hash map into the fold.

use std::fs;
use std::path::{Path, PathBuf};

/// Module, floor.
const FLOORS: [(&str, u8); 12] = [
    ("bugs", 0),
    ("model", 1),
    ("wheel", 2),
    ("calendar", 2),
    ("log", 2),
    ("state", 3),
    ("raft", 4),
    ("executor", 5),
    ("api", 6),
    ("node", 7),
    ("cli", 8),
    ("fuzz", 9),
];

/// Although it is on a lower floor: the wheel speaks ticks and does not know what a task is, and
/// the fold knows no time zones, whose rules change with a release.
const STRANGERS: [(&str, &str); 2] = [("wheel", "model"), ("state", "calendar")];

const IO: &[&str] = &[
    "std::fs",
    "tokio",
    "std::net::Tcp",
    "std::thread",
    "std::env",
];

/// Where, what, and why not.
const BANNED: [(&[&str], &[&str], &str); 3] = [
    (
        &["model", "wheel", "calendar", "state"],
        &[
            "SystemTime",
            "Instant::now",
            "Timestamp::now",
            "Zoned::now",
            "now_v7",
            "rand::",
            "thread_rng",
            "getrandom",
        ],
        "the fold reads no clock and draws no chance: the leader stamps, the event carries",
    ),
    (
        &["model", "wheel", "calendar", "state"],
        &[
            "std::fs",
            "tokio",
            "std::net::Tcp",
            "std::thread",
            "std::env",
        ],
        "the lowest floors do no I/O and know no runtime",
    ),
    (
        &["wheel", "calendar", "state"],
        &["HashMap", "HashSet", "RandomState"],
        "the order of a hash map differs from node to node; use a BTreeMap or BTreeSet",
    ),
];

fn floor(module: &str) -> Option<u8> {
    let found = FLOORS.iter().find(|(name, _)| *name == module);
    found.map(|(_, floor)| *floor)
}

/// Whether one module may use another.
fn may_use(user: &str, used: &str) -> bool {
    match (floor(user), floor(used)) {
        (Some(above), Some(below)) => {
            user == used || (below < above && !STRANGERS.contains(&(user, used)))
        }
        // The crate's root, the binary and what is no module have no floor.
        _ => true,
    }
}

/// The code of a line, without what follows `//`; a `//` in a string only hides more of it.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

/// The modules that a line names, `use crate::{a, b}` included when it stands on one line.
fn named(line: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for root in ["crate::", "horolog::"] {
        for (at, _) in line.match_indices(root) {
            let before = line[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = &line[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(list) => modules.extend(list.split(',').map(first_word)),
                None => modules.push(first_word(rest)),
            }
        }
    }
    modules
}

fn first_word(text: &str) -> String {
    let word = |c: &char| c.is_alphanumeric() || *c == '_';
    text.trim_start().chars().take_while(word).collect()
}

/// Every breach in one file. Only tests may touch files: for fixtures and documentation.
fn breaches(module: &str, file: &str, source: &str, is_test: bool) -> Vec<String> {
    let mut found = Vec::new();
    for (n, line) in source.lines().enumerate() {
        let line = code(line);
        let place = format!("{file}:{}", n + 1);
        if line.trim_end().ends_with("crate::{") {
            found.push(format!(
                "{place}: write one `use crate::module::…` a line, so that this test can read it"
            ));
        }
        for used in named(line) {
            if !may_use(module, &used) {
                found.push(format!(
                    "{place}: `{module}` must not use `{used}`: only floors below its own, see FLOORS in tests/floors.rs"
                ));
            }
        }
        for (modules, words, why) in BANNED {
            // The store is the state's disk, behind a trait; the fold itself never comes there.
            let is_store = file.starts_with("src/state/store/");
            if (is_test || is_store) && words == IO {
                continue;
            }
            let hit = words.iter().find(|word| line.contains(**word));
            if let Some(word) = hit.filter(|_| modules.contains(&module)) {
                found.push(format!("{place}: `{word}` is not for `{module}`: {why}"));
            }
        }
    }
    found
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            out.push(path);
        }
    }
}

/// The files of modules that are declared under `#[cfg(test)]`.
fn test_files(path: &Path, source: &str) -> Vec<PathBuf> {
    let stem = path.file_stem().unwrap();
    let dir = match stem == "mod" || stem == "lib" {
        true => path.parent().unwrap().to_path_buf(),
        false => path.with_extension(""),
    };
    let lines: Vec<&str> = source.lines().collect();
    let declared = lines
        .windows(2)
        .filter(|two| two[0].trim() == "#[cfg(test)]");
    let names = declared.filter_map(|two| two[1].trim().strip_suffix(';')?.rsplit_once("mod "));
    names.map(|(_, name)| dir.join(name)).collect()
}

#[test]
fn every_module_stays_on_its_floor() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    files.sort();
    let sources: Vec<String> = files
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let of_tests: Vec<PathBuf> = (files.iter().zip(&sources))
        .flat_map(|(path, source)| test_files(path, source))
        .collect();
    let mut found = Vec::new();
    for (path, source) in files.iter().zip(&sources) {
        let is_test = of_tests
            .iter()
            .any(|test| path.with_extension("").starts_with(test));
        let file = path.strip_prefix(root).unwrap();
        let module = file.iter().nth(1).unwrap().to_str().unwrap();
        let module = module.trim_end_matches(".rs");
        found.extend(breaches(module, file.to_str().unwrap(), source, is_test));
    }
    assert!(files.len() > FLOORS.len(), "the sources were found");
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn every_module_has_a_floor() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        let known = floor(module).is_some() || ["lib", "main", "thorough"].contains(&module);
        assert!(
            known,
            "src/{name} has no floor; give it one in tests/floors.rs"
        );
    }
}

/// The test can fail, and says where and why.
#[test]
fn breaches_are_found() {
    let one = |module: &str, line: &str| breaches(module, "src/x.rs", line, false).join("\n");
    assert_eq!(one("state", "use crate::model::Time;"), "");
    assert_eq!(
        one("state", "use crate::wheel::Wheel; // not crate::api"),
        ""
    );
    assert_eq!(one("state", "//! as crate::raft::Cluster does"), "");
    assert_eq!(one("lib", "pub use crate::cli::run;"), "");
    for (module, line) in [
        ("state", "use crate::raft::Cluster;"),
        ("state", "    let x: crate::executor::Queue = y;"),
        ("wheel", "use crate::log::Log;"),
        ("log", "use crate::wheel::Wheel;"),
        ("wheel", "use crate::model::Time;"),
        ("state", "use crate::calendar::Plan;"),
        ("model", "pub(crate) use crate::state::State;"),
        ("state", "use crate::{model::Time, api::Router};"),
        ("state", "use crate::{"),
        ("state", "let now = SystemTime::now();"),
        ("state", "use std::collections::HashMap;"),
        ("model", "tokio::spawn(x);"),
        ("wheel", "use std::fs::File;"),
    ] {
        let message = one(module, line);
        assert!(
            message.starts_with("src/x.rs:1: "),
            "{module}: {line} → {message:?}"
        );
    }
}
