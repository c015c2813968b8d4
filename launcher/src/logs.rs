//! What a side container has written, for an operator: as podman reads it, piece by piece, each reader on a thread of its
//! own, because an operator may read for as long as he likes.

use crate::answer::failed;
use crate::launch::Host;
use portcullis_wire::{Reason, Reply, Response, codec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most bytes of a piece.
pub(crate) const CHUNK: usize = 32 * 1024;
/// How many read at once.
const READERS: usize = 8;
/// A reader's stack in bytes.
const STACK: usize = 256 * 1024;

/// How long a removal waits for those who follow: podman notices an end within a quarter of a second, looks at the log once
/// more after another, and is done.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What is to be read.
#[derive(Debug)]
pub(crate) struct Log {
    /// The container's full ID.
    pub(crate) container: String,
    /// The last so many lines alone.
    pub(crate) tail: Option<u32>,
    /// Until the container ends.
    pub(crate) follow: bool,
}

/// The containers whose logs are followed, by their IDs. A log goes with its container, and podman takes no notice of what
/// was written there between its last look and that (measured: half of all last words were lost).
#[derive(Debug, Default)]
pub(crate) struct Followed {
    ids: Mutex<Vec<String>>,
    fewer: Condvar,
}

impl Followed {
    /// Waits until nobody follows that log any more, but no longer than somebody may take who reads.
    pub(crate) fn wait_for_last_words(&self, id: &str) {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let followed = |ids: &mut Vec<String>| ids.iter().any(|other| other == id);
        drop(self.fewer.wait_timeout_while(ids, LAST_WORDS, followed));
    }

    fn add(&self, id: &str) -> Follower<'_> {
        let id = id.to_owned();
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.push(id.clone());
        Follower { followed: self, id }
    }
}

/// Somebody who follows a log.
struct Follower<'a> {
    followed: &'a Followed,
    id: String,
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        let ids = &self.followed.ids;
        let mut ids = ids.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = ids.iter().position(|id| *id == self.id) {
            ids.swap_remove(at);
        }
        self.followed.fewer.notify_all();
    }
}

/// Those who read now: each has a copy.
#[derive(Debug, Default)]
pub(crate) struct Readers(Arc<()>);

/// A piece of an answer.
pub(crate) fn chunk(bytes: &[u8]) -> Reply {
    Reply::Chunk {
        bytes: bytes.to_vec(),
    }
}

impl Readers {
    /// Whether anybody reads.
    pub(crate) fn any(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Has a log read to whoever asked for it.
    pub(crate) fn read(&self, host: Arc<Host>, log: Log, client: OwnedFd, id: u64) {
        let reader = Arc::clone(&self.0);
        let operator = Operator { client, id };
        if Arc::strong_count(&reader) > READERS + 1 {
            operator.tell(Reply::Busy { retry_after: 1000 });
            return;
        }
        let thread = std::thread::Builder::new()
            .name("reader".to_owned())
            .stack_size(STACK);
        let spawned = thread.spawn(move || {
            operator.hears(&host, &log);
            drop(reader);
        });
        // The connection went with the thread that was not to be had, so the operator's client sees its end.
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread to read a log on");
        }
    }
}

struct Operator {
    client: OwnedFd,
    id: u64,
}

impl Operator {
    fn hears(&self, host: &Host, log: &Log) {
        let mut args = vec!["logs".to_owned()];
        args.extend(log.tail.map(|lines| format!("--tail={lines}")));
        args.extend(log.follow.then(|| "--follow".to_owned()));
        args.extend(["--".to_owned(), log.container.clone()]);
        let _follower = log.follow.then(|| host.engine.followed.add(&log.container));
        let deadline = host.engine.config().deadline;
        let (podman, pipe) = match host.engine.reader(&args) {
            Ok(reader) => reader,
            Err(error) => {
                let reply = failed(Reason::Engine, &error.to_string());
                self.tell(reply);
                return;
            }
        };
        let silence = (!log.follow).then_some(deadline);
        let read = self.pass_on(pipe, silence);
        let patience = match read {
            Ok(true) => Instant::now() + deadline,
            _ => Instant::now(),
        };
        let ended = host.engine.end(podman, patience);
        let reply = match (read, ended) {
            // Nobody is there any more.
            (Ok(false), _) => return,
            (Ok(true), Some(status)) if status.success() => Reply::Done { exit: None },
            (Ok(true), Some(status)) => {
                let message = format!("podman logs: {status}; what it said stands above");
                failed(Reason::Engine, &message)
            }
            (Ok(true), None) => failed(Reason::Timeout, "podman logs has not ended in time"),
            (Err(error), _) => failed(Reason::Engine, &format!("podman logs: {error}")),
        };
        self.tell(reply);
    }

    /// Passes on what comes, to its end; podman may be silent for so long. `false`: there is nobody any more to pass it on
    /// to.
    fn pass_on(&self, mut pipe: PipeReader, silence: Option<Duration>) -> io::Result<bool> {
        let mut piece = vec![0; CHUNK];
        loop {
            let until = silence.map(|silence| Instant::now() + silence);
            // The end of the connection shows without being asked for.
            let (pipe_fd, client) = (pipe.as_fd(), self.client.as_fd());
            let [readable, gone] = ready(
                [(pipe_fd, PollFlags::IN), (client, PollFlags::empty())],
                until,
            )?;
            if gone {
                return Ok(false);
            }
            if !readable {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let length = match pipe.read(&mut piece) {
                Ok(0) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if !self.tell(chunk(piece.get(..length).unwrap_or_default())) {
                return Ok(false);
            }
        }
    }

    /// Sends a reply. A reader may take its time (a pager does); `false`: it is gone.
    fn tell(&self, reply: Reply) -> bool {
        let id = self.id;
        let Ok(bytes) = codec::encode(&Response { id, reply }) else {
            return false;
        };
        loop {
            match send(
                &self.client,
                &bytes,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(_) => return true,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN)
                    if matches!(
                        ready([(self.client.as_fd(), PollFlags::OUT)], None),
                        Ok([true])
                    ) => {}
                Err(_) => {
                    // What was sent until now is not all, and must not look as if it were.
                    let _ = shutdown(&self.client, Shutdown::Both);
                    return false;
                }
            }
        }
    }
}

/// Which of these are ready, or at their end; none, when the time is over.
fn ready<const N: usize>(
    fds: [(BorrowedFd<'_>, PollFlags); N],
    until: Option<Instant>,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags));
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut polled, left.as_ref()) {
            Ok(_) => return Ok(polled.map(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
