//! What a container wrote, read from podman as podman reads it.
//!
//! A program writes as much as it likes, so none of it goes to a file, and little of it is kept. The podman that reads it
//! is the one that may be killed: it changes nothing.

use crate::engine::{Engine, EngineError};
use crate::pidfd::{pidfd_of, wait_ended, wait_readable};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::io::{self, ErrorKind, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How much is read for its end's sake, in bytes: podman takes a second or two for so many short lines.
const READ: usize = 16 * 1024 * 1024;
/// How long a podman that was killed may take to be gone.
const KILLED: Duration = Duration::from_secs(1);
/// How much is read at once, in bytes.
const PIECE: usize = 64 * 1024;

impl Engine {
    /// Starts a podman that only reads, with both of its streams in one pipe. It is killed when the calling thread ends;
    /// give it to [`end`](Self::end) when the pipe has been read, or is not to be read any more.
    ///
    /// # Errors
    /// [`EngineError::Start`] and [`EngineError::Hang`].
    pub fn reader(&self, args: &[String]) -> Result<(Child, PipeReader), EngineError> {
        self.reap()?;
        let begin = || -> io::Result<(Child, PipeReader)> {
            let (pipe, end) = io::pipe()?;
            let mut command = self.command(args);
            let both = [end.try_clone()?, end];
            let [stdout, stderr] = both;
            command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
            die_with_this_thread(&mut command);
            Ok((self.spawn(&mut command)?, pipe))
        };
        begin().map_err(|error| EngineError::Start {
            podman: self.config().podman.clone(),
            what: args.iter().take(2).cloned().collect::<Vec<_>>().join(" "),
            error,
        })
    }

    /// Waits for the end of a [`reader`](Self::reader)'s podman until then, and kills it after that: `None`.
    pub fn end(&self, mut podman: Child, until: Instant) -> Option<ExitStatus> {
        let pidfd = pidfd_of(&podman);
        if matches!(
            wait_ended(&mut podman, pidfd.as_ref(), Some(until)),
            Ok(true)
        ) {
            return podman.wait().ok();
        }
        let _ = podman.kill();
        // It goes at once, as a rule, and then it is none of those that hang.
        let soon = Some(Instant::now() + KILLED);
        match wait_ended(&mut podman, pidfd.as_ref(), soon) {
            Ok(true) => drop(podman.wait()),
            _ => self.leave(podman),
        }
        None
    }

    /// The end of what a container wrote, at most `most` bytes; empty where its log cannot be read.
    #[must_use]
    pub fn output_tail(&self, id: &str, most: usize) -> String {
        let until = Instant::now() + self.config().deadline;
        // With --tail, podman 4.3 leaves a last line out that has no newline (measured): so that is for the longest alone.
        let tail = self
            .tail_of(&["logs", "--", id], most, until)
            .or_else(|| self.tail_of(&["logs", "--tail=20", "--", id], most, until));
        tail.map(|tail| text(&tail, most)).unwrap_or_default()
    }

    /// The last bytes that a podman writes which ends well, until then.
    fn tail_of(&self, args: &[&str], most: usize, until: Instant) -> Option<Vec<u8>> {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let (podman, pipe) = self.reader(&args).ok()?;
        let tail = read_tail(pipe, most, until).ok();
        let patience = tail.as_ref().map_or_else(Instant::now, |_| until);
        // Both streams of the program come on podman's two; its own words would come with a failure, which is left out.
        let status = self.end(podman, patience)?;
        tail.filter(|_| status.success())
    }
}

/// The last bytes that come, as many as `most`.
fn read_tail(mut pipe: PipeReader, most: usize, until: Instant) -> io::Result<Vec<u8>> {
    let (mut tail, mut piece, mut left) = (Vec::new(), vec![0; PIECE], READ);
    loop {
        if !wait_readable(pipe.as_fd(), Some(until))? {
            return Err(ErrorKind::TimedOut.into());
        }
        let length = match pipe.read(&mut piece) {
            Ok(0) => return Ok(tail),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        };
        left = left.checked_sub(length).ok_or(ErrorKind::FileTooLarge)?;
        tail.extend_from_slice(piece.get(..length).unwrap_or_default());
        tail.drain(..tail.len().saturating_sub(most));
    }
}

/// Bytes as text, which may be longer than they are: the end of it, at most `most` bytes.
fn text(tail: &[u8], most: usize) -> String {
    // What is left of a character that was cut through says nothing.
    let rest = tail.iter().take(3).take_while(|b| **b & 0xc0 == 0x80);
    let mut text =
        String::from_utf8_lossy(tail.get(rest.count()..).unwrap_or_default()).into_owned();
    let from = text.len().saturating_sub(most);
    let from = (from..=text.len()).find(|&at| text.is_char_boundary(at));
    text.split_off(from.unwrap_or(text.len()))
}

#[allow(unsafe_code)]
fn die_with_this_thread(command: &mut Command) {
    let die = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: runs between fork and exec; prctl is a plain system call that allocates nothing and takes no lock.
    unsafe { command.pre_exec(die) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::thread;

    fn tail_of(text: &[u8], most: usize) -> io::Result<Vec<u8>> {
        let (pipe, mut end) = io::pipe()?;
        thread::scope(|scope| {
            // Nobody reads on when it has been too much.
            scope.spawn(move || drop(end.write_all(text)));
            read_tail(pipe, most, Instant::now() + Duration::from_secs(60))
        })
    }

    #[test]
    fn the_end_is_kept_and_what_has_no_end_is_not_read_for_ever() {
        assert_eq!(tail_of(b"", 4).unwrap(), b"");
        assert_eq!(tail_of(b"end", 4).unwrap(), b"end");
        let long = [vec![b'x'; 3 * PIECE], b"end".to_vec()].concat();
        assert_eq!(tail_of(&long, 4).unwrap(), b"xend");
        let error = tail_of(&vec![b'x'; READ + 1], 4).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn what_never_ends_is_given_up_in_time() {
        let (pipe, _end) = io::pipe().unwrap();
        let error = read_tail(pipe, 4, Instant::now()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn the_text_is_no_longer_than_was_asked_for_and_begins_with_a_whole_character() {
        let bytes = "aäöü".as_bytes();
        assert_eq!(text(bytes, 7), "aäöü");
        assert_eq!(text(bytes.get(2..).unwrap(), 5), "öü");
        assert_eq!(text(&[0xff; 9], 9), "\u{fffd}\u{fffd}\u{fffd}");
    }
}
