//! Says why peers are refused, and not a hundred times: they dial again and again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The same reason is said again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Peers remembered; beyond that they are forgotten, and said anew.
const PEERS_MAX: usize = 256;

/// What was said last of each peer.
#[derive(Default)]
pub(super) struct Refusals(Mutex<BTreeMap<String, (String, Instant)>>);

impl Refusals {
    /// Warns, unless just that was said of this peer within the last minute.
    pub fn warn(&self, peer: &str, what: &str) {
        if self.is_new(peer, what, Instant::now()) {
            tracing::warn!("{what}");
        }
    }

    fn is_new(&self, peer: &str, what: &str, now: Instant) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |(text, at): &(String, Instant)| text == what && *at + AGAIN_AFTER > now;
        if said.get(peer).is_some_and(fresh) {
            return false;
        }
        if said.len() >= PEERS_MAX {
            said.clear();
        }
        said.insert(peer.into(), (what.into(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_a_minute() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        assert!(refusals.is_new("a", "expired", now));
        assert!(!refusals.is_new("a", "expired", now + AGAIN_AFTER / 2));
        assert!(refusals.is_new("b", "expired", now));
        assert!(refusals.is_new("a", "of another authority", now));
        assert!(refusals.is_new("a", "of another authority", now + AGAIN_AFTER));
    }
}
