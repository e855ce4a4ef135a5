//! The three files behind `cluster.tls.*`, read and checked.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, Error, RootCertStore};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::alert::certificate;
use super::{name_of, node_of};
use crate::model::{NodeId, Time};

/// A file of certificates larger than this is none.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where authority, certificate and key of a node are, all as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// One certificate or several: while authorities change, both are trusted.
    pub ca: PathBuf,
    /// The node's certificate, and after it any between it and the authority.
    pub cert: PathBuf,
    /// Its key, which nobody else may read.
    pub key: PathBuf,
}

/// What the files hold.
pub(super) struct Loaded {
    pub roots: RootCertStore,
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Loaded {
    pub fn read(files: &TlsFiles) -> Result<Loaded, String> {
        let (ca, cert, key) = (&*files.ca, &*files.cert, &*files.key);
        let mut roots = RootCertStore::empty();
        for root in certificates("cluster.tls.ca", ca)? {
            let unusable = |e: Error| wrong("cluster.tls.ca", ca, &format!("is no authority: {e}"));
            roots.add(root).map_err(unusable)?;
        }
        let chain = certificates("cluster.tls.cert", cert)?;
        only_ours(key)?;
        let pem = text("cluster.tls.key", key)?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| wrong("cluster.tls.key", key, "holds no private key in PEM"))?;
        Ok(Loaded { roots, chain, key })
    }

    /// Checks the node's own certificate as its peers will; returns when it ends.
    pub fn check(&self, files: &TlsFiles, node: NodeId, now: Time) -> Result<Time, String> {
        let bad = |why: &str| wrong("cluster.tls.cert", &files.cert, why);
        let (first, between) = self.chain.split_first().ok_or_else(|| bad("is empty"))?;
        let named = node_of(first).map_err(|why| bad(&why))?;
        if named != node {
            return Err(bad(&format!(
                "is node {named}'s, and this is node {node}: it needs one that names {}",
                name_of(node)
            )));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let parsed = ParsedCertificate::try_from(first).map_err(|e| bad(&e.to_string()))?;
        let roots = Arc::new(self.roots.clone());
        let algorithms = provider.signature_verification_algorithms.all;
        let as_server = |at: UnixTime| {
            rustls::client::verify_server_cert_signed_by_trust_anchor(
                &parsed, &roots, between, at, algorithms,
            )
        };
        let as_client =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
                .build()
                .map_err(|e| bad(&e.to_string()))?;
        let at = UnixTime::since_unix_epoch(Duration::from_millis(now.0));
        let told = |e: Error| match e {
            Error::InvalidCertificate(why) => bad(&certificate(&why)),
            e => bad(&format!("is not good: {e}")),
        };
        as_server(at).map_err(told)?;
        let client = as_client.verify_client_cert(first, between, at);
        client.map_err(|e| format!("{} (it must be good for servers and clients)", told(e)))?;
        // Its end is told by a question about the last day that there is.
        let last = UnixTime::since_unix_epoch(Duration::from_millis(Time::MAX.0));
        match as_server(last) {
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext {
                not_after, ..
            })) => Ok(Time(not_after.as_secs().saturating_mul(1000))),
            _ => Ok(Time::MAX),
        }
    }
}

fn wrong(key: &str, path: &Path, why: &str) -> String {
    format!("{key}: {}: {why}", path.display())
}

fn text(key: &str, path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |e: std::io::Error| wrong(key, path, &format!("cannot be read: {e}"));
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES_MAX {
        return Err(wrong(key, path, "is too large to be PEM"));
    }
    std::fs::read(path).map_err(unreadable)
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = text(key, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(wrong(key, path, "holds no certificate in PEM")),
        Err(e) => Err(wrong(key, path, &format!("is damaged: {e}"))),
    }
}

/// A key is read by its owner; by a group only where root owns it, as mounted secrets are.
fn only_ours(path: &Path) -> Result<(), String> {
    let unreadable =
        |e: std::io::Error| wrong("cluster.tls.key", path, &format!("cannot be read: {e}"));
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    let mode = meta.mode() & 0o777;
    let open = match meta.uid() {
        0 => mode & 0o037,
        _ => mode & 0o077,
    };
    if open == 0 {
        return Ok(());
    }
    Err(wrong(
        "cluster.tls.key",
        path,
        &format!("others may read or change it (mode {mode:03o}): chmod 600 it"),
    ))
}
