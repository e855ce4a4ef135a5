//! The floor X: the executor's own HTTP client calling the sink, with no executor around it.

use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::latency::{Micros, micros, note};
use super::sink::Sink;
use crate::executor::{Call, Delivery as _, Guard, HttpDelivery, Settings};
use crate::model::{Body, Fence, Http, Key, Seq, Span, Time};

/// What calling came to.
pub struct Calls {
    pub rate: f64,
    pub latency: Micros,
}

/// Calls for a while, so many at once, on a runtime like a node's.
///
/// # Errors
/// When a call fails.
pub fn measure(at_once: usize, span: Duration) -> Result<Calls> {
    let sink = Sink::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(call_all(at_once, span, sink.url()))
}

async fn call_all(at_once: usize, span: Duration, url: String) -> Result<Calls> {
    let delivery = Arc::new(HttpDelivery::new(&Settings::new(1, Guard::open())));
    let numbers = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..at_once {
        let (delivery, numbers, url) = (delivery.clone(), numbers.clone(), url.clone());
        callers.spawn(async move {
            let mut latency = micros();
            while begin.elapsed() < span {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                let start = Instant::now();
                let delivered = delivery.deliver(call(number, &url)).await;
                note(&mut latency, start.elapsed());
                if let Some(failure) = delivered.failure {
                    anyhow::bail!("a call to the sink failed: {}", failure.text);
                }
            }
            Ok(latency)
        });
    }
    let mut latency = micros();
    while let Some(ended) = callers.join_next().await {
        latency.add(ended??)?;
    }
    let rate = latency.len() as f64 / begin.elapsed().as_secs_f64();
    Ok(Calls { rate, latency })
}

fn call(number: u64, url: &str) -> Call {
    Call {
        seq: Seq(number),
        fence: Fence::default(),
        key: Key {
            app: "bench".into(),
            id: format!("t-{number:010}-0").into(),
        },
        due: Time(0),
        node: 1,
        started: Time(0),
        http: Http {
            url: url.into(),
            body: Body::Json(format!("{{\"fill\":\"{}\"}}", "x".repeat(189))),
            ..Http::default()
        },
        timeout: Span::seconds(10),
    }
}
