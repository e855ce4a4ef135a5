//! The report: `verdicts.json`, and one page that needs nothing but a browser.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use crate::plan::Plan;
use crate::record;
use crate::run::Outcome;
use crate::sums;

const WIDTH: f64 = 1_200.0;
/// A row of the timeline of faults.
const ROW: f64 = 16.0;
const PLOT: f64 = 260.0;
/// Points of the plot; more are thinned out, the latest are kept.
const POINTS_MAX: usize = 6_000;

/// Writes both, and a line in the ledger of all runs.
pub fn write(outcome: &Outcome, plan: &Plan, skipped: &BTreeMap<String, String>) {
    let (dir, happened) = (&outcome.dir, &outcome.happened);
    let verdicts: Vec<Value> = outcome
        .verdicts
        .iter()
        .map(|v| {
            json!({
                "name": v.name, "ok": v.ok, "undecided": v.undecided, "checked": v.checked,
                "text": v.text,
            })
        })
        .collect();
    let history = record::read(&dir.join("history.ndjson"));
    let sink = record::read(&dir.join("sink.ndjson"));
    let faults = record::read(&dir.join("faults.ndjson"));
    let all = json!({
        "seed": plan.options.seed, "ok": outcome.is_ok(), "repeat": outcome.repeat,
        "verdicts": verdicts, "happened": happened, "skipped": skipped,
        "operations": operations(&history), "deliveries": sink.len(),
    });
    fs::write(dir.join("verdicts.json"), format!("{all:#}\n")).unwrap();
    // What a broken build does says nothing about the product.
    if plan.options.bug.is_none() {
        enter(outcome, plan, &history, skipped);
    }

    let mut page = String::from(HEAD);
    let title = if outcome.is_ok() { "held" } else { "FAILED" };
    let seed = plan.options.seed;
    let _ = write!(
        page,
        "<h1>Seed {seed}: {title}</h1><p>Again: <code>{}</code></p>",
        escape(&outcome.repeat)
    );
    page.push_str("<h2>Verdicts</h2><table><tr><th>check<th><th>looked at<th>undecided<th>");
    for v in &outcome.verdicts {
        let (class, word) = if v.ok {
            ("ok", "ok")
        } else {
            ("bad", "failed")
        };
        let _ = write!(
            page,
            "<tr><td>{}<td class={class}>{word}<td>{}<td>{}<td><pre>{}</pre>",
            v.name,
            v.checked,
            v.undecided,
            escape(&v.text)
        );
    }
    page.push_str("</table><h2>Faults and lateness</h2>");
    page.push_str(&timeline(&faults, &sink));
    page.push_str(&lateness(&sink));
    page.push_str("<h2>Operations</h2><table><tr><th>kind<th>ok<th>fail<th>unknown");
    for (f, ends) in operations(&history) {
        let count = |end: &str| ends.get(end).copied().unwrap_or(0);
        let _ = write!(
            page,
            "<tr><td>{f}<td>{}<td>{}<td>{}",
            count("ok"),
            count("fail"),
            count("unknown")
        );
    }
    page.push_str("</table><h2>Faults</h2><table><tr><th>fault<th>times");
    for (name, times) in happened {
        let _ = write!(page, "<tr><td>{name}<td>{times}");
    }
    for (name, why) in skipped {
        let _ = write!(page, "<tr><td>{name}<td>skipped: {}", escape(why));
    }
    let _ = write!(
        page,
        "</table><h2>Plan</h2><pre>{}</pre>",
        escape(&format!("{:#}", plan.shown()))
    );
    fs::write(dir.join("report.html"), page).unwrap();
}

const HEAD: &str = "<!doctype html><meta charset=utf-8><title>jepsen-style run</title><style>\
body{font:14px/1.4 system-ui,sans-serif;margin:2em;max-width:1250px}table{border-collapse:collapse}\
td,th{border:1px solid #ccc;padding:2px 8px;text-align:left;vertical-align:top}pre{margin:0;\
white-space:pre-wrap}.ok{background:#cfc}.bad{background:#fbb}svg{display:block;background:#fafafa}\
text{font-size:10px}</style>";

/// What the run adds to what was ever tried.
fn enter(outcome: &Outcome, plan: &Plan, history: &[Value], skipped: &BTreeMap<String, String>) {
    let t = |op: Option<&Value>| op.and_then(|op| op["t"].as_u64()).unwrap_or(0);
    let undecided: u64 = outcome.verdicts.iter().map(|v| v.undecided).sum();
    let checked: u64 = outcome.verdicts.iter().map(|v| v.checked).sum();
    let wrong = outcome.verdicts.iter().filter(|v| !v.ok);
    let violations: Vec<&str> = wrong.map(|v| v.name).collect();
    let skipped: Vec<&String> = skipped.keys().collect();
    sums::enter(&json!({
        "seed": plan.options.seed, "options": plan.options.shown(), "ok": outcome.is_ok(),
        "commit": sums::tested(), "checkout": sums::checkout(), "began_us": t(history.first()),
        "seconds": (t(history.last()) - t(history.first())) / 1_000_000,
        "checked": checked, "undecided": undecided, "violations": violations,
        "faults": outcome.happened, "skipped": skipped, "operations": operations(history),
    }));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// How each kind of operation ended.
fn operations(history: &[Value]) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut counts: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for op in history.iter().filter(|op| op["type"] != "invoke") {
        let word = |name: &str| op[name].as_str().unwrap_or("?").to_owned();
        *counts
            .entry(word("f"))
            .or_default()
            .entry(word("type"))
            .or_default() += 1;
    }
    counts
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or(0.0)
}

/// Bars of faults over dots of deliveries: across the run, and down by lateness on a log scale.
fn timeline(faults: &[Value], sink: &[Value]) -> String {
    let times = || faults.iter().chain(sink).map(|line| number(line, "t"));
    let from = times().fold(f64::INFINITY, f64::min);
    let to = times().fold(from + 1.0, f64::max);
    let x = |t: f64| (t - from) / (to - from) * WIDTH;
    let mut families: Vec<&str> = faults.iter().filter_map(|f| f["what"].as_str()).collect();
    families.sort_unstable();
    families.dedup();
    let top = families.len() as f64 * ROW;
    let mut svg = format!("<svg width={WIDTH} height={}>", top + PLOT + 20.0);
    for (row, family) in families.iter().enumerate() {
        let y = row as f64 * ROW;
        let mut begun: Option<&Value> = None;
        for fault in faults.iter().filter(|fault| fault["what"] == *family) {
            match (fault["phase"].as_str(), begun) {
                (Some("end"), Some(begin)) => {
                    let (a, b) = (x(number(begin, "t")), x(number(fault, "t")));
                    let title = escape(&format!("{} {}", begin["nodes"], begin["detail"]));
                    let _ = write!(
                        svg,
                        "<rect x={a:.1} y={:.1} width={:.1} height={:.1} fill=#c66><title>{title}</title></rect>\
                         <rect x={a:.1} y={top} width={:.1} height={PLOT} fill=#c66 opacity=.08 />",
                        y + 2.0,
                        (b - a).max(1.0),
                        ROW - 4.0,
                        (b - a).max(1.0)
                    );
                    begun = None;
                }
                _ => begun = Some(fault),
            }
        }
        let _ = write!(svg, "<text x=2 y={:.1}>{family}</text>", y + 12.0);
    }
    let y = |late_ms: f64| top + PLOT - ((late_ms.max(1.0)).log10() / 5.0 * PLOT).min(PLOT);
    for (label, ms) in [
        ("1 ms", 1.0),
        ("10 ms", 10.0),
        ("100 ms", 100.0),
        ("1 s", 1e3),
        ("10 s", 1e4),
    ] {
        let _ = write!(
            svg,
            "<line x1=0 x2={WIDTH} y1={0:.1} y2={0:.1} stroke=#ddd /><text x=2 y={0:.1}>{label}</text>",
            y(ms)
        );
    }
    let step = sink.len().div_ceil(POINTS_MAX).max(1);
    for (n, delivery) in sink.iter().enumerate() {
        let late = number(delivery, "t") / 1_000.0 - number(delivery, "due");
        if n % step == 0 || late > 1_000.0 {
            let colour = if number(delivery, "attempt") > 1.0 {
                "#a50"
            } else {
                "#05a"
            };
            let _ = write!(
                svg,
                "<circle cx={:.1} cy={:.1} r=1.5 fill={colour} />",
                x(number(delivery, "t")),
                y(late)
            );
        }
    }
    svg.push_str("</svg><p>Down: lateness (blue: first attempts, brown: later ones, which wait for their back-off). Across: time.</p>");
    svg
}

/// Percentiles of first attempts.
fn lateness(sink: &[Value]) -> String {
    let first = sink.iter().filter(|delivery| delivery["attempt"] == 1);
    let mut late: Vec<f64> = first
        .map(|d| number(d, "t") / 1_000.0 - number(d, "due"))
        .collect();
    late.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        late.get((late.len().max(1) - 1) * percent / 100)
            .copied()
            .unwrap_or(0.0)
    };
    format!(
        "<p>{} first attempts; lateness p50 {:.1}, p90 {:.1}, p99 {:.1}, most {:.1} ms.</p>",
        late.len(),
        at(50),
        at(90),
        at(99),
        at(100)
    )
}
