//! What the harness itself says of a run, in the words of the checkers.

pub use crate::check::Verdict;

/// Findings that are printed; the rest is counted.
const SHOWN_MAX: usize = 10;

impl Verdict {
    /// A verdict over so many things, of which these are wrong.
    pub fn of(name: &'static str, checked: u64, wrong: Vec<String>, well: String) -> Verdict {
        let more = wrong.len().saturating_sub(SHOWN_MAX);
        let mut shown: Vec<String> = wrong.iter().take(SHOWN_MAX).cloned().collect();
        if more > 0 {
            shown.push(format!("… and {more} more"));
        }
        Verdict {
            name,
            ok: wrong.is_empty() && checked > 0,
            undecided: 0,
            checked,
            text: match (wrong.is_empty(), checked) {
                (true, 0) => "nothing was looked at".into(),
                (true, _) => well,
                _ => shown.join("\n"),
            },
        }
    }
}
