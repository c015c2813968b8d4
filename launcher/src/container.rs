//! A side container as podman knows it: its main process, its state, its end.
//!
//! Everything that podman says about a container is held against the launch record's nonce before it counts as ours.

use crate::engine::{Engine, EngineError, is_id};
use crate::pidfd::{Pidfd, start_time};
use rustix::param::clock_ticks_per_second;
use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// The label that carries the launch record's nonce.
pub const NONCE_LABEL: &str = "io.portcullis.launch";
/// The label that carries the agent's name.
pub const AGENT_LABEL: &str = "io.portcullis.agent";

/// A container whose main process has been seen alive.
#[derive(Debug)]
pub struct Main {
    /// The container's full ID.
    pub id: String,
    /// The main process, as the host numbers it.
    pub pid: u32,
    /// The same process, for certain.
    pub pidfd: Pidfd,
}

/// What podman knows of a container.
#[derive(Debug, Deserialize)]
pub struct Known {
    /// Its full ID.
    #[serde(rename = "Id")]
    pub id: String,
    /// Its names.
    #[serde(rename = "Names", default)]
    pub names: Vec<String>,
    /// Its main process; 0 when there is none.
    #[serde(rename = "Pid", default)]
    pub pid: u32,
    /// Its labels.
    #[serde(rename = "Labels", default)]
    labels: Option<BTreeMap<String, String>>,
}

impl Known {
    /// The nonce that it was launched with, if it was by us.
    #[must_use]
    pub fn nonce(&self) -> Option<&str> {
        self.labels.as_ref()?.get(NONCE_LABEL).map(String::as_str)
    }
}

/// The container that holds a name.
#[derive(Debug)]
pub struct Holder {
    /// Its full ID.
    pub id: String,
    /// Its main process; 0 when there is none.
    pub pid: u32,
    /// `created`, `running`, `exited`, …
    pub status: String,
    /// The exit code, when it is `exited`.
    pub exit: u8,
    /// The nonce that it was launched with; empty when it was not by us.
    pub nonce: String,
}

impl Holder {
    fn parse(answer: &str) -> Option<Self> {
        let mut words = answer.splitn(5, ' ');
        let mut next = || words.next();
        let (id, pid, status) = (next()?, next()?.parse().ok()?, next()?.to_owned());
        let (exit, nonce) = (next()?.parse::<i32>().ok()?, next()?.to_owned());
        let exit = u8::try_from(exit).unwrap_or(u8::MAX);
        is_id(id).then(|| Self {
            id: id.to_owned(),
            pid,
            status,
            exit,
            nonce,
        })
    }
}

impl Main {
    /// Looks at the process `pid` and makes sure that it is the main process of the container `id`, and alive.
    ///
    /// The number may have been given to another process since podman wrote it down, so the process is opened first and
    /// then asked for its container: its cgroup names the container, or its parent is the conmon of that container.
    #[must_use]
    pub fn see(id: &str, pid: u32) -> Option<Self> {
        let pidfd = Pidfd::open(Pid::from_raw(i32::try_from(pid).ok()?)?).ok()?;
        let of_container = fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|cgroup| cgroup.contains(id))
            || conmon_of(pid).is_some_and(|command_line| command_line.contains(id));
        (is_id(id) && of_container && !pidfd.has_ended()).then(|| Self {
            id: id.to_owned(),
            pid,
            pidfd,
        })
    }

    /// For how many seconds it has run; `None` when it has ended.
    #[must_use]
    pub fn age(&self) -> Option<u64> {
        let ticks = start_time(i32::try_from(self.pid).ok()?)?;
        let now = clock_gettime(ClockId::Boottime).tv_sec;
        let age = u64::try_from(now)
            .ok()?
            .saturating_sub(ticks / clock_ticks_per_second());
        (!self.pidfd.has_ended()).then_some(age)
    }

    /// The network namespace that it is in, by device and inode.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn netns(&self) -> io::Result<(u64, u64)> {
        let ns = fs::metadata(format!("/proc/{}/ns/net", self.pid))?;
        if self.pidfd.has_ended() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok((ns.dev(), ns.ino()))
    }
}

/// The command line of a process's parent, if it can be read.
fn conmon_of(pid: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))?
        .trim();
    fs::read_to_string(format!("/proc/{parent}/cmdline")).ok()
}

impl Engine {
    /// All containers that carry this agent's label, in any state, and perhaps somebody else's that copied it.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn labelled(&self, agent: &str) -> Result<Vec<Known>, EngineError> {
        let filter = format!("--filter=label={AGENT_LABEL}={agent}");
        let answer = self.run(&["ps", "--all", "--no-trunc", &filter, "--format=json"])?;
        if answer.trim().is_empty() {
            return Ok(Vec::new());
        }
        serde_json::from_str(&answer).map_err(|error| EngineError::Answer {
            what: "ps".to_owned(),
            answer: error.to_string(),
        })
    }

    /// The container that holds this name. `None` when there is none.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn holder(&self, name: &str) -> Result<Option<Holder>, EngineError> {
        let format = format!(
            "--format={{{{.Id}}}} {{{{.State.Pid}}}} {{{{.State.Status}}}} {{{{.State.ExitCode}}}} \
             {{{{index .Config.Labels \"{NONCE_LABEL}\"}}}}"
        );
        let answer = match self.run(&["container", "inspect", &format, "--", name]) {
            Ok(answer) => answer,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        Holder::parse(answer.trim_end_matches('\n'))
            .map(Some)
            .ok_or(EngineError::Answer {
                what: "container inspect".to_owned(),
                answer,
            })
    }

    /// Stops a container, by full ID, with so long between the polite and the final signal, and removes it.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn stop_and_remove(&self, id: &str, patience: Duration) -> Result<Option<u8>, EngineError> {
        // podman knows whole seconds, and takes 0 for the final signal at once.
        let seconds = patience.as_secs() + u64::from(patience.subsec_nanos() > 0);
        let patience = Duration::from_secs(seconds.max(1));
        let time = format!("--time={}", patience.as_secs());
        match self.run_for(&["stop", &time, "--", id], patience) {
            // It may be gone, or be beyond stopping: the removal tells.
            Ok(_) | Err(EngineError::Failed { .. }) => {
                let exit = self.exit_code(id).ok();
                self.remove(id).map(|()| exit)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a container that has ended, by full ID, once its [followers](crate::logs::Followed) have its last words. One
    /// that is gone already is fine.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn remove(&self, id: &str) -> Result<(), EngineError> {
        self.followed.wait_for_last_words(id);
        match self.run(&["rm", "--force", "--time=0", "--volumes", "--", id]) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// The exit code of a container that has ended, once conmon has told it.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn exit_code(&self, id: &str) -> Result<u8, EngineError> {
        let answer = self.run(&["wait", "--", id])?;
        let code = answer.trim().parse();
        code.map_err(|_| EngineError::Answer {
            what: "wait".to_owned(),
            answer,
        })
    }
}
