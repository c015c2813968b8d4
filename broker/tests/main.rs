//! Tests of the real binary, with the descriptors that a launcher gives it and real clients. They run as root, as the
//! launcher does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod attacks;
mod confinement;
mod descriptors;
mod framing;
mod harness;
mod injection;
mod launches;
mod lifetime;
mod limits;
mod lines;
