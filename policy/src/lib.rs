//! The policy: which requests of an agent become side containers, and what those are made of.
//!
//! A pure crate: text in ([`Policy::load`]), a verdict out ([`decide`]). It opens no file but in the operator's tool,
//! logs nothing, and trusts the operator's documents alone; a request is hostile whatever it says.
#![forbid(unsafe_code)]

mod arguments;
mod argv;
mod bindings;
mod compile;
mod container_table;
mod decide;
mod denial;
mod document;
mod explain;
mod host_links;
#[cfg(feature = "tool")]
mod host_paths;
mod image;
mod kinds;
mod language;
mod limits;
mod lint;
mod pattern;
#[cfg(test)]
mod pattern_tests;
mod peer;
mod places;
mod plan;
mod podman;
mod policy;
mod problem;
mod purpose;
mod reader;
mod rule;
mod rule_table;
mod scope;
mod spelling;
mod spool;
mod targets;
mod text;
#[cfg(feature = "tool")]
pub mod tool;

pub use argv::argv_hash;
pub use decide::{Decision, admits, decide};
pub use denial::Denial;
pub use explain::{Explanation, explain};
pub use host_links::HOST_LINKS;
pub use limits::{Limits, Rate};
pub use lint::{Level, Lint};
pub use peer::Peer;
pub use plan::{LaunchPlan, Mount, OnConflict, Ready, Source};
pub use podman::{Staged, podman_arguments};
pub use policy::Policy;
pub use problem::{Problem, Problems};
pub use spool::Spool;
