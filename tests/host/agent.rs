//! An agent as an operator sets it up: a policy, an enabled socket, and a container with the socket's directory in it.

use portcullis_tests::{IMAGE, Machine, until};
use serde_json::Value;

/// The user that agents run as.
pub const UID: u32 = 42435;

/// What every policy here begins with; `{dir}` is the agent's own directory on the host.
pub fn policy(name: &str, rest: &str) -> String {
    format!("version = 1\n[peer]\nuid = [{UID}]\n[vars]\ndir = \"/srv/{name}\"\n{rest}")
}

/// An agent of a machine, in a container without a right.
#[derive(Debug)]
pub struct Agent<'m> {
    pub machine: &'m Machine,
    pub name: String,
}

impl<'m> Agent<'m> {
    /// Writes the policy and starts everything.
    #[track_caller]
    pub fn new(machine: &'m Machine, name: &str, rules: &str) -> Self {
        let agent = Self {
            machine,
            name: name.into(),
        };
        machine.must(&format!(
            "install -d -o {UID} -g {UID} /srv/{name} && mkdir -p /run/netns"
        ));
        agent.write_policy(&policy(name, rules));
        agent.enable();
        agent.start_container(&[]);
        agent
    }

    pub fn policy_path(&self) -> String {
        format!("/etc/portcullis/agents/{}.toml", self.name)
    }

    #[track_caller]
    pub fn write_policy(&self, text: &str) {
        self.machine.write(&self.policy_path(), text);
    }

    pub fn socket_unit(&self) -> String {
        format!("portcullis@{}.socket", self.name)
    }

    pub fn service_unit(&self) -> String {
        format!("portcullis@{}.service", self.name)
    }

    #[track_caller]
    pub fn enable(&self) {
        let unit = self.socket_unit();
        self.machine
            .must(&format!("systemctl enable --now {unit} 2>&1"));
    }

    /// The agent's container: a user without capabilities, its socket's directory, the client, and the client as dnsmasq.
    /// The machine's own programs are in it, too, for the tests' own that needs libraries.
    #[track_caller]
    pub fn start_container(&self, volumes: &[&str]) {
        let name = &self.name;
        let volumes: Vec<_> = volumes.iter().map(|v| format!("--volume={v}")).collect();
        self.machine.must(&format!(
            "podman run --detach --name=agent-{name} --network=none --user={UID}:{UID} --cap-drop=all \
             --security-opt=no-new-privileges --read-only --volume=/run/portcullis/{name}:/run/portcullis:ro \
             --volume=/run/netns:/run/netns:ro,rslave --volume=/usr:/usr:ro --volume=/srv/{name}:/srv/{name} \
             {} {IMAGE} /usr/bin/sleep infinity",
            volumes.join(" ")
        ));
    }

    /// A line of shell in the agent's container.
    pub fn line(&self, line: &str) -> String {
        let line = line.replace('\'', r"'\''");
        format!("podman exec agent-{} sh -c '{line}'", self.name)
    }

    /// Runs a line of shell in the agent's container, which must succeed, and gives what it printed.
    #[track_caller]
    pub fn must(&self, line: &str) -> String {
        self.machine.must(&self.line(line))
    }

    /// What the client answers to `run`, whatever its exit code.
    #[track_caller]
    pub fn run(&self, arguments: &str) -> Value {
        let line = format!("portcullis run --json --timeout=60 {arguments}");
        let done = self.machine.shell(&self.line(&line));
        serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{line}: {done:?}"))
    }

    /// Whether the pair runs, and is what systemd believes, which hears of a start and an end a moment later.
    #[track_caller]
    pub fn is_serving(&self) -> bool {
        until("systemd believes what is so", || {
            let launchers = self.machine.running("portcullis-launcher");
            let mut ours = launchers.into_iter().map(|l| l.arguments());
            let runs = ours.any(|arguments| arguments.contains(&self.name));
            let active = self.machine.property(&self.service_unit(), "ActiveState");
            (runs == (active == "active")).then_some(runs)
        })
    }
}
