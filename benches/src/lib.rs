//! Benches of the built binaries, each side by side in one run with what it is to be compared with: these numbers mean
//! something as ratios, on one machine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod activation;
pub mod before;
pub mod bursts;
pub mod client;
pub mod instructions;
pub mod launches;
pub mod marks;
pub mod memory;
pub mod messages;
pub mod report;
pub mod signals;
