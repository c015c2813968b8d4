//! Properties of lines over generated words and texts; xargs(1) is the measure of how a text is split.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use portcullis_wire::limits::ARGUMENTS;
use portcullis_wire::line::{Line, read, write};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::io::Write;
use std::process::{Command, Stdio};

/// A word that a line can hold, with all that is awkward otherwise.
fn word() -> impl Strategy<Value = String> {
    prop_oneof!["[^\u{0}\n]{0,40}", "[ \t'\"\\\\*?$~#!-z]{0,12}"]
}

fn netns() -> impl Strategy<Value = Option<String>> {
    option::of(word().prop_filter("a name is not empty", |name| !name.is_empty()))
}

/// What xargs splits this into, where it accepts it. printf(1) is a program here, not a shell's word.
fn split_by_xargs(text: &str) -> Option<Vec<String>> {
    let mut xargs = Command::new("xargs")
        .args(["--no-run-if-empty", "printf", "%s\\0"])
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = xargs.stdin.take().unwrap();
    input.write_all(format!("{text}\n").as_bytes()).unwrap();
    drop(input);
    let output = xargs.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words = text.split_terminator('\0').map(str::to_owned);
    output.status.success().then(|| words.collect())
}

/// What sh(1) makes of this, as the words of a command.
fn split_by_shell(text: &str) -> Vec<String> {
    let script = format!("printf '%s\\0' {text}");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

fn words(line: Line) -> Vec<String> {
    let netns = line.netns.unwrap_or_default();
    std::iter::once(netns).chain(line.args).collect()
}

proptest! {
    #[test]
    fn what_is_written_reads_back_as_it_was(netns in netns(), args in vec(word(), 0..30)) {
        let text = write(netns.as_deref(), &args).unwrap();
        prop_assert!(!text.contains('\n'));
        prop_assert_eq!(read(text.as_bytes()), Ok(Line { netns, args }));
    }

    #[test]
    fn a_line_of_any_bytes_is_read_or_refused(text in vec(any::<u8>(), 0..200)) {
        if let Ok(Line { netns, args }) = read(&text) {
            prop_assert!(netns.as_deref() != Some("") && args.len() <= ARGUMENTS);
            let held: usize = args.iter().map(|arg| arg.len()).sum();
            prop_assert!(held + netns.map_or(0, |name| name.len()) <= text.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    // Not here: a vertical tab, form feed or carriage return, which GNU xargs drops where a word begins, and only there.
    #[test]
    fn a_text_is_split_as_xargs_splits_it(text in "[ab ab\t '\"\\\\ä\u{a0}\\$*]{0,24}") {
        let split = split_by_xargs(&text);
        match read(text.as_bytes()) {
            Ok(line) => {
                let begins_blank = text.starts_with([' ', '\t']);
                let mut all = words(line);
                if begins_blank {
                    all.remove(0);
                }
                prop_assert_eq!(split, Some(all));
            }
            // xargs takes a backslash before the line's end for a line break in a word, and an empty line for none.
            Err(_) if text.is_empty() => prop_assert_eq!(split, Some(vec![])),
            Err(_) if split.is_some() => {
                let last = split.unwrap().pop().unwrap();
                prop_assert!(text.ends_with('\\') && last.ends_with('\n'));
            }
            Err(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn xargs_and_a_shell_read_what_is_written(netns in netns(), args in vec(word(), 0..8)) {
        let text = write(netns.as_deref(), &args).unwrap();
        let all = words(Line { netns, args });
        prop_assert_eq!(split_by_xargs(&text), Some(all.clone()));
        prop_assert_eq!(split_by_shell(&text), all);
    }
}
