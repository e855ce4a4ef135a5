//! One log out of those of all nodes, and the model at its end.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::Findings;
use super::model::{Model, Place};
use super::run::{Line, Run};
use super::words::instant;

/// What the log comes to.
#[derive(Default)]
pub struct Folded {
    pub model: Model,
    /// The last committed index that was folded; 0 if the log could not be folded.
    pub last: u64,
    /// The leader's clock in the last entry, in milliseconds.
    pub last_now: u64,
    /// Counts by stage at each index that a node spoke of.
    pub counts: BTreeMap<u64, BTreeMap<&'static str, u64>>,
    /// What is wrong with the logs as such.
    pub found: Findings,
}

/// Compares the logs of all nodes where they overlap, puts them together, and folds the result.
pub fn fold(run: &Run) -> Folded {
    let mut folded = Folded::default();
    let committed = committed(run);
    let entries = merged(run, committed, &mut folded.found);
    let first = entries.keys().next().copied().unwrap_or(0);
    let has_batches = |lines: &&[Line]| lines.iter().any(|line| line.text.contains("\"event\""));
    if first > 1 || entries.is_empty() {
        folded.found.undecided(|| match entries.is_empty() {
            true => "no log was exported".into(),
            false => format!("the logs begin at {first}: what came before was purged"),
        });
        return folded;
    }
    let wanted: Vec<u64> = run.status.values().filter_map(stats_index).collect();
    let mut before = (first.saturating_sub(1), 0, 0);
    for (index, lines) in entries {
        let (last, term, stamp) = before;
        let found = &mut folded.found;
        found.check(index == last + 1 || index == first, || {
            format!("I-26: the logs have a hole before index {index}")
        });
        found.check(lines[0].term >= term, || {
            format!("I-26: the term falls at index {index}")
        });
        let new_stamp = match has_batches(&lines) {
            true => entry(&mut folded, index, lines),
            false => stamp,
        };
        folded.found.check(new_stamp >= stamp, || {
            format!("I-10: the stamp at index {index} goes back from {stamp} to {new_stamp}")
        });
        before = (index, lines[0].term, new_stamp);
        folded.last = index;
        for at in wanted.iter().filter(|at| **at == index) {
            folded.counts.insert(*at, folded.model.counts(None));
        }
    }
    folded
}

/// Folds one entry; returns its stamp.
fn entry(folded: &mut Folded, index: u64, lines: &[Line]) -> u64 {
    let mut stamp = 0;
    for line in lines {
        // It was read before, so it can be read again.
        let value: Value = serde_json::from_str(&line.text).unwrap_or_default();
        let (at, now) = (instant(&value["stamp"]), instant(&value["now"]));
        let (Some(at), Some(now)) = (at, now) else {
            folded
                .found
                .wrong(format!("index {index}: an event without stamp or now"));
            continue;
        };
        stamp = at;
        folded.last_now = now;
        let kind = value["kind"].as_str().unwrap_or_default();
        folded
            .model
            .fold(kind, Place { index, now }, &value["event"]);
    }
    stamp
}

fn stats_index(status: &Value) -> Option<u64> {
    status["stats"]["index"].as_u64()
}

/// Up to here a node has said that the log is decided; nothing, if none has said anything.
fn committed(run: &Run) -> u64 {
    let nodes = run
        .status
        .values()
        .filter_map(|status| status["cluster"]["nodes"].as_array());
    let applied = nodes.flatten().filter_map(|n| n["last_applied"].as_u64());
    let counted = run.status.values().filter_map(stats_index);
    applied.chain(counted).max().unwrap_or(0)
}

/// The entries of all logs. Where two have the same decided index, or the same index and term,
/// they must have the same entry. What comes after the last index of which a node said that it is
/// decided counts as far as more than half of the nodes have it.
fn merged<'a>(run: &'a Run, committed: u64, found: &mut Findings) -> BTreeMap<u64, &'a [Line]> {
    let mut variants: BTreeMap<u64, Vec<Variant<'a>>> = BTreeMap::new();
    for (node, log) in &run.logs {
        for lines in log.chunk_by(|a, b| a.index == b.index) {
            let all = variants.entry(lines[0].index).or_default();
            match all.iter_mut().find(|variant| variant.is(lines)) {
                Some(variant) => variant.nodes.push(*node),
                None => all.push(Variant {
                    lines,
                    nodes: vec![*node],
                }),
            }
        }
    }
    let mut merged = BTreeMap::new();
    for (index, all) in variants {
        let terms: BTreeSet<u64> = all.iter().map(|v| v.lines[0].term).collect();
        let same_term = terms.len() < all.len();
        let must = index <= committed || same_term;
        found.check(all.len() == 1 || !must, || {
            let told = all
                .iter()
                .map(|v| format!("nodes {:?}: {}", v.nodes, v.lines[0].text));
            let told: Vec<String> = told.collect();
            format!(
                "I-26: different entries at index {index}: {}",
                told.join(" / ")
            )
        });
        let most = all.into_iter().max_by_key(|variant| variant.nodes.len());
        let Some(most) = most.filter(|v| index <= committed || v.nodes.len() * 2 > run.logs.len())
        else {
            break;
        };
        merged.insert(index, most.lines);
    }
    merged
}

/// An entry, and who has it.
struct Variant<'a> {
    lines: &'a [Line],
    nodes: Vec<u64>,
}

impl Variant<'_> {
    fn is(&self, lines: &[Line]) -> bool {
        self.lines
            .iter()
            .map(|l| &l.text)
            .eq(lines.iter().map(|l| &l.text))
    }
}
