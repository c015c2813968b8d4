//! What an attacker in the broker's place would try: a table of system calls.

use crate::injection::Argument::{self, Bytes, Number};

/// A call that a broker has no use for and an attacker has.
pub struct Attack {
    pub name: &'static str,
    pub call: libc::c_long,
    pub arguments: Vec<Argument>,
    /// An unconfined process of the same test succeeds with it; else it is only seen not to be killed.
    pub succeeds: bool,
}

pub const AT_FDCWD: Argument = Number(-100_i64 as u64);
pub const PATH: Argument = Bytes(b"/etc/passwd\0");
const NEW: Argument = Bytes(b"/tmp/portcullis-test-injected\0");
const JOURNAL: Argument = Bytes(b"\x01\x00/run/systemd/journal/socket\0");
/// As the broker has them: the link, and the connection of the test's first client.
const LINK: Argument = Number(3);
const CLIENT: Argument = Number(7);
pub const NONE: Argument = Number(0);
const ABSTRACT: Argument = Bytes(b"\x01\x00\0portcullis-test-nobody-listens");
pub const LOOPBACK: Argument = Bytes(b"\x02\x00\x1f\x90\x7f\x00\x00\x01\0\0\0\0\0\0\0\0");

fn attack(
    name: &'static str,
    call: libc::c_long,
    arguments: &[Argument],
    succeeds: bool,
) -> Attack {
    Attack {
        name,
        call,
        arguments: arguments.to_vec(),
        succeeds,
    }
}

/// `bystander` is a process of the broker's own user.
#[rustfmt::skip]
pub fn attacks(bystander: u64) -> Vec<Attack> {
    let unix = Number(libc::AF_UNIX as u64);
    let seqpacket = Number(libc::SOCK_SEQPACKET as u64);
    let pid = Number(bystander);
    let creating = Number((libc::O_CREAT | libc::O_WRONLY) as u64);
    vec![
        #[cfg(target_arch = "x86_64")]
        attack("open", libc::SYS_open, &[PATH, NONE, NONE], true),
        attack("openat", libc::SYS_openat, &[AT_FDCWD, PATH, NONE, NONE], true),
        attack("openat, creating", libc::SYS_openat, &[AT_FDCWD, NEW, creating, Number(0o600)], true),
        attack("openat2", libc::SYS_openat2, &[AT_FDCWD, PATH, Bytes(&[0; 24]), Number(24)], true),
        #[cfg(target_arch = "x86_64")]
        attack("stat", libc::SYS_stat, &[PATH, Bytes(&[0; 256])], true),
        attack("newfstatat", libc::SYS_newfstatat, &[AT_FDCWD, PATH, Bytes(&[0; 256]), NONE], true),
        attack("statx", libc::SYS_statx, &[AT_FDCWD, PATH, NONE, Number(0xfff), Bytes(&[0; 256])], true),
        attack("faccessat", libc::SYS_faccessat, &[AT_FDCWD, PATH, NONE], true),
        attack("readlinkat", libc::SYS_readlinkat, &[AT_FDCWD, Bytes(b"/proc/self/exe\0"), Bytes(&[0; 64]), Number(64)], true),
        attack("getcwd", libc::SYS_getcwd, &[Bytes(&[0; 256]), Number(256)], true),
        attack("fchmodat", libc::SYS_fchmodat, &[AT_FDCWD, NEW, Number(0o600)], true),
        #[cfg(target_arch = "x86_64")]
        attack("chmod", libc::SYS_chmod, &[NEW, Number(0o600)], true),
        attack("fchownat", libc::SYS_fchownat, &[AT_FDCWD, NEW, Number(u64::MAX), Number(u64::MAX), NONE], true),
        attack("unlinkat", libc::SYS_unlinkat, &[AT_FDCWD, NEW, NONE], true),
        attack("mkdirat", libc::SYS_mkdirat, &[AT_FDCWD, Bytes(b"/etc\0"), Number(0o700)], false),
        attack("inotify_init1", libc::SYS_inotify_init1, &[NONE], true),
        attack("socket", libc::SYS_socket, &[unix, seqpacket, NONE], true),
        attack("socket, internet", libc::SYS_socket, &[Number(2), Number(1), NONE], true),
        attack("socketpair", libc::SYS_socketpair, &[unix, seqpacket, NONE, Bytes(&[0; 8])], true),
        attack("connect", libc::SYS_connect, &[Number(4), ABSTRACT, Number(33)], false),
        attack("bind", libc::SYS_bind, &[Number(4), ABSTRACT, Number(33)], false),
        attack("listen", libc::SYS_listen, &[Number(4), Number(1)], false),
        attack("accept", libc::SYS_accept, &[LINK, NONE, NONE], false),
        attack("accept4", libc::SYS_accept4, &[LINK, NONE, NONE, Number(0o2_004_000)], false),
        attack("sendmsg, over the link", libc::SYS_sendmsg, &[LINK, Bytes(&[0; 56]), NONE], false),
        attack("sendmsg, to a client", libc::SYS_sendmsg, &[CLIENT, Bytes(&[0; 56]), NONE], false),
        attack("sendmmsg", libc::SYS_sendmmsg, &[LINK, Bytes(&[0; 64]), Number(1), NONE], false),
        attack("recvmsg, from a client", libc::SYS_recvmsg, &[CLIENT, Bytes(&[0; 56]), Number(0x40)], false),
        attack("recvmmsg", libc::SYS_recvmmsg, &[LINK, Bytes(&[0; 64]), Number(1), Number(0x40), NONE], false),
        attack("read, from a client", libc::SYS_read, &[CLIENT, Bytes(&[0; 8]), Number(8)], false),
        attack("write, to a client", libc::SYS_write, &[CLIENT, PATH, Number(8)], false),
        attack("close, the log", libc::SYS_close, &[Number(2)], false),
        attack("close, the link", libc::SYS_close, &[LINK], false),
        attack("close, the event loop", libc::SYS_close, &[Number(4)], false),
        attack("close_range", libc::SYS_close_range, &[LINK, Number(8), NONE], false),
        attack("shutdown, the link", libc::SYS_shutdown, &[LINK, NONE], false),
        attack("getsockopt, peer", libc::SYS_getsockopt, &[CLIENT, Number(1), Number(17), Bytes(&[0; 12]), Bytes(&[12, 0, 0, 0])], false),
        attack("setitimer, of processor time", libc::SYS_setitimer, &[Number(2), NONE, NONE], false),
        attack("sendto, by path", libc::SYS_sendto, &[CLIENT, PATH, Number(1), NONE, JOURNAL, Number(31)], false),
        attack("sendto, elsewhere", libc::SYS_sendto, &[Number(4), PATH, Number(1), NONE, ABSTRACT, Number(33)], false),
        attack("shutdown, writing", libc::SYS_shutdown, &[Number(4), Number(1)], false),
        attack("getsockopt, pidfd", libc::SYS_getsockopt, &[Number(4), Number(1), Number(77), Bytes(&[0; 4]), Bytes(&[4, 0, 0, 0])], false),
        attack("setsockopt", libc::SYS_setsockopt, &[Number(4), Number(1), Number(16), Bytes(&[1, 0, 0, 0]), Number(4)], false),
        attack("execve", libc::SYS_execve, &[Bytes(b"/nonexistent\0"), NONE, NONE], false),
        attack("execveat", libc::SYS_execveat, &[AT_FDCWD, Bytes(b"/nonexistent\0"), NONE, NONE, NONE], false),
        attack("clone", libc::SYS_clone, &[Number(libc::SIGCHLD as u64 | 0x4000), NONE, NONE, NONE, NONE], false),
        attack("clone3", libc::SYS_clone3, &[NONE, NONE], false),
        #[cfg(target_arch = "x86_64")]
        attack("fork", libc::SYS_fork, &[], true),
        attack("ptrace", libc::SYS_ptrace, &[Number(0x4206), pid, NONE, NONE], true),
        attack("process_vm_readv", libc::SYS_process_vm_readv, &[pid, NONE, NONE, NONE, NONE, NONE], true),
        attack("kill of another", libc::SYS_kill, &[pid, NONE], true),
        attack("kill of all", libc::SYS_kill, &[Number(u64::MAX), NONE], true),
        attack("tgkill", libc::SYS_tgkill, &[pid, pid, NONE], true),
        attack("pidfd_open", libc::SYS_pidfd_open, &[pid, NONE], true),
        attack("prlimit64", libc::SYS_prlimit64, &[NONE, Number(7), NONE, NONE], true),
        attack("setuid", libc::SYS_setuid, &[NONE], true),
        attack("setresuid", libc::SYS_setresuid, &[NONE, NONE, NONE], true),
        attack("setgroups", libc::SYS_setgroups, &[NONE, NONE], true),
        attack("capset", libc::SYS_capset, &[NONE, NONE], false),
        attack("mount", libc::SYS_mount, &[PATH, PATH, NONE, Number(4096), NONE], true),
        attack("umount2", libc::SYS_umount2, &[Bytes(b"/etc/passwd\0"), NONE], true),
        attack("open_tree", libc::SYS_open_tree, &[AT_FDCWD, Bytes(b"/\0"), NONE], true),
        attack("fsopen", libc::SYS_fsopen, &[Bytes(b"tmpfs\0"), NONE], true),
        attack("unshare", libc::SYS_unshare, &[Number(0x0002_0000)], true),
        attack("unshare, user", libc::SYS_unshare, &[Number(0x1000_0000)], true),
        attack("setns", libc::SYS_setns, &[Number(4), NONE], false),
        attack("chroot", libc::SYS_chroot, &[Bytes(b"/\0")], true),
        attack("chdir", libc::SYS_chdir, &[Bytes(b"/\0")], true),
        attack("memfd_create", libc::SYS_memfd_create, &[Bytes(b"x\0"), NONE], true),
        attack("mmap, executable", libc::SYS_mmap, &[NONE, Number(4096), Number(5), Number(0x22), Number(u64::MAX), NONE], true),
        attack("mmap, of a file", libc::SYS_mmap, &[NONE, Number(4096), Number(1), Number(2), Number(u64::MAX), NONE], false),
        attack("mprotect, executable", libc::SYS_mprotect, &[NONE, Number(4096), Number(5)], false),
        attack("ioctl", libc::SYS_ioctl, &[Number(2), Number(0x5412), Bytes(b"x\0")], false),
        attack("fcntl, owner", libc::SYS_fcntl, &[Number(4), Number(8), pid], false),
        attack("dup", libc::SYS_dup, &[Number(2)], true),
        attack("pipe2", libc::SYS_pipe2, &[Bytes(&[0; 8]), NONE], true),
        attack("prctl", libc::SYS_prctl, &[Number(4), Number(1), NONE, NONE, NONE], true),
        attack("seccomp", libc::SYS_seccomp, &[Number(2), NONE, Bytes(&[0; 4])], false),
        attack("io_uring_setup", libc::SYS_io_uring_setup, &[Number(1), Bytes(&[0; 128])], false),
        attack("bpf", libc::SYS_bpf, &[NONE, Bytes(&[0; 128]), Number(128)], false),
        attack("userfaultfd", libc::SYS_userfaultfd, &[Number(1)], false),
        attack("keyctl", libc::SYS_keyctl, &[NONE, Number(-3_i64 as u64), NONE], false),
        attack("add_key", libc::SYS_add_key, &[Bytes(b"user\0"), Bytes(b"x\0"), Bytes(b"x\0"), Number(1), Number(-3_i64 as u64)], false),
        attack("perf_event_open", libc::SYS_perf_event_open, &[Bytes(&[0; 128]), NONE, NONE, Number(u64::MAX), NONE], false),
        attack("futex, waiting", libc::SYS_futex, &[Bytes(&[0; 4]), Number(128), Number(1), NONE], false),
        attack("timer_create", libc::SYS_timer_create, &[NONE, NONE, Bytes(&[0; 8])], true),
        attack("uname", libc::SYS_uname, &[Bytes(&[0; 512])], true),
        attack("a number that is no call", 4000, &[], false),
        #[cfg(target_arch = "x86_64")]
        attack("write, by its number for x32", libc::SYS_write | 0x4000_0000, &[Number(2), PATH, Number(0)], false),
    ]
}
