//! The machine and the moment: a figure without them is an anecdote.

use serde::Serialize;
use std::path::Path;
use std::time::Duration;

use crate::model::{Clock as _, Time};
use crate::node::SystemClock;

/// What stands above the figures.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    pub version: &'static str,
    /// Debug builds are an order of magnitude slower and say nothing.
    pub build: &'static str,
    pub at: Time,
    pub cores: usize,
    pub cpu: String,
    pub memory_bytes: u64,
    pub kernel: String,
    /// The kind of file system that the data lies on.
    pub disk: String,
    /// Load of the machine over the minute before.
    pub load: String,
}

impl Facts {
    pub fn read(dir: &Path) -> Facts {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (cpus, memory) = (file("/proc/cpuinfo"), file("/proc/meminfo"));
        let kib: u64 = member(&memory, "MemTotal")
            .trim_end_matches(" kB")
            .parse()
            .unwrap_or(0);
        let load = file("/proc/loadavg");
        Facts {
            version: env!("CARGO_PKG_VERSION"),
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
            at: SystemClock::default().wall(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: member(&cpus, "model name"),
            memory_bytes: kib << 10,
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            disk: disk(dir),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        format!(
            "horolog {} ({}), {}; {} cores ({}), {} GiB, Linux {}, {}; load before {}",
            self.version,
            self.build,
            self.at,
            self.cores,
            self.cpu,
            self.memory_bytes >> 30,
            self.kernel,
            self.disk,
            self.load
        )
    }
}

fn member(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or(String::new(), |(_, value)| value.trim().to_owned())
}

/// A sync on a file system in memory costs nothing and promises nothing.
fn disk(dir: &Path) -> String {
    let Ok(stat) = rustix::fs::statfs(dir) else {
        return "unknown".into();
    };
    #[allow(clippy::unnecessary_cast)] // The field's type differs between systems.
    match stat.f_type as u64 {
        0xef53 => "ext4".into(),
        0x5846_5342 => "xfs".into(),
        0x9123_683e => "btrfs".into(),
        0x794c_7630 => "overlay".into(),
        0x0102_1994 => "tmpfs: not durable".into(),
        other => format!("file system {other:#x}"),
    }
}

/// The CPU time that a process has used.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    ticks(&stat).map(|ticks| Duration::from_millis(ticks * 10))
}

/// The bytes of memory that a process occupies.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = member(&status, "VmRSS");
    let kib: u64 = kib.trim_end_matches(" kB").parse().ok()?;
    Some(kib << 10)
}

/// The bytes of all files below a folder.
pub fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => bytes_below(&entry.path()),
            _ => entry.metadata().map_or(0, |metadata| metadata.len()),
        })
        .sum()
}

/// User and system time, in hundredths of a second, as Linux gives them to programs.
fn ticks(stat: &str) -> Option<u64> {
    // The name may hold anything, blanks and brackets included.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found() {
        assert_eq!(member("a : 1\nMemTotal:   12 kB\n", "MemTotal"), "12 kB");
        assert_eq!(member("", "MemTotal"), "");
    }

    #[test]
    fn memory_and_files_are_counted() {
        assert!(resident_bytes(std::process::id()) > Some(1 << 20));
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/b"), [0; 1000]).unwrap();
        std::fs::write(dir.path().join("c"), [0; 10]).unwrap();
        assert_eq!(bytes_below(dir.path()), 1010);
    }

    #[test]
    fn cpu_time_is_read_past_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 2 0 0 0 15 27 0 0 20 0 1 0 3 4 5";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("nonsense"), None);
    }
}
