//! The two streams that a person or a script reads.
//!
//! Text that came over the socket is shown, never obeyed: whatever could move a cursor or hide a word is escaped.

use crate::outcome::{FAILURE, Outcome};
use std::io::Write;

/// Writes both texts and gives the exit code.
pub(crate) fn tell(outcome: &Outcome) -> u8 {
    let mut err = std::io::stderr();
    if !outcome.out.is_empty() {
        let mut out = std::io::stdout();
        let written = out
            .write_all(outcome.out.as_bytes())
            .and_then(|()| out.flush());
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

/// A text on one line.
pub(crate) fn line(text: &str) -> String {
    shown(text, false)
}

/// A text whose line breaks and tabs stay.
pub(crate) fn lines(text: &str) -> String {
    shown(text, true)
}

fn shown(text: &str, breaks: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let harmless = match c {
            '\n' | '\t' => breaks,
            // Line and paragraph separators, and what changes the direction of text.
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => false,
            c => !c.is_control(),
        };
        if harmless {
            shown.push(c);
        } else {
            shown.extend(c.escape_default());
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::{line, lines};

    #[test]
    fn nothing_that_a_terminal_obeys_is_written() {
        let hostile = "a\u{1b}[2Jb\r\u{202e}\u{9b}c\nd\te ä";
        assert_eq!(line(hostile), "a\\u{1b}[2Jb\\r\\u{202e}\\u{9b}c\\nd\\te ä");
        assert_eq!(lines(hostile), "a\\u{1b}[2Jb\\r\\u{202e}\\u{9b}c\nd\te ä");
    }
}
