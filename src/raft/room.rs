//! Room on disk: submits are refused before the disk is full, everything else is taken.
//!
//! Each node looks at the file system of its directory once a second and tells the others with its
//! heartbeats. The leader takes no submits while its own disk is low, or while the nodes that have
//! room are no majority. Outcomes, cancels and triggers are always taken: they end what is there,
//! and retention makes room again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::inner::Inner;

/// How often to look.
const EVERY: Duration = Duration::from_secs(1);
/// A watermark in bytes is at most this part of the file system, so that small ones can be used.
const PART_MAX: u64 = 10;
/// Room comes back for good only with so much more than the watermark, in percent of it.
const MORE_PERCENT: u64 = 10;

/// Below so much free space submits are refused: bytes, or percent of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watermark {
    Bytes(u64),
    Percent(u8),
}

impl Default for Watermark {
    fn default() -> Watermark {
        Watermark::Bytes(256 << 20)
    }
}

impl Watermark {
    /// Reads `5%`, `512MiB`, `2GiB`, or a number of bytes; `0` turns it off.
    ///
    /// # Errors
    /// Says how to write it.
    pub fn parse(text: &str) -> Result<Watermark, String> {
        let wrong = || format!("{text:?} is no amount: write 5%, 512MiB, 2GiB or bytes");
        let text = text.trim();
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent
                .trim()
                .parse()
                .ok()
                .filter(|percent| *percent <= 100);
            return percent.map(Watermark::Percent).ok_or_else(wrong);
        }
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
        let unit = units
            .iter()
            .find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, *bits)));
        let (number, bits) = unit.unwrap_or((text, 0));
        let number: u64 = number.trim().parse().map_err(|_| wrong())?;
        number
            .checked_mul(1 << bits)
            .map(Watermark::Bytes)
            .ok_or_else(wrong)
    }

    /// In bytes, on a file system of so many.
    fn bytes(self, total: u64) -> u64 {
        match self {
            Watermark::Bytes(bytes) => bytes.min(total / PART_MAX),
            Watermark::Percent(percent) => total / 100 * u64::from(percent),
        }
    }

    /// Whether it is low, given whether it was.
    fn is_low(self, free: u64, total: u64, was: bool) -> bool {
        let mark = self.bytes(total);
        let mark = if was {
            mark + mark / 100 * MORE_PERCENT
        } else {
            mark
        };
        free < mark
    }
}

/// What this node knows of its disk.
#[derive(Default)]
pub(crate) struct Room {
    low: AtomicBool,
    free: AtomicU64,
}

impl Room {
    /// Less is free than the watermark demands.
    pub(crate) fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    /// Bytes that were free a moment ago.
    pub(crate) fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }
}

/// Looks until told to stop.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        look(&inner);
        inner.proposer.shut(no_room(&inner));
    }
}

fn look(inner: &Inner) {
    // One that cannot be asked is told by the log soon enough.
    let Ok((free, total)) = space(&inner.dir) else {
        return;
    };
    inner.room.free.store(free, Ordering::Relaxed);
    let was = inner.room.is_low();
    let low = inner.disk.is_low(free, total, was);
    if low == was {
        return;
    }
    inner.room.low.store(low, Ordering::Relaxed);
    let mark = inner.disk.bytes(total);
    match low {
        true => tracing::error!(
            free,
            watermark = mark,
            "the disk is nearly full: no submits are taken until there is room; outcomes and \
             cancels are"
        ),
        false => tracing::info!(free, watermark = mark, "the disk has room again"),
    }
}

/// Whether submits have to be refused: here there is no room, or in a majority there is not.
fn no_room(inner: &Inner) -> bool {
    let voters = inner.voters();
    let low = inner.registry.low();
    let roomy = voters.iter().filter(|id| !low.contains(id)).count();
    inner.room.is_low() || (!voters.is_empty() && roomy <= voters.len() / 2)
}

/// Bytes free for us, and in all.
fn space(dir: &Path) -> std::io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(dir)?;
    let unit = stat.f_frsize;
    Ok((
        stat.f_bavail.saturating_mul(unit),
        stat.f_blocks.saturating_mul(unit),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read() {
        for (text, mark) in [
            ("5%", Ok(Watermark::Percent(5))),
            ("512MiB", Ok(Watermark::Bytes(512 << 20))),
            (" 2 GiB", Ok(Watermark::Bytes(2 << 30))),
            ("0", Ok(Watermark::Bytes(0))),
            ("101%", Err(())),
            ("-1", Err(())),
            ("5 MB", Err(())),
            ("99999999999TiB", Err(())),
        ] {
            assert_eq!(Watermark::parse(text).map_err(drop), mark, "{text}");
        }
    }

    #[test]
    fn low_below_the_mark_and_well_again_a_little_above_it() {
        let mark = Watermark::Bytes(100 << 20);
        let total = 10 << 30;
        assert!(!mark.is_low(100 << 20, total, false));
        assert!(mark.is_low((100 << 20) - 1, total, false));
        assert!(mark.is_low(105 << 20, total, true), "not yet");
        assert!(!mark.is_low(111 << 20, total, true));
        assert!(
            !mark.is_low(7 << 20, 64 << 20, false),
            "a tenth of a small one"
        );
        assert!(!Watermark::Bytes(0).is_low(0, total, true), "off");
        assert!(Watermark::Percent(50).is_low(4 << 30, total, false));
    }

    #[test]
    fn a_directory_has_space() {
        let dir = tempfile::tempdir().unwrap();
        let (free, total) = space(dir.path()).unwrap();
        assert!(free > 0 && free <= total);
    }
}
