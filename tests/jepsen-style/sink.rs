//! Where callbacks go. It writes every delivery to a file of its own: the ground truth.
//!
//! How a task is answered stands in the path of its target, so that it needs no memory:
//! `/ok`, `/fail/2` (the first two attempts fail), `/later` (202), `/gone` (410), `/slow/300`. While
//! the *evil receiver* is on, half of all calls meet something worse.

use serde_json::json;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::chance::Chance;
use crate::record::Deliveries;
use crate::support::now_us;

/// What an evil receiver does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evil {
    /// Answers well, after a second or two.
    Slow,
    /// Does not answer at all.
    Hang,
    /// 500.
    Broken,
    /// 429, and a time to come back.
    Busy,
    /// Sends the caller to a place that must never be called.
    Redirect,
    /// Says 200 and then half of what it promised.
    Half,
    /// Says 200 and then does not stop.
    Huge,
    /// Closes without a word.
    Mute,
}

pub const EVILS: [Evil; 8] = [
    Evil::Slow,
    Evil::Hang,
    Evil::Broken,
    Evil::Busy,
    Evil::Redirect,
    Evil::Half,
    Evil::Huge,
    Evil::Mute,
];

/// How long a hanging receiver hangs, at most; callers give up earlier.
const HANG: Duration = Duration::from_secs(30);

/// So many pieces of 64 KiB; callers give up earlier.
const HUGE_PIECES: u32 = 500;

struct Shared {
    book: Deliveries,
    evil: Mutex<Vec<Evil>>,
    chance: Mutex<Chance>,
    evil_done: AtomicU64,
    arrived: AtomicUsize,
    /// Calls that followed a redirect.
    astray: AtomicU64,
    /// Requests that were no callback.
    odd: AtomicU64,
    address: SocketAddr,
}

/// See the module.
pub struct Sink {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl Sink {
    pub fn start(dir: &Path, host: IpAddr, chance: Chance) -> Sink {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("sink")
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind((host, 0))).unwrap();
        let shared = Arc::new(Shared {
            book: Deliveries::create(dir),
            evil: Mutex::default(),
            chance: Mutex::new(chance),
            evil_done: AtomicU64::new(0),
            arrived: AtomicUsize::new(0),
            astray: AtomicU64::new(0),
            odd: AtomicU64::new(0),
            address: listener.local_addr().unwrap(),
        });
        let accepting = shared.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                // An error is a node that was killed, or gave up.
                tokio::spawn(converse(accepting.clone(), stream));
            }
        });
        Sink {
            shared,
            runtime: Some(runtime),
        }
    }

    /// The address of a way to be answered.
    pub fn url(&self, script: &str) -> String {
        format!("http://{}/{script}", self.shared.address)
    }

    /// Does these to half of all calls from now on; none: answers as the paths say. Says how often
    /// it was evil before.
    pub fn set_evil(&self, evil: Vec<Evil>) -> u64 {
        *self
            .shared
            .evil
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = evil;
        self.shared.evil_done.swap(0, Ordering::Relaxed)
    }

    pub fn arrived(&self) -> usize {
        self.shared.arrived.load(Ordering::Relaxed)
    }

    /// Calls that came where a redirect pointed, and requests that were no callbacks.
    pub fn astray(&self) -> (u64, u64) {
        (
            self.shared.astray.load(Ordering::Relaxed),
            self.shared.odd.load(Ordering::Relaxed),
        )
    }

    /// Ends what still hangs, and writes the rest of the file.
    pub fn close(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        self.shared.book.flush();
    }
}

/// A delivery that has arrived; it is written when it goes out of scope, answered or not.
struct Delivery {
    shared: Arc<Shared>,
    arrived_us: u64,
    head: Head,
    answered: u16,
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let due: jiff::Timestamp = self.head.header("horolog-due").parse().unwrap_or_default();
        let number = |name: &str| self.head.header(name).parse().unwrap_or(0u64);
        self.shared.book.note(&json!({
            "t": self.arrived_us,
            "app": self.head.header("horolog-app"),
            "id": self.head.header("horolog-task"),
            "attempt": number("horolog-attempt"),
            "fence": number("horolog-fence"),
            "due": due.as_millisecond(),
            "answer": self.answered,
            "end": now_us(),
        }));
    }
}

/// A request without its body.
struct Head {
    path: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map_or("", |(_, value)| value)
    }
}

async fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Head>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or("").to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return Ok(Some(Head { path, headers }));
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

async fn converse(shared: Arc<Shared>, stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(head) = read_head(&mut stream).await? {
        let arrived_us = now_us();
        shared.arrived.fetch_add(1, Ordering::Relaxed);
        if head.path == "/astray" {
            shared.astray.fetch_add(1, Ordering::Relaxed);
        }
        if head.header("horolog-task").is_empty() {
            shared.odd.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let length = head.header("content-length").parse().unwrap_or(0u64);
        let evil = shared.draw_evil();
        let mut delivery = Delivery {
            shared: shared.clone(),
            arrived_us,
            head,
            answered: 0,
        };
        // Read to the end, so that the connection can be used again.
        let mut body = (&mut stream).take(length);
        tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
        let more = match evil {
            Some(evil) => answer_evil(&mut stream, evil, &mut delivery).await?,
            None => answer(&mut stream, &mut delivery).await?,
        };
        if !more {
            return Ok(());
        }
    }
    Ok(())
}

impl Shared {
    fn draw_evil(&self) -> Option<Evil> {
        let evil = self.evil.lock().unwrap_or_else(PoisonError::into_inner);
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        if evil.is_empty() || !chance.percent(50) {
            return None;
        }
        self.evil_done.fetch_add(1, Ordering::Relaxed);
        Some(*chance.pick(&evil))
    }
}

async fn say(stream: &mut BufReader<TcpStream>, status: u16, header: &str) -> io::Result<()> {
    let text = format!("HTTP/1.1 {status} as told\r\n{header}content-length: 0\r\n\r\n");
    stream.write_all(text.as_bytes()).await
}

/// Waits; ends early, with an error, when the caller hangs up.
async fn linger(stream: &mut BufReader<TcpStream>, time: Duration) -> io::Result<()> {
    match tokio::time::timeout(time, stream.fill_buf()).await {
        Ok(Ok([])) => Err(io::ErrorKind::ConnectionAborted.into()),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// As the path says. Returns whether the connection goes on.
async fn answer(stream: &mut BufReader<TcpStream>, delivery: &mut Delivery) -> io::Result<bool> {
    let path = delivery.head.path.clone();
    let mut parts = path.trim_start_matches('/').split('/');
    let script = parts.next().unwrap_or("");
    let number: u64 = parts.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let attempt: u64 = delivery.head.header("horolog-attempt").parse().unwrap_or(0);
    let status = match script {
        "fail" if attempt <= number => 500,
        "later" => 202,
        "gone" => 410,
        "slow" => {
            linger(stream, Duration::from_millis(number)).await?;
            200
        }
        _ => 200,
    };
    delivery.answered = status;
    say(stream, status, "").await?;
    Ok(true)
}

async fn answer_evil(
    stream: &mut BufReader<TcpStream>,
    evil: Evil,
    delivery: &mut Delivery,
) -> io::Result<bool> {
    match evil {
        Evil::Slow => {
            linger(stream, Duration::from_millis(900)).await?;
            return answer(stream, delivery).await;
        }
        Evil::Hang => linger(stream, HANG).await?,
        Evil::Broken => {
            delivery.answered = 500;
            say(stream, 500, "").await?;
            return Ok(true);
        }
        Evil::Busy => {
            delivery.answered = 429;
            say(stream, 429, "retry-after: 1\r\n").await?;
            return Ok(true);
        }
        Evil::Redirect => {
            delivery.answered = 302;
            say(stream, 302, "location: /astray\r\n").await?;
            return Ok(true);
        }
        // What the caller makes of it, a failure or a success, is for it to say: no answer.
        Evil::Half => {
            let half = b"HTTP/1.1 200 as told\r\ncontent-length: 1000\r\n\r\nonly this";
            stream.write_all(half).await?;
        }
        Evil::Huge => {
            let head = format!(
                "HTTP/1.1 200 as told\r\ncontent-length: {}\r\n\r\n",
                u64::MAX
            );
            stream.write_all(head.as_bytes()).await?;
            // As fast as leaves the machine something for others.
            for _ in 0..HUGE_PIECES {
                stream.write_all(&[b'x'; 1 << 16]).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Evil::Mute => {}
    }
    Ok(false)
}
