//! A receiver of callbacks that does as it is told, and remembers what came.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::node::{now, until};

/// A request that came.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Epoch milliseconds, when its head had been read.
    pub at: u64,
    pub method: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Arrival {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    pub fn number(&self, name: &str) -> u64 {
        let text = self.header(name);
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}"))
    }
}

/// What it does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    Status(u16),
    /// A status with one header.
    With(u16, &'static str, String),
    /// A status with a body.
    Body(u16, Vec<u8>),
    /// These bytes, and the connection is closed.
    Raw(&'static str),
    /// Never an answer: the connection stays until the caller gives it up.
    Hang,
    /// Waits for the gate of its path to be opened, then 200.
    Gate,
    /// 200 with an answer without end.
    Endless,
}

/// Answers the n-th request (from 0) to a path.
type Script = Arc<dyn Fn(usize) -> Reply + Send + Sync>;

#[derive(Default)]
struct Path {
    script: Option<Script>,
    seen: Vec<Arrival>,
    open: bool,
}

pub struct Receiver {
    pub address: SocketAddr,
    paths: Arc<Mutex<HashMap<String, Path>>>,
}

/// The receiver that all cases share.
pub fn receiver() -> &'static Receiver {
    static RECEIVER: OnceLock<Receiver> = OnceLock::new();
    RECEIVER.get_or_init(Receiver::start)
}

impl Receiver {
    /// A receiver on an address of its own.
    pub fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Receiver {
            address: listener.local_addr().unwrap(),
            paths: Arc::default(),
        };
        let paths = receiver.paths.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let paths = paths.clone();
                std::thread::spawn(move || serve(stream, &paths));
            }
        });
        receiver
    }

    /// Says what happens at a path, by the number of the request; returns its URL.
    pub fn on(
        &self,
        path: &str,
        script: impl Fn(usize) -> Reply + Send + Sync + 'static,
    ) -> String {
        let mut paths = self.paths.lock().unwrap();
        paths.entry(path.to_owned()).or_default().script = Some(Arc::new(script));
        self.url(path)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Lets go what waits at a path.
    pub fn open(&self, path: &str) {
        let mut paths = self.paths.lock().unwrap();
        paths.entry(path.to_owned()).or_default().open = true;
    }

    pub fn seen(&self, path: &str) -> Vec<Arrival> {
        let paths = self.paths.lock().unwrap();
        paths.get(path).map(|p| p.seen.clone()).unwrap_or_default()
    }

    /// The requests to a path, once there are so many.
    #[track_caller]
    pub fn wait(&self, path: &str, count: usize) -> Vec<Arrival> {
        until(path, Duration::from_secs(30), || {
            Some(self.seen(path)).filter(|seen| seen.len() >= count)
        })
    }
}

fn serve(stream: TcpStream, paths: &Mutex<HashMap<String, Path>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some((path, arrival)) = request(&mut reader) {
        let reply = {
            let mut paths = paths.lock().unwrap();
            let entry = paths.entry(path.clone()).or_default();
            entry.seen.push(arrival);
            let number = entry.seen.len() - 1;
            entry
                .script
                .as_ref()
                .map_or(Reply::Status(200), |s| s(number))
        };
        if !answer(&stream, &path, reply, paths) {
            return;
        }
    }
}

/// Whether the connection goes on.
fn answer(
    mut stream: &TcpStream,
    path: &str,
    reply: Reply,
    paths: &Mutex<HashMap<String, Path>>,
) -> bool {
    let whole = |status: u16, extra: &str, body: &[u8]| {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} X\r\n{extra}content-length: {length}\r\n\r\n");
        [head.as_bytes(), body].concat()
    };
    let bytes = match reply {
        Reply::Status(status) => whole(status, "", b""),
        Reply::With(status, name, value) => whole(status, &format!("{name}: {value}\r\n"), b""),
        Reply::Body(status, body) => whole(status, "", &body),
        Reply::Raw(text) => {
            let _ = stream.write_all(text.as_bytes());
            return false;
        }
        Reply::Hang => {
            // Nothing comes but the end of the connection.
            let _ = stream.read(&mut [0; 64]);
            return false;
        }
        Reply::Gate => {
            until("the gate", Duration::from_secs(120), || {
                paths.lock().unwrap().get(path).filter(|p| p.open).map(drop)
            });
            whole(200, "", b"")
        }
        Reply::Endless => {
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
            let mut sent = stream.write_all(head);
            while sent.is_ok() {
                sent = stream.write_all(&[b'x'; 16 << 10]);
            }
            return false;
        }
    };
    stream.write_all(&bytes).is_ok()
}

fn request(reader: &mut BufReader<TcpStream>) -> Option<(String, Arrival)> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|n| *n > 0)?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let at = now();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let arrival = Arrival {
        at,
        method,
        headers,
        body,
    };
    Some((path, arrival))
}
