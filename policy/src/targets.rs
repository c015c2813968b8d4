//! Where a rule's mounts lie to each other in the container.
//!
//! The runtime looks for a mount's target in the container's files, and follows links there. Where the target lies beneath
//! another mount's, these files are that mount's: whoever writes them chooses what is mounted over. So a mount lies beneath
//! another one only where the outer one is read-only and the operator's alone.

use crate::document::Document;
use crate::language::{Names, template_above, templates_meet};
use crate::pattern::Template;
use crate::places::{is_above, meet, resolved_template};
use crate::plan::Mount;
use crate::problem::{Finding, Findings, Place};
use crate::rule::{MountRule, Rule};
use crate::spool::Spool;

/// What the outer one of two mounts has to be.
const HELP: &str = "mount them beside each other. The outer mount must be read-only, with a source that the operator alone \
                    writes: without a value of the request, and neither above nor beneath a place where this policy lets \
                    somebody write";

/// The places of the host where a policy shows that its agent, or a side container, writes.
#[derive(Debug, Default)]
pub(crate) struct Written(Vec<Box<str>>);

impl Written {
    /// What comes before a value in a source, sources that are mounted writable, and spools.
    pub(crate) fn of<'a>(
        rules: impl Iterator<Item = &'a Rule>,
        spools: impl Iterator<Item = &'a Spool>,
    ) -> Self {
        let mounts = rules.flat_map(|rule| &rule.container.mounts);
        let sources = mounts
            .filter(|mount| mount.rest.is_some() || !mount.read_only)
            .map(|mount| &*mount.prefix);
        let spools = spools.flat_map(|spool| [&*spool.dir, &*spool.lock]);
        let mut places: Vec<Box<str>> = sources.chain(spools).map(Into::into).collect();
        places.sort();
        places.dedup();
        Self(places)
    }

    /// The place that is at, above or beneath that path.
    pub(crate) fn at(&self, path: &str) -> Option<&str> {
        let mut places = self.0.iter();
        places.find(|place| meet(place, path)).map(|place| &**place)
    }
}

/// Why a mount is not the operator's alone.
fn why_not(mount: &MountRule, written: &Written) -> Option<String> {
    if !mount.read_only {
        return Some("which can be written to".to_owned());
    }
    if mount.rest.is_some() {
        return Some("whose source comes from a request".to_owned());
    }
    let place = written.at(&mount.prefix)?;
    Some(format!(
        "whose source is at, above or beneath {place}, which is written to"
    ))
}

/// Finds out which mounts are the operator's alone, and what lies where it must not.
pub(crate) fn check(
    rules: &mut [Option<Rule>],
    spools: &[Option<Spool>],
    document: &Document,
    findings: &mut Findings,
) {
    let written = Written::of(rules.iter().flatten(), spools.iter().flatten());
    for (rule, table) in rules.iter_mut().zip(&document.launches) {
        let (Some(rule), Some(container)) = (rule, &table.container) else {
            continue;
        };
        for mount in &mut rule.container.mounts {
            mount.operators = why_not(mount, &written).is_none();
        }
        let places = container
            .mounts
            .iter()
            .map(|mount| &mount.target.as_ref().unwrap_or(&mount.source).place);
        let mounts: Vec<_> = rule.container.mounts.iter().zip(places).collect();
        let names = Names {
            slots: &rule.slots,
            netns: &rule.netns,
        };
        for (at, one) in mounts.iter().enumerate() {
            for other in mounts.iter().take(at) {
                check_pair(*one, *other, &names, &written, findings);
            }
        }
    }
}

fn check_pair(
    (one, here): (&MountRule, &Place),
    (other, there): (&MountRule, &Place),
    names: &Names<'_>,
    written: &Written,
    findings: &mut Findings,
) {
    if either(&one.target, &other.target, |a, b| {
        templates_meet(a, names, b, names)
    }) {
        findings.add(
            Finding::new(here, "two mounts can have the same target", "this one")
                .also(there, "and this one")
                .help("give each a target of its own"),
        );
        return;
    }
    for ((outer, outer_place), (inner, place)) in
        [((one, here), (other, there)), ((other, there), (one, here))]
    {
        let nested = either(&outer.target, &inner.target, |a, b| {
            template_above(a, b, names)
        });
        if let Some(why) = why_not(outer, written).filter(|_| nested) {
            findings.add(
                Finding::new(
                    place,
                    "a mount's target lies beneath another one's",
                    "this one",
                )
                .also(outer_place, format!("beneath this one, {why}"))
                .help(HELP),
            );
            return;
        }
    }
}

/// Whether the path that one template of a rule makes can be that of the other, or above it.
pub(crate) fn can_be_above(outer: &Template, inner: &Template, names: &Names<'_>) -> bool {
    either(outer, inner, |a, b| {
        templates_meet(a, names, b, names) || template_above(a, b, names)
    })
}

/// Whether it holds for the paths as they are written, or with the usual links followed.
fn either(a: &Template, b: &Template, holds: impl Fn(&Template, &Template) -> bool) -> bool {
    holds(a, b) || holds(&resolved_template(a), &resolved_template(b))
}

/// The target of a request's mounts that is another one's, or beneath one that is not the operator's alone, and that one.
pub(crate) fn misplaced<'a>(
    rules: &[MountRule],
    mounts: &'a [Mount],
) -> Option<(&'a str, &'a str)> {
    let all = || rules.iter().zip(mounts).enumerate();
    all().find_map(|(at, (outer, above))| {
        let inner = all().find(|(other, (_, mount))| {
            *other != at
                && is_above(&above.target, &mount.target)
                && (!outer.operators || is_above(&mount.target, &above.target))
        });
        inner.map(|(_, (_, mount))| (&*mount.target, &*above.target))
    })
}
