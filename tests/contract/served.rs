//! What the node says about itself: health, description, numbers, cluster.

use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::node::{Node, shared};
use super::receiver::{Reply, receiver};
use super::task::{task, with};

#[test]
fn it_is_alive_and_ready() {
    for path in ["/livez", "/readyz"] {
        shared().get(path).expect(200);
    }
    shared().get("/nowhere").problem(404);
    let wrong = super::http::send(shared().http, "DELETE", "/v1/tasks", &[], b"");
    wrong.problem(405);
    let allow = wrong.header("allow").unwrap();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
}

#[test]
fn the_description_lists_every_route() {
    let document = shared().get("/openapi.json").expect(200).json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    for (path, methods) in [
        ("/v1/tasks", &["get", "post"][..]),
        ("/v1/tasks/batch", &["post"]),
        ("/v1/tasks/{app}/{id}", &["get", "delete", "patch"]),
        ("/v1/tasks/{app}/{id}/run", &["post"]),
        ("/v1/tasks/{app}/{id}/done", &["post"]),
        ("/v1/tasks/{app}/{id}/events", &["get"]),
        ("/v1/tasks/{app}/{id}/attempts", &["get"]),
        ("/v1/tasks/{app}/{id}/explain", &["get"]),
        ("/v1/stats", &["get"]),
        ("/v1/cluster", &["get"]),
        ("/v1/cluster/nodes", &["post"]),
        ("/v1/lifecycle/{duty}", &["post"]),
        ("/v1/apps", &["get"]),
        ("/v1/apps/{app}/pause", &["post"]),
        ("/v1/apps/{app}/resume", &["post"]),
        ("/v1/targets", &["get"]),
        ("/submit", &["post"]),
        ("/uuid", &["get"]),
        ("/api/task/done", &["post"]),
        ("/inner/submit", &["post"]),
        ("/execute", &["post"]),
        ("/done", &["post"]),
        ("/livez", &["get"]),
        ("/readyz", &["get"]),
        ("/metrics", &["get"]),
        ("/openapi.json", &["get"]),
    ] {
        for method in methods {
            let operation = &document["paths"][path][method];
            assert!(operation["responses"].is_object(), "{method} {path}");
        }
    }
    // And what it describes is there: no path is unknown, no method refused.
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace("{app}", "v-doc").replace("{id}", "nobody");
        let path = path.replace("{duty}", "load");
        for method in methods.as_object().unwrap().keys() {
            let answer = super::http::send(shared().http, &method.to_uppercase(), &path, &[], b"");
            let text = answer.text();
            assert!(
                answer.status != 405 && !text.contains("no-such-path"),
                "{method} {path}: {text}"
            );
        }
    }
    every_reference_leads_somewhere(&document, &document);
}

fn every_reference_leads_somewhere(document: &Value, part: &Value) {
    match part {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                let pointer = reference.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            members
                .values()
                .for_each(|v| every_reference_leads_somewhere(document, v));
        }
        Value::Array(items) => items
            .iter()
            .for_each(|v| every_reference_leads_somewhere(document, v)),
        _ => {}
    }
}

#[test]
fn the_cluster_shows_its_one_node() {
    let cluster = shared().get("/v1/cluster").expect(200).json();
    assert_eq!(cluster["leader"], 1);
    assert!(cluster["term"].as_u64().unwrap() > 0);
    let node = &cluster["nodes"][0];
    assert_eq!(
        (&node["id"], &node["role"], &node["alive"]),
        (&json!(1), &json!("leader"), &json!(true))
    );
    assert_eq!(node["http"], shared().http.to_string());
    for member in ["load", "last_applied", "checkpoint", "clock_skew_ms"] {
        assert!(node[member].is_number(), "{member} in {node}");
    }
    assert!((0.0..=1.0).contains(&node["load"].as_f64().unwrap()));
    assert!(node["version"].is_string() && node["peer"].is_string());
    let hashes = node["state_hashes"].as_array().unwrap();
    assert!(
        hashes
            .iter()
            .all(|h| h["index"].is_u64() && h["hash"].is_string())
            && !hashes.is_empty()
    );
    let total = cluster["shards"]["total"].as_u64().unwrap();
    assert_eq!(cluster["shards"]["owned"], json!({ "1": total }));
    let progress = cluster["shards"]["progress"].as_array().unwrap();
    assert_eq!(progress.len() as u64, total);
    for (number, shard) in progress.iter().enumerate() {
        assert_eq!(
            (&shard["shard"], &shard["owner"]),
            (&json!(number), &json!(1))
        );
        assert!(shard["epoch"].as_u64().unwrap() > 0);
        assert!(shard["open"].is_u64() && shard["committed"].as_u64().unwrap() > 0);
    }
}

/// What is open of a shard holds its committed position back; an end lets it go on.
#[test]
fn the_committed_position_stands_before_what_is_open() {
    let node = Node::start(&[]);
    let held_back = || {
        let cluster = node.get("/v1/cluster").expect(200).json();
        let shards = cluster["shards"]["progress"].as_array().unwrap().clone();
        let open: Vec<_> = shards.iter().filter(|s| s["open"] != 0).cloned().collect();
        let least = shards
            .iter()
            .map(|s| s["committed"].as_u64().unwrap())
            .min();
        (open, least.unwrap())
    };
    let far = with(
        task("progress", "far", "http://127.0.0.1:9/hook"),
        json!({ "delay": "1h" }),
    );
    let submitted = node.post("/v1/tasks", &far).expect(201).index();
    let (open, least) = held_back();
    assert_eq!(open.len(), 1, "{open:?}");
    assert_eq!(
        (&open[0]["open"], &open[0]["committed"]),
        (&json!(1), &json!(submitted - 1))
    );
    assert_eq!(least, submitted - 1, "no other shard is held back");
    let said = node.cli(&["cluster", "status"]);
    let brief = format!("1 tasks open, none up to log index {}", submitted - 1);
    assert!(said.out.contains(&brief), "{}", said.out);
    let cancelled = node.delete("/v1/tasks/progress/far").expect(200).index();
    let (open, least) = held_back();
    assert!(open.is_empty() && least >= cancelled, "{open:?}, {least}");
}

/// One metric family, read strictly.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    helped: bool,
    /// (name, labels, value)
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// Reads OpenMetrics text and fails on what the standard forbids.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let lines: Vec<&str> = text
        .strip_suffix("# EOF\n")
        .expect("it ends with # EOF")
        .lines()
        .collect();
    for line in lines {
        if let Some(meta) = line.strip_prefix("# ") {
            let mut words = meta.splitn(3, ' ');
            let (what, name, rest) = (
                words.next().unwrap(),
                words.next().unwrap(),
                words.next().unwrap(),
            );
            if current != name {
                assert!(!families.contains_key(name), "{name} is interleaved");
                current = name.to_owned();
            }
            let family = families.entry(current.clone()).or_default();
            assert!(family.samples.is_empty(), "metadata after samples: {line}");
            match what {
                "TYPE" => family.kind = rest.to_owned(),
                "HELP" => family.helped = true,
                "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, rest.strip_suffix('}').unwrap()),
            None => (series, ""),
        };
        assert!(
            name.starts_with(&current),
            "{line} is outside its family {current}"
        );
        let labels = labels.split(',').filter(|l| !l.is_empty()).map(|label| {
            let (key, value) = label.split_once('=').unwrap();
            let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
            (key.to_owned(), value.unwrap().to_owned())
        });
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        let sample = (name.to_owned(), labels.collect(), value);
        families.get_mut(&current).unwrap().samples.push(sample);
    }
    for (name, family) in &families {
        check(name, family);
    }
    families
}

fn check(name: &str, family: &Family) {
    assert!(
        family.helped && !family.samples.is_empty(),
        "{name}: {family:?}"
    );
    let suffixes: &[&str] = match family.kind.as_str() {
        "gauge" => &[""],
        "counter" => &["_total"],
        "histogram" => &["_bucket", "_sum", "_count"],
        kind => panic!("{name}: {kind}"),
    };
    for (sample, ..) in &family.samples {
        assert!(
            suffixes.iter().any(|s| *sample == format!("{name}{s}")),
            "{sample} in a {}",
            family.kind
        );
    }
    if family.kind != "histogram" {
        return;
    }
    let named = |suffix: &'static str| {
        family
            .samples
            .iter()
            .filter(move |s| s.0 == format!("{name}{suffix}"))
    };
    let bound = |text: &str| {
        if text == "+Inf" {
            f64::INFINITY
        } else {
            text.parse().unwrap()
        }
    };
    let buckets: Vec<(f64, f64)> = named("_bucket")
        .map(|(_, l, v)| (bound(&l["le"]), *v))
        .collect();
    assert!(
        buckets
            .windows(2)
            .all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1),
        "{name}: {buckets:?}"
    );
    let (last, count) = (buckets.last().unwrap(), named("_count").next().unwrap().2);
    assert_eq!(*last, (f64::INFINITY, count), "{name}");
    assert!(named("_sum").next().unwrap().2 >= 0.0);
}

#[test]
fn the_numbers_are_open_metrics() {
    let node = shared();
    let before = parse(&node.get("/metrics").expect(200).text());
    let url = receiver().on("/v-metrics", |n| {
        Reply::Status(if n == 0 { 500 } else { 200 })
    });
    let retry = json!({ "retry": { "backoff": { "fixed": "10ms" } } });
    node.submit(&with(task("v-metrics", "a", &url), retry));
    node.wait_stage("v-metrics", "a", "done");
    let answer = node.get("/metrics").expect(200);
    let kind = answer.header("content-type").unwrap();
    assert!(
        kind.starts_with("application/openmetrics-text; version=1.0.0"),
        "{kind}"
    );
    let after = parse(&answer.text());
    for (name, kind) in [
        ("horolog_lateness_seconds", "histogram"),
        ("horolog_commit_seconds", "histogram"),
        ("horolog_fold_wait_seconds", "histogram"),
        ("horolog_fold_seconds", "histogram"),
        ("horolog_tasks", "gauge"),
        ("horolog_attempts", "counter"),
        ("horolog_apply_index", "gauge"),
        ("horolog_checkpoint_index", "gauge"),
        ("horolog_checkpoint_age_seconds", "gauge"),
        ("horolog_log_bytes", "gauge"),
        ("horolog_log_entries", "gauge"),
    ] {
        assert_eq!(
            after.get(name).map(|f| f.kind.as_str()),
            Some(kind),
            "{name}"
        );
    }
    let sum = |families: &BTreeMap<String, Family>, family: &str, suffix: &str| -> f64 {
        let name = format!("{family}{suffix}");
        families[family]
            .samples
            .iter()
            .filter(|s| s.0 == name)
            .map(|s| s.2)
            .sum()
    };
    let grown =
        |family: &str, suffix: &str| sum(&after, family, suffix) - sum(&before, family, suffix);
    assert!(sum(&after, "horolog_log_bytes", "") > 0.0);
    assert!(grown("horolog_attempts", "_total") >= 2.0);
    assert!(grown("horolog_lateness_seconds", "_count") >= 2.0);
    assert!(grown("horolog_commit_seconds", "_count") >= 2.0);
    assert!(grown("horolog_fold_wait_seconds", "_count") >= 2.0);
    assert!(grown("horolog_fold_seconds", "_count") >= 2.0);
    assert!(grown("horolog_apply_index", "") >= 2.0);
    let stages: Vec<&str> = after["horolog_tasks"]
        .samples
        .iter()
        .map(|s| s.1["stage"].as_str())
        .collect();
    assert_eq!(
        stages,
        [
            "scheduled",
            "triggered",
            "running",
            "accepted",
            "retrying",
            "done",
            "dead",
            "cancelled"
        ]
    );
    assert!(
        after["horolog_attempts"]
            .samples
            .iter()
            .all(|s| s.1.contains_key("result"))
    );
}
