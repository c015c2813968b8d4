//! The numbers that bound a message, whatever a policy says.

/// The protocol version that this crate speaks, and the only one.
pub const VERSION: u8 = 1;

/// The largest datagram in bytes, header included.
pub const DATAGRAM: usize = 64 * 1024;

/// The longest line of a spool in bytes, its newline not counted.
pub const LINE: usize = 64 * 1024;

/// The most bytes of lines that may wait in the file of one spool.
pub const SPOOL: u64 = 16 * 1024 * 1024;

/// The most arguments of one launch, the command itself not counted.
pub const ARGUMENTS: usize = 1024;

/// The most environment entries of one launch.
pub const ENVIRONMENT: usize = 128;

/// The most bytes of a program's output that a reply carries.
pub const OUTPUT: usize = 1024;

/// The connections of one agent that a broker serves. A newcomer beyond them needs the place of a silent one.
pub const CONNECTIONS: usize = 256;

/// The most connections that a launcher hands to one broker, those included that the broker is ending.
pub const CONNECTIONS_AT_MOST: usize = CONNECTIONS + 32;
