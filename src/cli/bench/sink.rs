//! The receiver of callbacks: answers 200 at once, and notes which task came when.
//!
//! It runs on a thread of its own, so that the load generator does not delay its clock, and it
//! takes the due instant from the task's id, which the bench chose: lateness is judged against
//! what was asked for, not against what the server says was asked for.

use anyhow::{Context as _, Result};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::latency::{Micros, micros, note};
use super::request::read_id;
use super::wire::{decimal, head_end, header};
use crate::model::Clock;
use crate::node::SystemClock;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A running receiver; ends when it is dropped.
pub struct Sink {
    pub address: SocketAddr,
    arrivals: Arc<Mutex<Arrivals>>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What has arrived.
#[derive(Clone)]
pub struct Arrivals {
    /// Arrival less due; what came early is not in it.
    pub lateness: Micros,
    pub early: u64,
    /// Different tasks.
    pub tasks: u64,
    pub duplicates: u64,
    /// Requests that are no task of the bench's.
    pub strange: u64,
    seen: Vec<bool>,
    watched: Watched,
    /// When the last one came, or the watch began.
    last_us: u64,
}

/// What came since a watch began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watched {
    /// The longest time in which nothing new came.
    pub gap: Duration,
    /// How late the latest was.
    pub latest: Duration,
}

impl Default for Arrivals {
    fn default() -> Arrivals {
        Arrivals {
            lateness: micros(),
            early: 0,
            tasks: 0,
            duplicates: 0,
            strange: 0,
            seen: Vec::new(),
            watched: Watched::default(),
            last_us: 0,
        }
    }
}

impl Arrivals {
    fn note(&mut self, id: Option<(u64, u64)>, now_us: u64) {
        let Some((number, due_ms)) = id else {
            self.strange += 1;
            return;
        };
        let number = number as usize;
        if self.seen.len() <= number {
            self.seen.resize(number + 1, false);
        }
        if std::mem::replace(&mut self.seen[number], true) {
            self.duplicates += 1;
            return;
        }
        self.tasks += 1;
        let late = now_us.checked_sub(due_ms * 1_000);
        match late.map(Duration::from_micros) {
            Some(late) => {
                note(&mut self.lateness, late);
                self.watched.latest = self.watched.latest.max(late);
            }
            None => self.early += 1,
        }
        // Each connection reads the clock for itself, so that one may be noted after a later one.
        let gap = Duration::from_micros(now_us.saturating_sub(self.last_us));
        self.watched.gap = self.watched.gap.max(gap);
        self.last_us = self.last_us.max(now_us);
    }
}

impl Sink {
    /// Starts it on a free port of loopback.
    pub fn start() -> Result<Sink> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let arrivals = Arc::<Mutex<Arrivals>>::default();
        let stop = CancellationToken::new();
        let (noted, stopped) = (arrivals.clone(), stop.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("bench-sink".into())
            .spawn(move || runtime.block_on(accept(listener, noted, stopped)))?;
        Ok(Sink {
            address,
            arrivals,
            stop,
            thread: Some(thread),
        })
    }

    /// The URL that tasks are given.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// What has arrived so far.
    pub fn arrivals(&self) -> Arrivals {
        let arrivals = self.arrivals.lock();
        arrivals.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins to watch for gaps.
    pub fn watch(&self) {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.watched = Watched::default();
        arrivals.last_us = SystemClock::default().raw_us();
    }

    /// What came since then.
    pub fn watched(&self) -> Watched {
        let arrivals = self.arrivals.lock();
        arrivals.unwrap_or_else(PoisonError::into_inner).watched
    }

    /// How many different tasks have arrived, without a copy of it all.
    pub fn tasks(&self) -> u64 {
        let arrivals = self.arrivals.lock();
        arrivals.unwrap_or_else(PoisonError::into_inner).tasks
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // It panicked: its figures are incomplete, and the books show that.
            let _ = thread.join();
        }
    }
}

async fn accept(
    listener: std::net::TcpListener,
    arrivals: Arc<Mutex<Arrivals>>,
    stop: CancellationToken,
) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let arrivals = arrivals.clone();
        connections.spawn(async move {
            // A broken connection is the caller's affair; the books show what it lost.
            let _ = receive(stream, arrivals).await;
        });
    }
}

async fn receive(mut stream: TcpStream, arrivals: Arc<Mutex<Arrivals>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let clock = SystemClock::default();
    let mut buffer = bytes::BytesMut::with_capacity(4 << 10);
    while stream.read_buf(&mut buffer).await? > 0 {
        let now_us = clock.raw_us();
        while let Some((id, length)) = request(&buffer) {
            let _ = buffer.split_to(length);
            arrivals
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .note(id, now_us);
            stream.write_all(ANSWER).await?;
        }
    }
    Ok(())
}

/// The task of the first request in `bytes`, and the request's length, once it is all there.
fn request(bytes: &[u8]) -> Option<(Option<(u64, u64)>, usize)> {
    let end = head_end(bytes)?;
    let head = &bytes[..end];
    let body = header(head, b"content-length").and_then(decimal);
    let whole = end + body.unwrap_or(0);
    let id = header(head, b"horolog-task").and_then(read_id);
    (bytes.len() >= whole).then_some((id, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_when_it_is_whole() {
        let text = b"POST / HTTP/1.1\r\nhorolog-task: t-7-9\r\ncontent-length: 3\r\n\r\nabcPOST";
        for end in 0..text.len() {
            let whole = end >= text.len() - 4;
            assert_eq!(request(&text[..end]).is_some(), whole, "{end}");
        }
        assert_eq!(request(text), Some((Some((7, 9)), text.len() - 4)));
    }

    #[test]
    fn early_late_and_twice_are_told_apart() {
        let mut arrivals = Arrivals::default();
        arrivals.note(Some((3, 10)), 10_400);
        arrivals.note(Some((3, 10)), 10_500);
        arrivals.note(Some((1, 10)), 9_999);
        arrivals.note(Some((2, 10)), 10_000);
        arrivals.note(None, 0);
        let counts = (arrivals.tasks, arrivals.duplicates, arrivals.early);
        assert_eq!(counts, (3, 1, 1));
        assert_eq!((arrivals.lateness.len(), arrivals.strange), (2, 1));
        assert_eq!(arrivals.lateness.max(), 400);
    }

    #[test]
    fn the_longest_gap_is_between_two_that_are_new() {
        let mut arrivals = Arrivals {
            last_us: 900,
            ..Arrivals::default()
        };
        for (number, now_us) in [(1, 1_000), (2, 1_100), (1, 1_500), (4, 1_050), (3, 1_800)] {
            arrivals.note(Some((number, 1)), now_us);
        }
        let Watched { gap, latest } = arrivals.watched;
        assert_eq!((gap.as_micros(), latest.as_micros()), (700, 800));
    }
}
