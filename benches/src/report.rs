//! What came out: a table for people, JSON for comparisons.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Rows in the order in which they are shown.
#[derive(Debug)]
pub struct Report {
    bench: &'static str,
    subject: String,
    rows: Vec<Row>,
}

/// One figure, and how it compares.
#[derive(Debug)]
pub struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    at_most: Option<f64>,
    ratios: Vec<Ratio>,
}

#[derive(Debug)]
struct Ratio {
    of: String,
    value: f64,
    at_most: Option<f64>,
}

impl Report {
    /// Of one program on one subject.
    pub fn new(bench: &'static str, subject: &str) -> Report {
        Report { bench, subject: subject.to_owned(), rows: Vec::new() }
    }

    /// A time; shown in milliseconds if it is short.
    pub fn seconds(&mut self, what: &str, value: f64) -> &mut Row {
        self.row(what, value, "s")
    }

    /// Memory.
    pub fn megabytes(&mut self, what: &str, value: f64) -> &mut Row {
        self.row(what, value, "MB")
    }

    fn row(&mut self, what: &str, value: f64, unit: &'static str) -> &mut Row {
        let at = self.rows.len();
        self.rows.push(Row { what: what.to_owned(), value, unit, at_most: None, ratios: Vec::new() });
        &mut self.rows[at]
    }

    /// Prints the table, and writes the JSON if a file is named.
    pub fn finish(&self, json: Option<&Path>) -> Result<()> {
        println!("{} of {}", self.bench, self.subject);
        for row in &self.rows {
            println!("{}", row.line());
        }
        let Some(path) = json else { return Ok(()) };
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        let value = json!({ "bench": self.bench, "subject": self.subject, "rows": rows });
        std::fs::write(path, format!("{value:#}\n")).with_context(|| format!("write {}", path.display()))
    }
}

impl Row {
    /// Compares with a peer that was measured; one that was not is left out.
    pub fn of(&mut self, peer: &str, value: Option<f64>) -> &mut Row {
        self.ratio(peer, value, None)
    }

    /// The same, and the ratio should be this at most.
    pub fn of_at_most(&mut self, peer: &str, value: Option<f64>, at_most: f64) -> &mut Row {
        self.ratio(peer, value, Some(at_most))
    }

    /// The figure itself should be this at most.
    pub fn at_most(&mut self, limit: f64) -> &mut Row {
        self.at_most = Some(limit);
        self
    }

    fn ratio(&mut self, peer: &str, value: Option<f64>, at_most: Option<f64>) -> &mut Row {
        if let Some(value) = value {
            self.ratios.push(Ratio { of: peer.to_owned(), value: self.value / value, at_most });
        }
        self
    }

    fn line(&self) -> String {
        let value = match self.unit {
            "s" if self.value < 0.1 => format!("{:.2} ms", self.value * 1e3),
            "s" => format!("{:.3} s", self.value),
            unit => format!("{:.1} {unit}", self.value),
        };
        let mut line = format!("{:<56} {value:>10}{}", self.what, verdict(self.value, self.at_most));
        for ratio in &self.ratios {
            let _ = write!(line, "   {:.3} of {}{}", ratio.value, ratio.of, verdict(ratio.value, ratio.at_most));
        }
        line
    }

    fn json(&self) -> Value {
        let ratio = |ratio: &Ratio| json!({ "of": ratio.of, "ratio": ratio.value, "limit": ratio.at_most, "kept": ratio.at_most.map(|most| ratio.value <= most) });
        let ratios: Vec<Value> = self.ratios.iter().map(ratio).collect();
        let kept = self.at_most.map(|most| self.value <= most);
        json!({ "what": self.what, "value": self.value, "unit": self.unit, "limit": self.at_most, "kept": kept, "ratios": ratios })
    }
}

fn verdict(value: f64, at_most: Option<f64>) -> String {
    match at_most {
        None => String::new(),
        Some(most) => format!(" (limit {most}: {})", if value <= most { "kept" } else { "MISSED" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_shown_and_written_with_their_verdict() {
        let mut report = Report::new("load", "image");
        report
            .seconds("load", 0.05)
            .of_at_most("docker load", Some(1.0), 0.1)
            .of_at_most("cp", Some(0.01), 2.0)
            .of("podman", None);
        report.megabytes("idle", 31.0).at_most(30.0);
        let lines: Vec<String> = report.rows.iter().map(Row::line).collect();
        let rest = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(rest(&lines[0]), "load 50.00 ms 0.050 of docker load (limit 0.1: kept) 5.000 of cp (limit 2: MISSED)");
        assert_eq!(rest(&lines[1]), "idle 31.0 MB (limit 30: MISSED)");
        assert_eq!(report.rows[0].json()["ratios"][1]["kept"], Value::Bool(false));
        assert_eq!(report.rows[0].json()["ratios"].as_array().map(Vec::len), Some(2));
    }
}
