//! What becomes of launches: outcomes of the workers, readiness, and the true answer to everyone who waits.

use crate::attempt::{Existing, NotStarted, Remains, Started};
use crate::audit::{Verdict, now};
use crate::service::Service;
use crate::table::{Entry, Live, Pending, Stage};
use crate::workers::Outcome;
use portcullis_wire::{Failure, Reason, Reply};
use std::mem;
use std::time::{Duration, Instant};

/// Later than any launcher lives.
const FAR: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The pause before the recovery is tried again when podman fails.
const RECOVER_AGAIN: Duration = Duration::from_secs(2);

impl Service {
    /// Takes what a worker tells.
    pub(crate) fn heard(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Launched {
                name,
                result: Ok(started),
            } => self.started(name, *started),
            Outcome::Launched {
                name,
                result: Err(not),
            } => self.not_started(name, *not),
            Outcome::Overdue { name } => self.overdue(&name),
            Outcome::Cleared { record, exit } => self.container_ended(&record, exit),
            Outcome::Settled { record, result } => self.settled(record, result),
            Outcome::Recovered(Ok(found)) => self.recovered_with(found),
            Outcome::Recovered(Err(error)) => {
                tracing::error!(
                    agent = self.options.agent.as_str(), %error,
                    "podman cannot be asked what runs; nothing is launched until it can, and it is asked again"
                );
                self.recover_at = Some(Instant::now() + RECOVER_AGAIN);
                for pending in mem::take(&mut self.before_recovery) {
                    let message = "podman cannot be asked what runs already";
                    self.answer_failed(pending, None, Reason::Engine, message, &error.to_string());
                }
            }
            Outcome::ExtraDone => {}
        }
    }

    fn started(&mut self, name: String, started: Started) {
        let Started {
            main,
            record,
            netns,
            reused,
            prepared,
            podman,
        } = started;
        let Some(mut entry) = self.table.entries.remove(&name) else {
            return;
        };
        for pending in &mut entry.waiting {
            pending.at.prepared = prepared;
            pending.at.podman = podman;
        }
        let key = self.watch(&main.pidfd, &name);
        entry.hash.clone_from(&record.plan);
        let live = Live {
            main,
            record,
            netns,
            key,
        };
        match entry.plan.as_ref().and_then(|plan| plan.ready()) {
            Some(ready) if !reused => {
                let next = Instant::now();
                let until = next + ready.timeout;
                entry.stage = Stage::Readying { live, next, until };
                self.table.entries.insert(name.clone(), entry);
                self.look(&name);
            }
            _ => self.launched(name, entry, live, reused),
        }
    }

    /// The launch is over, and well: everyone who waits is told.
    pub(crate) fn launched(&mut self, name: String, mut entry: Entry, live: Live, reused: bool) {
        let ready = now();
        self.status.outdated = true;
        let waiting = mem::take(&mut entry.waiting);
        // Who joined asked for the namespace that has the name now, which may be another one than at the beginning.
        let in_place = waiting.len() < 2
            || entry.plan.as_ref().is_some_and(|plan| {
                self.host
                    .resolve_netns(plan)
                    .is_ok_and(|ns| ns.map(|n| (n.dev, n.ino)) == live.netns)
            });
        for mut pending in waiting {
            pending.at.ready = ready;
            if pending.joined && !in_place {
                let detail =
                    "the namespace was made anew while the launch that was joined was under way";
                self.answer_busy(pending, detail);
                continue;
            }
            let reused = reused || pending.joined;
            self.audit(&pending, |verdict| Verdict {
                word: if reused { "reused" } else { "launched" },
                container: Some(&live.main.id),
                image_id: Some(&live.record.image),
                pid: Some(live.main.pid),
                ..verdict
            });
            let word = if reused { "reused" } else { "launched" };
            self.counts.answered(word, None, "launcher", 1);
            let received = pending.at.received;
            self.counts
                .took(Duration::from_micros(now().saturating_sub(received)));
            let (container, pid) = (live.main.id.clone(), live.main.pid);
            let reply = Reply::Launched {
                container,
                name: name.clone(),
                pid,
                reused,
            };
            self.reply(pending, reply);
        }
        entry.stage = Stage::Running(live);
        let next = mem::take(&mut entry.next);
        self.table.entries.insert(name, entry);
        self.reconsider(next);
    }

    fn not_started(&mut self, name: String, not: NotStarted) {
        let Some(mut entry) = self.table.entries.remove(&name) else {
            return;
        };
        let waited = (mem::take(&mut entry.waiting), mem::take(&mut entry.next));
        let NotStarted {
            reason,
            message,
            detail,
            denied,
            exited,
            remains,
        } = not;
        if let (Some((code, _)), Some(plan)) = (&exited, &entry.plan) {
            let (rule, netns) = (plan.rule(), plan.netns());
            self.counts.ended += 1;
            self.table.remember_end(&name, rule, netns, Some(*code));
        }
        match remains {
            Remains::Nothing => {}
            Remains::Existing(existing) => {
                let Existing { record, main, plan } = *existing;
                // What is told of it from now on is what it was launched as, not what was asked for in vain.
                entry.rule.clone_from(&record.rule);
                entry.plan = plan;
                if let Some(main) = main {
                    entry.hash.clone_from(&record.plan);
                    entry.stage = self.found_running(main, record);
                    self.table.entries.insert(name, entry);
                } else {
                    self.settle(name, entry, record, true);
                }
            }
            Remains::Unknown => {
                entry.stage = Stage::Unknown(None, Instant::now());
                self.table.entries.insert(name, entry);
            }
        }
        for pending in waited.0 {
            if denied {
                let rule = pending.plan.as_ref().map(|plan| plan.rule.as_str());
                let denial = self.own_denial(reason, rule, &message);
                self.audit_failed(&pending, "denied", reason, &message, &detail);
                self.counts.answered("denied", Some(reason), "launcher", 1);
                self.reply(pending, denial.reply());
            } else {
                self.answer_failed(pending, exited.clone(), reason, &message, &detail);
            }
        }
        self.reconsider(waited.1);
    }

    /// Answers `Failed`.
    pub(crate) fn answer_failed(
        &mut self,
        pending: Pending,
        exited: Option<(u8, String)>,
        reason: Reason,
        message: &str,
        detail: &str,
    ) {
        self.audit_failed(&pending, "failed", reason, message, detail);
        self.counts.answered("failed", Some(reason), "launcher", 1);
        let name = pending.plan.as_ref().map_or("", |plan| &plan.name);
        self.status.last_failure = Some(format!("{reason} {name}"));
        self.status.outdated = true;
        let (exit, output) = exited.map_or((None, String::new()), |(exit, out)| (Some(exit), out));
        let failure = Failure {
            reason,
            exit,
            message: message.to_owned(),
            output,
        };
        self.reply(pending, Reply::Failed(failure));
    }

    fn audit_failed(
        &self,
        pending: &Pending,
        word: &'static str,
        reason: Reason,
        message: &str,
        detail: &str,
    ) {
        let detail = if detail.is_empty() {
            message.to_owned()
        } else {
            format!("{message}: {detail}")
        };
        self.audit(pending, |verdict| Verdict {
            word,
            reason: Some(reason),
            detail: &detail,
            ..verdict
        });
    }

    /// podman overruns its deadline: its callers are told, and the name is nobody's until the truth is known.
    fn overdue(&mut self, name: &str) {
        let Some(entry) = self.table.entries.get_mut(name) else {
            return;
        };
        let waiting = mem::take(&mut entry.waiting);
        // Nobody joins it any more, and only its own outcome ends it.
        entry.stage = Stage::Unknown(None, Instant::now() + FAR);
        for pending in waiting {
            let message =
                "podman has not finished in time; it was left to go on, so ask again later";
            self.answer_failed(pending, None, Reason::Timeout, message, "");
        }
        tracing::error!(
            agent = self.options.agent.as_str(),
            name,
            "podman overruns its deadline; it is not killed, and its outcome will be taken when it comes"
        );
    }
}
