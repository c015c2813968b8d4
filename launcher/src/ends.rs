//! What becomes of side containers once they run: the ends of their main processes, what is left of them, and those that
//! an earlier life of the launcher started.

use crate::answer::failed;
use crate::container::Main;
use crate::records::{Record, RecordError};
use crate::service::Service;
use crate::table::{Entry, Live, Stage};
use crate::workers::{SettleError, Settled, Task};
use portcullis_wire::{Reason, Reply};
use std::mem;
use std::time::{Duration, Instant};

/// The pause before a name whose truth is not known is looked at again; where podman fails it grows up to the second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

impl Service {
    /// A main process has ended: what is left of its container is removed.
    pub(crate) fn ended(&mut self, key: u64) {
        let Some(name) = self.table.keys.remove(&key) else {
            return;
        };
        let Some(mut entry) = self.table.entries.remove(&name) else {
            return;
        };
        match mem::replace(&mut entry.stage, Stage::Launching) {
            Stage::Running(live) | Stage::Readying { live, .. } if live.key == key => {
                self.unwatch(&live.main.pidfd, key);
                self.settle(name, entry, live.record, true);
            }
            other => {
                entry.stage = other;
                self.table.entries.insert(name, entry);
            }
        }
    }

    /// Has podman asked what is left of it, and that removed.
    pub(crate) fn settle(&mut self, name: String, mut entry: Entry, record: Record, ended: bool) {
        let wants_output = !entry.waiting.is_empty();
        entry.stage = Stage::Settling { ended };
        self.table.entries.insert(name, entry);
        self.workers.give(Task::Settle(record, wants_output));
    }

    /// What podman says of it: everyone who waits is told.
    pub(crate) fn settled(&mut self, record: Record, result: Result<Settled, SettleError>) {
        let name = record.name.clone();
        let Some(mut entry) = self.table.entries.remove(&name) else {
            return;
        };
        match result {
            Ok(Settled::Runs(main)) => {
                entry.hash.clone_from(&record.plan);
                entry.stage = self.found_running(*main, record);
                entry.failures = 0;
                // Somebody has started it again, by hand: it is as good as any other that runs.
                let mut waited = mem::take(&mut entry.waiting);
                waited.append(&mut entry.next);
                let stopping = entry.stopping.take();
                self.table.entries.insert(name, entry);
                let reply = failed(Reason::Internal, "somebody else has started it again");
                self.tell_stopped(stopping, &reply);
                self.reconsider(waited);
            }
            Ok(Settled::Gone {
                existed,
                exit,
                output,
            }) => {
                if existed {
                    self.container_ended(&record, exit);
                } else {
                    let agent = self.options.agent.as_str();
                    tracing::info!(
                        agent,
                        name,
                        rule = record.rule,
                        "nothing is left of a launch"
                    );
                }
                let message = match exit {
                    Some(code) => {
                        format!("the program ended with exit code {code} before it was ready")
                    }
                    None => "the program ended before it was ready".to_owned(),
                };
                for pending in mem::take(&mut entry.waiting) {
                    let exited = exit.map(|code| (code, output.clone()));
                    self.answer_failed(pending, exited, Reason::Exited, &message, "");
                }
                if let Some(stopping) = entry.stopping {
                    let agent = self.options.agent.as_str();
                    let (rule, killed) = (record.rule.as_str(), stopping.kill_at.is_none());
                    tracing::info!(
                        target: "portcullis::audit",
                        agent,
                        verdict = "stopped",
                        rule,
                        name,
                        exit,
                        killed,
                        by = "operator",
                        "stopped"
                    );
                    self.tell_stopped(Some(stopping), &Reply::Done { exit });
                }
                self.reconsider(entry.next);
            }
            Err(error) => {
                let mut pause = AGAIN.0;
                if !matches!(error, SettleError::Record(RecordError::Held(_))) {
                    pause = AGAIN.1.min(pause * 2u32.saturating_pow(entry.failures));
                    entry.failures = entry.failures.saturating_add(1).min(16);
                    tracing::error!(
                        agent = self.options.agent.as_str(), name, %error, ?pause,
                        "what is left of a side container could not be found out; it is tried again after a pause"
                    );
                }
                entry.stage = Stage::Unknown(Some(record), Instant::now() + pause);
                let (waiting, next) = (mem::take(&mut entry.waiting), mem::take(&mut entry.next));
                let stopping = entry.stopping.take();
                self.table.entries.insert(name, entry);
                // Nobody is kept waiting for a podman that fails.
                let message = "it has ended, and podman does not say how; the log has its words";
                self.tell_stopped(stopping, &failed(Reason::Engine, message));
                for pending in waiting {
                    let message =
                        "the program ended before it was ready, and podman does not say how";
                    self.answer_failed(pending, None, Reason::Engine, message, &error.to_string());
                }
                for pending in next {
                    self.answer_busy(pending, "what is left of the one before is not known yet");
                }
            }
        }
    }

    /// A container has ended and was removed, of itself or to make room for another of its name.
    pub(crate) fn container_ended(&mut self, record: &Record, exit: Option<u8>) {
        let (name, rule) = (record.name.as_str(), record.rule.as_str());
        self.counts.ended += 1;
        self.table
            .remember_end(name, rule, record.netns.as_deref(), exit);
        tracing::info!(
            agent = self.options.agent.as_str(),
            name,
            rule,
            exit,
            "a side container has ended and was removed"
        );
    }

    /// Watches a main process that somebody else than its launch has found alive.
    pub(crate) fn found_running(&mut self, main: Main, record: Record) -> Stage {
        let key = self.watch(&main.pidfd, &record.name);
        Stage::Running(Live {
            main,
            record,
            netns: None,
            key,
        })
    }

    /// Takes up what an earlier life started: what runs is watched, and the rest is cleared away.
    pub(crate) fn recovered_with(&mut self, found: Vec<(Record, Option<Main>)>) {
        for (record, main) in found {
            let name = record.name.clone();
            let mut entry = Entry {
                rule: record.rule.clone(),
                plan: None,
                hash: record.plan.clone(),
                stage: Stage::Launching,
                waiting: Vec::new(),
                next: Vec::new(),
                stopping: None,
                failures: 0,
            };
            if let Some(main) = main {
                entry.stage = self.found_running(main, record);
                self.table.entries.insert(name, entry);
            } else {
                self.settle(name, entry, record, false);
            }
        }
        self.recovered = true;
        let waited = mem::take(&mut self.before_recovery);
        self.reconsider(waited);
    }
}
