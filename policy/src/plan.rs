//! What is launched: everything that shapes one side container.
//!
//! A plan is made in this crate alone, from a rule and a request that matched it; whoever holds one knows that.

use crate::rule::Rule;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Everything that shapes one side container. Only this crate makes one.
#[derive(Clone, Debug)]
pub struct LaunchPlan {
    agent: Arc<str>,
    rule: Arc<str>,
    command: Arc<str>,
    name: String,
    image: String,
    netns: Option<String>,
    args: Vec<String>,
    environment: Vec<String>,
    mounts: Vec<Mount>,
    ready: Option<Ready>,
    on_conflict: OnConflict,
    settings: Arc<Settings>,
    hash: OnceLock<String>,
}

/// Out of another one, by naming a field or by changing it:
///
/// ```compile_fail,E0451
/// # fn forge(honest: portcullis_policy::LaunchPlan) {
/// let forged = portcullis_policy::LaunchPlan { image: "docker.io/evil".to_owned(), ..honest };
/// # }
/// ```
///
/// ```compile_fail,E0616
/// # fn forge(mut honest: portcullis_policy::LaunchPlan) {
/// honest.image = "docker.io/evil".to_owned();
/// # }
/// ```
///
/// Out of nothing, by its constructor or a default:
///
/// ```compile_fail,E0624
/// let forge = portcullis_policy::LaunchPlan::new;
/// ```
///
/// ```compile_fail,E0277
/// # fn forge<T: Default>() -> T { T::default() }
/// let forged: portcullis_policy::LaunchPlan = forge();
/// ```
///
/// With the same names and without the forgery, it compiles:
///
/// ```
/// # fn keep(honest: portcullis_policy::LaunchPlan) -> String {
/// let honest: portcullis_policy::LaunchPlan = honest;
/// honest.image().to_owned()
/// # }
/// ```
#[cfg(doctest)]
fn invariant_2_nobody_outside_this_crate_makes_a_launch_plan() {}

/// What a rule's containers have in common, whatever the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) program: Vec<String>,
    pub(crate) user: String,
    pub(crate) capabilities: Vec<String>,
    pub(crate) privileged: bool,
    pub(crate) host_pid: bool,
    pub(crate) host_network: bool,
    pub(crate) read_only: bool,
    pub(crate) no_new_privileges: bool,
    pub(crate) devices: Vec<String>,
    /// Bytes.
    pub(crate) memory: Option<u64>,
    /// 0 is no limit.
    pub(crate) pids: u32,
    pub(crate) log: Option<String>,
    /// Values of `--security-opt` but no-new-privileges.
    pub(crate) security: Vec<String>,
    pub(crate) stop_timeout: Duration,
}

/// A directory or file of the host in the side container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is on the host.
    pub source: Source,
    /// Where the container sees it: an absolute path.
    pub target: String,
    /// Whether the container may not write there.
    pub read_only: bool,
}

/// Where a mount's source is, and how far the way to it is the operator's. No link is followed anywhere on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The operator's own path: nothing in it comes from a request. What is mounted beneath it belongs to it.
    Literal(String),
    /// A path with something of the request in it.
    Beneath {
        /// The operator's part: absolute, `/` at the least.
        prefix: String,
        /// What is opened beneath it: relative, never empty. What is mounted there does not belong to it.
        rest: String,
    },
}

/// When the program counts as started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The file that will hold the program's pid, as the container sees it.
    pub pid_file: String,
    /// How long to wait for that.
    pub timeout: Duration,
}

/// What to do when a side container of ours already has the name and is not the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Stop and remove it, then launch.
    Replace,
    /// Leave it, launch nothing, say so.
    Keep,
    /// Leave it and fail.
    Refuse,
}

impl LaunchPlan {
    #[allow(
        clippy::too_many_arguments,
        reason = "one caller, which has just expanded them"
    )]
    pub(crate) fn new(
        rule: &Rule,
        name: String,
        image: String,
        netns: Option<String>,
        args: Vec<String>,
        environment: Vec<String>,
        mounts: Vec<Mount>,
        ready: Option<Ready>,
    ) -> Self {
        Self {
            agent: Arc::clone(&rule.agent),
            rule: Arc::clone(&rule.name),
            command: Arc::clone(&rule.command),
            name,
            image,
            netns,
            args,
            environment,
            mounts,
            ready,
            on_conflict: rule.container.on_conflict,
            settings: Arc::clone(&rule.container.settings),
            hash: OnceLock::new(),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The program's arguments: the client's, every one allowed by the rule.
    pub(crate) fn args(&self) -> &[String] {
        &self.args
    }

    pub(crate) fn environment(&self) -> &[String] {
        &self.environment
    }

    /// The agent that asked.
    #[must_use]
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// The rule that matched.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// The command, as the agent calls it.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.command
    }

    /// The container's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The image's reference, as the policy has it.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The network namespace: a name under `/run/netns`.
    #[must_use]
    pub fn netns(&self) -> Option<&str> {
        self.netns.as_deref()
    }

    /// What of the host is mounted into it.
    #[must_use]
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// What to wait for before it counts as launched.
    #[must_use]
    pub fn ready(&self) -> Option<&Ready> {
        self.ready.as_ref()
    }

    /// What to do when the name is held by another of ours.
    #[must_use]
    pub fn on_conflict(&self) -> OnConflict {
        self.on_conflict
    }

    /// Whether it shares the host's PID namespace.
    #[must_use]
    pub fn host_pid(&self) -> bool {
        self.settings.host_pid
    }

    /// How long it has between the polite and the final signal when it is stopped.
    #[must_use]
    pub fn stop_timeout(&self) -> Duration {
        self.settings.stop_timeout
    }

    /// SHA-256 over every field that shapes the container: 64 hex digits. Computed when it is first asked for.
    #[must_use]
    pub fn hash(&self) -> &str {
        self.hash.get_or_init(|| {
            let mut canon = Canon(Sha256::new());
            self.canonical(&mut canon);
            hex(&canon.0.finalize())
        })
    }

    /// Writes every field. Taking both structures apart by name makes a new field an error here.
    fn canonical(&self, canon: &mut Canon) {
        let Self {
            agent,
            rule,
            command,
            name,
            image,
            netns,
            args,
            environment,
            mounts,
            ready,
            // What happens around the container, not what it is.
            on_conflict: _,
            settings,
            hash: _,
        } = self;
        let Settings {
            program,
            user,
            capabilities,
            privileged,
            host_pid,
            host_network,
            read_only,
            no_new_privileges,
            devices,
            memory,
            pids,
            log,
            security,
            stop_timeout,
        } = &**settings;
        for text in [&**agent, rule, command, name, image, user] {
            canon.text(text);
        }
        canon.option(netns.as_deref());
        canon.option(log.as_deref());
        for list in [args, environment, program, capabilities, devices, security] {
            canon.number(list.len() as u64);
            list.iter().for_each(|text| canon.text(text));
        }
        canon.number(mounts.len() as u64);
        for Mount {
            source,
            target,
            read_only,
        } in mounts
        {
            match source {
                Source::Literal(path) => {
                    canon.number(0);
                    canon.text(path);
                }
                Source::Beneath { prefix, rest } => {
                    canon.number(1);
                    canon.text(prefix);
                    canon.text(rest);
                }
            }
            canon.text(target);
            canon.number(u64::from(*read_only));
        }
        canon.option(ready.as_ref().map(|ready| &*ready.pid_file));
        for flag in [
            privileged,
            host_pid,
            host_network,
            read_only,
            no_new_privileges,
        ] {
            canon.number(u64::from(*flag));
        }
        canon.number(memory.map_or(0, |bytes| bytes + 1));
        canon.number(u64::from(*pids));
        canon.number(stop_timeout.as_secs());
    }
}

/// The canonical form: numbers in eight bytes, texts with their length before them. No two plans have the same.
struct Canon(Sha256);

impl Canon {
    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text);
    }

    fn option(&mut self, text: Option<&str>) {
        self.number(u64::from(text.is_some()));
        self.text(text.unwrap_or_default());
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
