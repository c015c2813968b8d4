//! Words to the service manager (sd_notify(3)): ready, reloading, stopping, a status line, the watchdog.
//!
//! They never block. The manager may be slow to read, and what it has to be told can be caused from outside: a launcher
//! that waits for it serves nobody. Words that find no room are said later; of a status line only the next one is.

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with,
};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

/// The service manager; nobody, where there is none.
#[derive(Debug)]
pub(crate) struct Manager {
    listens: Option<(OwnedFd, SocketAddrUnix)>,
    watchdog: Option<Watchdog>,
    unsaid: VecDeque<String>,
}

/// The pause before words that found no room are tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// So many are kept, of a manager that does not listen for minutes.
const UNSAID: usize = 64;

/// The manager ends a service that is silent for three times this pause.
#[derive(Debug)]
struct Watchdog {
    pause: Duration,
    next: Instant,
}

impl Manager {
    /// The one that NOTIFY_SOCKET names, which wants to hear every WATCHDOG_USEC at the latest where that is set.
    ///
    /// # Errors
    /// When the name is none of a socket, or no socket is to be had.
    pub(crate) fn from_environment() -> io::Result<Self> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
            return Ok(Self {
                listens: None,
                watchdog: None,
                unsaid: VecDeque::new(),
            });
        };
        let name = name.into_vec();
        let address = match name.strip_prefix(b"@") {
            Some(name) => SocketAddrUnix::new_abstract_name(name)?,
            None => SocketAddrUnix::new(name)?,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let mine = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let pause = number("WATCHDOG_USEC").filter(|&usec| usec > 2 && mine);
        Ok(Self {
            listens: Some((socket, address)),
            watchdog: pause.map(|usec| Watchdog {
                pause: Duration::from_micros(usec / 3),
                next: Instant::now(),
            }),
            unsaid: VecDeque::new(),
        })
    }

    /// Tells it so, now or later; one assignment a line.
    pub(crate) fn tell(&mut self, words: String) {
        if self.unsaid.len() < UNSAID {
            self.unsaid.push_back(words);
        }
        self.say();
    }

    /// Tells it what is out of date soon, if it listens now; says whether it did.
    pub(crate) fn mention(&self, words: &str) -> bool {
        self.unsaid.is_empty() && self.send(words)
    }

    /// Says what is due: that this process is at work, and what found no room. Gives the time at which more will be due.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Instant> {
        self.say();
        let mut next = (!self.unsaid.is_empty()).then(|| now + AGAIN);
        if let Some(watchdog) = &self.watchdog {
            let at = if watchdog.next > now {
                watchdog.next
            } else if self.send("WATCHDOG=1") {
                now + watchdog.pause
            } else {
                now + AGAIN
            };
            next = next.into_iter().chain([at]).min();
            if let Some(watchdog) = &mut self.watchdog {
                watchdog.next = at;
            }
        }
        next
    }

    fn say(&mut self) {
        while let Some(words) = self.unsaid.front()
            && self.send(words)
        {
            self.unsaid.pop_front();
        }
    }

    /// `false`: there was no room.
    fn send(&self, words: &str) -> bool {
        let Some((socket, address)) = &self.listens else {
            return true;
        };
        match sendto(socket, words.as_bytes(), SendFlags::NOSIGNAL, address) {
            Err(Errno::AGAIN | Errno::NOBUFS) => false,
            Err(error) => {
                tracing::warn!(%error, "the service manager could not be told: {}", words.escape_default());
                true
            }
            Ok(_) => true,
        }
    }
}
