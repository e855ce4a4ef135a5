//! The floor f: what one write and one fdatasync cost, which is what a group commit costs at least.

use anyhow::{Context as _, Result};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

use super::latency::{Micros, micros, note};

/// Sizes of an append: a lone task, a busy moment, a full batch.
pub const SIZES: [usize; 3] = [4 << 10, 64 << 10, 256 << 10];

/// What appending came to.
pub struct Appends {
    pub latency: Micros,
    pub bytes_per_second: f64,
}

/// Appends pieces of `size` bytes for a while, each followed by fdatasync, to `files` files at
/// once, as so many nodes on one disk do.
pub fn measure(dir: &Path, size: usize, files: usize, span: Duration) -> Result<Appends> {
    let threads: Vec<_> = (0..files)
        .map(|n| {
            let path = dir.join(format!("floor-{n}"));
            std::thread::spawn(move || append(&path, size, span))
        })
        .collect();
    let mut latency = micros();
    let mut bytes_per_second = 0.0;
    for thread in threads {
        let appended = thread.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        latency.add(appended.latency)?;
        bytes_per_second += appended.bytes_per_second;
    }
    Ok(Appends {
        latency,
        bytes_per_second,
    })
}

fn append(path: &Path, size: usize, span: Duration) -> Result<Appends> {
    let context = || format!("cannot write {}", path.display());
    let mut file = File::create(path).with_context(context)?;
    // Not zeros: a disk may treat those better than it treats data.
    let piece: Vec<u8> = (0..size).map(|n| ((n * 167) >> 3) as u8).collect();
    let mut latency = micros();
    let begin = Instant::now();
    while begin.elapsed() < span {
        let start = Instant::now();
        file.write_all(&piece).with_context(context)?;
        file.sync_data().with_context(context)?;
        note(&mut latency, start.elapsed());
    }
    let bytes = latency.len() as f64 * size as f64;
    let bytes_per_second = bytes / begin.elapsed().as_secs_f64();
    drop(file);
    std::fs::remove_file(path).with_context(context)?;
    Ok(Appends {
        latency,
        bytes_per_second,
    })
}
