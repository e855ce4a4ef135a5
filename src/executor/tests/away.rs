//! What another node carries out, and what this one carries out for another.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::handlers::invokes;
use super::rig::*;
use crate::executor::*;
use crate::model::*;
use crate::raft::{Errand, Picture, Returned, Seen};
use crate::state::Release;

const OTHER: NodeId = NODE + 1;

type Answers = Box<dyn Fn(usize, Errand) -> Returned + Send + Sync>;

/// One other node, idle; it answers as a test says, the n-th errand in its own way.
struct Fake {
    asked: Mutex<Vec<Errand>>,
    hold: tokio::sync::Semaphore,
    answers: Answers,
}

impl Fake {
    fn new(answers: impl Fn(usize, Errand) -> Returned + Send + Sync + 'static) -> Arc<Fake> {
        Arc::new(Fake {
            asked: Mutex::default(),
            hold: tokio::sync::Semaphore::new(1 << 20),
            answers: Box::new(answers),
        })
    }
    fn asked(&self) -> Vec<Errand> {
        self.asked.lock().unwrap().clone()
    }
}

/// What the executor is given of it.
struct Known(Arc<Fake>);

impl Others for Known {
    fn picture(&self) -> Picture {
        let seen = |node| Seen {
            node,
            load: 0.0,
            labels: match node {
                OTHER => BTreeMap::from([("gpu".to_owned(), "yes".to_owned())]),
                _ => BTreeMap::new(),
            },
            handlers: match node {
                OTHER => Arc::new(["other.work".to_owned()].into()),
                _ => Arc::default(),
            },
        };
        Picture {
            leader: Some(OTHER),
            live: vec![seen(NODE), seen(OTHER)],
        }
    }
    fn errand(&self, _: NodeId, errand: Errand) -> BoxFuture<'static, Returned> {
        let nth = {
            let mut asked = self.0.asked.lock().unwrap();
            asked.push(errand);
            asked.len()
        };
        let fake = self.0.clone();
        async move {
            fake.hold.acquire().await.unwrap().forget();
            (fake.answers)(nth, errand)
        }
        .boxed()
    }
}

fn done(errand: Errand) -> Returned {
    let done = Done {
        seq: errand.seq,
        fence: errand.fence,
        node: OTHER,
        end: AttemptEnd::default(),
    };
    Returned::Ended(done.into())
}

fn with(
    placement: &str,
    answers: impl Fn(usize, Errand) -> Returned + Send + Sync + 'static,
) -> (Rig, Arc<Fake>) {
    let settings = Settings {
        placement: placement.parse().unwrap(),
        ..settings()
    };
    let (rig, fake) = (Rig::new(settings), Fake::new(answers));
    rig.executor.meet(Arc::new(Known(fake.clone())));
    (rig, fake)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_begun_here_and_carried_out_there_under_this_lease() {
    let (mut rig, fake) = with("label:gpu=yes", |_, errand| done(errand));
    rig.trigger(1, START, "http://a/");
    let Event::Done(event) = rig.outcome().await else {
        panic!("it was done")
    };
    assert_eq!((event.seq, event.node), (Seq(1), OTHER));
    let errand = fake.asked()[0];
    assert_eq!((errand.fence, errand.at), (fence(1, 1), START));
    assert_eq!(errand.until, rig.clock.steady() + settings().lease);
    assert!(
        rig.script.begun().is_empty(),
        "nothing was called from here"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_lease_nobody_is_asked() {
    let (mut rig, fake) = with("leader", |_, errand| done(errand));
    rig.clock.pass(settings().lease);
    rig.trigger(1, START, "http://a/");
    until(|| rig.executor.metrics().queued == 1).await;
    assert!(fake.asked().is_empty());
    rig.renew();
    assert!(matches!(rig.outcome().await, Event::Done(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_tried_again_and_can_be_withdrawn_meanwhile() {
    let (rig, fake) = with("leader", |_, _| Returned::Refused("busy".into()));
    rig.trigger(1, START, "http://a/");
    until(|| fake.asked().len() == 1 && rig.executor.withdraw(Seq(1), fence(1, 1))).await;
    // However late it is looked at again.
    rig.clock.pass(Duration::from_secs(1));
    rig.renew();
    rig.wall(START.plus(Span::minutes(1)));
    rig.settle_here(90).await;
    assert_eq!(fake.asked().len(), 1, "it was withdrawn");
    rig.executor.restore(Seq(1), fence(1, 1));
    until(|| fake.asked().len() == 2).await;
}

/// The other node counts from when it took it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_says_for_how_long_it_waited_for_a_node() {
    const LATE: Span = Span::seconds(2);
    let (mut rig, fake) = with("leader", |nth, errand| match nth {
        1 => Returned::Refused("busy".into()),
        _ => Returned::Ended(Event::from(Done {
            seq: errand.seq,
            fence: errand.fence,
            node: OTHER,
            end: AttemptEnd {
                started: errand.at.plus(LATE),
                ..AttemptEnd::default()
            },
        })),
    });
    rig.trigger(1, START, "http://a/");
    until(|| fake.asked().len() == 1).await;
    rig.clock.pass(LATE.std());
    rig.renew();
    rig.wall(START.plus(LATE));
    let Event::Done(event) = rig.outcome().await else {
        panic!("it was done")
    };
    assert_eq!((event.end.queued, event.end.waited_for), (LATE, Wait::Node));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_may_carry_out_is_given_up_when_its_age_is_over() {
    let (mut rig, fake) = with("label:gpu=no", |_, errand| done(errand));
    let aged = Spec {
        retry: Some(Retry {
            max_age: Some(Span::seconds(30)),
            ..Retry::default()
        }),
        ..spec("http://a/")
    };
    let change = rig.log.trigger(1, fence(1, 1), START, &aged);
    rig.executor.changed(&[change]);
    rig.wall(START.plus(Span::seconds(29)));
    rig.settle_here(90).await;
    assert!(matches!(rig.outcome().await, Event::Done(e) if e.seq == Seq(90)));
    rig.wall(START.plus(Span::seconds(30)));
    let Event::Failed(event) = rig.outcome().await else {
        panic!("it was given up")
    };
    let why = event.end.error.unwrap();
    assert!(event.seq == Seq(1) && why.contains("placement"), "{why}");
    assert!(fake.asked().is_empty() && rig.script.begun() == [90]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_only_another_has_is_called_there() {
    let (mut rig, fake) = with("owner", |_, errand| done(errand));
    let change = rig
        .log
        .trigger(1, fence(1, 1), START, &invokes("other.work(1)"));
    rig.executor.changed(&[change]);
    assert!(matches!(rig.outcome().await, Event::Done(e) if e.node == OTHER));
    let change = rig
        .log
        .trigger(2, fence(1, 1), START, &invokes("nobodys.work(1)"));
    rig.executor.changed(&[change]);
    // What is asked of this node in turn, although it lacks the handler.
    let refused = rig.executor.errand(Errand {
        seq: Seq(2),
        ..fake.asked()[0]
    });
    let why = refused.await.unwrap_err();
    assert_eq!(why, "this node has no handler nobodys.work");
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_paused_application_nothing_goes_anywhere() {
    let (mut rig, fake) = with("leader", |_, errand| done(errand));
    let pause = |apps: &[&str]| Change::Paused {
        apps: Arc::new(apps.iter().map(|app| (*app).into()).collect()),
    };
    rig.executor.changed(&[pause(&["shop"])]);
    rig.trigger(1, START, "http://a/");
    // It is dropped, to be read again when the application is resumed.
    until(|| rig.executor.metrics().held == 0 && rig.executor.metrics().queued == 0).await;
    assert!(fake.asked().is_empty());
    rig.executor.changed(&[pause(&[])]);
    assert!(matches!(rig.outcome().await, Event::Done(e) if e.seq == Seq(1)));
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_is_handed_out_again_by_the_log() {
    let (mut rig, _) = with("leader", |_, _| Returned::Lost("gone".into()));
    rig.trigger(1, START, "http://a/");
    let Event::Again(again) = rig.outcome().await else {
        panic!("it was lost")
    };
    assert_eq!(again.attempts, [(Seq(1), fence(1, 1))]);
    assert_eq!(&*again.cause, "performer");
    assert!(
        !rig.executor.withdraw(Seq(1), fence(1, 1)),
        "it may have begun"
    );
    assert_eq!(rig.executor.metrics().results.lost, 1);
}

/// The shard is given away while the other node makes up its mind: this node has said that it ends
/// the attempt, so a refusal must not leave it lying here.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_after_the_shard_was_let_go_of_goes_through_the_log() {
    let (mut rig, fake) = with("leader", |_, _| Returned::Refused("busy".into()));
    let all = fake.hold.available_permits();
    fake.hold.forget_permits(all);
    rig.trigger(1, START, "http://a/");
    until(|| fake.asked().len() == 1).await;
    let release = Release {
        term: 1,
        total: 1,
        shards: vec![Shard(0)],
        epoch: Epoch(1),
    };
    assert_eq!(rig.executor.release(&release), [(Seq(1), fence(1, 1))]);
    fake.hold.add_permits(1);
    assert!(matches!(rig.outcome().await, Event::Again(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_at_a_full_node_is_given_away() {
    let settings = Settings {
        total: 2,
        ..settings()
    };
    let (mut rig, fake) = (Rig::new(settings), Fake::new(|_, errand| done(errand)));
    (1..=2).for_each(|seq| rig.trigger(seq, START, "http://slow/"));
    until(|| rig.executor.in_flight() == 2).await;
    // What came before anybody was known waits here.
    rig.trigger(3, START, "http://slow/");
    until(|| rig.executor.metrics().queued == 1).await;
    rig.executor.meet(Arc::new(Known(fake.clone())));
    rig.trigger(4, START, "http://slow/");
    rig.renew();
    let mut ended = Vec::new();
    while ended.len() < 2 {
        rig.clock.pass(Duration::from_millis(50));
        rig.renew();
        if let Event::Done(event) = rig.outcome().await {
            assert_eq!(event.node, OTHER);
            ended.push(event.seq.0);
        }
    }
    ended.sort_unstable();
    assert_eq!(ended, [3, 4]);
    rig.script.gate.add_permits(2);
    for _ in 0..2 {
        let Event::Done(event) = rig.outcome().await else {
            panic!("it was done")
        };
        assert_eq!(event.node, NODE);
    }
    let counts = rig.executor.metrics().results;
    assert_eq!((counts.away, counts.done), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_is_one_outcome_of_both() {
    let (mut rig, fake) = with("broadcast", |_, errand| done(errand));
    rig.trigger(1, START, "http://a/");
    let Event::Done(event) = rig.outcome().await else {
        panic!("both were done")
    };
    assert_eq!((event.node, fake.asked().len()), (NODE, 1));
    assert_eq!(rig.script.begun(), [1]);
    let said = event.end.answer.unwrap();
    assert_eq!(
        &*said,
        &format!("node {NODE}: HTTP 200; node {OTHER}: no answer")
    );
}

fn errand(rig: &Rig, seq: u64) -> Errand {
    Errand {
        seq: Seq(seq),
        fence: fence(1, 1),
        at: START,
        until: rig.clock.steady() + Duration::from_secs(1),
        leader: false,
        timeout: Span::seconds(10),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_errand_is_run_only_while_current_under_the_lease_and_with_room() {
    let settings = Settings {
        total: 1,
        ..settings()
    };
    let rig = Rig::new(settings);
    // Known to this node's state, and another one's to own.
    let _ = rig
        .log
        .trigger(1, fence(1, 1), START, &spec("http://slow/"));
    let _ = rig.log.trigger(2, fence(1, 2), START, &spec("http://a/"));
    let _ = rig.log.trigger(3, fence(1, 1), START, &spec("http://a/"));
    let refused = |ran: Result<Event, String>| ran.expect_err("it was refused");
    let stale = rig.executor.errand(errand(&rig, 2)).await;
    assert!(refused(stale).contains("not current"));
    let late = Errand {
        until: rig.clock.steady(),
        ..errand(&rig, 1)
    };
    assert!(refused(rig.executor.errand(late).await).contains("lease"));
    let early = Errand {
        at: START.plus(Span(5)),
        ..errand(&rig, 3)
    };
    let early = tokio::spawn(rig.executor.errand(early));
    rig.clock.pass(Duration::from_secs(2));
    assert!(
        refused(early.await.unwrap()).contains("clock"),
        "never early"
    );

    let running = tokio::spawn(rig.executor.errand(errand(&rig, 1)));
    rig.begun(vec![1]).await;
    assert_eq!(rig.executor.load(), 1.0);
    assert!(refused(rig.executor.errand(errand(&rig, 3)).await).contains("room"));
    rig.script.gate.add_permits(1);
    let Ok(Event::Done(event)) = running.await.unwrap() else {
        panic!("it was done")
    };
    assert_eq!(
        (event.seq, event.fence, event.node),
        (Seq(1), fence(1, 1), NODE)
    );
    until(|| rig.executor.in_flight() == 0).await;
    assert!(rig.executor.errand(errand(&rig, 3)).await.is_ok());
}
