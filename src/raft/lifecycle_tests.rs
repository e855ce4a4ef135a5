//! The duties on a whole node, with losses that are planted.

use super::alone::{Alone, never};
use super::lifecycle::Duty;
use super::watchdog::CAUSE;
use super::{Cadence, Retention, Watch};
use crate::model::{Span, Stage};

const COUNT: u64 = 30;

fn id(n: u64) -> String {
    format!("t-{n}")
}

/// Submits tasks, of which some are lost between log and executor; returns when all are triggered.
async fn with_losses(node: &Alone) {
    *node.rim.loses.lock().unwrap() = 3;
    for n in 0..COUNT {
        node.submit(&id(n)).await;
    }
    let triggered = |node: &Alone| {
        let stage = |n: u64| node.task(&id(n)).unwrap().stage;
        (0..COUNT).all(|n| stage(n) == Stage::Triggered)
    };
    node.until("all are triggered", triggered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_is_handed_out_again_and_nothing_else() {
    let (watch, retention) = never();
    let node = Alone::start(watch, retention, Cadence::default()).await;
    with_losses(&node).await;
    let before = node.rim.held();
    let lost: Vec<u64> = (0..COUNT)
        .filter(|n| node.task(&id(*n)).unwrap().seq.0 % 3 == 0)
        .collect();
    assert_eq!((before.len(), lost.len()), (20, 10));

    let ran = node.cluster.run_duty(Duty::Watchdog).await.unwrap();
    assert_eq!((ran.node, ran.examined, ran.handled), (1, COUNT, 10));
    let arrived = |node: &Alone| node.rim.held().len() == COUNT as usize;
    node.until("the rim has all of them", arrived).await;
    assert!(
        node.rim.held().is_superset(&before),
        "what waited still waits"
    );
    for n in 0..COUNT {
        let (task, again) = (node.task(&id(n)).unwrap(), node.again(&id(n)));
        let expected = usize::from(lost.contains(&n));
        assert_eq!((again.len(), task.tries), (expected, 0), "{n}");
        assert_eq!(task.fence.attempt as usize, 1 + expected);
        assert!(again.iter().all(|row| row.by.as_deref() == Some(CAUSE)));
    }

    let index = node.applied();
    let ran = node.cluster.run_duty(Duty::Watchdog).await.unwrap();
    assert_eq!((ran.examined, ran.handled), (COUNT, 0));
    assert_eq!(node.applied(), index, "nothing lost, nothing written");
    let tally = node.cluster.tally(Duty::Watchdog);
    assert!(tally.runs >= 3 && tally.handled == 10, "{tally:?}");
    // What was handed out again ends as ever.
    for n in 0..COUNT {
        node.done(&id(n)).await;
    }
    assert_eq!(
        node.cluster
            .run_duty(Duty::Watchdog)
            .await
            .unwrap()
            .examined,
        0
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_comes_by_itself_and_not_too_soon() {
    let (_, retention) = never();
    let watch = Watch {
        period: Span::millis(20),
        after: Span::millis(400),
    };
    let node = Alone::start(watch, retention, Cadence::default()).await;
    with_losses(&node).await;
    let all = |node: &Alone| node.rim.held().len() == COUNT as usize;
    node.until("what was lost comes back", all).await;
    for n in 0..COUNT {
        let due = node.task(&id(n)).unwrap().due;
        for row in node.again(&id(n)) {
            assert!(row.at.since(due) >= watch.after, "{n}: {row:?}");
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_failures_only_what_is_done_leaves_by_itself() {
    let (watch, retention) = never();
    let retention = Retention {
        finished: Span::ZERO,
        failures_only: true,
        period: Span::millis(20),
        ..retention
    };
    let node = Alone::start(watch, retention, Cadence::default()).await;
    node.submit("a").await;
    node.submit("b").await;
    let triggered = |node: &Alone| node.rim.held().len() == 2;
    node.until("both are triggered", triggered).await;
    node.done("a").await;
    node.until("it is gone", |node| node.task("a").is_none())
        .await;
    assert!(node.task("b").is_some());
    node.until("it is counted", |node| {
        node.cluster.tally(Duty::Retire).handled == 1
    })
    .await;
    node.stop().await;
}

#[test]
fn failures_only_keeps_what_is_done_for_a_minute_at_most() {
    let (_, retention) = never();
    assert_eq!(retention.finished(), Span::hours(1));
    let only = |finished| Retention {
        finished,
        failures_only: true,
        ..retention
    };
    assert_eq!(only(Span::hours(1)).finished(), Span::minutes(1));
    assert_eq!(only(Span::seconds(3)).finished(), Span::seconds(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_by_hand_covers_what_was_there() {
    let (watch, retention) = never();
    let node = Alone::start(watch, retention, Cadence::default()).await;
    with_losses(&node).await;
    let index = node.applied();
    assert!(node.cluster.checkpoint() < index);
    let ran = node.cluster.run_duty(Duty::Checkpoint).await.unwrap();
    assert!(ran.index >= index, "{ran:?}");
    assert_eq!(ran.handled, COUNT);
    assert_eq!(node.cluster.tally(Duty::Checkpoint).runs, 1);
    let again = node.cluster.run_duty(Duty::Checkpoint).await.unwrap();
    assert!(
        again.handled < COUNT,
        "only what has changed since: {again:?}"
    );
    node.stop().await;
}
