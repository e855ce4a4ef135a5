//! A second place that knows how far the log had come.
//!
//! After an unclean stop an engine takes a damaged end for a torn write and drops it: that is how
//! it recovers, and it cannot tell the two apart. sled does so even after a clean stop. A node
//! whose log was shortened like this would forget what it had acknowledged, perhaps a vote.
//!
//! The witness is a file beside the log with the number of the last durable frame. It is written
//! after the frame is durable and before anybody hears of it, and never synced: whatever a crash
//! leaves of it is a number that was true, so it costs one small write and can accuse nobody
//! falsely. If the log has fewer frames than the witness saw, its end was lost.
//!
//! Format 1, little-endian: `"hlgw"`, format u8, frame u64, CRC-32C of all before it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::fault::LogFault;
use super::files;

const FILE: &str = "log.witness";
const MAGIC: [u8; 5] = *b"hlgw\x01";
const BYTES: usize = 17;

pub(crate) struct Witness {
    file: File,
    /// The frame it saw last, as of opening.
    pub(crate) seen: u64,
}

impl Witness {
    /// The witness of a data directory. One that is missing or unreadable has seen nothing and
    /// begins anew: it is evidence, not data.
    pub(crate) fn open(dir: &Path) -> Result<Witness, LogFault> {
        let path = dir.join(FILE);
        let seen = fs::read(&path).ok().and_then(|bytes| decode(&bytes));
        if seen.is_none() {
            files::write_whole(&path, &encode(0))?;
        }
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(|source| files::failed("opening", &path, source))?;
        Ok(Witness {
            file,
            seen: seen.unwrap_or(0),
        })
    }

    /// Notes that this frame is durable.
    pub(crate) fn note(&self, frame: u64) -> std::io::Result<()> {
        self.file.write_all_at(&encode(frame), 0)
    }
}

fn encode(frame: u64) -> [u8; BYTES] {
    let mut out = [0; BYTES];
    out[..5].copy_from_slice(&MAGIC);
    out[5..13].copy_from_slice(&frame.to_le_bytes());
    let crc = crc32c::crc32c(&out[..13]);
    out[13..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let frame = u64::from_le_bytes(bytes.get(5..13)?.try_into().ok()?);
    (bytes == encode(frame)).then_some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_last_frame_it_was_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Witness::open(dir.path()).unwrap().seen, 0);
        let witness = Witness::open(dir.path()).unwrap();
        witness.note(41).unwrap();
        witness.note(42).unwrap();
        assert_eq!(Witness::open(dir.path()).unwrap().seen, 42);
    }

    #[test]
    fn a_damaged_witness_saw_nothing() {
        for bit in 0..BYTES * 8 {
            let mut bent = encode(42);
            bent[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bent), None, "bit {bit}");
        }
        assert_eq!(decode(&encode(42)[..16]), None);
    }
}
