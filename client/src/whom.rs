//! Whom to ask: an agent its broker, root on the host the operator's socket of an agent's launcher.

use crate::asked::AskedError;
use portcullis_wire::AgentName;
use std::path::PathBuf;

/// Where an agent finds its broker: the operator mounts the directory there.
const BROKER: &str = "/run/portcullis/broker.sock";

/// Who is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// The broker of the agent that this is.
    Broker,
    /// Whoever listens there.
    Socket(PathBuf),
    /// On the host, the launcher of that agent.
    Launcher(AgentName),
}

impl Whom {
    /// Takes the value of `--socket`.
    pub(crate) fn take_socket(&mut self, parser: &mut lexopt::Parser) -> Result<(), AskedError> {
        let path = parser.value()?.into();
        if matches!(self, Self::Launcher(_)) {
            return Err(both());
        }
        *self = Self::Socket(path);
        Ok(())
    }

    /// Takes the value of `--agent`.
    pub(crate) fn take_agent(&mut self, parser: &mut lexopt::Parser) -> Result<(), AskedError> {
        use lexopt::ValueExt;
        let name = parser.value()?.string()?;
        if matches!(self, Self::Socket(_)) {
            return Err(both());
        }
        let agent = AgentName::new(&name)
            .map_err(|error| AskedError::Usage(format!("--agent: {error}")))?;
        *self = Self::Launcher(agent);
        Ok(())
    }

    /// Where that one listens.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Broker => BROKER.into(),
            Self::Socket(path) => path.clone(),
            Self::Launcher(agent) => {
                format!("/run/portcullis-launcher/{agent}/control.sock").into()
            }
        }
    }

    /// The agent, where it is known by name.
    pub(crate) fn agent(&self) -> Option<&AgentName> {
        match self {
            Self::Launcher(agent) => Some(agent),
            Self::Broker | Self::Socket(_) => None,
        }
    }
}

fn both() -> AskedError {
    AskedError::Usage("--agent and --socket both say whom to ask: one of them is needed".to_owned())
}
