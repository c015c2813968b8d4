//! Spools: the directories in which an agent that cannot use the socket leaves its requests, a line each.
//!
//! What a policy says of them. Nothing here looks at a disk: whose a directory is, and whether a link leads there, is the
//! launcher's to see each time.

use crate::compile::{Compiler, command_name};
use crate::document::Document;
use crate::pattern::Piece;
use crate::places::{is_above, meet};
use crate::problem::{Finding, Findings, Place};
use crate::reader::Reader;
use crate::scope::written;
use crate::spelling::is_path;
use crate::text::Text;
use std::sync::Arc;

/// One `[[spool]]`: the directory of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spool {
    /// What each line in it calls.
    pub command: Arc<str>,
    /// Where it is: absolute and normal; of no other spool, and neither above nor beneath another's.
    pub dir: Arc<str>,
    /// The file that is locked while lines are written or taken. Several spools may have the same one.
    pub lock: Arc<str>,
}

impl Spool {
    /// The file in `dir` that has the lines.
    pub const PROCESSES: &'static str = "processes";
    /// The file in `dir` whose modification says that there are some.
    pub const TIMESTAMP: &'static str = "processes-timestamp";

    /// The path of [`Spool::PROCESSES`].
    #[must_use]
    pub fn processes(&self) -> String {
        format!("{}/{}", self.dir, Self::PROCESSES)
    }

    /// The path of [`Spool::TIMESTAMP`].
    #[must_use]
    pub fn timestamp(&self) -> String {
        format!("{}/{}", self.dir, Self::TIMESTAMP)
    }
}

/// One `[[spool]]` as it is written. What is `None` was missing or wrong, and that has been said; `lock` may be left out.
#[derive(Debug)]
pub(crate) struct SpoolTable {
    pub(crate) command: Option<Text>,
    pub(crate) dir: Option<Text>,
    pub(crate) lock: Option<Text>,
}

impl SpoolTable {
    pub(crate) fn read(mut table: Reader<'_>, findings: &mut Findings) -> Self {
        let read = Self {
            command: table.required("command", "command = \"dnsmasq\"", findings),
            dir: table.required("dir", &format!("dir = {EXAMPLE}"), findings),
            lock: table.text("lock", findings),
        };
        table.finish(findings);
        read
    }
}

const EXAMPLE: &str = "\"/var/lib/neutron/neutron-dnsmasq\"";

impl Compiler<'_> {
    /// Compiles one spool. `None` when something is wrong with it, which has been noted then.
    pub(crate) fn spool(&self, table: &SpoolTable, findings: &mut Findings) -> Option<Spool> {
        let command = command_name(table.command.as_ref(), findings);
        let mut path = |text: &Text, what: &str| {
            let path = self.expand(text, command.unwrap_or_default(), findings)?;
            if is_path(&path) {
                return Some(path);
            }
            let title = format!("{path:?} is no {what} of a spool");
            findings.add(
                Finding::new(&text.place, title, "not an absolute, normal path").help(format!(
                    "write it from the root, without `.`, `..`, `//` and a `/` at the end: {EXAMPLE}"
                )),
            );
            None
        };
        let lock = table.lock.as_ref().map(|text| path(text, "lock"));
        let dir = path(table.dir.as_ref()?, "directory")?;
        let lock = match lock {
            None => format!("{dir}/lock"),
            Some(lock) => lock?,
        };
        Some(Spool {
            command: command?.into(),
            dir: dir.into(),
            lock: lock.into(),
        })
    }

    /// A path of the operator's, with variables in it.
    fn expand(&self, text: &Text, command: &str, findings: &mut Findings) -> Option<String> {
        let mut path = String::new();
        let mut whole = true;
        for (at, piece) in written(text, findings)? {
            let value = match &piece {
                Piece::Literal(literal) => Some(&**literal),
                Piece::Reference(name) => match &**name {
                    "agent" => Some(&*self.agent),
                    "command" => Some(command),
                    name => {
                        let mut vars = self.vars.iter();
                        vars.find_map(|(var, value)| (var.text == name).then_some(&*value.text))
                    }
                },
                Piece::Capture(..) => None,
            };
            match value {
                Some(value) => path.push_str(value),
                None => {
                    let title = "this has no value in a [[spool]]";
                    findings.add(
                        Finding::new(&text.part(&at), title, "not the operator's")
                            .help("only variables of [vars], {agent} and {command} may stand here"),
                    );
                    whole = false;
                }
            }
        }
        whole.then_some(path)
    }
}

/// What has to hold between spools, and between spools and rules.
pub(crate) fn check(spools: &[Option<Spool>], document: &Document, findings: &mut Findings) {
    let both: Vec<(&Spool, &SpoolTable)> = spools
        .iter()
        .zip(&document.spools)
        .filter_map(|(spool, table)| Some((spool.as_ref()?, table)))
        .collect();
    for (at, (spool, table)) in both.iter().enumerate() {
        for (other, other_table) in both.iter().take(at) {
            if let (Some(here), Some(there)) = (&table.dir, &other_table.dir) {
                check_dirs(spool, &here.place, other, &there.place, findings);
            }
        }
        if let Some(text) = &table.lock {
            check_lock(&spool.lock, &text.place, &both, findings);
        }
    }
    check_rules(document, findings);
}

/// A line does not say what it calls, so a directory is of one spool alone.
fn check_dirs(spool: &Spool, here: &Place, other: &Spool, there: &Place, findings: &mut Findings) {
    let (title, help) = if spool.dir == other.dir {
        (
            format!("two spools have the directory {:?}", spool.dir),
            "give each spool a directory of its own: a line does not say which command it calls",
        )
    } else if meet(&spool.dir, &other.dir) {
        (
            "the directory of one spool is beneath that of another".to_owned(),
            "put them beside each other: who can write the upper one decides what the lower one is",
        )
    } else {
        return;
    };
    let finding = Finding::new(here, title, "this one").also(there, "and this one");
    findings.add(finding.help(help));
}

/// One lock for several spools is fine: whoever writes waits a little longer. A lock that is something else is not.
fn check_lock(
    lock: &str,
    place: &Place,
    spools: &[(&Spool, &SpoolTable)],
    findings: &mut Findings,
) {
    let files = |spool: &Spool| [spool.processes(), spool.timestamp()];
    let (title, label) = if spools.iter().any(|(spool, _)| {
        let mut files = files(spool).into_iter();
        files.any(|file| is_above(&file, lock))
    }) {
        (
            "what is written to a spool cannot be the lock",
            "a spool's file",
        )
    } else if spools.iter().any(|(spool, _)| is_above(lock, &spool.dir)) {
        ("a directory cannot be the lock", "a spool is there")
    } else {
        return;
    };
    findings.add(
        Finding::new(place, title, label)
            .help("name a file of its own; without `lock` it is `lock` in the spool's directory"),
    );
}

/// A spool without a rule takes lines and denies them all; a rule without a spool waits for lines that never come.
fn check_rules(document: &Document, findings: &mut Findings) {
    let same = |a: &Option<Text>, b: &Text| a.as_ref().is_some_and(|a| a.text == b.text);
    for command in document.spools.iter().filter_map(|s| s.command.as_ref()) {
        let mut rules = document.launches.iter();
        if !rules.any(|rule| rule.spool.is_some() && same(&rule.command, command)) {
            let title = format!("no rule takes lines for the command {:?}", command.text);
            findings.add(
                Finding::new(&command.place, title, "every line would be denied").help(
                    "add `spool = true` to those [[launch]] rules of the command that lines may use",
                ),
            );
        }
    }
    for rule in &document.launches {
        let (Some(place), Some(command)) = (&rule.spool, &rule.command) else {
            continue;
        };
        if !document.spools.iter().any(|s| same(&s.command, command)) {
            let title = format!("no [[spool]] is for the command {:?}", command.text);
            findings.add(
                Finding::new(place, title, "no line would ever come").help(format!(
                    "add: [[spool]] with `command = {:?}` and `dir = {EXAMPLE}`; or leave `spool` out",
                    command.text
                )),
            );
        }
    }
}
