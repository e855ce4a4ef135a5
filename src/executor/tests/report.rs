//! What is told on the way: long attempts, expired ones, and the figures.

use std::time::Duration;

use super::rig::*;
use crate::model::*;

#[tokio::test(flavor = "multi_thread")]
async fn attempts_open_for_a_second_are_reported_once_in_one_event() {
    let mut rig = Rig::new(settings());
    rig.trigger(1, START, "http://slow/");
    rig.trigger(2, START, "http://slow/");
    rig.begun(vec![1, 2]).await;
    rig.clock.pass(Duration::from_secs(1));
    let Event::Started(started) = rig.outcome().await else {
        panic!("no report")
    };
    assert_eq!(started.node, NODE);
    let mut seqs: Vec<_> = started
        .attempts
        .iter()
        .map(|(seq, fence, at)| (seq.0, *fence, *at))
        .collect();
    seqs.sort_unstable();
    assert_eq!(seqs, [(1, fence(1, 1), START), (2, fence(1, 1), START)]);
    rig.clock.pass(Duration::from_secs(5));
    rig.script.gate.add_permits(2);
    for _ in 0..2 {
        assert!(matches!(rig.outcome().await, Event::Done(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_task_is_not_called() {
    let mut rig = Rig::new(settings());
    let late = Spec {
        expires_at: Some(START),
        ..spec("http://a/")
    };
    let change = rig.log.trigger(1, fence(1, 1), START, &late);
    rig.executor.changed(&[change]);
    let Event::Failed(failed) = rig.outcome().await else {
        panic!("no failure")
    };
    assert_eq!(failed.verdict, Verdict::Expired);
    assert!(rig.script.begun().is_empty());

    // One that may have begun elsewhere goes on.
    let change = rig.log.trigger(2, fence(1, 2), START, &late);
    rig.executor.changed(&[change]);
    assert!(matches!(rig.outcome().await, Event::Done(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn lateness_counts_from_the_instant_and_waiting_from_the_release() {
    let mut rig = Rig::new(settings());
    let at = START.plus(Span(100));
    rig.trigger(1, at, "http://a/");
    rig.wall(at.plus(Span(30)));
    let Event::Done(done) = rig.outcome().await else {
        panic!("no end")
    };
    assert_eq!(
        (done.end.started, done.end.queued),
        (at.plus(Span(30)), Span(0))
    );
    let metrics = rig.executor.metrics();
    assert_eq!(metrics.lateness.count, 1);
    assert!((metrics.lateness.sum - 0.03).abs() < 1e-9);
    assert_eq!(metrics.results.done, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_defect_in_the_delivery_is_a_failed_attempt() {
    let mut rig = Rig::new(settings());
    rig.trigger(1, START, "http://defect/");
    let Event::Failed(failed) = rig.outcome().await else {
        panic!("no failure")
    };
    assert!(matches!(failed.verdict, Verdict::Retry { .. }));
    until(|| rig.executor.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_never_closed_is_forgotten_once_it_is_not_current() {
    let mut rig = Rig::new(settings());
    rig.trigger(1, START, "http://a/");
    rig.outcome().await;
    until(|| rig.executor.in_flight() == 0).await;
    assert!(
        rig.executor.withdraw(Seq(1), fence(1, 1)),
        "closed, so nothing will begin"
    );
    rig.trigger(2, START, "http://a/");
    rig.outcomes.recv().await.unwrap();
    let now = rig.clock.steady() + Duration::from_secs(1);
    let left = || rig.executor.inner.lock().attempts.forgotten(now, 9).len();
    until(|| left() == 2).await;
    rig.executor.inner.forget(now);
    assert_eq!(left(), 1, "the second is still current");
    rig.log.close(Seq(2), fence(1, 1));
    rig.executor.inner.forget(now);
    assert_eq!(left(), 0);
}
