//! The name of an agent: the operator's word for one socket, its policy and its side containers.

use std::fmt;

/// A valid agent name: `[a-z0-9][a-z0-9_-]{0,31}`.
///
/// The name stands in paths, unit names and labels, so nothing else is ever accepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AgentName(String);

/// The text that was no agent name.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not an agent name: 1 to 32 lower-case letters, digits, '_' or '-', beginning with a letter or digit"
)]
pub struct BadAgentName(String);

impl AgentName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`BadAgentName`] when it is not of the form above.
    pub fn new(name: &str) -> Result<Self, BadAgentName> {
        let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let inner = |b: u8| word(&b) || b == b'_' || b == b'-';
        if name.len() <= 32 && name.as_bytes().first().is_some_and(word) && name.bytes().all(inner)
        {
            Ok(Self(name.to_owned()))
        } else {
            Err(BadAgentName(name.to_owned()))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::AgentName;

    #[test]
    fn only_plain_words_are_agent_names() {
        for good in ["a", "dhcp", "neutron-l3_2", "0", &"x".repeat(32)] {
            assert!(AgentName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "_a",
            "A",
            "a/b",
            "..",
            "a.b",
            "ä",
            "a\n",
            &"x".repeat(33),
        ] {
            assert!(AgentName::new(bad).is_err(), "{bad}");
        }
    }
}
