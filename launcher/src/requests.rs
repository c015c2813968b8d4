//! From a forwarded datagram to a job: the launcher's own decision.
//!
//! Every request that gets here is answered exactly once, now or when its launch is over.

use crate::attempt::{Existing, Job};
use crate::audit::{self, Asked, Phases, Verdict, Who, now};
use crate::cgroup;
use crate::connections::Connection;
use crate::service::Service;
use crate::table::{Chosen, Entry, Live, Pending, ReplyTo, Stage};
use crate::workers::Task;
use portcullis_policy::{Decision, Denial, LaunchPlan, Peer, decide};
use portcullis_wire::{Attach, Body, Launch, Reason, Reply, codec};
use std::rc::Rc;
use std::time::Instant;

/// How long a client is asked to wait when there is no room, in milliseconds.
const RETRY: u32 = 50;
/// The most bytes of an explanation: the reply that carries it is one datagram.
const REPORT: usize = 60 * 1024;

impl Service {
    /// Takes a datagram that a broker forwarded as one of that connection's.
    ///
    /// `Err` says how the broker broke the protocol, which no honest one does.
    pub(crate) fn forwarded(
        &mut self,
        client: Rc<Connection>,
        received: u64,
        datagram: &[u8],
    ) -> Result<(), String> {
        let request = codec::decode_request(datagram).map_err(|error| format!("{error}"))?;
        let Body::Launch(launch) = request.body else {
            return Err("forwarded a request that is no launch".to_owned());
        };
        let (who, alive) = match client.peer() {
            Ok(peer) => {
                let who = Who::Process {
                    pid: peer.pid,
                    uid: peer.uid,
                    gid: peer.gid,
                    container: cgroup::container_of(peer.pid),
                };
                (who, peer.is_alive())
            }
            Err(error) => {
                let detail = error.to_string();
                self.deny_unknown(client, request.id, &launch, &detail);
                return Ok(());
            }
        };
        let arrived = now();
        let pending = Pending {
            to: ReplyTo::Client(client),
            id: request.id,
            arrival: self.next_arrival(),
            asked: Asked::of(&launch),
            launch,
            who,
            // The broker's clock is ours, but its word is not: it is at most a second late.
            at: Phases {
                received: received.clamp(arrived.saturating_sub(1_000_000), arrived),
                ..Phases::default()
            },
            plan: None,
            joined: false,
        };
        if !alive {
            let message = "the process that opened the connection is gone";
            self.deny(pending, &self.own_denial(Reason::Peer, None, message));
            return Ok(());
        }
        self.consider(pending);
        Ok(())
    }

    /// Decides, and counts what is limited.
    pub(crate) fn consider(&mut self, mut pending: Pending) {
        let Some(policy) = self.policy.clone() else {
            let message = "there is no usable policy; the launcher's log says why";
            return self.deny(
                pending,
                &self.own_denial(Reason::PolicyUnavailable, None, message),
            );
        };
        if pending.launch.dry_run || pending.launch.attach != Attach::None {
            let message =
                "dry runs are the broker's to answer, and attached streams are not served";
            return self.deny(
                pending,
                &self.own_denial(Reason::Unsupported, None, message),
            );
        }
        let limits = policy.limits();
        let in_flight = self.table.in_flight() + self.before_recovery.len();
        if in_flight >= usize::try_from(limits.in_flight).unwrap_or(usize::MAX) {
            let message = format!("{in_flight} requests are under way; the policy allows no more");
            return self.over_limit(pending, Reason::LimitInFlight, &message);
        }
        if !self.pay(&mut pending, limits.launches) {
            let message = "the policy's [limits] launches is used up for now";
            return self.over_limit(pending, Reason::LimitRate, message);
        }
        match decide(&policy, &pending.who.peer(), &pending.launch) {
            Decision::Deny(denial) => self.deny(pending, &denial),
            Decision::Allow(plan) => {
                pending.at.decided = now();
                self.place(pending, plan);
            }
        }
    }

    /// Finds the name's entry and starts, joins, or waits.
    pub(crate) fn place(&mut self, mut pending: Pending, plan: Box<LaunchPlan>) {
        pending.plan = Some(Chosen {
            rule: plan.rule().to_owned(),
            name: plan.name().to_owned(),
            generation: self.generation().to_owned(),
            hash: plan.hash().to_owned(),
        });
        if self.is_superseded(plan.name(), &pending) {
            return self.supersede(&pending);
        }
        self.supersede_lines(plan.name(), pending.arrival);
        if !self.recovered {
            self.before_recovery.push(pending);
            return;
        }
        if self.workers.all_hang() {
            let message = "every podman hangs; the operator has to look at the engine";
            return self.answer_failed(pending, None, Reason::Engine, message, "");
        }
        let hash = plan.hash().to_owned();
        let name = plan.name().to_owned();
        let running = self.table.entries.len();
        let existing = match self.table.entries.get_mut(&name) {
            None => {
                let most = self
                    .policy
                    .as_ref()
                    .map_or(0, |policy| policy.limits().running);
                if running >= usize::try_from(most).unwrap_or(usize::MAX) {
                    let message =
                        format!("{running} side containers exist; the policy allows no more");
                    let denial = self.own_denial(Reason::LimitRunning, Some(plan.rule()), &message);
                    return self.deny(pending, &denial);
                }
                None
            }
            Some(entry) => match &entry.stage {
                Stage::Launching | Stage::Readying { .. } if entry.hash == hash => {
                    pending.joined = true;
                    entry.waiting.push(pending);
                    return;
                }
                Stage::Settling { ended: true } => {
                    entry.next.push(pending);
                    return;
                }
                Stage::Running(_) if entry.stopping.is_some() => {
                    return self.answer_busy(pending, "an operator is stopping it");
                }
                Stage::Running(_) => Some(()),
                Stage::Launching
                | Stage::Readying { .. }
                | Stage::Settling { ended: false }
                | Stage::Unknown(..) => {
                    let detail =
                        "another launch of this name is under way, or its outcome is not known yet";
                    return self.answer_busy(pending, detail);
                }
            },
        };
        if !self.workers.have_room() {
            return self.answer_busy(pending, "the queue of launches is full");
        }
        let existing = existing.and_then(|()| self.take_over(&name));
        let job = Job {
            plan: plan.clone(),
            hash: hash.clone(),
            existing,
        };
        self.table.entries.insert(
            name,
            Entry {
                rule: plan.rule().to_owned(),
                plan: Some(plan),
                hash,
                stage: Stage::Launching,
                waiting: vec![pending],
                next: Vec::new(),
                stopping: None,
                failures: 0,
            },
        );
        self.workers.give(Task::Launch(Box::new(job)));
    }

    /// Takes a running container out of the table, for the job that may reuse or replace it.
    fn take_over(&mut self, name: &str) -> Option<Existing> {
        let entry = self.table.entries.remove(name)?;
        let plan = entry.plan;
        let Stage::Running(Live {
            main, record, key, ..
        }) = entry.stage
        else {
            return None;
        };
        self.unwatch(&main.pidfd, key);
        Some(Existing {
            record,
            main: Some(main),
            plan,
        })
    }

    /// Answers `Denied`.
    pub(crate) fn deny(&mut self, pending: Pending, denial: &Denial) {
        if self.denial_records.one_more() {
            self.audit(&pending, |verdict| Verdict {
                word: "denied",
                reason: Some(denial.reason),
                rule: denial.rule.as_deref().or(verdict.rule),
                detail: &denial.message,
                ..verdict
            });
        }
        self.counts
            .answered("denied", Some(denial.reason), "launcher", 1);
        self.reply(pending, denial.reply());
    }

    /// There is no room at this moment: a client is told so, and a line waits.
    fn over_limit(&mut self, pending: Pending, reason: Reason, message: &str) {
        match pending.to {
            ReplyTo::Client(_) => self.deny(pending, &self.own_denial(reason, None, message)),
            ReplyTo::Line(_) => self.answer_busy(pending, message),
        }
    }

    /// Answers `peer` to somebody who cannot be known: whoever has the other end of the connection.
    fn deny_unknown(&mut self, client: Rc<Connection>, id: u64, launch: &Launch, detail: &str) {
        let reason = Reason::Peer;
        if self.denial_records.one_more() {
            let verdict = Verdict {
                word: "denied",
                reason: Some(reason),
                detail,
                ..self.blank()
            };
            let (agent, at) = (self.options.agent.as_str(), Phases::default());
            audit::record(agent, None, &Asked::of(launch), &verdict, at);
        }
        self.counts.answered("denied", Some(reason), "launcher", 1);
        let reply = self.own_denial(
            reason,
            None,
            "the process that opened the connection cannot be known",
        );
        self.unread.answer(client, id, reply.reply());
    }

    /// Records, as a number, what was too much to be recorded one by one; says when to look again.
    pub(crate) fn tell_unrecorded(&mut self, now: Instant) -> Option<Instant> {
        let agent = self.options.agent.as_str();
        let sparse = [
            &mut self.denial_records,
            &mut self.busy_records,
            &mut self.take_records,
        ];
        let again = sparse.map(|records| records.tell_unrecorded(agent, now));
        again.into_iter().flatten().min()
    }

    /// Answers `Busy`: asking again soon is right.
    pub(crate) fn answer_busy(&mut self, pending: Pending, detail: &str) {
        if self.busy_records.one_more() {
            self.audit(&pending, |verdict| Verdict {
                word: "busy",
                detail,
                ..verdict
            });
        }
        self.counts.answered("busy", None, "launcher", 1);
        let reply = Reply::Busy { retry_after: RETRY };
        self.reply(pending, reply);
    }

    /// Looks anew at requests that waited for something to be over.
    pub(crate) fn reconsider(&mut self, waited: Vec<Pending>) {
        for mut pending in waited {
            // What was decided before is out of date.
            pending.plan = None;
            let Some(policy) = self.policy.clone() else {
                let message = "there is no usable policy; the launcher's log says why";
                self.deny(
                    pending,
                    &self.own_denial(Reason::PolicyUnavailable, None, message),
                );
                continue;
            };
            // The policy may have changed meanwhile; its present generation decides.
            match decide(&policy, &pending.who.peer(), &pending.launch) {
                Decision::Allow(plan) => self.place(pending, plan),
                Decision::Deny(denial) => self.deny(pending, &denial),
            }
        }
    }

    /// Writes the record of an answer; `fill` says what is not known from the request and its plan.
    pub(crate) fn audit<'a>(
        &'a self,
        pending: &'a Pending,
        fill: impl FnOnce(Verdict<'a>) -> Verdict<'a>,
    ) {
        let agent = self.options.agent.as_str();
        let plan = pending.plan.as_ref();
        let verdict = fill(Verdict {
            rule: plan.map(|plan| plan.rule.as_str()),
            plan: plan.map(|plan| plan.hash.as_str()),
            name: plan.map(|plan| plan.name.as_str()),
            generation: plan.map_or(self.generation(), |plan| &plan.generation),
            ..self.blank()
        });
        audit::record(
            agent,
            Some(&pending.who),
            &pending.asked,
            &verdict,
            pending.at,
        );
    }

    /// A denial that the launcher makes itself, told to the client as the policy has its own told.
    pub(crate) fn own_denial(&self, reason: Reason, rule: Option<&str>, message: &str) -> Denial {
        match &self.policy {
            Some(policy) => policy.denial(reason, rule, message),
            None => Denial::new(reason, rule, message),
        }
    }

    /// The generation of the policy in force; empty where there is none.
    pub(crate) fn generation(&self) -> &str {
        self.policy
            .as_ref()
            .map_or("", |policy| policy.generation())
    }

    pub(crate) fn blank(&self) -> Verdict<'_> {
        Verdict {
            word: "failed",
            reason: None,
            rule: None,
            plan: None,
            name: None,
            container: None,
            image_id: None,
            pid: None,
            detail: "",
            generation: self.generation(),
        }
    }
}

/// The launch that a request asks for, for the operator's `explain`.
pub(crate) fn explained(launch: &Launch, policy: &portcullis_policy::Policy) -> Reply {
    let explanation = portcullis_policy::explain(policy, &Peer::Operator, launch);
    let mut report = explanation.to_string();
    if report.len() > REPORT {
        let end = (0..=REPORT).rev().find(|&at| report.is_char_boundary(at));
        report.truncate(end.unwrap_or(0));
        report.push_str("\n… cut: `portcullis-policy explain` on the host shows all of it\n");
    }
    Reply::Explained {
        allowed: explanation.allowed,
        report,
    }
}
