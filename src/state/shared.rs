//! The state behind a lock that is held briefly.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::read::{Filter, Listing, Page};
use super::{State, StoreFault};
use crate::model::Key;

/// One thread folds; readers take the lock between batches. Nobody holds it across a wait.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// How many wait to write. The lock is not fair: who gives it up and takes it again at once
    /// gets it again, and these would starve.
    writers: AtomicUsize,
}

impl Shared {
    pub fn new(state: State) -> Shared {
        Shared(Arc::new(Inner {
            state: Mutex::new(state),
            writers: AtomicUsize::new(0),
        }))
    }

    /// Reads. Keep it short: the fold waits meanwhile.
    pub fn read<T>(&self, f: impl FnOnce(&State) -> T) -> T {
        f(&self.lock())
    }

    /// One page of tasks behind a key, in slices between which the fold goes on.
    ///
    /// # Errors
    /// The store cannot be read; the node must stop.
    pub fn list(
        &self,
        filter: &Filter,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, StoreFault> {
        let mut listing = Listing::new(filter, after, limit);
        while !self.read(|state| state.list_slice(&mut listing))? {
            while self.0.writers.load(Ordering::Relaxed) > 0 {
                std::thread::yield_now();
            }
        }
        Ok(listing.into_page())
    }

    /// Folds, loads or drops: for whoever owns the log's order.
    pub fn write<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        self.0.writers.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        self.0.writers.fetch_sub(1, Ordering::Relaxed);
        f(&mut state)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while folding is a fault that ends the process; until it does, readers see the
        // state as it was left.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
