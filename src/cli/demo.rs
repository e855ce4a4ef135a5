//! The demo: tasks that fire one after the other, before your eyes.

use anyhow::{Context as _, Result};
use axum::Router;
use axum::http::HeaderMap;
use axum::routing::post;
use http::Method;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::nodes::Place;
use super::output::{line, say};
use crate::api;
use crate::model::{Clock, Span, Time};
use crate::node::SystemClock;

/// Tasks submitted at the beginning…
const TASKS: u64 = 60;
/// …due over this time.
const OVER: Span = Span::seconds(20);
/// The first one leaves time to read what is going on.
const FIRST: Span = Span::seconds(2);
/// Afterwards one task each such time, so that a killed leader can be watched.
const TRICKLE: Duration = Duration::from_millis(500);
/// A trickled task is due so long after it is submitted.
const TRICKLE_DELAY: Span = Span::seconds(2);
/// One schedule fires so often, from then on.
const SCHEDULE: Span = Span::seconds(5);
/// The application the tasks belong to.
const APP: &str = "demo";

/// A callback that arrived.
struct Fired {
    id: String,
    attempt: String,
    late_us: i64,
    at: Time,
}

/// Runs until it is dropped.
pub(super) async fn run(places: Vec<Place>) -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let (url, mut fired) = receiver(clock.clone()).await?;
    let start = clock.wall();
    let spread = OVER.0 - FIRST.0;
    for n in 0..TASKS {
        let due = start.plus(Span(FIRST.0 + spread * n / TASKS));
        submit(&places, n, &url, json!({ "due_at": due })).await?;
    }
    line(&format!(
        "{TASKS} tasks submitted, due over the next {OVER}; receiver at {url}"
    ));
    let mut seen = BTreeSet::new();
    let mut late_us = Vec::new();
    while (seen.len() as u64) < TASKS {
        let hit = fired.recv().await.context("the receiver has ended")?;
        show(&hit, seen.contains(&hit.id));
        if seen.insert(hit.id) {
            late_us.push(hit.late_us);
        }
    }
    summary(&mut late_us);
    advice(&places).await;
    trickle(&places, &url, &mut fired, seen).await
}

/// Goes on for ever: a task at a time, shown as it fires.
async fn trickle(
    places: &[Place],
    url: &str,
    fired: &mut mpsc::UnboundedReceiver<Fired>,
    mut seen: BTreeSet<String>,
) -> Result<()> {
    if let Err(e) = schedule(places, url).await {
        say(&format!("{e:#}"));
    }
    let submitting = async {
        let mut ticks = tokio::time::interval(TRICKLE);
        for n in TASKS.. {
            ticks.tick().await;
            if let Err(e) = submit(places, n, url, json!({ "delay": TRICKLE_DELAY })).await {
                say(&format!("{e:#}"));
            }
        }
    };
    let showing = async {
        while let Some(hit) = fired.recv().await {
            show(&hit, seen.contains(&hit.id));
            seen.insert(hit.id);
        }
    };
    tokio::select! {
        () = submitting => {}
        () = showing => {}
    }
    Ok(())
}

/// Creates the schedule that the demo has.
async fn schedule(places: &[Place], url: &str) -> Result<()> {
    let id = format!("{APP}.tick");
    let definition = json!({
        "id": id,
        "every": SCHEDULE,
        "overlap": "skip",
        "target": { "http": { "url": url } },
    });
    ask(places, 0, "/v1/schedules", &definition).await?;
    line(&format!(
        "schedule {id} fires every {SCHEDULE}: horolog schedule fires {id}"
    ));
    Ok(())
}

/// Submits a task.
async fn submit(places: &[Place], n: u64, url: &str, when: serde_json::Value) -> Result<()> {
    let mut task = json!({
        "app": APP,
        "id": format!("task-{n:03}-{}", std::process::id()),
        "target": { "http": { "url": url, "body": { "n": n } } },
    });
    if let (Some(task), Some(when)) = (task.as_object_mut(), when.as_object()) {
        task.extend(when.clone());
    }
    ask(places, n as usize, "/v1/tasks", &task)
        .await
        .with_context(|| format!("task {n} was not taken"))
}

/// Asks one node after the other, from some one on; a node that is down costs one more try.
async fn ask(
    places: &[Place],
    from: usize,
    path: &'static str,
    body: &serde_json::Value,
) -> Result<()> {
    let body = serde_json::to_vec(body)?;
    let mut last = None;
    for at in 0..places.len() {
        let server = places[(from + at) % places.len()].server()?;
        let call = server.call(Method::POST, path, Some(body.clone()), Span::ZERO);
        match call.await {
            Ok(_) => return Ok(()),
            Err(e) => last = Some(e),
        }
    }
    Err(last.context("there are no nodes")?)
}

/// Listens for callbacks.
async fn receiver(clock: Arc<dyn Clock>) -> Result<(String, mpsc::UnboundedReceiver<Fired>)> {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .context("cannot listen")?;
    let url = format!("http://{}/", listener.local_addr()?);
    let (tx, rx) = mpsc::unbounded_channel();
    let take = move |headers: HeaderMap| {
        let now_us = clock.wall_us();
        let header = |name: &str| {
            headers
                .get(name)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        let due_us = Time::parse(&header("horolog-due")).map_or(0, |due| due.0 * 1_000);
        // The demo may be over already.
        let _ = tx.send(Fired {
            id: header("horolog-task"),
            attempt: header("horolog-attempt"),
            late_us: now_us as i64 - due_us as i64,
            at: Time(now_us / 1_000),
        });
        async { "" }
    };
    let router = Router::new().route("/", post(take));
    let limits = api::serve::Limits::default();
    tokio::spawn(api::serve::serve(
        listener,
        router,
        limits,
        std::future::pending(),
    ));
    Ok((url, rx))
}

fn show(hit: &Fired, again: bool) {
    let late = hit.late_us as f64 / 1_000.0;
    let colour = match hit.late_us {
        ..0 => "31",
        0..20_000 => "32",
        _ => "33",
    };
    let late = painted(colour, &format!("{late:>8.2} ms"));
    let note = if again {
        "  (again: its owner died before it could report)"
    } else {
        ""
    };
    line(&format!(
        "{}  {:<20} attempt {}  late by {late}{note}",
        hit.at, hit.id, hit.attempt
    ));
}

fn painted(colour: &str, text: &str) -> String {
    match std::io::stdout().is_terminal() {
        true => format!("\x1b[{colour}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

fn summary(late_us: &mut [i64]) {
    late_us.sort_unstable();
    let early = late_us.iter().filter(|late| **late < 0).count();
    let at = |part: usize| late_us[(late_us.len() - 1) * part / 100] as f64 / 1_000.0;
    line(&format!(
        "\nsubmitted {TASKS}, fired {}, lateness p50 {:.2} ms, p99 {:.2} ms, early {early}\n",
        late_us.len(),
        at(50),
        at(99),
    ));
}

/// Says how to see what a scheduler is for.
async fn advice(places: &[Place]) {
    let mut leader = None;
    for place in places {
        let Ok(server) = place.server() else { continue };
        let Ok(view) = server.get("/v1/cluster").await else {
            continue;
        };
        let id = view.json["leader"].as_u64();
        leader = id.and_then(|id| places.iter().find(|place| place.id == id));
        break;
    }
    line("Now a task fires every half second. Kill the leader and watch them go on:");
    if let Some((leader, pid)) = leader.and_then(|leader| Some((leader, leader.pid?))) {
        line(&format!(
            "    kill -9 {pid}        # node {}, the leader",
            leader.id
        ));
    }
    line("A few seconds later another node has noticed and takes over; what came due meanwhile");
    line("fires late, and nothing is lost. Ask why with:");
    if let Some(place) = places
        .iter()
        .find(|place| Some(place.id) != leader.map(|l| l.id))
    {
        line(&format!(
            "    horolog task list --server {} --app {APP}",
            place.url
        ));
        line(&format!(
            "    horolog task explain --server {} {APP} ID",
            place.url
        ));
    }
    line("Ctrl-C ends it all.\n");
}
