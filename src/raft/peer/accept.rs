//! Connections from peers.

use bytes::Bytes;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::frame::{FAILED, Frame};
use super::handshake::{self, Hello, Secret, Self_};
use super::refusals::Refusals;
use super::tls::explain;
use super::{Arrival, Connecting, Connection, Listener};

/// A peer that has not introduced itself by then is let go.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Requests of one connection that are worked on at once.
const CALLS_MAX: usize = 512;
/// Connections at once: four lanes for each of a few dozen nodes.
const CONNECTIONS_MAX: usize = 512;

/// An answer in the making, or why there is none: the caller is told that at once, because what
/// it would wait for in vain may be short of time, or hold up others.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

/// What answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Who this node is at present.
    fn me(&self) -> Self_;
    /// Why this dialer is not wanted.
    fn admit(&self, hello: &Hello) -> Result<(), String>;
    /// Works on one request.
    fn handle(self: Arc<Self>, hello: Arc<Hello>, kind: u8, body: Bytes) -> Answer;
}

/// Accepts connections until told to stop.
pub(crate) async fn serve(
    mut listener: Box<dyn Listener>,
    handler: Arc<impl Handler>,
    secret: Secret,
    stop: CancellationToken,
) {
    let refusals = Arc::new(Refusals::default());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tracker = tokio_util::task::TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        match accepted {
            Ok(Arrival { connection, from }) => {
                let (handler, secret, stop) = (handler.clone(), secret.clone(), stop.clone());
                let refusals = refusals.clone();
                tracker.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        ended = attend(connection, handler, secret) => match ended {
                            // A reason of ours, and nobody else may be looking at this.
                            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                                refusals.warn(&from, &format!("a peer at {from} is refused: {e}"));
                            }
                            Err(e) => tracing::debug!("peer connection ended: {e}"),
                            Ok(()) => {}
                        }
                    }
                    drop(place);
                });
            }
            // Out of descriptors, most likely: leave the others time to end.
            Err(e) => {
                tracing::warn!("cannot accept a peer: {e}");
                tokio::task::yield_now().await;
            }
        }
    }
    tracker.close();
    tracker.wait().await;
}

async fn attend(taken: Connecting, handler: Arc<impl Handler>, secret: Secret) -> io::Result<()> {
    let greet = async {
        let Connection {
            mut stream,
            certified,
        } = taken.await.map_err(explain)?;
        let (me, admit) = (handler.me(), |hello: &Hello| handler.admit(hello));
        let hello = handshake::accept(&mut *stream, me, certified, &secret, admit).await;
        hello
            .map_err(explain)
            .map(|hello| (Arc::new(hello), stream))
    };
    let (hello, stream) = match tokio::time::timeout(HANDSHAKE_MAX, greet).await {
        Ok(greeted) => greeted?,
        Err(_) => return Err(io::Error::other("no handshake in time")),
    };
    let (read, write) = tokio::io::split(stream);
    let (answers, inbox) = mpsc::channel(CALLS_MAX);
    let sender = send(BufWriter::new(write), inbox);
    let receiver = async {
        let mut read = BufReader::with_capacity(64 << 10, read);
        let places = Arc::new(Semaphore::new(CALLS_MAX));
        loop {
            let frame = Frame::read(&mut read).await?;
            let Ok(place) = places.clone().acquire_owned().await else {
                return Ok(());
            };
            let answer = handler
                .clone()
                .handle(hello.clone(), frame.kind, frame.body);
            let answers = answers.clone();
            tokio::spawn(async move {
                let (kind, body) = match answer.await {
                    Ok(body) => (frame.kind, body),
                    Err(why) => (FAILED, why.into()),
                };
                let id = frame.id;
                // The connection may have ended meanwhile.
                let _ = answers.send(Frame { id, kind, body }).await;
                drop(place);
            });
        }
    };
    tokio::select! {
        ended = sender => ended,
        ended = receiver => ended,
    }
}

async fn send(
    mut write: impl tokio::io::AsyncWrite + Unpin,
    mut inbox: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    while let Some(frame) = inbox.recv().await {
        frame.write(&mut write).await?;
        while let Ok(frame) = inbox.try_recv() {
            frame.write(&mut write).await?;
        }
        write.flush().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Port;
    use super::*;
    use crate::raft::peer::{CallError, Lane, Peers, Tcp};

    const ME: Self_ = Self_ {
        cluster: 0,
        node: 1,
        incarnation: 1,
    };

    struct NotYet;

    impl Handler for NotYet {
        fn me(&self) -> Self_ {
            ME
        }
        fn admit(&self, _: &Hello) -> Result<(), String> {
            Ok(())
        }
        fn handle(self: Arc<Self>, _: Arc<Hello>, _: u8, _: Bytes) -> Answer {
            Box::pin(async { Err("not yet".into()) })
        }
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_begun_with_is_answered_at_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let server = serve(
            Box::new(Port {
                listener,
                taker: Arc::new(Tcp),
            }),
            Arc::new(NotYet),
            Secret::default(),
            stop.clone(),
        );
        let server = tokio::spawn(server);
        let peers = Peers::new(ME, Secret::default(), Arc::new(Tcp));
        let long = Duration::from_secs(60);
        let answer = peers
            .call((1, &address), Lane::Urgent, 1, Bytes::new(), long)
            .await;
        assert!(
            matches!(&answer, Err(CallError::Failed { why, .. }) if why == "not yet"),
            "{answer:?}"
        );
        stop.cancel();
        server.await.unwrap();
    }
}
