//! TLS between nodes: both sides show a certificate of the cluster's own authority, and the
//! certificate names the node.
//!
//! A certificate is node 3's when it carries the DNS name `node-3.horolog`, and no other of that
//! form. What else it names does not matter here: an address may change, the number does not, and
//! the handshake inside compares it with the node that is dialled and the one that speaks.
//!
//! TLS 1.3 only, because both ends are this program. Sessions are not resumed: connections live
//! long, and each one is checked in full. New certificates are read on demand ([`Tls::reload`]);
//! connections that are open stay as they are.
//!
//! The two mistakes that are easily made, TLS on one side only, are told apart by the first byte
//! of a connection, so that both sides can say it.

mod alert;
mod files;
mod issue;
#[cfg(test)]
mod tests;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
};
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Connecting, Connection, Network, Taker};
use crate::model::{NodeId, Span, Time};
use files::Loaded;

pub(crate) use alert::explain;
pub use files::TlsFiles;
pub use issue::{Authority, Issued};

/// From when on a certificate's end is warned of.
const ENDS_SOON: Span = Span::days(14);
/// Content type of a TLS record that carries a handshake: the first byte of any TLS connection.
/// A plain peer begins with the length of its greeting, which is another number.
pub(super) const TLS_FIRST: u8 = 22;
/// After a refusal so much is read and dropped, so that the reason arrives before the end does.
const LINGER_BYTES: u64 = 64 << 10;
const LINGER: Duration = Duration::from_secs(1);

/// The peer network over TLS.
pub struct Tls {
    files: TlsFiles,
    node: NodeId,
    pair: RwLock<Arc<Pair>>,
}

/// What one reading of the files gives.
struct Pair {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    ends_at: Time,
}

impl Tls {
    /// Reads authority, certificate and key, and checks them against each other, the node and
    /// the clock.
    ///
    /// # Errors
    /// Names the setting, the file, and what is wrong with it.
    pub fn load(files: TlsFiles, node: NodeId, now: Time) -> Result<Tls, String> {
        let pair = Pair::load(&files, node, now)?;
        Ok(Tls {
            files,
            node,
            pair: RwLock::new(Arc::new(pair)),
        })
    }

    /// Reads the files again; from then on new connections use what they hold.
    ///
    /// # Errors
    /// As [`Tls::load`]; what was in use stays in use.
    pub fn reload(&self, now: Time) -> Result<Time, String> {
        let pair = Arc::new(Pair::load(&self.files, self.node, now)?);
        let ends_at = pair.ends_at;
        *self.pair.write().unwrap_or_else(PoisonError::into_inner) = pair;
        Ok(ends_at)
    }

    /// When the certificate in use ends.
    pub fn ends_at(&self) -> Time {
        self.pair().ends_at
    }

    fn pair(&self) -> Arc<Pair> {
        let pair = self.pair.read().unwrap_or_else(PoisonError::into_inner);
        pair.clone()
    }
}

impl Pair {
    fn load(files: &TlsFiles, node: NodeId, now: Time) -> Result<Pair, String> {
        let loaded = Loaded::read(files)?;
        let ends_at = loaded.check(files, node, now)?;
        if now.plus(ENDS_SOON) >= ends_at {
            tracing::warn!(
                "{}: ends at {ends_at}; after that no node will talk to this one",
                files.cert.display()
            );
        }
        let unusable = |e: Error| format!("{}: {}", files.key.display(), unusable(e));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (client, server) = loaded.configs(provider).map_err(unusable)?;
        Ok(Pair {
            connector: TlsConnector::from(Arc::new(client)),
            acceptor: TlsAcceptor::from(Arc::new(server)),
            ends_at,
        })
    }
}

fn unusable(e: Error) -> String {
    match e {
        Error::InconsistentKeys(_) => "is not the key of the certificate in cluster.tls.cert; \
             the two are made together"
            .into(),
        e => format!("cannot be used: {e}"),
    }
}

impl Loaded {
    fn configs(self, provider: Arc<CryptoProvider>) -> Result<(ClientConfig, ServerConfig), Error> {
        let versions = &[&rustls::version::TLS13];
        let roots = Arc::new(self.roots);
        let verifier = OfOurAuthority {
            roots: roots.clone(),
            provider: provider.clone(),
        };
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        let both = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|e| Error::General(e.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(both)
            .with_single_cert(self.chain, self.key)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok((client, server))
    }
}

impl Network for Tls {
    fn dial(&self, address: String) -> Connecting {
        let connector = self.pair().connector.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            // Whose certificate it is, is checked by the number in it.
            let name = ServerName::try_from("node.horolog").map_err(io::Error::other)?;
            let stream = connector.connect(name, stream).await?;
            let node = shown(stream.get_ref().1.peer_certificates())?;
            Ok(Connection {
                stream: Box::new(stream),
                certified: Some(node),
            })
        })
    }
}

impl Taker for Tls {
    fn take(&self, stream: TcpStream) -> Connecting {
        let acceptor = self.pair().acceptor.clone();
        Box::pin(async move {
            let mut stream = stream;
            if super::first_byte(&stream).await? != Some(TLS_FIRST) {
                let why = "this node speaks TLS with its peers (cluster.tls.*), and this peer does \
                           not: give every node its certificate";
                super::handshake::refuse(&mut stream, why).await?;
                linger(stream).await;
                return Err(super::handshake::denied(why));
            }
            match acceptor.accept(stream).into_fallible().await {
                Ok(stream) => {
                    let node = shown(stream.get_ref().1.peer_certificates())?;
                    Ok(Connection {
                        stream: Box::new(stream),
                        certified: Some(node),
                    })
                }
                Err((e, stream)) => {
                    linger(stream).await;
                    Err(e)
                }
            }
        })
    }
}

/// Closes so that what was said is heard: a socket closed with bytes unread may take it back.
pub(super) async fn linger(mut stream: TcpStream) {
    // Whatever happens here, the connection is over.
    let _ = stream.shutdown().await;
    let mut rest = stream.take(LINGER_BYTES);
    let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}

fn shown(chain: Option<&[CertificateDer<'_>]>) -> io::Result<NodeId> {
    let none = || super::handshake::denied("the peer showed no certificate");
    let first = chain.and_then(<[_]>::first).ok_or_else(none)?;
    node_of(first).map_err(|why| super::handshake::denied(&format!("the peer's certificate {why}")))
}

/// The name in a node's certificate.
pub(super) fn name_of(node: NodeId) -> String {
    format!("node-{node}.horolog")
}

/// Whose certificate it is.
fn node_of(certificate: &CertificateDer<'_>) -> Result<NodeId, String> {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    let parsed = parsed.map_err(|e| format!("cannot be read: {e}"))?;
    let numbered = |name: &str| -> Option<NodeId> {
        let number = name.strip_prefix("node-")?.strip_suffix(".horolog")?;
        let id = number.parse().ok().filter(|id| *id != 0)?;
        (name_of(id) == name).then_some(id)
    };
    let mut nodes = parsed.valid_dns_names().filter_map(numbered);
    match (nodes.next(), nodes.next()) {
        (Some(node), None) => Ok(node),
        (None, _) => Err(
            "names no node: its subject alternative names need the DNS name \
                          node-N.horolog, with the node's number"
                .into(),
        ),
        (Some(a), Some(b)) => Err(format!("names two nodes, {a} and {b}: each has its own")),
    }
}

/// Accepts any server with a certificate of our authority; the number in it is compared later.
#[derive(Debug)]
struct OfOurAuthority {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OfOurAuthority {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(certificate)?;
        let all = self.provider.signature_verification_algorithms.all;
        let roots = &self.roots;
        verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, all)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
