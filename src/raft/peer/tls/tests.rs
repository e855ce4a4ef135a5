//! Who talks to whom, and what is said when not: over real sockets, with real certificates.

use bytes::Bytes;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use tokio_util::sync::CancellationToken;

use super::super::Port;
use super::*;
use crate::raft::peer::{
    Answer, CallError, Handler, Hello, Lane, Peers, Secret, Self_, Tcp, serve,
};

const NOW: Time = Time(1_800_000_000_000);
const YEAR: Span = Span::days(365);
const WITHIN: Duration = Duration::from_secs(20);

fn me(node: NodeId) -> Self_ {
    Self_ {
        cluster: 1,
        node,
        incarnation: 1,
    }
}

/// Answers every request with its own body.
struct Echo;

impl Handler for Echo {
    fn me(&self) -> Self_ {
        me(1)
    }
    fn admit(&self, _: &Hello) -> Result<(), String> {
        Ok(())
    }
    fn handle(self: Arc<Self>, _: Arc<Hello>, _: u8, body: Bytes) -> Answer {
        Box::pin(async { Ok(body) })
    }
}

/// An authority with its directory.
struct Site {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Site {
    fn new() -> Site {
        let dir = tempfile::tempdir().unwrap();
        // The handshake itself reads the machine's clock.
        let (authority, issued) = Authority::new(real_now(), YEAR).unwrap();
        std::fs::write(dir.path().join("ca.pem"), issued.cert).unwrap();
        Site { dir, authority }
    }

    /// Files with a certificate of a node.
    fn files(&self, node: NodeId, from: Time, lives: Span) -> TlsFiles {
        let issued = self.authority.issue(node, from, lives).unwrap();
        let file = |name: String, text: &str| {
            let path = self.dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            path
        };
        TlsFiles {
            ca: self.dir.path().join("ca.pem"),
            cert: file(format!("{node}.pem"), &issued.cert),
            key: file(format!("{node}-key.pem"), &issued.key),
        }
    }

    fn tls(&self, node: NodeId) -> Arc<Tls> {
        let files = self.files(node, real_now(), YEAR);
        Arc::new(Tls::load(files, node, real_now()).unwrap())
    }
}

fn real_now() -> Time {
    Time(UnixTime::now().as_secs() * 1000)
}

/// Node 1 takes a connection and node 2 makes it; what came of a call to `to`.
async fn meet(
    ours: Arc<dyn Network>,
    taker: Arc<dyn Taker>,
    (from, to): (NodeId, NodeId),
) -> Result<Bytes, CallError> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let secret = Secret::new(Some("s"));
    let port = Box::new(Port { listener, taker });
    let server = tokio::spawn(serve(port, Arc::new(Echo), secret, stop.clone()));
    let peers = Peers::new(me(from), Secret::new(Some("s")), ours);
    let body = Bytes::from_static(b"hello");
    let answer = peers
        .call((to, &address), Lane::Append, 9, body, WITHIN)
        .await;
    stop.cancel();
    server.await.unwrap();
    answer
}

#[track_caller]
fn refused(answer: Result<Bytes, CallError>, parts: &[&str]) {
    let Err(CallError::Refused { why, .. }) = answer else {
        panic!("{answer:?}");
    };
    for part in parts {
        assert!(why.contains(part), "{part:?} is not in {why:?}");
    }
}

#[tokio::test]
async fn nodes_of_one_authority_meet() {
    let site = Site::new();
    let answer = meet(site.tls(2), site.tls(1), (2, 1)).await;
    assert_eq!(answer.unwrap(), "hello");
    let anybody = meet(site.tls(2), site.tls(1), (2, 0)).await;
    assert_eq!(anybody.unwrap(), "hello");
}

#[tokio::test]
async fn plain_and_tls_do_not_and_both_say_so() {
    let site = Site::new();
    let (tls, plain) = (site.tls(2), Arc::new(Tcp));
    refused(
        meet(plain.clone(), site.tls(1), (2, 1)).await,
        &["speaks TLS", "cluster.tls"],
    );
    refused(
        meet(tls, plain, (2, 1)).await,
        &["does not speak TLS", "cluster.tls"],
    );
}

#[tokio::test]
async fn another_authority_is_refused_by_either_side() {
    let (site, other) = (Site::new(), Site::new());
    // The dialer looks first; the authorities bear the same name.
    let answer = meet(other.tls(2), site.tls(1), (2, 1)).await;
    refused(answer, &["the peer's certificate", "authority"]);
    // A dialer that trusts both is refused by the acceptor, which trusts one.
    let mut files = other.files(2, real_now(), YEAR);
    let both = [&site, &other].map(|s| std::fs::read_to_string(s.dir.path().join("ca.pem")));
    let path = other.dir.path().join("both.pem");
    std::fs::write(&path, both.map(Result::unwrap).concat()).unwrap();
    files.ca = path;
    let trusting = Arc::new(Tls::load(files, 2, real_now()).unwrap());
    let answer = meet(trusting, site.tls(1), (2, 1)).await;
    refused(answer, &["refuses this node's certificate", "authority"]);
}

#[tokio::test]
async fn a_certificate_of_another_node_is_refused_by_either_side() {
    let site = Site::new();
    let answer = meet(site.tls(3), site.tls(1), (2, 1)).await;
    refused(answer, &["node 2 shows the certificate of node 3"]);
    let answer = meet(site.tls(2), site.tls(3), (2, 1)).await;
    refused(answer, &["node 3's certificate is shown where node 1"]);
    let answer = meet(site.tls(2), site.tls(3), (2, 0)).await;
    refused(answer, &["node 1 shows the certificate of node 3"]);
}

#[tokio::test]
async fn one_that_has_expired_meanwhile_is_refused() {
    let site = Site::new();
    let then = Time(real_now().0 - Span::days(10).0);
    let files = site.files(2, then, Span::days(5));
    let stale = Arc::new(Tls::load(files, 2, then).unwrap());
    let answer = meet(stale.clone(), site.tls(1), (2, 1)).await;
    refused(answer, &["refuses this node's certificate", "expired"]);
    let answer = meet(site.tls(1), stale, (1, 2)).await;
    refused(answer, &["the peer's certificate expired at"]);
}

#[tokio::test]
async fn new_certificates_serve_new_connections() {
    let (old, new) = (Site::new(), Site::new());
    let files = old.files(1, real_now(), YEAR);
    let tls = Arc::new(Tls::load(files.clone(), 1, real_now()).unwrap());
    assert!(meet(new.tls(2), tls.clone(), (2, 1)).await.is_err());
    let copy = |from: &Path, to: &Path| {
        std::fs::copy(from, to).unwrap();
    };
    let fresh = new.files(1, real_now(), Span::days(9));
    copy(&fresh.cert, &files.cert);
    let half = tls.reload(real_now()).unwrap_err();
    assert!(half.contains("cluster.tls"), "{half}");
    assert!(
        meet(old.tls(2), tls.clone(), (2, 1)).await.is_ok(),
        "what was, serves on"
    );
    copy(&fresh.key, &files.key);
    copy(&fresh.ca, &files.ca);
    let ends_at = tls.reload(real_now()).unwrap();
    assert!(ends_at < real_now().plus(Span::days(10)) && ends_at == tls.ends_at());
    assert!(meet(new.tls(2), tls, (2, 1)).await.is_ok());
}

#[test]
fn what_cannot_be_used_is_said_with_its_setting_and_its_file() {
    type Bend = fn(&Site, &mut TlsFiles);
    let wrong: [(&str, Bend); 9] = [
        ("cluster.tls.ca: .*cannot be read", |_, f| {
            f.ca = "/nowhere".into()
        }),
        ("cluster.tls.ca: .*holds no certificate", |_, f| {
            f.ca = f.key.clone()
        }),
        ("cluster.tls.cert: .*holds no certificate", |_, f| {
            f.cert = f.key.clone()
        }),
        ("cluster.tls.key: .*holds no private key", |_, f| {
            f.key = f.cert.clone()
        }),
        ("key.pem: is not the key of the certificate", |s, f| {
            f.key = s.files(2, NOW, YEAR).key;
        }),
        ("cluster.tls.key: .*mode 640.*chmod 600", |_, f| {
            std::fs::set_permissions(&f.key, PermissionsExt::from_mode(0o640)).unwrap();
            if std::fs::metadata(&f.key).unwrap().uid() == 0 {
                // Root's may be read by a group; see `only_ours`.
                std::os::unix::fs::chown(&f.key, Some(12_345), None).unwrap();
            }
        }),
        (
            "cluster.tls.cert: .*is node 2's, and this is node 1",
            |s, f| {
                f.cert = s.files(2, NOW, YEAR).cert;
            },
        ),
        ("cluster.tls.cert: .*expired at 2027", |s, f| {
            *f = s.files(1, Time(NOW.0 - Span::days(9).0), Span::days(8));
        }),
        ("cluster.tls.cert: .*authority", |_, f| {
            let other = Site::new();
            std::fs::copy(other.dir.path().join("ca.pem"), &f.ca).unwrap();
        }),
    ];
    for (said, bend) in wrong {
        let site = Site::new();
        let mut files = site.files(1, NOW, YEAR);
        bend(&site, &mut files);
        let Err(why) = Tls::load(files, 1, NOW) else {
            panic!("{said}: it was loaded");
        };
        let mut rest = why.as_str();
        for part in said.split(".*") {
            let at = rest.find(part);
            rest = &rest[at.unwrap_or_else(|| panic!("{said:?} is not in {why:?}")) + part.len()..];
        }
    }
}

#[test]
fn an_authority_issues_again_from_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let (_, issued) = Authority::new(NOW, YEAR).unwrap();
    std::fs::write(dir.path().join("ca.pem"), &issued.cert).unwrap();
    let authority = Authority::from_key(&issued.key).unwrap();
    let site = Site { dir, authority };
    let tls = Tls::load(site.files(7, NOW, YEAR), 7, NOW).unwrap();
    assert_eq!(tls.ends_at(), NOW.plus(YEAR));
    assert!(Authority::from_key("nonsense").is_err());
}

#[test]
fn names_that_are_no_number_name_nobody() {
    assert_eq!(name_of(3), "node-3.horolog");
    for (names, node) in [
        (&["node-3.horolog", "example.org"][..], Some(3)),
        (&["node-03.horolog"], None),
        (&["node-0.horolog"], None),
        (&["node-3.horolog.example.org"], None),
        (&["node-1.horolog", "node-2.horolog"], None),
        (&[], None),
    ] {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let made = rcgen::CertificateParams::new(names.clone()).unwrap();
        let made = made.self_signed(&key).unwrap();
        assert_eq!(node_of(made.der()).ok(), node, "{names:?}");
    }
}
