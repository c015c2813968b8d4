//! Attacks, each a test named after it: against the built binaries, with real podman.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod arguments;
mod capabilities;
mod container_root;
mod descriptors;
mod hostile_broker;
mod identity;
mod in_flight;
mod mounts;
mod namespaces;
mod ownership;
mod payload;
mod policy_file;
mod submounts;
