//! The accept loop: HTTP/1.1 and HTTP/2 on one listener, with a bound on everything.
//!
//! A client can be slow in four places, and each has its clock: the first byte, the request head,
//! the body, and the connection as a whole (which also covers a client that reads no answer).
//! At shutdown nothing new is accepted, and what runs gets a grace to finish.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use super::access::Remote;
pub use super::idle::IDLE;
use super::idle::{IdleBody, IdleStream};

/// The bounds of the accept loop.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; the next ones wait in the listener's queue.
    pub connections: usize,
    /// For the first byte and for a request's head; also how long a kept connection may rest.
    pub head: Duration,
    /// Between two pieces of a body.
    pub body: Duration,
    /// Without a byte in either direction. Longer than any `?wait=`.
    pub idle: Duration,
    /// For what runs when the stop signal comes.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 4_096,
            head: Duration::from_secs(30),
            body: Duration::from_secs(30),
            idle: Duration::from_secs(180),
            grace: Duration::from_secs(5),
        }
    }
}

/// Largest request head over HTTP/1, and header list over HTTP/2.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// After a failed accept (too many open files), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop` is done, then finishes what runs, up to the grace.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let builder = Arc::new(builder(&limits));
    let slots = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, remote, slot)) = accepted else {
            pause().await;
            continue;
        };
        let (router, builder) = (router.clone(), Arc::clone(&builder));
        let watcher = graceful.watcher();
        connections.spawn(async move {
            let _slot = slot;
            let service = service(router, remote, limits.body);
            let io = TokioIo::new(IdleStream::new(stream, limits.head, limits.idle));
            let connection = builder.serve_connection(io, service).into_owned();
            // A broken connection is the client's affair.
            let _ = watcher.watch(connection).await;
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.grace, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("requests were still running after the grace; their connections are closed");
    }
    connections.shutdown().await;
}

/// There is nothing to wait for but that somebody else closes a file.
#[allow(clippy::disallowed_methods)] // reason: see above
async fn pause() {
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

type Slot = tokio::sync::OwnedSemaphorePermit;

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, Slot)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, remote)) => {
            // Answers are small and awaited: Nagle's delay would be all of their latency.
            let _ = stream.set_nodelay(true);
            Some((stream, remote, slot))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            None
        }
    }
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_BYTES_MAX * 2);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(limits.head)
        .keep_alive_timeout(limits.head);
    builder
}

fn service(
    router: Router,
    remote: SocketAddr,
    idle: Duration,
) -> TowerToHyperService<
    impl tower::Service<
        Request<Incoming>,
        Response = axum::response::Response,
        Error = std::convert::Infallible,
        Future = axum::routing::future::RouteFuture<std::convert::Infallible>,
    > + Clone,
> {
    TowerToHyperService::new(router.map_request(move |request: Request<Incoming>| {
        let mut request = request.map(|body| match body.is_end_stream() {
            true => Body::empty(),
            false => Body::new(IdleBody::new(body, idle)),
        });
        request.extensions_mut().insert(Remote(remote));
        request
    }))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // reason: sockets keep real time
mod tests {
    use super::*;
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn limits() -> Limits {
        Limits {
            connections: 8,
            head: Duration::from_millis(150),
            body: Duration::from_millis(150),
            idle: Duration::from_secs(60),
            grace: Duration::from_secs(5),
        }
    }

    /// A server on a free port, and the way to stop it.
    async fn start() -> (
        SocketAddr,
        tokio::sync::oneshot::Sender<()>,
        tokio::task::JoinHandle<()>,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let slow = get(|| async {
            BEGUN.notify_one();
            tokio::time::sleep(Duration::from_millis(200)).await;
            "slow"
        });
        let read = post(|body: Body| async {
            super::super::body::read(body, 100)
                .await
                .map(|bytes| bytes.len().to_string())
        });
        let router = Router::new().route("/slow", slow).route("/read", read);
        let server = tokio::spawn(serve(listener, router, limits(), async {
            let _ = stopped.await;
        }));
        (address, stop, server)
    }

    async fn send(address: SocketAddr, text: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    /// The slow request has reached its handler.
    static BEGUN: tokio::sync::Notify = tokio::sync::Notify::const_new();

    #[tokio::test]
    async fn what_runs_at_shutdown_is_finished() {
        let (address, stop, server) = start().await;
        let request =
            tokio::spawn(
                async move { send(address, "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await },
            );
        BEGUN.notified().await;
        stop.send(()).unwrap();
        assert!(request.await.unwrap().ends_with("slow"));
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn slow_clients_are_let_go() {
        let (address, _stop, _server) = start().await;
        // No byte at all, half a version, half a head: closed.
        for text in ["", "P", "PRI * HT", "GET /slow HT"] {
            let answer = tokio::time::timeout(Duration::from_secs(5), send(address, text));
            let answer = answer.await.expect("the connection's end");
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
                "{answer}"
            );
        }
        let stuck = send(
            address,
            "POST /read HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab",
        )
        .await;
        assert!(stuck.starts_with("HTTP/1.1 408"), "{stuck}");
    }

    #[tokio::test]
    async fn an_oversized_body_is_read_so_that_the_answer_is_seen() {
        let (address, _stop, _server) = start().await;
        let body = "x".repeat(4 << 20);
        let head = format!(
            "POST /read HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let answer = send(address, &(head + &body)).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
}
