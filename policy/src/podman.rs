//! From a plan to podman's command line: a pure function.
//!
//! Every option is written `--name=value`, comes from the plan, and stands before `--`; after that only the image and
//! the program's arguments. Nothing that a client sends can become an option.

use crate::LaunchPlan;

/// What the launcher has prepared for a plan.
#[derive(Clone, Copy, Debug)]
pub struct Staged<'a> {
    /// The image's full ID.
    pub image_id: &'a str,
    /// Where the network namespace is staged; there has to be one where the plan has one.
    pub netns: Option<&'a str>,
    /// A path of the host for each of the plan's mounts, in their order.
    pub mounts: &'a [String],
    /// Where podman shall write the main process's pid.
    pub pid_file: &'a str,
    /// What tells this launch from every other.
    pub nonce: &'a str,
    /// The cgroup of all of the agent's side containers, where the host has one for them.
    pub cgroup_parent: Option<&'a str>,
}

/// podman's arguments, from `run` on.
///
/// Where something staged is missing, the container gets less than the plan says, never more: no network for a
/// namespace, no mount for a mount.
#[must_use]
pub fn podman_arguments(plan: &LaunchPlan, staged: &Staged<'_>) -> Vec<String> {
    let settings = plan.settings();
    let mut line: Vec<String> = vec!["run".to_owned(), "--detach".to_owned()];
    let mut option = |name: &str, value: &str| line.push(format!("--{name}={value}"));
    option("name", plan.name());
    option("pull", "never");
    if !settings.program.is_empty() {
        option("entrypoint", &json_list(&settings.program));
    }
    match (plan.netns(), staged.netns, settings.host_network) {
        (Some(_), Some(path), _) => option("network", &format!("ns:{path}")),
        (None, _, true) => option("network", "host"),
        _ => option("network", "none"),
    }
    if settings.host_pid {
        option("pid", "host");
    }
    if settings.privileged {
        option("privileged", "true");
    } else {
        option("cap-drop", "all");
    }
    for capability in &settings.capabilities {
        option("cap-add", capability);
    }
    if settings.no_new_privileges {
        option("security-opt", "no-new-privileges");
    }
    for security in &settings.security {
        option("security-opt", security);
    }
    if settings.read_only {
        option("read-only", "true");
    }
    option("user", &settings.user);
    match settings.pids {
        0 => option("pids-limit", "-1"),
        pids => option("pids-limit", &pids.to_string()),
    }
    if let Some(memory) = settings.memory {
        option("memory", &format!("{memory}b"));
    }
    for device in &settings.devices {
        option("device", device);
    }
    option(
        "stop-timeout",
        &settings
            .stop_timeout
            .as_millis()
            .div_ceil(1000)
            .max(1)
            .to_string(),
    );
    if let Some(parent) = staged.cgroup_parent {
        option("cgroup-parent", parent);
    }
    option("pidfile", staged.pid_file);
    for (key, value) in [
        ("agent", plan.agent()),
        ("rule", plan.rule()),
        ("plan", plan.hash()),
        ("launch", staged.nonce),
    ] {
        option("label", &format!("io.portcullis.{key}={value}"));
    }
    if let Some(log) = &settings.log {
        option("log-driver", log);
    }
    for entry in plan.environment() {
        option("env", entry);
    }
    for (mount, source) in plan.mounts().iter().zip(staged.mounts) {
        let mode = if mount.read_only { "ro" } else { "rw" };
        let target = &mount.target;
        option("volume", &format!("{source}:{target}:{mode},nosuid,nodev"));
    }
    line.push("--".to_owned());
    line.push(staged.image_id.to_owned());
    line.extend(plan.args().iter().cloned());
    line
}

/// A list of strings in JSON.
fn json_list(texts: &[String]) -> String {
    let mut json = String::from("[");
    for (at, text) in texts.iter().enumerate() {
        if at > 0 {
            json.push(',');
        }
        json.push('"');
        for character in text.chars() {
            match character {
                '"' => json.push_str("\\\""),
                '\\' => json.push_str("\\\\"),
                control if control.is_control() => {
                    json.push_str(&format!("\\u{:04x}", u32::from(control)));
                }
                plain => json.push(plain),
            }
        }
        json.push('"');
    }
    json.push(']');
    json
}
