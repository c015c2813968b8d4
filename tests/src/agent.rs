//! An agent: its policy, its directories, and the sockets, which the harness holds as systemd would.

use crate::{Audit, Client, Door, Host, Service};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use std::fmt::Write;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// One agent of a host.
#[derive(Debug)]
pub struct Agent<'h> {
    host: &'h Host,
    name: String,
    listener: OwnedFd,
    control_listener: OwnedFd,
    engine: String,
    broker: String,
    binaries: Option<PathBuf>,
    broker_binary: Option<PathBuf>,
    options: Vec<String>,
    older: Vec<Door>,
}

impl<'h> Agent<'h> {
    pub(crate) fn new(host: &'h Host, name: &str, policy: &str) -> Self {
        for parent in ["run", "private", "state"] {
            fs::create_dir_all(host.path().join(parent).join(name)).expect("a directory");
        }
        let listener = |path: &str| {
            let path = host.path().join(path);
            let flags = SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .expect("a socket");
            bind(&socket, &SocketAddrUnix::new(path).expect("a short path")).expect("bind");
            listen(&socket, 1024).expect("listen");
            socket
        };
        let agent = Self {
            host,
            name: name.into(),
            listener: listener(&format!("run/{name}/broker.sock")),
            control_listener: listener(&format!("private/{name}/control.sock")),
            engine: String::new(),
            broker: String::new(),
            binaries: None,
            broker_binary: None,
            options: vec![],
            older: vec![],
        };
        agent.write_policy(policy);
        agent
    }

    /// Adds a line to `[engine]` of the host configuration.
    #[must_use]
    pub fn engine(mut self, line: &str) -> Self {
        self.engine.push_str(line);
        self.engine.push('\n');
        self
    }

    /// Adds a line to `[broker]` of the host configuration.
    #[must_use]
    pub fn broker(mut self, line: &str) -> Self {
        self.broker.push_str(line);
        self.broker.push('\n');
        self
    }

    /// Has another build's launcher and broker serve it: those of that folder.
    #[must_use]
    pub fn binaries(mut self, folder: &Path) -> Self {
        self.binaries = Some(folder.to_owned());
        self
    }

    /// One of the binaries of the build that serves it.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn binary(&self, name: &str) -> PathBuf {
        match &self.binaries {
            Some(folder) => folder.join(name),
            None => binary(name),
        }
    }

    /// Has the launcher start another broker.
    #[must_use]
    pub fn broker_binary(mut self, path: PathBuf) -> Self {
        self.broker_binary = Some(path);
        self
    }

    /// Adds an option of the launcher's.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.extend([name.into(), value.into()]);
        self
    }

    /// Has launcher and broker run on an older host, without these.
    #[must_use]
    pub fn older(mut self, without: &[Door]) -> Self {
        self.older = without.to_vec();
        self
    }

    /// What its host is without.
    pub(crate) fn without(&self) -> &[Door] {
        &self.older
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &'h Host {
        self.host
    }

    /// Its policy's main file.
    #[must_use]
    pub fn policy(&self) -> PathBuf {
        let file = format!("{}.toml", self.name);
        self.host.path().join("etc/agents").join(file)
    }

    /// Writes its policy's main file anew, at once and whole.
    ///
    /// # Panics
    /// When that fails.
    pub fn write_policy(&self, text: &str) {
        let new = self.policy().with_extension("new");
        fs::write(&new, text).expect("a policy");
        fs::rename(new, self.policy()).expect("a policy");
    }

    /// The policy as it stands there.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn policy_text(&self) -> String {
        fs::read_to_string(self.policy()).expect("a policy")
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory("run").join("broker.sock")
    }

    /// The operator's socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.private().join("control.sock")
    }

    /// The launcher's runtime directory.
    #[must_use]
    pub fn private(&self) -> PathBuf {
        self.directory("private")
    }

    /// The launcher's state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory("state")
    }

    /// How many bytes of lines the launcher has taken whose outcome it does not know yet.
    #[must_use]
    pub fn journal(&self) -> u64 {
        let entries = fs::read_dir(self.state().join("spool"));
        let files = entries.into_iter().flatten().flatten();
        // One that is no longer there has another name by now, or is over with: it is something until it is asked again.
        files.map(|e| e.metadata().map_or(1, |m| m.len())).sum()
    }

    /// What the launcher writes to standard error.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.host.path().join("log").join(&self.name)
    }

    /// The launcher's log so far, over all its lives.
    #[must_use]
    pub fn audit(&self) -> Audit {
        Audit::read(&self.log())
    }

    /// A connection to its socket; the listener is there even while nobody serves it.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(&self.socket()).expect("the agent's socket")
    }

    /// Starts the launcher as systemd does: with the listeners inherited.
    #[must_use]
    pub fn start(&self) -> Service {
        Service::start(self, Some([&self.listener, &self.control_listener]), &[])
    }

    /// Starts the launcher as from a shell: it binds the sockets itself.
    #[must_use]
    pub fn start_listening(&self) -> Service {
        self.remove_sockets();
        let path = self.socket().display().to_string();
        Service::start(self, None, &["--listen", &path])
    }

    /// Starts the launcher without the agent's socket: it has spools alone.
    #[must_use]
    pub fn start_without_listener(&self) -> Service {
        self.remove_sockets();
        Service::start(self, None, &[])
    }

    fn remove_sockets(&self) {
        for path in [self.socket(), self.control_socket()] {
            let _ = fs::remove_file(path);
        }
    }

    pub(crate) fn launcher_options(&self) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let broker = self.broker_binary.clone();
        let broker = broker.unwrap_or_else(|| self.binary("portcullis-broker"));
        let mut options = vec![
            "--agent".into(),
            self.name.clone(),
            "--policy".into(),
            text(&self.policy()),
            "--config".into(),
            text(&self.write_configuration()),
            "--broker".into(),
            text(&broker),
            "--state-dir".into(),
            text(&self.state()),
            "--runtime-dir".into(),
            text(&self.private()),
        ];
        options.extend(self.options.iter().cloned());
        options
    }

    fn write_configuration(&self) -> PathBuf {
        let engine = self.host.engine();
        let mut text = format!("[engine]\npodman = {:?}\n", engine.script());
        let _ = writeln!(text, "global_args = {:?}", engine.global_arguments());
        let environment: Vec<_> = engine
            .environment()
            .iter()
            .map(|(name, value)| format!("{name} = {value:?}"))
            .collect();
        let _ = writeln!(text, "environment = {{ {} }}", environment.join(", "));
        text.push_str(&self.engine);
        let user = if self.broker.contains("user") {
            ""
        } else {
            "user = \"nobody\"\n"
        };
        let _ = write!(text, "[broker]\n{user}{}", self.broker);
        let path = self
            .host
            .path()
            .join("etc")
            .join(format!("{}.conf", self.name));
        fs::write(&path, text).expect("the host configuration");
        path
    }

    fn directory(&self, parent: &str) -> PathBuf {
        self.host.path().join(parent).join(&self.name)
    }
}

/// A rule that launches `sleep SECONDS`, as the container `sleep-SECONDS`.
pub const SLEEP: &str = r#"
[[launch]]
rule = "sleep"
command = "sleep"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep"]
args = [{ min = 1, pattern = "{seconds:int}" }]
[launch.container]
name = "sleep-{seconds}"
user = "0:0"
"#;

/// A built binary, by name: in `$PORTCULLIS_BIN_DIR`, else where `make build` leaves it.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let dir = std::env::var_os("PORTCULLIS_BIN_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist/bin"),
        PathBuf::from,
    );
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is not there: run `make build`",
        path.display()
    );
    path.canonicalize().expect("a path")
}
