//! The wires: TCP proxies between nodes, and between clients and nodes, that misbehave as told.
//!
//! Nodes know each other only by the addresses of proxies, one for each node that is called. Who
//! calls is told by the first frame of a connection, which every node sends in the clear: its
//! number stands at a fixed place. What happens to bytes is set for a *direction*, from one node to
//! another, and holds for requests and answers alike, whoever opened the connection.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::chance::Chance;
use crate::support::node::free_address;

/// Whoever is no node.
pub const CLIENTS: u64 = 0;

/// A frame's head (length, checksum, call, kind), then version and cluster; then who is calling.
const HELLO_FROM: usize = 17 + 2 + 16;
const HELLO_KIND: u8 = 250;
/// Somebody who connects says who it is within this time.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Read at once.
const CHUNK: usize = 16 << 10;
/// Chunks on their way, per direction of a connection.
const FLYING_MAX: usize = 256;

/// What happens to bytes on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Fair,
    /// Nothing passes; it waits, as a network's lost packets do, until the wire is fair again.
    Cut,
    /// Nothing passes and nothing is kept: both ends think that they are connected.
    Silent,
    /// Everything comes so many milliseconds later, give or take a half.
    Late(u64),
    /// In so many chunks of a hundred a bit is turned.
    Corrupt(u64),
    /// In so many chunks of a hundred the end is missing, and the connection breaks.
    Truncate(u64),
}

/// From, to.
type Way = (u64, u64);

struct Shared {
    moods: watch::Sender<BTreeMap<Way, Mood>>,
    /// How many chunks a mood was done to.
    hits: AtomicU64,
    /// Connections whose caller was not understood: partitions would not hold them.
    strangers: AtomicU64,
    chance: Mutex<Chance>,
}

impl Shared {
    fn mood(&self, way: Way) -> Mood {
        self.moods.borrow().get(&way).copied().unwrap_or_default()
    }

    fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    fn chance(&self) -> MutexGuard<'_, Chance> {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
pub struct Wires {
    shared: Arc<Shared>,
    runtime: Runtime,
}

impl Wires {
    pub fn new(chance: Chance) -> Wires {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("wires")
            .enable_all()
            .build()
            .unwrap();
        let shared = Shared {
            moods: watch::Sender::new(BTreeMap::new()),
            hits: AtomicU64::new(0),
            strangers: AtomicU64::new(0),
            chance: Mutex::new(chance),
        };
        Wires {
            shared: Arc::new(shared),
            runtime,
        }
    }

    /// An address that leads to a node's peer port.
    pub fn to_peer(&self, node: u64, target: SocketAddr) -> SocketAddr {
        self.listen(node, target, true)
    }

    /// An address that leads clients to a node's HTTP port.
    pub fn to_http(&self, node: u64, target: SocketAddr) -> SocketAddr {
        self.listen(node, target, false)
    }

    fn listen(&self, node: u64, target: SocketAddr, from_peers: bool) -> SocketAddr {
        let address = free_address();
        let listener = self.runtime.block_on(TcpListener::bind(address)).unwrap();
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // An error is the end of one connection, as ends of connections are.
                tokio::spawn(relay(shared.clone(), stream, node, target, from_peers));
            }
        });
        address
    }

    /// Sets the mood of some directions; all others become fair.
    pub fn set(&self, ways: impl IntoIterator<Item = Way>, mood: Mood) {
        let moods = ways.into_iter().map(|way| (way, mood)).collect();
        self.shared.hits.store(0, Ordering::Relaxed);
        self.shared.moods.send_replace(moods);
    }

    /// Makes all directions fair; says how many chunks something was done to.
    pub fn clear(&self) -> u64 {
        self.shared.moods.send_replace(BTreeMap::new());
        self.shared.hits.swap(0, Ordering::Relaxed)
    }

    /// Connections between nodes that no partition would have held: 0, or the harness is wrong.
    pub fn strangers(&self) -> u64 {
        self.shared.strangers.load(Ordering::Relaxed)
    }
}

impl Mood {
    pub fn shown(self) -> Value {
        json!(format!("{self:?}").to_lowercase())
    }
}

async fn relay(
    shared: Arc<Shared>,
    mut dialer: TcpStream,
    node: u64,
    target: SocketAddr,
    from_peers: bool,
) -> io::Result<()> {
    dialer.set_nodelay(true)?;
    let mut hello = [0; HELLO_FROM + 8];
    let from = match from_peers {
        false => CLIENTS,
        true => {
            let read = dialer.read_exact(&mut hello);
            tokio::time::timeout(HELLO_WITHIN, read).await??;
            if hello[16] != HELLO_KIND {
                shared.strangers.fetch_add(1, Ordering::Relaxed);
                return Err(io::Error::other("whoever this is does not say hello"));
            }
            u64::from_le_bytes(hello[HELLO_FROM..].try_into().expect("eight bytes"))
        }
    };
    let mut acceptor = TcpStream::connect(target).await?;
    acceptor.set_nodelay(true)?;
    let (there, back) = ((from, node), (node, from));
    if from_peers {
        open(&shared, there).await;
        acceptor.write_all(&hello).await?;
    }
    let ((a, b), (c, d)) = (dialer.into_split(), acceptor.into_split());
    // When one direction has ended, so has the connection.
    tokio::select! {
        ended = pump(&shared, a, d, there) => ended,
        ended = pump(&shared, c, b, back) => ended,
    }
}

/// Waits while a way is cut or silent.
async fn open(shared: &Shared, way: Way) {
    let mut moods = shared.moods.subscribe();
    let shut = |mood: Option<&Mood>| matches!(mood, Some(Mood::Cut | Mood::Silent));
    if shut(moods.borrow_and_update().get(&way)) {
        shared.hit();
    }
    // The sender lives as long as `shared`.
    let _ = moods.wait_for(|moods| !shut(moods.get(&way))).await;
}

/// Carries bytes one way: one half reads and decides, the other writes when it is time.
async fn pump(
    shared: &Shared,
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    way: Way,
) -> io::Result<()> {
    let (chunks, inbox) = mpsc::channel(FLYING_MAX);
    tokio::select! {
        ended = collect(shared, read, chunks, way) => ended,
        ended = deliver(shared, write, inbox, way) => ended,
    }
}

struct Chunk {
    at: Instant,
    bytes: Vec<u8>,
    /// Nothing comes after it.
    last: bool,
}

async fn collect(
    shared: &Shared,
    mut read: OwnedReadHalf,
    chunks: mpsc::Sender<Chunk>,
    way: Way,
) -> io::Result<()> {
    let mut swallowed = false;
    loop {
        let mut bytes = vec![0; CHUNK];
        let count = read.read(&mut bytes).await?;
        bytes.truncate(count);
        let mood = shared.mood(way);
        // After a gap the rest would make no sense to the other end.
        if swallowed && mood != Mood::Silent {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let mut chunk = Chunk {
            at: Instant::now(),
            last: count == 0,
            bytes,
        };
        match mood {
            Mood::Fair | Mood::Cut => {}
            Mood::Silent => {
                shared.hit();
                swallowed = true;
                if chunk.last {
                    return Ok(());
                }
                continue;
            }
            Mood::Late(ms) => {
                shared.hit();
                let ms = shared.chance().between(ms / 2, ms + ms / 2);
                chunk.at += Duration::from_millis(ms);
            }
            Mood::Corrupt(percent) => corrupt(shared, &mut chunk, percent),
            Mood::Truncate(percent) => truncate(shared, &mut chunk, percent),
        }
        let last = chunk.last;
        // The other half waits for a channel that stays open until all of it is delivered.
        if chunks.send(chunk).await.is_err() || last {
            return std::future::pending().await;
        }
    }
}

fn corrupt(shared: &Shared, chunk: &mut Chunk, percent: u64) {
    let mut chance = shared.chance();
    if !chunk.bytes.is_empty() && chance.percent(percent) {
        let at = chance.below(chunk.bytes.len() as u64) as usize;
        chunk.bytes[at] ^= 1 << chance.below(8);
        shared.hit();
    }
}

fn truncate(shared: &Shared, chunk: &mut Chunk, percent: u64) {
    let mut chance = shared.chance();
    if !chunk.bytes.is_empty() && chance.percent(percent) {
        let left = chance.below(chunk.bytes.len() as u64) as usize;
        chunk.bytes.truncate(left);
        chunk.last = true;
        shared.hit();
    }
}

async fn deliver(
    shared: &Shared,
    mut write: OwnedWriteHalf,
    mut inbox: mpsc::Receiver<Chunk>,
    way: Way,
) -> io::Result<()> {
    while let Some(chunk) = inbox.recv().await {
        tokio::time::sleep_until(chunk.at).await;
        if shared.mood(way) == Mood::Cut {
            shared.hit();
            open(shared, way).await;
        }
        write.write_all(&chunk.bytes).await?;
        if chunk.last {
            return Ok(());
        }
    }
    Ok(())
}
