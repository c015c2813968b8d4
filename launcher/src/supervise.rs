//! Brokers come and go: started, heard, drained, started again after a growing pause; and with them a new policy.
//!
//! The untrusted half cannot end the trusted one. Whatever a broker sends that no honest broker would send ends it.

use crate::account::Account;
use crate::audit::cut;
use crate::broker::{Broker, Confinement, Heard};
use crate::bucket::Bucket;
use crate::heartbeat::Beat;
use crate::policy_file;
use crate::service::{Service, key};
use portcullis_policy::Policy;
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
    pub(crate) reports: Bucket,
    /// The same for full links, so that whoever fills the link hides no denial.
    pub(crate) overflows: Bucket,
    pub(crate) beat: Beat,
}

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
                overflows: Bucket::full(),
                beat: Beat::new(),
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

    /// A broker serves: those from before it are not needed any more. One that was started later is no business of its.
    pub(crate) fn broker_ready(
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
