//! A network of namespaces: each node alone in one, a cable each, one switch between them all.
//!
//! ```text
//! node 1 [10.x.y.1] ──┐
//! node 2 [10.x.y.2] ──┤ bridge [10.x.y.254] ── the harness: clients' wires, the sink
//! node 3 [10.x.y.3] ──┘
//! ```
//!
//! Here packets are really lost, by no feature of the kernel but routing to a machine that does not
//! exist: a node that must not reach another is told a wrong hardware address for it. Nodes speak
//! to each other directly, past the wires; clients still come through them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::fault::Trouble;

/// Nobody's.
const NOWHERE: &str = "02:00:00:00:00:01";
/// The harness's own place.
const HOST: u8 = 254;

/// See the module. It goes when this goes.
pub struct Net {
    /// Tells this process's devices from those of others.
    tag: String,
    net: [u8; 3],
    nodes: Vec<u64>,
    cut: BTreeSet<(u64, u64)>,
}

impl Net {
    /// A switch with nobody at it yet.
    ///
    /// # Errors
    /// Skipped where this process may not have one, or has not got the tools.
    pub fn new() -> Result<Net, Trouble> {
        static MADE: AtomicU8 = AtomicU8::new(0);
        let (pid, made) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let tag = format!("hj{:x}{made:x}", pid & 0xf_ffff);
        let bridge = format!("{tag}b");
        ip(&["link", "add", &bridge, "type", "bridge"]).map_err(Trouble::lacking)?;
        let net = Net {
            tag,
            net: [10, 100 + (pid >> 8 & 0x7f) as u8, pid as u8 ^ made],
            nodes: Vec::new(),
            cut: BTreeSet::new(),
        };
        let address = format!("{}/24", net.host());
        ip(&["addr", "add", &address, "dev", &bridge]).map_err(Trouble::Failed)?;
        ip(&["link", "set", &bridge, "up"]).map_err(Trouble::Failed)?;
        Ok(net)
    }

    /// Where the harness listens.
    pub fn host(&self) -> IpAddr {
        self.place(HOST)
    }

    pub fn of(&self, node: u64) -> IpAddr {
        self.place(u8::try_from(node).expect("few nodes"))
    }

    fn place(&self, last: u8) -> IpAddr {
        let [a, b, c] = self.net;
        Ipv4Addr::new(a, b, c, last).into()
    }

    fn bridge(&self) -> String {
        format!("{}b", self.tag)
    }

    fn space(&self, node: u64) -> String {
        format!("{}-{node}", self.tag)
    }

    fn plug(&self, node: u64) -> String {
        format!("{}p{node}", self.tag)
    }

    /// The file of a node's namespace.
    pub fn file(&self, node: u64) -> PathBuf {
        PathBuf::from("/var/run/netns").join(self.space(node))
    }

    /// A place for one more node.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn add(&mut self, node: u64) -> Result<(), String> {
        let (space, plug, bridge) = (self.space(node), self.plug(node), self.bridge());
        ip(&["netns", "add", &space])?;
        self.nodes.push(node);
        let cable = ["type", "veth", "peer", "name", "eth0", "netns", &space];
        ip(&[&["link", "add", &plug][..], &cable].concat())?;
        ip(&["link", "set", &plug, "master", &bridge, "up"])?;
        let address = format!("{}/24", self.of(node));
        ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &space, "link", "set", "eth0", "up"])?;
        ip(&["-n", &space, "link", "set", "lo", "up"])
    }

    /// What one sends to the other is lost from now on.
    ///
    /// # Errors
    /// What `ip` said, or that it did nothing.
    pub fn cut(&mut self, ways: &[(u64, u64)]) -> Result<(), String> {
        for (from, to) in ways {
            let (space, to_ip) = (self.space(*from), self.of(*to).to_string());
            let entry = ["lladdr", NOWHERE, "dev", "eth0", "nud", "permanent"];
            ip(&[&["-n", &space, "neigh", "replace", &to_ip][..], &entry].concat())?;
            self.cut.insert((*from, *to));
            let shown = ip_says(&["-n", &space, "neigh", "show", "to", &to_ip])?;
            if !(shown.contains(NOWHERE) && shown.contains("PERMANENT")) {
                return Err(format!("{from} still knows where {to} is: {shown}"));
            }
        }
        Ok(())
    }

    /// A cable is pulled, or plugged in again.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn plugged(&self, node: u64, is_in: bool) -> Result<(), String> {
        let state = if is_in { "up" } else { "down" };
        ip(&["link", "set", &self.plug(node), state])
    }

    /// A cable that carries no more than so much, both ways; `None`: as fast as it can.
    ///
    /// # Errors
    /// What `tc` said.
    pub fn slow(&self, node: u64, kbit: Option<u64>) -> Result<(), String> {
        let (space, plug) = (self.space(node), self.plug(node));
        let ends = [vec!["-n", &space, "qdisc"], vec!["qdisc"]];
        for (mut args, device) in ends.into_iter().zip(["eth0", &plug]) {
            let rate = format!("{}kbit", kbit.unwrap_or_default());
            match kbit {
                Some(_) => args.extend([
                    "add", "dev", device, "root", "tbf", "rate", &rate, "burst", "8kb", "latency",
                    "200ms",
                ]),
                None => args.extend(["del", "dev", device, "root"]),
            }
            said("tc", &args)?;
        }
        Ok(())
    }

    /// How often a slow cable had to hold something back, or lost it.
    ///
    /// # Errors
    /// What `tc` said.
    pub fn held(&self, node: u64) -> Result<u64, String> {
        let (space, plug) = (self.space(node), self.plug(node));
        let there = said("tc", &["-n", &space, "-s", "qdisc", "show", "dev", "eth0"])?;
        let back = said("tc", &["-s", "qdisc", "show", "dev", &plug])?;
        Ok([there, back].iter().map(|text| overlimits(text)).sum())
    }

    /// Nothing is lost any more.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn heal(&mut self) -> Result<(), String> {
        for (from, to) in std::mem::take(&mut self.cut) {
            let (space, to_ip) = (self.space(from), self.of(to).to_string());
            ip(&["-n", &space, "neigh", "del", &to_ip, "dev", "eth0"])?;
        }
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // The cable goes with its namespace, which stays while a process is in it.
        for node in &self.nodes {
            let gone = ip(&["netns", "del", &self.space(*node)]);
            // It may be gone with the namespace already.
            let _ = ip(&["link", "del", &self.plug(*node)]);
            if let Err(error) = gone {
                eprintln!("{error}");
            }
        }
        if let Err(error) = ip(&["link", "del", &self.bridge()]) {
            eprintln!("{error}");
        }
    }
}

/// `… (dropped 1, overlimits 23 requeues 0)`, as `tc -s` shows it.
fn overlimits(text: &str) -> u64 {
    let mut words = text.split_whitespace();
    let found = words.find(|word| *word == "overlimits");
    found
        .and(words.next())
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

fn ip(args: &[&str]) -> Result<(), String> {
    ip_says(args).map(drop)
}

fn ip_says(args: &[&str]) -> Result<String, String> {
    said("ip", args)
}

fn said(program: &str, args: &[&str]) -> Result<String, String> {
    match Command::new(program).args(args).output() {
        Ok(out) if out.status.success() => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        Ok(out) => Err(format!(
            "{program} {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&out.stderr).trim()
        )),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

#[test]
fn what_is_cut_does_not_pass() {
    let mut net = match Net::new() {
        Ok(net) => net,
        Err(Trouble::Skipped(why)) => return println!("skipped: no networks here: {why}"),
        Err(Trouble::Failed(why)) => panic!("{why}"),
    };
    net.add(1).unwrap();
    net.add(2).unwrap();
    // Refused at once when packets pass, since nobody listens; silence when they do not.
    let passes = |net: &Net, from: u64, to: u64| {
        let reach = format!("exec 3<>/dev/tcp/{}/9", net.of(to));
        let space = format!("--net={}", net.file(from).display());
        let tried = Command::new("nsenter")
            .args([&space, "timeout", "2", "bash", "-c", &reach])
            .output();
        // What `timeout` says when it took too long.
        tried.unwrap().status.code() != Some(124)
    };
    assert!(passes(&net, 1, 2) && passes(&net, 2, 1));
    net.cut(&[(1, 2)]).unwrap();
    assert!(!passes(&net, 1, 2), "a request is lost");
    assert!(!passes(&net, 2, 1), "so is an answer");
    net.heal().unwrap();
    assert!(passes(&net, 1, 2));
    net.plugged(2, false).unwrap();
    assert!(!passes(&net, 1, 2));
    net.plugged(2, true).unwrap();
    assert!(passes(&net, 1, 2));
}
