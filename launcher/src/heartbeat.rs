//! Whether brokers answer. One that has connections and does not is killed, and another one is started, so
//! that its clients do not wait for ever.

use crate::service::Service;
use portcullis_wire::Directive;
use std::time::{Duration, Instant};

/// Between the answer to a heartbeat and the next one, while the broker has connections.
const BEAT: Duration = Duration::from_secs(5);
/// A broker that has not answered for so long is replaced.
const SILENT: Duration = Duration::from_secs(10);
/// How soon a heartbeat is sent again for which there was no room.
const NO_ROOM: Duration = Duration::from_millis(50);
/// How soon it is looked at again where what it has sent is still to be read.
const SOON: Duration = Duration::from_millis(10);

/// The heartbeats of one broker.
#[derive(Debug)]
pub(crate) struct Beat {
    /// The number of the last one.
    number: u64,
    /// Since when its answer is awaited, while it is.
    sent: Option<Instant>,
    /// There was room for it on the link.
    delivered: bool,
    /// When the next one is due.
    next: Instant,
}

impl Beat {
    /// The first one is due with the first connection.
    pub(crate) fn new() -> Self {
        Self {
            number: 0,
            sent: None,
            delivered: false,
            next: Instant::now(),
        }
    }

    /// Takes an answer. Whether it is one.
    pub(crate) fn answered(&mut self, number: u64) -> bool {
        let awaited = self.sent.is_some() && self.delivered && number == self.number;
        if awaited {
            self.sent = None;
            self.next = Instant::now() + BEAT;
        }
        awaited
    }
}

impl Service {
    /// Sees to it that every broker with connections answers; says when to look again.
    pub(crate) fn heartbeats(&mut self, now: Instant) -> Option<Instant> {
        let mut due: Option<Instant> = None;
        for child in &mut self.children {
            if child.broker.ready.is_none() || self.connections.of(child.key) == 0 {
                continue;
            }
            let beat = &mut child.beat;
            if beat.sent.is_none() && now >= beat.next {
                beat.number += 1;
                beat.sent = Some(now);
                beat.delivered = false;
            }
            if let Some(sent) = beat.sent {
                // A link that is full counts as not read, and the time begins anew when there is room.
                if !beat.delivered && child.broker.direct(&Directive::Heartbeat(beat.number)) {
                    beat.delivered = true;
                    beat.sent = Some(now);
                // What it has sent may stand behind what this launcher has not come to read.
                } else if now >= sent + SILENT && !child.broker.has_sent() {
                    tracing::error!(
                        agent = self.options.agent.as_str(),
                        "the broker has not answered for {} s; killed",
                        SILENT.as_secs()
                    );
                    child.broker.kill();
                    beat.sent = Some(now);
                }
            }
            let next = match beat.sent {
                Some(sent) if beat.delivered => sent + SILENT,
                Some(_) => now + NO_ROOM,
                None => beat.next,
            };
            let next = next.max(now + SOON);
            due = Some(due.map_or(next, |due| due.min(next)));
        }
        due
    }
}
