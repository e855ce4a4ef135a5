//! A disk that loses power.
//!
//! It stands under redb in tests and simulations. Writes since the last sync are kept apart from
//! what is durable; [`SimDisk::cut`] gives the disk as it may be found after a power cut: each
//! unsynced write, taken in 512-byte sectors and in any order, is kept, lost or torn. It can cut
//! its own power at a chosen operation, fill up, fail, or lie about its syncs. Everything follows
//! from seeds.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

/// What a drive writes whole or not at all.
const SECTOR: usize = 512;

/// SplitMix64, after Steele, Lea and Flood (2014): a whole stream from one number, with no state
/// shared between streams.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero. The bias is far below what a test could see.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }
}

/// A change the disk has accepted and not synced.
#[derive(Clone, Debug)]
enum Unsynced {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

/// How the disk misbehaves.
#[derive(Clone, Debug, Default)]
struct Faults {
    sync_is_noop: bool,
    /// Operations left until the power goes.
    operations_left: Option<u64>,
    /// An operation found the power off.
    off: bool,
    /// Bytes it still takes, and the error after them.
    bytes_left: Option<(u64, io::ErrorKind)>,
}

#[derive(Clone, Default)]
struct Image {
    /// What a power cut cannot take away.
    durable: Vec<u8>,
    /// What a reader sees.
    seen: Vec<u8>,
    unsynced: Vec<Unsynced>,
    faults: Faults,
    digest: u64,
}

/// A simulated disk. Clones are handles to the same one.
#[derive(Clone, Default)]
pub struct SimDisk {
    image: Arc<Mutex<Image>>,
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let image = self.image();
        write!(
            f,
            "SimDisk({} bytes, {} unsynced)",
            image.seen.len(),
            image.unsynced.len()
        )
    }
}

impl SimDisk {
    /// An empty, honest disk.
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// From now on a sync returns at once and does nothing, as some drives do. A test that cannot
    /// tell this disk from an honest one tests nothing.
    pub fn sync_is_noop(&self) {
        self.image().faults.sync_is_noop = true;
    }

    /// Cuts the power after `operations` more writes, syncs and changes of length: they and all
    /// later ones fail, and nothing changes any more.
    pub fn power_off_after(&self, operations: u64) {
        self.image().faults.operations_left = Some(operations);
    }

    /// Whether the power went.
    pub fn is_off(&self) -> bool {
        self.image().faults.off
    }

    /// Takes `bytes` more and then fails every write and growth, as a full or failing disk does.
    pub fn fail_after(&self, bytes: u64, kind: io::ErrorKind) {
        self.image().faults.bytes_left = Some((bytes, kind));
    }

    /// Takes all faults away.
    pub fn heal(&self) {
        self.image().faults = Faults::default();
    }

    /// The disk as it is found after a power cut now, one of the many ways the seed chooses from.
    pub fn cut(&self, seed: u64) -> SimDisk {
        let image = self.image();
        let mut dice = Dice::new(seed);
        let mut unsynced = image.unsynced.clone();
        shuffle(&mut unsynced, &mut dice);
        let mut found = image.durable.clone();
        for change in unsynced {
            match change {
                Unsynced::Length(length) if dice.below(2) == 0 => found.resize(length, 0),
                Unsynced::Length(_) => {}
                Unsynced::Write { offset, bytes } => survive(&mut found, offset, &bytes, &mut dice),
            }
        }
        let after = Image {
            seen: found.clone(),
            durable: found,
            ..Image::default()
        };
        SimDisk {
            image: Arc::new(Mutex::new(after)),
        }
    }

    /// The same disk with the same power, as the next process finds it: what becomes of this
    /// handle's process no longer reaches it.
    pub fn handed_on(&self) -> SimDisk {
        let image = self.image();
        let after = Image {
            faults: Faults::default(),
            ..image.clone()
        };
        SimDisk {
            image: Arc::new(Mutex::new(after)),
        }
    }

    /// A number that follows from every write, sync and change of length so far, in their order.
    pub fn digest(&self) -> u64 {
        self.image().digest
    }

    /// What a reader sees, for tests that damage it.
    pub fn bytes(&self) -> Vec<u8> {
        self.image().seen.clone()
    }

    /// A disk that holds these bytes.
    pub fn holding(bytes: Vec<u8>) -> SimDisk {
        let image = Image {
            seen: bytes.clone(),
            durable: bytes,
            ..Image::default()
        };
        SimDisk {
            image: Arc::new(Mutex::new(image)),
        }
    }

    fn image(&self) -> MutexGuard<'_, Image> {
        self.image
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }
}

impl Image {
    /// Counts an operation against the faults; `bytes` is what it adds.
    fn operate(&mut self, bytes: usize, seal: u64) -> io::Result<()> {
        if let Some(left) = &mut self.faults.operations_left {
            if *left == 0 {
                self.faults.off = true;
                return Err(io::Error::other("the power is off"));
            }
            *left -= 1;
        }
        self.digest = Dice::new(self.digest ^ seal).roll();
        if let Some((left, kind)) = &mut self.faults.bytes_left {
            if (bytes as u64) > *left {
                return Err(io::Error::new(*kind, "the simulated disk takes no more"));
            }
            *left -= bytes as u64;
        }
        Ok(())
    }
}

impl StorageBackend for SimDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.image().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = self.image();
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let there = from
            .checked_add(out.len())
            .and_then(|end| image.seen.get(from..end));
        match there {
            Some(bytes) => {
                out.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut image = self.image();
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let growth = length.saturating_sub(image.seen.len());
        image.operate(growth, length as u64)?;
        image.seen.resize(length, 0);
        image.unsynced.push(Unsynced::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut image = self.image();
        image.operate(0, 0)?;
        if !image.faults.sync_is_noop {
            let Image {
                durable, unsynced, ..
            } = &mut *image;
            for change in unsynced.drain(..) {
                match change {
                    Unsynced::Length(length) => durable.resize(length, 0),
                    Unsynced::Write { offset, bytes } => put(durable, offset, &bytes),
                }
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut image = self.image();
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let seal = u64::from(crc32c::crc32c(bytes)) << 32 ^ offset as u64;
        image.operate(bytes.len(), seal)?;
        put(&mut image.seen, offset, bytes);
        image.unsynced.push(Unsynced::Write {
            offset,
            bytes: bytes.to_vec(),
        });
        Ok(())
    }
}

/// Fisher and Yates.
fn shuffle<T>(items: &mut [T], dice: &mut Dice) {
    for at in (1..items.len()).rev() {
        items.swap(at, dice.below(at as u64 + 1) as usize);
    }
}

/// What is left of one unsynced write: all, nothing, or some of its sectors.
fn survive(found: &mut Vec<u8>, offset: usize, bytes: &[u8], dice: &mut Dice) {
    let fate = dice.below(3);
    let mut at = 0;
    while at < bytes.len() {
        let to = (at + SECTOR - (offset + at) % SECTOR).min(bytes.len());
        let kept = match fate {
            0 => true,
            1 => false,
            _ => dice.below(2) == 0,
        };
        if kept {
            put(found, offset + at, &bytes[at..to]);
        }
        at = to;
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, new: &[u8]) {
    let end = offset + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(disk: &SimDisk, offset: u64, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        disk.read(offset, &mut out).unwrap();
        out
    }

    #[test]
    fn synced_writes_survive_every_cut() {
        let disk = SimDisk::new();
        disk.write(100, &[7; 2000]).unwrap();
        disk.sync_data().unwrap();
        for seed in 0..100 {
            assert_eq!(read(&disk.cut(seed), 100, 2000), [7; 2000]);
        }
    }

    #[test]
    fn unsynced_writes_are_kept_lost_or_torn() {
        let disk = SimDisk::new();
        disk.write(0, &[1; 2048]).unwrap();
        disk.sync_data().unwrap();
        disk.write(0, &[2; 2048]).unwrap();
        let found: Vec<_> = (0..100)
            .map(|seed| read(&disk.cut(seed), 0, 2048))
            .collect();
        assert!(found.contains(&vec![1; 2048]));
        assert!(found.contains(&vec![2; 2048]));
        assert!(found.iter().any(|bytes| bytes[0] != bytes[2047]));
        for sector in found.iter().flat_map(|bytes| bytes.chunks(SECTOR)) {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "a sector is never torn"
            );
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_disk() {
        let disk = SimDisk::new();
        for at in 0..50 {
            disk.write(at * 700, &[at as u8; 900]).unwrap();
        }
        assert_eq!(disk.cut(5).bytes(), disk.cut(5).bytes());
        assert_ne!(disk.cut(5).bytes(), disk.cut(6).bytes());
    }

    #[test]
    fn a_full_disk_says_so_until_there_is_room() {
        let disk = SimDisk::new();
        disk.fail_after(1000, io::ErrorKind::StorageFull);
        disk.write(0, &[1; 600]).unwrap();
        let error = disk.write(600, &[1; 600]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        disk.heal();
        disk.write(600, &[1; 600]).unwrap();
    }
}
