//! Why a request is allowed or not, rule by rule, for a person.
//!
//! The rules are matched by the same code as in a decision; here somebody looks on.

use crate::arguments::{Arguments, Observer};
use crate::decide::{judge, refusal};
use crate::denial::{describe, quoted};
use crate::rule::Rule;
use crate::{LaunchPlan, Peer, Policy, Source, Staged, podman_arguments};
use portcullis_wire::{Launch, Reason};
use std::fmt;

/// A verdict with its reasons.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Whether it would be launched.
    pub allowed: bool,
    /// Why not, when it would not.
    pub reason: Option<Reason>,
    peer: Option<String>,
    rules: Vec<RuleVerdict>,
    plan: Option<PlanView>,
}

/// What one rule says.
#[derive(Clone, Debug)]
struct RuleVerdict {
    rule: String,
    /// What matched, a line each.
    matched: Vec<String>,
    /// What did not; none when the rule matched, or was not tried.
    mismatch: Option<String>,
    /// It is for another command, or an earlier rule won.
    skipped: Option<&'static str>,
}

/// What would be launched.
#[derive(Clone, Debug)]
struct PlanView {
    name: String,
    hash: String,
    mounts: Vec<String>,
    podman: Vec<String>,
}

/// Collects which entry claimed what.
struct Claims<'a> {
    list: &'a Arguments,
    given: &'a [String],
    lines: Vec<String>,
}

impl<'a> Claims<'a> {
    fn new(list: &'a Arguments, given: &'a [String]) -> Self {
        Self {
            list,
            given,
            lines: Vec::new(),
        }
    }
}

impl Observer for Claims<'_> {
    fn claimed(&mut self, position: usize, entry: usize, alternative: usize) {
        let entry = self.list.entries.get(entry);
        let sequence = entry.and_then(|entry| entry.alternatives.get(alternative));
        let pairs = sequence
            .into_iter()
            .flatten()
            .zip(self.given.iter().skip(position));
        self.lines.extend(pairs.map(|(pattern, given)| {
            format!("{} matches {}", quoted(given), quoted(&pattern.text))
        }));
    }
}

/// Explains the verdict on a request. For the operator the rules alone count, not who asks; for a spool, those that take lines.
#[must_use]
pub fn explain(policy: &Policy, peer: &Peer, request: &Launch) -> Explanation {
    let refused = refusal(policy, peer, request);
    let mut explanation = Explanation {
        allowed: false,
        reason: Some(Reason::NoRule),
        peer: refused.clone(),
        rules: Vec::new(),
        plan: None,
    };
    for rule in &policy.rules {
        let verdict = if *rule.command != *request.command {
            RuleVerdict::skipped(rule, "is for another command")
        } else if !rule.is_for(peer) {
            RuleVerdict::skipped(rule, "takes no lines: it has no `spool = true`")
        } else if explanation.plan.is_some() {
            RuleVerdict::skipped(rule, "an earlier rule matches")
        } else {
            let (verdict, plan) = RuleVerdict::of(rule, request, peer);
            explanation.plan = plan.as_ref().map(PlanView::of);
            verdict
        };
        explanation.rules.push(verdict);
    }
    explanation.allowed = explanation.plan.is_some() && refused.is_none();
    explanation.reason = match judge(policy, peer, request) {
        _ if refused.is_some() => Some(Reason::Peer),
        crate::Decision::Allow(_) => None,
        crate::Decision::Deny(denial) => Some(denial.reason),
    };
    explanation
}

impl RuleVerdict {
    fn skipped(rule: &Rule, why: &'static str) -> Self {
        Self {
            rule: rule.name.to_string(),
            matched: Vec::new(),
            mismatch: None,
            skipped: Some(why),
        }
    }

    fn of(rule: &Rule, request: &Launch, peer: &Peer) -> (Self, Option<LaunchPlan>) {
        let mut arguments = Claims::new(&rule.arguments, &request.args);
        let mut environment = Claims::new(&rule.environment, &request.env);
        let outcome = rule.matches(request, &mut arguments, &mut environment);
        let stage = outcome.as_ref().map_or_else(|m| m.progress.0, |_| 5);
        let mut matched = Vec::new();
        if stage > 0 {
            let image = request.image.as_deref();
            matched.push(match image {
                Some(image) => format!("image {} is allowed", quoted(image)),
                None => "no image asked for: the rule's first".to_owned(),
            });
        }
        if stage > 1 {
            matched.push(match &request.netns {
                Some(netns) => format!("network namespace {} is allowed", quoted(netns)),
                None => "no network namespace, as the rule wants it".to_owned(),
            });
        }
        matched.append(&mut arguments.lines);
        matched.append(&mut environment.lines);
        let verdict = Self {
            rule: rule.name.to_string(),
            matched,
            mismatch: outcome
                .as_ref()
                .err()
                .map(|mismatch| describe(mismatch, rule, request, peer)),
            skipped: None,
        };
        (verdict, outcome.ok())
    }
}

impl PlanView {
    fn of(plan: &LaunchPlan) -> Self {
        let staged: Vec<String> = (1..=plan.mounts().len())
            .map(|number| format!("STAGED/mount-{number}"))
            .collect();
        let mounts = plan
            .mounts()
            .iter()
            .zip(&staged)
            .map(|(mount, staged)| match &mount.source {
                Source::Literal(path) => {
                    format!(
                        "{staged} is {path} and what is mounted beneath it, reached without links"
                    )
                }
                Source::Beneath { prefix, rest } => {
                    format!("{staged} is {rest} beneath {prefix}, reached without links")
                }
            });
        let mounts = mounts.collect();
        let podman = podman_arguments(
            plan,
            &Staged {
                image_id: "IMAGE_ID",
                netns: plan.netns().map(|_| "STAGED/netns"),
                mounts: &staged,
                pid_file: "STAGED/pid",
                nonce: "NONCE",
                cgroup_parent: None,
            },
        );
        Self {
            name: plan.name().to_owned(),
            hash: plan.hash().to_owned(),
            mounts,
            podman,
        }
    }
}

impl Explanation {
    /// The same for a program.
    #[cfg(feature = "tool")]
    #[must_use]
    pub fn to_json(&self) -> String {
        let rule = |rule: &RuleVerdict| {
            serde_json::json!({
                "rule": rule.rule,
                "matches": rule.skipped.is_none() && rule.mismatch.is_none(),
                "skipped": rule.skipped,
                "matched": rule.matched,
                "mismatch": rule.mismatch,
            })
        };
        let plan = |plan: &PlanView| {
            serde_json::json!({
                "name": plan.name,
                "hash": plan.hash,
                "mounts": plan.mounts,
                "podman": plan.podman,
            })
        };
        let value = serde_json::json!({
            "allowed": self.allowed,
            "reason": self.reason.map(Reason::code),
            "peer": self.peer,
            "rules": self.rules.iter().map(rule).collect::<Vec<_>>(),
            "plan": self.plan.as_ref().map(plan),
        });
        format!("{value:#}")
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.allowed, self.reason) {
            (true, _) | (_, None) => writeln!(f, "allowed")?,
            (false, Some(reason)) => writeln!(f, "denied: {reason}: {}", reason.text())?,
        }
        if let Some(peer) = &self.peer {
            writeln!(f, "  {peer}")?;
        }
        for rule in &self.rules {
            match (&rule.skipped, &rule.mismatch) {
                (Some(why), _) => writeln!(f, "rule {}: {why}", rule.rule)?,
                (None, None) => writeln!(f, "rule {}: matches", rule.rule)?,
                (None, Some(_)) => writeln!(f, "rule {}: does not match", rule.rule)?,
            }
            for line in &rule.matched {
                writeln!(f, "  + {line}")?;
            }
            if let Some(line) = &rule.mismatch {
                writeln!(f, "  - {line}")?;
            }
        }
        if let Some(plan) = &self.plan {
            writeln!(f, "container {}, plan {}", plan.name, plan.hash)?;
            for mount in &plan.mounts {
                writeln!(f, "  {mount}")?;
            }
            let words: Vec<String> = plan.podman.iter().map(|word| shell_word(word)).collect();
            writeln!(f, "podman {}", words.join(" "))?;
        }
        Ok(())
    }
}

/// A word as a shell would take it. What a person does not see is shown as an escape, in the `$'…'` form.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-{}".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    if !word.contains(portcullis_wire::hidden::is_hidden) {
        return format!("'{}'", word.replace('\'', "'\\''"));
    }
    let mut quoted = String::from("$'");
    for character in word.chars() {
        match character {
            '\'' | '\\' => quoted.extend(['\\', character]),
            hidden if portcullis_wire::hidden::is_hidden(hidden) => {
                let mut bytes = [0; 4];
                for byte in hidden.encode_utf8(&mut bytes).bytes() {
                    quoted.push_str(&format!("\\x{byte:02x}"));
                }
            }
            plain => quoted.push(plain),
        }
    }
    quoted.push('\'');
    quoted
}
