//! Lints of mounts: what of the host they show or let be written, and what of the image they hide.

use super::Collector;
use super::system::{ENGINES, IMAGE, SHARED, SOCKETS, SYSTEM, is_volume};
use crate::language::Names;
use crate::pattern::{Part, Template};
use crate::places::{is_beneath, meet};
use crate::problem::Place;
use crate::rule::{MountRule, Rule};
use crate::rule_table::LaunchTable;
use crate::spool::Spool;
use crate::targets::can_be_above;

pub(super) fn check(
    rule: &Rule,
    table: &LaunchTable,
    spools: &[Spool],
    collector: &mut Collector<'_>,
) {
    let names = Names {
        slots: &rule.slots,
        netns: &rule.netns,
    };
    let written = table.container.iter().flat_map(|c| &c.mounts);
    for (mount, written) in rule.container.mounts.iter().zip(written) {
        let place = &written.source.place;
        let mut add = |name, place: &Place, label: &str| {
            collector.add(name, Some(table), place, label);
        };
        let source = source(mount);
        if let Some(socket) = socket(mount, &source, &names) {
            add("host-socket", place, &format!("{socket} is in there"));
        } else if is_broad(&mount.prefix) {
            add("broad-mount", place, "much of the host");
        }
        if mount.read_only {
            // Nothing is written.
        } else if let Some(system) = system(&mount.prefix, &source, &names) {
            add(
                "writable-system-path",
                place,
                &format!("{system} can be written to"),
            );
        }
        // What is beneath a source with a value in it is not known: it may be there, too.
        let spool = spools.iter().find(|spool| meet(&spool.dir, &mount.prefix));
        if let Some(spool) = spool.filter(|_| !mount.read_only) {
            let label = format!("{} can be written by what runs in there", spool.dir);
            add("writable-spool", place, &label);
        }
        let target = written.target.as_ref().unwrap_or(&written.source);
        if let Some(hidden) = hidden(mount, rule, &names) {
            add(
                "mount-over-program",
                &target.place,
                &format!("over {hidden}"),
            );
        }
    }
}

/// The whole source of a mount.
fn source(mount: &MountRule) -> Template {
    let Some(rest) = &mount.rest else {
        return Template::of(&mount.prefix);
    };
    let prefix = mount.prefix.trim_end_matches('/');
    let mut parts = vec![Part::Literal(format!("{prefix}/").into())];
    parts.extend(rest.parts.iter().cloned());
    Template {
        parts: parts.into(),
        text: rest.text.clone(),
    }
}

fn is_broad(source: &str) -> bool {
    const WHOLE: &[&str] = &[
        "/proc",
        "/sys",
        "/dev",
        "/root",
        "/etc/portcullis",
        "/var/lib/containers",
    ];
    source.matches('/').count() < 2 || WHOLE.iter().any(|root| is_beneath(source, root))
}

/// The socket that is, or may be, at or beneath a source.
fn socket<'a>(mount: &'a MountRule, source: &Template, names: &Names<'_>) -> Option<&'a str> {
    if ENGINES.iter().any(|engine| mount.prefix.ends_with(engine)) {
        return Some(&mount.prefix);
    }
    let mut sockets = SOCKETS.iter().copied();
    sockets.find(|socket| can_be_above(source, &Template::of(socket), names))
}

/// The place of root's that is, or may be, at, above or beneath a source.
fn system(prefix: &str, source: &Template, names: &Names<'_>) -> Option<&'static str> {
    if is_volume(prefix) {
        return None;
    }
    let mut places = SYSTEM.iter().copied();
    places.find(|place| {
        let system = Template::of(place);
        can_be_above(source, &system, names)
            || (!SHARED.contains(place) && can_be_above(&system, source, names))
    })
}

/// What of the image, or of what podman mounts, a mount that others write can hide or lead elsewhere.
fn hidden<'a>(mount: &MountRule, rule: &'a Rule, names: &Names<'_>) -> Option<&'a str> {
    if mount.operators {
        return None;
    }
    let program = rule.container.settings.program.first();
    let program = program.map(|program| &**program);
    let covers = |place: &&str| can_be_above(&mount.target, &Template::of(place), names);
    let within = |place: &&str| can_be_above(&Template::of(place), &mount.target, names);
    let mut image = IMAGE.iter().copied();
    program
        .filter(covers)
        .or_else(|| image.find(|place| covers(place) || within(place)))
}
