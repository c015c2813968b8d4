//! Arguments in a fixed order: what matches, what does not and why, and that the matcher finds what a plain one finds.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use portcullis_policy::{Decision, Policy, decide};
use portcullis_wire::Reason;
use proptest::prelude::*;
use support::*;

fn fixed(args: &str) -> String {
    one_rule(
        &format!("order = \"fixed\"\nargs = {args}"),
        "name = \"c-x\"",
    )
}

#[track_caller]
fn message(policy: &Policy, args: &[&str]) -> String {
    let denial = denied(policy, &ask(args));
    assert_eq!(denial.reason, Reason::Argument);
    denial.message.replacen("rule \"r\": ", "", 1)
}

/// The pair of an input and an output that a set without an order lets be swapped.
const CONVERT: &str = "[\"convert\", \"-i\", \"{:path(/srv/in)}\", \"-o\", \"{:path(/srv/out)}\", { min = 0, pattern = \"-v\" }]";

#[test]
fn swapped_input_and_output_are_denied() {
    let good = ["convert", "-i", "/srv/in/a", "-o", "/srv/out/b"];
    let swapped = ["convert", "-i", "/srv/out/b", "-o", "/srv/in/a"];
    let any = loaded(&fixed(CONVERT).replace("\"fixed\"", "\"any\""));
    allowed(&any, &ask(&swapped));
    allowed(&any, &ask(&["-o"]));
    let policy = loaded(&fixed(CONVERT));
    allowed(&policy, &ask(&good));
    let text = message(&policy, &swapped);
    assert_eq!(
        text,
        "argument 3, \"/srv/out/b\", does not fit: the order is fixed, and \"{:path(/srv/in)}\" fits there"
    );
}

#[test]
fn word_left_out_of_fixed_order_is_denied() {
    let policy = loaded(&fixed(CONVERT));
    let good = ["convert", "-i", "/srv/in/a", "-o", "/srv/out/b", "-v"];
    allowed(&policy, &ask(&good));
    for without in 0..5 {
        let mut args = good.to_vec();
        args.remove(without);
        message(&policy, &args);
    }
    assert_eq!(
        message(&policy, &good[..4]),
        "the required argument \"{:path(/srv/out)}\" is missing"
    );
    assert_eq!(
        message(&policy, &[]),
        "the required argument \"convert\" is missing"
    );
}

#[test]
fn first_argument_that_does_not_fit_is_named() {
    let policy = loaded(&fixed(
        "[{ min = 0, pattern = [\"-m\", \"{:int}\"] }, { max = 2, any = [\"--a\", [\"--b\", \"{:word}\"]] }, \
         { min = 0, pattern = \"{:path}\" }]",
    ));
    for args in [
        &["--a"][..],
        &["--a", "--a"],
        &["-m", "1", "--b", "x", "--a", "/y"],
    ] {
        allowed(&policy, &ask(args));
    }
    let fits = |number: usize, argument: &str, fits: &str| {
        format!(
            "argument {number}, {argument:?}, does not fit: the order is fixed, and {fits} fits there"
        )
    };
    for (args, expected) in [
        (&["-m", "x", "--a"][..], fits(2, "x", "\"{:int}\"")),
        (&["--c"], fits(1, "--c", "\"--a\" or \"--b\"")),
        (&["--a", "--b", "/"], fits(3, "/", "\"{:word}\"")),
        (&["--a", "--c"], fits(2, "--c", "\"--a\" or \"--b\"")),
        (&["--a", "--a", "--a"], fits(3, "--a", "\"{:path}\"")),
        (&["--a", "-m", "1"], fits(2, "-m", "\"--a\" or \"--b\"")),
        (&["--a", "/y", "/z"], fits(3, "/z", "nothing")),
        (&["-m"], "the required argument \"-m\" \"{:int}\" is missing; argument 1, \"-m\", does not match it".to_owned()),
    ] {
        assert_eq!(message(&policy, args), expected, "{args:?}");
    }
}

#[test]
fn names_bind_from_left_to_right() {
    let policy = loaded(&fixed("[\"{id:uuid}\", \"--again={id}\", \"{id}\"]"));
    allowed(&policy, &ask(&[A, &format!("--again={A}"), A]));
    let text = message(&policy, &[A, &format!("--again={A}"), B]);
    assert!(
        text.contains(&format!("\"{{id}}\" with id = {A:?} fits there")),
        "{text}"
    );
    assert_eq!(
        problems(&fixed("[\"--again={id}\", \"{id:uuid}\"]")),
        ["\"id\" has no value yet here"]
    );
    assert_eq!(
        problems(&fixed(
            "[{ min = 0, pattern = \"{id:uuid}\" }, \"--again={id}\"]"
        )),
        ["\"id\" does not certainly have a value here"]
    );
}

#[test]
fn same_pattern_may_stand_in_several_places() {
    let policy = loaded(&fixed(
        "[\"{:path}\", { min = 2, pattern = \"{:path}\" }, \"{:path}\"]",
    ));
    allowed(&policy, &ask(&["/a", "/b", "/c", "/d"]));
    message(&policy, &["/a", "/b", "/c"]);
    message(&policy, &["/a", "/b", "/c", "/d", "/e"]);
}

#[test]
fn order_that_leaves_a_choice_is_refused() {
    const ENTRIES: &str = "an argument cannot be told from one of the entry before it";
    const ALTERNATIVES: &str =
        "two alternatives can match the same argument and mean different things";
    for (args, title) in [
        ("[{ max = 2, pattern = \"{:word}\" }, \"x\"]", ENTRIES),
        (
            "[{ min = 0, pattern = \"{:word}\" }, { min = 0, pattern = \"-a\" }, \"x\"]",
            ENTRIES,
        ),
        (
            "[{ min = 0, pattern = [\"a\", \"b\"] }, [\"a\", \"{:word}\"]]",
            ENTRIES,
        ),
        ("[{ min = 0, pattern = [\"a\", \"b\"] }, \"a\"]", ENTRIES),
        ("[{ any = [\"a\", [\"a\", \"b\"]] }]", ALTERNATIVES),
        (
            "[{ any = [\"{n:int}\", [\"{n:int}\", \"b\"]] }]",
            ALTERNATIVES,
        ),
        (
            "[{ any = [[\"{n:int}\", \"{:int}\"], [\"{:int}\", \"{n:int}\"]] }]",
            ALTERNATIVES,
        ),
    ] {
        assert_eq!(problems(&fixed(args)), [title], "{args}");
    }
    for args in [
        "[{ max = 2, pattern = \"{:word}\" }, \"-x\", \"x\"]",
        "[{ min = 0, pattern = [\"a\", \"b\"] }, [\"a\", \"c\"]]",
        "[{ any = [\"a\", \"{:one(a|b)}\"] }]",
    ] {
        assert_eq!(problems(&fixed(args)), Vec::<String>::new(), "{args}");
    }
}

#[test]
fn unknown_order_is_a_problem() {
    let toml = one_rule("order = \"fix\"", "name = \"c-x\"");
    assert_eq!(problems(&toml), ["\"fix\" is no value of `order`"]);
}

#[test]
fn exec_rule_has_an_order() {
    let exec = "[[exec]]\nrule = \"e\"\ncommand = \"e\"\ncontainer = \"c-{id}\"\nprogram = [\"/bin/x\"]\norder = \"fixed\"\n\
                args = [\"{id:uuid}\", \"--id={id}\"]\n";
    loaded(&(one_rule("", "name = \"c-x\"") + exec));
}

/// A word of an entry, as it is written and as a plain matcher reads it.
#[derive(Clone, Debug, PartialEq)]
enum Word {
    Literal(&'static str),
    Int,
    AOrB,
    /// Binds `n`, or repeats it.
    Named(bool),
}

impl Word {
    fn written(&self) -> &'static str {
        match self {
            Self::Literal(text) => text,
            Self::Int => "{:int}",
            Self::AOrB => "{:one(a|b)}",
            Self::Named(true) => "{n:int}",
            Self::Named(false) => "{n}",
        }
    }

    /// The value of `n` after it, when the word matches.
    fn matches<'a>(&self, text: &'a str, n: Option<&'a str>) -> Option<Option<&'a str>> {
        let is_int = |text: &str| text.parse::<u8>().is_ok();
        let good = match self {
            Self::Literal(literal) => *literal == text,
            Self::Int => is_int(text),
            Self::AOrB => text == "a" || text == "b",
            Self::Named(true) => return is_int(text).then_some(Some(text)),
            Self::Named(false) => n == Some(text),
        };
        good.then_some(n)
    }
}

#[derive(Clone, Debug)]
struct PlainEntry {
    min: u32,
    max: u32,
    alternatives: Vec<Vec<Word>>,
}

impl PlainEntry {
    fn written(&self) -> String {
        let list = |words: &Vec<Word>| {
            let words: Vec<String> = words.iter().map(|w| format!("{:?}", w.written())).collect();
            format!("[{}]", words.join(", "))
        };
        let any: Vec<String> = self.alternatives.iter().map(list).collect();
        format!(
            "{{ min = {}, max = {}, any = [{}] }}",
            self.min,
            self.max,
            any.join(", ")
        )
    }
}

/// Every way is tried.
fn plainly<'a>(entries: &[PlainEntry], count: u32, args: &[&'a str], n: Option<&'a str>) -> bool {
    let Some((entry, rest)) = entries.split_first() else {
        return args.is_empty();
    };
    let once_more = count < entry.max
        && entry.alternatives.iter().any(|words| {
            if args.len() < words.len() {
                return false;
            }
            let mut n = n;
            let all = words.iter().zip(args).all(|(word, text)| {
                let matched = word.matches(text, n);
                n = matched.unwrap_or_default();
                matched.is_some()
            });
            all && plainly(entries, count + 1, &args[words.len()..], n)
        });
    once_more || (count >= entry.min && plainly(rest, 0, args, n))
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        prop::sample::select(vec!["a", "b", "-x", ""]).prop_map(Word::Literal),
        Just(Word::Int),
        Just(Word::AOrB),
        any::<bool>().prop_map(Word::Named),
    ]
}

fn entry() -> impl Strategy<Value = PlainEntry> {
    let words = prop::collection::vec(word(), 1..3);
    let alternatives = prop::collection::vec(words, 1..3);
    (0u32..3, 0u32..3, alternatives).prop_map(|(min, more, alternatives)| PlainEntry {
        min,
        max: (min + more).max(1),
        alternatives,
    })
}

fn arguments() -> impl Strategy<Value = Vec<&'static str>> {
    let text = prop::sample::select(vec!["a", "b", "-x", "", "1", "2", "c"]);
    prop::collection::vec(text, 0..7)
}

/// What some way through the entries takes, so that not nearly all is denied.
fn taken(entries: &[PlainEntry], choices: &[usize]) -> Vec<&'static str> {
    let mut choices = choices.iter().copied().cycle();
    let mut next = |most: usize| choices.next().unwrap() % (most + 1);
    let mut args = Vec::new();
    for entry in entries {
        let times = entry.min as usize + next((entry.max - entry.min) as usize);
        for _ in 0..times {
            let words = &entry.alternatives[next(entry.alternatives.len() - 1)];
            args.extend(words.iter().map(|word| match word {
                Word::Literal(text) => text,
                Word::AOrB => ["a", "b"][next(1)],
                Word::Int | Word::Named(_) => ["1", "2"][next(1)],
            }));
        }
    }
    args
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Where the policy loads, the matcher, which never takes anything back, finds what trying every way finds.
    #[test]
    fn fixed_order_matches_what_a_plain_matcher_does(
        entries in prop::collection::vec(entry(), 0..5),
        others in prop::collection::vec(arguments(), 0..8),
        choices in prop::collection::vec(prop::collection::vec(0usize..12, 1..9), 8),
    ) {
        let written: Vec<String> = entries.iter().map(PlainEntry::written).collect();
        let Ok(policy) = load(&[text("dhcp.toml", &fixed(&format!("[{}]", written.join(", "))))]) else {
            return Ok(());
        };
        let ways = choices.iter().map(|choices| taken(&entries, choices));
        for args in others.into_iter().chain(ways) {
            let allowed = matches!(decide(&policy, &ROOT, &ask(&args)), Decision::Allow(_));
            prop_assert_eq!(allowed, plainly(&entries, 0, &args, None), "{:?}", args);
        }
    }
}
