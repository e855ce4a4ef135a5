//! One node: a process of the real binary, and what can be done to it.

use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use super::http::Client;
use super::wait_for;

/// Another binary to test than the one that was built with the tests: a copy that stays as it is
/// while the tree goes on, or a build that is broken on purpose.
pub const BINARY: &str = "TEST_BINARY";

/// The binary under test.
pub fn binary() -> Command {
    without_settings(Command::new(program()))
}

fn program() -> OsString {
    std::env::var_os(BINARY).unwrap_or_else(|| env!("CARGO_BIN_EXE_horolog").into())
}

/// A command that no setting of this process's environment reaches.
pub fn without_settings(mut command: Command) -> Command {
    // Settings of whoever runs the tests are not settings of the nodes.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HOROLOG_") {
            command.env_remove(name);
        }
    }
    command
}

/// A port that nothing listens on, below those that outgoing connections are given: it stays
/// free while a node is down.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 331) as u16 * 60;
    for _ in 0..COUNT {
        let next = TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start.wrapping_add(next)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

pub fn free_address() -> SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}

/// See the module. Dropping it kills the process.
pub struct Node {
    pub id: u64,
    pub http: SocketAddr,
    pub peer: SocketAddr,
    pub dir: PathBuf,
    /// What follows `serve --id … --dir … --http … --peer …`.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Another program than the binary, with a node inside.
    pub embedded: Option<fn(&Node) -> Command>,
    /// The network namespace it runs in, if not this one.
    pub net: Option<PathBuf>,
    log: PathBuf,
    child: Option<Child>,
}

impl Node {
    /// A node that is not started yet, with its directory and its log under `root`.
    pub fn new(root: &Path, id: u64) -> Node {
        Node {
            id,
            http: free_address(),
            peer: free_address(),
            dir: root.join(format!("node-{id}")),
            args: Vec::new(),
            env: Vec::new(),
            embedded: None,
            net: None,
            log: root.join(format!("node-{id}.log")),
            child: None,
        }
    }

    pub fn client(&self) -> Client {
        Client::new(self.http)
    }

    /// Starts the process, with the same arguments each time.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "node {} runs already", self.id);
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.unwrap();
        let child = self
            .embedded
            .map_or_else(|| self.serve(), |command| command(self))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    fn serve(&self) -> Command {
        let mut command = self.program();
        command
            .args(["serve", "--id", &self.id.to_string()])
            .arg("--dir")
            .arg(&self.dir)
            .args(["--http", &self.http.to_string()])
            .args(["--peer", &self.peer.to_string()])
            .args(&self.args);
        command
    }

    fn program(&self) -> Command {
        let Some(net) = &self.net else {
            return binary();
        };
        // It becomes the program: the process is the node's.
        let mut command = without_settings(Command::new("nsenter"));
        command
            .arg(format!("--net={}", net.display()))
            .arg(program());
        command
    }

    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Whether the process is there and no zombie.
    pub fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, after)| !after.starts_with('Z'))
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// `kill -9`; returns when the process is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.reap();
    }

    /// Waits for a process that was killed.
    pub fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM; returns the exit status.
    #[track_caller]
    pub fn terminate(&mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.exits(within)
    }

    /// Waits until the process ends by itself.
    #[track_caller]
    pub fn exits(&mut self, within: Duration) -> ExitStatus {
        let id = self.id;
        let child = self.child.as_mut().unwrap();
        let status = wait_for(&format!("the end of node {id}"), within, || {
            child.try_wait().unwrap()
        });
        self.child = None;
        status
    }

    /// Empties the data directory.
    pub fn wipe(&self) {
        assert!(self.child.is_none());
        fs::remove_dir_all(&self.dir).unwrap();
    }

    /// All that the node has said so far, over all its starts.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Processor time used so far.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let after_name = stat.rsplit_once(')').unwrap().1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10) // Linux counts hundredths of a second here, always.
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; what matters is that it is gone.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let said = self.said();
            let lines: Vec<&str> = said.lines().collect();
            let tail = &lines[lines.len().saturating_sub(15)..];
            eprintln!(
                "--- the last words of node {}:\n{}",
                self.id,
                tail.join("\n")
            );
        }
    }
}
