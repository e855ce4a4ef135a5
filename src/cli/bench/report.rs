//! What a run says: a table for people, JSON with every figure, and whether it counts at all.

use serde::Serialize;
use std::path::Path;

use super::books::Books;
use super::facts::Facts;
use super::latency::{Micros, Quantiles, draw, human};
use crate::cli::output::{line, table};

/// Everything that one invocation measured.
#[derive(Debug, Serialize)]
pub struct Report {
    pub facts: Facts,
    /// Seconds of each measurement.
    pub seconds: u64,
    pub figures: Vec<Figure>,
    pub books: Vec<Books>,
    /// Why the run does not count; empty when it does.
    pub problems: Vec<String>,
    /// Drawn histograms, for people.
    #[serde(skip)]
    drawings: Vec<(String, Vec<String>)>,
}

/// One line of the table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figure {
    /// `f`, `H`, … for floors, `S1`, … for scenarios.
    pub id: &'static str,
    pub what: String,
    pub value: Option<f64>,
    pub unit: &'static str,
    pub latency: Option<Quantiles>,
    /// CPU of the nodes for each task, in microseconds.
    pub cpu_us: Option<f64>,
    /// D2 or D3, for what is stored.
    pub durability: Option<&'static str>,
    pub against: Option<Against>,
    pub goal: Option<Goal>,
}

/// The floor a figure is measured against, from the same run.
#[derive(Clone, Debug, Serialize)]
pub struct Against {
    pub floor: String,
    pub value: f64,
    pub ratio: f64,
}

/// What was set out, and whether it was reached.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    pub text: String,
    pub met: bool,
}

impl Figure {
    pub fn new(id: &'static str, what: impl Into<String>) -> Figure {
        Figure {
            id,
            what: what.into(),
            ..Figure::default()
        }
    }

    pub fn rate(self, value: f64, unit: &'static str) -> Figure {
        Figure {
            value: Some(value),
            unit,
            ..self
        }
    }

    pub fn latency(self, histogram: &Micros) -> Figure {
        let latency = Quantiles::of(histogram);
        Figure { latency, ..self }
    }

    pub fn class(self, class: &'static str) -> Figure {
        Figure {
            durability: Some(class),
            ..self
        }
    }

    pub fn cpu(self, cpu_us: Option<f64>) -> Figure {
        Figure { cpu_us, ..self }
    }

    /// Sets this figure's value against a floor's.
    pub fn against(self, floor: impl Into<String>, value: f64) -> Figure {
        let ratio = self.value.unwrap_or(f64::NAN) / value;
        let against = Against {
            floor: floor.into(),
            value,
            ratio,
        };
        Figure {
            against: Some(against),
            ..self
        }
    }

    /// The ratio must be at least this.
    pub fn at_least(self, ratio: f64) -> Figure {
        let met = self.against.as_ref().is_some_and(|a| a.ratio >= ratio);
        self.goal(format!("≥ {ratio:.2}"), met)
    }

    pub fn goal(self, text: impl Into<String>, met: bool) -> Figure {
        let text = text.into();
        Figure {
            goal: Some(Goal { text, met }),
            ..self
        }
    }

    fn row(&self) -> Vec<String> {
        let micros = |pick: fn(&Quantiles) -> u64| {
            self.latency
                .as_ref()
                .map_or(String::new(), |q| human(pick(q)))
        };
        let value = self.value.map(|value| number(value, self.unit));
        let against = self.against.as_ref();
        let floor = against.map(|a| format!("{} = {}", a.floor, number(a.value, self.unit)));
        let mark = |goal: &Goal| format!("{} {}", if goal.met { "✓" } else { "✗" }, goal.text);
        vec![
            self.id.to_owned(),
            self.what.clone(),
            value.unwrap_or_default(),
            micros(|q| q.p50_us),
            micros(|q| q.p99_us),
            micros(|q| q.max_us),
            self.cpu_us
                .map_or(String::new(), |us| format!("{us:.1} µs")),
            self.durability.unwrap_or_default().to_owned(),
            floor.unwrap_or_default(),
            against.map_or(String::new(), |a| format!("{:.2}", a.ratio)),
            self.goal.as_ref().map_or(String::new(), mark),
        ]
    }
}

impl Report {
    pub fn new(dir: &Path, seconds: u64) -> Report {
        Report {
            facts: Facts::read(dir),
            seconds,
            figures: Vec::new(),
            books: Vec::new(),
            problems: Vec::new(),
            drawings: Vec::new(),
        }
    }

    pub fn figure(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Takes closed books; what is wrong with them is wrong with the run.
    pub fn books(&mut self, books: Books) {
        self.problems.extend(books.problems());
        self.books.push(books);
    }

    pub fn draw(&mut self, title: impl Into<String>, histogram: &Micros) {
        self.drawings.push((title.into(), draw(histogram)));
    }

    /// The JSON of everything.
    pub fn json(&self) -> anyhow::Result<String> {
        let mut value = serde_json::to_value(self)?;
        value["valid"] = self.problems.is_empty().into();
        Ok(serde_json::to_string_pretty(&value)?)
    }

    /// The tables, on standard output.
    pub fn show(&self) {
        line(&self.facts.line());
        let header = [
            "", "what", "figure", "p50", "p99", "max", "CPU/task", "class", "floor", "ratio",
            "goal",
        ];
        table(&header, self.figures.iter().map(Figure::row));
        for (title, lines) in &self.drawings {
            line(&format!("\n{title}"));
            lines.iter().for_each(|text| line(text));
        }
        if !self.books.is_empty() {
            line("");
            let header = [
                "books",
                "submitted",
                "done",
                "dead",
                "cancelled",
                "pending",
                "early",
                "twice",
                "",
            ];
            table(&header, self.books.iter().map(book));
        }
    }
}

fn book(books: &Books) -> Vec<String> {
    let counts = [
        books.submitted,
        books.done,
        books.dead,
        books.cancelled,
        books.pending,
        books.early,
        books.duplicates,
    ];
    let mut row = vec![books.app.clone()];
    row.extend(counts.map(|count| count.to_string()));
    let verdict = if books.balanced { "balanced" } else { "WRONG" };
    row.push(verdict.into());
    row
}

/// A figure with as many digits as it deserves.
fn number(value: f64, unit: &str) -> String {
    match value {
        v if v >= 1e7 => format!("{:.1} M{unit}", v / 1e6),
        v if v >= 1e4 => format!("{:.1} k{unit}", v / 1e3),
        v if v >= 100.0 => format!("{v:.0} {unit}"),
        v => format!("{v:.2} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::latency::micros;

    fn figure(value: f64) -> Figure {
        Figure::new("S1", "64 connections")
            .rate(value, "/s")
            .against("H(64)", 100_000.0)
            .at_least(0.75)
            .class("D2")
    }

    #[test]
    fn a_ratio_is_held_against_its_goal() {
        let (met, missed) = (figure(80_000.0), figure(40_000.0));
        assert!(met.goal.as_ref().unwrap().met);
        assert!(!missed.goal.as_ref().unwrap().met);
        let row = missed.row();
        assert_eq!(row[2], "40.0 k/s");
        assert_eq!(row[7..], ["D2", "H(64) = 100.0 k/s", "0.40", "✗ ≥ 0.75"]);
    }

    #[test]
    fn latencies_are_in_the_row() {
        let mut histogram = micros();
        histogram.record(1_500).unwrap();
        let row = Figure::new("f", "4 KiB").latency(&histogram).row();
        assert_eq!(row[3..6], ["1.50 ms", "1.50 ms", "1.50 ms"]);
    }

    #[test]
    fn unbalanced_books_make_a_run_invalid() {
        let mut report = Report::new(Path::new("."), 1);
        report.figure(figure(1.0));
        assert!(report.json().unwrap().contains("\"valid\": true"));
        let books = Books {
            submitted: 3,
            ..Books::default()
        };
        report.books(books.close(&serde_json::Value::Null));
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["valid"], false);
        assert_eq!(json["figures"][0]["against"]["floor"], "H(64)");
        assert_eq!(json["books"][0]["balanced"], false);
        assert!(json["facts"]["cores"].as_u64().unwrap() > 0);
    }

    #[test]
    fn numbers_are_short() {
        let texts = [1.5, 123.4, 12_345.0, 2.5e8].map(|v| number(v, "/s"));
        assert_eq!(texts, ["1.50 /s", "123 /s", "12.3 k/s", "250.0 M/s"]);
    }
}
