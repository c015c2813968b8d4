//! The layers of the broker's sandbox, by the names that configuration, log and `ping` use.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A layer of the broker's sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// An empty root, and mount, network, IPC and UTS namespaces of its own.
    Namespaces,
    /// Another user than root, with no supplementary groups, and no way back.
    User,
    /// No capabilities in any set.
    Capabilities,
    /// The no-new-privileges flag.
    NoNewPrivileges,
    /// No access to files, ports, abstract sockets and foreign processes, as far as the kernel's Landlock goes.
    Landlock,
    /// The system-call filter.
    Seccomp,
}

impl Layer {
    /// Every layer, in the order in which the broker enters them.
    pub const ALL: [Self; 6] = [
        Self::Namespaces,
        Self::User,
        Self::Capabilities,
        Self::NoNewPrivileges,
        Self::Landlock,
        Self::Seccomp,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::User => "user",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivileges => "no-new-privileges",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        }
    }

    /// The layer of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layer| layer.name() == name)
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
