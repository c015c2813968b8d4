//! The sandbox: what this process gives up before it reads the first byte of an agent, and the proof that it has.
//!
//! Six layers, each of which can be had or not: namespaces with an empty root, another user, no capabilities, no new
//! privileges, Landlock, seccomp. A layer that cannot be had ends the broker, unless the operator has named it as optional. Must run in a process with one
//! thread: what the kernel keeps per thread is then true of the whole.

pub mod capabilities;
pub mod landlock;
pub mod namespaces;
pub mod seccomp;
pub mod user;

use crate::options::Requirements;
use portcullis_wire::{Layer, limits};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, getppid, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};

/// Why a layer cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A system call failed.
    #[error("{call}: {errno}")]
    Call {
        /// Which one.
        call: &'static str,
        /// How.
        errno: Errno,
    },
    /// All calls went well, and yet it is not so.
    #[error("{0}")]
    NotHeld(String),
    /// Landlock says no.
    #[error(transparent)]
    Landlock(#[from] ::landlock::RulesetError),
    /// The filter cannot be made or set.
    #[error(transparent)]
    Seccomp(#[from] seccomp::SeccompError),
}

impl LayerError {
    fn call(call: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Call { call, errno }
    }
}

/// The sandbox could not be closed.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// A layer that is not optional cannot be had.
    #[error(
        "the sandbox layer {layer} cannot be had: {error}. Nothing is served without it, unless portcullis.toml says \
         [broker] optional_layers = [\"{layer}\"]"
    )]
    Layer {
        /// Which.
        layer: Layer,
        /// Why.
        error: LayerError,
    },
    /// A step that is no layer and always possible.
    #[error("{step}: {error}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// What came of it.
        error: std::io::Error,
    },
    /// There is more than one thread.
    #[error("{0} threads run already: the sandbox would hold for one of them alone")]
    Threads(usize),
    /// The launcher ended while the sandbox was made.
    #[error("the launcher has ended")]
    Orphan,
}

/// A sandbox that lacks its last layer, the filter, so that the event loop can still be set up.
#[derive(Debug)]
pub struct Confinement {
    optional: Vec<Layer>,
    in_force: InForce,
}

/// What of the sandbox is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    /// The layers, by name.
    pub layers: Vec<String>,
    /// The Landlock ABI; 0 is none.
    pub landlock_abi: u8,
    /// The optional layers that could not be had, each with the reason.
    pub missing: Vec<String>,
}

/// The most descriptors: the connections, and room for the few others.
const DESCRIPTORS: u64 = limits::CONNECTIONS_AT_MOST as u64 + 24;

/// The most address space in bytes, beside what the program and its compiled policy have when the sandbox is closed.
const MEMORY: u64 = 64 * 1024 * 1024;

impl Confinement {
    /// Gives up everything but what the event loop needs to be set up. `parent` is the launcher, as it was at the start.
    ///
    /// # Errors
    /// [`ConfinementError`]; the process is then half confined and can only end.
    pub fn enter(wanted: &Requirements, parent: Option<Pid>) -> Result<Self, ConfinementError> {
        let threads =
            std::fs::read_dir("/proc/self/task").map_err(|error| ConfinementError::Step {
                step: "count the threads in /proc/self/task",
                error,
            })?;
        match threads.count() {
            1 => {}
            more => return Err(ConfinementError::Threads(more)),
        }
        let size = address_space().map_err(|error| ConfinementError::Step {
            step: "read /proc/self/statm",
            error,
        })?;
        let mut this = Self {
            optional: wanted.optional.clone(),
            in_force: InForce::default(),
        };
        this.settle(Layer::Namespaces, namespaces::enter())?;
        // The bounding set can be emptied only with CAP_SETPCAP, which goes with the user.
        let unbounded = capabilities::empty_bounding_set();
        this.settle(Layer::User, user::become_user(wanted.uid, wanted.gid))?;
        this.settle(
            Layer::Capabilities,
            unbounded.and_then(|()| capabilities::clear()),
        )?;
        die_with(parent)?;
        this.settle(Layer::NoNewPrivileges, no_new_privileges())?;
        step(
            "make this process undumpable",
            set_dumpable_behavior(DumpableBehavior::NotDumpable),
        )?;
        let landlock = landlock::restrict().map(|abi| this.in_force.landlock_abi = abi);
        this.settle(Layer::Landlock, landlock)?;
        limit_resources(size + MEMORY)?;
        Ok(this)
    }

    /// Closes the sandbox: from here on, a system call outside the list ends the process.
    ///
    /// # Errors
    /// [`ConfinementError`].
    pub fn close(mut self) -> Result<InForce, ConfinementError> {
        self.settle(Layer::Seccomp, seccomp::close().map_err(LayerError::from))?;
        Ok(self.in_force)
    }

    fn settle(
        &mut self,
        layer: Layer,
        result: Result<(), LayerError>,
    ) -> Result<(), ConfinementError> {
        match result {
            Ok(()) => self.in_force.layers.push(layer.name().to_owned()),
            Err(error) if self.optional.contains(&layer) => {
                self.in_force
                    .missing
                    .push(format!("the sandbox layer {layer} ({error})"));
            }
            Err(error) => return Err(ConfinementError::Layer { layer, error }),
        }
        Ok(())
    }
}

/// Set after the change of user, which clears it. A launcher that ended before that is noticed by who the parent is now.
fn die_with(parent: Option<Pid>) -> Result<(), ConfinementError> {
    step(
        "ask for a signal at the launcher's end",
        set_parent_process_death_signal(Some(Signal::KILL)),
    )?;
    if getppid() == parent {
        Ok(())
    } else {
        Err(ConfinementError::Orphan)
    }
}

fn no_new_privileges() -> Result<(), LayerError> {
    rustix::thread::set_no_new_privs(true)
        .map_err(LayerError::call("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    match rustix::thread::no_new_privs() {
        Ok(true) => Ok(()),
        _ => Err(LayerError::NotHeld("the flag is not set".to_owned())),
    }
}

/// No process, no file, no core file, no locked memory, no message queue, few descriptors, little memory.
fn limit_resources(memory: u64) -> Result<(), ConfinementError> {
    for (step_name, resource, most) in [
        ("limit the processes", Resource::Nproc, 0),
        ("limit the core file", Resource::Core, 0),
        ("limit the size of files", Resource::Fsize, 0),
        ("limit locked memory", Resource::Memlock, 0),
        ("limit message queues", Resource::Msgqueue, 0),
        ("limit the address space", Resource::As, memory),
        ("limit the descriptors", Resource::Nofile, DESCRIPTORS),
    ] {
        step(
            step_name,
            setrlimit(
                resource,
                Rlimit {
                    current: Some(most),
                    maximum: Some(most),
                },
            ),
        )?;
    }
    Ok(())
}

/// How much of it there is now, in bytes.
fn address_space() -> std::io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').next().and_then(|pages| pages.parse().ok());
    let pages: u64 = pages.ok_or(std::io::ErrorKind::InvalidData)?;
    let size = u64::try_from(rustix::param::page_size()).unwrap_or(u64::MAX);
    Ok(pages.saturating_mul(size))
}

fn step(step: &'static str, result: Result<(), Errno>) -> Result<(), ConfinementError> {
    result.map_err(|errno| ConfinementError::Step {
        step,
        error: errno.into(),
    })
}
