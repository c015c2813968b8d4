//! The socket to the launcher: orders out, directives and connections in.
//!
//! No descriptor goes out over it, and none comes in but the connection of a [`Directive::Connection`]. An order goes as one datagram or not at all. What is said to a client never waits for the launcher; what the launcher
//! is told about (connections, denials) may.

use crate::socket;
use portcullis_wire::{Directive, Order, codec, limits};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};
use std::cell::RefCell;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The largest directive in bytes: a whole line and what says whose it is.
const DIRECTIVE: usize = limits::LINE + 16 * 1024;

/// The broker's end of the link.
#[derive(Debug)]
pub struct Link {
    /// It ends with the process: the system-call filter lets nobody close it.
    socket: ManuallyDrop<AsyncFd<OwnedFd>>,
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
#[derive(Debug)]
pub enum Told {
    /// A directive, with the connection's socket where one belongs to it and there was room for it.
    Directive(Directive, Option<OwnedFd>),
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
            socket: ManuallyDrop::new(socket::watch(
                socket,
                Interest::READABLE | Interest::WRITABLE,
            )?),
            buffer: RefCell::new(vec![0; DIRECTIVE]),
        })
    }

    /// Sends an order if that is possible now.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn send(&self, order: &Order<'_>) -> Result<(), LinkError> {
        let bytes = codec::encode_unbounded(order).map_err(|_| LinkError::Full)?;
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            return match send(self.socket.as_fd(), &bytes, flags) {
                Ok(_) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(LinkError::Gone),
                // Also when there is no memory: the caller does the same then.
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
            match self.send(order) {
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
            match self.receive() {
                Ok(told) => return told,
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(_) => return Told::Gone,
            }
        }
    }

    fn receive(&self) -> Result<Told, Errno> {
        let mut buffer = self.buffer.borrow_mut();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(
            self.socket.as_fd(),
            &mut [IoSliceMut::new(&mut buffer)],
            &mut control,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        )?;
        if got.bytes == 0 {
            return Ok(Told::Gone);
        }
        let connection = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        let directive = buffer.get(..got.bytes).map(codec::decode_owned);
        Ok(match directive {
            Some(Ok(directive)) => Told::Directive(directive, connection),
            _ => Told::Nonsense,
        })
    }
}
