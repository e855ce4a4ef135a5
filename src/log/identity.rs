//! Whose directory this is.
//!
//! A log that was wiped must not vote again under its old id, and a log that was copied to
//! another node must not be taken for that node's own. So each directory holds a small file with
//! the cluster, the node, and an incarnation drawn at random when the directory was made; the
//! members of a cluster know each other's incarnation and refuse another. Random numbers and
//! clocks are the caller's: this floor has neither.
//!
//! Format 1, little-endian: `"hlgi"`, format u8, cluster u128, node u64, incarnation u128, boot
//! u64, CRC-32C of all before it. The file is replaced as a whole, so that it is always the old
//! one or the new one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};
use rustix::fs::{FlockOperation, flock};

use super::fault::LogFault;
use super::{engine_redb, files};

/// The identity's file inside the data directory.
const FILE: &str = "identity";
/// The file whose lock stands for the directory.
const LOCK: &str = "LOCK";
/// Names of which one is there as soon as a directory holds a log.
const LOGS: [&str; 2] = [engine_redb::FILE, "log.sled"];

const MAGIC: [u8; 4] = *b"hlgi";
const FORMAT: u8 = 1;
const BYTES: usize = 4 + 1 + 16 + 8 + 16 + 8 + 4;

/// Who a data directory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; 0 as long as none was formed or joined.
    pub cluster: u128,
    pub node: u64,
    /// Drawn once, when the directory was made.
    pub incarnation: u128,
    /// How often a process was started on the directory.
    pub boot: u64,
}

impl Identity {
    /// The identity of a directory; `None` when the directory is new.
    ///
    /// # Errors
    /// [`LogFault::NoIdentity`] when there is a log but no readable identity.
    pub fn load(dir: &Path) -> Result<Option<Identity>, LogFault> {
        let lost = |why: &str| LogFault::NoIdentity {
            dir: dir.to_owned(),
            why: why.to_owned(),
        };
        match fs::read(dir.join(FILE)) {
            Ok(bytes) => Identity::decode(&bytes).map(Some).map_err(lost),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match LOGS.iter().any(|log| dir.join(log).exists()) {
                    true => Err(lost("the file is not there")),
                    false => Ok(None),
                }
            }
            Err(source) => Err(files::failed("reading", &dir.join(FILE), source)),
        }
    }

    /// Replaces the directory's identity; durable when this returns.
    pub fn store(&self, dir: &Path) -> Result<(), LogFault> {
        files::make_folder(dir)?;
        files::write_whole(&dir.join(FILE), &self.encode())
    }

    /// # Errors
    /// [`LogFault::Foreign`] when the directory belongs to another node than the one asked for.
    pub fn belongs_to(&self, node: u64, dir: &Path) -> Result<(), LogFault> {
        match self.node == node {
            true => Ok(()),
            false => Err(LogFault::Foreign {
                dir: dir.to_owned(),
                found: self.node,
                asked: node,
            }),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BYTES);
        out.put_slice(&MAGIC);
        out.put_u8(FORMAT);
        out.put_u128_le(self.cluster);
        out.put_u64_le(self.node);
        out.put_u128_le(self.incarnation);
        out.put_u64_le(self.boot);
        out.put_u32_le(crc32c::crc32c(&out));
        out
    }

    fn decode(bytes: &[u8]) -> Result<Identity, &'static str> {
        if bytes.len() != BYTES {
            return Err("it has the wrong length");
        }
        let (body, mut crc) = bytes.split_at(BYTES - 4);
        if crc32c::crc32c(body) != crc.get_u32_le() {
            return Err("its checksum does not match");
        }
        if body[..4] != MAGIC || body[4] != FORMAT {
            return Err("this version does not know its format");
        }
        let mut rest = &body[5..];
        Ok(Identity {
            cluster: rest.get_u128_le(),
            node: rest.get_u64_le(),
            incarnation: rest.get_u128_le(),
            boot: rest.get_u64_le(),
        })
    }
}

/// Keeps a data directory for this process, until it is dropped or the process ends in any way.
#[derive(Debug)]
pub struct DirLock {
    file: File,
}

impl DirLock {
    /// # Errors
    /// [`LogFault::InUse`] when somebody else holds the directory.
    pub fn acquire(dir: &Path) -> Result<DirLock, LogFault> {
        files::make_folder(dir)?;
        let path: PathBuf = dir.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| files::failed("opening", &path, source))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(DirLock { file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LogFault::InUse {
                dir: dir.to_owned(),
            }),
            Err(errno) => Err(files::failed("locking", &path, errno.into())),
        }
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing the file would do it too, but a child process may still hold a copy of it.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Identity = Identity {
        cluster: 0xC1,
        node: 3,
        incarnation: 0x1234 << 100,
        boot: 9,
    };

    #[test]
    fn a_new_directory_has_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap(), None);
        assert_eq!(Identity::load(&dir.path().join("not there")).unwrap(), None);
    }

    #[test]
    fn comes_back_as_stored_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("data");
        WHO.store(&dir).unwrap();
        let later = Identity { boot: 10, ..WHO };
        later.store(&dir).unwrap();
        assert_eq!(Identity::load(&dir).unwrap(), Some(later));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn a_half_written_successor_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        WHO.store(dir.path()).unwrap();
        fs::write(dir.path().join("identity.new"), b"hlg").unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap(), Some(WHO));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let bytes = WHO.encode();
        for bit in 0..bytes.len() * 8 {
            let mut bent = bytes.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&bent).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(
                Identity::decode(&bytes[..length]).is_err(),
                "length {length}"
            );
        }
    }

    #[test]
    fn a_log_without_identity_is_refused_with_the_way_out() {
        for log in LOGS {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(log), b"").unwrap();
            let fault = Identity::load(dir.path()).unwrap_err();
            assert!(matches!(fault, LogFault::NoIdentity { .. }));
            assert!(
                fault.to_string().contains("join with a new node id"),
                "{fault}"
            );
        }
    }

    #[test]
    fn another_nodes_directory_is_refused() {
        let dir = Path::new("data");
        assert!(WHO.belongs_to(3, dir).is_ok());
        let fault = WHO.belongs_to(4, dir).unwrap_err();
        assert!(
            fault
                .to_string()
                .contains("belongs to node 3, not to node 4"),
            "{fault}"
        );
    }

    #[test]
    fn the_directory_is_held_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = DirLock::acquire(dir.path()).unwrap();
        let fault = DirLock::acquire(dir.path()).unwrap_err();
        assert!(
            fault
                .to_string()
                .contains("another process uses this directory"),
            "{fault}"
        );
        drop(held);
        DirLock::acquire(dir.path()).unwrap();
    }
}
