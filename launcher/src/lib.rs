//! The privileged half of Portcullis: takes what a broker forwards, decides again, and runs podman.
//!
//! Trusted: the policy file, the host's configuration, podman, the kernel. Not trusted: the broker, and through it the
//! agent. Nothing here may act on a path or a name that an agent can still change, or say what is not true.

mod account;
mod answer;
mod attempt;
mod audit;
mod broker;
mod bucket;
mod census;
mod cgroup;
mod cgroup_parent;
mod conclude;
mod connections;
mod container;
mod due;
mod ends;
mod engine;
mod heartbeat;
mod host_config;
mod image;
mod info;
mod launch;
mod listener;
mod logs;
mod metrics;
mod notify;
mod operator;
mod options;
mod orders;
mod output;

pub mod peer;
mod pidfd;
pub mod policy_file;
mod progress;
pub mod readiness;
mod records;
mod refusal;
mod requests;
mod service;
mod spool;
pub mod staging;
mod status;
mod supervise;
mod table;
mod walk;
mod workers;

use engine::Engine;
use host_config::HostConfig;
use launch::Host;
use listener::Inherited;
use options::{Asked, Options};
use records::Records;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use service::Service;
use spool::Journal;
use staging::Staging;
use std::error::Error;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// Exit code for a command line or configuration that is wrong: trying again changes nothing (sysexits.h's EX_CONFIG).
const CONFIG: u8 = 78;

/// The launcher's `main`.
#[must_use]
pub fn main() -> ExitCode {
    // Taken before anything else opens a descriptor.
    let inherited = listener::inherited();
    if let Err(error) = listener::keep_inherited_from_children() {
        eprintln!("portcullis-launcher: /proc/self/fd: {error}");
        return ExitCode::FAILURE;
    }
    let options = match options::parse(std::env::args_os().skip(1)) {
        Ok(Asked::Serve(options)) => *options,
        Ok(Asked::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("portcullis-launcher: {error}");
            return ExitCode::from(CONFIG);
        }
    };
    audit::start_log();
    let agent = options.agent.clone();
    let served = inherited
        .map_err(Into::into)
        .and_then(|listener| serve(options, listener));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(agent = agent.as_str(), "cannot serve: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: Options, inherited: Inherited) -> Result<(), Box<dyn Error>> {
    let config = match policy_file::read_owned(&options.config.0) {
        Ok(text) => HostConfig::parse(&text)
            .map_err(|error| format!("{}: {error}", options.config.0.display()))?,
        Err(error) if error.is_not_found() && !options.config.1 => HostConfig::default(),
        Err(error) => return Err(error.into()),
    };
    let records = Records::open(&options.state_dir)?;
    let journal = Journal::open(&options.state_dir)
        .map_err(|error| format!("the journal in {}: {error}", options.state_dir.display()))?;
    let runtime = &options.runtime_dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(runtime)
        .and_then(|()| std::fs::set_permissions(runtime, std::fs::Permissions::from_mode(0o700)))
        .map_err(|error| format!("create {}: {error}", runtime.display()))?;
    let control_path = runtime.join("control.sock");
    let (agents, operators) = inherited.sort(&control_path)?;
    let listener = match (&options.listen, agents) {
        (Some(path), _) => Some(listener::bound(path, 0o666)?),
        (None, Some(listener)) => Some(listener),
        (None, None) => None,
    };
    let control = match operators {
        Some(control) => control,
        None => listener::bound(&control_path, 0o600)?,
    };
    let engine = Engine::new(config.engine.clone(), runtime.join("podman"))?;
    raise_descriptor_limit();
    let staging = Staging::new(runtime)?;
    let ours = staging.path().to_owned();
    if !records.any_at_work()? {
        engine.sweep();
        sweep_staging(runtime, Some(&ours));
    }
    let host = Arc::new(Host {
        engine,
        records,
        staging,
        agents: match options.state_dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => ".".into(),
        },
    });
    let runtime = runtime.clone();
    let listens = listener.is_some();
    let agent = options.agent.clone();
    let service = Service::new(
        options,
        config,
        Arc::clone(&host),
        listener,
        control,
        journal,
    )?;
    if !listens && service.serves_nobody() {
        return Err(listener::ListenerError::None.into());
    }
    service.run()?;
    if !host.records.any_at_work()? {
        sweep_staging(&runtime, None);
        cgroup_parent::remove(&agent);
    }
    Ok(())
}

fn sweep_staging(runtime: &Path, keep: Option<&Path>) {
    for error in Staging::sweep(runtime, keep) {
        tracing::warn!(%error, "what was staged earlier could not be taken down");
    }
}

/// One descriptor a side container, and some: the hard limit is ours, podman gets what we were given.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        tracing::warn!(%error, "the limit on descriptors could not be raised");
    }
}
