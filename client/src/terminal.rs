//! The two streams that a person or a script reads.
//!
//! Text that came over the socket is shown, never obeyed: whatever could move a cursor or hide a word is escaped.

use crate::outcome::{FAILURE, Outcome};
use portcullis_wire::hidden;
use std::io::{self, IsTerminal, Stdout, Write};
use std::mem;

/// Writes both texts and gives the exit code.
pub(crate) fn tell(outcome: &Outcome) -> u8 {
    let mut err = io::stderr();
    if !outcome.out.is_empty() {
        let written = write(&mut io::stdout(), outcome.out.as_bytes());
        if let Err(error) = written {
            let _ = writeln!(err, "portcullis: standard output: {error}");
            return FAILURE;
        }
    }
    if !outcome.err.is_empty() {
        // Nobody is left to be told where this fails.
        let _ = err.write_all(outcome.err.as_bytes());
    }
    outcome.code
}

fn write(out: &mut Stdout, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

/// Standard output, for an answer in pieces: a file or a pipe gets its bytes as they are, a terminal sees them shown.
#[derive(Debug)]
pub(crate) struct Pieces {
    out: Stdout,
    shown: Option<Shown>,
}

impl Pieces {
    /// Looks at what standard output is.
    pub(crate) fn new() -> Self {
        let out = io::stdout();
        let shown = out.is_terminal().then(Shown::default);
        Self { out, shown }
    }

    /// Writes a piece.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.shown {
            Some(shown) => write(&mut self.out, shown.piece(bytes).as_bytes()),
            None => write(&mut self.out, bytes),
        }
    }

    /// Writes what is left, when no more comes. Of a terminal nobody is left to be told where this fails.
    pub(crate) fn end(&mut self) {
        if let Some(shown) = &mut self.shown {
            let _ = write(&mut self.out, shown.end().as_bytes());
        }
    }
}

/// Shows bytes that come in pieces, as [`lines`] does; what is not UTF-8 is shown byte by byte.
#[derive(Debug, Default)]
struct Shown {
    /// The beginning of a character whose rest is in the next piece: at most three bytes.
    begun: Vec<u8>,
}

impl Shown {
    fn piece(&mut self, bytes: &[u8]) -> String {
        let mut all = mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        let last = all.utf8_chunks().last().map_or(&[][..], |c| c.invalid());
        let begins = str::from_utf8(last).is_err_and(|error| error.error_len().is_none());
        if begins {
            self.begun = all.split_off(all.len() - last.len());
        }
        shown_bytes(&all)
    }

    fn end(&mut self) -> String {
        shown_bytes(&mem::take(&mut self.begun))
    }
}

fn shown_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(&lines(chunk.valid()));
        text.push_str(&chunk.invalid().escape_ascii().to_string());
    }
    text
}

/// A text on one line.
pub(crate) fn line(text: &str) -> String {
    hidden::escaped(text, &[])
}

/// A text whose line breaks and tabs stay.
pub(crate) fn lines(text: &str) -> String {
    hidden::escaped(text, &['\n', '\t'])
}

#[cfg(test)]
mod tests {
    use super::{Shown, line, lines};

    #[test]
    fn nothing_that_a_terminal_obeys_is_written() {
        let hostile = "a\u{1b}[2Jb\r\u{202e}\u{9b}\u{200b}\u{61c}\u{feff}c\nd\te ä";
        let shown = "a\\u{1b}[2Jb\\r\\u{202e}\\u{9b}\\u{200b}\\u{61c}\\u{feff}c";
        assert_eq!(line(hostile), format!("{shown}\\nd\\te ä"));
        assert_eq!(lines(hostile), format!("{shown}\nd\te ä"));
    }

    #[test]
    fn pieces_are_shown_as_the_whole_would_be_wherever_they_are_cut() {
        let hostile = "ä\u{1b}[2J😀\r\n\t\u{202e}\u{9b}".as_bytes();
        let hostile = [hostile, b"\xff\xe2\x82a\xf0\x9f\x98"].concat();
        let whole = "ä\\u{1b}[2J😀\\r\n\t\\u{202e}\\u{9b}\\xff\\xe2\\x82a\\xf0\\x9f\\x98";
        for length in 1..=hostile.len() {
            let mut shown = Shown::default();
            let mut text: String = hostile.chunks(length).map(|c| shown.piece(c)).collect();
            text.push_str(&shown.end());
            assert_eq!(text, whole, "in pieces of {length} bytes");
        }
    }
}
