//! The container's half of a rule: templates, and settings that are the operator's alone.

use crate::bindings::{Bindings, Slot, SlotKind};
use crate::container_table::{ContainerTable, MountTable};
use crate::kinds::Kind;
use crate::pattern::{Part, Template};
use crate::plan::Settings;
use crate::problem::{Finding, Findings};
use crate::purpose::Purpose;
use crate::rule::{Container, MountRule, is_container_name};
use crate::rule_table::LaunchTable;
use crate::scope::Scope;
use crate::spelling::is_path;
use crate::text::Text;
use std::sync::Arc;

/// What a template makes of values that are as harmless as they come: shows what its literal parts are worth.
fn sample(template: &Template, slots: &[SlotKind]) -> Option<String> {
    let mut bindings = Bindings::default();
    for (slot, kind) in slots.iter().enumerate() {
        let value = match kind {
            SlotKind::Kind(Kind::Path(_)) => "/x",
            _ => "x",
        };
        let _ = bindings.bind(Slot::try_from(slot).ok()?, value);
    }
    template.expand(&bindings)
}

pub(super) fn check_name(
    template: &Template,
    text: &Text,
    slots: &[SlotKind],
    findings: &mut Findings,
) -> bool {
    let right = "a literal beginning, then values: \"neutron-dnsmasq-{netns}\"; letters, digits, `_`, `.` and `-`, \
                 128 at most";
    if template.head().is_empty() {
        findings.add(
            Finding::new(
                &text.place,
                "a container's name begins with a literal",
                "begins with a value, or is empty",
            )
            .help(right),
        );
        return false;
    }
    let good = sample(template, slots).is_some_and(|name| is_container_name(&name));
    if !good {
        findings.add(
            Finding::new(
                &text.place,
                "this never makes a container's name",
                "not allowed in a name",
            )
            .help(right),
        );
    }
    good
}

fn check_path(
    template: &Template,
    text: &Text,
    what: &str,
    slots: &[SlotKind],
    findings: &mut Findings,
) -> bool {
    let good =
        sample(template, slots).is_some_and(|path| is_path(&path) && !path.contains([':', ',']));
    if !good {
        findings.add(
            Finding::new(&text.place, format!("{what} is no absolute, normal path"), "not a path")
                .help("write it like \"/srv/data/{network}\"; without `.`, `..`, `//`, `:`, `,` and a `/` at the end"),
        );
    }
    good
}

/// Splits a source in the operator's part and what is opened beneath it.
fn split_source(source: &Template) -> (Box<str>, Option<Template>) {
    if let Some(literal) = source.literal() {
        return (literal.into(), None);
    }
    let head = source.head();
    let (prefix, begin) = head.rsplit_once('/').unwrap_or_default();
    let values = usize::from(!head.is_empty());
    let begin = (!begin.is_empty()).then(|| Part::Literal(begin.into()));
    let rest = begin
        .into_iter()
        .chain(source.parts.iter().skip(values).cloned());
    let prefix = if prefix.is_empty() { "/" } else { prefix };
    let rest = Template {
        parts: rest.collect(),
        text: source.text.clone(),
    };
    (prefix.into(), Some(rest))
}

fn mount(
    table: &MountTable,
    scope: &Scope,
    slots: &[SlotKind],
    findings: &mut Findings,
) -> Option<MountRule> {
    let source = scope.template(&table.source, Purpose::Mount, findings);
    let target = match &table.target {
        Some(text) => scope
            .template(text, Purpose::Mount, findings)
            .map(|template| (template, text)),
        None => source.clone().map(|source| (source, &table.source)),
    };
    let (source, (target, target_text)) = (source?, target?);
    let root = source.literal() == Some("/") && table.target.is_some();
    let good = root || check_path(&source, &table.source, "a mount's source", slots, findings);
    let aimed = table.target.is_none()
        || check_path(&target, target_text, "a mount's target", slots, findings);
    if !good || !aimed {
        return None;
    }
    let (prefix, rest) = split_source(&source);
    Some(MountRule {
        prefix,
        rest,
        target,
        read_only: table.read_only,
        // Found out when all rules are known.
        operators: false,
    })
}

fn user(text: &Text, scope: &Scope, findings: &mut Findings) -> Option<String> {
    let user = scope.fixed(text, findings)?;
    let id = |id: &str| {
        let plain = id == "0" || !id.starts_with('0');
        plain
            && id.bytes().all(|b| b.is_ascii_digit())
            && id.parse::<u32>().is_ok_and(|id| id < u32::MAX)
    };
    if user
        .split_once(':')
        .is_some_and(|(uid, gid)| id(uid) && id(gid))
    {
        return Some(user);
    }
    findings.add(
        Finding::new(&text.place, format!("{user:?} is no user"), "not UID:GID").help(
            "write both as numbers, \"1000:1000\": what a name means would be the image's to say",
        ),
    );
    None
}

pub(super) fn container(
    table: &ContainerTable,
    rule: &LaunchTable,
    program: Option<Vec<String>>,
    scope: &Scope,
    slots: &[SlotKind],
    findings: &mut Findings,
) -> Option<Container> {
    if let (Some(place), Some(netns)) = (&table.host_network, rule.netns.first()) {
        findings.add(
            Finding::new(
                place,
                "a rule has either `netns` or the host's network",
                "the host's",
            )
            .also(&netns.place, "and a namespace"),
        );
    }
    let name = table.name.as_ref().and_then(|text| {
        let template = scope.template(text, Purpose::Name, findings)?;
        check_name(&template, text, slots, findings).then_some(template)
    });
    let user = table
        .user
        .as_ref()
        .and_then(|text| user(text, scope, findings));
    let environment: Vec<Template> = table
        .environment
        .iter()
        .filter_map(|text| scope.template(text, Purpose::Environment, findings))
        .collect();
    let mounts: Vec<MountRule> = table
        .mounts
        .iter()
        .filter_map(|mount| self::mount(mount, scope, slots, findings))
        .collect();
    let ready = match &table.ready {
        None => Some(None),
        Some((text, timeout)) => scope
            .template(text, Purpose::Mount, findings)
            .filter(|path| check_path(path, text, "`pid_file`", slots, findings))
            .map(|path| Some((path, *timeout))),
    };
    let whole = environment.len() == table.environment.len() && mounts.len() == table.mounts.len();
    if !whole {
        return None;
    }
    let texts = |texts: &[Text]| texts.iter().map(|text| text.text.clone()).collect();
    let label = table
        .selinux
        .iter()
        .map(|text| format!("label={}", text.text));
    let apparmor = table
        .apparmor
        .iter()
        .map(|text| format!("apparmor={}", text.text));
    let seccomp = table
        .seccomp
        .iter()
        .map(|text| format!("seccomp={}", text.text));
    Some(Container {
        name: name?,
        environment: environment.into(),
        mounts: mounts.into(),
        ready: ready?,
        on_conflict: table.on_conflict,
        settings: Arc::new(Settings {
            program: program?,
            user: user?,
            capabilities: texts(&table.capabilities),
            privileged: table.privileged.is_some(),
            host_pid: table.host_pid.is_some(),
            host_network: table.host_network.is_some(),
            read_only: table.read_only,
            no_new_privileges: table.new_privileges.is_none(),
            devices: texts(&table.devices),
            memory: table.memory,
            pids: table.pids,
            log: table.log.as_ref().map(|text| text.text.clone()),
            security: label.chain(apparmor).chain(seccomp).collect(),
            stop_timeout: table.stop_timeout,
        }),
    })
}
