//! How late attempts begin by the machine's clock. Figures, not a verdict, on shared cores; run
//! with `--ignored --nocapture`.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::rig::*;
use crate::executor::*;
use crate::model::*;

struct Ledger {
    clock: Arc<Real>,
    late_us: Arc<Mutex<Vec<u64>>>,
}

impl Delivery for Ledger {
    fn deliver(&self, call: Call) -> BoxFuture<'static, Delivered> {
        let late = self.clock.wall_us() as i64 - (call.due.0 * 1000) as i64;
        self.late_us
            .lock()
            .unwrap()
            .push(u64::try_from(late).expect("never early"));
        Box::pin(async { Delivered::status(200) })
    }
}

/// `rate` starts a second for `seconds`, each told 50 ms ahead.
async fn measure(rate: u64, seconds: u64) -> Vec<u64> {
    let clock = Arc::new(Real(Instant::now()));
    let log = Arc::new(Log::default());
    let late_us = Arc::new(Mutex::new(Vec::new()));
    let ledger = Ledger {
        clock: clock.clone(),
        late_us: late_us.clone(),
    };
    let (sender, mut outcomes) = mpsc::channel(1024);
    let executor = Executor::start(
        settings(),
        clock.clone(),
        log.source(),
        Arc::new(ledger),
        sender,
    );
    executor.renew_lease(Duration::from_secs(3_600));
    let count = rate * seconds;
    let (feeder, fed) = (executor.clone(), log.clone());
    let begin = clock.wall().plus(Span(100));
    let feed = tokio::spawn(async move {
        let mut seq = 0;
        while seq < count {
            let now = clock.wall();
            let mut changes = Vec::new();
            while seq < count && begin.plus(Span(seq * 1000 / rate)) < now.plus(Span(50)) {
                let at = begin.plus(Span(seq * 1000 / rate));
                changes.push(fed.trigger(seq, fence(1, 1), at, &spec("http://a/")));
                seq += 1;
            }
            feeder.changed(&changes);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    for _ in 0..count {
        let Some(Event::Done(done)) = outcomes.recv().await else {
            panic!("no end")
        };
        executor.changed(&[log.close(done.seq, done.fence)]);
    }
    feed.await.unwrap();
    executor.stop(THREADS).await;
    let mut late = late_us.lock().unwrap().clone();
    late.sort_unstable();
    late
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn lateness_of_starts() {
    for (rate, seconds) in [(100, 5), (2_000, 5), (20_000, 3)] {
        let late = measure(rate, seconds).await;
        let at = |q: f64| late[((late.len() - 1) as f64 * q) as usize];
        println!(
            "{rate}/s: p50 {} µs, p90 {} µs, p99 {} µs, max {} µs",
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0)
        );
    }
}
