//! The launcher's log: audit records and everything else that it says, one JSON object a line.

use serde_json::Value;
use std::fs;
use std::path::Path;

/// The records so far.
#[derive(Clone, Debug)]
pub struct Audit(Vec<Value>);

impl Audit {
    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        Self(
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.into()))
                .collect(),
        )
    }

    /// Every line: an object, or a text when it was no JSON.
    #[must_use]
    pub fn lines(&self) -> &[Value] {
        &self.0
    }

    /// The audit records: those with a verdict.
    #[must_use]
    pub fn records(&self) -> Vec<&Value> {
        self.0.iter().filter(|r| r["verdict"].is_string()).collect()
    }

    /// Those in which that field has that text.
    #[must_use]
    pub fn with(&self, field: &str, text: &str) -> Vec<&Value> {
        self.0.iter().filter(|r| r[field] == text).collect()
    }

    /// The audit records of that verdict that lines of that spool have.
    #[must_use]
    pub fn of_lines(&self, spool: &Path, verdict: &str) -> Vec<&Value> {
        let records = self.with("verdict", verdict).into_iter();
        records.filter(|r| is_about(r, spool)).collect()
    }

    /// What the launcher says is wrong with that spool, each as the whole record.
    #[must_use]
    pub fn errors_of(&self, spool: &Path) -> Vec<String> {
        let errors = self.with("level", "ERROR").into_iter();
        errors
            .filter(|r| is_about(r, spool))
            .map(Value::to_string)
            .collect()
    }
}

fn is_about(record: &Value, spool: &Path) -> bool {
    record["spool"].as_str().map(Path::new) == Some(spool)
}
