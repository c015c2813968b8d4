//! The package on a host that really boots systemd: each test has a machine of its own, in systemd-nspawn.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod activation;
mod agent;
mod ansible;
mod neighbours;
mod package;
mod payload;
mod reload;
mod spool;
mod survival;
