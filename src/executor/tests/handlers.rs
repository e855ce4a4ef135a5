//! What is carried out by a handler of this program.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::rig::*;
use crate::executor::*;
use crate::model::*;

type Seen = Arc<Mutex<Vec<Invocation>>>;

/// Handlers that end in each way; `demo.note` keeps what it was called with.
fn handlers() -> (Handlers, Seen) {
    let seen = Seen::default();
    let note = seen.clone();
    let add = |handlers: Result<Handlers, RegisterError>| handlers.unwrap();
    let handlers = add(Handlers::default().handler("demo.note", move |call| {
        let note = note.clone();
        async move {
            let text: String = call.argument(0)?;
            note.lock().unwrap().push(call);
            Ok(text.repeat(2_000))
        }
    }));
    let handlers = add(handlers.handler("demo.again", |_| async {
        let refused: Result<(), _> = Err(std::io::Error::other("the printer is out of paper"));
        Ok(refused?)
    }));
    let handlers = add(handlers.handler("demo.never", |_| async {
        Err::<(), _>(HandlerError::Final("there is no such order".into()))
    }));
    let handlers = add(handlers.handler("demo.panics", |call| async move {
        let nth: i32 = call.argument(0)?;
        assert!(nth < 0, "order {nth} is upside down");
        Ok(())
    }));
    let handlers = add(handlers.handler("demo.refuses", |call| {
        assert!(call.id.is_empty(), "not even begun");
        async { Ok(()) }
    }));
    let handlers = add(handlers.handler("demo.hangs", |_| async {
        std::future::pending::<()>().await;
        Ok(())
    }));
    (handlers, seen)
}

fn rig() -> (Rig, Seen) {
    let (handlers, seen) = handlers();
    let settings = Settings {
        handlers,
        ..settings()
    };
    (Rig::new(settings), seen)
}

pub fn invokes(invoke: &str) -> Spec {
    Spec {
        target: Target::Handler(Handled {
            invoke: invoke.into(),
            params: Some(r#"{"n":1}"#.into()),
            // A panic may take its time to be told.
            timeout: invoke.contains("hangs").then_some(Span::millis(300)),
            run_of: Some(RunOf {
                schedule: "shop.tick".into(),
                version: 3,
                planned: START,
                cause: Cause::Planned,
            }),
        }),
        ..spec("http://a/")
    }
}

fn call(rig: &Rig, seq: u64, invoke: &str) {
    let change = rig.log.trigger(seq, fence(1, 2), START, &invokes(invoke));
    rig.executor.changed(&[change]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_called_with_types_and_with_what_it_is_for() {
    let (mut rig, seen) = rig();
    call(&rig, 7, r#"demo.note("ä", 'b', true, 2L, 3D, 4)"#);
    let Event::Done(event) = rig.outcome().await else {
        panic!("it was done")
    };
    let answer = event.end.answer.unwrap();
    assert_eq!((event.end.status, answer.len()), (200, 1 << 10));
    assert!(answer.chars().all(|c| c == 'ä'), "cut between characters");
    let call = seen.lock().unwrap().pop().unwrap();
    let texts = (call.argument(0), call.argument(1));
    assert_eq!(texts, (Ok("ä"), Ok("b")));
    assert_eq!(call.argument(2), Ok(true));
    assert_eq!((call.argument(3), call.argument(4)), (Ok(2i64), Ok(3f64)));
    assert_eq!((call.argument(5), call.argument(5)), (Ok(4i32), Ok(4i64)));
    assert_eq!((&*call.app, &*call.id), ("shop", "order-7"));
    assert_eq!((call.attempt, call.fence), (2, fence(1, 2)));
    assert_eq!((call.due, call.node), (START, NODE));
    assert_eq!(call.run_of.as_ref().unwrap().planned, START);
    assert_eq!(call.params.as_deref(), Some(r#"{"n":1}"#));
    let Err(HandlerError::Final(why)) = call.argument::<i32>(3) else {
        panic!("a long is no int")
    };
    assert_eq!(
        why,
        "demo.note: argument 4 is 2L, not a number of 32 bits such as 4"
    );
    let Err(HandlerError::Final(why)) = call.argument::<bool>(6) else {
        panic!("there are six")
    };
    assert_eq!(why, "demo.note: argument 7 is missing, 6 were given");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_of_a_handler_is_one_of_its_attempt_and_nothing_else() {
    let (mut rig, seen) = rig();
    let again = Verdict::Retry {
        not_before: Span::ZERO,
    };
    for (seq, invoke, verdict, words) in [
        (1, "demo.again", again, "the printer is out of paper"),
        (2, "demo.never", Verdict::Final, "there is no such order"),
        (
            3,
            "demo.panics(5)",
            again,
            "the handler panicked: order 5 is upside down",
        ),
        (
            4,
            "demo.refuses",
            again,
            "the handler panicked: not even begun",
        ),
        (5, "demo.hangs", again, "timed out after 300ms"),
        (
            6,
            "demo.panics('x')",
            Verdict::Final,
            "demo.panics: argument 1 is \"x\", not",
        ),
    ] {
        call(&rig, seq, invoke);
        let Event::Failed(event) = rig.outcome().await else {
            panic!("{invoke} has failed")
        };
        let why = event.end.error.unwrap();
        assert_eq!((event.seq, event.verdict), (Seq(seq), verdict), "{invoke}");
        assert!(why.contains(words), "{invoke}: {why}");
    }
    call(&rig, 9, "demo.note('on')");
    assert!(matches!(rig.outcome().await, Event::Done(e) if e.seq == Seq(9)));
    assert_eq!(seen.lock().unwrap().len(), 1);
    until(|| rig.executor.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_handler_it_waits_and_is_given_up_when_its_age_is_over() {
    let (mut rig, _) = rig();
    let aged = Spec {
        retry: Some(Retry {
            max_age: Some(Span::seconds(30)),
            ..Retry::default()
        }),
        ..invokes("other.work(1)")
    };
    let change = rig.log.trigger(1, fence(1, 1), START, &aged);
    rig.executor.changed(&[change]);
    rig.wall(START.plus(Span::seconds(29)));
    call(&rig, 2, "demo.note('x')");
    assert!(matches!(rig.outcome().await, Event::Done(e) if e.seq == Seq(2)));
    rig.wall(START.plus(Span::seconds(30)));
    let Event::Failed(event) = rig.outcome().await else {
        panic!("it was given up")
    };
    let why = event.end.error.unwrap();
    assert_eq!(event.seq, Seq(1));
    assert!(
        why.contains("no node with the handler other.work was there"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_outlives_the_node_is_dropped() {
    let (rig, _) = rig();
    let spec = Spec {
        target: Target::Handler(Handled {
            invoke: "demo.hangs".into(),
            ..Handled::default()
        }),
        ..spec("http://a/")
    };
    let change = rig.log.trigger(1, fence(1, 1), START, &spec);
    rig.executor.changed(&[change]);
    until(|| rig.executor.in_flight() == 1).await;
    let stopped = rig.executor.stop(Duration::from_millis(10));
    tokio::time::timeout(THREADS, stopped)
        .await
        .expect("a stop");
}

#[test]
fn names_that_no_target_could_say_are_refused() {
    let add = |handlers: Handlers, name: &str| handlers.handler(name, |_| async { Ok(()) });
    for (name, part) in [
        ("run", "write bean.method"),
        ("a.b(1)", "without arguments"),
        (" a.b", "without arguments"),
        (&format!("a.{}", "b".repeat(127)), "at most 128"),
    ] {
        let refused = add(Handlers::default(), name).unwrap_err().to_string();
        assert!(refused.contains(part), "{name}: {refused}");
    }
    let mut handlers = add(Handlers::default(), "a.b").unwrap();
    let twice = add(handlers.clone(), "a.b").unwrap_err();
    assert_eq!(twice, RegisterError::Twice("a.b".into()));
    for n in 1..limits::HANDLERS_MAX {
        handlers = add(handlers, &format!("a.b{n}")).unwrap();
    }
    assert_eq!(add(handlers, "a.c").unwrap_err(), RegisterError::TooMany);
}
