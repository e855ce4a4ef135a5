//! Never early, whatever the clocks do; and only under the lease.

use std::time::Duration;

use super::rig::*;
use crate::model::*;

fn after(ms: u64) -> Time {
    START.plus(Span(ms))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_before_its_instant_to_the_microsecond() {
    let rig = Rig::new(settings());
    rig.trigger(1, after(100), "http://a/");
    rig.wall_us(after(100).0 * 1000 - 1);
    rig.settle(90).await;
    rig.begun(vec![90]).await;
    rig.wall_us(after(100).0 * 1000);
    rig.begun(vec![1, 90]).await;
    let calls = rig.script.calls.lock().unwrap();
    assert!(
        calls
            .iter()
            .all(|(call, us)| *us >= call.due.0 * 1000 && call.started >= call.due)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jumps_neither_fire_the_future_nor_freeze_the_present() {
    let rig = Rig::new(settings());
    rig.trigger(1, after(1_000), "http://a/");
    rig.trigger(2, after(3_600_000), "http://a/");
    rig.wall(Time(START.0 - 500_000));
    rig.settle(90).await;
    rig.begun(vec![90]).await;
    rig.wall(after(2_000));
    rig.begun(vec![1, 90]).await;
    rig.wall(after(0));
    rig.trigger(3, after(500), "http://a/");
    rig.settle(91).await;
    rig.begun(vec![1, 90, 91]).await;
    rig.wall(after(4_000_000));
    rig.begun(vec![1, 2, 3, 90, 91]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jump_is_noticed_within_a_second_without_a_nudge() {
    let rig = Rig::new(settings());
    rig.trigger(1, after(3_600_000), "http://a/");
    rig.clock.set_wall_us(after(3_600_000).0 * 1000);
    rig.begun(vec![1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_instants_with_a_wavering_clock_are_never_early() {
    let mut rig = Rig::new(settings());
    for seq in 0..1_000 {
        rig.trigger(seq, after(seq * 7919 % 1_000), "http://a/");
    }
    let drain = async {
        for _ in 0..1_000 {
            rig.outcomes.recv().await.unwrap();
        }
    };
    let (clock, inner) = (rig.clock.clone(), rig.executor.inner.clone());
    let drive = tokio::spawn(async move {
        for step in 0u64.. {
            // Two steps forward, one back.
            let ms = step / 3 * 10 + [20, 30, 5][(step % 3) as usize];
            clock.set_wall_us(after(ms).0 * 1000);
            inner.due.ring();
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    });
    tokio::time::timeout(THREADS * 4, drain).await.unwrap();
    drive.abort();
    let calls = rig.script.calls.lock().unwrap();
    assert_eq!(calls.len(), 1_000);
    assert!(calls.iter().all(|(call, _)| call.started >= call.due));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_lease_nothing_starts_and_a_renewal_resumes() {
    let rig = Rig::unleased(settings());
    let waits = |n| move |rig: &Rig| rig.executor.metrics().queued == n;
    rig.trigger(1, START, "http://a/");
    until(|| waits(1)(&rig)).await;
    rig.renew();
    rig.begun(vec![1]).await;

    rig.clock.pass(Duration::from_millis(1_499));
    rig.trigger(2, START, "http://a/");
    rig.begun(vec![1, 2]).await;

    rig.clock.pass(Duration::from_millis(1));
    rig.trigger(3, START, "http://a/");
    rig.trigger(4, START, "http://a/");
    until(|| waits(2)(&rig)).await;
    rig.close(4);
    rig.executor.renew_lease(Duration::ZERO);
    rig.begun(vec![1, 2]).await;
    rig.renew();
    rig.settle(90).await;
    rig.begun(vec![1, 2, 3, 90]).await;
}
