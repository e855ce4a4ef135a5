//! Snapshots on their way to other nodes.
//!
//! Whoever takes one in needs the log behind it next. So that log stays while the snapshot is sent,
//! and for a while after; else a node that takes longer than the log is kept would be sent one
//! snapshot after the other and never catch up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::model::Clock;

/// How long after a snapshot was sent the log behind it stays: time to ask for the first of it.
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(30);

/// See the module.
pub(crate) struct Sending {
    clock: Arc<dyn Clock>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    next: u64,
    /// By ticket: the snapshot's log index, and when it was through or given up.
    tickets: BTreeMap<u64, (u64, Option<Duration>)>,
}

/// A snapshot that is being sent; it is through, or given up, when this is dropped.
pub(crate) struct Sent {
    sending: Arc<Sending>,
    ticket: u64,
}

impl Drop for Sent {
    fn drop(&mut self) {
        let now = self.sending.clock.steady();
        if let Some((_, ended)) = self.sending.held().tickets.get_mut(&self.ticket) {
            *ended = Some(now);
        }
    }
}

impl Sending {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Sending> {
        Arc::new(Sending {
            clock,
            held: Mutex::default(),
        })
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A snapshot of this log index is being sent from now on.
    pub(crate) fn begin(self: &Arc<Sending>, index: u64) -> Sent {
        let mut held = self.held();
        let ticket = held.next;
        held.next += 1;
        held.tickets.insert(ticket, (index, None));
        Sent {
            sending: self.clone(),
            ticket,
        }
    }

    /// What follows this log index is still needed; `None`: nothing is.
    pub(crate) fn needed_behind(&self) -> Option<u64> {
        let now = self.clock.steady();
        let mut held = self.held();
        let over = |ended: Duration| now.saturating_sub(ended) > CATCHES_UP_WITHIN;
        held.tickets
            .retain(|_, (_, ended)| !ended.is_some_and(over));
        held.tickets.values().map(|(index, _)| *index).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Time;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Default)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn wall(&self) -> Time {
            Time(0)
        }
        fn wall_us(&self) -> u64 {
            0
        }
        fn steady(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn the_log_behind_a_snapshot_stays_until_it_is_caught_up_with() {
        let hand = Arc::new(Hand::default());
        let sending = Sending::new(hand.clone());
        assert_eq!(sending.needed_behind(), None);
        let (first, second) = (sending.begin(70), sending.begin(50));
        assert_eq!(sending.needed_behind(), Some(50));
        hand.0.store(1_000, Ordering::Relaxed);
        assert_eq!(sending.needed_behind(), Some(50), "however long it takes");
        drop(second);
        hand.0.store(1_030, Ordering::Relaxed);
        assert_eq!(sending.needed_behind(), Some(50), "it asks for the log now");
        hand.0.store(1_031, Ordering::Relaxed);
        assert_eq!(sending.needed_behind(), Some(70));
        drop(first);
        hand.0.store(1_062, Ordering::Relaxed);
        assert_eq!(sending.needed_behind(), None);
    }
}
