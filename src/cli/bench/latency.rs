//! Latencies: recorded in microseconds, told as quantiles, drawn as text.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// A histogram of microseconds.
pub type Micros = Histogram<u64>;

/// Longer than anything that is measured here.
const MICROS_MAX: u64 = 600_000_000;
/// Upper bounds of the drawn bars.
const BARS_US: [u64; 16] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000,
];
/// The longest bar.
const BAR_WIDTH: u64 = 50;

/// An empty histogram.
pub fn micros() -> Micros {
    #[allow(clippy::expect_used)] // The bounds are constants.
    Histogram::new_with_bounds(1, MICROS_MAX, 3).expect("the bounds of a histogram")
}

/// Records a duration.
pub fn note(histogram: &mut Micros, duration: Duration) {
    histogram.saturating_record(duration.as_micros() as u64);
}

/// What people ask of a histogram, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
    pub count: u64,
}

impl Quantiles {
    /// None when nothing was recorded.
    pub fn of(histogram: &Micros) -> Option<Quantiles> {
        let at = |quantile| histogram.value_at_quantile(quantile);
        (!histogram.is_empty()).then(|| Quantiles {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max(),
            count: histogram.len(),
        })
    }
}

/// Microseconds as people read them.
pub fn human(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.2} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// The histogram as lines of text; a bound that nothing reaches is left out at both ends.
pub fn draw(histogram: &Micros) -> Vec<String> {
    let mut counts = [0; BARS_US.len() + 1];
    for step in histogram.iter_recorded() {
        let value = step.value_iterated_to();
        let bar = BARS_US.iter().position(|bound| value < *bound);
        counts[bar.unwrap_or(BARS_US.len())] += step.count_since_last_iteration();
    }
    let used = |count: &u64| *count > 0;
    let (Some(first), Some(last)) = (counts.iter().position(used), counts.iter().rposition(used))
    else {
        return Vec::new();
    };
    let most = counts.iter().max().copied().unwrap_or(1);
    (first..=last)
        .map(|at| {
            let label = match BARS_US.get(at) {
                Some(bound) => format!("< {}", human(*bound)),
                None => format!("≥ {}", human(BARS_US[BARS_US.len() - 1])),
            };
            let bar = "█".repeat((counts[at] * BAR_WIDTH).div_ceil(most) as usize);
            format!("{label:>12} {:>9}  {bar}", counts[at])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_told() {
        let mut histogram = micros();
        assert!(Quantiles::of(&histogram).is_none());
        (1..=100).for_each(|ms| note(&mut histogram, Duration::from_millis(ms)));
        let quantiles = Quantiles::of(&histogram).unwrap();
        assert!(quantiles.p50_us.abs_diff(50_000) < 100);
        assert!(quantiles.p99_us.abs_diff(99_000) < 100);
        assert_eq!(quantiles.count, 100);
    }

    #[test]
    fn bars_are_in_proportion() {
        let mut histogram = micros();
        histogram.record_n(150, 100).unwrap();
        histogram.record_n(700, 10).unwrap();
        histogram.record_n(7_000_000, 1).unwrap();
        let lines = draw(&histogram);
        let bar = |at: usize| lines[at].matches('█').count();
        assert_eq!(lines.len(), 15, "{lines:#?}");
        assert_eq!((bar(0), bar(1), bar(2), bar(14)), (50, 0, 5, 1));
        assert!(lines[0].contains("< 200 µs") && lines[14].contains("≥ 5.00 s"));
        assert!(draw(&micros()).is_empty());
    }

    #[test]
    fn durations_are_short() {
        let texts = [0, 999, 1_500, 2_500_000].map(human);
        assert_eq!(texts, ["0 µs", "999 µs", "1.50 ms", "2.50 s"]);
    }
}
