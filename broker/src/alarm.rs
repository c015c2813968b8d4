//! Receiving on kernels before Linux 6.16, which cannot be told that a connection takes no descriptors.
//!
//! What a client attaches is dropped as the datagram is received, and dropping it may block for as long as the client
//! likes: a TCP socket that lingers waits for its peer. A signal ends that wait, so one is on its way meanwhile.

use rustix::io::Errno;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// How long one receive may block, in microseconds.
const LONGEST: libc::suseconds_t = 20_000;

static RANG: AtomicBool = AtomicBool::new(false);

extern "C" fn ring(_: libc::c_int) {
    RANG.store(true, Ordering::Relaxed);
}

/// Has the signal interrupt what it finds, instead of ending this process. To be called before the sandbox is closed.
///
/// # Errors
/// When the handler cannot be set.
#[allow(unsafe_code)]
pub fn install() -> io::Result<()> {
    // SAFETY: all zeroes are a valid `sigaction`: no flags, so nothing is restarted, and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int) = ring;
    action.sa_sigaction = handler as usize;
    // SAFETY: the handler stores to an atomic and does nothing else; the old action is not asked for.
    match unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Does something that may block and that a signal ends, and says whether it took so long that one came.
pub fn bounded<T>(blocking: impl FnOnce() -> T) -> (T, bool) {
    RANG.store(false, Ordering::Relaxed);
    // Without a timer a receive that blocks for ever still ends: the launcher's heartbeat notices it.
    let _ = set(LONGEST);
    let result = blocking();
    let _ = set(0);
    (result, RANG.load(Ordering::Relaxed))
}

#[allow(unsafe_code)]
fn set(micros: libc::suseconds_t) -> Result<(), Errno> {
    let zero = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    let timer = libc::itimerval {
        // Again and again: several descriptors of one datagram may block one after the other.
        it_interval: libc::timeval {
            tv_usec: micros,
            ..zero
        },
        it_value: libc::timeval {
            tv_usec: micros,
            ..zero
        },
    };
    // SAFETY: the timer is a live variable that the call only reads; the old one is not asked for. (By its number: musl and
    // glibc differ in the type of the first argument.)
    let result = unsafe {
        libc::syscall(
            libc::SYS_setitimer,
            libc::ITIMER_REAL,
            &raw const timer,
            std::ptr::null_mut::<libc::itimerval>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::INVAL)
    }
}
