//! The messages of Portcullis: what a client and a broker say to each other ([`Request`], [`Reply`]) and what a
//! broker and its launcher say ([`Order`], [`Directive`]); and what stands in a spool's file instead ([`line`]).
//!
//! This crate holds types, limits, reason codes and the strict codec. It opens nothing, logs nothing and trusts
//! nothing: every byte that comes in is hostile until [`codec::decode`] or [`line::read`] has accepted it.
#![forbid(unsafe_code)]

mod agent;
pub mod codec;
pub mod hidden;
mod layer;
pub mod limits;
pub mod line;
mod link;
mod reason;
mod reply;
mod request;

pub use agent::{AgentName, BadAgentName};
pub use codec::DecodeError;
pub use layer::Layer;
pub use link::{
    Accepted, DenialCount, DeniedLaunch, Directive, Excerpt, Order, PolicyBundle, PolicyText,
};
pub use reason::Reason;
pub use reply::{Container, Failure, Pong, Reply, Response, State};
pub use request::{Attach, Body, Launch, Request, Target};
