//! The table of this agent's side containers: one entry per name, and who waits for it.

use crate::audit::{Asked, Phases, Who};
use crate::connections::Connection;
use crate::container::Main;
use crate::records::Record;
use crate::spool::Line;
use portcullis_policy::LaunchPlan;
use portcullis_wire::{Container, Launch, State, Target};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

/// Where an answer goes.
#[derive(Debug)]
pub(crate) enum ReplyTo {
    /// To the client, on its connection.
    Client(Rc<Connection>),
    /// To nobody: it ends a line of the journal, or has it tried again.
    Line(Line),
}

/// How many requests had arrived; of lines also which take, and which of its lines. A line is from before its take.
pub(crate) type Arrival = (u64, u64, u32);

/// A request that was understood, and where its answer goes.
#[derive(Debug)]
pub struct Pending {
    /// Where the answer goes.
    pub(crate) to: ReplyTo,
    /// The request's id.
    pub id: u64,
    /// Grows from request to request.
    pub(crate) arrival: Arrival,
    /// The request.
    pub launch: Launch,
    /// The peer.
    pub who: Who,
    /// The request, as the audit record has it.
    pub asked: Asked,
    /// When it got how far.
    pub at: Phases,
    /// What was decided, once it was.
    pub plan: Option<Chosen>,
    /// It joined a launch that was under way.
    pub joined: bool,
}

/// What is told of the plan that a request is served by.
#[derive(Debug)]
pub struct Chosen {
    /// The rule that allows it.
    pub rule: String,
    /// The container's name.
    pub name: String,
    /// The plan's hash.
    pub hash: String,
    /// The generation of the policy that decided: another one may be in force when it is answered.
    pub generation: String,
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
    /// It is being stopped for an operator.
    pub stopping: Option<Stopping>,
    /// How often in a row podman has failed to say what is left of it.
    pub failures: u32,
}

/// A stop under way.
#[derive(Debug)]
pub struct Stopping {
    /// When patience with the polite signal ends; `None` once the final one was sent.
    pub kill_at: Option<Instant>,
    /// Who is to be told of the end: connections, and their requests' ids.
    pub askers: Vec<(OwnedFd, u64)>,
}

/// The end of a container whose name nothing has now, or another one.
#[derive(Debug)]
pub struct End {
    rule: String,
    netns: Option<String>,
    exit: Option<u8>,
    at: Instant,
}

/// How many ends are remembered.
const ENDS: usize = 1024;

/// All names.
#[derive(Debug, Default)]
pub struct Table {
    /// The entries, by name.
    pub entries: BTreeMap<String, Entry>,
    ends: BTreeMap<String, End>,
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

    /// Remembers how a container ended: the last one of each name, and so many names.
    pub fn remember_end(&mut self, name: &str, rule: &str, netns: Option<&str>, exit: Option<u8>) {
        let end = End {
            rule: rule.to_owned(),
            netns: netns.map(str::to_owned),
            exit,
            at: Instant::now(),
        };
        self.ends.insert(name.to_owned(), end);
        if self.ends.len() > ENDS
            && let Some(oldest) = self.ends.iter().min_by_key(|(_, end)| end.at)
        {
            let oldest = oldest.0.clone();
            self.ends.remove(&oldest);
        }
    }

    /// The name that a target means, if this agent has such a side container.
    #[must_use]
    pub fn find(&self, target: &Target) -> Option<&str> {
        let mut entries = self.entries.iter();
        let (name, _) = match target {
            Target::Name(name) => entries.find(|(n, _)| *n == name)?,
            Target::Container(id) => {
                entries.find(|(_, e)| e.live().is_some_and(|live| live.main.id == *id))?
            }
            // An agent's ways to name one; an operator has the two above.
            Target::Process { .. } | Target::Service { .. } => return None,
        };
        Some(name)
    }

    /// A page of the table: at most so many names after the given one, and whether there are more. `all`: also names
    /// whose container is gone.
    #[must_use]
    pub fn page(&self, all: bool, after: Option<&str>, most: usize) -> (Vec<Container>, bool) {
        let ends = self.ends.keys().filter(|_| all);
        let names: BTreeSet<_> = self.entries.keys().chain(ends).collect();
        let mut names = names
            .into_iter()
            .filter(|name| after.is_none_or(|after| name.as_str() > after));
        let page = names
            .by_ref()
            .take(most)
            .map(|name| self.describe(name))
            .collect();
        (page, names.next().is_some())
    }

    fn describe(&self, name: &str) -> Container {
        let (entry, end) = (self.entries.get(name), self.ends.get(name));
        let live = entry.and_then(Entry::live);
        let planned = entry.and_then(|entry| entry.plan.as_ref()?.netns());
        let netns = match (live, entry) {
            (Some(live), _) => live.record.netns.as_deref(),
            (None, Some(_)) => planned,
            (None, None) => end.and_then(|end| end.netns.as_deref()),
        };
        let rule = entry.map(|e| &e.rule).or(end.map(|end| &end.rule));
        let age = match (live, entry, end) {
            (Some(live), ..) => live.main.age(),
            (None, None, Some(end)) => Some(end.at.elapsed().as_secs()),
            _ => None,
        };
        Container {
            name: name.to_owned(),
            container: live.map_or_else(String::new, |l| l.main.id.clone()),
            rule: rule.cloned().unwrap_or_default(),
            netns: netns.map(str::to_owned),
            state: entry.map_or(State::Ended, Entry::state),
            pid: live.map_or(0, |l| l.main.pid),
            age,
            last_exit: end.and_then(|end| end.exit),
        }
    }
}

impl Entry {
    /// Its container, while the main process lives.
    #[must_use]
    pub fn live(&self) -> Option<&Live> {
        match &self.stage {
            Stage::Readying { live, .. } | Stage::Running(live) => Some(live),
            _ => None,
        }
    }

    /// Where it stands, as a list says it.
    #[must_use]
    pub fn state(&self) -> State {
        match &self.stage {
            Stage::Launching => State::Launching,
            Stage::Readying { .. } => State::Readying,
            Stage::Running(_) => State::Running,
            Stage::Settling { ended: true } => State::Ended,
            Stage::Settling { ended: false } | Stage::Unknown(..) => State::Unknown,
        }
    }
}
