//! A node: the real binary, started, asked, killed.

use serde_json::Value;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use super::http::{self, Answer};

/// The program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_horolog");
/// A node on a busy machine starts within this, or not at all.
const START: Duration = Duration::from_secs(60);

/// A single node, alive as long as this value.
pub struct Node {
    pub http: SocketAddr,
    /// Where it listens, in its own words.
    listen: String,
    peer: SocketAddr,
    dir: tempfile::TempDir,
    settings: Vec<(String, String)>,
    child: Child,
}

/// The node that cases share when they need no settings of their own. They share a receiver, too,
/// which fails for many of them on purpose: its breaker would make the others wait.
pub fn shared() -> &'static Node {
    static SHARED: OnceLock<Node> = OnceLock::new();
    SHARED.get_or_init(|| Node::start(&[("HOROLOG_CALLBACKS_BREAKER_PERCENT", "0")]))
}

impl Node {
    /// Starts a node with these settings, as environment variables, and waits until it is ready.
    pub fn start(settings: &[(&str, &str)]) -> Node {
        Node::listening("127.0.0.1", settings)
    }

    /// The same for a node whose HTTP listener is at another address.
    pub fn listening(ip: &str, settings: &[(&str, &str)]) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let settings: Vec<(String, String)> = settings
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        let (http, peer) = (free(), free());
        let listen = format!("{ip}:{}", http.port());
        let child = spawn(dir.path(), &listen, peer, &settings);
        let mut node = Node {
            http,
            listen,
            peer,
            dir,
            settings,
            child,
        };
        node.wait_ready();
        node
    }

    fn wait_ready(&mut self) {
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the node ended with {status}:\n{}", self.log());
            }
            if std::net::TcpStream::connect(self.http).is_ok() && self.get("/readyz").status == 200
            {
                return;
            }
            assert!(Instant::now() < deadline, "not ready:\n{}", self.log());
            pause();
        }
    }

    /// Kills it with -9 and starts it again over the same directory.
    pub fn crash_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.dir.path(), &self.listen, self.peer, &self.settings);
        self.wait_ready();
    }

    /// Kills it with -9; its data directory.
    pub fn crash(&mut self) -> PathBuf {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.dir.path().join("data")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// What it wrote for its operator.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log.txt")).unwrap_or_default()
    }

    /// True until the process has ended.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    // Asking.

    pub fn get(&self, path: &str) -> Answer {
        http::send(self.http, "GET", path, &[], b"")
    }

    pub fn delete(&self, path: &str) -> Answer {
        http::send(self.http, "DELETE", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[], body)
    }

    pub fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send("PATCH", path, &[], body)
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        http::send(self.http, method, path, &all, body.to_string().as_bytes())
    }

    /// Runs `horolog` with these words against this node.
    pub fn cli(&self, words: &[&str]) -> Ran {
        cli(words, &[("HOROLOG_SERVER", &self.url())])
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Runs `horolog` to its end.
pub fn cli(words: &[&str], variables: &[(&str, &str)]) -> Ran {
    let output = Command::new(BINARY)
        .args(words)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn spawn(dir: &Path, http: &str, peer: SocketAddr, settings: &[(String, String)]) -> Child {
    let log: PathBuf = dir.join("log.txt");
    let log = File::options().create(true).append(true).open(log).unwrap();
    Command::new(BINARY)
        .args(["serve", "--id", "1", "--stop-with-stdin"])
        .arg("--dir")
        .arg(dir.join("data"))
        .args(["--http", http, "--peer", &peer.to_string()])
        .envs(settings.iter().map(|(name, value)| (name, value)))
        // Its end is the end of this process: no node is left behind, however the tests end.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// An address that nobody listens to.
pub fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// Between two looks at something that is waited for.
pub fn pause() {
    std::thread::sleep(Duration::from_millis(15));
}

/// Looks until there is something; it fails with `what` when that takes too long.
#[track_caller]
pub fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        pause();
    }
}

/// Epoch milliseconds.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_millis() as u64
}
