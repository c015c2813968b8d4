use super::pattern::{Piece, pieces};
use crate::bindings::Bindings;
use crate::kinds::Kind;
use crate::language::{Names, patterns_meet};
use crate::pattern::{Pattern, Token};
use proptest::prelude::*;

/// A pattern whose names are numbered in the order in which they are bound, for tests.
fn pattern(text: &str) -> Pattern {
    let mut names: Vec<String> = Vec::new();
    let tokens = pieces(text)
        .unwrap()
        .into_iter()
        .map(|(_, piece)| match piece {
            Piece::Literal(literal) => Token::Literal(literal.into()),
            Piece::Capture(None, kind) => Token::Any(kind),
            Piece::Capture(Some(name), kind) => {
                names.push(name);
                Token::Bind(names.len() as u8 - 1, kind)
            }
            Piece::Reference(name) => {
                Token::Same(names.iter().position(|n| *n == name).unwrap() as u8)
            }
        });
    let tokens: Vec<Token> = tokens.collect();
    Pattern {
        tokens: tokens.into(),
        text: text.into(),
    }
}

fn matches(text: &str, input: &str) -> bool {
    pattern(text).matches(input, &mut Bindings::default())
}

fn meet(a: &str, b: &str) -> bool {
    let names = Names {
        slots: &[],
        netns: &[],
    };
    let (a, b) = (pattern(a), pattern(b));
    let forth = patterns_meet(&a, &b, &names);
    assert_eq!(forth, patterns_meet(&b, &a, &names), "the same both ways");
    forth
}

#[test]
fn a_match_is_anchored_at_both_ends() {
    assert!(matches("--a={:int}s", "--a=5s"));
    for wrong in [
        "x--a=5s", "--a=5sx", "--a=5", "--a=s", "--a=5s ", " --a=5s", "--a=5s\n", "",
    ] {
        assert!(!matches("--a={:int}s", wrong), "{wrong:?}");
    }
    assert!(matches("", ""));
    assert!(!matches("", "x"));
}

#[test]
fn a_name_has_one_value() {
    assert!(matches("{a:int}-{a}", "12-12"));
    assert!(!matches("{a:int}-{a}", "12-13"));
    assert!(!matches("{a:int}-{a}", "12-122"));
}

#[test]
fn a_leading_dash_is_no_value() {
    assert!(!matches("{:text}", "--privileged"));
    assert!(!matches("{:text}", "-"));
    assert!(matches("{:text}", "a-b"));
    assert!(matches("--x={:text}", "--x=-5"));
}

#[test]
fn two_braces_are_one() {
    assert!(matches("a{{b}", "a{b}"));
    assert!(!matches("a{{b}", "a{{b}"));
}

#[test]
fn broken_placeholders_are_told_with_their_place() {
    for (text, at) in [
        ("a{b", 1..3),
        ("x{:uuidd}", 1..9),
        ("{B}", 0..3),
        ("{}", 0..2),
        ("{a:}", 0..4),
        ("{a-b:int}", 0..9),
    ] {
        assert_eq!(pieces(text).unwrap_err().at, at, "{text}");
    }
}

#[test]
fn patterns_that_can_match_one_text_are_found() {
    for (a, b) in [
        ("--a={:int}", "--a=5"),
        ("--a={:int}", "--a={:word}"),
        ("{:word}", "{:uuid}"),
        ("{:int(0..9)}", "{:int(5..7)}"),
        ("--x={:text}", "--x={:ip}"),
        ("{:ip}", "{:ipv6}"),
        ("a{:int}b{:int}", "a1b{:word}"),
        ("{:path}", "/etc/{:word}"),
        ("{:one(a|b)}", "b"),
    ] {
        assert!(meet(a, b), "{a} {b}");
    }
}

#[test]
fn patterns_that_cannot_are_let_through() {
    for (a, b) in [
        ("--a={:int}", "--b={:int}"),
        ("--a={:int}", "--a={:int}s"),
        ("--server={:ip}", "--server={:ip}#{:int}"),
        ("--server={:ip}", "--server=/{:hostname}/{:ip}"),
        ("{:ipv4}", "{:ipv6}"),
        ("{:int(0..9)}", "{:int(10..99)}"),
        ("{:text}", "--no-hosts"),
        ("{:text}", ""),
        ("{:uuid}", "{:mac}"),
        ("{:one(a|b)}", "c"),
        ("x{:path(/srv)}", "x/etc/{:word}"),
    ] {
        assert!(!meet(a, b), "{a} {b}");
    }
}

fn patterns() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "-",
        "/",
        "=",
        "1",
        "{:int}",
        "{:word}",
        "{:ip}",
        "{:text}",
        "{:uuid}",
        "{:one(a|ab)}",
        "{:path}",
        "{:hex}",
        "{:int(3..40)}",
        "{:cidr}",
    ]);
    prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn matching_never_panics(text in patterns(), input in "\\PC{0,30}|[a-f0-9/=.:-]{0,20}") {
        matches(&text, &input);
    }

    #[test]
    fn reading_a_pattern_never_panics(text in "\\PC{0,30}|[{}:a-z(|).0-9]{0,30}") {
        let _ = pieces(&text);
    }

    #[test]
    fn what_two_patterns_both_match_makes_them_meet(a in patterns(), b in patterns(), input in "[a-b1-3/=-]{0,5}") {
        if matches(&a, &input) && matches(&b, &input) {
            prop_assert!(meet(&a, &b), "{} {} {}", a, b, input);
        }
    }

    #[test]
    fn a_literal_matches_itself_alone(literal in "[a-z=/-]{0,12}", input in "[a-z=/-]{0,12}") {
        prop_assert_eq!(matches(&literal, &input), literal == input);
    }
}

#[test]
fn a_long_input_costs_in_proportion() {
    // No backtracking: a megabyte that fails at its end is read a few times, not a few times a few times.
    let input = format!("{}!", "a".repeat(1 << 20));
    let begin = std::time::Instant::now();
    assert!(!matches("{:word}!x{:word}!x", &input));
    assert!(begin.elapsed() < std::time::Duration::from_secs(2));
    assert_eq!(Kind::Word.run(&input), Some(1 << 20));
}
