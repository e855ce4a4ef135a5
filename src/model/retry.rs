//! When a failed task is tried again.

use bincode::{Decode, Encode};
use serde::Serialize;

use super::limits::{ATTEMPTS_DEFAULT, JITTER_DEFAULT_MILLI, SPAN_MAX};
use super::{Seq, Span};

/// The delay before the next attempt, as a function of the attempts that failed.
///
/// Arithmetic is on integers only: every replica must agree to the millisecond.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// Always the same.
    Fixed(Span),
    /// `first`, then `step` more each time, up to `max`.
    Linear { first: Span, step: Span, max: Span },
    /// `first`, then `factor_milli / 1000` times as long each time, up to `max`.
    Exponential {
        first: Span,
        factor_milli: u32,
        max: Span,
    },
    /// The listed delays; the last one repeats.
    List(Vec<Span>),
}

impl Backoff {
    /// What applies when a task says nothing: 1 s, doubling, up to 10 min.
    pub const DEFAULT: Backoff = Backoff::Exponential {
        first: Span::seconds(1),
        factor_milli: 2_000,
        max: Span::minutes(10),
    };

    /// The delay after `failed` failed attempts (1 or more).
    pub fn delay(&self, failed: u32) -> Span {
        let steps = failed.saturating_sub(1);
        match self {
            Backoff::Fixed(span) => *span,
            Backoff::Linear { first, step, max } => Span(
                first
                    .0
                    .saturating_add(step.0.saturating_mul(u64::from(steps))),
            )
            .min(*max),
            Backoff::Exponential {
                first,
                factor_milli,
                max,
            } => grow(*first, *factor_milli, *max, steps),
            Backoff::List(spans) => {
                let last = spans.len().saturating_sub(1);
                spans
                    .get(last.min(steps as usize))
                    .copied()
                    .unwrap_or(Span::ZERO)
            }
        }
    }
}

/// Multiplies until the most is reached; a factor of at most 1 never gets there, so it is not
/// iterated more often than it can matter.
fn grow(first: Span, factor_milli: u32, max: Span, steps: u32) -> Span {
    let mut delay = first;
    for _ in 0..steps {
        let next = Span(
            (u128::from(delay.0) * u128::from(factor_milli) / 1_000).min(u128::from(max.0)) as u64,
        );
        if next == delay {
            break;
        }
        delay = next;
    }
    delay.min(max)
}

/// A task's retry policy as it was sent; what is absent has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Retry {
    /// All tries that may end, the first included.
    pub attempts: Option<u32>,
    pub backoff: Option<Backoff>,
    /// A delay is multiplied by a factor between 1 and 1 + this / 1000.
    pub jitter_milli: Option<u32>,
    /// No attempt begins later than this after the due instant.
    pub max_age: Option<Span>,
}

impl Retry {
    /// All tries that may end.
    pub fn attempts(&self) -> u32 {
        self.attempts.unwrap_or(ATTEMPTS_DEFAULT)
    }

    /// The delay after `failed` failed attempts, jitter included.
    ///
    /// Jitter spreads tasks that failed together. It is a hash of the task and the attempt, so
    /// that every replica finds the same one and nobody needs a random number below the log.
    pub fn delay(&self, failed: u32, task: Seq) -> Span {
        let base = self
            .backoff
            .as_ref()
            .unwrap_or(&Backoff::DEFAULT)
            .delay(failed);
        let jitter = u64::from(self.jitter_milli.unwrap_or(JITTER_DEFAULT_MILLI));
        let draw =
            xxhash_rust::xxh3::xxh3_64_with_seed(&task.0.to_le_bytes(), u64::from(failed)) % 1_001;
        let extra = u128::from(base.0) * u128::from(jitter) * u128::from(draw) / 1_000_000;
        Span((u128::from(base.0) + extra).min(u128::from(SPAN_MAX.0)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_follows_its_kind() {
        let millis = |b: &Backoff| (1..=5).map(|n| b.delay(n).0).collect::<Vec<_>>();
        assert_eq!(millis(&Backoff::Fixed(Span(5))), [5, 5, 5, 5, 5]);
        let linear = Backoff::Linear {
            first: Span(10),
            step: Span(5),
            max: Span(22),
        };
        assert_eq!(millis(&linear), [10, 15, 20, 22, 22]);
        let doubling = Backoff::Exponential {
            first: Span(1),
            factor_milli: 2_000,
            max: Span(10),
        };
        assert_eq!(millis(&doubling), [1, 2, 4, 8, 10]);
        assert_eq!(
            millis(&Backoff::List(vec![Span(1), Span(7)])),
            [1, 7, 7, 7, 7]
        );
        assert_eq!(Backoff::DEFAULT.delay(u32::MAX), Span::minutes(10));
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_varies() {
        let retry = Retry {
            backoff: Some(Backoff::Fixed(Span(1_000))),
            ..Retry::default()
        };
        let delays: Vec<u64> = (0..200).map(|n| retry.delay(1, Seq(n)).0).collect();
        assert!(delays.iter().all(|d| (1_000..=1_100).contains(d)));
        assert!(delays.iter().any(|d| *d < 1_020) && delays.iter().any(|d| *d > 1_080));
    }
}
