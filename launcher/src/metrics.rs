//! What was done so far, as counters, and how they and the present state are told: OpenMetrics text
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>), which node_exporter's textfile collector takes as well.
//!
//! A label's value is an agent's name, a word of ours or a hash: nothing that a client wrote is among them, so a client
//! can neither forge a line nor make many.

use crate::service::Service;
use portcullis_wire::{Reason, State};
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::time::Duration;

/// Upper bounds of the launch times that are told apart, in milliseconds: from a reused container's to a slow readiness's.
const BOUNDS: [u64; 10] = [10, 50, 100, 250, 500, 1_000, 2_500, 10_000, 60_000, 300_000];

/// Since this life of the launcher began.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    answers: BTreeMap<(&'static str, Option<Reason>, &'static str), u64>,
    launches: Histogram,
    /// Lines that were taken from spools.
    pub(crate) lines: u64,
    /// Containers that have ended.
    pub(crate) ended: u64,
    /// Brokers that were started.
    pub(crate) brokers: u64,
    /// Requests that were answered `Busy` because the link to the launcher was full.
    pub(crate) link_full: u64,
    /// Reloads, and those among them that kept the old policy.
    pub(crate) reloads: (u64, u64),
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: Duration,
}

impl Counts {
    /// Counts answers: the audit record's verdict and reason, and which half gave them.
    pub(crate) fn answered(
        &mut self,
        verdict: &'static str,
        reason: Option<Reason>,
        by: &'static str,
        number: u32,
    ) {
        *self.answers.entry((verdict, reason, by)).or_default() += u64::from(number);
    }

    /// Takes note of how long a launch took, from the broker's receipt to the answer.
    pub(crate) fn took(&mut self, time: Duration) {
        let histogram = &mut self.launches;
        for (bucket, bound) in histogram.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(time <= Duration::from_millis(bound));
        }
        histogram.count += 1;
        histogram.sum += time;
    }

    /// How many answers had this verdict.
    pub(crate) fn of(&self, verdict: &str) -> u64 {
        let alike =
            |((word, ..), number): (&(&str, _, _), &u64)| (*word == verdict).then_some(*number);
        self.answers.iter().filter_map(alike).sum()
    }
}

impl Service {
    /// The text, whole.
    pub(crate) fn metrics(&self) -> String {
        let counts = &self.counts;
        let mut text = Text::new(self.options.agent.as_str());
        text.family("answers", "counter", "Requests that were answered.");
        for ((verdict, reason, by), number) in &counts.answers {
            let reason = reason.map_or("", Reason::code);
            let labels = [("verdict", *verdict), ("reason", reason), ("by", *by)];
            text.sample("answers_total", &labels, number);
        }
        let launches = &counts.launches;
        text.family(
            "launch_seconds",
            "histogram",
            "From a request to the answer that it was launched.",
        );
        for (bucket, bound) in launches.buckets.iter().zip(BOUNDS) {
            let bound = Duration::from_millis(bound).as_secs_f64().to_string();
            text.sample("launch_seconds_bucket", &[("le", &bound)], bucket);
        }
        text.sample("launch_seconds_bucket", &[("le", "+Inf")], launches.count);
        text.sample("launch_seconds_sum", &[], launches.sum.as_secs_f64());
        text.sample("launch_seconds_count", &[], launches.count);

        text.family(
            "side_containers",
            "gauge",
            "Side containers, by where they stand.",
        );
        for (state, word) in STATES {
            let alike = self.table.entries.values().filter(|e| e.state() == state);
            text.sample("side_containers", &[("state", word)], alike.count());
        }
        text.one(
            "side_containers_ended",
            "counter",
            "Side containers that have ended.",
            counts.ended,
        );
        text.one(
            "requests_in_flight",
            "gauge",
            "Requests that wait for an answer.",
            self.table.in_flight(),
        );
        text.one(
            "spool_lines_taken",
            "counter",
            "Lines that were taken from spools.",
            counts.lines,
        );
        text.one(
            "spool_lines_waiting",
            "gauge",
            "Lines in the journal, of which it is not known yet what comes of them.",
            self.lines.waiting(),
        );
        text.one(
            "spool_problems",
            "gauge",
            "Spools that cannot be taken from.",
            self.spools.problems(),
        );
        text.one(
            "spools_unwatched",
            "gauge",
            "Spools that are looked at every second, because inotify is used up.",
            self.spools.unwatched(),
        );
        text.one(
            "brokers_started",
            "counter",
            "Brokers that were started.",
            counts.brokers,
        );

        text.one(
            "link_full",
            "counter",
            "Requests that were answered busy because the link to the launcher was full.",
            counts.link_full,
        );
        text.one(
            "connections",
            "gauge",
            "Connections of clients.",
            self.connections.number(),
        );

        let usable = self.policy.is_some();
        text.one(
            "policy_usable",
            "gauge",
            "Whether there is a policy to decide by.",
            u8::from(usable),
        );
        let broken = self.status.policy_is_broken;
        text.one(
            "policy_broken",
            "gauge",
            "Whether the policy on disk could not be loaded.",
            u8::from(broken),
        );
        text.family("reloads", "counter", "Reloads of the policy.");
        let (reloads, refused) = counts.reloads;
        text.sample("reloads_total", &[("result", "loaded")], reloads - refused);
        text.sample("reloads_total", &[("result", "kept")], refused);
        text.family(
            // A gauge: node_exporter knows no other kind for it.
            "build_info",
            "gauge",
            "This Portcullis, and the generation of the policy in force.",
        );
        let generation = self
            .policy
            .as_ref()
            .map_or("", |policy| policy.generation());
        let version = env!("CARGO_PKG_VERSION");
        text.sample(
            "build_info",
            &[("version", version), ("policy", generation)],
            1,
        );
        text.end()
    }
}

const STATES: [(State, &str); 5] = [
    (State::Launching, "launching"),
    (State::Readying, "readying"),
    (State::Running, "running"),
    (State::Ended, "ended"),
    (State::Unknown, "unknown"),
];

/// A text that is being written; every name in it begins with `portcullis_`, and every sample names the agent.
struct Text<'a> {
    agent: &'a str,
    text: String,
}

impl<'a> Text<'a> {
    fn new(agent: &'a str) -> Self {
        let text = String::new();
        Self { agent, text }
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(
            self.text,
            "# TYPE portcullis_{name} {kind}\n# HELP portcullis_{name} {help}"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "portcullis_{name}{{agent=\"{}\"", self.agent);
        for (key, label) in labels.iter().filter(|(_, label)| !label.is_empty()) {
            let _ = write!(self.text, ",{key}=\"{label}\"");
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    /// A family of one sample.
    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        let suffix = if kind == "counter" { "_total" } else { "" };
        self.sample(&format!("{name}{suffix}"), &[], value);
    }

    fn end(mut self) -> String {
        self.text.push_str("# EOF\n");
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_counts_in_every_bucket_that_it_fits_into() {
        let mut counts = Counts::default();
        for milliseconds in [1, 100, 200, 1_000_000] {
            counts.took(Duration::from_millis(milliseconds));
        }
        assert_eq!(counts.launches.buckets, [1, 1, 2, 3, 3, 3, 3, 3, 3, 3]);
        assert_eq!(counts.launches.count, 4);
    }

    #[test]
    fn verdicts_are_summed_over_reasons_and_halves() {
        let mut counts = Counts::default();
        counts.answered("denied", Some(Reason::Netns), "broker", 5);
        counts.answered("denied", Some(Reason::Image), "launcher", 1);
        counts.answered("launched", None, "launcher", 1);
        assert_eq!(
            (
                counts.of("denied"),
                counts.of("launched"),
                counts.of("busy")
            ),
            (6, 1, 0)
        );
    }
}
