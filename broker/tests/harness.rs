//! A broker with a test in the launcher's place.
#![allow(unsafe_code)]

use portcullis_tests::{Door, prepare};
use portcullis_wire::{
    Accepted, Body, Directive, Launch, Order, PolicyBundle, PolicyText, Reply, Request, Response,
    codec,
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind,
    connect, listen, recv, recvmsg, send, sendmsg, socket_with, socketpair,
};
use rustix::process::{Pid, Signal, kill_process};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, PipeReader, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
pub const LONG: Duration = Duration::from_secs(20);

/// A user that nothing belongs to.
pub const NOBODY: u32 = 65534;

/// A policy that admits root and allows `sleep N`, as often as a test likes.
pub const POLICY: &str = r#"
version = 1

[peer]
uid = 0

[limits]
launches = "1000000/s"

[[launch]]
rule = "sleep"
command = "sleep"
image = "localhost/busybox:1"
program = ["/bin/sleep"]
args = [{ min = 1, max = 1, pattern = "{seconds:int}" }]

[launch.container]
name = "test-sleep-{seconds}"
user = "65534:65534"
"#;

/// How a broker is started.
pub struct Setup {
    policy: Option<String>,
    optional: Vec<&'static str>,
    ids: (u32, u32),
    without: Vec<(libc::c_long, i32)>,
    older: &'static [Door],
    below_a_shell: bool,
    unseen: bool,
    unguarded: bool,
    surplus: bool,
    swapped: Option<(RawFd, OwnedFd)>,
}

/// A broker that serves, and the launcher's end of its link.
pub struct Broker {
    child: Child,
    pid: i32,
    pub link: OwnedFd,
    pub layers: Vec<String>,
    pub landlock_abi: u8,
    log: Log,
    listener: OwnedFd,
    accepted: AtomicU64,
    unseen: bool,
    guarded: bool,
    directory: tempfile::TempDir,
}

/// What the broker has written to descriptor 2.
struct Log(Mutex<(PipeReader, String)>);

impl Log {
    fn new(pipe: PipeReader) -> Self {
        Self(Mutex::new((pipe, String::new())))
    }

    fn text(&self) -> String {
        let mut log = self.0.lock().unwrap();
        let (pipe, text) = &mut *log;
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        text.clone()
    }
}

/// One that did not get so far, or no longer runs.
pub struct Ended {
    pub status: ExitStatus,
    pub log: String,
}

pub struct Heard {
    pub bytes: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

impl Heard {
    pub fn order(&self) -> Order<'_> {
        codec::decode(&self.bytes).unwrap()
    }
}

impl Setup {
    pub fn new() -> Self {
        Self {
            policy: Some(POLICY.to_owned()),
            optional: vec![],
            ids: (NOBODY, NOBODY),
            without: vec![],
            older: &[],
            below_a_shell: false,
            unseen: false,
            unguarded: false,
            surplus: false,
            swapped: None,
        }
    }

    /// As on this kernel, and as before Linux 6.16.
    pub fn hosts() -> [Self; 2] {
        [Self::new(), Self::new().unguarded()]
    }

    pub fn policy(mut self, policy: &str) -> Self {
        self.policy = Some(policy.to_owned());
        self
    }

    pub fn no_policy(mut self) -> Self {
        self.policy = None;
        self
    }

    pub fn ids(mut self, uid: u32, gid: u32) -> Self {
        self.ids = (uid, gid);
        self
    }

    pub fn optional(mut self, layer: &'static str) -> Self {
        self.optional.push(layer);
        self
    }

    /// As on a kernel where that system call fails so.
    pub fn without(mut self, call: libc::c_long, errno: i32) -> Self {
        self.without.push((call, errno));
        self
    }

    /// On a host without these.
    pub fn older(mut self, without: &'static [Door]) -> Self {
        self.older = without;
        self
    }

    /// With a shell between the test and the broker.
    pub fn below_a_shell(mut self) -> Self {
        self.below_a_shell = true;
        self
    }

    /// For clients in a PID namespace that the launcher does not see.
    pub fn unseen(mut self) -> Self {
        self.unseen = true;
        self
    }

    /// As before Linux 6.16: clients can attach descriptors.
    pub fn unguarded(mut self) -> Self {
        self.unguarded = true;
        self
    }

    /// With a descriptor too many.
    pub fn surplus(mut self) -> Self {
        self.surplus = true;
        self
    }

    /// With another descriptor under that number.
    pub fn swapped(mut self, number: RawFd, fd: OwnedFd) -> Self {
        self.swapped = Some((number, fd));
        self
    }

    pub fn start(self) -> Broker {
        match self.spawn() {
            Ok(broker) => broker,
            Err(ended) => panic!("the broker does not serve: {} {}", ended.status, ended.log),
        }
    }

    pub fn fail(self) -> Ended {
        match self.spawn() {
            Ok(_) => panic!("the broker serves"),
            Err(ended) => ended,
        }
    }

    fn spawn(self) -> Result<Broker, Ended> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("broker.sock");
        let listener = seqpacket();
        bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&listener, 4096).unwrap();
        let guarded = !self.unguarded && refuse_descriptors(&listener);
        let flags = SocketFlags::CLOEXEC;
        let (link, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        set_socket_timeout(&link, Timeout::Recv, Some(LONG)).unwrap();
        let files = self.policy.iter().map(|text| PolicyText {
            path: "/etc/portcullis/agents/test.toml".to_owned(),
            text: text.clone(),
        });
        let bundle = PolicyBundle {
            agent: "test".to_owned(),
            files: files.collect(),
        };
        let policy = sealed(&codec::encode_unbounded(&bundle).unwrap(), true);
        let mut given = [theirs, policy];
        if let Some((number, fd)) = self.swapped {
            given[usize::try_from(number - 3).unwrap()] = fd;
        }

        let binary = std::env::var_os("PORTCULLIS_BROKER").map_or_else(
            || PathBuf::from(env!("CARGO_BIN_EXE_portcullis-broker")),
            PathBuf::from,
        );
        let mut command = if self.below_a_shell {
            let mut shell = Command::new("/bin/sh");
            // What becomes the broker says its number itself: the shell would do so before or after it is ready.
            let script = "sh -c 'echo $$ >&2; exec \"$@\"' sh \"$@\" & wait";
            shell.args(["-c", script, "sh"]).arg(binary);
            shell
        } else {
            Command::new(binary)
        };
        let (uid, gid) = self.ids;
        command.args([
            "--agent",
            "test",
            "--uid",
            &uid.to_string(),
            "--gid",
            &gid.to_string(),
        ]);
        for layer in &self.optional {
            command.args(["--optional-layer", layer]);
        }
        let (log, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&log, true).unwrap();
        command
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(writer);
        let filter = (!self.without.is_empty()).then(|| failing(&self.without));
        let surplus = self.surplus;
        // Before the filter below, which may forbid filters.
        let older = prepare(&mut command, self.older).unwrap();
        let high: Vec<OwnedFd> = given
            .iter()
            .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 100).unwrap())
            .collect();
        let place = move || {
            for (fd, number) in high.iter().zip(3..) {
                duplicate(fd.as_raw_fd(), number)?;
            }
            if surplus {
                duplicate(2, 42)?;
            }
            join_groups()?;
            match &filter {
                Some(filter) => seccompiler::apply_filter(filter).map_err(std::io::Error::other),
                None => Ok(()),
            }
        };
        // SAFETY: between fork and exec there are system calls alone; the filter was made before.
        unsafe { command.pre_exec(place) };
        let mut child = command.spawn().unwrap();
        older.supervise();
        drop(command);
        drop(given);

        let heard = hear(&link);
        if heard.bytes.is_empty() {
            let status = child.wait().unwrap();
            let log = Log::new(log).text();
            return Err(Ended { status, log });
        }
        let Order::Ready {
            layers,
            landlock_abi,
        } = heard.order()
        else {
            panic!("{:?}", heard.order())
        };
        let pid = i32::try_from(child.id()).unwrap();
        let mut broker = Broker {
            child,
            pid,
            link,
            layers,
            landlock_abi,
            log: Log::new(log),
            listener,
            accepted: AtomicU64::new(0),
            unseen: self.unseen,
            guarded,
            directory,
        };
        if self.below_a_shell {
            broker.pid = broker.log().trim().parse().unwrap();
        }
        Ok(broker)
    }
}

impl Broker {
    pub fn start() -> Self {
        Setup::new().start()
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets it do nothing until it is resumed.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        until("it is stopped", || self.status("State").starts_with('T'));
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid).unwrap(), signal).unwrap();
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn connect(&self) -> Client {
        self.connect_kept().0
    }

    /// A connection, of which the launcher keeps its own copy, too.
    pub fn connect_kept(&self) -> (Client, OwnedFd) {
        let (client, kept, accepted) = self.accept();
        self.tell_with(Directive::Connection(accepted), &[kept.as_fd()]);
        (client, kept)
    }

    /// A connection of another user, as the launcher would say it.
    pub fn connect_as(&self, uid: u32) -> (Client, OwnedFd) {
        let (client, kept, accepted) = self.accept();
        let accepted = Accepted { uid, ..accepted };
        self.tell_with(Directive::Connection(accepted), &[kept.as_fd()]);
        (client, kept)
    }

    /// Connects, and accepts as the launcher does.
    fn accept(&self) -> (Client, OwnedFd, Accepted) {
        let socket = seqpacket();
        let path = self.directory.path().join("broker.sock");
        connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        set_socket_timeout(&socket, Timeout::Recv, Some(LONG)).unwrap();
        set_socket_timeout(&socket, Timeout::Send, Some(LONG)).unwrap();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kept = accept_with(&self.listener, flags).unwrap();
        let peer = socket_peercred(&kept).unwrap();
        let pid = peer.pid.as_raw_nonzero().get();
        let accepted = Accepted {
            number: 1 + self.accepted.fetch_add(1, Ordering::Relaxed),
            pid: if self.unseen { 0 } else { pid },
            uid: peer.uid.as_raw(),
            gid: peer.gid.as_raw(),
            guarded: self.guarded,
        };
        (Client { socket, id: 0 }, kept, accepted)
    }

    pub fn guarded(&self) -> bool {
        self.guarded
    }

    pub fn tell_with(&self, directive: Directive, descriptors: &[BorrowedFd<'_>]) {
        let bytes = codec::encode_unbounded(&directive).unwrap();
        attach(&self.link, &bytes, descriptors);
    }

    /// The next message on the link.
    pub fn heard(&self) -> Heard {
        hear(&self.link)
    }

    /// The next forwarded request, and the number of the connection that it came on.
    pub fn forwarded(&self) -> (Vec<u8>, u64) {
        loop {
            let heard = self.heard();
            assert!(!heard.bytes.is_empty(), "the broker ended: {}", self.log());
            assert!(heard.descriptors.is_empty());
            if let Order::Forward {
                connection,
                datagram,
                ..
            } = heard.order()
            {
                return (datagram.to_vec(), connection);
            }
        }
    }

    pub fn tell(&self, directive: Directive) {
        self.tell_bytes(&codec::encode_unbounded(&directive).unwrap());
    }

    pub fn tell_bytes(&self, bytes: &[u8]) {
        send(&self.link, bytes, SendFlags::NOSIGNAL).unwrap();
    }

    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the broker ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub fn status(&self, field: &str) -> String {
        status_of(self.pid, field)
    }

    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid))
            .unwrap()
            .count()
    }

    /// Resident kilobytes of its own, not those of the file that it is run from.
    pub fn resident(&self) -> u64 {
        // Counted when it is read: what is in `status` may be off by a little for each processor (Linux 6.2 to 6.15).
        let text = field_of(self.pid, "smaps_rollup", "Anonymous");
        text.split_whitespace().next().unwrap().parse().unwrap()
    }
}

/// The next message on the link. No bytes is the broker's end.
fn hear(link: &OwnedFd) -> Heard {
    let mut bytes = vec![0; 128 * 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(
        link,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        flags,
    );
    let got = got.map_or(0, |got| got.bytes);
    bytes.truncate(got);
    let descriptors = control
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => rights.collect(),
            _ => vec![],
        })
        .collect();
    Heard { bytes, descriptors }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Client {
    pub socket: OwnedFd,
    id: u64,
}

impl Client {
    /// Sends bytes as they are.
    pub fn send(&self, bytes: &[u8]) {
        assert_eq!(
            send(&self.socket, bytes, SendFlags::NOSIGNAL).unwrap(),
            bytes.len()
        );
    }

    pub fn send_with(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        attach(&self.socket, bytes, descriptors);
    }

    /// Sends a request and returns its id.
    pub fn request(&mut self, body: Body) -> u64 {
        self.id += 1;
        self.send(&codec::encode(&Request { id: self.id, body }).unwrap());
        self.id
    }

    /// The next reply; nothing at the end of the connection.
    pub fn reply(&self) -> Option<Response> {
        let mut bytes = vec![0; 128 * 1024];
        match recv(&self.socket, bytes.as_mut_slice(), RecvFlags::empty()) {
            Ok((0, _)) => None,
            Ok((length, _)) => Some(codec::decode_owned(&bytes[..length]).unwrap()),
            Err(errno) => panic!("no reply: {errno}"),
        }
    }

    pub fn ask(&mut self, body: Body) -> Reply {
        let id = self.request(body);
        let response = self.reply().expect("the connection was closed");
        assert_eq!(response.id, id);
        response.reply
    }

    pub fn ping(&mut self) -> portcullis_wire::Pong {
        match self.ask(Body::Ping) {
            Reply::Pong(pong) => pong,
            other => panic!("{other:?}"),
        }
    }
}

pub fn sleep(seconds: &str) -> Launch {
    Launch {
        command: "sleep".to_owned(),
        args: vec![seconds.to_owned()],
        ..Launch::default()
    }
}

/// A memfd with these bytes.
pub fn sealed(bytes: &[u8], seal: bool) -> OwnedFd {
    let fd = memfd_create("policy", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = File::from(fd);
    file.write_all(bytes).unwrap();
    if seal {
        let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        fcntl_add_seals(file.as_fd(), all).unwrap();
    }
    file.into()
}

/// Sends bytes with descriptors.
pub fn attach(socket: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    let bytes = [IoSlice::new(bytes)];
    sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// A TCP socket whose last owner waits, as it closes it, for a minute or until somebody reads what was sent.
pub struct Lingering {
    pub socket: OwnedFd,
    /// The other end.
    pub end: OwnedFd,
}

impl Lingering {
    pub fn new() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (end, _) = listener.accept().unwrap();
        let minute = Some(Duration::from_secs(60));
        rustix::net::sockopt::set_socket_linger(&socket, minute).unwrap();
        socket.set_nonblocking(true).unwrap();
        while socket.write(&[0; 65_536]).is_ok() {}
        Self {
            socket: socket.into(),
            end: end.into(),
        }
    }
}

/// Has the kernel refuse descriptors on this listener's connections; false before Linux 6.16.
fn refuse_descriptors(listener: &OwnedFd) -> bool {
    const SO_PASSRIGHTS: libc::c_int = 83;
    let no: libc::c_int = 0;
    // SAFETY: the value is a live variable of the length that is said.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const no).cast(),
            size_of_val(&no) as libc::socklen_t,
        )
    };
    result == 0
}

pub fn seqpacket() -> OwnedFd {
    socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap()
}

pub fn status_of(pid: i32, field: &str) -> String {
    field_of(pid, "status", field)
}

fn field_of(pid: i32, file: &str, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field}"))
        .trim()
        .to_owned()
}

/// Waits until it is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !so() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// As a service's process may have them.
fn join_groups() -> std::io::Result<()> {
    // SAFETY: the list is as long as it is said to be, and only read.
    match unsafe { libc::setgroups(2, [0, 4242].as_ptr()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Onto a number that nothing of this new process uses.
fn duplicate(fd: RawFd, number: RawFd) -> std::io::Result<()> {
    // SAFETY: there are no pointers, and nothing owns the number.
    match unsafe { libc::dup2(fd, number) } {
        0.. => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// A filter that makes some system calls fail and lets all others pass.
fn failing(calls: &[(libc::c_long, i32)]) -> BpfProgram {
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let errno = u32::try_from(calls[0].1).unwrap();
    let rules = calls.iter().map(|(call, _)| (*call, vec![])).collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno),
        arch,
    );
    filter.unwrap().try_into().unwrap()
}
