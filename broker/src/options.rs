//! The command line, as the launcher writes it.

use portcullis_wire::{AgentName, BadAgentName, Layer};

/// What the launcher says.
#[derive(Clone, Debug)]
pub struct Options {
    /// The agent whose socket this is.
    pub agent: AgentName,
    /// What is asked of the sandbox.
    pub confinement: Requirements,
}

/// What is asked of the sandbox.
#[derive(Clone, Debug)]
pub struct Requirements {
    /// The user to become. Not 0.
    pub uid: u32,
    /// The group to become. Not 0.
    pub gid: u32,
    /// The layers that may be missing.
    pub optional: Vec<Layer>,
}

/// The command line is not the launcher's.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// An unknown option, one without its value, or one with a value that it cannot have.
    #[error(transparent)]
    Syntax(#[from] lexopt::Error),
    /// `--agent` is no agent name.
    #[error("--agent: {0}")]
    Agent(#[from] BadAgentName),
    /// `--optional-layer` names no layer.
    #[error(
        "--optional-layer {0:?}: the layers are namespaces, user, capabilities, no-new-privileges, landlock and seccomp"
    )]
    Layer(String),
    /// One is missing.
    #[error("{0} is missing; this program is started by portcullis-launcher, not by hand")]
    Missing(&'static str),
}

impl Options {
    /// Reads this process's command line.
    ///
    /// # Errors
    /// [`OptionsError`].
    pub fn from_command_line() -> Result<Self, OptionsError> {
        Self::parse(lexopt::Parser::from_env())
    }

    fn parse(mut words: lexopt::Parser) -> Result<Self, OptionsError> {
        use lexopt::prelude::*;
        let (mut agent, mut uid, mut gid, mut optional) = (None, None, None, Vec::new());
        while let Some(word) = words.next()? {
            match word {
                Long("agent") => agent = Some(AgentName::new(&words.value()?.string()?)?),
                Long("uid") => uid = Some(words.value()?.parse()?),
                Long("gid") => gid = Some(words.value()?.parse()?),
                Long("optional-layer") => {
                    let name = words.value()?.string()?;
                    optional.push(Layer::from_name(&name).ok_or(OptionsError::Layer(name))?);
                }
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(Self {
            agent: agent.ok_or(OptionsError::Missing("--agent"))?,
            confinement: Requirements {
                uid: uid.ok_or(OptionsError::Missing("--uid"))?,
                gid: gid.ok_or(OptionsError::Missing("--gid"))?,
                optional,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Options;
    use portcullis_wire::Layer;

    fn parse(words: &[&str]) -> Result<Options, String> {
        Options::parse(lexopt::Parser::from_args(words)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_launchers_command_line_is_understood() {
        let options = parse(&[
            "--agent",
            "dhcp",
            "--uid",
            "7",
            "--gid",
            "8",
            "--optional-layer",
            "landlock",
        ])
        .unwrap();
        assert_eq!(options.agent.as_str(), "dhcp");
        assert_eq!((options.confinement.uid, options.confinement.gid), (7, 8));
        assert_eq!(options.confinement.optional, [Layer::Landlock]);
    }

    #[test]
    fn anything_else_is_refused() {
        for words in [
            &["--agent", "dhcp", "--uid", "7"][..],
            &["--uid", "7", "--gid", "7"],
            &["--agent", "../x", "--uid", "7", "--gid", "7"],
            &["--agent", "a", "--uid", "-1", "--gid", "7"],
            &[
                "--agent",
                "a",
                "--uid",
                "7",
                "--gid",
                "7",
                "--optional-layer",
                "all",
            ],
            &["--agent", "a", "--uid", "7", "--gid", "7", "--no-sandbox"],
            &["--agent", "a", "--uid", "7", "--gid", "7", "more"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
