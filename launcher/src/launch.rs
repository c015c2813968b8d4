//! One launch, from a plan to a main process that has been seen alive. Runs on a worker and may block.
//!
//! Order matters: everything is resolved first, then an old container goes, then the record is on disk, then podman runs.

use crate::attempt::{Existing, Job, NotStarted, Started, engine, internal};
use crate::audit::now;
use crate::engine::{Engine, EngineError, Running};
use crate::readiness;
use crate::records::{NameLock, Record, RecordError, Records};
use crate::staging::{Namespace, StagedPath, Staging, StagingError};
use portcullis_policy::{LaunchPlan, OnConflict, Source, Staged, podman_arguments};
use portcullis_wire::Reason;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long a lock may be held by what is about to be podman.
const MOMENT: Duration = Duration::from_millis(200);
/// The pause between two looks at a lock.
const LOOK: Duration = Duration::from_millis(5);

/// What every worker uses.
#[derive(Debug)]
pub struct Host {
    /// podman.
    pub engine: Engine,
    /// What was launched.
    pub records: Records,
    /// Where namespaces and sources are pinned.
    pub staging: Staging,
    /// The directory with the state directories of all agents of this host.
    pub agents: PathBuf,
}

/// podman's part of a launch that is under way.
#[derive(Debug)]
pub struct UnderWay {
    pub(crate) podman: Running,
    pub(crate) pid_file: PathBuf,
    pub(crate) staged: Vec<StagedPath>,
    pub(crate) lock: NameLock,
    pub(crate) record: Record,
    pub(crate) netns: Option<(u64, u64)>,
    pub(crate) prepared: u64,
}

/// What came of beginning a launch.
#[derive(Debug)]
pub enum Begun {
    /// podman is at work.
    UnderWay(Box<UnderWay>),
    /// What was asked for runs already.
    Reused(Box<Started>),
}

impl Host {
    /// Resolves, stages, clears the way, records, and starts podman.
    ///
    /// # Errors
    /// [`NotStarted`]: nothing was started.
    pub fn begin(
        &self,
        job: Job,
        cleared: impl FnOnce(Record, Option<u8>),
    ) -> Result<Begun, NotStarted> {
        let Job {
            plan,
            hash,
            existing,
        } = job;
        let name = plan.name();
        let lock = match self.lock(name) {
            Ok(lock) => lock,
            Err(error @ RecordError::Held(_)) => {
                let message = "an earlier launch of this name is not finished yet";
                return Err(NotStarted::new(Reason::Timeout, message, error).unknown());
            }
            Err(error) => return Err(internal(&error).with_existing(existing)),
        };
        let (image, netns) = match self.resolve(&plan) {
            Ok(resolved) => resolved,
            Err(not) => return Err(self.give_up(not, lock, name, existing)),
        };
        let at = netns.as_ref().map(|ns| (ns.dev, ns.ino));
        let replaced = match existing.map(|old| self.conflict(&plan, &hash, &image, at, old)) {
            None => None,
            Some(Conflict::Same(started)) => return Ok(Begun::Reused(started)),
            Some(Conflict::Replace(old)) => Some(old),
            Some(Conflict::Refuse(old)) => {
                let not = refusal(&plan, &old.record);
                return Err(not.denied().with_existing(Some(old)));
            }
        };
        let staged = match self.stage(&plan, netns.as_ref()) {
            Ok(staged) => staged,
            Err(not) => return Err(self.give_up(not, lock, name, replaced)),
        };
        let new = replaced.is_none();
        if let Some(old) = replaced {
            let exit = self
                .clear(&old, plan.stop_timeout())
                .map_err(|error| engine(&error).unknown())?;
            cleared(old.record, exit);
        }
        match self.record(&plan, hash, image, new) {
            Ok(record) => self.start(&plan, record, at, staged, lock),
            Err(not) => {
                self.forget(lock, name);
                Err(not)
            }
        }
    }

    /// The name's lock. What another worker forks holds every lock of ours until it is podman, for a moment: so `Held` is
    /// believed only when it lasts.
    fn lock(&self, name: &str) -> Result<NameLock, RecordError> {
        let until = Instant::now() + MOMENT;
        loop {
            match self.records.lock(name) {
                Err(RecordError::Held(_)) if Instant::now() < until => thread::sleep(LOOK),
                other => return other,
            }
        }
    }

    /// Nothing was begun: what was there stays, and where nothing was, nothing stays.
    fn give_up(
        &self,
        not: NotStarted,
        lock: NameLock,
        name: &str,
        existing: Option<Existing>,
    ) -> NotStarted {
        if existing.is_none() {
            self.forget(lock, name);
        }
        not.with_existing(existing)
    }

    fn resolve(&self, plan: &LaunchPlan) -> Result<(String, Option<Namespace>), NotStarted> {
        let image = self.engine.image_id(plan.image()).map_err(|error| {
            if error.is_not_found() {
                let message = format!("the image {} is not on the host", plan.image());
                let detail = format!("pull it: podman pull {}; {error}", plan.image());
                NotStarted::new(Reason::Image, message, detail).denied()
            } else {
                engine(&error)
            }
        })?;
        Ok((image, self.resolve_netns(plan)?))
    }

    /// The namespace that the plan's name stands for at this moment.
    ///
    /// # Errors
    /// [`StagingError`] when it is none that may be used.
    pub fn resolve_netns(&self, plan: &LaunchPlan) -> Result<Option<Namespace>, StagingError> {
        let directory = &self.engine.config().netns_dir;
        plan.netns()
            .map(|name| Staging::resolve_netns(directory, name))
            .transpose()
    }

    /// What to do about a side container of ours that has the name.
    fn conflict(
        &self,
        plan: &LaunchPlan,
        hash: &str,
        image: &str,
        netns: Option<(u64, u64)>,
        old: Existing,
    ) -> Conflict {
        // One that has ended a moment ago, and whose end the loop has not heard of yet, is no conflict.
        let Existing {
            record,
            main,
            plan: old_plan,
        } = old;
        let existing = |record, main| Existing {
            record,
            main,
            plan: old_plan,
        };
        let Some(main) = main.filter(|main| !main.pidfd.has_ended()) else {
            return Conflict::Replace(existing(record, None));
        };
        if record.rule != plan.rule() {
            return Conflict::Refuse(existing(record, Some(main)));
        }
        let in_place = netns.is_none() || main.netns().ok() == netns;
        let is_ready = plan.ready().is_none_or(|ready| {
            readiness::pid_file_holds(main.pid, &ready.pid_file, plan.host_pid()).unwrap_or(false)
        });
        let same = record.plan == hash && record.image == image;
        let keep = plan.on_conflict() == OnConflict::Keep;
        if in_place && is_ready && (same || keep) && !main.pidfd.has_ended() {
            let (prepared, podman) = (now(), 0);
            let reused = true;
            let started = Started {
                main,
                record,
                netns,
                reused,
                prepared,
                podman,
            };
            return Conflict::Same(Box::new(started));
        }
        let old = existing(record, Some(main));
        match plan.on_conflict() {
            OnConflict::Refuse => Conflict::Refuse(old),
            OnConflict::Replace | OnConflict::Keep => Conflict::Replace(old),
        }
    }

    fn stage(&self, plan: &LaunchPlan, netns: Option<&Namespace>) -> Result<StagedSet, NotStarted> {
        let mut set = StagedSet::default();
        if let Some(namespace) = netns {
            let staged = self.staging.stage_netns(namespace)?;
            set.netns = Some(staged.path().to_string_lossy().into_owned());
            set.paths.push(staged);
        }
        for mount in plan.mounts() {
            let staged = match &mount.source {
                Source::Literal(path) => self
                    .staging
                    .stage_literal(Path::new(path), mount.read_only)?,
                Source::Beneath { prefix, rest } => {
                    let (prefix, rest) = (Path::new(prefix), Path::new(rest));
                    self.staging.stage_source(prefix, rest, mount.read_only)?
                }
            };
            set.mounts
                .push(staged.path().to_string_lossy().into_owned());
            set.paths.push(staged);
        }
        Ok(set)
    }

    /// Removes a side container of ours, whatever it is doing. Its exit code, where podman knows it.
    fn clear(&self, old: &Existing, patience: Duration) -> Result<Option<u8>, EngineError> {
        let id = match &old.main {
            Some(main) => main.id.clone(),
            None => match self.engine.holder(&old.record.name)? {
                Some(holder) if holder.nonce == old.record.nonce => holder.id,
                _ => return Ok(None),
            },
        };
        self.engine.stop_and_remove(&id, patience)
    }

    /// Puts the launch on record; a new one only where the host has room for it.
    fn record(
        &self,
        plan: &LaunchPlan,
        hash: String,
        image: String,
        new: bool,
    ) -> Result<Record, NotStarted> {
        let nonce = fs::read_to_string("/proc/sys/kernel/random/uuid")
            .map_err(|error| {
                NotStarted::new(Reason::Internal, "no random number is to be had", error)
            })?
            .trim_end()
            .to_owned();
        let record = Record {
            name: plan.name().to_owned(),
            rule: plan.rule().to_owned(),
            plan: hash,
            nonce,
            image,
            netns: plan.netns().map(str::to_owned),
        };
        self.records
            .write(&record)
            .map_err(|error| internal(&error))?;
        if new {
            // Only now, and with this one: launches at the same moment may all be refused, but are not all let in.
            self.see_room()?;
        }
        Ok(record)
    }

    fn start(
        &self,
        plan: &LaunchPlan,
        record: Record,
        netns: Option<(u64, u64)>,
        staged: StagedSet,
        lock: NameLock,
    ) -> Result<Begun, NotStarted> {
        let pid_file = self.engine.scratch_path("pid");
        let cgroup_parent = self.engine.cgroup_parent(plan.agent());
        let arguments = podman_arguments(
            plan,
            &Staged {
                image_id: &record.image,
                netns: staged.netns.as_deref(),
                mounts: &staged.mounts,
                pid_file: &pid_file.to_string_lossy(),
                nonce: &record.nonce,
                cgroup_parent: cgroup_parent.as_deref(),
            },
        );
        let begun = lock
            .for_podman()
            .map_err(|error| NotStarted::new(Reason::Internal, "no descriptor is to be had", error))
            .and_then(|fd| {
                let prepared = now();
                let podman = self
                    .engine
                    .start(&arguments, Some(fd))
                    .map_err(|e| engine(&e))?;
                Ok((podman, prepared))
            });
        match begun {
            Ok((podman, prepared)) => {
                lock.note(podman.pid());
                let staged = staged.paths;
                let under_way = UnderWay {
                    podman,
                    pid_file,
                    staged,
                    lock,
                    record,
                    netns,
                    prepared,
                };
                Ok(Begun::UnderWay(Box::new(under_way)))
            }
            Err(not) => {
                self.forget(lock, &record.name);
                Err(not)
            }
        }
    }

    /// Takes note that a name has nothing of ours any more.
    pub fn forget(&self, lock: NameLock, name: &str) {
        if let Err(error) = self.records.remove(lock, name) {
            tracing::error!(name, %error, "a launch record could not be removed; the next start does it");
        }
    }
}

/// Why what has the name stays.
fn refusal(plan: &LaunchPlan, old: &Record) -> NotStarted {
    let (name, rule) = (plan.name(), &old.rule);
    if rule == plan.rule() {
        let message = format!("the name {name} is taken by a side container that is not the same");
        return NotStarted::new(Reason::Name, message, "on_conflict = \"refuse\"");
    }
    let message = format!(
        "the name {name} is taken by a side container of rule {rule}; stop that one, or give the rules different names"
    );
    let detail = format!("on the host: podman stop {name}; no rule takes another one's place");
    NotStarted::new(Reason::Name, message, detail)
}

/// What to do about a name that is taken by one of ours.
enum Conflict {
    Same(Box<Started>),
    Replace(Existing),
    Refuse(Existing),
}

#[derive(Debug, Default)]
struct StagedSet {
    netns: Option<String>,
    mounts: Vec<String>,
    paths: Vec<StagedPath>,
}

impl UnderWay {
    /// podman.
    pub fn podman(&mut self) -> &mut Running {
        &mut self.podman
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_config::EngineConfig;

    #[test]
    fn a_lock_that_is_held_for_a_moment_is_waited_for_and_one_that_stays_held_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host {
            engine: Engine::new(EngineConfig::default(), dir.path().join("podman")).unwrap(),
            records: Records::open(&dir.path().join("state")).unwrap(),
            staging: Staging::new(dir.path()).unwrap(),
            agents: dir.path().to_owned(),
        };
        let fork = || host.lock("a").unwrap().for_podman().unwrap();
        let forked = fork();
        assert!(matches!(host.lock("a"), Err(RecordError::Held(_))));
        drop(forked);
        // A round in which who lets go of it was held up itself says nothing.
        let mut counts = false;
        while !counts {
            let (forked, begin) = (fork(), Instant::now());
            thread::scope(|scope| {
                let holder = scope.spawn(move || {
                    thread::sleep(2 * LOOK);
                    drop(forked);
                    begin.elapsed()
                });
                let lock = host.lock("a");
                counts = holder.join().unwrap() < MOMENT / 2;
                assert!(lock.is_ok() || !counts);
            });
        }
    }
}
