//! How answers look to people: tables and lines on standard output, complaints on standard error.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use std::io::{IsTerminal, Write};

use super::client::Answer;

/// Writes a line of data. A reader that has gone away (`| head`) is no failure.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Writes a line for people.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Why the verb failed.
pub fn complain(error: &anyhow::Error) {
    let coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let label = if coloured {
        "\x1b[1;31merror:\x1b[0m"
    } else {
        "error:"
    };
    say(&format!("{label} {error:#}"));
}

/// The answer as it came, or in the form for people.
pub fn show(answer: &Answer, json: bool, people: impl FnOnce(&Value)) {
    if json {
        line(answer.text.trim_end());
    } else {
        people(&answer.json);
    }
}

/// A table with a header.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|name| name.to_string()));
    for row in rows {
        table.add_row(row);
    }
    line(&table.trim_fmt());
}

/// A member as text; nothing for null.
pub fn text(value: &Value, member: &str) -> String {
    match &value[member] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// One task, a member a line.
pub fn task(task: &Value) {
    for member in [
        "app",
        "id",
        "stage",
        "due_at",
        "attempt",
        "created_at",
        "finished_at",
        "outcome",
        "error",
        "owner",
        "index",
    ] {
        let value = text(task, member);
        if !value.is_empty() {
            line(&format!("{member:<12} {value}"));
        }
    }
    let http = &task["target"]["http"];
    line(&format!(
        "{:<12} {} {}",
        "target",
        text(http, "method"),
        text(http, "url")
    ));
    if let Some(labels) = task["labels"]
        .as_object()
        .filter(|labels| !labels.is_empty())
    {
        let labels: Vec<_> = labels
            .keys()
            .map(|key| format!("{key}={}", text(&task["labels"], key)))
            .collect();
        line(&format!("{:<12} {}", "labels", labels.join(" ")));
    }
}
