//! Node to node: framed calls over TCP or TLS, one connection per lane.
//!
//! ```text
//! dialer                                   acceptor
//!   Hello { version, cluster, from, to, incarnation, lane, nonce } ─►
//!                    ◄─ Welcome { node, incarnation, nonce, proof } | a refusal
//!   Proof ─►
//!   frame: length u32 | crc32c u32 | id u64 | kind u8 | body    ◄─► the same, answering by id
//! ```
//!
//! With `cluster.tls.*` all of it goes through TLS (`tls/mod.rs`), and the certificates must name the
//! nodes that the handshake names.
//!
//! Lanes keep urgent things (votes, heartbeats) off the connections that carry bulk. Every call
//! has a deadline. A call that was surely not sent fails as [`CallError::Unsent`], one that the peer
//! could not begin with as [`CallError::Failed`], any other as [`CallError::Lost`]: its outcome is
//! unknown.

mod accept;
mod dial;
mod frame;
mod handshake;
mod link;
mod refusals;
mod tls;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::model::NodeId;

pub(crate) use accept::{Answer, Handler, serve};
pub(crate) use dial::Peers;
pub(crate) use handshake::{Hello, Secret, Self_};
pub(crate) use link::CallError;
pub use tls::{Authority, Issued, Tls, TlsFiles};

/// What a connection is for. Bulk must not delay what is urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lane {
    /// Log entries.
    Append = 1,
    /// Votes, heartbeats, pings, release.
    Urgent = 2,
    /// Snapshots.
    Snapshot = 3,
    /// Proposals and reads on their way to the leader.
    Forward = 4,
}

/// A connection, of whatever kind.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection to or from a peer that has not said yet who it is.
pub struct Connection {
    pub stream: Box<dyn Duplex>,
    /// Who it must be, by its certificate; without TLS nobody in particular.
    pub certified: Option<NodeId>,
}

/// A connection in the making.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Connection>> + Send>>;

/// The peer network, as a seam: how connections are made.
pub trait Network: Send + Sync + 'static {
    /// Connects to a peer address.
    fn dial(&self, address: String) -> Connecting;
}

/// What has come in, and from where.
pub struct Arrival {
    pub connection: Connecting,
    pub from: String,
}

/// The next connection that comes in.
pub type Accepted<'a> = Pin<Box<dyn Future<Output = io::Result<Arrival>> + Send + 'a>>;

/// The other end of the seam: where connections come in.
pub trait Listener: Send + 'static {
    /// Waits for the next one.
    fn accept(&mut self) -> Accepted<'_>;
}

/// Makes a connection of what a peer has opened.
pub trait Taker: Send + Sync + 'static {
    fn take(&self, stream: TcpStream) -> Connecting;
}

/// A TCP port, and what is spoken there.
pub struct Port {
    pub listener: TcpListener,
    pub taker: Arc<dyn Taker>,
}

impl Listener for Port {
    fn accept(&mut self) -> Accepted<'_> {
        Box::pin(async move {
            let (stream, from) = self.listener.accept().await?;
            // It works without, only slower.
            let _ = stream.set_nodelay(true);
            Ok(Arrival {
                connection: self.taker.take(stream),
                from: from.ip().to_string(),
            })
        })
    }
}

/// Plain TCP.
pub struct Tcp;

/// A fatal TLS alert, `protocol_version`: what a node without TLS answers to one with it.
const NO_TLS_HERE: [u8; 7] = [21, 3, 3, 0, 2, 2, 70];

impl Network for Tcp {
    fn dial(&self, address: String) -> Connecting {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(plain(stream))
        })
    }
}

impl Taker for Tcp {
    fn take(&self, stream: TcpStream) -> Connecting {
        Box::pin(async move {
            let mut stream = stream;
            if first_byte(&stream).await? == Some(tls::TLS_FIRST) {
                stream.write_all(&NO_TLS_HERE).await?;
                tls::linger(stream).await;
                return Err(handshake::denied(
                    "the peer speaks TLS, and this node does not: either every node has \
                     cluster.tls.*, or none has",
                ));
            }
            Ok(plain(stream))
        })
    }
}

fn plain(stream: TcpStream) -> Connection {
    Connection {
        stream: Box::new(stream),
        certified: None,
    }
}

/// Looks at the first byte without taking it; `None` when there comes none.
async fn first_byte(stream: &TcpStream) -> io::Result<Option<u8>> {
    let mut first = [0];
    let read = stream.peek(&mut first).await?;
    Ok((read > 0).then_some(first[0]))
}
