//! Samples, and the table and JSON that are made of them.

use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// One line of the report.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// Its unit.
    pub unit: &'static str,
    /// The middle one of the samples.
    pub median: f64,
    /// What 95 of 100 samples do not exceed.
    pub p95: f64,
    /// How many samples there are.
    pub samples: usize,
    /// What it should be, and whether it is; empty where it is there for comparison.
    pub goal: String,
}

/// All lines so far.
#[derive(Clone, Debug, Default)]
pub struct Report(Vec<Row>);

impl Report {
    /// Adds a line.
    pub fn add(&mut self, what: &str, unit: &'static str, samples: &[f64]) -> &mut Row {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: usize| {
            let last = sorted.len().saturating_sub(1);
            sorted
                .get((sorted.len() * part / 100).min(last))
                .copied()
                .unwrap_or(f64::NAN)
        };
        let (median, p95, samples) = (at(50), at(95), samples.len());
        let (what, goal) = (what.to_owned(), String::new());
        self.0.push(Row {
            what,
            unit,
            median,
            p95,
            samples,
            goal,
        });
        self.0.last_mut().expect("the row that was pushed")
    }

    /// The table, for a person.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = format!(
            "{:<58} {:>10} {:>10} {:>5} {:>6}  {}\n",
            "what", "median", "p95", "unit", "n", "goal"
        );
        for row in &self.0 {
            let Row {
                what,
                unit,
                median,
                p95,
                samples,
                goal,
            } = row;
            let _ = writeln!(
                out,
                "{what:<58} {median:>10.2} {p95:>10.2} {unit:>5} {samples:>6}  {goal}"
            );
        }
        out
    }

    /// Writes `bench.txt` and `bench.json` into a directory.
    pub fn write(&self, dir: &Path) {
        std::fs::create_dir_all(dir).expect("target/bench");
        std::fs::write(dir.join("bench.txt"), self.table()).expect("bench.txt");
        let rows: Vec<Value> = self
            .0
            .iter()
            .map(|r| {
                json!({ "what": r.what, "unit": r.unit, "median": r.median, "p95": r.p95,
                        "samples": r.samples, "goal": r.goal })
            })
            .collect();
        let text = serde_json::to_string_pretty(&rows).expect("JSON");
        std::fs::write(dir.join("bench.json"), text).expect("bench.json");
    }
}

impl Row {
    /// Notes a goal for the median, in the row's unit or as a factor that was computed.
    pub fn goal(&mut self, text: &str, met: bool) {
        self.goal = format!("{text}: {}", if met { "met" } else { "MISSED" });
    }
}
