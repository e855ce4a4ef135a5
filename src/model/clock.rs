//! The clock, as a seam.

use std::time::Duration;

use super::Time;

/// Where instants come from: one real implementation, and one that tests drive.
///
/// The wall clock says *when*; the steady clock says *how long*. The steady clock must count
/// the time a machine spends suspended, because a dispatch lease runs out meanwhile.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock, in milliseconds.
    fn wall(&self) -> Time;

    /// The wall clock in microseconds since the epoch, for lateness and the final wait.
    fn wall_us(&self) -> u64;

    /// What the machine's wall clock says at this moment, also just after it jumped: for telling
    /// the other nodes, who notice when it is wrong.
    fn raw_us(&self) -> u64 {
        self.wall_us()
    }

    /// A clock that never jumps and counts suspended time.
    fn steady(&self) -> Duration;
}
