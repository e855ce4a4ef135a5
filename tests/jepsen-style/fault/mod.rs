//! The faults. Each is a function that begins one, and says how to end it.
//!
//! A fault that cannot be installed fails the run; one for which a tool is missing is skipped, and
//! the report says so.

mod bitrot;
pub use bitrot::own_hashes;
pub mod clock;
mod disk;
mod load;
mod members;
mod netns;
mod partition;
mod processes;
mod receiver;
mod wire;

use serde_json::Value;

use crate::chance::Chance;
use crate::site::Site;

/// Why a fault is not there.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// This machine lacks something.
    Skipped(String),
    /// It should have worked.
    Failed(String),
}

impl Trouble {
    /// What a program said: whether it, the kernel or a permission is missing here.
    pub fn lacking(why: String) -> Trouble {
        const LACKS: [&str; 7] = [
            "No such file",
            "not permitted",
            "ermission denied",
            "not supported",
            "nknown device type",
            "nknown filesystem",
            "setup loop device",
        ];
        match LACKS.iter().any(|lack| why.contains(lack)) {
            true => Trouble::Skipped(why),
            false => Trouble::Failed(why),
        }
    }
}

/// Ends a fault; says what came of it.
///
/// # Errors
/// When it turns out that it did nothing, or that something broke that it must not break.
type End = Box<dyn FnOnce(&mut Site) -> Result<Value, String>>;

/// A fault that has begun.
pub struct Begun {
    pub nodes: Vec<u64>,
    pub detail: Value,
    /// Nodes that may end by themselves meanwhile.
    pub may_die: Vec<u64>,
    pub end: End,
}

impl Begun {
    fn new(
        nodes: Vec<u64>,
        detail: Value,
        end: impl FnOnce(&mut Site) -> Result<Value, String> + 'static,
    ) -> Begun {
        Begun {
            nodes,
            detail,
            may_die: Vec::new(),
            end: Box::new(end),
        }
    }
}

type Begin = fn(&mut Site, &mut Chance) -> Result<Begun, Trouble>;

/// A kind of fault.
pub struct Kind {
    /// What `--nemesis` calls it.
    pub family: &'static str,
    pub what: &'static str,
    /// How long it lasts, ms, from and to.
    pub hold_ms: (u64, u64),
    /// Only once in the life of a cluster.
    pub once: bool,
    /// Takes long; a short run leaves it out.
    pub slow: bool,
    pub begin: Begin,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

impl Kind {
    pub fn name(&self) -> String {
        format!("{}/{}", self.family, self.what)
    }
}

const SHORT: (u64, u64) = (1_000, 3_000);
/// Longer than the nodes of a `fast` cluster need to elect another leader.
const MIDDLE: (u64, u64) = (1_500, 4_000);
/// Longer than a jump of the clock must last to be believed.
const LONG: (u64, u64) = (4_500, 6_000);

/// Longer than leases and time-outs.
const AWAY: (u64, u64) = (8_000, 25_000);

const fn kind(family: &'static str, what: &'static str, hold_ms: (u64, u64), begin: Begin) -> Kind {
    Kind {
        family,
        what,
        hold_ms,
        once: false,
        slow: false,
        begin,
    }
}

/// Need nodes with disks of their own.
pub const DISKS: [&str; 2] = ["disk", "power"];
/// Needs nodes in namespaces of their own, where they speak past the wires.
pub const NETNS: &str = "netns";
/// Need the wires between nodes.
pub const WIRED: [&str; 2] = ["partition", "wire"];

/// All there are.
pub const FAULTS: &[Kind] = &[
    kind("none", "quiet", SHORT, load::nothing),
    kind("kill", "one", SHORT, processes::kill_one),
    kind("kill", "minority", MIDDLE, processes::kill_minority),
    kind("kill", "all", SHORT, processes::kill_all),
    kind("pause", "leader", MIDDLE, processes::pause_leader),
    kind("pause", "any", MIDDLE, processes::pause_any),
    Kind {
        slow: true,
        ..kind("pause", "long", AWAY, processes::pause_any)
    },
    kind("partition", "halves", MIDDLE, partition::halves),
    kind("partition", "ring", MIDDLE, partition::ring),
    kind("partition", "one-way", MIDDLE, partition::one_way),
    kind("partition", "leader", MIDDLE, partition::leader),
    kind("partition", "bridge", MIDDLE, partition::bridge),
    kind(NETNS, "halves", MIDDLE, netns::halves),
    kind(NETNS, "ring", MIDDLE, netns::ring),
    kind(NETNS, "one-way", MIDDLE, netns::one_way),
    kind(NETNS, "leader", MIDDLE, netns::leader),
    kind(NETNS, "bridge", MIDDLE, netns::bridge),
    kind(NETNS, "unplugged", MIDDLE, netns::unplugged),
    kind(NETNS, "narrow", MIDDLE, netns::narrow),
    kind("wire", "delay", MIDDLE, wire::delay),
    kind("wire", "half-open", MIDDLE, wire::half_open),
    kind("wire", "truncate", MIDDLE, wire::truncate),
    kind("wire", "corrupt", MIDDLE, wire::corrupt),
    kind("client", "cut", SHORT, wire::client_cut),
    kind("client", "delay", SHORT, wire::client_delay),
    kind("client", "truncate", MIDDLE, wire::client_truncate),
    kind("clock", "ahead", LONG, clock::ahead),
    kind("clock", "back", LONG, clock::back),
    kind("clock", "little", LONG, clock::little),
    kind("bitrot", "log", MIDDLE, bitrot::log),
    kind("bitrot", "store", MIDDLE, bitrot::store),
    kind("bitrot", "truncate", MIDDLE, bitrot::truncate),
    kind("bitrot", "misplaced", MIDDLE, bitrot::misplaced),
    kind("disk", "full", MIDDLE, disk::full),
    kind("disk", "stalled", MIDDLE, disk::stalled),
    kind("disk", "errors", MIDDLE, disk::errors),
    kind("power", "one", SHORT, disk::power_one),
    kind("power", "all", SHORT, disk::power_all),
    kind("receiver", "evil", MIDDLE, receiver::evil),
    kind("receiver", "hanging", SHORT, receiver::hanging),
    kind("overload", "tenfold", SHORT, load::tenfold),
    kind("snapshot", "lagging", MIDDLE, load::lagging),
    kind("lead", "moved", SHORT, members::lead),
    kind("drain", "drained", MIDDLE, members::drain),
    Kind {
        once: true,
        ..kind("add", "node", SHORT, members::add)
    },
    Kind {
        once: true,
        ..kind("remove", "node", SHORT, members::remove)
    },
];

/// The names that `--nemesis` takes.
pub fn families() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    FAULTS.iter().filter_map(move |kind| {
        let new = kind.family != last;
        last = kind.family;
        new.then_some(kind.family)
    })
}
