//! What a failed TLS handshake means to whoever operates the nodes.

use rustls::{AlertDescription as Alert, CertificateError, Error};
use std::io;

use super::super::handshake::denied;
use crate::model::Time;

/// Turns an error of a connection into one that says what to change; others pass unchanged.
///
/// What the other side found comes as an alert, after this side's part of the handshake went well.
pub(crate) fn explain(e: io::Error) -> io::Error {
    let inner = e.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(why)) => {
            denied(&format!("the peer's certificate {}", certificate(why)))
        }
        Some(Error::AlertReceived(alert)) => denied(&refused(*alert)),
        Some(Error::NoCertificatesPresented) => denied("the peer showed no certificate"),
        Some(Error::InvalidMessage(_)) => {
            denied("the peer does not speak TLS: either every node has cluster.tls.*, or none has")
        }
        Some(other) => denied(&format!("TLS failed: {other}")),
        None => e,
    }
}

/// Why a certificate is not good, as the rest of a sentence.
pub(super) fn certificate(why: &CertificateError) -> String {
    let at = |time: &rustls::pki_types::UnixTime| Time(time.as_secs().saturating_mul(1000));
    match why {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("expired at {}: issue a new one", at(not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "is not valid before {}: one of the clocks is wrong, or it was issued too early",
            at(not_before)
        ),
        CertificateError::UnknownIssuer => {
            "was issued by another authority than the one in cluster.tls.ca".into()
        }
        CertificateError::BadSignature => {
            "is not signed by the authority in cluster.tls.ca, only named so: an authority that \
             was made anew needs new certificates"
                .into()
        }
        other => format!("is not good: {other}"),
    }
}

fn refused(alert: Alert) -> String {
    let why = match alert {
        Alert::CertificateExpired => "it has expired, or its clock is behind",
        Alert::UnknownCA => "it was issued by another authority than the peer's cluster.tls.ca",
        Alert::DecryptError => {
            "it is not signed by the peer's authority, only named so: an authority that was made \
             anew needs new certificates"
        }
        Alert::CertificateRequired => "there was none",
        Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown => {
            "it is not good for this"
        }
        // What a node without TLS answers; see `Tcp::accept`.
        Alert::ProtocolVersion => {
            return "the peer does not speak TLS: either every node has cluster.tls.*, or none has"
                .into();
        }
        other => return format!("the peer ended the TLS handshake: {other:?}"),
    };
    format!("the peer refuses this node's certificate: {why}")
}
