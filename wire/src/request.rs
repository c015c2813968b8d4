//! What a client asks for.

use serde::{Deserialize, Serialize};

/// One request: one datagram from the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the client and repeated in every reply. Not 0, which replies to unreadable datagrams carry.
    pub id: u64,
    /// What is asked for.
    pub body: Body,
}

/// The kinds of request. The order of the variants is the numbering on the wire: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Who is there? Answered with [`Reply::Pong`](crate::Reply::Pong).
    Ping,
    /// Start a side container.
    Launch(Launch),
    /// Send a signal to a side container's main process.
    Signal {
        /// Which one.
        target: Target,
        /// The signal's number, 1 to 64.
        signal: u8,
    },
    /// Stop a side container and wait for its end.
    Stop {
        /// Which one.
        target: Target,
        /// Seconds between the polite and the final signal; the rule's own when absent.
        timeout: Option<u32>,
    },
    /// Which side containers are there?
    List {
        /// Also those that are gone, as far as this life of the launcher knows.
        all: bool,
        /// Only names after this one: the next page.
        after: Option<String>,
    },
    /// What a side container wrote.
    Logs {
        /// Which one.
        target: Target,
        /// The last so many lines alone.
        tail: Option<u32>,
        /// Go on until it ends.
        follow: bool,
    },
    /// Wait for a side container's end.
    Wait {
        /// Which one.
        target: Target,
    },
    /// The counters, on the operator's socket alone.
    Metrics,
}

/// A request to start a side container. Everything that gives power comes from the policy, not from here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The command's base name, as the agent called it.
    pub command: String,
    /// The command's arguments; an empty one is valid. At most [`ARGUMENTS`](crate::limits::ARGUMENTS).
    #[serde(deserialize_with = "crate::codec::bounded::<_, { crate::limits::ARGUMENTS }>")]
    pub args: Vec<String>,
    /// The name of the network namespace, as under `/run/netns`.
    pub netns: Option<String>,
    /// The image's reference, where the rule lets the client choose.
    pub image: Option<String>,
    /// `NAME=value` entries. At most [`ENVIRONMENT`](crate::limits::ENVIRONMENT).
    #[serde(deserialize_with = "crate::codec::bounded::<_, { crate::limits::ENVIRONMENT }>")]
    pub env: Vec<String>,
    /// What becomes of the program's standard streams.
    pub attach: Attach,
    /// Say what would happen, and do nothing.
    pub dry_run: bool,
}

/// What becomes of the program's standard streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attach {
    /// They go to the container's log.
    #[default]
    None,
    /// The launcher makes pipes, and sends their other ends to the client. No request carries a descriptor.
    Streams,
}

/// Which side container is meant. Only the agent's own can be named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// By its name.
    Name(String),
    /// By its full ID.
    Container(String),
    /// A process in it. No request carries a descriptor, so a process is named by two numbers.
    Process {
        /// Its number in the PID namespace of the process that asks.
        pid: u32,
        /// When it was started, in clock ticks since the boot: field 22 of `/proc/PID/stat`.
        start_time: u64,
    },
    /// By what it was launched as.
    Service {
        /// The command's base name.
        command: String,
        /// The network namespace's name.
        netns: Option<String>,
    },
}

impl Target {
    pub(crate) fn texts(&self) -> Vec<&str> {
        match self {
            Self::Name(text) | Self::Container(text) => vec![text],
            Self::Process { .. } => vec![],
            Self::Service { command, netns } => std::iter::once(command.as_str())
                .chain(netns.as_deref())
                .collect(),
        }
    }
}
