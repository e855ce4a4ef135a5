//! The state behind a lock that is held briefly.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::read::{Filter, Listing, Page};
use super::{State, StoreFault};
use crate::model::Key;

/// One thread folds; readers take the lock between batches. Nobody holds it across a wait.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// How many wait for the lock. It is not fair: who gives it up and takes it again at once gets
    /// it again, and these would starve.
    waiting: AtomicUsize,
    /// Somebody has given it up.
    given_up: Condvar,
}

/// A long reader lets others in for so long at most, and then goes on.
const TURN_MAX: Duration = Duration::from_millis(5);

impl Shared {
    pub fn new(state: State) -> Shared {
        Shared(Arc::new(Inner {
            state: Mutex::new(state),
            waiting: AtomicUsize::new(0),
            given_up: Condvar::new(),
        }))
    }

    /// Reads. Keep it short: the fold waits meanwhile.
    pub fn read<T>(&self, f: impl FnOnce(&State) -> T) -> T {
        self.with(|state| f(state))
    }

    /// Folds, loads or drops: for whoever owns the log's order.
    pub fn write<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        self.with(f)
    }

    /// One page of tasks behind a key, in slices between which the fold and other readers go on.
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
        let mut state = self.lock();
        while !state.list_slice(&mut listing)? {
            let others = |_: &mut State| self.0.waiting.load(Ordering::Relaxed) > 0;
            let turn = self.0.given_up.wait_timeout_while(state, TURN_MAX, others);
            state = turn.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        self.0.given_up.notify_one();
        Ok(listing.into_page())
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let done = f(&mut state);
        drop(state);
        self.0.given_up.notify_one();
        done
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.waiting.fetch_add(1, Ordering::Relaxed);
        // A panic while folding is a fault that ends the process; until it does, readers see the
        // state as it was left.
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        state
    }
}
