//! The untrusted half, as a child process: how it is started, what it is given, what is heard from it.
//!
//! It gets two descriptors (link, policy), copies of the connections that it is to serve, and nothing else of ours. No
//! descriptor comes back. What comes over the link is taken for an order only in form: [`service`](crate::service) decides
//! again.

use crate::account::Account;
use crate::connections;
use crate::host_config::BrokerConfig;
use crate::pidfd::Pidfd;
use portcullis_wire::{
    Accepted, AgentName, DecodeError, Directive, Layer, Order, PolicyBundle, codec, limits,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::{Errno, FdFlags, IoSlice, IoSliceMut, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, send, sendmsg, socketpair,
};
use rustix::process::Pid;
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The largest order in bytes: a whole datagram and a few of our own.
pub const ORDER: usize = limits::DATAGRAM + 64;

/// How often a broker is heard on descriptor 2. An honest one has little to say there.
const MOST_WORDS: usize = 64;

/// A broker that runs.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    pidfd: Pidfd,
    link: OwnedFd,
    /// What it writes to descriptor 2, until it has written too much.
    words: Option<PipeReader>,
    said: usize,
    /// The sandbox that it says it is in, once it serves.
    pub ready: Option<Confinement>,
}

/// What a broker says of its sandbox. For people: nothing relies on it.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    /// The layers in force, by their names.
    pub layers: Vec<&'static str>,
    /// The Landlock ABI in force; 0 is none.
    pub landlock_abi: u8,
}

/// A broker could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// A step of starting it failed.
    #[error("{step}: {error}")]
    Step {
        /// What was tried.
        step: String,
        /// What came of it.
        error: io::Error,
    },
}

fn step<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> BrokerError {
    let step = step.into();
    move |error| BrokerError::Step {
        step,
        error: error.into(),
    }
}

/// What was heard from a broker.
#[derive(Debug)]
pub enum Heard {
    /// Nothing more for now.
    Nothing,
    /// It is gone.
    End,
    /// So many bytes of the buffer.
    Bytes(usize),
    /// More bytes than any order has, or descriptors, which none has: they are dropped.
    Oversized,
}

impl Confinement {
    /// Takes a broker's word for it as far as it is a word that means something: what it says is shown to people and told
    /// to the service manager, which takes each line for an assignment. `None`: no honest broker says this.
    #[must_use]
    pub fn said(layers: &[String], landlock_abi: u8) -> Option<Self> {
        let mut known = Vec::new();
        for layer in layers {
            let name = Layer::ALL
                .map(Layer::name)
                .into_iter()
                .find(|name| name == layer)?;
            if known.contains(&name) {
                return None;
            }
            known.push(name);
        }
        Some(Self {
            layers: known,
            landlock_abi,
        })
    }
}

impl Broker {
    /// Starts one.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn start(
        binary: &Path,
        agent: &AgentName,
        config: &BrokerConfig,
        account: &Account,
        policy: &PolicyBundle,
    ) -> Result<Self, BrokerError> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(step("make the link to the broker"))?;
        connections::refuse_descriptors(ours.as_fd());
        let policy = sealed(policy).map_err(step("hand the policy over in a memfd"))?;
        // Above 9, so that none of the two is overwritten by the other on its way to 3 and 4.
        let high = |fd: BorrowedFd<'_>| fcntl_dupfd_cloexec(fd, 10);
        let given = [high(theirs.as_fd()), high(policy.as_fd())];
        let [Ok(theirs), Ok(policy)] = given else {
            return Err(step("duplicate the broker's descriptors")(Errno::MFILE));
        };
        let (words, writer) = io::pipe().map_err(step("make a pipe for the broker's words"))?;
        rustix::io::ioctl_fionbio(&words, true).map_err(step("make that pipe non-blocking"))?;
        let mut command = Command::new(binary);
        command
            .args(["--agent", agent.as_str()])
            .args(["--uid", &account.uid.to_string()])
            .args(["--gid", &account.gid.to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(writer);
        for layer in &config.optional_layers {
            command.args(["--optional-layer", layer.name()]);
        }
        let child = spawn_with(&mut command, [theirs, policy])
            .map_err(step(format!("start {}", binary.display())))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pid.map_or_else(|| Err(io::ErrorKind::InvalidData.into()), Pidfd::open);
        let pidfd = pidfd.map_err(step("open the broker's pidfd"))?;
        Ok(Self {
            child,
            pidfd,
            link: ours,
            words: Some(words),
            said: 0,
            ready: None,
        })
    }

    /// Readable once it has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Readable when there is something to hear.
    #[must_use]
    pub fn link(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// Whether there is something to hear now.
    #[must_use]
    pub fn has_sent(&self) -> bool {
        let mut link = [PollFd::new(&self.link, PollFlags::IN)];
        let at_once = Timespec::default();
        matches!(poll(&mut link, Some(&at_once)), Ok(1..))
    }

    /// Readable when it has written to descriptor 2.
    #[must_use]
    pub fn words(&self) -> Option<BorrowedFd<'_>> {
        self.words.as_ref().map(AsFd::as_fd)
    }

    /// What it has written to descriptor 2 since, if anything. It is a pipe of its own, and not the launcher's log: else a
    /// broker that was taken over could forge audit records. After `MOST_WORDS` reads nobody listens any more.
    pub fn hear_words(&mut self) -> Option<String> {
        let mut buffer = [0; 2048];
        let length = match self.words.as_mut()?.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            read => read.unwrap_or(0),
        };
        self.said += 1;
        if length == 0 || self.said >= MOST_WORDS {
            self.words = None;
        }
        let text = String::from_utf8_lossy(buffer.get(..length)?)
            .trim_end()
            .to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// Tells it something, if it has room for that. One that has not is busy, or gone, which its pidfd tells.
    #[must_use]
    pub fn direct(&self, directive: &Directive) -> bool {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        codec::encode_unbounded(directive)
            .is_ok_and(|bytes| send(&self.link, &bytes, flags).is_ok())
    }

    /// Hands it a copy of a connection. Whether there was room for it on the link.
    #[must_use]
    pub fn hand_over(&self, accepted: Accepted, client: BorrowedFd<'_>) -> bool {
        let Ok(bytes) = codec::encode_unbounded(&Directive::Connection(accepted)) else {
            return false;
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let clients = [client];
        // One descriptor fits: the space is made for it.
        control.push(SendAncillaryMessage::ScmRights(&clients));
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sendmsg(&self.link, &[IoSlice::new(&bytes)], &mut control, flags).is_ok()
    }

    /// Tells it to take no more connections and to end when those it has are served.
    pub fn drain(&self) {
        // A broker that cannot be told is gone, or will be ended with its launcher.
        let _ = self.direct(&Directive::Drain);
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Says how a broker ended. One that has only let go of its link is ended first: nobody waits for what it does next.
    pub fn ended(&mut self) -> String {
        self.kill();
        match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Takes the next message into `buffer`, which has room for [`ORDER`] bytes.
    ///
    /// # Errors
    /// When receiving fails; the broker is then as good as gone.
    pub fn hear(&self, buffer: &mut [u8]) -> io::Result<Heard> {
        // There is no room for descriptors: the kernel drops what may be attached, and says so.
        let mut control = RecvAncillaryBuffer::new(&mut []);
        let got = match recvmsg(
            &self.link,
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::DONTWAIT,
        ) {
            Ok(got) => got,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Heard::Nothing),
            Err(Errno::CONNRESET) => return Ok(Heard::End),
            Err(errno) => return Err(errno.into()),
        };
        let more = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
        Ok(match got.bytes {
            _ if got.flags.intersects(more) => Heard::Oversized,
            0 => Heard::End,
            length => Heard::Bytes(length),
        })
    }
}

/// One that is not needed after all is ended, and leaves no zombie.
impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// Reads an order.
///
/// # Errors
/// [`DecodeError`]: the broker does not keep to the protocol.
pub fn order(bytes: &[u8]) -> Result<Order<'_>, DecodeError> {
    codec::decode(bytes)
}

/// A policy in a descriptor that nobody can change any more.
fn sealed(policy: &PolicyBundle) -> io::Result<OwnedFd> {
    let bytes = codec::encode_unbounded(policy).map_err(io::Error::other)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("policy", flags)?);
    file.write_all(&bytes)?;
    fcntl_add_seals(
        &file,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(file.into())
}

/// Starts a command with the given descriptors as 3 and 4.
#[allow(unsafe_code)]
fn spawn_with(command: &mut Command, given: [OwnedFd; 2]) -> io::Result<Child> {
    let place = move || {
        for (fd, number) in given.iter().zip(3..) {
            put(fd.as_fd(), number)?;
        }
        Ok(())
    };
    // SAFETY: runs between fork and exec; dup3 and fcntl are plain system calls that allocate nothing and take no lock.
    unsafe { command.pre_exec(place) };
    command.spawn()
}

#[allow(unsafe_code)]
fn put(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: in the forked child alone, just before exec: whatever has this number there is of no use any more. It is
    // forgotten again below, so it is not closed.
    let mut target = unsafe { OwnedFd::from_raw_fd(number) };
    let placed =
        rustix::io::dup2(fd, &mut target).and_then(|()| fcntl_setfd(&target, FdFlags::empty()));
    std::mem::forget(target);
    Ok(placed?)
}
