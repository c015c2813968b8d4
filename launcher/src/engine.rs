//! podman, run as the operator would have typed it: an environment of our making, no descriptors but three, a session of
//! its own, output to files.
//!
//! A podman that has begun is never killed: most kills leave debris (measured). A caller waits for it up to a deadline
//! and may go on waiting afterwards.

use crate::host_config::EngineConfig;
use crate::image::ImageCache;
use crate::pidfd::Pidfd;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How much of podman's output is looked at, in bytes.
const OUTPUT: u64 = 256 * 1024;
/// A list of a whole host's containers is longer.
const LIST: u64 = 64 * 1024 * 1024;

/// podman on this host.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    scratch: PathBuf,
    limit: Rlimit,
    /// Tells the files of this life of the launcher from those of a podman that an earlier one started.
    life: u64,
    next: AtomicU64,
    pub(crate) images: Mutex<ImageCache>,
}

/// What podman did.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error, for the audit record.
    pub stderr: String,
}

/// podman could not be used.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It could not be started, or waited for.
    #[error("{podman} {what}: {error}")]
    Start {
        /// podman's path.
        podman: PathBuf,
        /// The subcommand.
        what: String,
        /// What came of it.
        error: io::Error,
    },
    /// It has not ended in time, and goes on.
    #[error("podman {what} has not ended after {deadline:?}; it was left to go on")]
    Overdue {
        /// The subcommand.
        what: String,
        /// The deadline.
        deadline: Duration,
    },
    /// It ended with an error.
    #[error("podman {what}: {status}: {stderr}")]
    Failed {
        /// The subcommand.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        stderr: String,
    },
    /// It said something that is not understood.
    #[error("podman {what} answered what is not understood: {answer}")]
    Answer {
        /// The subcommand.
        what: String,
        /// What it said.
        answer: String,
    },
}

impl EngineError {
    /// podman says that there is no such image, container or object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Failed { stderr, .. }
            if ["no such container", "no such image", "no such object", "image not known"]
                .iter().any(|text| stderr.to_ascii_lowercase().contains(text)))
    }
}

/// One podman under way. Dropping it leaves podman alone.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: Child,
    pidfd: Pidfd,
    stdout: (PathBuf, File),
    stderr: (PathBuf, File),
    most: u64,
}

impl Engine {
    /// Prepares to run podman; `scratch` is a directory that root alone can enter. The limit on descriptors that is in
    /// force now is podman's: call this before raising the launcher's own.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(config: EngineConfig, scratch: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&scratch)?;
        let limit = getrlimit(Resource::Nofile);
        let (life, next, images) = (crate::audit::now(), AtomicU64::new(0), Mutex::default());
        Ok(Self {
            config,
            scratch,
            limit,
            life,
            next,
            images,
        })
    }

    /// Removes what earlier lives left in the scratch directory. Not while a podman of theirs is at work.
    pub fn sweep(&self) {
        for entry in fs::read_dir(&self.scratch).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
    }

    /// The configuration it was made with.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// A path in the scratch directory that was not used before.
    #[must_use]
    pub fn scratch_path(&self, kind: &str) -> PathBuf {
        let serial = self.next.fetch_add(1, Ordering::Relaxed);
        self.scratch.join(format!("{}-{serial}.{kind}", self.life))
    }

    /// Starts podman with these arguments; `stdin` is `/dev/null` unless given.
    ///
    /// # Errors
    /// [`EngineError::Start`].
    pub fn start(&self, args: &[String], stdin: Option<OwnedFd>) -> Result<Running, EngineError> {
        let what = args.iter().take(2).cloned().collect::<Vec<_>>().join(" ");
        let begin = || -> io::Result<Running> {
            let stdout = output_file(self.scratch_path("out"))?;
            let stderr = output_file(self.scratch_path("err"))?;
            let mut command = Command::new(&self.config.podman);
            command
                .args(&self.config.global_args)
                .args(args)
                .env_clear()
                .env(
                    "PATH",
                    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                )
                .env("HOME", "/root")
                .envs(&self.config.environment)
                .current_dir("/")
                .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
                .stdout(stdout.1.try_clone()?)
                .stderr(stderr.1.try_clone()?);
            let child = spawn_apart(&mut command, self.limit)?;
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let pidfd = Pidfd::open(pid.ok_or(io::ErrorKind::InvalidData)?)?;
            let most = if args.first().is_some_and(|a| a == "ps") {
                LIST
            } else {
                OUTPUT
            };
            Ok(Running {
                what: what.clone(),
                child,
                pidfd,
                stdout,
                stderr,
                most,
            })
        };
        begin().map_err(|error| EngineError::Start {
            podman: self.config.podman.clone(),
            what: what.clone(),
            error,
        })
    }

    /// Runs podman to its end, or to the deadline, and wants success.
    ///
    /// # Errors
    /// [`EngineError`], whichever.
    pub fn run(&self, args: &[&str]) -> Result<String, EngineError> {
        let args: Vec<String> = args.iter().map(|&a| a.to_owned()).collect();
        let mut running = self.start(&args, None)?;
        if !running.wait(Some(self.config.deadline))? {
            return Err(EngineError::Overdue {
                what: running.what.clone(),
                deadline: self.config.deadline,
            });
        }
        let what = running.what.clone();
        let finished = running.finish()?;
        if finished.status.success() {
            Ok(finished.stdout)
        } else {
            let Finished { status, stderr, .. } = finished;
            Err(EngineError::Failed {
                what,
                status,
                stderr,
            })
        }
    }
}

impl Running {
    /// podman's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until podman has ended, for ever or so long. `false`: it goes on.
    ///
    /// # Errors
    /// [`EngineError::Start`] when it cannot be waited for.
    pub fn wait(&mut self, most: Option<Duration>) -> Result<bool, EngineError> {
        self.pidfd
            .wait_ended(most.map(|m| Instant::now() + m))
            .map_err(|error| self.error(error))
    }

    /// What an ended podman left. Call [`wait`](Self::wait) first.
    ///
    /// # Errors
    /// [`EngineError::Start`] when its output cannot be read.
    pub fn finish(mut self) -> Result<Finished, EngineError> {
        let status = self.child.wait().map_err(|error| self.error(error))?;
        let stdout = read_back(&mut self.stdout.1, self.most).map_err(|e| self.error(e))?;
        let stderr = read_back(&mut self.stderr.1, OUTPUT).map_err(|e| self.error(e))?;
        Ok(Finished {
            status,
            stdout,
            stderr: stderr.trim_end().to_owned(),
        })
    }

    fn error(&self, error: io::Error) -> EngineError {
        EngineError::Start {
            podman: "podman".into(),
            what: self.what.clone(),
            error,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The names go; the files live as long as podman writes to them.
        let _ = fs::remove_file(&self.stdout.0);
        let _ = fs::remove_file(&self.stderr.0);
    }
}

/// Whether a text is a full container or image ID.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn output_file(path: PathBuf) -> io::Result<(PathBuf, File)> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    Ok((path, file))
}

fn read_back(file: &mut File, most: u64) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Starts a command in a session of its own, with the descriptor limit that the launcher itself was given.
#[allow(unsafe_code)]
fn spawn_apart(command: &mut Command, limit: Rlimit) -> io::Result<Child> {
    let apart = move || {
        rustix::process::setsid()?;
        setrlimit(Resource::Nofile, limit)?;
        Ok(())
    };
    // SAFETY: runs between fork and exec; setsid and setrlimit are plain system calls that allocate nothing and take no
    // lock.
    unsafe { command.pre_exec(apart) };
    command.spawn()
}
