//! While no broker can be started, clients are told so instead of being left to wait: by the launcher, which accepts a
//! connection, says one sentence and closes it. It reads not a byte of what they sent.

use crate::answer::failed;
use crate::connections::Connection;
use crate::service::Service;
use portcullis_wire::{Reason, Response, codec};
use rustix::net::{SendFlags, send};

impl Service {
    /// Begins or ends to turn clients away.
    pub(crate) fn turn_clients_away(&mut self, now: bool) {
        self.connections.turning_away = now;
    }

    /// Somebody has connected while nobody serves.
    pub(crate) fn turn_away(&self, client: &Connection) {
        let message = "Portcullis cannot start its broker on this host; its log says why, and the operator has to mend it";
        let reply = failed(Reason::Internal, message);
        let Ok(bytes) = codec::encode(&Response { id: 0, reply }) else {
            return;
        };
        // A client that is gone, or has no room for the sentence, does not need it.
        let _ = send(client, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}
