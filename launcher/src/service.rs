//! The launcher's one loop: it waits for a broker's order, a worker's outcome, a main process's end, a signal, the
//! operator, and does what follows from it. It blocks nowhere else, but for the log and short files of its own.

use crate::account::Account;
use crate::answer::Unread;
use crate::audit::Sparse;
use crate::broker::ORDER;
use crate::bucket::Bucket;
use crate::connections::Connections;
use crate::host_config::HostConfig;
use crate::launch::Host;
use crate::metrics::Counts;
use crate::notify::Manager;
use crate::operator::Operator;
use crate::options::Options;
use crate::pidfd::Pidfd;
use crate::spool::{Journal, Lines, Spools};
use crate::status::Status;
use crate::supervise::{Child, PAUSE};
use crate::table::{Arrival, Pending, ReplyTo, Table};
use crate::workers::{Task, Workers};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use portcullis_policy::Policy;
use portcullis_wire::{PolicyBundle, Reply};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Keys of the poll loop; main processes have those from `MAIN` on.
pub(crate) mod key {
    pub(crate) const SIGNALS: u64 = 0;
    pub(crate) const WORKERS: u64 = 1;
    pub(crate) const OPERATOR: u64 = 2;
    pub(crate) const CLIENTS: u64 = 3;
    pub(crate) const WATCHES: u64 = 4;
    pub(crate) const TAKERS: u64 = 5;
    /// A broker's link is `BROKER` + 4 n, its pidfd one more, its descriptor 2 another one.
    pub(crate) const BROKER: u64 = 1 << 32;
    pub(crate) const CONNECTION: u64 = 1 << 40;
    pub(crate) const MAIN: u64 = 1 << 48;
}

/// How long a new broker may take to serve, an old one to drain, and launches to finish at the end.
const GRACE: Duration = Duration::from_secs(20);

/// Everything that one launcher is.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) options: Options,
    pub(crate) config: HostConfig,
    pub(crate) policy: Option<Rc<Policy>>,
    pub(crate) table: Table,
    pub(crate) workers: Workers,
    pub(crate) host: Arc<Host>,
    pub(crate) bucket: Bucket,
    pub(crate) unread: Unread,
    pub(crate) denial_records: Sparse,
    pub(crate) busy_records: Sparse,
    pub(crate) take_records: Sparse,
    pub(crate) counts: Counts,
    pub(crate) recovered: bool,
    pub(crate) recover_at: Option<Instant>,
    pub(crate) before_recovery: Vec<Pending>,
    pub(crate) epoll: OwnedFd,
    pub(crate) next_key: u64,
    pub(crate) operator: Operator,
    pub(crate) bundle: PolicyBundle,
    pub(crate) connections: Connections,
    pub(crate) account: Option<Account>,
    pub(crate) spools: Spools,
    pub(crate) lines: Lines,
    arrivals: Arc<AtomicU64>,
    pub(crate) signals: SignalFd,
    pub(crate) children: Vec<Child>,
    pub(crate) start_at: Option<Instant>,
    /// The first broker is started when every spool has been looked at.
    pub(crate) waits_for_spools: bool,
    pub(crate) pause: Duration,
    pub(crate) idle_since: Instant,
    pub(crate) stopping: Option<Instant>,
    pub(crate) reloading: bool,
    pub(crate) manager: Manager,
    pub(crate) status: Status,
}

impl Service {
    /// Puts everything together; nothing is served before [`run`](Self::run).
    pub(crate) fn new(
        options: Options,
        config: HostConfig,
        host: Arc<Host>,
        listener: Option<OwnedFd>,
        control: OwnedFd,
        journal: Journal,
    ) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT] {
            mask.add(signal);
        }
        // Before the workers start, so that they inherit it and no signal ends them.
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let workers = Workers::start(Arc::clone(&host))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bundle = PolicyBundle {
            agent: options.agent.as_str().to_owned(),
            files: Vec::new(),
        };
        let arrivals = Arc::new(AtomicU64::new(0));
        let mut service = Self {
            options,
            config,
            policy: None,
            table: Table::default(),
            workers,
            host,
            bucket: Bucket::full(),
            unread: Unread::default(),
            denial_records: Sparse::new("denied", 200),
            busy_records: Sparse::new("busy", 100),
            take_records: Sparse::new("taken", 100),
            counts: Counts::default(),
            recovered: false,
            recover_at: None,
            before_recovery: Vec::new(),
            epoll,
            next_key: 0,
            operator: Operator::new(control),
            bundle,
            connections: Connections::new(listener)?,
            account: None,
            spools: Spools::new(journal, Arc::clone(&arrivals))?,
            lines: Lines::default(),
            arrivals,
            signals,
            children: Vec::new(),
            start_at: None,
            waits_for_spools: false,
            pause: PAUSE.0,
            idle_since: Instant::now(),
            stopping: None,
            reloading: false,
            manager: Manager::from_environment()?,
            status: Status::default(),
        };
        service.add(key::SIGNALS, service.signals.as_fd())?;
        service.add(key::WORKERS, service.workers.wake())?;
        service.add(key::OPERATOR, service.operator.listener())?;
        service.add(key::TAKERS, service.spools.wake())?;
        if let Err(problem) = service.load_policy() {
            service.status.policy_is_broken = true;
            tracing::error!(
                agent = service.options.agent.as_str(),
                "no usable policy, so everything is answered with policy-unavailable until it is mended and this \
                 service reloaded: {problem}"
            );
        }
        Ok(service)
    }

    /// Whether a policy is in force that has no spool: without a listener there is nothing to wait for.
    pub(crate) fn serves_nobody(&self) -> bool {
        self.policy.is_some() && !self.spools.any()
    }

    /// Serves until idle for long enough, or told to stop.
    pub(crate) fn run(mut self) -> io::Result<()> {
        self.recover();
        self.start_after_spools();
        let mut buffer = vec![0; ORDER].into_boxed_slice();
        let mut events = Vec::with_capacity(64);
        loop {
            let due = self.due();
            if self.finished() {
                return Ok(());
            }
            let wait = due.map(|due| timespec(due.saturating_duration_since(Instant::now())));
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                wait.as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            self.status.outdated |= !events.is_empty();
            for event in &events {
                self.on_event(event.data.u64(), &mut buffer)?;
            }
        }
    }

    fn on_event(&mut self, key: u64, buffer: &mut [u8]) -> io::Result<()> {
        match key {
            key::SIGNALS => {
                while let Some(signal) = self.signals.read_signal()? {
                    match Signal::try_from(i32::try_from(signal.ssi_signo).unwrap_or(0)) {
                        Ok(Signal::SIGHUP) => self.reload(),
                        _ => self.stop(),
                    }
                }
            }
            key::WORKERS => {
                self.workers.hush();
                while let Some(outcome) = self.workers.heard() {
                    self.heard(outcome);
                }
            }
            key::OPERATOR => self.operator_connects(),
            key::CLIENTS => self.clients_connect(),
            key::WATCHES => self.spools_are_touched(),
            key::TAKERS => self.takers_tell(),
            key::MAIN.. => self.ended(key),
            key::CONNECTION.. => self.operator_asks(key, buffer),
            _ => self.broker_tells(key, buffer),
        }
        Ok(())
    }

    /// Does what is due, and says when to look again. `None`: when something happens.
    fn due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut dues = vec![self.tick()];
        if !self.unread.is_empty() {
            self.unread.retry();
            dues.push((!self.unread.is_empty()).then(|| now + Duration::from_millis(10)));
        }
        if self.start_at.is_some_and(|at| at <= now) {
            self.start_at = None;
            self.start_broker();
        }
        dues.push(self.start_at);
        for child in &mut self.children {
            if child.broker.ready.is_none() || child.draining {
                if now >= child.since + GRACE {
                    child.broker.kill();
                    child.since = now;
                }
                dues.push(Some(child.since + GRACE));
            }
        }
        dues.push(self.look_at_spools(now));
        dues.push(self.hand_lines_on(now));
        if self.busy() {
            self.idle_since = now;
        } else {
            dues.push(self.idle_exit().map(|idle| self.idle_since + idle));
        }
        dues.push(self.stopping);
        dues.push(self.heartbeats(now));
        dues.push(self.watch_clients(now));
        dues.push(self.end_patience(now));
        dues.push(self.reopen_to_operators(now));
        dues.push(self.tell_unrecorded(now));
        dues.push(self.manager.due(now));
        dues.push(self.tell_status(now));
        dues.into_iter().flatten().min()
    }

    fn idle_exit(&self) -> Option<Duration> {
        let idle = self
            .options
            .idle_exit
            .unwrap_or(self.config.broker.idle_exit);
        (!idle.is_zero()).then_some(idle)
    }

    /// Whether there is a connection, something under way, or a side container to watch.
    fn busy(&self) -> bool {
        !self.recovered
            || !self.table.entries.is_empty()
            || !self.workers.idle()
            || !self.unread.is_empty()
            || self.operator.connected()
            || self.start_at.is_some()
            // The service manager loses what happens to a file between the end of a service and its own next watch.
            || self.spools.any()
            || self.lines.waiting() > 0
            || self
                .children
                .iter()
                .any(|c| c.broker.ready.is_none())
            || self.connections.number() > 0
    }

    /// Whether this is the end. Draining comes first: what a client has sent until now is served.
    fn finished(&mut self) -> bool {
        let now = Instant::now();
        if self.stopping.is_none()
            && !self.busy()
            && self
                .idle_exit()
                .is_some_and(|idle| now >= self.idle_since + idle)
        {
            tracing::info!(
                agent = self.options.agent.as_str(),
                "nothing to do: exiting"
            );
            self.stop();
        }
        let Some(until) = self.stopping else {
            return false;
        };
        let done = self.children.is_empty()
            && self.table.in_flight() == 0
            && self.before_recovery.is_empty()
            && self.unread.is_empty();
        if done || now >= until {
            // Whoever still waits asks again, and then joins or reuses what runs by then.
            self.turn_waiting_away();
            return true;
        }
        false
    }

    fn turn_waiting_away(&mut self) {
        let mut waiting = std::mem::take(&mut self.before_recovery);
        for entry in self.table.entries.values_mut() {
            waiting.append(&mut entry.waiting);
            waiting.append(&mut entry.next);
        }
        for pending in waiting {
            // A line stays in the journal, for the next life.
            if let ReplyTo::Client(client) = pending.to {
                let reply = Reply::Busy { retry_after: 500 };
                self.unread.answer(client, pending.id, reply);
            }
        }
    }

    fn stop(&mut self) {
        if self.stopping.is_none() {
            self.manager.tell("STOPPING=1".to_owned());
            self.stopping = Some(Instant::now() + GRACE);
            self.start_at = None;
            for child in &mut self.children {
                child.drain();
            }
        }
    }

    /// Asks podman, on a worker, what of the recorded launches runs.
    pub(crate) fn recover(&mut self) {
        self.workers
            .give(Task::Recover(self.options.agent.as_str().to_owned()));
    }

    pub(crate) fn add(&self, key: u64, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            fd,
            epoll::EventData::new_u64(key),
            epoll::EventFlags::IN,
        )?)
    }

    /// Answers a request.
    pub(crate) fn reply(&mut self, pending: Pending, reply: Reply) {
        match pending.to {
            ReplyTo::Client(client) => self.unread.answer(client, pending.id, reply),
            ReplyTo::Line(_) => self.line_is_answered(pending, &reply),
        }
    }

    /// The number of the next request.
    pub(crate) fn next_arrival(&mut self) -> Arrival {
        (1 + self.arrivals.fetch_add(1, Ordering::Relaxed), 0, 0)
    }

    /// Has the end of a main process told.
    pub(crate) fn watch(&mut self, pidfd: &Pidfd, name: &str) -> u64 {
        let key = key::MAIN + self.next_key;
        self.next_key += 1;
        self.table.keys.insert(key, name.to_owned());
        if let Err(error) = self.add(key, pidfd.as_fd()) {
            tracing::error!(name, %error, "the end of a side container will not be noticed");
        }
        key
    }

    pub(crate) fn unwatch(&mut self, pidfd: &Pidfd, key: u64) {
        self.table.keys.remove(&key);
        let _ = epoll::delete(&self.epoll, pidfd);
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
