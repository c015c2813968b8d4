//! A podman with a store of its own, and a script in front of it that notes down what it was called with.

use crate::{Calls, LONG, Process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Once;
use std::time::Instant;

/// The reference of the image that every test has: busybox and nothing else.
pub const IMAGE: &str = "localhost/portcullis-test:1";

/// One store of images and containers, removed on drop with everything that runs in it.
#[derive(Debug)]
pub struct Engine {
    dir: PathBuf,
    image_id: String,
    needs_configuration: bool,
}

/// One container, as `podman ps` shows it.
#[derive(Clone, Debug)]
pub struct Container {
    /// The full ID.
    pub id: String,
    /// The name.
    pub name: String,
    /// `running`, `exited`, `created` and so on.
    pub state: String,
    /// The main process on the host.
    pub pid: i32,
    /// The labels.
    pub labels: BTreeMap<String, String>,
}

impl Container {
    /// Its main process, which must be there, and runs its program by then.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    #[track_caller]
    pub fn process(&self) -> Process {
        let process = Process::find(self.pid).expect("the container's process");
        process.in_its_program()
    }
}

impl Engine {
    /// Makes a store in that directory, with the image in it.
    pub(crate) fn new(dir: &Path, image: &Path) -> Self {
        fs::create_dir_all(dir.join("calls")).expect("a directory");
        let mut engine = Self {
            dir: dir.into(),
            image_id: String::new(),
            needs_configuration: false,
        };
        engine.needs_configuration = engine.write_configuration();
        engine.write_script();
        // All podmans of a machine share what they lock by, and the first two at once fail to make it.
        static FIRST: Once = Once::new();
        FIRST.call_once(|| drop(engine.must(&["info"])));
        engine.image_id = engine.import(image, IMAGE);
        engine
    }

    /// Imports a root file system and gives the image's ID.
    pub fn import(&self, tar: &Path, reference: &str) -> String {
        self.import_with(tar, reference, &[])
    }

    /// [`import`](Self::import) with changes to the image's configuration (`ENTRYPOINT …`, `LABEL …`).
    ///
    /// # Panics
    /// When podman fails.
    pub fn import_with(&self, tar: &Path, reference: &str, changes: &[&str]) -> String {
        let tar = tar.to_str().expect("a UTF-8 path");
        let mut arguments = vec!["import", "--quiet"];
        for change in changes {
            arguments.extend(["--change", change]);
        }
        arguments.extend([tar, reference]);
        let id = self.must(&arguments);
        id.trim().trim_start_matches("sha256:").to_owned()
    }

    /// The ID of [`IMAGE`].
    #[must_use]
    pub fn image_id(&self) -> &str {
        &self.image_id
    }

    /// What the launcher calls instead of podman: it notes its arguments down, and then is podman.
    #[must_use]
    pub fn script(&self) -> PathBuf {
        self.dir.join("podman")
    }

    /// Makes [`script`](Self::script) podman itself, which notes nothing down: for benches, which measure no script.
    ///
    /// # Panics
    /// When that fails.
    pub fn note_no_more(&self) {
        let podman = self.dir.join("podman.new");
        symlink("/usr/bin/podman", &podman).expect("a link");
        fs::rename(podman, self.script()).expect("in the script's place");
    }

    /// The options that lead podman to this store.
    #[must_use]
    pub fn global_arguments(&self) -> Vec<String> {
        let dir = self.dir.display();
        vec![
            format!("--root={dir}/root"),
            format!("--runroot={dir}/runroot"),
            format!("--tmpdir={dir}/tmp"),
        ]
    }

    /// The environment that podman needs on this machine.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        if self.needs_configuration {
            let path = self.dir.join("containers.conf").display().to_string();
            vec![("CONTAINERS_CONF".into(), path)]
        } else {
            vec![]
        }
    }

    /// podman itself, on this store, as an operator would type it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new("/usr/bin/podman");
        command
            .args(self.global_arguments())
            .envs(self.environment());
        if let Ok(option) = fs::read_to_string(self.more_images()) {
            command.arg(option);
        }
        command
    }

    /// From now on every podman of this engine finds the images of that store, too.
    ///
    /// # Panics
    /// When the mark cannot be made.
    pub fn add_image_store(&self, root: &Path) {
        let driver = self.must(&["info", "--format={{.Store.GraphDriverName}}"]);
        let option = format!(
            "--storage-opt={}.imagestore={}",
            driver.trim(),
            root.display()
        );
        fs::write(self.more_images(), option).expect("a mark");
    }

    fn more_images(&self) -> PathBuf {
        self.dir.join("more-images")
    }

    /// Runs podman.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn podman(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().expect("podman")
    }

    /// Runs podman, which must succeed, and gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn must(&self, arguments: &[&str]) -> String {
        let done = self.podman(arguments);
        assert!(done.status.success(), "podman {arguments:?}: {done:?}");
        String::from_utf8(done.stdout).expect("UTF-8")
    }

    /// All containers, in any state.
    ///
    /// # Panics
    /// When podman prints something else.
    #[must_use]
    pub fn containers(&self) -> Vec<Container> {
        let text = self.must(&["ps", "--all", "--no-trunc", "--format=json"]);
        let list: Vec<Value> = serde_json::from_str(&text).expect("podman's JSON");
        list.iter().map(container).collect()
    }

    /// The container with that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Container> {
        self.containers().into_iter().find(|c| c.name == name)
    }

    /// The container with that name, which must be there.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    #[track_caller]
    pub fn container(&self, name: &str) -> Container {
        self.find(name)
            .unwrap_or_else(|| panic!("no container {name}"))
    }

    /// The conmon of a container.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn conmon(&self, id: &str) -> Process {
        let pid = self.must(&["inspect", "--format={{.State.ConmonPid}}", id]);
        Process::find(pid.trim().parse().expect("a pid")).expect("conmon")
    }

    /// What the launcher called podman with so far.
    #[must_use]
    pub fn calls(&self) -> Calls {
        Calls::read(&self.dir.join("calls"))
    }

    /// From now on the launcher's podman hangs, before it does anything, where its command line has that text.
    ///
    /// # Panics
    /// When the mark cannot be made.
    pub fn hang(&self, subcommand: &str, text: &str) {
        let new = self.dir.join("new-mark");
        fs::write(&new, format!("{text}\n")).expect("a mark");
        fs::rename(new, self.dir.join(format!("hang-{subcommand}"))).expect("a mark");
    }

    /// Lets go on what [`hang`](Self::hang) holds.
    pub fn release(&self, subcommand: &str) {
        let _ = fs::remove_file(self.dir.join(format!("hang-{subcommand}")));
    }

    /// From now on this subcommand of the launcher's podman does nothing and says that all went well.
    ///
    /// # Panics
    /// When the mark cannot be made.
    pub fn lie(&self, subcommand: &str) {
        fs::write(self.dir.join(format!("lie-{subcommand}")), "").expect("a mark");
    }

    /// From now on `run` of the launcher's podman returns when the container has ended.
    ///
    /// # Panics
    /// When the mark cannot be made.
    pub fn outlast(&self) {
        fs::write(self.dir.join("outlast-run"), "").expect("a mark");
    }

    /// What a build machine without its own rights to raise limits needs; `false` on a normal host.
    fn write_configuration(&self) -> bool {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/podman-environment.sh");
        let path = self.dir.join("containers.conf");
        let done = Command::new(script).arg(&path).output();
        let done = done.expect("images/podman-environment.sh");
        assert!(done.status.success(), "{done:?}");
        path.exists()
    }

    fn write_script(&self) {
        let text = format!(
            r#"#!/bin/sh
# Notes down what podman is called with, and then is podman.
note={dir}/calls/$$
while [ -e "$note.argv" ]; do note=$note+; done
/bin/cat "/proc/$$/environ" >"$note.env"
printf '%s\0' "$@" >"$note.new"
/bin/mv "$note.new" "$note.argv"
for word in "$@"; do case $word in --*) ;; *) break ;; esac; done
mark={dir}/hang-$word
if [ -e "$mark" ]; then
    case "$*" in *"$(/bin/cat "$mark")"*) while [ -e "$mark" ]; do /bin/sleep 0.02; done ;; esac
fi
if [ -e "{dir}/lie-$word" ]; then exit 0; fi
if [ -e {dir}/more-images ]; then set -- "$(/bin/cat {dir}/more-images)" "$@"; fi
if [ -e "{dir}/outlast-$word" ]; then
    /usr/bin/podman "$@" || exit
    globals=
    for word in "$@"; do case $word in --*) globals="$globals $word" ;; *) break ;; esac; done
    for word in "$@"; do case $word in --name=*) exec /usr/bin/podman $globals wait "${{word#--name=}}" >&2 ;; esac; done
fi
exec /usr/bin/podman "$@"
"#,
            dir = self.dir.display()
        );
        fs::write(self.script(), text).expect("the script");
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.script(), mode).expect("its mode");
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("hang-") {
                let _ = fs::remove_file(entry.path());
            }
        }
        let end = Instant::now() + 5 * LONG; // hundreds of containers, perhaps
        let mut removed = self.podman(&["rm", "--force", "--all", "--time=0"]);
        while Process::mentioning(&self.dir) && Instant::now() < end {
            // A podman that was under way may have made another one meanwhile.
            removed = self.podman(&["rm", "--force", "--all", "--time=0"]);
        }
        if !std::thread::panicking() {
            let is_gone = !Process::mentioning(&self.dir);
            assert!(is_gone, "something is left: {removed:?}");
        }
    }
}

fn container(json: &Value) -> Container {
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    let labels = json["Labels"].as_object();
    Container {
        id: text("Id"),
        name: json["Names"][0].as_str().unwrap_or_default().to_owned(),
        state: text("State"),
        pid: i32::try_from(json["Pid"].as_i64().unwrap_or_default()).expect("a pid"),
        labels: labels
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use crate::{Host, IMAGE, Process};
    use std::process::Command;

    #[test]
    fn a_host_notes_podmans_calls_down_and_leaves_nothing_behind() {
        let host = Host::new();
        let engine = host.engine();
        let mut call = Command::new(engine.script());
        call.args(engine.global_arguments())
            .envs(engine.environment());
        call.args([
            "run",
            "--detach",
            "--name=a",
            "--network=none",
            "--",
            IMAGE,
            "/bin/sh",
            "-c",
            "sleep 1000; :",
            "",
        ]);
        let done = call.output().unwrap();
        assert!(done.status.success(), "{done:?}");
        let calls = engine.calls();
        let call = calls.run_of("a");
        assert_eq!(call.options(), ["--detach", "--name=a", "--network=none"]);
        assert_eq!(
            call.operands(),
            [IMAGE, "/bin/sh", "-c", "sleep 1000; :", ""]
        );
        let process = engine.container("a").process();
        assert!(process.is_alive());
        engine.note_no_more();
        let done = Command::new(engine.script()).arg("--version").output();
        assert!(done.unwrap().status.success());
        assert_eq!(engine.calls().all().len(), calls.all().len());
        let dir = host.path().to_owned();
        drop(host);
        assert!(!process.is_alive() && !dir.exists() && !Process::mentioning(&dir));
    }
}
