//! Who may do what, where callbacks may go, and the line that each request leaves.

use serde_json::{Value, json};
use std::net::{IpAddr, ToSocketAddrs};

use super::http::{Answer, send};
use super::node::{Node, cli, free, until};
use super::receiver::receiver;
use super::task::{PATIENCE, task, with};

const TOKEN: (&str, &str) = ("HOROLOG_API_TOKEN", "t0ken");
const SECRET: (&str, &str) = ("HOROLOG_CLUSTER_SECRET", "s3cret");

fn ask(node: &Node, method: &str, path: &str, bearer: Option<&str>, body: &Value) -> Answer {
    let bearer = bearer.map(|b| format!("Bearer {b}"));
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(bearer.as_deref().map(|b| ("authorization", b)));
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    send(node.http, method, path, &headers, body.as_bytes())
}

#[test]
fn each_path_asks_for_its_credential() {
    let node = Node::start(&[TOKEN, SECRET]);
    for path in ["/livez", "/readyz"] {
        node.get(path).expect(200);
    }
    for (method, path) in [
        ("GET", "/v1/tasks"),
        ("POST", "/v1/tasks"),
        ("POST", "/v1/tasks/batch"),
        ("GET", "/v1/cluster"),
        ("POST", "/v1/cluster/nodes"),
        ("DELETE", "/v1/cluster/nodes/1"),
        ("POST", "/v1/cluster/nodes/1/replace"),
        ("POST", "/v1/cluster/lead"),
        ("GET", "/v1/stats"),
        ("POST", "/submit"),
        ("GET", "/uuid"),
        ("POST", "/api/task/done"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/nowhere"),
        ("POST", "/inner/submit"),
        ("POST", "/execute"),
        ("POST", "/done"),
        ("POST", "/shard/create"),
    ] {
        let inner = ["/inner", "/exec", "/done", "/shard"]
            .iter()
            .any(|p| path.starts_with(p));
        let (right, wrong) = if inner {
            ("s3cret", "t0ken")
        } else {
            ("t0ken", "s3cret")
        };
        for bearer in [None, Some(wrong), Some("t0ken2"), Some("")] {
            let refused = ask(&node, method, path, bearer, &Value::Null);
            assert_eq!(refused.status, 401, "{path} {bearer:?}");
            assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
            assert!(!refused.text().contains(right), "{}", refused.text());
        }
        let passed = ask(&node, method, path, Some(right), &Value::Null);
        assert_ne!(passed.status, 401, "{path}");
    }
    let refused = ask(&node, "POST", "/submit", None, &Value::Null).json();
    assert_eq!(
        (&refused["code"], &refused["success"]),
        (&json!(401), &json!(false))
    );
    ask(&node, "GET", "/v1/tasks", None, &Value::Null).problem(401);
    // The principal stands in the history.
    let sent = with(
        task("a-by", "a", "http://127.0.0.1:9/"),
        json!({ "delay": "1h" }),
    );
    ask(&node, "POST", "/v1/tasks", Some("t0ken"), &sent).expect(201);
    let events = ask(
        &node,
        "GET",
        "/v1/tasks/a-by/a/events",
        Some("t0ken"),
        &Value::Null,
    )
    .json();
    assert_eq!(events["events"][0]["by"], "token");
    assert!(!node.log().contains("t0ken") && !node.log().contains("s3cret"));
    // The command line hands the token on.
    let words = [
        "task",
        "get",
        "a-by",
        "a",
        "--json",
        "--server",
        &node.url(),
    ];
    assert_eq!(cli(&words, &[]).code, Some(1));
    assert_eq!(cli(&words, &[("HOROLOG_TOKEN", "t0ken")]).json()["id"], "a");
}

#[test]
fn beyond_loopback_nothing_starts_without_both() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let (http, peer) = (free().port(), free());
    let (everywhere, peer) = (format!("0.0.0.0:{http}"), peer.to_string());
    let words = [
        "serve",
        "--id",
        "1",
        "--dir",
        dir,
        "--http",
        &everywhere,
        "--peer",
        &peer,
    ];
    for (variables, named) in [
        (&[][..], &["cluster.secret", "api.token"][..]),
        (&[TOKEN], &["cluster.secret"]),
        (&[SECRET], &["api.token"]),
    ] {
        let ran = cli(&words, variables);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(named.iter().all(|name| ran.err.contains(name)), "{ran:?}");
        assert!(ran.out.is_empty());
    }
    let words = [
        "serve",
        "--id",
        "1",
        "--dir",
        dir,
        "--http",
        "127.0.0.1:0",
        "--peer",
        "0.0.0.0:0",
    ];
    assert_eq!(cli(&words, &[]).code, Some(1));
}

#[test]
fn unknown_settings_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("horolog.toml");
    std::fs::write(&file, "[callbacks]\nper_tagret = 3\n").unwrap();
    let words = ["serve", "--config", file.to_str().unwrap()];
    let ran = cli(&words, &[]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("callbacks.per_tagret"), "{ran:?}");
    let ran = cli(&["serve"], &[("HOROLOG_CALLBACKS_PER_TAGRET", "3")]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("HOROLOG_CALLBACKS_PER_TAGRET"), "{ran:?}");
}

#[test]
fn secrets_come_from_files_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "t0ken\n").unwrap();
    let node = Node::start(&[("HOROLOG_API_TOKEN_FILE", file.to_str().unwrap())]);
    ask(&node, "GET", "/v1/stats", None, &Value::Null).problem(401);
    ask(&node, "GET", "/v1/stats", Some("t0ken"), &Value::Null).expect(200);
    // A token alone guards the inner paths too.
    assert_eq!(ask(&node, "POST", "/done", None, &Value::Null).status, 401);
}

/// A name that only this machine's resolver knows, and that leads to a private address.
fn private_name() -> Option<String> {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let listed = hosts.lines().flat_map(|line| {
        line.split('#')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .skip(1)
    });
    let mut names = listed
        .chain([own.trim()])
        .filter(|n| !n.is_empty() && !n.contains("localhost.") && *n != "localhost");
    let inner = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private(),
        IpAddr::V6(ip) => ip.is_loopback(),
    };
    let found = names.find(|name| {
        let all = (*name, 80)
            .to_socket_addrs()
            .map(Vec::from_iter)
            .unwrap_or_default();
        !all.is_empty() && all.iter().all(|address| inner(address.ip()))
    });
    found.map(str::to_owned)
}

#[test]
fn a_node_that_others_reach_calls_no_private_address() {
    let node = Node::listening("0.0.0.0", &[TOKEN, SECRET]);
    let port = receiver().address.port();
    let submit = |id: &str, url: &str| {
        ask(
            &node,
            "POST",
            "/v1/tasks",
            Some("t0ken"),
            &task("a-guard", id, url),
        )
    };
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://0x7f.1:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://10.0.0.1/".to_owned(),
        "http://192.168.1.1/".to_owned(),
        "http://[fd00:ec2::254]/".to_owned(),
    ] {
        let detail = submit("literal", &url).problem(422);
        assert!(detail.contains("callbacks.allow"), "{url}: {detail}");
    }
    // The old path and a change are guarded alike.
    let old = json!({ "appId": "a-guard", "url": "http://127.0.0.1/" });
    assert_eq!(
        ask(&node, "POST", "/submit", Some("t0ken"), &old).status,
        422
    );
    let fine = with(
        task("a-guard", "fine", "http://example.org/"),
        json!({ "delay": "1h" }),
    );
    ask(&node, "POST", "/v1/tasks", Some("t0ken"), &fine).expect(201);
    let patch = json!({ "target": { "http": { "url": "http://127.0.0.1/" } } });
    ask(
        &node,
        "PATCH",
        "/v1/tasks/a-guard/fine",
        Some("t0ken"),
        &patch,
    )
    .problem(422);
    // A name says nothing at submit; the address that it leads to is looked at when connecting.
    let Some(name) = private_name() else {
        eprintln!("skipped: this machine knows no name with a private address");
        return;
    };
    let once = json!({ "retry": { "attempts": 1 } });
    let named = with(
        task("a-guard", "named", &format!("http://{name}:{port}/a-guard")),
        once,
    );
    ask(&node, "POST", "/v1/tasks", Some("t0ken"), &named).expect(201);
    let dead = until("it is dead", PATIENCE, || {
        let now = ask(
            &node,
            "GET",
            "/v1/tasks/a-guard/named",
            Some("t0ken"),
            &Value::Null,
        )
        .json();
        (now["stage"] == "dead").then_some(now)
    });
    assert!(
        dead["error"].as_str().unwrap().contains("callbacks.allow"),
        "{dead}"
    );
    assert!(receiver().seen("/a-guard").is_empty());
}

#[test]
fn what_is_allowed_is_called() {
    let allow = ("HOROLOG_CALLBACKS_ALLOW", "127.0.0.1");
    let node = Node::listening("0.0.0.0", &[TOKEN, SECRET, allow]);
    let port = receiver().address.port();
    for (id, host) in [("address", "127.0.0.1"), ("name", "localhost")] {
        let hook = format!("/a-allowed-{id}");
        let sent = task("a-allow", id, &format!("http://{host}:{port}{hook}"));
        ask(&node, "POST", "/v1/tasks", Some("t0ken"), &sent).expect(201);
        receiver().wait(&hook, 1);
    }
    let other = task("a-allow", "other", "http://127.0.0.2/");
    ask(&node, "POST", "/v1/tasks", Some("t0ken"), &other).problem(422);
}

#[test]
fn what_is_denied_is_not_called_even_from_loopback() {
    let node = Node::start(&[("HOROLOG_CALLBACKS_DENY", "127.0.0.2,bad.example.org")]);
    for url in ["http://127.0.0.2/", "http://bad.example.org/"] {
        let detail = node
            .post("/v1/tasks", &task("a-deny", "a", url))
            .problem(422);
        assert!(detail.contains("callbacks.deny"), "{detail}");
    }
}

#[test]
fn each_request_leaves_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    let node = Node::start(&[("HOROLOG_ACCESS_LOG_DIR", logs.to_str().unwrap())]);
    node.get("/uuid").expect(200);
    node.get("/v1/tasks/nobody/nothing?read=local").problem(404);
    node.post("/v1/tasks", &json!({})).problem(422);
    node.get("/%0aforged").problem(404);
    let lines = until("the lines", PATIENCE, || {
        let file = std::fs::read_dir(&logs).ok()?.next()?.ok()?;
        let name = file.file_name().into_string().unwrap();
        let day = name.strip_prefix("access.")?.strip_suffix(".log")?;
        assert_eq!(day.len(), "2026-01-31".len(), "{name}");
        let text = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.iter().any(|l| l.contains("forged")).then_some(lines)
    });
    for part in [
        "loopback GET /uuid 200",
        "loopback GET /v1/tasks/nobody/nothing 404",
        "loopback POST /v1/tasks 422",
        "GET /%0aforged 404",
    ] {
        assert_eq!(
            lines.iter().filter(|line| line.contains(part)).count(),
            1,
            "{part} in {lines:?}"
        );
    }
    assert!(
        lines
            .iter()
            .all(|line| line.starts_with("20") && line.ends_with("ms")),
        "{lines:?}"
    );
}
