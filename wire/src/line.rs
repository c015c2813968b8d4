//! A line of a spool's file: the network namespace's name and the arguments, as shell-quoted words.
//!
//! The command is not on the line: a spool is of one command. Words are split as xargs(1) splits them and nothing is
//! expanded, so that lines of older wrappers read as they always did and every word that [`write`] takes comes back as it
//! was. A line is a stranger's text: [`read`] takes no memory but in proportion to it.

use crate::limits::{ARGUMENTS, LINE};
use crate::{Launch, Reason};
use std::mem;

/// What one line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The name of the network namespace, never empty.
    pub netns: Option<String>,
    /// The command's arguments; an empty one is valid. At most [`ARGUMENTS`].
    pub args: Vec<String>,
}

/// Why a text is no line, or why words cannot be made one. A word is counted from 1, the namespace's among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// There is nothing, not even a blank.
    #[error("the line is empty")]
    Empty,
    /// Not text.
    #[error("the line is not UTF-8")]
    NotUtf8,
    /// What no argument of a program can have in it.
    #[error("the line has a NUL byte in it")]
    Nul,
    /// What ends a line.
    #[error("a line break cannot stand in a line")]
    Newline,
    /// A quote that was opened and not closed.
    #[error("word {0} of the line has a quote that is not closed")]
    Unmatched(usize),
    /// A backslash with nothing after it.
    #[error("the line ends with a backslash")]
    Backslash,
    /// A name that is there and has no letters: on a line it would mean that there is none.
    #[error("the network namespace's name is empty")]
    EmptyNetns,
    /// Over [`LINE`].
    #[error("the line is longer than {LINE} bytes")]
    TooLong,
    /// Over [`ARGUMENTS`].
    #[error("the line has more than {ARGUMENTS} arguments")]
    TooMany,
}

impl LineError {
    /// The reason code that the audit record has.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::TooLong | Self::TooMany => Reason::TooLarge,
            _ => Reason::Malformed,
        }
    }
}

/// Reads one line, given without its newline.
///
/// Space and tab separate words. Between `'` and `'`, or `"` and `"`, everything is as it stands; elsewhere a backslash
/// makes the next character plain. The first word is the namespace's name, unless the line begins with a blank or the word
/// is empty: `echo "$NETNS $ARGS"` writes the former where there is no namespace, [`write`] the latter.
///
/// # Errors
/// [`LineError`], all but [`EmptyNetns`](LineError::EmptyNetns).
pub fn read(text: &[u8]) -> Result<Line, LineError> {
    if text.len() > LINE {
        return Err(LineError::TooLong);
    }
    let text = str::from_utf8(text).map_err(|_| LineError::NotUtf8)?;
    check(text)?;
    let mut words = Words::default();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' => words.end()?,
            '\'' | '"' => {
                let word = words.begun();
                // A closing quote has to come: the text ends otherwise.
                loop {
                    match chars.next() {
                        Some(end) if end == c => break,
                        Some(inner) => word.push(inner),
                        None => return Err(LineError::Unmatched(words.done.len() + 1)),
                    }
                }
            }
            '\\' => words
                .begun()
                .push(chars.next().ok_or(LineError::Backslash)?),
            c => words.begun().push(c),
        }
    }
    words.end()?;
    let begins = text.chars().next().ok_or(LineError::Empty)?;
    let mut done = words.done.into_iter();
    let netns = if matches!(begins, ' ' | '\t') {
        None
    } else {
        done.next().filter(|name| !name.is_empty())
    };
    let args: Vec<_> = done.collect();
    if args.len() > ARGUMENTS {
        return Err(LineError::TooMany);
    }
    Ok(Line { netns, args })
}

/// The request that one line of a spool of this command makes. Broker and launcher each read it by this.
///
/// # Errors
/// As [`read`].
pub fn request(command: &str, text: &[u8]) -> Result<Launch, LineError> {
    let Line { netns, args } = read(text)?;
    Ok(Launch {
        command: command.to_owned(),
        args,
        netns,
        ..Launch::default()
    })
}

/// The words of a line, while they are read.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: Option<String>,
}

impl Words {
    /// The word that is being read, begun here if need be: one that is quoted may stay empty.
    fn begun(&mut self) -> &mut String {
        self.word.get_or_insert_default()
    }

    /// A blank, or the line's end.
    fn end(&mut self) -> Result<(), LineError> {
        // The namespace's name comes on top.
        if self.done.len() > ARGUMENTS && self.word.is_some() {
            return Err(LineError::TooMany);
        }
        self.done.extend(mem::take(&mut self.word));
        Ok(())
    }
}

/// Writes one line, without its newline. Words are quoted where a shell or xargs(1) would change them bare, for both alike.
///
/// # Errors
/// [`LineError`], where [`read`] would not give back what was written: among the words is a NUL or a line break, or there
/// is too much of them.
pub fn write(netns: Option<&str>, args: &[String]) -> Result<String, LineError> {
    if netns == Some("") {
        return Err(LineError::EmptyNetns);
    }
    if args.len() > ARGUMENTS {
        return Err(LineError::TooMany);
    }
    let mut line = String::new();
    quote(&mut line, netns.unwrap_or(""));
    for arg in args {
        line.push(' ');
        quote(&mut line, arg);
    }
    check(&line)?;
    if line.len() > LINE {
        return Err(LineError::TooLong);
    }
    Ok(line)
}

fn quote(line: &mut String, word: &str) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"%+,-./:=@_".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        line.push_str(word);
    } else {
        line.push('\'');
        line.push_str(&word.replace('\'', r"'\''"));
        line.push('\'');
    }
}

/// What stands in no line, quoted or not.
fn check(text: &str) -> Result<(), LineError> {
    if text.contains('\0') {
        Err(LineError::Nul)
    } else if text.contains('\n') {
        Err(LineError::Newline)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(netns: Option<&str>, args: &[&str]) -> Line {
        Line {
            netns: netns.map(str::to_owned),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        }
    }

    #[test]
    fn words_are_split_at_blanks_and_quotes_and_backslashes_group() {
        for (text, args) in [
            (r"n a b", &["a", "b"][..]),
            ("n \t a\t\tb \t", &["a", "b"]),
            (r#"n a\ b 'c d' "e f""#, &["a b", "c d", "e f"]),
            (r#"n a'b 'c"d "e"#, &["ab cd e"]),
            (r#"n '"' "'" \' \" \\"#, &["\"", "'", "'", "\"", "\\"]),
            (r#"n 'a\' "b\" '\'"#, &["a\\", "b\\", "\\"]),
            (r#"n '' "" a '' """#, &["", "", "a", "", ""]),
            (
                r"n $HOME `id` *? ~ #a {b,c} a;b|c&d>e !f",
                &["$HOME", "`id`", "*?", "~", "#a", "{b,c}", "a;b|c&d>e", "!f"],
            ),
            (
                "n \u{a0}ä\u{2003} \r\x0b\x0c",
                &["\u{a0}ä\u{2003}", "\r\x0b\x0c"],
            ),
            ("n", &[]),
            ("n ", &[]),
        ] {
            assert_eq!(read(text.as_bytes()), Ok(line(Some("n"), args)), "{text:?}");
        }
    }

    #[test]
    fn a_leading_blank_or_an_empty_first_word_is_no_namespace() {
        for (text, args) in [
            (" a b", &["a", "b"][..]),
            ("\ta b", &["a", "b"]),
            ("'' a b", &["a", "b"]),
            ("\"\" a b", &["a", "b"]),
            (" '' a", &["", "a"]),
            ("'' '' a", &["", "a"]),
            ("''", &[]),
            (" ", &[]),
        ] {
            assert_eq!(read(text.as_bytes()), Ok(line(None, args)), "{text:?}");
        }
        assert_eq!(read(b"''n a"), Ok(line(Some("n"), &["a"])));
        assert_eq!(read(b"' ' a"), Ok(line(Some(" "), &["a"])));
    }

    #[test]
    fn what_is_no_line_says_why() {
        for (text, error) in [
            (&b""[..], LineError::Empty),
            (b"n \xff", LineError::NotUtf8),
            (b"n a\0b", LineError::Nul),
            (b"n a\nb", LineError::Newline),
            (b"n 'a\nb'", LineError::Newline),
            (b"n 'a", LineError::Unmatched(2)),
            (b"\"n a", LineError::Unmatched(1)),
            (b"n a 'b'\" c\" d'", LineError::Unmatched(4)),
            (b"n a\\", LineError::Backslash),
        ] {
            assert_eq!(read(text), Err(error));
            assert_eq!(error.reason(), Reason::Malformed);
        }
    }

    #[test]
    fn a_line_has_64_kib_and_1024_arguments_at_most() {
        let full = "x".repeat(LINE);
        assert_eq!(
            read(full.as_bytes()).unwrap().netns.as_deref(),
            Some(&*full)
        );
        assert_eq!(read(format!("{full} ").as_bytes()), Err(LineError::TooLong));
        for none in [" ", "'' ", "n "] {
            let line = none.to_owned() + &"a ".repeat(ARGUMENTS);
            assert_eq!(read(line.as_bytes()).unwrap().args.len(), ARGUMENTS);
            let line = line + "a";
            assert_eq!(read(line.as_bytes()), Err(LineError::TooMany), "{none:?}");
        }
        for error in [LineError::TooLong, LineError::TooMany] {
            assert_eq!(error.reason(), Reason::TooLarge);
        }
    }

    #[test]
    fn words_are_quoted_only_where_that_is_needed() {
        let words = [
            "--a=b,c:1/2.3@4%5+_-",
            "",
            "a b",
            "it's",
            "ä",
            "*",
            "\\",
            "~",
            "\t",
        ];
        let args = words.map(str::to_owned);
        assert_eq!(
            write(Some("qdhcp-1"), &args).unwrap(),
            r"qdhcp-1 --a=b,c:1/2.3@4%5+_- '' 'a b' 'it'\''s' 'ä' '*' '\' '~' '	'"
        );
        assert_eq!(write(None, &args[..1]).unwrap(), format!("'' {}", words[0]));
        assert_eq!(write(None, &[]).unwrap(), "''");
    }

    #[test]
    fn every_character_that_some_shell_takes_for_its_own_is_quoted() {
        for c in " \t!\"#$&'()*;<>?[\\]^`{|}~".chars() {
            for word in [c.to_string(), format!("a{c}b")] {
                let quoted = format!("'' '{}'", word.replace('\'', r"'\''"));
                assert_eq!(write(None, &[word]).unwrap(), quoted);
            }
        }
    }

    #[test]
    fn what_would_not_read_back_is_not_written() {
        let words = |word: &str, count| vec![word.to_owned(); count];
        for (netns, args, error) in [
            (Some("a\nb"), words("", 0), LineError::Newline),
            (None, words("a\nb", 1), LineError::Newline),
            (None, words("a\0b", 1), LineError::Nul),
            (Some(""), words("a", 1), LineError::EmptyNetns),
            (None, words("a", ARGUMENTS + 1), LineError::TooMany),
            (None, words(&"a".repeat(LINE), 1), LineError::TooLong),
        ] {
            assert_eq!(write(netns, &args), Err(error));
        }
        assert!(write(None, &words("a", ARGUMENTS)).is_ok());
        assert!(write(None, &words(&"a".repeat(LINE - 3), 1)).is_ok());
    }
}
