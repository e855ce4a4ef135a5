//! Over real sockets: what is sent, and what each kind of answer comes to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::rig::*;
use crate::executor::*;
use crate::model::*;

/// What the little server does with a request for a path.
#[derive(Clone)]
enum Reply {
    Bytes(Vec<u8>),
    /// These bytes, then the end of the connection.
    Last(Vec<u8>),
    Hang,
}

struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
}

impl Server {
    async fn start(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            connections: Arc::default(),
        };
        let (requests, connections) = (server.requests.clone(), server.connections.clone());
        let reply = Arc::new(reply);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *connections.lock().unwrap() += 1;
                tokio::spawn(serve(stream, requests.clone(), reply.clone()));
            }
        });
        server
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn serve(
    mut stream: TcpStream,
    requests: Arc<Mutex<Vec<String>>>,
    reply: Arc<impl Fn(&str) -> Reply>,
) {
    while let Some(request) = read_request(&mut stream).await {
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        requests.lock().unwrap().push(request);
        match reply(&path) {
            Reply::Bytes(bytes) => stream.write_all(&bytes).await.unwrap_or_default(),
            Reply::Last(bytes) => {
                return stream.write_all(&bytes).await.unwrap_or_default();
            }
            Reply::Hang => std::future::pending().await,
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = header(head, "content-length").expect("a content-length always");
            if body.len() >= length.parse().unwrap() {
                return Some(text);
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let lines = request.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .next()
}

fn answer(head: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Bytes(format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}").into())
}

fn http(url: &str) -> Http {
    Http {
        url: url.into(),
        ..Http::default()
    }
}

fn call(http: Http) -> Call {
    Call {
        node: 7,
        seq: Seq(17),
        fence: fence(3, 2),
        key: Key::new("shop", "order-17").unwrap(),
        due: Time(1_700_000_000_123),
        started: Time(1_700_000_001_999),
        timeout: http.timeout.unwrap_or(Span::seconds(10)),
        http,
    }
}

async fn deliver(http: Http) -> Delivered {
    HttpDelivery::new(&settings()).deliver(call(http)).await
}

fn failure(delivered: &Delivered) -> (FailureKind, &str) {
    let failure = delivered.failure.as_ref().expect("a failure");
    (failure.kind, &failure.text)
}

#[tokio::test]
async fn the_request_is_as_the_contract_says() {
    let server = Server::start(|_| answer("200 OK", "thanks")).await;
    let mut target = http(&server.url("/hook?x=1"));
    target.body = Body::Json("{\"a\":1}".into());
    target.headers.insert("X-Own".into(), "yes".into());
    let delivered = deliver(target).await;
    assert_eq!(
        (delivered.status, delivered.answer.as_deref()),
        (200, Some("thanks"))
    );
    let request = server.requests.lock().unwrap()[0].clone();
    assert!(request.starts_with("POST /hook?x=1 HTTP/1.1\r\n"));
    assert!(request.ends_with("\r\n\r\n{\"a\":1}"));
    let host = server.address.to_string();
    for (name, value) in [
        ("host", host.as_str()),
        ("content-length", "7"),
        ("content-type", "application/json"),
        ("x-own", "yes"),
        ("webhook-timestamp", "1700000001"),
        ("Horolog-App", "shop"),
        ("Horolog-Task", "order-17"),
        ("Horolog-Attempt", "2"),
        ("Horolog-Due", "2023-11-14T22:13:20.123Z"),
        ("Horolog-Fence", "12884901890"),
    ] {
        assert_eq!(header(&request, name), Some(value), "{name}");
    }
    assert!(
        header(&request, "user-agent")
            .unwrap()
            .starts_with("horolog/")
    );
    let id = header(&request, "webhook-id").unwrap();
    assert!(id.starts_with("task_") && id.ends_with("_17") && !id.contains('.'));
}

#[tokio::test]
async fn there_is_a_length_without_a_body_and_the_task_s_own_type_stands() {
    let server = Server::start(|_| answer("200 OK", "")).await;
    for method in ["GET", "POST", "DELETE", "PUT"] {
        let mut target = http(&server.url("/"));
        target.method = Some(method.into());
        assert_eq!(deliver(target).await.status, 200);
        let request = server.requests.lock().unwrap().pop().unwrap();
        assert!(request.starts_with(method));
        assert_eq!(header(&request, "content-length"), Some("0"));
    }
    let mut target = http(&server.url("/"));
    target.body = Body::Json("1".into());
    target
        .headers
        .insert("content-type".into(), "application/x+json".into());
    target.headers.insert("user-agent".into(), "mine".into());
    deliver(target).await;
    let request = server.requests.lock().unwrap().pop().unwrap();
    assert_eq!(header(&request, "content-type"), Some("application/x+json"));
    assert_eq!(header(&request, "user-agent"), Some("mine"));
    assert_eq!(request.matches("user-agent").count(), 1);
}

#[tokio::test]
async fn connections_are_kept() {
    let server = Server::start(|_| answer("200 OK", "x")).await;
    let delivery = HttpDelivery::new(&settings());
    for _ in 0..5 {
        assert_eq!(
            delivery.deliver(call(http(&server.url("/")))).await.status,
            200
        );
        tokio::task::yield_now().await;
    }
    assert_eq!(*server.connections.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let server = Server::start(|_| answer("302 Found\r\nlocation: /elsewhere", "")).await;
    assert_eq!(deliver(http(&server.url("/"))).await.status, 302);
    assert_eq!(server.requests.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_time_out_covers_the_answer_to_its_end() {
    let server = Server::start(|path| match path {
        "/silent" => Reply::Hang,
        _ => Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".into()),
    })
    .await;
    for (path, status) in [("/silent", 0), ("/half", 200)] {
        let mut target = http(&server.url(path));
        target.timeout = Some(Span::millis(60));
        let delivered = deliver(target).await;
        assert_eq!(
            failure(&delivered),
            (FailureKind::Timeout, "timed out after 60ms")
        );
        assert_eq!(delivered.status, status);
    }
}

#[tokio::test]
async fn half_an_answer_is_a_failure() {
    let server = Server::start(|path| match path {
        "/none" => Reply::Last(Vec::new()),
        "/rubbish" => Reply::Last(b"SSH-2.0-x\r\n\r\n".into()),
        _ => Reply::Last(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".into()),
    })
    .await;
    let delivered = deliver(http(&server.url("/half"))).await;
    assert_eq!(
        (delivered.status, delivered.answer.as_deref()),
        (200, Some("half"))
    );
    assert_eq!(failure(&delivered).0, FailureKind::Broken);
    for path in ["/none", "/rubbish"] {
        let delivered = deliver(http(&server.url(path))).await;
        assert_eq!(
            (delivered.status, failure(&delivered).0),
            (0, FailureKind::Broken)
        );
    }
}

#[tokio::test]
async fn a_huge_answer_is_no_error_and_only_its_beginning_is_kept() {
    let huge = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}",
        1u64 << 40,
        "ä".repeat(1 << 20)
    );
    let server = Server::start(move |_| Reply::Bytes(huge.clone().into())).await;
    let delivered = deliver(http(&server.url("/"))).await;
    assert_eq!((delivered.status, &delivered.failure), (200, &None));
    let answer = delivered.answer.unwrap();
    assert_eq!(answer.len(), 1024);
    assert!(answer.chars().all(|c| c == 'ä'));
}

#[tokio::test]
async fn no_connection_says_why() {
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let delivered = deliver(http(&format!("http://{free}/"))).await;
    let refused = format!("connection refused by {free}");
    assert_eq!(
        failure(&delivered),
        (FailureKind::Connect, refused.as_str())
    );

    let server = Server::start(|_| answer("200 OK", "")).await;
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let https = format!("https://{}/", plain.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let delivered = deliver(http(&https)).await;
    assert_eq!(failure(&delivered).0, FailureKind::Connect);
    assert!(
        failure(&delivered)
            .1
            .starts_with("TLS with 127.0.0.1 failed")
    );
    drop(server);
}

#[tokio::test]
async fn the_guard_sees_every_address_that_is_connected_to() {
    let server = Server::start(|_| answer("200 OK", "")).await;
    let mut settings = settings();
    settings.guard = Guard::default();
    let delivery = HttpDelivery::new(&settings);
    let port = server.address.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "[::ffff:127.0.0.1]",
    ] {
        let delivered = delivery
            .deliver(call(http(&format!("http://{host}:{port}/"))))
            .await;
        let (kind, text) = failure(&delivered);
        assert_eq!(kind, FailureKind::Denied, "{host}: {text}");
        assert!(text.contains("callbacks.allow"), "{host}: {text}");
    }
    settings.guard.allow = vec![Rule::parse("127.0.0.0/8").unwrap()];
    let delivery = HttpDelivery::new(&settings);
    for host in ["127.0.0.1", "localhost"] {
        let delivered = delivery
            .deliver(call(http(&format!("http://{host}:{port}/"))))
            .await;
        assert_eq!(delivered.status, 200, "{host} {delivered:?}");
    }
    assert_eq!(server.requests.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_pooled_connection_that_was_closed_is_replaced() {
    let server =
        Server::start(|_| Reply::Last(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx".into()))
            .await;
    let delivery = HttpDelivery::new(&settings());
    for n in 1..5 {
        let delivered = delivery.deliver(call(http(&server.url("/")))).await;
        assert_eq!((delivered.status, delivered.failure), (200, None), "{n}");
        until(|| *server.connections.lock().unwrap() == n).await;
        // The end of the connection arrives with the answer or a moment after it.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// From the change to the event, over a real socket.
#[tokio::test(flavor = "multi_thread")]
async fn each_status_becomes_its_event() {
    let server = Server::start(|path| match path {
        "/429" => answer("429 Slow\r\nretry-after: 7", ""),
        _ => answer(&format!("{} Said", &path[1..]), "because"),
    })
    .await;
    let clock = Driven::new();
    let log = Arc::new(Log::default());
    let (sender, mut outcomes) = tokio::sync::mpsc::channel(16);
    let delivery = Arc::new(HttpDelivery::new(&settings()));
    let executor = Executor::start(settings(), clock.clone(), log.source(), delivery, sender);
    executor.renew_lease(clock.steady());
    let statuses = [200, 204, 202, 301, 404, 410, 429, 489, 500, 503];
    for status in statuses {
        let url = server.url(&format!("/{status}"));
        executor.changed(&[log.trigger(status, fence(1, 1), START, &spec(&url))]);
    }
    let mut told = HashMap::new();
    for _ in statuses {
        let (seq, text, end) = match outcomes.recv().await.unwrap() {
            Event::Done(e) => (e.seq.0, "done".to_owned(), e.end),
            Event::Accepted(e) => (e.seq.0, "accepted".to_owned(), e.end),
            Event::Failed(e) => (e.seq.0, format!("{:?}", e.verdict), e.end),
            other => panic!("{other:?}"),
        };
        assert_eq!(u64::from(end.status), seq);
        assert_eq!(
            end.error.is_some(),
            text.contains(char::is_uppercase),
            "{end:?}"
        );
        told.insert(seq, text);
    }
    let retry = |ms| format!("Retry {{ not_before: Span({ms}) }}");
    for (status, text) in [
        (200, "done".into()),
        (204, "done".into()),
        (202, "accepted".into()),
        (301, retry(0)),
        (404, retry(0)),
        (410, "Final".into()),
        (429, retry(7_000)),
        (489, "Final".into()),
        (500, retry(0)),
        (503, retry(0)),
    ] {
        assert_eq!(told[&status], text, "{status}");
    }
    let results = executor.metrics().results;
    assert_eq!(
        (results.done, results.accepted, results.failed_status),
        (2, 1, 7)
    );
    executor.stop(THREADS).await;
}
