//! The state behind a lock that is held briefly.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::State;

/// One thread folds; readers take the lock between batches. Nobody holds it across a wait.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub fn new(state: State) -> Shared {
        Shared(Arc::new(Mutex::new(state)))
    }

    /// Reads. Keep it short: the fold waits meanwhile.
    pub fn read<T>(&self, f: impl FnOnce(&State) -> T) -> T {
        f(&self.lock())
    }

    /// Folds, loads or drops: for whoever owns the log's order.
    pub fn write<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while folding is a fault that ends the process; until it does, readers see the
        // state as it was left.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
