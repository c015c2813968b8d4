//! The status line: what `systemctl status portcullis@AGENT` shows of this launcher, in one line.

use crate::audit::cut;
use crate::service::Service;
use std::time::{Duration, Instant};

/// The shortest pause between two lines that nobody waits for.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest line in bytes; the service manager takes 4 KiB.
const LENGTH: usize = 1024;

/// What the line says beside the counters, and when it was last told.
#[derive(Debug, Default)]
pub(crate) struct Status {
    /// Something happened since.
    pub(crate) outdated: bool,
    /// The policy on disk is not the one in force.
    pub(crate) policy_is_broken: bool,
    /// What keeps brokers from serving.
    pub(crate) broker_problem: Option<String>,
    /// The launch that failed last, and why.
    pub(crate) last_failure: Option<String>,
    told: Option<(Instant, String)>,
}

impl Service {
    /// Tells the service manager that everything asked for is done, and how things stand.
    pub(crate) fn notify_ready(&mut self) {
        let line = self.status_line();
        self.manager.tell(format!("READY=1\nSTATUS={line}"));
        self.status.told = Some((Instant::now(), line));
    }

    /// Tells the status line if it has changed and was not told just now; says when to look again.
    pub(crate) fn tell_status(&mut self, now: Instant) -> Option<Instant> {
        if !self.status.outdated {
            return None;
        }
        if let Some((at, _)) = &self.status.told
            && now < *at + PAUSE
        {
            return Some(*at + PAUSE);
        }
        let line = self.status_line();
        let same = matches!(&self.status.told, Some((_, told)) if *told == line);
        let told = same || self.manager.mention(&format!("STATUS={line}"));
        self.status.outdated = !told;
        // What found no room is not what was told.
        let line = if told { line } else { String::new() };
        self.status.told = Some((now, line));
        (!told).then(|| now + PAUSE)
    }

    /// Trouble first: a terminal may cut the end off.
    fn status_line(&self) -> String {
        let mut parts = Vec::new();
        if let Some(problem) = &self.status.broker_problem {
            parts.push(problem.clone());
        }
        if self.status.policy_is_broken {
            parts.push("the policy on disk is broken, see the log".to_owned());
        }
        if let Some(problem) = self.spools.problem() {
            parts.push(format!("a spool cannot be taken from: {problem}"));
        }
        if self.spools.unwatched() > 0 {
            let unwatched = self.spools.unwatched();
            parts.push(format!(
                "{unwatched} spools looked at every second: inotify is used up"
            ));
        }
        let generation = self.policy.as_ref().map(|policy| policy.generation());
        parts.push(format!("policy {}", generation.unwrap_or("none")));
        parts.push(format!(
            "{} side containers, {} launched, {} denied, {} failed",
            self.table.entries.len(),
            self.counts.of("launched") + self.counts.of("reused"),
            self.counts.of("denied"),
            self.counts.of("failed"),
        ));
        if self.lines.waiting() > 0 {
            parts.push(format!("{} lines wait", self.lines.waiting()));
        }
        let confinement = self.confinement();
        if !confinement.layers.is_empty() {
            parts.push(format!("sandbox: {}", confinement.layers.join(" ")));
        }
        if let Some(failure) = &self.status.last_failure {
            parts.push(format!("last failure: {failure}"));
        }
        // Each line of what the service manager is told is an assignment: this is one.
        cut(&parts.join("; "), LENGTH)
    }
}
