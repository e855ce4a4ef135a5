//! Node to node: framed calls over TCP, one connection per lane.
//!
//! ```text
//! dialer                                   acceptor
//!   Hello { version, cluster, from, to, incarnation, lane, nonce } ─►
//!                    ◄─ Welcome { node, incarnation, nonce, proof } | a refusal
//!   Proof ─►
//!   frame: length u32 | crc32c u32 | id u64 | kind u8 | body    ◄─► the same, answering by id
//! ```
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

use std::io;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use accept::{Answer, Handler, serve};
pub(crate) use dial::Peers;
pub(crate) use handshake::{Hello, Secret, Self_};
pub(crate) use link::CallError;

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

/// A connection in the making.
pub type Dialled = Pin<Box<dyn Future<Output = io::Result<Box<dyn Duplex>>> + Send>>;

/// The next connection that comes in.
pub type Accepted<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Duplex>>> + Send + 'a>>;

/// The peer network, as a seam: how connections are made.
pub trait Network: Send + Sync + 'static {
    /// Connects to a peer address.
    fn dial(&self, address: String) -> Dialled;
}

/// The other end of the seam: where connections come in.
pub trait Listener: Send + 'static {
    /// Waits for the next one.
    fn accept(&mut self) -> Accepted<'_>;
}

impl Listener for tokio::net::TcpListener {
    fn accept(&mut self) -> Accepted<'_> {
        Box::pin(async move {
            let (stream, _) = tokio::net::TcpListener::accept(self).await?;
            // It works without, only slower.
            let _ = stream.set_nodelay(true);
            Ok(Box::new(stream) as Box<dyn Duplex>)
        })
    }
}

/// Plain TCP.
pub struct Tcp;

impl Network for Tcp {
    fn dial(&self, address: String) -> Dialled {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Duplex>)
        })
    }
}
