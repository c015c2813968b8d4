//! Lints: what is allowed to stand in a policy and deserves a second look.
//!
//! Each has a name and a level, and can be allowed by name with a reason, for a rule or for the whole policy.

use crate::document::Document;
use crate::image::{Reference, reference};
use crate::pattern::Pattern;
use crate::places::is_beneath;
use crate::policy::Policy;
use crate::problem::{Finding, Findings, Place, nearest};
use crate::reader::Reader;
use crate::rule::Rule;
use crate::rule_table::LaunchTable;
use crate::spool::Spool;
use annotate_snippets::Level as Shown;
use portcullis_wire::PolicyText;
use std::fmt;

/// How grave a lint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Worth knowing.
    Warn,
    /// `check` fails unless it is allowed.
    Deny,
}

/// Something that deserves a second look. Its `Display` shows the place.
#[derive(Clone, Debug)]
pub struct Lint {
    /// Its name, as it is documented and as it is allowed.
    pub name: &'static str,
    /// How grave it is.
    pub level: Level,
    /// The rule it is about; none when it is about the whole policy.
    pub rule: Option<String>,
    rendered: String,
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered)
    }
}

/// Every lint, its level, and what is behind it.
const LINTS: &[(&str, Level, &str)] = &[
    (
        "host-pid-root",
        Level::Deny,
        "uid 0 in the host's PID namespace can signal every process of root and enter every root container",
    ),
    (
        "short-image-name",
        Level::Deny,
        "an image without a registry is whatever of that name is on the host",
    ),
    (
        "privileged",
        Level::Warn,
        "a privileged container is root on the host",
    ),
    (
        "host-network",
        Level::Warn,
        "it can reach everything that the host can, abstract sockets too",
    ),
    (
        "host-pid",
        Level::Warn,
        "it sees every process of the host and can signal those of its user",
    ),
    (
        "unpinned-image",
        Level::Warn,
        "a tag can come to mean another image; a digest cannot",
    ),
    (
        "text-argument",
        Level::Warn,
        "the kind `text` lets the agent write almost anything there",
    ),
    (
        "broad-mount",
        Level::Warn,
        "much more of the host than one service's files",
    ),
    (
        "agent-written-config",
        Level::Warn,
        "the program reads files that the agent may write: assume that the agent runs any code in it; its user, capabilities and mounts are the boundary, argument patterns are not",
    ),
    (
        "no-limits",
        Level::Warn,
        "without a memory and a PID limit one container can exhaust the host",
    ),
    (
        "no-peer",
        Level::Warn,
        "whoever can reach the socket may use it",
    ),
    (
        "peer-beside-spool",
        Level::Warn,
        "[peer] is about processes on the socket: whoever can write a spool's directory has his lines judged without it",
    ),
    (
        "writable-spool",
        Level::Deny,
        "whoever can write a spool's directory has his lines judged as the agent's: the side container becomes a peer",
    ),
    (
        "spool-never-matches",
        Level::Warn,
        "a line has a network namespace and arguments, and nothing to name an image or environment with",
    ),
    (
        "device",
        Level::Warn,
        "a device is a way around the container",
    ),
    (
        "lsm-off",
        Level::Warn,
        "a layer that confines containers is off",
    ),
];

/// A lint that the operator has allowed, with the reason.
#[derive(Clone, Debug)]
pub(crate) struct Allowance(String);

impl Allowance {
    /// Reads `allow = { host-pid = "why" }`.
    pub(crate) fn read(table: Reader<'_>, findings: &mut Findings) -> Vec<Self> {
        let names: Vec<&str> = LINTS.iter().map(|(name, ..)| *name).collect();
        let mut allowed = Vec::new();
        for (name, reason) in table.texts_by_key(findings) {
            if !names.contains(&&*name.text) {
                let right = match nearest(&name.text, &names) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("there are: {}", names.join(", ")),
                };
                let title = format!("there is no lint {:?}", name.text);
                findings.add(Finding::new(&name.place, title, "not known").help(right));
            }
            if reason.text.trim().is_empty() {
                let title = "a lint is allowed with a reason";
                findings.add(
                    Finding::new(&reason.place, title, "says nothing")
                        .help("say for whom and why this is right here"),
                );
            }
            allowed.push(Self(name.text));
        }
        allowed
    }
}

/// Collects the lints of one policy.
struct Collector<'a> {
    files: &'a [PolicyText],
    allowed: &'a [Allowance],
    found: Vec<Lint>,
}

impl Collector<'_> {
    fn add(&mut self, name: &'static str, table: Option<&LaunchTable>, place: &Place, label: &str) {
        let in_rule = table.map_or([].as_slice(), |table| &table.allow);
        if self
            .allowed
            .iter()
            .chain(in_rule)
            .any(|allowed| allowed.0 == name)
        {
            return;
        }
        let Some((_, level, why)) = LINTS.iter().find(|(known, ..)| *known == name) else {
            return;
        };
        let rule = table
            .and_then(|table| table.rule.as_ref())
            .map(|rule| rule.text.clone());
        let title = match &rule {
            Some(rule) => format!("{name}: rule {rule:?}"),
            None => name.to_owned(),
        };
        let finding = Finding::new(place, title, label).help(format!(
            "{why}. To allow it: {}allow = {{ {name} = \"why\" }}",
            if table.is_some() { "in the rule, " } else { "" }
        ));
        let shown = match level {
            Level::Warn => Shown::WARNING,
            Level::Deny => Shown::ERROR,
        };
        self.found.push(Lint {
            name,
            level: *level,
            rule,
            rendered: finding.render(shown, self.files),
        });
    }
}

/// All lints of a policy that nobody has allowed.
pub(crate) fn lints(policy: &Policy, document: &Document, files: &[PolicyText]) -> Vec<Lint> {
    let mut collector = Collector {
        files,
        allowed: &document.allow,
        found: Vec::new(),
    };
    let given = |peer: &crate::document::PeerTable| peer.uid.is_some() || peer.gid.is_some();
    if !document.peer.as_ref().is_some_and(given) {
        let place = document.place.clone().unwrap_or(Place::new(0, 0..0));
        collector.add("no-peer", None, &place, "no uid or gid in [peer]");
    }
    if document.peer.as_ref().is_some_and(given)
        && let Some(dir) = document.spools.iter().find_map(|spool| spool.dir.as_ref())
    {
        collector.add(
            "peer-beside-spool",
            None,
            &dir.place,
            "not asked for [peer]",
        );
    }
    for (rule, table) in policy.rules.iter().zip(&document.launches) {
        of_lines(rule, table, &mut collector);
        of_container(rule, table, &mut collector);
        of_images(rule, table, &mut collector);
        of_arguments(rule, table, &mut collector);
        of_mounts(rule, table, policy.spools(), &mut collector);
    }
    collector.found
}

fn of_container(rule: &Rule, table: &LaunchTable, collector: &mut Collector<'_>) {
    let Some(container) = &table.container else {
        return;
    };
    let mut add = |name, place: &Place, label| collector.add(name, Some(table), place, label);
    let settings = &rule.container.settings;
    if let Some(place) = &container.host_pid {
        if settings.user.starts_with("0:") {
            add("host-pid-root", place, "with uid 0");
        } else {
            add("host-pid", place, "shared with the host");
        }
    }
    if let Some(place) = &container.host_network {
        add("host-network", place, "shared with the host");
    }
    if let Some(place) = &container.privileged {
        add("privileged", place, "everything");
    }
    if let Some(device) = container.devices.first() {
        add("device", &device.place, "a device of the host");
    }
    let off = [&container.apparmor, &container.seccomp];
    let off = off
        .into_iter()
        .flatten()
        .filter(|text| text.text == "unconfined");
    let off = off.chain(
        container
            .selinux
            .iter()
            .filter(|text| text.text == "disable"),
    );
    for text in off {
        add("lsm-off", &text.place, "off");
    }
    if settings.memory.is_none() || settings.pids == 0 {
        let label = if settings.memory.is_none() {
            "no `memory`"
        } else {
            "no PID limit"
        };
        add("no-limits", &container.place, label);
    }
}

fn of_lines(rule: &Rule, table: &LaunchTable, collector: &mut Collector<'_>) {
    let Some(place) = &table.spool else {
        return;
    };
    let image = rule.images.first().is_none_or(|p| p.literal().is_none());
    let environment = rule.environment.entries.iter().any(|e| e.min > 0);
    if image || environment {
        let what = if image { "image" } else { "environment" };
        let label = format!("a request has to bring the {what}");
        collector.add("spool-never-matches", Some(table), place, &label);
    }
}

fn of_images(rule: &Rule, table: &LaunchTable, collector: &mut Collector<'_>) {
    for (pattern, text) in rule.images.iter().zip(&table.image) {
        // A pattern is judged by its literal beginning: what the registry is has to stand there.
        let form = match pattern.literal() {
            Some(literal) => reference(literal),
            None if pattern.text.contains("@sha256:{") => Some(Reference::Pinned),
            None => reference(&format!("{}x", pattern.head())).filter(|f| *f == Reference::Short),
        };
        match form {
            Some(Reference::Pinned) => {}
            Some(Reference::Short) => {
                collector.add("short-image-name", Some(table), &text.place, "no registry");
            }
            _ => collector.add("unpinned-image", Some(table), &text.place, "no digest"),
        }
    }
}

fn of_arguments(rule: &Rule, table: &LaunchTable, collector: &mut Collector<'_>) {
    let compiled = rule
        .arguments
        .entries
        .iter()
        .chain(&rule.environment.entries);
    for (entry, written) in compiled.zip(table.args.iter().chain(&table.env)) {
        let patterns = entry.alternatives.iter().flatten();
        for (pattern, text) in patterns.zip(written.alternatives.iter().flatten()) {
            if pattern.has_text() {
                collector.add("text-argument", Some(table), &text.place, "almost anything");
            }
        }
    }
    let mounts: Vec<(&str, bool)> = (rule.container.mounts.iter())
        .map(|mount| {
            (
                &*mount.target.text,
                mount.rest.is_some() || !mount.read_only,
            )
        })
        .collect();
    let ready = rule.container.ready.as_ref().map(|(path, _)| &*path.text);
    // A file is the agent's where the container shares a directory that may be written, or where the request names it.
    let reads = |pattern: &Pattern| {
        let path = pattern
            .text
            .split_once('=')
            .map_or(&*pattern.text, |(_, value)| value);
        let named = pattern.literal().is_none();
        Some(path) != ready
            && mounts
                .iter()
                .any(|(target, shared)| (*shared || named) && path.starts_with(target))
    };
    let config = rule
        .arguments
        .entries
        .iter()
        .zip(&table.args)
        .find_map(|(entry, written)| {
            let mut patterns = entry
                .alternatives
                .iter()
                .flatten()
                .zip(written.alternatives.iter().flatten());
            patterns
                .find(|(pattern, _)| reads(pattern))
                .map(|(_, text)| text)
        });
    if let Some(text) = config {
        let label = "beneath what the agent may write";
        collector.add("agent-written-config", Some(table), &text.place, label);
    }
}

fn of_mounts(rule: &Rule, table: &LaunchTable, spools: &[Spool], collector: &mut Collector<'_>) {
    const ENGINES: &[&str] = &["docker.sock", "podman.sock", "containerd.sock", "crio.sock"];
    const WHOLE: &[&str] = &[
        "/proc",
        "/sys",
        "/dev",
        "/etc/portcullis",
        "/var/lib/containers",
        "/run/podman",
    ];
    let written = table
        .container
        .iter()
        .flat_map(|container| &container.mounts);
    for (mount, written) in rule.container.mounts.iter().zip(written) {
        let source = &*mount.prefix;
        let broad = source.matches('/').count() < 2
            || ENGINES.iter().any(|engine| source.ends_with(engine))
            || WHOLE.iter().any(|root| is_beneath(source, root));
        if broad {
            collector.add(
                "broad-mount",
                Some(table),
                &written.source.place,
                "much of the host",
            );
        }
        // What is beneath a source with a value in it is not known: it may be there, too.
        let spool = spools
            .iter()
            .find(|spool| is_beneath(&spool.dir, source) || is_beneath(source, &spool.dir));
        if let Some(spool) = spool.filter(|_| !mount.read_only) {
            let label = format!("{} can be written by what runs in there", spool.dir);
            let place = &written.source.place;
            collector.add("writable-spool", Some(table), place, &label);
        }
    }
}
