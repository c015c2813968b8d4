//! The sandbox, from inside: what the running broker can still do when it is made to.

use crate::attacks::{AT_FDCWD, LOOPBACK, NONE, PATH, attacks};
use crate::harness::{Broker, NOBODY, Setup, status_of, until};
use crate::injection::{Argument, Outcome, Stopped};
use Argument::{Bytes, Number};
use portcullis_tests::Door;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// A process that does nothing, with that user.
struct Bystander(Child);

fn bystander(uid: u32) -> Bystander {
    let mut command = Command::new("/bin/sleep");
    command.arg("1000").uid(uid).gid(uid);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Bystander(command.spawn().unwrap())
}

impl Bystander {
    fn pid(&self) -> u64 {
        u64::from(self.0.id())
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As soon as it waits in a system call.
fn stop(pid: i32) -> Stopped {
    until("it sleeps", || status_of(pid, "State").starts_with('S'));
    Stopped::new(pid)
}

#[test]
#[cfg(target_arch = "x86_64")]
fn every_system_call_that_serving_does_not_take_ends_the_broker() {
    each_ends(Setup::new);
}

fn each_ends(setup: fn() -> Setup) {
    let other = bystander(NOBODY);
    for attack in attacks(other.pid()) {
        let broker = setup().start();
        // It stays: its end would wake the broker.
        let mut client = broker.connect();
        client.ping();
        let outcome = stop(broker.pid()).call(attack.call, &attack.arguments);
        assert_eq!(outcome, Outcome::Killed(libc::SIGSYS), "{}", attack.name);
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_same_system_calls_work_in_a_process_that_is_not_confined() {
    let other = bystander(NOBODY);
    for attack in attacks(other.pid()) {
        std::fs::write("/tmp/portcullis-test-injected", "").unwrap();
        let victim = bystander(0);
        let outcome = {
            let mut stopped = stop(i32::try_from(victim.pid()).unwrap());
            if attack.name == "umount2" {
                stopped.call(libc::SYS_unshare, &[Number(0x0002_0000)]);
                stopped.call(
                    libc::SYS_mount,
                    &[NONE, Bytes(b"/\0"), NONE, Number(0x44000), NONE],
                );
                stopped.call(libc::SYS_mount, &[PATH, PATH, NONE, Number(4096), NONE]);
            }
            if attack.name == "mount" {
                stopped.call(libc::SYS_unshare, &[Number(0x0002_0000)]);
                stopped.call(
                    libc::SYS_mount,
                    &[NONE, Bytes(b"/\0"), NONE, Number(0x44000), NONE],
                );
            }
            stopped.call(attack.call, &attack.arguments)
        };
        match outcome {
            Outcome::Returned(_) if attack.succeeds => {
                assert!(outcome.succeeded(), "{} failed: {outcome:?}", attack.name);
            }
            Outcome::Returned(_) => {}
            Outcome::Killed(signal) => panic!("{} was killed by {signal}", attack.name),
        }
        if let (Outcome::Returned(child @ 1..), true) =
            (outcome, ["fork", "clone"].contains(&attack.name))
        {
            // The child is the victim's, and ends with it: it is stopped at birth, or sleeps on.
            let child = rustix::process::Pid::from_raw(i32::try_from(child).unwrap()).unwrap();
            rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
        }
    }
    let _ = std::fs::remove_file("/tmp/portcullis-test-injected");
}

#[test]
fn no_capabilities_no_new_privileges_no_groups_and_another_user() {
    let broker = Broker::start();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(broker.status(set), "0000000000000000", "{set}");
    }
    for ids in ["Uid", "Gid"] {
        let all = broker.status(ids);
        assert!(
            all.split_whitespace().all(|id| id == NOBODY.to_string()),
            "{all}"
        );
    }
    assert_eq!(broker.status("Groups"), "");
    assert_eq!(broker.status("NoNewPrivs"), "1");
    assert_eq!(broker.status("Seccomp"), "2");
    assert_eq!(broker.status("Threads"), "1");
    // Who is not dumpable has files in /proc that are root's.
    let meta = std::fs::metadata(format!("/proc/{}/environ", broker.pid())).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), 0);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", broker.pid())).unwrap();
    for name in [
        "Max processes",
        "Max core file size",
        "Max file size",
        "Max locked memory",
        "Max msgqueue size",
    ] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(
            line.strip_prefix(name)
                .unwrap()
                .split_whitespace()
                .take(2)
                .collect::<Vec<_>>(),
            ["0", "0"],
            "{line}"
        );
    }
    let space = limits
        .lines()
        .find(|line| line.starts_with("Max address space"));
    assert!(!space.unwrap().contains("unlimited"), "{space:?}");
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    assert!(files.unwrap().contains(" 312 "), "{files:?}");
}

/// The numbers of descriptors that the table of attacks names are what it takes them for.
#[test]
fn link_and_first_connection_have_the_numbers_of_the_attacks() {
    let broker = Broker::start();
    broker.connect().ping();
    let mut client = broker.connect();
    client.ping();
    let is = |number: i32| {
        let path = format!("/proc/{}/fd/{number}", broker.pid());
        std::fs::read_link(path).map(|to| to.display().to_string())
    };
    assert!(is(3).unwrap().starts_with("socket:"));
    for number in 4..7 {
        assert!(is(number).unwrap().starts_with("anon_inode:"), "{number}");
    }
    assert!(is(7).unwrap().starts_with("socket:"));
}

/// The namespaces by themselves: where neither seccomp nor Landlock can be had, there still is nothing to reach.
#[test]
#[cfg(target_arch = "x86_64")]
fn empty_root_and_namespaces_hold_alone() {
    let broker = Setup::new()
        .without(libc::SYS_seccomp, libc::ENOSYS)
        .without(libc::SYS_landlock_create_ruleset, libc::ENOSYS)
        .optional("seccomp")
        .optional("landlock")
        .start();
    assert_eq!(broker.landlock_abi, 0);
    for namespace in ["mnt", "net", "ipc", "uts", "cgroup"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_ne!(of(&broker.pid().to_string()), of("self"), "{namespace}");
    }
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", broker.pid())).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" / / ro,nosuid,nodev,noexec"), "{mounts}");
    let interfaces = std::fs::read_to_string(format!("/proc/{}/net/dev", broker.pid())).unwrap();
    assert_eq!(interfaces.lines().skip(2).count(), 1, "{interfaces}");
    let listener = abstract_listener();
    // Another agent's broker is a process of another user.
    let other = bystander(4711);
    let other = Number(other.pid());
    let mut stopped = stop(broker.pid());
    let directory = Number(libc::O_DIRECTORY as u64);
    let name = [b"\x01\x00".as_slice(), ABSTRACT_NAME].concat();
    let length = Number(name.len() as u64);
    let name = Bytes(Box::leak(name.into_boxed_slice()));
    let unix = stopped.call(libc::SYS_socket, &[Number(1), Number(5), NONE]);
    let Outcome::Returned(unix @ 0..) = unix else {
        panic!("{unix:?}")
    };
    let unix = Number(unix.cast_unsigned());
    let to = |path: &'static [u8]| [AT_FDCWD, Bytes(path), directory, NONE];
    let creating = Number((libc::O_CREAT | libc::O_WRONLY) as u64);
    let journal = Bytes(b"\x01\x00/run/systemd/journal/socket\0");
    for (call, arguments) in [
        (libc::SYS_openat, to(b"/\0").as_slice()),
        (libc::SYS_openat, &to(b"/proc\0")),
        (libc::SYS_openat, &to(b"/proc/1/root\0")),
        (libc::SYS_openat, &to(b"..\0")),
        (libc::SYS_openat, &[AT_FDCWD, PATH, NONE, NONE]),
        (
            libc::SYS_openat,
            &[AT_FDCWD, Bytes(b"/x\0"), creating, Number(0o600)],
        ),
        (
            libc::SYS_mkdirat,
            &[AT_FDCWD, Bytes(b"/x\0"), Number(0o700)],
        ),
        (libc::SYS_connect, &[unix, name, length]),
        (libc::SYS_connect, &[unix, journal, Number(30)]),
        (libc::SYS_kill, &[other, NONE]),
        (libc::SYS_ptrace, &[Number(0x4206), other, NONE, NONE]),
        (libc::SYS_chroot, &[Bytes(b"/\0")]),
        (libc::SYS_setns, &[Number(4), NONE]),
    ] {
        let outcome = stopped.call(call, arguments);
        assert!(
            outcome.errno().is_some(),
            "{call} {arguments:?} {outcome:?}"
        );
    }
    drop(listener);
}

/// The sandbox where Landlock knows files alone: no ports, signals or abstract sockets.
#[test]
#[cfg(target_arch = "x86_64")]
fn sandbox_with_the_first_landlock_holds() {
    let older = || Setup::new().older(&[Door::Landlock]);
    each_ends(older);
    let broker = without_seccomp(older());
    assert_eq!(broker.landlock_abi, 1);
    landlock_refuses(broker);
}

/// Landlock by itself: in a broker whose seccomp layer cannot be had and is optional.
#[test]
#[cfg(target_arch = "x86_64")]
fn without_seccomp_landlock_still_refuses_files_ports_and_signals() {
    landlock_refuses(without_seccomp(Setup::new()));
}

fn landlock_refuses(broker: Broker) {
    assert_eq!(
        broker.layers,
        ["user", "capabilities", "no-new-privileges", "landlock"]
    );
    assert!(broker.log().contains("seccomp"), "{}", broker.log());
    let abi = broker.landlock_abi;
    let other = bystander(NOBODY);
    let mut stopped = stop(broker.pid());
    let readable = Bytes(b"/etc/hostname\0");
    let refused = |outcome: Outcome, what: &str| {
        let errno = outcome.errno();
        assert!(
            matches!(errno, Some(libc::EACCES | libc::EPERM)),
            "{what}: {outcome:?}"
        );
    };
    refused(
        stopped.call(libc::SYS_openat, &[AT_FDCWD, readable, NONE, NONE]),
        "reading a file",
    );
    refused(
        stopped.call(
            libc::SYS_openat,
            &[
                AT_FDCWD,
                Bytes(b"/\0"),
                Number(libc::O_DIRECTORY as u64),
                NONE,
            ],
        ),
        "listing a directory",
    );
    let creating = Number((libc::O_CREAT | libc::O_WRONLY) as u64);
    refused(
        stopped.call(
            libc::SYS_openat,
            &[
                AT_FDCWD,
                Bytes(b"/tmp/portcullis-test-landlock\0"),
                creating,
                Number(0o600),
            ],
        ),
        "making a file",
    );
    refused(
        stopped.call(libc::SYS_execve, &[Bytes(b"/bin/true\0"), NONE, NONE]),
        "executing",
    );
    let unix = stopped.call(libc::SYS_socket, &[Number(1), Number(5), NONE]);
    let Outcome::Returned(unix @ 0..) = unix else {
        panic!("{unix:?}")
    };
    let path = Bytes(b"\x01\x00/tmp/portcullis-test-landlock\0");
    refused(
        stopped.call(
            libc::SYS_bind,
            &[Number(unix.cast_unsigned()), path, Number(32)],
        ),
        "a socket in a directory",
    );
    if abi >= 4 {
        let inet = stopped.call(libc::SYS_socket, &[Number(2), Number(1), NONE]);
        let Outcome::Returned(inet @ 0..) = inet else {
            panic!("{inet:?}")
        };
        let inet = Number(inet.cast_unsigned());
        refused(
            stopped.call(libc::SYS_bind, &[inet, LOOPBACK, Number(16)]),
            "binding a port",
        );
        refused(
            stopped.call(libc::SYS_connect, &[inet, LOOPBACK, Number(16)]),
            "connecting to a port",
        );
    }
    if abi >= 6 {
        refused(
            stopped.call(libc::SYS_kill, &[Number(other.pid()), NONE]),
            "signalling a process of the same user",
        );
        let listener = abstract_listener();
        let to = [b"\x01\x00".as_slice(), ABSTRACT_NAME].concat();
        let to = Bytes(Box::leak(to.into_boxed_slice()));
        refused(
            stopped.call(
                libc::SYS_connect,
                &[
                    Number(unix.cast_unsigned()),
                    to,
                    Number(2 + ABSTRACT_NAME.len() as u64),
                ],
            ),
            "connecting to an abstract socket",
        );
        drop(listener);
    }
    drop(stopped);
    broker.connect().ping();
}

/// The same calls without Landlock, so that the test above can fail.
#[test]
#[cfg(target_arch = "x86_64")]
fn without_seccomp_and_landlock_the_same_calls_are_not_refused() {
    let broker = Setup::new()
        .without(libc::SYS_seccomp, libc::ENOSYS)
        .without(libc::SYS_landlock_create_ruleset, libc::ENOSYS)
        .without(libc::SYS_unshare, libc::ENOSYS)
        .optional("seccomp")
        .optional("namespaces")
        .optional("landlock")
        .start();
    assert_eq!(broker.layers, ["user", "capabilities", "no-new-privileges"]);
    assert_eq!(broker.landlock_abi, 0);
    let other = bystander(NOBODY);
    let mut stopped = stop(broker.pid());
    let works = |outcome: Outcome| assert!(outcome.succeeded(), "{outcome:?}");
    works(stopped.call(
        libc::SYS_openat,
        &[AT_FDCWD, Bytes(b"/etc/hostname\0"), NONE, NONE],
    ));
    works(stopped.call(
        libc::SYS_openat,
        &[
            AT_FDCWD,
            Bytes(b"/\0"),
            Number(libc::O_DIRECTORY as u64),
            NONE,
        ],
    ));
    works(stopped.call(libc::SYS_kill, &[Number(other.pid()), NONE]));
    let Outcome::Returned(inet @ 0..) =
        stopped.call(libc::SYS_socket, &[Number(2), Number(1), NONE])
    else {
        panic!()
    };
    let any_port = Bytes(b"\x02\x00\x00\x00\x7f\x00\x00\x01\0\0\0\0\0\0\0\0");
    works(stopped.call(
        libc::SYS_bind,
        &[Number(inet.cast_unsigned()), any_port, Number(16)],
    ));
    // Even so: no way back to root, and no process.
    assert_eq!(
        stopped.call(libc::SYS_setuid, &[NONE]).errno(),
        Some(libc::EPERM)
    );
    assert_eq!(
        stopped.call(libc::SYS_setgroups, &[NONE, NONE]).errno(),
        Some(libc::EPERM)
    );
    let clone = [Number(libc::SIGCHLD as u64), NONE, NONE, NONE, NONE];
    assert_eq!(
        stopped.call(libc::SYS_clone, &clone).errno(),
        Some(libc::EAGAIN)
    );
    drop(stopped);
}

fn without_seccomp(setup: Setup) -> Broker {
    setup
        .without(libc::SYS_seccomp, libc::ENOSYS)
        .without(libc::SYS_unshare, libc::ENOSYS)
        .optional("seccomp")
        .optional("namespaces")
        .start()
}

const ABSTRACT_NAME: &[u8] = b"\0portcullis-test-abstract";

fn abstract_listener() -> std::os::fd::OwnedFd {
    let listener = crate::harness::seqpacket();
    let name = rustix::net::SocketAddrUnix::new_abstract_name(&ABSTRACT_NAME[1..]).unwrap();
    rustix::net::bind(&listener, &name).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    listener
}

/// A layer, and a system call without which it cannot be had.
const LAYERS: [(&str, libc::c_long); 6] = [
    ("namespaces", libc::SYS_unshare),
    ("user", libc::SYS_setresuid),
    ("capabilities", libc::SYS_capset),
    ("no-new-privileges", 0),
    ("landlock", libc::SYS_landlock_restrict_self),
    ("seccomp", libc::SYS_seccomp),
];

#[test]
fn a_layer_that_cannot_be_had_ends_the_broker_with_one_line_that_says_so() {
    for (layer, call) in LAYERS {
        if call == 0 {
            // A kernel without that flag has none of the other layers either.
            continue;
        }
        let ended = Setup::new().without(call, libc::EPERM).fail();
        assert!(!ended.status.success());
        assert_eq!(ended.log.lines().count(), 1, "{}", ended.log);
        assert!(
            ended
                .log
                .contains(&format!("the sandbox layer {layer} cannot be had")),
            "{}",
            ended.log
        );
        assert!(
            ended
                .log
                .contains(&format!("optional_layers = [\"{layer}\"]")),
            "{}",
            ended.log
        );
    }
}

#[test]
fn a_layer_that_is_optional_may_be_missing_and_the_others_hold() {
    for (layer, call) in LAYERS {
        // With another optional layer than the missing one, nothing changes.
        if call == 0 {
            continue;
        }
        let other = if layer == "seccomp" {
            "landlock"
        } else {
            "seccomp"
        };
        let ended = Setup::new()
            .without(call, libc::EPERM)
            .optional(other)
            .fail();
        assert!(ended.log.contains(layer), "{}", ended.log);

        let broker = Setup::new()
            .without(call, libc::EPERM)
            .optional(layer)
            .start();
        let expected: Vec<&str> = LAYERS
            .iter()
            .map(|(l, _)| *l)
            .filter(|l| *l != layer)
            .collect();
        assert_eq!(broker.layers, expected);
        assert_eq!(broker.landlock_abi == 0, layer == "landlock");
        assert_eq!(broker.connect().ping().layers, expected);
        assert!(
            broker
                .log()
                .contains(&format!("serving without the sandbox layer {layer}"))
        );
    }
}

#[test]
fn root_is_no_user_for_a_broker() {
    for (uid, gid) in [(0, NOBODY), (NOBODY, 0), (u32::MAX, NOBODY)] {
        let ended = Setup::new().ids(uid, gid).fail();
        assert!(
            ended.log.contains("the sandbox layer user cannot be had"),
            "{}",
            ended.log
        );
    }
}
