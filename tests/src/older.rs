//! A host with an older kernel, as far as a program can tell: system calls that came with newer kernels fail as they did
//! before. Everything that the program starts is on that host, too.

#![allow(unsafe_code)]

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::thread;

const SO_PEERPIDFD: u64 = 77;
const SO_PASSRIGHTS: u64 = 83;
/// The low half of the request's number; the high half says how large its argument is, which differs.
const PIDFD_GET_INFO: u64 = 0xFF0B;

/// What a newer kernel has and an older one has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// A socket that refuses descriptors (Linux 6.16).
    PassRights,
    /// A pidfd of a socket's peer (Linux 6.5).
    PeerPidfd,
    /// What a pidfd knows (Linux 6.13).
    PidfdInfo,
    /// Landlock beyond ABI 1 (Linux 5.19).
    Landlock,
}

/// The host as it is, and an older one: what each of them is without.
pub const HOSTS: [&[Door]; 2] = [&[], &Door::ALL];

impl Door {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::PassRights,
        Self::PeerPidfd,
        Self::PidfdInfo,
        Self::Landlock,
    ];

    /// What has to fail so that it is closed.
    fn filters(self) -> Vec<BpfProgram> {
        let is = |argument, value| condition(argument, SeccompCmpOp::Eq, value);
        let is_not = |argument, value| condition(argument, SeccompCmpOp::Ne, value);
        let socket_option = |option| vec![is(1, libc::SOL_SOCKET as u64), is(2, option)];
        match self {
            Self::PassRights => vec![failing(
                libc::ENOPROTOOPT,
                &[
                    (libc::SYS_setsockopt, socket_option(SO_PASSRIGHTS)),
                    (libc::SYS_getsockopt, socket_option(SO_PASSRIGHTS)),
                ],
            )],
            Self::PeerPidfd => vec![failing(
                libc::ENOPROTOOPT,
                &[(libc::SYS_getsockopt, socket_option(SO_PEERPIDFD))],
            )],
            Self::PidfdInfo => {
                let request = condition(1, SeccompCmpOp::MaskedEq(0xFFFF), PIDFD_GET_INFO);
                vec![failing(libc::ENOTTY, &[(libc::SYS_ioctl, vec![request])])]
            }
            Self::Landlock => vec![
                failing(
                    libc::EINVAL,
                    &[
                        (libc::SYS_landlock_add_rule, vec![is_not(1, 1)]), // beneath a path
                        (libc::SYS_landlock_restrict_self, vec![is_not(1, 0)]), // no flags
                    ],
                ),
                asking(libc::SYS_landlock_create_ruleset),
            ],
        }
    }
}

/// Starts a program on a host without these.
///
/// # Errors
/// As starting any program, or when this host has no seccomp.
///
/// # Panics
/// When the program started and cannot be supervised.
pub fn spawn(command: &mut Command, without: &[Door]) -> io::Result<Child> {
    let prepared = prepare(command, without)?;
    let child = command.spawn()?;
    prepared.supervise();
    Ok(child)
}

/// Has a program be on a host without these from then on, before what else a command is told to do first.
///
/// # Errors
/// When there are no descriptors.
pub fn prepare(command: &mut Command, without: &[Door]) -> io::Result<Prepared> {
    if without.is_empty() {
        return Ok(Prepared(None));
    }
    let filters: Vec<_> = without.iter().flat_map(|door| door.filters()).collect();
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let install = move || {
        for filter in &filters {
            if let Some(listener) = install(filter)? {
                send(&theirs, listener.as_fd())?;
            }
        }
        Ok(())
    };
    // SAFETY: runs between fork and exec, and makes system calls alone: the filters were made before.
    unsafe { command.pre_exec(install) };
    Ok(Prepared(without.contains(&Door::Landlock).then_some(ours)))
}

/// A command that will start on an older host. What it asks there has to be answered once it has started.
#[derive(Debug)]
pub struct Prepared(Option<OwnedFd>);

impl Prepared {
    /// Answers, until nobody is left that could ask.
    ///
    /// # Panics
    /// When the program did not start.
    pub fn supervise(self) {
        if let Some(socket) = self.0 {
            let listener = receive(&socket).expect("the filter's listener");
            thread::spawn(move || while answer_next(&listener) {});
        }
    }
}

/// Whether this host's kernel has [`Door::PassRights`].
#[must_use]
pub fn has_pass_rights() -> bool {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let Ok((socket, _)) = socketpair(AddressFamily::UNIX, kind, flags, None) else {
        return false;
    };
    let no: libc::c_int = 0;
    // SAFETY: the value is a live variable of the length that is said.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS as libc::c_int,
            (&raw const no).cast(),
            size_of_val(&no) as libc::socklen_t,
        )
    };
    result == 0
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> SeccompCondition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).expect("a condition")
}

/// A filter by which these calls fail, each where its conditions hold.
fn failing(errno: i32, calls: &[(libc::c_long, Vec<SeccompCondition>)]) -> BpfProgram {
    let rule = |conditions: &Vec<_>| SeccompRule::new(conditions.clone()).expect("a rule");
    let rules = calls
        .iter()
        .map(|(call, conditions)| (*call, vec![rule(conditions)]));
    let errno = SeccompAction::Errno(errno.unsigned_abs());
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("an architecture");
    let filter = SeccompFilter::new(rules.collect(), SeccompAction::Allow, errno, arch);
    filter
        .expect("a filter")
        .try_into()
        .expect("a filter's program")
}

/// A filter that has a supervisor asked about that call: what fails can only be said with an error, and Landlock's version
/// is none.
fn asking(call: libc::c_long) -> BpfProgram {
    let instruction = |code: u32, k: u32, jf| sock_filter {
        code: u16::try_from(code).expect("a short code"),
        jt: 0,
        jf,
        k,
    };
    let call = u32::try_from(call).expect("a small number");
    vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0), // the call's number
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call, 1),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF, 0),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ]
}

/// Puts the calling process behind a filter, and gives the listener of one that asks. Unlike seccompiler's own way, this
/// leaves `no_new_privs` alone, which is one of the broker's layers.
fn install(filter: &BpfProgram) -> io::Result<Option<OwnedFd>> {
    let asks = filter.iter().any(|i| i.k == libc::SECCOMP_RET_USER_NOTIF);
    let flags = if asks {
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
    } else {
        0
    };
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the program is as long as it says, and only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match i32::try_from(result) {
        // SAFETY: the kernel has just made this descriptor.
        Ok(listener @ 1..) => Ok(Some(unsafe { OwnedFd::from_raw_fd(listener) })),
        Ok(0) => Ok(None),
        _ => Err(io::Error::last_os_error()),
    }
}

fn send(socket: &OwnedFd, listener: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let listener = [listener];
    control.push(SendAncillaryMessage::ScmRights(&listener));
    let bytes = [IoSlice::new(&[0])];
    sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let (mut byte, flags) = ([0], RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT);
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        flags,
    )
    .ok()?;
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    })
}

/// Waits for a call, and says what comes of it. `false`: nobody is left that could make one.
fn answer_next(listener: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(listener, PollFlags::IN)];
    if poll(&mut asked, None).is_err() {
        return true; // a signal
    }
    if !asked[0].revents().contains(PollFlags::IN) {
        return false;
    }
    // SAFETY: all zeroes are valid, and what the kernel asks for.
    let mut call: libc::seccomp_notif = unsafe { zeroed() };
    let number = listener.as_raw_fd();
    // SAFETY: the request writes a `seccomp_notif`.
    if unsafe { libc::ioctl(number, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) } != 0 {
        return true; // whoever made the call is gone
    }
    let mut answer = libc::seccomp_notif_resp {
        id: call.id,
        val: 0,
        error: 0,
        flags: 0,
    };
    match create_ruleset(&call) {
        Ok(Some(value)) => answer.val = value,
        Ok(None) => answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        Err(errno) => answer.error = -errno,
    }
    // SAFETY: the request reads a `seccomp_notif_resp`. It fails where whoever made the call is gone.
    unsafe { libc::ioctl(number, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
    true
}

/// `landlock_create_ruleset` as of ABI 1: a value, an error, or what the kernel says.
fn create_ruleset(call: &libc::seccomp_notif) -> Result<Option<i64>, i32> {
    /// The one member of `landlock_ruleset_attr`: a word of rights, of which there were 13.
    const WORD: usize = 8;
    const RIGHTS: u64 = (1 << 13) - 1;
    let [attributes, size, flags, ..] = call.data.args;
    match (attributes, size, flags) {
        (0, 0, 1) => return Ok(Some(1)), // which version?
        (_, _, 1..) => return Err(libc::EINVAL),
        _ => {}
    }
    let size = usize::try_from(size).map_err(|_| libc::E2BIG)?;
    match size {
        ..WORD => return Err(libc::EINVAL),
        4097.. => return Err(libc::E2BIG),
        _ => {}
    }
    let mut bytes = vec![0; size];
    let memory = File::open(format!("/proc/{}/mem", call.pid)).map_err(|_| libc::EFAULT)?;
    let read = memory.read_exact_at(&mut bytes, attributes);
    read.map_err(|_| libc::EFAULT)?;
    let (rights, rest) = bytes.split_at(WORD);
    if rest.iter().any(|byte| *byte != 0) {
        return Err(libc::E2BIG);
    }
    let rights = rights.try_into().map(u64::from_ne_bytes);
    if rights.is_ok_and(|rights| rights & !RIGHTS == 0) {
        Ok(None)
    } else {
        Err(libc::EINVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::{Door, spawn};
    use crate::{Host, SLEEP};
    use portcullis_wire::{Body, Pong, Reply};
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    /// Makes each of the calls that a door has, and prints what comes of it: 0, a positive value, or an error's number,
    /// negative.
    const CALLS: &str = "
import ctypes, fcntl, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    value = libc.syscall(*arguments)
    return -ctypes.get_errno() if value < 0 else value
def option(do):
    try: do(); return 0
    except OSError as error: return -error.errno
one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
print(option(lambda: one.setsockopt(socket.SOL_SOCKET, 83, 0)))
print(option(lambda: one.getsockopt(socket.SOL_SOCKET, 83)))
print(option(lambda: one.getsockopt(socket.SOL_SOCKET, 77)))
print(option(lambda: fcntl.ioctl(os.pidfd_open(os.getpid()), 0xC040FF0B, bytes(64))))
create, add, restrict = 444, 445, 446
def ruleset(rights, rest=0, size=16):
    return min(0, call(create, struct.pack('QQ', rights, rest), size, 0))
print(call(create, None, 0, 1))
print(ruleset(1 << 13))
print(ruleset(1, 1))
print(ruleset((1 << 13) - 1))
print(option(lambda: one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))
";

    /// What each line of that is on a host without these; an empty text where it depends on this host's kernel.
    fn called(without: &[Door]) -> Vec<String> {
        let mut command = Command::new("python3");
        command.args(["-c", CALLS]).stdout(Stdio::piped());
        let child = spawn(&mut command, without).unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{done:?}");
        let text = String::from_utf8(done.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn closed_door_alone_is_closed() {
        let open = called(&[]);
        let (no_option, no_request) = ("-92", "-25");
        let (invalid, too_big) = ("-22", "-7");
        let closed: [(Door, &[(usize, &str)]); 4] = [
            (Door::PassRights, &[(0, no_option), (1, no_option)]),
            (Door::PeerPidfd, &[(2, no_option)]),
            (Door::PidfdInfo, &[(3, no_request)]),
            (Door::Landlock, &[(4, "1"), (5, invalid), (6, too_big)]),
        ];
        let mut all = open.clone();
        for (door, lines) in closed {
            let mut expected = open.clone();
            for (line, text) in lines {
                (*text).clone_into(&mut expected[*line]);
                (*text).clone_into(&mut all[*line]);
            }
            assert_eq!(called(&[door]), expected, "{door:?}");
        }
        assert_eq!(called(&Door::ALL), all);
        // What Linux 6.1 has is there.
        assert_eq!(all[7..], ["0", "0"]);
    }

    fn pong(without: &[Door]) -> (Pong, bool) {
        let host = Host::new();
        let service = host.agent("blue", SLEEP).older(without).start();
        let mut client = service.client();
        let Reply::Pong(pong) = client.call(Body::Ping) else {
            panic!("no answer to a ping");
        };
        let null = std::fs::File::open("/dev/null").unwrap();
        let sent = client.send_descriptors(b"x", &[null.as_fd()]);
        (pong, sent.is_ok())
    }

    /// Launcher and broker are on the older host, and serve there.
    #[test]
    fn agent_on_an_older_host_says_so() {
        let (now, _) = pong(&[]);
        let (before, takes_descriptors) = pong(&Door::ALL);
        assert_eq!(before.landlock_abi, 1);
        assert_eq!(before.peer_identification, "start-time");
        assert!(takes_descriptors);
        assert_eq!(before.layers, now.layers);
    }
}
