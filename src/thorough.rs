//! How many cases a property test runs, and from which seed.
//!
//! The usual run draws the same cases every time, so that a failure belongs to the change under
//! test. `THOROUGH=100 cargo test --release --lib` draws a hundred times as many at random; what
//! it finds is kept in `proptest-regressions/` and runs first from then on.

use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;

/// The seed of the usual run.
const SEED: u64 = 1;

pub(crate) fn cases(usual: u32) -> ProptestConfig {
    #[allow(clippy::disallowed_methods)] // a test asks its caller
    let asked = std::env::var("THOROUGH").ok();
    let times = asked.map(|times| times.parse::<u32>().expect("THOROUGH is a number"));
    ProptestConfig {
        cases: usual * times.unwrap_or(1),
        rng_seed: times.map_or(RngSeed::Fixed(SEED), |_| RngSeed::Random),
        ..ProptestConfig::default()
    }
}

/// How many simulated power cuts a test makes; `POWER_CUTS` asks for another number.
pub(crate) fn power_cuts(usual: u64) -> u64 {
    #[allow(clippy::disallowed_methods)] // a test asks its caller
    let asked = std::env::var("POWER_CUTS").ok();
    asked.map_or(usual, |cuts| cuts.parse().expect("POWER_CUTS is a number"))
}

/// Runs chains of lives on all processors; each is told its number. The first failure is returned.
pub(crate) fn chains(
    count: u64,
    run: impl Fn(u64) -> Result<(), String> + Sync,
) -> Result<(), String> {
    use std::sync::atomic::{AtomicU64, Ordering};
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(0);
    let work = || {
        loop {
            let chain = next.fetch_add(1, Ordering::Relaxed);
            if chain >= count {
                return Ok(());
            }
            run(chain)?;
        }
    };
    std::thread::scope(|scope| {
        let working: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let ended = working.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        ended.collect()
    })
}
