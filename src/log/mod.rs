//! The embedded log: entries, vote and committed place of one node, kept on its disk.
//!
//! It knows nothing of what entries mean and nothing of Raft. What it promises:
//!
//! * **Order.** Every change goes through one queue to one writer thread, which writes once, syncs
//!   once and calls back in order. A change is readable at once and reported when durable.
//! * **Nothing acknowledged is lost** by the end of the process, and with redb by a power cut.
//!   What sled promises is written in its engine and shown by [`LogStore::status`].
//! * **Nothing damaged is served.** Every row carries a CRC-32C that is checked on every read from
//!   disk, a head row knows what must be there, so that a missing row is found as well, and
//!   a witness outside of the engine knows how far the log had come.
//! * **Damage is looked for.** [`LogScrub`] reads everything again, slowly, beside the rest: rows
//!   and, past all caches, blocks of the file ([`Blocks`]).
//! * **A failed write is final.** After a failed commit or sync nobody knows what the disk holds:
//!   the log stops, says so once through [`LogStore::on_fault`], and refuses everything after.
//!
//! A request's way: [`LogStore`] checks it and changes what is readable;
//! the [`Writer`] turns the queue into one [`Frame`] of rows and a head; an [`Engine`]
//! makes it durable. [`Identity`] says whose directory it is.

mod blocks;
mod bounds;
mod caught;
mod engine;
mod engine_redb;
#[cfg(feature = "sled")]
mod engine_sled;
mod entry;
mod fault;
mod files;
mod head;
mod identity;
mod read;
mod scrub;
pub mod sim_disk;
mod state;
mod store;
mod tail;
#[cfg(test)]
mod tests;
mod witness;
mod writer;

pub use blocks::{BLOCK_BYTES, Blocks, Watched};
pub use bounds::Bounds;
pub use caught::{Held, caught, quiet_hook};
pub use engine::{Engine, Frame, Op};
pub use engine_redb::RedbEngine;
#[cfg(feature = "sled")]
pub use engine_sled::SledEngine;
pub use entry::{Entry, HEADER_BYTES, Kind, PAYLOAD_BYTES_MAX, Position};
pub use fault::LogFault;
pub use head::Head;
pub use identity::{DirLock, Identity};
pub use scrub::{LogScrub, Slice};
pub use state::{Done, QUEUE_BYTES_MAX, QUEUE_REQUESTS_MAX};
pub use store::{EngineKind, LogStatus, LogStore};
pub use tail::TAIL_BYTES_MAX;
pub use writer::{SWEEP_ROWS, Step, Writer};
