//! What a client is told.

use crate::Reason;
use serde::{Deserialize, Serialize};

/// One reply: one datagram to the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The request's `id`, or 0 when the request could not be read that far.
    pub id: u64,
    /// The answer.
    pub reply: Reply,
}

/// The kinds of reply. The order of the variants is the numbering on the wire: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Answer to a ping.
    Pong(Pong),
    /// The main process has been seen alive, and the rule's readiness holds.
    Launched {
        /// The container's full ID.
        container: String,
        /// The container's name.
        name: String,
        /// The main process, as the host numbers it.
        pid: u32,
        /// It ran already: nothing new was started.
        reused: bool,
    },
    /// It is not allowed, or the request was not understood: asking again changes nothing.
    Denied {
        /// Why.
        reason: Reason,
        /// The rule that came closest, where the policy lets the client know.
        rule: Option<String>,
        /// One line for a person.
        message: String,
    },
    /// It was allowed, and did not work.
    Failed(Failure),
    /// Not now.
    Busy {
        /// Ask again after so many milliseconds.
        retry_after: u32,
    },
    /// Answer to a dry run that would have been allowed, and to every dry run on the operator's socket.
    Explained {
        /// Whether it would be launched.
        allowed: bool,
        /// Lines for a person; the operator's have every rule and podman's command line.
        report: String,
    },
    /// It is done.
    Done {
        /// The program's exit code, where it has ended.
        exit: Option<u8>,
    },
    /// The agent has no such side container.
    NotFound,
    /// A page of the agent's side containers, by name.
    Containers {
        /// The page.
        items: Vec<Container>,
        /// There is more after the last name.
        more: bool,
    },
    /// A piece of a longer answer; `Done` ends it.
    Chunk {
        /// Bytes as they are.
        bytes: Vec<u8>,
    },
    /// The datagram was of another protocol version.
    UnsupportedVersion {
        /// The versions that are spoken.
        spoken: Vec<u8>,
    },
}

/// What went wrong with a launch that was allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// The program's exit code, when it ended before it was ready.
    pub exit: Option<u8>,
    /// One line for a person. Never podman's own words: those are the operator's.
    pub message: String,
    /// The last bytes of the program's output, at most [`OUTPUT`](crate::limits::OUTPUT).
    pub output: String,
}

/// Who answers a ping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The agent's name.
    pub agent: String,
    /// The policy's generation: 16 hex digits of its hash; empty when there is no usable policy.
    pub generation: String,
    /// Portcullis's version.
    pub version: String,
    /// The layers of the broker's sandbox that are in force.
    pub layers: Vec<String>,
    /// The Landlock ABI in force; 0 is none.
    pub landlock_abi: u8,
    /// How a peer is identified: `pidfd` (`SO_PEERPIDFD`), or `start-time` on kernels before 6.5.
    pub peer_identification: String,
}

/// One side container in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its full ID; empty while podman creates it.
    pub container: String,
    /// The rule it was launched by.
    pub rule: String,
    /// The network namespace that it was launched into, by name.
    pub netns: Option<String>,
    /// Where it stands.
    pub state: State,
    /// The main process, as the host numbers it; 0 when there is none.
    pub pid: u32,
    /// Seconds since the main process was started; when it has ended, since then. Absent where neither is known.
    pub age: Option<u64>,
    /// The exit code of the last container of this name that ended, as far as this life of the launcher knows.
    pub last_exit: Option<u8>,
}

/// Where a side container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// podman is at work on it.
    Launching,
    /// Its main process is alive.
    Running,
    /// It has ended, and is being removed or is gone already.
    Ended,
    /// podman overran its deadline, or is left over from before: the truth is being found out.
    Unknown,
    /// Its main process is alive, and the rule's readiness is waited for.
    Readying,
}
