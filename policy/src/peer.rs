//! Who is asking: a process as the kernel says it, or a place on the host's disk.

use std::sync::Arc;

/// Where a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process that connected to the agent's socket.
    Process {
        /// Its user, as the host numbers it.
        uid: u32,
        /// Its group, as the host numbers it.
        gid: u32,
        /// Its process, as the host numbers it.
        pid: i32,
    },
    /// Whoever can write this spool's directory: a line in it. Which process wrote it is not known.
    Spool {
        /// The directory, as the policy's `[[spool]]` has it.
        dir: Arc<str>,
    },
    /// Root on the host, on the operator's socket: asks and explains, launches nothing.
    Operator,
}
