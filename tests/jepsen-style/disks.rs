//! Disks of their own for nodes: a small ext4 in a file, on a loop device.
//!
//! Such a disk can be full, stand still, fail, and lose power for real: [`Disk::cut`] has the
//! kernel forget at once whatever it had not yet written, the file system's journal included, and
//! the next mount recovers what is left, as after a power cut. A process that is killed loses
//! nothing that it wrote; here it loses what it did not sync.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fault::Trouble;

/// `EXT4_IOC_SHUTDOWN`, and "without flushing the log".
const SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587d;
const NO_LOG_FLUSH: u32 = 2;
/// What a journal takes of a small disk, MiB.
const JOURNAL_MIB: &str = "size=8";

/// See the module. It is unmounted when this goes; the image stays.
pub struct Disk {
    dir: PathBuf,
    image: PathBuf,
    mounted: bool,
}

impl Disk {
    /// An empty disk at a directory.
    ///
    /// # Errors
    /// Skipped where this process may not mount, or has not got the tools.
    pub fn make(dir: &Path, mib: u64) -> Result<Disk, Trouble> {
        let failed = |e: std::io::Error| Trouble::Failed(e.to_string());
        let image = dir.with_extension("img");
        fs::create_dir_all(dir).map_err(failed)?;
        let file = File::create(&image).map_err(failed)?;
        file.set_len(mib << 20).map_err(failed)?;
        let shown = image.display().to_string();
        let lacking = |why: String| Trouble::lacking(why);
        run(
            "mkfs.ext4",
            &["-q", "-F", "-m", "0", "-J", JOURNAL_MIB, &shown],
        )
        .map_err(lacking)?;
        let mut disk = Disk {
            dir: dir.to_owned(),
            image,
            mounted: false,
        };
        disk.mount().map_err(lacking)?;
        // A node takes only a directory that is empty, or its own.
        fs::remove_dir(dir.join("lost+found")).map_err(failed)?;
        Ok(disk)
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The power comes back; the journal is replayed.
    ///
    /// # Errors
    /// What `mount` said.
    pub fn mount(&mut self) -> Result<(), String> {
        let (image, dir) = (self.image.display(), self.dir.display());
        run(
            "mount",
            &["-o", "loop", &image.to_string(), &dir.to_string()],
        )?;
        self.mounted = true;
        Ok(())
    }

    /// From now on every write and sync fails, and what was not synced is gone.
    ///
    /// # Errors
    /// When the file system does not do it.
    pub fn cut(&self) -> Result<(), String> {
        let dir = File::open(&self.dir).map_err(|e| e.to_string())?;
        // SAFETY: the number is ext4's for shutting down, which takes a pointer to one u32.
        let shutdown = unsafe { rustix::ioctl::Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH) };
        // SAFETY: as above; the directory is open.
        unsafe { rustix::ioctl::ioctl(&dir, shutdown) }.map_err(|e| format!("shutdown: {e}"))?;
        drop(dir);
        match File::create(self.dir.join("probe")) {
            Ok(_) => Err("the disk still takes writes".into()),
            Err(_) => Ok(()),
        }
    }

    /// # Errors
    /// When somebody still uses it.
    pub fn unmount(&mut self) -> Result<(), String> {
        run("umount", &[&self.dir.display().to_string()])?;
        self.mounted = false;
        Ok(())
    }

    /// Every write and sync waits, or goes on.
    ///
    /// # Errors
    /// What `fsfreeze` said.
    pub fn stalled(&self, stands: bool) -> Result<(), String> {
        let verb = if stands { "--freeze" } else { "--unfreeze" };
        run("fsfreeze", &[verb, &self.dir.display().to_string()])
    }

    /// Unmounts what a run that was killed may have left at a directory.
    pub fn release(dir: &Path) {
        let shown = dir.display().to_string();
        // Nothing may be mounted there, or stand still.
        let _ = run("fsfreeze", &["--unfreeze", &shown]);
        let _ = run("umount", &["-l", &shown]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            Disk::release(&self.dir);
        }
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    said(program, args).map(drop)
}

fn said(program: &str, args: &[&str]) -> Result<String, String> {
    match Command::new(program).args(args).output() {
        Ok(out) if out.status.success() => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        Ok(out) => Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        )),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// What was synced is there after a cut, and what was not is gone: so the fault is none that only
/// looks like one.
#[test]
fn a_cut_takes_what_was_not_synced() {
    use std::io::Write;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("disk");
    let mut disk = match Disk::make(&dir, 32) {
        Ok(disk) => disk,
        Err(Trouble::Skipped(why)) => return println!("skipped: no disks here: {why}"),
        Err(Trouble::Failed(why)) => panic!("{why}"),
    };
    let mut synced = File::create(dir.join("synced")).unwrap();
    synced.write_all(&[1; 10_000]).unwrap();
    synced.sync_all().unwrap();
    File::open(&dir).unwrap().sync_all().unwrap();
    synced.write_all(&[2; 10_000]).unwrap();
    fs::write(dir.join("other"), [3; 100]).unwrap();
    disk.cut().unwrap();
    assert!(synced.sync_all().is_err());
    drop(synced);
    disk.unmount().unwrap();
    disk.mount().unwrap();
    assert_eq!(fs::read(dir.join("synced")).unwrap(), [1; 10_000]);
    assert!(!dir.join("other").exists());
}
