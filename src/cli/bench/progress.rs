//! What is being measured at the moment, on a terminal's standard error and nowhere else.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::Duration;

/// Seldom enough not to be part of what is measured.
const TICK: Duration = Duration::from_millis(500);

/// A bar that knows how many measurements there are.
pub struct Progress(ProgressBar);

impl Progress {
    pub fn new() -> Progress {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = ProgressStyle::with_template("[{elapsed_precise}] {bar:24} {pos}/{len} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(TICK);
        Progress(bar)
    }

    /// So many more measurements are to come.
    pub fn expect(&self, steps: usize) {
        self.0.inc_length(steps as u64);
    }

    /// The next measurement begins.
    pub fn step(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
