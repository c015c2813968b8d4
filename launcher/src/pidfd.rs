//! A process that cannot be mistaken for another one: a pidfd, or a number and a start time.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

/// The pause between two looks at a child for which there is no descriptor.
const LOOK: Duration = Duration::from_millis(20);

/// A process.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl Pidfd {
    /// The process that has this number now.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(pid: Pid) -> io::Result<Self> {
        Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Whether it has ended (a zombie has).
    #[must_use]
    pub fn has_ended(&self) -> bool {
        // What cannot be asked is taken for ended: nothing is claimed about a process that is not seen.
        self.wait_ended(Some(Instant::now())).unwrap_or(true)
    }

    /// Waits for its end, for ever or until then. `false`: it lives.
    ///
    /// # Errors
    /// When poll fails.
    pub fn wait_ended(&self, until: Option<Instant>) -> io::Result<bool> {
        wait_readable(self.as_fd(), until)
    }
}

/// A descriptor of a child that was not waited for yet, if one is to be had.
pub(crate) fn pidfd_of(child: &Child) -> Option<Pidfd> {
    Pidfd::open(Pid::from_raw(i32::try_from(child.id()).ok()?)?).ok()
}

/// Waits for the end of a child, for ever or until then. `false`: it lives.
pub(crate) fn wait_ended(
    child: &mut Child,
    pidfd: Option<&Pidfd>,
    until: Option<Instant>,
) -> io::Result<bool> {
    if let Some(pidfd) = pidfd {
        return pidfd.wait_ended(until);
    }
    while child.try_wait()?.is_none() {
        if until.is_some_and(|until| until <= Instant::now()) {
            return Ok(false);
        }
        thread::sleep(LOOK);
    }
    Ok(true)
}

/// Waits until a descriptor has something to read, or its end: for ever or until then. `false`: it has nothing.
///
/// # Errors
/// When poll fails.
pub fn wait_readable(fd: BorrowedFd<'_>, until: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(|d| Timespec {
            tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: d.subsec_nanos().into(),
        });
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], left.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// When a process began, in clock ticks since boot: the 22nd field of its `stat`. The 2nd is its own to choose, and may
/// hold blanks and brackets. `None`: there is no such process.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
