//! Brokers come and go: started, heard, drained, started again after a growing pause; and with them a new policy.
//!
//! The untrusted half cannot end the trusted one. Whatever a broker sends that no honest broker would send ends it.

use crate::account::Account;
use crate::audit::cut;
use crate::broker::{self, Broker, Confinement, Heard};
use crate::bucket::Bucket;
use crate::policy_file;
use crate::service::{Service, key};
use portcullis_policy::{Policy, Rate};
use portcullis_wire::{Directive, Order};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The pause before a broker that died is started again grows between these.
pub(crate) const PAUSE: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(10));
/// After so long a pause, brokers that never served are not to be waited for.
const HOPELESS: Duration = Duration::from_secs(1);
/// A broker that lived so long died of something new.
const LONG_LIFE: Duration = Duration::from_secs(60);

/// A broker and its place in the poll loop.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) broker: Broker,
    pub(crate) key: u64,
    pub(crate) since: Instant,
    pub(crate) draining: bool,
    pub(crate) generation: String,
    reports: Bucket,
    beat: Beat,
}

/// Whether a broker answers.
#[derive(Debug)]
struct Beat {
    /// The number of the last heartbeat.
    number: u64,
    /// When it was sent, while its answer is awaited.
    sent: Option<Instant>,
    /// When the next one is due.
    next: Instant,
}

/// Between the answer to a heartbeat and the next one, while the broker has connections.
const BEAT: Duration = Duration::from_secs(5);
/// A broker that has not answered for so long is replaced.
const SILENT: Duration = Duration::from_secs(10);

/// How often a broker may report denials. An honest one does once a second; a launcher that was busy hears several at once.
const REPORTS: Rate = Rate {
    count: 8,
    per: Duration::from_secs(8),
};
/// The most kinds of denials in a report.
const KINDS: usize = 64;

impl Service {
    pub(crate) fn load_policy(&mut self) -> Result<(), String> {
        let files =
            policy_file::read_policy(&self.options.policy).map_err(|error| error.to_string())?;
        let policy =
            Policy::load(&self.options.agent, &files).map_err(|problems| problems.to_string())?;
        self.policy = Some(Rc::new(policy));
        self.bundle.files = files;
        self.follow_spools();
        Ok(())
    }

    /// SIGHUP: a new policy, a new broker with it, and the old one drains. A bad policy keeps the old.
    pub(crate) fn reload(&mut self) {
        let agent = self.options.agent.as_str().to_owned();
        let time = crate::audit::now();
        self.manager
            .tell(format!("RELOADING=1\nMONOTONIC_USEC={time}"));
        self.counts.reloads.0 += 1;
        if let Err(problem) = self.load_policy() {
            self.counts.reloads.1 += 1;
            let kept = self.policy.as_ref().map_or("none", |_| "the previous one");
            tracing::error!(
                agent,
                kept,
                "the policy was not reloaded; in force is {kept}: {problem}"
            );
            self.status.policy_is_broken = true;
            // A reload before this one may still be waiting for its broker, and tells when that serves.
            if !self.reloading {
                self.notify_ready();
            }
            return;
        }
        let generation = self.generation();
        tracing::info!(agent, generation, "the policy was reloaded");
        self.status.policy_is_broken = false;
        self.reloading = true;
        // What is started below has the new policy; one that waits to be started would only be a second one.
        self.start_at = None;
        self.start_broker();
    }

    pub(crate) fn start_broker(&mut self) {
        self.waits_for_spools = false;
        if self.stopping.is_some() {
            return;
        }
        let started = self.launch_broker();
        let added = started.and_then(|broker| {
            let key = key::BROKER + 4 * self.next_key;
            self.next_key += 1;
            self.add(key, broker.link())
                .map_err(|error| error.to_string())?;
            self.add(key + 1, broker.pidfd())
                .map_err(|error| error.to_string())?;
            if let Some(words) = broker.words() {
                self.add(key + 2, words)
                    .map_err(|error| error.to_string())?;
            }
            Ok(Child {
                broker,
                key,
                since: Instant::now(),
                draining: false,
                generation: self.generation().to_owned(),
                reports: Bucket::full(),
                beat: Beat {
                    number: 0,
                    sent: None,
                    next: Instant::now(),
                },
            })
        });
        match added {
            Ok(child) => {
                // Whoever connects now waits for this one, and is turned away only if it fails, too.
                self.turn_clients_away(false);
                self.counts.brokers += 1;
                self.children.push(child);
            }
            Err(error) => {
                tracing::error!(
                    agent = self.options.agent.as_str(),
                    "the broker cannot be started: {error}"
                );
                self.status.broker_problem =
                    Some("the broker cannot be started, see the log".to_owned());
                let serving = self.children.iter().any(|c| c.broker.ready.is_some());
                self.broker_failed(serving);
            }
        }
    }

    fn launch_broker(&mut self) -> Result<Broker, String> {
        let (options, config) = (&self.options, &self.config.broker);
        if self.account.is_none() {
            // Beside the directories of the agents, whose names cannot have a dot.
            let all = options.runtime_dir.parent().unwrap_or(&options.runtime_dir);
            let account = Account::of(&options.agent, config, &all.join(".uids"));
            self.account = Some(account.map_err(|error| error.to_string())?);
        }
        let Some(account) = &self.account else {
            return Err("no account".to_owned());
        };
        Broker::start(
            &options.broker,
            &options.agent,
            config,
            account,
            &self.bundle,
        )
        .map_err(|error| error.to_string())
    }

    fn start_later(&mut self) {
        if self.stopping.is_none() {
            self.start_at = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(PAUSE.1);
        }
    }

    /// A broker has something to tell, or has ended.
    pub(crate) fn broker_tells(&mut self, key: u64, buffer: &mut [u8]) {
        if key & 3 == 2 {
            if let Some(child) = self.children.iter_mut().find(|c| c.key == key & !3) {
                child.pass_words_on(self.options.agent.as_str());
            }
            return;
        }
        // What it sent before it ended is still heard. At most so much at once, so that nobody else has to wait.
        for _ in 0..64 {
            let find = |c: &Child| c.key == key & !3;
            let Some(at) = self.children.iter().position(find) else {
                return;
            };
            let Some(child) = self.children.get_mut(at) else {
                return;
            };
            let heard = child.broker.hear(buffer);
            let told = match heard {
                Ok(Heard::Nothing) if key & 3 == 0 => return,
                Ok(Heard::Nothing | Heard::End) => return self.broker_ended(at),
                Ok(Heard::Bytes(length)) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    self.order(at, bytes)
                }
                Ok(Heard::Oversized) => Err("sent more than an order, or a descriptor".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(violation) = told {
                // The one thing that an honest broker never does: so this one is not honest any more.
                tracing::error!(
                    agent = self.options.agent.as_str(),
                    "the broker was ended, because it broke the protocol with its launcher: {violation}"
                );
                if let Some(child) = self.children.get_mut(at) {
                    child.broker.kill();
                }
                return self.broker_ended(at);
            }
        }
    }

    fn order(&mut self, at: usize, bytes: &[u8]) -> Result<(), String> {
        let order = broker::order(bytes).map_err(|error| error.to_string())?;
        let broker = self.children.get(at).map_or(0, |child| child.key);
        match order {
            Order::Forward {
                connection,
                received,
                datagram,
            } => match self.connections.named(connection, broker) {
                Some(client) => self.forwarded(client, received, datagram)?,
                None => return Err("named a connection that it has not".to_owned()),
            },
            Order::Ready {
                layers,
                landlock_abi,
            } => return self.broker_ready(at, &layers, landlock_abi),
            Order::Closed(numbers) => {
                for number in numbers {
                    if !self.connections.closed(number, broker) {
                        return Err("closed a connection that it has not".to_owned());
                    }
                }
            }
            Order::Heartbeat(number) => {
                let child = self.children.get_mut(at);
                if !child.is_some_and(|child| child.beat.answered(number)) {
                    return Err("answered a heartbeat that it was not sent".to_owned());
                }
            }
            Order::LinkFull(number) => self.link_was_full(at, number),
            Order::Line { number, datagram } => {
                return self.line_is_allowed(broker, number, datagram);
            }
            Order::LineDenied { number, denial } => {
                let child = self.children.get(at);
                let generation = child.map_or_else(String::new, |child| child.generation.clone());
                return self.line_is_denied(broker, &generation, number, &denial);
            }
            Order::Denied(list) => {
                // Each is a record in the audit log, and nothing that a broker does may drown the others.
                if list.len() > KINDS {
                    return Err("reported more kinds of denials than there are".to_owned());
                }
                // An honest broker's reports queue up where the launcher was held up, so those over the rate are counted
                // and not recorded, and nobody is blamed.
                let few = self
                    .children
                    .get_mut(at)
                    .is_some_and(|child| child.reports.take(REPORTS));
                // The one that the broker decided by, which may be an old one that drains.
                let generation = self.children.get(at).map_or("", |child| &child.generation);
                for denied in &list {
                    let reason = Some(denied.reason);
                    self.counts
                        .answered("denied", reason, "broker", denied.count);
                    if few {
                        let agent = self.options.agent.as_str();
                        crate::audit::record_broker(agent, None, generation, denied);
                    } else {
                        self.denial_records.count(denied.count);
                    }
                }
            }
        }
        Ok(())
    }

    /// Requests were answered `Busy` because this launcher had not read what came before them.
    fn link_was_full(&mut self, at: usize, number: u32) {
        self.counts.link_full += u64::from(number);
        let told = self
            .children
            .get_mut(at)
            .is_some_and(|child| child.reports.take(REPORTS));
        if told {
            tracing::warn!(
                agent = self.options.agent.as_str(),
                requests = number,
                "the link to the launcher was full; clients were told to try again"
            );
        }
    }

    /// Sees to it that every broker with connections answers; says when to look again.
    pub(crate) fn heartbeats(&mut self, now: Instant) -> Option<Instant> {
        let mut due: Option<Instant> = None;
        for child in &mut self.children {
            if child.broker.ready.is_none() || self.connections.of(child.key) == 0 {
                continue;
            }
            let beat = &mut child.beat;
            match beat.sent {
                Some(sent) if now >= sent + SILENT => {
                    tracing::error!(
                        agent = self.options.agent.as_str(),
                        "the broker has not answered for {} s; killed",
                        SILENT.as_secs()
                    );
                    child.broker.kill();
                    beat.sent = Some(now);
                }
                None if now >= beat.next => {
                    beat.number += 1;
                    beat.sent = Some(now);
                    // One for which there is no room is as good as one that is not read.
                    let _ = child.broker.direct(&Directive::Heartbeat(beat.number));
                }
                _ => {}
            }
            let next = beat.sent.map_or(beat.next, |sent| sent + SILENT);
            due = Some(due.map_or(next, |due| due.min(next)));
        }
        due
    }

    /// A broker serves: those from before it are not needed any more. One that was started later is no business of its.
    fn broker_ready(
        &mut self,
        at: usize,
        layers: &[String],
        landlock_abi: u8,
    ) -> Result<(), String> {
        let agent = self.options.agent.as_str();
        let Some(confinement) = Confinement::said(layers, landlock_abi) else {
            return Err("named a layer of its sandbox that is none".to_owned());
        };
        let layers = confinement.layers.join(" ");
        let Some(child) = self.children.get_mut(at) else {
            return Ok(());
        };
        // Each is a line in the log and a word to the service manager: not to be had as often as a broker likes.
        if child.broker.ready.is_some() {
            return Err("said twice that it serves".to_owned());
        }
        tracing::info!(agent, layers, landlock_abi, "the broker serves");
        child.broker.ready = Some(confinement);
        let (key, draining) = (child.key, child.draining);
        if !draining {
            for older in self.children.iter_mut().filter(|c| c.key < key) {
                if older.broker.ready.is_some() {
                    older.drain();
                } else {
                    // It has nobody to serve to the end, and may never get so far as to hear that it should drain.
                    older.broker.kill();
                }
            }
            self.status.broker_problem = None;
            self.turn_clients_away(false);
            if !self.reloading {
                self.notify_ready();
            }
        }
        self.reload_is_over();
        Ok(())
    }

    /// A reload is done when the newest broker serves, alone.
    fn reload_is_over(&mut self) {
        if let [child] = self.children.as_slice()
            && self.reloading
            && child.broker.ready.is_some()
            && !child.draining
        {
            self.reloading = false;
            self.notify_ready();
        }
    }

    fn broker_ended(&mut self, at: usize) {
        let mut child = self.children.swap_remove(at);
        let status = child.broker.ended();
        child.pass_words_on(self.options.agent.as_str());
        let replaced = self.children.iter().any(|c| c.key > child.key);
        let expected = child.draining || replaced || self.stopping.is_some();
        self.broker_had_a_line(child.key, expected);
        self.connections.ended(child.key);
        if expected {
            return self.reload_is_over();
        }
        let agent = self.options.agent.as_str();
        if child.since.elapsed() >= LONG_LIFE {
            self.pause = PAUSE.0;
        }
        let pause = self.pause;
        tracing::error!(
            agent,
            status,
            ?pause,
            "the broker has ended; another one is started after a pause"
        );
        let serving = self.children.iter().any(|c| !c.draining);
        self.status.broker_problem = Some(if serving {
            // The one before goes on meanwhile; whatever it forwards is judged by the new policy.
            format!("the new broker does not start ({status}), the one before serves; see the log")
        } else {
            format!("nobody is answered: the broker has ended ({status}); see the log")
        });
        self.broker_failed(serving || child.broker.ready.is_some());
    }

    /// A broker has ended, or could not be started. `serving`: there is one, or there was until now.
    fn broker_failed(&mut self, serving: bool) {
        // The service manager would end a launcher that never says that it is ready, and start it again and again: this
        // one stays, and its status line says what is wrong.
        if self.reloading || !serving {
            self.reloading = false;
            self.notify_ready();
        }
        if !serving && self.pause >= HOPELESS {
            self.turn_clients_away(true);
        }
        self.start_later();
    }

    /// The sandbox of the broker that serves, once it does.
    pub(crate) fn confinement(&self) -> Confinement {
        let serving = self.children.iter().find(|c| !c.draining);
        serving
            .and_then(|c| c.broker.ready.clone())
            .unwrap_or_default()
    }
}

impl Beat {
    /// Takes an answer. Whether it is one.
    fn answered(&mut self, number: u64) -> bool {
        let awaited = self.sent.is_some() && number == self.number;
        if awaited {
            self.sent = None;
            self.next = Instant::now() + BEAT;
        }
        awaited
    }
}

impl Child {
    /// Logs what the broker has written to descriptor 2, as its word.
    fn pass_words_on(&mut self, agent: &str) {
        if let Some(text) = self.broker.hear_words() {
            tracing::warn!(
                agent,
                by = "broker",
                "the broker says: {}",
                cut(&text, 1024)
            );
        }
    }

    pub(crate) fn drain(&mut self) {
        if !self.draining {
            self.draining = true;
            self.since = Instant::now();
            self.broker.drain();
        }
    }
}
