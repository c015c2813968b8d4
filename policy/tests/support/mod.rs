//! What the tests of this crate share: policies from texts, requests from words.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
#![allow(dead_code, reason = "each test uses its part of this")]

use portcullis_policy::{Decision, Denial, LaunchPlan, Peer, Policy, Problems, decide};
use portcullis_wire::{AgentName, Launch, PolicyText};

pub const A: &str = "0c6b8f0e-31a5-4a8d-9f5b-0d4f2f6a1e77";
pub const B: &str = "b1946ac9-2d5f-4b3e-8c7a-5d2f9e0c4a11";

/// The peer that Neutron's policy expects: `ip netns exec` runs the applet as root.
pub const ROOT: Peer = Peer::Process {
    uid: 0,
    gid: 0,
    pid: 4711,
};

pub fn text(path: &str, text: &str) -> PolicyText {
    PolicyText {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

pub fn data(name: &str) -> PolicyText {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    text(name, &std::fs::read_to_string(path).unwrap())
}

pub fn load(files: &[PolicyText]) -> Result<Policy, Problems> {
    Policy::load(&AgentName::new("dhcp").unwrap(), files)
}

/// Neutron's policy, loaded once.
pub fn neutron() -> &'static Policy {
    static POLICY: std::sync::LazyLock<Policy> = std::sync::LazyLock::new(|| {
        load(&[data("neutron.toml")]).unwrap_or_else(|problems| panic!("{problems}"))
    });
    &POLICY
}

/// A policy of one rule: `program` with these keys in the rule and these in the container.
pub fn one_rule(rule: &str, container: &str) -> String {
    format!(
        "version = 1\n[[launch]]\nrule = \"r\"\ncommand = \"c\"\nimage = \"localhost/i:1\"\n{rule}\n[launch.container]\n\
         user = \"1000:1000\"\n{container}\n"
    )
}

/// The same, loaded; its container is called `c-x`.
pub fn rule(rule: &str) -> Policy {
    loaded(&one_rule(rule, "name = \"c-x\""))
}

pub fn loaded(toml: &str) -> Policy {
    load(&[text("dhcp.toml", toml)]).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The titles of all that is wrong.
pub fn problems(toml: &str) -> Vec<String> {
    match load(&[text("dhcp.toml", toml)]) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(|p| p.title().to_owned()).collect(),
    }
}

pub fn request(command: &str, netns: Option<&str>, args: &[&str]) -> Launch {
    Launch {
        command: command.to_owned(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        netns: netns.map(str::to_owned),
        ..Launch::default()
    }
}

/// A request for the rule of [`rule`].
pub fn ask(args: &[&str]) -> Launch {
    request("c", None, args)
}

pub fn allowed(policy: &Policy, request: &Launch) -> LaunchPlan {
    match decide(policy, &ROOT, request) {
        Decision::Allow(plan) => *plan,
        Decision::Deny(denial) => panic!("denied: {}", denial.message),
    }
}

pub fn denied(policy: &Policy, request: &Launch) -> Denial {
    match decide(policy, &ROOT, request) {
        Decision::Allow(plan) => panic!("allowed: {plan:?}"),
        Decision::Deny(denial) => denial,
    }
}

/// podman's arguments with plain stand-ins for what the launcher stages.
pub fn podman(plan: &LaunchPlan) -> Vec<String> {
    let mounts: Vec<String> = (1..=plan.mounts().len())
        .map(|n| format!("/staged/{n}"))
        .collect();
    let staged = portcullis_policy::Staged {
        image_id: "IMAGE_ID",
        netns: plan.netns().map(|_| "/staged/netns"),
        mounts: &mounts,
        pid_file: "/staged/pid",
        nonce: "NONCE",
        cgroup_parent: None,
    };
    portcullis_policy::podman_arguments(plan, &staged)
}

/// A plain dnsmasq of Neutron's for network A.
pub fn dnsmasq() -> Launch {
    let args = dnsmasq_args(A);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    request("dnsmasq", Some(&format!("qdhcp-{A}")), &args)
}

pub fn dnsmasq_args(network: &str) -> Vec<String> {
    let dir = format!("/var/lib/neutron/dhcp/{network}");
    let file = |option: &str, name: &str| format!("--{option}={dir}/{name}");
    let mut args = vec!["--no-hosts".to_owned(), "--no-resolv".to_owned()];
    args.extend([
        file("pid-file", "pid"),
        file("dhcp-hostsfile", "host"),
        file("addn-hosts", "addn_hosts"),
        file("dhcp-optsfile", "opts"),
        file("dhcp-leasefile", "leases"),
    ]);
    let rest = [
        "--dhcp-match=set:ipxe,175",
        "--dhcp-userclass=set:ipxe6,iPXE",
        "--local-service",
        "--bind-dynamic",
        "--dhcp-range=set:subnet-b1946ac9-2d5f-4b3e-8c7a-5d2f9e0c4a11,10.0.0.0,static,255.255.255.0,86400s",
        "--dhcp-option-force=option:mtu,1450",
        "--dhcp-lease-max=256",
        "--conf-file=/dev/null",
        "--domain=openstacklocal",
    ];
    args.extend(rest.map(str::to_owned));
    args
}

/// The same launch with one argument more.
pub fn dnsmasq_with(argument: &str) -> Launch {
    let mut request = dnsmasq();
    request.args.push(argument.to_owned());
    request
}
