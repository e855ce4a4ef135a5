//! The papers of the house say what is so: commands agree, links and names resolve, and no row of
//! a table that must be whole is missing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every page that people read.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = [".", "docs"]
        .iter()
        .flat_map(|dir| fs::read_dir(root().join(dir)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "md"))
        .collect();
    pages.sort();
    assert!(pages.len() >= 7, "the pages were found");
    pages
}

/// The page without its blocks of code.
fn prose(page: &str) -> String {
    let parts = page.split("```").step_by(2);
    parts.collect::<Vec<_>>().join("\n")
}

/// What stands between backticks.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// As the anchors of a page are made from its headings.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn the_readme_and_ci_have_the_same_test_command() {
    let readme = read("README.md");
    let blocks = readme.split("```sh\n").skip(1);
    let commands: Vec<&str> = blocks
        .filter_map(|block| block.split("```").next())
        .flat_map(str::lines)
        .filter(|line| line.starts_with("cargo test"))
        .collect();
    assert_eq!(commands.len(), 1, "one command: {commands:?}");
    let ci = read(".ci/run");
    let body = ci.split("run_tests() {\n").nth(1).expect("run_tests");
    let line = body.lines().next().unwrap().trim();
    assert_eq!(line, commands[0], ".ci/run against README.md");
}

#[test]
fn files_that_the_architecture_names_exist() {
    let page = read("ARCHITECTURE.md");
    let named: BTreeSet<&str> = quoted(&page)
        .filter(|name| {
            ["src/", "tests/", "benches/", "docs/"]
                .iter()
                .any(|p| name.starts_with(p))
        })
        .collect();
    assert!(named.len() > 30, "the names were found");
    let missing: Vec<_> = named.iter().filter(|n| !root().join(n).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The rows of a page by the first cell of each, duplicates included.
fn first_cells(page: &str) -> Vec<&str> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| "));
    rows.filter_map(|row| row.split(" | ").next()).collect()
}

fn assert_rows(path: &str, expected: impl Iterator<Item = String>) {
    let page = read(path);
    let cells = first_cells(&page);
    for id in expected {
        let count = cells.iter().filter(|cell| **cell == id).count();
        assert_eq!(count, 1, "{path}: rows for {id}");
    }
}

#[test]
fn every_feature_has_its_row_and_its_state() {
    let series = [
        ('G', 7),
        ('P', 5),
        ('C', 7),
        ('W', 5),
        ('Q', 12),
        ('K', 9),
        ('B', 19),
    ];
    let ids = series
        .iter()
        .flat_map(|(letter, last)| (1..=*last).map(move |n| format!("{letter}{n}")));
    assert_rows("docs/features.md", ids.clone());
    let page = read("docs/features.md");
    let known: BTreeSet<String> = ids.collect();
    for row in page.lines().filter_map(|line| line.strip_prefix("| ")) {
        let cells: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
        if !known.contains(cells[0]) {
            continue;
        }
        let shown = cells.get(3).is_some_and(|cell| cell.contains('`'));
        match cells[2] {
            "works" | "partly" => assert!(shown || row.contains("see "), "{row}: shown by what?"),
            "not yet" => {}
            other => panic!("{row}: `{other}` is no state"),
        }
    }
}

#[test]
fn every_invariant_has_its_row() {
    assert_rows("docs/testing.md", (1..=37).map(|n| format!("I-{n}")));
}

#[test]
fn every_test_binary_has_its_row() {
    let page = read("docs/testing.md");
    let cells = first_cells(&page);
    for entry in fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ext| ext == "rs") || path.join("main.rs").exists() {
            let name = format!("`{}`", path.file_stem().unwrap().to_str().unwrap());
            assert!(
                cells.contains(&name.as_str()),
                "docs/testing.md: no row for {name}"
            );
        }
    }
}

/// Whether `a::b::c` is a module's file, and what follows is a module or a function in it.
fn resolves(name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    for taken in (1..=parts.len()).rev() {
        let module = root().join("src").join(parts[..taken].join("/"));
        let files = [module.with_extension("rs"), module.join("mod.rs")];
        if let Some(file) = files.iter().find(|file| file.exists()) {
            let text = fs::read_to_string(file).unwrap();
            return parts[taken..].iter().all(|part| {
                text.contains(&format!("fn {part}(")) || text.contains(&format!("mod {part} {{"))
            });
        }
    }
    false
}

#[test]
fn tests_that_the_pages_name_exist() {
    let mut count = 0;
    for page in ["docs/features.md", "docs/testing.md"] {
        let text = read(page);
        let names = quoted(&text).filter(|name| {
            name.contains("::") && !name.contains([' ', '=']) && !name.ends_with("::")
        });
        for name in names {
            assert!(
                resolves(name),
                "{page}: `{name}` is neither module nor test"
            );
            count += 1;
        }
    }
    assert!(count > 60, "the names were found");
    assert!(!resolves("state::tests::nothing_like_it") && !resolves("nowhere::at_all"));
}

#[test]
fn internal_links_resolve() {
    let mut count = 0;
    for path in pages() {
        let text = prose(&fs::read_to_string(&path).unwrap());
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if link.starts_with("http") {
                continue;
            }
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            let place = format!("{}: {link}", path.display());
            assert!(target.exists(), "{place}: there is no such file");
            if !fragment.is_empty() {
                let page = fs::read_to_string(&target).unwrap();
                let mut headings = page.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|heading| anchor(heading) == fragment),
                    "{place}: there is no such heading"
                );
            }
            count += 1;
        }
    }
    assert!(count > 15, "the links were found");
}
