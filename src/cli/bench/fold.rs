//! The floors A and W: the fold in memory without a log, and the log without a fold.

use anyhow::{Context as _, Result};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;
use tokio::time::Instant;

use crate::log::{EngineKind, Entry, Kind, LogStore, Position};
use crate::model::limits::{BATCH_EVENTS_MAX, SHARDS_DEFAULT, TRIGGER_MAX};
use crate::model::{
    Assign, AttemptEnd, Batch, Body, Change, Done, Event, Http, Key, Shard, Spec, Submit, Target,
    Time, Trigger, When,
};
use crate::state::{MemoryStore, State};

const START: Time = Time(1_790_000_000_000);
/// Tasks are due within this after the start, in disorder.
const SPREAD_MS: u64 = 60_000;
/// Lives of this many tasks are folded at once.
const LIVES: u64 = 100_000;
/// Entries that wait for the disk at once, as in replication.
const UNDER_WAY: usize = 4;

/// Events a second.
pub struct Folds {
    /// A stream of new tasks.
    pub submits: f64,
    /// Submit, a share of a trigger, done.
    pub lives: f64,
}

/// Measures A.
///
/// # Errors
/// When the fold does not come to its end.
pub fn measure_fold(span: Duration) -> Result<Folds> {
    let (mut submits, mut lives) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    while begin.elapsed() < span {
        let batches = batches(0, LIVES);
        let mut desk = Desk::new()?;
        let start = Instant::now();
        for events in batches {
            desk.fold(START, events)?;
        }
        submits.push(LIVES as f64 / start.elapsed().as_secs_f64());
        desk.live_out()?;
        lives.push(3.0 * LIVES as f64 / start.elapsed().as_secs_f64());
    }
    let median = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    Ok(Folds {
        submits: median(submits),
        lives: median(lives),
    })
}

/// Measures W: submits a second, in full entries, durable.
///
/// # Errors
/// When the log fails.
pub fn measure_log(dir: &Path, span: Duration) -> Result<f64> {
    let log = LogStore::open(dir, EngineKind::default())?;
    let events = batches(0, BATCH_EVENTS_MAX as u64).remove(0);
    let count = events.len();
    let batch = Batch {
        stamp: START,
        now: START,
        events,
    };
    let (durable, wait) = mpsc::channel();
    let begin = Instant::now();
    let (mut index, mut under_way, mut written) = (0, 0, 0);
    while begin.elapsed() < span || under_way > 0 {
        if begin.elapsed() < span && under_way < UNDER_WAY {
            let at = Position {
                term: 1,
                node: 1,
                index,
            };
            let payload = batch.encode().into();
            let kind = Kind::Batch;
            let durable = durable.clone();
            log.append(
                vec![Entry { at, kind, payload }],
                Box::new(move |result| drop(durable.send(result))),
            );
            index += 1;
            under_way += 1;
        } else {
            wait.recv().context("the log went away")??;
            under_way -= 1;
            written += count;
        }
    }
    let rate = written as f64 / begin.elapsed().as_secs_f64();
    log.close();
    Ok(rate)
}

/// A state and its log index.
struct Desk {
    state: State,
    index: u64,
}

impl Desk {
    fn new() -> Result<Desk> {
        let mut desk = Desk {
            state: State::new(Box::new(MemoryStore::default())),
            index: 0,
        };
        let assign = Assign {
            shards: (0..SHARDS_DEFAULT).map(Shard).collect(),
            node: 1,
            boot: 1,
            cause: "bench".into(),
            kept: Vec::new(),
        };
        desk.fold(START, vec![assign.into()])?;
        Ok(desk)
    }

    fn fold(&mut self, now: Time, events: Vec<Event>) -> Result<Vec<Change>> {
        self.index += 1;
        let batch = Batch {
            stamp: now,
            now,
            events,
        };
        let mut changes = Vec::new();
        self.state.prepare(&batch)?;
        std::hint::black_box(self.state.apply(self.index, batch, &mut changes));
        Ok(changes)
    }

    /// Triggers everything as time passes, and answers every attempt at once.
    fn live_out(&mut self) -> Result<()> {
        for step in 1..=SPREAD_MS / 100 {
            let until = Time(START.0 + step * 100);
            loop {
                let max = TRIGGER_MAX;
                let changes = self.fold(until, vec![Trigger { until, max }.into()])?;
                let done: Vec<Event> = changes.iter().filter_map(|c| answer(c, until)).collect();
                for events in done.chunks(BATCH_EVENTS_MAX) {
                    self.fold(until, events.to_vec())?;
                }
                if changes.len() < max as usize {
                    break;
                }
            }
        }
        Ok(())
    }
}

fn answer(change: &Change, now: Time) -> Option<Event> {
    let Change::Triggered { seq, fence, at, .. } = *change else {
        return None;
    };
    let end = AttemptEnd {
        started: at,
        ended: now,
        status: 200,
        ..AttemptEnd::default()
    };
    let node = 1;
    let done = Done {
        seq,
        fence,
        node,
        end,
    };
    Some(done.into())
}

/// Submits of tasks as the other measurements send them, in full batches.
fn batches(first: u64, count: u64) -> Vec<Vec<Event>> {
    let spec = Spec {
        target: Target::Http(Http {
            url: "http://127.0.0.1:9/".into(),
            body: Body::Json(format!("{{\"fill\":\"{}\"}}", "x".repeat(189))),
            ..Http::default()
        }),
        retry: None,
        accept_timeout: None,
        expires_at: None,
        labels: Default::default(),
        placement: None,
        next: Default::default(),
    };
    let spec = spec.encode();
    let submit = |n: u64| {
        let ms = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (SPREAD_MS - 1);
        let when = When::At(Time(START.0 + 1 + ms));
        let key = Key {
            app: "bench".into(),
            id: format!("t-{n:010}-{}", START.0).into(),
        };
        Event::from(Submit {
            key,
            when,
            digest: Spec::digest(&spec, when),
            spec: spec.clone(),
            by: "bench".into(),
        })
    };
    let numbers: Vec<u64> = (first..first + count).collect();
    let chunks = numbers.chunks(BATCH_EVENTS_MAX);
    chunks
        .map(|chunk| chunk.iter().map(|n| submit(*n)).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Stage;

    #[test]
    fn every_life_comes_to_its_end() {
        let mut desk = Desk::new().unwrap();
        for events in batches(0, 3_000) {
            desk.fold(START, events).unwrap();
        }
        desk.live_out().unwrap();
        assert_eq!(desk.state.stats(None)[Stage::Done as usize], 3_000);
    }
}
