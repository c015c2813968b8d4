//! The decision: a policy, a peer and a request in; a plan or a denial out.
//!
//! Rules are tried in the order of the file; the first that matches whole wins. What matches none is denied.

use crate::denial::{describe, quoted};
use crate::rule::{Mismatch, Rule};
use crate::{Denial, LaunchPlan, Peer, Policy};
use portcullis_wire::{Launch, Reason};

/// The verdict on a request.
#[derive(Clone, Debug)]
#[must_use]
pub enum Decision {
    /// This is to be launched.
    Allow(Box<LaunchPlan>),
    /// Nothing is.
    Deny(Denial),
}

/// Judges a request. The operator may ask and explain, and launches nothing.
pub fn decide(policy: &Policy, peer: &Peer, request: &Launch) -> Decision {
    if let Some(message) = refusal(policy, peer, request) {
        return Decision::Deny(denial(policy, Reason::Peer, None, message));
    }
    if matches!(peer, Peer::Operator) {
        let message = "the operator's socket launches nothing";
        return Decision::Deny(denial(policy, Reason::Peer, None, message.to_owned()));
    }
    judge(policy, peer, request)
}

/// Whether this peer may ask at all.
///
/// # Errors
/// [`Denial`] when the policy's `[peer]` does not admit the process, or the policy has no such spool.
pub fn admits(policy: &Policy, peer: &Peer) -> Result<(), Denial> {
    match policy.refuses(peer) {
        Some(message) => Err(denial(policy, Reason::Peer, None, message)),
        None => Ok(()),
    }
}

/// Why this peer may not ask for this, whatever the rules say: a spool is of one command.
pub(crate) fn refusal(policy: &Policy, peer: &Peer, request: &Launch) -> Option<String> {
    if let Some(message) = policy.refuses(peer) {
        return Some(message);
    }
    let Peer::Spool { dir } = peer else {
        return None;
    };
    let spool = policy.spools().iter().find(|spool| spool.dir == *dir)?;
    (*spool.command != *request.command).then(|| {
        format!(
            "the [[spool]] at {} is for the command {:?}, not {}",
            quoted(dir),
            spool.command,
            quoted(&request.command)
        )
    })
}

/// What the rules say. Of the peer it counts only whether it is a spool: then the rules that take no lines are not tried.
pub(crate) fn judge(policy: &Policy, peer: &Peer, request: &Launch) -> Decision {
    let mut closest: Option<(&Rule, Mismatch<'_>)> = None;
    for rule in &policy.rules {
        if *rule.command != *request.command || !rule.is_for(peer) {
            continue;
        }
        match rule.matches(request, &mut (), &mut ()) {
            Ok(plan) => return Decision::Allow(Box::new(plan)),
            Err(mismatch) => {
                let further = closest
                    .as_ref()
                    .is_none_or(|(_, before)| mismatch.progress > before.progress);
                if further {
                    closest = Some((rule, mismatch));
                }
            }
        }
    }
    Decision::Deny(match closest {
        Some((rule, mismatch)) => denial(
            policy,
            mismatch.cause.reason(),
            Some(rule.name.to_string()),
            format!(
                "rule {:?}: {}{}",
                rule.name,
                describe(&mismatch, rule, request, peer),
                closed(policy, peer, request)
            ),
        ),
        None => unknown_command(policy, &request.command),
    })
}

/// The rule that a line would have matched if it took lines.
fn closed(policy: &Policy, peer: &Peer, request: &Launch) -> String {
    let mut closed = policy.rules.iter().filter(|rule| !rule.is_for(peer));
    let matches = |rule: &&Rule| {
        *rule.command == *request.command && rule.matches(request, &mut (), &mut ()).is_ok()
    };
    match closed.find(matches) {
        Some(rule) => format!(
            "; rule {:?} would match, but takes no lines: it has no `spool = true`",
            rule.name
        ),
        None => String::new(),
    }
}

fn unknown_command(policy: &Policy, command: &str) -> Denial {
    match policy.execs.iter().find(|(exec, _)| **exec == *command) {
        Some((_, rule)) => denial(
            policy,
            Reason::Unsupported,
            Some(rule.to_string()),
            format!("rule {rule:?} is an [[exec]] rule, which this version does not serve"),
        ),
        None => denial(
            policy,
            Reason::NoRule,
            None,
            format!("no rule is for the command {}", quoted(command)),
        ),
    }
}

fn denial(policy: &Policy, reason: Reason, rule: Option<String>, message: String) -> Denial {
    Denial {
        reason,
        rule,
        message,
        code_alone: policy.code_alone,
    }
}
