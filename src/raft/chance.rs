//! Chance, as a seam: openraft draws its election time-outs at random, so that two nodes seldom
//! stand at once. A simulation seeds the drawing, and nothing else of the runtime changes.

use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::TokioRuntime;
use rand::TryRng;
use rand::rngs::ThreadRng;
use std::cell::RefCell;
use std::convert::Infallible;
use std::time::Duration;

use crate::log::sim_disk::Dice;

thread_local! {
    static SEEDED: RefCell<Option<Dice>> = const { RefCell::new(None) };
}

/// From now on what this thread draws follows from the seed.
pub fn seed_chance(seed: u64) {
    SEEDED.with_borrow_mut(|dice| *dice = Some(Dice::new(seed)));
}

/// The thread's own chance, or the one it was seeded with.
pub(crate) struct Chance(ThreadRng);

impl TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|drawn| drawn as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        match SEEDED.with_borrow_mut(|dice| dice.as_mut().map(Dice::roll)) {
            Some(drawn) => Ok(drawn),
            None => self.0.try_next_u64(),
        }
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for piece in out.chunks_mut(8) {
            let drawn = self.try_next_u64()?.to_le_bytes();
            piece.copy_from_slice(&drawn[..piece.len()]);
        }
        Ok(())
    }
}

/// tokio, but for chance.
#[derive(Debug)]
pub(crate) struct Runtime(TokioRuntime);

type Of = TokioRuntime;

impl AsyncRuntime for Runtime {
    type JoinError = <Of as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Of as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Of as AsyncRuntime>::Sleep;
    type Instant = <Of as AsyncRuntime>::Instant;
    type TimeoutError = <Of as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Of as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Chance;
    type Mpsc = <Of as AsyncRuntime>::Mpsc;
    type Watch = <Of as AsyncRuntime>::Watch;
    type Oneshot = <Of as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Of as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Of::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Of::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Of::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Of::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Of::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        Of::is_panic(error)
    }

    fn thread_rng() -> Chance {
        Chance(rand::rng())
    }

    fn new(threads: usize) -> Runtime {
        Runtime(Of::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn a_seed_decides_what_a_thread_draws() {
        let drawn = |seed: Option<u64>| {
            let draw = move || {
                seed.into_iter().for_each(seed_chance);
                let mut chance = Runtime::thread_rng();
                let draw = |_| chance.random_range(0..u64::MAX);
                (0..8).map(draw).collect::<Vec<u64>>()
            };
            std::thread::spawn(draw).join().unwrap()
        };
        assert_eq!(drawn(Some(1)), drawn(Some(1)));
        assert_ne!(drawn(Some(1)), drawn(Some(2)));
        assert_ne!(drawn(None), drawn(None));
    }
}
