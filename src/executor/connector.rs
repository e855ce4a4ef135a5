//! Connections: resolve once, check every address, connect to a checked one.
//!
//! The guard sits here and not in front of the resolver, because a resolver hook never sees an
//! address that stands in the URL itself, and because the address that was checked must be the
//! one that is used. No proxy is taken from the environment.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::guard::{Guard, literal};
use super::resolve::Resolver;

/// How long one address may take while there are others to try.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_secs(3);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct ConnectError {
    pub denied: bool,
    pub text: String,
}

impl ConnectError {
    fn new(text: impl Into<String>) -> ConnectError {
        ConnectError {
            denied: false,
            text: text.into(),
        }
    }
}

/// Makes guarded connections.
#[derive(Clone)]
pub(super) struct Connector {
    guard: Arc<Guard>,
    resolver: Resolver,
    tls: TlsConnector,
}

impl Connector {
    /// `roots` are trusted beside the public authorities.
    pub fn new(guard: Guard, roots: Vec<CertificateDer<'static>>) -> Connector {
        Connector {
            guard: Arc::new(guard),
            resolver: Resolver::default(),
            tls: TlsConnector::from(Arc::new(tls_config(roots))),
        }
    }

    async fn connect(self, uri: http::Uri) -> Result<TokioIo<Stream>, ConnectError> {
        let host = uri.host().unwrap_or_default();
        let tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let addresses = self.checked(host).await?;
        let stream = connect_to_any(&addresses, port).await?;
        // Only costs latency when it fails.
        let _ = stream.set_nodelay(true);
        if !tls {
            return Ok(TokioIo::new(Stream::Plain(stream)));
        }
        let bare = host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(bare)
            .map_err(|_| ConnectError::new(format!("{host} is no name for TLS")))?;
        let stream = self
            .tls
            .connect(name, stream)
            .await
            .map_err(|e| ConnectError::new(format!("TLS with {host} failed: {e}")))?;
        Ok(TokioIo::new(Stream::Tls(Box::new(stream))))
    }

    /// The addresses of a host that the guard lets through; an error when there are none.
    async fn checked(&self, host: &str) -> Result<Vec<IpAddr>, ConnectError> {
        let found: Arc<[IpAddr]> = match literal(host) {
            Some(ip) => [ip].into(),
            None => self
                .resolver
                .resolve(host)
                .await
                .map_err(|e| ConnectError::new(&*e))?,
        };
        let mut denied = None;
        let mut allowed = Vec::new();
        for ip in found.iter() {
            match self.guard.check_addr(host, *ip) {
                Ok(()) => allowed.push(*ip),
                Err(why) => denied = denied.or(Some(why)),
            }
        }
        match denied {
            Some(text) if allowed.is_empty() => Err(ConnectError { denied: true, text }),
            None if allowed.is_empty() => {
                Err(ConnectError::new(format!("{host} resolves to no address")))
            }
            _ => Ok(allowed),
        }
    }
}

async fn connect_to_any(addresses: &[IpAddr], port: u16) -> Result<TcpStream, ConnectError> {
    let mut last = ConnectError::new("there is no address");
    for (n, ip) in addresses.iter().enumerate() {
        let address = SocketAddr::new(*ip, port);
        let connect = TcpStream::connect(address);
        let connected = if n + 1 < addresses.len() {
            tokio::time::timeout(NEXT_ADDRESS_AFTER, connect)
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        } else {
            connect.await
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                last = ConnectError::new(format!("connection refused by {address}"));
            }
            Err(error) => last = ConnectError::new(format!("no connection to {address}: {error}")),
        }
    }
    Err(last)
}

fn tls_config(extra: Vec<CertificateDer<'static>>) -> rustls::ClientConfig {
    let mut roots =
        rustls::RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    roots.add_parsable_certificates(extra);
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    #[allow(clippy::expect_used)] // Decided when this is built, not when it runs.
    let mut config = rustls::ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .expect("ring has the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

impl tower::Service<http::Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<TokioIo<Stream>, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let connecting: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(self.clone().connect(uri));
        connecting
    }
}

/// A connection with or without TLS.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Stream::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            _ => Connected::new(),
        }
    }
}

/// Calls a method on whichever stream it is.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Plain($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Stream::Tls($inner) => {
                let $inner = Pin::new(&mut **$inner);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, s => s.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, s => s.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, s => s.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, s => s.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, s => s.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
