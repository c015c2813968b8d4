//! The protocol as hostile bytes meet it: the codec and the decision in this process, then the built binaries.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod framing;
mod fuzz;
mod lines;
mod memory;
mod requests;

#[global_allocator]
static ALLOCATOR: portcullis_tests::Counting = portcullis_tests::Counting;
