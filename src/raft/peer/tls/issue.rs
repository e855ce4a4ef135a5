//! A small authority of one's own: for development, tests, and clusters that have no other.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::name_of;
use crate::model::{NodeId, Span, Time};

/// Clocks differ; a certificate is good from a little before it was made.
const BEFORE: Span = Span::hours(1);
/// Columns of a PEM line.
const PEM_COLUMNS: usize = 64;

/// An authority that can issue.
pub struct Authority {
    key: KeyPair,
    params: CertificateParams,
}

/// A certificate and its key, as PEM.
pub struct Issued {
    pub cert: String,
    pub key: String,
}

type Made<T> = Result<T, String>;

fn failed(e: rcgen::Error) -> String {
    format!("cannot make a certificate: {e}")
}

impl Authority {
    /// A new one, with its certificate.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(now: Time, lives: Span) -> Made<(Authority, Issued)> {
        let key = KeyPair::generate().map_err(failed)?;
        let authority = Authority {
            params: authority(now, lives),
            key,
        };
        let cert = authority
            .params
            .self_signed(&authority.key)
            .map_err(failed)?;
        let issued = Issued {
            cert: pem("CERTIFICATE", cert.der()),
            key: pem("PRIVATE KEY", &authority.key.serialize_der()),
        };
        Ok((authority, issued))
    }

    /// One that was made before, from its key.
    ///
    /// # Errors
    /// When it is no key.
    pub fn from_key(text: &str) -> Made<Authority> {
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|_| "it holds no private key in PEM".to_owned())?;
        Ok(Authority {
            key: KeyPair::try_from(&key).map_err(|e| e.to_string())?,
            // Only its name goes into what it issues.
            params: authority(Time::default(), Span::days(1)),
        })
    }

    /// A certificate of a node, good for both sides of a connection.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn issue(&self, node: NodeId, now: Time, lives: Span) -> Made<Issued> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        let name = name_of(node);
        params.distinguished_name = named(&name);
        let dns = name.as_str().try_into().map_err(failed)?;
        params.subject_alt_names = vec![SanType::DnsName(dns)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        date(&mut params, now, lives);
        let issuer = Issuer::from_params(&self.params, &self.key);
        let cert = params.signed_by(&key, &issuer).map_err(failed)?;
        Ok(Issued {
            cert: pem("CERTIFICATE", cert.der()),
            key: pem("PRIVATE KEY", &key.serialize_der()),
        })
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

fn authority(now: Time, lives: Span) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("horolog cluster authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    date(&mut params, now, lives);
    params
}

/// Valid from a little before now until its end.
fn date(params: &mut CertificateParams, now: Time, lives: Span) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let from = Time(now.0.saturating_sub(BEFORE.0));
    params.not_before = epoch + std::time::Duration::from_millis(from.0);
    params.not_after = epoch + std::time::Duration::from_millis(now.plus(lives).0);
}

fn pem(what: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {what}-----\n");
    let encoded = STANDARD.encode(der);
    for line in encoded.as_bytes().chunks(PEM_COLUMNS) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + &format!("-----END {what}-----\n")
}
