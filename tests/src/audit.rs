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
}
