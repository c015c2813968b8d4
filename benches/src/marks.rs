//! A FIFO into which the program of each side container writes its number: the moment at which it runs is the same one,
//! whoever started it and however that is told.

use portcullis_tests::{IMAGE, LONG};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

/// What the rules' command is called.
pub const COMMAND: &str = "mark";

/// The rules for such programs: with the FIFO in `marks`, and with lines of `spool` allowed, both as the host sees them.
#[must_use]
pub fn rules(marks: &str, spool: &str) -> String {
    format!(
        r#"
[limits]
running = 100000
launches = "1000000/s"
in_flight = 1000

[[spool]]
command = "{COMMAND}"
dir = "{spool}"

[[launch]]
rule = "{COMMAND}"
command = "{COMMAND}"
spool = true
image = "{IMAGE}"
program = ["/bin/sh", "-c", "echo $0 >/marks/fifo; exec sleep 1000000"]
args = [{{ min = 1, pattern = "{{n:int}}" }}]
[launch.container]
name = "bench-{{n}}"
user = "65534:65534"
# A limit takes a controller that a machine of systemd-nspawn may not have.
pids = 0
mounts = [{{ source = "{marks}", target = "/marks", mode = "rw" }}]
"#
    )
}

/// The FIFO's reading end.
#[derive(Debug)]
pub struct Marks {
    fifo: File,
    text: String,
}

impl Marks {
    /// Makes the directory with the FIFO.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("a directory");
        let path = dir.join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).expect("a FIFO");
        fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("its mode");
        // For writing, too: who writes never waits for a reader, and the reader never finds an end.
        let fifo = OpenOptions::new().read(true).write(true).open(&path);
        Self {
            fifo: fifo.expect("the FIFO"),
            text: String::new(),
        }
    }

    /// Waits until the programs with those numbers run, and no other; gives the time of the last one.
    ///
    /// # Panics
    /// When one does not, for long, or another one does.
    #[track_caller]
    pub fn wait(&mut self, numbers: impl IntoIterator<Item = usize>) -> Instant {
        let mut left: BTreeSet<_> = numbers.into_iter().collect();
        let mut last = Instant::now();
        while !left.is_empty() {
            let patience = Timespec::try_from(LONG).expect("a time");
            let mut fds = [PollFd::new(&self.fifo, PollFlags::IN)];
            let ready = poll(&mut fds, Some(&patience)).expect("poll");
            assert!(ready > 0, "waited in vain: {left:?}");
            last = Instant::now();
            let mut buffer = [0; 4096];
            let length = self.fifo.read(&mut buffer).expect("the FIFO");
            let text = std::str::from_utf8(&buffer[..length]).expect("digits");
            self.text.push_str(text);
            while let Some((line, rest)) = self.text.split_once('\n') {
                let number = line.parse().expect("a number");
                assert!(left.remove(&number), "{number} was not asked for");
                self.text = rest.to_owned();
            }
        }
        last
    }
}
