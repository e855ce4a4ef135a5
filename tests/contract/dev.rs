//! `horolog dev`: a cluster on loopback that starts, stops, and finds everything again.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::http::{Answer, send};
use super::node::{BINARY, cli, until};
use super::task::{PATIENCE, task, with};

const URL: &str = "http://127.0.0.1:9/hook";

struct Dev {
    child: Child,
    port: u16,
    lines: Receiver<String>,
    /// What it printed before `ready`.
    before: Vec<String>,
}

impl Dev {
    /// Starts it and waits for its line `ready`.
    fn start(port: u16, more: &[&str]) -> Dev {
        let mut child = Command::new(BINARY)
            .args(["dev", "--port", &port.to_string()])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            out.lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let mut dev = Dev {
            child,
            port,
            lines,
            before: Vec::new(),
        };
        loop {
            let line = dev
                .lines
                .recv_timeout(Duration::from_secs(60))
                .expect("a line");
            if line == "ready" {
                return dev;
            }
            dev.before.push(line);
        }
    }

    fn address(&self, node: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port + node - 1))
    }

    fn get(&self, node: u16, path: &str) -> Answer {
        send(self.address(node), "GET", path, &[], b"")
    }

    fn submit(&self, task: &Value) -> Answer {
        send(
            self.address(1),
            "POST",
            "/v1/tasks",
            &[],
            task.to_string().as_bytes(),
        )
    }

    /// The processes of its nodes.
    fn nodes(&self) -> Vec<Pid> {
        let own = self.child.id().to_string();
        let parent_and_pid = |entry: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let rest = stat.rsplit_once(')')?.1;
            let mut words = rest.split_whitespace();
            let (state, parent) = (words.next()?, words.next()?);
            let pid = entry.file_name().to_str()?.parse().ok()?;
            (parent == own && state != "Z").then(|| Pid::from_raw(pid))?
        };
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(parent_and_pid)
            .collect()
    }

    /// Asks it to stop; its exit status.
    fn stop(mut self, signal: Signal) -> Option<i32> {
        let nodes = self.nodes();
        assert!(!nodes.is_empty());
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let status = until("the end of dev", PATIENCE, || {
            self.child.try_wait().unwrap()
        });
        assert!(
            nodes.iter().all(|pid| is_gone(*pid)),
            "no node is left behind"
        );
        assert!(TcpStream::connect(self.address(1)).is_err());
        status.code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // The nodes go with it: the end of their standard input is their end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_gone(pid: Pid) -> bool {
    let stat = Path::new("/proc")
        .join(pid.as_raw_nonzero().to_string())
        .join("stat");
    let stat = std::fs::read_to_string(stat).unwrap_or_default();
    stat.is_empty()
        || stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('Z'))
}

/// A port that is free with those that follow from it, another one each time.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let fits = |port: &u16| (0..3).all(|n| is_free(port + n) && is_free(port + 100 + n));
    // Below the range from which the system hands out ports.
    let first = 20_000 + (std::process::id() % 40) as u16 * 250;
    let next = || first + NEXT.fetch_add(3, Ordering::SeqCst) % 99;
    (0..33).map(|_| next()).find(fits).expect("a free port")
}

#[test]
fn one_node_that_finds_everything_again() {
    let dir = tempfile::tempdir().unwrap();
    let kept = ["--nodes", "1", "--dir", dir.path().to_str().unwrap()];
    let port = port();
    let dev = Dev::start(port, &kept);
    let url = format!("http://127.0.0.1:{port}");
    assert!(
        dev.before.iter().any(|line| line.contains(&url)),
        "{:?}",
        dev.before
    );
    assert_eq!(dev.nodes().len(), 1);
    let peer = dev.get(1, "/v1/cluster").expect(200).json()["nodes"][0]["peer"].clone();
    assert_eq!(peer, format!("127.0.0.1:{}", port + 100));
    let made = dev
        .submit(&with(task("dev", "a", URL), json!({ "delay": "1h" })))
        .expect(201)
        .json();
    let seen = cli(
        &["task", "get", "dev", "a", "--json"],
        &[("HOROLOG_SERVER", &url)],
    )
    .json();
    assert_eq!(seen, made);
    assert_eq!(dev.stop(Signal::TERM), Some(0));
    let dev = Dev::start(port, &kept);
    assert_eq!(dev.get(1, "/v1/tasks/dev/a").expect(200).json(), made);
    assert_eq!(dev.stop(Signal::INT), Some(0));
}

#[test]
fn three_nodes_of_which_a_killed_one_comes_back_when_asked_for() {
    let dev = Dev::start(port(), &["--restart"]);
    assert_eq!(
        dev.before
            .iter()
            .filter(|line| line.contains("http://127.0.0.1:"))
            .count(),
        3
    );
    let nodes = dev.nodes();
    assert_eq!(nodes.len(), 3);
    // Any node takes any request.
    dev.submit(&with(task("dev3", "a", URL), json!({ "delay": "1h" })))
        .expect(201);
    for node in 1..=3 {
        dev.get(node, "/v1/tasks/dev3/a").expect(200);
    }
    let cluster = dev.get(2, "/v1/cluster").expect(200).json();
    let roles: Vec<&Value> = (0..3).map(|n| &cluster["nodes"][n]["role"]).collect();
    assert_eq!(
        roles.iter().filter(|role| **role == "leader").count(),
        1,
        "{cluster}"
    );
    kill_process(nodes[0], Signal::KILL).unwrap();
    until("three again", PATIENCE, || {
        (dev.nodes().len() == 3 && is_gone(nodes[0])).then_some(())
    });
    for node in 1..=3 {
        until("ready again", PATIENCE, || {
            TcpStream::connect(dev.address(node)).ok()?;
            (dev.get(node, "/readyz").status == 200).then_some(())
        });
    }
    assert_eq!(dev.stop(Signal::TERM), Some(0));
}

#[test]
fn without_restart_a_killed_node_stays_away() {
    let dev = Dev::start(port(), &["--nodes", "1"]);
    kill_process(dev.nodes()[0], Signal::KILL).unwrap();
    until("the node is gone", PATIENCE, || {
        dev.nodes().is_empty().then_some(())
    });
    until("its port is closed", PATIENCE, || {
        TcpStream::connect(dev.address(1)).err()
    });
    drop(dev);
}

#[test]
fn a_killed_dev_leaves_no_node_behind() {
    let mut dev = Dev::start(port(), &["--nodes", "1"]);
    let nodes = dev.nodes();
    dev.child.kill().unwrap();
    until("the node has ended", PATIENCE, || {
        nodes.iter().all(|pid| is_gone(*pid)).then_some(())
    });
}

#[test]
fn a_port_that_is_taken_is_named() {
    let port = port();
    let _one = Dev::start(port, &["--nodes", "1"]);
    // The other cluster would say that it is ready; this one never is.
    let ran = cli(&["dev", "--nodes", "1", "--port", &port.to_string()], &[]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.is_empty(), "{ran:?}");
    assert!(
        ran.err
            .contains(&format!("cannot listen on 127.0.0.1:{port}")),
        "{ran:?}"
    );
}
