//! podman, run as the operator would have typed it: an environment of our making, no descriptors but three, a session of
//! its own, output to files (but see [`output`](crate::output)).
//!
//! A podman that has begun is never killed: most kills leave debris (measured). A caller waits for it up to a deadline
//! and may go on waiting afterwards; those that nobody waits for any more are few, and are reaped.

use crate::host_config::EngineConfig;
use crate::image::ImageCache;
use crate::info::Info;
use crate::logs::Followed;
use crate::pidfd::{Pidfd, pidfd_of, wait_ended};
use portcullis_wire::hidden;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How much of podman's output is looked at, in bytes.
const OUTPUT: u64 = 256 * 1024;
/// A list of a whole host's containers is longer.
const LIST: u64 = 64 * 1024 * 1024;
/// How many podmans may hang before none is started beside them.
const HUNG: usize = 8;
/// How much podman's heap may grow, in per cent, before it is collected. A podman that lives for a tenth of a second spends
/// a part of it on collecting what its end would free: four times for less than 16 MiB in all (measured, with what follows
/// from it, in `docs/decisions/0019-podman-does-not-collect.md`).
const GOGC: &str = "400";

/// podman on this host.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    scratch: PathBuf,
    limit: Rlimit,
    /// Tells the files of this life of the launcher from those of a podman that an earlier one started.
    life: u64,
    next: AtomicU64,
    /// Those that were left to go on.
    left: Mutex<Vec<Child>>,
    pub(crate) info: OnceLock<Info>,
    pub(crate) images: Mutex<ImageCache>,
    pub(crate) followed: Followed,
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
    /// Too many others have not ended.
    #[error(
        "{} podmans hang and no other is started beside them; find out what they wait for (a disk, a lock of podman's \
         store) and end them by hand: processes {processes:?}",
        processes.len()
    )]
    Hang {
        /// Their numbers.
        processes: Vec<u32>,
    },
    /// It ended with an error.
    #[error("podman {what}: {status}: {}", shown(stderr))]
    Failed {
        /// The subcommand.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        stderr: String,
    },
    /// It said something that is not understood.
    #[error("podman {what} answered what is not understood: {}", shown(answer))]
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

/// podman's words, which may repeat an agent's, for a log.
fn shown(text: &str) -> String {
    hidden::escaped(text, &['\n', '\t'])
}

/// One podman under way. Dropping it leaves podman alone.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: Child,
    /// `None` when there was no descriptor left for it.
    pidfd: Option<Pidfd>,
    stdout: Output,
    stderr: Output,
    most: u64,
}

/// A file in the scratch directory that podman writes to. Dropping it takes the name away; the file lives as long as
/// podman writes to it.
#[derive(Debug)]
struct Output {
    path: PathBuf,
    file: File,
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
        Ok(Self {
            config,
            scratch,
            limit,
            life: crate::audit::now(),
            next: AtomicU64::new(0),
            left: Mutex::default(),
            info: OnceLock::new(),
            images: Mutex::default(),
            followed: Followed::default(),
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
    /// [`EngineError::Start`] and [`EngineError::Hang`]: no podman was started.
    pub fn start(&self, args: &[String], stdin: Option<OwnedFd>) -> Result<Running, EngineError> {
        self.reap()?;
        let what = args.iter().take(2).cloned().collect::<Vec<_>>().join(" ");
        let begin = || -> io::Result<Running> {
            let stdout = Output::create(self.scratch_path("out"))?;
            let stderr = Output::create(self.scratch_path("err"))?;
            let mut command = self.command(args);
            command
                .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
                .stdout(stdout.file.try_clone()?)
                .stderr(stderr.file.try_clone()?);
            let child = self.spawn(&mut command)?;
            // From here on nothing fails: this podman is at work, and whoever is told otherwise would forget it.
            let pidfd = pidfd_of(&child);
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

    /// podman with these arguments, its streams not said yet.
    pub(crate) fn command(&self, args: &[String]) -> Command {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let mut command = Command::new(&self.config.podman);
        command
            .args(&self.config.global_args)
            .args(args)
            .env_clear()
            .envs([("PATH", path), ("HOME", "/root"), ("GOGC", GOGC)])
            .envs(&self.config.environment)
            .current_dir("/");
        command
    }

    /// Starts such a command in a session of its own, with the descriptor limit that the launcher itself was given.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        spawn_apart(command, self.limit)
    }

    /// Runs podman to its end, or to the deadline, and wants success.
    ///
    /// # Errors
    /// [`EngineError`], whichever.
    pub fn run(&self, args: &[&str]) -> Result<String, EngineError> {
        self.run_for(args, Duration::ZERO)
    }

    /// The same for a podman that is told to wait so long itself: the deadline comes so much later.
    ///
    /// # Errors
    /// [`EngineError`], whichever.
    pub fn run_for(&self, args: &[&str], waits: Duration) -> Result<String, EngineError> {
        let args: Vec<String> = args.iter().map(|&a| a.to_owned()).collect();
        let mut running = self.start(&args, None)?;
        let deadline = self.config.deadline.saturating_add(waits);
        let waited = running.wait(Some(deadline));
        let what = running.what.clone();
        if !matches!(waited, Ok(true)) {
            self.leave(running.child);
            return waited.and(Err(EngineError::Overdue { what, deadline }));
        }
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

impl Engine {
    /// Leaves a podman alone that nobody waits for any more.
    pub(crate) fn leave(&self, podman: Child) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.push(podman);
    }

    /// Takes note of those that have ended of what was left alone. That too many have not is an error.
    pub(crate) fn reap(&self) -> Result<(), EngineError> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain_mut(|podman| matches!(podman.try_wait(), Ok(None)));
        if left.len() < HUNG {
            return Ok(());
        }
        let processes = left.iter().map(Child::id).collect();
        Err(EngineError::Hang { processes })
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
        let until = most.map(|m| Instant::now() + m);
        wait_ended(&mut self.child, self.pidfd.as_ref(), until).map_err(|error| self.error(error))
    }

    /// What an ended podman left. Call [`wait`](Self::wait) first.
    ///
    /// # Errors
    /// [`EngineError::Start`] when its output cannot be read.
    pub fn finish(mut self) -> Result<Finished, EngineError> {
        let status = self.child.wait().map_err(|error| self.error(error))?;
        let stdout = self.stdout.read(self.most).map_err(|e| self.error(e))?;
        let stderr = self.stderr.read(OUTPUT).map_err(|e| self.error(e))?;
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

impl Output {
    fn create(path: PathBuf) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        Ok(Self { path, file })
    }

    fn read(&mut self, most: u64) -> io::Result<String> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut bytes = Vec::new();
        (&self.file).take(most).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
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

#[cfg(test)]
mod tests {
    use super::*;
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    use tempfile::TempDir;

    /// An engine whose podman is that program, and its scratch directory.
    fn engine(podman: &str) -> (Engine, TempDir) {
        let scratch = TempDir::new().unwrap();
        let config = EngineConfig {
            podman: podman.into(),
            ..EngineConfig::default()
        };
        let engine = Engine::new(config, scratch.path().to_owned()).unwrap();
        (engine, scratch)
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn is_empty(directory: &TempDir) -> bool {
        fs::read_dir(directory.path()).unwrap().next().is_none()
    }

    /// From here on this thread gets no descriptor of a process, as if it had as many descriptors as it may.
    fn take_pidfds_away() {
        let calls = [(libc::SYS_pidfd_open, vec![])].into();
        let refuse = SeccompAction::Errno(libc::EMFILE.unsigned_abs());
        let here = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(calls, SeccompAction::Allow, refuse, here).unwrap();
        seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
    }

    #[test]
    fn a_podman_for_which_there_is_no_descriptor_is_waited_for_all_the_same() {
        take_pidfds_away();
        let (engine, scratch) = engine("/bin/sh");
        let (mut go, end) = io::pipe().map(|(end, go)| (go, end)).unwrap();
        let script = words(&["-c", "read word; echo \"$word\"; exit 3"]);
        let mut podman = engine.start(&script, Some(end.into())).unwrap();
        assert!(!podman.wait(Some(Duration::from_millis(60))).unwrap());
        io::Write::write_all(&mut go, b"went on\n").unwrap();
        assert!(podman.wait(None).unwrap());
        let finished = podman.finish().unwrap();
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.stdout, "went on\n");
        assert!(is_empty(&scratch));
    }

    #[test]
    fn what_the_operator_gives_podman_takes_the_place_of_what_it_has_from_us() {
        let (mut engine, _scratch) = engine("/bin/true");
        let collects = |engine: &Engine| {
            let command = engine.command(&[]);
            let mut set = command.get_envs();
            let found = set.find_map(|(name, value)| (name == "GOGC").then_some(value?));
            found.map(|value| value.to_string_lossy().into_owned())
        };
        assert_eq!(collects(&engine).as_deref(), Some(GOGC));
        let own = [("GOGC".to_owned(), "50".to_owned())];
        engine.config.environment = own.into();
        assert_eq!(collects(&engine).as_deref(), Some("50"));
    }

    #[test]
    fn a_podman_that_cannot_be_started_leaves_no_files() {
        let (engine, scratch) = engine("/nowhere/podman");
        assert!(matches!(
            engine.run(&["info"]),
            Err(EngineError::Start { .. })
        ));
        assert!(is_empty(&scratch));
    }
}
