//! After podman: is the main process alive, and if not, what happened and what is left to remove? Runs on a worker.

use crate::attempt::{NotStarted, Started, engine};
use crate::audit::now;
use crate::container::Main;
use crate::engine::is_id;
use crate::launch::{Host, UnderWay};
use crate::records::{NameLock, Record};
use portcullis_wire::{Reason, limits};
use std::fs;

impl Host {
    /// Once podman has ended: what is there now?
    ///
    /// # Errors
    /// [`NotStarted`], with what was left behind removed where that was possible.
    pub fn conclude(&self, under_way: UnderWay) -> Result<Started, NotStarted> {
        let UnderWay {
            podman,
            pid_file,
            staged,
            lock,
            record,
            netns,
            prepared,
        } = under_way;
        let finished = podman.finish().map_err(|error| engine(&error).unknown())?;
        let podman = now();
        for path in staged {
            if let Err(error) = path.release() {
                tracing::warn!(%error, "something staged could not be taken down");
            }
        }
        let pid = fs::read_to_string(&pid_file)
            .ok()
            .and_then(|pid| pid.trim().parse().ok());
        let _ = fs::remove_file(&pid_file);
        let id = finished.stdout.trim();
        if finished.status.success() && is_id(id) {
            if let Some(main) = pid.and_then(|pid| Main::see(id, pid)) {
                let reused = false;
                return Ok(Started {
                    main,
                    record,
                    netns,
                    reused,
                    prepared,
                    podman,
                });
            }
            return Err(self.autopsy(id, lock, &record, finished.stderr));
        }
        Err(self.failed(lock, &record, &finished.stderr))
    }

    /// The main process has ended before anybody saw it: says how, and cleans up.
    fn autopsy(&self, id: &str, lock: NameLock, record: &Record, stderr: String) -> NotStarted {
        let code = match self.engine.exit_code(id) {
            Ok(code) => code,
            Err(error) => return engine(&error).unknown(),
        };
        let output = self.engine.output_tail(id, limits::OUTPUT);
        match self.engine.remove(id) {
            Ok(()) => self.forget(lock, &record.name),
            Err(error) => return engine(&error).unknown(),
        }
        NotStarted {
            exited: Some((code, output)),
            ..NotStarted::new(
                Reason::Exited,
                format!("the program ended with exit code {code} before it was ready"),
                stderr,
            )
        }
    }

    /// podman says that it failed: finds out what has the name now.
    fn failed(&self, lock: NameLock, record: &Record, stderr: &str) -> NotStarted {
        match self.engine.holder(&record.name) {
            Ok(Some(holder)) if holder.nonce == record.nonce => {
                if let Err(error) = self.engine.remove(&holder.id) {
                    return engine(&error).unknown();
                }
                self.forget(lock, &record.name);
            }
            Ok(Some(holder)) => {
                self.forget(lock, &record.name);
                let message = format!(
                    "the name {} is held by a container that is not ours",
                    record.name
                );
                let id = &holder.id;
                let detail =
                    format!("container {id} was left alone; remove or rename it; podman: {stderr}");
                return NotStarted::new(Reason::Name, message, detail).denied();
            }
            Ok(None) => self.forget(lock, &record.name),
            Err(error) => return engine(&error).unknown(),
        }
        let hint = if stderr.contains("allocating lock") || stderr.contains("no more locks") {
            "podman has no lock left for another container: raise num_locks in containers.conf and run \
             `podman system renumber`; "
        } else if stderr.contains("cgroup") && stderr.contains("parent") {
            "this podman takes no cgroup for an agent: say cgroup_parent = \"none\" in [engine] of portcullis.toml; "
        } else {
            ""
        };
        let message = "podman could not start the side container; the audit record has its words";
        NotStarted::new(Reason::Engine, message, format!("{hint}podman: {stderr}"))
    }
}
