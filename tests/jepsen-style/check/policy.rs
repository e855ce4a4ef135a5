//! What a task asks for, as the outer contract fills it in: tries, back-off, jitter, ages.

use serde_json::Value;

use super::words::{instant, span};

/// Back-off has no longer delay than a century.
const DELAY_MAX_MS: u64 = 36_525 * 86_400_000;

/// The parts of a task's content that decide what becomes of it. Milliseconds.
#[derive(Clone, Debug)]
pub struct Policy {
    pub attempts: u64,
    backoff: Value,
    /// A delay is multiplied by 1 to 1 + this / 1000.
    jitter_milli: u64,
    pub max_age: Option<u64>,
    pub timeout: u64,
    pub accept_timeout: u64,
    pub expires_at: Option<u64>,
}

impl Policy {
    /// Reads `spec` of an exported event; what is absent has its documented default.
    pub fn of(spec: &Value) -> Policy {
        let retry = &spec["retry"];
        Policy {
            attempts: retry["attempts"].as_u64().unwrap_or(3),
            backoff: retry["backoff"].clone(),
            jitter_milli: retry["jitter_milli"].as_u64().unwrap_or(100),
            max_age: span(&retry["max_age"]),
            timeout: span(&spec["target"]["http"]["timeout"]).unwrap_or(10_000),
            accept_timeout: span(&spec["accept_timeout"]).unwrap_or(3_600_000),
            expires_at: instant(&spec["expires_at"]),
        }
    }

    /// The delay before jitter, after so many failed tries (1 or more).
    pub fn base(&self, failed: u64) -> u64 {
        let member = |kind: &str, name: &str| span(&self.backoff[kind][name]).unwrap_or(0);
        let steps = failed.saturating_sub(1);
        if let Some(fixed) = span(&self.backoff["fixed"]) {
            return fixed;
        }
        if let Some(list) = self.backoff["list"].as_array() {
            let nth = list.get(steps as usize).or(list.last());
            return nth.and_then(span).unwrap_or(0);
        }
        if self.backoff["linear"].is_object() {
            let step = member("linear", "step").saturating_mul(steps);
            let sum = member("linear", "first").saturating_add(step);
            return sum.min(member("linear", "max"));
        }
        let (first, factor_milli, max) = match self.backoff["exponential"].is_object() {
            true => (
                member("exponential", "first"),
                self.backoff["exponential"]["factor_milli"]
                    .as_u64()
                    .unwrap_or(2_000),
                member("exponential", "max"),
            ),
            false => (1_000, 2_000, 600_000),
        };
        let mut delay = first;
        // After 64 steps a delay has reached its maximum, or does not grow at all.
        for _ in 0..steps.min(10_000) {
            let next = u128::from(delay) * u128::from(factor_milli) / 1_000;
            let next = next.min(u128::from(max)) as u64;
            if next == delay {
                break;
            }
            delay = next;
        }
        delay.min(max)
    }

    /// The delay with jitter. The contract says only that jitter lies between none and all of
    /// it; which it is, the architecture says: a hash of the task's number and the failed tries.
    pub fn delay(&self, failed: u64, seq: u64) -> u64 {
        let base = u128::from(self.base(failed));
        let draw = xxhash_rust::xxh3::xxh3_64_with_seed(&seq.to_le_bytes(), failed) % 1_001;
        let extra = base * u128::from(self.jitter_milli) * u128::from(draw) / 1_000_000;
        (base + extra).min(u128::from(DELAY_MAX_MS)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bases(retry: Value) -> Vec<u64> {
        let policy = Policy::of(&json!({ "retry": retry }));
        (1..=5).map(|n| policy.base(n)).collect()
    }

    #[test]
    fn delays_are_those_of_the_contract() {
        assert_eq!(bases(json!(null)), [1_000, 2_000, 4_000, 8_000, 16_000]);
        assert_eq!(bases(json!({ "backoff": { "fixed": "5s" } })), [5_000; 5]);
        let listed = json!({ "backoff": { "list": ["1s", "1m", "1h"] } });
        assert_eq!(
            bases(listed),
            [1_000, 60_000, 3_600_000, 3_600_000, 3_600_000]
        );
        let linear = json!({ "first": "1s", "step": "2s", "max": "4s" });
        assert_eq!(
            bases(json!({ "backoff": { "linear": linear } })),
            [1_000, 3_000, 4_000, 4_000, 4_000]
        );
        let threefold = json!({ "first": "1s", "factor_milli": 3_000, "max": "10s" });
        assert_eq!(
            bases(json!({ "backoff": { "exponential": threefold } })),
            [1_000, 3_000, 9_000, 10_000, 10_000]
        );
    }

    #[test]
    fn jitter_stays_within_its_bounds() {
        let policy = Policy::of(&json!({ "retry": { "backoff": { "fixed": "1s" } } }));
        assert!((0..200).all(|seq| (1_000..=1_100).contains(&policy.delay(1, seq))));
        let none = json!({ "retry": { "backoff": { "fixed": "1s" }, "jitter_milli": 0 } });
        assert!((0..200).all(|seq| Policy::of(&none).delay(1, seq) == 1_000));
    }
}
