//! The log for people: standard error, as text or JSON, filtered by target and level.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

use super::settings::{Format, Telemetry};

/// Installs the subscriber for this process. Data goes to standard output, talk to standard
/// error, in colour only on a terminal.
pub fn init(settings: &Telemetry) -> Result<(), String> {
    let filter = filter(&settings.filter)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let installed = match settings.format {
        Format::Json => lines.json().flatten_event(true).try_init(),
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    installed.map_err(|error| error.to_string())
}

fn filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|error| format!("telemetry.filter: {text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        assert!(filter("info").is_ok() && filter("horolog=debug,warn").is_ok());
        let error = filter("horolog=loud").unwrap_err();
        assert!(error.starts_with("telemetry.filter"), "{error}");
    }
}
