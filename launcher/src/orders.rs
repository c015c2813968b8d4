//! What becomes of each order of a broker.
//!
//! None is believed: a connection is one that this very broker was handed, a request is decided again, and a message that no
//! honest broker sends ends the one that sent it.

use crate::broker;
use crate::service::Service;
use portcullis_policy::Rate;
use portcullis_wire::Order;
use std::time::Duration;

/// How often a broker may report denials. An honest one does once a second; a launcher that was busy hears several at once.
const REPORTS: Rate = Rate {
    count: 8,
    per: Duration::from_secs(8),
};
/// The most kinds of denials in a report.
const KINDS: usize = 64;

impl Service {
    /// Does what an order says. `Err` says how the broker broke the protocol.
    pub(crate) fn order(&mut self, at: usize, bytes: &[u8]) -> Result<(), String> {
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
            .is_some_and(|child| child.overflows.take(REPORTS));
        if told {
            tracing::warn!(
                agent = self.options.agent.as_str(),
                requests = number,
                "the link to the launcher was full; clients were told to try again"
            );
        }
    }
}
