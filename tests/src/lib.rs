//! The harness of the tests of the built binaries: a host of its own for every test, with real podman, real network
//! namespaces, a launcher and a client that speaks the protocol.
//!
//! Runs as root. Everything a test makes lies under one temporary directory or carries a name of its own, and is
//! removed when the test ends, whether it passes or not. Nothing here waits for a fixed time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod agent;
mod allocations;
mod audit;
mod calls;
mod client;
mod container_root;
mod deadline;
mod engine;
mod host;
mod inheritance;
mod machine;
mod netns;
mod older;
mod process;
mod service;
mod spool;

pub use agent::{Agent, SLEEP, binary};
pub use allocations::{Counting, live, peak};
pub use audit::Audit;
pub use calls::{Call, Calls};
pub use client::{Client, Launched, denied, failed, launch, launched};
pub use container_root::ContainerRoot;
pub use deadline::{LONG, Stop, holds, until};
pub use engine::{Container, Engine, IMAGE};
pub use host::Host;
pub use inheritance::inheritance;
pub use machine::{Machine, keep, package};
pub use netns::{Netns, uuid};
pub use older::{Door, HOSTS, Prepared, has_pass_rights, prepare, spawn};
pub use process::Process;
pub use service::{LEAK, OPEN_FILES, Service};
pub use spool::{Spool, longest_wait, storm_lines, storm_patience};

/// How many attacks of each kind the hostile broker knows: datagrams that no client sent,
pub const FORGERIES: usize = 24;
/// descriptors,
pub const DESCRIPTORS: usize = 9;
/// connections that are not the broker's,
pub const CONNECTIONS: usize = 10;
/// bytes that are no orders,
pub const NOISE: usize = 10;
/// layers that no sandbox has,
pub const LAYERS: usize = 7;
/// answers to lines that were not asked for, or not so,
pub const LINES: usize = 21;
/// and floods of reports.
pub const FLOODS: usize = 2;
