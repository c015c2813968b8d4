//! The table of this agent's side containers: one entry per name, and who waits for it.

use crate::audit::{Asked, Phases, Who};
use crate::container::Main;
use crate::records::Record;
use portcullis_policy::LaunchPlan;
use portcullis_wire::{Container, Launch, State};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::time::Instant;

/// A request that was understood, and where its answer goes.
#[derive(Debug)]
pub struct Pending {
    /// The client's connection.
    pub client: OwnedFd,
    /// The request's id.
    pub id: u64,
    /// The request.
    pub launch: Launch,
    /// The peer.
    pub who: Who,
    /// The request, as the audit record has it.
    pub asked: Asked,
    /// When it got how far.
    pub at: Phases,
    /// The rule that allows it and the container's name, once that is decided.
    pub plan: Option<(String, String)>,
    /// It joined a launch that was under way.
    pub joined: bool,
}

/// Where a name stands.
#[derive(Debug)]
pub enum Stage {
    /// A worker is at work on a launch.
    Launching,
    /// The main process lives; readiness is awaited.
    Readying {
        /// The container.
        live: Live,
        /// When it is to be looked at again.
        next: Instant,
        /// When patience ends.
        until: Instant,
    },
    /// The main process lives.
    Running(Live),
    /// A worker finds out what is left of it.
    Settling {
        /// Its main process is known to have ended.
        ended: bool,
    },
    /// Nobody knows; it is looked at again at this time.
    Unknown(Option<Record>, Instant),
}

/// A container whose main process lives.
#[derive(Debug)]
pub struct Live {
    /// Its main process.
    pub main: Main,
    /// Its launch record.
    pub record: Record,
    /// The namespace that it was launched into, where this life of the launcher did it.
    pub netns: Option<(u64, u64)>,
    /// The key of its pidfd in the poll loop.
    pub key: u64,
}

/// One name.
#[derive(Debug)]
pub struct Entry {
    /// The rule of the newest launch.
    pub rule: String,
    /// The plan of the launch under way; `None` for what an earlier life launched.
    pub plan: Option<Box<LaunchPlan>>,
    /// Its hash.
    pub hash: String,
    /// Where it stands.
    pub stage: Stage,
    /// Who is to be answered when the launch is over.
    pub waiting: Vec<Pending>,
    /// Who is to be looked at anew when the old container is gone.
    pub next: Vec<Pending>,
}

/// All names.
#[derive(Debug, Default)]
pub struct Table {
    /// The entries, by name.
    pub entries: BTreeMap<String, Entry>,
    /// The names, by the key of the main process's pidfd.
    pub keys: HashMap<u64, String>,
}

impl Table {
    /// How many requests wait for an answer.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.entries
            .values()
            .map(|e| e.waiting.len() + e.next.len())
            .sum()
    }

    /// A page of the table: at most so many names after the given one, and whether there are more.
    #[must_use]
    pub fn page(&self, after: Option<&str>, most: usize) -> (Vec<Container>, bool) {
        let mut rows = self
            .entries
            .iter()
            .filter(|(name, _)| after.is_none_or(|after| name.as_str() > after));
        let page = rows
            .by_ref()
            .take(most)
            .map(|(name, entry)| entry.describe(name))
            .collect();
        (page, rows.next().is_some())
    }
}

impl Entry {
    fn describe(&self, name: &str) -> Container {
        let (state, live) = match &self.stage {
            Stage::Launching => (State::Launching, None),
            Stage::Readying { live, .. } | Stage::Running(live) => (State::Running, Some(live)),
            Stage::Settling { ended: true } => (State::Ended, None),
            Stage::Settling { ended: false } | Stage::Unknown(..) => (State::Unknown, None),
        };
        Container {
            name: name.to_owned(),
            container: live.map_or_else(String::new, |l| l.main.id.clone()),
            rule: self.rule.clone(),
            state,
            pid: live.map_or(0, |l| l.main.pid),
        }
    }
}
