//! Which way a launch goes: over the broker's socket, into a spool, or into a spool where no broker is.

use crate::asked::AskedError;
use crate::spool::Spool;
use crate::whom::Whom;
use lexopt::ValueExt;
use portcullis_wire::Launch;
use std::path::PathBuf;

/// Which way a question goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Over the socket alone.
    Socket,
    /// Over the socket; into this spool, if it is there, where nobody could be reached.
    SocketElseSpool(Spool),
    /// Into this spool alone.
    Spool(Spool),
}

/// The options of `run` that choose it.
#[derive(Debug, Default)]
pub(crate) struct Options {
    transport: Option<Transport>,
    dir: Option<PathBuf>,
    lock: Option<PathBuf>,
    legacy: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Socket,
    Spool,
}

impl Options {
    /// Takes the value of `--transport`.
    pub(crate) fn take_transport(&mut self, parser: &mut lexopt::Parser) -> Result<(), AskedError> {
        let value = parser.value()?.string()?;
        self.transport = Some(match value.as_str() {
            "socket" => Transport::Socket,
            "spool" => Transport::Spool,
            _ => {
                return Err(AskedError::Usage(format!(
                    "--transport {value:?}: it is `socket` or `spool`"
                )));
            }
        });
        Ok(())
    }

    /// Takes the value of `--spool`.
    pub(crate) fn take_spool(&mut self, parser: &mut lexopt::Parser) -> Result<(), AskedError> {
        self.dir = Some(parser.value()?.into());
        Ok(())
    }

    /// Takes the value of `--lock`.
    pub(crate) fn take_lock(&mut self, parser: &mut lexopt::Parser) -> Result<(), AskedError> {
        self.lock = Some(parser.value()?.into());
        Ok(())
    }

    /// Takes `--legacy`.
    pub(crate) fn take_legacy(&mut self) {
        self.legacy = true;
    }

    /// The way of that launch.
    pub(crate) fn way(self, whom: &Whom, launch: &Launch) -> Result<Way, AskedError> {
        let spool = [
            (
                self.transport == Some(Transport::Spool),
                "--transport spool",
            ),
            (self.dir.is_some(), "--spool"),
            (self.lock.is_some(), "--lock"),
            (self.legacy, "--legacy"),
        ];
        let Some((_, option)) = spool.into_iter().find(|(given, _)| *given) else {
            let by_itself = *whom == Whom::Broker && self.transport.is_none();
            let spool = Spool::of(&launch.command);
            return Ok(match spool {
                Some(spool) if by_itself && !launch.dry_run => Way::SocketElseSpool(spool),
                _ => Way::Socket,
            });
        };
        let socket = match whom {
            Whom::Socket(_) => Some("--socket"),
            Whom::Launcher(_) => Some("--agent"),
            Whom::Broker => None,
        };
        let socket =
            socket.or((self.transport == Some(Transport::Socket)).then_some("--transport socket"));
        if let Some(socket) = socket {
            return Err(AskedError::Usage(format!(
                "{socket} is for a launch over a socket, {option} for one through a spool: one of them is needed"
            )));
        }
        let spool = match self.dir {
            Some(dir) => Spool::new(dir),
            None => Spool::of(&launch.command).ok_or_else(|| {
                let message = format!(
                    "{:?} is no name of a directory, as a command's spool has it: --spool DIR says where it is",
                    launch.command
                );
                AskedError::Usage(message)
            })?,
        };
        Ok(Way::Spool(spool.with(self.lock, self.legacy)))
    }
}

#[cfg(test)]
#[path = "way_tests.rs"]
mod tests;
