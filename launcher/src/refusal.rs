//! While no broker can be started, clients are told so instead of being left to wait: by the launcher, which accepts a
//! connection, says one sentence and closes it. It reads not a byte of what they sent.

use crate::answer::failed;
use crate::listener::accept;
use crate::service::{Service, key};
use portcullis_wire::{Reason, Response, codec};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// So many in a row, then everybody else.
const TURN: usize = 64;
/// How long nobody is turned away after so many, or after that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// So many requests of one connection are thrown away; whoever has sent more sees its end without an answer.
const REQUESTS: usize = 64;

impl Service {
    /// Begins or ends to turn clients away.
    pub(crate) fn turn_clients_away(&mut self, now: bool) {
        self.turn_away_at = None;
        let Some(listener) = self.listener.as_ref().filter(|_| now != self.turning_away) else {
            return;
        };
        let listener = listener.as_fd();
        let done = if now {
            // A broker sets this, too, and none has come so far; the socket is the same.
            rustix::io::ioctl_fionbio(listener, true)
                .map_err(Into::into)
                .and_then(|()| self.add(key::CLIENTS, listener))
        } else {
            epoll::delete(&self.epoll, listener).map_err(Into::into)
        };
        match done {
            Ok(()) => self.turning_away = now,
            Err(error) => tracing::error!(
                agent = self.options.agent.as_str(), %error,
                "the agent's socket cannot be watched"
            ),
        }
    }

    /// Somebody connects while nobody serves.
    pub(crate) fn client_is_turned_away(&mut self) {
        let message = "Portcullis cannot start its broker on this host; its log says why, and the operator has to mend it";
        let reply = failed(Reason::Internal, message);
        let Ok(bytes) = codec::encode(&Response { id: 0, reply }) else {
            return;
        };
        for _ in 0..TURN {
            let Some(listener) = &self.listener else {
                return;
            };
            let client = match accept(listener.as_fd()) {
                Ok(Some(client)) => client,
                Ok(None) => return,
                Err(_) => break,
            };
            throw_away(client.as_fd());
            // Whoever is gone, or has no room for a sentence, needs none.
            let _ = send(&client, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
        // A flood, or no descriptor to be had: neither may keep the launcher busy.
        self.turn_clients_away(false);
        self.turn_away_at = Some(Instant::now() + PAUSE);
    }

    /// Goes on turning clients away when the pause is over; says when that will be.
    pub(crate) fn turn_away_again(&mut self, now: Instant) -> Option<Instant> {
        let at = self.turn_away_at?;
        if now < at {
            return Some(at);
        }
        self.turn_away_at = None;
        self.turn_clients_away(true);
        None
    }
}

/// Takes what a client has sent out of the socket, unread: closing it with something in it would look like an error, and
/// hide the answer. (Nothing is copied into a buffer that has no room, and descriptors are closed by the kernel.)
fn throw_away(client: BorrowedFd<'_>) {
    for _ in 0..REQUESTS {
        match recv(
            client,
            &mut [0_u8; 0][..],
            RecvFlags::DONTWAIT | RecvFlags::TRUNC,
        ) {
            Ok((_, length)) if length > 0 => {}
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}
