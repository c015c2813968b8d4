//! The layer `seccomp`: the system calls that serving takes, with the descriptors that they may name, and no other. Anything
//! else ends the process.
//!
//! The list was read off the running broker with glibc, static and dynamic, optimised and not; mprotect and madvise are
//! for musl's allocator. It has nothing that takes a path, a process or a user, and nothing that makes memory executable.
//! A descriptor comes in over the link alone, so from the launcher alone; nothing is sent to an address; and none of the
//! descriptors that the filter knows by number can be closed and its number be given to another. A kill and not an error,
//! because a process that makes another call is no longer ours; abort(3) ends by it too, once the panic's message has been written.

use crate::inheritance::LINK;
use libc::c_long;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

/// The filter cannot be made or set.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// It cannot be made.
    #[error("the filter cannot be made: {0}")]
    Make(#[from] seccompiler::BackendError),
    /// No descriptor can be made to see which numbers are in use.
    #[error("dup: {0}")]
    Probe(#[from] rustix::io::Errno),
    /// The kernel does not take it.
    #[error("the kernel does not take the filter: {0}")]
    Set(#[from] seccompiler::Error),
}

/// Filters the system calls of the calling thread, for ever. Every descriptor that is open by then is protected: it cannot
/// be closed.
///
/// # Errors
/// [`SeccompError`].
pub fn close() -> Result<(), SeccompError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(
        allowed(first_free()?)?,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        arch,
    )?;
    let program: seccompiler::BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}

/// The lowest number that no descriptor has: connections get this one and those above.
fn first_free() -> Result<u64, SeccompError> {
    let probe = rustix::io::dup(rustix::stdio::stderr())?;
    Ok(u64::from(probe.as_raw_fd().unsigned_abs()))
}

/// Allowed whatever their arguments are.
const PLAIN: &[c_long] = &[
    // The event loop. Only what is open can be added, and nothing new can be opened.
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    // Is this the end of the connection, or an empty datagram?
    libc::SYS_ppoll,
    // Datagrams, without what may be attached to them.
    libc::SYS_recvfrom,
    // The clock, where the vDSO has none, and the seeds of hash tables.
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    // Memory. mmap and mprotect stand below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    // A panic says in which thread; a signal handler returns; the runtime takes its alternate stack down.
    libc::SYS_gettid,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What an argument has to be. The lower 32 bits of it count.
enum Argument {
    /// The bits of the mask have this value.
    Bits(u8, u64, u64),
    /// It is less.
    Below(u8, u64),
    /// It is as much or more.
    From(u8, u64),
}

use Argument::{Below, Bits, From};

const WHOLE: u64 = 0xffff_ffff;

/// Allowed if each of the arguments is as it says. `first` is the lowest descriptor that a connection can have.
fn filtered(first: u64) -> Vec<(c_long, Vec<Argument>)> {
    let bits = |value: libc::c_int| u64::from(value.cast_unsigned());
    let executable = bits(libc::PROT_EXEC);
    let anonymous = bits(libc::MAP_ANONYMOUS);
    vec![
        // Connections come over the link.
        (libc::SYS_recvmsg, vec![Bits(0, WHOLE, bits(LINK))]),
        // Connections alone.
        (libc::SYS_close, vec![From(0, first)]),
        // The event loop's own descriptor, and the log. Never a connection.
        (libc::SYS_read, vec![Below(0, first)]),
        (libc::SYS_write, vec![Below(0, first)]),
        (
            libc::SYS_shutdown,
            vec![From(0, first), Bits(1, WHOLE, bits(libc::SHUT_RD))],
        ),
        // Ends a receive that blocks.
        (
            libc::SYS_setitimer,
            vec![Bits(0, WHOLE, bits(libc::ITIMER_REAL))],
        ),
        (
            libc::SYS_mmap,
            vec![Bits(2, executable, 0), Bits(3, anonymous, anonymous)],
        ),
        (libc::SYS_mprotect, vec![Bits(2, executable, 0)]),
        (
            libc::SYS_madvise,
            vec![Bits(2, WHOLE, bits(libc::MADV_FREE))],
        ),
        (
            libc::SYS_madvise,
            vec![Bits(2, WHOLE, bits(libc::MADV_DONTNEED))],
        ),
        // Whether a descriptor is open, as the standard library checks in debug builds before it closes one.
        (libc::SYS_fcntl, vec![Bits(1, WHOLE, bits(libc::F_GETFD))]),
        // Waking nobody, as a condition variable does when the runtime is taken down.
        (
            libc::SYS_futex,
            vec![Bits(
                1,
                WHOLE,
                bits(libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG),
            )],
        ),
    ]
}

fn allowed(first: u64) -> Result<BTreeMap<i64, Vec<SeccompRule>>, SeccompError> {
    let mut rules = BTreeMap::new();
    for call in PLAIN {
        rules.insert(number(*call), Vec::new());
    }
    for (call, arguments) in filtered(first) {
        rules
            .entry(number(call))
            .or_default()
            .push(rule(&arguments)?);
    }
    // A datagram to nobody but the one at the other end: no address.
    rules.insert(number(libc::SYS_sendto), vec![no_address()?]);
    Ok(rules)
}

fn rule(arguments: &[Argument]) -> Result<SeccompRule, SeccompError> {
    let conditions = arguments.iter().map(|argument| {
        let (place, operator, value) = match *argument {
            Bits(place, mask, value) => (place, SeccompCmpOp::MaskedEq(mask), value),
            Below(place, value) => (place, SeccompCmpOp::Lt, value),
            From(place, value) => (place, SeccompCmpOp::Ge, value),
        };
        SeccompCondition::new(place, SeccompCmpArgLen::Dword, operator, value)
    });
    Ok(SeccompRule::new(conditions.collect::<Result<_, _>>()?)?)
}

fn no_address() -> Result<SeccompRule, SeccompError> {
    let null = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    Ok(SeccompRule::new(vec![null])?)
}

/// The same type everywhere: what `c_long` is differs between machines.
#[allow(clippy::useless_conversion)]
fn number(call: c_long) -> i64 {
    i64::from(call)
}
