//! Lints: what is allowed to stand in a policy and deserves a second look.
//!
//! Each has a name and a level, and can be allowed by name with a reason, for a rule or for the whole policy.

mod arguments;
mod capabilities;
mod catalogue;
mod container;
mod environment;
mod mounts;
mod system;

use self::catalogue::LINTS;
use crate::document::Document;
use crate::image::{Reference, reference};
use crate::policy::Policy;
use crate::problem::{Finding, Findings, Place, nearest};
use crate::reader::Reader;
use crate::rule::Rule;
use crate::rule_table::LaunchTable;
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
        of_netns(rule, table, &mut collector);
        of_images(rule, table, &mut collector);
        arguments::check(rule, table, &mut collector);
        container::check(rule, table, &mut collector);
        mounts::check(rule, table, policy.spools(), &mut collector);
    }
    collector.found
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

fn of_netns(rule: &Rule, table: &LaunchTable, collector: &mut Collector<'_>) {
    for (pattern, text) in rule.netns.iter().zip(&table.netns) {
        if !pattern.begins_as_written() {
            collector.add("any-netns", Some(table), &text.place, "begins with a value");
        }
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
