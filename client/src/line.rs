//! A launch as a line of a spool; with `--legacy` one that the host scripts of before Portcullis read as it was meant.

use portcullis_wire::line::{self, LineError as Unwritable};
use portcullis_wire::{Body, Launch, Request, codec};

/// Why a launch cannot be a line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    /// A broker answers it, and there is none.
    #[error("a dry run is answered by a broker alone, and a spool has none")]
    DryRun,
    /// A choice that a line has no place for.
    #[error("a line of a spool has no place for {0}: only the broker's socket takes it")]
    NoPlace(&'static str),
    /// A word that would be two lines.
    #[error("{what} has a line break in it: only the broker's socket takes it")]
    LineBreak {
        /// Which word.
        what: String,
    },
    /// The host makes a request of it, and that would not fit into a datagram.
    #[error("the command line is too long: a request may have 64 KiB")]
    TooLarge,
    /// The others of the wire.
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    /// What would be the first argument is the namespace there.
    #[error(
        "a line for --legacy begins with a network namespace, and the first argument would be taken for it: --netns NS names one"
    )]
    NoNetns,
    /// A word that would not arrive.
    #[error(
        "{what} ({word:?}) has {character:?} in it, {why}: without --legacy it would be quoted"
    )]
    Broken {
        /// Which word.
        what: String,
        /// The word itself.
        word: String,
        /// The first character that does not pass.
        character: char,
        /// What would become of it.
        why: &'static str,
    },
}

/// The line, without its newline.
pub(crate) fn of(launch: &Launch, legacy: bool) -> Result<String, LineError> {
    if launch.dry_run {
        return Err(LineError::DryRun);
    }
    if launch.image.is_some() {
        return Err(LineError::NoPlace("an image"));
    }
    if !launch.env.is_empty() {
        return Err(LineError::NoPlace("an environment entry"));
    }
    let netns = launch.netns.as_deref();
    for (what, word) in words(launch) {
        if word.contains('\n') {
            return Err(LineError::LineBreak { what });
        }
    }
    let body = Body::Launch(launch.clone());
    codec::encode(&Request { id: u64::MAX, body }).map_err(|_| LineError::TooLarge)?;
    if legacy {
        bare(launch)
    } else {
        Ok(line::write(netns, &launch.args)?)
    }
}

/// The words of the line, and what a person calls each.
fn words(launch: &Launch) -> impl Iterator<Item = (String, &str)> {
    let netns = launch.netns.as_deref();
    let netns = netns.map(|name| ("the network namespace's name".to_owned(), name));
    let args = launch.args.iter().zip(1..);
    let args = args.map(|(arg, at)| (format!("argument {at}"), arg.as_str()));
    netns.into_iter().chain(args)
}

/// The words as they are, without empty ones: the scripts lose those, and programs as dnsmasq do not miss them.
fn bare(launch: &Launch) -> Result<String, LineError> {
    if launch.netns.as_deref().unwrap_or("").is_empty() {
        return Err(LineError::NoNetns);
    }
    let mut line = String::new();
    for (what, word) in words(launch) {
        if let Some((character, why)) = broken(word) {
            let word = word.to_owned();
            return Err(LineError::Broken {
                what,
                word,
                character,
                why,
            });
        }
        if !line.is_empty() && !word.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    Ok(line)
}

/// The first character that those scripts, by a shell or by xargs(1), would change, and into what.
fn broken(word: &str) -> Option<(char, &'static str)> {
    word.char_indices().find_map(|(at, c)| {
        let why = match c {
            ' ' | '\t' => "where a script on the host splits it",
            '\'' | '"' | '\\' => "which a script on the host takes away",
            '*' | '?' | '[' => "for which a script on the host may put the names of files",
            '$' | '`' | ';' | '&' | '|' | '<' | '>' | '(' | ')' | '{' | '}' => {
                "which a script on the host may take for its own"
            }
            '#' | '~' | '!' if at == 0 => "which a script on the host may take for its own",
            c if c.is_ascii_control() => "which a script on the host may take away",
            _ => return None,
        };
        Some((c, why))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(netns: Option<&str>, args: &[&str]) -> Launch {
        Launch {
            command: "dnsmasq".into(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            netns: netns.map(str::to_owned),
            ..Launch::default()
        }
    }

    fn refused(netns: Option<&str>, args: &[&str], legacy: bool) -> String {
        of(&launch(netns, args), legacy).unwrap_err().to_string()
    }

    #[test]
    fn words_are_quoted_and_empty_ones_kept() {
        let launch = launch(Some("n"), &["a b", "", "it's", "--c=d"]);
        assert_eq!(of(&launch, false).unwrap(), r"n 'a b' '' 'it'\''s' --c=d");
    }

    #[test]
    fn a_legacy_line_has_bare_words_and_no_empty_ones() {
        let args = [
            "",
            "--no-hosts",
            "",
            "--server=10.0.0.1#53",
            "tag:!x~ä^]%",
            "",
        ];
        let line = of(&launch(Some("qdhcp-1"), &args), true).unwrap();
        assert_eq!(line, "qdhcp-1 --no-hosts --server=10.0.0.1#53 tag:!x~ä^]%");
        assert_eq!(of(&launch(Some("n"), &[]), true).unwrap(), "n");
    }

    #[test]
    fn a_legacy_line_refuses_what_a_script_would_change_and_says_why() {
        for (word, character, why) in [
            ("a b", "' '", "splits"),
            ("a\tb", "'\\t'", "splits"),
            ("'a'", "'\\''", "takes away"),
            ("a\"", "'\"'", "takes away"),
            ("a\\b", "'\\\\'", "takes away"),
            ("*", "'*'", "names of files"),
            ("a?", "'?'", "names of files"),
            ("[fd00::1]", "'['", "names of files"),
            ("#a", "'#'", "for its own"),
            ("~", "'~'", "for its own"),
            ("!a", "'!'", "for its own"),
            ("a\r", "'\\r'", "may take away"),
        ] {
            let message = refused(Some("n"), &["--ok", word], true);
            let begin = format!("argument 2 ({word:?}) has {character} in it, ");
            assert!(message.starts_with(&begin), "{message}");
            assert!(message.contains(why), "{message}");
        }
        for c in "$`;&|<>(){}".chars() {
            let message = refused(Some("n"), &[&format!("a{c}")], true);
            assert!(message.contains("for its own"), "{message}");
        }
        for c in "\x01\x07\x0b\x0c\x1b\x7f".chars() {
            let message = refused(Some("n"), &[&format!("a{c}")], true);
            assert!(message.contains("may take away"), "{message}");
        }
        let message = refused(Some("a b"), &[], true);
        assert!(
            message.starts_with("the network namespace's name (\"a b\")"),
            "{message}"
        );
    }

    #[test]
    fn a_legacy_line_without_a_namespace_is_refused() {
        for netns in [None, Some("")] {
            let message = refused(netns, &["--no-hosts"], true);
            assert!(message.contains("--netns NS"), "{message}");
        }
        assert_eq!(of(&launch(None, &["a"]), false).unwrap(), "'' a");
    }

    #[test]
    fn a_line_break_is_for_the_socket() {
        for legacy in [false, true] {
            let message = refused(Some("n"), &["a", "b\nc"], legacy);
            assert!(
                message.starts_with("argument 2 has a line break"),
                "{message}"
            );
            assert!(message.contains("socket"), "{message}");
            let message = refused(Some("n\n"), &[], legacy);
            assert!(
                message.starts_with("the network namespace's name has"),
                "{message}"
            );
        }
    }

    #[test]
    fn an_image_an_environment_and_a_dry_run_are_no_line() {
        let image = Launch {
            image: Some("i".into()),
            ..launch(Some("n"), &[])
        };
        let env = Launch {
            env: vec!["A=1".into()],
            ..launch(Some("n"), &[])
        };
        let dry_run = Launch {
            dry_run: true,
            ..launch(Some("n"), &[])
        };
        for (launch, needle) in [(image, "image"), (env, "environment"), (dry_run, "dry run")] {
            for legacy in [false, true] {
                let message = of(&launch, legacy).unwrap_err().to_string();
                assert!(message.contains(needle), "{message}");
            }
        }
    }

    #[test]
    fn what_is_too_long_for_a_line_or_for_the_request_that_it_becomes_is_refused() {
        let long = "x".repeat(65_400);
        for legacy in [false, true] {
            assert!(of(&launch(Some("n"), &[&long]), legacy).is_ok());
            // The line would be shorter than 64 KiB.
            let message = refused(Some("n"), &[&long, &"x".repeat(110)], legacy);
            assert!(message.contains("64 KiB"), "{message}");
        }
        // And here the request would, which has no quotes.
        let message = refused(Some("n"), &[&"'".repeat(20_000)], false);
        assert!(message.contains("65536 bytes"), "{message}");
    }
}
