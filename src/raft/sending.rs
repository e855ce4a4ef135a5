//! Snapshots on their way to other nodes.
//!
//! Whoever takes one in needs the log behind it next. So that log stays while the snapshot gets
//! through, and for a while after; else a node that takes longer than the log is kept would be sent
//! one snapshot after the other and never catch up. One that takes nothing in holds nothing up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::network::CHUNK_WITHIN;
use crate::model::Clock;

/// How long after a piece got through the log behind the snapshot stays: the next piece, or after
/// the last one the first call for the log, comes by then.
const HELD: Duration = CHUNK_WITHIN;

/// See the module.
pub(crate) struct Sending {
    clock: Arc<dyn Clock>,
    tickets: Mutex<Tickets>,
}

#[derive(Default)]
struct Tickets {
    next: u64,
    given: BTreeMap<u64, Ticket>,
}

struct Ticket {
    /// The snapshot's log index.
    index: u64,
    /// When a piece of it got through last.
    through: Option<Duration>,
    ended: bool,
}

/// A snapshot that is being sent; it is through, or given up, when this is dropped.
pub(crate) struct Sent {
    sending: Arc<Sending>,
    ticket: u64,
}

impl Sent {
    /// A piece of it got through.
    pub(crate) fn progress(&self) {
        let now = self.sending.clock.steady();
        if let Some(ticket) = self.sending.tickets().given.get_mut(&self.ticket) {
            ticket.through = Some(now);
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(ticket) = self.sending.tickets().given.get_mut(&self.ticket) {
            ticket.ended = true;
        }
    }
}

impl Sending {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Sending> {
        Arc::new(Sending {
            clock,
            tickets: Mutex::default(),
        })
    }

    fn tickets(&self) -> std::sync::MutexGuard<'_, Tickets> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A snapshot of this log index is being sent from now on.
    pub(crate) fn begin(self: &Arc<Sending>, index: u64) -> Sent {
        let mut tickets = self.tickets();
        let ticket = tickets.next;
        tickets.next += 1;
        let given = Ticket {
            index,
            through: None,
            ended: false,
        };
        tickets.given.insert(ticket, given);
        Sent {
            sending: self.clone(),
            ticket,
        }
    }

    /// What follows this log index is still needed; `None`: nothing is.
    pub(crate) fn needed_behind(&self) -> Option<u64> {
        let now = self.clock.steady();
        let mut tickets = self.tickets();
        let lives = |ticket: &Ticket| {
            let at = ticket.through;
            at.is_some_and(|at| now.saturating_sub(at) <= HELD)
        };
        tickets
            .given
            .retain(|_, ticket| !ticket.ended || lives(ticket));
        let needed = tickets.given.values().filter(|ticket| lives(ticket));
        needed.map(|ticket| ticket.index).min()
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
        assert_eq!(sending.needed_behind(), None, "nobody has taken any of it");
        first.progress();
        assert_eq!(sending.needed_behind(), Some(70));
        second.progress();
        assert_eq!(sending.needed_behind(), Some(50));
        hand.0.store(25, Ordering::Relaxed);
        first.progress();
        drop(second);
        assert_eq!(sending.needed_behind(), Some(50), "it asks for the log now");
        hand.0.store(31, Ordering::Relaxed);
        assert_eq!(sending.needed_behind(), Some(70));
        hand.0.store(56, Ordering::Relaxed);
        assert_eq!(sending.needed_behind(), None, "it is stuck");
        first.progress();
        assert_eq!(sending.needed_behind(), Some(70), "it was slow");
        drop(first);
        hand.0.store(87, Ordering::Relaxed);
        assert_eq!(sending.needed_behind(), None);
        assert!(sending.tickets().given.is_empty());
    }
}
