//! How much the fold has gathered in memory since a checkpoint last began, and what follows.
//!
//! ```text
//! less than full      nothing
//! full                a checkpoint is asked for
//! full, one writing   the leader takes no submits into entries: they wait, and then are refused
//! twice full          the fold waits, on whatever node, until that checkpoint is written
//! ```
//!
//! So a node holds three full generations at most, one written and two gathered, however fast
//! the events come and however slow its disk is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, watch};

/// See the module.
pub(crate) struct Gathered {
    /// It is full with so many tasks…
    tasks_max: u64,
    /// …or so many bytes of events.
    bytes_max: u64,
    tasks: AtomicU64,
    /// Bytes of events, by this process.
    bytes: AtomicU64,
    /// The bytes when the last checkpoint began.
    bytes_then: AtomicU64,
    /// A checkpoint is being written.
    writing: watch::Sender<bool>,
    /// It became full, or is full and may be written.
    pub(crate) full: Notify,
}

/// A checkpoint that is being written; it is over when this is dropped.
pub(crate) struct Writing(Arc<Gathered>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.writing.send_replace(false);
        if self.0.is_full() {
            self.0.full.notify_one();
        }
    }
}

impl Gathered {
    pub(crate) fn new(tasks_max: u64, bytes_max: u64) -> Gathered {
        Gathered {
            tasks_max,
            bytes_max,
            tasks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bytes_then: AtomicU64::new(0),
            writing: watch::Sender::new(false),
            full: Notify::new(),
        }
    }

    /// After an entry of so many bytes the state holds so many tasks that no checkpoint has.
    pub(crate) fn note(&self, tasks: usize, bytes: usize) {
        let was = self.is_full();
        self.tasks.store(tasks as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if !was && self.is_full() {
            self.full.notify_one();
        }
    }

    /// A checkpoint of all that was gathered begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Writing {
        self.writing.send_replace(true);
        self.clear();
        Writing(self.clone())
    }

    /// Nothing is gathered any more: it was frozen, or the state was replaced.
    pub(crate) fn clear(&self) {
        self.tasks.store(0, Ordering::Relaxed);
        self.bytes_then
            .store(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The same when the last checkpoint began.
    fn bytes_then(&self) -> u64 {
        self.bytes_then.load(Ordering::Relaxed)
    }

    /// Bytes of events folded by this process.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn holds(&self, times: u64) -> bool {
        // Whoever asks while a checkpoint begins may see the later of the two first.
        let then = self.bytes_then();
        let bytes = self.bytes().saturating_sub(then);
        self.tasks.load(Ordering::Relaxed) >= self.tasks_max.saturating_mul(times)
            || bytes >= self.bytes_max.saturating_mul(times)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.holds(1)
    }

    pub(crate) fn is_writing(&self) -> bool {
        *self.writing.borrow()
    }

    /// Whether submits have to wait.
    pub(crate) fn holds_back(&self) -> bool {
        self.is_writing() && self.is_full()
    }

    /// Told when a checkpoint begins and ends.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.writing.subscribe()
    }

    /// Waits until the fold may go on.
    pub(crate) async fn room(&self) {
        if self.is_writing() && self.holds(2) {
            // An error would mean that the sender is gone, and it is here.
            let _ = self.watch().wait_for(|writing| !writing).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[test]
    fn full_by_tasks_or_by_bytes_until_a_checkpoint_begins() {
        let gathered = Arc::new(Gathered::new(10, 1_000));
        gathered.note(9, 999);
        assert!(!gathered.is_full());
        gathered.note(10, 0);
        assert!(gathered.is_full());
        assert!(gathered.full.notified().now_or_never().is_some(), "told");
        assert!(!gathered.holds_back(), "a checkpoint can begin at once");
        let writing = gathered.begin();
        assert!(!gathered.is_full());
        assert_eq!(gathered.bytes_then(), 999);
        gathered.note(1, 1_000);
        assert!(gathered.is_full() && gathered.holds_back());
        assert!(gathered.room().now_or_never().is_some(), "the fold goes on");
        drop(writing);
        assert!(!gathered.holds_back());
        assert!(gathered.full.notified().now_or_never().is_some(), "again");
    }

    #[test]
    fn at_twice_full_the_fold_waits_for_the_checkpoint_that_is_written() {
        let gathered = Arc::new(Gathered::new(10, 1_000));
        gathered.note(20, 0);
        assert!(
            gathered.room().now_or_never().is_some(),
            "while none is written nobody waits, for nobody would come"
        );
        let writing = gathered.begin();
        gathered.note(20, 0);
        let mut room = std::pin::pin!(gathered.room());
        assert!(room.as_mut().now_or_never().is_none());
        drop(writing);
        assert!(room.now_or_never().is_some());
    }
}
