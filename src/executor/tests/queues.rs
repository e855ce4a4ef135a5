//! Targets do not disturb each other, and what does not fit into memory is not lost.

use std::collections::HashSet;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::rig::*;
use crate::executor::*;
use crate::model::*;
use crate::state::{Open, Release};

fn small(per_target: usize, total: usize, held_max: usize) -> Settings {
    Settings {
        per_target,
        total,
        held_max,
        ..settings()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_never_answers_delays_nobody_else() {
    let mut rig = Rig::new(small(2, 16, 1 << 10));
    for seq in 0..100 {
        rig.trigger(seq, START, "http://slow/");
    }
    for seq in 100..200 {
        rig.trigger(seq, START, "http://quick/");
    }
    for _ in 0..100 {
        assert!(matches!(rig.outcome().await, Event::Done(done) if done.seq.0 >= 100));
    }
    until(|| rig.executor.in_flight() == 2).await;
    assert_eq!(rig.executor.metrics().queued, 98);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_to_one_target_and_in_all_are_bounded() {
    let mut rig = Rig::new(small(3, 7, 1 << 10));
    for seq in 0..60 {
        rig.trigger(seq, START, &format!("http://slow:{}/", 1 + seq % 4));
    }
    until(|| rig.script.open.load(SeqCst) == 7).await;
    let mut begun = [0; 4];
    rig.script
        .begun()
        .iter()
        .for_each(|seq| begun[(seq % 4) as usize] += 1);
    assert!(begun.iter().all(|n| *n <= 3), "{begun:?}");
    rig.script.gate.add_permits(60);
    for _ in 0..60 {
        rig.outcome().await;
    }
    assert_eq!(rig.script.most.load(SeqCst), 7);
    until(|| rig.executor.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_target_has_its_own_bound() {
    let mut rig = Rig::new(small(3, 100, 1 << 10));
    for seq in 0..30 {
        rig.trigger(seq, START, "http://slow/");
    }
    until(|| rig.script.open.load(SeqCst) == 3).await;
    rig.settle(90).await;
    rig.script.gate.add_permits(30);
    for _ in 0..31 {
        rig.outcome().await;
    }
    assert!(
        rig.script.most.load(SeqCst) <= 4,
        "three, and the settling one"
    );
}

/// Every attempt is called exactly once, although memory holds a tenth of them.
async fn overflow(urls: &[&str], ahead: u64) {
    let mut rig = Rig::new(small(4, 8, 100));
    let changes: Vec<Change> = (0..1_000)
        .map(|seq| {
            let url = urls[seq as usize % urls.len()];
            let at = START.plus(Span(ahead + seq * 31 % 50));
            rig.log.trigger(seq, fence(1, 1), at, &spec(url))
        })
        .collect();
    changes
        .chunks(100)
        .for_each(|chunk| rig.executor.changed(chunk));
    assert!(rig.executor.metrics().held <= 100);
    rig.wall(START.plus(Span(ahead + 50)));
    rig.script.gate.add_permits(1_000);
    let mut seen = HashSet::new();
    for _ in 0..1_000 {
        let Event::Done(done) = rig.outcome().await else {
            panic!("no end")
        };
        assert!(seen.insert(done.seq), "{:?} came twice", done.seq);
        let metrics = rig.executor.metrics();
        assert!(metrics.held + metrics.queued <= 110, "{metrics:?}");
    }
    rig.settle(5_000).await;
    assert_eq!(rig.script.begun().len(), 1_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_memory_holds_is_read_again() {
    overflow(&["http://slow/"], 0).await;
    overflow(&["http://slow/"], 200).await;
    overflow(&["http://slow/", "http://a/", "http://b/"], 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_target_cannot_fill_the_memory_of_others() {
    let mut rig = Rig::new(small(4, 8, 100));
    for seq in 0..500 {
        rig.trigger(seq, START, "http://slow/");
    }
    for seq in 500..700 {
        rig.trigger(seq, START, "http://quick/");
    }
    for _ in 0..200 {
        assert!(matches!(rig.outcome().await, Event::Done(done) if done.seq.0 >= 500));
    }
    rig.script.gate.add_permits(500);
    for _ in 0..500 {
        rig.outcome().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_is_kept_until_the_outcome_is_taken() {
    let mut rig = Rig::new(small(256, 8, 1 << 10));
    for seq in 0..200 {
        rig.trigger(seq, START, &format!("http://quick:{}/", 1 + seq % 50));
    }
    // The channel takes 64; eight more wait with their permits; nothing else begins.
    until(|| rig.script.begun().len() == 72).await;
    until(|| rig.executor.in_flight() == 8).await;
    assert!((rig.executor.load() - 1.0).abs() < f64::EPSILON);
    for _ in 0..200 {
        rig.outcome().await;
    }
    until(|| rig.executor.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_waits_for_what_is_in_flight() {
    let mut rig = Rig::new(settings());
    rig.trigger(1, START, "http://slow/");
    rig.begun(vec![1]).await;
    let executor = rig.executor.clone();
    let stopping = tokio::spawn(async move { executor.stop(THREADS).await });
    until(|| rig.executor.inner.lock().stopping).await;
    rig.trigger(2, START, "http://a/");
    rig.script.gate.add_permits(1);
    stopping.await.unwrap();
    assert!(matches!(rig.outcome().await, Event::Done(done) if done.seq == Seq(1)));
    assert_eq!(rig.script.begun(), [1]);
    assert_eq!(rig.executor.in_flight(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_gives_up_after_the_grace() {
    let rig = Rig::new(settings());
    rig.trigger(1, START, "http://slow/");
    rig.begun(vec![1]).await;
    let stopping = rig.executor.stop(Duration::from_millis(20));
    tokio::time::timeout(THREADS, stopping)
        .await
        .expect("it ends");
    assert_eq!(rig.executor.in_flight(), 0);
}

/// A node that goes down without stopping its executor first must not recurse through its queue.
#[test]
fn a_runtime_that_goes_away_takes_the_executor_along() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let rig = first.block_on(async { Rig::new(small(1, 1, 1 << 18)) });
    let changes: Vec<Change> = (0..50_000)
        .map(|seq| {
            rig.log
                .trigger(seq, fence(1, 1), START, &spec("http://slow/"))
        })
        .collect();
    rig.executor.changed(&changes);
    second.block_on(until(|| rig.executor.metrics().queued == 49_999));
    drop(first);
    second.block_on(until(|| rig.executor.inner.lock().stopping));
    second.block_on(rig.executor.stop(THREADS));
}

/// Which of these attempts the executor knows.
fn open(seq: u64, fence: Fence) -> Open {
    Open {
        at: START,
        seq: Seq(seq),
        fence,
        hash: seq,
    }
}

fn known(rig: &Rig, seqs: std::ops::Range<u64>) -> Vec<u64> {
    let asked: Vec<_> = seqs.clone().map(|seq| open(seq, fence(1, 1))).collect();
    let known = rig.executor.knows(&asked);
    let known = seqs.zip(known).filter(|(_, known)| *known);
    known.map(|(seq, _)| seq).collect()
}

/// The watchdog must leave alone what waits for its turn, however long that takes.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_or_runs_is_known_and_what_nobody_brought_is_not() {
    let rig = Rig::new(small(2, 16, 1 << 10));
    for seq in 0..50 {
        rig.trigger(seq, START, "http://slow/");
    }
    until(|| rig.executor.metrics().queued == 48).await;
    rig.clock.pass(Duration::from_secs(3_600));
    assert_eq!(known(&rig, 0..60), Vec::from_iter(0..50));
    let other = [fence(1, 2), fence(2, 1)].map(|fence| open(3, fence));
    assert_eq!(
        rig.executor.knows(&other),
        [false, false],
        "another attempt"
    );
    rig.close(7);
    assert!(!known(&rig, 0..60).contains(&7), "the log closed it");
}

/// So must it what did not fit into memory, also while that is being read back.
#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_fit_into_memory_is_known() {
    let mut rig = Rig::new(small(1, 8, 40));
    for seq in 0..400 {
        rig.trigger(seq, START, "http://slow/");
    }
    for _ in 0..400 {
        let open = rig.log.open_seqs();
        let lost: Vec<u64> = {
            let known = known(&rig, 0..400);
            open.into_iter()
                .filter(|seq| !known.contains(seq))
                .collect()
        };
        // What ended between the two looks is unknown, and closed.
        let open = rig.log.open_seqs();
        assert!(lost.iter().all(|seq| !open.contains(seq)), "{lost:?}");
        rig.script.gate.add_permits(1);
        rig.outcome().await;
    }
}

/// What one target holds up hides nothing that is lost elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_is_found_while_other_work_does_not_fit() {
    let rig = Rig::new(small(1, 8, 40));
    for seq in 0..400 {
        rig.trigger(seq, START, "http://slow/");
    }
    // All has been read once, and what did not fit was dropped again.
    let lost = open(900, fence(1, 1));
    until(|| {
        let core = rig.executor.inner.lock();
        core.held() == 0 && !core.knows(&lost, rig.clock.steady())
    })
    .await;
    // Nobody brings this one.
    rig.log
        .trigger(900, fence(1, 1), START, &spec("http://quick/"));
    until(|| known(&rig, 900..901).is_empty()).await;
    assert_eq!(known(&rig, 0..400), Vec::from_iter(0..400));
}

/// An outcome that the log has not heard of after a while never will be.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_is_on_its_way_only_for_a_while() {
    let mut rig = Rig::new(small(2, 16, 1 << 10));
    rig.trigger(1, START, "http://quick/");
    let dropped = rig.outcomes.recv().await.unwrap();
    assert!(matches!(dropped, Event::Done(_)));
    until(|| rig.executor.in_flight() == 0).await;
    assert_eq!(known(&rig, 0..5), [1], "it may be on its way");
    rig.clock.pass(limits::OUTCOME_GRACE.std());
    assert!(known(&rig, 0..5).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_let_go_of_is_left_to_the_leader() {
    let rig = Rig::unleased(settings());
    rig.trigger(1, START, "http://quick/");
    until(|| rig.executor.metrics().queued == 1).await;
    assert_eq!(known(&rig, 0..5), [1], "it waits here");
    rig.executor.release(&Release {
        term: 1,
        total: 1,
        shards: vec![Shard(0)],
        epoch: Epoch(1),
    });
    rig.renew();
    until(|| rig.executor.metrics().queued == 0).await;
    let all = [0, 1, 2, 3, 4];
    assert_eq!(known(&rig, 0..5), all, "whoever asked gives the shard away");
    assert!(rig.script.begun().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_target_leaves_places_for_the_others() {
    let mut rig = Rig::new(small(64, 64, 1 << 12));
    for seq in 0..500 {
        rig.trigger(seq, START, "http://slow/");
    }
    until(|| rig.executor.in_flight() >= 42).await;
    for seq in 500..600 {
        rig.trigger(seq, START, "http://quick/");
    }
    for _ in 0..100 {
        assert!(matches!(rig.outcome().await, Event::Done(done) if done.seq.0 >= 500));
    }
    until(|| rig.executor.in_flight() <= 43).await;
}

fn pause(rig: &Rig, apps: &[&str]) {
    let apps = apps.iter().map(|app| (*app).into()).collect();
    let apps = std::sync::Arc::new(apps);
    rig.executor.changed(&[Change::Paused { apps }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_application_waits_outside_of_memory_and_goes_on() {
    let mut rig = Rig::new(small(2, 16, 1 << 10));
    pause(&rig, &["shop"]);
    for seq in 0..300 {
        rig.trigger(seq, START, "http://quick/");
    }
    let waiting = || {
        let metrics = rig.executor.metrics();
        metrics.held + metrics.queued
    };
    until(|| waiting() == 0).await;
    assert_eq!(known(&rig, 0..300).len(), 300, "the watchdog leaves them");
    assert!(
        rig.executor.withdraw(Seq(7), fence(1, 1)),
        "and cancel works"
    );
    rig.close(7);
    assert!(rig.script.begun().is_empty());
    pause(&rig, &["another"]);
    let mut seen = HashSet::new();
    for _ in 0..299 {
        let Event::Done(done) = rig.outcome().await else {
            panic!("no end")
        };
        assert_eq!(done.end.waited_for, Wait::Paused);
        assert!(seen.insert(done.seq) && done.seq != Seq(7));
    }
}
