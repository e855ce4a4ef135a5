//! What can go wrong in the log, said so that an operator knows what to do next.

use std::io;
use std::path::PathBuf;

/// The way out of every kind of damage: a damaged copy must not take part, the other nodes hold
/// the same log.
const REBUILD: &str = "this copy must not be used: stop the node, keep the directory for \
     inspection, and let a node with a new id and an empty directory join in its place";

/// A failure of the log. None of them is a refusal of one request: after any of them but
/// [`LogFault::NotConsecutive`], [`LogFault::TooLarge`] and [`LogFault::Closed`] the node has to stop.
#[derive(Debug, thiserror::Error)]
pub enum LogFault {
    /// The operating system refused an operation on a file.
    #[error("{doing}: {source}")]
    Io {
        doing: String,
        #[source]
        source: io::Error,
    },

    /// Bytes came back from the disk that are not the bytes which were written.
    #[error("{place} is damaged ({why}); {REBUILD}")]
    Damaged { place: String, why: String },

    /// An entry inside the log's bounds is not there.
    #[error("entry {index} is missing although the log reaches beyond it; {REBUILD}")]
    Missing { index: u64 },

    /// The engine below reported something other than an I/O error.
    #[error("the {engine} engine failed while {doing}: {why}")]
    Engine {
        engine: &'static str,
        doing: &'static str,
        why: String,
    },

    /// A commit or a sync failed earlier. What the disk holds since is unknown, so nothing more
    /// is accepted or served; a restart reads what is really there.
    #[error("the log stopped after a failed write ({why}); restart the node once the disk is well")]
    Poisoned { why: String },

    /// The store was closed.
    #[error("the log is closed")]
    Closed,

    /// An append that would leave a hole or overwrite entries: a mistake of the caller.
    #[error("cannot append entry {got}: the log continues at {expected}")]
    NotConsecutive { expected: u64, got: u64 },

    /// A payload longer than a frame may carry: a mistake of the caller.
    #[error("entry {index} carries {bytes} bytes, more than the {max} a frame may hold")]
    TooLarge {
        index: u64,
        bytes: usize,
        max: usize,
    },

    /// Somebody else holds the directory.
    #[error("another process uses this directory: {}", dir.display())]
    InUse { dir: PathBuf },

    /// The directory was written by the other engine; starting an empty log beside it would look
    /// like losing everything.
    #[error(
        "{} holds a log written by the {found} engine: set log.engine = \"{found}\", or start \
         with an empty directory and a new node id", dir.display()
    )]
    OtherEngine { dir: PathBuf, found: &'static str },

    /// The engine is a cargo feature which this binary was built without.
    #[error(
        "this binary was built without the sled engine: build it with --features sled, or set log.engine = \"redb\""
    )]
    NotCompiledIn,

    /// A log without the file that says whose it is.
    #[error(
        "{} holds a log but no readable identity file ({why}): it cannot be known whose log this \
         is. Restore the identity file from a backup of this directory, or move the directory away \
         and join with a new node id", dir.display()
    )]
    NoIdentity { dir: PathBuf, why: String },

    /// A directory that belongs to another node.
    #[error(
        "{} belongs to node {found}, not to node {asked}: start node {found} on it, or give node \
         {asked} a directory of its own", dir.display()
    )]
    Foreign {
        dir: PathBuf,
        found: u64,
        asked: u64,
    },
}

impl LogFault {
    /// An I/O failure with what was being done.
    pub fn io(doing: impl Into<String>, source: io::Error) -> LogFault {
        LogFault::Io {
            doing: doing.into(),
            source,
        }
    }

    /// Damage found at `place`.
    pub fn damaged(place: impl Into<String>, why: impl Into<String>) -> LogFault {
        LogFault::Damaged {
            place: place.into(),
            why: why.into(),
        }
    }
}

impl From<LogFault> for io::Error {
    fn from(fault: LogFault) -> io::Error {
        let kind = match &fault {
            LogFault::Io { source, .. } => source.kind(),
            LogFault::Damaged { .. } | LogFault::Missing { .. } => io::ErrorKind::InvalidData,
            LogFault::NotConsecutive { .. } | LogFault::TooLarge { .. } => {
                io::ErrorKind::InvalidInput
            }
            LogFault::InUse { .. } => io::ErrorKind::ResourceBusy,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, fault)
    }
}
