//! What a broker and its launcher say to each other over their socketpair, and the policy as it is handed over.
//!
//! The launcher trusts no [`Order`]: it decodes a forwarded datagram again, knows the peer from having accepted the
//! connection, and asks the policy itself.

use crate::Reason;
use serde::{Deserialize, Serialize};

/// From the broker to the launcher. No order carries a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order<'a> {
    /// The sandbox is closed; connections can be handed over.
    Ready {
        /// The layers in force, by name.
        layers: Vec<String>,
        /// The Landlock ABI in force; 0 is none.
        landlock_abi: u8,
    },
    /// A request that the policy allows.
    Forward {
        /// The connection on which it came, by the number in [`Directive::Connection`].
        connection: u64,
        /// When the broker read it, CLOCK_MONOTONIC in microseconds. For the audit record alone.
        received: u64,
        /// The client's datagram, as it came.
        datagram: &'a [u8],
    },
    /// Denials that the broker answered itself since the last such order.
    Denied(Vec<DenialCount>),
    /// Connections whose copies the broker has closed.
    Closed(Vec<u64>),
    /// A line that the policy allows, as the request that it is.
    Line {
        /// The line's number, as the directive had it.
        number: u64,
        /// The request.
        datagram: &'a [u8],
    },
    /// A line that is none, or that the policy does not allow.
    LineDenied {
        /// The line's number, as the directive had it.
        number: u64,
        /// Why. There is no process behind it: its peer is 0.
        denial: DenialCount,
    },
    /// The answer to [`Directive::Heartbeat`], with its number.
    Heartbeat(u64),
    /// So many allowed requests were answered `Busy` since the last such order, because the link was full.
    LinkFull(u32),
}

/// Denials of one kind within about a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialCount {
    /// Why.
    pub reason: Reason,
    /// The rule that came closest.
    pub rule: Option<String>,
    /// How many there were.
    pub count: u32,
    /// The user of the last one's peer.
    pub uid: u32,
    /// The group of the last one's peer.
    pub gid: u32,
    /// The process of the last one's peer, as the host numbers it.
    pub pid: i32,
    /// The last one's message, cut.
    pub message: String,
    /// What the last one asked for, where it was a launch that could be read.
    pub launch: Option<Box<DeniedLaunch>>,
}

/// What a launch that was denied asked for, each text cut, so that many of them fit into one order. Its environment is not
/// told: a message names the entry that was not allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedLaunch {
    /// The command.
    pub command: Excerpt,
    /// The arguments, with a NUL between two of them, which none has in it. `None`: there were none.
    pub args: Option<Excerpt>,
    /// The network namespace.
    pub netns: Option<Excerpt>,
    /// The image.
    pub image: Option<Excerpt>,
    /// The hash of the whole command line, where a part of it is missing above.
    pub argv: Option<String>,
}

/// The beginning of a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excerpt {
    /// As much of it as there is room for.
    pub text: String,
    /// How many bytes it had.
    pub bytes: u32,
}

impl Excerpt {
    /// Whether nothing of the text is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        u32::try_from(self.text.len()) == Ok(self.bytes)
    }
}

/// From the launcher to the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Directive {
    /// Serve what has arrived on the connections there are, close them, exit.
    Drain,
    /// Read a line of a spool, and judge it. Answered with [`Order::Line`] or [`Order::LineDenied`].
    Line {
        /// For the answer.
        number: u64,
        /// The spool's directory, as the policy has it.
        dir: String,
        /// The spool's command.
        command: String,
        /// The line, without its end: at most [`LINE`](crate::limits::LINE) bytes of an agent's.
        text: Vec<u8>,
    },
    /// Serve a connection that the launcher has accepted. Comes with exactly one descriptor: a copy of its socket.
    /// Answered with [`Order::Closed`] once the copy is closed.
    Connection(Accepted),
    /// Answer with [`Order::Heartbeat`]. A broker that does not is replaced.
    Heartbeat(u64),
}

/// A connection as the launcher accepted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Its number, which no other connection of this launcher has had.
    pub number: u64,
    /// The process that connected, as the launcher numbers it; 0 when it is in a PID namespace that the launcher does not see.
    pub pid: i32,
    /// Its effective user when it connected.
    pub uid: u32,
    /// Its effective group when it connected.
    pub gid: u32,
    /// The kernel has refused descriptors on this connection from its first byte on (SO_PASSRIGHTS is 0, Linux 6.16). Else
    /// a datagram may carry some, and receiving it may block.
    pub guarded: bool,
}

/// The policy as the launcher hands it to the broker, in a sealed memfd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyBundle {
    /// The agent's name.
    pub agent: String,
    /// The files: the main one first, then the drop-ins. Empty when there is no usable policy: the broker then
    /// answers everything with `policy-unavailable`.
    pub files: Vec<PolicyText>,
}

/// One file of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyText {
    /// Its path, for messages.
    pub path: String,
    /// What is in it.
    pub text: String,
}
