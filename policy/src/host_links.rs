//! The two links that every host has of its own: other spellings of `/run` and `/run/lock`.
//!
//! No link is followed on the way to what a policy names, but these two are so common in what people write that their text
//! is replaced. Whether a host really has such a link is for those to see who look at hosts.

/// A link that is the host's own, and where it leads.
pub const HOST_LINKS: [(&str, &str); 2] = [("/var/run", "/run"), ("/var/lock", "/run/lock")];
