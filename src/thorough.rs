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
