//! The host's configuration, `/etc/portcullis/portcullis.toml`: which podman, how many at once, which sandbox.
//!
//! It is the operator's and is trusted, once [`policy_file`](crate::policy_file) has seen that only root can write it.

use crate::options::duration;
use portcullis_wire::Layer;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

/// The whole file. Everything in it is optional; unknown keys are errors.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// podman and how it is run.
    pub engine: EngineConfig,
    /// The broker and how it is confined.
    pub broker: BrokerConfig,
}

/// `[engine]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// podman's path.
    pub podman: PathBuf,
    /// Options before podman's subcommand, such as `--root=…`.
    pub global_args: Vec<String>,
    /// podman's environment beside `PATH`, `HOME` and `GOGC`, each of which an entry here replaces.
    pub environment: BTreeMap<String, String>,
    /// How many podmans run at once: 1 to 8. Twice the number of processors by default.
    pub workers: u8,
    /// How many side containers all agents of the host may have together. 2,000 by default: podman has 2,048 locks for
    /// containers, pods and volumes.
    pub containers: u32,
    /// How long one podman may take before its caller is told `timeout`. 120 s by default.
    #[serde(deserialize_with = "read_duration")]
    pub deadline: Duration,
    /// Where the named network namespaces are.
    pub netns_dir: PathBuf,
    /// Whether the side containers of an agent are in a cgroup of its own.
    pub cgroup_parent: CgroupParent,
}

/// The cgroup of an agent's side containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupParent {
    /// One for each agent, where podman manages cgroups.
    #[default]
    Auto,
    /// podman's own for all.
    None,
}

/// `[broker]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BrokerConfig {
    /// The user that the broker runs as: a name, or a number above 0. A user of the agent's own by default.
    pub user: Option<String>,
    /// Exit when there has been nothing to do for so long; 0 is never. 5 min by default.
    #[serde(deserialize_with = "read_duration")]
    pub idle_exit: Duration,
    /// Layers of the sandbox that may be missing: `namespaces`, `user`, `capabilities`, `no-new-privileges`, `landlock`, `seccomp`.
    pub optional_layers: Vec<Layer>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            podman: "/usr/bin/podman".into(),
            global_args: Vec::new(),
            environment: BTreeMap::new(),
            workers: u8::try_from(processors.saturating_mul(2))
                .unwrap_or(8)
                .clamp(1, 8),
            containers: 2_000,
            deadline: Duration::from_secs(120),
            netns_dir: "/run/netns".into(),
            cgroup_parent: CgroupParent::default(),
        }
    }
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            user: None,
            idle_exit: Duration::from_secs(300),
            optional_layers: Vec::new(),
        }
    }
}

/// What is wrong with the host's configuration.
#[derive(Debug, thiserror::Error)]
pub enum HostConfigError {
    /// Not TOML, or not of this form; the text has line and column.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// A value out of its range.
    #[error("{0}")]
    Value(String),
}

impl HostConfig {
    /// Reads the text of the file.
    ///
    /// # Errors
    /// [`HostConfigError`].
    pub fn parse(text: &str) -> Result<Self, HostConfigError> {
        let config: Self = toml::from_str(text)?;
        let engine = &config.engine;
        let bad = |what: String| Err(HostConfigError::Value(what));
        if !(1..=8).contains(&engine.workers) {
            return bad(format!(
                "[engine] workers = {}: must be 1 to 8",
                engine.workers
            ));
        }
        if !engine.podman.is_absolute() || !engine.netns_dir.is_absolute() {
            return bad("[engine] podman and netns_dir must be absolute paths".to_owned());
        }
        if engine.containers == 0 {
            return bad("[engine] containers = 0: must be 1 or more".to_owned());
        }
        if engine.deadline.is_zero() {
            return bad("[engine] deadline must be longer than 0".to_owned());
        }
        for (name, value) in &engine.environment {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return bad(format!("[engine] environment: {name:?} cannot be set"));
            }
            // Either would tie side containers, or the service's own notifications, to podman (measured).
            if name.starts_with("LISTEN_") || name == "NOTIFY_SOCKET" || name == "INVOCATION_ID" {
                return bad(format!(
                    "[engine] environment: {name} is systemd's word to the launcher; podman must not see it"
                ));
            }
        }
        Ok(config)
    }
}

fn read_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = HostConfig::parse("").unwrap();
        assert_eq!(config.engine.podman.to_str(), Some("/usr/bin/podman"));
        assert_eq!(config.broker.user, None);
        assert!((1..=8).contains(&config.engine.workers));
    }

    #[test]
    fn what_is_not_known_or_out_of_range_is_an_error() {
        for bad in [
            "[engine]\npodmann = \"x\"",
            "[engine]\nworkers = 0",
            "[engine]\nworkers = 9",
            "[engine]\ncontainers = 0",
            "[engine]\npodman = \"podman\"",
            "[engine]\ndeadline = \"0\"",
            "[engine]\ncgroup_parent = \"/mine\"",
            "[broker]\noptional_layers = [\"all\"]",
            "[engine]\nenvironment = { NOTIFY_SOCKET = \"x\" }",
            "[brokre]",
        ] {
            assert!(HostConfig::parse(bad).is_err(), "{bad}");
        }
    }
}
