//! One datagram in, one answer out: the broker's whole opinion, without any input or output of its own.
//!
//! It trusts the policy and what the kernel says about the peer. What it allows is not yet launched: the launcher decides
//! again.

use crate::bucket::Bucket;
use crate::denials::{self, Refusal, denied};
use portcullis_policy::{Decision, Denial, Peer, Policy, Rate, admits, decide};
use portcullis_wire::{
    Attach, Body, DecodeError, Launch, Pong, Reason, Reply, Request, Response, codec, limits, line,
};
use std::time::{Duration, Instant};

/// The id of the request that a line is made into. Nobody waits for an answer with it.
const LINE: u64 = 1;

/// Judges datagrams by one policy.
#[derive(Debug)]
pub struct Judge {
    policy: Option<Policy>,
    pong: Pong,
    launches: Option<Bucket>,
}

/// What becomes of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is answered, and that is all.
    Answer(Response),
    /// It is answered, and the operator is told.
    Refuse(Response, Refusal),
    /// The policy allows it: it goes to the launcher, which answers. The number is the request's.
    Forward(u64),
}

impl Judge {
    /// A judge. Without a policy it lets nothing be launched.
    #[must_use]
    pub fn new(pong: Pong, policy: Option<Policy>) -> Self {
        let launches = policy
            .as_ref()
            .map(|p| Bucket::new(p.limits().launches, Instant::now()));
        Self {
            policy,
            pong,
            launches,
        }
    }

    /// What a ping is answered with.
    #[must_use]
    pub fn pong(&self) -> &Pong {
        &self.pong
    }

    /// Whether this process may use the socket at all. Asked once, when it has connected.
    #[must_use]
    pub fn admission(&self, peer: &Peer) -> Option<Denial> {
        let policy = self.policy.as_ref()?;
        if matches!(peer, Peer::Process { pid: ..=0, .. }) {
            let message =
                "the process that connected is in a PID namespace that the host does not see";
            return Some(policy.denial(Reason::Peer, None, message));
        }
        admits(policy, peer).err()
    }

    /// Judges one datagram of a peer, whose `admission` has been asked.
    pub fn judge(&mut self, datagram: &[u8], peer: &Peer, admission: Option<&Denial>) -> Verdict {
        if datagram.len() > limits::DATAGRAM {
            let message = format!("the datagram is longer than {} bytes", limits::DATAGRAM);
            return refuse(0, Reason::TooLarge, message);
        }
        let request = match codec::decode_request(datagram) {
            Ok(request) => request,
            Err(error) => return misunderstood(error),
        };
        let mut verdict = self.answer(&request, peer, admission);
        if let (Verdict::Refuse(_, refusal), Body::Launch(launch)) = (&mut verdict, &request.body) {
            refusal.launch = Some(denied(launch));
        }
        verdict
    }

    /// Reads a line of a spool, and judges it: the request that it is, as a datagram for the launcher. Neither the policy's
    /// rate nor the pace counts here: a line waits in the launcher's journal until there is room for it.
    ///
    /// # Errors
    /// [`Refusal`]: it is no line, or the policy does not allow it.
    pub fn line(&self, dir: &str, command: &str, text: &[u8]) -> Result<Vec<u8>, Box<Refusal>> {
        let refusal = |reason, rule, message, launch| {
            Box::new(Refusal {
                reason,
                rule,
                message,
                launch: Some(launch),
            })
        };
        let unreadable =
            |reason, message| refusal(reason, None, message, denials::unreadable(command, text));
        let launch = line::request(command, text)
            .map_err(|error| unreadable(error.reason(), error.to_string()))?;
        let Some(policy) = &self.policy else {
            let reason = Reason::PolicyUnavailable;
            return Err(refusal(
                reason,
                None,
                reason.text().to_owned(),
                denied(&launch),
            ));
        };
        let peer = Peer::Spool { dir: dir.into() };
        if let Decision::Deny(denial) = decide(policy, &peer, &launch) {
            let Denial {
                reason,
                rule,
                message,
                ..
            } = denial;
            return Err(refusal(reason, rule, message, denied(&launch)));
        }
        let body = Body::Launch(launch);
        codec::encode(&Request { id: LINE, body }).map_err(|error| {
            unreadable(
                Reason::TooLarge,
                format!("as a request the line is too long: {error}"),
            )
        })
    }

    fn answer(&mut self, request: &Request, peer: &Peer, admission: Option<&Denial>) -> Verdict {
        let id = request.id;
        if let Some(denial) = admission {
            return deny(id, denial);
        }
        match &request.body {
            Body::Ping => Verdict::Answer(Response {
                id,
                reply: Reply::Pong(self.pong.clone()),
            }),
            Body::Launch(launch) => self.launch(id, launch, peer),
            Body::Signal { .. } => unsupported(id, "signal is not served yet"),
            Body::Stop { .. } => unsupported(id, "stop is not served yet"),
            Body::List { .. } => {
                unsupported(id, "list is not served here: ask on the operator's socket")
            }
            Body::Logs { .. } => unsupported(id, "logs is not served yet"),
            Body::Wait { .. } => unsupported(id, "wait is not served yet"),
            Body::Metrics => unsupported(
                id,
                "metrics is not served here: ask on the operator's socket",
            ),
        }
    }

    fn launch(&mut self, id: u64, launch: &Launch, peer: &Peer) -> Verdict {
        let (Some(policy), Some(bucket)) = (&self.policy, &mut self.launches) else {
            return refuse(
                id,
                Reason::PolicyUnavailable,
                Reason::PolicyUnavailable.text().to_owned(),
            );
        };
        if launch.attach == Attach::Streams {
            return unsupported(
                id,
                "attached standard streams are not served yet: ask without them",
            );
        }
        // A dry run is no attempt.
        if !launch.dry_run
            && let Err(wait) = bucket.take(Instant::now())
        {
            let message = too_often(policy.limits().launches, wait);
            return deny(id, &policy.denial(Reason::LimitRate, None, &message));
        }
        match decide(policy, peer, launch) {
            Decision::Deny(denial) => deny(id, &denial),
            Decision::Allow(_) if !launch.dry_run => Verdict::Forward(id),
            Decision::Allow(plan) => {
                let report = format!(
                    "the rule {} would launch the side container {} of the image {}",
                    plan.rule(),
                    plan.name(),
                    plan.image()
                );
                Verdict::Answer(Response {
                    id,
                    reply: Reply::Explained {
                        allowed: true,
                        report,
                    },
                })
            }
        }
    }
}

fn misunderstood(error: DecodeError) -> Verdict {
    let refusal = Refusal {
        reason: error.reason(),
        rule: None,
        message: error.to_string(),
        launch: None,
    };
    match error {
        DecodeError::Version(_) => {
            let reply = Reply::UnsupportedVersion {
                spoken: vec![limits::VERSION],
            };
            Verdict::Refuse(Response { id: 0, reply }, refusal)
        }
        _ => refuse(0, refusal.reason, refusal.message),
    }
}

fn deny(id: u64, denial: &Denial) -> Verdict {
    let response = Response {
        id,
        reply: denial.reply(),
    };
    let refusal = Refusal {
        reason: denial.reason,
        rule: denial.rule.clone(),
        message: denial.message.clone(),
        launch: None,
    };
    Verdict::Refuse(response, refusal)
}

fn refuse(id: u64, reason: Reason, message: String) -> Verdict {
    let reply = Reply::Denied {
        reason,
        rule: None,
        message: message.clone(),
    };
    Verdict::Refuse(
        Response { id, reply },
        Refusal {
            reason,
            rule: None,
            message,
            launch: None,
        },
    )
}

fn unsupported(id: u64, message: &str) -> Verdict {
    refuse(id, Reason::Unsupported, message.to_owned())
}

fn too_often(rate: Rate, wait: Duration) -> String {
    format!(
        "the policy allows {} launches in {} s; the next one is possible in {} ms",
        rate.count,
        rate.per.as_secs(),
        wait.as_millis().max(1)
    )
}

/// The answer to an empty datagram.
#[must_use]
pub fn empty() -> Verdict {
    misunderstood(DecodeError::Empty)
}
