//! The files for operators name only metrics that a node shows.

use std::collections::BTreeSet;

use super::node::shared;

const FILES: [(&str, &str); 2] = [
    ("alerts.yaml", include_str!("../../deploy/alerts.yaml")),
    (
        "grafana/horolog.json",
        include_str!("../../deploy/grafana/horolog.json"),
    ),
];

fn metrics_in(text: &str) -> BTreeSet<&str> {
    let names = text.match_indices("horolog_").map(|(at, _)| {
        let rest = &text[at..];
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
        rest[..end.unwrap_or(rest.len())].trim_end_matches("_bucket")
    });
    names.collect()
}

#[test]
fn alerts_and_dashboard_name_metrics_that_are_there() {
    let shown = shared().get("/metrics").expect(200).text();
    let mut shown = metrics_in(&shown);
    // Only a node with TLS shows it: `tests/tls.rs` sees that it does.
    shown.insert("horolog_peer_certificate_end_seconds");
    for (file, text) in FILES {
        let named = metrics_in(text);
        assert!(named.len() >= 5, "{file}: {named:?}");
        let unknown: Vec<_> = named.difference(&shown).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
}

#[test]
fn the_dashboard_is_json_with_a_question_in_each_panel() {
    let dashboard: serde_json::Value = serde_json::from_str(FILES[1].1).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        let asks = panel["targets"][0]["expr"].as_str();
        assert!(asks.is_some_and(|q| q.contains("horolog_")), "{panel}");
    }
}
