//! A file below redb that remembers what was written where, so that a disk which gives back
//! something else is found out.
//!
//! redb keeps pages in memory and does not verify what it reads. Here each block of 4 KiB has a
//! CRC-32C in memory, noted when it is written, or when it is first read. Every later read is held
//! against it, and [`Blocks::check`] reads the whole file again from the disk, past all caches. A
//! flipped bit, a stale block, a block that came from elsewhere: each is found where it lies, in
//! use or not. What went wrong before this process opened the file is found by the checksums of
//! the rows and pages instead.
//!
//! It costs 1 MiB of memory for each GiB of the file.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// redb's page.
pub const BLOCK_BYTES: usize = 4_096;
/// Nothing is known of a block.
const UNKNOWN: u32 = 0;
/// Room is made for so many more sums at once: those of 1 GiB. Doubling would hold twice as many as
/// there are blocks.
const SUMS_MORE: usize = (1 << 30) / BLOCK_BYTES;

/// The file as redb sees it.
#[derive(Debug)]
pub struct Watched(Arc<Inner>);

/// The same file, to be checked from outside. Clones share it.
#[derive(Clone, Debug)]
pub struct Blocks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    backend: FileBackend,
    file: File,
    sums: Mutex<Vec<u32>>,
    /// Rises when the length changes: what was read before says nothing of what is there after.
    resized: AtomicU64,
}

impl Watched {
    /// Opens a file that is there.
    ///
    /// # Errors
    /// It cannot be opened, or is empty: redb would take that for a new one.
    pub fn open(path: &Path) -> Result<(Watched, Blocks), DatabaseError> {
        let file = File::options().read(true).write(true).open(path)?;
        if file.metadata()?.len() == 0 {
            let why = io::Error::new(io::ErrorKind::InvalidData, "the file is empty");
            return Err(why.into());
        }
        let name = path.file_name().unwrap_or(path.as_os_str());
        let inner = Arc::new(Inner {
            name: name.to_string_lossy().into_owned(),
            backend: FileBackend::new(file.try_clone()?)?,
            file,
            sums: Mutex::default(),
            resized: AtomicU64::default(),
        });
        Ok((Watched(inner.clone()), Blocks(inner)))
    }
}

impl Blocks {
    /// Reads so many blocks from the disk, from the `first` on; returns how many there were.
    /// Fewer than asked for: the file has ended.
    ///
    /// # Errors
    /// A block is not what it was, or cannot be read.
    pub fn check(&self, first: u64, count: usize) -> io::Result<usize> {
        let offset = first * BLOCK_BYTES as u64;
        let left = self.0.file.metadata()?.len().saturating_sub(offset);
        let count = count.min((left / BLOCK_BYTES as u64) as usize);
        if count == 0 {
            return Ok(0);
        }
        let mut bytes = vec![0; count * BLOCK_BYTES];
        let resized = self.0.resized();
        self.0.forget_cached(offset, bytes.len());
        match self.0.file.read_exact_at(&mut bytes, offset) {
            // It was cut while this was read, which its owner may do.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            read => read?,
        }
        self.0.judge(offset, &bytes, resized)?;
        Ok(count)
    }
}

impl Inner {
    fn resized(&self) -> u64 {
        self.resized.load(Ordering::SeqCst)
    }

    fn sums(&self) -> MutexGuard<'_, Vec<u32>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the kernel's copy, so that the next read is the disk's answer.
    #[cfg(target_os = "linux")]
    fn forget_cached(&self, offset: u64, length: usize) {
        let advice = rustix::fs::Advice::DontNeed;
        let length = std::num::NonZeroU64::new(length as u64);
        // It is only advice; without it the copy is checked.
        let _ = rustix::fs::fadvise(&self.file, offset, length, advice);
    }

    #[cfg(not(target_os = "linux"))]
    fn forget_cached(&self, _offset: u64, _length: usize) {}

    /// Holds what was read against what is known, and takes note of what is not.
    fn judge(&self, offset: u64, bytes: &[u8], resized: u64) -> io::Result<()> {
        let read: Vec<(usize, u32)> = whole(offset, bytes).collect();
        let mut sums = self.sums();
        if self.resized() != resized {
            return Ok(());
        }
        if let Some((last, _)) = read.last()
            && sums.len() <= *last
        {
            lengthen(&mut sums, last + 1);
        }
        for (block, sum) in read {
            match sums[block] {
                UNKNOWN => sums[block] = sum,
                known if known == sum => {}
                // It may have been written since it was read; nothing is written now.
                known if self.sum_on_disk(block)? == known => {}
                _ => return Err(self.damaged(block)),
            }
        }
        Ok(())
    }

    fn sum_on_disk(&self, block: usize) -> io::Result<u32> {
        let (mut bytes, offset) = ([0; BLOCK_BYTES], (block * BLOCK_BYTES) as u64);
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(sum(&bytes))
    }

    fn damaged(&self, block: usize) -> io::Error {
        let (name, from) = (&self.name, block * BLOCK_BYTES);
        let to = from + BLOCK_BYTES - 1;
        let why = format!("bytes {from} to {to} of {name} are not what was written there");
        io::Error::new(io::ErrorKind::InvalidData, why)
    }
}

fn lengthen(sums: &mut Vec<u32>, to: usize) {
    if sums.capacity() < to {
        sums.reserve_exact(to + SUMS_MORE - sums.len());
    }
    sums.resize(to, UNKNOWN);
}

fn sum(block: &[u8]) -> u32 {
    crc32c::crc32c(block).max(UNKNOWN + 1)
}

/// The blocks that lie wholly within some bytes, by number, with their sums. Not the first of the
/// file: redb writes its header in parts, and guards it by itself.
fn whole(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (usize, u32)> + '_ {
    let first = offset.div_ceil(BLOCK_BYTES as u64).max(1);
    let skipped = (first * BLOCK_BYTES as u64 - offset) as usize;
    let blocks = bytes.get(skipped..).unwrap_or_default();
    let blocks = blocks.chunks_exact(BLOCK_BYTES);
    blocks
        .enumerate()
        .map(move |(n, block)| (first as usize + n, sum(block)))
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.0.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let resized = self.0.resized();
        self.0.backend.read(offset, out)?;
        self.0.judge(offset, out, resized)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut sums = self.0.sums();
        // What grows is zeroes, and known when it is read or written.
        sums.truncate((length / BLOCK_BYTES as u64) as usize);
        self.0.resized.fetch_add(1, Ordering::SeqCst);
        self.0.backend.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.backend.sync_data()
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut sums = self.0.sums();
        let from = (offset / BLOCK_BYTES as u64) as usize;
        let to = (offset + bytes.len() as u64).div_ceil(BLOCK_BYTES as u64) as usize;
        if sums.len() < to {
            lengthen(&mut sums, to);
        }
        // So they stay if the write fails.
        sums[from..to].fill(UNKNOWN);
        self.0.backend.write(offset, bytes)?;
        whole(offset, bytes).for_each(|(block, sum)| sums[block] = sum);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.0.backend.close()
    }

    fn try_lock_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<bool, BackendError> {
        self.0.backend.try_lock_range(from, to)
    }

    fn try_lock_shared_range(
        &self,
        from: Bound<u64>,
        to: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.0.backend.try_lock_shared_range(from, to)
    }

    fn lock_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<(), BackendError> {
        self.0.backend.lock_range(from, to)
    }

    fn lock_shared_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<(), BackendError> {
        self.0.backend.lock_shared_range(from, to)
    }

    fn unlock_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<(), BackendError> {
        self.0.backend.unlock_range(from, to)
    }

    fn query_lock_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<bool, BackendError> {
        self.0.backend.query_lock_range(from, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of eight blocks, all written through the watch.
    fn watched() -> (tempfile::TempDir, Watched, Blocks, File) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.redb");
        std::fs::write(&path, [0; 1]).unwrap();
        let (watched, blocks) = Watched::open(&path).unwrap();
        for n in 0..8 {
            let bytes = [n as u8 + 1; BLOCK_BYTES];
            watched.write(n * BLOCK_BYTES as u64, &bytes).unwrap();
        }
        let outside = File::options().write(true).open(&path).unwrap();
        (dir, watched, blocks, outside)
    }

    #[test]
    fn what_is_as_it_was_passes() {
        let (_dir, watched, blocks, _) = watched();
        assert_eq!(blocks.check(0, 100).unwrap(), 8);
        watched.write(5 * 4_096, &[77; 2 * BLOCK_BYTES]).unwrap();
        watched.set_len(6 * 4_096).unwrap();
        watched.set_len(9 * 4_096).unwrap();
        assert_eq!(blocks.check(2, 4).unwrap(), 4);
        assert_eq!(blocks.check(6, 4).unwrap(), 3);
        assert_eq!(blocks.check(9, 4).unwrap(), 0);
    }

    #[test]
    fn every_flipped_byte_is_found_by_reading_and_by_checking() {
        let (_dir, watched, blocks, outside) = watched();
        for at in (4_096..8 * 4_096).step_by(1_111) {
            let block = at / 4_096;
            outside.write_all_at(&[0xff], at).unwrap();
            let said = blocks.check(0, 8).unwrap_err().to_string();
            let from = block * 4_096;
            assert!(said.starts_with(&format!("bytes {from} to ")), "{said}");
            assert!(said.contains("of some.redb are not what was"), "{said}");
            let mut page = [0; BLOCK_BYTES];
            assert!(watched.read(from, &mut page).is_err());
            outside.write_all_at(&[block as u8 + 1], at).unwrap();
            watched.read(from, &mut page).unwrap();
        }
    }

    #[test]
    fn a_stale_block_and_one_from_elsewhere_are_found() {
        let (_dir, watched, blocks, outside) = watched();
        watched.write(3 * 4_096, &[50; BLOCK_BYTES]).unwrap();
        outside.write_all_at(&[4; BLOCK_BYTES], 3 * 4_096).unwrap();
        assert!(blocks.check(0, 8).is_err(), "as it was before");
        outside.write_all_at(&[50; BLOCK_BYTES], 3 * 4_096).unwrap();
        outside.write_all_at(&[50; BLOCK_BYTES], 4 * 4_096).unwrap();
        assert!(blocks.check(0, 8).is_err(), "written to the wrong place");
    }

    #[test]
    fn what_was_only_read_is_known_from_then_on() {
        let (dir, _, _, outside) = watched();
        let (again, blocks) = Watched::open(&dir.path().join("some.redb")).unwrap();
        again.read(4_096, &mut [0; BLOCK_BYTES]).unwrap();
        outside.write_all_at(&[9], 4_100).unwrap();
        assert!(again.read(4_096, &mut [0; BLOCK_BYTES]).is_err());
        assert_eq!(blocks.check(2, 6).unwrap(), 6);
        outside.write_all_at(&[9], 2 * 4_096).unwrap();
        assert!(blocks.check(2, 6).is_err());
    }
}
