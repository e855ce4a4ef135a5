//! Begun or withdrawn, never both, never neither.

use super::rig::*;
use crate::model::*;
use crate::state::Release;

#[tokio::test(flavor = "multi_thread")]
async fn withdrawing_races_with_beginning() {
    let mut rig = Rig::new(settings());
    let mut withdrawn = 0;
    for seq in 0..1_000 {
        rig.trigger(seq, START, "http://a/");
        let executor = rig.executor.clone();
        let spins = seq % 50 * 20;
        let withdrew = tokio::spawn(async move {
            (0..spins).for_each(|_| std::hint::spin_loop());
            executor.withdraw(Seq(seq), fence(1, 1))
        });
        if withdrew.await.unwrap() {
            withdrawn += 1;
            rig.close(seq);
        } else {
            let Event::Done(done) = rig.outcome().await else {
                panic!("no end")
            };
            assert_eq!(done.seq, Seq(seq));
        }
    }
    rig.settle(5_000).await;
    let begun = rig.script.begun().len() - 1;
    assert_eq!(begun + withdrawn, 1_000, "{withdrawn} withdrawn");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_before_its_attempt_arrives_holds_until_restored() {
    let rig = Rig::new(settings());
    assert!(rig.executor.withdraw(Seq(1), fence(1, 1)));
    assert!(
        rig.executor.withdraw(Seq(1), fence(1, 1)),
        "and by another as well"
    );
    rig.trigger(1, START, "http://a/");
    rig.settle(90).await;
    rig.begun(vec![90]).await;
    rig.executor.restore(Seq(1), fence(1, 1));
    rig.trigger(91, START, "http://a/");
    rig.begun(vec![90, 91]).await;
    rig.executor.restore(Seq(1), fence(1, 1));
    rig.begun(vec![1, 90, 91]).await;
    assert!(!rig.executor.withdraw(Seq(1), fence(1, 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_while_held_can_be_restored_before_the_instant() {
    let rig = Rig::new(settings());
    let at = START.plus(Span(50));
    rig.trigger(1, at, "http://a/");
    assert!(rig.executor.withdraw(Seq(1), fence(1, 1)));
    rig.executor.restore(Seq(1), fence(1, 1));
    rig.wall(at);
    rig.begun(vec![1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_closed_or_of_another_node_does_not_begin() {
    let rig = Rig::new(settings());
    let at = START.plus(Span(50));
    rig.trigger(1, at, "http://a/");
    rig.trigger(2, at, "http://a/");
    rig.close(1);
    let Change::Triggered {
        seq,
        fence,
        at,
        hash,
        ..
    } = rig.log.trigger(3, fence(1, 1), at, &spec("http://a/"))
    else {
        unreachable!()
    };
    let owner = NODE + 1;
    let foreign = Change::Triggered {
        seq,
        fence,
        at,
        owner,
        hash,
    };
    rig.executor.changed(&[foreign]);
    rig.wall(at);
    rig.settle(90).await;
    rig.begun(vec![2, 90]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_the_state_no_longer_knows_is_not_called() {
    let rig = Rig::new(settings());
    let at = START.plus(Span(50));
    rig.trigger(1, at, "http://a/");
    rig.log.close(Seq(1), fence(1, 1));
    rig.wall(at);
    rig.settle(90).await;
    rig.begun(vec![90]).await;
    assert_eq!(rig.executor.metrics().results.stale, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_was_let_go_of_starts_nothing_more() {
    let rig = Rig::new(settings());
    let at = START.plus(Span(50));
    // The rig's hash is the number, so of two shards one has the odd numbers.
    let release = Release {
        term: 1,
        total: 2,
        shards: vec![Shard(1)],
        epoch: Epoch(4),
    };
    let trigger = |seq, epoch, at, url| {
        let change = rig.log.trigger(seq, fence(epoch, 1), at, &spec(url));
        rig.executor.changed(&[change]);
    };
    trigger(1, 4, START, "http://slow/");
    rig.begun(vec![1]).await;
    trigger(3, 4, at, "http://a/");
    trigger(4, 4, at, "http://a/");
    trigger(5, 5, at, "http://a/");
    let begun = [(Seq(1), fence(4, 1))];
    assert_eq!(rig.executor.release(&release), begun, "it ends what began");
    trigger(7, 4, START, "http://a/");
    rig.wall(at);
    rig.begun(vec![1, 4, 5]).await;
    trigger(90, 5, at, "http://settle/");
    rig.begun(vec![1, 4, 5, 90]).await;
    rig.script.gate.add_permits(1);
    until(|| rig.executor.in_flight() == 0).await;
    assert_eq!(
        rig.executor.release(&release),
        begun,
        "the log must have it first"
    );
    rig.executor.changed(&[rig.log.close(Seq(1), fence(4, 1))]);
    assert_eq!(rig.executor.release(&release), []);
    // The leader that asked is gone, and its assignment never came.
    rig.executor.new_term(1);
    rig.settle(92).await;
    rig.begun(vec![1, 4, 5, 90, 92]).await;
    rig.executor.new_term(2);
    rig.begun(vec![1, 3, 4, 5, 7, 90, 92]).await;
}
