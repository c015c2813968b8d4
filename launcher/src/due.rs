//! What is due by now: looks at containers that are not ready yet, and at names of which nobody knows the truth.

use crate::readiness;
use crate::service::Service;
use crate::table::{Entry, Stage};
use portcullis_wire::Reason;
use std::mem;
use std::time::{Duration, Instant};

/// The shortest and the longest pause between two looks for a pid file.
const LOOK: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

impl Service {
    /// Does what is due by now, and says when something is due next.
    pub(crate) fn tick(&mut self) -> Option<Instant> {
        let time = Instant::now();
        let due = |(name, entry): (&String, &Entry)| match &entry.stage {
            Stage::Readying { next, .. } | Stage::Unknown(_, next) if *next <= time => {
                Some(name.clone())
            }
            _ => None,
        };
        for name in self
            .table
            .entries
            .iter()
            .filter_map(due)
            .collect::<Vec<_>>()
        {
            match self
                .table
                .entries
                .get_mut(&name)
                .map(|entry| &mut entry.stage)
            {
                Some(Stage::Unknown(..)) => self.find_out(name),
                Some(_) => self.look(&name),
                None => {}
            }
        }
        if self.recover_at.is_some_and(|at| at <= time) {
            self.recover_at = None;
            self.recover();
        }
        let dues = self
            .table
            .entries
            .values()
            .filter_map(|entry| match &entry.stage {
                Stage::Readying { next, .. } | Stage::Unknown(_, next) => Some(*next),
                _ => None,
            });
        dues.chain(self.recover_at).min()
    }

    fn find_out(&mut self, name: String) {
        let Some(mut entry) = self.table.entries.remove(&name) else {
            return;
        };
        let Stage::Unknown(record, _) = mem::replace(&mut entry.stage, Stage::Launching) else {
            return;
        };
        match record.map_or_else(|| self.host.records.read(&name), |record| Ok(Some(record))) {
            Ok(Some(record)) => self.settle(name, entry, record, false),
            // No record: nothing of ours was ever started under this name.
            Ok(None) => self.reconsider(entry.next),
            Err(error) => {
                tracing::error!(name, %error, "a launch record cannot be read; it is tried again");
                entry.stage = Stage::Unknown(None, Instant::now() + Duration::from_secs(2));
                self.table.entries.insert(name, entry);
            }
        }
    }

    /// Looks whether a readying side container is ready, or its time is over.
    pub(crate) fn look(&mut self, name: &str) {
        let Some(entry) = self.table.entries.get_mut(name) else {
            return;
        };
        let Stage::Readying { live, next, until } = &mut entry.stage else {
            return;
        };
        let Some(plan) = &entry.plan else { return };
        let Some(ready) = plan.ready() else { return };
        let time = Instant::now();
        let holds = readiness::pid_file_holds(live.main.pid, &ready.pid_file, plan.host_pid());
        if matches!(holds, Ok(true)) && !live.main.pidfd.has_ended() {
            let Some(mut entry) = self.table.entries.remove(name) else {
                return;
            };
            let Stage::Readying { live, .. } = mem::replace(&mut entry.stage, Stage::Launching)
            else {
                return;
            };
            return self.launched(name.to_owned(), entry, live, false);
        }
        if time < *until {
            // A tenth of what it took so far: quick for the quick, easy on the slow.
            let elapsed = ready.timeout.saturating_sub(*until - time);
            *next = time + (elapsed / 10).clamp(LOOK.0, LOOK.1);
            return;
        }
        let detail = match holds {
            Err(error) => error.to_string(),
            Ok(_) => format!("{} does not hold a live process of it", ready.pid_file),
        };
        let message = format!(
            "the program was not ready within {:?}; it was left running",
            ready.timeout
        );
        let Some(mut entry) = self.table.entries.remove(name) else {
            return;
        };
        let waiting = mem::take(&mut entry.waiting);
        if let Stage::Readying { live, .. } = entry.stage {
            entry.stage = Stage::Running(live);
            self.table.entries.insert(name.to_owned(), entry);
        }
        for pending in waiting {
            self.answer_failed(pending, None, Reason::Timeout, &message, &detail);
        }
    }
}
