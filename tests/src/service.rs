//! A launcher that runs, with its broker.

use crate::{Agent, Audit, Client, LONG, Process, holds, spawn, until};
use portcullis_wire::{Body, Container, Reply};
use rustix::process::Signal;
use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What the launcher has open beside what it needs.
pub const LEAK: &str = "/etc/hostname";

/// Its soft limit of open descriptors when it is started: below the hard one, as service managers have it, and no other
/// number that anything here has.
pub const OPEN_FILES: u64 = 777;

/// A launcher and its broker; both are killed on drop.
#[derive(Debug)]
pub struct Service {
    child: Child,
    launcher: Process,
    socket: PathBuf,
    control: PathBuf,
    log: PathBuf,
    notifications: UnixDatagram,
}

impl Service {
    pub(crate) fn start(agent: &Agent, listeners: Option<[&OwnedFd; 2]>, more: &[&str]) -> Self {
        let notify = agent
            .host()
            .path()
            .join("log")
            .join(format!("{}.notify", agent.name()));
        let _ = std::fs::remove_file(&notify);
        let notifications = UnixDatagram::bind(&notify).expect("a socket");
        notifications.set_nonblocking(true).expect("non-blocking");
        // A descriptor that nobody asked for, as shells and service managers leave them; it must get no further.
        let leak = format!("exec 9<{LEAK}");
        // The shell gives the listeners the numbers that systemd gives them, and knows the pid that the launcher will have.
        let activate = format!(
            "{leak} 3<&0 4<&1 0</dev/null 1>&2; ulimit -Sn {OPEN_FILES}; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\""
        );
        let mut options = OpenOptions::new();
        let log = options.create(true).append(true).open(agent.log());
        let log = log.expect("the log");
        let launcher = agent.binary("portcullis-launcher");
        let mut command = match listeners {
            Some([agents, operators]) => {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", &activate, "sh"]);
                command.arg(launcher);
                command.stdin(agents.try_clone().expect("a descriptor"));
                command.stdout(operators.try_clone().expect("a descriptor"));
                command
            }
            None => {
                let mut command = Command::new(launcher);
                command.stdin(Stdio::null());
                command.stdout(log.try_clone().expect("a descriptor"));
                command
            }
        };
        command
            .args(agent.launcher_options())
            .args(more)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("NOTIFY_SOCKET", &notify)
            .env("INVOCATION_ID", "0123456789abcdef0123456789abcdef")
            .stderr(log);
        let child = spawn(&mut command, agent.without()).expect("the launcher");
        Self {
            launcher: Process::of(&child),
            child,
            socket: agent.socket(),
            control: agent.control_socket(),
            log: agent.log(),
            notifications,
        }
    }

    /// A connection to the agent's socket, waited for where the launcher binds it itself.
    #[must_use]
    #[track_caller]
    pub fn client(&self) -> Client {
        until("the agent's socket", || Client::connect(&self.socket).ok())
    }

    /// A connection to the operator's socket.
    #[must_use]
    #[track_caller]
    pub fn operator(&self) -> Client {
        until("the operator's socket", || {
            Client::connect(&self.control).ok()
        })
    }

    /// What the operator's list says, which must be short enough for one answer; with what has ended, too.
    ///
    /// # Panics
    /// When the answer is another.
    #[must_use]
    #[track_caller]
    pub fn list(&self, all: bool) -> Vec<Container> {
        match self.operator().call(Body::List { all, after: None }) {
            Reply::Containers { items, more: false } => items,
            other => panic!("no whole list: {other:?}"),
        }
    }

    /// The text of the answer to `Metrics`.
    ///
    /// # Panics
    /// When the answer is another.
    #[must_use]
    #[track_caller]
    pub fn metrics(&self) -> String {
        let mut operator = self.operator();
        let id = operator.send(Body::Metrics).expect("a request");
        let mut text = Vec::new();
        loop {
            let response = operator.reply();
            assert_eq!(response.id, id);
            match response.reply {
                Reply::Chunk { bytes } => text.extend(bytes),
                Reply::Done { .. } => return String::from_utf8(text).expect("a text"),
                other => panic!("no metrics: {other:?}"),
            }
        }
    }

    /// The launcher.
    #[must_use]
    pub fn launcher(&self) -> Process {
        self.launcher
    }

    /// The broker that serves now.
    #[must_use]
    #[track_caller]
    pub fn broker(&self) -> Process {
        until("a broker", || {
            let children = self.launcher.children();
            children.into_iter().find(|child| {
                let arguments = child.arguments();
                arguments.first().is_some_and(|a| a.ends_with("broker"))
            })
        })
    }

    /// Its log so far.
    #[must_use]
    pub fn audit(&self) -> Audit {
        Audit::read(&self.log)
    }

    /// Waits until it says that to the service manager. What it said before that is passed over.
    #[track_caller]
    pub fn wait_for_notification(&self, text: &str) {
        let mut buffer = [0; 4096];
        holds(text, || {
            let length = self.notifications.recv(&mut buffer).unwrap_or_default();
            let said = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            said.lines().any(|line| line.starts_with(text))
        });
    }

    /// What it has said to the service manager since it was last asked: one text for each datagram.
    #[must_use]
    pub fn notifications(&self) -> Vec<String> {
        let mut buffer = vec![0; 128 * 1024];
        let mut said = Vec::new();
        while let Ok(length) = self.notifications.recv(&mut buffer) {
            said.push(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into());
        }
        said
    }

    /// Reloads the policy and waits until it says that it is done.
    #[track_caller]
    pub fn reload(&self) {
        // Whether what was said until now has filled the socket is not what a test is about.
        while self.notifications.recv(&mut [0; 4096]).is_ok() {}
        self.launcher.signal(Signal::HUP);
        self.wait_for_notification("RELOADING=1");
        self.wait_for_notification("READY=1");
    }

    /// SIGKILL to the launcher; waits until it and its broker are gone.
    #[track_caller]
    pub fn kill(mut self) {
        self.end();
    }

    /// SIGTERM to the launcher, and its exit status.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        self.launcher.signal(Signal::TERM);
        self.exit()
    }

    /// Waits until it exits by itself.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait(mut self) -> ExitStatus {
        self.exit()
    }

    #[track_caller]
    fn exit(&mut self) -> ExitStatus {
        until("the launcher's exit", || {
            self.child.try_wait().expect("its status")
        })
    }

    /// Whether it has not exited.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_none()
    }

    /// Kills the launcher and waits until its broker is gone too; podman is left to end by itself.
    fn end(&mut self) {
        let mut children = self.launcher.children();
        children.retain(|child| {
            child
                .arguments()
                .first()
                .is_some_and(|a| a.ends_with("broker"))
        });
        let _ = self.child.kill();
        let _ = self.child.wait();
        let end = Instant::now() + LONG;
        while children.iter().any(|child| child.is_alive()) && Instant::now() < end {
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- the launcher's log ---\n{log}---");
        }
    }
}
