//! Launches: many at once, ends and crashes at every point, and that every answer is true.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod activation;
mod answers;
mod cgroups;
mod conflict;
mod crash;
mod crowd;
mod disk;
mod engine;
mod lifetime;
mod limits;
mod operator;
mod readiness;
mod replace;
mod room;
