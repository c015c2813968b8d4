//! Who is asking, as the kernel says it.

/// The process at the other end of the connection.
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
    /// Root on the host, on the operator's socket: asks and explains, launches nothing.
    Operator,
}
