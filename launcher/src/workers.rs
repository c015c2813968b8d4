//! The threads that run podman: a bounded number, fed from a bounded queue, heard through one channel and an eventfd.
//!
//! A worker whose podman overruns its deadline says so and goes on waiting for it, as an extra; a new worker takes its
//! place, so that one podman that hangs does not stop the next launch.

use crate::attempt::{Job, NotStarted, Started};
use crate::container::Main;
use crate::engine::EngineError;
use crate::launch::{Begun, Host};
use crate::records::{Record, RecordError};
use portcullis_wire::limits;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How many launches wait for a worker before new ones are told `Busy`.
const QUEUE: usize = 64;
/// How many podmans may hang before their workers are replaced no more.
const HUNG: usize = 8;
/// A worker's stack in bytes.
const STACK: usize = 256 * 1024;

/// Work for a worker.
#[derive(Debug)]
pub enum Task {
    /// Start a side container.
    Launch(Box<Job>),
    /// Find out what is left of a recorded launch, and remove it if it has ended. `true`: somebody waits for the end of
    /// its output.
    Settle(Record, bool),
    /// Find out what all recorded launches have become, at start.
    Recover(String),
}

/// What came of it.
#[derive(Debug)]
pub enum Outcome {
    /// A launch is over.
    Launched {
        /// The container's name.
        name: String,
        /// What came of it.
        result: Result<Box<Started>, Box<NotStarted>>,
    },
    /// podman overruns its deadline; `Launched` follows, some day.
    Overdue {
        /// The container's name.
        name: String,
    },
    /// What had the name was stopped and removed, to be replaced; `Launched` follows.
    Cleared {
        /// Its launch.
        record: Record,
        /// Its exit code, where podman knew it.
        exit: Option<u8>,
    },
    /// It is known what is left of a launch.
    Settled {
        /// The launch.
        record: Record,
        /// It runs, or nothing is left of it.
        result: Result<Settled, SettleError>,
    },
    /// It is known what all recorded launches have become.
    Recovered(Result<Vec<(Record, Option<Main>)>, SettleError>),
    /// A worker that was replaced is done.
    ExtraDone,
}

/// What is left of a launch.
#[derive(Debug)]
pub enum Settled {
    /// It runs.
    Runs(Box<Main>),
    /// Nothing.
    Gone {
        /// There was a container until now.
        existed: bool,
        /// The exit code, where podman knew it.
        exit: Option<u8>,
        /// The end of its output.
        output: String,
    },
}

/// It could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// Because of the records; [`RecordError::Held`] when a podman is still at work on it.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Because of podman.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The workers.
#[derive(Debug)]
pub struct Workers {
    shared: Arc<Shared>,
    outcomes: Receiver<Outcome>,
    live: usize,
    hung: usize,
    busy: usize,
}

#[derive(Debug)]
struct Shared {
    host: Arc<Host>,
    queue: Mutex<Queue>,
    more: Condvar,
    tell: Sender<Outcome>,
    wake: OwnedFd,
}

/// Launches and everything else are taken in turns: after a reboot thousands of ended containers are to be removed, and
/// nobody's launch waits for the last of them, nor they for ever.
#[derive(Debug, Default)]
struct Queue {
    launches: VecDeque<Task>,
    others: VecDeque<Task>,
    launches_turn: bool,
}

impl Queue {
    fn put(&mut self, task: Task) {
        match task {
            Task::Launch(_) => self.launches.push_back(task),
            Task::Settle(..) | Task::Recover(_) => self.others.push_back(task),
        }
    }

    fn take(&mut self) -> Option<Task> {
        self.launches_turn = !self.launches_turn;
        let (first, second) = if self.launches_turn {
            (&mut self.launches, &mut self.others)
        } else {
            (&mut self.others, &mut self.launches)
        };
        first.pop_front().or_else(|| second.pop_front())
    }
}

impl Workers {
    /// Starts the configured number of workers.
    ///
    /// # Errors
    /// When no thread or descriptor is to be had.
    pub fn start(host: Arc<Host>) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (tell, outcomes) = channel();
        let number = usize::from(host.engine.config().workers);
        let shared = Arc::new(Shared {
            host,
            queue: Mutex::default(),
            more: Condvar::new(),
            tell,
            wake,
        });
        let mut workers = Self {
            shared,
            outcomes,
            live: 0,
            hung: 0,
            busy: 0,
        };
        for _ in 0..number {
            workers.add()?;
        }
        Ok(workers)
    }

    fn add(&mut self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let builder = std::thread::Builder::new()
            .name("worker".to_owned())
            .stack_size(STACK);
        builder.spawn(move || shared.work())?;
        self.live += 1;
        Ok(())
    }

    /// Readable when [`heard`](Self::heard) has something.
    #[must_use]
    pub fn wake(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }

    /// The next outcome, if there is one.
    pub fn heard(&mut self) -> Option<Outcome> {
        let outcome = self.outcomes.try_recv().ok()?;
        match &outcome {
            Outcome::Overdue { .. } => {
                self.live -= 1;
                self.hung += 1;
                self.replace();
            }
            Outcome::ExtraDone => {
                self.hung -= 1;
                self.replace();
            }
            Outcome::Cleared { .. } => {}
            _ => self.busy -= 1,
        }
        Some(outcome)
    }

    /// Puts new workers in the places of those that hang, as long as not too many do.
    fn replace(&mut self) {
        let number = usize::from(self.shared.host.engine.config().workers);
        while self.live < number && self.live + self.hung < number + HUNG {
            if let Err(error) = self.add() {
                tracing::error!(%error, "no thread for a new worker");
                return;
            }
        }
    }

    /// Takes the eventfd back to silence.
    pub fn hush(&self) {
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
    }

    /// Whether a launch can be queued now.
    #[must_use]
    pub fn have_room(&self) -> bool {
        self.shared
            .queue
            .lock()
            .is_ok_and(|queue| queue.launches.len() < QUEUE)
    }

    /// Whether every worker hangs in a podman, beyond what is replaced.
    #[must_use]
    pub fn all_hang(&self) -> bool {
        self.live == 0
    }

    /// Whether nothing is queued or under way.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.busy == 0
    }

    /// Hands a task over.
    pub fn give(&mut self, task: Task) {
        if let Ok(mut queue) = self.shared.queue.lock() {
            queue.put(task);
            self.busy += 1;
            self.shared.more.notify_one();
        }
    }
}

impl Shared {
    fn work(&self) {
        while let Some(task) = self.next() {
            let replaced = match task {
                Task::Launch(job) => self.launch(*job),
                Task::Settle(record, wants_output) => {
                    let result = self.host.settle(&record, wants_output);
                    self.tell(Outcome::Settled { record, result });
                    false
                }
                Task::Recover(agent) => {
                    self.tell(Outcome::Recovered(self.host.recover(&agent)));
                    false
                }
            };
            if replaced {
                self.tell(Outcome::ExtraDone);
                return;
            }
        }
    }

    fn next(&self) -> Option<Task> {
        let mut queue = self.queue.lock().ok()?;
        loop {
            if let Some(task) = queue.take() {
                return Some(task);
            }
            queue = self.more.wait(queue).ok()?;
        }
    }

    fn tell(&self, outcome: Outcome) {
        // Neither fails while the service lives, and when it does not, nobody wants to know.
        let _ = self.tell.send(outcome);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Launches, and says whether this worker was replaced meanwhile.
    fn launch(&self, job: Job) -> bool {
        let name = job.plan.name().to_owned();
        let deadline = self.host.engine.config().deadline;
        let cleared = |record, exit| self.tell(Outcome::Cleared { record, exit });
        let (result, replaced) = match self.host.begin(job, cleared) {
            Ok(Begun::Reused(started)) => (Ok(started), false),
            Ok(Begun::UnderWay(mut under_way)) => {
                let in_time = under_way.podman().wait(Some(deadline)).unwrap_or(true);
                if !in_time {
                    self.tell(Outcome::Overdue { name: name.clone() });
                    while !under_way.podman().wait(None).unwrap_or_else(|error| {
                        tracing::error!(name, %error, "podman cannot be waited for");
                        std::thread::sleep(Duration::from_secs(1));
                        false
                    }) {}
                }
                (
                    self.host
                        .conclude(*under_way)
                        .map(Box::new)
                        .map_err(Box::new),
                    !in_time,
                )
            }
            Err(not) => (Err(Box::new(not)), false),
        };
        self.tell(Outcome::Launched { name, result });
        replaced
    }
}

impl Host {
    /// Finds out what is left of a recorded launch; what has ended is removed, and its record with it.
    ///
    /// # Errors
    /// [`SettleError`]: try again later.
    pub fn settle(&self, record: &Record, wants_output: bool) -> Result<Settled, SettleError> {
        let lock = self.records.lock(&record.name)?;
        let (mut existed, mut exit, mut output) = (false, None, String::new());
        if let Some(holder) = self.engine.holder(&record.name)?
            && holder.nonce == record.nonce
        {
            if let Some(main) = Main::see(&holder.id, holder.pid) {
                return Ok(Settled::Runs(Box::new(main)));
            }
            existed = true;
            exit = match holder.status.as_str() {
                "exited" => Some(holder.exit),
                "created" | "configured" | "initialized" => None,
                // podman has not heard of the end yet; this waits until conmon has told it.
                _ => self.engine.exit_code(&holder.id).ok(),
            };
            if wants_output {
                output = self.engine.output_tail(&holder.id, limits::OUTPUT);
            }
            self.engine.remove(&holder.id)?;
        }
        self.records.remove(lock, &record.name)?;
        Ok(Settled::Gone {
            existed,
            exit,
            output,
        })
    }

    /// Finds out what all recorded launches have become. `None`: not running, or a podman is still at work on it.
    ///
    /// # Errors
    /// [`SettleError`]: nothing can be launched before this has worked.
    pub fn recover(&self, agent: &str) -> Result<Vec<(Record, Option<Main>)>, SettleError> {
        // Asked now, so that the first launch need not wait for the answer.
        let _ = self.engine.info();
        let (records, unreadable) = self.records.load()?;
        for error in unreadable {
            tracing::error!(agent, %error, "a launch record cannot be read; its container counts as foreign");
        }
        // A name whose podman is at work counts as unknown, whatever `podman ps` says: so the locks come first.
        let at_work: Vec<bool> = records
            .iter()
            .map(|record| self.records.lock(&record.name).is_err())
            .collect();
        let mut known = if records.is_empty() {
            Vec::new()
        } else {
            self.engine.labelled(agent)?
        };
        Ok(records
            .into_iter()
            .zip(at_work)
            .map(|(record, at_work)| {
                let of = |k: &crate::container::Known| {
                    !at_work && k.names.contains(&record.name) && k.nonce() == Some(&record.nonce)
                };
                let main = known
                    .iter()
                    .position(of)
                    .map(|at| known.swap_remove(at))
                    .and_then(|known| Main::see(&known.id, known.pid));
                (record, main)
            })
            .collect())
    }
}
