//! The socket to the launcher: orders out, directives in.
//!
//! An order goes as one datagram or not at all. What is said to a client never waits for the launcher; what the launcher
//! is told about (connections, denials) may.

use crate::socket;
use portcullis_wire::{Directive, Order, codec, limits};
use rustix::io::{Errno, IoSlice};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The largest directive in bytes: a whole line and what says whose it is.
const DIRECTIVE: usize = limits::LINE + 16 * 1024;

/// The broker's end of the link.
#[derive(Debug)]
pub struct Link {
    socket: AsyncFd<OwnedFd>,
    buffer: RefCell<Vec<u8>>,
}

/// An order was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The launcher has not read enough of what came before.
    #[error("the launcher is busy")]
    Full,
    /// There is no launcher.
    #[error("the launcher is gone")]
    Gone,
}

/// What the launcher says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A directive.
    Directive(Directive),
    /// Something that is none. It is not acted upon.
    Nonsense,
    /// It is gone.
    Gone,
}

impl Link {
    /// Takes the socket, which is non-blocking, into the event loop.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: socket::watch(socket, Interest::READABLE | Interest::WRITABLE)?,
            buffer: RefCell::new(vec![0; DIRECTIVE]),
        })
    }

    /// Sends an order if that is possible now, with the client's socket where one belongs to it.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn send(&self, order: &Order<'_>, client: Option<BorrowedFd<'_>>) -> Result<(), LinkError> {
        let bytes = codec::encode_unbounded(order).map_err(|_| LinkError::Full)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let clients;
        if let Some(client) = client {
            clients = [client];
            // One descriptor fits: the space is made for it.
            control.push(SendAncillaryMessage::ScmRights(&clients));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            return match sendmsg(
                self.socket.as_fd(),
                &[IoSlice::new(&bytes)],
                &mut control,
                flags,
            ) {
                Ok(_) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(LinkError::Gone),
                // Also too many descriptors under way, or no memory: the same to whoever asks.
                Err(_) => Err(LinkError::Full),
            };
        }
    }

    /// Sends an order as soon as that is possible.
    ///
    /// # Errors
    /// [`LinkError::Gone`].
    pub async fn tell(&self, order: &Order<'_>) -> Result<(), LinkError> {
        loop {
            let mut ready = self.socket.writable().await.map_err(|_| LinkError::Gone)?;
            match self.send(order, None) {
                Err(LinkError::Full) => ready.clear_ready(),
                done => return done,
            }
        }
    }

    /// Waits for what the launcher says.
    pub async fn hear(&self) -> Told {
        loop {
            let Ok(mut ready) = self.socket.readable().await else {
                return Told::Gone;
            };
            let mut buffer = self.buffer.borrow_mut();
            match rustix::net::recv(
                self.socket.as_fd(),
                &mut buffer[..],
                rustix::net::RecvFlags::DONTWAIT,
            ) {
                Ok((0, _)) => return Told::Gone,
                Ok((length, _)) => {
                    let directive = buffer.get(..length).map(codec::decode_owned::<Directive>);
                    return match directive {
                        Some(Ok(directive)) => Told::Directive(directive),
                        _ => Told::Nonsense,
                    };
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(_) => return Told::Gone,
            }
        }
    }
}
