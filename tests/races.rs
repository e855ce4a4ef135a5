//! Many clients that want something at the same moment, through all nodes.

mod support;

use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Barrier;
use support::cluster::Cluster;
use support::receiver::Receiver;
use support::work::{self, APP, kinds, spread, task};
use support::{now_ms, pass_until, seconds, serial, wait_for};

#[test]
fn a_hundred_submits_of_one_task() {
    let _one = serial();
    let receiver = Receiver::start();
    let cluster = Cluster::new(3).fast().start();
    let together = Barrier::new(100);
    let body = json!({
        "app": APP, "id": "same", "delay": "1s", "target": { "http": { "url": receiver.url } }
    });
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let submits = (0..100).map(|n| {
            let mut client = cluster.client(n % 3 + 1);
            let (together, body) = (&together, &body);
            scope.spawn(move || {
                together.wait();
                work::submit(&mut client, body).unwrap().status
            })
        });
        let submits: Vec<_> = submits.collect();
        submits.into_iter().map(|s| s.join().unwrap()).collect()
    });
    let count = |status: u16| statuses.iter().filter(|s| **s == status).count();
    assert_eq!((count(201), count(200)), (1, 99), "I-3: {statuses:?}");
    receiver.wait_tasks(1, seconds(10));
    work::wait_all_done(cluster.clients(), 1, seconds(10));
    assert_eq!(receiver.count(), 1);
    receiver.assert_sound();
}

#[test]
fn a_thousand_cancels_at_the_due_instant() {
    const COUNT: u64 = 1_000;
    const EVERY_MS: u64 = 10;
    const WORKERS: u64 = 24;
    let _one = serial();
    let receiver = Receiver::start();
    let cluster = Cluster::new(3).fast().start();
    let from = now_ms() + 3_000;
    let id = |n: u64| format!("c-{n:04}");
    let tasks: Vec<_> = (0..COUNT)
        .map(|n| task(&id(n), from + n * EVERY_MS, &receiver.url))
        .collect();
    spread(cluster.clients(), &tasks);
    let answers: BTreeMap<u64, u16> = std::thread::scope(|scope| {
        let workers = (0..WORKERS).map(|worker| {
            let mut client = cluster.client(worker % 3 + 1);
            scope.spawn(move || {
                let mut answers = Vec::new();
                for n in (worker..COUNT).step_by(WORKERS as usize) {
                    // From well before the instant to shortly after it, as the way there takes
                    // a few milliseconds itself.
                    let ahead = n * 7 % 60;
                    pass_until((from + n * EVERY_MS + 10).saturating_sub(ahead));
                    let path = format!("/v1/tasks/{APP}/c-{n:04}");
                    answers.push((n, client.delete(&path).unwrap().status));
                }
                answers
            })
        });
        let workers: Vec<_> = workers.collect();
        workers
            .into_iter()
            .flat_map(|w| w.join().unwrap())
            .collect()
    });
    let cancelled = answers.values().filter(|s| **s == 200).count();
    let late = answers.values().filter(|s| **s == 409).count();
    println!("cancelled {cancelled}, too late {late}");
    assert_eq!(cancelled + late, COUNT as usize, "{answers:?}");
    assert!(cancelled > 50 && late > 50, "there was no race");

    let mut client = cluster.client(1);
    wait_for("every task in a final stage", seconds(20), || {
        let stages = work::stages(&mut client);
        let is_final = |stage: &String| stage == "done" || stage == "cancelled";
        stages.keys().all(is_final).then_some(())
    });
    let times = receiver.times();
    for (n, status) in answers {
        let times = times.get(&id(n)).copied().unwrap_or(0);
        let expected = usize::from(status == 409);
        assert_eq!(
            times,
            expected,
            "I-18: {} was answered {status}: {:?}",
            id(n),
            kinds(&mut client, &id(n))
        );
    }
    receiver.assert_sound();
}
