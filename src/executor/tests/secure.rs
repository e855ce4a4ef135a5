//! Over TLS: HTTP/2 when the server offers it, and only to names that the certificate has.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::rig::*;
use crate::executor::*;
use crate::model::*;

fn authority() -> Vec<CertificateDer<'static>> {
    vec![CertificateDer::from_pem_slice(include_bytes!("tls/ca.pem")).unwrap()]
}

fn acceptor(alpn: &[&str]) -> TlsAcceptor {
    let leaf = CertificateDer::from_pem_slice(include_bytes!("tls/leaf.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/leaf.key.pem")).unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Answers with the version, host, length and fence of the request; counts connections.
async fn server(alpn: &[&str]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, acceptor) = (listener.local_addr().unwrap(), acceptor(alpn));
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, count) = (acceptor.clone(), count.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                count.fetch_add(1, SeqCst);
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service_fn(echo))
                    .await;
            });
        }
    });
    (address, connections)
}

async fn echo(
    request: http::Request<Incoming>,
) -> Result<http::Response<Full<bytes::Bytes>>, hyper::Error> {
    let get = |name| {
        request
            .headers()
            .get(name)
            .map_or("", |v| v.to_str().unwrap())
            .to_owned()
    };
    let (length, fence) = (get("content-length"), get("horolog-fence"));
    let version = request.version();
    let body = request.into_body().collect().await?.to_bytes();
    assert_eq!(body.len().to_string(), length);
    let text = format!("{version:?} {length} {fence}");
    Ok(http::Response::new(Full::new(text.into())))
}

fn call(url: &str) -> Call {
    Call {
        node: 7,
        seq: Seq(1),
        fence: fence(0, 1),
        key: Key::new("shop", "order-1").unwrap(),
        due: START,
        started: START,
        http: Http {
            url: url.into(),
            body: Body::Text("hello".into()),
            ..Http::default()
        },
        timeout: Span::seconds(10),
    }
}

#[tokio::test]
async fn http_2_when_offered_on_one_connection_else_http_1() {
    for (alpn, version) in [
        (vec!["h2", "http/1.1"], "HTTP/2.0"),
        (vec!["http/1.1"], "HTTP/1.1"),
    ] {
        let (address, connections) = server(&alpn).await;
        let delivery = HttpDelivery::trusting(&settings(), authority());
        for host in ["localhost", "127.0.0.1"] {
            let url = format!("https://{host}:{}/", address.port());
            for _ in 0..3 {
                let delivered = delivery.deliver(call(&url)).await;
                assert_eq!(delivered.failure, None);
                assert_eq!(
                    delivered.answer.as_deref(),
                    Some(&*format!("{version} 5 1"))
                );
            }
        }
        assert_eq!(connections.load(SeqCst), 2, "one for each name");
    }
}

#[tokio::test]
async fn an_unknown_authority_or_a_wrong_name_is_refused() {
    let (address, _) = server(&["h2"]).await;
    let port = address.port();
    let stranger = HttpDelivery::new(&settings());
    let friend = HttpDelivery::trusting(&settings(), authority());
    for (delivery, host) in [(&stranger, "localhost"), (&friend, "127.0.0.2")] {
        let delivered = delivery
            .deliver(call(&format!("https://{host}:{port}/")))
            .await;
        let failure = delivered.failure.expect("no connection");
        assert_eq!(failure.kind, FailureKind::Connect, "{failure:?}");
    }
}
