//! A policy that has been read, checked and compiled.

use crate::Peer;
use crate::compile::Compiler;
use crate::denial::{Denial, quoted};
use crate::document::{Document, PeerTable};
use crate::language::{Names, templates_meet};
use crate::limits::Limits;
use crate::lint::{self, Lint};
use crate::places::meet;
use crate::plan::hex;
use crate::problem::{Finding, Findings, Place, Problems};
use crate::rule::Rule;
use crate::scope::BUILT_IN;
use crate::spool::{self, Spool};
use crate::targets;
use portcullis_wire::{AgentName, PolicyText, Reason};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// A compiled policy of one agent. It never changes; a new one is loaded in its place.
#[derive(Debug)]
pub struct Policy {
    agent: Arc<str>,
    generation: String,
    limits: Limits,
    peer: PeerTable,
    pub(crate) code_alone: bool,
    pub(crate) rules: Box<[Rule]>,
    /// Commands of `[[exec]]` rules, with the rules' names: known, and not served yet.
    pub(crate) execs: Box<[(Box<str>, Box<str>)]>,
    spools: Box<[Spool]>,
}

impl Policy {
    /// Reads, checks and compiles the files of an agent: the main one first, then its drop-ins in their order.
    ///
    /// # Errors
    /// [`Problems`]: all that is wrong, with file, line and column.
    pub fn load(agent: &AgentName, files: &[PolicyText]) -> Result<Self, Problems> {
        let mut findings = Findings::default();
        let document = Document::read(files, &mut findings);
        let policy = Self::compile(agent, files, &document, &mut findings);
        findings.into_result(files)?;
        policy.ok_or_else(Problems::unexplained)
    }

    /// Loads a policy, and says what in it deserves a second look.
    ///
    /// # Errors
    /// As [`Policy::load`].
    pub fn review(agent: &AgentName, files: &[PolicyText]) -> Result<(Self, Vec<Lint>), Problems> {
        let mut findings = Findings::default();
        let document = Document::read(files, &mut findings);
        let policy = Self::compile(agent, files, &document, &mut findings);
        findings.into_result(files)?;
        let policy = policy.ok_or_else(Problems::unexplained)?;
        let lints = lint::lints(&policy, &document, files);
        Ok((policy, lints))
    }

    fn compile(
        agent: &AgentName,
        files: &[PolicyText],
        document: &Document,
        findings: &mut Findings,
    ) -> Option<Self> {
        check_vars(document, findings);
        check_rule_names(document, findings);
        let compiler = Compiler {
            agent: agent.as_str().into(),
            vars: &document.vars,
        };
        let mut rules: Vec<Option<Rule>> = document
            .launches
            .iter()
            .map(|table| compiler.launch(table, findings))
            .collect();
        let execs: Vec<_> = document
            .execs
            .iter()
            .map(|table| compiler.exec(table, findings))
            .collect();
        let spools: Vec<Option<Spool>> = document
            .spools
            .iter()
            .map(|table| compiler.spool(table, findings))
            .collect();
        check_container_names(&rules, document, findings);
        spool::check(&spools, document, findings);
        targets::check(&mut rules, &spools, document, findings);
        if document.place.is_none() && files.is_empty() {
            findings.add(Finding::new(
                &Place::new(0, 0..0),
                "there is no policy file",
                "",
            ));
        }
        Some(Self {
            agent: compiler.agent,
            generation: generation(agent, files),
            limits: document.limits.clone(),
            peer: document.peer.clone().unwrap_or_default(),
            code_alone: document.code_alone,
            rules: rules.into_iter().collect::<Option<_>>()?,
            execs: execs.into_iter().collect::<Option<_>>()?,
            spools: spools.into_iter().collect::<Option<_>>()?,
        })
    }

    /// The agent's name.
    #[must_use]
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// 16 hex digits of the SHA-256 over the agent's name and the files.
    #[must_use]
    pub fn generation(&self) -> &str {
        &self.generation
    }

    /// A denial for a reason outside any rule, told to the client as this policy has it told.
    #[must_use]
    pub fn denial(&self, reason: Reason, rule: Option<&str>, message: &str) -> Denial {
        let code_alone = self.code_alone;
        Denial {
            code_alone,
            ..Denial::new(reason, rule, message)
        }
    }

    /// The agent's limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The spools, in the order of the files.
    #[must_use]
    pub fn spools(&self) -> &[Spool] {
        &self.spools
    }

    /// Why this peer may not ask: what of `[peer]` does not hold for a process, or that there is no such spool.
    pub(crate) fn refuses(&self, peer: &Peer) -> Option<String> {
        let (uid, gid) = match peer {
            Peer::Process { uid, gid, .. } => (uid, gid),
            Peer::Spool { dir } => {
                let known = self.spools.iter().any(|spool| spool.dir == *dir);
                return (!known).then(|| format!("the policy has no [[spool]] at {}", quoted(dir)));
            }
            Peer::Operator => return None,
        };
        let outside =
            |ids: &Option<Vec<u32>>, id| ids.as_ref().is_some_and(|ids| !ids.contains(id));
        if outside(&self.peer.uid, uid) {
            return Some(format!("the policy's [peer] does not admit uid {uid}"));
        }
        if outside(&self.peer.gid, gid) {
            return Some(format!("the policy's [peer] does not admit gid {gid}"));
        }
        None
    }

    /// Pairs of a rule of this policy and one of another agent's whose containers could have the same name, or whose
    /// names begin with the same literal.
    #[must_use]
    pub fn shared_names(&self, other: &Self) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for ours in &self.rules {
            for theirs in &other.rules {
                let (a, b) = (&ours.container.name, &theirs.container.name);
                if a.head() == b.head() || templates_meet(a, &names(ours), b, &names(theirs)) {
                    pairs.push((ours.name.to_string(), theirs.name.to_string()));
                }
            }
        }
        pairs
    }

    /// Pairs of a directory of this policy's spools and one of another agent's that are the same, or one beneath the other.
    #[must_use]
    pub fn shared_dirs(&self, other: &Self) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for ours in &self.spools {
            for theirs in &other.spools {
                if meet(&ours.dir, &theirs.dir) {
                    pairs.push((ours.dir.to_string(), theirs.dir.to_string()));
                }
            }
        }
        pairs
    }
}

fn names(rule: &Rule) -> Names<'_> {
    Names {
        slots: &rule.slots,
        netns: &rule.netns,
    }
}

/// SHA-256 over the agent and the files, each text with its length before it.
fn generation(agent: &AgentName, files: &[PolicyText]) -> String {
    let mut hash = Sha256::new();
    let texts = files.iter().flat_map(|file| [&*file.path, &*file.text]);
    for text in std::iter::once(agent.as_str()).chain(texts) {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    let digest = hash.finalize();
    hex(digest.get(..8).unwrap_or_default())
}

fn check_vars(document: &Document, findings: &mut Findings) {
    for (name, value) in &document.vars {
        if !crate::pattern::is_name(&name.text) {
            let title = format!("{:?} is no name for a variable", name.text);
            findings.add(Finding::new(&name.place, title, "not a name").help(
                "a name is a lower-case letter, then at most 31 lower-case letters, digits or `_`",
            ));
        }
        // `image` is let through: it gives `image = "{image}"` its meaning, and both are the same image there.
        if BUILT_IN.contains(&&*name.text) && name.text != "image" {
            let title = format!("{:?} is bound for every rule", name.text);
            findings.add(Finding::new(&name.place, title, "bound again").help("use another name"));
        }
        if value.text.is_empty() || value.text.contains(portcullis_wire::hidden::is_hidden) {
            let title = format!(
                "the variable {:?} is empty or has control characters",
                name.text
            );
            findings.add(Finding::new(&value.place, title, "not a plain text"));
        }
    }
}

fn check_rule_names(document: &Document, findings: &mut Findings) {
    let launches = document
        .launches
        .iter()
        .filter_map(|table| table.rule.as_ref());
    let execs = document
        .execs
        .iter()
        .filter_map(|table| table.rule.as_ref());
    let rules: Vec<_> = launches.chain(execs).collect();
    for (at, rule) in rules.iter().enumerate() {
        if let Some(first) = rules.iter().take(at).find(|first| first.text == rule.text) {
            let title = format!("there are two rules {:?}", rule.text);
            findings.add(
                Finding::new(&rule.place, title, "again")
                    .also(&first.place, "the first")
                    .help("give each rule a name of its own; a drop-in overrides nothing"),
            );
        }
    }
}

/// No two rules may make containers of the same name: one's launch would replace the other's container.
fn check_container_names(rules: &[Option<Rule>], document: &Document, findings: &mut Findings) {
    let name = |at: usize| {
        let table = document.launches.get(at)?.container.as_ref()?;
        Some(&table.name.as_ref()?.place)
    };
    for (at, rule) in rules.iter().enumerate() {
        for (before, other) in rules.iter().enumerate().take(at) {
            let (Some(rule), Some(other)) = (rule, other) else {
                continue;
            };
            let (a, b) = (&rule.container.name, &other.container.name);
            if templates_meet(a, &names(rule), b, &names(other))
                && let (Some(here), Some(there)) = (name(at), name(before))
            {
                findings.add(
                    Finding::new(
                        here,
                        "two rules can make containers of the same name",
                        "this one",
                    )
                    .also(there, "and this one")
                    .help("begin each name with a literal that no other rule uses"),
                );
            }
        }
    }
}
