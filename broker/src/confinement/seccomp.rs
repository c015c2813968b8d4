//! The layer `seccomp`: the system calls that serving takes, and no other. Anything else ends the process.
//!
//! The list was read off the running broker with glibc, static and dynamic, optimised and not; mprotect and madvise are
//! for musl's allocator. It has nothing that makes a descriptor other than accepting a connection, nothing that takes a path,
//! a process or a user, and nothing that makes memory executable. A kill and not an error, because whoever makes another
//! call is no longer us; abort(3) ends by it too, once the panic's message has been written.

use libc::c_long;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;

/// The filter cannot be made or set.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// It cannot be made.
    #[error("the filter cannot be made: {0}")]
    Make(#[from] seccompiler::BackendError),
    /// The kernel does not take it.
    #[error("the kernel does not take the filter: {0}")]
    Set(#[from] seccompiler::Error),
}

/// Filters the system calls of the calling thread, for ever.
///
/// # Errors
/// [`SeccompError`].
pub fn close() -> Result<(), SeccompError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(
        allowed()?,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        arch,
    )?;
    let program: seccompiler::BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
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
    // The event loop's own descriptor, and the log.
    libc::SYS_read,
    libc::SYS_write,
    // Datagrams of clients, and orders.
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_close,
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

/// An argument's place, and the bits of it that must have the value.
struct Argument(u8, u64, u64);

const WHOLE: u64 = 0xffff_ffff;

/// Allowed if each of the arguments, of which the lower 32 bits count, is as it says.
fn filtered() -> Vec<(c_long, Vec<Argument>)> {
    let bits = |value: libc::c_int| u64::from(value.cast_unsigned());
    let executable = bits(libc::PROT_EXEC);
    let anonymous = bits(libc::MAP_ANONYMOUS);
    vec![
        (
            libc::SYS_accept4,
            vec![Argument(
                3,
                WHOLE,
                bits(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK),
            )],
        ),
        (
            libc::SYS_shutdown,
            vec![Argument(1, WHOLE, bits(libc::SHUT_RD))],
        ),
        (
            libc::SYS_getsockopt,
            vec![
                Argument(1, WHOLE, bits(libc::SOL_SOCKET)),
                Argument(2, WHOLE, bits(libc::SO_PEERCRED)),
            ],
        ),
        (
            libc::SYS_mmap,
            vec![
                Argument(2, executable, 0),
                Argument(3, anonymous, anonymous),
            ],
        ),
        (libc::SYS_mprotect, vec![Argument(2, executable, 0)]),
        (
            libc::SYS_madvise,
            vec![Argument(2, WHOLE, bits(libc::MADV_FREE))],
        ),
        (
            libc::SYS_madvise,
            vec![Argument(2, WHOLE, bits(libc::MADV_DONTNEED))],
        ),
        // Whether a descriptor is open, as the standard library checks in debug builds before it closes one.
        (
            libc::SYS_fcntl,
            vec![Argument(1, WHOLE, bits(libc::F_GETFD))],
        ),
        // Waking nobody, as a condition variable does when the runtime is taken down.
        (
            libc::SYS_futex,
            vec![Argument(
                1,
                WHOLE,
                bits(libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG),
            )],
        ),
    ]
}

fn allowed() -> Result<BTreeMap<i64, Vec<SeccompRule>>, SeccompError> {
    let mut rules = BTreeMap::new();
    for call in PLAIN {
        rules.insert(number(*call), Vec::new());
    }
    for (call, arguments) in filtered() {
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
    let conditions = arguments.iter().map(|Argument(place, mask, value)| {
        let bits = SeccompCmpOp::MaskedEq(*mask);
        SeccompCondition::new(*place, SeccompCmpArgLen::Dword, bits, *value)
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
